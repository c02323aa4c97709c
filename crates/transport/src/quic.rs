//! QUIC: settings, and the transport on its own as a small API.

mod config;
mod reset;
mod transport;

pub use config::{Congestion, QuicConfig, QuicListen};
pub(crate) use reset::ResetSecret;
pub use transport::QuicTransport;
