//! [`SegmentLogStore`]: all partition logs of one node, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rivven_core_types::{LogError, LogStore, Offset, OpenedLog, PartitionId, Vfs, VfsDisk};

use crate::blank::LogOnDemand;
use crate::config::{SegmentLogConfig, SegmentLogError};
use crate::cut_record;
use crate::files::{self, Fields, FileKind};
use crate::log::SegmentLog;
use crate::meta::{Meta, Pending};
use crate::open_files::OpenFiles;
use crate::shutdown;
use crate::stored_logs::{Entry, STORED_LOGS, StoredLogs};
use crate::sync_gate::DiskFailures;

const CHECKPOINT: &str = "high-watermarks";

/// The logs of one directory: `<topic uuid>-<index>/` per partition, and the high-watermark
/// checkpoint. One process at a time may use a directory.
#[derive(Debug, Clone)]
pub struct SegmentLogStore {
    dir: Arc<Path>,
    vfs: Arc<dyn Vfs>,
    config: SegmentLogConfig,
    /// The last user stopped without order under an operating system that no longer runs, and not
    /// every log has been opened since: what was only in the page cache is gone. Until
    /// [`LogStore::mark_running`].
    after_unclean_stop: Arc<AtomicBool>,
    /// The whole disk, if it can be synced at once.
    disk: Option<Arc<dyn VfsDisk>>,
    disk_failures: DiskFailures,
    open_files: OpenFiles,
    /// From [`LogStore::remember_stored`] on.
    stored_logs: Arc<Mutex<Option<StoredLogs>>>,
}

impl SegmentLogStore {
    /// Prepares `dir` (created if it does not exist) and finishes interrupted removals. Opens no log.
    pub fn open(
        dir: impl Into<PathBuf>,
        vfs: Arc<dyn Vfs>,
        config: SegmentLogConfig,
    ) -> Result<Self, SegmentLogError> {
        config.validate()?;
        let mut store = Self {
            dir: dir.into().into(),
            open_files: OpenFiles::new(Arc::clone(&vfs), config.max_open_files),
            vfs,
            config,
            after_unclean_stop: Arc::default(),
            disk: None,
            disk_failures: DiskFailures::default(),
            stored_logs: Arc::default(),
        };
        store.prepare()?;
        // Before anything is written, so that a lost write is reported to this handle.
        store.disk = store.vfs.disk(&store.dir).map_err(LogError::from)?;
        Ok(store)
    }

