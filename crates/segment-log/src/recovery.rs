//! Opening a partition directory: walks what is stored and decides what it is worth.
//!
//! | found | what happens |
//! |---|---|
//! | bad batch below the durable mark, or the log ends below it | corrupt: not cut, not served |
//! | sound batch with another offset or epoch than belongs there | corrupt |
//! | bad batch, nothing sound after it | torn tail: cut |
//! | bad batch, sound ones after it, above the mark, reads as never written | lost write: cut |
//! | bad batch, sound ones after it, otherwise | corrupt |
//!
//! The fourth row is what a power loss leaves when unsynced writes reach the disk out of order; what
//! was never synced was never promised.

use std::io;
use std::path::{Path, PathBuf};

use rivven_core_types::{BatchHeader, LogError, Offset, OpenMode, Vfs, VfsFile, planted};

use crate::batch_reader::{BODY_WINDOW_BYTES, BatchReader, HEADER_WINDOW_BYTES};
use crate::config::SegmentLogConfig;
use crate::cut_record;
use crate::damage;
use crate::durable_mark::DurableMark;
use crate::epoch_table::EpochTable;
use crate::meta::{Meta, Pending};
use crate::open_files::OpenFiles;
use crate::segment::Segment;

/// What recovery hands to the log.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) meta: Meta,
    pub(crate) epochs: EpochTable,
    pub(crate) mark: DurableMark,
    pub(crate) segments: Vec<Segment>,
    pub(crate) cut_bytes: u64,
}

/// Where the sound part of the log ends before its files do.
struct Cut {
    /// Length that the last kept segment is cut to.
    position: u64,
    /// Bytes that go.
    bytes: u64,
}

struct Walk<'a> {
    vfs: &'a dyn Vfs,
    open_files: &'a OpenFiles,
    config: &'a SegmentLogConfig,
    files: Vec<(Offset, PathBuf)>,
    log_start: Offset,
    mark: Offset,
    epochs: Option<EpochTable>,
    rebuilt: EpochTable,
    segments: Vec<Segment>,
    expected: Offset,
}

/// Opens the directory of a log that exists. Everything that it returns is on stable storage.
pub(crate) fn recover(
    vfs: &dyn Vfs,
    open_files: &OpenFiles,
    dir: &Path,
    mut meta: Meta,
    config: &SegmentLogConfig,
) -> Result<Recovered, LogError> {
    remove_leftovers(vfs, dir)?;
    let mut mark = DurableMark::open(vfs, open_files, dir)?;
    if meta.pending == Pending::Reset {
        start_afresh(vfs, open_files, dir, &mut meta, &mut mark)?;
    }
    let log_start = meta.log_start;
    let files = kept_files(vfs, dir, log_start, mark.value())?;
    let mut walk = Walk {
        vfs,
        open_files,
        config,
        expected: files.first().map_or(log_start, |(base, _)| *base),
        files,
        log_start,
        mark: mark.value().unwrap_or(Offset::ZERO),
        epochs: EpochTable::load(vfs, dir)?,
        rebuilt: EpochTable::default(),
        segments: Vec::new(),
    };
    let cut = walk.run()?;
    if walk.expected < walk.mark.max(log_start) {
        return Err(corrupt(
            walk.expected,
            "the log ends before what was durable",
        ));
    }
    let end = walk.expected;
    // An epoch that starts beyond the end had records here once: the log has lost something.
    let lost = walk.epochs.as_ref().is_some_and(|t| t.reaches_beyond(end));
    let mut cut_bytes = cut_record::load(vfs, dir)?;
    if cut.is_some() || lost {
        let bytes = cut.as_ref().map_or(1, |cut| cut.bytes);
        cut_bytes = cut_record::add(vfs, dir, bytes)?;
        tracing::warn!(dir = %dir.display(), end = end.get(), bytes, "the log lost its tail");
    }
    if let Some(cut) = cut {
        apply_cut(vfs, dir, &walk, &cut)?;
    }
    let epochs = settle_epochs(vfs, dir, walk.epochs, walk.rebuilt, log_start, end)?;
    let mut segments = walk.segments;
    if segments.is_empty() {
        segments.push(Segment::create(open_files, dir, log_start)?);
        vfs.sync_dir(dir)?;
    }
    make_durable(vfs, dir, &segments, &mut mark, end)?;
    Ok(Recovered {
        meta,
        epochs,
        mark,
        segments,
        cut_bytes,
    })
}

