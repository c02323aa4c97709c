//! The vocabulary of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    AlterPartitionProposal, BrokerId, LeaderEpoch, MonoTime, NodeEpoch, Offset, PartitionEpoch,
    PartitionId, RecordBatch,
};
use serde::{Deserialize, Serialize};

use super::purgatory::AckId;
use crate::error::ReplicationError;

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

impl PartitionStatus {
    /// The status of a log that could not be opened.
    #[cfg(feature = "tokio")]
    pub(crate) fn failed(partition: PartitionId, reason: &str) -> Self {
        Self {
            partition,
            role: ReplicaRole::Offline,
            leader: None,
            leader_epoch: LeaderEpoch::new(-1),
            partition_epoch: PartitionEpoch::new(-1),
            high_watermark: Offset::ZERO,
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            durable_end: Offset::ZERO,
            isr: Vec::new(),
            under_min_isr: false,
            replicas: Vec::new(),
            followers: Vec::new(),
            offline_reason: Some(reason.to_owned()),
        }
    }
}

/// Bounds and times of the core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) lag_max_time: Duration,
    pub(crate) max_pending_acks: usize,
    pub(crate) max_producers: usize,
    pub(crate) alter_retry: Duration,
    pub(crate) fetch_retry: Duration,
}

/// The brokers, as the metadata knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClusterView {
    /// Node epochs of the registered brokers.
    pub(crate) node_epochs: BTreeMap<BrokerId, NodeEpoch>,
    /// Brokers that are fenced or shutting down.
    pub(crate) ineligible: BTreeSet<BrokerId>,
}

impl ClusterView {
    /// Whether the broker may be in an in-sync set under this node epoch (KIP-841, KIP-903).
    pub(crate) fn is_eligible(&self, broker: BrokerId, node_epoch: NodeEpoch) -> bool {
        self.node_epochs.get(&broker) == Some(&node_epoch) && !self.ineligible.contains(&broker)
    }
}

/// A write that has been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) base: Offset,
    pub(crate) log_start: Offset,
}

/// What the core asks its driver to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Answer a write.
    Ack {
        id: AckId,
        result: Result<Acked, ReplicationError>,
    },
    /// Send a proposal to the controller.
    Alter(AlterPartitionProposal),
    /// The leader's log has grown: followers' long polls have something to read.
    Appended,
    /// The leader's high watermark has moved: consumers' long polls have something to read.
    HighWatermark,
    /// Role or leader epoch have changed: every long poll must be answered.
    RoleChanged,
    /// A follower's progress changed outside of a fetch: the leader should hear of it soon.
    Progress,
    /// There are bytes that should become durable.
    Flush,
}

/// A client's write as the core sees it.
#[derive(Debug)]
pub(crate) struct ProduceIn<'a> {
    pub(crate) id: AckId,
    pub(crate) batch: &'a RecordBatch,
    pub(crate) acks: Acks,
    pub(crate) deadline: MonoTime,
    /// Whether the controller session is good.
    pub(crate) contact: bool,
}

/// A follower's fetch of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplicaFetch {
    pub(crate) broker: BrokerId,
    pub(crate) node_epoch: NodeEpoch,
    pub(crate) session_epoch: u64,
    pub(crate) position: FetchPosition,
    pub(crate) max_bytes: usize,
}

/// Where a follower stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FetchPosition {
    /// The leader epoch in which it follows.
    pub(crate) leader_epoch: LeaderEpoch,
    /// The end of its log, from which it wants to read.
    pub(crate) fetch_offset: Offset,
    /// The end of what it has on stable storage.
    pub(crate) durable_end: Offset,
    /// The last entry of its epoch table.
    pub(crate) last_fetched_epoch: Option<LeaderEpoch>,
    /// Its log's first offset.
    pub(crate) log_start: Offset,
}

/// A leader's answer to a follower's fetch of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplicaFetched {
    /// The log matches up to the offset asked for; here is what follows.
    Data {
        high_watermark: Offset,
        log_start: Offset,
        bytes: Bytes,
    },
    /// The logs part: this is the leader's end of the greatest epoch not above the follower's last.
    Diverging { epoch: LeaderEpoch, end: Offset },
}

/// What a follower's fetch brought, as the follower sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchReply {
    /// The leader's answer.
    Fetched(ReplicaFetched),
    /// The offset lies outside the leader's log.
    OutOfRange { log_start: Offset, log_end: Offset },
    /// Anything else: try again later.
    Refused,
}
