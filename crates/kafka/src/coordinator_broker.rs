//! The cluster node behind the Kafka port: [`Broker`] on a [`ClusterCoordinator`].

mod errors;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rivven_coordinator::consumer_groups::{
    Group, GroupError, GroupPhase, GroupsState, Request, Response,
};
use rivven_coordinator::metadata::{BrokerRecord, ClusterState, TopicChange, TopicRecord};
use rivven_coordinator::replication::{
    Fetch, FetchPartition as IsrFetchPartition, OffsetSpec, Produce, ReplicationManager,
};
use rivven_coordinator::{ClusterCoordinator, CoordinatorError, ReassignTo, replication};
use rivven_core_types::{
    BoxFuture, BrokerId, EpochEnd, LeaderEpoch, MonoTime, Offset, PartitionId, PartitionState,
    ProducerEpoch, ProducerId, RecordBatch, TopicName,
};

use crate::broker::{
    Acks, Broker, CreateTopics, CreatedTopic, FetchRequest, Fetched, FetchedRecords, ListedOffset,
    MorePartitions, NewTopic, OffsetQuery, Produced, Reassigning, ReplicaChange, TopicFailure,
};
use crate::error::BrokerError;
use crate::group_broker::GroupBroker;
use crate::snapshot::{BrokerInfo, ClusterSnapshot, PartitionInfo, TopicInfo};
use crate::topic_config::TopicSettings;

use errors::{admin_failure, broker_error, partitions_failure, topic_error};

/// How long clients are still told of a broker that has been fenced: one `metadata.max.age.ms` of the
/// common clients. A leader that vanishes from the list at once costs librdkafka up to a second more
/// of failover, and hangs kafka-python.
const FENCED_STAYS_LISTED: Duration = Duration::from_secs(300);
/// How long a producer id may take to be allocated.
const PRODUCER_ID_DEADLINE: Duration = Duration::from_secs(5);
/// Shortest time that a topic creation is given, whatever the client asks.
const MIN_CREATE_DEADLINE: Duration = Duration::from_secs(1);

/// A coordinator as the Kafka port's broker.
#[derive(Debug)]
pub struct CoordinatorBroker {
    coordinator: ClusterCoordinator,
    published: Mutex<Published>,
}

/// The last snapshot, and what it was made from.
#[derive(Debug, Default)]
struct Published {
    state: Option<Arc<ClusterState>>,
    made_at: MonoTime,
    controller: Option<BrokerId>,
    topics: BTreeMap<rivven_core_types::TopicId, Arc<TopicInfo>>,
    fenced_since: BTreeMap<BrokerId, MonoTime>,
    snapshot: Arc<ClusterSnapshot>,
}

impl CoordinatorBroker {
    /// Serves clients from `coordinator`.
    pub fn new(coordinator: ClusterCoordinator) -> Self {
        Self {
            coordinator,
            published: Mutex::default(),
        }
    }

    fn replication(&self) -> Result<ReplicationManager, BrokerError> {
        self.coordinator
            .replication()
            .ok_or(BrokerError::Unavailable)
    }
}

impl Broker for CoordinatorBroker {
    fn cluster(&self) -> Arc<ClusterSnapshot> {
        let state = self.coordinator.cluster_state();
        let leader = self.coordinator.raft_status().leader;
        let controller = leader.and_then(|name| state.broker_by_name(&name).map(|b| b.id));
        let now = self.coordinator.now();
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        published.refresh(&state, controller, now);
        Arc::clone(&published.snapshot)
    }

    fn produce(
        &self,
        partition: PartitionId,
        batch: RecordBatch,
        acks: Acks,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Produced, BrokerError>> {
        let manager = match self.replication() {
            Ok(manager) => manager,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let acks = match acks {
            Acks::None => replication::Acks::None,
            Acks::Leader => replication::Acks::Leader,
            Acks::All => replication::Acks::All,
        };
        // The manager queues the write before its future is polled, as the port requires.
        let written = manager.produce(Produce {
            partition,
            batch,
            acks,
            timeout,
        });
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let written = written.await;
            let produced = written.map_err(|e| broker_error(e, partition, &coordinator))?;
            Ok(Produced {
                base_offset: produced.base_offset,
                log_append_time: None,
                log_start: produced.log_start,
            })
        })
    }

