//! Nobody who is waited for waits for a quota.

use std::time::Duration;

use rivven_core_types::SyncBy;
use tokio::sync::oneshot;

use super::*;
use crate::core::Acks;
use crate::driver::command::{FlushDone, ReplicaAnswer, ReplicaRead, Stand};
use crate::driver::protocol::{FetchEntry, FetchHeader};
use crate::driver::session::{Session, Sessions};
use crate::driver::shard::put_off::PutOff;
use crate::driver::throttle::Throttle;

const RATE: u64 = 1_024;
/// So much overdrawn that nothing is granted while a test runs.
const TOO_MUCH: usize = 1 << 20;

fn now() -> MonoTime {
    StoppedClock.now()
}

fn config() -> ReplicationConfig {
    ReplicationConfig {
        leader_throttled_bytes_per_second: Some(RATE),
        follower_throttled_bytes_per_second: Some(RATE),
        ..ReplicationConfig::default()
    }
}

/// A shard whose quotas are overdrawn.
fn overdrawn() -> Shard {
    let shard = shard_with(&MemLogStore::default(), &config());
    let throttles = &shard.parts.throttles;
    throttles.leader.spend(now(), TOO_MUCH);
    throttles.follower.spend(now(), TOO_MUCH);
    shard
}

fn session(sessions: &Sessions, broker: BrokerId, id: u64) -> Arc<Session> {
    let header = FetchHeader {
        node_epoch: epoch_of(broker),
        session_id: id,
        sequence: 0,
        answered: 0,
        session_epoch: id,
        max_wait_ms: 0,
        max_bytes: 0,
        partition_max_bytes: 0,
    };
    sessions.of(broker, &header).unwrap()
}

/// Where a follower that has synced up to `durable_end` stands.
fn stand(partition: PartitionId, end: i64, durable_end: i64, session_epoch: u64) -> Stand {
    let offset = |offset| Offset::new(offset).unwrap();
    Stand {
        entry: FetchEntry {
            partition,
            position: FetchPosition {
                leader_epoch: LeaderEpoch::new(0),
                fetch_offset: offset(end),
                durable_end: offset(durable_end),
                last_fetched_epoch: (end > 0).then(|| LeaderEpoch::new(0)),
                log_start: Offset::ZERO,
            },
            high_watermark: Offset::ZERO,
        },
        session_epoch,
    }
}

/// A fetch of `broker`: in a session for records, outside of any to report.
fn fetch(
    shard: &mut Shard,
    broker: BrokerId,
    stand: Stand,
    session: Option<&Arc<Session>>,
) -> ReplicaAnswer {
    let (reply, mut answer) = oneshot::channel();
    let most = if session.is_some() { 1 << 20 } else { 0 };
    shard.replica_read(ReplicaRead {
        broker,
        node_epoch: epoch_of(broker),
        entries: vec![stand],
        max_bytes: most,
        partition_max_bytes: most,
        session: session.cloned(),
        reply,
    });
    answer.try_recv().unwrap().pop().unwrap().1
}

fn bytes_of(answer: &ReplicaAnswer) -> usize {
    match answer {
        Ok(ReplicaFetched::Data { bytes, .. }) => bytes.len(),
        other => panic!("{other:?}"),
    }
}

/// Appends one record and makes it durable here.
fn write(shard: &mut Shard, partition: PartitionId) {
    let (reply, _waits) = oneshot::channel();
    let deadline = now() + Duration::from_secs(60);
    shard.produce(partition, &batch("x"), Acks::All, deadline, reply);
    let entry = shard.partitions.get_mut(&partition).unwrap();
    let instance = entry.instance;
    let ticket = entry.log.begin_flush().unwrap();
    shard.flushed(FlushDone {
        partition,
        instance,
        end: ticket.end,
        generation: ticket.generation,
        result: (ticket.job)(SyncBy::Job),
    });
}

/// This node leads a partition with one follower in sync, and one outside.
fn leads_overdrawn() -> (Shard, PartitionId, Sessions) {
    let mut shard = overdrawn();
    let p = partition(0);
    lead_with(&mut shard, p, ME, 0, &[FIRST, ME]);
    (shard, p, Sessions::default())
}

#[test]
fn a_fetch_that_makes_the_high_watermark_wait_for_the_replica_is_not_put_off() {
    let (mut shard, p, sessions) = leads_overdrawn();
    write(&mut shard, p);
    // The controller cannot be reached: the proposal to add it stays open, and it counts.
    let joiner = session(&sessions, SECOND, 1);
    let _judged_before = fetch(&mut shard, SECOND, stand(p, 0, 0, 1), Some(&joiner));
    assert_eq!(joiner.ready_count(), 1, "the write waits for it");
    let again = fetch(&mut shard, SECOND, stand(p, 0, 0, 1), Some(&joiner));
    assert!(bytes_of(&again) > 0);
}

#[test]
fn a_report_that_makes_the_high_watermark_wait_for_a_replica_ends_its_wait() {
    let (mut shard, p, sessions) = leads_overdrawn();
    write(&mut shard, p);
    let _in_sync = fetch(&mut shard, FIRST, stand(p, 1, 1, 1), None);
    write(&mut shard, p);
    // It has the first record, and has not synced it: the high watermark is past it.
    let joiner = session(&sessions, SECOND, 1);
    let held = fetch(&mut shard, SECOND, stand(p, 1, 0, 1), Some(&joiner));
    assert_eq!((bytes_of(&held), joiner.ready_count()), (0, 0));
    let _synced = fetch(&mut shard, SECOND, stand(p, 1, 1, 2), None);
    assert_eq!(joiner.ready_count(), 1, "the second write waits for it now");
    let again = fetch(&mut shard, SECOND, stand(p, 1, 1, 2), Some(&joiner));
    assert!(bytes_of(&again) > 0);
}

