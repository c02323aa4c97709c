//! The redb tables: what is stored, how it is checked, and the one transaction per batch.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend as _, TableDefinition,
};
use rivven_core_types::wire;
use rivven_core_types::{Incarnation, OpenMode, RaftGroupId, Vfs, VfsFile, limits, planted};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::VfsBackend;
use crate::error::RaftStoreError;
use crate::types::{Entry, EntryRecord, LogId, LogIdRecord, VoteRecord, entry_bytes};

/// Version byte of every record.
const RECORD_VERSION: u8 = 1;
/// Format of the database as a whole.
const FORMAT: u32 = 1;
/// Longest record: a command of the greatest length and its envelope.
const MAX_RECORD_BYTES: usize = limits::MAX_COMMAND_BYTES + 64 * 1024;
/// Memory that redb may use for pages; recent entries are served from the tail cache instead.
const PAGE_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1024 * 1024;

const LOG: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, (u32, &str), &[u8]> = TableDefinition::new("meta");

const KEY_STORE: &str = "store";
const KEY_VOTE: &str = "vote";
const KEY_COMMITTED: &str = "committed";
const KEY_PURGED: &str = "purged";
const KEY_SNAPSHOT: &str = "snapshot";
const KEY_PREVIOUS: &str = "previous";

/// Whose database this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct StoreRecord {
    format: u32,
    incarnation: Incarnation,
}

/// A durable snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) last: LogIdRecord,
    pub(crate) bytes: u64,
}

/// One change of the store.
#[derive(Debug)]
pub(crate) enum Change {
    Append(Vec<Entry>),
    Vote(VoteRecord),
    /// Removes every entry above the given index; `None` removes all.
    TruncateAfter(Option<u64>),
    Purge(LogIdRecord),
    /// A newer snapshot, and the one that stays behind it in case that it cannot be read one day.
    Snapshot {
        newest: SnapshotRecord,
        previous: Option<SnapshotRecord>,
    },
    Committed(LogIdRecord),
}

/// What a database holds, read whole when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) vote: Option<VoteRecord>,
    pub(crate) committed: Option<LogIdRecord>,
    pub(crate) purged: Option<LogIdRecord>,
    pub(crate) snapshot: Option<SnapshotRecord>,
    /// The snapshot before it, if the log still reaches back to it.
    pub(crate) previous: Option<SnapshotRecord>,
    /// The newest entries, for the tail cache.
    pub(crate) tail: Vec<Entry>,
    pub(crate) last: Option<LogId>,
    /// The least index that the log holds.
    pub(crate) begin: u64,
    /// Bytes of the entries above the snapshot.
    pub(crate) bytes_since_snapshot: u64,
}

/// An open database of one group.
#[derive(Debug)]
pub(crate) struct Db {
    database: Database,
    group: u32,
    path: PathBuf,
    two_phase: bool,
}

fn seal<T: Serialize>(context: &[u8], value: &T) -> Result<Vec<u8>, String> {
    let body = wire::encode(RECORD_VERSION, value, MAX_RECORD_BYTES).map_err(|e| e.to_string())?;
    let mut record = checksum(context, &body).to_le_bytes().to_vec();
    record.extend_from_slice(&body);
    Ok(record)
}

/// The checksum covers the record's key, so that a record under a wrong key is noticed too.
fn checksum(context: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(context), body)
}

fn unseal<T: DeserializeOwned>(context: &[u8], record: &[u8]) -> Result<T, String> {
    let (sum, body) = record
        .split_first_chunk::<4>()
        .ok_or("shorter than its checksum")?;
    if u32::from_le_bytes(*sum) != checksum(context, body) {
        return Err("the checksum does not match".to_owned());
    }
    wire::decode(RECORD_VERSION, body, MAX_RECORD_BYTES).map_err(|e| e.to_string())
}

fn log_context(group: u32, index: u64) -> [u8; 12] {
    let mut context = [0; 12];
    let (head, tail) = context.split_at_mut(4);
    head.copy_from_slice(&group.to_le_bytes());
    tail.copy_from_slice(&index.to_le_bytes());
    context
}

fn meta_context(group: u32, key: &str) -> Vec<u8> {
    [&group.to_le_bytes(), key.as_bytes()].concat()
}

