//! What is still to be told, and to whom it was told how often.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::planted;

use crate::registry::Slot;

/// How urgent a piece of news is, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A departure.
    Leave,
    /// This node refutes.
    Me,
    /// Somebody is suspected.
    Suspect,
    /// Somebody refuted.
    Refuted,
    /// Somebody is dead.
    Gone,
    /// Somebody is new.
    Join,
    /// Somebody's profile changed.
    Profile,
}

impl Class {
    /// Whether it is worth a datagram of its own.
    pub(crate) const fn is_urgent(self) -> bool {
        !matches!(self, Self::Profile)
    }

    /// Whether the whole profile is told, for those who cannot have it.
    pub(crate) const fn is_full(self) -> bool {
        matches!(self, Self::Join | Self::Profile)
    }
}

/// What became of a piece of news that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is in.
    Yes,
    /// There is no room for it.
    NoRoom,
    /// There is nothing to tell any more.
    Obsolete,
}

/// Pieces tried in vain before a datagram counts as full.
const MAX_MISFITS: usize = 4;

type Order = (Class, u16, Reverse<u32>, Slot);

/// The news that is still to be told: one piece per member, the least told of the most urgent class
/// first, and of those the newest.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: BTreeMap<Slot, Order>,
    order: BTreeSet<Order>,
    age: u32,
    /// How many pieces are urgent and not yet told often enough to wait for the next ping.
    urgent: usize,
    /// Up to how many times a piece is urgent.
    urgent_until: u16,
    picked: Vec<Order>,
}

impl Outbox {
    /// Tells a member's news from now on, in place of older news of it.
    pub(crate) fn push(&mut self, slot: Slot, class: Class) {
        self.remove(slot);
        self.age = self.age.wrapping_add(1);
        self.insert((class, 0, Reverse(self.age), slot));
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(order) = self.pending.remove(&slot) {
            self.order.remove(&order);
            self.urgent -= usize::from(self.is_urgent(&order));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether something is worth a datagram of its own.
    pub(crate) const fn has_urgent(&self) -> bool {
        self.urgent > 0
    }

    /// Whether something waits that is told only when there is room to spare.
    pub(crate) fn has_patient(&self) -> bool {
        self.order
            .last()
            .is_some_and(|(class, ..)| !class.is_urgent())
    }

    /// A piece is urgent until it has been told so often.
    pub(crate) fn set_urgent_until(&mut self, times: u16) {
        if self.urgent_until != times {
            self.urgent_until = times;
            let urgent = self.order.iter().filter(|order| self.is_urgent(order));
            self.urgent = urgent.count();
        }
    }

    /// Offers pieces in their order until there is no room; those written count as told once more,
    /// and after `limit` times they are dropped.
    pub(crate) fn pick(&mut self, limit: u16, mut write: impl FnMut(Slot, Class) -> Written) {
        let mut picked = std::mem::take(&mut self.picked);
        let mut misfits = 0;
        for order in &self.order {
            let (class, _, _, slot) = *order;
            match write(slot, class) {
                Written::Yes | Written::Obsolete => picked.push(*order),
                Written::NoRoom => misfits += 1,
            }
            if misfits == MAX_MISFITS {
                break;
            }
        }
        for order in picked.drain(..) {
            let (class, told, age, slot) = order;
            self.remove(slot);
            if told + 1 < limit || planted("swim.tells-for-ever") {
                self.insert((class, told + 1, age, slot));
            }
        }
        self.picked = picked;
    }

    /// How often the piece that was told most was told.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn most_told(&self) -> u16 {
        let told = self.pending.values().map(|(_, told, ..)| *told);
        told.max().unwrap_or(0)
    }

    fn insert(&mut self, order: Order) {
        self.urgent += usize::from(self.is_urgent(&order));
        self.order.insert(order);
        self.pending.insert(order.3, order);
    }

    fn is_urgent(&self, (class, told, ..): &Order) -> bool {
        class.is_urgent() && *told < self.urgent_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_and_least_told_goes_first_and_nothing_is_told_for_ever() {
        let mut outbox = Outbox::default();
        outbox.set_urgent_until(1);
        outbox.push(Slot(1), Class::Profile);
        outbox.push(Slot(2), Class::Gone);
        outbox.push(Slot(3), Class::Suspect);
        outbox.push(Slot(4), Class::Gone);
        assert!(outbox.has_urgent() && outbox.has_patient());
        let mut told = Vec::new();
        for _ in 0..3 {
            let mut room = 2;
            outbox.pick(2, |slot, _| {
                if room == 0 {
                    return Written::NoRoom;
                }
                room -= 1;
                told.push(slot.0);
                Written::Yes
            });
        }
        assert_eq!(told, [3, 4, 3, 2, 4, 2]);
        assert!(!outbox.has_urgent() && !outbox.is_empty());
        outbox.push(Slot(1), Class::Leave);
        assert!(outbox.has_urgent());
        outbox.remove(Slot(1));
        assert!(outbox.is_empty() && !outbox.has_urgent());
    }
}
