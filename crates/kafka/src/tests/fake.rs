//! An in-memory broker, and both directions of the protocol as a client sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use rivven_coordinator::metadata::TopicChange;
use rivven_core_types::{
    BatchBuilder, BoxFuture, BrokerId, EpochEnd, LeaderEpoch, Offset, PartitionId, ProducerEpoch,
    ProducerId, RecordBatch, TopicId, TopicName,
};
use tokio::sync::watch;

use crate::api::{Call, FixedHeader};
use crate::handlers::{self, Answer, Context};
use crate::{
    Acks, Broker, BrokerError, BrokerInfo, ClusterSnapshot, CreateTopics, CreatedTopic,
    CurrentLeader, FetchRequest, Fetched, FetchedRecords, GroupBroker, KafkaConfig, ListedOffset,
    MorePartitions, OffsetQuery, PartitionInfo, Produced, Reassigning, ReplicaChange, TopicFailure,
    TopicInfo,
};

pub(crate) const TOPIC: &str = "orders";
pub(crate) const TOPIC_ID: [u8; 16] = [7; 16];
pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch::new(5);
/// A leader that is in the broker list.
pub(crate) const LEADER: CurrentLeader = CurrentLeader {
    broker: BrokerId::new(2),
    epoch: LeaderEpoch::new(6),
};

type Log = Vec<RecordBatch>;

#[derive(Default)]
struct State {
    cluster: Arc<ClusterSnapshot>,
    logs: BTreeMap<PartitionId, Log>,
    fail: Option<BrokerError>,
    created: Vec<CreateTopics>,
    reassignments: BTreeMap<PartitionId, Reassigning>,
    /// What an operator asked for, in words.
    asked: Vec<String>,
    altered: Vec<TopicChange>,
    auto_create: bool,
    never_answers: bool,
}

/// One broker that leads everything, or fails everything with the same error.
pub(crate) struct FakeBroker {
    state: Mutex<State>,
    appends: watch::Sender<usize>,
}

pub(crate) fn broker_info(id: i32) -> BrokerInfo {
    BrokerInfo {
        id: BrokerId::new(id),
        host: format!("broker-{id}"),
        port: 9092,
        rack: (id == 2).then(|| "rack-2".parse().unwrap()),
    }
}

pub(crate) fn topic(name: &str, id: [u8; 16], leader: Option<i32>) -> Arc<TopicInfo> {
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId::new(*id)).collect();
    let partition = PartitionInfo {
        leader: leader.map(BrokerId::new),
        leader_epoch: EPOCH,
        replicas: ids(&[1, 2, 9]),
        isr: ids(&[1, 2]),
        offline_replicas: ids(&[2]),
    };
    Arc::new(TopicInfo {
        name: TopicName::new(name).unwrap(),
        id: TopicId::from_bytes(id),
        partitions: vec![partition.clone(), partition],
        settings: crate::TopicSettings::default(),
    })
}

pub(crate) fn cluster(topics: Vec<Arc<TopicInfo>>) -> Arc<ClusterSnapshot> {
    let brokers = [broker_info(1), broker_info(2)];
    Arc::new(ClusterSnapshot::new(
        "cluster",
        Some(BrokerId::new(1)),
        brokers,
        topics,
    ))
}

pub(crate) fn partition(index: u32) -> PartitionId {
    PartitionId::new(TopicId::from_bytes(TOPIC_ID), index)
}

pub(crate) fn batch(value: &str) -> RecordBatch {
    let builder = BatchBuilder::new(1_000);
    builder
        .record(1_000, None, Some(value.as_bytes()))
        .build()
        .unwrap()
}

impl FakeBroker {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            cluster: cluster(vec![topic(TOPIC, TOPIC_ID, Some(1))]),
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            appends: watch::channel(0).0,
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub(crate) fn set_cluster(&self, cluster: Arc<ClusterSnapshot>) {
        self.with(|state| state.cluster = cluster);
    }

    pub(crate) fn fail(&self, error: Option<BrokerError>) {
        self.with(|state| state.fail = error);
    }

    pub(crate) fn auto_create(&self) {
        self.with(|state| state.auto_create = true);
    }

