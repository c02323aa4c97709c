//! The log port: one partition's records on one node.
//!
//! A log is owned by one task; nobody else calls it. Reads return owned bytes.
//!
//! Invariants, each held by every implementation:
//! - `log_start <= durable_end <= log_end`;
//! - offsets are contiguous: a batch's base offset is the log end at its append;
//! - batch epochs never decrease with the offset, and agree with the epoch table;
//! - `durable_end` falls only with truncation or reopening.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::batch::{BatchHeader, RecordBatch};
use crate::clock::UnixMillis;
use crate::cluster::{Durability, LogConfig};
use crate::epochs::{LeaderEpoch, Offset};
use crate::ids::PartitionId;

/// Why a log operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The offset lies outside `start..end`. Nothing changed.
    #[error("offset {requested} is out of range {start}..{end}")]
    OutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// The log's start.
        start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// A replicated batch does not continue the log. Nothing changed.
    #[error("batch at offset {found} does not continue the log, which ends at {expected}")]
    NotContiguous {
        /// The log's end.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// A batch's leader epoch is lower than the log's last. Nothing changed.
    #[error("leader epoch {found} is lower than the log's last, {last}")]
    EpochRegression {
        /// The log's last epoch.
        last: LeaderEpoch,
        /// The batch's epoch.
        found: LeaderEpoch,
    },
    /// A leader appends in an epoch that has not been assigned. Nothing changed.
    #[error("leader epoch {epoch} has not been assigned; the last is {last:?}")]
    EpochNotAssigned {
        /// The epoch of the append.
        epoch: LeaderEpoch,
        /// The log's last epoch.
        last: Option<LeaderEpoch>,
    },
    /// The offset range of `i64` is used up. Nothing changed.
    #[error("no offsets left after {end}")]
    OffsetsExhausted {
        /// The log's end.
        end: Offset,
    },
    /// Stored bytes are wrong. The replica must go offline and heal from a peer (never cut, never
    /// served).
    #[error("corrupt log at offset {at}: {what}")]
    Corrupt {
        /// Where, as an offset.
        at: Offset,
        /// What is wrong.
        what: String,
    },
    /// The disk failed. The log is poisoned: every later call fails (fail-stop).
    #[error("log I/O failed: {0}")]
    Io(#[from] io::Error),
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base: Offset,
    /// The log's end after the append.
    pub end: Offset,
}

/// The end of an epoch as [`ReplicaLog::epoch_end`] finds it (KIP-101, KIP-279).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The greatest epoch in the log that is not above the one asked for.
    pub epoch: LeaderEpoch,
    /// Its exclusive end.
    pub end: Offset,
}

/// Bytes of whole batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSlice {
    /// Whole record batches, one after the other; the first contains the offset asked for.
    pub bytes: Bytes,
    /// The offset after the last batch; the offset asked for when `bytes` is empty.
    pub next: Offset,
}

/// A record found by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// The record's offset.
    pub offset: Offset,
    /// Its timestamp in Unix milliseconds.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub epoch: LeaderEpoch,
}

/// A flush that has begun: `job` makes everything below `end` durable and may run on any thread.
pub struct FlushTicket {
    /// The log end when the flush began.
    pub end: Offset,
    /// Changes with every truncation, so that a flush of bytes that are gone is not counted.
    pub generation: u64,
    /// The blocking work.
    pub job: Box<dyn FnOnce(SyncBy) -> io::Result<()> + Send>,
}

/// Who makes the bytes of a [`FlushTicket`] durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncBy {
    /// The job syncs the log's own files.
    Job,
    /// The caller has made the whole disk durable since the flush began ([`LogStore::sync_disk`]). The
    /// job says whether the log has failed before, and syncs its own files all the same if an earlier
    /// sync of the whole disk failed and the log has not found out since whether it was concerned.
    WholeDisk,
}

