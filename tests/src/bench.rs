//! What benches of real processes share: a client that costs as little as it can, baselines of the
//! machine, and percentiles.

mod baseline;
mod client;
mod commits;
mod jetstream;
mod percentile;

pub use baseline::{
    Footprint, footprint, loopback_bytes_per_second, processor_ticks, synced_appends_per_second,
};
pub use client::{Load, LoadError, Loaded, create_topic, run_load, run_spread_load};
pub use commits::{CommitLoad, Committed, run_commits};
pub use jetstream::JetStream;
pub use percentile::percentile;
