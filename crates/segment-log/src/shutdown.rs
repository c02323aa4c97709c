//! The `shutdown` file of a store: whether its last user stopped in order (KIP-966's clean shutdown),
//! and under which run of the operating system it ran.
//!
//! A log with `durability=replicated` acknowledges what is in the page cache alone. A power loss may
//! take whole batches of it and leave no trace in the log, so that only this file can tell. A process
//! that died under an operating system that still runs has lost nothing: its writes were complete.

use std::io;
use std::path::Path;

use rivven_core_types::Vfs;

use crate::files::{self, Fields, FileKind};

const SHUTDOWN: &str = "shutdown";
const STOPPED: u8 = 0;
const RUNNING: u8 = 1;
/// Stands for an operating system that does not tell its runs apart.
const UNKNOWN_BOOT: [u8; 16] = [0; 16];

/// Whether completed writes of the store's last user may have been lost. A store that says nothing
/// may have lost anything; a new one has nothing to lose.
pub(crate) fn may_have_lost_writes(vfs: &dyn Vfs, dir: &Path) -> io::Result<bool> {
    let bytes = match vfs.read_file(&dir.join(SHUTDOWN), files::MAX_SMALL_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(true),
        Err(e) => return Err(e),
    };
    let body = files::unseal(FileKind::Shutdown, &bytes).unwrap_or_default();
    let mut fields = Fields(body);
    let (Some([state]), Some(boot)) = (fields.array(), fields.array::<16>()) else {
        return Ok(true);
    };
    let same_boot = boot != UNKNOWN_BOOT && vfs.boot_id() == Some(boot);
    Ok(state != STOPPED && !same_boot)
}

/// Notes durably that logs are being written.
pub(crate) fn mark_running(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    save(vfs, dir, RUNNING)
}

/// Notes durably that everything has been flushed and nothing writes any more.
pub(crate) fn mark_stopped(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    save(vfs, dir, STOPPED)
}

fn save(vfs: &dyn Vfs, dir: &Path, state: u8) -> io::Result<()> {
    let mut body = vec![state];
    body.extend_from_slice(&vfs.boot_id().unwrap_or(UNKNOWN_BOOT));
    vfs.write_file_atomically(&dir.join(SHUTDOWN), &files::seal(FileKind::Shutdown, &body))
}
