//! How long records are kept, when lazy ones become durable, and whether old ones are still sound.

use std::ops::Bound;

use rivven_core_types::{LogConfig, MonoTime, PartitionId, PartitionState};

use super::Shard;
use crate::driver::command::{ScrubDone, ScrubJob};

/// Most partitions that one tick looks at for retention.
const RETENTION_PER_TICK: usize = 128;
/// Most partitions of which one tick removes records: each costs a few synced writes.
const TRIMS_PER_TICK: usize = 2;
/// Bytes verified at a time.
const SCRUB_PIECE_BYTES: usize = 4 << 20;

impl Shard {
    /// Hands the topic's settings to the log.
    pub(super) fn configure(&mut self, record: &PartitionState, config: LogConfig) {
        let durability = record.durability;
        let _open = self.drive(record.id, |core, log, _view, _now, out| {
            if let Err(error) = log.configure(&config, durability) {
                core.go_offline(error.to_string(), out);
            }
        });
    }

    /// From time to time, begins flushes that nobody waits for.
    pub(super) fn flush_lazily(&mut self, now: MonoTime) {
        if now >= self.next_lazy_flush {
            self.next_lazy_flush = now + self.parts.config.lazy_flush_interval;
            self.unflushed.append(&mut self.lazy);
        }
    }

    /// Goes on with the round of retention, a bounded piece per tick.
    pub(super) fn retain_some(&mut self, now: MonoTime) {
        let from = match self.retention {
            Some(last) => Bound::Excluded(last),
            None if now >= self.next_retention => {
                self.next_retention = now + self.parts.config.retention_interval;
                Bound::Unbounded
            }
            None => return,
        };
        let range = self.partitions.range((from, Bound::Unbounded));
        let some: Vec<PartitionId> = range.map(|(p, _)| *p).take(RETENTION_PER_TICK).collect();
        let wall = self.parts.clock.wall();
        let mut trimmed = 0;
        self.retention = None;
        for (index, partition) in some.iter().enumerate() {
            let moved = self.drive(*partition, |core, log, _view, _now, out| {
                core.apply_retention(wall, log, out)
            });
            trimmed += usize::from(moved == Ok(true));
            if trimmed >= TRIMS_PER_TICK || index + 1 == RETENTION_PER_TICK {
                self.retention = Some(*partition);
                return;
            }
        }
    }

    /// The next piece of a log to verify, the partitions in turn.
    pub(super) fn next_scrub(&mut self) -> Option<ScrubJob> {
        let after = self.scrubbed.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.partitions.range((after, Bound::Unbounded));
        let order: Vec<PartitionId> = behind
            .chain(self.partitions.range(..))
            .map(|(p, _)| *p)
            .collect();
        for partition in order {
            let Some(entry) = self.partitions.get_mut(&partition) else {
                continue;
            };
            if let Some(ticket) = entry.log.begin_scrub(SCRUB_PIECE_BYTES) {
                self.scrubbed = Some(partition);
                return Some(ScrubJob {
                    partition,
                    instance: entry.instance,
                    ticket,
                });
            }
        }
        None
    }

    pub(super) fn scrubbed(&mut self, done: ScrubDone) {
        let current = self.partitions.get(&done.partition);
        if current.is_none_or(|entry| entry.instance != done.instance) {
            return;
        }
        let _open = self.drive(done.partition, |core, log, _view, _now, out| {
            core.scrubbed(done.generation, done.outcome, log, out);
        });
    }
}