/// Empties the directory and lets the log start at the log start in `meta`. Every step may be
/// repeated; a crash in between is finished by the next opening, since `meta` says so.
pub(crate) fn start_afresh(
    vfs: &dyn Vfs,
    open_files: &OpenFiles,
    dir: &Path,
    meta: &mut Meta,
    mark: &mut DurableMark,
) -> io::Result<Segment> {
    for (_, path) in Segment::list(vfs, dir)?.iter().rev() {
        vfs.remove_file(path)?;
    }
    vfs.sync_dir(dir)?;
    EpochTable::default().save(vfs, dir)?;
    mark.set_durably(meta.log_start)?;
    let segment = Segment::create(open_files, dir, meta.log_start)?;
    vfs.sync_dir(dir)?;
    meta.pending = Pending::Nothing;
    meta.save(vfs, dir)?;
    Ok(segment)
}

/// Removes the temporary files of interrupted atomic writes.
fn remove_leftovers(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    for path in vfs.read_dir(dir)? {
        if path.extension().is_some_and(|extension| extension == "tmp") {
            vfs.remove_file(&path)?;
        }
    }
    Ok(())
}

/// The segment files without those that lie wholly below the log start, which are removed.
fn kept_files(
    vfs: &dyn Vfs,
    dir: &Path,
    log_start: Offset,
    mark: Option<Offset>,
) -> Result<Vec<(Offset, PathBuf)>, LogError> {
    let mut files = Segment::list(vfs, dir)?;
    let below = files.partition_point(|(base, _)| *base <= log_start);
    if below == 0 && (!files.is_empty() || mark.is_some_and(|mark| mark > log_start)) {
        return Err(corrupt(
            log_start,
            "the segment of the log start is missing",
        ));
    }
    for (_, path) in files.drain(..below.saturating_sub(1)) {
        vfs.remove_file(&path)?;
    }
    Ok(files)
}

impl Walk<'_> {
    /// Walks all segments; returns where to cut, if anywhere.
    fn run(&mut self) -> Result<Option<Cut>, LogError> {
        for i in 0..self.files.len() {
            let Some((base, path)) = self.files.get(i).cloned() else {
                break;
            };
            if base < self.expected {
                return Err(corrupt(base, "two segments overlap"));
            }
            if base > self.expected {
                let position = self.segments.last().map_or(0, |s| s.length);
                return self.judge(
                    i - 1,
                    position,
                    "records are missing before the next segment",
                );
            }
            let file = self.open_files.open(&path, OpenMode::ReadWrite)?;
            self.segments.push(Segment::new(base, file));
            if let Some((position, what)) = self.walk_segment(i)? {
                return self.judge(i, position, &what);
            }
        }
        Ok(None)
    }

    /// Walks the last opened segment, which is file `i`; returns the first bad batch.
    fn walk_segment(&mut self, i: usize) -> Result<Option<(u64, String)>, LogError> {
        let next = self.files.get(i + 1);
        // What lies wholly below the mark was verified when it was written.
        let crc = next.is_none_or(|(next, _)| *next > self.mark)
            && !planted("segment-log.torn-batch-is-served");
        let Some(mut segment) = self.segments.pop() else {
            return Ok(None);
        };
        segment.crc_known = crc;
        let file = segment.file.clone();
        let window = if crc {
            BODY_WINDOW_BYTES
        } else {
            HEADER_WINDOW_BYTES
        };
        let mut reader = BatchReader::new(file.as_ref(), file.len()?, window);
        let bad = loop {
            match reader.batch(segment.length, crc)? {
                Ok(None) => break None,
                Ok(Some(header)) => {
                    let at = segment.length;
                    if header
                        .base()
                        .is_some_and(|base| damage::lost_start(at, base, self.expected))
                    {
                        break Some((at, "its first bytes are missing".to_owned()));
                    }
                    self.admit(&header, i == 0 && segment.length == 0)?;
                    segment.note(&header, self.config.index_interval_bytes);
                    self.expected = segment.end;
                }
                Err(what) => break Some((segment.length, what)),
            }
        };
        self.segments.push(segment);
        Ok(bad)
    }

    /// Checks offset and epoch of a sound batch. They lie outside the CRC, so a wrong one is not the
    /// work of a torn write, unless the sector with the start of the batch was lost.
    fn admit(&mut self, header: &BatchHeader, first: bool) -> Result<(), LogError> {
        let at = self.expected;
        let (Some(base), Some(end), Some(epoch)) =
            (header.base(), header.end_offset(), header.epoch())
        else {
            return Err(corrupt(at, "a stored batch has no offset or epoch"));
        };
        if base != at && !(first && base < at && at < end) {
            let what = format!("a batch with base offset {base} where {at} belongs");
            return Err(corrupt(at, &what));
        }
        match &self.epochs {
            Some(table) if !table.agrees_with(header, self.log_start) => {
                let what = format!("leader epoch {epoch} contradicts the epoch table");
                Err(corrupt(at, &what))
            }
            None if !self.rebuilt.learn(epoch, base.max(self.log_start)) => {
                let what = format!("leader epoch {epoch} is lower than the one before");
                Err(corrupt(at, &what))
            }
            _ => Ok(()),
        }
    }

    /// Decides what the bad batch at `position` of file `i` means.
    fn judge(&self, i: usize, position: u64, what: &str) -> Result<Option<Cut>, LogError> {
        if self.expected < self.mark {
            return Err(corrupt(self.expected, what));
        }
        let Some(segment) = self.segments.last() else {
            return Err(corrupt(self.expected, what));
        };
        let length = segment.file.len()?;
        let file = segment.file.as_ref();
        let mut reader = BatchReader::new(file, length, BODY_WINDOW_BYTES);
        let mut followed = damage::sound_batch_from(&mut reader, position + 1, self.expected)?;
        let unwritten = damage::looks_unwritten(&mut reader, position, self.expected, followed)?;
        let mut bytes = length - position;
        for (_, path) in self.files.get(i + 1..).unwrap_or_default() {
            let file = self.vfs.open(path, OpenMode::Read)?;
            let length = file.len()?;
            let mut reader = BatchReader::new(file.as_ref(), length, BODY_WINDOW_BYTES);
            followed = followed || damage::sound_batch_from(&mut reader, 0, self.expected)?;
            bytes += length;
        }
        if followed && !unwritten {
            return Err(corrupt(self.expected, what));
        }
        Ok(Some(Cut { position, bytes }))
    }
}

