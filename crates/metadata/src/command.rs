//! The commands that Raft replicates.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::levels::{LevelCommand, MetadataLevel};
use crate::placement::{PlacementCommand, TopicPlacement};
use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{
    AlterPartitionProposal, BrokerId, ClusterId, Durability, Incarnation, LeaderEpoch, LogConfig,
    LogDirId, NodeEpoch, NodeInfo, Offset, PartitionEpoch, PartitionId, RaftNodeId, RecoveryState,
    TopicId, TopicName, limits,
};

/// Version of the encoding of [`Command`]. Variants are only ever added at the end; any other change
/// raises it. 2: [`Command::CreateTopic`] says how the topic was placed.
const COMMAND_VERSION: u8 = 2;

/// What a replica reports about its log when a partition has nobody electable left (KIP-966's
/// unclean recovery).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaClaim {
    /// The replica.
    pub broker: BrokerId,
    /// The life of the broker that reports. A claim of another life is refused.
    pub node_epoch: NodeEpoch,
    /// The last entry of its epoch table; `None` for an empty log.
    pub last_epoch: Option<LeaderEpoch>,
    /// Its log end offset.
    pub log_end: Offset,
}

/// New settings of a topic; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopicChange {
    /// `min.insync.replicas`, from 1 to the replication factor.
    pub min_isr: Option<u32>,
    /// When a record counts as stored.
    pub durability: Option<Durability>,
    /// [`LogConfig::retention_ms`].
    pub retention_ms: Option<Option<u64>>,
    /// [`LogConfig::retention_bytes`].
    pub retention_bytes: Option<Option<u64>>,
    /// [`LogConfig::segment_bytes`].
    pub segment_bytes: Option<u64>,
    /// [`LogConfig::segment_ms`].
    pub segment_ms: Option<u64>,
}

impl TopicChange {
    /// `config` with the change made.
    #[must_use]
    pub fn apply_to(&self, config: LogConfig) -> LogConfig {
        LogConfig {
            retention_ms: self.retention_ms.unwrap_or(config.retention_ms),
            retention_bytes: self.retention_bytes.unwrap_or(config.retention_bytes),
            segment_bytes: self.segment_bytes.unwrap_or(config.segment_bytes),
            segment_ms: self.segment_ms.unwrap_or(config.segment_ms),
        }
    }
}

