//! Retention, verification in the background, and stops that were not clean.

use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    Durability, LogConfig, LogError, LogStore, ReplicaLog, Rng, UnixMillis, Vfs,
};

use super::{batch, e, everything, fill, flush, o, open, partition, segment_files, store};
use crate::SegmentLog;

fn kept(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> LogConfig {
    LogConfig {
        retention_ms,
        retention_bytes,
        segment_bytes: 400,
        ..LogConfig::default()
    }
}

fn configured(log: &mut SegmentLog, config: LogConfig) {
    log.configure(&config, Durability::Fsync).unwrap();
}

#[test]
fn whole_segments_go_by_size_and_the_rest_stays_at_least_as_long_as_asked() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 20);
    flush(&mut log);
    let files = segment_files(&vfs).len();
    assert!(files >= 4);
    configured(&mut log, kept(None, Some(500)));
    let start = log.apply_retention(UnixMillis(0), log.log_end()).unwrap();
    assert!(start > o(0));
    assert!(everything(&log).len() >= 500);
    assert!(segment_files(&vfs).len() < files);
    // Again: nothing more to do.
    assert_eq!(
        log.apply_retention(UnixMillis(0), log.log_end()).unwrap(),
        start
    );
    let bytes = everything(&log);
    drop(log);
    let (log, cut) = open(&vfs);
    assert_eq!((log.log_start(), cut), (start, 0));
    assert_eq!(everything(&log), bytes);
}

#[test]
fn nothing_above_the_limit_or_not_yet_durable_goes() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    configured(&mut log, kept(Some(0), Some(0)));
    fill(&mut log, 0, 20);
    let end = log.log_end();
    assert_eq!(
        log.apply_retention(UnixMillis(i64::MAX), end).unwrap(),
        o(0)
    );
    flush(&mut log);
    let start = log.apply_retention(UnixMillis(i64::MAX), o(9)).unwrap();
    assert!(start > o(0) && start <= o(9));
    assert_eq!(log.apply_retention(UnixMillis(i64::MAX), end).unwrap(), end);
    assert_eq!(segment_files(&vfs).len(), 1);
    fill(&mut log, 1, 1);
    drop(log);
    assert_eq!(open(&vfs).0.log_start(), end);
}

#[test]
fn a_segment_goes_once_its_newest_record_is_too_old_and_the_active_one_is_closed_for_it() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    configured(&mut log, kept(Some(1_000), None));
    log.assign_epoch(e(0), o(0)).unwrap();
    for timestamp in [10_000, 20_000] {
        log.append_as_leader(e(0), &batch(2, b"v", timestamp))
            .unwrap();
    }
    flush(&mut log);
    let keep = |log: &mut SegmentLog, now| log.apply_retention(UnixMillis(now), o(4)).unwrap();
    assert_eq!(keep(&mut log, 21_001), o(0));
    assert_eq!(keep(&mut log, 21_002), o(4));
    // Records without a timestamp have no age.
    log.append_as_leader(e(0), &batch(1, b"v", -1)).unwrap();
    flush(&mut log);
    assert_eq!(
        log.apply_retention(UnixMillis(i64::MAX), o(5)).unwrap(),
        o(4)
    );
}

#[test]
fn a_trickle_does_not_keep_an_active_segment_open_for_ever() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    let config = LogConfig {
        segment_ms: 5_000,
        ..kept(None, None)
    };
    configured(&mut log, config);
    log.assign_epoch(e(0), o(0)).unwrap();
    log.append_as_leader(e(0), &batch(1, b"v", 10_000)).unwrap();
    flush(&mut log);
    log.apply_retention(UnixMillis(15_000), o(1)).unwrap();
    assert_eq!(segment_files(&vfs).len(), 1);
    log.apply_retention(UnixMillis(15_001), o(1)).unwrap();
    assert_eq!(segment_files(&vfs).len(), 2);
    log.append_as_leader(e(0), &batch(1, b"v", 20_000)).unwrap();
    flush(&mut log);
    drop(log);
    assert_eq!(open(&vfs).0.log_end(), o(2));
}

fn scrub_all(log: &mut SegmentLog) -> Result<usize, LogError> {
    let mut pieces = 0;
    for _ in 0..40 {
        let Some(ticket) = log.begin_scrub(100) else {
            break;
        };
        pieces += 1;
        log.finish_scrub(ticket.generation, (ticket.job)())?;
    }
    Ok(pieces)
}

#[test]
fn verification_finds_a_flipped_bit_in_a_closed_segment() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    assert!(log.begin_scrub(100).is_none());
    fill(&mut log, 0, 12);
    assert!(log.begin_scrub(100).is_none(), "not durable yet");
    flush(&mut log);
    assert_eq!(scrub_all(&mut log).unwrap(), 40);
    let second = &segment_files(&vfs)[1];
    vfs.flip_bit(second, 90, 3).unwrap();
    let found = scrub_all(&mut log);
    assert!(matches!(found, Err(LogError::Corrupt { .. })), "{found:?}");
}

