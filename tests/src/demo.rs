//! The demo: a cluster of three real processes takes real records, loses its controller and a leader
//! to kill -9, and loses no record.

mod feed;
mod keep;
mod options;
mod outcome;
mod run;
mod tell;
mod teller;

pub use options::{DemoOptions, HELP, Request};
pub use outcome::{Outcome, Summary};
pub use run::run_demo;
pub use teller::{Teller, thousands};
