//! What goes wrong behind the port, as clients are told of it.

use rivven_coordinator::metadata::Rejection;
use rivven_coordinator::placement::PlacementError;
use rivven_coordinator::replication::ReplicationError;
use rivven_coordinator::{ClusterCoordinator, CoordinatorError};
use rivven_core_types::PartitionId;

use crate::broker::TopicFailure;
use crate::error::{BrokerError, CurrentLeader};

fn current_leader(
    partition: PartitionId,
    coordinator: &ClusterCoordinator,
) -> Option<CurrentLeader> {
    let state = coordinator.cluster_state();
    let record = state.partition(&partition)?;
    Some(CurrentLeader {
        broker: record.leader?,
        epoch: record.leader_epoch,
    })
}

/// A replication error as clients are told of it.
pub(super) fn broker_error(
    error: ReplicationError,
    partition: PartitionId,
    coordinator: &ClusterCoordinator,
) -> BrokerError {
    use ReplicationError as E;
    let leader = || current_leader(partition, coordinator);
    match error {
        // The metadata may know the partition before its replica has been opened here.
        E::UnknownPartition { .. }
            if coordinator.cluster_state().partition(&partition).is_some() =>
        {
            BrokerError::NotLeader { leader: leader() }
        }
        E::UnknownPartition { .. } => BrokerError::UnknownPartition,
        E::NotLeader { .. } | E::ControllerContactLost | E::Shutdown => {
            BrokerError::NotLeader { leader: leader() }
        }
        E::NotEnoughReplicas { .. } => BrokerError::NotEnoughReplicas,
        E::NotEnoughReplicasAfterAppend { .. } => BrokerError::NotEnoughReplicasAfterAppend,
        E::OutOfOrderSequence { .. } => BrokerError::OutOfOrderSequence,
        E::InvalidProducerEpoch { .. } => BrokerError::InvalidProducerEpoch,
        E::OffsetOutOfRange { .. } => BrokerError::OffsetOutOfRange,
        E::OffsetNotAvailable => BrokerError::OffsetNotAvailable,
        E::FencedLeaderEpoch { .. } => BrokerError::FencedLeaderEpoch { leader: leader() },
        E::UnknownLeaderEpoch { .. } | E::UnknownReplica { .. } | E::StaleNodeEpoch { .. } => {
            BrokerError::UnknownLeaderEpoch
        }
        E::InvalidRequest(_) => BrokerError::InvalidRecord,
        E::RequestTimedOut { .. } => BrokerError::TimedOut,
        E::Overloaded { .. } => BrokerError::Unavailable,
        E::LogUnavailable { .. } | E::OffsetsExhausted => BrokerError::Storage,
        other => {
            tracing::warn!(error = %other, "an error without a Kafka code of its own");
            BrokerError::Unavailable
        }
    }
}

/// What became of an operator's wish about something that exists.
pub(super) fn admin_failure(error: &CoordinatorError) -> TopicFailure {
    let kind = match error {
        CoordinatorError::Rejected(
            Rejection::UnknownTopic { .. } | Rejection::UnknownPartition { .. },
        ) => BrokerError::UnknownPartition,
        CoordinatorError::Rejected(Rejection::ElectionNotNeeded { .. }) => {
            BrokerError::ElectionNotNeeded
        }
        CoordinatorError::Rejected(Rejection::NoActiveReplica { .. }) => {
            BrokerError::EligibleLeadersNotAvailable
        }
        CoordinatorError::PreferredLeaderNotAvailable { .. } => {
            BrokerError::PreferredLeaderNotAvailable
        }
        CoordinatorError::Rejected(Rejection::NoReassignment { .. }) => {
            BrokerError::NoReassignmentInProgress
        }
        CoordinatorError::Rejected(
            Rejection::InvalidTarget { .. } | Rejection::UnsafeReassignment { .. },
        ) => BrokerError::InvalidReplicaAssignment,
        other => topic_error(other),
    };
    TopicFailure {
        error: kind,
        message: error.to_string(),
    }
}

pub(super) fn topic_error(error: &CoordinatorError) -> BrokerError {
    match error {
        CoordinatorError::Rejected(rejection) => match rejection {
            Rejection::TopicExists { .. } | Rejection::TopicIdExists { .. } => {
                BrokerError::TopicExists
            }
            Rejection::InvalidPartitionCount { .. } => BrokerError::InvalidPartitions,
            Rejection::InvalidReplicationFactor { .. } => BrokerError::InvalidReplicationFactor,
            Rejection::InvalidMinIsr { .. } | Rejection::InvalidTopicConfig { .. } => {
                BrokerError::InvalidConfig
            }
            Rejection::DuplicateReplica { .. }
            | Rejection::UnknownBroker { .. }
            | Rejection::NoActiveReplica { .. } => BrokerError::InvalidReplicaAssignment,
            Rejection::TooManyItems { .. } => BrokerError::PolicyViolation,
            Rejection::LevelTooLow { .. } => BrokerError::UnsupportedVersion,
            _ => BrokerError::InvalidRequest,
        },
        CoordinatorError::Placement(placement) => match placement {
            PlacementError::PartitionOutOfRange { .. } => BrokerError::InvalidPartitions,
            PlacementError::DuplicateReplica { .. } => BrokerError::InvalidReplicaAssignment,
            PlacementError::InvalidTopic(_) => BrokerError::InvalidTopic,
            _ => BrokerError::InvalidReplicationFactor,
        },
        CoordinatorError::InvalidAssignment(_) => BrokerError::InvalidReplicaAssignment,
        CoordinatorError::InvalidRequest(_) => BrokerError::InvalidPartitions,
        _ => BrokerError::TimedOut,
    }
}

/// What became of more partitions: as with a new topic, but for the topic itself.
pub(super) fn partitions_failure(error: &CoordinatorError) -> TopicFailure {
    let kind = match error {
        CoordinatorError::Rejected(Rejection::UnknownTopic { .. }) => BrokerError::UnknownPartition,
        other => topic_error(other),
    };
    TopicFailure {
        error: kind,
        message: error.to_string(),
    }
}
