//! The TCP driver: sockets, tasks and timers around the pure codec and handshake.

mod accept;
mod admission;
mod answers;
mod bodies;
#[cfg(feature = "tls")]
mod certificates;
mod client;
mod dial;
#[cfg(feature = "quic")]
mod early;
mod flight;
mod lifecycle;
mod link;
mod memory;
mod metrics;
mod peers;
#[cfg(feature = "quic")]
mod quic;
mod reader;
mod replies;
#[cfg(feature = "tls")]
mod secure;
mod server;
mod socket;
mod transport;
mod writer;

pub use metrics::describe_metrics;
#[cfg(feature = "quic")]
pub(crate) use socket::bind_udp;
#[cfg(feature = "quic")]
pub(crate) use transport::label_of as address_label;
pub use transport::{Transport, TransportRuntimes};

#[cfg(test)]
mod tests;
