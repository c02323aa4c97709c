//! What a shard does when things reach it in an unlucky order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rivven_core_types::{
    BrokerId, Clock, Durability, LeaderEpoch, LogStore, MonoTime, Offset, PartitionEpoch,
    PartitionId, PartitionState, RecoveryState, TopicId, UnixMillis,
};
use tokio::sync::mpsc;

use super::{Mailbox, Shard, ShardParts};
use crate::config::ReplicationConfig;
use crate::core::{ClusterView, FetchPosition, FetchReply, ReplicaFetched};
use crate::driver::command::{ShardUpdate, Wanted};
use crate::driver::tests::support::{batch, epoch_of};
use crate::driver::throttle::Throttles;
use crate::mem_log::MemLogStore;

mod throttle;

const ME: BrokerId = BrokerId::new(3);
const FIRST: BrokerId = BrokerId::new(1);
const SECOND: BrokerId = BrokerId::new(2);

/// More than any of these tests has partitions.
const ALL: usize = 100;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_origin(std::time::Duration::from_secs(1))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

fn shard(store: &MemLogStore) -> Shard {
    shard_with(store, &ReplicationConfig::default())
}

fn shard_with(store: &MemLogStore, config: &ReplicationConfig) -> Shard {
    // Nothing here waits for a flush or an answer of the controller.
    let (flusher, _) = mpsc::channel(1);
    let (alters, _) = mpsc::channel(1);
    Shard::new(ShardParts {
        index: 0,
        count: 1,
        me: ME,
        config: config.clone(),
        logs: Arc::new(store.clone()) as Arc<dyn LogStore>,
        clock: Arc::new(StoppedClock),
        mailbox: Arc::new(Mailbox::default()),
        flusher,
        alters,
        statuses: Arc::default(),
        signals: Arc::default(),
        contact_until: Arc::new(AtomicU64::new(u64::MAX)),
        throttles: Arc::new(Throttles::new(config)),
    })
}

fn partition(index: u32) -> PartitionId {
    PartitionId::new(TopicId::from_bytes([7; 16]), index)
}

/// Metadata says who leads.
fn lead(shard: &mut Shard, partition: PartitionId, leader: BrokerId, epoch: i32) {
    lead_with(shard, partition, leader, epoch, &[FIRST, SECOND, ME]);
}

/// Metadata says who leads, and who is in sync.
fn lead_with(
    shard: &mut Shard,
    partition: PartitionId,
    leader: BrokerId,
    epoch: i32,
    isr: &[BrokerId],
) {
    let all = vec![FIRST, SECOND, ME];
    let record = PartitionState {
        id: partition,
        replicas: all.clone(),
        isr: isr.to_vec(),
        elr: Vec::new(),
        last_known_isr: isr.to_vec(),
        leader: Some(leader),
        leader_epoch: LeaderEpoch::new(epoch),
        partition_epoch: PartitionEpoch::new(epoch),
        recovery: RecoveryState::Recovered,
        min_isr: 2,
        durability: Durability::Fsync,
    };
    let view = ClusterView {
        node_epochs: all.iter().map(|b| (*b, epoch_of(*b))).collect(),
        ..ClusterView::default()
    };
    let _updated = shard.apply(&ShardUpdate {
        view: Arc::new(view),
        changed: vec![record],
        log_configs: Arc::new(BTreeMap::new()),
        removed: Vec::new(),
    });
}

/// What the fetcher of `leader` names in its next poll.
fn named(
    shard: &mut Shard,
    leader: BrokerId,
    wanted: &Wanted,
) -> Vec<(PartitionId, FetchPosition)> {
    let positions = shard.positions(leader, wanted, ALL);
    let entries = positions.entries.into_iter();
    entries.map(|e| (e.partition, e.position)).collect()
}

