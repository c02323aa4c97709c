//! Which partitions changed lately, by log index. It is no part of the replicated state: what it has
//! forgotten is found in the partitions themselves, which say when they changed last.

use rivven_core_types::{LogIndex, PartitionId};
use rpds::RedBlackTreeMapSync;

/// Changes that are remembered. Whoever follows the state is a few commands behind; whoever is further
/// behind goes through all partitions.
const MAX_REMEMBERED: usize = 65_536;

/// The latest changes. Cloning is O(1).
#[derive(Debug, Clone)]
pub(crate) struct ChangeFeed {
    by_index: RedBlackTreeMapSync<LogIndex, Vec<PartitionId>>,
    remembered: usize,
    /// Whatever changed at a later index is here.
    complete_after: LogIndex,
}

impl Default for ChangeFeed {
    fn default() -> Self {
        Self::complete_after(LogIndex::default())
    }
}

impl ChangeFeed {
    /// A feed that knows of no change up to `index`.
    pub(crate) fn complete_after(index: LogIndex) -> Self {
        Self {
            by_index: RedBlackTreeMapSync::new_sync(),
            remembered: 0,
            complete_after: index,
        }
    }

    /// Notes the first change of a partition at `index`, the newest there is.
    pub(crate) fn note(&mut self, index: LogIndex, id: PartitionId) {
        match self.by_index.get_mut(&index) {
            Some(ids) => ids.push(id),
            None => self.by_index.insert_mut(index, vec![id]),
        }
        self.remembered += 1;
        self.forget_oldest();
    }

    /// The changes of one index are never parted.
    fn forget_oldest(&mut self) {
        while self.remembered > MAX_REMEMBERED && self.by_index.size() > 1 {
            let Some((index, ids)) = self.by_index.first() else {
                return;
            };
            let (index, count) = (*index, ids.len());
            self.by_index.remove_mut(&index);
            self.remembered -= count;
            self.complete_after = index;
        }
    }

    /// What changed after `index`, by index and then by id, along with when: a partition may have
    /// changed again since, or be gone. `None` if that is not remembered any more.
    pub(crate) fn after(&self, index: LogIndex) -> Option<Vec<(LogIndex, PartitionId)>> {
        if index < self.complete_after {
            return None;
        }
        let from = LogIndex::new(index.get().saturating_add(1));
        let mut changes = Vec::new();
        for (at, ids) in self.by_index.range(from..) {
            changes.extend(ids.iter().map(|id| (*at, *id)));
        }
        changes.sort_unstable();
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use rivven_core_types::TopicId;

    use super::*;

    #[test]
    fn what_is_forgotten_is_said_to_be() {
        let mut feed = ChangeFeed::default();
        let id = |n: u32| PartitionId::new(TopicId::from_bytes([1; 16]), n);
        let at = LogIndex::new;
        let half = u32::try_from(MAX_REMEMBERED / 2).unwrap();
        for n in 0..half {
            feed.note(at(1), id(n));
            feed.note(at(2), id(half - n));
        }
        assert_eq!(feed.after(at(0)).unwrap().len(), MAX_REMEMBERED);
        assert_eq!(feed.after(at(1)).unwrap().first(), Some(&(at(2), id(1))));
        feed.note(at(3), id(7));
        assert_eq!(feed.after(at(0)), None, "the first half has gone");
        assert_eq!(feed.after(at(2)), Some(vec![(at(3), id(7))]));
        assert_eq!(feed.after(at(9)), Some(Vec::new()));
        for n in 0..=half * 2 {
            feed.note(at(4), id(n));
        }
        let last = feed.after(at(3)).unwrap();
        assert_eq!(last.len(), MAX_REMEMBERED + 1, "one index is never parted");
        assert_eq!(feed.after(at(2)), None);
    }
}
