//! Distributed coordination for the Rivven event-streaming platform: Raft metadata on openraft and
//! redb, SWIM membership, Kafka-style ISR replication, rack-aware placement, consumer groups.
//!
//! This crate is a facade: it re-exports the microcrates behind features and holds no behaviour. Whoever
//! needs one part alone depends on that crate (`rivven-swim`, `rivven-placement`, ...) and compiles
//! nothing else.
//!
//! | feature | gives |
//! |---|---|
//! | `raft` (default) | [`RaftNode`]: durable consensus |
//! | `swim` (default) | [`Membership`]: failure detection |
//! | `metrics-prometheus` (default) | [`metrics`]: the recorder for all crates' metrics |
//! | `coordinator` | [`coordinator::ClusterCoordinator`]: a whole node, wired |
//! | `tls` | mutual TLS 1.3 in [`transport`], and certificates for it |
//! | `quic` | [`quic_transport`]: calls over QUIC; enables `tls` |
//! | `full` | all of the above |
//!
//! Placement, replication, consumer groups and the transport are always there: they are small.
//!
//! ```
//! use rivven_cluster::{NodeInfo, PartitionPlacer, PlacementConfig, PlacementStrategy};
//!
//! let config = PlacementConfig {
//!     strategy: PlacementStrategy::ConsistentHash,
//!     rack_aware: true,
//!     virtual_nodes: 150,
//!     max_partitions_per_node: 0,
//! };
//! let mut placer = PartitionPlacer::new(config);
//! for n in 1..=3 {
//!     let name = format!("node-{n}").parse()?;
//!     let node = NodeInfo::new(name, "127.0.0.1:9092".parse()?, "127.0.0.1:9093".parse()?);
//!     placer.add_node(&node);
//! }
//! let replicas = placer.assign_partition("orders", 0, 3)?;
//! assert_eq!(replicas.len(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use rivven_consumer_groups as consumer_groups;
#[cfg(feature = "coordinator")]
pub use rivven_coordinator as coordinator;
pub use rivven_core_types as types;
pub use rivven_isr as isr;
pub use rivven_metadata as metadata;
pub use rivven_placement as placement;
#[cfg(feature = "raft")]
pub use rivven_raft_store as raft;
#[cfg(feature = "swim")]
pub use rivven_swim as swim;
pub use rivven_transport as transport;

pub use rivven_consumer_groups::{ConsumerCoordinator, GroupConfig};
pub use rivven_core_types::{
    BrokerId, LeaderEpoch, NodeInfo, NodeName, Offset, PartitionId, TopicId, TopicName,
};
pub use rivven_isr::{
    PartitionReplication, ReplicationConfig, ReplicationError, ReplicationManager,
};
pub use rivven_placement::{PartitionPlacer, PlacementConfig, PlacementError, PlacementStrategy};
#[cfg(feature = "raft")]
pub use rivven_raft_store::{
    InitialMember, RaftNode, RaftNodeConfig, RaftNodeOptions, RaftStoreError, ThreadExecutor,
};
#[cfg(feature = "swim")]
pub use rivven_swim::{Membership, SwimConfig, SwimError};

#[cfg(feature = "coordinator")]
pub use rivven_coordinator::{ClusterCoordinator, ClusterHealth, CoordinatorConfig};

#[cfg(feature = "metrics-prometheus")]
pub mod metrics;

/// Calls over QUIC: TLS 1.3 on both sides, one connection per peer, a stream per lane.
#[cfg(feature = "quic")]
pub mod quic_transport {
    pub use rivven_transport::{Congestion, QuicConfig, QuicTransport, TlsConfig, TlsFiles};
}

#[cfg(test)]
mod tests;
