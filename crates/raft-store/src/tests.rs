//! Tests of the crate as a whole.

mod barrier;
mod cluster;
mod conformance;
mod crash;
mod determinism;
mod membership;
mod node;
mod offline;
mod store;
mod versions;
mod world;
