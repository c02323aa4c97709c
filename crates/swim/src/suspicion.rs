//! How long a suspected member has to refute: Lifeguard's dynamic timeout.

use rivven_core_types::planted;

use crate::message::Accusers;
use crate::micros::Micros;
use crate::profile::MemberId;

/// The longest timeout, as a multiple of the shortest.
const MAX_OVER_MIN: u64 = 6;
/// How many members besides the first must accuse before the shortest timeout applies.
const WANTED_CONFIRMATIONS: usize = 2;

/// How often the accused is asked by each observer itself, a period apart, before it is dead for that
/// observer: a refutation that was missed is made up for then.
const WARNINGS: u8 = 2;

/// A suspicion that runs. It starts with the longest timeout; every further member that cannot reach
/// the accused on its own shortens it, by the logarithm of their number (Dadgar, Phillips, Currey:
/// "Lifeguard", 2017, section IV-B).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspicion {
    pub(crate) started: Micros,
    min: Micros,
    confirmations_wanted: usize,
    pub(crate) accusers: Accusers,
    /// Put off by so much: this process stood still, or heard nobody.
    put_off: Micros,
    /// How often the accused is still asked before the end.
    warnings_left: u8,
}

impl Suspicion {
    /// `others` is how many live members there are besides this node and the accused.
    pub(crate) fn new(now: Micros, min: Micros, others: usize, accusers: Accusers) -> Self {
        Self {
            started: now,
            min,
            confirmations_wanted: others.min(WANTED_CONFIRMATIONS),
            accusers,
            put_off: Micros(0),
            warnings_left: WARNINGS,
        }
    }

    /// A suspicion on the word of somebody for whom the member is dead already: the accused gets twice
    /// the shortest timeout, whoever else accuses.
    pub(crate) fn by_hearsay(now: Micros, min: Micros) -> Self {
        Self {
            started: now,
            min: min.times(2),
            confirmations_wanted: 0,
            accusers: Accusers::default(),
            put_off: Micros(0),
            warnings_left: WARNINGS,
        }
    }

    /// Whether the accuser is new and counts.
    pub(crate) fn confirm(&mut self, accuser: MemberId) -> bool {
        self.accusers.as_slice().len() <= self.confirmations_wanted && self.accusers.add(accuser)
    }

    pub(crate) fn deadline(&self) -> Micros {
        if planted("swim.no-time-to-refute") {
            return self.started;
        }
        let confirmations = self.accusers.as_slice().len().saturating_sub(1);
        let max = self.min.times(MAX_OVER_MIN);
        // log(n + 1) / log(k + 1) in thousandths; k is at most two.
        let thousandths = match (confirmations, self.confirmations_wanted) {
            (n, k) if n >= k => 1000,
            (1, 2) => 631,
            _ => 0,
        };
        let shorter = Micros((max - self.min).0 / 1000 * thousandths);
        self.started + (max - shorter) + self.put_off
    }

    /// When the accused is to be warned, or, once it was, when the suspicion ends.
    pub(crate) fn next_step(&self, interval: Micros) -> Micros {
        self.deadline() - interval.times(u64::from(self.warnings_left))
    }

    /// Takes note of a warning given now; `false` if it had its last one before. The accused always gets
    /// half a period after a warning, however late others' confirmations have made it.
    pub(crate) fn warn(&mut self, now: Micros, interval: Micros) -> bool {
        let Some(left) = self.warnings_left.checked_sub(1) else {
            return false;
        };
        self.warnings_left = left;
        if planted("swim.no-time-to-refute") {
            return false;
        }
        let least = now + Micros(interval.0 / 2);
        self.put_off(least - self.deadline());
        true
    }

    pub(crate) fn put_off(&mut self, by: Micros) {
        self.put_off = self.put_off + by;
    }

    /// Whether it has run long enough that another's word that the member is dead is believed.
    pub(crate) fn is_ripe(&self, now: Micros) -> bool {
        now - self.started >= Micros(self.min.0 / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_independent_confirmation_shortens_the_timeout() {
        let start = Micros(1_000_000);
        let min = Micros(400_000);
        let mut suspicion = Suspicion::new(start, min, 10, Accusers::one(MemberId(1)));
        assert_eq!(suspicion.deadline() - start, Micros(2_400_000));
        assert!(!suspicion.confirm(MemberId(1)), "the same one again");
        assert!(suspicion.confirm(MemberId(2)));
        assert_eq!(suspicion.deadline() - start, Micros(1_138_000));
        assert!(suspicion.confirm(MemberId(3)));
        assert_eq!(suspicion.deadline() - start, min);
        assert!(!suspicion.confirm(MemberId(4)), "no more are wanted");
        suspicion.put_off(Micros(5));
        assert_eq!(suspicion.deadline() - start, Micros(400_005));
    }

    #[test]
    fn the_accused_is_warned_twice_and_has_half_a_period_after_the_last_warning() {
        let (min, interval) = (Micros(400_000), Micros(100_000));
        let mut suspicion = Suspicion::new(Micros(0), min, 0, Accusers::one(MemberId(1)));
        assert_eq!(suspicion.next_step(interval), Micros(200_000));
        assert!(suspicion.warn(Micros(200_000), interval));
        assert_eq!(suspicion.next_step(interval), Micros(300_000));
        assert!(suspicion.warn(Micros(390_000), interval));
        assert_eq!(suspicion.next_step(interval), Micros(440_000));
        assert!(!suspicion.warn(Micros(440_000), interval));
    }

    #[test]
    fn where_nobody_else_could_confirm_the_timeout_is_the_shortest() {
        let min = Micros(400_000);
        let suspicion = Suspicion::new(Micros(0), min, 0, Accusers::one(MemberId(1)));
        assert_eq!(suspicion.deadline(), min);
    }
}