/// Removes everything behind the sound part, durably, the highest first.
fn apply_cut(vfs: &dyn Vfs, dir: &Path, walk: &Walk<'_>, cut: &Cut) -> io::Result<()> {
    let kept = walk.segments.len();
    let later = walk.files.get(kept..).unwrap_or_default();
    for (_, path) in later.iter().rev() {
        vfs.remove_file(path)?;
    }
    if !later.is_empty() {
        vfs.sync_dir(dir)?;
    }
    if let Some(segment) = walk.segments.last() {
        segment.file.set_len(cut.position)?;
        segment.file.sync_data()?;
    }
    Ok(())
}

/// Fits the epoch table to what is stored, durably.
fn settle_epochs(
    vfs: &dyn Vfs,
    dir: &Path,
    stored: Option<EpochTable>,
    rebuilt: EpochTable,
    log_start: Offset,
    end: Offset,
) -> io::Result<EpochTable> {
    let missing = stored.is_none() && rebuilt.last().is_some();
    if missing {
        tracing::warn!(dir = %dir.display(), "the epoch table is missing; rebuilt from the batches");
    }
    let mut epochs = stored.unwrap_or(rebuilt);
    let lost = epochs.drop_beyond(end);
    let trimmed = epochs.trim(log_start);
    if missing || lost || trimmed {
        epochs.save(vfs, dir)?;
    }
    Ok(epochs)
}

/// Syncs whatever is not known to be durable, and the mark itself.
fn make_durable(
    vfs: &dyn Vfs,
    dir: &Path,
    segments: &[Segment],
    mark: &mut DurableMark,
    end: Offset,
) -> io::Result<()> {
    let known = mark.value();
    if known == Some(end) {
        return Ok(());
    }
    for segment in segments {
        if known.is_none_or(|known| segment.end > known) {
            segment.file.sync_data()?;
        }
    }
    vfs.sync_dir(dir)?;
    mark.set_durably(end)
}

pub(crate) fn corrupt(at: Offset, what: &str) -> LogError {
    LogError::Corrupt {
        at,
        what: what.to_owned(),
    }
}
