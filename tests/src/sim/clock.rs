//! The clock of simulated nodes: tokio's, which stands still while anything can run.

use rivven_core_types::{Clock, MonoTime, UnixMillis};
use tokio::time::Instant;

/// Reads the (paused) clock of the current tokio runtime.
#[derive(Debug)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_origin(Instant::now().duration_since(self.origin))
    }

    fn wall(&self) -> UnixMillis {
        let millis = self.now().since_origin().as_millis();
        UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}
