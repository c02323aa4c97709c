use rivven_core_types::test_util::DiskFault;
use rivven_core_types::{LogStore, OpenMode, Rng, SyncBy};

use super::*;

#[test]
fn a_flush_covers_what_was_appended_before_it_began_and_a_roll_in_between() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 2);
    let first = log.begin_flush().unwrap();
    fill(&mut log, 0, 10);
    let second = log.begin_flush().unwrap();
    assert_eq!((first.end, second.end), (o(4), o(24)));
    let result = (first.job)(SyncBy::Job);
    log.finish_flush(first.end, first.generation, result)
        .unwrap();
    assert_eq!(log.durable_end(), o(4), "no further than the ticket");
    let result = (second.job)(SyncBy::Job);
    log.finish_flush(second.end, second.generation, result)
        .unwrap();
    assert_eq!(log.durable_end(), o(24));
    assert!(log.begin_flush().is_none(), "nothing left to flush");
    let all = everything(&log);
    for seed in 0..20 {
        let vfs = vfs.lose_power(&mut Rng::new(seed));
        assert_eq!(everything(&open(&vfs).0), all);
    }
}

#[test]
fn a_flush_of_bytes_that_were_cut_does_not_count() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 10);
    let stale = log.begin_flush().unwrap();
    log.truncate_to(o(4)).unwrap();
    let result = (stale.job)(SyncBy::Job);
    fill(&mut log, 1, 5);
    log.finish_flush(stale.end, stale.generation, result)
        .unwrap();
    assert!(log.durable_end() <= o(4), "{:?}", log.durable_end());
    let stale = log.begin_flush().unwrap();
    log.reset_to(o(2)).unwrap();
    log.finish_flush(stale.end, stale.generation, Ok(()))
        .unwrap();
    assert_eq!(log.durable_end(), o(2));
}

fn changes_fail(log: &mut SegmentLog) {
    let end = log.log_end();
    let batch = batch(1, b"", 0);
    assert!(matches!(
        log.append_as_leader(e(0), &batch),
        Err(LogError::Io(_))
    ));
    assert!(matches!(
        log.append_replicated_batch(&batch.restamped(end, e(0))),
        Err(LogError::Io(_))
    ));
    assert!(log.assign_epoch(e(9), end).is_err());
    assert!(log.truncate_to(o(0)).is_err());
    assert!(log.reset_to(o(0)).is_err());
    assert!(log.trim_start(end).is_err());
    assert!(log.begin_flush().is_none());
    assert_eq!(log.log_end(), end);
}

#[test]
fn a_failed_write_poisons_the_log_and_leaves_it_readable() {
    for fault in [DiskFault::Full, DiskFault::FailWrite] {
        let vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        fill(&mut log, 0, 8);
        flush(&mut log);
        let before = everything(&log);
        vfs.inject(".log", fault);
        let failed = log.append_as_leader(e(0), &batch(1, b"x", 0));
        assert!(matches!(failed, Err(LogError::Io(_))));
        vfs.heal();
        changes_fail(&mut log);
        assert_eq!(everything(&log), before);
        let (mut log, cut) = open(&vfs.restart_process());
        assert_eq!((cut, everything(&log)), (0, before));
        fill(&mut log, 1, 1);
    }
}

#[test]
fn a_failed_sync_poisons_the_log_and_is_never_tried_again() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 3);
    flush(&mut log);
    let durable = everything(&log);
    fill(&mut log, 0, 3);
    let first = log.begin_flush().unwrap();
    let second = log.begin_flush().unwrap();
    vfs.inject(".log", DiskFault::FailSync);
    let failed = (first.job)(SyncBy::Job);
    vfs.heal();
    // The system reports a lost write once: a later sync that succeeds proves nothing.
    let after = (second.job)(SyncBy::Job);
    assert!(after.is_err());
    assert!(
        log.finish_flush(first.end, first.generation, failed)
            .is_err()
    );
    assert!(
        log.finish_flush(second.end, second.generation, Ok(()))
            .is_err()
    );
    assert_eq!(log.durable_end(), o(6));
    changes_fail(&mut log);
    assert_eq!(contents(&log, o(6)).unwrap(), durable);
    assert!(
        matches!(log.read(o(6), o(12), 100), Err(LogError::Io(_))),
        "what the page cache holds is unknown"
    );
}

