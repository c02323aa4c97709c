//! What is held of the other members, and the choice of what to tell next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use rivven_core_types::{MonoTime, NodeInfo, NodeName};

use crate::member::MemberState;
use crate::message::{Update, update_bytes};

/// Most updates in one datagram; reached long after the bytes are, but it bounds the work.
pub(crate) const MAX_UPDATES_PER_DATAGRAM: usize = 64;

/// What evidence is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Evidence {
    pub(crate) boot_id: u64,
    pub(crate) incarnation: u64,
    pub(crate) state: MemberState,
}

/// What is held of one member.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) info: NodeInfo,
    pub(crate) held: Evidence,
    pub(crate) since: MonoTime,
    /// When the suspicion becomes a death; only while suspected.
    pub(crate) suspect_until: Option<MonoTime>,
    /// When the tombstone expires; only while dead or left.
    pub(crate) expires_at: Option<MonoTime>,
    /// When a datagram of this life last came from the member itself.
    pub(crate) heard_at: Option<MonoTime>,
    /// How often this change is still told before older ones.
    hot: u32,
    wire_bytes: usize,
}

impl Entry {
    pub(crate) const fn is_live(&self) -> bool {
        self.held.state.is_live()
    }

    fn update(&self, now: MonoTime, tombstone_ttl: Duration) -> Update {
        // Rounded up, so that a tombstone never gets younger on its way.
        let age = self.age(now, tombstone_ttl).as_millis().div_ceil(1000);
        Update {
            info: self.info.clone(),
            state: self.held.state,
            boot_id: self.held.boot_id,
            incarnation: self.held.incarnation,
            age_secs: u32::try_from(age).unwrap_or(u32::MAX),
        }
    }

    fn age(&self, now: MonoTime, tombstone_ttl: Duration) -> Duration {
        let left = self.expires_at.map_or(tombstone_ttl, |at| at.since(now));
        tombstone_ttl.saturating_sub(left)
    }
}

/// The other members. This node is not among them.
#[derive(Debug)]
pub(crate) struct Table {
    entries: BTreeMap<NodeName, Entry>,
    /// After whom the rotation goes on.
    cursor: Option<NodeName>,
    live: usize,
    tombstone_ttl: Duration,
}

