//! Idempotent producers (KIP-98): what each has written last, so that a retry is recognised.
//!
//! The table is a function of the log: it is rebuilt by a scan when the log is opened and after every
//! truncation, and followers keep it as leaders do, so that deduplication survives a failover.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use rivven_core_types::{BatchHeader, LogError, Offset, ProducerEpoch, ProducerId, ReplicaLog};

use crate::error::ReplicationError;

/// Batches remembered per producer: as many as a client may have in flight (KIP-98).
const BATCHES_PER_PRODUCER: usize = 5;

/// How a batch relates to what its producer wrote before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceCheck {
    /// It continues, or the batch is not idempotent: append it.
    Fresh,
    /// It is in the log already.
    Duplicate {
        /// Offset of its first record.
        base: Offset,
        /// Offset after its last record.
        end: Offset,
    },
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: i32,
    last: i32,
    base: Offset,
    end: Offset,
}

#[derive(Debug)]
struct Producer {
    epoch: ProducerEpoch,
    /// Never empty; newest last.
    batches: VecDeque<Seen>,
}

impl Producer {
    fn newest(&self) -> Option<&Seen> {
        self.batches.back()
    }
}

/// The producers of one partition.
#[derive(Debug)]
pub(crate) struct ProducerTable {
    max: usize,
    producers: BTreeMap<ProducerId, Producer>,
    /// End of each producer's newest batch, to find the one that has been silent longest.
    by_age: BTreeMap<Offset, ProducerId>,
    /// Whether a producer was forgotten because of the bound.
    forgot: bool,
}

