//! What replicas that catch up may cost, in bytes per second (KIP-73).

use std::time::Duration;

use rivven_core_types::MonoTime;

const NANOS_PER_SECOND: i128 = 1_000_000_000;
/// What has not been used for longer than this is gone: a pause earns no burst that would crowd out
/// the replicas in sync.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket of bytes. A batch is never split, so that it may be overdrawn; what was overdrawn is
/// earned back before anything else is granted, and the rate holds over time whatever the batches are.
#[derive(Debug)]
pub(super) struct TokenBucket {
    bytes_per_second: u64,
    /// In bytes x nanoseconds, which makes the sums exact.
    balance: i128,
    at: MonoTime,
}

impl TokenBucket {
    /// A bucket that grants so many bytes per second, which must not be zero.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            balance: 0,
            at: MonoTime::default(),
        }
    }

    fn earn(&mut self, now: MonoTime) {
        let rate = i128::from(self.bytes_per_second);
        let elapsed = i128::try_from(now.since(self.at).as_nanos()).unwrap_or(i128::MAX);
        let most = rate * i128::try_from(BURST.as_nanos()).unwrap_or(i128::MAX);
        self.at = self.at.max(now);
        self.balance = elapsed
            .saturating_mul(rate)
            .saturating_add(self.balance)
            .min(most);
    }

    /// How many bytes may be asked for now.
    pub(super) fn available(&mut self, now: MonoTime) -> usize {
        self.earn(now);
        usize::try_from(self.balance.max(0) / NANOS_PER_SECOND).unwrap_or(usize::MAX)
    }

    /// Takes what was transferred.
    pub(super) fn spend(&mut self, now: MonoTime, bytes: usize) {
        self.earn(now);
        let spent = i128::try_from(bytes).unwrap_or(i128::MAX / NANOS_PER_SECOND);
        self.balance = self.balance.saturating_sub(spent * NANOS_PER_SECOND);
    }

    /// When something is granted again, if not now.
    pub(super) fn not_before(&mut self, now: MonoTime) -> Option<MonoTime> {
        if self.available(now) > 0 {
            return None;
        }
        let missing = NANOS_PER_SECOND - self.balance;
        let rate = i128::from(self.bytes_per_second);
        let nanos = u64::try_from(missing / rate + 1).unwrap_or(u64::MAX);
        Some(now + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(nanos: u64) -> MonoTime {
        MonoTime::from_origin(Duration::from_nanos(nanos))
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let mut bucket = TokenBucket::new(1_000_000);
        assert_eq!(bucket.available(at(3_600_000_000_000)), 100_000);
        bucket.spend(at(3_600_000_000_000), 300_000);
        assert_eq!(bucket.available(at(3_600_100_000_000)), 0);
        let again = bucket.not_before(at(3_600_100_000_000));
        assert_eq!(again, Some(at(3_600_200_001_001)));
        assert_eq!(bucket.not_before(at(3_600_200_001_001)), None);
    }

    #[test]
    fn a_clock_that_stands_still_grants_nothing_twice() {
        let mut bucket = TokenBucket::new(1_000_000);
        let now = at(1_000_000_000);
        let granted = bucket.available(now);
        bucket.spend(now, granted);
        assert_eq!(bucket.available(now), 0);
        assert_eq!(bucket.available(at(0)), 0);
    }

    proptest! {
        /// Whoever always takes what he gets, in batches of any size, gets the rate.
        #[test]
        fn the_rate_holds_for_every_size_of_batch(
            rate in 1_000u64..100_000_000,
            batch in 1usize..2_000_000,
            step_ms in 1u64..50,
        ) {
            let mut bucket = TokenBucket::new(rate);
            // Long enough for 20 batches and 200 steps.
            let need = (20 * batch as u64 * 1_000 / rate).max(200 * step_ms);
            let (mut now_ms, mut bytes) = (0, 0usize);
            while now_ms < need {
                now_ms += step_ms;
                let now = at(now_ms * 1_000_000);
                while bucket.available(now) > 0 {
                    bucket.spend(now, batch);
                    bytes += batch;
                }
            }
            let due = rate as f64 * now_ms as f64 / 1_000.0;
            let slack = due * 0.1 + batch as f64;
            prop_assert!((bytes as f64 - due).abs() <= slack, "{bytes} bytes where {due} were due");
        }
    }
}
