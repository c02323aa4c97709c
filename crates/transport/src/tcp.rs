//! The TCP driver: sockets, tasks and timers around the pure codec and handshake.

mod admission;
mod client;
mod dial;
mod lifecycle;
mod metrics;
mod peers;
mod reader;
mod server;
mod socket;
mod transport;
mod writer;

pub use metrics::describe_metrics;
pub use transport::{Transport, TransportRuntimes};

#[cfg(test)]
mod tests;