fn records(base: i64, epoch: i32) -> FetchReply {
    let base = Offset::new(base).unwrap();
    let batch = batch("x").restamped(base, LeaderEpoch::new(epoch));
    FetchReply::Fetched(ReplicaFetched::Data {
        high_watermark: base,
        log_start: Offset::ZERO,
        bytes: batch.bytes().clone(),
    })
}

fn log_end(shard: &Shard, partition: PartitionId) -> i64 {
    shard.partitions[&partition].log.log_end().get()
}

#[test]
fn an_answer_counts_though_the_poll_of_the_leader_before_is_given_up_after_it_was_asked_for() {
    let mut shard = shard(&MemLogStore::default());
    let p = partition(0);
    lead(&mut shard, p, FIRST, 0);
    assert_eq!(named(&mut shard, FIRST, &Wanted::All).len(), 1);
    lead(&mut shard, p, SECOND, 1);
    // The new leader's fetcher is the first to ask; then the old one's gives its poll up.
    assert_eq!(named(&mut shard, SECOND, &Wanted::All).len(), 1);
    let given_up = Wanted::Session(vec![p]);
    assert_eq!(named(&mut shard, FIRST, &given_up), vec![]);
    shard.fetched(SECOND, vec![(p, None, records(0, 1))]);
    assert_eq!(log_end(&shard, p), 1);
    let next = named(&mut shard, SECOND, &Wanted::Session(Vec::new()));
    assert_eq!(next.len(), 1, "the leader waits until it hears of it");
}

#[test]
fn an_answer_of_the_leader_before_changes_nothing() {
    let cuts = [
        FetchReply::OutOfRange {
            log_start: Offset::new(7).unwrap(),
            log_end: Offset::new(9).unwrap(),
        },
        FetchReply::Fetched(ReplicaFetched::Diverging {
            epoch: LeaderEpoch::new(-1),
            end: Offset::ZERO,
        }),
    ];
    for late in cuts {
        let mut shard = shard(&MemLogStore::default());
        let p = partition(0);
        lead(&mut shard, p, FIRST, 0);
        let _first = named(&mut shard, FIRST, &Wanted::All);
        shard.fetched(FIRST, vec![(p, None, records(0, 0))]);
        let _again = named(&mut shard, FIRST, &Wanted::Session(Vec::new()));
        // Its next answer is on the way when another takes over and has heard where this log stands:
        // it counts that for its high watermark.
        lead(&mut shard, p, SECOND, 1);
        assert_eq!(named(&mut shard, SECOND, &Wanted::All).len(), 1);
        shard.fetched(FIRST, vec![(p, None, late)]);
        assert_eq!(log_end(&shard, p), 1, "no word of a deposed leader counts");
        shard.fetched(SECOND, vec![(p, None, records(1, 1))]);
        assert_eq!(
            log_end(&shard, p),
            2,
            "and the answer that was waited for does"
        );
    }
}

#[test]
fn a_report_that_is_too_long_is_continued() {
    let mut shard = shard(&MemLogStore::default());
    for index in 0..3 {
        lead(&mut shard, partition(index), FIRST, 0);
    }
    let mut reported = Vec::new();
    for more in [true, false, false] {
        let part = shard.positions(FIRST, &Wanted::Moved, 2);
        assert_eq!(part.is_cut_short, more);
        reported.extend(part.entries.iter().map(|e| e.partition));
    }
    assert_eq!(reported, [partition(0), partition(1), partition(2)]);
}

#[test]
fn a_partition_that_backs_off_is_reported_later() {
    let mut shard = shard(&MemLogStore::default());
    let p = partition(0);
    lead(&mut shard, p, FIRST, 0);
    let _poll = named(&mut shard, FIRST, &Wanted::All);
    shard.fetched(FIRST, vec![(p, None, FetchReply::Refused)]);
    let now = shard.positions(FIRST, &Wanted::Moved, ALL);
    assert!(now.entries.is_empty() && now.retry_at.is_some());
    assert!(!now.is_cut_short, "nothing would come of asking again");
    assert!(shard.moved[&FIRST].for_report.contains(&p));
}
