//! Is what consumers read what producers appended? The anomalies are those of Jepsen's workload for
//! Kafka. Events come in as they happen, and memory is a few words per record, so that a run of hours
//! with millions of records is judged in seconds.

use std::collections::BTreeMap;
use std::fmt;

use super::stamp::{Stamp, StampError};

/// Offsets that a partition may reach: what a checker keeps in memory is bounded.
pub const MAX_OFFSETS: i64 = 1 << 26;
/// Examples that are kept of each anomaly.
const MAX_EXAMPLES: usize = 5;
/// Skips that are remembered until the end, where it is known what was skipped.
const MAX_SKIPS: usize = 100_000;

/// What can be wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A record was acknowledged and is not in the log although later offsets, or all of them, were
    /// read.
    LostWrite,
    /// A record is in the log more than once.
    Duplicate,
    /// A record was read whose append had been refused for good.
    AbortedRead,
    /// A record was read that nobody sent, or not there.
    Phantom,
    /// A consumer went over an offset where there is a record.
    PollSkip,
    /// A consumer was given an offset again, or an earlier one, without having asked for it.
    NonmonotonicPoll,
    /// A producer's records are in a partition in another order than it sent them.
    NonmonotonicSend,
    /// Two records were seen or acknowledged at the same offset.
    InconsistentOffsets,
    /// A record is not as it was written.
    Torn,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostWrite => "lost write",
            Self::Duplicate => "duplicate",
            Self::AbortedRead => "aborted read",
            Self::Phantom => "phantom",
            Self::PollSkip => "poll skip",
            Self::NonmonotonicPoll => "non-monotonic poll",
            Self::NonmonotonicSend => "non-monotonic send",
            Self::InconsistentOffsets => "inconsistent offsets",
            Self::Torn => "torn record",
        })
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogReport {
    /// How often each anomaly was found; one that was not is missing.
    pub anomalies: BTreeMap<Anomaly, usize>,
    /// The first few of each, in words.
    pub examples: Vec<String>,
    /// Records sent.
    pub sent: usize,
    /// Records acknowledged.
    pub acked: usize,
    /// Records refused for good.
    pub refused: usize,
    /// Records that consumers were given, all of them together.
    pub polled: usize,
    /// Distinct records that were read.
    pub read: usize,
    /// Records that were read although they were never acknowledged: allowed, since their fate was
    /// unknown.
    pub recovered: usize,
}

impl LogReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// How often an anomaly was found.
    pub fn count(&self, anomaly: Anomaly) -> usize {
        self.anomalies.get(&anomaly).copied().unwrap_or(0)
    }

    fn add(&mut self, anomaly: Anomaly, example: impl FnOnce() -> String) {
        let count = self.anomalies.entry(anomaly).or_default();
        *count += 1;
        if *count <= MAX_EXAMPLES {
            self.examples.push(format!("{anomaly}: {}", example()));
        }
    }
}

/// The fate of a record as its producer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Acked,
    Refused,
}

/// No offset.
const NOWHERE: i64 = -1;

/// A record that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    partition: u32,
    fate: Fate,
    /// Where it was said to be.
    acked_at: i64,
    /// Where it was read first.
    read_at: i64,
}

#[derive(Debug, Default)]
struct Partition {
    /// Which record is at each offset, as a read or an acknowledgement told first.
    records: Vec<Option<Stamp>>,
    /// One past the highest offset that was read.
    read_end: i64,
    /// Whether everything that is in it was read.
    complete: bool,
}

/// A skip, to be judged once it is known what is there.
#[derive(Debug)]
struct Skip {
    consumer: u32,
    partition: u32,
    from: i64,
    to: i64,
}

/// Takes in what clients did and saw.
#[derive(Debug, Default)]
pub struct AppendLog {
    producers: BTreeMap<u32, Vec<Sent>>,
    partitions: BTreeMap<u32, Partition>,
    /// By consumer and partition: the offset that is due.
    positions: BTreeMap<(u32, u32), i64>,
    skips: Vec<Skip>,
    report: LogReport,
}

