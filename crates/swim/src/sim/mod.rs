//! A discrete-event simulation of many detectors: latency, loss, cuts, pauses and clocks from one seed,
//! with the protocol's invariants checked at every event. It runs the same core as production, and the
//! rule tests, the scenarios and `cargo xtask bench swim` share it.
//!
//! Invariants, checked at each step: only a member raises its own incarnation; what an observer holds
//! of a member only grows by (boot id, incarnation, state), so that nobody rises from the dead; no
//! datagram is longer than [`crate::MAX_SWIM_DATAGRAM_BYTES`], damaged ones are never taken and others
//! once; no piece of news is told more often than the bound; nobody is so loud that an honest peer has
//! to cut it off.

mod faults;
mod flight;
mod invariants;
mod network;
mod recording;
mod scenarios;
mod swarm;

pub use faults::{Faults, Measured};
pub use network::Simulation;
pub use recording::Recorded;
pub use scenarios::{
    Crash, FalseAlarms, crash, false_alarms, heal_after_partition, join_through_one, leave,
    mass_failure, restart, rolling_restart, slow_members,
};
pub use swarm::{Played, swarm};
