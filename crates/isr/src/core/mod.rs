//! The protocol, without clock, sockets or threads.

mod follower;
mod isr;
mod leader;
mod partition;
mod producers;
mod purgatory;
mod remote;
mod types;

pub(crate) use isr::AlterResult;
pub(crate) use partition::PartitionReplica;
pub(crate) use purgatory::AckId;
pub use types::{Acks, OffsetSpec, PartitionStatus, ReplicaRole, ReplicaStatus};
pub(crate) use types::{
    ClusterView, FetchPosition, FetchReply, Output, ProduceIn, ReplicaFetch, ReplicaFetched,
    Settings,
};

#[cfg(test)]
mod tests;
