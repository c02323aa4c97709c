//! The vocabulary of the core.

use rivven_core_types::{BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId};

/// Which acknowledgement a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// None (`acks=0`).
    None,
    /// The leader's own log (`acks=1`): its durable end with `Durability::Fsync`.
    Leader,
    /// The high watermark (`acks=all`).
    All,
}

/// Which offset a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log's first offset.
    Earliest,
    /// The end up to which consumers may read.
    Latest,
    /// The first record whose timestamp is at least this (Unix milliseconds).
    Timestamp(i64),
    /// The record with the greatest timestamp (KIP-734).
    MaxTimestamp,
}

/// What this node does for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaRole {
    /// Leads it.
    Leader,
    /// Follows a leader.
    Follower,
    /// Holds a log, but there is no leader, or this replica may not lead the epoch it was given.
    Idle,
    /// The log has failed; everything is refused.
    Offline,
}

/// A follower as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The broker.
    pub broker: BrokerId,
    /// The end of its log, if it has fetched in this leader epoch.
    pub log_end: Option<Offset>,
    /// The end of what it has on stable storage.
    pub durable_end: Option<Offset>,
}

/// A snapshot of a partition's state, published by its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// What this node does for it.
    pub role: ReplicaRole,
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// The leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The version of the partition's record.
    pub partition_epoch: PartitionEpoch,
    /// The high watermark.
    pub high_watermark: Offset,
    /// The log's first offset.
    pub log_start: Offset,
    /// The log end offset.
    pub log_end: Offset,
    /// The end of what is on stable storage here.
    pub durable_end: Offset,
    /// The committed in-sync set.
    pub isr: Vec<BrokerId>,
    /// Whether the committed in-sync set is under `min.insync.replicas`.
    pub under_min_isr: bool,
    /// The assigned replicas.
    pub replicas: Vec<BrokerId>,
    /// The followers, if this node leads.
    pub followers: Vec<ReplicaStatus>,
    /// Why the log is offline.
    pub offline_reason: Option<String>,
}
