//! An in-memory disk. It keeps what a real one would keep: after a power loss, only synced bytes and
//! synced names are certain, and each later write may be there, missing or torn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entropy::Rng;
use crate::vfs::{OpenMode, Vfs, VfsDisk, VfsFile};

/// Bytes that a disk writes as one unit; writes are torn at multiples of it.
const SECTOR_BYTES: usize = 512;

/// A fault to inject into operations on matching files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Every sync fails with `EIO`. What a sync of the whole disk meets is lost, as it is on Linux: the
    /// pages count as clean, and each open file and handle of the disk hears of it once.
    FailSync,
    /// Every write fails with `EIO`.
    FailWrite,
    /// Every write fails with `ENOSPC`.
    Full,
    /// Every read fails with `EIO`.
    FailRead,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    synced: Vec<u8>,
    since_sync: Vec<Change>,
    /// How often unsynced writes have been lost.
    losses: u64,
    /// Bytes in which a bit was flipped, and that nobody has written since.
    damaged: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
    /// Whether all names are durable as they are.
    names_synced: bool,
    /// Files with unsynced writes, and perhaps some without.
    dirty: BTreeSet<u64>,
    faults: Vec<(String, DiskFault)>,
    /// How often a file has lost unsynced writes.
    losses: u64,
    life: u64,
    /// Runs of the operating system: power losses.
    boots: u64,
    syncs: u64,
    digest: u64,
    /// Writes and syncs that still succeed before the power goes.
    fuse: Option<u64>,
    /// Syncs that still succeed before the power goes.
    sync_fuse: Option<u64>,
    open_files: usize,
    /// Most files that can be open at a time.
    descriptors: Option<usize>,
}

/// The disk of one simulated node. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemVfs {
    disk: Arc<Mutex<Disk>>,
    life: u64,
}

#[derive(Debug)]
struct MemFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    life: u64,
    path: PathBuf,
    writable: bool,
    /// The file's losses that this handle has heard of.
    heard: AtomicU64,
}

/// A handle of the whole disk.
#[derive(Debug)]
struct MemDisk {
    vfs: MemVfs,
    /// The disk's losses that this handle has heard of.
    heard: AtomicU64,
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an open says when the process has no descriptor left.
const EMFILE: i32 = 24;

impl Drop for MemFile {
    fn drop(&mut self) {
        lock(&self.disk).open_files -= 1;
    }
}

fn dead() -> io::Error {
    io::Error::other("the simulated process that opened this file is dead")
}

impl MemVfs {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Kills the process that used this handle: every write so far stays (it is in the page cache),
    /// every later call through an old handle fails. Returns the handle for the next process.
    #[must_use]
    pub fn restart_process(&self) -> Self {
        let mut disk = lock(&self.disk);
        disk.life += 1;
        disk.fuse = None;
        disk.sync_fuse = None;
        Self {
            disk: Arc::clone(&self.disk),
            life: disk.life,
        }
    }

    /// Cuts the power: unsynced names are lost, those of directories with all that is below; of each file's unsynced writes all, none, or a
    /// random part with torn edges survive. Returns the handle for the next process.
    #[must_use]
    pub fn lose_power(&self, rng: &mut Rng) -> Self {
        let mut disk = lock(&self.disk);
        disk.life += 1;
        disk.fuse = None;
        disk.sync_fuse = None;
        disk.boots += 1;
        disk.lose_directories();
        disk.names_synced = false;
        disk.dirty.clear();
        disk.names = disk.durable_names.clone();
        let live: BTreeSet<u64> = disk.names.values().copied().collect();
        disk.inodes.retain(|inode, _| live.contains(inode));
        for inode in disk.inodes.values_mut() {
            let changes = std::mem::take(&mut inode.since_sync);
            let fate = rng.below(3);
            let mut content = std::mem::take(&mut inode.synced);
            for change in &changes {
                let keep = match fate {
                    0 => false,
                    1 => true,
                    _ => rng.below(2) == 0,
                };
                if keep {
                    let torn = fate == 2 && rng.below(4) == 0;
                    apply(&mut content, change, torn.then_some(&mut *rng));
                }
            }
            inode.cache.clone_from(&content);
            inode.synced = content;
        }
        Self {
            disk: Arc::clone(&self.disk),
            life: disk.life,
        }
    }

    /// Injects `fault` into all files whose path contains `pattern`, until [`MemVfs::heal`].
    pub fn inject(&self, pattern: &str, fault: DiskFault) {
        lock(&self.disk).faults.push((pattern.to_owned(), fault));
    }