#[test]
fn damage_to_what_is_gone_meanwhile_is_not_reported() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 12);
    flush(&mut log);
    let ticket = log.begin_scrub(1_000).unwrap();
    vfs.flip_bit(&segment_files(&vfs)[0], 90, 3).unwrap();
    let outcome = (ticket.job)();
    assert!(outcome.is_err());
    log.trim_start(log.log_end()).unwrap();
    log.finish_scrub(ticket.generation, outcome).unwrap();
}

/// What the next process is told of a log with this durability, after a stop of a kind.
fn told_after(durability: Durability, stop: impl FnOnce(&MemVfs) -> MemVfs) -> u64 {
    let vfs = MemVfs::new();
    let used = store(&vfs);
    let (mut log, _) = used.open_log(partition()).unwrap();
    used.mark_running().unwrap();
    log.configure(&LogConfig::default(), durability).unwrap();
    fill(&mut log, 0, 2);
    flush(&mut log);
    let vfs = stop(&vfs);
    let next = store(&vfs);
    let (_log, cut) = next.open_log(partition()).unwrap();
    // Until the loss is registered it is told again, even after another stop of any kind.
    next.mark_running().unwrap();
    assert_eq!(next.open_log(partition()).unwrap().1, cut);
    let vfs = vfs.restart_process();
    assert_eq!(store(&vfs).open_log(partition()).unwrap().1, cut);
    store(&vfs).acknowledge_cut(partition()).unwrap();
    assert_eq!(store(&vfs).open_log(partition()).unwrap().1, 0);
    cut
}

#[test]
fn kip_966_only_an_unclean_stop_with_a_power_loss_makes_a_lazy_log_lossy() {
    let power = |vfs: &MemVfs| vfs.lose_power(&mut Rng::new(1));
    assert_eq!(told_after(Durability::Replicated, power), 1);
    assert_eq!(told_after(Durability::Fsync, power), 0);
    let killed = |vfs: &MemVfs| vfs.restart_process();
    assert_eq!(told_after(Durability::Replicated, killed), 0);
    let clean_then_power = |vfs: &MemVfs| {
        store(vfs).mark_stopped().unwrap();
        vfs.lose_power(&mut Rng::new(1))
    };
    assert_eq!(told_after(Durability::Replicated, clean_then_power), 0);
    let marker_gone = |vfs: &MemVfs| {
        vfs.remove_file(std::path::Path::new("/data/logs/shutdown"))
            .unwrap();
        vfs.restart_process()
    };
    assert_eq!(told_after(Durability::Replicated, marker_gone), 1);
}

#[test]
fn a_log_that_is_lazy_no_longer_is_told_apart_once_it_is_durable() {
    let vfs = MemVfs::new();
    let used = store(&vfs);
    let (mut log, _) = used.open_log(partition()).unwrap();
    used.mark_running().unwrap();
    let config = LogConfig::default();
    log.configure(&config, Durability::Replicated).unwrap();
    fill(&mut log, 0, 1);
    // Not durable yet: an unclean stop may still lose what has counted.
    log.configure(&config, Durability::Fsync).unwrap();
    flush(&mut log);
    log.configure(&config, Durability::Fsync).unwrap();
    drop(log);
    let vfs = vfs.lose_power(&mut Rng::new(3));
    assert_eq!(store(&vfs).open_log(partition()).unwrap().1, 0);
}

#[test]
fn looking_at_a_log_tells_damage_from_a_torn_tail_and_changes_nothing() {
    let vfs = MemVfs::new();
    let (mut log, _) = open(&vfs);
    fill(&mut log, 0, 6);
    flush(&mut log);
    fill(&mut log, 1, 1);
    let end = log.log_end();
    drop(log);
    let look = |verify| crate::inspect(&vfs, std::path::Path::new(super::DIR), verify).unwrap();
    let [report] = look(true).try_into().unwrap();
    assert_eq!((report.log_start, report.end), (o(0), end));
    assert_eq!(report.epochs, [(e(0), o(0)), (e(1), o(12))]);
    assert_eq!(report.segments.len(), segment_files(&vfs).len());
    assert_eq!((&report.problem, &report.remark), (&None, &None));
    assert_eq!(report.durable_mark, Some(o(12)));
    let batches: u64 = report.segments.iter().map(|s| s.batches).sum();
    assert_eq!(batches, 7);
    // The last batch was never durable.
    let active = segment_files(&vfs).pop().unwrap();
    let length = usize::try_from(report.segments.last().unwrap().file_bytes).unwrap();
    vfs.flip_bit(&active, length - 1, 0).unwrap();
    assert_eq!(look(false)[0].remark, None, "headers alone are sound");
    let [torn] = look(true).try_into().unwrap();
    assert!(torn.problem.is_none() && torn.remark.unwrap().contains("torn"));
    vfs.flip_bit(&segment_files(&vfs)[0], 90, 1).unwrap();
    let [damaged] = look(true).try_into().unwrap();
    assert!(damaged.problem.unwrap().contains("CRC"));
}
