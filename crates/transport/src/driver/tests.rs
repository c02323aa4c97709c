//! Scenarios over real loopback sockets. Every wait has a deadline; ports are chosen by the kernel.

mod calls;
#[cfg(feature = "quic")]
mod early;
mod hostile;
mod lifecycle;
mod logs;
mod memory;
mod order;
mod parts;
#[cfg(feature = "quic")]
mod quic;
mod support;
#[cfg(feature = "tls")]
mod tls;
