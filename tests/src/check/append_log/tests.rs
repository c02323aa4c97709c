use std::time::Instant;

use super::*;

/// Three records of producer 1 in partition 0, acknowledged at 0, 1, 2.
fn three() -> (AppendLog, [Stamp; 3]) {
    let mut log = AppendLog::default();
    let stamps = [0, 1, 2].map(|offset| {
        let stamp = log.send(1, 0);
        log.acked(stamp, Some(offset));
        stamp
    });
    (log, stamps)
}

fn poll_all(log: &mut AppendLog, consumer: u32, stamps: &[Stamp]) {
    log.seek(consumer, 0, 0);
    for (stamp, offset) in stamps.iter().zip(0..) {
        log.polled(consumer, 0, offset, Ok(*stamp));
    }
}

/// The only anomaly that is found, and how often.
fn only(log: AppendLog) -> (Anomaly, usize) {
    let report = log.finish();
    assert_eq!(report.anomalies.len(), 1, "{report:?}");
    assert!(!report.examples.is_empty());
    report.anomalies.into_iter().next().unwrap()
}

#[test]
fn a_right_log_is_clean_and_counted() {
    let (mut log, stamps) = three();
    let unknown = log.send(1, 0);
    let elsewhere = log.send(1, 1);
    log.acked(elsewhere, None);
    poll_all(&mut log, 1, &stamps);
    poll_all(&mut log, 2, &stamps);
    // Whose acknowledgement was lost may be there.
    log.polled(1, 0, 3, Ok(unknown));
    log.polled(1, 1, 0, Ok(elsewhere));
    // Going back by one's own will is no anomaly.
    log.seek(1, 0, 1);
    log.polled(1, 0, 1, Ok(stamps[1]));
    log.complete(0);
    log.complete(1);
    let report = log.finish();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.sent, report.acked, report.read), (5, 4, 5));
    assert_eq!((report.polled, report.recovered), (9, 1));
}

#[test]
fn a_lost_write_is_found_below_what_was_read_and_at_a_complete_end() {
    let (mut log, stamps) = three();
    log.polled(1, 0, 0, Ok(stamps[0]));
    // Nobody has read so far yet.
    assert!(log.finish().is_clean());

    let (mut log, stamps) = three();
    log.seek(1, 0, 2);
    log.polled(1, 0, 2, Ok(stamps[2]));
    assert_eq!(only(log), (Anomaly::LostWrite, 2));

    let (mut log, stamps) = three();
    poll_all(&mut log, 1, &stamps[..2]);
    log.complete(0);
    assert_eq!(only(log), (Anomaly::LostWrite, 1));

    // Acknowledged without an offset.
    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    log.acked(stamp, None);
    log.complete(0);
    assert_eq!(only(log), (Anomaly::LostWrite, 1));
}

#[test]
fn a_duplicate_is_found_however_it_shows() {
    let (mut log, stamps) = three();
    poll_all(&mut log, 1, &stamps);
    log.polled(1, 0, 3, Ok(stamps[0]));
    assert_eq!(only(log), (Anomaly::Duplicate, 1));

    // Read where it was not acknowledged, in either order of the two.
    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    log.acked(stamp, Some(0));
    log.polled(1, 0, 4, Ok(stamp));
    assert_eq!(only(log), (Anomaly::Duplicate, 1));
    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    log.polled(1, 0, 4, Ok(stamp));
    log.acked(stamp, Some(0));
    assert_eq!(only(log), (Anomaly::Duplicate, 1));
}

#[test]
fn an_aborted_read_and_a_phantom_are_found() {
    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    log.refused(stamp);
    log.polled(1, 0, 0, Ok(stamp));
    assert_eq!(only(log), (Anomaly::AbortedRead, 1));

    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    log.polled(1, 1, 0, Ok(stamp));
    let never = Stamp {
        producer: 1,
        number: 9,
    };
    log.polled(1, 0, 0, Ok(never));
    log.acked(never, Some(3));
    assert_eq!(only(log), (Anomaly::Phantom, 3));
}