/// The database file of `group` below `data_dir`.
pub(crate) fn database_path(data_dir: &Path, group: RaftGroupId) -> PathBuf {
    let raft = data_dir.join("raft");
    if group == RaftGroupId::METADATA {
        raft.join("log.redb")
    } else {
        raft.join(format!("log-{group}.redb"))
    }
}

impl Db {
    /// Makes a database that holds nothing but whose it is. Until the rename it has another name, so
    /// that a crash half-way never leaves a broken database under the real one.
    pub(crate) fn create(
        vfs: &dyn Vfs,
        path: &Path,
        group: RaftGroupId,
        incarnation: Incarnation,
    ) -> Result<(), RaftStoreError> {
        let temporary = path.with_extension("new");
        if vfs
            .exists(&temporary)
            .map_err(RaftStoreError::io("look for", &temporary))?
        {
            vfs.remove_file(&temporary)
                .map_err(RaftStoreError::io("remove", &temporary))?;
        }
        let db = Self::open_file(vfs, &temporary, OpenMode::CreateNew, group)?;
        let store = StoreRecord {
            format: FORMAT,
            incarnation,
        };
        db.transaction(|txn| {
            txn.open_table(LOG).map_err(redb::Error::from)?;
            let mut meta = txn.open_table(META).map_err(redb::Error::from)?;
            db.put_meta(&mut meta, KEY_STORE, &store)
        })?;
        drop(db);
        vfs.rename(&temporary, path)
            .map_err(RaftStoreError::io("rename", &temporary))?;
        let parent = path.parent().unwrap_or(path);
        vfs.sync_dir(parent)
            .map_err(RaftStoreError::io("sync the directory", parent))?;
        let above = parent.parent().unwrap_or(parent);
        vfs.sync_dir(above)
            .map_err(RaftStoreError::io("sync the directory", above))
    }

    /// Opens an existing database and checks every page of it.
    pub(crate) fn open(
        vfs: &dyn Vfs,
        path: &Path,
        group: RaftGroupId,
    ) -> Result<Self, RaftStoreError> {
        Self::open_file(vfs, path, OpenMode::ReadWrite, group)
    }

    /// Sets whether commits are two fsyncs; they are unless told otherwise.
    pub(crate) fn two_phase(self, two_phase: bool) -> Self {
        Self { two_phase, ..self }
    }

    /// Opens a copy in memory: whatever redb repairs, the file stays as it is.
    pub(crate) fn open_copy(
        file: &dyn VfsFile,
        path: &Path,
        group: RaftGroupId,
    ) -> Result<Self, RaftStoreError> {
        let copy = InMemoryBackend::new();
        let run = || {
            let length = file.len()?;
            copy.set_len(length)?;
            let mut buffer = vec![0; COPY_BYTES];
            let mut offset = 0;
            while offset < length {
                let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
                let part = buffer.get_mut(..left.min(COPY_BYTES)).unwrap_or_default();
                file.read_exact_at(part, offset)?;
                copy.write(offset, part)?;
                offset += part.len() as u64;
            }
            Ok(())
        };
        run().map_err(RaftStoreError::io("read", path))?;
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(copy)
            .map_err(|e| RaftStoreError::corrupt(path, "database", e))?;
        Ok(Self {
            database,
            group: group.get(),
            path: path.to_owned(),
            two_phase: true,
        })
    }

    fn open_file(
        vfs: &dyn Vfs,
        path: &Path,
        mode: OpenMode,
        group: RaftGroupId,
    ) -> Result<Self, RaftStoreError> {
        let file = vfs
            .open(path, mode)
            .map_err(RaftStoreError::io("open", path))?;
        if !file.try_lock().map_err(RaftStoreError::io("lock", path))? {
            return Err(RaftStoreError::AlreadyOpen {
                path: path.to_owned(),
            });
        }
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(VfsBackend(file))
            .map_err(|e| RaftStoreError::corrupt(path, "database", e))?;
        Ok(Self {
            database,
            group: group.get(),
            path: path.to_owned(),
            two_phase: true,
        })
    }

