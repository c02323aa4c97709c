use rivven_core_types::{LogStore, OpenMode, Rng};

use super::*;

fn length(vfs: &MemVfs, path: &Path) -> usize {
    vfs.read_file(path, 1 << 20).unwrap().len()
}

#[test]
fn a_torn_tail_is_cut_reported_until_acknowledged_and_gone_for_good() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 5);
    flush(&mut log);
    let kept = everything(&log);
    fill(&mut log, 1, 1);
    let last = segment_files(&vfs).pop().unwrap();
    let torn = length(&vfs, &last) - 3;
    let file = vfs.open(&last, OpenMode::ReadWrite).unwrap();
    file.set_len(torn as u64).unwrap();
    for round in 0..3 {
        let vfs = vfs.restart_process();
        let (log, cut) = open(&vfs);
        assert!(cut > 0, "round {round}");
        assert_eq!((log.log_end(), everything(&log)), (o(10), kept.clone()));
        assert_eq!(log.last_epoch(), Some(e(1)), "it was assigned");
    }
    let vfs = vfs.restart_process();
    store(&vfs).acknowledge_cut(partition()).unwrap();
    assert_eq!(open(&vfs.lose_power(&mut Rng::new(0))).1, 0);
}

#[test]
fn a_flipped_bit_anywhere_in_durable_data_is_corruption_and_nothing_is_cut() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 6);
    flush(&mut log);
    drop(log);
    let files = segment_files(&vfs);
    let active = files.last().unwrap();
    for byte in 0..length(&vfs, active) {
        let vfs = vfs.restart_process();
        vfs.flip_bit(active, byte, 5).unwrap();
        let error = open_error(&vfs);
        assert!(
            matches!(error, LogError::Corrupt { .. }),
            "byte {byte}: {error}"
        );
        let lengths: Vec<_> = files.iter().map(|f| length(&vfs, f)).collect();
        vfs.flip_bit(active, byte, 5).unwrap();
        assert_eq!(
            lengths,
            files.iter().map(|f| length(&vfs, f)).collect::<Vec<_>>()
        );
    }
    assert_eq!(open(&vfs.restart_process()).0.log_end(), o(12));
}

#[test]
fn a_flipped_bit_before_sound_batches_is_corruption_even_if_never_flushed() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 12);
    assert_eq!(log.durable_end(), o(0));
    let mut files = segment_files(&vfs);
    files.pop();
    let sealed: Vec<_> = files.iter().map(|f| (f, length(&vfs, f))).collect();
    for (path, length) in sealed {
        for byte in 0..length {
            let vfs = vfs.restart_process();
            vfs.flip_bit(path, byte, 2).unwrap();
            let opened = store(&vfs).open_log(partition()).map(|_| ());
            assert!(
                matches!(opened, Err(LogError::Corrupt { .. })),
                "{} byte {byte}: {opened:?}",
                path.display()
            );
            vfs.flip_bit(path, byte, 2).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_never_served() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 20);
    flush(&mut log);
    let sealed = &segment_files(&vfs)[1];
    let vfs = vfs.restart_process();
    vfs.flip_bit(sealed, 75, 1).unwrap();
    // A walk over the headers does not see it.
    let (log, _) = open(&vfs);
    assert!(matches!(log.verify(), Err(LogError::Corrupt { .. })));
    let first = log.read(o(0), o(40), 1 << 20).unwrap();
    let error = log.read(first.next, o(40), 1 << 20).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
}

#[test]
fn a_wrong_stamp_under_a_running_log_is_not_served() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 3);
    let path = &segment_files(&vfs)[0];
    // Offset, epoch, magic, last offset delta: what a read can tell without the CRC.
    for byte in [7, 15, 16, 26] {
        vfs.flip_bit(path, byte, 1).unwrap();
        let read = log.read(o(0), o(6), 1 << 20);
        assert!(
            matches!(read, Err(LogError::Corrupt { .. })),
            "byte {byte}: {read:?}"
        );
        vfs.flip_bit(path, byte, 1).unwrap();
    }
    log.verify().unwrap();
}

#[test]
fn durable_data_that_is_missing_is_corruption() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 12);
    flush(&mut log);
    let files = segment_files(&vfs);
    let last = vfs.open(files.last().unwrap(), OpenMode::ReadWrite);
    last.unwrap().set_len(0).unwrap();
    let vfs = vfs.restart_process();
    let error = open_error(&vfs);
    assert!(
        matches!(error, LogError::Corrupt { .. }),
        "the tail: {error}"
    );
    vfs.remove_file(&files[1]).unwrap();
    assert!(
        matches!(open_error(&vfs), LogError::Corrupt { .. }),
        "a segment"
    );
    for file in segment_files(&vfs) {
        vfs.remove_file(&file).unwrap();
    }
    assert!(matches!(open_error(&vfs), LogError::Corrupt { .. }), "all");
}

#[test]
fn a_lost_durable_mark_costs_a_full_walk_and_no_data() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 12);
    flush(&mut log);
    vfs.flip_bit(&file("durable-mark"), 12, 0).unwrap();
    let (log, cut) = open(&vfs.restart_process());
    assert_eq!((cut, log.durable_end()), (0, o(24)));
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 7);
    let before = everything(&log);
    // The kill hits between the two writes of a long batch.
    let long = batch(1, &[1; 20_000], 0);
    let (head, _) = long.stamped(o(14), e(0));
    let last = segment_files(&vfs).pop().unwrap();
    let file = vfs.open(&last, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&head, file.len().unwrap()).unwrap();
    let (log, cut) = open(&vfs.restart_process());
    assert_eq!((log.log_end(), everything(&log)), (o(14), before));
    assert_eq!(cut, 21);
}
