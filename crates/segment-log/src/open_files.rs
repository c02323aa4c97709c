//! Open files, as many as a limit allows: a partition that rests holds no descriptor.
//!
//! A file is opened when it is used, and the one that was not used for longest is closed once there are
//! too many. One rule is above the limit: **a file with writes that no sync has confirmed stays open.**
//! Linux reports a lost write to the files that were open when it was lost; the next one to open the
//! file may never hear of it, and would take the following sync for a success.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rivven_core_types::{OpenMode, Vfs, VfsFile};

/// The open files of one store; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct OpenFiles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vfs: Arc<dyn Vfs>,
    limit: usize,
    /// Those that are open, in the order in which they are looked at when one has to go.
    open: Mutex<VecDeque<Weak<PooledFile>>>,
}

/// A file that is open while it is used.
#[derive(Debug)]
pub(crate) struct PooledFile {
    files: OpenFiles,
    path: PathBuf,
    open: Mutex<Option<Arc<dyn VfsFile>>>,
    /// Whether it was used since it was last looked at.
    used: AtomicBool,
    /// Writes that count, and how many of them a sync has confirmed.
    written: AtomicU64,
    synced: AtomicU64,
    this: Weak<Self>,
}

/// An open file and the writes that a sync which begins now confirms.
#[derive(Debug)]
pub(crate) struct Unsynced {
    pooled: Arc<PooledFile>,
    file: Arc<dyn VfsFile>,
    written: u64,
}

impl Unsynced {
    /// Syncs the file itself.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Notes that a sync has confirmed the writes, of the file or of the whole disk.
    pub(crate) fn confirm(&self) {
        let _before = self.pooled.synced.fetch_max(self.written, Ordering::AcqRel);
    }
}

impl OpenFiles {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, limit: usize) -> Self {
        Self(Arc::new(Shared {
            vfs,
            limit,
            open: Mutex::default(),
        }))
    }

    /// Opens a file as `mode` says; later it is opened for reading and writing.
    pub(crate) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<PooledFile>> {
        let file = self.0.vfs.open(path, mode)?;
        let pooled = Arc::new_cyclic(|this| PooledFile {
            files: self.clone(),
            path: path.to_owned(),
            open: Mutex::new(Some(file)),
            used: AtomicBool::new(true),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            this: this.clone(),
        });
        self.admit(Weak::clone(&pooled.this));
        Ok(pooled)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<PooledFile>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an open file, and closes others if there are too many.
    fn admit(&self, file: Weak<PooledFile>) {
        let mut queue = self.queue();
        queue.push_back(file);
        // Twice round at most: whatever was used gets a second chance, and some cannot be closed.
        for _ in 0..2 * queue.len() {
            if queue.len() <= self.0.limit {
                break;
            }
            let Some(oldest) = queue.pop_front() else {
                break;
            };
            if oldest.upgrade().is_some_and(|file| !file.close()) {
                queue.push_back(oldest);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        let queue = self.queue();
        queue.iter().filter(|f| f.strong_count() > 0).count()
    }
}

impl PooledFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.slot().is_some()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<dyn VfsFile>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file. Whoever holds it keeps it open, also after it was removed.
    pub(crate) fn opened(&self) -> io::Result<Arc<dyn VfsFile>> {
        self.used.store(true, Ordering::Relaxed);
        let mut slot = self.slot();
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = self.files.0.vfs.open(&self.path, OpenMode::ReadWrite)?;
        *slot = Some(Arc::clone(&file));
        // The queue is locked before a file is, never after.
        drop(slot);
        self.files.admit(Weak::clone(&self.this));
        Ok(file)
    }

    /// The file with what it has to be synced for.
    pub(crate) fn unsynced(&self) -> io::Result<Unsynced> {
        let gone = || io::Error::other("the file is being dropped");
        Ok(Unsynced {
            written: self.written.load(Ordering::Acquire),
            file: self.opened()?,
            pooled: self.this.upgrade().ok_or_else(gone)?,
        })
    }

    /// Writes what nobody relies on, so that no sync is waited for.
    pub(crate) fn write_hint_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.opened()?.write_all_at(bytes, offset)
    }

    /// Closes the file if it may be; `false` if it stays open.
    fn close(&self) -> bool {
        // Someone opens it right now.
        let Ok(mut slot) = self.open.try_lock() else {
            return false;
        };
        let unsynced = self.written.load(Ordering::Acquire) != self.synced.load(Ordering::Acquire);
        if unsynced || self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        *slot = None;
        true
    }
}

impl VfsFile for PooledFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.opened()?.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        // Before the write, so that it cannot be closed in between; a failed one stays open for ever,
        // or rather as long as its log, which stops.
        let _before = self.written.fetch_add(1, Ordering::AcqRel);
        self.opened()?.write_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let unsynced = self.unsynced()?;
        unsynced.sync()?;
        unsynced.confirm();
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let _before = self.written.fetch_add(1, Ordering::AcqRel);
        self.opened()?.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.opened()?.len()
    }
}
