//! Why a partition could not be placed.

use rivven_core_types::{InvalidId, NodeName};

/// Why a partition could not be placed. In every case the placer is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Fewer nodes than replicas. Retry after nodes were added, or ask for fewer replicas.
    #[error("{needed} replicas need {needed} nodes, but only {available} can take any")]
    NotEnoughNodes {
        /// Replicas asked for.
        needed: usize,
        /// Nodes that may hold one: known, and of a weight above 0.
        available: usize,
    },
    /// There are enough nodes, but too many of them are full. Retry after nodes were added, after
    /// partitions were deleted, or with a greater `max_partitions_per_node`.
    #[error(
        "{needed} replicas need {needed} nodes, but only {available} hold fewer than \
         max_partitions_per_node = {cap}"
    )]
    NoCapacity {
        /// Replicas asked for.
        needed: usize,
        /// Nodes that may hold one and are not full.
        available: usize,
        /// The configured `max_partitions_per_node`.
        cap: u32,
    },
    /// [`crate::RackMode::Strict`] asks for more racks than have room. Retry after nodes were added to
    /// other racks, or with [`crate::RackMode::Prefer`].
    #[error("{needed} distinct racks are needed, but only {available} have a node with room")]
    NoRackCapacity {
        /// Racks needed: as many as replicas, or as there are.
        needed: usize,
        /// Racks with an open node.
        available: usize,
    },
    /// The replication factor is 0 or beyond the limit. Retrying cannot help.
    #[error("replication factor {replication_factor} is out of range 1..={max}")]
    InvalidReplicationFactor {
        /// The factor asked for.
        replication_factor: usize,
        /// Greatest factor allowed.
        max: usize,
    },
    /// The partition index or count is beyond the limit. Retrying cannot help.
    #[error("partition index or count {partition} exceeds the {max} partitions of a topic")]
    PartitionOutOfRange {
        /// The index (from 0) or the count asked for.
        partition: u32,
        /// Most partitions of a topic.
        max: u32,
    },
    /// A given replica list names a node twice. Retrying cannot help.
    #[error("the replica list names node {node} twice")]
    DuplicateReplica {
        /// The node named twice.
        node: NodeName,
    },
    /// The topic's name is not valid. Retrying cannot help.
    #[error(transparent)]
    InvalidTopic(#[from] InvalidId),
    /// The configuration's `virtual_nodes` is out of range. Retrying cannot help.
    #[error("virtual_nodes {virtual_nodes} is out of range 1..={max}")]
    InvalidVirtualNodes {
        /// The configured number.
        virtual_nodes: u32,
        /// Greatest number allowed.
        max: u32,
    },
    /// No strategy has this name. Retrying cannot help.
    #[error(
        "unknown placement strategy {found:?}; known are consistent_hash, round_robin, least_loaded, \
         rack_aware, rendezvous, balanced, copyset:<scatter width>"
    )]
    UnknownStrategy {
        /// The name, cut if it is long.
        found: String,
    },
    /// A later version of the algorithms has placed the topic. Ask a node that runs it.
    #[error(
        "the topic was placed by version {found} of the algorithms, and this node knows no later one \
         than {known}: upgrade it, or ask a node that is"
    )]
    NewerAlgorithm {
        /// The topic's version.
        found: u16,
        /// The version of this build.
        known: u16,
    },
    /// The `scatter_width` of the copyset strategy is out of range. Retrying cannot help.
    #[error("scatter_width {scatter_width} is out of range 1..={max}")]
    InvalidScatterWidth {
        /// The configured number.
        scatter_width: u16,
        /// Greatest number allowed.
        max: u16,
    },
}
