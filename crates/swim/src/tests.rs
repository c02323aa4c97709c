//! Scenarios over a simulated network, attacks on single detectors, and real sockets.

mod attacks;
mod convergence;
mod faults;
mod network;
mod rules;
#[cfg(feature = "tokio")]
mod udp;
