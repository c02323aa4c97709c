//! Judging what clients saw: is a history linearizable, is a log what was appended to it, is what was
//! read what the input said, are the replicas' files equal.

mod append_log;
mod input;
mod linearizability;
mod models;
mod stamp;

pub use append_log::{Anomaly, AppendLog, LogReport, MAX_OFFSETS};
pub use input::{Verdict, compare_replicas, judge};
pub use linearizability::{
    History, Model, Operation, Outcome, Violation, check_linearizable, check_linearizable_by_key,
};
pub use models::{CreateOnce, CreateResult, Register, RegisterOp, RegisterResult};
pub use stamp::{Stamp, StampError};
