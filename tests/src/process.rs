//! Real node processes on the loopback address.

mod binary;
mod cluster;
mod node;
mod ports;

pub use binary::{node_binary, workspace_root};
pub use cluster::{ClusterOptions, ProcessCluster};
pub use node::{NodeProcess, Ports, SECRET_FILE, Site};
pub use ports::free_address;
