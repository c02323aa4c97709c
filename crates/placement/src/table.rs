//! The partitions of one topic and their replicas.

use smallvec::SmallVec;

use crate::ledger::Slot;

/// The replicas of a partition, preferred leader first; the usual few without an allocation.
pub(crate) type Held = SmallVec<[Slot; 4]>;

/// Partitions by index. Most are added in order, at the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: Vec<(u32, Held)>,
}

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Makes room for as many partitions more.
    pub(crate) fn reserve(&mut self, partitions: usize) {
        self.rows.reserve(partitions);
    }

    #[inline]
    fn find(&self, partition: u32) -> Result<usize, usize> {
        match self.rows.last() {
            Some((last, _)) if *last >= partition => {
                self.rows.binary_search_by_key(&partition, |row| row.0)
            }
            _ => Err(self.rows.len()),
        }
    }

    #[inline]
    pub(crate) fn get(&self, partition: u32) -> &[Slot] {
        self.find(partition).map_or(&[], |at| &self.rows[at].1)
    }

    /// Adds a partition behind all others; returns whether it is one.
    #[inline]
    pub(crate) fn push(&mut self, partition: u32, replicas: &[Slot]) -> bool {
        let last = self.rows.last().is_none_or(|(last, _)| *last < partition);
        if last {
            self.rows.push((partition, Held::from_slice(replicas)));
        }
        last
    }

    /// Puts `replicas` in the place of what is returned; an empty list takes the partition out.
    pub(crate) fn replace(&mut self, partition: u32, replicas: &[Slot]) -> Held {
        match self.find(partition) {
            Ok(at) if replicas.is_empty() => self.rows.remove(at).1,
            Ok(at) => std::mem::replace(&mut self.rows[at].1, Held::from_slice(replicas)),
            Err(at) => {
                if !replicas.is_empty() {
                    self.rows
                        .insert(at, (partition, Held::from_slice(replicas)));
                }
                Held::new()
            }
        }
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = &[Slot]> {
        self.rows.iter().map(|row| row.1.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_come_and_go_in_any_order() {
        let mut table = Table::default();
        for partition in [5, 1, 9, 7] {
            assert!(table.replace(partition, &[partition]).is_empty());
        }
        assert_eq!(table.get(7), [7]);
        assert_eq!(table.get(6), []);
        assert_eq!(table.replace(7, &[1, 2]).as_slice(), [7]);
        assert_eq!(table.replace(1, &[]).as_slice(), [1]);
        assert!(table.replace(1, &[]).is_empty());
        let all: Vec<&[Slot]> = table.replicas().collect();
        assert_eq!(all, [&[5][..], &[1, 2], &[9]]);
    }
}
