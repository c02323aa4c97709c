use std::collections::BTreeMap;

use kafka_protocol::messages::CreateTopicsResponse;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::metadata::TopicChange;
use rivven_core_types::limits::{MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR};
use rivven_core_types::{BrokerId, LogConfig, TopicName};
use uuid::Uuid;

use super::{Answer, Context, Outcome, Pending, bounded_timeout, within};
use crate::api::Call;
use crate::broker::{CreateTopics, CreatedTopic, NewTopic, TopicFailure};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{CreateTopicsRequest, TopicRequest};
use crate::topic_config;
use crate::wire::{DecodeError, Reader};

/// What a client sends for "the cluster's default" (KIP-464).
const DEFAULT: i32 = -1;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = CreateTopicsRequest::decode(reader)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let mut repeats: BTreeMap<StrBytes, usize> = BTreeMap::new();
        for topic in &request.topics {
            *repeats.entry(topic.name.clone()).or_default() += 1;
        }
        let mut slots = Vec::with_capacity(request.topics.len());
        let mut topics = Vec::new();
        for topic in &request.topics {
            let repeated = repeats.get(&topic.name).is_some_and(|count| *count > 1);
            slots.push(check(topic, repeated).map(|topic| topics.push(topic)));
        }
        let timeout = bounded_timeout(request.timeout_ms);
        let create = CreateTopics {
            topics,
            validate_only: request.validate_only,
            timeout,
        };
        let mut created = if create.topics.is_empty() {
            Vec::new()
        } else {
            within(timeout, context.broker.create_topics(create))
                .await
                .unwrap_or_default()
        }
        .into_iter();
        let mut failed = false;
        let mut results = Vec::with_capacity(slots.len());
        for (topic, slot) in request.topics.into_iter().zip(slots) {
            let late =
                || TopicFailure::new(BrokerError::TimedOut, "the cluster did not answer in time");
            let result = slot.and_then(|()| created.next().unwrap_or_else(|| Err(late())));
            failed |= result.is_err();
            results.push(respond(topic.name, result));
        }
        let response = CreateTopicsResponse::default().with_topics(results);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

fn respond(name: StrBytes, result: Result<CreatedTopic, TopicFailure>) -> CreatableTopicResult {
    let response = CreatableTopicResult::default().with_name(name.into());
    match result {
        Ok(topic) => response
            .with_topic_id(Uuid::from_bytes(*topic.id.as_bytes()))
            .with_error_message(None)
            .with_num_partitions(i32::try_from(topic.partitions).unwrap_or(i32::MAX))
            .with_replication_factor(i16::try_from(topic.replication_factor).unwrap_or(i16::MAX)),
        Err(failure) => response
            .with_error_code(failure.error.code())
            .with_error_message(Some(StrBytes::from_string(failure.message))),
    }
}

/// Checks what can be checked without the cluster.
fn check(topic: &TopicRequest, repeated: bool) -> Result<NewTopic, TopicFailure> {
    if repeated {
        return Err(TopicFailure::new(
            BrokerError::InvalidRequest,
            "the topic is named more than once in the request",
        ));
    }
    let name = TopicName::new(topic.name.as_str())
        .map_err(|error| TopicFailure::new(BrokerError::InvalidTopic, error.to_string()))?;
    let assignments = assignments(topic)?;
    let (partitions, replication_factor) = if assignments.is_empty() {
        (partitions(topic)?, replication_factor(topic)?)
    } else if topic.num_partitions != DEFAULT || i32::from(topic.replication_factor) != DEFAULT {
        return Err(TopicFailure::new(
            BrokerError::InvalidRequest,
            "give either replica assignments or the two numbers, not both",
        ));
    } else {
        (None, None)
    };
    let mut new = NewTopic {
        name,
        partitions,
        replication_factor,
        assignments,
        min_isr: None,
        durability: None,
        log: LogConfig::default(),
    };
    let mut settings = TopicChange::default();
    for (key, value) in topic.configs.iter().filter(|(_, value)| value.is_some()) {
        // Without a value it is the default, which the cluster fills in.
        topic_config::set(&mut settings, key, value.as_deref(), 1)
            .map_err(|message| TopicFailure::new(BrokerError::InvalidConfig, message))?;
    }
    new.min_isr = settings.min_isr;
    new.durability = settings.durability;
    new.log = settings.apply_to(new.log);
    Ok(new)
}

fn partitions(topic: &TopicRequest) -> Result<Option<u32>, TopicFailure> {
    if topic.num_partitions == DEFAULT {
        return Ok(None);
    }
    u32::try_from(topic.num_partitions)
        .ok()
        .filter(|count| (1..=MAX_PARTITIONS_PER_TOPIC).contains(count))
        .map(Some)
        .ok_or_else(|| {
            let message = format!(
                "{} partitions; allowed are 1..={MAX_PARTITIONS_PER_TOPIC}, or -1 for the default",
                topic.num_partitions
            );
            TopicFailure::new(BrokerError::InvalidPartitions, message)
        })
}

fn replication_factor(topic: &TopicRequest) -> Result<Option<u16>, TopicFailure> {
    if i32::from(topic.replication_factor) == DEFAULT {
        return Ok(None);
    }
    u16::try_from(topic.replication_factor)
        .ok()
        .filter(|factor| (1..=MAX_REPLICATION_FACTOR).contains(&usize::from(*factor)))
        .map(Some)
        .ok_or_else(|| {
            let message = format!(
                "replication factor {}; allowed are 1..={MAX_REPLICATION_FACTOR}, or -1 for the default",
                topic.replication_factor
            );
            TopicFailure::new(BrokerError::InvalidReplicationFactor, message)
        })
}

/// The replicas of partition 0, 1, ...: no gap, no broker twice, all lists of one length.
fn assignments(topic: &TopicRequest) -> Result<Vec<Vec<BrokerId>>, TopicFailure> {
    let invalid = |message: &str| TopicFailure::new(BrokerError::InvalidReplicaAssignment, message);
    let mut by_index = BTreeMap::new();
    for (index, brokers) in &topic.assignments {
        if brokers.is_empty() || brokers.len() > MAX_REPLICATION_FACTOR {
            return Err(invalid("a partition needs 1 to 15 replicas"));
        }
        let mut sorted = brokers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != brokers.len() {
            return Err(invalid("a broker is named twice for one partition"));
        }
        if by_index.insert(*index, brokers).is_some() {
            return Err(invalid("a partition is named twice"));
        }
    }
    let factor = by_index.values().next().map_or(0, |brokers| brokers.len());
    let mut assignments = Vec::with_capacity(by_index.len());
    for (expected, (index, brokers)) in (0i32..).zip(by_index) {
        if index != expected {
            return Err(invalid("the partitions must be 0, 1, 2, ... without a gap"));
        }
        if brokers.len() != factor {
            return Err(invalid(
                "all partitions must have the same number of replicas",
            ));
        }
        assignments.push(brokers.iter().map(|id| BrokerId::new(*id)).collect());
    }
    Ok(assignments)
}
