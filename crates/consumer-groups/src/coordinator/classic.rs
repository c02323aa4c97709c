//! The classic protocol: JoinGroup, and the barrier that ends a round.

use std::time::Duration;

use super::barrier::Barrier;
use super::requests::{JoinRequest, Joined, Response, Ticket};
use super::timers::Timer;
use super::{GroupCoordinator, View, Waiter};
use crate::command::{ClassicRound, Op, OpResult};
use crate::error::GroupError;
use crate::ids::{GroupId, MAX_GROUP_MEMBERS, MemberId};
use crate::state::{ClassicGroup, Group, MAX_GROUPS};

/// How long a member id that was handed out may wait to be used, at most.
const PENDING_ID_LIFE: Duration = Duration::from_secs(60);
/// Most member ids of one group that wait to be used.
const MAX_PENDING_IDS: usize = 20_000;
/// Most bytes of one member's subscriptions.
const MAX_PROTOCOL_BYTES: usize = 256 * 1024;

pub(super) fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

impl GroupCoordinator {
    pub(super) fn join(&mut self, view: View<'_>, ticket: Ticket, request: JoinRequest) {
        let group = view.state.group(&request.group);
        let (tracked, all) = (self.groups.contains_key(&request.group), self.groups.len());
        if !tracked && all >= MAX_GROUPS {
            let refused = Err(GroupError::TooManyGroups(MAX_GROUPS));
            self.replies.push((ticket, Response::Joined(refused)));
            return;
        }
        let local = self.local(&request.group);
        if local
            .barrier
            .as_ref()
            .is_some_and(|b| b.proposing.is_some())
        {
            if local.waiting.len() >= MAX_GROUP_MEMBERS {
                let refused = Err(GroupError::GroupMaxSize(MAX_GROUP_MEMBERS));
                self.replies.push((ticket, Response::Joined(refused)));
            } else {
                local.waiting.push_back((ticket, request));
            }
            return;
        }
        match self.admit(view, group, &request) {
            Err(error) => self.replies.push((ticket, Response::Joined(Err(error)))),
            Ok(member) => self.join_as(view, ticket, request, group, member),
        }
    }

    /// Checks a join; returns the id under which the member joins.
    fn admit(
        &mut self,
        view: View<'_>,
        group: Option<&Group>,
        request: &JoinRequest,
    ) -> Result<MemberId, GroupError> {
        let (min, max) = (
            self.config.min_session_timeout,
            self.config.max_session_timeout,
        );
        let session = millis(request.session_timeout_ms);
        if session < min || session > max {
            let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
            return Err(GroupError::InvalidSessionTimeout {
                min_ms: ms(min),
                max_ms: ms(max),
            });
        }
        let bytes: usize = request
            .protocols
            .iter()
            .map(|(n, m)| n.len() + m.len())
            .sum();
        if request.protocols.is_empty() || request.protocol_type.is_empty() {
            return Err(GroupError::InconsistentProtocol);
        }
        if bytes > MAX_PROTOCOL_BYTES {
            let text = format!("the subscriptions have {bytes} bytes of {MAX_PROTOCOL_BYTES}");
            return Err(GroupError::InvalidRequest(text));
        }
        if group.is_some_and(|g| g.consumer().is_some_and(|c| c.member_count() > 0)) {
            return Err(GroupError::InconsistentProtocol);
        }
        let classic = group
            .and_then(Group::classic)
            .filter(|c| c.member_count() > 0);
        let local = self.local(&request.group);
        let barrier = local.barrier.as_ref().filter(|b| !b.is_empty());
        let of_type = barrier.map_or_else(
            || classic.map(|c| c.protocol_type.as_str()),
            |b| Some(b.protocol_type.as_str()),
        );
        if of_type.is_some_and(|t| t != request.protocol_type) {
            return Err(GroupError::InconsistentProtocol);
        }
        if let Some(barrier) = barrier
            && !barrier.accepts(request.member.as_ref(), request)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        let members = barrier.map_or(0, Barrier::len) + classic.map_or(0, |c| c.member_count());
        let known = |id: &MemberId| {
            classic.is_some_and(|c| c.member(id).is_some()) || barrier.is_some_and(|b| b.has(id))
        };
        let by_instance = request.instance.as_ref().and_then(|instance| {
            let current = classic.and_then(|c| c.member_of(instance)).map(|m| &m.id);
            barrier.and_then(|b| b.member_of(instance)).or(current)
        });
        match (&request.member, &request.instance) {
            (Some(id), Some(_)) => match by_instance {
                None => Err(GroupError::UnknownMember),
                Some(current) if current != id => Err(GroupError::FencedInstance),
                Some(_) => Ok(id.clone()),
            },
            (Some(id), None) if known(id) => Ok(id.clone()),
            (Some(id), None) => match local.pending_ids.remove(id) {
                Some(_) => Ok(id.clone()),
                None => Err(GroupError::UnknownMember),
            },
            (None, _) if by_instance.is_none() && members >= MAX_GROUP_MEMBERS => {
                Err(GroupError::GroupMaxSize(MAX_GROUP_MEMBERS))
            }
            (None, None) if request.knows_member_id_required => {
                if local.pending_ids.len() >= MAX_PENDING_IDS {
                    return Err(GroupError::GroupMaxSize(MAX_PENDING_IDS));
                }
                let end = view.now + session.min(PENDING_ID_LIFE);
                local.pending_ids.insert(request.fresh_id.clone(), end);
                self.timers.at(end, Timer::Group(request.group.clone()));
                Err(GroupError::MemberIdRequired(request.fresh_id.clone()))
            }
            (None, _) => Ok(request.fresh_id.clone()),
        }
    }