    fn prepare(&self) -> Result<(), LogError> {
        self.vfs.create_dir_all(&self.dir)?;
        if let Some(parent) = self.dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.vfs.sync_dir(parent)?;
        }
        let unclean = shutdown::may_have_lost_writes(self.vfs.as_ref(), &self.dir)?;
        self.after_unclean_stop.store(unclean, Ordering::Release);
        for partition in self.directories()? {
            self.finish_removal(partition)?;
        }
        Ok(())
    }

    /// Opens a partition's log as its own type, creating it if it does not exist; also returns how
    /// many bytes have been cut off and not acknowledged.
    pub fn open_log(&self, partition: PartitionId) -> Result<(SegmentLog, u64), LogError> {
        self.finish_removal(partition)?;
        let dir = partition_dir(&self.dir, partition);
        let vfs = Arc::clone(&self.vfs);
        let failures = self.disk_failures.clone();
        let (log, mut cut_bytes) = SegmentLog::open(
            (vfs, self.open_files.clone()),
            dir.clone(),
            partition,
            self.config.clone(),
            failures,
        )?;
        let unclean = self.after_unclean_stop.load(Ordering::Acquire);
        if unclean && log.meta.lazy && cut_bytes == 0 {
            tracing::warn!(%partition, "an unclean stop may have lost records of the page cache");
            cut_bytes = cut_record::add(self.vfs.as_ref(), &dir, 1)?;
        }
        Ok((log, cut_bytes))
    }

    /// Notes that the log is about to be made, or has been removed.
    pub(crate) fn note_stored(&self, entry: Entry, partition: PartitionId) -> Result<(), LogError> {
        let mut list = self.stored_logs();
        let Some(list) = list.as_mut() else {
            return Ok(());
        };
        list.compact(self.vfs.as_ref(), &self.stored_logs_path())?;
        Ok(list.add(entry, partition)?)
    }

    fn stored_logs_path(&self) -> PathBuf {
        self.dir.with_file_name(STORED_LOGS)
    }

    fn stored_logs(&self) -> MutexGuard<'_, Option<StoredLogs>> {
        self.stored_logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All partition directories, also those whose removal was interrupted.
    fn directories(&self) -> io::Result<Vec<PartitionId>> {
        let paths = self.vfs.read_dir(&self.dir)?;
        let mut found: Vec<_> = paths.iter().filter_map(|p| parse_dir(p)).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn finish_removal(&self, partition: PartitionId) -> Result<(), LogError> {
        let dir = partition_dir(&self.dir, partition);
        if !self.vfs.exists(&dir)? {
            return Ok(());
        }
        // A damaged `meta` is reported when the log itself is opened.
        match Meta::load(self.vfs.as_ref(), &dir, partition) {
            Ok(Some(meta)) if meta.pending == Pending::Remove => Ok(self.remove_directory(&dir)?),
            Ok(_) | Err(LogError::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a directory whose `meta` says so; `meta` goes last.
    fn remove_directory(&self, dir: &Path) -> io::Result<()> {
        for path in self.vfs.read_dir(dir)? {
            if !Meta::is_meta_file(&path) {
                self.vfs.remove_file(&path)?;
            }
        }
        self.vfs.sync_dir(dir)?;
        self.vfs.remove_dir_all(dir)?;
        self.vfs.sync_dir(&self.dir)
    }
}

impl LogStore for SegmentLogStore {
    fn open(&self, partition: PartitionId) -> Result<OpenedLog, LogError> {
        if !self.vfs.exists(&partition_dir(&self.dir, partition))? {
            return Ok(OpenedLog {
                log: Box::new(LogOnDemand::new(self.clone(), partition)),
                cut_bytes: 0,
            });
        }
        let (log, cut_bytes) = self.open_log(partition)?;
        Ok(OpenedLog {
            log: Box::new(log),
            cut_bytes,
        })
    }

    fn acknowledge_cut(&self, partition: PartitionId) -> Result<(), LogError> {
        let dir = partition_dir(&self.dir, partition);
        Ok(cut_record::clear(self.vfs.as_ref(), &dir)?)
    }

    fn mark_running(&self) -> Result<(), LogError> {
        shutdown::mark_running(self.vfs.as_ref(), &self.dir)?;
        self.after_unclean_stop.store(false, Ordering::Release);
        Ok(())
    }

    fn mark_stopped(&self) -> Result<(), LogError> {
        Ok(shutdown::mark_stopped(self.vfs.as_ref(), &self.dir)?)
    }

    fn sync_disk(&self) -> Result<bool, LogError> {
        match &self.disk {
            Some(disk) => {
                let synced = disk.sync_all();
                if synced.is_err() {
                    // Before anyone hears of it: no flush counts a later sync without its own.
                    self.disk_failures.add();
                }
                Ok(synced.map(|()| true)?)
            }
            None => Ok(false),
        }
    }

    fn remove(&self, partition: PartitionId) -> Result<(), LogError> {
        let dir = partition_dir(&self.dir, partition);
        if !self.vfs.exists(&dir)? {
            return Ok(());
        }
        let meta = Meta {
            partition,
            log_start: Offset::ZERO,
            pending: Pending::Remove,
            lazy: false,
        };
        meta.save(self.vfs.as_ref(), &dir)?;
        self.remove_directory(&dir)?;
        self.note_stored(Entry::Removed, partition)
    }

    fn list(&self) -> Result<Vec<PartitionId>, LogError> {
        Ok(self.directories()?)
    }

    fn remembered(&self) -> Result<Option<BTreeSet<PartitionId>>, LogError> {
        StoredLogs::load(self.vfs.as_ref(), &self.stored_logs_path())
    }

    fn remember_stored(&self) -> Result<(), LogError> {
        let mut list = self.stored_logs();
        *list = Some(StoredLogs::begin(
            self.vfs.as_ref(),
            &self.stored_logs_path(),
            &self.directories()?,
        )?);
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Vec<(PartitionId, Offset)>, LogError> {
        let path = self.dir.join(CHECKPOINT);
        let bytes = match self.vfs.read_file(&path, files::MAX_CHECKPOINT_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        match decode_checkpoint(&bytes) {
            Ok(entries) => Ok(entries),
            Err(what) => {
                // Only a hint is lost (KIP-101).
                tracing::warn!(path = %path.display(), what, "the high-watermark checkpoint is unreadable");
                Ok(Vec::new())
            }
        }
    }

    fn save_checkpoint(&self, high_watermarks: &[(PartitionId, Offset)]) -> Result<(), LogError> {
        let latest: BTreeMap<_, _> = high_watermarks.iter().copied().collect();
        let mut body = Vec::with_capacity(latest.len() * 28);
        for (partition, offset) in latest {
            files::put_partition(&mut body, partition);
            body.extend_from_slice(&offset.get().to_be_bytes());
        }
        if body.len() + 64 > files::MAX_CHECKPOINT_BYTES {
            let text = format!("{} partitions exceed a checkpoint", high_watermarks.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        let bytes = files::seal(FileKind::Checkpoint, &body);
        let path = self.dir.join(CHECKPOINT);
        Ok(self.vfs.write_file_atomically(&path, &bytes)?)
    }
}

fn decode_checkpoint(bytes: &[u8]) -> Result<Vec<(PartitionId, Offset)>, String> {
    let mut fields = Fields(files::unseal(FileKind::Checkpoint, bytes)?);
    let mut entries = Vec::with_capacity(fields.0.len() / 28);
    while !fields.0.is_empty() {
        let (Some(partition), Some(offset)) = (fields.partition(), fields.offset()) else {
            return Err("malformed".to_owned());
        };
        entries.push((partition, offset));
    }
    Ok(entries)
}

/// Where a partition's log lies.
pub(crate) fn partition_dir(dir: &Path, partition: PartitionId) -> PathBuf {
    dir.join(partition.to_string())
}

pub(crate) fn parse_dir(path: &Path) -> Option<PartitionId> {
    let (topic, index) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let partition = PartitionId::new(topic.parse().ok()?, index.parse().ok()?);
    // Only the one spelling that this store writes.
    (path.file_name()?.to_str()? == partition.to_string()).then_some(partition)
}
