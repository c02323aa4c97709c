//! A group of the consumer protocol (KIP-848): members, their targets, and who owns what.
//!
//! Three epochs: the group epoch moves with every change of members, subscriptions or topics; the
//! target epoch is the group epoch for which the planner has assigned; a member's epoch is the target
//! epoch that it has reached. A partition is given to a member only when nobody owns it, and nobody
//! ceases to own one before saying so, leaving or being fenced.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use rivven_core_types::limits::MAX_PARTITIONS_PER_TOPIC;
use rivven_core_types::{PartitionId, RackId, TopicId, TopicName, UnixMillis};

use super::group::{Group, Kind};
use super::subscriptions::Subscriptions;
use crate::command::{ClientInfo, Heartbeat, SetTarget};
use crate::digest::{self, record_hash};
use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::{GroupId, InstanceId, MAX_GROUP_MEMBERS, MemberId};
use crate::partitions::Partitions;
use crate::shared::Shared;

/// How far a member is on its way to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It has all that its epoch's target gives it.
    Stable,
    /// It has been told to give partitions up and has not said yet that it did.
    Unrevoked,
    /// It waits for partitions that others have not given up yet.
    Unreleased,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerMember {
    /// Its id, which it chose itself.
    pub id: MemberId,
    /// Its number within the group, from 1; never given twice.
    pub(crate) slot: u32,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// Its rack.
    pub rack: Option<RackId>,
    /// Who it is.
    pub client: Shared<ClientInfo>,
    /// How long it may take to give partitions up, in milliseconds.
    pub rebalance_timeout_ms: u32,
    /// The topics that it names, sorted.
    pub topics: Shared<Vec<TopicName>>,
    /// The pattern of further topics; empty for none.
    pub pattern: String,
    /// The assignor that it wants; empty for any.
    pub assignor: String,
    /// The target epoch that it has reached; [`Epoch::LEAVE_STATIC`] while a static member is away.
    pub epoch: Epoch,
    /// The epoch before the last change: a client whose answer was lost still says this one.
    pub previous_epoch: Epoch,
    /// How far it is.
    pub state: MemberState,
    /// What it may own now.
    pub assigned: Partitions,
    /// What it must give up and still owns.
    pub revoking: Partitions,
    /// What the planner wants it to own.
    pub target: Partitions,
}

impl ConsumerMember {
    /// Whether a static member has left and may come back.
    pub fn is_away(&self) -> bool {
        self.epoch == Epoch::LEAVE_STATIC
    }
}

/// The members of a group and their targets.
#[derive(Debug, Clone)]
pub struct ConsumerGroup {
    pub(crate) target_epoch: Epoch,
    pub(crate) fingerprint: u64,
    pub(crate) next_slot: u32,
    /// How many members have reached their target.
    settled: usize,
    members: RedBlackTreeMapSync<MemberId, Arc<ConsumerMember>>,
    instances: RedBlackTreeMapSync<InstanceId, MemberId>,
    /// Per topic the slot of each partition's owner; 0 for none.
    owners: RedBlackTreeMapSync<TopicId, Arc<Vec<u32>>>,
    subscriptions: Subscriptions,
}

impl ConsumerGroup {
    pub(crate) fn new(target_epoch: Epoch, fingerprint: u64, next_slot: u32) -> Self {
        Self {
            target_epoch,
            fingerprint,
            next_slot,
            settled: 0,
            members: RedBlackTreeMapSync::new_sync(),
            instances: RedBlackTreeMapSync::new_sync(),
            owners: RedBlackTreeMapSync::new_sync(),
            subscriptions: Subscriptions::default(),
        }
    }

    /// The group epoch for which the planner has assigned.
    pub const fn target_epoch(&self) -> Epoch {
        self.target_epoch
    }

