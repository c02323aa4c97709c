use std::ops::ControlFlow;
use std::sync::Arc;

use rivven_core_types::{LogStore, OsVfs, TimestampedOffset};

use super::*;
use crate::{SegmentLogError, dump_bytes, dump_bytes_from};

#[test]
fn what_is_appended_is_read_back_across_segments_and_restarts() {
    let vfs = MemVfs::new();
    let (mut log, cut) = open(&vfs);
    assert_eq!((cut, log.log_end()), (0, Offset::ZERO));
    fill(&mut log, 0, 20);
    assert!(segment_files(&vfs).len() > 4, "it must roll");
    let before = everything(&log);
    let expected: Vec<u8> = (0..20)
        .flat_map(|i| {
            batch(2, b"some value", i * 20)
                .restamped(o(i * 2), e(0))
                .bytes()
                .to_vec()
        })
        .collect();
    assert_eq!(before, expected);

    let (log, cut) = open(&vfs.restart_process());
    assert_eq!((cut, log.log_end(), log.durable_end()), (0, o(40), o(40)));
    assert_eq!(log.last_epoch(), Some(e(0)));
    assert_eq!(everything(&log), before);
    log.verify().unwrap();
}

#[test]
fn the_operating_systems_files_hold_the_batches_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SegmentLogStore::open(dir.path(), Arc::new(OsVfs), config()).unwrap();
    let (mut log, _) = open().open_log(partition()).unwrap();
    fill(&mut log, 4, 10);
    flush(&mut log);
    let large = batch(1, &vec![9; 40_000], 500);
    let appended = log.append_as_leader(e(4), &large).unwrap();
    fill(&mut log, 5, 3);
    assert_eq!(log.truncate_to(o(25)).unwrap(), o(25));
    let before = everything(&log);
    assert!(before.ends_with(at_end(&log, o(23)).as_slice()));
    drop(log);

    let dumped = dump_bytes(dir.path(), partition(), o(25)).unwrap();
    assert_eq!(dumped, before);
    let shorter = dump_bytes(dir.path(), partition(), appended.base).unwrap();
    assert_eq!(shorter, before[..shorter.len()]);
    assert!(shorter.len() < before.len() - 40_000);
    let (log, cut) = open().open_log(partition()).unwrap();
    assert_eq!((cut, log.log_end()), (0, o(25)));
    assert_eq!(everything(&log), before);
}

fn at_end(log: &SegmentLog, from: Offset) -> Vec<u8> {
    log.read(from, log.log_end(), 1).unwrap().bytes.to_vec()
}

#[test]
fn a_read_returns_whole_batches_below_the_limit_and_at_least_one() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 10);
    let one = log.read(o(0), o(20), 1).unwrap();
    assert_eq!(one.next, o(2), "the first batch comes even if it is longer");
    let inside = log.read(o(5), o(20), 1).unwrap();
    assert_eq!(inside.next, o(6), "the batch that contains the offset");
    let limited = log.read(o(0), o(3), 10_000).unwrap();
    assert_eq!(limited.next, o(2), "never beyond the limit");
    let none = log.read(o(2), o(3), 10_000).unwrap();
    assert!(none.bytes.is_empty() && none.next == o(2));
    let end = log.read(o(20), o(99), 10_000).unwrap();
    assert!(end.bytes.is_empty() && end.next == o(20));
    assert!(matches!(
        log.read(o(21), o(99), 1),
        Err(LogError::OutOfRange { .. })
    ));
    // Readers at several places, one behind the other.
    for from in 0..20 {
        for reader in [from, 19 - from] {
            let slice = log.read(o(reader), o(20), 1).unwrap();
            assert_eq!(slice.next.get(), reader / 2 * 2 + 2);
        }
    }
}

