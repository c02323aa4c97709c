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

use crate::config::ReplicationConfig;
use crate::core::{Acks, PartitionStatus};
use crate::driver::api::{
    ControllerError, Fetch, FetchPartition, LocalBroker, MetadataUpdate, PartitionController,
    Produce, Produced, ReplicationPorts,
};
use crate::driver::manager::ReplicationManager;
use crate::driver::seed::TokioExecutor;
use crate::error::ReplicationError;
use crate::mem_log::MemLogStore;

pub(super) const WAIT: Duration = Duration::from_secs(30);

pub(super) struct TokioClock(pub(super) tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_origin(self.0.elapsed())
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

#[derive(Default)]
pub(super) struct World {
    pub(super) nodes: BTreeMap<BrokerId, ReplicationManager>,
    pub(super) cut: BTreeSet<BrokerId>,
    pub(super) records: BTreeMap<PartitionId, PartitionState>,
    pub(super) fetches: u64,
    /// Bytes of the fetches' tables of partitions.
    pub(super) fetch_bytes: usize,
    /// Nobody reaches the controller.
    pub(super) no_controller: bool,
    /// So many more answers are lost on their way, though the leader has given them.
    pub(super) lose_answers: u32,
}

#[derive(Clone, Default)]
pub(super) struct Net(pub(super) Arc<Mutex<World>>);

#[derive(Clone)]
pub(super) struct Side {
    pub(super) net: Net,
    pub(super) me: BrokerId,
}

pub(super) fn name(id: BrokerId) -> NodeName {
    NodeName::new(format!("node-{id}")).unwrap()
}

pub(super) fn broker(id: i32) -> BrokerId {
    BrokerId::new(id)
}

pub(crate) fn epoch_of(id: BrokerId) -> NodeEpoch {
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
                world.fetch_bytes += request.body.len();
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
            let mut world = side.net.0.lock().unwrap();
            if world.lose_answers > 0 {
                world.lose_answers -= 1;
                return Err(RpcError::ConnectionLost { peer });
            }
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
            if world.no_controller || world.cut.contains(&side.me) {
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
    pub(super) fn alter(
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

pub(super) struct Cluster {
    pub(super) net: Net,
    pub(super) stores: BTreeMap<BrokerId, MemLogStore>,
    pub(super) clock: Arc<TokioClock>,
    pub(super) partition: PartitionId,
}

pub(super) fn config() -> ReplicationConfig {
    ReplicationConfig {
        replica_lag_max_time: Duration::from_secs(2),
        retention_interval: Duration::from_millis(100),
        ..ReplicationConfig::default()
    }
}

impl Cluster {
    pub(super) async fn start(durability: Durability, min_isr: u32) -> Self {
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

    pub(super) fn boot(&mut self, id: BrokerId) {
        self.boot_with(id, config());
    }

    pub(super) fn boot_with(&mut self, id: BrokerId, config: ReplicationConfig) {
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
        let node = ReplicationManager::with_ports(id, config, ports);
        node.controller_contact(MonoTime::from_origin(Duration::MAX));
        self.net.0.lock().unwrap().nodes.insert(id, node);
    }

    pub(super) fn node(&self, id: i32) -> ReplicationManager {
        self.net.0.lock().unwrap().nodes[&broker(id)].clone()
    }

    pub(super) fn record(&self) -> PartitionState {
        self.net.0.lock().unwrap().records[&self.partition].clone()
    }

    pub(super) async fn apply(&self, id: BrokerId) {
        let record = self.record();
        self.node(id.get())
            .apply(update(id, vec![record]))
            .await
            .unwrap();
    }

    /// Cuts a node off and lets another lead with what is left of the in-sync set.
    pub(super) async fn fail_over(&self, dead: i32, to: i32) {
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

    /// The leader is elected again: a new leader epoch for everybody.
    pub(super) async fn fail_over_to_itself(&self) {
        {
            let mut world = self.net.0.lock().unwrap();
            let record = world.records.get_mut(&self.partition).unwrap();
            record.leader_epoch = record.leader_epoch.next().unwrap();
            record.partition_epoch = record.partition_epoch.next().unwrap();
        }
        for id in 1..=3 {
            self.apply(broker(id)).await;
        }
    }

    pub(super) async fn produce(
        &self,
        id: i32,
        batch: RecordBatch,
        acks: Acks,
    ) -> Result<Produced, ReplicationError> {
        self.produce_within(id, batch, acks, WAIT).await
    }

    pub(super) async fn produce_within(
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

    pub(super) fn contents(&self, id: i32) -> Bytes {
        let log = self.stores[&broker(id)].log(self.partition);
        log.map(|log| log.contents()).unwrap_or_default()
    }

    pub(super) async fn until(
        &self,
        what: &str,
        id: i32,
        holds: impl Fn(&PartitionStatus) -> bool,
    ) {
        let node = self.node(id);
        until(what, || {
            node.status(self.partition).is_some_and(|s| holds(&s))
        })
        .await;
    }
}

pub(super) fn update(id: BrokerId, changed: Vec<PartitionState>) -> MetadataUpdate {
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
        log_configs: BTreeMap::new(),
        changed,
        removed: Vec::new(),
    }
}

pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            // sleep-ok: polls a condition, with a deadline around it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(WAIT, waiting).await.is_ok(),
        "never: {what}"
    );
}

pub(crate) fn batch(value: &str) -> RecordBatch {
    BatchBuilder::new(0)
        .record(0, None, Some(value.as_bytes()))
        .build()
        .unwrap()
}

pub(super) fn idempotent(sequence: i32) -> RecordBatch {
    BatchBuilder::new(0)
        .producer(ProducerId::new(9), ProducerEpoch::new(0), sequence)
        .record(0, None, Some(b"idempotent"))
        .build()
        .unwrap()
}

pub(super) fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

pub(super) async fn read(
    node: &ReplicationManager,
    partition: PartitionId,
    from: i64,
    wait: Duration,
) -> Result<crate::driver::api::Fetched, ReplicationError> {
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
