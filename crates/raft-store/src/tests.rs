//! Tests of the crate as a whole.

mod cluster;
mod conformance;
mod node;
mod store;
mod world;
