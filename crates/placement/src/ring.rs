//! The hash ring: the points of all nodes, sorted once per change of the membership.

use crate::hash::{NODE_SEED, xxh64};
use crate::ledger::Member;

/// The weight whose points are exactly `virtual_nodes`.
const STANDARD_WEIGHT: u64 = 100;
/// Most points of one node, whatever its weight: more do not balance better, they cost memory.
const MAX_POINTS_PER_NODE: u64 = 8_192;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// The upper half of the hash: a ring has far fewer points than that tells apart, and twice as
    /// many of them lie in a cache.
    hash: u32,
    /// Position of the member; they are sorted by name: equal hashes order by name.
    node: u32,
}

fn upper_half(hash: u64) -> u32 {
    // The shift leaves 32 bits.
    u32::try_from(hash >> 32).unwrap_or(u32::MAX)
}

/// The points of all members.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    points: Vec<Point>,
    members: usize,
    /// For each value of the upper bits of a hash, the first point at or behind it: where a search
    /// begins.
    starts: Vec<u32>,
    /// By how many bits a hash is shifted to give an index into `starts`.
    shift: u32,
}

impl Ring {
    /// Builds the ring of `members`, which are sorted by name.
    pub(crate) fn build(members: &[Member], virtual_nodes: u32) -> Self {
        let mut points = Vec::new();
        for (node, member) in (0u32..).zip(members) {
            let share = u64::from(virtual_nodes) * u64::from(member.weight) / STANDARD_WEIGHT;
            let count = match member.weight {
                0 => 0,
                _ => share.clamp(1, MAX_POINTS_PER_NODE),
            };
            // The replica number is the seed and not a part of the text, so that no node's name can
            // be read as another's name with a number behind it.
            let point = |replica: u64| Point {
                hash: upper_half(xxh64(
                    member.name.as_str().as_bytes(),
                    NODE_SEED.wrapping_add(replica << 16),
                )),
                node,
            };
            points.extend((0..count).map(point));
        }
        points.sort_unstable();
        // A few points to each: they lie in one line of the cache.
        let bits = (points.len().next_power_of_two().ilog2().saturating_sub(2)).clamp(1, 20);
        let shift = u32::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut at = 0usize;
        for prefix in 0u32..1 << bits {
            while points.get(at).is_some_and(|p| p.hash >> shift < prefix) {
                at += 1;
            }
            // At most 1,000 brokers of 8,192 points each.
            starts.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self {
            points,
            members: members.len(),
            starts,
            shift,
        }
    }

    /// Starts a walk around the ring from where `hash` falls.
    #[inline]
    pub(crate) fn walk<'a>(&'a self, hash: u64, scratch: &'a mut WalkScratch) -> Walk<'a> {
        let hash = upper_half(hash);
        let prefix = (hash >> self.shift) as usize;
        let mut start = self.starts.get(prefix).copied().unwrap_or_default() as usize;
        while self.points.get(start).is_some_and(|p| p.hash < hash) {
            start += 1;
        }
        scratch.begin(self.members);
        let (before, from) = self.points.split_at(start.min(self.points.len()));
        Walk {
            rest: from.iter().chain(before),
            scratch,
        }
    }
}

/// Which nodes a walk has met; kept from one walk to the next, so that a walk costs no allocation.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalkScratch {
    /// Per member: the number of the walk that met it last.
    met_in: Vec<u32>,
    walk: u32,
    order: Vec<u32>,
}

impl WalkScratch {
    fn begin(&mut self, members: usize) {
        self.order.clear();
        if self.met_in.len() != members || self.walk == u32::MAX {
            self.met_in.clear();
            self.met_in.resize(members, 0);
            self.walk = 0;
        }
        self.walk += 1;
    }
}

/// One walk around the ring: distinct nodes in the order in which they are met, found on demand.
/// Several passes over the nodes met so far still go around the ring only once.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    rest: std::iter::Chain<std::slice::Iter<'a, Point>, std::slice::Iter<'a, Point>>,
    scratch: &'a mut WalkScratch,
}

impl Walk<'_> {
    /// The `n`th distinct node, from 0; `None` once all have been met.
    #[inline]
    pub(crate) fn nth_node(&mut self, n: usize) -> Option<usize> {
        let scratch = &mut *self.scratch;
        while scratch.order.len() <= n {
            if scratch.order.len() == scratch.met_in.len() {
                return None;
            }
            let node = self.rest.next()?.node;
            let met = &mut scratch.met_in[node as usize];
            if *met != scratch.walk {
                *met = scratch.walk;
                scratch.order.push(node);
            }
        }
        scratch.order.get(n).map(|node| *node as usize)
    }
}