    /// Lets `operations` more writes and syncs succeed and fails everything after them: the power goes
    /// in the midst of whatever is under way. Follow it with [`MemVfs::lose_power`].
    pub fn blow_after(&self, operations: u64) {
        lock(&self.disk).fuse = Some(operations);
    }

    /// Lets `syncs` more syncs succeed, of files and of directories; the power goes at the next one.
    pub fn blow_after_syncs(&self, syncs: u64) {
        lock(&self.disk).sync_fuse = Some(syncs);
    }

    /// Whether [`MemVfs::blow_after`] or [`MemVfs::blow_after_syncs`] has taken effect.
    pub fn is_blown(&self) -> bool {
        lock(&self.disk).fuse == Some(0)
    }

    /// Removes all injected faults.
    pub fn heal(&self) {
        let mut disk = lock(&self.disk);
        disk.faults.clear();
        disk.fuse = None;
        disk.sync_fuse = None;
    }

    /// Lets opening a file fail with `EMFILE` while `most` are open.
    pub fn limit_descriptors(&self, most: Option<usize>) {
        lock(&self.disk).descriptors = most;
    }

    /// Flips one bit of a file's content, on the medium and in the cache.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u8) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let inode = disk.inodes.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?;
        for content in [&mut inode.cache, &mut inode.synced] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << (bit & 7);
            }
        }
        inode.damaged.insert(byte);
        Ok(())
    }

    /// Whether a file under `path` still has a bit that was flipped.
    pub fn is_damaged(&self, path: &Path) -> bool {
        let disk = lock(&self.disk);
        let mut files = disk.names.iter().filter(|(name, _)| name.starts_with(path));
        files.any(|(_, inode)| {
            let inode = disk.inodes.get(inode);
            inode.is_some_and(|inode| !inode.damaged.is_empty())
        })
    }

    /// The files under `path`, with the length of what of each is on the medium and nowhere else.
    pub fn settled_files(&self, path: &Path) -> Vec<(PathBuf, usize)> {
        let disk = lock(&self.disk);
        let files = disk.names.iter().filter(|(name, _)| name.starts_with(path));
        files
            .filter_map(|(name, inode)| {
                let inode = disk.inodes.get(inode)?;
                let length = inode.synced.len();
                (inode.since_sync.is_empty() && length > 0).then(|| (name.clone(), length))
            })
            .collect()
    }

    /// How many syncs have succeeded.
    pub fn syncs(&self) -> u64 {
        lock(&self.disk).syncs
    }

    /// A running hash of every operation that changed or synced anything: equal histories of a disk
    /// have equal digests.
    pub fn digest(&self) -> u64 {
        lock(&self.disk).digest
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = lock(&self.disk);
        if disk.life == self.life {
            Ok(disk)
        } else {
            Err(dead())
        }
    }
}

/// Makes a change; of a torn write each sector of the file is there or not, in any order.
fn apply(content: &mut Vec<u8>, change: &Change, torn: Option<&mut Rng>) {
    match (change, torn) {
        (Change::SetLen(length), _) => content.resize(*length, 0),
        (Change::Write { offset, bytes }, None) => write_into(content, *offset, bytes),
        (Change::Write { offset, bytes }, Some(rng)) => {
            let (mut at, mut left) = (*offset, bytes.as_slice());
            while !left.is_empty() {
                let length = (SECTOR_BYTES - at % SECTOR_BYTES).min(left.len());
                let (sector, rest) = left.split_at(length);
                if rng.below(2) == 0 {
                    write_into(content, at, sector);
                }
                (at, left) = (at + length, rest);
            }
        }
    }
}

fn write_into(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(target) = content.get_mut(offset..end) {
        target.copy_from_slice(bytes);
    }
}

/// Directories of the machine, such as `/data`, which nobody here is asked to sync.
fn is_given(directory: &Path) -> bool {
    directory.ancestors().count() <= 2
}

impl Disk {
    /// Without its name in the directory above, a directory is gone, and all that is below it.
    fn lose_directories(&mut self) {
        let durable = &self.durable_directories;
        let stays = |path: &Path| path.ancestors().all(|d| is_given(d) || durable.contains(d));
        self.directories.retain(|directory| stays(directory));
        self.durable_names
            .retain(|name, _| name.parent().is_some_and(stays));
    }

