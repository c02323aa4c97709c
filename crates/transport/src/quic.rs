//! QUIC: settings, and the transport on its own as a small API.

mod config;
mod transport;

pub use config::{Congestion, QuicConfig};
pub use transport::QuicTransport;