    fn fetch(&self, request: FetchRequest) -> BoxFuture<'static, Vec<Fetched>> {
        let replication = match self.replication() {
            Ok(replication) => replication,
            Err(error) => {
                let refused = vec![Fetched { result: Err(error) }; request.partitions.len()];
                return Box::pin(async move { refused });
            }
        };
        let partitions = request.partitions.iter().map(|p| IsrFetchPartition {
            partition: p.partition,
            offset: p.offset,
            current_leader_epoch: p.current_leader_epoch,
            max_bytes: p.max_bytes,
        });
        let fetch = Fetch {
            partitions: partitions.collect(),
            max_wait: request.max_wait,
            min_bytes: request.min_bytes,
            max_bytes: request.max_bytes,
        };
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let fetched = replication.fetch(fetch).await;
            let answers = fetched.into_iter().map(|answer| Fetched {
                result: match answer.result {
                    Ok(records) => Ok(FetchedRecords {
                        high_watermark: records.high_watermark,
                        log_start: records.log_start,
                        records: records.bytes,
                    }),
                    Err(e) => Err(broker_error(e, answer.partition, &coordinator)),
                },
            });
            answers.collect()
        })
    }

    fn list_offset(
        &self,
        partition: PartitionId,
        current_leader_epoch: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> BoxFuture<'static, Result<Option<ListedOffset>, BrokerError>> {
        let replication = self.replication();
        let coordinator = self.coordinator.clone();
        let spec = match query {
            OffsetQuery::Earliest => OffsetSpec::Earliest,
            OffsetQuery::Latest => OffsetSpec::Latest,
            OffsetQuery::MaxTimestamp => OffsetSpec::MaxTimestamp,
            OffsetQuery::AtOrAfter(timestamp) => OffsetSpec::Timestamp(timestamp),
        };
        let of_a_record = matches!(query, OffsetQuery::MaxTimestamp | OffsetQuery::AtOrAfter(_));
        Box::pin(async move {
            let found = replication?
                .list_offset(partition, spec, current_leader_epoch)
                .await;
            let found = found.map_err(|e| broker_error(e, partition, &coordinator))?;
            Ok(found.map(|found| ListedOffset {
                offset: found.offset,
                timestamp: of_a_record.then_some(found.timestamp),
                leader_epoch: Some(found.epoch),
            }))
        })
    }

    fn epoch_end(
        &self,
        partition: PartitionId,
        asked: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> BoxFuture<'static, Result<Option<EpochEnd>, BrokerError>> {
        let replication = self.replication();
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let found = replication?
                .epoch_end(partition, asked, current_leader_epoch)
                .await;
            found.map_err(|e| broker_error(e, partition, &coordinator))
        })
    }

    fn init_producer_id(
        &self,
    ) -> BoxFuture<'static, Result<(ProducerId, ProducerEpoch), BrokerError>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            match coordinator.next_producer_id(PRODUCER_ID_DEADLINE).await {
                Ok(id) => Ok((id, ProducerEpoch::new(0))),
                Err(error) => {
                    tracing::warn!(%error, "no producer id to be had");
                    Err(BrokerError::Unavailable)
                }
            }
        })
    }

    fn create_topics(
        &self,
        request: CreateTopics,
    ) -> BoxFuture<'static, Vec<Result<CreatedTopic, TopicFailure>>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            // One deadline for all: the port waits little longer than the client does.
            let deadline = coordinator.now() + request.timeout.max(MIN_CREATE_DEADLINE);
            let mut answers = Vec::with_capacity(request.topics.len());
            for topic in request.topics {
                let left = deadline.since(coordinator.now());
                let made = create(&coordinator, topic, request.validate_only, left).await;
                answers.push(made.map_err(|e| TopicFailure {
                    message: e.to_string(),
                    error: topic_error(&e),
                }));
            }
            answers
        })
    }

    fn delete_topic(
        &self,
        name: TopicName,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let deadline = timeout.max(MIN_CREATE_DEADLINE);
            let deleted = coordinator.delete_topic(&name, deadline).await;
            deleted.map(|_id| ()).map_err(|e| admin_failure(&e))
        })
    }

    fn alter_topic(
        &self,
        name: TopicName,
        change: TopicChange,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let altered = coordinator.alter_topic(&name, change, timeout).await;
            altered.map(|_id| ()).map_err(|e| admin_failure(&e))
        })
    }

    fn delete_records(
        &self,
        partition: PartitionId,
        before: Option<Offset>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Offset, BrokerError>> {
        let replication = self.replication();
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let replication = replication?;
            let deleted = replication.delete_records(partition, before, timeout);
            let deleted = deleted.await;
            deleted.map_err(|e| broker_error(e, partition, &coordinator))
        })
    }

    fn create_partitions(
        &self,
        topics: Vec<MorePartitions>,
        validate_only: bool,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let deadline = coordinator.now() + timeout.max(MIN_CREATE_DEADLINE);
            let left = || deadline.since(coordinator.now());
            let results = in_turn(topics, left, |more, left| {
                add(coordinator.clone(), more, validate_only, left)
            });
            let results = results.await.into_iter();
            let answers = results.map(|added| added.map_err(|e| partitions_failure(&e)));
            answers.collect()
        })
    }

    fn reassign(
        &self,
        changes: Vec<ReplicaChange>,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let deadline = timeout.max(MIN_CREATE_DEADLINE);
            let change = |c: ReplicaChange| ReassignTo {
                partition: c.partition,
                target: c.target,
                may_change_count: c.may_change_count,
            };
            let changes: Vec<ReassignTo> = changes.into_iter().map(change).collect();
            answers(coordinator.reassign_partitions(&changes, deadline).await)
        })
    }

    fn reassignments(&self) -> BTreeMap<PartitionId, Reassigning> {
        let state = self.coordinator.cluster_state();
        let under_way = state.reassignments().filter_map(|(id, under_way)| {
            let replicas = state.partition(id)?.replicas.clone();
            let missing = |of: &[BrokerId], all: &[BrokerId]| {
                let missing = all.iter().filter(|broker| !of.contains(broker));
                missing.copied().collect()
            };
            let reassigning = Reassigning {
                adding: missing(&under_way.original, &under_way.target),
                removing: missing(&under_way.target, &replicas),
                replicas,
            };
            Some((*id, reassigning))
        });
        under_way.collect()
    }

    fn elect_preferred(
        &self,
        partitions: Vec<PartitionId>,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let deadline = timeout.max(MIN_CREATE_DEADLINE);
            let elected = coordinator.elect_preferred_of(&partitions, deadline);
            answers(elected.await)
        })
    }

    fn elect_unclean(
        &self,
        partition: PartitionId,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let deadline = timeout.max(MIN_CREATE_DEADLINE);
            let elected = coordinator.elect_unclean(partition, deadline).await;
            elected.map(|_record| ()).map_err(|e| admin_failure(&e))
        })
    }

    fn default_min_isr(&self) -> u32 {
        self.coordinator.config().replication.min_isr
    }

    fn groups(&self) -> Arc<dyn GroupBroker> {
        Arc::new(CoordinatorGroups(self.coordinator.clone()))
    }

    fn auto_create_topics(&self) -> bool {
        self.coordinator.config().topic_defaults.auto_create
    }
}

