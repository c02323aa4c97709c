//! Which logs have been stored: what the list says after crashes, and what it costs to damage it.

use std::collections::BTreeSet;
use std::path::Path;

use rivven_core_types::test_util::golden::hex;
use rivven_core_types::test_util::{DiskFault, MemVfs};
use rivven_core_types::{LogError, LogStore, OpenMode, PartitionId, Rng, Vfs};

use super::{batch, e, o, partition, store};
use crate::stored_logs::Entry;

/// The list of `with_list`, record by record; no later build may write or read it otherwise.
const GOLDEN: [&str; 4] = [
    "52564e4c0701000000150000000000000000000000000000000000000000000d4de1f5",
    "52564e4c070100000015010707070707070707070707070707070700000009bf35db29",
    "52564e4c070100000015010707070707070707070707070707070700000003d4d7f311",
    "52564e4c070100000015020707070707070707070707070707070700000009a82b5d1e",
];

const LIST: &str = "/data/STORED-LOGS";

fn other() -> PartitionId {
    PartitionId::new(partition().topic, 9)
}

fn write(vfs: &MemVfs, store: &dyn LogStore, partition: PartitionId) {
    let mut log = store.open(partition).unwrap().log;
    log.assign_epoch(e(0), o(0)).unwrap();
    log.append_as_leader(e(0), &batch(1, b"x", 0)).unwrap();
    assert!(vfs.exists(Path::new(LIST)).unwrap());
}

/// A list that says that `partition()` was stored, and that `other()` was and is no more.
fn with_list() -> MemVfs {
    let vfs = MemVfs::new();
    let store = store(&vfs);
    assert_eq!(store.remembered().unwrap(), None);
    store.remember_stored().unwrap();
    assert_eq!(store.remembered().unwrap(), Some(BTreeSet::new()));
    write(&vfs, &store, other());
    write(&vfs, &store, partition());
    store.remove(other()).unwrap();
    vfs
}

fn list(vfs: &MemVfs) -> Vec<u8> {
    vfs.read_file(Path::new(LIST), 1 << 20).unwrap()
}

fn remembered(vfs: &MemVfs, bytes: &[u8]) -> Result<Option<BTreeSet<PartitionId>>, LogError> {
    vfs.write_file_atomically(Path::new(LIST), bytes).unwrap();
    store(vfs).remembered()
}

#[test]
fn what_was_stored_is_remembered_without_its_directory_until_it_is_told() {
    let vfs = with_list().lose_power(&mut Rng::new(1));
    let dir = format!("/data/logs/{}", partition());
    vfs.remove_dir_all(Path::new(&dir)).unwrap();
    for _ in 0..2 {
        let stored = Some(BTreeSet::from([partition()]));
        assert_eq!(store(&vfs).remembered().unwrap(), stored);
    }
    let store = store(&vfs);
    store.remember_stored().unwrap();
    assert_eq!(store.remembered().unwrap(), Some(BTreeSet::new()));
}

#[test]
fn a_log_is_on_the_list_before_any_of_it_is_on_disk() {
    for operations in 0..30 {
        let vfs = MemVfs::new();
        let store = store(&vfs);
        store.remember_stored().unwrap();
        let mut log = store.open(partition()).unwrap().log;
        log.assign_epoch(e(0), o(0)).unwrap();
        vfs.blow_after(operations);
        let written = log.append_as_leader(e(0), &batch(1, b"x", 0)).is_ok();
        let vfs = vfs.lose_power(&mut Rng::new(operations));
        let store = super::store(&vfs);
        let remembered = store.remembered().unwrap().unwrap();
        if written || !store.list().unwrap().is_empty() {
            assert!(remembered.contains(&partition()), "after {operations}");
        }
    }
}

#[test]
fn only_the_last_record_may_be_torn() {
    let vfs = with_list();
    let whole = list(&vfs);
    assert_eq!(hex(&whole), GOLDEN.concat());
    let both = Some(BTreeSet::from([partition(), other()]));
    for length in whole.len() - 35..whole.len() {
        let torn = whole.get(..length).unwrap();
        assert_eq!(remembered(&vfs, torn).unwrap(), both);
    }
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 0x10;
        let read = remembered(&vfs, &damaged);
        match byte {
            // The version of the first record: another build's.
            5 => assert!(matches!(read, Err(LogError::Corrupt { .. }))),
            _ if byte < whole.len() - 35 => assert_eq!(read.unwrap(), None, "byte {byte}"),
            _ => assert_eq!(read.unwrap(), both),
        }
    }
    assert_eq!(remembered(&vfs, &[]).unwrap(), None);
}

#[test]
fn after_a_failed_record_no_log_is_made() {
    let vfs = with_list();
    let store = store(&vfs);
    store.remember_stored().unwrap();
    vfs.inject("STORED-LOGS", DiskFault::FailSync);
    let append = |log: &mut dyn rivven_core_types::ReplicaLog| {
        log.assign_epoch(e(0), o(0)).unwrap();
        log.append_as_leader(e(0), &batch(1, b"x", 0)).is_ok()
    };
    assert!(!append(&mut *store.open(other()).unwrap().log));
    vfs.heal();
    // What the file holds now is unknown.
    assert!(!append(&mut *store.open(other()).unwrap().log));
    assert_eq!(store.list().unwrap(), [partition()]);
    let file = vfs.open(Path::new(LIST), OpenMode::Read).unwrap();
    assert!(file.len().unwrap() >= 70);
}

/// Topics come and go while a node runs for a year: what the list holds is what is there, not all that was.
#[test]
fn a_list_that_is_mostly_about_logs_that_are_gone_is_written_anew() {
    let vfs = MemVfs::new();
    let store = store(&vfs);
    store.remember_stored().unwrap();
    write(&vfs, &store, partition());
    let mut longest = 0;
    for _ in 0..40_000 {
        store.note_stored(Entry::Stored, other()).unwrap();
        store.note_stored(Entry::Removed, other()).unwrap();
        let length = vfs
            .open(Path::new(LIST), OpenMode::ReadWrite)
            .unwrap()
            .len();
        longest = longest.max(length.unwrap());
    }
    assert!((1 << 20..(1 << 20) + 100).contains(&longest), "{longest}");
    let only = BTreeSet::from([partition()]);
    assert_eq!(store.remembered().unwrap(), Some(only.clone()));
    let lost = vfs.lose_power(&mut Rng::new(1));
    assert_eq!(super::store(&lost).remembered().unwrap(), Some(only));
}
