//! The cluster's record of a partition, and the proposal by which its leader changes the ISR: shared
//! by the metadata state machine (which decides) and the replication core (which obeys).

use serde::{Deserialize, Serialize};

use crate::epochs::{LeaderEpoch, NodeEpoch, PartitionEpoch};
use crate::ids::{BrokerId, PartitionId};

/// When a record counts as stored by a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Durability {
    /// On stable storage: offsets count up to the durable end.
    #[default]
    Fsync,
    /// In the page cache, as Kafka does: offsets count up to the log end.
    Replicated,
}

/// How long a topic's records are kept, and in which pieces.
///
/// Records go by whole segments, and only committed ones. By default nothing goes: what nobody asked
/// to delete is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// `retention.ms`: a segment goes once its newest record is older than this; `None` keeps it.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: the oldest segments go while the rest of the partition is still as long as
    /// this; `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`: a segment is closed before it would grow beyond this.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is closed once its first record is older than this, so that a trickle
    /// of records does not keep old ones for ever.
    pub segment_ms: u64,
}

impl LogConfig {
    /// Least `segment.bytes`.
    pub const MIN_SEGMENT_BYTES: u64 = 1024 * 1024;
    /// Greatest `segment.bytes` (Kafka's, whose type it has).
    pub const MAX_SEGMENT_BYTES: u64 = 2_147_483_647;
    /// Least `segment.ms`.
    pub const MIN_SEGMENT_MS: u64 = 1_000;

    /// The first setting that is out of range, by its Kafka name, with the range.
    pub fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let most = i64::MAX.unsigned_abs();
        let beyond = |value: Option<u64>| value.is_some_and(|value| value > most);
        let segments = Self::MIN_SEGMENT_BYTES..=Self::MAX_SEGMENT_BYTES;
        if !segments.contains(&self.segment_bytes) {
            Some(("segment.bytes", "1048576..=2147483647"))
        } else if !(Self::MIN_SEGMENT_MS..=most).contains(&self.segment_ms) {
            Some(("segment.ms", "1000..=9223372036854775807"))
        } else if beyond(self.retention_ms) {
            Some(("retention.ms", "-1..=9223372036854775807"))
        } else if beyond(self.retention_bytes) {
            Some(("retention.bytes", "-1..=9223372036854775807"))
        } else {
            None
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            retention_ms: None,
            retention_bytes: None,
            segment_bytes: 256 << 20,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
        }
    }
}

/// Whether the partition has recovered from an unclean election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RecoveryState {
    /// No records are known to be missing.
    #[default]
    Recovered,
    /// An unclean leader was elected and has not finished recovery; the ISR is that leader alone.
    Recovering,
}

/// A broker as the controller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FencedState {
    /// May lead and be in an ISR.
    Active,
    /// Session lost or not yet caught up with the metadata.
    Fenced,
    /// Is handing its leaderships over (KIP-841).
    ShuttingDown,
    /// An operator has removed it. This life of its data directory never comes back; another one may
    /// register under its name and takes its number and its replicas over.
    Removed,
}

/// One partition in the cluster metadata.
///
/// Invariants (asserted by the metadata state machine after every command):
/// - `isr`, `elr` and the leader are among `replicas`; no list has duplicates; `isr` and `elr` are
///   disjoint;
/// - a leader is in the ISR;
/// - `leader_epoch` grows with every change of leader, `partition_epoch` with every change at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Which partition.
    pub id: PartitionId,
    /// Assigned replicas; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas: each holds every committed record.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): left the ISR while it was under min ISR, hold every
    /// committed record still.
    pub elr: Vec<BrokerId>,
    /// Members of the ISR when it last had one, for recovery when nobody electable is left.
    pub last_known_isr: Vec<BrokerId>,
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// Grows with every change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this record.
    pub partition_epoch: PartitionEpoch,
    /// State of recovery from an unclean election.
    pub recovery: RecoveryState,
    /// `min.insync.replicas` of the topic; while a reassignment is under way at most the number of replicas
    /// that the partition had before.
    pub min_isr: u32,
    /// When a record counts as stored.
    pub durability: Durability,
}

impl PartitionState {
    /// The number of in-sync replicas below which nothing commits: `min(min_isr, replicas)`.
    pub fn effective_min_isr(&self) -> usize {
        usize::try_from(self.min_isr)
            .unwrap_or(usize::MAX)
            .min(self.replicas.len())
            .max(1)
    }

    /// Whether the committed ISR is too small for anything to commit.
    pub fn is_under_min_isr(&self) -> bool {
        self.isr.len() < self.effective_min_isr()
    }

    /// Whether `broker` is an assigned replica.
    pub fn is_replica(&self, broker: BrokerId) -> bool {
        self.replicas.contains(&broker)
    }
}

/// A replica as a leader proposes it for the ISR: with the epoch under which it fetched, so that an
/// earlier life of the same broker is never let in (KIP-903).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    /// The broker.
    pub broker: BrokerId,
    /// The node epoch of its fetches.
    pub node_epoch: NodeEpoch,
}

/// A leader's proposal of a new ISR for one partition (KIP-497).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartitionProposal {
    /// Which partition.
    pub partition: PartitionId,
    /// The leader epoch in which it is proposed.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch on which it builds.
    pub partition_epoch: PartitionEpoch,
    /// The whole new ISR.
    pub new_isr: Vec<IsrMember>,
    /// The new recovery state.
    pub recovery: RecoveryState,
}

/// The controller's answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartitionOutcome {
    /// Which partition.
    pub partition: PartitionId,
    /// The partition's new record, or why nothing changed.
    pub result: Result<PartitionState, AlterPartitionError>,
}

/// Why an ISR proposal was refused. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AlterPartitionError {
    /// No such partition. The leader waits for newer metadata.
    #[error("unknown partition")]
    UnknownPartition,
    /// The proposal's epochs are ahead of this controller's state: it is not the controller any more
    /// (KAFKA-14154). Retry at the controller.
    #[error("not the controller")]
    NotController,
    /// A newer leader epoch exists. The sender is no longer the leader; it waits for metadata.
    #[error("fenced by a newer leader epoch")]
    FencedLeaderEpoch,
    /// The partition has changed since. The leader waits for metadata and proposes again.
    #[error("the partition epoch is not current")]
    InvalidUpdateVersion,
    /// A proposed member is fenced, shutting down, unknown or of an earlier life (KIP-841, KIP-903).
    /// The leader goes back to the last committed ISR.
    #[error("a proposed replica is not eligible")]
    IneligibleReplica,
    /// The sender does not lead the partition, or the proposal is not a set of its replicas with the
    /// leader in it.
    #[error("invalid request")]
    InvalidRequest,
    /// The sender's own node epoch is not current: it must register again.
    #[error("stale node epoch")]
    StaleNodeEpoch,
}
