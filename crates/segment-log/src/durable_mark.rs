//! The `durable-mark` file: an offset below which everything is known to be on stable storage.
//!
//! It is overwritten in place after every flush and not synced itself, so that it costs no sync: a
//! power loss may leave an older value, never one that is ahead of the truth. Recovery needs it to
//! tell damage to what was durable (corruption) from writes that never reached the disk. Whatever
//! lowers the log lowers the mark first, durably.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rivven_core_types::{Offset, OpenMode, Vfs, VfsFile};

use crate::files::{self, Fields, FileKind};
use crate::open_files::{OpenFiles, PooledFile, lacks_descriptor};

const DURABLE_MARK: &str = "durable-mark";

#[derive(Debug)]
pub(crate) struct DurableMark {
    file: Arc<PooledFile>,
    /// `None` if the file is new or unreadable: nothing is known then.
    value: Option<Offset>,
}

impl DurableMark {
    pub(crate) fn open(vfs: &dyn Vfs, files: &OpenFiles, dir: &Path) -> io::Result<Self> {
        let path = dir.join(DURABLE_MARK);
        let known = vfs.exists(&path)?;
        let file = files.open(&path, OpenMode::Create)?;
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(files::MAX_SMALL_FILE_BYTES)];
        file.read_exact_at(&mut bytes, 0)?;
        let body = files::unseal(FileKind::DurableMark, &bytes);
        let value = body.ok().and_then(|body| Fields(body).offset());
        if known && value.is_none() {
            tracing::warn!(path = %path.display(), "the durable mark is unreadable; all segments are verified");
        }
        Ok(Self { file, value })
    }

    /// The mark, if it can be read; nothing is created.
    pub(crate) fn peek(vfs: &dyn Vfs, dir: &Path) -> io::Result<Option<Offset>> {
        let bytes = match vfs.read_file(&dir.join(DURABLE_MARK), files::MAX_SMALL_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(e) => return Err(e),
        };
        let body = files::unseal(FileKind::DurableMark, &bytes);
        Ok(body.ok().and_then(|body| Fields(body).offset()))
    }

    pub(crate) const fn value(&self) -> Option<Offset> {
        self.value
    }

    /// Notes that everything below `offset` is durable. Not synced.
    pub(crate) fn note(&mut self, offset: Offset) -> io::Result<()> {
        if self.value == Some(offset) {
            return Ok(());
        }
        match self.file.write_hint_at(&sealed(offset), 0) {
            // An old mark is a sound one.
            Err(error) if lacks_descriptor(&error) => return Ok(()),
            written => written?,
        }
        self.value = Some(offset);
        Ok(())
    }

    /// Sets the mark and makes that durable.
    pub(crate) fn set_durably(&mut self, offset: Offset) -> io::Result<()> {
        self.value = None;
        // One open file for both: a sync tells those that it was open for.
        let file = self.file.opened()?;
        file.write_all_at(&sealed(offset), 0)?;
        file.sync_data()?;
        self.value = Some(offset);
        Ok(())
    }

    /// Lowers the mark to `end`, durably, before the log itself is cut there.
    pub(crate) fn lower(&mut self, end: Offset) -> io::Result<()> {
        if self.value.is_some_and(|mark| mark > end) {
            self.set_durably(end)?;
        }
        Ok(())
    }
}

fn sealed(offset: Offset) -> Vec<u8> {
    files::seal(FileKind::DurableMark, &offset.get().to_be_bytes())
}