async fn add(
    coordinator: ClusterCoordinator,
    more: MorePartitions,
    validate_only: bool,
    deadline: Duration,
) -> Result<(), CoordinatorError> {
    let (topic, total, assignments) = (more.topic, more.total, more.assignments);
    if validate_only {
        let checked = coordinator.check_partitions(&topic, total, assignments);
        return checked.map(drop);
    }
    let added = coordinator.add_partitions(&topic, total, assignments, deadline);
    added.await
}

/// Does one after the other, each in the time that is left; those that no time is left for are not begun.
async fn in_turn<T, F: Future<Output = Result<(), CoordinatorError>>>(
    items: Vec<T>,
    left: impl Fn() -> Duration,
    mut one: impl FnMut(T, Duration) -> F,
) -> Vec<Result<(), CoordinatorError>> {
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        let left = left();
        if left.is_zero() {
            results.push(Err(CoordinatorError::NotYet));
            continue;
        }
        results.push(one(item, left).await);
        // One that has nothing to wait for would keep the thread, and whoever is to end this, for all.
        tokio::task::yield_now().await;
    }
    results
}

fn answers(results: Vec<Result<(), CoordinatorError>>) -> Vec<Result<(), TopicFailure>> {
    let answer = |result: Result<(), CoordinatorError>| result.map_err(|e| admin_failure(&e));
    results.into_iter().map(answer).collect()
}

/// The coordinator's consumer groups.
struct CoordinatorGroups(ClusterCoordinator);

impl GroupBroker for CoordinatorGroups {
    fn coordinator(&self) -> BoxFuture<'static, Option<BrokerId>> {
        let coordinator = self.0.clone();
        Box::pin(async move { coordinator.group_coordinator().await })
    }

    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        self.0.groups().call(request)
    }

    fn read(&self) -> BoxFuture<'static, Result<Arc<GroupsState>, GroupError>> {
        let groups = self.0.groups().clone();
        Box::pin(async move { groups.read().await })
    }

    fn phase(&self, group: &Group) -> GroupPhase {
        self.0.groups().phase(group)
    }

    fn random_id(&self) -> [u8; 16] {
        self.0.groups().random_id()
    }
}

