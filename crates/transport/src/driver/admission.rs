//! How many strangers may be at the door.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::lifecycle::lock;
use crate::config::TransportLimits;

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    per_source: BTreeMap<IpAddr, usize>,
}

/// Counts the accepted connections that have not finished the handshake.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Mutex<Counts>>);

/// A place at the door, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Door,
    source: IpAddr,
}

impl Door {
    /// How many are at the door.
    #[cfg(feature = "quic")]
    pub(super) fn crowd(&self) -> usize {
        lock(&self.0).total
    }

    /// A place for a connection from `source`; `None` when the door, or that source's share, is full.
    pub(super) fn admit(&self, source: IpAddr, limits: &TransportLimits) -> Option<Place> {
        let mut counts = lock(&self.0);
        let here = counts.per_source.get(&source).copied().unwrap_or(0);
        let full = counts.total >= limits.max_unauthenticated
            || here >= limits.max_unauthenticated_per_source;
        if full {
            return None;
        }
        counts.total += 1;
        counts.per_source.insert(source, here + 1);
        let door = self.clone();
        Some(Place { door, source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.door.0);
        counts.total = counts.total.saturating_sub(1);
        if let Some(here) = counts.per_source.get_mut(&self.source) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                counts.per_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place_at_the_door() {
        let limits = TransportLimits {
            max_unauthenticated: 3,
            max_unauthenticated_per_source: 2,
            ..TransportLimits::default()
        };
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let door = Door::default();
        let first = door.admit(a, &limits).unwrap();
        let _second = door.admit(a, &limits).unwrap();
        assert!(door.admit(a, &limits).is_none());
        let _third = door.admit(b, &limits).unwrap();
        assert!(door.admit(b, &limits).is_none(), "the door is full");
        drop(first);
        assert!(door.admit(a, &limits).is_some());
        assert_eq!(lock(&door.0).per_source.len(), 2);
    }
}
