//! Applies operations. Each builds a changed group and puts it in whole, or changes nothing.

use rivven_core_types::UnixMillis;

use super::group::{CommittedOffset, Group, Kind};
use super::{GroupsState, MAX_OFFSET_METADATA_BYTES};
use crate::command::{Batch, Committer, OffsetToCommit, Op, OpResult};
use crate::error::GroupError;
use crate::ids::GroupId;

impl GroupsState {
    /// Applies a batch; one result per operation, in order.
    pub(crate) fn apply(&mut self, batch: Batch) -> Vec<OpResult> {
        self.clock = self.clock.max(batch.at);
        batch.ops.into_iter().map(|op| self.apply_op(op)).collect()
    }

    fn apply_op(&mut self, op: Op) -> OpResult {
        let at = self.clock;
        match op {
            Op::Heartbeat(heartbeat) => {
                let mut group = if heartbeat.epoch == crate::epoch::Epoch::JOIN {
                    self.group_or_new(&heartbeat.group)?
                } else {
                    self.existing(&heartbeat.group, GroupError::UnknownMember)?
                };
                group.heartbeat(&heartbeat, at)?;
                self.put(group);
                Ok(())
            }
            Op::SetTarget(target) => {
                let id = target.group.clone();
                self.edit(&id, |group| group.set_target(*target))
            }
            Op::TopicsChanged {
                group,
                epoch,
                fingerprint,
            } => self.edit(&group, |group| group.topics_changed(epoch, fingerprint)),
            Op::Fence {
                group,
                member,
                epoch,
            } => self.edit(&group, |group| group.fence(&member, epoch, at)),
            Op::ClassicRound(round) => {
                let mut group = self.group_or_new(&round.group)?;
                group.classic_round(*round, at)?;
                self.put(group);
                Ok(())
            }
            Op::ClassicSync {
                group,
                generation,
                assignments,
            } => self.edit(&group, |group| group.classic_sync(generation, assignments)),
            Op::ClassicReplace {
                group,
                generation,
                old,
                member,
            } => self.edit(&group, |group| {
                group.classic_replace(generation, &old, *member)
            }),
            Op::RemoveMembers {
                group,
                epoch,
                members,
            } => self.edit(&group, |group| {
                if epoch.is_some_and(|epoch| epoch != group.epoch) {
                    return Err(GroupError::Superseded);
                }
                match &group.kind {
                    Kind::Simple => Ok(()),
                    Kind::Classic(_) => group.classic_remove(&members, at),
                    Kind::Consumer(_) => group.remove_consumers(&members, at).map(drop),
                }
            }),
            Op::Commit { group, by, offsets } => self.commit(&group, &by, offsets),
            Op::DeleteOffsets { group, partitions } => self.edit(&group, |group| {
                partitions.iter().for_each(|p| group.remove_offset(p));
                Ok(())
            }),
            Op::DeleteTopics { topics } => {
                self.delete_topics(&topics);
                Ok(())
            }
            Op::Expire {
                group,
                epoch,
                before,
                partitions,
            } => self.expire(&group, epoch, before, &partitions),
            Op::DeleteGroup { group } => {
                let found = self.existing(&group, GroupError::GroupNotFound(group.clone()))?;
                if found.member_count() > 0 {
                    return Err(GroupError::NonEmptyGroup(group));
                }
                self.remove(&group);
                Ok(())
            }
        }
    }

    fn existing(&self, id: &GroupId, missing: GroupError) -> Result<Group, GroupError> {
        self.group(id).cloned().ok_or(missing)
    }

    fn edit(
        &mut self,
        id: &GroupId,
        change: impl FnOnce(&mut Group) -> Result<(), GroupError>,
    ) -> Result<(), GroupError> {
        let mut group = self.existing(id, GroupError::GroupNotFound(id.clone()))?;
        change(&mut group)?;
        self.put(group);
        Ok(())
    }

    fn commit(
        &mut self,
        id: &GroupId,
        by: &Committer,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<(), GroupError> {
        let mut group = match self.group(id) {
            Some(group) => group.clone(),
            // A group that nobody joins: created by its first commit.
            None if by.epoch.get() < 0 => self.group_or_new(id)?,
            None => return Err(GroupError::GroupNotFound(id.clone())),
        };
        group.check_committer(by)?;
        let too_long = |o: &OffsetToCommit| o.metadata.len() > MAX_OFFSET_METADATA_BYTES;
        if offsets.iter().any(too_long) {
            return Err(GroupError::MetadataTooLarge(MAX_OFFSET_METADATA_BYTES));
        }
        for offset in offsets {
            let value = CommittedOffset {
                offset: offset.offset,
                leader_epoch: offset.leader_epoch,
                committed_at: self.clock,
                metadata: offset.metadata,
            };
            group.put_offset(offset.partition, value);
        }
        self.put(group);
        Ok(())
    }

    fn delete_topics(&mut self, topics: &[rivven_core_types::TopicId]) {
        if topics.is_empty() {
            return;
        }
        let concerned: Vec<GroupId> = self
            .groups()
            .filter(|group| group.offsets().any(|(p, _)| topics.contains(&p.topic)))
            .map(|group| group.id.clone())
            .collect();
        for id in concerned {
            if let Some(mut group) = self.group(&id).cloned() {
                topics
                    .iter()
                    .for_each(|topic| group.remove_offsets_of(*topic));
                self.put(group);
            }
        }
    }

    fn expire(
        &mut self,
        id: &GroupId,
        epoch: crate::epoch::Epoch,
        before: UnixMillis,
        partitions: &[rivven_core_types::PartitionId],
    ) -> Result<(), GroupError> {
        let mut group = self.existing(id, GroupError::GroupNotFound(id.clone()))?;
        if group.epoch != epoch {
            return Err(GroupError::Superseded);
        }
        for partition in partitions {
            if group
                .offset(partition)
                .is_some_and(|o| o.committed_at <= before)
            {
                group.remove_offset(partition);
            }
        }
        let done =
            group.member_count() == 0 && group.offset_count() == 0 && group.empty_since <= before;
        self.put(group);
        if done {
            self.remove(id);
        }
        Ok(())
    }
}

impl Group {
    /// Checks in whose name offsets are committed: in apply, so that what counts is the owner at the
    /// commit's place in the log.
    pub(crate) fn check_committer(&self, by: &Committer) -> Result<(), GroupError> {
        let none = by.epoch.get() < 0;
        if none && self.member_count() == 0 {
            return Ok(());
        }
        let member = by.member.as_ref().ok_or(GroupError::UnknownMember)?;
        match &self.kind {
            Kind::Simple if none => Ok(()),
            Kind::Simple => Err(GroupError::UnknownMember),
            Kind::Classic(classic) => {
                classic.check(member, by.instance.as_ref())?;
                if by.epoch != self.epoch {
                    return Err(GroupError::IllegalGeneration);
                }
                if !classic.settled {
                    return Err(GroupError::RebalanceInProgress);
                }
                Ok(())
            }
            Kind::Consumer(consumer) => {
                let member = consumer.member(member).ok_or(GroupError::UnknownMember)?;
                // Epoch 0 is what every joining client says, and -2 that of a static member that is away:
                // neither owns anything.
                if by.epoch != member.epoch || by.epoch <= crate::epoch::Epoch::JOIN {
                    return Err(GroupError::StaleMemberEpoch);
                }
                Ok(())
            }
        }
    }
}