#[test]
fn scan_visits_each_header_from_the_batch_that_contains_the_offset() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 12);
    let mut seen = Vec::new();
    log.scan(o(7), &mut |header| {
        seen.push(header.base_offset);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, [6, 8, 10, 12, 14, 16, 18, 20, 22]);
    let mut count = 0;
    log.scan(o(0), &mut |_| {
        count += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(count, 1);
}

#[test]
fn a_timestamp_finds_the_first_record_that_reaches_it() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    log.assign_epoch(e(2), o(0)).unwrap();
    for timestamp in [100, 50, 300, 200, 400, 10, 500] {
        let batch = batch(2, b"0123456789", timestamp);
        log.append_as_leader(e(2), &batch).unwrap();
    }
    let find = |log: &SegmentLog, t, limit| log.offset_for_timestamp(t, o(limit)).unwrap();
    let hit = |offset, timestamp| {
        Some(TimestampedOffset {
            offset: o(offset),
            timestamp,
            epoch: e(2),
        })
    };
    for round in 0..2 {
        assert_eq!(find(&log, 0, 14), hit(0, 100));
        assert_eq!(find(&log, 101, 14), hit(1, 101));
        assert_eq!(find(&log, 102, 14), hit(4, 300));
        assert_eq!(find(&log, 302, 14), hit(8, 400));
        assert_eq!(find(&log, 501, 14), hit(13, 501));
        assert_eq!(find(&log, 502, 14), None);
        assert_eq!(find(&log, 302, 8), None, "the limit holds");
        if round == 0 {
            log = open(&vfs.restart_process()).0;
        }
    }
    log.truncate_to(o(8)).unwrap();
    assert_eq!(find(&log, 302, 14), None);
    log.trim_start(o(1)).unwrap();
    assert_eq!(find(&log, 0, 14), hit(1, 101));
}

#[test]
fn a_replicated_batch_must_continue_the_log() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    log.append_replicated_batch(&at(0, 1, 3)).unwrap();
    for wrong in [at(0, 1, 3), at(2, 1, 3), at(4, 1, 1)] {
        assert!(matches!(
            log.append_replicated_batch(&wrong),
            Err(LogError::NotContiguous { .. })
        ));
    }
    assert!(matches!(
        log.append_replicated_batch(&at(3, 0, 1)),
        Err(LogError::EpochRegression { .. })
    ));
    assert!(matches!(
        log.append_replicated_batch(&batch(1, b"", 0).restamped(o(3), e(-1))),
        Err(LogError::EpochRegression { .. })
    ));
    let appended = log.append_replicated_batch(&at(3, 4, 2)).unwrap();
    assert_eq!((appended.base, appended.end), (o(3), o(5)));
    assert_eq!(log.last_epoch(), Some(e(4)));
}

#[test]
fn offsets_end_with_an_error_and_not_with_a_wrap() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    log.reset_to(o(i64::MAX - 3)).unwrap();
    fill(&mut log, 0, 1);
    let next = batch(2, b"", 0);
    assert!(matches!(
        log.append_as_leader(e(0), &next),
        Err(LogError::OffsetsExhausted { .. })
    ));
    log.append_as_leader(e(0), &batch(1, b"", 0)).unwrap();
    assert_eq!(log.log_end(), Offset::MAX);
    assert!(matches!(
        log.append_replicated_batch(&next.restamped(Offset::MAX, e(0))),
        Err(LogError::OffsetsExhausted { .. })
    ));
    assert_eq!(open(&vfs.restart_process()).0.log_end(), Offset::MAX);
}

#[test]
fn truncation_removes_whole_batches_also_across_segments() {
    for end in (0..=40).rev() {
        let vfs = MemVfs::new();
        let (mut log, _) = open(&vfs);
        fill(&mut log, 0, 20);
        flush(&mut log);
        let all = everything(&log);
        let expected = o(end / 2 * 2);
        assert_eq!(log.truncate_to(o(end)).unwrap(), expected);
        assert_eq!((log.log_end(), log.durable_end()), (expected, expected));
        let kept = everything(&log);
        assert_eq!(kept, all[..kept.len()]);
        // At once on the medium.
        let (mut log, cut) = open(&vfs.lose_power(&mut rivven_core_types::Rng::new(1)));
        assert_eq!((log.log_end(), cut), (expected, 0));
        assert_eq!(everything(&log), kept);
        fill(&mut log, 1, 3);
        assert_eq!(log.log_end().get(), expected.get() + 6);
    }
}

#[test]
fn reset_starts_again_also_in_the_middle_of_a_batch() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 3, 20);
    log.reset_to(o(105)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (o(105), o(105)));
    assert_eq!((log.last_epoch(), segment_files(&vfs).len()), (None, 1));
    assert!(matches!(
        log.append_replicated_batch(&at(100, 5, 5)),
        Err(LogError::NotContiguous { .. })
    ));
    log.append_replicated_batch(&at(100, 5, 10)).unwrap();
    log.append_replicated_batch(&at(110, 6, 1)).unwrap();
    let check = |log: &SegmentLog| {
        assert_eq!((log.log_start(), log.log_end()), (o(105), o(111)));
        assert_eq!(log.read(o(105), o(111), 1).unwrap().next, o(110));
        assert_eq!(log.epoch_end(e(5)).unwrap().end, o(110));
        assert!(log.read(o(104), o(111), 1).is_err());
        log.verify().unwrap();
    };
    check(&log);
    let (mut log, cut) = open(&vfs.restart_process());
    assert_eq!(cut, 0);
    check(&log);
    // The batch of the log start goes: the log is empty again, not shorter than its start.
    assert_eq!(log.truncate_to(o(107)).unwrap(), o(105));
    assert_eq!((log.log_start(), log.last_epoch()), (o(105), None));
    log.append_replicated_batch(&at(100, 7, 10)).unwrap();
}

