//! One cluster node, wired: consensus, membership, replication and placement behind one handle.
//!
//! This is the only crate that sees the siblings. It forms the cluster, keeps the
//! broker sessions (controller and broker side), carries metadata to replication and ISR proposals
//! back, places topics and hands out producer ids. It holds no protocol rules of its own beyond these:
//! elections are in the metadata crate, replication in the isr crate.
//!
//! # Invariants
//! - A cluster is formed once, by the smallest name of one agreed set of blank nodes (D17).
//! - A broker acts on metadata only after its own registration has been applied.
//! - A node that cut bytes off a log registers as lossy before it takes part in anything (D9).
//! - Control tasks and record I/O run on different runtimes (D8).
//!
//! # Sources
//! KIP-500, KIP-631 (broker registration and heartbeats), KIP-730 (producer ids), KIP-841.

mod administration;
mod blocking;
mod bootstrap;
mod broker;
#[cfg(test)]
mod builds;
mod config;
mod controller;
mod coordinator;
mod error;
mod formation;
mod groups;
mod health;
mod layout;
mod log_sizes;
mod member_probe;
mod members;
mod messages;
mod network;
mod operations;
mod partitions;
mod producer_ids;
mod proposals;
mod reassignments;
mod rebalancer;
mod recovery;
mod router;
mod sessions;
mod startup;
mod state;
mod topics;
mod voters;

/// Consumer groups, as [`ClusterCoordinator::groups`] serves them.
pub use rivven_consumer_groups as consumer_groups;
/// Replication, as [`ClusterCoordinator::replication`] gives access to it.
pub use rivven_isr as replication;
/// The cluster metadata, as [`ClusterCoordinator::cluster_state`] shows it.
pub use rivven_metadata as metadata;
/// Placement, whose errors topic creation may answer.
pub use rivven_placement as placement;
/// Bounds of the Raft store, and the runtime of a simulated node.
pub use rivven_raft_store::{NodeScope, RaftLimits, RaftState, RuntimeHooks};
/// The partition logs on disk, for tools that look at a stopped node.
pub use rivven_segment_log as segment_log;

pub use broker::SessionStatus;
pub use config::{
    ClusterMember, ClusterMode, CoordinatorConfig, RaftTiming, SessionConfig, TopicDefaults,
};
pub use coordinator::{ClusterCoordinator, CoordinatorPorts};
pub use error::CoordinatorError;
pub use groups::GroupService;
pub use health::{ClusterHealth, HealthState};
pub use members::{ClusterNode, MemberRole};
pub use network::{
    BoundNetwork, ClusterNetwork, NetworkFactory, NetworkIdentity, SharedEntropy, SocketNetwork,
};
pub use operations::PlacementStatus;
pub use reassignments::ReassignTo;
pub use state::StateWatch;
pub use topics::NewTopic;
