//! Time inside the core: whole microseconds, half the size of a [`MonoTime`].

use std::ops::{Add, Sub};
use std::time::Duration;

use rivven_core_types::MonoTime;

/// A point on this node's monotonic clock since its origin, or a span between two such points, in
/// microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Micros(pub(crate) u64);

impl Micros {
    /// Later than everything.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// This span that many times.
    pub(crate) const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// This span as a duration.
    pub(crate) const fn as_duration(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// This point as the ports know it.
    pub(crate) const fn as_mono(self) -> MonoTime {
        MonoTime::from_origin(self.as_duration())
    }
}

impl From<Duration> for Micros {
    fn from(span: Duration) -> Self {
        let whole = span.as_secs().saturating_mul(1_000_000);
        Self(whole.saturating_add(u64::from(span.subsec_micros())))
    }
}

impl From<MonoTime> for Micros {
    /// Rounded up, so that a timer that is due on the driver's clock is due here.
    fn from(point: MonoTime) -> Self {
        let since = point.since_origin();
        let rest = u64::from(!since.subsec_nanos().is_multiple_of(1_000));
        let whole = Self::from(since);
        Self(whole.0.saturating_add(rest))
    }
}

impl Add for Micros {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

/// Zero if `earlier` is later.
impl Sub for Micros {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}
