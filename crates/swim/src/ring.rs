//! Whom this node watches at every second turn: the live member that follows it in the order of the ids.
//!
//! Rounds in random orders leave a member unprobed by everybody for seven periods now and then: the times
//! at which it is probed are as good as independent. On the ring of all ids everybody is watched by the
//! one before it, so that a crash is noticed within two periods of it at the latest (as Rapid watches over
//! rings; Suresh et al., USENIX ATC 2018). The other half of the turns goes round all members: it finds
//! those whose watcher died with them.

use crate::profile::MemberId;
use crate::registry::Slot;

/// The next live member on the ring, kept up to date without an order of all.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// How far ahead, and where.
    next: Option<(u64, Slot)>,
    /// The next one went: another may be nearer than what is held.
    stale: bool,
}

impl Ring {
    /// A member that is live now.
    pub(crate) fn gain(&mut self, own: MemberId, id: MemberId, slot: Slot) {
        let ahead = id.0.wrapping_sub(own.0);
        if self.next.is_none_or(|(nearest, _)| ahead < nearest) {
            self.next = Some((ahead, slot));
        }
    }

    /// A member that is live no longer.
    pub(crate) fn lose(&mut self, slot: Slot) {
        if self.next.is_some_and(|(_, next)| next == slot) {
            (self.next, self.stale) = (None, true);
        }
    }

    /// The next member; `live` gives all of them, should that be needed.
    pub(crate) fn next<I: Iterator<Item = (Slot, MemberId)>>(
        &mut self,
        own: MemberId,
        live: impl FnOnce() -> I,
    ) -> Option<Slot> {
        if std::mem::take(&mut self.stale) {
            self.next = None;
            for (slot, id) in live() {
                self.gain(own, id, slot);
            }
        }
        self.next.map(|(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_live_one_on_the_ring_is_watched_whoever_comes_and_goes() {
        let own = MemberId(100);
        let mut live: Vec<(Slot, MemberId)> = Vec::new();
        let mut ring = Ring::default();
        let mut rng = rivven_core_types::Rng::new(1);
        for step in 0..2_000u32 {
            if live.len() < 3 || rng.below(2) == 0 {
                let id = MemberId(rng.next_u64());
                live.push((Slot(step), id));
                ring.gain(own, id, Slot(step));
            } else {
                let at = usize::try_from(rng.below(live.len() as u64)).unwrap();
                let (slot, _) = live.swap_remove(at);
                ring.lose(slot);
            }
            let nearest = live
                .iter()
                .min_by_key(|(_, id)| id.0.wrapping_sub(own.0))
                .map(|(slot, _)| *slot);
            assert_eq!(ring.next(own, || live.iter().copied()), nearest);
        }
        // The ring is one: behind the greatest id comes the least.
        let mut ring = Ring::default();
        ring.gain(MemberId(u64::MAX), MemberId(7), Slot(1));
        ring.gain(MemberId(u64::MAX), MemberId(9), Slot(2));
        assert_eq!(
            ring.next(MemberId(u64::MAX), std::iter::empty),
            Some(Slot(1))
        );
    }
}
