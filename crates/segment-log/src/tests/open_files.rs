//! How many files are open, and which must be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{OpenMode, Vfs, VfsFile};

use super::o;
use crate::durable_mark::DurableMark;
use crate::open_files::{OpenFiles, PooledFile, lacks_descriptor};

const LIMIT: usize = 3;

fn pool() -> OpenFiles {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/files")).unwrap();
    OpenFiles::new(Arc::new(vfs) as Arc<dyn Vfs>, LIMIT)
}

fn several(pool: &OpenFiles, count: u32) -> Vec<Arc<PooledFile>> {
    let path = |n| PathBuf::from(format!("/files/{n}"));
    (0..count)
        .map(|n| pool.open(&path(n), OpenMode::Create).unwrap())
        .collect()
}

#[test]
fn files_beyond_the_limit_are_closed_and_opened_again_when_they_are_used() {
    let pool = pool();
    let files = several(&pool, 20);
    for (n, file) in files.iter().enumerate() {
        file.write_all_at(&[u8::try_from(n).unwrap()], 0).unwrap();
        file.sync_data().unwrap();
        assert!(pool.count() <= LIMIT);
    }
    for (n, file) in files.iter().enumerate() {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(usize::from(byte[0]), n);
        assert!(pool.count() <= LIMIT);
    }
}

#[test]
fn a_file_with_writes_that_no_sync_has_confirmed_stays_open_above_the_limit() {
    let pool = pool();
    let dirty = several(&pool, 10);
    for file in &dirty {
        file.write_all_at(b"x", 0).unwrap();
    }
    assert_eq!(open_among(&dirty), 10);
    let flush: Vec<_> = dirty.iter().map(|f| f.unsynced().unwrap()).collect();
    // Written after the flush began: its end says nothing of this.
    dirty[0].write_all_at(b"y", 1).unwrap();
    flush.iter().for_each(|f| f.confirm());
    let _others = several(&pool, 20);
    assert!(pool.count() <= LIMIT);
    assert_eq!(open_among(&dirty), 1);
    assert!(dirty[0].is_open());
    dirty[0].sync_data().unwrap();
    let _others = several(&pool, 20);
    assert!(!dirty[0].is_open(), "nothing keeps it open any more");
}

fn open_among(files: &[Arc<PooledFile>]) -> usize {
    files.iter().filter(|file| file.is_open()).count()
}

#[test]
fn files_that_wait_for_a_sync_do_not_push_out_those_that_are_read() {
    let pool = pool();
    let dirty = several(&pool, 9);
    for file in &dirty {
        file.write_all_at(b"x", 0).unwrap();
    }
    let read = pool.open(Path::new("/files/read"), OpenMode::Create);
    let read = read.unwrap();
    let mut byte = [0];
    for round in 0..50 {
        // All that is used is open, and stays so: a pool that looks at the others first opens it
        // at every use.
        let was_open = read.is_open();
        assert!(was_open, "closed before round {round}");
        assert_eq!(read.read_at(&mut byte, 0).unwrap(), 0);
        dirty[round % 9].write_all_at(b"y", 1).unwrap();
        let path = PathBuf::from(format!("/files/other{round}"));
        let _other = pool.open(&path, OpenMode::Create).unwrap();
    }
    assert_eq!(open_among(&dirty), 9);
    assert!(pool.count() <= LIMIT);
    dirty.iter().for_each(|file| file.sync_data().unwrap());
    assert!(pool.count() <= LIMIT);
    assert!(open_among(&dirty) <= LIMIT, "a sync brings them back");
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let pool = pool();
    let files = several(&pool, 3);
    let mut byte = [0];
    for round in 3..40 {
        // One is used between any two that are opened.
        assert_eq!(files[0].read_at(&mut byte, 0).unwrap(), 0);
        let path = PathBuf::from(format!("/files/{round}"));
        let _other = pool.open(&path, OpenMode::Create).unwrap();
    }
    assert!(files[0].is_open());
    assert!(!files[1].is_open());
}

#[test]
fn without_a_descriptor_left_files_that_rest_are_closed() {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/files")).unwrap();
    let pool = OpenFiles::new(Arc::new(vfs.clone()) as Arc<dyn Vfs>, 10);
    vfs.limit_descriptors(Some(4));
    let files = several(&pool, 10);
    let mut byte = [0];
    for file in &files {
        assert_eq!(file.read_at(&mut byte, 0).unwrap(), 0);
    }
    // Nothing that may be closed is enough when others hold all of them.
    vfs.limit_descriptors(Some(0));
    let error = files[0].read_at(&mut byte, 0).unwrap_err();
    assert!(lacks_descriptor(&error), "{error}");
    let mut mark = DurableMark::open(&vfs, &pool, Path::new("/files"));
    assert!(mark.is_err(), "no file, no mark");
    vfs.limit_descriptors(None);
    mark = DurableMark::open(&vfs, &pool, Path::new("/files"));
    let mut mark = mark.unwrap();
    mark.note(o(3)).unwrap();
    vfs.limit_descriptors(Some(0));
    let _closed = files[1].read_at(&mut byte, 0).unwrap_err();
    mark.note(o(7)).unwrap();
    assert_eq!(mark.value(), Some(o(3)), "an old mark is a sound one");
    vfs.limit_descriptors(None);
    mark.note(o(8)).unwrap();
    assert_eq!(mark.value(), Some(o(8)));
}
