//! Tests of the crate as a whole.

mod barrier;
mod cluster;
mod conformance;
mod determinism;
mod membership;
mod node;
mod offline;
mod store;
mod world;