#[test]
fn a_failed_truncation_poisons_the_log() {
    for pattern in [".log", "durable-mark", "epochs"] {
        let vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        fill(&mut log, 0, 3);
        fill(&mut log, 1, 3);
        flush(&mut log);
        vfs.inject(pattern, DiskFault::FailSync);
        assert!(
            matches!(log.truncate_to(o(3)), Err(LogError::Io(_))),
            "{pattern}"
        );
        vfs.heal();
        assert!(log.append_as_leader(e(1), &batch(1, b"", 0)).is_err());
        let (log, _) = open(&vfs.restart_process());
        log.verify().unwrap();
    }
}

#[test]
fn a_reset_that_is_interrupted_leaves_the_old_log_or_the_new() {
    let (mut old, mut new) = (0, 0);
    for pattern in ["meta", "epochs", "durable-mark", ".log", "-3"] {
        for fault in [DiskFault::FailSync, DiskFault::FailWrite] {
            for seed in 0..10 {
                let vfs = MemVfs::new();
                let (mut log, _) = open(&vfs);
                fill(&mut log, 0, 9);
                flush(&mut log);
                let before = everything(&log);
                vfs.inject(pattern, fault);
                let interrupted = log.reset_to(o(100)).is_err();
                let vfs = vfs.lose_power(&mut Rng::new(seed));
                vfs.heal();
                let (log, cut) = open(&vfs);
                assert_eq!(cut, 0, "a reset is no loss");
                if log.log_start() == o(100) {
                    assert_eq!((log.log_end(), log.last_epoch()), (o(100), None));
                    new += 1;
                } else {
                    assert!(interrupted);
                    assert_eq!(everything(&log), before);
                    old += 1;
                }
            }
        }
    }
    assert!(old > 0 && new > 0, "{old} old, {new} new");
}

#[test]
fn a_removal_that_is_interrupted_is_finished_at_the_next_start() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 9);
    flush(&mut log);
    vfs.inject("-3", DiskFault::FailSync);
    assert!(store(&vfs).remove(partition()).is_err(), "nothing changed");
    vfs.heal();
    assert_eq!(open(&vfs).0.log_end(), o(18));
    // A crash after the decision and the first removed file.
    let meta = crate::meta::Meta {
        lazy: false,
        partition: partition(),
        log_start: o(0),
        pending: crate::meta::Pending::Remove,
    };
    meta.save(&vfs, file("meta").parent().unwrap()).unwrap();
    vfs.remove_file(&segment_files(&vfs)[1]).unwrap();
    let vfs = vfs.restart_process();
    assert_eq!(store(&vfs).list().unwrap(), []);
    assert_eq!(open(&vfs).0.log_end(), o(0));
}

#[test]
fn a_failed_read_is_an_error_and_no_data() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 3);
    vfs.inject(".log", DiskFault::FailRead);
    assert!(matches!(log.read(o(0), o(6), 10), Err(LogError::Io(_))));
    assert!(matches!(log.verify(), Err(LogError::Io(_))));
    vfs.heal();
    assert!(vfs.open(&segment_files(&vfs)[0], OpenMode::Read).is_ok());
    log.verify().unwrap();
}

#[test]
fn a_sync_of_the_whole_disk_makes_every_log_durable_at_once() {
    let other = |index| PartitionId::new(TopicId::from_bytes([8; 16]), index);
    for seed in 0..20 {
        let vfs = MemVfs::new();
        let logs = store(&vfs);
        let mut all: Vec<SegmentLog> = (0..5)
            .map(|index| logs.open_log(other(index)).unwrap().0)
            .collect();
        let mut tickets = Vec::new();
        for log in &mut all {
            fill(log, 0, 3);
            tickets.push(log.begin_flush().unwrap());
        }
        assert!(logs.sync_disk().unwrap());
        for (log, ticket) in all.iter_mut().zip(tickets) {
            let result = (ticket.job)(SyncBy::WholeDisk);
            log.finish_flush(ticket.end, ticket.generation, result)
                .unwrap();
            assert_eq!(log.durable_end(), o(6));
        }
        let vfs = vfs.lose_power(&mut Rng::new(seed));
        for index in 0..5 {
            let (log, cut) = store(&vfs).open_log(other(index)).unwrap();
            assert_eq!((log.log_end(), cut), (o(6), 0));
        }
    }
}

