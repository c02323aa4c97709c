//! Replicas that catch up are held to their rate, and nobody else is (KIP-73).

use std::time::Duration;

use rivven_core_types::{Durability, PartitionId, PartitionState};
use tokio::time::Instant;

use super::support::*;
use crate::config::ReplicationConfig;
use crate::core::Acks;
use crate::driver::api::Produce;

const RATE: u64 = 1_000_000;
const BATCH_BYTES: usize = 10_000;
const BATCHES: usize = 500;
/// At this rate a replica that gets one batch overdraws a quota by ten seconds.
const SLOW: u64 = 1_024;
const FEW: usize = 20;
/// What a node may take that waits for no quota: its pause after a failed fetch, and some polls.
const SOON: Duration = Duration::from_secs(2);

/// The first broker leads two partitions. Of one the third has missed everything and has left the
/// in-sync set; of the other it is a member without which nothing is acknowledged.
async fn one_behind(config: &ReplicationConfig, batches: usize) -> (Cluster, PartitionId) {
    let mut cluster = Cluster::start(Durability::Replicated, 2).await;
    for id in 1..=3 {
        cluster.node(id).shutdown().await;
        cluster.boot_with(broker(id), config.clone());
    }
    let behind = PartitionState {
        leader_epoch: cluster.record().leader_epoch.next().unwrap(),
        partition_epoch: cluster.record().partition_epoch.next().unwrap(),
        ..cluster.record()
    };
    let in_sync = PartitionState {
        id: PartitionId::new(behind.id.topic, 1),
        min_isr: 3,
        ..behind.clone()
    };
    for record in [&behind, &in_sync] {
        let mut world = cluster.net.0.lock().unwrap();
        let _before = world.records.insert(record.id, record.clone());
    }
    for id in 1..=3 {
        let update = update(broker(id), vec![behind.clone(), in_sync.clone()]);
        cluster.node(id).apply(update).await.unwrap();
    }
    write(&cluster, in_sync.id, 1).await;
    let _new = cluster.net.0.lock().unwrap().cut.insert(broker(3));
    for _ in 0..batches {
        write(&cluster, behind.id, BATCH_BYTES).await;
    }
    cluster
        .until("the third left", 1, |s| s.isr.len() == 2)
        .await;
    // What it left it hears from the controller, which is not cut off.
    cluster.apply(broker(3)).await;
    (cluster, in_sync.id)
}

fn leader_quota(rate: u64) -> ReplicationConfig {
    ReplicationConfig {
        leader_throttled_bytes_per_second: Some(rate),
        ..config()
    }
}

fn follower_quota(rate: u64) -> ReplicationConfig {
    ReplicationConfig {
        follower_throttled_bytes_per_second: Some(rate),
        ..config()
    }
}

/// Writes with acks=all and says how long it took.
async fn write(cluster: &Cluster, partition: PartitionId, bytes: usize) -> Duration {
    let started = Instant::now();
    let written = cluster.node(1).produce(Produce {
        partition,
        batch: batch(&"x".repeat(bytes)),
        acks: Acks::All,
        timeout: WAIT,
    });
    let _offset = written.await.unwrap();
    started.elapsed()
}

