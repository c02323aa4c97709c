//! Leader and follower replication with a high watermark, as Kafka's in-sync replicas.
//!
//! The protocol is a sans-IO core (one owner per partition, time and log are arguments); behind the
//! feature `tokio` a thin driver runs it: shards that own partitions, follower fetchers, a flusher and
//! the batcher of in-sync-set proposals.
//!
//! What it is not: it elects nobody (the controller does, in the metadata crate) and stores nothing
//! (the log is a port).
//!
//! # Invariants
//! - A record acknowledged with acks=all is below the high watermark, and every member of the maximal
//!   in-sync set has it (on stable storage with `Durability::Fsync`).
//! - The high watermark moves only while the committed in-sync set has `min.insync.replicas` members
//!   (KIP-966), over the union of the committed and the proposed set (KIP-497).
//! - A log is only ever cut by leader epoch (KIP-101, KIP-279), never to a high watermark.
//! - A log never leads an epoch that its epoch table already holds.
//! - The end that consumers see never goes back (KIP-207).
//!
//! # Sources
//! KIP-16, KIP-98, KIP-101, KIP-207, KIP-227, KIP-279, KIP-320, KIP-497, KIP-595 (truncation on
//! fetch), KIP-841, KIP-903, KIP-966.

mod config;
mod core;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod mem_log;

pub use config::ReplicationConfig;
pub use core::{
    AckId, Acked, Acks, AlterResult, ClusterView, ConsumerRead, DeleteIn, FetchPosition,
    FetchReply, Flushed, OffsetSpec, Output, PartitionReplica, PartitionStatus, ProduceIn,
    ReplicaFetch, ReplicaFetched, ReplicaRole, ReplicaStatus, Settings,
};
#[cfg(feature = "tokio")]
pub use driver::{
    ControllerError, Fetch, FetchPartition, Fetched, FetchedPartition, LocalBroker, LocalLog,
    MetadataUpdate, PartitionController, PartitionReplication, Produce, Produced,
    ReplicationManager, ReplicationPorts, TokioExecutor,
};
pub use error::ReplicationError;
pub use mem_log::{MemLog, MemLogStore};
