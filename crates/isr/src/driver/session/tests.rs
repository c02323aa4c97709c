//! The rules of fetch sessions.

use std::sync::Arc;

use rivven_core_types::{BrokerId, LeaderEpoch, MonoTime, NodeEpoch, Offset, PartitionId, TopicId};

use super::{MAX_SESSION_PARTITIONS, Session, SessionError, Sessions, Table, watch};
use crate::core::FetchPosition;
use crate::driver::protocol::{FetchEntry, FetchHeader};

const BROKER: BrokerId = BrokerId::new(2);

fn header(node_epoch: i64, session_id: u64, sequence: u64, answered: u64) -> FetchHeader {
    FetchHeader {
        node_epoch: NodeEpoch::new(node_epoch),
        session_id,
        sequence,
        answered,
        session_epoch: 100 + sequence,
        max_wait_ms: 500,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
    }
}

fn partition(index: u32) -> PartitionId {
    PartitionId::new(TopicId::from_bytes([5; 16]), index)
}

fn entry(index: u32, offset: i64) -> FetchEntry {
    let end = Offset::new(offset).unwrap();
    FetchEntry {
        partition: partition(index),
        position: FetchPosition {
            leader_epoch: LeaderEpoch::new(1),
            fetch_offset: end,
            durable_end: end,
            last_fetched_epoch: None,
            log_start: Offset::ZERO,
        },
        high_watermark: Offset::ZERO,
    }
}

fn session(sessions: &Sessions) -> Arc<Session> {
    sessions.of(BROKER, &header(7, 1, 0, 0)).unwrap()
}

/// One fetch: what it names, what the leader reads, and which of these it answers.
fn fetch(
    session: &Session,
    table: &mut Table,
    (sequence, answered): (u64, u64),
    names: Vec<FetchEntry>,
    answers: &[u32],
) -> Vec<u32> {
    session.arrive(sequence, MonoTime::default()).unwrap();
    let header = header(7, 1, sequence, answered);
    let mut named = table.take(session, &header, names).unwrap();
    let read = table.take_due(session, &mut named, 100);
    let read = read.iter().map(|s| s.entry.partition.index.get()).collect();
    table.has_read();
    for index in answers {
        table.note_answer(partition(*index), false);
    }
    table.finish(sequence);
    read
}

#[test]
fn a_fetch_reads_what_it_names_and_what_has_become_ready() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let all = (0..4).map(|i| entry(i, 0)).collect();
    assert_eq!(
        fetch(&session, &mut table, (0, 0), all, &[]),
        vec![0, 1, 2, 3]
    );
    assert_eq!(fetch(&session, &mut table, (1, 0), vec![], &[]), vec![]);
    session.push(partition(2));
    session.push(partition(2));
    session.push(partition(9));
    assert_eq!(fetch(&session, &mut table, (2, 1), vec![], &[2]), vec![2]);
    // Answered and not named again: more of it would be sent twice.
    session.push(partition(2));
    assert_eq!(fetch(&session, &mut table, (3, 2), vec![], &[]), vec![]);
    let again = vec![entry(2, 5)];
    assert_eq!(fetch(&session, &mut table, (4, 3), again, &[]), vec![2]);
}

#[test]
fn who_has_waited_longest_comes_first_and_nobody_comes_twice() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let all = (0..4).map(|i| entry(i, 0)).collect();
    let _first = fetch(&session, &mut table, (0, 0), all, &[]);
    session.queue(partition(3));
    session.queue(partition(1));
    let busy = vec![entry(0, 1), entry(1, 1)];
    assert_eq!(
        fetch(&session, &mut table, (1, 0), busy, &[]),
        vec![3, 1, 0]
    );
}

#[test]
fn what_a_lost_answer_held_is_read_again() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let all = (0..3).map(|i| entry(i, 0)).collect();
    let _first = fetch(&session, &mut table, (0, 0), all, &[]);
    session.push(partition(1));
    assert_eq!(fetch(&session, &mut table, (1, 0), vec![], &[1]), vec![1]);
    // The follower gave fetch 1 up: the last answer that it has is that of fetch 0.
    assert_eq!(fetch(&session, &mut table, (2, 0), vec![], &[1]), vec![1]);
    assert_eq!(fetch(&session, &mut table, (3, 2), vec![], &[]), vec![]);
}

#[test]
fn what_a_broken_off_fetch_took_is_ready_again() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let all = vec![entry(0, 0)];
    let _first = fetch(&session, &mut table, (0, 0), all, &[]);
    session.push(partition(0));
    let mut named = Vec::new();
    assert_eq!(table.take_due(&session, &mut named, 100).len(), 1);
    // Its connection went while a shard was reading.
    assert_eq!(fetch(&session, &mut table, (1, 0), vec![], &[]), vec![0]);
}

