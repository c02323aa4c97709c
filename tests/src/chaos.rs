//! Harm done to a cluster of real processes under load, as drawn from a seed: processes killed and frozen,
//! networks cut and slowed, disks full and failing, clocks moved. Every record is checked at the end.

mod creators;
mod faults;
mod librdkafka;
mod nemesis;
mod network;
mod options;
mod proxy;
mod report;
mod run;
mod stage;
mod workload;

pub use nemesis::Nemesis;
pub use options::{ChaosOptions, HELP, Request};
pub use proxy::run_proxy;
pub use run::run_chaos;
