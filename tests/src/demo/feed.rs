//! The pace at which records are handed to the producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::teller::{Position, Teller};
use crate::failure::Failure;
use crate::flights::InputRecord;
use crate::kafka::Producer;
use crate::wait;

/// How long the producer takes at full pace: somewhat more than the promised ten seconds.
pub(super) const DURATION: Duration = Duration::from_millis(10_500);
/// How often records are handed over.
const TICK: Duration = Duration::from_millis(4);
/// Longest time for which records are made up after a stall, so that a stall causes no burst.
const MAX_CATCH_UP: Duration = Duration::from_millis(100);
/// Below the limit the pace falls such that the rest would take this long.
const APPROACH: Duration = Duration::from_millis(1_500);
/// Slowest pace, in records per second.
const SLOWEST: u64 = 40;

/// How far the producer may go, and how far it is. While a node is awaited, the pace falls towards the
/// limit instead of stopping, so that there are always requests in flight.
#[derive(Debug)]
pub(super) struct Pace {
    limit: AtomicUsize,
    sent: AtomicUsize,
    total: usize,
}

impl Pace {
    pub(super) fn new(total: usize, limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            sent: AtomicUsize::new(0),
            total,
        }
    }

    /// Records that were handed to the producer.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Records that were not.
    pub(super) fn unsent(&self) -> usize {
        self.total - self.sent()
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Millionths of a record that may be sent in `elapsed`.
    fn credit(&self, elapsed: Duration) -> u64 {
        let count = |records: usize| u64::try_from(records).unwrap_or(u64::MAX);
        let limit = self.limit.load(Ordering::Relaxed);
        let gap = count(limit.saturating_sub(self.sent()));
        let full = count(self.total).saturating_mul(1_000) / millis(DURATION);
        let approach = gap.saturating_mul(1_000) / millis(APPROACH);
        let rate = match gap {
            0 => 0,
            _ if limit >= self.total => full.max(1),
            _ => approach.max(SLOWEST).min(full.max(1)),
        };
        let micros = u64::try_from(elapsed.min(MAX_CATCH_UP).as_micros()).unwrap_or(u64::MAX);
        rate.saturating_mul(micros)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// Hands all records over at the pace, shows the progress, and returns the producer.
pub(super) async fn feed(
    mut producer: Producer,
    records: Arc<Vec<InputRecord>>,
    pace: Arc<Pace>,
    teller: Arc<Teller>,
) -> Result<Producer, Failure> {
    let progress = producer.progress();
    let started = Instant::now();
    let (mut last, mut credit) = (started, 0);
    for (number, record) in records.iter().enumerate() {
        while credit < 1_000_000 {
            wait::pause(TICK).await;
            let now = Instant::now();
            credit += pace.credit(now - last);
            last = now;
            teller.progress(Position {
                acked: progress.acked(),
                records: records.len(),
                in_flight: progress.in_flight(None),
                elapsed: started.elapsed(),
            });
        }
        credit -= 1_000_000;
        producer.send(number, record).await?;
        pace.sent.store(producer.sent(), Ordering::Relaxed);
    }
    Ok(producer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_falls_towards_the_limit_and_stops_there() {
        let pace = Pace::new(10_500, 5_000);
        let tick = Duration::from_millis(10);
        assert_eq!(pace.credit(tick), 10_000_000, "a thousand per second");
        pace.sent.store(4_850, Ordering::Relaxed);
        assert_eq!(pace.credit(tick), 1_000_000, "150 in 1.5 s");
        pace.sent.store(4_999, Ordering::Relaxed);
        assert_eq!(pace.credit(tick), 400_000, "the slowest");
        pace.sent.store(5_000, Ordering::Relaxed);
        assert_eq!(pace.credit(tick), 0);
        pace.set_limit(10_500);
        assert_eq!(
            pace.credit(Duration::from_secs(5)),
            100_000_000,
            "no burst after a stall"
        );
    }
}
