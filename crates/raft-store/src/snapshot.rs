//! Snapshot files.
//!
//! ```text
//! "RVSN" | format u16 | codec u8 | 0 | header length u32 | header | image | image length u64 | crc32c u32
//! ```
//! Little-endian. The checksum covers everything before it. The header says whose state it is; the
//! image is the state machine's own.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rivven_core_types::wire;
use rivven_core_types::{
    FrozenState, OpenMode, RaftGroupId, RestoreError, StateMachine, Vfs, VfsFile,
};
use serde::{Deserialize, Serialize};

use crate::error::RaftStoreError;
use crate::types::{LastMembershipRecord, LogId, LogIdRecord, SnapshotMeta};

const MAGIC: [u8; 4] = *b"RVSN";
const FORMAT: u16 = 1;
const CODEC_NONE: u8 = 0;
const HEADER_VERSION: u8 = 1;
/// Length of the fixed part in front of the header.
const PREFIX_BYTES: usize = 12;
/// Length of the footer.
const FOOTER_BYTES: u64 = 12;
/// Longest header: a membership of the greatest size and its addresses.
const MAX_HEADER_BYTES: usize = 1024 * 1024;
/// Bytes per read and write.
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) group: u32,
    pub(crate) cluster: Option<[u8; 16]>,
    pub(crate) last: Option<LogIdRecord>,
    pub(crate) membership: LastMembershipRecord,
}

impl SnapshotHeader {
    pub(crate) fn meta(&self) -> Result<SnapshotMeta, String> {
        Ok(SnapshotMeta {
            last_log_id: self.last.map(LogId::from),
            last_membership: self.membership.clone().decode()?,
        })
    }
}

/// A snapshot on disk: what openraft hands around as the snapshot's data.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The directory of snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    group: RaftGroupId,
    max_bytes: u64,
}

