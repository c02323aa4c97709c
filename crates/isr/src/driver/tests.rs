//! Three managers in one process, over a network that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    AlterPartitionError, AlterPartitionOutcome, AlterPartitionProposal, BatchBuilder, BoxFuture,
    BrokerId, Clock, Durability, Incarnation, LeaderEpoch, MonoTime, NodeEpoch, NodeName, Offset,
    PartitionEpoch, PartitionId, PartitionState, PeerIdentity, PeerRpc, ProducerEpoch, ProducerId,
    RecordBatch, RecoveryState, Reply, RpcError, RpcRequest, RpcResponse, TopicId, UnixMillis,
};

use super::api::{
    ControllerError, Fetch, FetchPartition, LocalBroker, MetadataUpdate, PartitionController,
    Produce, Produced, ReplicationPorts,
};
use super::manager::ReplicationManager;
use super::seed::TokioExecutor;
use crate::config::ReplicationConfig;
use crate::core::{Acks, OffsetSpec, PartitionStatus, ReplicaRole};
use crate::error::ReplicationError;
use crate::mem_log::MemLogStore;

const WAIT: Duration = Duration::from_secs(30);

struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_origin(self.0.elapsed())
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

#[derive(Default)]
struct World {
    nodes: BTreeMap<BrokerId, ReplicationManager>,
    cut: BTreeSet<BrokerId>,
    records: BTreeMap<PartitionId, PartitionState>,
    fetches: u64,
}

#[derive(Clone, Default)]
struct Net(Arc<Mutex<World>>);

#[derive(Clone)]
struct Side {
    net: Net,
    me: BrokerId,
}

fn name(id: BrokerId) -> NodeName {
    NodeName::new(format!("node-{id}")).unwrap()
}

fn broker(id: i32) -> BrokerId {
    BrokerId::new(id)
}

fn epoch_of(id: BrokerId) -> NodeEpoch {
    NodeEpoch::new(100 + i64::from(id.get()))
}

impl PeerRpc for Side {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let side = self.clone();
        let peer = peer.clone();
        Box::pin(async move {
            let target = {
                let mut world = side.net.0.lock().unwrap();
                world.fetches += 1;
                let found = world.nodes.iter().find(|(id, _)| name(**id) == peer);
                found
                    .filter(|(id, _)| !world.cut.contains(id) && !world.cut.contains(&side.me))
                    .map(|(_, node)| node.clone())
            };
            let Some(target) = target else {
                let reason = "cut".to_owned();
                return Err(RpcError::Unreachable { peer, reason });
            };
            let identity = PeerIdentity {
                name: name(side.me),
                incarnation: Incarnation::from_bytes([0; 16]),
                cluster: None,
            };
            let deadline = request.deadline;
            let answer = match target.handle_rpc(&identity, request) {
                Reply::Now(answer) => answer,
                Reply::Later(answer) => {
                    let waited = deadline;
                    let peer = peer.clone();
                    tokio::time::timeout(deadline, answer)
                        .await
                        .unwrap_or(Err(RpcError::Timeout { peer, waited }))
                }
            };
            // A cut drops answers on their way as well.
            let world = side.net.0.lock().unwrap();
            let cut = world
                .cut
                .iter()
                .any(|id| name(*id) == peer || *id == side.me);
            if cut {
                Err(RpcError::ConnectionLost { peer })
            } else {
                answer
            }
        })
    }
}

impl PartitionController for Side {
    fn alter_partitions(
        &self,
        proposals: Vec<AlterPartitionProposal>,
    ) -> BoxFuture<'static, Result<Vec<AlterPartitionOutcome>, ControllerError>> {
        let side = self.clone();
        Box::pin(async move {
            let mut world = side.net.0.lock().unwrap();
            if world.cut.contains(&side.me) {
                return Err(ControllerError {
                    reason: "cut".to_owned(),
                });
            }
            Ok(proposals
                .into_iter()
                .map(|proposal| AlterPartitionOutcome {
                    partition: proposal.partition,
                    result: world.alter(side.me, &proposal),
                })
                .collect())
        })
    }
}

impl World {
    fn alter(
        &mut self,
        from: BrokerId,
        proposal: &AlterPartitionProposal,
    ) -> Result<PartitionState, AlterPartitionError> {
        let record = self.records.get_mut(&proposal.partition).unwrap();
        if proposal.leader_epoch < record.leader_epoch || record.leader != Some(from) {
            return Err(AlterPartitionError::FencedLeaderEpoch);
        }
        if proposal.partition_epoch != record.partition_epoch {
            return Err(AlterPartitionError::InvalidUpdateVersion);
        }
        if proposal
            .new_isr
            .iter()
            .any(|m| m.node_epoch != epoch_of(m.broker))
        {
            return Err(AlterPartitionError::IneligibleReplica);
        }
        record.isr = proposal.new_isr.iter().map(|m| m.broker).collect();
        record.partition_epoch = record.partition_epoch.next().unwrap();
        Ok(record.clone())
    }
}

struct Cluster {
    net: Net,
    stores: BTreeMap<BrokerId, MemLogStore>,
    clock: Arc<TokioClock>,
    partition: PartitionId,
}

fn config() -> ReplicationConfig {
    ReplicationConfig {
        replica_lag_max_time: Duration::from_secs(2),
        ..ReplicationConfig::default()
    }
}

