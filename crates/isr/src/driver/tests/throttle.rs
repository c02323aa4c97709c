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

/// The first broker leads two partitions. Of one the third has missed everything and has left the
/// in-sync set; of the other it is a member without which nothing is acknowledged.
async fn one_behind(config: &ReplicationConfig) -> (Cluster, PartitionId) {
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
    for _ in 0..BATCHES {
        write(&cluster, behind.id, BATCH_BYTES).await;
    }
    cluster
        .until("the third left", 1, |s| s.isr.len() == 2)
        .await;
    // What it left it hears from the controller, which is not cut off.
    cluster.apply(broker(3)).await;
    (cluster, in_sync.id)
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
    let (cluster, in_sync) = one_behind(&ReplicationConfig {
        leader_throttled_bytes_per_second: Some(RATE),
        ..config()
    })
    .await;
    let (took, slowest) = catch_up(&cluster, in_sync).await;
    assert_rate(took, slowest);
}

#[tokio::test(start_paused = true)]
async fn kip_73_a_follower_holds_what_it_catches_up_with_to_the_rate() {
    let (cluster, in_sync) = one_behind(&ReplicationConfig {
        follower_throttled_bytes_per_second: Some(RATE),
        fetch_max_bytes: 200_000,
        ..config()
    })
    .await;
    let (took, slowest) = catch_up(&cluster, in_sync).await;
    assert_rate(took, slowest);
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nobody_is_held() {
    let (cluster, in_sync) = one_behind(&config()).await;
    let (took, _) = catch_up(&cluster, in_sync).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
}