async fn create(
    coordinator: &ClusterCoordinator,
    topic: NewTopic,
    validate_only: bool,
    deadline: Duration,
) -> Result<CreatedTopic, CoordinatorError> {
    let name = topic.name.clone();
    let topic = rivven_coordinator::NewTopic {
        name: topic.name,
        partitions: topic.partitions,
        replication_factor: topic.replication_factor.map(u32::from),
        assignment: (!topic.assignments.is_empty()).then_some(topic.assignments),
        min_isr: topic.min_isr,
        durability: topic.durability.unwrap_or_default(),
        log: topic.log,
    };
    let (partitions, factor, id) = if validate_only {
        let replicas = coordinator.check_topic(&topic)?;
        let factor = replicas.first().map_or(0, Vec::len);
        (
            replicas.len(),
            factor,
            rivven_core_types::TopicId::from_bytes([0; 16]),
        )
    } else {
        let id = coordinator.create_topic(&topic, deadline).await?;
        let state = coordinator.cluster_state();
        let made = state.topic_by_id(&id).ok_or_else(|| {
            CoordinatorError::UnexpectedAnswer(format!("topic {name} was deleted at once"))
        })?;
        let factor = usize::try_from(made.replication_factor).unwrap_or(usize::MAX);
        (
            usize::try_from(made.partitions).unwrap_or(usize::MAX),
            factor,
            id,
        )
    };
    Ok(CreatedTopic {
        id,
        partitions: u32::try_from(partitions).unwrap_or(u32::MAX),
        replication_factor: u16::try_from(factor).unwrap_or(u16::MAX),
    })
}

impl Published {
    fn refresh(&mut self, state: &Arc<ClusterState>, controller: Option<BrokerId>, now: MonoTime) {
        let same_state = self
            .state
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, state));
        // A fenced broker's time on the list may run out without any change of the metadata.
        let aged = now.since(self.made_at) > FENCED_STAYS_LISTED / 10;
        if same_state && self.controller == controller && !aged {
            return;
        }
        self.refresh_topics(state);
        let brokers: Vec<BrokerInfo> = state
            .brokers()
            .filter(|b| self.is_listed(b, now))
            .map(info_of)
            .collect();
        let cluster_id = state
            .cluster_id()
            .map(|id| id.to_string())
            .unwrap_or_default();
        let topics = self.topics.values().cloned();
        self.snapshot = Arc::new(ClusterSnapshot::new(
            cluster_id, controller, brokers, topics,
        ));
        self.state = Some(Arc::clone(state));
        self.controller = controller;
        self.made_at = now;
    }

    fn refresh_topics(&mut self, state: &ClusterState) {
        let availability_changed = self.state.as_ref().is_none_or(|before| {
            let active = |s: &ClusterState| -> Vec<BrokerId> {
                s.brokers()
                    .filter(|b| b.is_active())
                    .map(|b| b.id)
                    .collect()
            };
            active(before) != active(state)
        });
        self.topics.retain(|id, _| state.topic_by_id(id).is_some());
        let changed: std::collections::BTreeSet<_> = match &self.state {
            Some(before) if !availability_changed => state
                .changed_since(before)
                .into_iter()
                .map(|id| id.topic)
                .collect(),
            _ => state.topics().map(|topic| topic.id).collect(),
        };
        for topic in changed.iter().filter_map(|id| state.topic_by_id(id)) {
            self.topics
                .insert(topic.id, Arc::new(topic_info(topic, state)));
        }
    }

    fn is_listed(&mut self, broker: &BrokerRecord, now: MonoTime) -> bool {
        if broker.is_active() {
            self.fenced_since.remove(&broker.id);
            return true;
        }
        // A broker that was never active for this node's clients has nothing to be missed for.
        let was_listed = self.snapshot.broker(broker.id).is_some();
        let since = *self.fenced_since.entry(broker.id).or_insert(now);
        was_listed && now.since(since) < FENCED_STAYS_LISTED
    }
}

fn info_of(broker: &BrokerRecord) -> BrokerInfo {
    BrokerInfo {
        id: broker.id,
        host: broker.info.client_addr.host().to_owned(),
        port: broker.info.client_addr.port(),
        rack: broker.info.rack.clone(),
    }
}

fn topic_info(topic: &TopicRecord, state: &ClusterState) -> TopicInfo {
    let partition = |p: &PartitionState| PartitionInfo {
        leader: p.leader,
        leader_epoch: p.leader_epoch,
        replicas: p.replicas.clone(),
        isr: p.isr.clone(),
        offline_replicas: p
            .replicas
            .iter()
            .copied()
            .filter(|id| !state.is_active(*id))
            .collect(),
    };
    TopicInfo {
        name: topic.name.clone(),
        id: topic.id,
        partitions: state.partitions_of_topic(topic.id).map(partition).collect(),
        settings: TopicSettings {
            min_isr: topic.min_isr,
            durability: topic.durability,
            log: topic.log,
        },
    }
}

#[cfg(test)]
mod tests;
