//! The tokio driver: shards that own partitions, follower fetchers, the flusher.

mod alter;
mod api;
mod command;
mod fetcher;
mod flusher;
mod inner;
mod manager;
mod protocol;
mod scrubber;
mod seed;
mod serve;
mod session;
mod shard;
#[cfg(test)]
mod tests;
mod throttle;
mod token_bucket;

pub use api::{
    ControllerError, Fetch, FetchPartition, Fetched, FetchedPartition, LocalBroker, LocalLog,
    MetadataUpdate, PartitionController, Produce, Produced, ReplicationPorts,
};
pub use manager::ReplicationManager;
pub use seed::{PartitionReplication, TokioExecutor};
