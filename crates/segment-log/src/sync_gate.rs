//! What one log's syncs, and those of the whole disk, have said about lost writes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a sync of the whole disk has failed. Clones share it: one per store.
///
/// Linux reports a lost write once to each open file, and `syncfs` reports through the file that it is
/// called on (commit 735e4ae5ba28): after a failed one the next succeeds, though the bytes are gone.
/// Only the lost write's own file still tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskFailures(Arc<AtomicU64>);

impl DiskFailures {
    pub(crate) fn add(&self) {
        let _before = self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
struct Known {
    failed: bool,
    /// So many failures of the whole disk are known not to concern the log.
    cleared: u64,
}

/// Serialises the syncs of one log and remembers a failed one: the operating system reports a lost
/// write to one sync only, so that a later one must not count as a success.
#[derive(Debug, Clone, Default)]
pub(crate) struct SyncGate(Arc<Mutex<Known>>);

impl SyncGate {
    /// Runs a sync of the log's own files.
    pub(crate) fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.run_known(|_| sync().map(|()| None))
    }

    /// Runs a flush. `sync` is told how many failures of the whole disk do not concern the log, and
    /// returns how many now do not, if it has found out.
    pub(crate) fn run_known(
        &self,
        sync: impl FnOnce(u64) -> io::Result<Option<u64>>,
    ) -> io::Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.failed {
            return Err(io::Error::other("an earlier sync of this log failed"));
        }
        match sync(known.cleared) {
            Ok(cleared) => {
                known.cleared = cleared.map_or(known.cleared, |c| c.max(known.cleared));
                Ok(())
            }
            Err(error) => {
                known.failed = true;
                Err(error)
            }
        }
    }
}
