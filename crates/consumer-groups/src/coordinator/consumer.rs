//! The consumer protocol (KIP-848): heartbeats.

use std::time::Duration;

use super::requests::{HeartbeatAnswer, Response, Ticket};
use super::timers::Timer;
use super::{GroupCoordinator, View, Waiter};
use crate::assignor::AssignorKind;
use crate::command::{Heartbeat, Op, OpResult};
use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::{GroupId, MemberId};
use crate::partitions::Partitions;
use crate::shared::Shared;
use crate::state::{ConsumerMember, Group, MemberState};

/// Longest subscription pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1_024;
/// Largest compiled pattern, in bytes. It is matched against every topic, in a time that grows with its
/// size: a short pattern of nested repetitions must not stop the coordinator for seconds.
const MAX_COMPILED_PATTERN_BYTES: usize = 128 * 1024;
/// Members for which the heartbeat interval stays the shortest one.
const MEMBERS_AT_SHORTEST_INTERVAL: usize = 5_000;

impl GroupCoordinator {
    pub(super) fn heartbeat(&mut self, view: View<'_>, ticket: Ticket, beat: Shared<Heartbeat>) {
        match self.trial(view, &beat) {
            Err(error) => self.replies.push((ticket, Response::Heartbeat(Err(error)))),
            Ok(true) => {
                self.starts_change(view, &beat);
                self.push(Op::Heartbeat(beat.clone()), Waiter::Heartbeat(ticket, beat));
            }
            Ok(false) => {
                self.touch(view, &beat.group, &beat.member);
                let answer = self.answer(view, &beat, false);
                self.replies.push((ticket, Response::Heartbeat(answer)));
            }
        }
    }

    /// What is to be noted before a heartbeat is replicated.
    fn starts_change(&mut self, view: View<'_>, beat: &Heartbeat) {
        if beat.epoch != Epoch::JOIN {
            // A sign of life, however long the log takes.
            self.touch(view, &beat.group, &beat.member);
            return;
        }
        let group = view.state.group(&beat.group).and_then(Group::consumer);
        let local = self.groups.entry(beat.group.clone()).or_default();
        local.flapping.joins(view.now, beat, group, &self.config);
    }

    /// Runs the heartbeat on a copy of the group: what it would change is for Raft to decide, and a
    /// heartbeat that changes nothing never gets there.
    fn trial(&self, view: View<'_>, beat: &Heartbeat) -> Result<bool, GroupError> {
        if let Some(name) = beat.assignor.as_deref().filter(|name| !name.is_empty())
            && AssignorKind::by_name(name).is_none()
        {
            return Err(GroupError::UnsupportedAssignor(name.to_owned()));
        }
        if let Some(pattern) = &beat.pattern {
            compile(pattern)?;
        }
        let mut group = if beat.epoch == Epoch::JOIN {
            let nothing = beat.topics.is_none() && beat.pattern.is_none();
            if nothing || beat.rebalance_timeout_ms.is_none() {
                return Err(GroupError::InvalidRequest(
                    "a joining member names its topics and its rebalance time-out".to_owned(),
                ));
            }
            view.state.group_or_new(&beat.group)?
        } else {
            let group = view.state.group(&beat.group);
            group.cloned().ok_or(GroupError::UnknownMember)?
        };
        group.heartbeat(beat, view.state.clock())
    }

    pub(super) fn heartbeat_applied(
        &mut self,
        view: View<'_>,
        ticket: Ticket,
        beat: Shared<Heartbeat>,
        result: OpResult,
    ) {
        if let Err(error) = result {
            self.replies.push((ticket, Response::Heartbeat(Err(error))));
            return;
        }
        let Some(group) = view.state.group(&beat.group) else {
            let gone = Response::Heartbeat(Err(GroupError::UnknownMember));
            self.replies.push((ticket, gone));
            return;
        };
        if matches!(beat.epoch, Epoch::LEAVE | Epoch::LEAVE_STATIC) {
            // A static member that will come back moves nothing.
            if beat.epoch == Epoch::LEAVE {
                let consumer = group.consumer();
                let flapping = &mut self.local(&beat.group).flapping;
                flapping.left(view.now, &beat, consumer);
            }
            let answer = HeartbeatAnswer {
                member: beat.member.clone(),
                epoch: beat.epoch,
                interval_ms: 0,
                assignment: None,
            };
            self.replies.push((ticket, Response::Heartbeat(Ok(answer))));
            return;
        }
        self.arm_session(view, group, &beat.member);
        let member = group.consumer().and_then(|c| c.member(&beat.member));
        if let Some(member) = member {
            self.arm_revocation(view, &beat.group, member);
            if member.epoch == Epoch::JOIN {
                self.want_plan(view, group);
                let local = self.local(&beat.group);
                let planned = group
                    .consumer()
                    .is_some_and(|c| c.target_epoch > Epoch::JOIN);
                if planned && local.flapping.withholds(view.now, &beat.member) {
                    // No plan with it is near: it is told that it has nothing.
                    self.push(Op::Heartbeat(beat.clone()), Waiter::Heartbeat(ticket, beat));
                    return;
                }
                let parked = &mut local.parked;
                // Only the last word of a member counts: were an earlier join of it that lost its
                // client repeated too, the two would take turns for ever.
                if let Some((earlier, _)) = parked.insert(beat.member.clone(), (ticket, beat)) {
                    let refused = Response::Heartbeat(Err(GroupError::LoadInProgress));
                    self.replies.push((earlier, refused));
                }
                return;
            }
        }
        let answer = self.answer(view, &beat, true);
        self.replies.push((ticket, Response::Heartbeat(answer)));
    }