impl Debug for FlushTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushTicket")
            .field("end", &self.end)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Where a piece of verification ended: the segment's base offset and the position in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubbedTo {
    /// Base offset of the segment.
    pub segment: Offset,
    /// Bytes of it that are verified.
    pub position: u64,
}

/// What verifying a piece found.
pub type ScrubOutcome = Result<ScrubbedTo, LogError>;

/// A piece of verification that has begun: `job` reads and checks, and may run on any thread.
pub struct ScrubTicket {
    /// Changes with every truncation, so that damage to bytes that are gone is not reported.
    pub generation: u64,
    /// About how many bytes it reads.
    pub bytes: u64,
    /// The blocking work.
    pub job: Box<dyn FnOnce() -> ScrubOutcome + Send>,
}

impl Debug for ScrubTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScrubTicket")
            .field("generation", &self.generation)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Port: one partition's log.
pub trait ReplicaLog: Debug + Send {
    /// The first offset kept.
    fn log_start(&self) -> Offset;
    /// The offset after the last record (the log end offset).
    fn log_end(&self) -> Offset;
    /// Everything below is on stable storage.
    fn durable_end(&self) -> Offset;
    /// Bytes of the batches that are stored. Asked for after every change: at hand, not counted.
    fn size_bytes(&self) -> u64;
    /// The last entry of the epoch table.
    fn last_epoch(&self) -> Option<LeaderEpoch>;

    /// Appends as leader: stamps base offset and `epoch` into the batch. `epoch` must have been
    /// assigned with [`ReplicaLog::assign_epoch`].
    fn append_as_leader(
        &mut self,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, LogError>;

    /// Appends a leader's batch as it is: its base offset must be the log end (or the log must be
    /// empty after [`ReplicaLog::reset_to`] and the batch contain the log start), its epoch not lower
    /// than the last. A new epoch is added to the epoch table durably before the batch is written.
    fn append_replicated_batch(&mut self, batch: &RecordBatch) -> Result<Appended, LogError>;

    /// Records durably that `epoch` starts at `start`, dropping every entry with an equal or greater
    /// epoch or start (KIP-101; KAFKA-7415: also when no record follows). Of a log that has never had a
    /// record it need not be durable before its first one: nothing was written under it.
    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), LogError>;

    /// The end of the greatest epoch not above `epoch`: its successor's start, or the log end for
    /// the last one; `None` when there is no such epoch, or `epoch` is above the last (KIP-279).
    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd>;

    /// Removes every batch that reaches to or beyond `end`, durably, together with its epochs;
    /// returns the new log end (which is lower than `end` if that lay inside a batch). The epoch
    /// table is cut even if `end` is not below the log end (KAFKA-10706).
    fn truncate_to(&mut self, end: Offset) -> Result<Offset, LogError>;

    /// Removes everything, durably, and starts again at `start`.
    fn reset_to(&mut self, start: Offset) -> Result<(), LogError>;

    /// Takes on the settings of the topic. Before a log with [`Durability::Replicated`] takes its first
    /// append it notes, durably, that an unclean stop may lose records without a trace.
    fn configure(&mut self, config: &LogConfig, durability: Durability) -> Result<(), LogError>;

    /// Closes the active segment if it is due, and drops the whole segments below `limit` that the
    /// settings do not keep; returns the log start, which moves only over durable records.
    fn apply_retention(&mut self, now: UnixMillis, limit: Offset) -> Result<Offset, LogError>;

    /// Begins to verify the next piece, of about `max_bytes`, of what is closed and durable; `None`
    /// when there is nothing to verify. After the last piece it starts again.
    fn begin_scrub(&mut self, max_bytes: usize) -> Option<ScrubTicket>;

    /// Takes note of a verified piece. Damage is passed on as the error that it is, unless what was
    /// read has been removed meanwhile.
    fn finish_scrub(&mut self, generation: u64, outcome: ScrubOutcome) -> Result<(), LogError>;

    /// Moves the log start forward to `start`; keeps what is above.
    fn trim_start(&mut self, start: Offset) -> Result<(), LogError>;