impl AppendLog {
    /// A producer sends its next record; returns its stamp. The record may already be on its way.
    pub fn send(&mut self, producer: u32, partition: u32) -> Stamp {
        let number = self.sent_by(producer);
        self.producers.entry(producer).or_default().push(Sent {
            partition,
            fate: Fate::Unknown,
            acked_at: NOWHERE,
            read_at: NOWHERE,
        });
        self.report.sent += 1;
        Stamp { producer, number }
    }

    /// How many records a producer has sent: the number of its next one.
    pub fn sent_by(&self, producer: u32) -> u32 {
        let sent = self.producers.get(&producer).map_or(0, Vec::len);
        u32::try_from(sent).unwrap_or(u32::MAX)
    }

    fn sent(&mut self, stamp: Stamp) -> Option<&mut Sent> {
        let number = usize::try_from(stamp.number).ok()?;
        self.producers.get_mut(&stamp.producer)?.get_mut(number)
    }

    /// A record was acknowledged, at an offset if the broker named one.
    pub fn acked(&mut self, stamp: Stamp, offset: Option<i64>) {
        self.report.acked += 1;
        let at = offset.unwrap_or(NOWHERE);
        let Some(sent) = self.sent(stamp) else {
            self.report.add(Anomaly::Phantom, || {
                format!("{stamp:?} was acknowledged but never sent")
            });
            return;
        };
        sent.fate = Fate::Acked;
        let (partition, read_at) = (sent.partition, sent.read_at);
        if at == NOWHERE {
            return;
        }
        sent.acked_at = at;
        if read_at != NOWHERE && read_at != at {
            self.report.add(Anomaly::Duplicate, || {
                format!("{stamp:?} was read in {partition} at {read_at}, acknowledged at {at}")
            });
        }
        self.place(partition, at, stamp, "acknowledged");
    }

    /// A record was refused for good: it must never be read.
    pub fn refused(&mut self, stamp: Stamp) {
        self.report.refused += 1;
        if let Some(sent) = self.sent(stamp) {
            sent.fate = Fate::Refused;
        }
    }

    /// Notes which record is at an offset, which must be the one that was known before. False if the
    /// offset cannot be.
    fn place(&mut self, partition: u32, offset: i64, stamp: Stamp, how: &str) -> bool {
        let index = usize::try_from(offset)
            .ok()
            .filter(|_| offset < MAX_OFFSETS);
        let Some(index) = index else {
            self.report.add(Anomaly::InconsistentOffsets, || {
                format!("{stamp:?} was {how} in {partition} at offset {offset}")
            });
            return false;
        };
        let records = &mut self.partitions.entry(partition).or_default().records;
        if records.len() <= index {
            records.resize(index + 1, None);
        }
        match records[index] {
            None => records[index] = Some(stamp),
            Some(known) if known == stamp => {}
            Some(known) => self.report.add(Anomaly::InconsistentOffsets, || {
                format!("{partition} at {offset}: {known:?} before, {stamp:?} {how}")
            }),
        }
        true
    }

    /// A consumer goes to an offset by its own will, at its start too.
    pub fn seek(&mut self, consumer: u32, partition: u32, offset: i64) {
        self.positions.insert((consumer, partition), offset);
    }

