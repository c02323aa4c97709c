//! The records of brokers and topics.

use serde::{Deserialize, Serialize};

use crate::placement::TopicPlacement;
use rivven_core_types::{
    BrokerId, Durability, FencedState, Incarnation, LogConfig, LogDirId, NodeEpoch, NodeInfo,
    PartitionId, RaftNodeId, TopicId, TopicName,
};

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Its number, stable for its name.
    pub id: BrokerId,
    /// Name and addresses.
    pub info: NodeInfo,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its id within Raft.
    pub raft_id: RaftNodeId,
    /// Its log directory.
    pub log_dir: LogDirId,
    /// The epoch of its current life.
    pub node_epoch: NodeEpoch,
    /// Whether it may lead.
    pub state: FencedState,
    /// It has begun a controlled shutdown in this life; it may be fenced since, but never be active
    /// again before it registers anew.
    pub leaving: bool,
}

impl BrokerRecord {
    /// Whether it may lead and be in an ISR.
    pub fn is_active(&self) -> bool {
        self.state == FencedState::Active
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has; their indexes are `0..partitions`.
    pub partitions: u32,
    /// How many replicas each partition was made with; [`crate::ClusterState::replication_factor`] says how
    /// many new ones are given.
    pub replication_factor: u32,
    /// `min.insync.replicas`.
    pub min_isr: u32,
    /// When a record counts as stored.
    pub durability: Durability,
    /// How long records are kept.
    pub log: LogConfig,
    /// By what the replicas were chosen; `None` if the creator named them.
    pub placement: Option<TopicPlacement>,
}

impl TopicRecord {
    /// The ids of its partitions, in order.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        let id = self.id;
        (0..self.partitions).map(move |index| PartitionId::new(id, index))
    }
}
