//! Faults of the disk and the wall clock of single nodes: a small library in C that is preloaded into the
//! node, and a file per node through which it is steered.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Failure};
use crate::process::workspace_root;

/// The words of the control file, in the order of `struct control` in `tests/data/faults.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    SyncErrno = 0,
    SyncDelayMs = 1,
    WriteErrno = 2,
    RealtimeShiftMs = 3,
    Syncs = 4,
    Failed = 5,
}

const WORDS: usize = 6;
/// Input/output error, as Linux numbers it.
pub(super) const EIO: i64 = 5;

/// Builds the library into `dir`; `None` if there is no C compiler.
pub(super) fn build(dir: &Path) -> Result<Option<PathBuf>, Failure> {
    let source = workspace_root().join("tests/data/faults.c");
    let library = dir.join("faults.so");
    let compiled = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output();
    match compiled {
        Ok(output) if output.status.success() => Ok(Some(library)),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(Failure::new(format!("cc {}: {errors}", source.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("cannot run cc: {error}"))),
    }
}

/// The control file of one node.
#[derive(Debug)]
pub(super) struct Faults {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl Faults {
    /// A control file that asks for no faults.
    pub(super) fn new(path: PathBuf, library: PathBuf) -> Result<Self, Failure> {
        let what = || format!("the control file {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path).doing(what)?;
        file.write_all_at(&[0; WORDS * 8], 0).doing(what)?;
        Ok(Self {
            file,
            path,
            library,
        })
    }

    /// The environment in which the node takes its faults from here.
    pub(super) fn env(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("LD_PRELOAD".into(), self.library.clone().into()),
            ("RIVVEN_FAULTS".into(), self.path.clone().into()),
        ]
    }

    /// Sets a word; the node sees it with its next call.
    pub(super) fn set(&self, word: Word, value: i64) -> Result<(), Failure> {
        let at = word as u64 * 8;
        self.file.write_all_at(&value.to_le_bytes(), at)?;
        Ok(())
    }

    /// Reads a word.
    pub(super) fn get(&self, word: Word) -> Result<i64, Failure> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(i64::from_le_bytes(bytes))
    }

    /// Takes all faults back.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        for word in [
            Word::SyncErrno,
            Word::SyncDelayMs,
            Word::WriteErrno,
            Word::RealtimeShiftMs,
        ] {
            self.set(word, 0)?;
        }
        Ok(())
    }
}