/// Lets the third node catch up, and keeps writing to the partition of which it is in sync. Returns
/// how long it took, and the longest write.
async fn catch_up(cluster: &Cluster, in_sync: PartitionId) -> (Duration, Duration) {
    let node = cluster.node(1);
    let _was = cluster.net.0.lock().unwrap().cut.remove(&broker(3));
    let started = Instant::now();
    // Its next fetch comes after the pause that follows a failed one.
    let _paused = write(cluster, in_sync, 1).await;
    let mut slowest = Duration::ZERO;
    while node.status(cluster.partition).unwrap().isr.len() < 3 {
        assert!(started.elapsed() < WAIT, "it never ends");
        for partition in [in_sync, cluster.partition] {
            slowest = slowest.max(write(cluster, partition, 1).await);
        }
        // sleep-ok: on paused time, between two writes.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (started.elapsed(), slowest)
}

fn assert_rate(took: Duration, slowest: Duration) {
    let due = (BATCHES * BATCH_BYTES) as f64 / RATE as f64;
    let took = took.as_secs_f64();
    assert!(
        (took - due).abs() <= 0.1 * due,
        "{took} s where {due} s were due"
    );
    assert!(
        slowest <= Duration::from_millis(20),
        "a write took {slowest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn kip_73_a_leader_holds_followers_that_catch_up_to_the_rate_and_no_others() {
    let config = leader_quota(RATE);
    let (cluster, in_sync) = one_behind(&config, BATCHES).await;
    let (took, slowest) = catch_up(&cluster, in_sync).await;
    assert_rate(took, slowest);
}

#[tokio::test(start_paused = true)]
async fn kip_73_a_follower_holds_what_it_catches_up_with_to_the_rate() {
    let config = ReplicationConfig {
        fetch_max_bytes: 200_000,
        ..follower_quota(RATE)
    };
    let (cluster, in_sync) = one_behind(&config, BATCHES).await;
    let (took, slowest) = catch_up(&cluster, in_sync).await;
    assert_rate(took, slowest);
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nobody_is_held() {
    let (cluster, in_sync) = one_behind(&config(), BATCHES).await;
    let (took, _) = catch_up(&cluster, in_sync).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

/// Waits until the third node is back in the set, and says how long it took.
async fn rejoin(cluster: &Cluster) -> Duration {
    let _was = cluster.net.0.lock().unwrap().cut.remove(&broker(3));
    let started = Instant::now();
    cluster
        .until("the third is back", 1, |s| s.isr.len() == 3)
        .await;
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_overdrew_its_quota_with_the_last_records_joins_without_further_writes() {
    let (cluster, _) = one_behind(&follower_quota(SLOW), FEW).await;
    let took = rejoin(&cluster).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_replaces_one_that_was_put_off_gets_the_records() {
    // One batch at a time: the quota is overdrawn for most of a second by each.
    let rate = 12_500;
    let config = leader_quota(rate);
    let (mut cluster, in_sync) = one_behind(&config, FEW).await;
    let _was = cluster.net.0.lock().unwrap().cut.remove(&broker(3));
    let started = Instant::now();
    let leader = cluster.node(1);
    cluster
        .until("the third has two batches", 1, |s| {
            let third = s.followers.iter().find(|f| f.broker == broker(3));
            third.is_some_and(|f| f.log_end == Some(at(2)))
        })
        .await;
    cluster.node(3).shutdown().await;
    cluster.boot_with(broker(3), config);
    let records: Vec<_> = {
        let world = cluster.net.0.lock().unwrap();
        world.records.values().cloned().collect()
    };
    let third = cluster.node(3);
    third.apply(update(broker(3), records)).await.unwrap();
    // No write wakes it.
    while leader.status(cluster.partition).unwrap().isr.len() < 3 {
        assert!(started.elapsed() < WAIT, "it never ends");
        // sleep-ok: on paused time, polls a condition with a deadline.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let due = (FEW * BATCH_BYTES) as f64 / rate as f64;
    let took = started.elapsed().as_secs_f64();
    assert!(took < 1.2 * due, "{took} s where {due} s were due");
    let _in_sync = write(&cluster, in_sync, 1).await;
}

/// The third has everything and the quota is overdrawn, but the controller does not say that it has
/// joined; writes go on all the while, several at a time.
async fn joins_without_controller(config: &ReplicationConfig) {
    let (cluster, _) = one_behind(config, 1).await;
    {
        let mut world = cluster.net.0.lock().unwrap();
        world.no_controller = true;
        let _was = world.cut.remove(&broker(3));
    }
    // A rate below what is written lets nobody catch up: it has to be there before the writes.
    cluster
        .until("the third has everything", 1, |s| {
            let third = s.followers.iter().find(|f| f.broker == broker(3));
            third.is_some_and(|f| f.log_end == Some(s.log_end))
        })
        .await;
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < 2 * SOON {
        let write = || write(&cluster, cluster.partition, 1);
        let (a, b, c) = tokio::join!(write(), write(), write());
        slowest = slowest.max(a).max(b).max(c);
        // sleep-ok: on paused time, between two writes.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!(slowest <= Duration::from_millis(20), "{slowest:?}");
    assert_eq!(cluster.record().isr.len(), 2);
    cluster.net.0.lock().unwrap().no_controller = false;
    let took = rejoin(&cluster).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn writes_wait_for_no_quota_of_the_leader_while_the_controller_is_cut_off_at_the_proposal() {
    joins_without_controller(&leader_quota(SLOW)).await;
}

#[tokio::test(start_paused = true)]
async fn writes_wait_for_no_quota_of_the_follower_while_the_controller_is_cut_off_at_the_proposal()
{
    joins_without_controller(&follower_quota(SLOW)).await;
}
