//! What this node holds of the other members: one row of 24 bytes each, found by slot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rivven_core_types::Rng;

use crate::member::MemberState;
use crate::message::BUCKETS;
use crate::micros::Micros;
use crate::profile::{MemberId, Profile};
use crate::registry::{Registry, Slot};
use crate::replay::NO_WINDOW;
use crate::ring::Ring;
use crate::round::{Round, mix};
use crate::suspicion::Suspicion;

/// Draws before a random member is searched for one by one.
const MAX_DRAWS: usize = 32;
/// `Row::since` counts in units of 2^16 microseconds: 65.5 ms, for 8.9 years.
const SINCE_SHIFT: u32 = 16;

/// What is held of one member.
#[derive(Debug)]
pub(crate) struct Row {
    /// `None`: nothing is held.
    profile: Option<Arc<Profile>>,
    pub(crate) incarnation: u32,
    since: u32,
    /// The number of its replay window.
    pub(crate) window: u32,
    pub(crate) state: MemberState,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            profile: None,
            incarnation: 0,
            since: 0,
            window: NO_WINDOW,
            state: MemberState::Alive,
        }
    }
}

impl Row {
    /// Since when it is in its state, to 65 ms.
    pub(crate) fn since(&self) -> Micros {
        Micros(u64::from(self.since) << SINCE_SHIFT)
    }
}

/// Evidence to be stored.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) profile: Arc<Profile>,
    pub(crate) incarnation: u32,
    pub(crate) state: MemberState,
}

/// The other members. This node is not among them.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) registry: Arc<Registry>,
    rows: Vec<Row>,
    len: usize,
    live: usize,
    /// Sums over the live members, this node included, by the first byte of their ids: equal tables
    /// have equal sums, whatever order they were learnt in.
    sums: Vec<u32>,
    digest: u32,
    own: (MemberId, u32),
    suspects: BTreeMap<Slot, Suspicion>,
    deadlines: BTreeSet<(Micros, Slot)>,
    /// When tombstones expire.
    graves: BTreeMap<Slot, Micros>,
    round: Round,
    ring: Ring,
    /// Whether the ring has the next turn.
    watches: bool,
    /// The protocol period, by which warnings go.
    interval: Micros,
}