impl SnapshotDir {
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        data_dir: &Path,
        group: RaftGroupId,
        max_bytes: u64,
    ) -> Result<Self, RaftStoreError> {
        let dir = data_dir.join("raft").join("snapshots");
        vfs.create_dir_all(&dir)
            .map_err(RaftStoreError::io("create the directory", &dir))?;
        for path in [data_dir.join("raft"), data_dir.to_owned()] {
            vfs.sync_dir(&path)
                .map_err(RaftStoreError::io("sync the directory", &path))?;
        }
        Ok(Self {
            vfs,
            dir,
            group,
            max_bytes,
        })
    }

    /// The directory as it is, for one who only reads.
    pub(crate) fn existing(
        vfs: Arc<dyn Vfs>,
        data_dir: &Path,
        group: RaftGroupId,
        max_bytes: u64,
    ) -> Self {
        Self {
            vfs,
            dir: data_dir.join("raft").join("snapshots"),
            group,
            max_bytes,
        }
    }

    /// The finished snapshots of this group.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, RaftStoreError> {
        let (prefix, suffix) = (format!("{}-", self.group), ".snap");
        let exists = self.vfs.exists(&self.dir);
        if !exists.map_err(RaftStoreError::io("look for", &self.dir))? {
            return Ok(Vec::new());
        }
        let mut paths = self
            .vfs
            .read_dir(&self.dir)
            .map_err(RaftStoreError::io("list", &self.dir))?;
        paths.retain(|path| {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            name.is_some_and(|n| n.starts_with(&prefix) && n.ends_with(suffix))
        });
        Ok(paths)
    }

    /// Where the snapshot up to `last` belongs.
    pub(crate) fn path(&self, last: Option<LogIdRecord>) -> PathBuf {
        let (term, index) = last.map_or((0, 0), |id| (id.term, id.index));
        self.dir.join(format!("{}-{term}-{index}.snap", self.group))
    }

    /// A name for a file in the making; left-overs are removed at the next start.
    pub(crate) fn temporary(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}-{what}.tmp", self.group))
    }

    pub(crate) const fn group(&self) -> RaftGroupId {
        self.group
    }

    pub(crate) const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Removes every file of this group but `keep`.
    pub(crate) fn remove_others(&self, keep: &[PathBuf]) -> Result<(), RaftStoreError> {
        let prefix = format!("{}-", self.group);
        let paths = self
            .vfs
            .read_dir(&self.dir)
            .map_err(RaftStoreError::io("list", &self.dir))?;
        for path in paths {
            let ours = path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
            if ours && !keep.contains(&path) {
                self.vfs
                    .remove_file(&path)
                    .map_err(RaftStoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn create(&self, path: &Path) -> Result<Arc<dyn VfsFile>, RaftStoreError> {
        let file = self
            .vfs
            .open(path, OpenMode::Create)
            .map_err(RaftStoreError::io("create", path))?;
        file.set_len(0).map_err(RaftStoreError::io("clear", path))?;
        Ok(file)
    }

    pub(crate) fn open_file(&self, path: &Path) -> Result<Arc<dyn VfsFile>, RaftStoreError> {
        self.vfs
            .open(path, OpenMode::Read)
            .map_err(RaftStoreError::io("open", path))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), RaftStoreError> {
        self.vfs
            .remove_file(path)
            .map_err(RaftStoreError::io("remove", path))
    }

    /// Writes a snapshot durably under a temporary name; see [`SnapshotDir::publish`].
    pub(crate) fn write(
        &self,
        header: &SnapshotHeader,
        state: &dyn FrozenState,
    ) -> Result<SnapshotFile, RaftStoreError> {
        let path = self.temporary("building");
        let fail = |e| RaftStoreError::io("write", &path)(e);
        let encoded = wire::encode(HEADER_VERSION, header, MAX_HEADER_BYTES)
            .map_err(|e| fail(io::Error::other(e)))?;
        let length = u32::try_from(encoded.len()).map_err(|e| fail(io::Error::other(e)))?;
        let mut sink = Sink {
            file: self.create(&path)?,
            offset: 0,
            crc: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            max: self.max_bytes,
        };
        let run = |sink: &mut Sink| {
            sink.write_all(&MAGIC)?;
            sink.write_all(&FORMAT.to_le_bytes())?;
            sink.write_all(&[CODEC_NONE, 0])?;
            sink.write_all(&length.to_le_bytes())?;
            sink.write_all(&encoded)?;
            let start = sink.position();
            state.write_to(sink)?;
            let image = sink.position() - start;
            sink.write_all(&image.to_le_bytes())?;
            sink.flush()?;
            let crc = sink.crc;
            sink.write_all(&crc.to_le_bytes())?;
            sink.flush()?;
            sink.file.sync_data()
        };
        run(&mut sink).map_err(fail)?;
        Ok(SnapshotFile {
            path: path.clone(),
            bytes: sink.offset,
        })
    }

    /// Gives a durable file its final name, durably.
    pub(crate) fn publish(
        &self,
        file: &SnapshotFile,
        last: Option<LogIdRecord>,
    ) -> Result<SnapshotFile, RaftStoreError> {
        let path = self.path(last);
        if file.path != path {
            self.vfs
                .rename(&file.path, &path)
                .map_err(RaftStoreError::io("rename", &file.path))?;
        }
        self.vfs
            .sync_dir(&self.dir)
            .map_err(RaftStoreError::io("sync the directory", &self.dir))?;
        Ok(SnapshotFile {
            path,
            bytes: file.bytes,
        })
    }

    /// Checks a whole file against its checksum and reads its header.
    pub(crate) fn verify(&self, path: &Path) -> Result<Verified, RaftStoreError> {
        let corrupt = |reason: String| RaftStoreError::corrupt(path, "snapshot", reason);
        let file = self.open_file(path)?;
        let io_error = |e| RaftStoreError::io("read", path)(e);
        let length = file.len().map_err(io_error)?;
        if length > self.max_bytes {
            return Err(corrupt(format!(
                "{length} bytes; at most {}",
                self.max_bytes
            )));
        }
        let Some(body) = length.checked_sub(4) else {
            return Err(corrupt(format!("only {length} bytes")));
        };
        let mut crc = 0;
        let mut source = Source {
            file: Arc::clone(&file),
            offset: 0,
            end: body,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = source.read(&mut buffer).map_err(io_error)?;
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
                break;
            };
            crc = crc32c::crc32c_append(crc, bytes);
        }
        let mut stored = [0; 4];
        file.read_exact_at(&mut stored, body).map_err(io_error)?;
        if u32::from_le_bytes(stored) != crc {
            return Err(corrupt("the checksum does not match".to_owned()));
        }
        self.parse(path, &file, length)
    }

    fn parse(
        &self,
        path: &Path,
        file: &Arc<dyn VfsFile>,
        length: u64,
    ) -> Result<Verified, RaftStoreError> {
        let corrupt = |reason: String| RaftStoreError::corrupt(path, "snapshot", reason);
        let io_error = |e| RaftStoreError::io("read", path)(e);
        let mut prefix = [0; PREFIX_BYTES];
        file.read_exact_at(&mut prefix, 0).map_err(io_error)?;
        let [m0, m1, m2, m3, f0, f1, codec, _, l0, l1, l2, l3] = prefix;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(corrupt("not a snapshot file".to_owned()));
        }
        let format = u16::from_le_bytes([f0, f1]);
        if format > FORMAT {
            return Err(RaftStoreError::FormatTooNew {
                path: path.to_owned(),
                found: u32::from(format),
                supported: u32::from(FORMAT),
            });
        }
        if codec != CODEC_NONE {
            return Err(RaftStoreError::UnknownCodec {
                path: path.to_owned(),
                codec,
            });
        }
        let header_length = u32::from_le_bytes([l0, l1, l2, l3]);
        let start = PREFIX_BYTES as u64 + u64::from(header_length);
        let image = length
            .checked_sub(start + FOOTER_BYTES)
            .ok_or_else(|| corrupt("shorter than its header".to_owned()))?;
        let header_length = usize::try_from(header_length)
            .ok()
            .filter(|n| *n <= MAX_HEADER_BYTES)
            .ok_or_else(|| corrupt(format!("a header of {header_length} bytes")))?;
        let mut header = vec![0; header_length];
        file.read_exact_at(&mut header, PREFIX_BYTES as u64)
            .map_err(io_error)?;
        let header: SnapshotHeader = wire::decode(HEADER_VERSION, &header, MAX_HEADER_BYTES)
            .map_err(|e| corrupt(e.to_string()))?;
        if header.group != self.group.get() {
            return Err(corrupt(format!("belongs to Raft group {}", header.group)));
        }
        let mut stored = [0; 8];
        file.read_exact_at(&mut stored, start + image)
            .map_err(io_error)?;
        if u64::from_le_bytes(stored) != image {
            return Err(corrupt(format!("the image is not {image} bytes long")));
        }
        Ok(Verified {
            header,
            file: SnapshotFile {
                path: path.to_owned(),
                bytes: length,
            },
            image: Source {
                file: Arc::clone(file),
                offset: start,
                end: start + image,
            },
        })
    }
}

/// A snapshot whose checksum was right.
pub(crate) struct Verified {
    pub(crate) header: SnapshotHeader,
    pub(crate) file: SnapshotFile,
    image: Source,
}

impl Verified {
    /// Builds the state. All of the image must be used.
    pub(crate) fn restore(
        self,
        prototype: &dyn StateMachine,
    ) -> Result<Box<dyn StateMachine>, RaftStoreError> {
        let path = &self.file.path;
        let mut image = BufReader::with_capacity(BUFFER_BYTES, self.image);
        let machine = prototype.restore(&mut image).map_err(|e| match e {
            RestoreError::Unsupported(reason) => RaftStoreError::StateUnsupported {
                path: path.clone(),
                reason,
            },
            // An image that ends too early is damaged; bytes that cannot be read now may be later.
            RestoreError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                RaftStoreError::io("read", path)(source)
            }
            damaged => RaftStoreError::corrupt(path, "snapshot image", damaged),
        })?;
        let mut rest = [0; 1];
        if image
            .read(&mut rest)
            .map_err(RaftStoreError::io("read", path))?
            > 0
        {
            return Err(RaftStoreError::corrupt(
                path,
                "snapshot image",
                "bytes are left over",
            ));
        }
        Ok(machine)
    }
}

struct Sink {
    file: Arc<dyn VfsFile>,
    offset: u64,
    crc: u32,
    buffer: Vec<u8>,
    max: u64,
}

impl Sink {
    fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.position() + bytes.len() as u64 > self.max {
            let text = format!("the snapshot exceeds {} bytes", self.max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

struct Source {
    file: Arc<dyn VfsFile>,
    offset: u64,
    end: u64,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let Some(window) = buffer.get_mut(..length).filter(|w| !w.is_empty()) else {
            return Ok(0);
        };
        let n = self.file.read_at(window, self.offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        Ok(n)
    }
}