/// The sequence number `records` after `first`; numbers wrap from `i32::MAX` to 0.
fn advance(first: i32, records: i32) -> i32 {
    let sum = i64::from(first) + i64::from(records);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

impl ProducerTable {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            max,
            producers: BTreeMap::new(),
            by_age: BTreeMap::new(),
            forgot: false,
        }
    }

    /// Builds the table from the log's batch headers.
    pub(crate) fn rebuild(max: usize, log: &dyn ReplicaLog) -> Result<Self, LogError> {
        let mut table = Self::new(max);
        log.scan(log.log_start(), &mut |header| {
            if let (Some(base), Some(end)) = (header.base(), header.end_offset()) {
                table.record(header, base, end);
            }
            ControlFlow::Continue(())
        })?;
        Ok(table)
    }

    /// Number of producers remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Checks a client's batch against what its producer wrote before.
    ///
    /// `log_complete` says whether the log still has all records since offset 0. An unknown producer
    /// may begin anywhere only if its state may have been deleted with its records; otherwise a
    /// sequence above 0 means that an earlier batch is still on its way, and accepting this one would
    /// swap the two.
    pub(crate) fn check(
        &self,
        header: &BatchHeader,
        log_complete: bool,
    ) -> Result<SequenceCheck, ReplicationError> {
        let Some((id, epoch, first)) = header.producer() else {
            return Ok(SequenceCheck::Fresh);
        };
        if first < 0 || epoch.get() < 0 {
            return Err(ReplicationError::InvalidRequest(
                "an idempotent batch needs a producer epoch and a sequence",
            ));
        }
        let fresh_if = |expected: i32| {
            if first == expected {
                Ok(SequenceCheck::Fresh)
            } else {
                Err(ReplicationError::OutOfOrderSequence {
                    expected,
                    found: first,
                })
            }
        };
        let Some(producer) = self.producers.get(&id) else {
            if log_complete && !self.forgot {
                return fresh_if(0);
            }
            return Ok(SequenceCheck::Fresh);
        };
        if epoch < producer.epoch {
            return Err(ReplicationError::InvalidProducerEpoch {
                current: producer.epoch,
                found: epoch,
            });
        }
        if epoch > producer.epoch {
            return fresh_if(0);
        }
        let last = advance(first, header.last_offset_delta);
        let seen = producer
            .batches
            .iter()
            .find(|seen| (seen.first, seen.last) == (first, last));
        if let Some(seen) = seen {
            return Ok(SequenceCheck::Duplicate {
                base: seen.base,
                end: seen.end,
            });
        }
        fresh_if(
            producer
                .newest()
                .map_or(0, |newest| advance(newest.last, 1)),
        )
    }

    /// Takes note of a batch that is in the log at `base..end`.
    pub(crate) fn record(&mut self, header: &BatchHeader, base: Offset, end: Offset) {
        let Some((id, epoch, first)) = header.producer() else {
            return;
        };
        let producer = self.producers.entry(id).or_insert_with(|| Producer {
            epoch,
            batches: VecDeque::with_capacity(1),
        });
        if let Some(newest) = producer.newest() {
            let _previous = self.by_age.remove(&newest.end);
        }
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_PER_PRODUCER {
            let _oldest = producer.batches.pop_front();
        }
        producer.batches.push_back(Seen {
            first,
            last: advance(first, header.last_offset_delta),
            base,
            end,
        });
        let _previous = self.by_age.insert(end, id);
        while self.producers.len() > self.max {
            let Some((_, silent)) = self.by_age.pop_first() else {
                break;
            };
            let _gone = self.producers.remove(&silent);
            self.forgot = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::{BatchBuilder, RecordBatch};

    fn batch(id: i64, epoch: i16, first: i32, records: usize) -> RecordBatch {
        let builder =
            BatchBuilder::new(0).producer(ProducerId::new(id), ProducerEpoch::new(epoch), first);
        (0..records)
            .fold(builder, |b, _| b.record(0, None, Some(b"v")))
            .build()
            .unwrap()
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn write(table: &mut ProducerTable, b: &RecordBatch, base: i64) {
        let end = base + i64::try_from(b.record_count()).unwrap();
        table.record(b.header(), at(base), at(end));
    }

    #[test]
    fn kip_98_the_last_five_batches_are_recognised_and_a_sixth_is_not() {
        let mut table = ProducerTable::new(10);
        for i in 0..6 {
            let b = batch(1, 0, i * 2, 2);
            assert_eq!(table.check(b.header(), true), Ok(SequenceCheck::Fresh));
            write(&mut table, &b, i64::from(i) * 2);
        }
        assert_eq!(
            table.check(batch(1, 0, 2, 2).header(), true),
            Ok(SequenceCheck::Duplicate {
                base: at(2),
                end: at(4)
            })
        );
        assert!(matches!(
            table.check(batch(1, 0, 0, 2).header(), true),
            Err(ReplicationError::OutOfOrderSequence { expected: 12, .. })
        ));
        // The same first sequence with another length is no retry.
        assert!(table.check(batch(1, 0, 2, 1).header(), true).is_err());
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut table = ProducerTable::new(10);
        write(&mut table, &batch(1, 0, i32::MAX - 1, 2), 0);
        assert_eq!(
            table.check(batch(1, 0, 0, 1).header(), true),
            Ok(SequenceCheck::Fresh)
        );
        let mut table = ProducerTable::new(10);
        write(&mut table, &batch(1, 0, i32::MAX, 3), 0);
        assert_eq!(
            table.check(batch(1, 0, 2, 1).header(), true),
            Ok(SequenceCheck::Fresh)
        );
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_one_starts_at_zero() {
        let mut table = ProducerTable::new(10);
        write(&mut table, &batch(1, 3, 0, 1), 0);
        assert!(matches!(
            table.check(batch(1, 2, 1, 1).header(), true),
            Err(ReplicationError::InvalidProducerEpoch { .. })
        ));
        assert!(matches!(
            table.check(batch(1, 4, 1, 1).header(), true),
            Err(ReplicationError::OutOfOrderSequence { expected: 0, .. })
        ));
        assert_eq!(
            table.check(batch(1, 4, 0, 1).header(), true),
            Ok(SequenceCheck::Fresh)
        );
    }

    #[test]
    fn an_unknown_producer_begins_at_zero_unless_its_records_may_be_gone() {
        let table = ProducerTable::new(10);
        assert!(table.check(batch(1, 0, 5, 1).header(), true).is_err());
        assert!(table.check(batch(1, 0, 5, 1).header(), false).is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_silent() {
        let mut table = ProducerTable::new(2);
        for id in 1..=3 {
            write(&mut table, &batch(id, 0, 0, 1), id);
        }
        assert_eq!(table.len(), 2);
        assert!(matches!(
            table.check(batch(2, 0, 0, 1).header(), true),
            Ok(SequenceCheck::Duplicate { .. })
        ));
        assert_eq!(
            table.check(batch(1, 0, 7, 1).header(), true),
            Ok(SequenceCheck::Fresh)
        );
    }
}
