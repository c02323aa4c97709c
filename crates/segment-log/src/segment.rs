//! One segment: a file of whole batches, with its sparse index in memory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rivven_core_types::{BatchHeader, Offset, OpenMode, Vfs};

use crate::open_files::{OpenFiles, PooledFile};

const SUFFIX: &str = "log";
const NAME_DIGITS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    /// Base offset of the batch at `position`.
    offset: Offset,
    position: u64,
    /// Greatest timestamp of the batches before it.
    max_before: i64,
}

/// A batch boundary from which a walk can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) offset: Offset,
    pub(crate) position: u64,
    pub(crate) max_before: i64,
}

#[derive(Debug)]
pub(crate) struct Segment {
    /// The offset in its name. Its first batch starts there, or contains it after a reset into the
    /// middle of a batch.
    pub(crate) base: Offset,
    pub(crate) file: Arc<PooledFile>,
    /// Bytes of whole batches.
    pub(crate) length: u64,
    /// Bytes of the segments before it, counted from one that may be gone.
    pub(crate) before: u64,
    /// The offset after its last batch.
    pub(crate) end: Offset,
    pub(crate) max_timestamp: i64,
    /// The greatest timestamp of its first batch; `i64::MIN` while it is empty.
    pub(crate) first_timestamp: i64,
    /// Whether every CRC has been checked since the log was opened, so that reads need not.
    pub(crate) crc_known: bool,
    index: Vec<IndexEntry>,
}

impl Segment {
    pub(crate) fn new(base: Offset, file: Arc<PooledFile>) -> Self {
        Self {
            base,
            file,
            length: 0,
            before: 0,
            end: base,
            max_timestamp: i64::MIN,
            first_timestamp: i64::MIN,
            crc_known: true,
            index: Vec::new(),
        }
    }

    /// Creates the file of a new segment. Its name is durable once the directory is synced.
    pub(crate) fn create(files: &OpenFiles, dir: &Path, base: Offset) -> io::Result<Self> {
        let path = dir.join(format!("{:0NAME_DIGITS$}.{SUFFIX}", base.get()));
        let file = files.open(&path, OpenMode::CreateNew)?;
        Ok(Self::new(base, file))
    }

    /// The base offset in a segment's file name; `None` if it is not one.
    pub(crate) fn parse_name(path: &Path) -> Option<Offset> {
        if path.extension()? != SUFFIX {
            return None;
        }
        let stem = path.file_stem()?.to_str()?;
        let digits = stem.len() == NAME_DIGITS && stem.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| Offset::new(stem.parse().ok()?).ok())?
    }

    /// The segments in a directory, lowest first.
    pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> io::Result<Vec<(Offset, PathBuf)>> {
        let paths = vfs.read_dir(dir)?.into_iter();
        let mut found: Vec<_> = paths
            .filter_map(|path| Some((Self::parse_name(&path)?, path)))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Takes note of the batch that follows the last one.
    pub(crate) fn note(&mut self, header: &BatchHeader, interval: u64) {
        let (Some(base), Some(end)) = (header.base(), header.end_offset()) else {
            return;
        };
        let due = |last: &IndexEntry| self.length - last.position >= interval;
        if self.index.last().is_none_or(due) {
            self.index.push(IndexEntry {
                offset: base,
                position: self.length,
                max_before: self.max_timestamp,
            });
        }
        if self.length == 0 {
            self.first_timestamp = header.max_timestamp;
        }
        self.length += header.total_bytes as u64;
        self.end = end;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Forgets everything from `position` on, which is where `end` begins.
    pub(crate) fn cut(&mut self, position: u64, end: Offset, max_timestamp: i64) {
        self.index.retain(|entry| entry.position < position);
        self.length = position;
        self.end = end;
        self.max_timestamp = max_timestamp;
        if position == 0 {
            self.first_timestamp = i64::MIN;
        }
    }

    /// The indexed boundary at or before `offset`; `None` if the segment is empty.
    pub(crate) fn before_offset(&self, offset: Offset) -> Option<Boundary> {
        let after = self.index.partition_point(|e| e.offset <= offset);
        self.index.get(after.saturating_sub(1)).map(boundary)
    }

    /// The last indexed boundary before which no record reaches `timestamp`.
    pub(crate) fn before_timestamp(&self, timestamp: i64) -> Option<Boundary> {
        let after = self.index.partition_point(|e| e.max_before < timestamp);
        self.index.get(after.saturating_sub(1)).map(boundary)
    }
}

const fn boundary(entry: &IndexEntry) -> Boundary {
    Boundary {
        offset: entry.offset,
        position: entry.position,
        max_before: entry.max_before,
    }
}