impl Table {
    pub(crate) const fn new(tombstone_ttl: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            cursor: None,
            live: 0,
            tombstone_ttl,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many other members are live.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn get(&self, name: &NodeName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Entry)> {
        self.entries.iter()
    }

    /// Names of the live members except `except`, in order.
    pub(crate) fn live_names(&self, except: Option<&NodeName>) -> Vec<NodeName> {
        let live = self.entries.iter().filter(|(_, entry)| entry.is_live());
        live.filter(|(name, _)| Some(*name) != except)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Replaces what is held of a member; the caller has checked that the evidence is greater. `until`
    /// is when the suspicion or the tombstone ends.
    pub(crate) fn put(&mut self, now: MonoTime, info: NodeInfo, held: Evidence, until: MonoTime) {
        let name = info.name.clone();
        let before = self.entries.remove(&name);
        self.live -= usize::from(before.as_ref().is_some_and(Entry::is_live));
        self.live += usize::from(held.state.is_live());
        let same_life = before
            .as_ref()
            .filter(|before| before.held.boot_id == held.boot_id);
        let kept_since = same_life.filter(|before| before.held.state == held.state);
        let entry = Entry {
            held,
            since: kept_since.map_or(now, |before| before.since),
            suspect_until: (held.state == MemberState::Suspect).then_some(until),
            expires_at: (!held.state.is_live()).then_some(until),
            heard_at: same_life.and_then(|before| before.heard_at),
            hot: retransmissions(self.live + 1),
            wire_bytes: update_bytes(&info),
            info,
        };
        self.entries.insert(name, entry);
    }

    pub(crate) fn heard(&mut self, now: MonoTime, name: &NodeName, boot_id: u64) {
        let entry = self.entries.get_mut(name);
        if let Some(entry) = entry.filter(|entry| entry.held.boot_id == boot_id) {
            entry.heard_at = Some(now);
        }
    }

    /// Members whose suspicion has run out.
    pub(crate) fn overdue_suspects(&self, now: MonoTime) -> Vec<NodeName> {
        let overdue = |entry: &Entry| entry.suspect_until.is_some_and(|at| at <= now);
        let found = self.entries.iter().filter(|(_, entry)| overdue(entry));
        found.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn next_suspicion_end(&self) -> Option<MonoTime> {
        self.entries.values().filter_map(|e| e.suspect_until).min()
    }

    /// Moves every running suspicion's end by `gap`.
    pub(crate) fn prolong_suspicions(&mut self, gap: Duration) {
        for entry in self.entries.values_mut() {
            entry.suspect_until = entry.suspect_until.map(|at| at + gap);
        }
    }

    /// Forgets tombstones that have expired.
    pub(crate) fn take_expired(&mut self, now: MonoTime) -> Vec<NodeName> {
        let expired = |entry: &Entry| entry.expires_at.is_some_and(|at| at <= now);
        let found = self.entries.iter().filter(|(_, entry)| expired(entry));
        let names: Vec<NodeName> = found.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.entries.remove(name);
        }
        names
    }

    /// Forgets the tombstone that expires first, to make room.
    pub(crate) fn evict_tombstone(&mut self) -> Option<NodeName> {
        let tombstones = self.entries.iter();
        let (_, name) = tombstones
            .filter_map(|(name, entry)| Some((entry.expires_at?, name.clone())))
            .min()?;
        self.entries.remove(&name);
        Some(name)
    }

    /// Chooses evidence for one datagram, in at most `budget` bytes: first about `first`, then what
    /// changed lately (least told first), then the whole table in rotation, so that over some
    /// datagrams everybody hears everything (repairing anti-entropy without a round of its own).
    pub(crate) fn select(
        &mut self,
        now: MonoTime,
        first: &[&NodeName],
        budget: usize,
    ) -> Vec<Update> {
        let mut packing = Packing {
            budget,
            chosen: Vec::new(),
        };
        for name in first {
            if let Some((name, entry)) = self.entries.get_key_value(*name) {
                packing.add(name, entry);
            }
        }
        let ttl = self.tombstone_ttl;
        let told = |entry: &Entry| is_told(entry.age(now, ttl), ttl);
        let hot = self.entries.iter();
        let hot = hot.filter(|(_, entry)| entry.hot > 0 && told(entry));
        let mut hot: Vec<(&NodeName, &Entry)> = hot.collect();
        hot.sort_by_key(|(name, entry)| (Reverse(entry.hot), *name));
        for (name, entry) in hot {
            packing.add(name, entry);
        }
        let start = self
            .cursor
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let after = self.entries.range::<NodeName, _>((start, Bound::Unbounded));
        let mut cursor = self.cursor.clone();
        for (name, entry) in after.chain(self.entries.iter()).take(self.entries.len()) {
            if told(entry) && !packing.add(name, entry) {
                break;
            }
            cursor = Some(name.clone());
        }
        let chosen: Vec<NodeName> = packing.chosen.into_iter().cloned().collect();
        self.cursor = cursor;
        let mut updates = Vec::with_capacity(chosen.len());
        for name in &chosen {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.hot = entry.hot.saturating_sub(1);
                updates.push(entry.update(now, self.tombstone_ttl));
            }
        }
        updates
    }

    /// How many datagrams of `budget` bytes the whole table takes, about.
    pub(crate) fn datagrams(&self, budget: usize) -> usize {
        let bytes: usize = self.entries.values().map(|entry| entry.wire_bytes).sum();
        bytes.div_ceil(budget.max(1)).max(1)
    }
}

/// Whether a tombstone of this age is still told to third parties, and believed of one that is not
/// known. Silence in the last quarter lets it expire everywhere, although not everybody saw the death
/// at the same moment: who forgets first is not told again by who forgets last.
pub(crate) fn is_told(age: Duration, tombstone_ttl: Duration) -> bool {
    age <= tombstone_ttl / 4 * 3
}

/// How often a change is told before older ones: a multiple of log2 of the cluster, as in section 4.1
/// of the SWIM paper.
const fn retransmissions(live: usize) -> u32 {
    3 * binary_digits(live)
}

/// Binary digits of `n`: 1 + floor(log2 n); zero for zero.
pub(crate) const fn binary_digits(n: usize) -> u32 {
    usize::BITS - n.leading_zeros()
}

/// Fills one datagram.
struct Packing<'a> {
    budget: usize,
    chosen: Vec<&'a NodeName>,
}

impl<'a> Packing<'a> {
    fn has(&self, name: &NodeName) -> bool {
        self.chosen.contains(&name)
    }

    /// Takes the entry in if there is room; whether it is in now.
    fn add(&mut self, name: &'a NodeName, entry: &Entry) -> bool {
        if self.has(name) {
            return true;
        }
        if entry.wire_bytes > self.budget || self.chosen.len() == MAX_UPDATES_PER_DATAGRAM {
            return false;
        }
        self.budget -= entry.wire_bytes;
        self.chosen.push(name);
        true
    }
}
