//! Fetch sessions between whole managers (KIP-227).

use super::support::*;
use std::time::Duration;

use rivven_core_types::{
    Durability, Incarnation, Lane, LeaderEpoch, Offset, PartitionId, PartitionState, PeerIdentity,
    Reply, RpcKind, RpcRequest,
};

use crate::config::ReplicationConfig;
use crate::core::{Acks, FetchPosition};
use crate::driver::api::Produce;
use crate::driver::manager::ReplicationManager;
use crate::driver::protocol::{self, FetchEntry, FetchHeader};

const PARTITIONS: u32 = 500;

/// A cluster in which the first broker leads many partitions, all known to their followers.
async fn with_many() -> (Cluster, Vec<PartitionId>) {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let base = cluster.record();
    let partition = |index| PartitionId::new(base.id.topic, index);
    let many: Vec<PartitionState> = (1..=PARTITIONS)
        .map(|index| PartitionState {
            id: partition(index),
            ..base.clone()
        })
        .collect();
    cluster
        .net
        .0
        .lock()
        .unwrap()
        .records
        .extend(many.iter().map(|r| (r.id, r.clone())));
    for id in 1..=3 {
        let update = update(broker(id), many.clone());
        cluster.node(id).apply(update).await.unwrap();
    }
    let ids: Vec<PartitionId> = (1..=PARTITIONS).map(partition).collect();
    for id in &ids {
        write(&cluster, *id).await;
    }
    (cluster, ids)
}

async fn write(cluster: &Cluster, partition: PartitionId) {
    write_to(cluster, 1, partition).await;
}

async fn write_to(cluster: &Cluster, leader: i32, partition: PartitionId) {
    let written = cluster.node(leader).produce(Produce {
        partition,
        batch: batch("x"),
        acks: Acks::All,
        timeout: WAIT,
    });
    let _offset = written.await.unwrap();
}

fn fetch_bytes(cluster: &Cluster) -> usize {
    cluster.net.0.lock().unwrap().fetch_bytes
}