impl Table {
    pub(crate) fn new(registry: Arc<Registry>, interval: Micros) -> Self {
        Self {
            registry,
            rows: Vec::new(),
            len: 0,
            live: 0,
            sums: vec![0; BUCKETS],
            digest: 0,
            own: (MemberId(0), 0),
            suspects: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            graves: BTreeMap::new(),
            round: Round::default(),
            ring: Ring::default(),
            watches: true,
            interval,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// How many other members are live.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn find(&self, id: MemberId) -> Option<Slot> {
        let slot = self.registry.find(id)?;
        self.get(slot).map(|_| slot)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<(&Arc<Profile>, &Row)> {
        let row = self.rows.get(slot.index())?;
        row.profile.as_ref().map(|profile| (profile, row))
    }

    pub(crate) fn row_mut(&mut self, slot: Slot) -> Option<&mut Row> {
        self.rows.get_mut(slot.index())
    }

    /// The member at that slot, if it is alive or suspected.
    pub(crate) fn live_at(&self, slot: Slot) -> Option<(&Arc<Profile>, &Row)> {
        self.get(slot).filter(|(_, row)| row.state.is_live())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Arc<Profile>, &Row)> {
        let rows = (0u32..).map(Slot).zip(&self.rows);
        rows.filter_map(|(slot, row)| row.profile.as_ref().map(|profile| (slot, profile, row)))
    }

    /// Stores evidence; the caller has checked that it is greater. Suspicions and tombstones are set by
    /// [`Table::suspect`] and [`Table::bury`].
    pub(crate) fn store(&mut self, now: Micros, held: Held) -> Slot {
        let slot = self.find(held.profile.id());
        let slot = slot.unwrap_or_else(|| self.registry.acquire(&held.profile));
        if self.rows.len() <= slot.index() {
            let missing = slot.index() + 1 - self.rows.len();
            if self.rows.capacity() - self.rows.len() < missing {
                self.rows.reserve_exact(missing.max(self.rows.len() / 8));
            }
            self.rows.resize_with(slot.index() + 1, Row::default);
        }
        self.clear_timers(slot);
        self.subtract(slot);
        let Some(row) = self.rows.get_mut(slot.index()) else {
            return slot;
        };
        let before = row.profile.as_ref();
        self.len += usize::from(before.is_none());
        let same = before.is_some_and(|before| before.boot_id() == held.profile.boot_id())
            && row.state == held.state;
        if !same {
            row.since = u32::try_from(now.0 >> SINCE_SHIFT).unwrap_or(u32::MAX);
        }
        row.incarnation = held.incarnation;
        row.state = held.state;
        row.profile = Some(held.profile);
        self.add(slot);
        slot
    }

    fn add(&mut self, slot: Slot) {
        if let Some((id, hash)) = self.contribution(slot) {
            self.live += 1;
            self.shift(id, hash);
            self.ring.gain(self.own.0, id, slot);
        }
    }

    fn subtract(&mut self, slot: Slot) {
        if let Some((id, hash)) = self.contribution(slot) {
            self.live -= 1;
            self.shift(id, hash.wrapping_neg());
            self.ring.lose(slot);
        }
    }

    fn contribution(&self, slot: Slot) -> Option<(MemberId, u32)> {
        let (profile, row) = self.live_at(slot)?;
        Some((profile.id(), digest_of(profile, row.incarnation)))
    }

    fn shift(&mut self, id: MemberId, by: u32) {
        if let Some(sum) = self.sums.get_mut(bucket_of(id)) {
            *sum = sum.wrapping_add(by);
        }
        self.digest = self.digest.wrapping_add(by);
    }

    /// What this node holds of itself, or nothing once it has left.
    pub(crate) fn set_own(&mut self, profile: &Profile, incarnation: u32, left: bool) {
        let (id, before) = self.own;
        self.shift(id, before.wrapping_neg());
        let hash = if left {
            0
        } else {
            digest_of(profile, incarnation)
        };
        self.own = (profile.id(), hash);
        self.shift(profile.id(), hash);
    }

    /// Equal for equal tables.
    pub(crate) const fn digest(&self) -> u32 {
        self.digest
    }

    /// The sums per bucket.
    pub(crate) fn sums(&self) -> &[u32] {
        &self.sums
    }

    pub(crate) fn suspicion(&self, slot: Slot) -> Option<&Suspicion> {
        self.suspects.get(&slot)
    }

    /// Sets or replaces the suspicion of a suspected member.
    pub(crate) fn suspect(&mut self, slot: Slot, suspicion: Suspicion) {
        if let Some(before) = self.suspects.insert(slot, suspicion) {
            self.deadlines
                .remove(&(before.next_step(self.interval), slot));
        }
        self.deadlines
            .insert((suspicion.next_step(self.interval), slot));
    }

    /// Sets when the tombstone of a dead or departed member expires.
    pub(crate) fn bury(&mut self, slot: Slot, expires_at: Micros) {
        self.graves.insert(slot, expires_at);
    }

    pub(crate) fn grave(&self, slot: Slot) -> Option<Micros> {
        self.graves.get(&slot).copied()
    }

    fn clear_timers(&mut self, slot: Slot) {
        if let Some(before) = self.suspects.remove(&slot) {
            self.deadlines
                .remove(&(before.next_step(self.interval), slot));
        }
        self.graves.remove(&slot);
    }

    /// When the first suspicion runs out, or its member is to be warned.
    pub(crate) fn next_deadline(&self) -> Micros {
        self.deadlines.first().map_or(Micros::NEVER, |(at, _)| *at)
    }

    /// A member whose suspicion has run out, or that is to be warned.
    pub(crate) fn overdue(&self, now: Micros) -> Option<Slot> {
        let first = self.deadlines.first().filter(|(at, _)| *at <= now);
        first.map(|(_, slot)| *slot)
    }

    /// Moves every running suspicion's end.
    pub(crate) fn put_off_suspicions(&mut self, by: Micros) {
        for suspicion in self.suspects.values_mut() {
            suspicion.put_off(by);
        }
        let steps = self.suspects.iter();
        let interval = self.interval;
        self.deadlines = steps
            .map(|(slot, s)| (s.next_step(interval), *slot))
            .collect();
    }

    /// A tombstone that has expired.
    pub(crate) fn expired(&self, now: Micros) -> Option<Slot> {
        let mut graves = self.graves.iter();
        graves.find(|(_, at)| **at <= now).map(|(slot, _)| *slot)
    }

    /// The tombstone that expires first.
    pub(crate) fn oldest_grave(&self) -> Option<Slot> {
        let graves = self.graves.iter().min_by_key(|(_, at)| **at);
        graves.map(|(slot, _)| *slot)
    }

    /// Forgets a member: its profile and the number of its window.
    pub(crate) fn forget(&mut self, slot: Slot) -> Option<(Arc<Profile>, u32)> {
        self.clear_timers(slot);
        self.subtract(slot);
        let row = self.rows.get_mut(slot.index())?;
        let gone = std::mem::take(row);
        let profile = gone.profile?;
        self.len -= 1;
        self.registry.release(slot);
        Some((profile, gone.window))
    }

    /// Whose turn it is: by turns the next live member on the ring, and the next one of the round.
    pub(crate) fn next_turn(&mut self, rng: &mut Rng) -> Option<Slot> {
        self.watches = !self.watches;
        if self.watches {
            return self.next_on_ring();
        }
        self.next_in_round(rng)
    }

    fn next_on_ring(&mut self) -> Option<Slot> {
        let rows = &self.rows;
        let live = || {
            let rows = (0u32..).map(Slot).zip(rows);
            rows.filter(|(_, row)| row.state.is_live())
                .filter_map(|(slot, row)| Some((slot, row.profile.as_ref()?.id())))
        };
        self.ring.next(self.own.0, live)
    }

    /// The next live member of the round. The order is drawn anew when a round is through (section 4.3
    /// of the SWIM paper: bounds the time until this node probes a member to two rounds).
    fn next_in_round(&mut self, rng: &mut Rng) -> Option<Slot> {
        let domain = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let mut ends = 0;
        while self.live > 0 && ends < 2 {
            match self.round.next(domain, rng).map(Slot) {
                Some(slot) if self.live_at(slot).is_some() => return Some(slot),
                Some(_) => {}
                None => ends += 1,
            }
        }
        None
    }

    /// A random member of those that `wanted` takes.
    pub(crate) fn random(
        &self,
        rng: &mut Rng,
        wanted: impl Fn(Slot, &Profile, &Row) -> bool,
    ) -> Option<Slot> {
        let take = |slot: Slot| {
            let (profile, row) = self.get(slot)?;
            wanted(slot, profile, row).then_some(slot)
        };
        let mut draw = || Slot(u32::try_from(rng.below(self.rows.len() as u64)).unwrap_or(0));
        if self.rows.is_empty() {
            return None;
        }
        for _ in 0..MAX_DRAWS {
            if let Some(slot) = take(draw()) {
                return Some(slot);
            }
        }
        let end = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let start = draw().0;
        let mut all = (start..end).chain(0..start).map(Slot);
        all.find_map(take)
    }

    /// A random dead member: one that may not know it.
    pub(crate) fn random_dead(&self, rng: &mut Rng) -> Option<Slot> {
        let at = rng.below(self.graves.len() as u64);
        let at = usize::try_from(at).unwrap_or(0);
        let graves = self.graves.keys().cycle().skip(at).take(self.graves.len());
        let dead = |slot: &Slot| {
            let held = self.get(*slot);
            held.is_some_and(|(_, row)| row.state == MemberState::Dead)
        };
        graves.copied().find(dead)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let held: Vec<Slot> = self.iter().map(|(slot, ..)| slot).collect();
        for slot in held {
            self.registry.release(slot);
        }
    }
}

/// The bucket of a member.
pub(crate) const fn bucket_of(id: MemberId) -> usize {
    id.0.to_be_bytes()[0] as usize
}

fn digest_of(profile: &Profile, incarnation: u32) -> u32 {
    let counters = u64::from(incarnation) << 32 | u64::from(profile.version);
    let hash = mix(profile.id().0 ^ mix(profile.boot_id() ^ mix(counters)));
    u32::try_from(hash >> 32).unwrap_or(0)
}

/// Whether a tombstone of this age is still told to third parties, and believed of one that is not
/// known. Silence in the last quarter lets it expire everywhere, although not everybody saw the death
/// at the same moment: who forgets first is not told again by who forgets last.
pub(crate) fn is_told(age: Micros, tombstone_ttl: Micros) -> bool {
    age <= Micros(tombstone_ttl.0 / 4 * 3)
}

/// Binary digits of `n`: 1 + floor(log2 n); zero for zero.
pub(crate) const fn binary_digits(n: usize) -> u32 {
    usize::BITS - n.leading_zeros()
}
