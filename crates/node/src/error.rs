//! Why a node cannot run.

use std::net::SocketAddr;

use rivven_cluster::coordinator::CoordinatorError;
use rivven_cluster::types::Address;
use rivven_kafka::KafkaError;

use crate::config::ConfigError;

/// Why a node cannot run. Each message says what a person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system gave no thread or no signal handler.
    #[error("cannot start a runtime: {0}")]
    Runtime(std::io::Error),
    /// The metrics recorder could not be installed.
    #[error("cannot install the metrics recorder: {0}")]
    Metrics(String),
    /// A listen address has no IP address.
    #[error("cannot resolve {address}: {reason}")]
    Resolve {
        /// The address.
        address: Address,
        /// Why.
        reason: String,
    },
    /// A port is occupied or not permitted.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster node could not start.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The Kafka port could not start.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The node failed for good while it ran.
    #[error("{0}")]
    Failed(String),
    /// A start-up task died.
    #[error("a start-up task failed: {0}")]
    Task(String),
}