/// Records up to `base`, of a leader whose high watermark is `high_watermark`.
fn answer(base: i64, high_watermark: i64) -> FetchReply {
    let FetchReply::Fetched(ReplicaFetched::Data {
        log_start, bytes, ..
    }) = records(base, 0)
    else {
        unreachable!("records are data");
    };
    FetchReply::Fetched(ReplicaFetched::Data {
        high_watermark: Offset::new(high_watermark).unwrap(),
        log_start,
        bytes,
    })
}

#[test]
fn a_follower_that_has_reached_the_high_watermark_is_not_held() {
    let mut shard = overdrawn();
    let (reached, behind) = (partition(0), partition(1));
    for p in [reached, behind] {
        lead_with(&mut shard, p, FIRST, 0, &[FIRST]);
    }
    let first = named(&mut shard, FIRST, &Wanted::All);
    assert_eq!(first.len(), 2, "where it stands nobody knows yet");
    let answers = [(reached, 1), (behind, 9)];
    let answers = answers.map(|(p, high_watermark)| (p, None, answer(0, high_watermark)));
    shard.fetched(FIRST, answers.into());
    let positions = shard.positions(FIRST, &Wanted::Session(Vec::new()), ALL);
    let next: Vec<_> = positions.entries.iter().map(|e| e.partition).collect();
    assert_eq!(next, [reached]);
    assert!(positions.held_until > Some(now()) && positions.retry_at.is_none());
    assert_eq!(Vec::from_iter(shard.moved[&FIRST].held.clone()), [behind]);
    // Metadata adds it to the set: it is waited for.
    lead_with(&mut shard, behind, FIRST, 1, &[FIRST, ME]);
    let joined = shard.positions(FIRST, &Wanted::Session(Vec::new()), ALL);
    assert_eq!(joined.entries.len(), 1);
    assert!(joined.held_until.is_none() && shard.moved[&FIRST].held.is_empty());
}

#[test]
fn a_follower_that_is_held_and_asked_where_it_stands_reports_it() {
    let mut shard = overdrawn();
    let p = partition(0);
    lead_with(&mut shard, p, FIRST, 0, &[FIRST]);
    let _first = named(&mut shard, FIRST, &Wanted::All);
    shard.fetched(FIRST, vec![(p, None, answer(0, 9))]);
    assert_eq!(named(&mut shard, FIRST, &Wanted::Moved).len(), 1);
    assert_eq!(named(&mut shard, FIRST, &Wanted::Moved), []);
    let asked = FetchReply::Fetched(ReplicaFetched::Data {
        high_watermark: Offset::new(9).unwrap(),
        log_start: Offset::ZERO,
        bytes: bytes::Bytes::new(),
    });
    // It was named before the quota was overdrawn.
    let position = {
        let entry = shard.partitions.get_mut(&p).unwrap();
        let position = entry.core.fetch_position(&*entry.log);
        entry.session_told = Some(position);
        position
    };
    shard.fetched(FIRST, vec![(p, None, asked.clone())]);
    assert_eq!(
        named(&mut shard, FIRST, &Wanted::Session(Vec::new())),
        [],
        "records would cost the quota"
    );
    let reported = named(&mut shard, FIRST, &Wanted::Moved);
    assert_eq!(reported, [(p, position)]);
    // The answer to the report asks for nothing.
    shard.fetched(FIRST, vec![(p, Some(position), asked)]);
    assert_eq!(named(&mut shard, FIRST, &Wanted::Moved), []);
}

fn granting() -> Throttle {
    Throttles::new(&config()).leader
}

#[test]
fn a_session_takes_the_place_of_the_one_it_replaces() {
    let mut put_off = PutOff::default();
    let sessions = Sessions::default();
    let before = session(&sessions, SECOND, 1);
    assert!(put_off.push(partition(0), &before));
    let after = session(&sessions, SECOND, 2);
    drop(before);
    assert!(!put_off.push(partition(0), &after), "it waits already");
    put_off.resume(&granting(), now());
    assert_eq!(after.ready_count(), 1);
}

#[test]
fn a_tick_resumes_a_bounded_number_in_turn() {
    let mut put_off = PutOff::default();
    let sessions = Sessions::default();
    let (first, second) = (session(&sessions, FIRST, 1), session(&sessions, SECOND, 1));
    for index in 0..64 {
        assert!(put_off.push(partition(index), &first));
    }
    assert!(put_off.push(partition(0), &second));
    put_off.resume(&granting(), now());
    assert_eq!((first.ready_count(), second.ready_count()), (64, 0));
    put_off.resume(&granting(), now());
    assert_eq!((first.ready_count(), second.ready_count()), (64, 1));
    // A quota without anything to grant resumes nothing.
    assert!(put_off.push(partition(1), &second));
    let spent = granting();
    spent.spend(now(), TOO_MUCH);
    put_off.resume(&spent, now());
    assert_eq!(second.ready_count(), 1);
}
