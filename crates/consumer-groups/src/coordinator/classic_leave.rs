//! Who leaves a group, and what the others do then.

use super::requests::{LeaveRequest, Leaving, Response, Ticket};
use super::{GroupCoordinator, View, Waiter};
use crate::command::{Op, OpResult};
use crate::error::GroupError;
use crate::ids::{GroupId, MemberId};
use crate::state::Group;

impl GroupCoordinator {
    pub(super) fn leave(&mut self, view: View<'_>, ticket: Ticket, request: LeaveRequest) {
        let group = view.state.group(&request.group);
        let mut gone = Vec::new();
        let mut results = Vec::with_capacity(request.members.len());
        for leaving in &request.members {
            let (outcome, persisted) = self.leave_one(group, &request.group, leaving);
            gone.extend(persisted);
            results.push(outcome);
        }
        let reply = Some((ticket, Response::Left(Ok(results))));
        match group {
            Some(group) if !gone.is_empty() => self.remove_classic(view, group, gone, reply),
            _ => {
                self.replies.extend(reply);
                self.barrier_due(view, &request.group);
            }
        }
    }

    fn leave_one(
        &mut self,
        group: Option<&Group>,
        group_id: &GroupId,
        leaving: &Leaving,
    ) -> (OpResult, Option<MemberId>) {
        let consumer = group.and_then(Group::consumer);
        let classic = group.and_then(Group::classic);
        let local = self.local(group_id);
        let by_instance = leaving.instance.as_ref().map(|instance| {
            let joined = local.barrier.as_ref().and_then(|b| b.member_of(instance));
            let classic = classic.and_then(|c| c.member_of(instance)).map(|m| &m.id);
            let consumer = consumer.and_then(|c| c.member_of(instance)).map(|m| &m.id);
            joined.or(classic).or(consumer).cloned()
        });
        let id = match (by_instance, &leaving.member) {
            (Some(None), _) => return (Err(GroupError::UnknownMember), None),
            (Some(Some(current)), Some(said)) if current != *said => {
                return (Err(GroupError::FencedInstance), None);
            }
            (Some(Some(current)), _) => current,
            (None, Some(said)) => said.clone(),
            (None, None) => return (Err(GroupError::UnknownMember), None),
        };
        let pending = local.pending_ids.remove(&id).is_some();
        let joined = local.barrier.as_mut().and_then(|b| {
            b.expected.remove(&id);
            b.remove(&id)
        });
        let had_joined = joined.is_some();
        let unknown = || Response::Joined(Err(GroupError::UnknownMember));
        self.replies
            .extend(joined.map(|ticket| (ticket, unknown())));
        let persisted = classic.is_some_and(|c| c.member(&id).is_some())
            || consumer.is_some_and(|c| c.member(&id).is_some());
        if persisted {
            (Ok(()), Some(id))
        } else if pending || had_joined {
            (Ok(()), None)
        } else {
            (Err(GroupError::UnknownMember), None)
        }
    }

    /// Takes members out; the others are to join anew.
    pub(super) fn remove_classic(
        &mut self,
        view: View<'_>,
        group: &Group,
        members: Vec<MemberId>,
        reply: Option<(Ticket, Response)>,
    ) {
        if let Some(barrier) = &mut self.local(group.id()).barrier {
            members.iter().for_each(|id| {
                barrier.expected.remove(id);
            });
        }
        let op = Op::RemoveMembers {
            group: group.id().clone(),
            epoch: reply.is_none().then_some(group.epoch),
            members,
        };
        self.push(op, Waiter::Removed(group.id().clone(), reply));
        self.barrier_due(view, group.id());
    }

    pub(super) fn rejoin_rest(&mut self, view: View<'_>, group: &GroupId) {
        let classic = view.state.group(group).and_then(Group::classic);
        let rest = classic.is_some_and(|c| c.member_count() > 0 && c.rejoin);
        if rest && self.local(group).barrier.is_none() {
            self.start_barrier(view, group, false);
        }
        self.barrier_due(view, group);
    }
}
