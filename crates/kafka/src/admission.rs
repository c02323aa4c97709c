//! How many connections there may be, and how often a refusal is logged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::metrics::OpenConnection;

/// Why a connection was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Total,
    Source,
}

impl Refused {
    /// The reason as a metric label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Total => "connections",
            Self::Source => "connections_per_source",
        }
    }
}

/// Counts connections, in all and per source address. The map holds sources with a connection only,
/// so it is bounded by the number of connections.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    max_per_source: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    sources: BTreeMap<IpAddr, usize>,
}

impl Admission {
    pub(crate) fn new(config: &KafkaConfig) -> Self {
        Self {
            max: config.max_connections,
            max_per_source: config.max_connections_per_source,
            open: Mutex::default(),
        }
    }

    /// Takes a connection in, until the ticket is dropped.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Ticket, Refused> {
        // An IPv4 client of a dual-stack listener is one source, however it is written.
        let source = source.to_canonical();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.max {
            return Err(Refused::Total);
        }
        let count = open.sources.entry(source).or_default();
        if *count >= self.max_per_source {
            return Err(Refused::Source);
        }
        *count += 1;
        open.total += 1;
        drop(open);
        Ok(Ticket {
            admission: Arc::clone(self),
            source,
            _gauge: OpenConnection::new(),
        })
    }
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    source: IpAddr,
    _gauge: OpenConnection,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self
            .admission
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.sources.remove(&self.source);
            }
        }
    }
}

/// Lets one message through per interval and counts the others: clients that are refused come back
/// without a pause, tens of times a second.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    state: Mutex<(Option<Instant>, u64)>,
}

/// Least time between two messages.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

impl LogGate {
    /// `Some(suppressed)` if a message may be logged now, with how many were not since the last.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now - last < LOG_INTERVAL) {
            state.1 += 1;
            return None;
        }
        let suppressed = state.1;
        *state = (Some(now), 0);
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max: usize, max_per_source: usize) -> Arc<Admission> {
        Arc::new(Admission::new(&KafkaConfig {
            max_connections: max,
            max_connections_per_source: max_per_source,
            ..KafkaConfig::default()
        }))
    }

    #[test]
    fn connections_are_bounded_in_all_and_per_source_and_places_come_back() {
        let admission = admission(3, 2);
        let source = |last: u8| IpAddr::from([10, 0, 0, last]);
        let first = admission.admit(source(1)).unwrap();
        let _second = admission.admit(source(1)).unwrap();
        assert_eq!(admission.admit(source(1)).err(), Some(Refused::Source));
        let _third = admission.admit(source(2)).unwrap();
        assert_eq!(admission.admit(source(3)).err(), Some(Refused::Total));
        drop(first);
        assert!(admission.admit(source(1)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_logged_once_a_second() {
        let gate = LogGate::default();
        assert_eq!(gate.pass(), Some(0));
        assert_eq!(gate.pass(), None);
        assert_eq!(gate.pass(), None);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(gate.pass(), Some(2));
    }
}
