//! What a node is told about itself and its cluster.

use std::path::PathBuf;
use std::time::Duration;

use rivven_consumer_groups::GroupConfig;
use rivven_core_types::{Address, NodeInfo, NodeName};
use rivven_isr::ReplicationConfig;
use rivven_placement::{Limits, PlacementConfig};
use rivven_raft_store::RaftLimits;
use rivven_swim::SwimConfig;

/// Whether the node is a cluster of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClusterMode {
    /// One of several nodes.
    #[default]
    Cluster,
    /// The only node: forms its cluster alone, on the same durable path.
    Standalone,
}

/// A node that forms the cluster together with this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    /// Its name, where the configuration gives one; a seed's name is learnt by asking it.
    pub name: Option<NodeName>,
    /// Its cluster address.
    pub address: Address,
}

/// Timing and bounds of consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftTiming {
    /// Interval of the leader's heartbeats, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Least random part of an election time-out, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Greatest random part of an election time-out, and the leader's lease, in milliseconds.
    pub election_timeout_max_ms: u64,
    /// Log entries between snapshots.
    pub snapshot_threshold: u64,
    /// How many nodes vote: 1, 3 or 5. The others receive the metadata and take over when a voter
    /// goes. Must be equal on all nodes.
    pub voters: usize,
    /// Bounds of the store.
    pub limits: RaftLimits,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            snapshot_threshold: 10_000,
            voters: 3,
            limits: RaftLimits::default(),
        }
    }
}

/// Timing of the sessions between brokers and the controller (D12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// A broker that is silent for longer is fenced.
    pub timeout: Duration,
    /// Interval of a broker's heartbeats to the controller.
    pub heartbeat_interval: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(250),
        }
    }
}

/// What a topic gets when its creator does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDefaults {
    /// Partitions.
    pub partitions: u32,
    /// Replicas of each partition; fewer when the cluster has fewer nodes is an error, not a guess.
    pub replication_factor: u32,
    /// Whether a client's request for an unknown topic creates it.
    pub auto_create: bool,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self {
            partitions: 6,
            replication_factor: 3,
            auto_create: false,
        }
    }
}

/// Everything that a [`crate::ClusterCoordinator`] is told.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// This node, with the addresses that others use to reach it.
    pub node: NodeInfo,
    /// Whether it is alone.
    pub mode: ClusterMode,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The nodes that form the cluster with this one.
    pub members: Vec<ClusterMember>,
    /// Timing of consensus.
    pub raft: RaftTiming,
    /// The failure detector. Boot id and cluster are filled in by the coordinator.
    pub swim: SwimConfig,
    /// Replication.
    pub replication: ReplicationConfig,
    /// Most files of partition logs that stay open; `None`: as many as the log store says.
    pub max_open_log_files: Option<usize>,
    /// Broker sessions.
    pub session: SessionConfig,
    /// Consumer groups.
    pub groups: GroupConfig,
    /// Defaults of new topics.
    pub topic_defaults: TopicDefaults,
    /// How replicas are placed. Must be equal on all nodes: whichever is asked to create a topic places
    /// it, and the controller evens out.
    pub placement: PlacementConfig,
    /// How much the controller has moved at a time.
    pub move_limits: Limits,
}
