//! One group: what all kinds have in common, and its committed offsets.

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use rivven_core_types::{PartitionId, TopicId, UnixMillis};

use super::classic::ClassicGroup;
use super::consumer::ConsumerGroup;
use crate::digest::{self, record_hash};
use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::GroupId;

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read, or -1: lets the consumer notice a truncation
    /// (KIP-320).
    pub leader_epoch: i32,
    /// When it was committed.
    pub committed_at: UnixMillis,
    /// The consumer's own text.
    pub metadata: Box<str>,
}

/// What a group is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Offsets alone: nobody has joined.
    Simple,
    /// Members of the classic protocol, or none since the last of them left.
    Classic(ClassicGroup),
    /// Members of the consumer protocol, or none since the last of them left.
    Consumer(ConsumerGroup),
}

/// The state of a group, as Kafka names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GroupPhase {
    /// No members.
    Empty,
    /// Members of the consumer protocol without a target assignment for the group epoch yet.
    Assigning,
    /// Members of the consumer protocol on their way to the target assignment.
    Reconciling,
    /// Members of the classic protocol are to join again.
    PreparingRebalance,
    /// Members of the classic protocol await the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
}

impl GroupPhase {
    /// All phases.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Assigning,
        Self::Reconciling,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
    ];

    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A group.
#[derive(Debug, Clone)]
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) epoch: Epoch,
    /// When the last member left; when the group was made if it never had one.
    pub(crate) empty_since: UnixMillis,
    pub(crate) kind: Kind,
    offsets: RedBlackTreeMapSync<PartitionId, CommittedOffset>,
    /// The hash of the members and offsets.
    pub(crate) inner_hash: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HeadKind {
    Simple,
    Classic {
        protocol_type: String,
        protocol: String,
        leader: Option<crate::ids::MemberId>,
        settled: bool,
        rejoin: bool,
    },
    Consumer {
        target_epoch: Epoch,
        fingerprint: u64,
        next_slot: u32,
    },
}

/// What a group has besides its members and offsets, as it is hashed and saved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) id: GroupId,
    pub(crate) epoch: Epoch,
    pub(crate) empty_since: UnixMillis,
    pub(crate) kind: HeadKind,
}

#[derive(Serialize)]
struct OffsetRecord<'a>(&'a GroupId, PartitionId, &'a CommittedOffset);

impl Group {
    pub(crate) fn new(id: GroupId, epoch: Epoch, at: UnixMillis) -> Self {
        Self {
            id,
            epoch,
            empty_since: at,
            kind: Kind::Simple,
            offsets: RedBlackTreeMapSync::new_sync(),
            inner_hash: 0,
        }
    }

    pub(crate) fn from_head(head: Head) -> Self {
        let kind = match head.kind {
            HeadKind::Simple => Kind::Simple,
            HeadKind::Classic {
                protocol_type,
                protocol,
                leader,
                settled,
                rejoin,
            } => {
                let mut classic = ClassicGroup::new(protocol_type, protocol, leader, settled);
                classic.rejoin = rejoin;
                Kind::Classic(classic)
            }
            HeadKind::Consumer {
                target_epoch,
                fingerprint,
                next_slot,
            } => Kind::Consumer(ConsumerGroup::new(target_epoch, fingerprint, next_slot)),
        };
        Self {
            kind,
            ..Self::new(head.id, head.epoch, head.empty_since)
        }
    }

    pub(crate) fn head(&self) -> Head {
        let kind = match &self.kind {
            Kind::Simple => HeadKind::Simple,
            Kind::Classic(classic) => HeadKind::Classic {
                protocol_type: classic.protocol_type.clone(),
                protocol: classic.protocol.clone(),
                leader: classic.leader.clone(),
                settled: classic.settled,
                rejoin: classic.rejoin,
            },
            Kind::Consumer(consumer) => HeadKind::Consumer {
                target_epoch: consumer.target_epoch,
                fingerprint: consumer.fingerprint,
                next_slot: consumer.next_slot,
            },
        };
        Head {
            id: self.id.clone(),
            epoch: self.epoch,
            empty_since: self.empty_since,
            kind,
        }
    }

