//! Tests of the crate as a whole.

mod barrier;
mod cluster;
mod conformance;
mod determinism;
mod node;
mod store;
mod world;