/// A change of the cluster metadata.
///
/// A command carries the epochs on which it builds and is checked against them when it is applied;
/// one that comes too late is answered with [`crate::CommandResult::Rejected`], and nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Names the cluster: the first command of all. Again with the same id it changes nothing; with
    /// another id it is refused.
    FormCluster {
        /// The cluster's id.
        cluster_id: ClusterId,
    },
    /// A broker process announces itself. It starts fenced.
    ///
    /// An earlier life under the same name is fenced in the same step, its leaderships moved
    /// (KAFKA-18106). If the incarnation or the log directory is another, every replica it holds
    /// counts as lossy. A lossy replica leaves ISR and ELR.
    RegisterBroker {
        /// Name and addresses.
        info: NodeInfo,
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Its id within Raft.
        raft_id: RaftNodeId,
        /// Its log directory.
        log_dir: LogDirId,
        /// The partitions whose logs lost records since the last life.
        lossy: Vec<PartitionId>,
    },
    /// The broker has caught up with the metadata and may lead. Leaderless partitions that it may
    /// lead elect it.
    UnfenceBroker {
        /// The broker.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
    },
    /// The broker's session is lost: it leaves every ISR, its leaderships move (KIP-841).
    FenceBroker {
        /// The broker.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
    },
    /// The broker is about to stop: as fencing, but in an orderly way. It is never active again in
    /// this life.
    BeginControlledShutdown {
        /// The broker.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
    },
    /// Creates a topic with a given placement.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its id, drawn by the proposer (KIP-516).
        id: TopicId,
        /// The replicas of each partition; the first of each is the preferred leader.
        replicas: Vec<Vec<BrokerId>>,
        /// `min.insync.replicas`, from 1 to the replication factor.
        min_isr: u32,
        /// When a record counts as stored.
        durability: Durability,
        /// How long records are kept.
        log: LogConfig,
        /// By what the replicas were chosen; `None` if the creator named them.
        placement: Option<TopicPlacement>,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// A partition leader proposes new ISRs (KIP-497).
    AlterPartitions {
        /// The sender.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
        /// At most [`limits::MAX_PARTITIONS_PER_REQUEST`].
        proposals: Vec<AlterPartitionProposal>,
    },
    /// A broker asks for a block of producer ids (KIP-730).
    AllocateProducerIds {
        /// The sender.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
    },
    /// Elects the longest valid log among the claims, when ISR and ELR are empty. The claims must
    /// cover every member of `last_known_isr`, all of them active.
    RecoverPartition {
        /// The partition.
        partition: PartitionId,
        /// The partition's record on which the claims build.
        partition_epoch: PartitionEpoch,
        /// One claim for each replica asked.
        claims: Vec<ReplicaClaim>,
    },
    /// An operator accepts the loss of records and has any active replica elected. The partition is
    /// marked as recovering.
    ElectUnclean {
        /// The partition.
        partition: PartitionId,
    },
    /// An operator removes a broker for good: its disk is lost, or the node is to leave. It leaves
    /// every ISR and ELR; it stays among the replicas until they are reassigned or a new life of the
    /// same name registers, which takes them over and copies them from their leaders.
    ///
    /// Refused while the broker is active and holds replicas (stop it, or move them first), and,
    /// unless `accept_loss`, while a partition has no other electable replica.
    RemoveBroker {
        /// The broker.
        broker: BrokerId,
        /// Its current life.
        node_epoch: NodeEpoch,
        /// The operator knows that records will be lost, or that they are lost already.
        accept_loss: bool,
    },
    /// Changes settings of a topic.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// What changes.
        change: TopicChange,
    },
    /// Replicas and leaderships change their places.
    Place(PlacementCommand),
    /// Which commands the cluster may use.
    Level(LevelCommand),
}

impl Command {
    /// The least active level at which the command may be proposed and is applied. Exhaustive on purpose,
    /// down to the enums within: a new command, or a new variant in one, is of a new level.
    pub fn level(&self) -> MetadataLevel {
        match self {
            #[cfg(any(test, feature = "test-util"))]
            Self::DeleteTopic { name } if name.as_str() == crate::levels::TOPIC_OF_LEVEL_2 => {
                MetadataLevel::new(2)
            }
            Self::FormCluster { .. }
            | Self::RegisterBroker { .. }
            | Self::UnfenceBroker { .. }
            | Self::FenceBroker { .. }
            | Self::BeginControlledShutdown { .. }
            | Self::DeleteTopic { .. }
            | Self::AllocateProducerIds { .. }
            | Self::RecoverPartition { .. }
            | Self::ElectUnclean { .. }
            | Self::RemoveBroker { .. } => MetadataLevel::FIRST,
            Self::CreateTopic { durability, .. } => level_of_durability(*durability),
            Self::AlterTopic { change, .. } => change
                .durability
                .map_or(MetadataLevel::FIRST, level_of_durability),
            Self::AlterPartitions { proposals, .. } => proposals
                .iter()
                .map(|proposal| level_of_recovery(proposal.recovery))
                .fold(MetadataLevel::FIRST, MetadataLevel::max),
            Self::Place(command) => command.level(),
            Self::Level(command) => command.level(),
        }
    }

    /// Encodes the command; fails beyond [`limits::MAX_COMMAND_BYTES`].
    pub fn encode(&self) -> Result<Bytes, WireError> {
        wire::encode(COMMAND_VERSION, self, limits::MAX_COMMAND_BYTES)
    }

    /// Decodes a command. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(COMMAND_VERSION, bytes, limits::MAX_COMMAND_BYTES)
    }
}

const fn level_of_durability(durability: Durability) -> MetadataLevel {
    match durability {
        Durability::Fsync | Durability::Replicated => MetadataLevel::FIRST,
    }
}

const fn level_of_recovery(recovery: RecoveryState) -> MetadataLevel {
    match recovery {
        RecoveryState::Recovered | RecoveryState::Recovering => MetadataLevel::FIRST,
    }
}
