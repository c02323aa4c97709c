//! From a topic's id to its position, in about one step: a group that owns partitions of many topics asks
//! once per member and topic, and a binary search over ids is a dozen cache misses.

use rivven_core_types::TopicId;

use super::spec::{NOBODY, TopicSpec};

/// An open-addressed table of positions, at most half full.
#[derive(Debug, Clone)]
pub(super) struct TopicIndex {
    slots: Vec<u32>,
}

/// The slot where a topic is looked for first: mixes all bits of its id (the finish of SplitMix64). Ids are
/// chosen by the cluster, not by clients: nobody gains by making them collide.
fn home(topic: TopicId, mask: usize) -> usize {
    let [high, low] = halves(topic);
    let mut mixed = low ^ high.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // The mask keeps it within the table.
    usize::try_from(mixed & mask as u64).unwrap_or(0)
}

fn halves(topic: TopicId) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *topic.as_bytes();
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

impl TopicIndex {
    /// `topics` are in the order of their ids, each once.
    pub(super) fn new(topics: &[TopicSpec]) -> Self {
        let size = (topics.len() * 2).next_power_of_two().max(2);
        let mut slots = vec![NOBODY; size];
        for (position, topic) in (0u32..).zip(topics) {
            let mut at = home(topic.id, size - 1);
            while slots[at] != NOBODY {
                at = (at + 1) & (size - 1);
            }
            slots[at] = position;
        }
        Self { slots }
    }

    pub(super) fn position(&self, topics: &[TopicSpec], topic: TopicId) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = home(topic, mask);
        // It ends: half of the slots are free.
        loop {
            let position = self.slots[at] as usize;
            match topics.get(position) {
                Some(found) if found.id == topic => return Some(position),
                Some(_) => at = (at + 1) & mask,
                None => return None,
            }
        }
    }
}
