//! [`SegmentLog`]: the state of one partition's log and its way to disk.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rivven_core_types::{
    Appended, LeaderEpoch, LogConfig, LogError, Offset, PartitionId, RecordBatch, ScrubbedTo, Vfs,
    VfsFile, planted,
};

use crate::config::SegmentLogConfig;
use crate::durable_mark::DurableMark;
use crate::epoch_table::EpochTable;
use crate::meta::{Meta, Pending};
use crate::open_files::{OpenFiles, Unsynced};
use crate::recovery::{self, Recovered};
use crate::segment::{Boundary, Segment};
use crate::sync_gate::{DiskFailures, SyncGate};

/// A batch up to this length is copied behind its header and written with one call; a longer one is
/// written with two calls and not copied. In bytes.
const COALESCE_BYTES: usize = 16 << 10;
/// How many ends of earlier reads are remembered: a few followers and consumers at different places.
const READ_HINTS: usize = 4;

/// One partition's log: segments of record batches, stored exactly as they were stamped.
///
/// Appends are completed writes when they return; they are durable after a flush
/// ([`rivven_core_types::ReplicaLog::begin_flush`]). After a failed write or sync the log is poisoned:
/// every later change fails, reads still work where the stored bytes are certain.
pub struct SegmentLog {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) open_files: OpenFiles,
    pub(crate) dir: PathBuf,
    pub(crate) config: SegmentLogConfig,
    pub(crate) meta: Meta,
    pub(crate) epochs: EpochTable,
    /// Never empty; the last one is appended to.
    pub(crate) segments: Vec<Segment>,
    pub(crate) durable_end: Offset,
    pub(crate) generation: u64,
    pub(crate) gate: SyncGate,
    /// Of the disk that holds the log.
    pub(crate) disk_failures: DiskFailures,
    mark: DurableMark,
    poison: Option<Poison>,
    /// How long records are kept.
    pub(crate) keeping: LogConfig,
    /// Where the last piece of verification ended.
    pub(crate) scrubbed: Option<ScrubbedTo>,
    hints: RefCell<[Option<Hint>; READ_HINTS]>,
    next_hint: Cell<usize>,
}

#[derive(Debug)]
struct Poison {
    reason: String,
    /// Stored bytes below are certain.
    readable_end: Offset,
}

/// Where an earlier read ended.
#[derive(Debug, Clone, Copy)]
struct Hint {
    segment_base: Offset,
    boundary: Boundary,
}

impl std::fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentLog")
            .field("partition", &self.meta.partition)
            .field("start", &self.meta.log_start)
            .field("durable_end", &self.durable_end)
            .field("end", &self.end())
            .field("segments", &self.segments.len())
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

impl SegmentLog {
    /// Opens the log of `partition` in its directory `dir`, creating it if there is none. Returns
    /// the log and the number of bytes that recovery cut off.
    pub(crate) fn open(
        (vfs, open_files): (Arc<dyn Vfs>, OpenFiles),
        dir: PathBuf,
        partition: PartitionId,
        config: SegmentLogConfig,
        disk_failures: DiskFailures,
    ) -> Result<(Self, u64), LogError> {
        let meta = match Meta::load(vfs.as_ref(), &dir, partition)? {
            Some(meta) => meta,
            None => create_directory(vfs.as_ref(), &dir, partition)?,
        };
        let Recovered {
            meta,
            epochs,
            mark,
            segments,
            cut_bytes,
        } = recovery::recover(vfs.as_ref(), &open_files, &dir, meta, &config)?;
        let mut log = Self {
            vfs,
            open_files,
            dir,
            config,
            meta,
            epochs,
            segments,
            durable_end: meta.log_start,
            generation: 0,
            gate: SyncGate::default(),
            disk_failures,
            mark,
            poison: None,
            keeping: LogConfig::default(),
            scrubbed: None,
            hints: RefCell::new([None; READ_HINTS]),
            next_hint: Cell::new(0),
        };
        log.durable_end = log.end();
        let mut before = 0;
        for segment in &mut log.segments {
            segment.before = before;
            before += segment.length;
        }
        Ok((log, cut_bytes))
    }

    /// The partition.
    pub const fn partition(&self) -> PartitionId {
        self.meta.partition
    }

    pub(crate) fn end(&self) -> Offset {
        self.segments.last().map_or(self.meta.log_start, |s| s.end)
    }

    /// Bytes of whole batches in all segments.
    pub(crate) fn size(&self) -> u64 {
        let first = self.segments.first().map_or(0, |s| s.before);
        let end = self.segments.last().map_or(0, |s| s.before + s.length);
        end - first
    }

    /// Takes on the segment that is appended to from now on.
    pub(crate) fn begin_segment(&mut self, mut segment: Segment) {
        segment.before = self.segments.last().map_or(0, |s| s.before + s.length);
        self.segments.push(segment);
    }