    /// The fingerprint of the topics for which the planner has assigned.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Arc<ConsumerMember>> {
        self.members.values()
    }

    /// A member.
    pub fn member(&self, id: &MemberId) -> Option<&Arc<ConsumerMember>> {
        self.members.get(id)
    }

    /// The member with a static id.
    pub fn member_of(&self, instance: &InstanceId) -> Option<&Arc<ConsumerMember>> {
        self.instances
            .get(instance)
            .and_then(|id| self.members.get(id))
    }

    /// How many members there are.
    pub fn member_count(&self) -> usize {
        self.members.size()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled == self.members.size()
    }

    fn counts_as_settled(&self, member: &ConsumerMember) -> bool {
        let there = member.state == MemberState::Stable && member.epoch == self.target_epoch;
        there || member.is_away()
    }

    fn set_target_epoch(&mut self, epoch: Epoch) {
        self.target_epoch = epoch;
        let settled = self.members.values().filter(|m| self.counts_as_settled(m));
        self.settled = settled.count();
    }

    pub(crate) fn owner(&self, partition: &PartitionId) -> u32 {
        let index = usize::try_from(partition.index.get()).unwrap_or(usize::MAX);
        self.owners
            .get(&partition.topic)
            .and_then(|slots| slots.get(index).copied())
            .unwrap_or(0)
    }

    fn set_owner(&mut self, partitions: &[PartitionId], slot: u32) {
        for run in partitions.chunk_by(|a, b| a.topic == b.topic) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            if self.owners.get(&first.topic).is_none() {
                self.owners.insert_mut(first.topic, Arc::default());
            }
            let Some(slots) = self.owners.get_mut(&first.topic) else {
                continue;
            };
            let slots = Arc::make_mut(slots);
            let index = |p: &PartitionId| usize::try_from(p.index.get()).unwrap_or(usize::MAX);
            // Targets hold no index beyond the partitions that a topic may have.
            if slots.len() <= index(last) && slot != 0 && in_range(last) {
                slots.resize(index(last) + 1, 0);
            }
            for partition in run {
                if let Some(owner) = slots.get_mut(index(partition)) {
                    *owner = slot;
                }
            }
        }
    }

    fn put(&mut self, group: &GroupId, member: ConsumerMember) -> u64 {
        let removed = self.members.get(&member.id).map_or(0, |old| {
            record_hash(digest::Kind::ConsumerMember, &(group, old.as_ref()))
        });
        let was_settled = self
            .member(&member.id)
            .is_some_and(|old| self.counts_as_settled(old));
        self.settled += usize::from(self.counts_as_settled(&member));
        self.settled -= usize::from(was_settled);
        let added = record_hash(digest::Kind::ConsumerMember, &(group, &member));
        if let Some(instance) = &member.instance {
            self.instances
                .insert_mut(instance.clone(), member.id.clone());
        }
        self.members.insert_mut(member.id.clone(), Arc::new(member));
        added.wrapping_sub(removed)
    }

    /// Removes a member and what it owns; returns its hash, which is to be subtracted.
    fn take(&mut self, group: &GroupId, id: &MemberId) -> Option<u64> {
        let old = Arc::clone(self.members.get(id)?);
        self.set_owner(old.assigned.as_slice(), 0);
        self.set_owner(old.revoking.as_slice(), 0);
        self.settled -= usize::from(self.counts_as_settled(&old));
        if let Some(instance) = &old.instance
            && self.instances.get(instance) == Some(id)
        {
            self.instances.remove_mut(instance);
        }
        self.members.remove_mut(id);
        Some(record_hash(
            digest::Kind::ConsumerMember,
            &(group, old.as_ref()),
        ))
    }

    /// The next step of a member towards its target (KIP-848, "Member epoch and reconciliation").
    /// `owned` is what the client says it owns, if it says so.
    fn reconcile(&mut self, member: &mut ConsumerMember, owned: Option<&Partitions>) -> bool {
        match member.state {
            MemberState::Stable if member.epoch == self.target_epoch => false,
            MemberState::Stable => self.advance(member, member.epoch, owned),
            MemberState::Unrevoked => {
                let still = |p: &PartitionId| member.revoking.contains(p);
                if owned.is_none_or(|owned| owned.iter().any(still)) {
                    return false;
                }
                let revoked = std::mem::take(&mut member.revoking);
                self.set_owner(revoked.as_slice(), 0);
                // It has done what its epoch asked of it; it is below the target epoch here.
                let next = member.epoch.next().unwrap_or(member.epoch);
                member.state = MemberState::Stable;
                self.advance(member, next.min(self.target_epoch), owned);
                true
            }
            MemberState::Unreleased => self.advance(member, member.epoch, owned),
        }
    }

    fn advance(
        &mut self,
        member: &mut ConsumerMember,
        epoch: Epoch,
        owned: Option<&Partitions>,
    ) -> bool {
        let before = (member.epoch, member.state, member.assigned.clone());
        let target = member.target.clone();
        let (keep, revoke): (Vec<_>, Vec<_>) = member
            .assigned
            .iter()
            .copied()
            .partition(|p| target.contains(p));
        let owns = |p: &PartitionId| owned.is_none_or(|owned| owned.contains(p));
        if !revoke.is_empty() && revoke.iter().any(owns) {
            member.assigned = Partitions::from_sorted(keep);
            member.revoking = Partitions::from_sorted(revoke);
            member.state = MemberState::Unrevoked;
            member.set_epoch(epoch);
        } else {
            self.set_owner(&revoke, 0);
            let mut next = keep;
            let mut waits = false;
            for partition in target.iter().filter(|p| !member.assigned.contains(p)) {
                if self.owner(partition) == 0 {
                    next.push(*partition);
                } else {
                    waits = true;
                }
            }
            member.assigned = Partitions::new(next);
            self.set_owner(member.assigned.as_slice(), member.slot);
            member.state = if waits {
                MemberState::Unreleased
            } else {
                MemberState::Stable
            };
            member.set_epoch(self.target_epoch);
        }
        before != (member.epoch, member.state, member.assigned.clone())
    }
}

