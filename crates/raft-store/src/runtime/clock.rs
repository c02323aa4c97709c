//! A node's clock in the simulator: a piecewise linear map of the simulated time.

use std::time::Duration;

use tokio::time::Instant;

/// Parts per million.
const MILLION: i128 = 1_000_000;
/// The slowest and the fastest clock, in parts per million beside the true rate.
const RATE_BOUND_PPM: i32 = 500_000;

/// Local time as a function of the true time. It never goes back.
#[derive(Debug)]
pub(super) struct NodeClock {
    /// From this true time on, the clock runs at its rate; before, it stands at `local`.
    anchor: Instant,
    local: Instant,
    rate_ppm: i32,
}

fn scale(duration: Duration, numerator: i128, denominator: i128, round_up: bool) -> Duration {
    let nanos = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / MILLION / 2);
    let up = if round_up { denominator - 1 } else { 0 };
    let scaled = (nanos * numerator + up) / denominator;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
}

impl NodeClock {
    /// A true clock.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            anchor: now,
            local: now,
            rate_ppm: 0,
        }
    }

    fn rate(&self) -> i128 {
        MILLION + i128::from(self.rate_ppm)
    }

    /// What the clock shows at a true time.
    pub(super) fn local(&self, now: Instant) -> Instant {
        let run = now.saturating_duration_since(self.anchor);
        self.local + scale(run, self.rate(), MILLION, false)
    }

    /// The first true time at which the clock shows `local` or more.
    pub(super) fn due(&self, local: Instant) -> Instant {
        let left = local.saturating_duration_since(self.local);
        let wait = scale(left, MILLION, self.rate(), true);
        // A deadline too far to be represented is never reached.
        const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
        self.anchor
            .checked_add(wait)
            .unwrap_or_else(|| self.anchor + FAR)
    }

    pub(super) fn set_rate(&mut self, now: Instant, ppm: i32) {
        self.settle(now);
        self.rate_ppm = ppm.clamp(-RATE_BOUND_PPM, RATE_BOUND_PPM);
    }

    pub(super) fn jump(&mut self, now: Instant, by: Duration) {
        self.settle(now);
        self.local += by;
    }

    pub(super) fn stall(&mut self, now: Instant, time: Duration) {
        self.settle(now);
        self.anchor = self.anchor.max(now) + time;
    }

    /// Moves the anchor to `now`; a stall that lasts goes on.
    fn settle(&mut self, now: Instant) {
        self.local = self.local(now);
        self.anchor = self.anchor.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_drifts_jumps_stalls_and_never_goes_back() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let mut clock = NodeClock::new(start);
        clock.set_rate(at(0), 10_000);
        assert_eq!(clock.local(at(100)) - start, SECOND * 101);
        clock.set_rate(at(100), -10_000);
        assert_eq!(clock.local(at(200)) - start, SECOND * 200);
        clock.jump(at(200), SECOND / 2);
        assert_eq!(clock.local(at(200)) - start, SECOND * 200 + SECOND / 2);
        clock.stall(at(200), SECOND * 5);
        assert_eq!(clock.local(at(204)), clock.local(at(200)));
        clock.set_rate(at(202), 0);
        assert_eq!(clock.local(at(205)), clock.local(at(200)));
        assert_eq!(clock.local(at(206)) - clock.local(at(205)), SECOND);
    }

    #[test]
    fn a_deadline_is_due_exactly_when_the_clock_shows_it() {
        let start = Instant::now();
        for ppm in [-10_000, -333, 0, 7, 10_000, i32::MAX] {
            let mut clock = NodeClock::new(start);
            clock.set_rate(start, ppm);
            for nanos in [1, 999, 1_000_003, 10_000_000_007] {
                let deadline = start + Duration::from_nanos(nanos);
                let due = clock.due(deadline);
                assert!(clock.local(due) >= deadline);
                assert!(clock.local(due - Duration::from_nanos(1)) < deadline);
            }
        }
    }
}
