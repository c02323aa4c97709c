//! Why a command was refused.

use serde::{Deserialize, Serialize};

use crate::levels::{LevelRange, MetadataLevel};

use rivven_core_types::{
    BrokerId, ClusterId, NodeEpoch, PartitionEpoch, PartitionId, RaftNodeId, TopicName,
};

/// Why a command was refused. The state is as it was before; [`Rejection::is_retriable`] says
/// whether the same request may succeed later. The docs name the Kafka error it maps to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rejection {
    /// The cluster has no id yet. Retriable. (COORDINATOR_NOT_AVAILABLE)
    #[error("the cluster is not formed yet")]
    NotFormed,
    /// The cluster bears another id. (INCONSISTENT_CLUSTER_ID)
    #[error("this cluster is {ours}, not {theirs}")]
    ForeignCluster {
        /// The id this cluster bears.
        ours: ClusterId,
        /// The id asked for.
        theirs: ClusterId,
    },
    /// No such broker. (BROKER_ID_NOT_REGISTERED; INVALID_REPLICA_ASSIGNMENT in CreateTopics)
    #[error("unknown broker {broker}")]
    UnknownBroker {
        /// The broker asked for.
        broker: BrokerId,
    },
    /// The request is from another life of the broker. It must register again. (STALE_BROKER_EPOCH)
    #[error("node epoch {found} of broker {broker} is not its current one, {current}")]
    StaleNodeEpoch {
        /// The broker.
        broker: BrokerId,
        /// The epoch in the request.
        found: NodeEpoch,
        /// The broker's current epoch.
        current: NodeEpoch,
    },
    /// The broker has asked to stop and cannot come back in this life: it must register again.
    /// (STALE_BROKER_EPOCH)
    #[error("broker {broker} is shutting down; it must register again")]
    BrokerShuttingDown {
        /// The broker.
        broker: BrokerId,
    },
    /// Another broker, or another life of this one, has this Raft id. (DUPLICATE_BROKER_REGISTRATION)
    #[error("raft id {raft_id} belongs to broker {owner} in another life")]
    RaftIdInUse {
        /// The id.
        raft_id: RaftNodeId,
        /// Who has it.
        owner: BrokerId,
    },
    /// No more brokers fit. (POLICY_VIOLATION)
    #[error("the cluster has had {max} brokers already, which is the limit")]
    TooManyBrokers {
        /// The limit.
        max: u32,
    },
    /// A topic of that name exists. (TOPIC_ALREADY_EXISTS)
    #[error("topic {name} exists already")]
    TopicExists {
        /// The name.
        name: TopicName,
    },
    /// The topic id was used already: draw another. (TOPIC_ALREADY_EXISTS)
    #[error("the topic id is in use by topic {name}")]
    TopicIdExists {
        /// The topic that has the id.
        name: TopicName,
    },
    /// No such topic. (UNKNOWN_TOPIC_OR_PARTITION)
    #[error("unknown topic {name}")]
    UnknownTopic {
        /// The name asked for.
        name: TopicName,
    },
    /// No such partition. (UNKNOWN_TOPIC_OR_PARTITION)
    #[error("unknown partition {partition}")]
    UnknownPartition {
        /// The partition asked for.
        partition: PartitionId,
    },
    /// Too few or too many partitions. (INVALID_PARTITIONS)
    #[error("{found} partitions are out of range 1..={max}")]
    InvalidPartitionCount {
        /// How many were asked for.
        found: u32,
        /// How many more fit.
        max: u32,
    },
    /// Too few or too many replicas, or not the same number in every partition.
    /// (INVALID_REPLICATION_FACTOR)
    #[error(
        "partition {index} has {found} replicas; every partition needs {expected}, in 1..={max}"
    )]
    InvalidReplicationFactor {
        /// The partition's index.
        index: u32,
        /// Its number of replicas.
        found: u32,
        /// The number of replicas of partition 0.
        expected: u32,
        /// The limit.
        max: u32,
    },
    /// A broker is named twice in one partition. (INVALID_REPLICA_ASSIGNMENT)
    #[error("partition {index} names broker {broker} twice")]
    DuplicateReplica {
        /// The partition's index.
        index: u32,
        /// The broker.
        broker: BrokerId,
    },
    /// None of the replicas is active. Retriable. (INVALID_REPLICA_ASSIGNMENT in CreateTopics,
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE in elections)
    #[error("no replica of partition {index} is active")]
    NoActiveReplica {
        /// The partition's index.
        index: u32,
    },
    /// `min.insync.replicas` lies outside 1 to the replication factor. (INVALID_CONFIG)
    #[error("min.insync.replicas {found} is out of range 1..={replication_factor}")]
    InvalidMinIsr {
        /// The number asked for.
        found: u32,
        /// The replication factor.
        replication_factor: u32,
    },
    /// Too many items in one request. (INVALID_REQUEST)
    #[error("{found} items in one request; at most {max} are allowed")]
    TooManyItems {
        /// How many were sent.
        found: u32,
        /// The limit.
        max: u32,
    },
    /// All producer ids are used up. (UNKNOWN_SERVER_ERROR)
    #[error("no producer ids are left")]
    ProducerIdsExhausted,
    /// The partition has changed since the request was made. Retriable with fresh claims.
    /// (INVALID_UPDATE_VERSION)
    #[error("partition epoch {found} is not the current one, {current}")]
    StalePartitionEpoch {
        /// The epoch in the request.
        found: PartitionEpoch,
        /// The current epoch.
        current: PartitionEpoch,
    },
    /// The partition has a leader. (ELECTION_NOT_NEEDED)
    #[error("the partition is led by broker {leader}")]
    ElectionNotNeeded {
        /// Its leader.
        leader: BrokerId,
    },
    /// A replica that holds all committed records may still come back: wait for it, or ask for an
    /// unclean election. Retriable. (ELIGIBLE_LEADERS_NOT_AVAILABLE)
    #[error("broker {broker} holds every committed record and is awaited")]
    AwaitingEligibleReplica {
        /// The first such replica.
        broker: BrokerId,
    },
    /// A replica that must report has not, or is not active. Retriable.
    /// (ELIGIBLE_LEADERS_NOT_AVAILABLE)
    #[error("no valid claim of broker {broker}, which must report")]
    MissingClaim {
        /// The replica.
        broker: BrokerId,
    },
    /// A claim is of a broker that is no replica, or there are two of one broker. (INVALID_REQUEST)
    #[error("invalid claim of broker {broker}")]
    InvalidClaim {
        /// The broker.
        broker: BrokerId,
    },
    /// An epoch or the log index has reached the end of its range. (UNKNOWN_SERVER_ERROR)
    #[error("an epoch has reached the end of its range")]
    EpochsExhausted,
    /// An operator has removed this life of the broker. It never comes back. (STALE_BROKER_EPOCH)
    #[error("broker {broker} was removed from the cluster with this data directory")]
    BrokerRemoved {
        /// The broker.
        broker: BrokerId,
    },
    /// The broker serves and holds replicas, so that it cannot be removed. (INVALID_REQUEST)
    #[error(
        "broker {broker} is active and holds {replicas} replicas: stop it, or move them away first"
    )]
    BrokerInUse {
        /// The broker.
        broker: BrokerId,
        /// How many.
        replicas: u32,
    },
    /// No other electable replica holds the records of a partition. (INVALID_REQUEST)
    #[error(
        "without broker {broker} partition {partition} has no electable replica: records would be lost"
    )]
    LastElectableReplica {
        /// The broker.
        broker: BrokerId,
        /// The first such partition.
        partition: PartitionId,
    },
    /// A setting of a topic is out of range. (INVALID_CONFIG)
    #[error("{key} is out of range {range}")]
    InvalidTopicConfig {
        /// Its Kafka name.
        key: String,
        /// What is allowed.
        range: String,
    },
    /// The target of a reassignment is empty or no set of known brokers, or too many replicas would exist
    /// at once. (INVALID_REPLICA_ASSIGNMENT)
    #[error("the target of partition {partition} is no valid set of replicas")]
    InvalidTarget {
        /// The partition.
        partition: PartitionId,
    },
    /// The partition is not being reassigned. (NO_REASSIGNMENT_IN_PROGRESS)
    #[error("partition {partition} is not being reassigned")]
    NoReassignment {
        /// The partition.
        partition: PartitionId,
    },
    /// Replicas that hold committed records would be dropped though too few others are in sync.
    /// Retriable. (INVALID_REPLICA_ASSIGNMENT)
    #[error("too few other replicas of partition {partition} are in sync")]
    UnsafeReassignment {
        /// The partition.
        partition: PartitionId,
    },
    /// The command belongs to a metadata level that is not active yet, since not every broker runs a
    /// build that understands it. Retriable. (UNSUPPORTED_VERSION)
    #[error("metadata level {needed} is needed; {active} is active until all nodes are upgraded")]
    LevelTooLow {
        /// The level of the command.
        needed: MetadataLevel,
        /// The active level.
        active: MetadataLevel,
    },
    /// A build does not understand the metadata level: run one there that does, or remove the broker.
    #[error("metadata level {level} is not among those that {}'s build understands, {levels}",
        broker.map_or_else(|| "the node".to_owned(), |b| format!("broker {b}")))]
    LevelUnsupported {
        /// The broker; `None` if it has never been registered.
        broker: Option<BrokerId>,
        /// The level that is active, or is to be.
        level: MetadataLevel,
        /// What the build understands.
        levels: LevelRange,
    },
    /// The metadata level is another one by now, or would fall.
    #[error("metadata level {active} is active, not {found}; it never falls")]
    StaleLevel {
        /// The level on which the command builds.
        found: MetadataLevel,
        /// The active level.
        active: MetadataLevel,
    },
}

impl Rejection {
    /// Whether the same request may succeed later, without the sender changing it (but for fresh
    /// epochs).
    pub const fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::NotFormed
                | Self::NoActiveReplica { .. }
                | Self::StalePartitionEpoch { .. }
                | Self::AwaitingEligibleReplica { .. }
                | Self::MissingClaim { .. }
                | Self::UnsafeReassignment { .. }
                | Self::LevelTooLow { .. }
        )
    }
}
