//! The protocol, without clock, sockets or threads.

mod deletion;
mod follower;
mod isr;
mod leader;
mod partition;
mod producers;
mod purgatory;
mod remote;
mod types;

pub use deletion::DeleteIn;
pub use isr::AlterResult;
pub use leader::ConsumerRead;
pub use partition::PartitionReplica;
pub use purgatory::AckId;
pub use types::{
    Acked, Acks, ClusterView, FetchPosition, FetchReply, Flushed, OffsetSpec, Output,
    PartitionStatus, ProduceIn, ReplicaFetch, ReplicaFetched, ReplicaRole, ReplicaStatus, Settings,
};

#[cfg(test)]
mod tests;
