//! The `rivven-node` binary as a library: configuration, signals, the admin port, and one cluster
//! node with its Kafka port between them.
//!
//! It holds no protocol: it shows that the facade's public API suffices to run a broker.

mod admin;
pub mod certs;
pub mod cli;
pub mod config;
mod error;
mod group;
pub mod logs;
mod node;
mod placement;
mod remote;
mod secrets;
mod telemetry;

pub use error::NodeError;

use std::path::Path;

/// Loads the configuration at `path` and runs a node until it is told to stop (SIGTERM, SIGINT) or
/// fails for good.
pub fn run(path: &Path) -> Result<(), NodeError> {
    telemetry::install_logging();
    let options = config::load(path)?;
    let metrics = rivven_cluster::metrics::install().map_err(NodeError::Metrics)?;
    node::run(options, metrics)
}