impl Cluster {
    async fn start(durability: Durability, min_isr: u32) -> Self {
        let net = Net::default();
        let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
        let partition = PartitionId::new(TopicId::from_bytes([7; 16]), 0);
        let mut cluster = Self {
            net,
            stores: BTreeMap::new(),
            clock,
            partition,
        };
        let ids: Vec<BrokerId> = (1..=3).map(broker).collect();
        for id in &ids {
            cluster.boot(*id);
        }
        let record = PartitionState {
            id: partition,
            replicas: ids.clone(),
            isr: ids.clone(),
            elr: Vec::new(),
            last_known_isr: ids.clone(),
            leader: Some(broker(1)),
            leader_epoch: LeaderEpoch::new(0),
            partition_epoch: PartitionEpoch::new(0),
            recovery: RecoveryState::Recovered,
            min_isr,
            durability,
        };
        cluster
            .net
            .0
            .lock()
            .unwrap()
            .records
            .insert(partition, record);
        for id in ids {
            cluster.apply(id).await;
        }
        cluster
    }

    fn boot(&mut self, id: BrokerId) {
        let side = Side {
            net: self.net.clone(),
            me: id,
        };
        let executor = Arc::new(TokioExecutor::current());
        let store = self.stores.entry(id).or_default().clone();
        let ports = ReplicationPorts {
            logs: Arc::new(store),
            rpc: Arc::new(side.clone()),
            controller: Arc::new(side),
            clock: self.clock.clone(),
            shards: executor.clone(),
            flusher: executor,
        };
        let node = ReplicationManager::with_ports(id, config(), ports);
        node.controller_contact(MonoTime::from_origin(Duration::MAX));
        self.net.0.lock().unwrap().nodes.insert(id, node);
    }

    fn node(&self, id: i32) -> ReplicationManager {
        self.net.0.lock().unwrap().nodes[&broker(id)].clone()
    }

    fn record(&self) -> PartitionState {
        self.net.0.lock().unwrap().records[&self.partition].clone()
    }

    async fn apply(&self, id: BrokerId) {
        let record = self.record();
        self.node(id.get())
            .apply(update(id, vec![record]))
            .await
            .unwrap();
    }

    /// Cuts a node off and lets another lead with what is left of the in-sync set.
    async fn fail_over(&self, dead: i32, to: i32) {
        {
            let mut world = self.net.0.lock().unwrap();
            let _new = world.cut.insert(broker(dead));
            let record = world.records.get_mut(&self.partition).unwrap();
            assert!(record.isr.contains(&broker(to)), "not electable");
            record.isr.retain(|b| *b != broker(dead));
            record.leader = Some(broker(to));
            record.leader_epoch = record.leader_epoch.next().unwrap();
            record.partition_epoch = record.partition_epoch.next().unwrap();
        }
        for id in (1..=3).filter(|id| *id != dead) {
            self.apply(broker(id)).await;
        }
    }

    async fn produce(
        &self,
        id: i32,
        batch: RecordBatch,
        acks: Acks,
    ) -> Result<Produced, ReplicationError> {
        self.produce_within(id, batch, acks, WAIT).await
    }

    async fn produce_within(
        &self,
        id: i32,
        batch: RecordBatch,
        acks: Acks,
        timeout: Duration,
    ) -> Result<Produced, ReplicationError> {
        let partition = self.partition;
        let node = self.node(id);
        node.produce(Produce {
            partition,
            batch,
            acks,
            timeout,
        })
        .await
    }

    fn contents(&self, id: i32) -> Bytes {
        let log = self.stores[&broker(id)].log(self.partition);
        log.map(|log| log.contents()).unwrap_or_default()
    }

    async fn until(&self, what: &str, id: i32, holds: impl Fn(&PartitionStatus) -> bool) {
        let node = self.node(id);
        until(what, || {
            node.status(self.partition).is_some_and(|s| holds(&s))
        })
        .await;
    }
}

fn update(id: BrokerId, changed: Vec<PartitionState>) -> MetadataUpdate {
    MetadataUpdate {
        local: LocalBroker {
            id,
            node_epoch: epoch_of(id),
        },
        brokers: (1..=3)
            .map(broker)
            .map(|b| (b, (name(b), epoch_of(b))))
            .collect(),
        ineligible: BTreeSet::new(),
        changed,
        removed: Vec::new(),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(WAIT, waiting).await.is_ok(),
        "never: {what}"
    );
}

fn batch(value: &str) -> RecordBatch {
    BatchBuilder::new(0)
        .record(0, None, Some(value.as_bytes()))
        .build()
        .unwrap()
}

fn idempotent(sequence: i32) -> RecordBatch {
    BatchBuilder::new(0)
        .producer(ProducerId::new(9), ProducerEpoch::new(0), sequence)
        .record(0, None, Some(b"idempotent"))
        .build()
        .unwrap()
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

async fn read(
    node: &ReplicationManager,
    partition: PartitionId,
    from: i64,
    wait: Duration,
) -> Result<super::api::Fetched, ReplicationError> {
    let answers = node
        .fetch(Fetch {
            partitions: vec![FetchPartition {
                partition,
                offset: at(from),
                current_leader_epoch: None,
                max_bytes: 1 << 20,
            }],
            max_wait: wait,
            min_bytes: 1,
            max_bytes: 1 << 20,
        })
        .await;
    answers.into_iter().next().unwrap().result
}

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
    use rivven_core_types::LogStore;
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
    let beyond = node.delete_records(cluster.partition, at(6)).await;
    assert!(matches!(
        beyond,
        Err(ReplicationError::OffsetOutOfRange { .. })
    ));
    assert_eq!(
        node.delete_records(cluster.partition, at(3)).await,
        Ok(at(3))
    );
    for id in [2, 3] {
        cluster.until("trimmed", id, |s| s.log_start == at(3)).await;
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
