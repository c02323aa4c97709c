//! IncrementalAlterConfigs, and what the two APIs of configurations share.

use std::collections::BTreeMap;

use kafka_protocol::messages::IncrementalAlterConfigsResponse;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::metadata::TopicChange;
use rivven_core_types::{BoxFuture, PartitionId, TopicName};

use super::{Answer, Context, DEFAULT_TIMEOUT, Outcome, Pending, all_within};
use crate::api::Call;
use crate::broker::{Reassigning, TopicFailure};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{AlterResource, IncrementalAlterConfigsRequest};
use crate::snapshot::ClusterSnapshot;
use crate::topic_config;
use crate::wire::{DecodeError, Reader};

/// The type of a topic as a resource.
pub(super) const TOPIC: i8 = 2;
/// The type of a broker as a resource.
pub(super) const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = IncrementalAlterConfigsRequest::decode(reader)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let mut repeats: BTreeMap<(i8, &str), usize> = BTreeMap::new();
        for resource in &request.resources {
            *repeats.entry((resource.kind, &resource.name)).or_default() += 1;
        }
        let cluster = context.broker.cluster();
        let under_way = context.broker.reassignments();
        let mut changes: Vec<BoxFuture<'static, Result<(), TopicFailure>>> = Vec::new();
        for resource in &request.resources {
            let once = repeats.get(&(resource.kind, resource.name.as_str())) == Some(&1);
            let default_min_isr = context.broker.default_min_isr();
            let topics = (&*cluster, &under_way);
            changes.push(match read(topics, resource, once, default_min_isr) {
                Ok(_) if request.validate_only => Box::pin(async { Ok(()) }),
                Ok((name, change)) => context.broker.alter_topic(name, change, DEFAULT_TIMEOUT),
                Err(failure) => Box::pin(async move { Err(failure) }),
            });
        }
        drop(cluster);
        let late = TopicFailure::new(BrokerError::TimedOut, "the cluster did not answer in time");
        let results = all_within(DEFAULT_TIMEOUT, changes, Err(late)).await;
        let failed = results.iter().any(Result::is_err);
        let resources = request.resources.iter().zip(results);
        let responses = resources.map(|(resource, result)| {
            let response = AlterConfigsResourceResponse::default()
                .with_resource_type(resource.kind)
                .with_resource_name(resource.name.clone());
            match result {
                Ok(()) => response.with_error_message(None),
                Err(failure) => response
                    .with_error_code(failure.error.code())
                    .with_error_message(Some(StrBytes::from_string(failure.message))),
            }
        });
        let responses = responses.collect();
        let response = IncrementalAlterConfigsResponse::default().with_responses(responses);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// Checks what can be checked here, and reads the change.
fn read(
    (cluster, under_way): (&ClusterSnapshot, &BTreeMap<PartitionId, Reassigning>),
    resource: &AlterResource,
    once: bool,
    default_min_isr: u32,
) -> Result<(TopicName, TopicChange), TopicFailure> {
    if !once {
        let message = "the resource is named more than once in the request";
        return Err(TopicFailure::new(BrokerError::InvalidRequest, message));
    }
    if resource.kind != TOPIC {
        let message = "only topics can be configured by request; brokers have a file";
        return Err(TopicFailure::new(BrokerError::InvalidRequest, message));
    }
    let Some(topic) = cluster.topic(&resource.name) else {
        let message = format!("there is no topic {:?}", resource.name.as_str());
        return Err(TopicFailure::new(BrokerError::UnknownPartition, message));
    };
    let first = PartitionId::new(topic.id, 0);
    let replicas = settled_count(cluster, under_way, &first).unwrap_or(0);
    let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    let mut change = TopicChange::default();
    for (key, operation, value) in &resource.changes {
        let value = match (*operation, value) {
            (SET, Some(value)) => Some(value.as_str()),
            (SET, None) => {
                let message = format!("{:?} is to be set, but has no value", key.as_str());
                return Err(TopicFailure::new(BrokerError::InvalidRequest, message));
            }
            (DELETE, _) => None,
            (other, _) => {
                let message = format!("operation {other} is for lists; {:?} is none", key.as_str());
                return Err(TopicFailure::new(BrokerError::InvalidConfig, message));
            }
        };
        topic_config::set(&mut change, key, value, default_min_isr.min(replicas))
            .map_err(|message| TopicFailure::new(BrokerError::InvalidConfig, message))?;
    }
    // What it is already may be said again, as tools do that state the whole configuration.
    let new_min_isr = change.min_isr.filter(|m| *m != topic.settings.min_isr);
    if new_min_isr.is_some_and(|min_isr| min_isr > replicas) {
        let message = format!(
            "{} must not exceed the {replicas} replicas",
            topic_config::MIN_ISR
        );
        return Err(TopicFailure::new(BrokerError::InvalidConfig, message));
    }
    Ok((topic.name.clone(), change))
}

/// How many replicas a partition has, or is to have once its reassignment is done.
fn settled_count(
    cluster: &ClusterSnapshot,
    under_way: &BTreeMap<PartitionId, Reassigning>,
    id: &PartitionId,
) -> Option<usize> {
    if let Some(r) = under_way.get(id) {
        return Some(r.replicas.len().saturating_sub(r.removing.len()));
    }
    let index = usize::try_from(id.index.get()).ok()?;
    let topic = cluster.topic_by_id(&id.topic)?;
    Some(topic.partitions.get(index)?.replicas.len())
}