    /// The end of what may be read.
    pub(crate) fn readable_end(&self) -> Offset {
        let end = self.end();
        self.poison
            .as_ref()
            .map_or(end, |poison| poison.readable_end.min(end))
    }

    pub(crate) fn poisoned(&self) -> Option<LogError> {
        let poison = self.poison.as_ref()?;
        let text = format!("the log stopped after a failure: {}", poison.reason);
        Some(LogError::Io(io::Error::other(text)))
    }

    /// Fails if the log is poisoned.
    pub(crate) fn alive(&self) -> Result<(), LogError> {
        self.poisoned().map_or(Ok(()), Err)
    }

    /// Passes a result on and poisons the log if it is a failure; below `readable_end` the stored
    /// bytes stay certain.
    pub(crate) fn guard<T>(
        &mut self,
        result: io::Result<T>,
        readable_end: Offset,
    ) -> Result<T, LogError> {
        result.map_err(|error| {
            let readable_end = self.readable_end().min(readable_end);
            tracing::error!(partition = %self.meta.partition, %error, "the log has failed and stops");
            self.poison = Some(Poison {
                reason: error.to_string(),
                readable_end,
            });
            LogError::Io(error)
        })
    }

    pub(crate) fn out_of_range(&self, requested: Offset) -> LogError {
        LogError::OutOfRange {
            requested,
            start: self.meta.log_start,
            end: self.end(),
        }
    }

