use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::MetadataResponse;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::{BrokerId, LogConfig, TopicId, TopicName};
use uuid::Uuid;

use super::{Answer, Context, DEFAULT_TIMEOUT, Outcome, Pending, within};
use crate::api::Call;
use crate::broker::{CreateTopics, NewTopic};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{MetadataRequest, MetadataTopicRequest};
use crate::snapshot::{BrokerInfo, ClusterSnapshot, PartitionInfo, TopicInfo};
use crate::wire::{DecodeError, Reader};

/// Most topics that one Metadata request creates; those above it stay unknown until asked for again.
const MAX_AUTO_CREATED: usize = 100;
/// Stands for "no broker".
const NO_BROKER: i32 = -1;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = MetadataRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let failures = auto_create(&context, &request).await;
        let cluster = context.broker.cluster();
        let topics = match &request.topics {
            None => cluster.topics().map(|t| describe(&cluster, t)).collect(),
            Some(asked) => lookup(&cluster, call.version, asked, &failures),
        };
        let failed = topics.iter().any(|topic| topic.error_code != 0);
        let controller = cluster.controller().map_or(NO_BROKER, BrokerId::get);
        let response = MetadataResponse::default()
            .with_brokers(cluster.brokers().map(broker).collect())
            .with_cluster_id(Some(text(cluster.cluster_id())))
            .with_controller_id(controller.into())
            .with_topics(topics);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// Creates the topics that are named, unknown and may be created; gives the code for each that was
/// tried: 5 means "ask again".
async fn auto_create(context: &Context, request: &MetadataRequest) -> Vec<(StrBytes, i16)> {
    if !(request.allow_auto_topic_creation && context.broker.auto_create_topics()) {
        return Vec::new();
    }
    let cluster = context.broker.cluster();
    let asked = request.topics.iter().flatten();
    let missing: BTreeSet<TopicName> = asked
        .filter_map(|topic| topic.name.as_ref())
        .filter(|name| cluster.topic(name).is_none())
        .filter_map(|name| TopicName::new(name.as_str()).ok())
        .take(MAX_AUTO_CREATED)
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let topics = missing.iter().map(|name| NewTopic {
        name: name.clone(),
        partitions: None,
        replication_factor: None,
        assignments: Vec::new(),
        min_isr: None,
        durability: None,
        log: LogConfig::default(),
    });
    let create = CreateTopics {
        topics: topics.collect(),
        validate_only: false,
        timeout: DEFAULT_TIMEOUT,
    };
    let results = within(DEFAULT_TIMEOUT, context.broker.create_topics(create)).await;
    let mut results = results.unwrap_or_default().into_iter();
    missing
        .iter()
        .map(|name| {
            let code = match results.next() {
                Some(Err(failure)) if !may_come(failure.error) => failure.error.code(),
                _ => ResponseError::LeaderNotAvailable.code(),
            };
            (text(name.as_str()), code)
        })
        .collect()
}

const fn may_come(error: BrokerError) -> bool {
    error.is_retriable() || matches!(error, BrokerError::TopicExists)
}

fn lookup(
    cluster: &ClusterSnapshot,
    version: i16,
    asked: &[MetadataTopicRequest],
    failures: &[(StrBytes, i16)],
) -> Vec<MetadataResponseTopic> {
    // Each topic once: a request that repeats a large one would otherwise be answered with gigabytes.
    let mut seen = BTreeSet::new();
    let mut topics = Vec::with_capacity(asked.len());
    for topic in asked {
        let by_id = version >= 12 && topic.id != [0; 16];
        let answer = match &topic.name {
            _ if by_id => cluster
                .topic_by_id(&TopicId::from_bytes(topic.id))
                .map_or_else(|| unknown_id(topic.id), |found| describe(cluster, found)),
            Some(name) => cluster
                .topic(name)
                .map_or_else(|| unknown_name(name, failures), |t| describe(cluster, t)),
            // Before version 12 a null name cannot be answered with one.
            None => MetadataResponseTopic::default()
                .with_error_code(ResponseError::InvalidRequest.code()),
        };
        let key = (answer.name.clone(), *answer.topic_id.as_bytes());
        if seen.insert(key) {
            topics.push(answer);
        }
    }
    topics
}

fn unknown_id(id: [u8; 16]) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(ResponseError::UnknownTopicId.code())
        .with_name(None)
        .with_topic_id(Uuid::from_bytes(id))
}

fn unknown_name(name: &StrBytes, failures: &[(StrBytes, i16)]) -> MetadataResponseTopic {
    let code = if TopicName::new(name.as_str()).is_err() {
        ResponseError::InvalidTopicException.code()
    } else {
        failures
            .binary_search_by(|(failed, _)| failed.as_str().cmp(name.as_str()))
            .ok()
            .and_then(|at| failures.get(at))
            .map_or(BrokerError::UnknownPartition.code(), |(_, code)| *code)
    };
    MetadataResponseTopic::default()
        .with_error_code(code)
        .with_name(Some(name.clone().into()))
}

fn describe(cluster: &ClusterSnapshot, topic: &TopicInfo) -> MetadataResponseTopic {
    let partitions = (0i32..).zip(&topic.partitions);
    MetadataResponseTopic::default()
        .with_name(Some(text(topic.name.as_str()).into()))
        .with_topic_id(Uuid::from_bytes(*topic.id.as_bytes()))
        .with_partitions(partitions.map(|(i, p)| partition(cluster, i, p)).collect())
}

/// A leader that is not among the brokers named in the same response is no leader: clients raise an
/// error to the application for one. Without a leader the partition has code 5.
fn partition(
    cluster: &ClusterSnapshot,
    index: i32,
    partition: &PartitionInfo,
) -> MetadataResponsePartition {
    let listed = |id: &BrokerId| cluster.broker(*id).is_some();
    let leader = partition.leader.filter(listed);
    let error = leader.map_or(ResponseError::LeaderNotAvailable.code(), |_| 0);
    let offline = partition
        .replicas
        .iter()
        .filter(|id| !listed(id) || partition.offline_replicas.contains(id));
    MetadataResponsePartition::default()
        .with_error_code(error)
        .with_partition_index(index)
        .with_leader_id(leader.map_or(NO_BROKER, BrokerId::get).into())
        .with_leader_epoch(partition.leader_epoch.get())
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr))
        .with_offline_replicas(ids(offline))
}

fn ids<'a>(
    brokers: impl IntoIterator<Item = &'a BrokerId>,
) -> Vec<kafka_protocol::messages::BrokerId> {
    brokers.into_iter().map(|id| id.get().into()).collect()
}

fn broker(broker: &BrokerInfo) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(broker.id.get().into())
        .with_host(text(&broker.host))
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.as_ref().map(|rack| text(rack.as_str())))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
