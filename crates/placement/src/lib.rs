//! Which node holds and which node leads each partition.
//!
//! A pure crate: no clock, no randomness, no I/O, no floating point in decisions. It proposes; the
//! cluster's replicated metadata is the table that everybody reads.
//!
//! ```
//! use rivven_core_types::{Address, NodeInfo, NodeName, RackId};
//! use rivven_placement::{PartitionPlacer, PlacementConfig};
//!
//! let mut placer = PartitionPlacer::new(PlacementConfig::default());
//! for (name, rack) in [("node-1", "a"), ("node-2", "b"), ("node-3", "c")] {
//!     let address: Address = format!("{name}:9092").parse()?;
//!     let node = NodeInfo::new(NodeName::new(name)?, address.clone(), address);
//!     placer.add_node(&node.with_rack(RackId::new(rack)?));
//! }
//! let replicas = placer.assign_partition("orders", 0, 3)?;
//! assert_eq!(replicas.len(), 3);
//! assert_eq!(placer.node_load(&replicas[0]).map(|load| load.leaders), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - Replicas are distinct nodes; as many racks as possible are used before one is used twice.
//! - No node is given more than `max_partitions_per_node` replicas.
//! - The same nodes, in any order, and the same assignments give the same answer everywhere.
//! - With equal weights and no cap, the leaders of a topic differ by at most one between nodes.
//! - An assignment once made is kept; a removed node is replaced and nothing else moves.
//!
//! # Sources
//! Karger et al., "Consistent Hashing and Random Trees" (STOC 1997); Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads" (SODA 2018, arXiv 1608.01350); KIP-36
//! (rack-aware replica assignment).

mod config;
mod error;
mod hash;
mod ledger;
mod placer;
mod plan;
mod ring;
mod small_key;
mod strategy;
mod table;
mod topology;

pub use config::{
    ALGORITHM_VERSION, MAX_SCATTER_WIDTH, MAX_VIRTUAL_NODES, PlacementConfig, PlacementOptions,
    PlacementStrategy, RackMode, check_version,
};
pub use error::PlacementError;
pub use ledger::NodeLoad;
pub use placer::{PartitionPlacer, PlacedTopic, Replicas};
pub use plan::{
    Assignment, ClusterView, Goals, LeaderMove, Limiting, Limits, Move, NodeState, NodeSummary,
    Phase, PlacedPartition, Plan, Shortage, Stats, ViewNode, plan,
};
