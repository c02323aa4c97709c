//! Errors: those of the broker, which become Kafka's error codes, and those of the server itself.

use std::io;
use std::net::SocketAddr;

use kafka_protocol::ResponseError as Kafka;
use rivven_core_types::{BrokerId, LeaderEpoch};

/// A partition's leader, as a hint for the client (KIP-951).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    /// The leader.
    pub broker: BrokerId,
    /// Its leader epoch.
    pub epoch: LeaderEpoch,
}

/// Why the broker did not do what was asked.
///
/// [`BrokerError::code`] is the code in general. Each API answers only with codes that its clients take
/// well there, so a few are exchanged per API; see the functions below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No such topic or partition. Nothing changed; retriable, since the topic may be new.
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// This broker does not lead the partition. Nothing changed; retriable elsewhere.
    #[error("not the leader of the partition")]
    NotLeader {
        /// Who does, if this broker knows.
        leader: Option<CurrentLeader>,
    },
    /// The client's leader epoch is older than this broker's. Nothing changed; retriable.
    #[error("the leader epoch is older than the current one")]
    FencedLeaderEpoch {
        /// The current leader, if this broker knows.
        leader: Option<CurrentLeader>,
    },
    /// The client's leader epoch is newer than this broker's. Nothing changed; retriable.
    #[error("the leader epoch is newer than this broker knows")]
    UnknownLeaderEpoch,
    /// The partition has no leader. Nothing changed; retriable.
    #[error("the partition has no leader")]
    LeaderNotAvailable,
    /// The offset is truly outside the log: never for a follower that only lags.
    #[error("the offset is outside the log")]
    OffsetOutOfRange,
    /// A new leader's high watermark is not known yet (KIP-207). Retriable.
    #[error("the offset is not available yet")]
    OffsetNotAvailable,
    /// The ISR is smaller than `min.insync.replicas`. Nothing changed; retriable.
    #[error("fewer in-sync replicas than required")]
    NotEnoughReplicas,
    /// As before, but the batch has been appended. Retriable; the batch may be there twice then, unless
    /// the producer is idempotent.
    #[error("appended, but fewer in-sync replicas than required")]
    NotEnoughReplicasAfterAppend,
    /// Not done in the time given; it may still happen. Retriable.
    #[error("timed out")]
    TimedOut,
    /// The partition's disk failed. Retriable, once another broker leads.
    #[error("storage error")]
    Storage,
    /// The broker cannot do it now: starting, no controller, a queue is full. Nothing changed;
    /// retriable.
    #[error("temporarily unavailable")]
    Unavailable,
    /// The batch is longer than allowed. Nothing changed.
    #[error("the batch is too large")]
    MessageTooLarge,
    /// The batch breaks a rule. Nothing changed.
    #[error("invalid record")]
    InvalidRecord,
    /// The idempotent producer left a gap. Nothing changed.
    #[error("out of order sequence number")]
    OutOfOrderSequence,
    /// The batch is an old duplicate whose offset is not known any more. Nothing changed; it is stored.
    #[error("duplicate sequence number")]
    DuplicateSequence,
    /// A newer producer with this id exists. Nothing changed.
    #[error("invalid producer epoch")]
    InvalidProducerEpoch,
    /// No state of this producer is left. Nothing changed; it starts again with a new id.
    #[error("unknown producer id")]
    UnknownProducerId,
    /// The topic exists already. Nothing changed.
    #[error("the topic already exists")]
    TopicExists,
    /// The topic's name is not allowed. Nothing changed.
    #[error("invalid topic name")]
    InvalidTopic,
    /// The number of partitions is not allowed. Nothing changed.
    #[error("invalid number of partitions")]
    InvalidPartitions,
    /// The replication factor is not allowed, or there are too few brokers. Nothing changed.
    #[error("invalid replication factor")]
    InvalidReplicationFactor,
    /// The replicas chosen by the client are not allowed. Nothing changed.
    #[error("invalid replica assignment")]
    InvalidReplicaAssignment,
    /// A configuration entry is unknown or not allowed. Nothing changed.
    #[error("invalid configuration")]
    InvalidConfig,
    /// The request contradicts itself. Nothing changed.
    #[error("invalid request")]
    InvalidRequest,
    /// Not every broker runs a build that understands the request. Nothing changed.
    #[error("not before all brokers are upgraded")]
    UnsupportedVersion,
    /// This broker is not the controller and could not reach it. Nothing changed; retriable.
    #[error("not the controller")]
    NotController,
    /// The partition has a leader. Nothing changed.
    #[error("the partition has a leader")]
    ElectionNotNeeded,
    /// The preferred replica is not in sync, or not active. Nothing changed; retriable.
    #[error("the preferred leader is not available")]
    PreferredLeaderNotAvailable,
    /// The partition is not being reassigned. Nothing changed.
    #[error("no reassignment is in progress")]
    NoReassignmentInProgress,
    /// No replica that could lead is active. Nothing changed; retriable.
    #[error("no eligible replica is active")]
    EligibleLeadersNotAvailable,
    /// A limit of the cluster forbids it. Nothing changed.
    #[error("forbidden by policy")]
    PolicyViolation,
}