    /// Reads whole batches from the one that contains `from`, below `limit`, up to `max_bytes`; the
    /// first batch is returned even if it is longer. Every returned header is checked against the
    /// epoch table and for contiguity.
    fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Result<LogSlice, LogError>;

    /// The first record below `limit` whose timestamp is at least `timestamp` (Unix milliseconds).
    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, LogError>;

    /// Visits the headers of all batches from the one that contains `from`.
    fn scan(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), LogError>;

    /// Begins a flush; `None` when all is durable already.
    fn begin_flush(&mut self) -> Option<FlushTicket>;

    /// Takes note of a finished flush: moves `durable_end`, or poisons the log if it failed. A
    /// ticket of an earlier generation is ignored.
    fn finish_flush(
        &mut self,
        end: Offset,
        generation: u64,
        result: io::Result<()>,
    ) -> Result<(), LogError>;
}

/// What opening a log found.
#[derive(Debug)]
pub struct OpenedLog {
    /// The log.
    pub log: Box<dyn ReplicaLog>,
    /// Bytes of a torn tail that were cut off, by this opening or by an earlier one that has not been
    /// acknowledged with [`LogStore::acknowledge_cut`]. Not zero means: this replica is lossy and
    /// must register as such (D9).
    pub cut_bytes: u64,
}

/// Port: all partition logs of one node. Calls block.
pub trait LogStore: Debug + Send + Sync + 'static {
    /// Opens a partition's log, an empty one if there is none. Nothing need be stored of an empty one
    /// before its first batch.
    fn open(&self, partition: PartitionId) -> Result<OpenedLog, LogError>;
    /// Forgets that the partition's log was cut, durably, once its broker has registered it as lossy.
    /// A store that cuts a tail records that durably *before* it cuts, and keeps reporting it until
    /// then: a crash between the cut and the registration must not hide the loss.
    fn acknowledge_cut(&self, partition: PartitionId) -> Result<(), LogError>;
    /// Notes durably that logs are about to be written, once all of them have been opened and what
    /// they lost is recorded. From here on a stop without [`LogStore::mark_stopped`] is unclean.
    fn mark_running(&self) -> Result<(), LogError>;
    /// Notes durably that every log was flushed and nothing writes any more (KIP-966's clean
    /// shutdown).
    fn mark_stopped(&self) -> Result<(), LogError>;
    /// Makes durable what all logs of this store had written before the call, in one round: for the
    /// group commit of many logs ([`SyncBy::WholeDisk`]). `false` if the disk has no such round; nothing
    /// is done then. After an error nothing is known of any log, also of
    /// those without a flush under way: the next flush of each syncs the log by itself.
    fn sync_disk(&self) -> Result<bool, LogError> {
        Ok(false)
    }
    /// Removes a partition's log.
    fn remove(&self, partition: PartitionId) -> Result<(), LogError>;
    /// The partitions of which something is stored here.
    fn list(&self) -> Result<Vec<PartitionId>, LogError>;
    /// The partitions of which something should be stored here: those that were at the last
    /// [`LogStore::remember_stored`], and those stored since and not removed. One that is not listed any
    /// more has been lost. `None` if it is not known: any log that is not listed may have been lost.
    fn remembered(&self) -> Result<Option<BTreeSet<PartitionId>>, LogError> {
        Ok(None)
    }
    /// Takes what is stored now for all that should be, durably, once it is on record elsewhere which
    /// logs are lost.
    fn remember_stored(&self) -> Result<(), LogError> {
        Ok(())
    }
    /// The high-watermark checkpoint: a hint, never a reason to truncate (KIP-101).
    fn load_checkpoint(&self) -> Result<Vec<(PartitionId, Offset)>, LogError>;
    /// Replaces the high-watermark checkpoint atomically.
    fn save_checkpoint(&self, high_watermarks: &[(PartitionId, Offset)]) -> Result<(), LogError>;
}
