//! The classic protocol between two rounds: SyncGroup and Heartbeat.

use super::classic::millis;
use super::requests::{ClassicHeartbeat, Response, SyncRequest, Synced, Ticket};
use super::timers::Timer;
use super::{GroupCoordinator, View, Waiter};
use crate::command::{Op, OpResult};
use crate::error::GroupError;
use crate::ids::{GroupId, MemberId};
use crate::state::{ClassicGroup, Group};

impl GroupCoordinator {
    pub(super) fn sync(&mut self, view: View<'_>, ticket: Ticket, request: SyncRequest) {
        match self.check_sync(view, &request) {
            Err(error) => self.replies.push((ticket, Response::Synced(Err(error)))),
            Ok(Some(synced)) => {
                self.touch(view, &request.group, &request.member);
                self.replies.push((ticket, Response::Synced(Ok(synced))));
            }
            Ok(None) => {
                self.touch(view, &request.group, &request.member);
                let group = view.state.group(&request.group).and_then(Group::classic);
                let leads = group.is_some_and(|c| c.leader.as_ref() == Some(&request.member));
                let local = self.local(&request.group);
                let before = local.syncs.insert(request.member.clone(), ticket);
                let propose = leads && !local.sync_in_flight;
                local.sync_in_flight |= propose;
                let refused = Response::Synced(Err(GroupError::RebalanceInProgress));
                self.replies.extend(before.map(|t| (t, refused)));
                if propose {
                    let op = Op::ClassicSync {
                        group: request.group.clone(),
                        generation: request.generation,
                        assignments: request.assignments,
                    };
                    self.push(op, Waiter::Sync(request.group));
                }
            }
        }
    }

    /// The assignment, or `None` while the leader has not assigned.
    fn check_sync(
        &self,
        view: View<'_>,
        request: &SyncRequest,
    ) -> Result<Option<Synced>, GroupError> {
        let group = view
            .state
            .group(&request.group)
            .ok_or(GroupError::UnknownMember)?;
        let classic = group.classic().ok_or(GroupError::UnknownMember)?;
        let member = classic.check(&request.member, request.instance.as_ref())?;
        if request.generation != group.epoch {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |said: &Option<String>, is: &str| said.as_ref().is_some_and(|s| s != is);
        if differs(&request.protocol_type, &classic.protocol_type)
            || differs(&request.protocol, &classic.protocol)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        let local = self.groups.get(&request.group);
        if local.is_some_and(|l| l.barrier.is_some()) {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(classic.settled.then(|| Synced {
            protocol_type: classic.protocol_type.clone(),
            protocol: classic.protocol.clone(),
            assignment: member.assignment.clone(),
        }))
    }

    pub(super) fn sync_applied(&mut self, view: View<'_>, group: &GroupId, result: &OpResult) {
        let local = self.local(group);
        local.sync_in_flight = false;
        let syncs = std::mem::take(&mut local.syncs);
        let classic = view.state.group(group).and_then(Group::classic);
        if classic.is_some_and(|c| c.settled) {
            local.sync_deadline = None;
        }
        for (member, ticket) in syncs {
            let found = classic
                .filter(|c| c.settled)
                .and_then(|c| Some((c, c.member(&member)?)));
            let answer = match (result, found) {
                (Ok(()) | Err(GroupError::Superseded), Some((classic, member))) => Ok(Synced {
                    protocol_type: classic.protocol_type.clone(),
                    protocol: classic.protocol.clone(),
                    assignment: member.assignment.clone(),
                }),
                (Err(GroupError::TooLarge { length, max }), _) => Err(GroupError::InvalidRequest(
                    format!("the assignment has {length} bytes; at most {max} can be stored"),
                )),
                _ => Err(GroupError::RebalanceInProgress),
            };
            self.replies.push((ticket, Response::Synced(answer)));
        }
    }

    pub(super) fn arm_sync(&mut self, view: View<'_>, group: &Group) {
        let members = group.classic().into_iter().flat_map(ClassicGroup::members);
        let longest = members.map(|m| m.rebalance_timeout_ms).max().unwrap_or(0);
        let deadline = view.now + millis(longest);
        self.local(group.id()).sync_deadline = Some(deadline);
        self.timers.at(deadline, Timer::Group(group.id().clone()));
    }

    /// Whoever has not asked for its assignment by now is out (KAFKA-12890: its heartbeats alone would
    /// keep the group waiting for ever).
    pub(super) fn sync_due(&mut self, view: View<'_>, group: &GroupId) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        let due = local
            .sync_deadline
            .is_some_and(|deadline| deadline <= view.now);
        if !due || local.sync_in_flight {
            return;
        }
        local.sync_deadline = None;
        let Some(found) = view.state.group(group) else {
            return;
        };
        let Some(classic) = found.classic().filter(|c| !c.settled) else {
            return;
        };
        let late = classic
            .members()
            .filter(|m| !local.syncs.contains_key(&m.id));
        let late: Vec<MemberId> = late.map(|m| m.id.clone()).collect();
        self.remove_classic(view, found, late, None);
    }

    pub(super) fn classic_heartbeat(
        &mut self,
        view: View<'_>,
        ticket: Ticket,
        request: &ClassicHeartbeat,
    ) {
        let outcome = self.check_heartbeat(view, request);
        if matches!(outcome, Ok(()) | Err(GroupError::RebalanceInProgress)) {
            self.touch(view, &request.group, &request.member);
        }
        self.replies.push((ticket, Response::Done(outcome)));
    }

    fn check_heartbeat(&self, view: View<'_>, request: &ClassicHeartbeat) -> OpResult {
        let group = view
            .state
            .group(&request.group)
            .ok_or(GroupError::UnknownMember)?;
        let classic = group.classic().ok_or(GroupError::UnknownMember)?;
        classic.check(&request.member, request.instance.as_ref())?;
        if request.generation != group.epoch {
            return Err(GroupError::IllegalGeneration);
        }
        let local = self.groups.get(&request.group);
        if local.is_some_and(|l| l.barrier.is_some()) {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }
}