impl BrokerError {
    /// All errors, for tests that walk every response shape.
    #[cfg(test)]
    pub(crate) fn all(leader: Option<CurrentLeader>) -> Vec<Self> {
        vec![
            Self::UnknownPartition,
            Self::NotLeader { leader },
            Self::FencedLeaderEpoch { leader },
            Self::UnknownLeaderEpoch,
            Self::LeaderNotAvailable,
            Self::OffsetOutOfRange,
            Self::OffsetNotAvailable,
            Self::NotEnoughReplicas,
            Self::NotEnoughReplicasAfterAppend,
            Self::TimedOut,
            Self::Storage,
            Self::Unavailable,
            Self::MessageTooLarge,
            Self::InvalidRecord,
            Self::OutOfOrderSequence,
            Self::DuplicateSequence,
            Self::InvalidProducerEpoch,
            Self::UnknownProducerId,
            Self::TopicExists,
            Self::InvalidTopic,
            Self::InvalidPartitions,
            Self::InvalidReplicationFactor,
            Self::InvalidReplicaAssignment,
            Self::InvalidConfig,
            Self::InvalidRequest,
            Self::UnsupportedVersion,
            Self::NotController,
            Self::ElectionNotNeeded,
            Self::PreferredLeaderNotAvailable,
            Self::NoReassignmentInProgress,
            Self::EligibleLeadersNotAvailable,
            Self::PolicyViolation,
        ]
    }

    const fn kafka(self) -> Kafka {
        match self {
            Self::UnknownPartition => Kafka::UnknownTopicOrPartition,
            Self::NotLeader { .. } => Kafka::NotLeaderOrFollower,
            Self::FencedLeaderEpoch { .. } => Kafka::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch => Kafka::UnknownLeaderEpoch,
            Self::LeaderNotAvailable => Kafka::LeaderNotAvailable,
            Self::OffsetOutOfRange => Kafka::OffsetOutOfRange,
            Self::OffsetNotAvailable => Kafka::OffsetNotAvailable,
            Self::NotEnoughReplicas => Kafka::NotEnoughReplicas,
            Self::NotEnoughReplicasAfterAppend => Kafka::NotEnoughReplicasAfterAppend,
            Self::TimedOut | Self::Unavailable => Kafka::RequestTimedOut,
            Self::Storage => Kafka::KafkaStorageError,
            Self::MessageTooLarge => Kafka::MessageTooLarge,
            Self::InvalidRecord => Kafka::InvalidRecord,
            Self::OutOfOrderSequence => Kafka::OutOfOrderSequenceNumber,
            Self::DuplicateSequence => Kafka::DuplicateSequenceNumber,
            Self::InvalidProducerEpoch => Kafka::InvalidProducerEpoch,
            Self::UnknownProducerId => Kafka::UnknownProducerId,
            Self::TopicExists => Kafka::TopicAlreadyExists,
            Self::InvalidTopic => Kafka::InvalidTopicException,
            Self::InvalidPartitions => Kafka::InvalidPartitions,
            Self::InvalidReplicationFactor => Kafka::InvalidReplicationFactor,
            Self::InvalidReplicaAssignment => Kafka::InvalidReplicaAssignment,
            Self::InvalidConfig => Kafka::InvalidConfig,
            Self::InvalidRequest => Kafka::InvalidRequest,
            Self::UnsupportedVersion => Kafka::UnsupportedVersion,
            Self::NotController => Kafka::NotController,
            Self::ElectionNotNeeded => Kafka::ElectionNotNeeded,
            Self::PreferredLeaderNotAvailable => Kafka::PreferredLeaderNotAvailable,
            Self::NoReassignmentInProgress => Kafka::NoReassignmentInProgress,
            Self::EligibleLeadersNotAvailable => Kafka::EligibleLeadersNotAvailable,
            Self::PolicyViolation => Kafka::PolicyViolation,
        }
    }