    /// The group's part of the state's hash.
    pub(crate) fn digest(&self) -> u64 {
        record_hash(digest::Kind::Head, &self.head()).wrapping_add(self.inner_hash)
    }

    /// Its id.
    pub const fn id(&self) -> &GroupId {
        &self.id
    }

    /// The group epoch, or generation.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When its last member left, or when it was made.
    pub const fn empty_since(&self) -> UnixMillis {
        self.empty_since
    }

    /// The classic protocol's part.
    pub const fn classic(&self) -> Option<&ClassicGroup> {
        match &self.kind {
            Kind::Classic(classic) => Some(classic),
            Kind::Simple | Kind::Consumer(_) => None,
        }
    }

    /// The consumer protocol's part.
    pub const fn consumer(&self) -> Option<&ConsumerGroup> {
        match &self.kind {
            Kind::Consumer(consumer) => Some(consumer),
            Kind::Simple | Kind::Classic(_) => None,
        }
    }

    /// How many members it has.
    pub fn member_count(&self) -> usize {
        match &self.kind {
            Kind::Simple => 0,
            Kind::Classic(classic) => classic.member_count(),
            Kind::Consumer(consumer) => consumer.member_count(),
        }
    }

    /// Its state as far as it is replicated. The coordinator alone knows of a classic group that is
    /// about to be joined anew.
    pub fn phase(&self) -> GroupPhase {
        match &self.kind {
            Kind::Simple => GroupPhase::Empty,
            Kind::Classic(classic) if classic.member_count() == 0 => GroupPhase::Empty,
            Kind::Classic(classic) if classic.settled => GroupPhase::Stable,
            Kind::Classic(_) => GroupPhase::CompletingRebalance,
            Kind::Consumer(consumer) if consumer.member_count() == 0 => GroupPhase::Empty,
            Kind::Consumer(consumer) if self.epoch > consumer.target_epoch => GroupPhase::Assigning,
            Kind::Consumer(consumer) if consumer.is_settled() => GroupPhase::Stable,
            Kind::Consumer(_) => GroupPhase::Reconciling,
        }
    }

    /// The committed offsets, by partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&PartitionId, &CommittedOffset)> {
        self.offsets.iter()
    }

    /// The committed offset of a partition.
    pub fn offset(&self, partition: &PartitionId) -> Option<&CommittedOffset> {
        self.offsets.get(partition)
    }

    /// How many partitions have a committed offset.
    pub fn offset_count(&self) -> usize {
        self.offsets.size()
    }

    pub(crate) fn put_offset(&mut self, partition: PartitionId, value: CommittedOffset) {
        if let Some(old) = self.offsets.get(&partition) {
            let old = record_hash(
                digest::Kind::Offset,
                &OffsetRecord(&self.id, partition, old),
            );
            self.inner_hash = self.inner_hash.wrapping_sub(old);
        }
        let record = OffsetRecord(&self.id, partition, &value);
        let new = record_hash(digest::Kind::Offset, &record);
        self.inner_hash = self.inner_hash.wrapping_add(new);
        self.offsets.insert_mut(partition, value);
    }

    pub(crate) fn remove_offset(&mut self, partition: &PartitionId) {
        if let Some(old) = self.offsets.get(partition) {
            let record = OffsetRecord(&self.id, *partition, old);
            let old = record_hash(digest::Kind::Offset, &record);
            self.inner_hash = self.inner_hash.wrapping_sub(old);
            self.offsets.remove_mut(partition);
        }
    }

    pub(crate) fn remove_offsets_of(&mut self, topic: TopicId) {
        let range = PartitionId::new(topic, 0)..=PartitionId::new(topic, u32::MAX);
        let gone: Vec<PartitionId> = self.offsets.range(range).map(|(p, _)| *p).collect();
        for partition in gone {
            self.remove_offset(&partition);
        }
    }

    pub(crate) fn bump_epoch(&mut self) -> Result<(), GroupError> {
        self.epoch = self.epoch.next().ok_or(GroupError::EpochsExhausted)?;
        Ok(())
    }
}