    pub(crate) fn never_answer(&self) {
        self.with(|state| state.never_answers = true);
    }

    pub(crate) fn created(&self) -> Vec<CreateTopics> {
        self.with(|state| state.created.clone())
    }

    pub(crate) fn altered(&self) -> Vec<TopicChange> {
        self.with(|state| state.altered.clone())
    }

    /// What an operator has asked for since the last call.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.asked))
    }

    pub(crate) fn set_reassignments(&self, under_way: BTreeMap<PartitionId, Reassigning>) {
        self.with(|state| state.reassignments = under_way);
    }

    /// The same answer for each of several wishes.
    fn asked_all(&self, wishes: Vec<String>) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let asked: Vec<_> = wishes.into_iter().map(|wish| self.asked(wish)).collect();
        Box::pin(async move {
            let mut answers = Vec::new();
            for one in asked {
                answers.push(one.await);
            }
            answers
        })
    }

    fn asked(&self, wish: String) -> BoxFuture<'static, Result<(), TopicFailure>> {
        let result = self.with(|state| {
            state.asked.push(wish);
            let message = "no".to_owned();
            state
                .fail
                .map_or(Ok(()), |error| Err(TopicFailure { error, message }))
        });
        Box::pin(async move { result })
    }

    /// The first values of the batches in a log, in order.
    pub(crate) fn values(&self, index: u32) -> Vec<String> {
        self.with(|state| {
            let log = state
                .logs
                .get(&partition(index))
                .cloned()
                .unwrap_or_default();
            log.iter()
                .map(|batch| {
                    let record = batch.records().next().unwrap().unwrap();
                    String::from_utf8(record.value.unwrap().to_vec()).unwrap()
                })
                .collect()
        })
    }

    /// Waits until so many batches have been appended, in all.
    pub(crate) async fn appended(&self, count: usize) {
        let mut appends = self.appends.subscribe();
        let wait = appends.wait_for(|seen| *seen >= count);
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(waited.is_ok(), "{count} batches were not appended in time");
    }

    fn read(&self, request: &FetchRequest) -> Vec<Fetched> {
        self.with(|state| {
            let one = |asked: &crate::FetchPartition| {
                if let Some(error) = state.fail {
                    return Err(error);
                }
                let log = state
                    .logs
                    .get(&asked.partition)
                    .cloned()
                    .unwrap_or_default();
                let end = i64::try_from(log.len()).unwrap();
                let from = usize::try_from(asked.offset.get()).unwrap_or(usize::MAX);
                let rest = log.get(from..).ok_or(BrokerError::OffsetOutOfRange)?;
                let mut records = BytesMut::new();
                rest.iter()
                    .for_each(|batch| records.put_slice(batch.bytes()));
                Ok(FetchedRecords {
                    high_watermark: Offset::new(end).unwrap(),
                    log_start: Offset::ZERO,
                    records: records.freeze(),
                })
            };
            let partitions = request.partitions.iter();
            partitions
                .map(|asked| Fetched { result: one(asked) })
                .collect()
        })
    }
}

impl Broker for Arc<FakeBroker> {
    fn cluster(&self) -> Arc<ClusterSnapshot> {
        self.with(|state| Arc::clone(&state.cluster))
    }

    fn produce(
        &self,
        partition: PartitionId,
        batch: RecordBatch,
        acks: Acks,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<Produced, BrokerError>> {
        let (result, never) = self.with(|state| {
            if let Some(error) = state.fail {
                return (Err(error), state.never_answers);
            }
            let log = state.logs.entry(partition).or_default();
            let base_offset = Offset::new(i64::try_from(log.len()).unwrap()).unwrap();
            log.push(batch.restamped(base_offset, EPOCH));
            let produced = Produced {
                base_offset,
                log_append_time: (acks == Acks::Leader).then_some(77),
                log_start: Offset::ZERO,
            };
            (Ok(produced), state.never_answers)
        });
        self.appends.send_modify(|count| *count += 1);
        Box::pin(async move {
            if never {
                std::future::pending::<()>().await;
            }
            result
        })
    }

    fn fetch(&self, request: FetchRequest) -> BoxFuture<'static, Vec<Fetched>> {
        let broker = Self::clone(self);
        Box::pin(async move {
            let mut appends = broker.appends.subscribe();
            let enough = async {
                loop {
                    appends.borrow_and_update();
                    let read = broker.read(&request);
                    let sizes = read
                        .iter()
                        .map(|f| f.result.as_ref().map(|r| r.records.len()));
                    let total: usize = sizes.clone().flatten().sum();
                    if total >= request.min_bytes || sizes.into_iter().any(|size| size.is_err()) {
                        return read;
                    }
                    appends.changed().await.unwrap();
                }
            };
            let waited = tokio::time::timeout(request.max_wait, enough).await;
            waited.unwrap_or_else(|_| broker.read(&request))
        })
    }