    /// A sync of the whole disk that meets no fault.
    fn sync_everything(&mut self) {
        for inode in std::mem::take(&mut self.dirty) {
            if let Some(inode) = self.inodes.get_mut(&inode) {
                inode.sync();
            }
        }
        if !self.names_synced {
            self.durable_names.clone_from(&self.names);
            self.durable_directories.clone_from(&self.directories);
            self.names_synced = true;
        }
        self.digest(b'a', Path::new(""), [0; 2]);
        self.syncs += 1;
    }

    fn digest(&mut self, operation: u8, path: &Path, detail: [u64; 2]) {
        let mut crc = crc32c::crc32c(&[operation]);
        crc = crc32c::crc32c_append(crc, path.as_os_str().as_encoded_bytes());
        for word in detail {
            crc = crc32c::crc32c_append(crc, &word.to_le_bytes());
        }
        self.digest = Rng::new(self.digest ^ u64::from(crc)).next_u64();
    }

    fn fault(&mut self, path: &Path, faults: &[DiskFault]) -> io::Result<()> {
        if let Some(left) = self.sync_fuse
            && faults.contains(&DiskFault::FailSync)
        {
            self.sync_fuse = left.checked_sub(1);
            if left == 0 {
                self.fuse = Some(0);
            }
        }
        if let Some(left) = &mut self.fuse {
            if *left == 0 {
                return Err(dead());
            }
            let changes = [DiskFault::FailWrite, DiskFault::FailSync];
            *left -= u64::from(changes.iter().any(|fault| faults.contains(fault)));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let path = path.to_string_lossy();
        let hit = self
            .faults
            .iter()
            .find(|(p, f)| faults.contains(f) && path.contains(p.as_str()));
        match hit {
            Some((_, DiskFault::Full)) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(io::Error::other("injected I/O error")),
            None => Ok(()),
        }
    }
}

impl Vfs for MemVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.alive()?;
        if disk.descriptors.is_some_and(|most| disk.open_files >= most) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let found = disk.names.get(path).copied();
        let inode = match (mode, found) {
            (OpenMode::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::Read | OpenMode::ReadWrite, None) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (_, Some(inode)) => inode,
            (OpenMode::Create | OpenMode::CreateNew, None) => {
                disk.fault(path, &[DiskFault::Full, DiskFault::FailWrite])?;
                let parent = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
                if !disk.directories.contains(&parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = disk.next_inode;
                disk.next_inode += 1;
                disk.inodes.insert(inode, Inode::default());
                disk.names.insert(path.to_owned(), inode);
                disk.names_synced = false;
                inode
            }
        };
        disk.open_files += 1;
        Ok(Arc::new(MemFile {
            disk: Arc::clone(&self.disk),
            inode,
            life: self.life,
            path: path.to_owned(),
            writable: mode != OpenMode::Read,
            heard: AtomicU64::new(disk.inodes.get(&inode).map_or(0, |inode| inode.losses)),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        disk.fault(to, &[DiskFault::FailWrite])?;
        disk.digest(b'n', to, [0; 2]);
        disk.names_synced = false;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        disk.digest(b'u', path, [0; 2]);
        disk.names_synced = false;
        disk.names
            .remove(path)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        disk.names_synced = false;
        disk.directories
            .extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        disk.names.retain(|name, _| !name.starts_with(path));
        disk.durable_names.retain(|name, _| !name.starts_with(path));
        disk.directories.retain(|name| !name.starts_with(path));
        disk.durable_directories
            .retain(|name| !name.starts_with(path));
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let disk = self.alive()?;
        if !disk.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = disk.names.keys();
        let all = files
            .chain(&disk.directories)
            .filter(|p| p.parent() == Some(path));
        let mut paths: Vec<_> = all.cloned().collect();
        paths.sort_unstable();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let disk = self.alive()?;
        Ok(disk.names.contains_key(path) || disk.directories.contains(path))
    }

    fn disk(&self, _path: &Path) -> io::Result<Option<Arc<dyn VfsDisk>>> {
        let heard = AtomicU64::new(self.alive()?.losses);
        let vfs = self.clone();
        Ok(Some(Arc::new(MemDisk { vfs, heard })))
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some(u128::from(lock(&self.disk).boots + 1).to_be_bytes())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        disk.fault(path, &[DiskFault::FailSync])?;
        let here: Vec<_> = disk
            .names
            .iter()
            .filter(|(p, _)| p.parent() == Some(path))
            .map(|(p, inode)| (p.clone(), *inode))
            .collect();
        disk.durable_names.retain(|p, _| p.parent() != Some(path));
        disk.durable_names.extend(here);
        let Disk {
            directories,
            durable_directories,
            ..
        } = &mut *disk;
        let below = directories.iter().filter(|d| d.parent() == Some(path));
        durable_directories.extend(below.cloned());
        disk.digest(b'd', path, [0; 2]);
        disk.syncs += 1;
        Ok(())
    }
}

fn lost() -> io::Error {
    io::Error::other("unsynced writes were lost")
}

impl VfsDisk for MemDisk {
    fn sync_all(&self) -> io::Result<()> {
        let mut disk = self.vfs.alive()?;
        if disk.faults.is_empty() && disk.fuse.is_none() && disk.sync_fuse.is_none() {
            disk.sync_everything();
            return self.tell_of_losses(&disk);
        }
        let mut failed = None;
        let names: Vec<_> = disk.names.clone().into_iter().collect();
        for (path, inode) in names {
            if let Err(error) = disk.fault(&path, &[DiskFault::FailSync]) {
                if disk.fuse == Some(0) {
                    // Without power nothing is lost that may not be there after all.
                    failed = Some(error);
                } else if let Some(inode) = disk.inodes.get_mut(&inode)
                    && inode.lose()
                {
                    disk.losses += 1;
                }
                continue;
            }
            if let Some(inode) = disk.inodes.get_mut(&inode) {
                inode.sync();
            }
            disk.digest(b'a', &path, [0; 2]);
            let _before = disk.durable_names.insert(path, inode);
        }
        let names = disk.names.clone();
        disk.durable_names
            .retain(|path, _| names.contains_key(path));
        disk.durable_directories = disk.directories.clone();
        disk.syncs += 1;
        self.tell_of_losses(&disk)?;
        failed.map_or(Ok(()), Err)
    }
}

impl MemDisk {
    fn tell_of_losses(&self, disk: &Disk) -> io::Result<()> {
        if self.heard.swap(disk.losses, Ordering::Relaxed) < disk.losses {
            return Err(lost());
        }
        Ok(())
    }
}

impl Inode {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since_sync) {
            apply(&mut self.synced, &change, None);
        }
    }

    /// What a change replaces is no longer damaged.
    fn mend(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => {
                let written = *offset..*offset + bytes.len();
                self.damaged.retain(|byte| !written.contains(byte));
            }
            Change::SetLen(length) => self.damaged.retain(|byte| byte < length),
        }
    }