    /// The incarnation whose database this is; `None` if it holds nothing at all.
    pub(crate) fn incarnation(&self) -> Result<Option<Incarnation>, RaftStoreError> {
        let txn = self
            .database
            .begin_read()
            .map_err(|e| self.failed("read", e))?;
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let Some(store) = self.get_meta::<StoreRecord>(&meta, KEY_STORE)? else {
            return Ok(None);
        };
        if store.format > FORMAT {
            return Err(RaftStoreError::FormatTooNew {
                path: self.path.clone(),
                found: store.format,
                supported: FORMAT,
            });
        }
        Ok(Some(store.incarnation))
    }

    /// Reads and checks everything: each record's checksum, contiguous indexes, terms that never
    /// fall. Keeps the newest entries of at most `tail_bytes`.
    pub(crate) fn load(&self, tail_bytes: usize) -> Result<Stored, RaftStoreError> {
        let txn = self
            .database
            .begin_read()
            .map_err(|e| self.failed("read", e))?;
        let meta = txn.open_table(META).map_err(|e| self.failed("read", e))?;
        let mut stored = Stored {
            vote: self.get_meta(&meta, KEY_VOTE)?,
            committed: self.get_meta(&meta, KEY_COMMITTED)?,
            purged: self.get_meta(&meta, KEY_PURGED)?,
            snapshot: self.get_meta(&meta, KEY_SNAPSHOT)?,
            previous: self.get_meta(&meta, KEY_PREVIOUS)?,
            ..Stored::default()
        };
        let covered = stored.snapshot.map_or(0, |s| s.last.index);
        let mut tail = std::collections::VecDeque::new();
        let mut cached = 0;
        let mut last: Option<LogId> = stored.purged.map(Into::into);
        let first = stored.purged.map_or(0, |p| p.index + 1);
        stored.begin = first;
        let mut seen = false;
        let log = txn.open_table(LOG).map_err(|e| self.failed("read", e))?;
        let range = (self.group, first)..=(self.group, u64::MAX);
        for item in log.range(range).map_err(|e| self.failed("read", e))? {
            let (key, value) = item.map_err(|e| self.failed("read", e))?;
            let entry = self.entry(key.value().1, value.value())?;
            self.check_order(last, entry.log_id)?;
            last = Some(entry.log_id);
            if !std::mem::replace(&mut seen, true) {
                stored.begin = entry.log_id.index;
            }
            let bytes = entry_bytes(&entry);
            if entry.log_id.index > covered {
                stored.bytes_since_snapshot += bytes as u64;
            }
            cached += bytes;
            tail.push_back(entry);
            while cached > tail_bytes && tail.len() > 1 {
                cached -= tail.pop_front().as_ref().map_or(0, entry_bytes);
            }
        }
        stored.last = last;
        stored.tail = tail.into();
        Ok(stored)
    }

    fn check_order(&self, before: Option<LogId>, id: LogId) -> Result<(), RaftStoreError> {
        let ok = before.is_none_or(|b| id.index == b.index + 1 && id.leader_id >= b.leader_id);
        if ok {
            return Ok(());
        }
        let reason = format!("follows {before:?}");
        Err(RaftStoreError::corrupt(
            &self.path,
            format!("log entry {id}"),
            reason,
        ))
    }

    fn entry(&self, index: u64, record: &[u8]) -> Result<Entry, RaftStoreError> {
        let what = || format!("log entry {index} of group {}", self.group);
        let corrupt = |reason: String| RaftStoreError::corrupt(&self.path, what(), reason);
        let record: EntryRecord =
            unseal(&log_context(self.group, index), record).map_err(corrupt)?;
        if record.id.index != index {
            return Err(corrupt(format!("holds entry {}", record.id.index)));
        }
        record.decode().map_err(corrupt)
    }

