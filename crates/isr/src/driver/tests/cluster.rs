//! What a cluster of three does as a whole.

use super::support::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Clock, Durability, Incarnation, LeaderEpoch, LogConfig, LogStore, NodeName, Offset,
    PartitionEpoch, PartitionId, PartitionState, PeerIdentity, RecoveryState, Reply, RpcError,
    RpcRequest, TopicId,
};

use crate::config::ReplicationConfig;
use crate::core::{Acks, OffsetSpec, PartitionStatus, ReplicaRole};
use crate::driver::api::{Produce, ReplicationPorts};
use crate::driver::manager::ReplicationManager;
use crate::driver::seed::TokioExecutor;
use crate::error::ReplicationError;
use crate::mem_log::MemLogStore;

#[tokio::test(start_paused = true)]
async fn acks_all_takes_round_trips_and_not_poll_waits() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let cluster = Cluster::start(durability, 2).await;
        let first = cluster.produce(1, batch("warm"), Acks::All).await.unwrap();
        assert_eq!(first.base_offset, at(0));
        // The followers' polls are parked now.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = tokio::time::Instant::now();
        for i in 1..=20 {
            let done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
            assert_eq!(done.base_offset, at(i));
        }
        let each = before.elapsed() / 20;
        assert!(
            each < Duration::from_millis(5),
            "{durability:?}: {each:?} per write"
        );
        for id in [2, 3] {
            cluster.until("copied", id, |s| s.log_end == at(21)).await;
            assert_eq!(cluster.contents(id), cluster.contents(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_only_polls_at_the_poll_interval() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let _first = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = cluster.net.0.lock().unwrap().fetches;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let polls = cluster.net.0.lock().unwrap().fetches - before;
    // Two followers, one poll each per half second.
    assert!(
        (30..=50).contains(&polls),
        "{polls} fetches in ten idle seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn no_acknowledged_record_is_lost_when_the_leader_dies() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let cluster = Cluster::start(durability, 2).await;
        for i in 0..20 {
            let _done = cluster.produce(1, idempotent(i), Acks::All).await.unwrap();
        }
        let acked = cluster.contents(1);
        // The old leader goes on alone, unheard: nothing of this may survive.
        cluster.net.0.lock().unwrap().cut.insert(broker(1));
        let short = Duration::from_millis(300);
        let lost = cluster
            .produce_within(1, batch("lost"), Acks::All, short)
            .await;
        assert!(matches!(
            lost,
            Err(ReplicationError::RequestTimedOut { .. })
        ));
        cluster.fail_over(1, 2).await;
        // A retry across the failover is recognised and not written twice (KAFKA-5494).
        let retried = cluster.produce(2, idempotent(19), Acks::All).await.unwrap();
        assert_eq!(retried.base_offset, at(19));
        let next = cluster.produce(2, idempotent(20), Acks::All).await.unwrap();
        assert_eq!(next.base_offset, at(20));
        assert!(cluster.contents(2).starts_with(&acked));
        // The old leader comes back, cuts its tail by epoch and catches up.
        cluster.net.0.lock().unwrap().cut.clear();
        cluster.apply(broker(1)).await;
        let full = |s: &PartitionStatus| s.isr.len() == 3 && s.high_watermark == at(21);
        cluster.until("back in the set", 2, full).await;
        for id in [1, 3] {
            cluster
                .until("caught up", id, |s| s.log_end == at(21))
                .await;
            assert_eq!(cluster.contents(id), cluster.contents(2));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_min_isr_writes_are_refused_before_the_append_and_reads_go_on() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let _done = cluster.produce(1, batch("a"), Acks::All).await.unwrap();
    {
        let mut world = cluster.net.0.lock().unwrap();
        world.cut.extend([broker(2), broker(3)]);
    }
    // In flight when the set falls apart: the outcome is unknown, and the caller hears of it.
    let pending = cluster.produce(1, batch("b"), Acks::All).await;
    assert!(matches!(
        pending,
        Err(ReplicationError::NotEnoughReplicasAfterAppend {
            in_sync: 1,
            required: 2
        })
    ));
    let refused = cluster.produce(1, batch("c"), Acks::All).await;
    assert!(matches!(
        refused,
        Err(ReplicationError::NotEnoughReplicas {
            in_sync: 1,
            required: 2
        })
    ));
    let status = cluster.node(1).status(cluster.partition).unwrap();
    assert_eq!((status.log_end, status.high_watermark), (at(2), at(1)));
    let one = cluster.produce(1, batch("d"), Acks::Leader).await.unwrap();
    assert_eq!(one.base_offset, at(2));
    let node = cluster.node(1);
    let seen = read(&node, cluster.partition, 0, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        seen.high_watermark,
        at(1),
        "acks=1 stays invisible (KIP-966)"
    );
    cluster.net.0.lock().unwrap().cut.clear();
    cluster
        .until("healed", 1, |s| s.high_watermark == at(3))
        .await;
    let _done = cluster.produce(1, batch("e"), Acks::All).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_is_woken_by_the_high_watermark() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let node = cluster.node(1);
    let partition = cluster.partition;
    let poll = tokio::spawn(async move { read(&node, partition, 0, WAIT).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = tokio::time::Instant::now();
    let _done = cluster.produce(1, batch("a"), Acks::All).await.unwrap();
    let got = poll.await.unwrap().unwrap();
    assert!(before.elapsed() < Duration::from_millis(100));
    assert_eq!(got.bytes, cluster.contents(1));
    // Nothing new: the poll ends with its wait.
    let before = tokio::time::Instant::now();
    let empty = read(&cluster.node(1), partition, 1, Duration::from_millis(200))
        .await
        .unwrap();
    assert!(empty.bytes.is_empty() && before.elapsed() >= Duration::from_millis(200));
    // A follower sends the client on.
    let wrong = read(&cluster.node(2), partition, 0, Duration::ZERO).await;
    let leader_hint = Some(broker(1));
    assert_eq!(wrong, Err(ReplicationError::NotLeader { leader_hint }));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_write_and_a_long_poll_end_when_leadership_does() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    cluster
        .net
        .0
        .lock()
        .unwrap()
        .cut
        .extend([broker(2), broker(3)]);
    let (node, partition) = (cluster.node(1), cluster.partition);
    let write = {
        let node = node.clone();
        let batch = batch("x");
        let produce = Produce {
            partition,
            batch,
            acks: Acks::All,
            timeout: WAIT,
        };
        tokio::spawn(async move { node.produce(produce).await })
    };
    let poll = tokio::spawn({
        let node = node.clone();
        async move { read(&node, partition, 0, WAIT).await }
    });
    cluster.until("appended", 1, |s| s.log_end == at(1)).await;
    cluster.net.0.lock().unwrap().cut.clear();
    let mut record = cluster.record();
    record.leader = Some(broker(2));
    record.leader_epoch = record.leader_epoch.next().unwrap();
    record.partition_epoch = record.partition_epoch.next().unwrap();
    node.apply(update(broker(1), vec![record])).await.unwrap();
    let leader_hint = Some(broker(2));
    let error = ReplicationError::NotLeader { leader_hint };
    assert_eq!(write.await.unwrap(), Err(error.clone()));
    assert_eq!(poll.await.unwrap(), Err(error));
}

#[tokio::test(start_paused = true)]
async fn without_controller_contact_only_acks_all_goes_on() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    // A second manager of the same node, which never hears of the controller.
    let side = Side {
        net: cluster.net.clone(),
        me: broker(1),
    };
    let executor = Arc::new(TokioExecutor::current());
    let silent = ReplicationManager::with_ports(
        broker(1),
        config(),
        ReplicationPorts {
            logs: Arc::new(MemLogStore::default()),
            rpc: Arc::new(side.clone()),
            controller: Arc::new(side),
            clock: cluster.clock.clone(),
            shards: executor.clone(),
            flusher: executor,
        },
    );
    let mut record = cluster.record();
    record.replicas = vec![broker(1)];
    record.isr = vec![broker(1)];
    silent.apply(update(broker(1), vec![record])).await.unwrap();
    let write = |acks| {
        let (partition, batch) = (cluster.partition, batch("x"));
        silent.produce(Produce {
            partition,
            batch,
            acks,
            timeout: WAIT,
        })
    };
    assert_eq!(
        write(Acks::Leader).await,
        Err(ReplicationError::ControllerContactLost)
    );
    assert_eq!(
        write(Acks::None).await,
        Err(ReplicationError::ControllerContactLost)
    );
    let latest = |spec| silent.list_offset(cluster.partition, spec, None);
    assert_eq!(
        latest(OffsetSpec::Latest).await,
        Err(ReplicationError::ControllerContactLost)
    );
    assert!(latest(OffsetSpec::Earliest).await.is_ok());
    assert!(write(Acks::All).await.is_ok());
    silent.controller_contact(cluster.clock.now() + Duration::from_secs(1));
    assert!(write(Acks::Leader).await.is_ok());
    assert_eq!(
        latest(OffsetSpec::Latest).await.unwrap().unwrap().offset,
        at(2)
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        write(Acks::Leader).await,
        Err(ReplicationError::ControllerContactLost)
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_log_takes_its_partition_offline_and_no_other() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let other = PartitionId::new(TopicId::from_bytes([8; 16]), 0);
    let node = cluster.node(1);
    let handle = node.get_or_create(other, true);
    cluster.stores[&broker(1)]
        .log(cluster.partition)
        .unwrap()
        .poison("EIO");
    let refused = cluster.produce(1, batch("x"), Acks::All).await;
    assert!(matches!(
        refused,
        Err(ReplicationError::LogUnavailable { .. })
    ));
    cluster
        .until("offline", 1, |s| s.role == ReplicaRole::Offline)
        .await;
    until("leads the other", || handle.is_leader()).await;
    let batch = batch("y");
    let produce = Produce {
        partition: other,
        batch,
        acks: Acks::Leader,
        timeout: WAIT,
    };
    assert!(node.produce(produce).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn shutdown_makes_everything_durable_and_refuses_what_comes_after() {
    let cluster = Cluster::start(Durability::Replicated, 2).await;
    let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    let node = cluster.node(1);
    node.shutdown().await;
    node.shutdown().await;
    let again = cluster.produce(1, batch("y"), Acks::All).await;
    assert_eq!(again, Err(ReplicationError::Shutdown));
    let store = &cluster.stores[&broker(1)];
    let log = store.log(cluster.partition).unwrap();
    log.crash(Offset::ZERO);
    assert!(
        !log.contents().is_empty(),
        "a crash after the shutdown loses nothing"
    );
    assert_eq!(
        store.load_checkpoint().unwrap(),
        vec![(cluster.partition, at(1))]
    );
    let reopened = {
        let mut cluster = cluster;
        cluster.boot(broker(1));
        let node = cluster.node(1);
        node.open_local_logs().await.unwrap()
    };
    assert_eq!(reopened[0].log_end, at(1));
    assert_eq!(reopened[0].cut_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn deleted_records_disappear_on_followers_too() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    for _ in 0..5 {
        let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    }
    let node = cluster.node(1);
    let beyond = node
        .delete_records(cluster.partition, Some(at(6)), WAIT)
        .await;
    assert!(matches!(
        beyond,
        Err(ReplicationError::OffsetOutOfRange { .. })
    ));
    assert_eq!(
        node.delete_records(cluster.partition, Some(at(3)), WAIT)
            .await,
        Ok(at(3))
    );
    for id in [2, 3] {
        let status = cluster.node(id).status(cluster.partition).unwrap();
        assert_eq!(status.log_start, at(3));
    }
    let gone = read(&node, cluster.partition, 2, Duration::ZERO).await;
    assert!(matches!(
        gone,
        Err(ReplicationError::OffsetOutOfRange { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn the_seed_calls_work_without_a_cluster_and_cannot_be_used_unsafely() {
    let seed = ReplicationConfig {
        min_isr: 1,
        ..ReplicationConfig::default()
    };
    let manager = ReplicationManager::new(broker(1), seed);
    let partition = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
    let handle = manager.get_or_create(partition, true);
    let batch = batch("x");
    let produce = Produce {
        partition,
        batch,
        acks: Acks::All,
        timeout: WAIT,
    };
    assert_eq!(manager.produce(produce).await.unwrap().base_offset, at(0));
    until("published", || handle.high_watermark() == Some(at(1))).await;
    let foreign = manager
        .handle_replica_fetch(&partition, &broker(2), at(0))
        .await;
    assert_eq!(
        foreign,
        Err(ReplicationError::UnknownReplica { broker: broker(2) })
    );
    let unknown = PartitionId::new(TopicId::from_bytes([2; 16]), 0);
    let none = manager
        .handle_replica_fetch(&unknown, &broker(2), at(0))
        .await;
    assert_eq!(
        none,
        Err(ReplicationError::UnknownPartition { partition: unknown })
    );
    let waiting = manager.get_or_create(unknown, false);
    until("opened", || waiting.status().is_some()).await;
    assert!(!waiting.is_leader());
    // Records of no epoch that the cluster gave must not be mixed with a leader's.
    let record = PartitionState {
        id: partition,
        replicas: vec![broker(1), broker(2)],
        isr: vec![broker(2)],
        elr: Vec::new(),
        last_known_isr: Vec::new(),
        leader: Some(broker(2)),
        leader_epoch: LeaderEpoch::new(0),
        partition_epoch: PartitionEpoch::new(0),
        recovery: RecoveryState::Recovered,
        min_isr: 1,
        durability: Durability::Fsync,
    };
    manager
        .apply(update(broker(1), vec![record]))
        .await
        .unwrap();
    let status = manager.status(partition).unwrap();
    assert_eq!(status.role, ReplicaRole::Offline);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_by_call_moves_the_high_watermark() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    cluster
        .net
        .0
        .lock()
        .unwrap()
        .cut
        .extend([broker(2), broker(3)]);
    let one = cluster.produce(1, batch("x"), Acks::Leader).await.unwrap();
    assert_eq!(one.base_offset, at(0));
    let node = cluster.node(1);
    let partition = cluster.partition;
    for id in [2, 3] {
        let fetched = node
            .handle_replica_fetch(&partition, &broker(id), at(0))
            .await
            .unwrap();
        assert_eq!(fetched.bytes, cluster.contents(1));
        let beyond = node
            .handle_replica_fetch(&partition, &broker(id), at(2))
            .await;
        assert!(matches!(
            beyond,
            Err(ReplicationError::OffsetOutOfRange { .. })
        ));
        let _at_end = node
            .handle_replica_fetch(&partition, &broker(id), at(1))
            .await
            .unwrap();
    }
    cluster
        .until("committed", 1, |s| s.high_watermark == at(1))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_unregistered_peer_is_refused() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let peer = PeerIdentity {
        name: NodeName::new("stranger").unwrap(),
        incarnation: Incarnation::from_bytes([0; 16]),
        cluster: None,
    };
    let request = RpcRequest {
        kind: rivven_core_types::RpcKind::REPLICA_FETCH,
        lane: rivven_core_types::Lane::Bulk,
        meta: Bytes::new(),
        body: Bytes::new(),
        deadline: WAIT,
    };
    let reply = cluster.node(1).handle_rpc(&peer, request);
    assert!(matches!(reply, Reply::Now(Err(RpcError::Refused(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_all_is_far_quicker_than_a_poll_on_a_real_clock() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    let _first = cluster.produce(1, batch("warm"), Acks::All).await.unwrap();
    let before = std::time::Instant::now();
    for _ in 0..50 {
        let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    }
    let each = before.elapsed() / 50;
    println!("acks=all: {each:?} per write");
    // A write that waited for the parked poll would take half a second.
    assert!(each < Duration::from_millis(50), "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_goes_on_every_replica() {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    for _ in 0..5 {
        let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    }
    let mut record = cluster.record();
    record.partition_epoch = record.partition_epoch.next().unwrap();
    let keep_one = LogConfig {
        retention_bytes: Some(1),
        ..LogConfig::default()
    };
    for id in 1..=3 {
        let mut update = update(broker(id), vec![record.clone()]);
        update.log_configs = BTreeMap::from([(cluster.partition.topic, keep_one)]);
        cluster.node(id).apply(update).await.unwrap();
    }
    for id in 1..=3 {
        cluster
            .until("trimmed", id, |s| {
                s.log_start == at(4) && s.log_end == at(5)
            })
            .await;
    }
}

/// Three replicas with records, of which the third has damage that the newest one leads it to.
async fn with_a_damaged_third() -> Cluster {
    let cluster = Cluster::start(Durability::Fsync, 2).await;
    for _ in 0..3 {
        let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    }
    let damaged = cluster.stores[&broker(3)].log(cluster.partition).unwrap();
    damaged.damage("bit rot");
    let _done = cluster.produce(1, batch("y"), Acks::Leader).await.unwrap();
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_damaged_replica_is_fetched_again_once_nobody_counts_on_it() {
    let cluster = with_a_damaged_third().await;
    cluster
        .until("offline", 3, |s| {
            s.role == ReplicaRole::Offline && s.corrupt
        })
        .await;
    assert_eq!(cluster.node(3).failed_logs(), [(cluster.partition, true)]);
    // While it counts as in sync it is left alone.
    cluster.apply(broker(3)).await;
    assert_eq!(cluster.node(3).failed_logs().len(), 1);
    cluster
        .until("shrunk", 1, |s| !s.isr.contains(&broker(3)))
        .await;
    cluster.apply(broker(3)).await;
    cluster
        .until("back in sync", 1, |s| s.isr.contains(&broker(3)))
        .await;
    assert!(cluster.node(3).failed_logs().is_empty());
    assert_eq!(cluster.contents(3), cluster.contents(1));
}

/// Once its log is open nothing about the partition changes any more: no second chance comes.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_found_damaged_as_it_is_opened_is_made_anew_at_once_if_nobody_counts_on_it()
 {
    let mut cluster = with_a_damaged_third().await;
    cluster
        .until("shrunk", 1, |s| !s.isr.contains(&broker(3)))
        .await;
    cluster.boot(broker(3));
    cluster.apply(broker(3)).await;
    cluster
        .until("back in sync", 1, |s| s.isr.contains(&broker(3)))
        .await;
    assert!(cluster.node(3).failed_logs().is_empty());
    assert_eq!(cluster.contents(3), cluster.contents(1));
}

#[tokio::test(start_paused = true)]
async fn the_last_damaged_replica_is_left_alone() {
    let cluster = Cluster::start(Durability::Fsync, 1).await;
    let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    let log = cluster.stores[&broker(1)].log(cluster.partition).unwrap();
    let before = log.contents();
    log.damage("bit rot");
    let refused = cluster.produce(1, batch("y"), Acks::All).await;
    assert!(matches!(
        refused,
        Err(ReplicationError::LogUnavailable { .. })
    ));
    for (leader, isr, elr) in [(None, vec![], vec![1]), (Some(2), vec![2], vec![1])] {
        let mut record = cluster.record();
        let ids = |ids: Vec<i32>| ids.into_iter().map(broker).collect();
        record.leader = leader.map(broker);
        (record.isr, record.elr) = (ids(isr), ids(elr));
        record.leader_epoch = record.leader_epoch.next().unwrap();
        record.partition_epoch = record.partition_epoch.next().unwrap();
        let _old = cluster
            .net
            .0
            .lock()
            .unwrap()
            .records
            .insert(cluster.partition, record);
        cluster.apply(broker(1)).await;
        assert_eq!(cluster.node(1).failed_logs(), [(cluster.partition, true)]);
        assert_eq!(cluster.contents(1), before);
    }
}

#[tokio::test(start_paused = true)]
async fn lazy_records_become_durable_by_themselves() {
    let cluster = Cluster::start(Durability::Replicated, 2).await;
    let _done = cluster.produce(1, batch("x"), Acks::All).await.unwrap();
    for id in 1..=3 {
        cluster
            .until("durable", id, |s| s.durable_end == at(1))
            .await;
    }
}