    /// Writing back what is not synced fails: whether there was any.
    fn lose(&mut self) -> bool {
        let any = !self.since_sync.is_empty();
        self.since_sync.clear();
        self.losses += u64::from(any);
        any
    }
}

impl MemFile {
    fn with<T>(
        &self,
        faults: &[DiskFault],
        run: impl FnOnce(&mut Inode) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = lock(&self.disk);
        if disk.life != self.life {
            return Err(dead());
        }
        disk.fault(&self.path, faults)?;
        if faults.contains(&DiskFault::FailSync) {
            disk.digest(b's', &self.path, [0; 2]);
            disk.syncs += 1;
        }
        // A removed file stays readable and writable through its handle, as on POSIX.
        let inode = disk
            .inodes
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        run(inode)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let detail = match &change {
            Change::Write { offset, bytes } => [*offset as u64, u64::from(crc32c::crc32c(bytes))],
            Change::SetLen(length) => [*length as u64, u64::MAX],
        };
        {
            let mut disk = lock(&self.disk);
            disk.digest(b'w', &self.path, detail);
            disk.dirty.insert(self.inode);
        }
        self.with(&[DiskFault::FailWrite, DiskFault::Full], |inode| {
            inode.mend(&change);
            apply(&mut inode.cache, &change, None);
            inode.since_sync.push(change);
            Ok(())
        })
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl VfsFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = position(offset)?;
        self.with(&[DiskFault::FailRead], |inode| {
            let available = inode.cache.get(offset..).unwrap_or_default();
            let n = available.len().min(buffer.len());
            buffer[..n].copy_from_slice(&available[..n]);
            Ok(n)
        })
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.change(Change::Write {
            offset: position(offset)?,
            bytes: buffer.to_vec(),
        })?;
        Ok(buffer.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(&[DiskFault::FailSync], |inode| {
            inode.sync();
            if self.heard.swap(inode.losses, Ordering::Relaxed) < inode.losses {
                return Err(lost());
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::SetLen(position(length)?))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(&[], |inode| Ok(inode.cache.len() as u64))
    }
}

#[cfg(test)]
mod tests;
