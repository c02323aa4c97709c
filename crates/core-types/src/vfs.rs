//! The file port: everything that touches a disk goes through [`Vfs`], so that the simulator can
//! lose unsynced writes, tear them and fail them.
//!
//! Durability contract, as POSIX gives it and no more: bytes are durable only after
//! [`VfsFile::sync_data`]; a created, renamed or removed name is durable only after
//! [`Vfs::sync_dir`] on its directory. After a failed sync the file's state is unknown: the caller
//! must stop using it (fail-stop) and never retry (Rebello et al., USENIX ATC 2020).

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reading only.
    Read,
    /// Existing file, reading and writing.
    ReadWrite,
    /// Reading and writing; created empty if it does not exist.
    Create,
    /// Reading and writing; must not exist yet.
    CreateNew,
}

/// Port: one node's file system. Calls block; they must never run on an asynchronous worker that
/// serves the control plane.
pub trait Vfs: Debug + Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;
    /// Renames a file, replacing the target. Durable after [`Vfs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Vfs::sync_dir`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The paths in a directory, sorted.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// A handle of the whole disk that holds a path, which syncs all of it at once; `None` if this disk
    /// has no such call, or one that hides lost writes.
    fn disk(&self, _path: &Path) -> io::Result<Option<Arc<dyn VfsDisk>>> {
        Ok(None)
    }

    /// Tells one run of the operating system from the next: completed writes survive the process
    /// while it is the same, since the page cache does. `None` if it is not known.
    fn boot_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// Reads a whole file of at most `max_bytes`; a longer one is an error of kind `InvalidData`.
    fn read_file(&self, path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if length > max_bytes {
            let text = format!("{} is {length} bytes; at most {max_bytes}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces a file's content atomically and durably: temporary file, sync, rename, sync of the
    /// directory. After a crash the file has the old content or the new, never a mixture.
    fn write_file_atomically(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        let temporary = path.with_extension("tmp");
        if self.exists(&temporary)? {
            self.remove_file(&temporary)?;
        }
        let file = self.open(&temporary, OpenMode::CreateNew)?;
        file.write_all_at(content, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        self.sync_dir(parent)
    }
}

/// A whole disk.
pub trait VfsDisk: Debug + Send + Sync + 'static {
    /// Makes every completed write, name and length on the disk durable. It fails if any write has been
    /// lost since the handle was opened or since the last call, whoever made it.
    fn sync_all(&self) -> io::Result<()>;
}

/// An open file with positional reads and writes.
pub trait VfsFile: Debug + Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buffer.len()` bytes at `offset`, growing the file if need be.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes all completed writes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or grows (with zeros) to `length`.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Takes the advisory exclusive lock of the file, held until every handle is dropped; `false` if
    /// another process, or another handle of this one, holds it. A disk without locks says `true`.
    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset` or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `buffer` at `offset`. On an error an unknown prefix has been written.
    fn write_all_at(&self, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.write_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buffer = buffer.get(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsVfs;

#[derive(Debug)]
struct OsFile(fs::File);

impl Vfs for OsVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(path)?
            .map(|e| e.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn disk(&self, path: &Path) -> io::Result<Option<Arc<dyn VfsDisk>>> {
        let dir = fs::File::open(path)?;
        let kind = rustix::fs::fstatfs(&dir)?.f_type;
        let sound = SYNCFS_KINDS
            .iter()
            .any(|known| i128::from(*known) == i128::from(kind));
        if !sound || !kernel_reports_lost_writes(rustix::system::uname().release().to_bytes()) {
            return Ok(None);
        }
        Ok(Some(Arc::new(OsDisk(dir))))
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        crate::ids::parse_uuid(text.trim())
    }
}

/// File systems whose `syncfs` waits for the data and reports what was lost: ext2 to ext4, XFS, Btrfs.
/// Others (overlays, network file systems) are synced file by file.
#[cfg(target_os = "linux")]
const SYNCFS_KINDS: [u32; 3] = [0xEF53, 0x5846_5342, 0x9123_683E];

/// Before Linux 5.8 `syncfs` succeeded even when data had been lost (commit 735e4ae5ba28); before 5.17
/// also when the file system could not commit its journal, force its log or flush the disk's cache, since
/// the result of `->sync_fs` was ignored (commits 5679897eb104 and, for XFS, 2d86293c7075).
#[cfg(target_os = "linux")]
fn kernel_reports_lost_writes(release: &[u8]) -> bool {
    let text = String::from_utf8_lossy(release);
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 17),
        _ => false,
    }
}

/// The directory through which a file system is synced. It stays open: the kernel reports to each open
/// file what was lost since it was opened.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct OsDisk(fs::File);

#[cfg(target_os = "linux")]
impl VfsDisk for OsDisk {
    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

impl VfsFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
