//! The file `STORED-LOGS`, beside the directory of the logs: which of them have been stored.
//!
//! A log that was never written has no directory, and neither has one that somebody removed. Only this
//! list tells them apart. A log is on it, durably, before its directory is made, and leaves it after the
//! directory has gone, so that it may name one too many and never one too few. It lies outside of the
//! directory, so that it is not lost together with what it tells of.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rivven_core_types::{LogError, Offset, OpenMode, PartitionId, TopicId, Vfs, VfsFile};

use crate::files::{self, Fields, FileKind};

pub(crate) const STORED_LOGS: &str = "STORED-LOGS";
/// Every record has this length: the frame, what happened, and the partition.
const RECORD_BYTES: usize = files::FRAME_BYTES + 1 + 16 + 4;
/// Longest list that is read, in bytes: about 1.9 million records.
const MAX_BYTES: usize = 64 << 20;
/// A list of this length is written anew if less than half of it still counts.
const COMPACT_BYTES: u64 = 1 << 20;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The first record: an empty file says nothing, not that there is no log.
    Begin = 0,
    Stored = 1,
    Removed = 2,
}

/// The list, open for appending.
#[derive(Debug)]
pub(crate) struct StoredLogs {
    file: Arc<dyn VfsFile>,
    length: u64,
    /// Its length when it was written anew.
    begun: u64,
    failed: bool,
}

impl StoredLogs {
    /// Reads the list. `None` if there is none, or a damaged one: nothing is known then. The last record
    /// may be torn, for it was about a log that had not been made.
    pub(crate) fn load(
        vfs: &dyn Vfs,
        path: &Path,
    ) -> Result<Option<BTreeSet<PartitionId>>, LogError> {
        let read = match vfs.read_file(path, MAX_BYTES) {
            Ok(bytes) => match files::other_version(FileKind::StoredLogs, &bytes) {
                Some(what) => {
                    let (at, what) = (Offset::ZERO, format!("{}: {what}", path.display()));
                    return Err(LogError::Corrupt { at, what });
                }
                None => decode(&bytes),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(e.to_string()),
            Err(e) => return Err(e.into()),
        };
        if let Err(what) = &read {
            tracing::error!(path = %path.display(), what, "the list of stored logs is damaged");
        }
        Ok(read.ok())
    }

    /// Replaces the list, durably.
    pub(crate) fn begin(
        vfs: &dyn Vfs,
        path: &Path,
        stored: &[PartitionId],
    ) -> Result<Self, LogError> {
        let nobody = PartitionId::new(TopicId::from_bytes([0; 16]), 0);
        let mut bytes = record(Entry::Begin, nobody);
        for partition in stored {
            bytes.extend(record(Entry::Stored, *partition));
        }
        vfs.write_file_atomically(path, &bytes)?;
        let length = bytes.len() as u64;
        Ok(Self {
            file: vfs.open(path, OpenMode::ReadWrite)?,
            length,
            begun: length,
            failed: false,
        })
    }

    /// Writes the list anew once most of it is about logs that are gone: partitions that come and go while
    /// the process lives must not make it longer than what can be read.
    pub(crate) fn compact(&mut self, vfs: &dyn Vfs, path: &Path) -> Result<(), LogError> {
        if self.failed || self.length < COMPACT_BYTES.max(2 * self.begun) {
            return Ok(());
        }
        match Self::load(vfs, path)? {
            // From the list and not from the directories: one of these may be missing.
            Some(stored) => {
                let stored: Vec<_> = stored.into_iter().collect();
                *self = Self::begin(vfs, path, &stored)?;
            }
            // Damaged behind our back: the next start takes it for unknown.
            None => self.failed = true,
        }
        Ok(())
    }

    /// Adds a record, durably. After a failure nothing more is added: what the file holds is unknown.
    pub(crate) fn add(&mut self, entry: Entry, partition: PartitionId) -> io::Result<()> {
        if self.failed {
            let text = "an earlier write of the list of stored logs failed";
            return Err(io::Error::other(text));
        }
        // Each record is synced before the next, so that only the last one can be torn.
        self.failed = true;
        let bytes = record(entry, partition);
        self.file.write_all_at(&bytes, self.length)?;
        self.file.sync_data()?;
        self.failed = false;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn record(entry: Entry, partition: PartitionId) -> Vec<u8> {
    let mut body = vec![entry as u8];
    files::put_partition(&mut body, partition);
    files::seal(FileKind::StoredLogs, &body)
}

fn decode(bytes: &[u8]) -> Result<BTreeSet<PartitionId>, String> {
    let mut stored = BTreeSet::new();
    let mut records = bytes.chunks(RECORD_BYTES).enumerate().peekable();
    if records.peek().is_none() {
        return Err("the file is empty".to_owned());
    }
    while let Some((n, bytes)) = records.next() {
        let (entry, partition) = match read_record(bytes) {
            Ok(read) => read,
            Err(_) if n > 0 && records.peek().is_none() => break,
            Err(what) => return Err(format!("record {n}: {what}")),
        };
        match (n, entry) {
            (0, Entry::Begin) => {}
            (1.., Entry::Stored) => drop(stored.insert(partition)),
            (1.., Entry::Removed) => drop(stored.remove(&partition)),
            _ => return Err(format!("record {n}: {entry:?} does not belong there")),
        }
    }
    Ok(stored)
}

fn read_record(bytes: &[u8]) -> Result<(Entry, PartitionId), String> {
    let mut fields = Fields(files::unseal(FileKind::StoredLogs, bytes)?);
    let (Some([entry]), Some(partition)) = (fields.array(), fields.partition()) else {
        return Err("malformed".to_owned());
    };
    let entry = match entry {
        0 => Entry::Begin,
        1 => Entry::Stored,
        2 => Entry::Removed,
        other => return Err(format!("entry {other}")),
    };
    Ok((entry, partition))
}
