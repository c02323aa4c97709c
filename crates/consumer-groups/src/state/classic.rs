//! The replicated part of a group of the classic protocol: the members of the current generation.
//!
//! The join barrier itself is the coordinator's own affair until it ends. Its end is replicated, and
//! so a generation that a client has been told is never given to another round, which a coordinator
//! that keeps it in memory cannot promise.

use bytes::Bytes;
use rpds::RedBlackTreeMapSync;

use rivven_core_types::UnixMillis;

use super::group::{Group, Kind};
use crate::command::{ClassicMember, ClassicRound};
use crate::digest::{self, record_hash};
use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::{GroupId, InstanceId, MemberId};

/// The members of a generation.
#[derive(Debug, Clone)]
pub struct ClassicGroup {
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) leader: Option<MemberId>,
    /// The leader has assigned.
    pub(crate) settled: bool,
    /// A member went: the others are to join anew.
    pub(crate) rejoin: bool,
    members: RedBlackTreeMapSync<MemberId, ClassicMember>,
    instances: RedBlackTreeMapSync<InstanceId, MemberId>,
}

impl ClassicGroup {
    pub(crate) fn new(
        protocol_type: String,
        protocol: String,
        leader: Option<MemberId>,
        settled: bool,
    ) -> Self {
        Self {
            protocol_type,
            protocol,
            leader,
            settled,
            rejoin: false,
            members: RedBlackTreeMapSync::new_sync(),
            instances: RedBlackTreeMapSync::new_sync(),
        }
    }

    /// What the group is for; `consumer` for consumers.
    pub fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    /// The chosen assignor.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Who assigns.
    pub const fn leader(&self) -> Option<&MemberId> {
        self.leader.as_ref()
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &ClassicMember> {
        self.members.values()
    }

    /// A member.
    pub fn member(&self, id: &MemberId) -> Option<&ClassicMember> {
        self.members.get(id)
    }

    /// The member with a static id.
    pub fn member_of(&self, instance: &InstanceId) -> Option<&ClassicMember> {
        self.instances.get(instance).and_then(|id| self.member(id))
    }

    /// How many members there are.
    pub fn member_count(&self) -> usize {
        self.members.size()
    }

    /// Checks who speaks; Kafka's order of errors.
    pub(crate) fn check(
        &self,
        member: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<&ClassicMember, GroupError> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        self.members.get(member).ok_or(GroupError::UnknownMember)
    }

    fn put(&mut self, group: &GroupId, member: ClassicMember) -> u64 {
        let removed = self.take(group, &member.id);
        let added = record_hash(digest::Kind::ClassicMember, &(group, &member));
        if let Some(instance) = &member.instance {
            self.instances
                .insert_mut(instance.clone(), member.id.clone());
        }
        self.members.insert_mut(member.id.clone(), member);
        added.wrapping_sub(removed)
    }

    /// Removes a member; returns its hash, which is to be subtracted.
    fn take(&mut self, group: &GroupId, id: &MemberId) -> u64 {
        let Some(old) = self.members.get(id) else {
            return 0;
        };
        let hash = record_hash(digest::Kind::ClassicMember, &(group, old));
        if let Some(instance) = &old.instance
            && self.instances.get(instance) == Some(id)
        {
            let instance = instance.clone();
            self.instances.remove_mut(&instance);
        }
        self.members.remove_mut(id);
        hash
    }
}

impl Group {
    /// Puts a member back from an image.
    pub(crate) fn restore_classic(&mut self, member: ClassicMember) -> bool {
        let Kind::Classic(classic) = &mut self.kind else {
            return false;
        };
        let change = classic.put(&self.id, member);
        self.inner_hash = self.inner_hash.wrapping_add(change);
        true
    }

    fn classic_mut(&mut self) -> Result<(&GroupId, &mut ClassicGroup, &mut u64), GroupError> {
        match &mut self.kind {
            Kind::Classic(classic) => Ok((&self.id, classic, &mut self.inner_hash)),
            Kind::Simple | Kind::Consumer(_) => Err(GroupError::UnknownMember),
        }
    }

    pub(crate) fn classic_round(
        &mut self,
        round: ClassicRound,
        at: UnixMillis,
    ) -> Result<(), GroupError> {
        if self.epoch != round.after {
            return Err(GroupError::Superseded);
        }
        if self.consumer().is_some_and(|c| c.member_count() > 0) {
            return Err(GroupError::InconsistentProtocol);
        }
        self.bump_epoch()?;
        if let Kind::Classic(classic) = &mut self.kind {
            let gone: Vec<MemberId> = classic.members.keys().cloned().collect();
            for id in gone {
                let hash = classic.take(&self.id, &id);
                self.inner_hash = self.inner_hash.wrapping_sub(hash);
            }
        }
        let empty = round.members.is_empty();
        let leader = (!empty).then_some(round.leader);
        let mut classic = ClassicGroup::new(round.protocol_type, round.protocol, leader, empty);
        for member in round.members {
            let change = classic.put(&self.id, member);
            self.inner_hash = self.inner_hash.wrapping_add(change);
        }
        self.kind = Kind::Classic(classic);
        if empty {
            self.empty_since = at;
        }
        Ok(())
    }

    pub(crate) fn classic_sync(
        &mut self,
        generation: Epoch,
        assignments: Vec<(MemberId, Bytes)>,
    ) -> Result<(), GroupError> {
        if self.epoch != generation {
            return Err(GroupError::Superseded);
        }
        let (id, classic, hash) = self.classic_mut()?;
        if classic.settled {
            return Err(GroupError::Superseded);
        }
        for (member, assignment) in assignments {
            let Some(old) = classic.members.get(&member) else {
                continue;
            };
            let new = ClassicMember {
                assignment,
                ..old.clone()
            };
            *hash = hash.wrapping_add(classic.put(id, new));
        }
        classic.settled = true;
        Ok(())
    }

    pub(crate) fn classic_replace(
        &mut self,
        generation: Epoch,
        old: &MemberId,
        member: ClassicMember,
    ) -> Result<(), GroupError> {
        if self.epoch != generation {
            return Err(GroupError::Superseded);
        }
        let (id, classic, hash) = self.classic_mut()?;
        let Some(before) = classic.members.get(old) else {
            return Err(GroupError::Superseded);
        };
        let member = ClassicMember {
            assignment: before.assignment.clone(),
            ..member
        };
        *hash = hash.wrapping_sub(classic.take(id, old));
        if classic.leader.as_ref() == Some(old) {
            classic.leader = Some(member.id.clone());
        }
        *hash = hash.wrapping_add(classic.put(id, member));
        Ok(())
    }

    /// Takes members out. The rest keep their generation until they have joined anew; the last one
    /// leaves an empty group of the next generation behind.
    pub(crate) fn classic_remove(
        &mut self,
        members: &[MemberId],
        at: UnixMillis,
    ) -> Result<(), GroupError> {
        let (id, classic, hash) = self.classic_mut()?;
        let before = classic.member_count();
        for member in members {
            *hash = hash.wrapping_sub(classic.take(id, member));
            if classic.leader.as_ref() == Some(member) {
                classic.leader = None;
            }
        }
        let left = classic.member_count();
        classic.rejoin |= left < before;
        if before > 0 && left == 0 {
            classic.settled = true;
            classic.rejoin = false;
            self.empty_since = at;
            self.bump_epoch()?;
        }
        Ok(())
    }
}
