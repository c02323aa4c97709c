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

/// So many files are looked at to find one that was not used; then the next goes that may.
const MAX_STEPS: usize = 64;

/// `ENFILE` and `EMFILE`: the system, or the process, has no descriptor left.
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

/// Whether a file could not be opened for want of a descriptor. Nothing is wrong with the file.
pub(crate) fn lacks_descriptor(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| NO_DESCRIPTOR.contains(&code))
}

/// The open files of one store; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct OpenFiles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vfs: Arc<dyn Vfs>,
    limit: usize,
    /// Those that are open and may be closed, in the order in which they are looked at when one has to
    /// go. One with unsynced writes leaves when it is met and comes back once they are synced, so that
    /// nobody looks at it again and again.
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
    /// Whether it is in the queue; changes only while the queue is locked.
    queued: AtomicBool,
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
        let pooled = &self.pooled;
        let _before = pooled.synced.fetch_max(self.written, Ordering::SeqCst);
        // Whoever takes a file out of the queue says so before he looks at its writes once more: one
        // of the two sees the other.
        if !pooled.queued.load(Ordering::SeqCst) && !pooled.is_unsynced() {
            pooled.files.admit(pooled);
        }
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
        let file = self.open_file(path, mode)?;
        let pooled = Arc::new_cyclic(|this| PooledFile {
            files: self.clone(),
            path: path.to_owned(),
            open: Mutex::new(Some(file)),
            used: AtomicBool::new(true),
            queued: AtomicBool::new(false),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            this: this.clone(),
        });
        self.admit(&pooled);
        Ok(pooled)
    }

    /// Without a descriptor left it closes what it may, and tries once more.
    fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        match self.0.vfs.open(path, mode) {
            Err(error) if lacks_descriptor(&error) => {
                tracing::warn!(path = %path.display(), %error, "closing files that rest");
                self.close_all();
                self.0.vfs.open(path, mode)
            }
            opened => opened,
        }
    }

    fn close_all(&self) {
        self.queue()
            .retain(|file| file.upgrade().is_some_and(|file| !file.leave(true)));
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<PooledFile>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an open file, and closes others if there are too many.
    fn admit(&self, file: &PooledFile) {
        let mut queue = self.queue();
        if !file.queued.swap(true, Ordering::SeqCst) {
            queue.push_back(Weak::clone(&file.this));
        }
        for step in 1..=MAX_STEPS {
            if queue.len() <= self.0.limit {
                break;
            }
            let Some(oldest) = queue.pop_front() else {
                break;
            };
            let Some(other) = oldest.upgrade() else {
                continue;
            };
            let itself = std::ptr::eq(&raw const *other, file);
            if itself || !other.leave(step == MAX_STEPS) {
                queue.push_back(oldest);
            }
        }
    }

    /// How many may be closed.
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
        let file = self.files.open_file(&self.path, OpenMode::ReadWrite)?;
        *slot = Some(Arc::clone(&file));
        // Whoever holds the queue never waits for a file, so that nobody waits in a circle.
        drop(slot);
        self.files.admit(self);
        Ok(file)
    }

    /// The file with what it has to be synced for.
    pub(crate) fn unsynced(&self) -> io::Result<Unsynced> {
        let gone = || io::Error::other("the file is being dropped");
        Ok(Unsynced {
            written: self.written.load(Ordering::SeqCst),
            file: self.opened()?,
            pooled: self.this.upgrade().ok_or_else(gone)?,
        })
    }

    /// Writes what nobody relies on, so that no sync is waited for.
    pub(crate) fn write_hint_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.opened()?.write_all_at(bytes, offset)
    }

    fn is_unsynced(&self) -> bool {
        self.written.load(Ordering::SeqCst) != self.synced.load(Ordering::SeqCst)
    }

    /// Leaves the queue: closed, or with writes whose sync brings it back. `false` if it stays, for it is
    /// in use, or was used and `even_if_used` does not count that. The queue is locked.
    fn leave(&self, even_if_used: bool) -> bool {
        // Someone opens it right now.
        let Ok(mut slot) = self.open.try_lock() else {
            return false;
        };
        if self.is_unsynced() {
            self.queued.store(false, Ordering::SeqCst);
            let synced_since = !self.is_unsynced();
            self.queued.store(synced_since, Ordering::SeqCst);
            return !synced_since;
        }
        if self.used.swap(false, Ordering::Relaxed) && !even_if_used {
            return false;
        }
        *slot = None;
        self.queued.store(false, Ordering::SeqCst);
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
        let _before = self.written.fetch_add(1, Ordering::SeqCst);
        self.opened()?.write_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let unsynced = self.unsynced()?;
        unsynced.sync()?;
        unsynced.confirm();
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let _before = self.written.fetch_add(1, Ordering::SeqCst);
        self.opened()?.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.opened()?.len()
    }
}
