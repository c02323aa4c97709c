//! Partition logs in memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use rivven_core_types::{
    Appended, BatchHeader, Durability, EpochEnd, FlushTicket, LeaderEpoch, LogConfig, LogError,
    LogSlice, LogStore, Offset, OpenedLog, PartitionId, RecordBatch, ReplicaLog, ScrubOutcome,
    ScrubTicket, TimestampedOffset, UnixMillis,
};

#[derive(Debug, Default)]
struct Data {
    start: Offset,
    end: Offset,
    durable: Offset,
    generation: u64,
    batches: BTreeMap<Offset, RecordBatch>,
    /// Strictly increasing in epoch and in start.
    epochs: Vec<(LeaderEpoch, Offset)>,
    /// After [`ReplicaLog::reset_to`] the first batch may begin below the log start.
    after_reset: bool,
    poisoned: Option<String>,
    damaged: Option<String>,
    keeping: LogConfig,
}

/// A log in memory: for tests, simulations and managers without a disk. Clones share the data, as
/// two openings of one directory would.
///
/// "Durable" is what a flush has covered; [`MemLog::crash`] loses the rest.
#[derive(Debug, Clone, Default)]
pub struct MemLog {
    data: Arc<Mutex<Data>>,
}

impl MemLog {
    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses power: of the records that were never flushed those up to `keep` survive, as they do
    /// when the operating system happened to write them back. Flushes under way are forgotten.
    pub fn crash(&self, keep: Offset) {
        let mut data = self.lock();
        let keep = keep.max(data.durable).min(data.end);
        let end = data.cut_batches(keep);
        // Epochs are assigned durably, so those up to the new end stay.
        data.epochs.retain(|(_, start)| *start <= end);
        data.durable = end;
        data.generation += 1;
        data.poisoned = None;
    }

    /// Makes every later operation find wrong bytes.
    pub fn damage(&self, what: &str) {
        self.lock().damaged = Some(what.to_owned());
    }

    /// Makes every later operation fail as a broken disk would.
    pub fn poison(&self, reason: &str) {
        self.lock().poisoned = Some(reason.to_owned());
    }

    /// All bytes from the log start to the end, for comparing replicas.
    pub fn contents(&self) -> Bytes {
        self.lock().bytes(Offset::ZERO, Offset::MAX)
    }

    /// The epoch table.
    pub fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        self.lock().epochs.clone()
    }
}

impl Data {
    fn check(&self) -> Result<(), LogError> {
        if let Some(what) = &self.damaged {
            return Err(LogError::Corrupt {
                at: self.start,
                what: what.clone(),
            });
        }
        match &self.poisoned {
            Some(reason) => Err(LogError::Io(std::io::Error::other(reason.clone()))),
            None => Ok(()),
        }
    }

    fn bytes(&self, from: Offset, to: Offset) -> Bytes {
        let mut bytes = BytesMut::new();
        for (base, batch) in &self.batches {
            if *base >= from && *base < to {
                bytes.extend_from_slice(batch.bytes());
            }
        }
        bytes.freeze()
    }

    /// The base of the batch that contains `offset`, if there is one.
    fn base_of(&self, offset: Offset) -> Option<Offset> {
        let (base, batch) = self.batches.range(..=offset).next_back()?;
        (batch.header().end_offset()? > offset).then_some(*base)
    }

    fn cut_batches(&mut self, end: Offset) -> Offset {
        if end < self.end {
            let cut = self.base_of(end).unwrap_or(end).max(self.start);
            drop(self.batches.split_off(&cut));
            self.end = cut;
        }
        self.end
    }

    fn push(&mut self, base: Offset, batch: RecordBatch) -> Result<Appended, LogError> {
        let end = batch
            .header()
            .end_offset()
            .ok_or(LogError::OffsetsExhausted { end: self.end })?;
        self.batches.insert(base, batch);
        self.end = end;
        self.after_reset = false;
        Ok(Appended { base, end })
    }

    fn size(&self) -> u64 {
        self.batches.values().map(|b| b.bytes().len() as u64).sum()
    }

    fn first_kept(&self, now: UnixMillis, limit: Offset) -> Offset {
        let mut start = self.start;
        let mut bytes = self.size();
        for batch in self.batches.values() {
            let (header, keeping) = (batch.header(), &self.keeping);
            let rest = bytes - batch.bytes().len() as u64;
            let age = u64::try_from(now.0.saturating_sub(header.max_timestamp)).unwrap_or(0);
            let expired = keeping.retention_ms.is_some_and(|keep| age > keep);
            let too_long = keeping.retention_bytes.is_some_and(|most| rest >= most);
            let end = header.end_offset().unwrap_or(Offset::MAX);
            if end > limit.min(self.durable) || !(expired || too_long) {
                break;
            }
            bytes = rest;
            start = start.max(end);
        }
        start
    }

    fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.epochs.retain(|(e, s)| *e < epoch && *s < start);
        self.epochs.push((epoch, start));
    }
}

impl ReplicaLog for MemLog {
    fn log_start(&self) -> Offset {
        self.lock().start
    }

    fn size_bytes(&self) -> u64 {
        self.lock().size()
    }

    fn log_end(&self) -> Offset {
        self.lock().end
    }

    fn durable_end(&self) -> Offset {
        self.lock().durable
    }

    fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.lock().epochs.last().map(|(epoch, _)| *epoch)
    }

    fn append_as_leader(
        &mut self,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, LogError> {
        let mut data = self.lock();
        data.check()?;
        let base = data.end;
        if base.checked_add(batch.record_count()).is_none() {
            return Err(LogError::OffsetsExhausted { end: base });
        }
        data.push(base, batch.restamped(base, epoch))
    }

    fn append_replicated_batch(&mut self, batch: &RecordBatch) -> Result<Appended, LogError> {
        let mut data = self.lock();
        data.check()?;
        let header = batch.header();
        let (Some(base), Some(end), Some(epoch)) =
            (header.base(), header.end_offset(), header.epoch())
        else {
            return Err(LogError::Corrupt {
                at: data.end,
                what: "a replicated batch without offset or epoch".to_owned(),
            });
        };
        let starts_log = data.after_reset && base <= data.end && end > data.end;
        if base != data.end && !starts_log {
            return Err(LogError::NotContiguous {
                expected: data.end,
                found: base,
            });
        }
        match data.epochs.last() {
            Some((last, _)) if epoch < *last => {
                return Err(LogError::EpochRegression {
                    last: *last,
                    found: epoch,
                });
            }
            Some((last, _)) if epoch == *last => {}
            Some(_) | None => data.assign(epoch, base),
        }
        data.push(base, batch.clone())
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), LogError> {
        let mut data = self.lock();
        data.check()?;
        data.assign(epoch, start);
        Ok(())
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        let data = self.lock();
        let (last, _) = data.epochs.last()?;
        if epoch > *last {
            return None;
        }
        let after = data.epochs.partition_point(|(e, _)| *e <= epoch);
        let floor = data.epochs.get(after.checked_sub(1)?)?;
        let end = data.epochs.get(after).map_or(data.end, |(_, start)| *start);
        Some(EpochEnd {
            epoch: floor.0,
            end,
        })
    }

    fn truncate_to(&mut self, end: Offset) -> Result<Offset, LogError> {
        let mut data = self.lock();
        data.check()?;
        let start = data.start;
        let cut = data.cut_batches(end.max(start));
        data.epochs.retain(|(_, start)| *start < end);
        data.durable = data.durable.min(cut);
        data.generation += 1;
        Ok(cut)
    }

    fn reset_to(&mut self, start: Offset) -> Result<(), LogError> {
        let mut data = self.lock();
        data.check()?;
        data.batches.clear();
        data.epochs.clear();
        (data.start, data.end, data.durable) = (start, start, start);
        data.generation += 1;
        data.after_reset = true;
        Ok(())
    }

    fn configure(&mut self, config: &LogConfig, _durability: Durability) -> Result<(), LogError> {
        let mut data = self.lock();
        data.check()?;
        data.keeping = *config;
        Ok(())
    }

    /// Every batch is a segment of its own here.
    fn apply_retention(&mut self, now: UnixMillis, limit: Offset) -> Result<Offset, LogError> {
        let start = self.lock().first_kept(now, limit);
        self.trim_start(start)?;
        Ok(self.log_start())
    }

    fn begin_scrub(&mut self, _max_bytes: usize) -> Option<ScrubTicket> {
        None
    }

    fn finish_scrub(&mut self, _generation: u64, outcome: ScrubOutcome) -> Result<(), LogError> {
        outcome.map(|_to| ())
    }

    fn trim_start(&mut self, start: Offset) -> Result<(), LogError> {
        let mut data = self.lock();
        data.check()?;
        if start <= data.start {
            return Ok(());
        }
        if start > data.end {
            return Err(LogError::OutOfRange {
                requested: start,
                start: data.start,
                end: data.end,
            });
        }
        data.start = start;
        data.durable = data.durable.max(start);
        let first = data.base_of(start).unwrap_or(start);
        data.batches = data.batches.split_off(&first);
        let keep_from = data.epochs.partition_point(|(_, s)| *s <= start);
        let _gone = data.epochs.drain(..keep_from.saturating_sub(1)).count();
        if let Some(entry) = data.epochs.first_mut() {
            entry.1 = entry.1.max(start);
        }
        Ok(())
    }

    fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Result<LogSlice, LogError> {
        let data = self.lock();
        data.check()?;
        if from < data.start || from > data.end {
            return Err(LogError::OutOfRange {
                requested: from,
                start: data.start,
                end: data.end,
            });
        }
        let mut slice = LogSlice {
            bytes: Bytes::new(),
            next: from,
        };
        let Some(first) = data.base_of(from) else {
            return Ok(slice);
        };
        let mut bytes = BytesMut::new();
        for batch in data.batches.range(first..).map(|(_, batch)| batch) {
            let Some(end) = batch.header().end_offset().filter(|end| *end <= limit) else {
                break;
            };
            if !bytes.is_empty() && bytes.len() + batch.bytes().len() > max_bytes {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
            slice.next = end;
        }
        slice.bytes = bytes.freeze();
        Ok(slice)
    }

    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let data = self.lock();
        data.check()?;
        for batch in data.batches.values() {
            let header = batch.header();
            let Some(epoch) = header.epoch() else {
                continue;
            };
            if header.end_offset().is_none_or(|end| end > limit) || header.max_timestamp < timestamp
            {
                continue;
            }
            let found = batch.records().map_while(Result::ok).find_map(|record| {
                let offset = Offset::new(record.offset).ok()?;
                (record.timestamp >= timestamp && offset >= data.start).then_some(
                    TimestampedOffset {
                        offset,
                        timestamp: record.timestamp,
                        epoch,
                    },
                )
            });
            // A compressed batch cannot be searched; its first record is the closest answer below.
            let whole = header.base().map(|base| TimestampedOffset {
                offset: base.max(data.start),
                timestamp: header.max_timestamp,
                epoch,
            });
            if let Some(found) = found.or(whole) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn scan(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let data = self.lock();
        data.check()?;
        let first = data.base_of(from).unwrap_or(from);
        for batch in data.batches.range(first..).map(|(_, batch)| batch) {
            if visit(batch.header()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn begin_flush(&mut self) -> Option<FlushTicket> {
        let data = self.lock();
        (data.durable < data.end).then(|| FlushTicket {
            end: data.end,
            generation: data.generation,
            job: Box::new(|_by| Ok(())),
        })
    }

    fn finish_flush(
        &mut self,
        end: Offset,
        generation: u64,
        result: std::io::Result<()>,
    ) -> Result<(), LogError> {
        let mut data = self.lock();
        if generation != data.generation {
            return Ok(());
        }
        if let Err(error) = result {
            data.poisoned = Some(error.to_string());
            return Err(LogError::Io(error));
        }
        data.check()?;
        data.durable = data.durable.max(end).min(data.end);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct StoreData {
    logs: BTreeMap<PartitionId, MemLog>,
    checkpoint: Vec<(PartitionId, Offset)>,
}

/// A [`LogStore`] of [`MemLog`]s. Opening a log again finds what it held, so that a restart can be
/// played. Clones share the data.
#[derive(Debug, Clone, Default)]
pub struct MemLogStore {
    data: Arc<Mutex<StoreData>>,
}

impl MemLogStore {
    fn lock(&self) -> MutexGuard<'_, StoreData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log of `partition`, if there is one.
    pub fn log(&self, partition: PartitionId) -> Option<MemLog> {
        self.lock().logs.get(&partition).cloned()
    }
}

impl LogStore for MemLogStore {
    fn open(&self, partition: PartitionId) -> Result<OpenedLog, LogError> {
        let log = self.lock().logs.entry(partition).or_default().clone();
        log.lock().check()?;
        Ok(OpenedLog {
            log: Box::new(log),
            cut_bytes: 0,
        })
    }

    fn acknowledge_cut(&self, _partition: PartitionId) -> Result<(), LogError> {
        Ok(())
    }

    fn mark_running(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn mark_stopped(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn remove(&self, partition: PartitionId) -> Result<(), LogError> {
        let _log = self.lock().logs.remove(&partition);
        Ok(())
    }

    fn list(&self) -> Result<Vec<PartitionId>, LogError> {
        Ok(self.lock().logs.keys().copied().collect())
    }

    fn load_checkpoint(&self) -> Result<Vec<(PartitionId, Offset)>, LogError> {
        Ok(self.lock().checkpoint.clone())
    }

    fn save_checkpoint(&self, high_watermarks: &[(PartitionId, Offset)]) -> Result<(), LogError> {
        self.lock().checkpoint = high_watermarks.to_vec();
        Ok(())
    }
}
