//! The hash ring: the points of all nodes, sorted once per change of the membership.

use rivven_core_types::{RackId, TopicName};

use crate::hash::xxh64;
use crate::ledger::Member;

/// Seeds of the hashes: they name this version of the algorithm. Another algorithm takes others.
const NODE_SEED: u64 = 0x7269_7676_656e_0001;
const KEY_SEED: u64 = 0x7269_7676_656e_0002;

/// The weight whose points are exactly `virtual_nodes`.
const STANDARD_WEIGHT: u64 = 100;
/// Most points of one node, whatever its weight: more do not balance better, they cost memory.
const MAX_POINTS_PER_NODE: u64 = 8_192;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u64,
    /// Index into the members, which are sorted by name: equal hashes order by name.
    node: usize,
}

/// What is derived from the membership alone.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    points: Vec<Point>,
    /// Per member: the index of its rack.
    rack_of: Vec<usize>,
    /// Per rack: its members of a weight above 0.
    eligible: Vec<usize>,
    /// Sum of the weights.
    total_weight: u64,
}

impl Ring {
    /// Builds the ring of `members`, which are sorted by name.
    pub(crate) fn build(members: &[Member], virtual_nodes: u32) -> Self {
        let mut points = Vec::new();
        for (node, member) in members.iter().enumerate() {
            let share = u64::from(virtual_nodes) * u64::from(member.weight) / STANDARD_WEIGHT;
            let count = match member.weight {
                0 => 0,
                _ => share.clamp(1, MAX_POINTS_PER_NODE),
            };
            // The replica number is the seed and not a part of the text, so that no node's name can
            // be read as another's name with a number behind it.
            let point = |replica: u64| Point {
                hash: xxh64(
                    member.name.as_str().as_bytes(),
                    NODE_SEED.wrapping_add(replica << 16),
                ),
                node,
            };
            points.extend((0..count).map(point));
        }
        points.sort_unstable();
        let mut racks: Vec<Option<&RackId>> = members.iter().map(|m| m.rack.as_ref()).collect();
        racks.sort_unstable();
        racks.dedup();
        let index = |member: &Member| racks.binary_search(&member.rack.as_ref()).unwrap_or(0);
        let rack_of: Vec<usize> = members.iter().map(index).collect();
        let mut eligible = vec![0; racks.len()];
        for (member, rack) in members.iter().zip(&rack_of) {
            if let Some(count) = eligible.get_mut(*rack) {
                *count += usize::from(member.weight > 0);
            }
        }
        Self {
            rack_of,
            eligible,
            total_weight: members.iter().map(|m| u64::from(m.weight)).sum(),
            points,
        }
    }

    pub(crate) fn rack_of(&self, node: usize) -> usize {
        self.rack_of.get(node).copied().unwrap_or(0)
    }

    /// Per rack: its members of a weight above 0.
    pub(crate) fn eligible(&self) -> &[usize] {
        &self.eligible
    }

    pub(crate) const fn total_weight(&self) -> u64 {
        self.total_weight
    }

    /// A walk around the ring from where `(topic, partition)` falls.
    pub(crate) fn walk(&self, topic: &TopicName, partition: u32) -> Walk<'_> {
        let mut key = Vec::with_capacity(topic.as_str().len() + 5);
        key.extend_from_slice(topic.as_str().as_bytes());
        // A topic's name never holds a zero byte, so no two keys are spelt the same.
        key.push(0);
        key.extend_from_slice(&partition.to_be_bytes());
        let hash = xxh64(&key, KEY_SEED);
        let start = self.points.partition_point(|p| p.hash < hash);
        let (before, from) = self.points.split_at(start);
        Walk {
            rest: from.iter().chain(before),
            seen: vec![false; self.rack_of.len()],
            order: Vec::new(),
        }
    }
}

/// One walk around the ring: distinct nodes in the order in which they are met, found on demand.
/// Several passes over the nodes met so far still go around the ring only once.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    rest: std::iter::Chain<std::slice::Iter<'a, Point>, std::slice::Iter<'a, Point>>,
    seen: Vec<bool>,
    order: Vec<usize>,
}

impl Walk<'_> {
    /// The `n`th distinct node, from 0; `None` once all have been met.
    pub(crate) fn nth_node(&mut self, n: usize) -> Option<usize> {
        while self.order.len() <= n {
            if self.order.len() == self.seen.len() {
                return None;
            }
            let node = self.rest.next()?.node;
            if let Some(seen) = self.seen.get_mut(node)
                && !std::mem::replace(seen, true)
            {
                self.order.push(node);
            }
        }
        self.order.get(n).copied()
    }
}