    /// A consumer was given the record at an offset, as [`Stamp::decode`] understood it. A consumer that
    /// never sought begins with its first record.
    pub fn polled(
        &mut self,
        consumer: u32,
        partition: u32,
        offset: i64,
        value: Result<Stamp, StampError>,
    ) {
        self.report.polled += 1;
        self.advance(consumer, partition, offset);
        let stamp = match value {
            Ok(stamp) => stamp,
            Err(error) => {
                self.report.add(Anomaly::Torn, || {
                    format!("{partition} at {offset}: {error}")
                });
                return;
            }
        };
        let where_from = || format!("{stamp:?} was read in {partition} at {offset}");
        let Some(sent) = self.sent(stamp) else {
            self.report
                .add(Anomaly::Phantom, || format!("{}, never sent", where_from()));
            return;
        };
        let Sent {
            partition: wanted,
            fate,
            acked_at,
            read_at,
        } = *sent;
        if wanted != partition {
            self.report.add(Anomaly::Phantom, || {
                format!("{}, sent to {wanted}", where_from())
            });
            return;
        }
        if !self.place(partition, offset, stamp, "read") {
            return;
        }
        let end = &mut self.partitions.entry(partition).or_default().read_end;
        *end = offset.saturating_add(1).max(*end);
        if read_at == NOWHERE {
            if let Some(sent) = self.sent(stamp) {
                sent.read_at = offset;
            }
            self.report.read += 1;
            if fate == Fate::Refused {
                self.report.add(Anomaly::AbortedRead, where_from);
            }
            if acked_at != NOWHERE && acked_at != offset {
                self.report.add(Anomaly::Duplicate, || {
                    format!("{}, acknowledged at {acked_at}", where_from())
                });
            }
        } else if read_at != offset {
            self.report.add(Anomaly::Duplicate, || {
                format!("{}, and at {read_at}", where_from())
            });
        }
    }

    fn advance(&mut self, consumer: u32, partition: u32, offset: i64) {
        let due = self
            .positions
            .entry((consumer, partition))
            .or_insert(offset);
        let from = *due;
        if offset < from {
            self.report.add(Anomaly::NonmonotonicPoll, || {
                format!("consumer {consumer} of {partition} was due {from} and got {offset}")
            });
            return;
        }
        *due = offset.saturating_add(1);
        if offset > from && self.skips.len() < MAX_SKIPS {
            self.skips.push(Skip {
                consumer,
                partition,
                from,
                to: offset,
            });
        }
    }

    /// Everything that is in a partition was read, by anybody: what was acknowledged and not read is
    /// lost.
    pub fn complete(&mut self, partition: u32) {
        self.partitions.entry(partition).or_default().complete = true;
    }

    /// The verdict.
    pub fn finish(mut self) -> LogReport {
        self.judge_skips();
        // The last known offset of each producer in each partition.
        let mut last: BTreeMap<(u32, u32), (u32, i64)> = BTreeMap::new();
        for (producer, all) in &self.producers {
            for (sent, number) in all.iter().zip(0u32..) {
                let stamp = Stamp {
                    producer: *producer,
                    number,
                };
                let partition = sent.partition;
                let state = self.partitions.get(&partition);
                let read_end = state.map_or(0, |state| state.read_end);
                let complete = state.is_some_and(|state| state.complete);
                let is_behind = sent.acked_at != NOWHERE && sent.acked_at < read_end;
                let is_acked = sent.fate == Fate::Acked;
                if is_acked && sent.read_at == NOWHERE && (complete || is_behind) {
                    self.report.add(Anomaly::LostWrite, || {
                        let at = sent.acked_at;
                        format!(
                            "{stamp:?} of {partition}, acknowledged at {at}, read to {read_end}"
                        )
                    });
                }
                self.report.recovered += usize::from(!is_acked && sent.read_at != NOWHERE);
                let at = sent.read_at.max(sent.acked_at);
                if at == NOWHERE {
                    continue;
                }
                let before = last.insert((*producer, partition), (number, at));
                if let Some((earlier, there)) = before.filter(|(_, there)| *there > at) {
                    self.report.add(Anomaly::NonmonotonicSend, || {
                        format!(
                            "{stamp:?} of {partition} is at {at}, its number {earlier} at {there}"
                        )
                    });
                }
            }
        }
        self.report
    }

    fn judge_skips(&mut self) {
        for skip in std::mem::take(&mut self.skips) {
            let Skip {
                consumer,
                partition,
                from,
                to,
            } = skip;
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let records = self.partitions.get(&partition).map(|p| &p.records);
            let skipped = range.and_then(|(from, to)| {
                let there = records?.get(from..to.min(records?.len()))?;
                there.iter().flatten().next()
            });
            if let Some(skipped) = skipped {
                self.report.add(Anomaly::PollSkip, || {
                    format!(
                        "consumer {consumer} of {partition} from {from} to {to}, over {skipped:?}"
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
