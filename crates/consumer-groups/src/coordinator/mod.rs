//! What only the leader of the Raft group knows and does: sessions, join barriers, plans.
//!
//! A pure core: it is told the time, a request or the outcome of a proposal, and says what to propose
//! and what to answer. It reads the applied state and never changes it.

mod barrier;
mod catalog;
mod classic;
mod classic_leave;
mod classic_sync;
mod config;
mod consumer;
mod flapping;
mod maintenance;
mod plan;
mod requests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rivven_core_types::MonoTime;

use crate::command::{Heartbeat, Op, OpResult};
use crate::error::GroupError;
use crate::ids::{GroupId, MemberId};
use crate::shared::Shared;
use crate::state::{Group, GroupPhase, GroupsState};
use barrier::Barrier;
use timers::{Timer, Timers};

pub use catalog::{TopicCatalog, TopicShape, subscribed_topics};
pub use config::GroupConfig;
pub use requests::{
    ClassicHeartbeat, HeartbeatAnswer, JoinRequest, Joined, LeaveRequest, Leaving, Request,
    Response, SyncRequest, Synced, Ticket,
};

/// Most operations that wait to be proposed.
pub const MAX_QUEUED_OPS: usize = 100_000;

/// What the core may look at in one step.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The time.
    pub now: MonoTime,
    /// The newest applied state.
    pub state: &'a GroupsState,
    /// The topics of the cluster.
    pub topics: &'a dyn TopicCatalog,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// What follows when an operation has been applied.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// Nobody waits.
    Nobody,
    /// The answer is the outcome.
    Done(Ticket),
    /// A heartbeat of the consumer protocol.
    Heartbeat(Ticket, Shared<Heartbeat>),
    /// A plan.
    Target(GroupId),
    /// A classic join barrier has ended, as the round of this number.
    Round(GroupId, u64),
    /// The assignment of a classic leader.
    Sync(GroupId),
    /// A static member of a classic group came back as the named one.
    Replace(Ticket, Box<JoinRequest>, MemberId, MemberId),
    /// Members have been taken out of a classic group.
    Removed(GroupId, Option<(Ticket, Response)>),
}

/// An operation on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// The operation.
    pub op: Op,
    waiter: Waiter,
    /// In which term of office it was made.
    office: u64,
}

/// A member's session.
#[derive(Debug, Clone, Copy)]
struct Session {
    deadline: MonoTime,
    /// The consumer has confirmed the assignment that it was last told.
    confirmed: bool,
}

/// What the coordinator keeps of a group besides the state.
#[derive(Debug, Default)]
struct Local {
    sessions: BTreeMap<MemberId, Session>,
    barrier: Option<Barrier>,
    /// Joins that came while the end of a barrier was on its way into the log.
    waiting: VecDeque<(Ticket, JoinRequest)>,
    /// Member ids handed out and not used yet (KIP-394), with their ends.
    pending_ids: BTreeMap<MemberId, MonoTime>,
    /// Classic members that await their leader's assignment.
    syncs: BTreeMap<MemberId, Ticket>,
    sync_deadline: Option<MonoTime>,
    sync_in_flight: bool,
    /// Joins of the consumer protocol that await the first plan with them in it.
    parked: BTreeMap<MemberId, (Ticket, Shared<Heartbeat>)>,
    plan: plan::Plan,
    flapping: flapping::Flapping,
}

/// The group coordinator.
#[derive(Debug)]
pub struct GroupCoordinator {
    config: GroupConfig,
    leading: bool,
    /// Counts the terms of office: what was proposed in an earlier one is nobody's business now.
    office: u64,
    /// Counts the rounds of classic joins that were proposed.
    rounds: u64,
    groups: BTreeMap<GroupId, Local>,
    timers: Timers,
    queue: VecDeque<Proposal>,
    replies: Vec<(Ticket, Response)>,
    maintenance: maintenance::Maintenance,
    /// Groups of which a change was lost, or came through without anybody hearing of it.
    unsure: BTreeSet<GroupId>,
    /// Members of all groups, for the heartbeat interval.
    members: usize,
}

