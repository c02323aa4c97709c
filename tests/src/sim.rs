//! Whole nodes in one thread on a paused clock, with an in-memory network and in-memory disks.
//!
//! The nodes are the real ones: coordinator, openraft on redb, replication, segment log, SWIM. Only
//! the ports are others. Nothing here sleeps in real time: the paused tokio clock jumps to the next
//! timer as soon as nothing else can run.

mod clock;
mod network;
mod world;

pub use clock::TokioClock;
pub use network::SimNetwork;
pub use world::{SimCluster, SimNode};
