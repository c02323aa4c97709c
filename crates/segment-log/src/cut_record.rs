//! The `cut` file: how many bytes recovery has cut off since the broker last registered the log as
//! lossy. It is written before the cut, so that a crash in between cannot hide the loss.

use std::io;
use std::path::Path;

use rivven_core_types::{Vfs, planted};

use crate::files::{self, Fields, FileKind};

const CUT: &str = "cut";

/// The bytes recorded, 0 if there is no record. An unreadable record counts as one byte.
pub(crate) fn load(vfs: &dyn Vfs, dir: &Path) -> io::Result<u64> {
    let bytes = match vfs.read_file(&dir.join(CUT), files::MAX_SMALL_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(1),
        Err(e) => return Err(e),
    };
    let body = files::unseal(FileKind::Cut, &bytes).unwrap_or_default();
    let bytes = Fields(body).array().map_or(1, u64::from_be_bytes);
    Ok(bytes.max(1))
}

/// Adds `bytes` to the record, durably; returns the sum.
pub(crate) fn add(vfs: &dyn Vfs, dir: &Path, bytes: u64) -> io::Result<u64> {
    if planted("segment-log.cut-not-recorded") {
        return Ok(0);
    }
    let sum = load(vfs, dir)?.saturating_add(bytes.max(1));
    let content = files::seal(FileKind::Cut, &sum.to_be_bytes());
    vfs.write_file_atomically(&dir.join(CUT), &content)?;
    Ok(sum)
}

/// Removes the record, durably.
pub(crate) fn clear(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    let path = dir.join(CUT);
    if !vfs.exists(&path)? {
        return Ok(());
    }
    vfs.remove_file(&path)?;
    vfs.sync_dir(dir)
}
