//! A log that has never been written: nothing of it is on disk, so that a partition costs no file and
//! no sync until it is used.
//!
//! What a blank log knows is its settings and the leader epochs that have begun in it, and nobody
//! relies on either after a restart: an epoch without records can be led again, since there is no first
//! history that a second one could contradict. Before the first batch is stored the directory is made
//! and the epochs are saved, each durably, so that no batch is ever without its epoch.

use std::io;
use std::ops::ControlFlow;

use rivven_core_types::{
    Appended, BatchHeader, Durability, EpochEnd, FlushTicket, LeaderEpoch, LogConfig, LogError,
    LogSlice, Offset, PartitionId, RecordBatch, ReplicaLog, ScrubOutcome, ScrubTicket,
    TimestampedOffset, UnixMillis,
};

use crate::epoch_table::EpochTable;
use crate::log::SegmentLog;
use crate::store::SegmentLogStore;
use crate::stored_logs::Entry;

/// A log that is made on disk by its first write.
#[derive(Debug)]
pub(crate) struct LogOnDemand {
    store: SegmentLogStore,
    partition: PartitionId,
    settings: Option<(LogConfig, Durability)>,
    epochs: EpochTable,
    log: Option<Box<SegmentLog>>,
}

impl LogOnDemand {
    /// A log of which there is nothing on disk.
    pub(crate) fn new(store: SegmentLogStore, partition: PartitionId) -> Self {
        Self {
            store,
            partition,
            settings: None,
            epochs: EpochTable::default(),
            log: None,
        }
    }

    /// The log on disk, which is made if there is none.
    fn stored(&mut self) -> Result<&mut SegmentLog, LogError> {
        let log = match self.log.take() {
            Some(log) => log,
            None => Box::new(self.make()?),
        };
        Ok(self.log.insert(log))
    }

    fn make(&self) -> Result<SegmentLog, LogError> {
        self.store.note_stored(Entry::Stored, self.partition)?;
        let (mut log, _nothing_cut) = self.store.open_log(self.partition)?;
        if let Some((config, durability)) = &self.settings {
            log.configure(config, *durability)?;
        }
        if self.epochs.last().is_some() {
            log.replace_epochs(self.epochs.clone())?;
        }
        Ok(log)
    }
}

const fn out_of_range(requested: Offset) -> LogError {
    LogError::OutOfRange {
        requested,
        start: Offset::ZERO,
        end: Offset::ZERO,
    }
}

/// The only offset that a blank log has.
fn at_zero(offset: Offset) -> Result<(), LogError> {
    if offset == Offset::ZERO {
        Ok(())
    } else {
        Err(out_of_range(offset))
    }
}

impl ReplicaLog for LogOnDemand {
    fn log_start(&self) -> Offset {
        self.log.as_ref().map_or(Offset::ZERO, |l| l.log_start())
    }

    fn log_end(&self) -> Offset {
        self.log.as_ref().map_or(Offset::ZERO, |l| l.log_end())
    }

    fn durable_end(&self) -> Offset {
        self.log.as_ref().map_or(Offset::ZERO, |l| l.durable_end())
    }

    fn size_bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, |l| l.size_bytes())
    }

    fn last_epoch(&self) -> Option<LeaderEpoch> {
        match &self.log {
            Some(log) => log.last_epoch(),
            None => self.epochs.last().map(|(epoch, _)| epoch),
        }
    }

    fn append_as_leader(
        &mut self,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, LogError> {
        self.stored()?.append_as_leader(epoch, batch)
    }

    fn append_replicated_batch(&mut self, batch: &RecordBatch) -> Result<Appended, LogError> {
        self.stored()?.append_replicated_batch(batch)
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), LogError> {
        if let Some(log) = &mut self.log {
            return log.assign_epoch(epoch, start);
        }
        at_zero(start)?;
        self.epochs.assign(epoch, start);
        Ok(())
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        match &self.log {
            Some(log) => log.epoch_end(epoch),
            None => self.epochs.end_of(epoch, Offset::ZERO),
        }
    }

    fn truncate_to(&mut self, end: Offset) -> Result<Offset, LogError> {
        if let Some(log) = &mut self.log {
            return log.truncate_to(end);
        }
        let _any = self.epochs.cut(end);
        Ok(Offset::ZERO)
    }

    fn reset_to(&mut self, start: Offset) -> Result<(), LogError> {
        if self.log.is_none() && start == Offset::ZERO {
            self.epochs = EpochTable::default();
            return Ok(());
        }
        self.stored()?.reset_to(start)
    }

    fn configure(&mut self, config: &LogConfig, durability: Durability) -> Result<(), LogError> {
        self.settings = Some((*config, durability));
        match &mut self.log {
            Some(log) => log.configure(config, durability),
            None => Ok(()),
        }
    }

    fn apply_retention(&mut self, now: UnixMillis, limit: Offset) -> Result<Offset, LogError> {
        match &mut self.log {
            Some(log) => log.apply_retention(now, limit),
            None => Ok(Offset::ZERO),
        }
    }

    fn begin_scrub(&mut self, max_bytes: usize) -> Option<ScrubTicket> {
        self.log.as_mut()?.begin_scrub(max_bytes)
    }

    fn finish_scrub(&mut self, generation: u64, outcome: ScrubOutcome) -> Result<(), LogError> {
        match &mut self.log {
            Some(log) => log.finish_scrub(generation, outcome),
            None => Ok(()),
        }
    }

    fn trim_start(&mut self, start: Offset) -> Result<(), LogError> {
        match &mut self.log {
            Some(log) => log.trim_start(start),
            None => at_zero(start),
        }
    }

    fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Result<LogSlice, LogError> {
        if let Some(log) = &self.log {
            return log.read(from, limit, max_bytes);
        }
        at_zero(from)?;
        Ok(LogSlice {
            bytes: bytes::Bytes::new(),
            next: from,
        })
    }

    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        match &self.log {
            Some(log) => log.offset_for_timestamp(timestamp, limit),
            None => Ok(None),
        }
    }

    fn scan(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        match &self.log {
            Some(log) => log.scan(from, visit),
            None => at_zero(from),
        }
    }

    fn begin_flush(&mut self) -> Option<FlushTicket> {
        self.log.as_mut()?.begin_flush()
    }

    fn finish_flush(
        &mut self,
        end: Offset,
        generation: u64,
        result: io::Result<()>,
    ) -> Result<(), LogError> {
        match &mut self.log {
            Some(log) => log.finish_flush(end, generation, result),
            None => Ok(()),
        }
    }
}