#[test]
fn a_log_that_failed_before_does_not_count_a_sync_of_the_whole_disk() {
    let vfs = MemVfs::new();
    let logs = store(&vfs);
    let mut log = logs.open_log(partition()).unwrap().0;
    fill(&mut log, 0, 1);
    let first = log.begin_flush().unwrap();
    let second = log.begin_flush().unwrap();
    vfs.inject(".log", DiskFault::FailSync);
    assert!(logs.sync_disk().is_err());
    assert!((first.job)(SyncBy::Job).is_err());
    vfs.heal();
    assert!(logs.sync_disk().unwrap());
    let result = (second.job)(SyncBy::WholeDisk);
    assert!(result.is_err(), "the kernel reports a lost write once");
}

#[test]
fn a_write_that_a_sync_of_the_whole_disk_lost_for_a_log_without_a_flush_is_never_durable() {
    let other = PartitionId::new(TopicId::from_bytes([8; 16]), 0);
    let vfs = MemVfs::new();
    let logs = store(&vfs);
    let mut log = logs.open_log(partition()).unwrap().0;
    let mut stranger = logs.open_log(other).unwrap().0;
    fill(&mut log, 0, 1);
    flush(&mut log);
    fill(&mut log, 0, 1);
    fill(&mut stranger, 0, 1);
    let ticket = stranger.begin_flush().unwrap();
    let lost_in = format!("{}/", partition());
    vfs.inject(&lost_in, DiskFault::FailSync);
    assert!(logs.sync_disk().is_err());
    vfs.heal();
    let result = (ticket.job)(SyncBy::Job);
    stranger
        .finish_flush(ticket.end, ticket.generation, result)
        .unwrap();
    assert_eq!(stranger.durable_end(), o(2), "it lost nothing");
    // The next group: the disk has told of the loss already.
    let ticket = log.begin_flush().unwrap();
    assert!(logs.sync_disk().unwrap());
    let result = (ticket.job)(SyncBy::WholeDisk);
    assert!(
        log.finish_flush(ticket.end, ticket.generation, result)
            .is_err()
    );
    assert_eq!(log.durable_end(), o(2));
}

#[test]
fn a_write_that_was_lost_while_a_flush_of_an_earlier_file_was_under_way_is_never_durable() {
    let vfs = MemVfs::new();
    let logs = store(&vfs);
    let mut log = logs.open_log(partition()).unwrap().0;
    fill(&mut log, 0, 1);
    let first = log.begin_flush().unwrap();
    // Enough for another segment, which the flush does not know.
    fill(&mut log, 0, 8);
    let newest = segment_files(&vfs).pop().unwrap();
    vfs.inject(newest.to_str().unwrap(), DiskFault::FailSync);
    assert!(logs.sync_disk().is_err());
    vfs.heal();
    let result = (first.job)(SyncBy::Job);
    log.finish_flush(first.end, first.generation, result)
        .unwrap();
    assert_eq!(log.durable_end(), o(2));
    let second = log.begin_flush().unwrap();
    assert!(logs.sync_disk().unwrap());
    assert!((second.job)(SyncBy::WholeDisk).is_err());
}

#[test]
fn a_log_that_lost_nothing_is_synced_with_the_whole_disk_again_after_its_own_sync() {
    let vfs = MemVfs::new();
    let logs = store(&vfs);
    let mut log = logs.open_log(partition()).unwrap().0;
    vfs.write_file_atomically(Path::new(DIR).join("stranger").as_path(), b"a")
        .unwrap();
    let stranger = vfs
        .open(&Path::new(DIR).join("stranger"), OpenMode::ReadWrite)
        .unwrap();
    stranger.write_all_at(b"b", 0).unwrap();
    vfs.inject("stranger", DiskFault::FailSync);
    assert!(logs.sync_disk().is_err());
    vfs.heal();
    let mut own_syncs = Vec::new();
    for _ in 0..2 {
        fill(&mut log, 0, 1);
        let ticket = log.begin_flush().unwrap();
        assert!(logs.sync_disk().unwrap());
        let before = vfs.syncs();
        let result = (ticket.job)(SyncBy::WholeDisk);
        own_syncs.push(vfs.syncs() > before);
        log.finish_flush(ticket.end, ticket.generation, result)
            .unwrap();
    }
    assert_eq!(own_syncs, [true, false]);
    assert_eq!(log.durable_end(), o(4));
}
