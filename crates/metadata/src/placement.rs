//! Where replicas and leaderships are to go: the commands and records of reassignment (KIP-455).

use rivven_core_types::{BrokerId, PartitionEpoch, PartitionId, TopicName};
use serde::{Deserialize, Serialize};

use crate::levels::MetadataLevel;

/// Longest name of a strategy in a [`TopicPlacement`], in bytes.
pub const MAX_STRATEGY_BYTES: usize = 64;

/// By what the cluster chose the replicas of a topic. It is kept so that partitions added later are
/// placed likewise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPlacement {
    /// Name of the strategy, at most [`MAX_STRATEGY_BYTES`].
    pub strategy: String,
    /// Version of the algorithms.
    pub algorithm_version: u16,
}

/// A partition on its way to other replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassignment {
    /// The replicas that it is to have, the preferred leader first.
    pub target: Vec<BrokerId>,
    /// The replicas that it had: those to return to.
    pub original: Vec<BrokerId>,
}

/// What a partition's replicas are to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaTarget {
    /// Which partition.
    pub partition: PartitionId,
    /// The record on which this builds.
    pub partition_epoch: PartitionEpoch,
    /// At least one, the preferred leader first, and as many as are wanted: the partition may have more
    /// or fewer than before. `None`: those that it had before the reassignment under way.
    pub target: Option<Vec<BrokerId>>,
}

/// A change of where replicas and leaderships are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PlacementCommand {
    /// Begins, redirects or cancels reassignments; all or none. A target of the replicas that a
    /// partition has changes their order, and so the preferred leader, at once.
    Reassign {
        /// At most [`rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST`].
        changes: Vec<ReplicaTarget>,
    },
    /// Makes the preferred replicas the leaders of their partitions, where they are in sync and active.
    ElectPreferred {
        /// At most [`rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST`].
        partitions: Vec<PartitionId>,
    },
    /// Says whether a broker is to be emptied. It is given nothing new as long as it is.
    SetDraining {
        /// The broker.
        broker: BrokerId,
        /// Whether it is to be emptied.
        draining: bool,
    },
    /// Says whether replicas are to be evened out.
    SetRebalancing {
        /// Whether they are.
        rebalancing: bool,
    },
    /// Adds partitions to a topic.
    AddPartitions {
        /// The topic.
        topic: TopicName,
        /// How many it has now: a second execution is refused.
        partitions_now: u32,
        /// The replicas of each new partition.
        replicas: Vec<Vec<BrokerId>>,
    },
}

impl PlacementCommand {
    /// As [`crate::Command::level`].
    pub(crate) const fn level(&self) -> MetadataLevel {
        match self {
            Self::Reassign { .. }
            | Self::ElectPreferred { .. }
            | Self::SetDraining { .. }
            | Self::SetRebalancing { .. }
            | Self::AddPartitions { .. } => MetadataLevel::FIRST,
        }
    }
}