#[tokio::test(start_paused = true)]
async fn a_fetch_costs_what_has_changed_and_not_what_there_is() {
    let (cluster, ids) = with_many().await;
    // The last high watermarks are told with the next polls.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = fetch_bytes(&cluster);
    for _ in 0..20 {
        write(&cluster, ids[7]).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let bytes = fetch_bytes(&cluster) - before;
    // Twenty writes, two followers, two fetches each, and polls of an idle cluster in between. One
    // fetch that names all partitions has about 17,000 bytes.
    assert!(bytes < 12_000, "{bytes} bytes of positions");
    assert!(bytes > 0);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_lose_nothing_and_only_time() {
    let (cluster, ids) = with_many().await;
    for lost in 1..6 {
        cluster.net.0.lock().unwrap().lose_answers = lost;
        for id in ids.iter().step_by(50) {
            write(&cluster, *id).await;
        }
    }
    for id in ids.iter().step_by(50) {
        for node in [2, 3] {
            let node = cluster.node(node);
            until("copied", || {
                node.status(*id).is_some_and(|s| s.log_end == at(6))
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_that_breaks_polls_off_loses_nothing() {
    let (cluster, ids) = with_many().await;
    for round in 0..20 {
        // A new epoch of one partition ends the polls of the moment.
        cluster.fail_over_to_itself().await;
        write(&cluster, ids[round * 3]).await;
    }
    let node = cluster.node(3);
    for round in 0..20 {
        until("copied", || {
            let status = node.status(ids[round * 3]);
            status.is_some_and(|s| s.log_end == at(2))
        })
        .await;
    }
}

/// Lets another broker lead a partition. Both are alive and lead others as well.
async fn hand_over(cluster: &Cluster, partition: PartitionId, to: i32) {
    let record = {
        let mut world = cluster.net.0.lock().unwrap();
        let record = world.records.get_mut(&partition).unwrap();
        record.leader = Some(broker(to));
        record.leader_epoch = record.leader_epoch.next().unwrap();
        record.partition_epoch = record.partition_epoch.next().unwrap();
        record.clone()
    };
    for id in 1..=3 {
        let update = update(broker(id), vec![record.clone()]);
        cluster.node(id).apply(update).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_goes_to_and_fro_between_two_leaders_never_stands_still() {
    let (cluster, ids) = with_many().await;
    let moving = ids[0];
    let mut slowest = Duration::ZERO;
    for round in 0..60 {
        let to = 2 - round % 2;
        if round == 20 {
            // The second leader, too, leads others from here on.
            hand_over(&cluster, ids[1], 2).await;
        }
        // The followers' polls of the moment name it.
        write_to(&cluster, 3 - to, moving).await;
        hand_over(&cluster, moving, to).await;
        let begun = tokio::time::Instant::now();
        write_to(&cluster, to, moving).await;
        slowest = slowest.max(begun.elapsed());
        if round > 40 {
            let other = if round % 3 == 0 { ids[1] } else { ids[2] };
            write_to(&cluster, if round % 3 == 0 { 2 } else { 1 }, other).await;
        }
    }
    // A follower that stood still would be put out of the in-sync set after the lag time of 2 s.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// A fetch of broker 2, by hand: the partitions that are answered.
async fn poll(
    node: &ReplicationManager,
    sequence: u64,
    names: &[PartitionId],
    max_wait: Duration,
) -> Vec<PartitionId> {
    let header = FetchHeader {
        node_epoch: epoch_of(broker(2)),
        session_id: 1,
        sequence,
        answered: sequence.saturating_sub(1),
        session_epoch: sequence + 1,
        max_wait_ms: u32::try_from(max_wait.as_millis()).unwrap(),
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
    };
    let position = FetchPosition {
        leader_epoch: LeaderEpoch::new(0),
        fetch_offset: Offset::ZERO,
        durable_end: Offset::ZERO,
        last_fetched_epoch: None,
        log_start: Offset::ZERO,
    };
    let entry = |partition: &PartitionId| FetchEntry {
        partition: *partition,
        position,
        high_watermark: Offset::ZERO,
    };
    let entries: Vec<_> = names.iter().map(entry).collect();
    let (meta, body) = protocol::encode_fetch(&header, &entries).unwrap();
    let request = RpcRequest {
        kind: RpcKind::REPLICA_FETCH,
        lane: Lane::Bulk,
        meta,
        body,
        deadline: WAIT,
    };
    let identity = PeerIdentity {
        name: name(broker(2)),
        incarnation: Incarnation::from_bytes([0; 16]),
        cluster: None,
    };
    let answer = match node.handle_rpc(&identity, request) {
        Reply::Now(answer) => answer,
        Reply::Later(answer) => answer.await,
    };
    let answers = protocol::decode_answer(&answer.unwrap()).unwrap();
    answers.iter().map(|(a, _)| a.partition).collect()
}

#[tokio::test(start_paused = true)]
async fn news_behind_partitions_without_any_do_not_wait_for_another_wake() {
    let mut cluster = Cluster::start(Durability::Fsync, 1).await;
    let base = cluster.record();
    let ids = [1, 2, 3].map(|index| PartitionId::new(base.id.topic, index));
    let record = |id: &PartitionId| PartitionState {
        id: *id,
        ..base.clone()
    };
    let records: Vec<_> = ids.iter().map(record).collect();
    {
        let mut world = cluster.net.0.lock().unwrap();
        world.cut.extend([broker(2), broker(3)]);
        let all = records.iter().map(|r| (r.id, r.clone()));
        world.records.extend(all);
    }
    let config = ReplicationConfig {
        fetch_max_partitions: 1,
        ..config()
    };
    cluster.boot_with(broker(1), config);
    let node = cluster.node(1);
    node.apply(update(broker(1), records)).await.unwrap();
    let [first, second, third] = ids;
    let write = async |partition| {
        let written = node.produce(Produce {
            partition,
            batch: batch("x"),
            acks: Acks::Leader,
            timeout: WAIT,
        });
        let _offset = written.await.unwrap();
    };
    assert_eq!(poll(&node, 0, &ids, Duration::ZERO).await, []);
    for partition in [first, second] {
        write(partition).await;
    }
    assert_eq!(poll(&node, 1, &[], WAIT).await, [first]);
    assert_eq!(poll(&node, 2, &[], WAIT).await, [second]);
    // The first two have been answered: until the follower names them they have no news.
    for partition in [first, second, third] {
        write(partition).await;
    }
    let begun = tokio::time::Instant::now();
    assert_eq!(poll(&node, 3, &[], WAIT).await, [third]);
    assert!(begun.elapsed() < Duration::from_secs(1));
}
