//! What callers of the manager pass in and get back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    AlterPartitionOutcome, AlterPartitionProposal, BoxFuture, BrokerId, Clock, LeaderEpoch,
    LogConfig, LogStore, NodeEpoch, NodeName, Offset, PartitionId, PartitionState, PeerRpc,
    RecordBatch, SharedIoExecutor, TopicId,
};

use crate::core::Acks;
use crate::error::ReplicationError;

/// Why the controller could not be asked. It may or may not have executed the proposals; they are
/// sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the controller is unavailable: {reason}")]
pub struct ControllerError {
    /// What failed.
    pub reason: String,
}

/// Port: proposes in-sync sets to the controller (KIP-497). The implementer adds this broker's id
/// and node epoch and finds the controller.
pub trait PartitionController: Send + Sync + 'static {
    /// Sends `proposals` in one request; one outcome per proposal. An outcome that is missing counts
    /// as "not known", and its proposal is sent again.
    fn alter_partitions(
        &self,
        proposals: Vec<AlterPartitionProposal>,
    ) -> BoxFuture<'static, Result<Vec<AlterPartitionOutcome>, ControllerError>>;
}

/// What the manager needs of its surroundings.
#[derive(Clone)]
pub struct ReplicationPorts {
    /// The partition logs of this node.
    pub logs: Arc<dyn LogStore>,
    /// Calls to partition leaders.
    pub rpc: Arc<dyn PeerRpc>,
    /// The controller.
    pub controller: Arc<dyn PartitionController>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Runs each shard loop. The loop blocks in file reads and writes, never in fsync.
    pub shards: SharedIoExecutor,
    /// Runs the loop that calls fsync.
    pub flusher: SharedIoExecutor,
}

impl std::fmt::Debug for ReplicationPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationPorts")
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}

/// This broker, as the metadata knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalBroker {
    /// Its id.
    pub id: BrokerId,
    /// The epoch of its registration.
    pub node_epoch: NodeEpoch,
}

/// A change of the cluster metadata, as far as replication is concerned. Applying one twice, or an
/// older one after a newer one, changes nothing.
#[derive(Debug, Clone)]
pub struct MetadataUpdate {
    /// This broker.
    pub local: LocalBroker,
    /// All registered brokers (the whole table, not the change): name and node epoch.
    pub brokers: BTreeMap<BrokerId, (NodeName, NodeEpoch)>,
    /// The brokers that are fenced or shutting down now (the whole set): none of them is proposed
    /// for an in-sync set or holds the high watermark back from outside it (KIP-841, KAFKA-15021).
    pub ineligible: BTreeSet<BrokerId>,
    /// The partitions whose records changed. A record without this broker among its replicas removes
    /// the local replica and its log.
    pub changed: Vec<PartitionState>,
    /// How the records of the topics of `changed` are kept; the defaults for a topic that is missing.
    pub log_configs: BTreeMap<TopicId, LogConfig>,
    /// The partitions that are deleted: their logs are removed.
    pub removed: Vec<PartitionId>,
}

/// A log found on disk before registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLog {
    /// The partition.
    pub partition: PartitionId,
    /// Bytes of a torn tail that were cut off; not zero means that the broker must register as lossy.
    pub cut_bytes: u64,
    /// The last entry of the epoch table.
    pub last_epoch: Option<LeaderEpoch>,
    /// The log end offset.
    pub log_end: Offset,
    /// Why the log could not be opened; the replica is offline, which counts as lossy too.
    pub failed: Option<String>,
}

/// A write.
#[derive(Debug, Clone)]
pub struct Produce {
    /// The partition.
    pub partition: PartitionId,
    /// One batch, verified by the caller.
    pub batch: RecordBatch,
    /// Which acknowledgement to wait for.
    pub acks: Acks,
    /// How long to wait for it.
    pub timeout: Duration,
}

/// Where a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the first record; of the original write if this one was a duplicate.
    pub base_offset: Offset,
    /// The log's first offset.
    pub log_start: Offset,
}

/// A consumer's read of several partitions.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// What to read, in order of preference.
    pub partitions: Vec<FetchPartition>,
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// How many record bytes end the wait.
    pub min_bytes: usize,
    /// Most record bytes in all; the first batch is returned even if it is longer.
    pub max_bytes: usize,
}

/// A consumer's read of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset wanted.
    pub offset: Offset,
    /// The leader epoch that the consumer knows (KIP-320).
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// Most record bytes of this partition.
    pub max_bytes: usize,
}

/// A consumer's answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition {
    /// The partition.
    pub partition: PartitionId,
    /// What was read.
    pub result: Result<Fetched, ReplicationError>,
}

/// Records of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The log's first offset.
    pub log_start: Offset,
    /// Whole record batches; the first may begin before the offset asked for.
    pub bytes: Bytes,
}
