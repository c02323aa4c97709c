//! Waiting for conditions, with deadlines.

use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How often a condition is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits the time between two looks at a condition. Processes cannot be subscribed to, so this is the
/// one place where the harness lets time pass.
pub async fn pause(interval: Duration) {
    // sleep-ok: the pause between two looks at another process; every caller has a deadline.
    tokio::time::sleep(interval).await;
}

/// Calls `look` until it yields a value; after `limit` fails with `what` and the last reason that
/// `look` gave for not yielding one.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(reason) if started.elapsed() >= limit => {
                let limit = limit.as_secs_f32();
                return Err(Failure::new(format!(
                    "not within {limit} s: {what}; at last: {reason}"
                )));
            }
            Err(_) => pause(POLL_INTERVAL).await,
        }
    }
}