    /// Kafka's code for the error in general.
    pub const fn code(self) -> i16 {
        self.kafka().code()
    }

    /// Whether the same request may succeed later, here or at another broker.
    pub const fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::UnknownPartition
                | Self::NotLeader { .. }
                | Self::FencedLeaderEpoch { .. }
                | Self::UnknownLeaderEpoch
                | Self::LeaderNotAvailable
                | Self::OffsetNotAvailable
                | Self::NotEnoughReplicas
                | Self::NotEnoughReplicasAfterAppend
                | Self::TimedOut
                | Self::Storage
                | Self::Unavailable
                | Self::NotController
                | Self::PreferredLeaderNotAvailable
                | Self::EligibleLeadersNotAvailable
        )
    }

    /// The leader to name to the client, if the error carries one.
    pub const fn current_leader(self) -> Option<CurrentLeader> {
        if let Self::NotLeader { leader } | Self::FencedLeaderEpoch { leader } = self {
            leader
        } else {
            None
        }
    }

    /// In a Produce response every "not the leader" is code 6: librdkafka fails the delivery on 74, and
    /// an idempotent producer dies of it.
    pub(crate) const fn produce_code(self) -> i16 {
        if matches!(
            self,
            Self::NotLeader { .. }
                | Self::FencedLeaderEpoch { .. }
                | Self::UnknownLeaderEpoch
                | Self::LeaderNotAvailable
                | Self::NotController
                | Self::OffsetNotAvailable
        ) {
            return Kafka::NotLeaderOrFollower.code();
        }
        self.code()
    }

    /// In a Fetch response whatever else is temporary is code 56: clients retry it silently, whereas 7
    /// and 76 reach the application. An unknown partition asked for by topic id is code 100.
    pub(crate) const fn fetch_code(self, by_id: bool) -> i16 {
        if by_id && matches!(self, Self::UnknownPartition) {
            return Kafka::UnknownTopicId.code();
        }
        if matches!(
            self,
            Self::LeaderNotAvailable | Self::OffsetNotAvailable | Self::NotController
        ) {
            return Kafka::NotLeaderOrFollower.code();
        }
        if matches!(
            self,
            Self::UnknownPartition
                | Self::NotLeader { .. }
                | Self::FencedLeaderEpoch { .. }
                | Self::UnknownLeaderEpoch
                | Self::OffsetOutOfRange
        ) {
            return self.code();
        }
        Kafka::KafkaStorageError.code()
    }

    /// In a ListOffsets response before version 5 code 78 is not known (KIP-207), before 4 the epoch
    /// codes are not; whatever is temporary without being a matter of storage is code 5.
    pub(crate) const fn list_offsets_code(self, version: i16) -> i16 {
        let epoch = matches!(
            self,
            Self::FencedLeaderEpoch { .. } | Self::UnknownLeaderEpoch
        );
        if epoch && version < 4 {
            return Kafka::NotLeaderOrFollower.code();
        }
        let early = matches!(self, Self::OffsetNotAvailable) && version < 5;
        if early
            || matches!(
                self,
                Self::TimedOut | Self::Unavailable | Self::NotController
            )
        {
            return Kafka::LeaderNotAvailable.code();
        }
        self.code()
    }

    /// InitProducerId without a transactional id may go to any broker, so it never answers 15 or 16
    /// (kafka-python hangs on them): whatever fails is "loading", which every client retries.
    pub(crate) const INIT_PRODUCER_ID_CODE: i16 = Kafka::CoordinatorLoadInProgress.code();
}

/// Why the server could not be started. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// Another process listens there. Retrying helps once it has gone.
    #[error(
        "the Kafka address {addr} is already in use; choose another client_addr or stop its owner"
    )]
    AddressInUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on the Kafka address {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A configuration value is not allowed.
    #[error("kafka.{field}: {reason}")]
    Config {
        /// Which value.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}