    /// Nobody heard that a join succeeded: the client was gone before. Real clients that close before they
    /// know that they have joined do not say that they leave, and their share would be read by nobody for as
    /// long as a session lasts. One that lost its connection alone joins again.
    pub fn unheard(&mut self, group: GroupId, answer: &HeartbeatAnswer) {
        let again = self.groups.get(&group);
        if !self.leading || again.is_some_and(|local| local.parked.contains_key(&answer.member)) {
            return;
        }
        let op = Op::Fence {
            group,
            member: answer.member.clone(),
            epoch: answer.epoch,
        };
        self.push(op, Waiter::Nobody);
    }

    /// The answer by the applied state.
    fn answer(
        &mut self,
        view: View<'_>,
        beat: &Heartbeat,
        changed: bool,
    ) -> Result<HeartbeatAnswer, GroupError> {
        let group = view.state.group(&beat.group);
        let group = group.ok_or(GroupError::UnknownMember)?;
        let consumer = group.consumer().ok_or(GroupError::UnknownMember)?;
        let member = consumer.member(&beat.member);
        let member = member.ok_or(GroupError::UnknownMember)?;
        let interval_ms = self.interval_ms(group);
        let confirmed = beat.owned.as_ref() == Some(&member.assigned);
        let session = self.local(&beat.group).sessions.get_mut(&beat.member);
        let mut tell = true;
        if let Some(session) = session {
            // Told again until the client says that it has it: an answer may have been lost.
            session.confirmed = confirmed || (session.confirmed && !changed);
            tell = !session.confirmed
                || beat.epoch != member.epoch
                || member.state != MemberState::Stable;
        }
        Ok(HeartbeatAnswer {
            member: member.id.clone(),
            epoch: member.epoch,
            interval_ms,
            assignment: tell.then(|| member.assigned.clone()),
        })
    }

    fn interval_ms(&self, group: &Group) -> u32 {
        let members = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let config = &self.config;
        let busy = members(self.members / MEMBERS_AT_SHORTEST_INTERVAL).saturating_add(1);
        let settled = (config.heartbeat_interval * busy).min(config.max_heartbeat_interval);
        let settling = (config.unsettled_heartbeat_interval * busy).min(settled);
        let interval = if group.phase() == crate::state::GroupPhase::Stable {
            settled
        } else {
            settling
        };
        u32::try_from(interval.as_millis()).unwrap_or(u32::MAX)
    }

    /// Watches that partitions are given up in time.
    pub(super) fn arm_revocation(
        &mut self,
        view: View<'_>,
        group: &GroupId,
        member: &ConsumerMember,
    ) {
        if member.state == MemberState::Unrevoked {
            let timeout = Duration::from_millis(member.rebalance_timeout_ms.into());
            let timer = Timer::Revocation(group.clone(), member.id.clone(), member.epoch);
            self.timers.at(view.now + timeout, timer);
        }
    }

    pub(super) fn revocation_due(
        &mut self,
        view: View<'_>,
        group: GroupId,
        member: MemberId,
        epoch: Epoch,
    ) {
        let found = view.state.group(&group).and_then(Group::consumer);
        let known = found.and_then(|c| c.member(&member));
        let late = known.is_some_and(|m| m.state == MemberState::Unrevoked && m.epoch == epoch);
        if late {
            let op = Op::Fence {
                group,
                member,
                epoch,
            };
            self.push(op, Waiter::Nobody);
        }
    }

    /// Members that joined and wait for a plan: they join once more, which now gives them its share.
    pub(super) fn release_parked(&mut self, view: View<'_>, group: &GroupId) {
        let parked = std::mem::take(&mut self.local(group).parked);
        let members = view.state.group(group).and_then(Group::consumer);
        for (ticket, mut beat) in parked.into_values() {
            if members.is_none_or(|c| c.member(&beat.member).is_none()) {
                // It has left meanwhile, or was removed: only it may say that it joins again.
                let gone = Response::Heartbeat(Err(GroupError::UnknownMember));
                self.replies.push((ticket, gone));
                continue;
            }
            beat.make_mut().owned = Some(Partitions::default());
            let op = Op::Heartbeat(beat.clone());
            self.push(op, Waiter::Heartbeat(ticket, beat));
        }
    }
}

/// Compiles a subscription pattern, which must match a topic's whole name. An empty one is none.
pub(super) fn compile(pattern: &str) -> Result<Option<regex_lite::Regex>, GroupError> {
    if pattern.is_empty() {
        return Ok(None);
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        let text = format!("it has {} bytes of {MAX_PATTERN_BYTES}", pattern.len());
        return Err(GroupError::InvalidRegex(text));
    }
    regex_lite::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(MAX_COMPILED_PATTERN_BYTES)
        .build()
        .map(Some)
        .map_err(|e| GroupError::InvalidRegex(e.to_string()))
}
