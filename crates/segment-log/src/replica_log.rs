//! [`SegmentLog`] as a [`ReplicaLog`].

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use rivven_core_types::{
    Appended, BatchHeader, Durability, EpochEnd, FlushTicket, LeaderEpoch, LogConfig, LogError,
    LogSlice, Offset, RecordBatch, ReplicaLog, ScrubOutcome, ScrubTicket, SyncBy,
    TimestampedOffset, UnixMillis, planted,
};

use crate::cut_record;
use crate::log::SegmentLog;
use crate::open_files::Unsynced;

impl ReplicaLog for SegmentLog {
    fn log_start(&self) -> Offset {
        self.meta.log_start
    }

    fn log_end(&self) -> Offset {
        self.end()
    }

    fn durable_end(&self) -> Offset {
        self.durable_end
    }

    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.last().map(|(epoch, _)| epoch)
    }

    fn append_as_leader(
        &mut self,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, LogError> {
        self.alive()?;
        match self.last_epoch() {
            Some(last) if last == epoch => {}
            Some(last) if last > epoch => {
                return Err(LogError::EpochRegression { last, found: epoch });
            }
            last => return Err(LogError::EpochNotAssigned { epoch, last }),
        }
        let base = self.end();
        let end = base
            .checked_add(batch.record_count())
            .ok_or(LogError::OffsetsExhausted { end: base })?;
        self.write(base, end, epoch, batch)
    }

    fn append_replicated_batch(&mut self, batch: &RecordBatch) -> Result<Appended, LogError> {
        self.alive()?;
        let header = batch.header();
        let expected = self.end();
        let base = header.base().ok_or(LogError::NotContiguous {
            expected,
            found: Offset::ZERO,
        })?;
        let end = header
            .end_offset()
            .ok_or(LogError::OffsetsExhausted { end: expected })?;
        let contains_start = self.is_blank() && base < expected && expected < end;
        if base != expected && !contains_start {
            return Err(LogError::NotContiguous {
                expected,
                found: base,
            });
        }
        let last = self.last_epoch();
        let found = LeaderEpoch::new(header.leader_epoch);
        let epoch = header
            .epoch()
            .filter(|epoch| last.is_none_or(|last| *epoch >= last));
        let Some(epoch) = epoch else {
            let last = last.unwrap_or_default();
            return Err(LogError::EpochRegression { last, found });
        };
        if last != Some(epoch) {
            let mut epochs = self.epochs.clone();
            epochs.assign(epoch, expected);
            self.replace_epochs(epochs)?;
        }
        self.write(base, end, epoch, batch)
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), LogError> {
        self.alive()?;
        let end = self.end();
        if self.epochs.contains(epoch, start) {
            return Ok(());
        }
        if let Some((last, last_start)) = self.epochs.last()
            && last == epoch
            && last_start < end
        {
            // It has records already, so that its start is settled.
            return Ok(());
        }
        if start != end {
            // Anything else would contradict the epochs of stored batches.
            return Err(self.out_of_range(start));
        }
        if let Some(last) = self.epochs.has_records_above(epoch, end) {
            return Err(LogError::EpochRegression { last, found: epoch });
        }
        let mut epochs = self.epochs.clone();
        epochs.assign(epoch, start);
        self.replace_epochs(epochs)
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.epochs.end_of(epoch, self.end())
    }

    fn truncate_to(&mut self, end: Offset) -> Result<Offset, LogError> {
        self.alive()?;
        if end < self.log_start() {
            return Err(self.out_of_range(end));
        }
        let mut cut_from = end;
        if end < self.end() {
            let (i, boundary) = self.cut_point(end)?;
            if boundary.offset < self.log_start() {
                // The log start lies inside the batch that goes: nothing is left.
                self.start_afresh(self.log_start())?;
                return Ok(self.end());
            }
            // The log first: a table that knows too much is put right at the next opening, batches
            // without an entry would be corruption.
            self.cut(i, boundary)?;
            cut_from = boundary.offset;
        }
        let mut epochs = self.epochs.clone();
        if epochs.cut(cut_from) {
            self.replace_epochs(epochs)?;
        }
        Ok(self.end())
    }

    fn reset_to(&mut self, start: Offset) -> Result<(), LogError> {
        self.alive()?;
        self.start_afresh(start)
    }

    fn configure(&mut self, config: &LogConfig, durability: Durability) -> Result<(), LogError> {
        self.take_config(config, durability)
    }

    fn apply_retention(&mut self, now: UnixMillis, limit: Offset) -> Result<Offset, LogError> {
        self.retain(now, limit)?;
        Ok(self.meta.log_start)
    }

    fn begin_scrub(&mut self, max_bytes: usize) -> Option<ScrubTicket> {
        self.next_piece(max_bytes)
    }

    fn finish_scrub(&mut self, generation: u64, outcome: ScrubOutcome) -> Result<(), LogError> {
        self.piece_verified(generation, outcome)
    }

    fn trim_start(&mut self, start: Offset) -> Result<(), LogError> {
        self.alive()?;
        if start <= self.log_start() {
            return Ok(());
        }
        if start > self.end() {
            return Err(self.out_of_range(start));
        }
        if start > self.durable_end {
            let end = self.end();
            let synced = self.flush_job()(SyncBy::Job);
            let readable = self.durable_end;
            self.guard(synced, readable)?;
            self.note_durable(end)?;
        }
        if start == self.end() && self.segments.last().is_some_and(|s| s.length > 0) {
            // Nothing of the active segment stays: it is closed, so that it can go.
            self.roll()?;
        }
        self.drop_below(start)
    }

    fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Result<LogSlice, LogError> {
        self.read_slice(from, limit, max_bytes)
    }

    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        self.find_timestamp(timestamp, limit)
    }

    fn scan(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.scan_headers(from, visit)
    }

    fn begin_flush(&mut self) -> Option<FlushTicket> {
        if self.durable_end >= self.end() || self.poisoned().is_some() {
            return None;
        }
        Some(FlushTicket {
            end: self.end(),
            generation: self.generation,
            job: self.flush_job(),
        })
    }

    /// A failed flush poisons the log even if its generation has passed: what else the disk lost is
    /// unknown.
    fn finish_flush(
        &mut self,
        end: Offset,
        generation: u64,
        result: io::Result<()>,
    ) -> Result<(), LogError> {
        self.alive()?;
        let readable = self.durable_end;
        if result.is_err() && self.meta.lazy {
            // What counted already may be gone from the disk, and the next process would find it in
            // the page cache all the same. If not even this can be written, nothing tells.
            let noted = cut_record::add(self.vfs.as_ref(), &self.dir, 1);
            tracing::warn!(partition = %self.meta.partition, ?noted, "a lazy flush has failed");
        }
        self.guard(result, readable)?;
        if generation != self.generation {
            return Ok(());
        }
        self.note_durable(end)
    }
}

impl SegmentLog {
    /// The blocking work that makes everything stored so far durable.
    fn flush_job(&self) -> Box<dyn FnOnce(SyncBy) -> io::Result<()> + Send> {
        let failures = self.disk_failures.clone();
        // Before the files are listed: what a failure up to here has lost was written before it, and
        // so is in one of them. One after here may concern a file that is not.
        let at_begin = failures.count();
        let (files, names) = self.unsynced();
        let gate = self.gate.clone();
        let vfs = Arc::clone(&self.vfs);
        let dir = self.dir.clone();
        Box::new(move |by| {
            gate.run_known(|cleared| {
                let files = files?;
                if by == SyncBy::WholeDisk && cleared == failures.count() {
                    files.iter().for_each(Unsynced::confirm);
                    return Ok(None);
                }
                for file in &files {
                    if planted("segment-log.flush-does-not-sync") {
                        continue;
                    }
                    file.sync()?;
                    file.confirm();
                }
                if names {
                    vfs.sync_dir(&dir)?;
                }
                Ok(Some(at_begin))
            })
        })
    }
}
