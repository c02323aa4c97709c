//! The `meta` file of a partition directory: whose it is, where the log starts, and an operation that
//! must be finished when a crash interrupted it.

use std::io;
use std::path::Path;

use rivven_core_types::{LogError, Offset, PartitionId, Vfs};

use crate::files::{self, Fields, FileKind};

const META: &str = "meta";

/// An operation of several steps: once it is written here, it happens, whatever crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    /// Everything goes; the log starts again at the log start.
    Reset,
    /// The partition is being removed.
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) partition: PartitionId,
    pub(crate) log_start: Offset,
    pub(crate) pending: Pending,
    /// Records may count here before they are durable (`durability=replicated`), so that an unclean
    /// stop may lose some without a trace.
    pub(crate) lazy: bool,
}

impl Meta {
    pub(crate) fn is_meta_file(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == META)
    }

    /// Reads the file; `None` if there is none.
    pub(crate) fn load(
        vfs: &dyn Vfs,
        dir: &Path,
        partition: PartitionId,
    ) -> Result<Option<Self>, LogError> {
        let bytes = match vfs.read_file(&dir.join(META), files::MAX_SMALL_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(corrupt(&e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        let body = files::unseal(FileKind::Meta, &bytes).map_err(|what| corrupt(&what))?;
        let meta = Self::decode(body).ok_or_else(|| corrupt("malformed"))?;
        if meta.partition != partition {
            let what = format!("the directory belongs to {}", meta.partition);
            return Err(corrupt(&what));
        }
        Ok(Some(meta))
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let partition = fields.partition()?;
        let log_start = fields.offset()?;
        let pending = match fields.array()? {
            [0] => Pending::Nothing,
            [1] => Pending::Reset,
            [2] => Pending::Remove,
            _ => return None,
        };
        let lazy = match fields.array()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        fields.0.is_empty().then_some(Self {
            partition,
            log_start,
            pending,
            lazy,
        })
    }

    /// Replaces the file, durably.
    pub(crate) fn save(&self, vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
        let mut body = Vec::with_capacity(30);
        files::put_partition(&mut body, self.partition);
        body.extend_from_slice(&self.log_start.get().to_be_bytes());
        body.push(match self.pending {
            Pending::Nothing => 0,
            Pending::Reset => 1,
            Pending::Remove => 2,
        });
        body.push(u8::from(self.lazy));
        vfs.write_file_atomically(&dir.join(META), &files::seal(FileKind::Meta, &body))
    }
}

fn corrupt(what: &str) -> LogError {
    LogError::Corrupt {
        at: Offset::ZERO,
        what: format!("partition file `{META}`: {what}"),
    }
}