impl GroupCoordinator {
    /// A coordinator that does not lead yet.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            leading: false,
            office: 0,
            rounds: 0,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            queue: VecDeque::new(),
            replies: Vec::new(),
            maintenance: maintenance::Maintenance::default(),
            unsure: BTreeSet::new(),
            members: 0,
        }
    }

    /// Whether it answers requests.
    pub const fn is_leading(&self) -> bool {
        self.leading
    }

    /// Takes over. Every member gets a full session, whoever led before; nobody is asked to rejoin.
    pub fn lead(&mut self, view: View<'_>) {
        self.resign();
        self.leading = true;
        self.office += 1;
        self.maintenance.start(view, &self.config);
        for group in view.state.groups() {
            self.adopt(view, group);
        }
    }

    /// Takes note of what nobody keeps track of here: members without a session, what is to be planned or
    /// given up, rounds that have not ended.
    fn adopt(&mut self, view: View<'_>, group: &Group) {
        if let Some(consumer) = group.consumer() {
            for member in consumer.members() {
                self.adopt_member(view, group, &member.id);
                self.arm_revocation(view, group.id(), member);
            }
            self.want_plan(view, group);
        }
        if let Some(classic) = group.classic() {
            for member in classic.members() {
                self.adopt_member(view, group, &member.id);
            }
            let local = self.local(group.id());
            let (joins, syncs) = (local.barrier.is_some(), local.sync_deadline.is_some());
            let open = classic.member_count() > 0 && !joins;
            if open && !classic.settled && !syncs {
                self.arm_sync(view, group);
            }
            let orphaned = !classic.settled && classic.leader.is_none();
            if open && (classic.rejoin || orphaned) {
                self.start_barrier(view, group.id(), false);
            }
        }
    }

    fn adopt_member(&mut self, view: View<'_>, group: &Group, member: &MemberId) {
        if !self.local(group.id()).sessions.contains_key(member) {
            self.arm_session(view, group, member);
        }
    }

    /// Steps down: whoever waits is sent to the new coordinator.
    pub fn resign(&mut self) {
        self.leading = false;
        let refused = GroupError::NotCoordinator;
        for proposal in std::mem::take(&mut self.queue) {
            self.refuse(proposal, &refused);
        }
        for (_, local) in std::mem::take(&mut self.groups) {
            local.refuse_all(&refused, &mut self.replies);
        }
        self.timers = Timers::default();
        self.unsure = BTreeSet::new();
        self.members = 0;
    }

    /// The proposal was not committed, or nobody knows whether it was.
    fn refuse(&mut self, proposal: Proposal, error: &GroupError) {
        let reply = match proposal.waiter {
            Waiter::Done(ticket) => (ticket, Response::Done(Err(error.clone()))),
            Waiter::Heartbeat(ticket, _) => (ticket, Response::Heartbeat(Err(error.clone()))),
            Waiter::Replace(ticket, ..) => (ticket, Response::Joined(Err(error.clone()))),
            Waiter::Removed(_, Some((ticket, _))) => (ticket, Response::Left(Err(error.clone()))),
            Waiter::Nobody
            | Waiter::Target(_)
            | Waiter::Round(..)
            | Waiter::Sync(_)
            | Waiter::Removed(_, None) => return,
        };
        self.replies.push(reply);
    }

    /// Takes a request up. Its answer comes out of [`GroupCoordinator::take_replies`], now or later.
    pub fn request(&mut self, view: View<'_>, ticket: Ticket, request: Request) {
        if !self.leading {
            self.replies
                .push((ticket, request.refusal(GroupError::NotCoordinator)));
            return;
        }
        if self.queue.len() >= MAX_QUEUED_OPS {
            self.replies
                .push((ticket, request.refusal(GroupError::LoadInProgress)));
            return;
        }
        match request {
            Request::Join(join) => self.join(view, ticket, join),
            Request::Sync(sync) => self.sync(view, ticket, sync),
            Request::ClassicHeartbeat(beat) => self.classic_heartbeat(view, ticket, &beat),
            Request::Leave(leave) => self.leave(view, ticket, leave),
            Request::Heartbeat(beat) => self.heartbeat(view, ticket, Shared::new(*beat)),
            Request::Propose(op) => self.propose_checked(view, ticket, op),
        }
    }

    fn propose_checked(&mut self, view: View<'_>, ticket: Ticket, op: Op) {
        if let Op::Commit { group, by, .. } = &op {
            // Refused here already where the state says so: it saves the log.
            let checked = match view.state.group(group) {
                Some(found) => found.check_committer(by),
                None if by.epoch.get() < 0 => Ok(()),
                None => Err(GroupError::GroupNotFound(group.clone())),
            };
            if let Err(error) = checked {
                self.replies.push((ticket, Response::Done(Err(error))));
                return;
            }
            if let Some(member) = &by.member {
                self.touch(view, group, member);
            }
        }
        self.push(op, Waiter::Done(ticket));
    }

    fn push(&mut self, op: Op, waiter: Waiter) {
        let office = self.office;
        self.queue.push_back(Proposal { op, waiter, office });
    }

    fn local(&mut self, group: &GroupId) -> &mut Local {
        self.groups.entry(group.clone()).or_default()
    }

    #[cfg(test)]
    pub(crate) fn tracked_groups(&self) -> usize {
        self.groups.len()
    }

    /// How many operations wait to be proposed.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next operations to propose, in order: at most `max_ops` and about `max_bytes`, but one at
    /// least. Hand the outcome to [`GroupCoordinator::applied`] or [`GroupCoordinator::failed`].
    pub fn take_batch(&mut self, max_ops: usize, max_bytes: usize) -> Vec<Proposal> {
        let mut batch = Vec::new();
        let mut bytes = 0usize;
        while let Some(next) = self.queue.front() {
            bytes = bytes.saturating_add(next.op.estimated_bytes());
            if !batch.is_empty() && (batch.len() >= max_ops || bytes > max_bytes) {
                break;
            }
            batch.extend(self.queue.pop_front());
        }
        batch
    }

    /// The answers that are due.
    pub fn take_replies(&mut self) -> Vec<(Ticket, Response)> {
        std::mem::take(&mut self.replies)
    }

    /// When to call [`GroupCoordinator::tick`] next.
    pub fn next_tick(&self) -> Option<MonoTime> {
        let maintenance = self.leading.then(|| self.maintenance.next());
        self.timers.next().into_iter().chain(maintenance).min()
    }

    /// The batch was not committed. If the outcome is not known the members will say again what they
    /// want; each operation is checked when it is applied.
    pub fn failed(&mut self, view: View<'_>, batch: Vec<Proposal>, error: &GroupError) {
        for proposal in batch {
            let group = match &proposal.waiter {
                Waiter::Target(group) | Waiter::Round(group, _) | Waiter::Sync(group) => {
                    Some(group.clone())
                }
                _ => None,
            };
            let current = self.leading && proposal.office == self.office;
            if current && matches!(proposal.op, Op::TopicsChanged { .. }) {
                self.maintenance.told(false);
            }
            if current && !matches!(proposal.op, Op::Commit { .. }) {
                self.unsure.extend(proposal.op.group().cloned());
            }
            self.refuse(proposal, error);
            if let Some(group) = group.filter(|_| current) {
                self.proposal_lost(view, &group, error);
            }
        }
    }

    fn proposal_lost(&mut self, view: View<'_>, group: &GroupId, error: &GroupError) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        local.plan.in_flight = false;
        local.sync_in_flight = false;
        let gone = std::mem::take(local);
        let sessions = gone.sessions.clone();
        gone.refuse_all(error, &mut self.replies);
        let local = self.local(group);
        local.sessions = sessions;
        if let Some(found) = view.state.group(group) {
            self.want_plan(view, found);
        }
    }

    /// The batch has been applied, with these results. `view` shows a state that includes it.
    pub fn applied(&mut self, view: View<'_>, batch: Vec<Proposal>, results: Vec<OpResult>) {
        let mut results = results.into_iter();
        for proposal in batch {
            // Fewer results than operations: the command was not understood by the state machine.
            let result = results.next().unwrap_or(Err(GroupError::LoadInProgress));
            if !self.leading || proposal.office != self.office {
                match proposal.waiter {
                    Waiter::Done(ticket) => self.replies.push((ticket, Response::Done(result))),
                    _ => self.refuse(proposal, &GroupError::NotCoordinator),
                }
                continue;
            }
            if matches!(proposal.op, Op::TopicsChanged { .. }) {
                self.maintenance.told(result.is_ok());
            }
            let group = proposal.op.group().cloned();
            self.settle(view, proposal.waiter, result);
            if let Some(found) = group.and_then(|group| view.state.group(&group)) {
                self.want_plan(view, found);
            }
        }
        if self.leading {
            // The log keeps the order of the proposals: what was unsure is in the state now, or never will be.
            for group in std::mem::take(&mut self.unsure) {
                if let Some(found) = view.state.group(&group) {
                    self.adopt(view, found);
                }
            }
        }
    }

    fn settle(&mut self, view: View<'_>, waiter: Waiter, result: OpResult) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Done(ticket) => self.replies.push((ticket, Response::Done(result))),
            Waiter::Heartbeat(ticket, beat) => self.heartbeat_applied(view, ticket, beat, result),
            Waiter::Target(group) => self.target_applied(view, &group, result),
            Waiter::Round(group, round) => self.round_applied(view, (&group, round), result),
            Waiter::Sync(group) => self.sync_applied(view, &group, &result),
            Waiter::Replace(ticket, join, old, id) => {
                self.replaced(view, ticket, &join, &old, &id, result);
            }
            Waiter::Removed(group, reply) => {
                self.replies.extend(reply);
                self.rejoin_rest(view, &group);
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, view: View<'_>) {
        if !self.leading {
            return;
        }
        while let Some(timer) = self.timers.pop(view.now) {
            match timer {
                Timer::Session(group, member) => self.session_due(view, &group, &member),
                Timer::Revocation(group, member, epoch) => {
                    self.revocation_due(view, group, member, epoch);
                }
                Timer::Group(group) => self.group_due(view, &group),
            }
        }
        self.maintain(view);
    }

    fn group_due(&mut self, view: View<'_>, group: &GroupId) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        local.pending_ids.retain(|_, end| *end > view.now);
        self.barrier_due(view, group);
        self.sync_due(view, group);
        self.plan_due(view, group);
    }

    /// The state of a group as its members see it.
    pub fn phase(&self, group: &Group) -> GroupPhase {
        let preparing = self
            .groups
            .get(group.id())
            .is_some_and(|local| local.barrier.is_some());
        if preparing && group.member_count() > 0 {
            GroupPhase::PreparingRebalance
        } else {
            group.phase()
        }
    }

    // ── Sessions ────────────────────────────────────────────────────────────

    fn arm_session(&mut self, view: View<'_>, group: &Group, member: &MemberId) {
        let length = match (group.classic(), group.consumer()) {
            (Some(classic), _) => classic
                .member(member)
                .map(|m| std::time::Duration::from_millis(m.session_timeout_ms.into())),
            (None, Some(consumer)) => consumer
                .member(member)
                .map(|_| self.config.consumer_session_timeout),
            (None, None) => None,
        };
        let Some(length) = length else {
            return;
        };
        let deadline = view.now + length;
        let local = self.local(group.id());
        let armed = local.sessions.contains_key(member);
        let session = local.sessions.entry(member.clone()).or_insert(Session {
            deadline,
            confirmed: false,
        });
        session.deadline = deadline;
        if !armed {
            self.members += 1;
            let timer = Timer::Session(group.id().clone(), member.clone());
            self.timers.at(deadline, timer);
        }
    }

    /// A sign of life.
    fn touch(&mut self, view: View<'_>, group: &GroupId, member: &MemberId) {
        if let Some(found) = view.state.group(group) {
            self.arm_session(view, found, member);
        }
    }

    fn session_due(&mut self, view: View<'_>, group: &GroupId, member: &MemberId) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        let Some(session) = local.sessions.get(member).copied() else {
            return;
        };
        // It waits for us, not we for it.
        let waits = local.barrier.as_ref().is_some_and(|b| b.has(member))
            || local.syncs.contains_key(member);
        let found = view.state.group(group);
        let exists = found.is_some_and(|g| {
            g.classic().is_some_and(|c| c.member(member).is_some())
                || g.consumer().is_some_and(|c| c.member(member).is_some())
        });
        let (Some(found), true) = (found, exists) else {
            local.sessions.remove(member);
            self.members = self.members.saturating_sub(1);
            if local.is_idle() {
                self.groups.remove(group);
            }
            return;
        };
        let timer = Timer::Session(group.clone(), member.clone());
        if session.deadline > view.now {
            self.timers.at(session.deadline, timer);
            return;
        }
        // The timer goes on: should the removal be superseded, the member has one more session.
        self.arm_session(view, found, member);
        let next = self.groups.get(group).and_then(|l| l.sessions.get(member));
        let next = next.map_or(view.now, |session| session.deadline);
        self.timers.at(next, timer);
        if waits {
            return;
        }
        if let Some(consumer) = found.consumer() {
            if let Some(known) = consumer.member(member) {
                let op = Op::Fence {
                    group: group.clone(),
                    member: member.clone(),
                    epoch: known.epoch,
                };
                self.push(op, Waiter::Nobody);
            }
        } else {
            self.remove_classic(view, found, vec![member.clone()], None);
        }
    }
}

impl Local {
    fn refuse_all(self, error: &GroupError, replies: &mut Vec<(Ticket, Response)>) {
        let joins = self
            .barrier
            .into_iter()
            .flat_map(Barrier::into_tickets)
            .chain(self.waiting.into_iter().map(|(ticket, _)| ticket));
        replies.extend(joins.map(|t| (t, Response::Joined(Err(error.clone())))));
        let syncs = self.syncs.into_values();
        replies.extend(syncs.map(|t| (t, Response::Synced(Err(error.clone())))));
        let parked = self.parked.into_values();
        replies.extend(parked.map(|(t, _)| (t, Response::Heartbeat(Err(error.clone())))));
    }

    fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.barrier.is_none()
            && self.waiting.is_empty()
            && self.pending_ids.is_empty()
            && self.syncs.is_empty()
            && self.parked.is_empty()
            && !self.plan.in_flight
            && self.flapping.is_idle()
    }
}
