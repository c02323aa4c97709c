//! The end of the log in memory: every entry that is not durable yet, and the newest durable ones.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use crate::types::{Entry, LogId, entry_bytes};

/// Invariant: `entries` covers `first..=last` without a gap, and everything below `first` (and above
/// what is purged) is durable and current in the database.
#[derive(Debug)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    first: u64,
    bytes: usize,
    max_bytes: usize,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// The least index that the store holds at all.
    begin: u64,
    /// Entries below this index are durable.
    durable_end: u64,
    /// Grows with every truncation, so that a late commit of entries since cut off is not taken for
    /// the durability of those that replaced them.
    generation: u64,
}

fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl Tail {
    pub(crate) fn new(
        entries: Vec<Entry>,
        begin: u64,
        last: Option<LogId>,
        purged: Option<LogId>,
        max_bytes: usize,
    ) -> Self {
        let first = entries
            .first()
            .map_or_else(|| next_index(last), |e| e.log_id.index);
        let bytes = entries.iter().map(entry_bytes).sum();
        let durable_end = next_index(last);
        let entries = entries.into();
        Self {
            entries,
            first,
            begin,
            bytes,
            max_bytes,
            last,
            purged,
            durable_end,
            generation: 0,
        }
    }

    pub(crate) const fn last(&self) -> Option<LogId> {
        self.last
    }

    pub(crate) const fn begin(&self) -> u64 {
        self.begin
    }

    pub(crate) const fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Publishes entries to readers; returns their size. Refuses a gap.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> io::Result<u64> {
        let due = match self.last {
            Some(last) => last.index + 1,
            None => entries.first().map_or(0, |e| e.log_id.index),
        };
        for (expected, entry) in (due..).zip(entries) {
            if entry.log_id.index != expected {
                let text = format!("append of entry {} where {expected} is due", entry.log_id);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        if let (true, Some(first)) = (self.entries.is_empty(), entries.first()) {
            self.first = first.log_id.index;
            if self.last.is_none() {
                self.begin = self.first;
            }
            self.durable_end = self.durable_end.max(self.first);
        }
        let added: usize = entries.iter().map(entry_bytes).sum();
        self.bytes += added;
        self.entries.extend(entries.iter().cloned());
        self.last = entries.last().map(|e| e.log_id).or(self.last);
        self.evict();
        Ok(added as u64)
    }

    /// Entries below `end` have become durable, unless a truncation came after they were queued.
    pub(crate) fn durable(&mut self, end: u64, generation: u64) {
        if generation == self.generation {
            self.durable_end = self.durable_end.max(end);
            self.evict();
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.max_bytes && self.first < self.durable_end {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= entry_bytes(&entry);
            self.first = entry.log_id.index + 1;
        }
    }

    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let end = next_index(last);
        if next_index(self.last) <= end {
            return;
        }
        while self.entries.back().is_some_and(|e| e.log_id.index >= end) {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, entry_bytes);
        }
        self.first = self.first.min(end);
        self.durable_end = self.durable_end.min(end);
        self.last = last.max(self.purged);
        self.generation += 1;
    }

    pub(crate) fn purge(&mut self, upto: LogId) {
        let end = upto.index + 1;
        while self.entries.front().is_some_and(|e| e.log_id.index < end) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, entry_bytes);
        }
        self.first = self.first.max(end);
        self.begin = self.begin.max(end);
        self.durable_end = self.durable_end.max(end);
        self.purged = self.purged.max(Some(upto));
        if next_index(self.last) < end {
            self.last = Some(upto);
        }
    }

    /// What of `range` must be read from the database, and the rest.
    pub(crate) fn read(&self, range: Range<u64>) -> (Option<Range<u64>>, Vec<Entry>) {
        let start = range.start.max(self.begin);
        let end = range.end.min(next_index(self.last));
        let disk = start..end.min(self.first);
        let skip = start.max(self.first) - self.first;
        let count = end.saturating_sub(start.max(self.first));
        let take = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let cached = self
            .entries
            .iter()
            .skip(take(skip))
            .take(take(count))
            .cloned()
            .collect();
        ((!disk.is_empty()).then_some(disk), cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::EntryPayload;

    fn entries(range: Range<u64>, term: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            log_id: LogId::new_term_index(term, index),
            payload: EntryPayload::Blank,
        };
        range.map(entry).collect()
    }

    #[test]
    fn entries_replaced_after_a_truncation_stay_until_they_are_durable_themselves() {
        let mut tail = Tail::new(Vec::new(), 0, None, None, 0);
        tail.append(&entries(0..10, 1)).unwrap();
        let queued = tail.generation();
        tail.truncate_after(Some(LogId::new_term_index(1, 4)));
        tail.append(&entries(5..8, 2)).unwrap();
        tail.durable(10, queued);
        let (disk, cached) = tail.read(0..100);
        assert_eq!(disk, None, "the late commit must evict nothing");
        assert_eq!(cached.len(), 8);
        assert_eq!(cached.last().unwrap().log_id, LogId::new_term_index(2, 7));
        tail.durable(8, tail.generation());
        assert_eq!(tail.read(0..100).0, Some(0..8));
    }

    #[test]
    fn a_gap_is_refused() {
        let mut tail = Tail::new(Vec::new(), 0, None, None, 1 << 20);
        tail.append(&entries(0..3, 1)).unwrap();
        assert!(tail.append(&entries(4..5, 1)).is_err());
        assert!(tail.append(&entries(2..3, 1)).is_err());
        tail.purge(LogId::new_term_index(1, 20));
        assert_eq!(tail.last(), Some(LogId::new_term_index(1, 20)));
        assert!(tail.append(&entries(21..22, 1)).is_ok());
    }
}
