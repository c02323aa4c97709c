//! Logs that nobody has written.

use std::path::Path;

use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{Durability, EpochEnd, LogConfig, LogStore, Offset, ReplicaLog, Rng, Vfs};

use super::{DIR, at, batch, contents, e, o, open, partition, store};

fn on_disk(vfs: &MemVfs) -> Vec<std::path::PathBuf> {
    vfs.read_dir(Path::new(DIR)).unwrap()
}

fn blank(vfs: &MemVfs) -> Box<dyn ReplicaLog> {
    store(vfs).open(partition()).unwrap().log
}

#[test]
fn a_log_that_nobody_writes_leaves_nothing_on_disk() {
    let vfs = MemVfs::new();
    let mut log = blank(&vfs);
    log.configure(&LogConfig::default(), Durability::Replicated)
        .unwrap();
    for epoch in [3, 4] {
        log.assign_epoch(e(epoch), Offset::ZERO).unwrap();
    }
    assert_eq!(log.last_epoch(), Some(e(4)));
    let end = Some(EpochEnd {
        epoch: e(4),
        end: Offset::ZERO,
    });
    assert_eq!(log.epoch_end(e(4)), end);
    assert!(log.begin_flush().is_none());
    assert!(log.assign_epoch(e(5), o(1)).is_err());
    assert!(log.read(o(1), o(2), 100).is_err());
    assert!(log.trim_start(o(1)).is_err());
    assert_eq!(log.truncate_to(Offset::ZERO).unwrap(), Offset::ZERO);
    assert_eq!(on_disk(&vfs), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_first_write_brings_settings_and_epochs_to_disk_before_itself() {
    let vfs = MemVfs::new();
    let mut log = blank(&vfs);
    log.configure(&LogConfig::default(), Durability::Replicated)
        .unwrap();
    log.assign_epoch(e(4), Offset::ZERO).unwrap();
    log.append_as_leader(e(4), &batch(1, b"first", 0)).unwrap();
    // The batch was not synced; what came before it was.
    let lost = vfs.lose_power(&mut Rng::new(7));
    let (log, _) = open(&lost);
    assert_eq!(
        log.last_epoch(),
        Some(e(4)),
        "nobody leads this epoch again"
    );
    assert!(log.meta.lazy, "an unclean stop may have lost records");
}

#[test]
fn a_follower_can_begin_anywhere() {
    let vfs = MemVfs::new();
    let mut log = blank(&vfs);
    log.reset_to(o(10)).unwrap();
    assert_eq!(log.log_start(), o(10));
    log.append_replicated_batch(&at(10, 2, 2)).unwrap();
    drop(log);
    let (log, cut) = open(&vfs);
    assert_eq!((log.log_end(), cut), (o(12), 0));
}

/// One step that a user may take, and whether it was taken.
fn take(log: &mut dyn ReplicaLog, step: u64, epoch: i32, offset: i64) -> bool {
    match step {
        0 => log.assign_epoch(e(epoch), log.log_end()).is_ok(),
        1 => log.append_as_leader(e(epoch), &batch(1, b"x", 0)).is_ok(),
        2 => {
            let next = at(log.log_end().get(), epoch, 1);
            log.append_replicated_batch(&next).is_ok()
        }
        3 => log.truncate_to(o(offset)).is_ok(),
        4 => log.reset_to(o(offset)).is_ok(),
        _ => log.trim_start(o(offset)).is_ok(),
    }
}

#[test]
fn whether_a_log_is_on_disk_from_the_beginning_makes_no_difference_to_its_user() {
    let mut stayed_blank = 0;
    for seed in 0..500 {
        let rng = &mut Rng::new(seed);
        let vfs = MemVfs::new();
        let mut lazy = blank(&vfs);
        let (mut eager, _) = open(&MemVfs::new());
        for _ in 0..rng.below(12) {
            let step = rng.below(6);
            let epoch = i32::try_from(rng.below(4)).unwrap();
            let offset = i64::try_from(rng.below(3)).unwrap();
            let taken = take(&mut *lazy, step, epoch, offset);
            let what = format!("seed {seed}: step {step} epoch {epoch} offset {offset}");
            assert_eq!(taken, take(&mut eager, step, epoch, offset), "{what}");
            assert_eq!(lazy.log_start(), eager.log_start(), "{what}");
            assert_eq!(lazy.log_end(), eager.log_end(), "{what}");
            assert_eq!(lazy.durable_end(), eager.durable_end(), "{what}");
            assert_eq!(lazy.last_epoch(), eager.last_epoch(), "{what}");
            for epoch in 0..5 {
                assert_eq!(
                    lazy.epoch_end(e(epoch)),
                    eager.epoch_end(e(epoch)),
                    "{what}"
                );
            }
            let end = eager.log_end();
            // Some of these steps no replica takes; what they break they break alike.
            let same = contents(&*lazy, end).ok() == contents(&eager, end).ok();
            assert!(same, "{what}");
        }
        stayed_blank += usize::from(on_disk(&vfs).is_empty());
    }
    assert!((50..450).contains(&stayed_blank), "{stayed_blank}");
}
