//! What benches of real processes share: a client that costs as little as it can, baselines of the
//! machine, and figures as `cargo xtask bench` reads them.

mod baseline;
mod client;
mod figure;
mod jetstream;

pub use baseline::{loopback_bytes_per_second, processor_ticks, synced_appends_per_second};
pub use client::{Load, LoadError, Loaded, create_topic, run_load};
pub use figure::{Figure, percentile};
pub use jetstream::JetStream;
