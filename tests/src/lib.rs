//! Harness for whole-cluster tests: the simulator, the cluster of real processes with a Kafka client
//! and checkers of what it reads, and the demo.

pub mod bench;
pub mod chaos;
pub mod check;
pub mod demo;
mod failure;
pub mod flights;
pub mod fuzz;
pub mod http;
pub mod kafka;
pub mod process;
pub mod sim;
mod status;
pub mod wait;

pub use failure::{Doing, Failure};
pub use status::Status;