    /// Reads the entries of `range`, stopping after `max_bytes` though not before the first entry.
    pub(crate) fn entries(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, RaftStoreError> {
        let txn = self
            .database
            .begin_read()
            .map_err(|e| self.failed("read", e))?;
        let log = txn.open_table(LOG).map_err(|e| self.failed("read", e))?;
        let keys = (self.group, range.start)..(self.group, range.end);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in log.range(keys).map_err(|e| self.failed("read", e))? {
            let (key, value) = item.map_err(|e| self.failed("read", e))?;
            let entry = self.entry(key.value().1, value.value())?;
            bytes += entry_bytes(&entry);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Applies `changes` in order in one transaction, durable when this returns. After an error the
    /// store must be given up: what is on disk is unknown.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), RaftStoreError> {
        self.transaction(|txn| {
            let mut log = txn.open_table(LOG).map_err(redb::Error::from)?;
            let mut meta = txn.open_table(META).map_err(redb::Error::from)?;
            for change in changes {
                match change {
                    Change::Append(entries) => {
                        for entry in entries {
                            let index = entry.log_id.index;
                            let context = log_context(self.group, index);
                            let record =
                                seal(&context, &EntryRecord::from(entry)).map_err(corrupted)?;
                            log.insert((self.group, index), record.as_slice())?;
                        }
                    }
                    Change::TruncateAfter(_) if planted("raft-store.truncation-not-stored") => {}
                    Change::TruncateAfter(last) => {
                        let first = last.map_or(0, |index| index + 1);
                        let range = (self.group, first)..=(self.group, u64::MAX);
                        log.retain_in(range, |_, _| false)?;
                    }
                    Change::Purge(upto) => {
                        self.put_meta(&mut meta, KEY_PURGED, upto)?;
                        let range = (self.group, 0)..=(self.group, upto.index);
                        log.retain_in(range, |_, _| false)?;
                    }
                    Change::Vote(_) if planted("raft-store.vote-not-stored") => {}
                    Change::Vote(vote) => self.put_meta(&mut meta, KEY_VOTE, vote)?,
                    Change::Snapshot { newest, previous } => {
                        self.put_meta(&mut meta, KEY_SNAPSHOT, newest)?;
                        match previous {
                            Some(previous) => self.put_meta(&mut meta, KEY_PREVIOUS, previous)?,
                            None => drop(meta.remove((self.group, KEY_PREVIOUS))?),
                        }
                    }
                    Change::Committed(id) => self.put_meta(&mut meta, KEY_COMMITTED, id)?,
                }
            }
            Ok(())
        })
    }

    fn transaction(
        &self,
        edit: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), RaftStoreError> {
        let run = || {
            let mut txn = self.database.begin_write()?;
            let durability = if planted("raft-store.answers-before-the-sync") {
                Durability::None
            } else {
                Durability::Immediate
            };
            txn.set_durability(durability)?;
            txn.set_two_phase_commit(self.two_phase);
            edit(&txn)?;
            txn.commit()?;
            Ok::<(), redb::Error>(())
        };
        run().map_err(|e| self.failed("write", e))
    }

    fn put_meta<T: Serialize>(
        &self,
        meta: &mut redb::Table<'_, (u32, &'static str), &'static [u8]>,
        key: &'static str,
        value: &T,
    ) -> Result<(), redb::Error> {
        let record = seal(&meta_context(self.group, key), value).map_err(corrupted)?;
        meta.insert((self.group, key), record.as_slice())?;
        Ok(())
    }

    fn get_meta<T: DeserializeOwned>(
        &self,
        meta: &impl ReadableTable<(u32, &'static str), &'static [u8]>,
        key: &'static str,
    ) -> Result<Option<T>, RaftStoreError> {
        let found = meta
            .get((self.group, key))
            .map_err(|e| self.failed("read", e))?;
        let Some(record) = found else { return Ok(None) };
        let value = unseal(&meta_context(self.group, key), record.value())
            .map_err(|reason| RaftStoreError::corrupt(&self.path, key, reason))?;
        Ok(Some(value))
    }

    fn failed(&self, action: &'static str, error: impl Into<redb::Error>) -> RaftStoreError {
        match error.into() {
            redb::Error::Io(source) => RaftStoreError::Io {
                action,
                path: self.path.clone(),
                source,
            },
            redb::Error::Corrupted(reason) => {
                RaftStoreError::corrupt(&self.path, "database", reason)
            }
            other => RaftStoreError::Io {
                action,
                path: self.path.clone(),
                source: std::io::Error::other(other),
            },
        }
    }
}

fn corrupted(reason: String) -> redb::Error {
    redb::Error::Corrupted(reason)
}

/// The database is shared by the writer and the reader loop.
pub(crate) type SharedDb = Arc<Db>;
