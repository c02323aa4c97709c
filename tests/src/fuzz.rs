//! Fuzzing on stable: valid messages, from the encoders and from a directory, are changed at random, with
//! checksums put right half of the time, and given to every decoder that reads what strangers send or
//! disks hold. A panic, a decoder that takes seconds or more memory than the limit is a finding.

mod mutate;
mod options;
mod run;
mod samples;
mod targets;

pub use options::{FuzzOptions, HELP, Request};
pub use run::run_fuzz;
pub use targets::{Target, targets};
