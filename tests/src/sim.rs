//! Whole nodes in one thread on a paused clock, with in-memory network and in-memory disks.
//!
//! The nodes are the real ones: coordinator, openraft on redb, replication, segment log, SWIM. Only
//! the ports are others. Nothing here sleeps in real time: the paused tokio clock jumps to the next
//! timer as soon as nothing else can run.
//!
//! [`SimCluster`] is the cluster for a test that plays its own scenario; [`run_swarm`] plays a seed:
//! clients, faults drawn from the seed, recovery, and a check of every invariant.

mod administrator;
mod classic_members;
mod clients;
mod clock;
mod copies;
mod disk_thread;
mod group_history;
mod group_seat;
mod history;
mod lives;
mod marks;
mod members;
mod nemesis;
mod network;
mod panics;
mod plan;
mod readers;
mod shrink;
mod staff;
mod stage;
mod swarm;
mod trace;
mod views;
mod world;

pub use clock::SimClock;
pub use marks::Mark;
pub use network::{SimNetwork, Traffic, Weather};
pub use shrink::{Shrunk, shrink};
pub use stage::Violation;
pub use swarm::{SwarmOptions, SwarmReport, run_swarm};
pub use world::{Boot, SimCluster, SimNode};
