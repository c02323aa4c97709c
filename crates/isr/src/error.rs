//! Every way in which replication refuses or fails.

use std::time::Duration;

use rivven_core_types::{
    BrokerId, LeaderEpoch, LogError, NodeEpoch, Offset, PartitionId, ProducerEpoch,
};

/// Why a replication call failed.
///
/// Each variant says whether the log may have changed, and maps to one Kafka error code
/// ([`ReplicationError::kafka_code`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicationError {
    /// The partition has no replica here. Nothing changed; retriable after a metadata refresh.
    #[error("partition {partition} has no replica on this node")]
    UnknownPartition {
        /// The partition.
        partition: PartitionId,
    },
    /// This node does not lead the partition. Before the append nothing changed; a write that was
    /// waiting for its acknowledgement when leadership ended may still commit. Retriable at the
    /// leader.
    #[error("not the leader of the partition (leader: {leader_hint:?})")]
    NotLeader {
        /// The leader, if it is known.
        leader_hint: Option<BrokerId>,
    },
    /// The leader has lost its controller, so that another leader may exist: writes with acks 0 or 1
    /// and reads of the latest offset are refused. Nothing changed; retriable.
    #[error("the leader has lost contact with the controller")]
    ControllerContactLost,
    /// The in-sync set is smaller than `min.insync.replicas`; refused before the append. Nothing
    /// changed; retriable.
    #[error("{in_sync} in-sync replicas; acks=all needs {required}")]
    NotEnoughReplicas {
        /// Members of the committed in-sync set.
        in_sync: usize,
        /// Members needed.
        required: usize,
    },
    /// The in-sync set fell under `min.insync.replicas` after the append. The record is in the log
    /// and may commit later; retriable (an idempotent producer's retry is deduplicated).
    #[error("only {in_sync} in-sync replicas are left after the append; acks=all needs {required}")]
    NotEnoughReplicasAfterAppend {
        /// Members of the committed in-sync set.
        in_sync: usize,
        /// Members needed.
        required: usize,
    },
    /// The producer's sequence number does not continue its last (KIP-98). Nothing changed;
    /// retriable once the batch before it is in.
    #[error("sequence {found} does not continue the producer's last; expected {expected}")]
    OutOfOrderSequence {
        /// The sequence expected.
        expected: i32,
        /// The sequence found.
        found: i32,
    },
    /// A newer epoch of this producer has written already (KIP-98, KIP-360). Nothing changed; not
    /// retriable.
    #[error("producer epoch {found} is lower than the current {current}")]
    InvalidProducerEpoch {
        /// The current epoch.
        current: ProducerEpoch,
        /// The epoch found.
        found: ProducerEpoch,
    },
    /// The offset lies outside the log. Nothing changed; the caller must choose another offset.
    #[error("offset {requested} is outside {log_start}..={log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// The log's first offset.
        log_start: Offset,
        /// The end up to which may be read.
        log_end: Offset,
    },
    /// A new leader does not know yet how far the log is committed (KIP-207). Nothing changed;
    /// retriable.
    #[error("the high watermark of the new leader epoch is not known yet")]
    OffsetNotAvailable,
    /// The caller's leader epoch is older than the leader's (KIP-320). Nothing changed; retriable
    /// after a metadata refresh.
    #[error("leader epoch {requested} is fenced by {current}")]
    FencedLeaderEpoch {
        /// The leader's epoch.
        current: LeaderEpoch,
        /// The epoch in the request.
        requested: LeaderEpoch,
    },
    /// The caller's leader epoch is newer than this node's metadata (KIP-320). Nothing changed;
    /// retriable.
    #[error("leader epoch {requested} is not known yet; this node is at {current}")]
    UnknownLeaderEpoch {
        /// This node's epoch.
        current: LeaderEpoch,
        /// The epoch in the request.
        requested: LeaderEpoch,
    },
    /// The fetching broker is not an assigned replica. Nothing changed; retriable while metadata
    /// spreads.
    #[error("broker {broker} is not an assigned replica")]
    UnknownReplica {
        /// The broker.
        broker: BrokerId,
    },
    /// The fetch comes from another life of the broker than the one in the metadata (KIP-903).
    /// Nothing changed; retriable once the metadata agrees.
    #[error("broker {broker} fetched under node epoch {found:?}; the metadata says {expected:?}")]
    StaleNodeEpoch {
        /// The broker.
        broker: BrokerId,
        /// The epoch in this node's metadata, if the broker is known.
        expected: Option<NodeEpoch>,
        /// The epoch in the request.
        found: NodeEpoch,
    },
    /// The request contradicts itself. Nothing changed; not retriable.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    /// The acknowledgement did not come in time. The record is in the log and may commit; retriable
    /// for an idempotent producer.
    #[error("not acknowledged within {waited:?}")]
    RequestTimedOut {
        /// How long the call waited.
        waited: Duration,
    },
    /// A queue is at its bound. Nothing changed; retry later.
    #[error("the {queue} queue is full")]
    Overloaded {
        /// Which queue.
        queue: &'static str,
    },
    /// The partition's log is offline: its disk failed or its bytes are corrupt (fail-stop). A write
    /// that was waiting may or may not be stored; retriable at another leader.
    #[error("the log of the partition is offline: {reason}")]
    LogUnavailable {
        /// What failed.
        reason: String,
    },
    /// The offsets of the partition are used up. Nothing changed; not retriable.
    #[error("no offsets are left in the partition")]
    OffsetsExhausted,
    /// A configuration value is out of range. Nothing changed; mend the configuration.
    #[error("replication config: {field} {problem}")]
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: &'static str,
    },
    /// The manager is shutting down. A write that was waiting may be stored; retriable elsewhere.
    #[error("replication is shutting down")]
    Shutdown,
}