#[test]
fn what_was_refused_is_forgotten_once_the_follower_has_heard_it() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let _first = fetch(&session, &mut table, (0, 0), vec![entry(0, 0)], &[]);
    table.note_answer(partition(0), true);
    assert_eq!(table.slots.len(), 1);
    let _heard = fetch(&session, &mut table, (1, 0), vec![], &[]);
    assert!(table.slots.is_empty());
}

#[test]
fn a_moved_high_watermark_alone_waits_for_an_occasion() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let _first = fetch(&session, &mut table, (0, 0), vec![entry(0, 0)], &[]);
    session.push_quiet(partition(0));
    assert_eq!(fetch(&session, &mut table, (1, 0), vec![], &[]), vec![]);
    assert_eq!(table.quiet(&session, 100).len(), 1);
    assert!(table.quiet(&session, 100).is_empty());
}

#[test]
fn a_newer_fetch_overtakes_and_an_older_one_is_refused() {
    let session = session(&Sessions::default());
    session.arrive(3, MonoTime::default()).unwrap();
    assert!(!session.is_overtaken(3));
    session.arrive(5, MonoTime::default()).unwrap();
    assert!(session.is_overtaken(3));
    for old in [3, 5] {
        assert_eq!(
            session.arrive(old, MonoTime::default()),
            Err(SessionError::Overtaken)
        );
    }
}

#[test]
fn a_session_is_opened_by_its_first_fetch_and_replaced_by_a_later_one_only() {
    let sessions = Sessions::default();
    let unknown = sessions.of(BROKER, &header(7, 4, 1, 0));
    assert_eq!(unknown.unwrap_err(), SessionError::Unknown);
    let first = sessions.of(BROKER, &header(7, 4, 0, 0)).unwrap();
    let same = sessions.of(BROKER, &header(7, 4, 9, 0)).unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    // A delayed opening of an earlier session, or of an earlier life, changes nothing.
    for (epoch, id) in [(7, 3), (6, 9)] {
        let late = sessions.of(BROKER, &header(epoch, id, 0, 0));
        assert_eq!(late.unwrap_err(), SessionError::Unknown);
    }
    let next = sessions.of(BROKER, &header(8, 1, 0, 0)).unwrap();
    assert!(!Arc::ptr_eq(&first, &next));
    assert!(
        first.is_overtaken(1_000_000),
        "whoever waits in it gives way"
    );
    let gone = sessions.of(BROKER, &header(7, 4, 10, 0));
    assert_eq!(gone.unwrap_err(), SessionError::Unknown);
}

#[test]
fn a_session_is_bounded() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let too_many = vec![entry(0, 0); MAX_SESSION_PARTITIONS + 1];
    let refused = table.take(&session, &header(7, 1, 0, 0), too_many);
    assert_eq!(refused, Err(SessionError::TooLarge));
}

#[test]
fn partitions_that_it_knows_count_once_against_the_bound() {
    let session = session(&Sessions::default());
    let mut table = Table::default();
    let known = u32::try_from(MAX_SESSION_PARTITIONS).unwrap();
    let all = (0..known).map(|index| entry(index, 0)).collect();
    let _named = table.take(&session, &header(7, 1, 0, 0), all).unwrap();
    let moved = vec![entry(0, 1), entry(known - 1, 1)];
    let named = table.take(&session, &header(7, 1, 1, 0), moved).unwrap();
    assert_eq!(named.len(), 2);
    let one_more = vec![entry(known, 0)];
    let refused = table.take(&session, &header(7, 1, 2, 1), one_more);
    assert_eq!(refused, Err(SessionError::TooLarge));
}

#[test]
fn a_log_is_watched_by_the_newest_session_of_a_broker_whoever_comes_last() {
    let sessions = Sessions::default();
    let first = sessions.of(BROKER, &header(7, 4, 0, 0)).unwrap();
    let next = sessions.of(BROKER, &header(7, 5, 0, 0)).unwrap();
    let reborn = sessions.of(BROKER, &header(8, 1, 0, 0)).unwrap();
    let stranger = sessions.of(BrokerId::new(3), &header(9, 9, 0, 0)).unwrap();
    let mut watchers = Vec::new();
    // The last fetch of an earlier session may reach a log after the first of a later one.
    for session in [&stranger, &next, &first, &reborn, &next, &first] {
        watch(&mut watchers, session);
    }
    let watching: Vec<_> = watchers
        .iter()
        .filter_map(std::sync::Weak::upgrade)
        .collect();
    assert_eq!(watching.len(), 2);
    assert!(Arc::ptr_eq(&watching[0], &stranger) && Arc::ptr_eq(&watching[1], &reborn));
    drop((watching, sessions, reborn));
    watch(&mut watchers, &first);
    let watching: Vec<_> = watchers
        .iter()
        .filter_map(std::sync::Weak::upgrade)
        .collect();
    assert!(Arc::ptr_eq(&watching[1], &first), "the later one is gone");
}