    fn list_offset(
        &self,
        partition: PartitionId,
        _current_leader_epoch: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> BoxFuture<'static, Result<Option<ListedOffset>, BrokerError>> {
        let result = self.with(|state| {
            if let Some(error) = state.fail {
                return Err(error);
            }
            let end = state.logs.get(&partition).map_or(0, Vec::len);
            let (offset, timestamp) = match query {
                OffsetQuery::Earliest => (0, None),
                OffsetQuery::Latest => (i64::try_from(end).unwrap(), None),
                OffsetQuery::MaxTimestamp => (3, Some(30)),
                OffsetQuery::AtOrAfter(time) if time > 1_000 => return Ok(None),
                OffsetQuery::AtOrAfter(time) => (1, Some(time)),
            };
            Ok(Some(ListedOffset {
                offset: Offset::new(offset).unwrap(),
                timestamp,
                leader_epoch: Some(EPOCH),
            }))
        });
        Box::pin(async move { result })
    }

    fn epoch_end(
        &self,
        partition: PartitionId,
        asked: LeaderEpoch,
        _current_leader_epoch: Option<LeaderEpoch>,
    ) -> BoxFuture<'static, Result<Option<EpochEnd>, BrokerError>> {
        let result = self.with(|state| {
            let end = state.logs.get(&partition).map_or(0, Vec::len);
            let end = EpochEnd {
                epoch: EPOCH,
                end: Offset::new(i64::try_from(end).unwrap()).unwrap(),
            };
            state
                .fail
                .map_or_else(|| Ok((asked >= EPOCH).then_some(end)), Err)
        });
        Box::pin(async move { result })
    }

    fn init_producer_id(
        &self,
    ) -> BoxFuture<'static, Result<(ProducerId, ProducerEpoch), BrokerError>> {
        let fail = self.with(|state| state.fail);
        Box::pin(
            async move { fail.map_or(Ok((ProducerId::new(1000), ProducerEpoch::new(0))), Err) },
        )
    }

    fn create_topics(
        &self,
        request: CreateTopics,
    ) -> BoxFuture<'static, Vec<Result<CreatedTopic, TopicFailure>>> {
        let results = self.with(|state| {
            state.created.push(request.clone());
            let one = |topic: &crate::NewTopic| match state.fail {
                Some(error) => Err(TopicFailure {
                    error,
                    message: "no".to_owned(),
                }),
                None => Ok(CreatedTopic {
                    id: TopicId::from_bytes([9; 16]),
                    partitions: topic.partitions.unwrap_or(4),
                    replication_factor: topic.replication_factor.unwrap_or(3),
                }),
            };
            request.topics.iter().map(one).collect()
        });
        Box::pin(async move { results })
    }

    fn delete_topic(
        &self,
        name: TopicName,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        self.asked(format!("delete {name}"))
    }

    fn alter_topic(
        &self,
        name: TopicName,
        change: TopicChange,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        self.with(|state| state.altered.push(change));
        self.asked(format!("alter {name}"))
    }

    fn delete_records(
        &self,
        partition: PartitionId,
        before: Option<Offset>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<Offset, BrokerError>> {
        let asked = self.asked(format!("delete records of {}", partition.index));
        let end = Offset::new(99).unwrap();
        Box::pin(async move {
            asked.await.map_err(|failure| failure.error)?;
            Ok(before.unwrap_or(end))
        })
    }

    fn create_partitions(
        &self,
        topics: Vec<MorePartitions>,
        validate_only: bool,
        _timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let verb = if validate_only { "check" } else { "grow" };
        let wish = |more: MorePartitions| {
            let MorePartitions {
                topic,
                total,
                assignments,
            } = more;
            format!("{verb} {topic} to {total} on {assignments:?}")
        };
        self.asked_all(topics.into_iter().map(wish).collect())
    }

    fn reassign(
        &self,
        changes: Vec<ReplicaChange>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let wish = |change: ReplicaChange| {
            let ids = |brokers: Vec<BrokerId>| brokers.iter().map(|b| b.get()).collect::<Vec<_>>();
            let target = change.target.map(ids);
            let number = if change.may_change_count {
                ", however many"
            } else {
                ""
            };
            format!("move {} to {target:?}{number}", change.partition.index)
        };
        self.asked_all(changes.into_iter().map(wish).collect())
    }

    fn reassignments(&self) -> BTreeMap<PartitionId, Reassigning> {
        self.with(|state| state.reassignments.clone())
    }

    fn elect_preferred(
        &self,
        partitions: Vec<PartitionId>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>> {
        let wish = |id: &PartitionId| format!("prefer for {}", id.index);
        self.asked_all(partitions.iter().map(wish).collect())
    }

    fn elect_unclean(
        &self,
        partition: PartitionId,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>> {
        self.asked(format!("elect for {}", partition.index))
    }

    fn default_min_isr(&self) -> u32 {
        2
    }

    fn groups(&self) -> Arc<dyn GroupBroker> {
        Arc::new(super::groups::FakeGroups)
    }

    fn auto_create_topics(&self) -> bool {
        self.with(|state| state.auto_create)
    }
}

/// A request frame without its length, as a client encodes it.
pub(crate) fn encode<M: Request>(version: i16, correlation: i32, message: &M) -> Bytes {
    let mut bytes = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(M::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("test")))
        .encode(&mut bytes, M::header_version(version))
        .unwrap();
    message.encode(&mut bytes, version).unwrap();
    bytes.freeze()
}

/// A response frame without its length, as a client decodes it.
pub(crate) fn decode<M: Request>(version: i16, correlation: i32, mut frame: Bytes) -> M::Response {
    let header = M::Response::header_version(version);
    let header = ResponseHeader::decode(&mut frame, header).unwrap();
    assert_eq!(header.correlation_id, correlation);
    let response = M::Response::decode(&mut frame, version).unwrap();
    assert!(frame.is_empty(), "{} bytes left over", frame.len());
    response
}

pub(crate) fn context(broker: &Arc<FakeBroker>) -> Context {
    Context {
        broker: Arc::new(Arc::clone(broker)),
        config: Arc::new(KafkaConfig::default()),
        peer: None,
    }
}

pub(crate) fn open(frame: &Bytes) -> (Call, Bytes) {
    let mut rest = frame.clone();
    let header = FixedHeader::split_from(&mut rest).unwrap();
    let call = Call {
        api: crate::api::ApiKey::from_key(header.key).unwrap(),
        version: header.version,
        correlation: header.correlation,
    };
    (call, rest)
}

/// What the handlers answer to a request of a client.
pub(crate) async fn answer<M: Request>(broker: &Arc<FakeBroker>, version: i16, m: &M) -> Answer {
    let (call, rest) = open(&encode(version, 42, m));
    let pending = handlers::start(&context(broker), call, rest).unwrap();
    pending.await.unwrap()
}

/// As [`answer`], decoded as a client does.
pub(crate) async fn call<M: Request>(
    broker: &Arc<FakeBroker>,
    version: i16,
    message: &M,
) -> M::Response {
    let mut frame = answer(broker, version, message).await.frame.unwrap();
    let announced = usize::try_from(frame.get_i32()).unwrap();
    let bytes = frame.copy_to_bytes(frame.remaining());
    assert_eq!(announced, bytes.len());
    decode::<M>(version, 42, bytes)
}