impl ConsumerMember {
    fn set_epoch(&mut self, epoch: Epoch) {
        if epoch != self.epoch {
            self.previous_epoch = self.epoch;
            self.epoch = epoch;
        }
    }

    /// Takes the subscription over; says whether it changed.
    fn update(&mut self, heartbeat: &Heartbeat, subscriptions: &mut Subscriptions) -> bool {
        let mut changed = false;
        if let Some(topics) = &heartbeat.topics {
            // Clients say it in any order; most say the same each time.
            let mut sorted = topics.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if sorted != *self.topics {
                self.topics = subscriptions.share(sorted);
                changed = true;
            }
        }
        let mut set = |own: &mut String, said: &Option<String>| {
            if let Some(said) = said.as_ref().filter(|said| *said != own) {
                own.clone_from(said);
                changed = true;
            }
        };
        set(&mut self.pattern, &heartbeat.pattern);
        set(&mut self.assignor, &heartbeat.assignor);
        if heartbeat.rack.is_some() && heartbeat.rack != self.rack {
            self.rack.clone_from(&heartbeat.rack);
            changed = true;
        }
        if let Some(timeout) = heartbeat.rebalance_timeout_ms {
            self.rebalance_timeout_ms = timeout;
        }
        changed
    }
}

/// Checks the epoch that a client says it has (KIP-848, "Fencing").
fn check_epoch(member: &ConsumerMember, heartbeat: &Heartbeat) -> Result<(), GroupError> {
    if heartbeat.epoch == member.epoch {
        return Ok(());
    }
    // The answer that carried the newer epoch was lost.
    let lost_answer = heartbeat.epoch == member.previous_epoch
        && heartbeat
            .owned
            .as_ref()
            .is_some_and(|owned| owned.iter().all(|p| member.assigned.contains(p)));
    if lost_answer {
        Ok(())
    } else {
        Err(GroupError::FencedMemberEpoch(member.epoch))
    }
}

/// A group of the consumer protocol, taken apart.
struct Parts<'a> {
    id: &'a GroupId,
    epoch: &'a mut Epoch,
    consumer: &'a mut ConsumerGroup,
    hash: &'a mut u64,
}

impl Parts<'_> {
    fn put(&mut self, member: ConsumerMember) {
        *self.hash = self.hash.wrapping_add(self.consumer.put(self.id, member));
    }

    /// Takes a member out; says whether it was there.
    fn take(&mut self, member: &MemberId) -> bool {
        match self.consumer.take(self.id, member) {
            Some(hash) => {
                *self.hash = self.hash.wrapping_sub(hash);
                true
            }
            None => false,
        }
    }

    fn bump_epoch(&mut self) -> Result<(), GroupError> {
        *self.epoch = self.epoch.next().ok_or(GroupError::EpochsExhausted)?;
        Ok(())
    }
}

