//! The clock of simulated nodes: tokio's, which stands still while anything can run, seen through the
//! node's own, which may drift, jump and stall.

use rivven_coordinator::NodeScope;
use rivven_core_types::{Clock, MonoTime, UnixMillis};
use tokio::time::Instant;

/// Reads the clock of a simulated node.
#[derive(Debug)]
pub struct SimClock {
    scope: NodeScope,
    origin: Instant,
}

impl SimClock {
    /// The clock of this node, whose origin is now.
    pub fn new(scope: NodeScope) -> Self {
        let origin = scope.local_now();
        Self { scope, origin }
    }
}

impl Clock for SimClock {
    fn now(&self) -> MonoTime {
        let elapsed = self
            .scope
            .local_now()
            .saturating_duration_since(self.origin);
        MonoTime::from_origin(elapsed)
    }

    fn wall(&self) -> UnixMillis {
        let millis = self.now().since_origin().as_millis();
        UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}
