//! The driver, three managers in one process on paused time.

mod cluster;
mod sessions;
pub(super) mod support;
mod throttle;