    /// Writes a batch whose offset and epoch have been checked, and moves the end.
    pub(crate) fn write(
        &mut self,
        base: Offset,
        end: Offset,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, LogError> {
        let written = self.write_batch(base, epoch, batch);
        let readable = self.end();
        self.guard(written, readable)?;
        let mut header = *batch.header();
        header.base_offset = base.get();
        header.leader_epoch = epoch.get();
        let interval = self.config.index_interval_bytes;
        if let Some(segment) = self.segments.last_mut() {
            segment.note(&header, interval);
        }
        Ok(Appended { base, end })
    }

    fn write_batch(
        &mut self,
        base: Offset,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> io::Result<()> {
        let total = batch.bytes().len() as u64;
        let full = |s: &Segment| s.length > 0 && s.length + total > self.config.segment_bytes;
        if self.segments.last().is_none_or(full) {
            let next = Segment::create(&self.open_files, &self.dir, self.end())?;
            self.begin_segment(next);
        }
        let Some(segment) = self.segments.last() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (head, rest) = batch.stamped(base, epoch);
        if batch.bytes().len() <= COALESCE_BYTES {
            let mut whole = Vec::with_capacity(batch.bytes().len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(&rest);
            return segment.file.write_all_at(&whole, segment.length);
        }
        segment.file.write_all_at(&head, segment.length)?;
        let behind = segment.length + head.len() as u64;
        segment.file.write_all_at(&rest, behind)
    }

    /// Whether nothing has been stored since the log was created or reset.
    pub(crate) fn is_blank(&self) -> bool {
        self.segments.iter().all(|s| s.length == 0) && self.end() == self.meta.log_start
    }

    /// Replaces the epoch table, durably.
    pub(crate) fn replace_epochs(&mut self, epochs: EpochTable) -> Result<(), LogError> {
        let saved = epochs.save(self.vfs.as_ref(), &self.dir);
        let readable = self.end();
        self.guard(saved, readable)?;
        self.epochs = epochs;
        Ok(())
    }

    /// The files that hold what is not durable yet, and whether a name among them may not be.
    pub(crate) fn unsynced(&self) -> (io::Result<Vec<Unsynced>>, bool) {
        let dirty = self.segments.iter().filter(|s| s.end > self.durable_end);
        let names = self.segments.iter().any(|s| s.base >= self.durable_end);
        (dirty.map(|s| s.file.unsynced()).collect(), names)
    }

    /// Notes that everything below `end` is durable.
    pub(crate) fn note_durable(&mut self, end: Offset) -> Result<(), LogError> {
        self.durable_end = self.durable_end.max(end.min(self.end()));
        let noted = self.mark.note(self.durable_end);
        let readable = self.durable_end;
        self.guard(noted, readable)
    }

    /// Cuts segment `i` at `position`, where `end` begins, and removes all later ones, durably.
    pub(crate) fn cut(&mut self, i: usize, boundary: Boundary) -> Result<(), LogError> {
        let end = boundary.offset;
        if !planted("segment-log.flush-outlives-a-cut") {
            self.generation += 1;
        }
        self.scrubbed = None;
        self.durable_end = self.durable_end.min(end);
        self.forget_hints();
        let cut = self.cut_files(i, boundary);
        let readable = self.durable_end;
        self.guard(cut, readable)?;
        self.segments.truncate(i + 1);
        if let Some(segment) = self.segments.last_mut() {
            segment.cut(boundary.position, end, boundary.max_before);
        }
        Ok(())
    }

    fn cut_files(&mut self, i: usize, boundary: Boundary) -> io::Result<()> {
        self.mark.lower(boundary.offset)?;
        let later = self.segments.get(i + 1..).unwrap_or_default();
        for segment in later.iter().rev() {
            self.vfs.remove_file(segment.file.path())?;
        }
        if !later.is_empty() {
            self.vfs.sync_dir(&self.dir)?;
        }
        let Some(segment) = self.segments.get(i) else {
            return Ok(());
        };
        segment.file.set_len(boundary.position)?;
        self.gate.run(|| segment.file.sync_data())
    }

    /// Empties the log, durably, and starts it again at `start`.
    pub(crate) fn start_afresh(&mut self, start: Offset) -> Result<(), LogError> {
        self.generation += 1;
        self.scrubbed = None;
        self.forget_hints();
        let before = self.meta.log_start;
        let done = self.start_files_afresh(start);
        // Whatever was there is going away: nothing stays readable after a failure.
        let segment = self.guard(done, before)?;
        self.segments = vec![segment];
        self.epochs = EpochTable::default();
        self.durable_end = start;
        Ok(())
    }

    fn start_files_afresh(&mut self, start: Offset) -> io::Result<Segment> {
        let mut meta = Meta {
            log_start: start,
            pending: Pending::Reset,
            ..self.meta
        };
        meta.save(self.vfs.as_ref(), &self.dir)?;
        let segment = recovery::start_afresh(
            self.vfs.as_ref(),
            &self.open_files,
            &self.dir,
            &mut meta,
            &mut self.mark,
        )?;
        self.meta = meta;
        Ok(segment)
    }

    /// Moves the log start and removes the segments that lie wholly below it. The caller has made
    /// everything below `start` durable.
    pub(crate) fn drop_below(&mut self, start: Offset) -> Result<(), LogError> {
        self.forget_hints();
        let done = self.drop_files_below(start);
        let readable = self.end();
        self.guard(done, readable)?;
        let mut epochs = self.epochs.clone();
        if epochs.trim(start) {
            self.replace_epochs(epochs)?;
        }
        Ok(())
    }

    fn drop_files_below(&mut self, start: Offset) -> io::Result<()> {
        let meta = Meta {
            log_start: start,
            ..self.meta
        };
        meta.save(self.vfs.as_ref(), &self.dir)?;
        self.meta = meta;
        let all_but_last = self.segments.len().saturating_sub(1);
        let gone = self.segments.iter().take(all_but_last);
        let gone = gone.take_while(|s| s.end <= start).count();
        for segment in self.segments.drain(..gone) {
            self.vfs.remove_file(segment.file.path())?;
        }
        if gone > 0 {
            self.vfs.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Where a walk to `offset` in `segment` can start.
    pub(crate) fn start_of_walk(&self, segment: &Segment, offset: Offset) -> Option<Boundary> {
        let indexed = segment.before_offset(offset)?;
        let hints = self.hints.borrow();
        let fitting = hints.iter().flatten().filter(|hint| {
            hint.segment_base == segment.base
                && hint.boundary.offset <= offset
                && hint.boundary.offset > indexed.offset
        });
        let best = fitting.max_by_key(|hint| hint.boundary.offset);
        Some(best.map_or(indexed, |hint| hint.boundary))
    }

    /// Remembers a batch boundary, for the next read that continues there.
    pub(crate) fn remember(&self, segment: &Segment, offset: Offset, position: u64) {
        // Only cuts need `max_before`, and they start from the index.
        let hint = Hint {
            segment_base: segment.base,
            boundary: Boundary {
                offset,
                position,
                max_before: i64::MIN,
            },
        };
        let mut hints = self.hints.borrow_mut();
        let known = |h: &Option<Hint>| {
            h.is_some_and(|h| h.segment_base == segment.base && h.boundary.offset == offset)
        };
        if hints.iter().any(known) {
            return;
        }
        let slot = self.next_hint.get() % READ_HINTS;
        self.next_hint.set(slot + 1);
        if let Some(entry) = hints.get_mut(slot) {
            *entry = Some(hint);
        }
    }

    fn forget_hints(&self) {
        *self.hints.borrow_mut() = [None; READ_HINTS];
    }
}

/// Prepares the directory of a new log. A directory with files but without `meta` is not ours.
fn create_directory(vfs: &dyn Vfs, dir: &Path, partition: PartitionId) -> Result<Meta, LogError> {
    vfs.create_dir_all(dir)?;
    let foreign = vfs
        .read_dir(dir)?
        .into_iter()
        .find(|path| path.extension().is_none_or(|e| e != "tmp"));
    if let Some(path) = foreign {
        let what = format!("{} lies in a directory without `meta`", path.display());
        return Err(recovery::corrupt(Offset::ZERO, &what));
    }
    if let Some(parent) = dir.parent() {
        vfs.sync_dir(parent)?;
    }
    let meta = Meta {
        partition,
        log_start: Offset::ZERO,
        pending: Pending::Nothing,
        lazy: false,
    };
    meta.save(vfs, dir)?;
    Ok(meta)
}
