//! The Kafka protocol front door: existing Kafka clients are this cluster's clients.
//!
//! [`KafkaServer`] listens, decodes, checks and answers; what it needs of the node is the trait
//! [`Broker`]. It keeps no state of its own: no fetch sessions, no caches.
//!
//! Served are producing (idempotent too, not transactional), fetching, offsets by time, metadata, the
//! creation of topics, and consumer groups by both protocols. Nothing else is advertised.
//!
//! # Invariants
//! - Requests are decoded by bounded decoders of this crate; the generated decoders reserve memory for
//!   any count that a client claims, which ends the process.
//! - A connection's appends are queued in the order of its requests, and its responses are written in
//!   that order.
//! - Every response, with every error, encodes at every advertised version.
//! - No response names a leader whose address the client cannot know from it.
//! - Records go from the log to the socket without being copied.
//!
//! # Sources
//! The Kafka protocol guide; KIP-35 and KIP-511 (ApiVersions), KIP-98 (batches, producer ids), KIP-227
//! (fetch sessions, declined), KIP-320 (leader epochs), KIP-482 (flexible versions), KIP-516 (topic
//! ids), KIP-951 (leader hints).

mod admission;
mod api;
mod broker;
mod config;
mod connection;
mod coordinator_broker;
mod error;
mod fetch_response;
mod frame;
mod frame_reader;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group_broker;
mod handlers;
mod metrics;
mod requests;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;
mod topic_config;
mod wire;

pub use broker::{
    Acks, Broker, CreateTopics, CreatedTopic, FetchPartition, FetchRequest, Fetched,
    FetchedRecords, ListedOffset, MorePartitions, NewTopic, OffsetQuery, Produced, Reassigning,
    ReplicaChange, TopicFailure,
};
pub use config::KafkaConfig;
pub use coordinator_broker::CoordinatorBroker;
pub use error::{BrokerError, CurrentLeader, KafkaError};
pub use group_broker::GroupBroker;
pub use server::KafkaServer;
pub use snapshot::{BrokerInfo, ClusterSnapshot, PartitionInfo, TopicInfo};
pub use topic_config::TopicSettings;
