//! The protocol, without clock, sockets or threads.

mod types;

pub use types::{Acks, OffsetSpec, PartitionStatus, ReplicaRole, ReplicaStatus};
