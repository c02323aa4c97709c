//! The tokio driver: shards that own partitions, follower fetchers, the flusher.

mod api;
mod manager;
mod seed;
mod shard;

pub use api::{
    ControllerError, Fetch, FetchPartition, Fetched, FetchedPartition, LocalBroker, LocalLog,
    MetadataUpdate, PartitionController, Produce, Produced, ReplicationPorts,
};
pub use manager::ReplicationManager;
pub use seed::{PartitionReplication, TokioExecutor};