    fn join_as(
        &mut self,
        view: View<'_>,
        ticket: Ticket,
        request: JoinRequest,
        group: Option<&Group>,
        id: MemberId,
    ) {
        let classic = group.and_then(Group::classic);
        let preparing = self.local(&request.group).barrier.is_some();
        if let (Some(group), Some(classic), false) = (group, classic, preparing) {
            let old = request.instance.as_ref().and_then(|i| classic.member_of(i));
            if let Some(old) = old.filter(|old| old.id != id) {
                // A static member came back. With an unchanged subscription its assignment stands.
                if classic.settled && same_subscription(classic, &old.protocols, &request) {
                    let op = Op::ClassicReplace {
                        group: group.id.clone(),
                        generation: group.epoch,
                        old: old.id.clone(),
                        member: Box::new(request.clone().into_member(id.clone())),
                    };
                    let waiter = Waiter::Replace(ticket, Box::new(request), old.id.clone(), id);
                    self.push(op, waiter);
                    return;
                }
            }
            if let Some(member) = classic.member(&id) {
                let same = member.protocols == request.protocols;
                let leads = classic.leader.as_ref() == Some(&id);
                if same && (!classic.settled || !leads) {
                    self.arm_session(view, group, &id);
                    let skip = request.knows_skip_assignment;
                    let joined = joined(group, classic, &id, skip && classic.settled);
                    self.replies.push((ticket, Response::Joined(Ok(joined))));
                    return;
                }
            }
        }
        self.join_barrier(view, ticket, request, group, id);
    }

    fn join_barrier(
        &mut self,
        view: View<'_>,
        ticket: Ticket,
        request: JoinRequest,
        group: Option<&Group>,
        id: MemberId,
    ) {
        let group_id = request.group.clone();
        let fresh = group
            .and_then(Group::classic)
            .is_none_or(|c| c.member_count() == 0);
        if self.local(&group_id).barrier.is_none() {
            self.start_barrier_of(view, &group_id, fresh, &request.protocol_type);
        }
        let step = self.config.initial_rebalance_delay;
        let replaced = request.instance.as_ref().and_then(|instance| {
            let classic = group.and_then(Group::classic)?;
            let old = classic.member_of(instance)?;
            (old.id != id).then(|| old.id.clone())
        });
        let timeout = millis(request.rebalance_timeout_ms);
        let local = self.local(&group_id);
        let Some(barrier) = &mut local.barrier else {
            return;
        };
        let mut displaced = Vec::new();
        if let Some(instance) = &request.instance
            && let Some(old) = barrier
                .member_of(instance)
                .filter(|old| **old != id)
                .cloned()
        {
            displaced.extend(
                barrier
                    .remove(&old)
                    .map(|t| (t, GroupError::FencedInstance)),
            );
        }
        if let Some(old) = &replaced {
            barrier.expected.remove(old);
        }
        barrier.deadline = barrier.deadline.max(view.now + timeout);
        if fresh && !barrier.has(&id) {
            barrier.earliest = (view.now + step).min(barrier.latest).max(barrier.earliest);
        }
        if barrier.is_empty() {
            barrier.protocol_type.clone_from(&request.protocol_type);
        }
        let again = barrier.add(id, ticket, request);
        displaced.extend(again.map(|t| (t, GroupError::UnknownMember)));
        let wake = barrier.earliest.min(barrier.deadline);
        self.timers.at(wake, Timer::Group(group_id.clone()));
        let refused = displaced.into_iter();
        self.replies
            .extend(refused.map(|(t, e)| (t, Response::Joined(Err(e)))));
        self.barrier_due(view, &group_id);
    }

