use rivven_core_types::EpochEnd;

use super::*;

fn end(epoch: i32, end: i64) -> Option<EpochEnd> {
    Some(EpochEnd {
        epoch: e(epoch),
        end: o(end),
    })
}

#[test]
fn kip_101_and_279_an_epoch_ends_where_the_next_known_one_starts() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    assert_eq!(log.epoch_end(e(0)), None, "an empty table knows nothing");
    fill(&mut log, 2, 2);
    fill(&mut log, 5, 3);
    let check = |log: &SegmentLog| {
        assert_eq!(log.epoch_end(e(1)), None, "none below the first");
        assert_eq!(log.epoch_end(e(2)), end(2, 4));
        assert_eq!(log.epoch_end(e(3)), end(2, 4), "the greatest not above");
        assert_eq!(log.epoch_end(e(4)), end(2, 4));
        assert_eq!(
            log.epoch_end(e(5)),
            end(5, 10),
            "the last ends at the log end"
        );
        assert_eq!(log.epoch_end(e(6)), None, "none above the last");
    };
    check(&log);
    check(&open(&vfs.restart_process()).0);
}

#[test]
fn kafka_7415_an_epoch_without_records_is_kept() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 1, 2);
    log.assign_epoch(e(2), o(4)).unwrap();
    flush(&mut log);
    // Durable before it is used.
    let (mut log, _) = open(&vfs.lose_power(&mut rivven_core_types::Rng::new(3)));
    assert_eq!(log.last_epoch(), Some(e(2)));
    assert_eq!(log.epoch_end(e(1)), end(1, 4));
    assert_eq!(log.epoch_end(e(2)), end(2, 4));
    log.assign_epoch(e(3), o(4)).unwrap();
    assert_eq!(log.epoch_end(e(2)), end(1, 4), "equal start: dropped");
}

#[test]
fn kafka_10706_truncation_at_the_log_end_cuts_the_epoch_table() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 1, 2);
    log.assign_epoch(e(4), o(4)).unwrap();
    assert_eq!(log.truncate_to(o(4)).unwrap(), o(4));
    assert_eq!(log.last_epoch(), Some(e(1)));
    let (log, _) = open(&vfs.restart_process());
    assert_eq!(log.last_epoch(), Some(e(1)), "durably");
}

#[test]
fn truncation_cuts_the_epochs_of_what_goes() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 1, 2);
    fill(&mut log, 2, 2);
    fill(&mut log, 3, 2);
    assert_eq!(log.truncate_to(o(9)).unwrap(), o(8));
    assert_eq!(log.last_epoch(), Some(e(2)), "epoch 3 started at 8");
    log.truncate_to(o(5)).unwrap();
    assert_eq!(log.last_epoch(), Some(e(1)), "epoch 2 started at 4");
    fill(&mut log, 7, 1);
    log.verify().unwrap();
    assert_eq!(log.epoch_end(e(6)), end(1, 4));
}

#[test]
fn a_leader_appends_only_in_the_assigned_epoch() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    let batch = batch(1, b"", 0);
    assert!(matches!(
        log.append_as_leader(e(0), &batch),
        Err(LogError::EpochNotAssigned { last: None, .. })
    ));
    log.assign_epoch(e(3), o(0)).unwrap();
    assert!(matches!(
        log.append_as_leader(e(4), &batch),
        Err(LogError::EpochNotAssigned { .. })
    ));
    assert!(matches!(
        log.append_as_leader(e(2), &batch),
        Err(LogError::EpochRegression { .. })
    ));
    log.append_as_leader(e(3), &batch).unwrap();
}

#[test]
fn an_assignment_never_contradicts_stored_batches() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 3, 2);
    log.assign_epoch(e(3), o(0)).unwrap();
    log.assign_epoch(e(3), o(4)).unwrap();
    assert_eq!(log.epoch_end(e(3)), end(3, 4));
    assert!(matches!(
        log.assign_epoch(e(4), o(2)),
        Err(LogError::OutOfRange { .. })
    ));
    assert!(matches!(
        log.assign_epoch(e(4), o(5)),
        Err(LogError::OutOfRange { .. })
    ));
    assert!(matches!(
        log.assign_epoch(e(2), o(4)),
        Err(LogError::EpochRegression { .. })
    ));
    // A greater epoch without records gives way.
    log.assign_epoch(e(9), o(4)).unwrap();
    log.assign_epoch(e(5), o(4)).unwrap();
    assert_eq!(log.last_epoch(), Some(e(5)));
    log.verify().unwrap();
}

#[test]
fn kafka_7897_a_missing_epoch_file_is_rebuilt_from_the_batches() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 1, 10);
    fill(&mut log, 4, 3);
    fill(&mut log, 9, 3);
    vfs.remove_file(&file("epochs")).unwrap();
    for _ in 0..2 {
        let (log, cut) = open(&vfs.restart_process());
        assert_eq!(cut, 0);
        assert_eq!(log.epoch_end(e(3)), end(1, 20));
        assert_eq!(log.epoch_end(e(4)), end(4, 26));
        assert_eq!(log.epoch_end(e(9)), end(9, 32));
    }
}

#[test]
fn a_damaged_epoch_file_is_corruption() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 1, 3);
    vfs.flip_bit(&file("epochs"), 12, 3).unwrap();
    assert!(matches!(
        open_error(&vfs.restart_process()),
        LogError::Corrupt { .. }
    ));
}