impl ReplicationError {
    /// The error code of the Kafka protocol that a client gets.
    pub const fn kafka_code(&self) -> i16 {
        match self {
            Self::OffsetOutOfRange { .. } => 1,
            Self::UnknownPartition { .. } => 3,
            Self::NotLeader { .. } | Self::ControllerContactLost | Self::Shutdown => 6,
            // Kafka has no code for a full queue; this one makes every client back off and retry.
            Self::RequestTimedOut { .. } | Self::Overloaded { .. } => 7,
            Self::UnknownReplica { .. } => 9,
            Self::NotEnoughReplicas { .. } => 19,
            Self::NotEnoughReplicasAfterAppend { .. } => 20,
            Self::InvalidRequest(_) => 42,
            Self::OutOfOrderSequence { .. } => 45,
            Self::InvalidProducerEpoch { .. } => 47,
            Self::LogUnavailable { .. } | Self::OffsetsExhausted => 56,
            Self::FencedLeaderEpoch { .. } => 74,
            Self::UnknownLeaderEpoch { .. } => 75,
            Self::StaleNodeEpoch { .. } => 77,
            Self::OffsetNotAvailable => 78,
            Self::InvalidConfig { .. } => 40,
        }
    }

    /// Whether the same call may succeed later, here or at the leader.
    pub const fn is_retriable(&self) -> bool {
        !matches!(
            self,
            Self::OffsetOutOfRange { .. }
                | Self::InvalidRequest(_)
                | Self::InvalidProducerEpoch { .. }
                | Self::OffsetsExhausted
                | Self::InvalidConfig { .. }
        )
    }

    /// Whether the record may be in the log although the call failed: only an idempotent producer
    /// may repeat such a write without risking a duplicate.
    pub const fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. }
                | Self::NotEnoughReplicasAfterAppend { .. }
                | Self::RequestTimedOut { .. }
                | Self::LogUnavailable { .. }
                | Self::Shutdown
        )
    }

    /// The error of an offline log.
    pub(crate) fn from_log(error: &LogError) -> Self {
        match error {
            LogError::OutOfRange {
                requested,
                start,
                end,
            } => Self::OffsetOutOfRange {
                requested: *requested,
                log_start: *start,
                log_end: *end,
            },
            LogError::OffsetsExhausted { .. } => Self::OffsetsExhausted,
            LogError::NotContiguous { .. } => {
                Self::InvalidRequest("the batch does not continue the log")
            }
            LogError::EpochRegression { .. } => {
                Self::InvalidRequest("the batch's leader epoch is lower than the log's last")
            }
            LogError::Corrupt { .. } | LogError::Io(_) => Self::LogUnavailable {
                reason: error.to_string(),
            },
            // The enum is non-exhaustive: what is not known is not safe to go on with.
            other => Self::LogUnavailable {
                reason: other.to_string(),
            },
        }
    }
}