#[test]
fn a_poll_that_skips_a_record_is_found_and_one_over_nothing_is_not() {
    let (mut log, stamps) = three();
    poll_all(&mut log, 1, &stamps);
    log.seek(2, 0, 0);
    log.polled(2, 0, 0, Ok(stamps[0]));
    log.polled(2, 0, 2, Ok(stamps[2]));
    assert_eq!(only(log), (Anomaly::PollSkip, 1));

    // A hole, as a transaction marker leaves it.
    let mut log = AppendLog::default();
    let (first, second) = (log.send(1, 0), log.send(1, 0));
    log.polled(1, 0, 0, Ok(first));
    log.polled(1, 0, 2, Ok(second));
    assert!(log.finish().is_clean());
}

#[test]
fn a_poll_that_goes_back_is_found() {
    let (mut log, stamps) = three();
    poll_all(&mut log, 1, &stamps);
    log.polled(1, 0, 1, Ok(stamps[1]));
    log.polled(1, 0, 2, Ok(stamps[2]));
    assert_eq!(only(log), (Anomaly::NonmonotonicPoll, 2));
}

#[test]
fn records_in_another_order_than_sent_are_found_by_acks_and_by_reads() {
    let mut log = AppendLog::default();
    let (first, second) = (log.send(1, 0), log.send(1, 0));
    log.acked(first, Some(1));
    log.acked(second, Some(0));
    assert_eq!(only(log), (Anomaly::NonmonotonicSend, 1));

    let mut log = AppendLog::default();
    let (first, second) = (log.send(1, 0), log.send(1, 0));
    log.polled(1, 0, 0, Ok(second));
    log.polled(1, 0, 1, Ok(first));
    assert_eq!(only(log), (Anomaly::NonmonotonicSend, 1));
}

#[test]
fn two_records_at_one_offset_are_found() {
    let mut log = AppendLog::default();
    let (first, second) = (log.send(1, 0), log.send(2, 0));
    log.polled(1, 0, 0, Ok(first));
    log.polled(2, 0, 0, Ok(second));
    assert_eq!(only(log), (Anomaly::InconsistentOffsets, 1));

    let mut log = AppendLog::default();
    let (first, second) = (log.send(1, 0), log.send(2, 0));
    log.acked(first, Some(0));
    log.acked(second, Some(0));
    assert_eq!(only(log), (Anomaly::InconsistentOffsets, 1));

    // An offset that cannot be costs no memory.
    for offset in [-7, MAX_OFFSETS, i64::MAX] {
        let mut log = AppendLog::default();
        let stamp = log.send(1, 0);
        log.polled(1, 0, offset, Ok(stamp));
        assert_eq!(only(log), (Anomaly::InconsistentOffsets, 1));
    }
}

#[test]
fn a_torn_record_is_found() {
    let mut log = AppendLog::default();
    let stamp = log.send(1, 0);
    let value = stamp.encode(60);
    log.polled(1, 0, 0, Stamp::decode(value.as_bytes()));
    log.polled(1, 0, 1, Stamp::decode(&value.as_bytes()[..20]));
    assert_eq!(only(log), (Anomaly::Torn, 1));
}

#[test]
fn examples_are_bounded_and_counts_are_not() {
    let mut log = AppendLog::default();
    for offset in 0..1_000 {
        let stamp = log.send(1, 0);
        log.acked(stamp, Some(offset));
    }
    log.complete(0);
    let report = log.finish();
    assert_eq!(report.count(Anomaly::LostWrite), 1_000);
    assert_eq!(report.examples.len(), MAX_EXAMPLES);
}

#[test]
fn a_million_records_are_judged() {
    const RECORDS: u32 = 1_000_000;
    let started = Instant::now();
    let mut log = AppendLog::default();
    let partitions = 8;
    for number in 0..RECORDS {
        let partition = number % partitions;
        let stamp = log.send(partition % 3, partition);
        log.acked(stamp, Some(i64::from(number / partitions)));
        log.polled(1, partition, i64::from(number / partitions), Ok(stamp));
    }
    (0..partitions).for_each(|partition| log.complete(partition));
    let report = log.finish();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.read, 1_000_000);
    println!("{RECORDS} records in {:?}", started.elapsed());
}