    /// Asks everybody to join anew.
    pub(super) fn start_barrier(&mut self, view: View<'_>, group: &GroupId, fresh: bool) {
        let found = view.state.group(group).and_then(Group::classic);
        let protocol_type = found.map(|c| c.protocol_type.clone()).unwrap_or_default();
        self.start_barrier_of(view, group, fresh, &protocol_type);
    }

    fn start_barrier_of(
        &mut self,
        view: View<'_>,
        group: &GroupId,
        fresh: bool,
        protocol_type: &str,
    ) {
        let classic = view.state.group(group).and_then(Group::classic);
        let members = || classic.into_iter().flat_map(ClassicGroup::members);
        let longest = members().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0);
        let (delay, latest) = if fresh {
            (
                self.config.initial_rebalance_delay,
                self.config.max_initial_rebalance_delay,
            )
        } else {
            (Duration::ZERO, Duration::ZERO)
        };
        let barrier = Barrier::new(
            protocol_type.to_owned(),
            members().map(|m| m.id.clone()).collect(),
            view.now + delay,
            view.now + latest,
            view.now + millis(longest),
        );
        let wake = barrier.deadline.max(barrier.earliest);
        let local = self.local(group);
        local.barrier = Some(barrier);
        local.sync_deadline = None;
        for (member, ticket) in std::mem::take(&mut local.syncs) {
            // It waited for us; its session begins when it is answered.
            self.touch(view, group, &member);
            let refused = Response::Synced(Err(GroupError::RebalanceInProgress));
            self.replies.push((ticket, refused));
        }
        self.timers.at(wake, Timer::Group(group.clone()));
    }

    /// Ends the barrier if everybody is there or its time has come.
    pub(super) fn barrier_due(&mut self, view: View<'_>, group: &GroupId) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        let Some(barrier) = &mut local.barrier else {
            return;
        };
        let now = view.now;
        if barrier.proposing.is_some() || now < barrier.earliest {
            return;
        }
        if now < barrier.deadline && !barrier.expected.is_empty() {
            let wake = barrier.deadline;
            self.timers.at(wake, Timer::Group(group.clone()));
            return;
        }
        let found = view.state.group(group);
        let classic = found.and_then(Group::classic);
        let after = found.map_or(view.state.epoch_floor, |g| g.epoch);
        // Static members keep their place until their session ends.
        let stay: Vec<_> = barrier
            .expected
            .iter()
            .filter_map(|id| classic.and_then(|c| c.member(id)))
            .filter(|m| m.instance.is_some())
            .collect();
        let all: Vec<_> = barrier.members().chain(stay).collect();
        let led = classic
            .and_then(|c| c.leader.as_ref())
            .filter(|l| barrier.has(l));
        let leader = led.or_else(|| barrier.first()).cloned();
        let op = match (barrier.choose(&all), leader) {
            (Some(protocol), Some(leader)) => Op::ClassicRound(Box::new(ClassicRound {
                group: group.clone(),
                after,
                protocol_type: barrier.protocol_type.clone(),
                protocol,
                leader,
                members: all.into_iter().cloned().collect(),
            })),
            // Nobody came: those who did not are members no longer.
            _ => Op::RemoveMembers {
                group: group.clone(),
                epoch: Some(after),
                members: barrier.expected.iter().cloned().collect(),
            },
        };
        self.rounds += 1;
        barrier.proposing = Some(self.rounds);
        self.push(op, Waiter::Round(group.clone(), self.rounds));
    }

    pub(super) fn round_applied(
        &mut self,
        view: View<'_>,
        (group, round): (&GroupId, u64),
        result: OpResult,
    ) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        let its = local.barrier.as_ref().and_then(|b| b.proposing);
        if its != Some(round) {
            // A proposal before it was lost, and the joins that it ends have been refused.
            return;
        }
        if result == Err(GroupError::Superseded) {
            // Somebody was removed meanwhile: once more on what is left.
            if let Some(barrier) = &mut local.barrier {
                barrier.proposing = None;
                let classic = view.state.group(group).and_then(Group::classic);
                barrier
                    .expected
                    .retain(|id| classic.is_some_and(|c| c.member(id).is_some()));
            }
            self.barrier_due(view, group);
            self.replay(view, group);
            return;
        }
        let Some(barrier) = local.barrier.take() else {
            return;
        };
        let longest = millis(barrier.rebalance_timeout_ms());
        let found = view.state.group(group);
        let joined_now = barrier.into_joined();
        let anybody = !joined_now.is_empty();
        for (ticket, id, _) in joined_now {
            let answer = match (&result, found, found.and_then(Group::classic)) {
                (Err(error), ..) => Err(error.clone()),
                (Ok(()), Some(group), Some(classic)) if classic.member(&id).is_some() => {
                    self.arm_session(view, group, &id);
                    Ok(joined(group, classic, &id, false))
                }
                (Ok(()), ..) => Err(GroupError::UnknownMember),
            };
            self.replies.push((ticket, Response::Joined(answer)));
        }
        if result.is_ok() && anybody {
            let deadline = view.now + longest;
            self.local(group).sync_deadline = Some(deadline);
            self.timers.at(deadline, Timer::Group(group.clone()));
        }
        self.replay(view, group);
    }

    /// Takes up the joins that came while the barrier's end was on its way.
    fn replay(&mut self, view: View<'_>, group: &GroupId) {
        let waiting = std::mem::take(&mut self.local(group).waiting);
        for (ticket, request) in waiting {
            self.join(view, ticket, request);
        }
    }

    pub(super) fn replaced(
        &mut self,
        view: View<'_>,
        ticket: Ticket,
        request: &JoinRequest,
        old: &MemberId,
        id: &MemberId,
        result: OpResult,
    ) {
        let group = view.state.group(&request.group);
        let answer = match (result, group, group.and_then(Group::classic)) {
            // The group has moved on; the join is taken up anew.
            (Err(GroupError::Superseded), ..) => {
                self.join(view, ticket, request.clone());
                return;
            }
            (Ok(()), Some(group), Some(classic)) => {
                self.arm_session(view, group, id);
                let mut joined = joined(group, classic, id, request.knows_skip_assignment);
                if !request.knows_skip_assignment && joined.leader == id.as_str() {
                    // Told so, it would assign anew, and nobody else would ask for it.
                    joined.leader = old.to_string();
                    joined.members.clear();
                }
                Ok(joined)
            }
            (Ok(()), ..) => Err(GroupError::UnknownMember),
            (Err(error), ..) => Err(error),
        };
        let syncs = &mut self.local(&request.group).syncs;
        if let Some(fenced) = syncs.remove(old) {
            let fenced = (fenced, Response::Synced(Err(GroupError::FencedInstance)));
            self.replies.push(fenced);
        }
        self.replies.push((ticket, Response::Joined(answer)));
    }
}

/// Whether the subscription under the chosen assignor is the same.
fn same_subscription(
    classic: &ClassicGroup,
    before: &[(String, bytes::Bytes)],
    request: &JoinRequest,
) -> bool {
    let of = |protocols: &[(String, bytes::Bytes)]| {
        let found = protocols.iter().find(|(name, _)| *name == classic.protocol);
        found.map(|(_, metadata)| metadata.clone())
    };
    of(before).is_some() && of(before) == of(&request.protocols)
}

/// The answer to a member of the current generation.
fn joined(group: &Group, classic: &ClassicGroup, id: &MemberId, stands: bool) -> Joined {
    let leads = classic.leader.as_ref() == Some(id);
    let members = classic.members().filter(|_| leads).map(|m| {
        let metadata = m
            .protocols
            .iter()
            .find(|(name, _)| *name == classic.protocol);
        let metadata = metadata.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        (m.id.clone(), m.instance.clone(), metadata)
    });
    Joined {
        generation: group.epoch,
        protocol_type: classic.protocol_type.clone(),
        protocol: classic.protocol.clone(),
        leader: classic
            .leader
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        member: id.clone(),
        members: members.collect(),
        skip_assignment: stands && leads,
    }
}