impl Group {
    fn consumer_mut(&mut self) -> Result<Parts<'_>, GroupError> {
        match &mut self.kind {
            Kind::Consumer(consumer) => Ok(Parts {
                id: &self.id,
                epoch: &mut self.epoch,
                consumer,
                hash: &mut self.inner_hash,
            }),
            Kind::Simple | Kind::Classic(_) => Err(GroupError::UnknownMember),
        }
    }

    /// Puts a member back from an image.
    pub(crate) fn restore_consumer(&mut self, mut member: ConsumerMember) -> bool {
        let Ok(mut parts) = self.consumer_mut() else {
            return false;
        };
        let consumer = &mut parts.consumer;
        let named = std::mem::take(member.topics.make_mut());
        member.topics = consumer.subscriptions.share(named);
        consumer.set_owner(member.assigned.as_slice(), member.slot);
        consumer.set_owner(member.revoking.as_slice(), member.slot);
        parts.put(member);
        true
    }

    /// A heartbeat of the consumer protocol. Says whether it changed anything.
    pub(crate) fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        at: UnixMillis,
    ) -> Result<bool, GroupError> {
        if heartbeat.epoch == Epoch::JOIN {
            return self.join(heartbeat);
        }
        let mut parts = self.consumer_mut()?;
        if let Some(instance) = &heartbeat.instance {
            // The instance first: the member that had it before another took over must not join again.
            let current = parts.consumer.member_of(instance);
            let current = current.ok_or(GroupError::UnknownMember)?;
            if current.id != heartbeat.member {
                return Err(GroupError::FencedInstance);
            }
        }
        let member = parts.consumer.member(&heartbeat.member);
        let member = Arc::clone(member.ok_or(GroupError::UnknownMember)?);
        if heartbeat.epoch == Epoch::LEAVE {
            return self.remove_consumers(std::slice::from_ref(&heartbeat.member), at);
        }
        let mut next = ConsumerMember::clone(&member);
        if heartbeat.epoch == Epoch::LEAVE_STATIC {
            if member.instance.is_none() {
                return Err(GroupError::InvalidRequest(
                    "only a static member leaves for a while".to_owned(),
                ));
            }
            next.set_epoch(Epoch::LEAVE_STATIC);
        } else {
            check_epoch(&member, heartbeat)?;
            if next.update(heartbeat, &mut parts.consumer.subscriptions) {
                parts.bump_epoch()?;
            }
            let owned = heartbeat.owned.as_ref();
            parts.consumer.reconcile(&mut next, owned);
        }
        if next == *member {
            return Ok(false);
        }
        parts.put(next);
        Ok(true)
    }

    fn join(&mut self, heartbeat: &Heartbeat) -> Result<bool, GroupError> {
        match &self.kind {
            Kind::Consumer(_) => {}
            Kind::Classic(classic) if classic.member_count() > 0 => {
                return Err(GroupError::GroupNotFound(self.id.clone()));
            }
            Kind::Simple | Kind::Classic(_) => {
                self.kind = Kind::Consumer(ConsumerGroup::new(self.epoch, 0, 1));
            }
        }
        let mut parts = self.consumer_mut()?;
        let consumer = &mut parts.consumer;
        let mut before = consumer.member(&heartbeat.member).cloned();
        if let Some(instance) = &heartbeat.instance
            && let Some(old) = consumer.member_of(instance)
            && old.id != heartbeat.member
        {
            if !old.is_away() {
                return Err(GroupError::UnreleasedInstance);
            }
            before = before.or_else(|| Some(Arc::clone(old)));
        }
        if before.is_none() && consumer.member_count() >= MAX_GROUP_MEMBERS {
            return Err(GroupError::GroupMaxSize(MAX_GROUP_MEMBERS));
        }
        let slot = match &before {
            Some(old) => old.slot,
            None => {
                let slot = consumer.next_slot;
                consumer.next_slot = slot.checked_add(1).ok_or(GroupError::EpochsExhausted)?;
                slot
            }
        };
        let mut next = fresh_member(heartbeat, slot);
        let is_new = before.is_none();
        if let Some(old) = &before {
            // It comes with nothing in its hands. What the old life had is free until given again.
            next.topics = old.topics.clone();
            next.pattern.clone_from(&old.pattern);
            next.assignor.clone_from(&old.assignor);
            next.rack.clone_from(&old.rack);
            next.target = old.target.clone();
            parts.take(&old.id);
        }
        let changed = next.update(heartbeat, &mut parts.consumer.subscriptions);
        if is_new || changed {
            parts.bump_epoch()?;
        } else if parts.consumer.target_epoch > Epoch::JOIN {
            // Its target stands: back to it without a rebalance.
            let nothing = Partitions::default();
            parts.consumer.reconcile(&mut next, Some(&nothing));
        }
        parts.put(next);
        Ok(true)
    }

    /// Takes members out. Says whether any was there.
    pub(crate) fn remove_consumers(
        &mut self,
        members: &[MemberId],
        at: UnixMillis,
    ) -> Result<bool, GroupError> {
        let mut parts = self.consumer_mut()?;
        let mut removed = false;
        for member in members {
            removed |= parts.take(member);
        }
        if !removed {
            return Ok(false);
        }
        parts.bump_epoch()?;
        if parts.consumer.member_count() == 0 {
            let epoch = *parts.epoch;
            parts.consumer.set_target_epoch(epoch);
            self.empty_since = at;
        }
        Ok(true)
    }

    pub(crate) fn set_target(&mut self, target: SetTarget) -> Result<(), GroupError> {
        let mut parts = self.consumer_mut()?;
        // The group may have moved on; what was computed serves until the next one.
        let epoch = target.epoch;
        if epoch > *parts.epoch || epoch <= parts.consumer.target_epoch {
            return Err(GroupError::Superseded);
        }
        for (member, partitions) in target.members {
            let Some(old) = parts.consumer.member(&member) else {
                continue;
            };
            let mut next = ConsumerMember::clone(old);
            next.target = partitions
                .into_iter()
                .filter_map(|(topic, indexes)| {
                    let topic = target.topics.get(usize::try_from(topic).ok()?)?;
                    Some(indexes.into_iter().map(|i| PartitionId::new(*topic, i)))
                })
                .flatten()
                .filter(in_range)
                .collect();
            parts.put(next);
        }
        parts.consumer.fingerprint = target.fingerprint;
        parts.consumer.set_target_epoch(epoch);
        Ok(())
    }

    pub(crate) fn topics_changed(
        &mut self,
        epoch: Epoch,
        fingerprint: u64,
    ) -> Result<(), GroupError> {
        if self.epoch != epoch {
            return Err(GroupError::Superseded);
        }
        let consumer = self.consumer_mut()?.consumer;
        if consumer.fingerprint == fingerprint {
            return Err(GroupError::Superseded);
        }
        consumer.fingerprint = fingerprint;
        self.bump_epoch()
    }

    pub(crate) fn fence(
        &mut self,
        member: &MemberId,
        epoch: Epoch,
        at: UnixMillis,
    ) -> Result<(), GroupError> {
        let consumer = self.consumer_mut()?.consumer;
        let known = consumer.member(member).ok_or(GroupError::UnknownMember)?;
        if known.epoch != epoch {
            return Err(GroupError::Superseded);
        }
        self.remove_consumers(std::slice::from_ref(member), at)
            .map(drop)
    }
}

/// Whether a topic may have the partition: bounds what the table of owners may take.
fn in_range(partition: &PartitionId) -> bool {
    partition.index.get() < MAX_PARTITIONS_PER_TOPIC
}

fn fresh_member(heartbeat: &Heartbeat, slot: u32) -> ConsumerMember {
    ConsumerMember {
        id: heartbeat.member.clone(),
        slot,
        instance: heartbeat.instance.clone(),
        rack: None,
        client: Shared::new(heartbeat.client.clone()),
        rebalance_timeout_ms: heartbeat.rebalance_timeout_ms.unwrap_or(0),
        topics: Shared::default(),
        pattern: String::new(),
        assignor: String::new(),
        epoch: Epoch::JOIN,
        previous_epoch: Epoch::JOIN,
        state: MemberState::Stable,
        assigned: Partitions::default(),
        revoking: Partitions::default(),
        target: Partitions::default(),
    }
}
