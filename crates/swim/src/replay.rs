//! Which datagrams of a sender were seen, and how many it may send.

use std::collections::BTreeMap;

use rivven_core_types::planted;

use crate::event::DropReason;
use crate::micros::Micros;
use crate::profile::{Endpoint, MemberId};

/// Most datagrams taken from one member in a second. Only authenticated ones count, so that nobody
/// can use up another's share; a healthy member sends some tens, in a storm some hundreds.
const MAX_DATAGRAMS_PER_SECOND: u32 = 2_000;
/// A row that has no window.
pub(crate) const NO_WINDOW: u32 = u32::MAX;

/// The sequence numbers seen of one life of one sender: the highest, and which of the 63 below it
/// (RFC 4303 section 3.4.3). UDP reorders, so that "only ever upwards" would drop good datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub(crate) boot_id: u64,
    highest: u64,
    /// Bit i: `highest - i` was seen.
    seen: u64,
    /// The second that is being counted, and how many datagrams it has brought.
    second: u32,
    count: u32,
}

impl Window {
    /// Of this life nothing was seen yet.
    pub(crate) fn of_life(boot_id: u64) -> Self {
        Self {
            boot_id,
            ..Self::default()
        }
    }

    /// Takes note of a datagram; an error if it is a replay, of an earlier life, or one too many.
    pub(crate) fn accept(
        &mut self,
        now: Micros,
        boot_id: u64,
        sequence: u64,
    ) -> Result<(), DropReason> {
        if boot_id < self.boot_id {
            return Err(DropReason::StaleSender);
        }
        if boot_id > self.boot_id {
            *self = Self::of_life(boot_id);
        }
        if !self.note(sequence) && !planted("swim.takes-replays") {
            return Err(DropReason::Replayed);
        }
        // Wraps after 136 years.
        let second = u32::try_from(now.0 / 1_000_000).unwrap_or(u32::MAX);
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        if self.count > MAX_DATAGRAMS_PER_SECOND {
            return Err(DropReason::RateLimited);
        }
        Ok(())
    }

    pub(crate) const fn note(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead < 64 {
                self.seen << ahead | 1
            } else {
                1
            };
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= 64 || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// The windows of all senders heard in this life: those of members stand beside the table, found by
/// the number in their row; those of others, who may be about to join or were forgotten, by id.
#[derive(Debug)]
pub(crate) struct Windows {
    members: Vec<Window>,
    free: Vec<u32>,
    strangers: BTreeMap<MemberId, Window>,
    max_strangers: usize,
}

impl Windows {
    pub(crate) const fn new(max_strangers: usize) -> Self {
        Self {
            members: Vec::new(),
            free: Vec::new(),
            strangers: BTreeMap::new(),
            max_strangers,
        }
    }

    /// Takes note of a datagram of a member; `number` is its row's.
    pub(crate) fn accept_member(
        &mut self,
        now: Micros,
        number: &mut u32,
        sender: Endpoint,
        sequence: u64,
    ) -> Result<(), DropReason> {
        if *number == NO_WINDOW {
            *number = self.allocate();
        }
        let at = usize::try_from(*number).unwrap_or(usize::MAX);
        let window = self.members.get_mut(at).ok_or(DropReason::Overloaded)?;
        window.accept(now, sender.boot_id, sequence)
    }

    /// Takes note of a datagram of somebody who is no member.
    pub(crate) fn accept_stranger(
        &mut self,
        now: Micros,
        sender: Endpoint,
        sequence: u64,
    ) -> Result<(), DropReason> {
        if !self.strangers.contains_key(&sender.id) && self.strangers.len() >= self.max_strangers {
            // The one whose last word is longest ago can be missed best.
            let oldest = self
                .strangers
                .iter()
                .min_by_key(|(_, window)| window.second);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.strangers.remove(&id);
            }
        }
        let window = self.strangers.entry(sender.id).or_default();
        window.accept(now, sender.boot_id, sequence)
    }

    /// The newest life heard of somebody who is no member.
    pub(crate) fn stranger_boot(&self, id: MemberId) -> Option<u64> {
        self.strangers.get(&id).map(|window| window.boot_id)
    }

    /// A stranger becomes a member: the number for its row.
    pub(crate) fn adopt(&mut self, id: MemberId) -> u32 {
        let Some(window) = self.strangers.remove(&id) else {
            return NO_WINDOW;
        };
        let number = self.allocate();
        self.put(number, window);
        number
    }

    /// A member is forgotten: what was heard of it stays known, or its old datagrams would be new.
    pub(crate) fn dismiss(&mut self, number: u32, id: MemberId) {
        if number == NO_WINDOW {
            return;
        }
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(window) = self.members.get_mut(at) {
            if self.strangers.len() < self.max_strangers {
                self.strangers.insert(id, *window);
            }
            *window = Window::default();
            self.free.push(number);
        }
    }

    fn allocate(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        if self.members.len() == self.members.capacity() {
            // Growing by an eighth instead of doubling keeps what a member costs near its size.
            self.members.reserve_exact(self.members.len() / 8 + 16);
        }
        self.members.push(Window::default());
        u32::try_from(self.members.len() - 1).unwrap_or(NO_WINDOW)
    }

    fn put(&mut self, number: u32, window: Window) {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(place) = self.members.get_mut(at) {
            *place = window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_takes_each_number_once_in_any_order() {
        let mut window = Window::default();
        let mut take = |boot, sequence| window.accept(Micros(0), boot, sequence);
        for sequence in [5, 3, 4, 70, 69, 8] {
            assert_eq!(take(1, sequence), Ok(()), "{sequence}");
        }
        for sequence in [5, 3, 70, 69, 8, 6] {
            assert_eq!(take(1, sequence), Err(DropReason::Replayed), "{sequence}");
        }
        assert_eq!(take(2, 1), Ok(()));
        assert_eq!(take(1, 99), Err(DropReason::StaleSender));
    }

    #[test]
    fn a_member_that_floods_is_cut_off_for_the_rest_of_the_second() {
        let mut window = Window::default();
        let taken = (1..=3_000)
            .filter(|sequence| window.accept(Micros(5_000_000), 1, *sequence).is_ok())
            .count();
        assert_eq!(taken, 2_000);
        assert_eq!(window.accept(Micros(6_000_000), 1, 3_001), Ok(()));
    }

    #[test]
    fn who_is_forgotten_cannot_be_replayed() {
        let mut windows = Windows::new(2);
        let sender = |id| Endpoint {
            id: MemberId(id),
            boot_id: 1,
        };
        let mut number = NO_WINDOW;
        let now = Micros(0);
        windows
            .accept_member(now, &mut number, sender(1), 7)
            .unwrap();
        windows.dismiss(number, MemberId(1));
        let replayed = windows.accept_stranger(now, sender(1), 7);
        assert_eq!(replayed, Err(DropReason::Replayed));
        // However many strangers come, what is kept of them is bounded.
        for id in 2..100 {
            windows.accept_stranger(now, sender(id), 1).unwrap();
        }
        assert_eq!(windows.strangers.len(), 2);
    }
}