#[test]
fn trimming_moves_the_start_and_drops_segments() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 10);
    fill(&mut log, 1, 10);
    let files = segment_files(&vfs).len();
    log.trim_start(o(31)).unwrap();
    assert_eq!(
        log.durable_end(),
        o(40),
        "what is below the start is durable"
    );
    assert!(segment_files(&vfs).len() < files);
    log.trim_start(o(5)).unwrap();
    assert!(matches!(
        log.trim_start(o(41)),
        Err(LogError::OutOfRange { .. })
    ));
    assert!(matches!(
        log.truncate_to(o(30)),
        Err(LogError::OutOfRange { .. })
    ));
    let check = |log: &SegmentLog| {
        assert_eq!((log.log_start(), log.log_end()), (o(31), o(40)));
        assert!(log.read(o(30), o(40), 1).is_err());
        assert_eq!(log.read(o(31), o(40), 1).unwrap().next, o(32));
        assert_eq!(log.epoch_end(e(0)), None);
        assert_eq!(log.epoch_end(e(1)).unwrap().end, o(40));
    };
    check(&log);
    let (mut log, _) = open(&vfs.restart_process());
    check(&log);
    log.trim_start(o(40)).unwrap();
    assert_eq!(everything(&log), b"");
    fill(&mut log, 2, 1);
    let (log, cut) = open(&vfs.restart_process());
    assert_eq!((cut, log.log_start(), log.log_end()), (0, o(40), o(42)));
}

#[test]
fn a_store_lists_and_removes_logs_and_keeps_a_checkpoint() {
    let vfs = MemVfs::new();
    let logs = store(&vfs);
    let other = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
    for id in [partition(), other] {
        let _log = logs.open_log(id).unwrap();
        assert_eq!(logs.open(id).unwrap().cut_bytes, 0);
    }
    vfs.create_dir_all(Path::new("/data/logs/lost+found"))
        .unwrap();
    assert_eq!(logs.list().unwrap(), [other, partition()]);
    let marks = [(other, o(5)), (partition(), o(7))];
    assert_eq!(logs.load_checkpoint().unwrap(), []);
    logs.save_checkpoint(&marks).unwrap();
    assert_eq!(logs.load_checkpoint().unwrap(), marks);
    let path = Path::new("/data/logs/high-watermarks");
    vfs.flip_bit(path, 20, 0).unwrap();
    assert_eq!(logs.load_checkpoint().unwrap(), [], "a lost hint");

    let (mut log, _) = logs.open_log(partition()).unwrap();
    fill(&mut log, 0, 20);
    logs.remove(partition()).unwrap();
    logs.remove(partition()).unwrap();
    assert_eq!(logs.list().unwrap(), [other]);
    assert_eq!(logs.open_log(partition()).unwrap().0.log_end(), o(0));
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 2);
    let other = PartitionId::new(partition().topic, 4);
    let dir = Path::new(DIR).join(other.to_string());
    vfs.create_dir_all(&dir).unwrap();
    let meta = vfs.read_file(&file("meta"), 100).unwrap();
    vfs.write_file_atomically(&dir.join("meta"), &meta).unwrap();
    let error = store(&vfs).open_log(other).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("belongs to"), "{error}");
    vfs.remove_file(&dir.join("meta")).unwrap();
    vfs.write_file_atomically(&dir.join("notes.txt"), b"hello")
        .unwrap();
    let error = store(&vfs).open_log(other).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("without `meta`"), "{error}");
}

#[test]
fn a_dump_is_what_reads_return_and_changes_nothing() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 20);
    log.trim_start(o(9)).unwrap();
    let all = everything(&log);
    let dump = |up_to| dump_bytes_from(&vfs, Path::new(DIR), partition(), o(up_to));
    assert_eq!(dump(40).unwrap(), all);
    assert_eq!(dump(i64::MAX).unwrap(), all, "what there is");
    assert_eq!(dump(21).unwrap(), contents(&log, o(20)).unwrap());
    vfs.flip_bit(segment_files(&vfs).last().unwrap(), 70, 0)
        .unwrap();
    assert!(matches!(dump(40), Err(LogError::Corrupt { .. })));
}

#[test]
fn settings_out_of_range_are_refused() {
    let bad = [
        SegmentLogConfig {
            segment_bytes: 60,
            ..config()
        },
        SegmentLogConfig {
            index_interval_bytes: 0,
            ..config()
        },
        SegmentLogConfig {
            max_open_files: 1,
            ..config()
        },
    ];
    for config in bad {
        let opened = SegmentLogStore::open(DIR, Arc::new(MemVfs::new()), config);
        assert!(matches!(opened, Err(SegmentLogError::InvalidConfig { .. })));
    }
}
