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
    /// Bytes of the batches that the log holds here.
    pub size_bytes: u64,
    /// The last entry of the log's epoch table.
    pub last_epoch: Option<LeaderEpoch>,
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
    /// The log is offline because stored bytes are wrong, not because the disk failed: once another
    /// replica leads and nobody counts on this one, it is made anew from there.
    pub corrupt: bool,
}

impl PartitionStatus {
    /// The status of a log that could not be opened.
    pub fn failed(partition: PartitionId, reason: &str, corrupt: bool) -> Self {
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
            size_bytes: 0,
            last_epoch: None,
            isr: Vec::new(),
            under_min_isr: false,
            replicas: Vec::new(),
            followers: Vec::new(),
            offline_reason: Some(reason.to_owned()),
            corrupt,
        }
    }
}

/// Bounds and times of the core.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a member may stay behind before it leaves the in-sync set.
    pub lag_max_time: Duration,
    /// Most writes that wait for their acknowledgement.
    pub max_pending_acks: usize,
    /// Most idempotent producers remembered.
    pub max_producers: usize,
    /// Pause before a proposal is sent again.
    pub alter_retry: Duration,
    /// Pause of a follower after a refused fetch.
    pub fetch_retry: Duration,
}

/// The brokers, as the metadata knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Node epochs of the registered brokers.
    pub node_epochs: BTreeMap<BrokerId, NodeEpoch>,
    /// Brokers that are fenced or shutting down.
    pub ineligible: BTreeSet<BrokerId>,
}

impl ClusterView {
    /// Whether the broker may be in an in-sync set under this node epoch (KIP-841, KIP-903).
    pub fn is_eligible(&self, broker: BrokerId, node_epoch: NodeEpoch) -> bool {
        self.node_epochs.get(&broker) == Some(&node_epoch) && !self.ineligible.contains(&broker)
    }
}

/// A write that has been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Offset of its first record.
    pub base: Offset,
    /// The log's first offset.
    pub log_start: Offset,
}

/// What the core asks its driver to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Answer a write.
    Ack {
        /// The handle given with the write.
        id: AckId,
        /// Where it went, or why not.
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
    /// A follower outside the in-sync set may be fit to join: it should say anew where it stands.
    Restate,
    /// A follower's progress changed outside of a fetch: the leader should hear of it soon.
    Progress,
    /// There are bytes that should become durable: somebody waits for it.
    Flush,
    /// There are bytes that should become durable some time: nobody waits for it.
    FlushLater,
}

/// A client's write as the core sees it.
#[derive(Debug)]
pub struct ProduceIn<'a> {
    /// The caller's handle, which comes back with the answer.
    pub id: AckId,
    /// The batch, verified by the caller.
    pub batch: &'a RecordBatch,
    /// Which acknowledgement it waits for.
    pub acks: Acks,
    /// When it stops waiting.
    pub deadline: MonoTime,
    /// Whether the controller session is good.
    pub contact: bool,
}

/// A flush that has run.
#[derive(Debug)]
pub struct Flushed {
    /// The log end when it began.
    pub end: Offset,
    /// The log's generation when it began.
    pub generation: u64,
    /// What came of it.
    pub result: std::io::Result<()>,
}

/// A follower's fetch of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaFetch {
    /// The follower, as the handshake proved it.
    pub broker: BrokerId,
    /// The life of the broker that fetches.
    pub node_epoch: NodeEpoch,
    /// Grows with every fetch of that life.
    pub session_epoch: u64,
    /// Where it stands.
    pub position: FetchPosition,
    /// Most record bytes; 0 only reports progress.
    pub max_bytes: usize,
}

/// Where a follower stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPosition {
    /// The leader epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// The end of its log, from which it wants to read.
    pub fetch_offset: Offset,
    /// The end of what it has on stable storage.
    pub durable_end: Offset,
    /// The last entry of its epoch table.
    pub last_fetched_epoch: Option<LeaderEpoch>,
    /// Its log's first offset.
    pub log_start: Offset,
}

/// A leader's answer to a follower's fetch of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaFetched {
    /// The log matches up to the offset asked for; here is what follows.
    Data {
        /// The leader's high watermark.
        high_watermark: Offset,
        /// The leader's log start.
        log_start: Offset,
        /// Whole batches from the offset asked for.
        bytes: Bytes,
    },
    /// The logs part: this is the leader's end of the greatest epoch not above the follower's last.
    Diverging {
        /// That epoch.
        epoch: LeaderEpoch,
        /// Its exclusive end at the leader.
        end: Offset,
    },
}

/// What a follower's fetch brought, as the follower sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchReply {
    /// The leader's answer.
    Fetched(ReplicaFetched),
    /// The offset lies outside the leader's log.
    OutOfRange {
        /// The leader's log start.
        log_start: Offset,
        /// The leader's log end.
        log_end: Offset,
    },
    /// Anything else: try again later.
    Refused,
}
