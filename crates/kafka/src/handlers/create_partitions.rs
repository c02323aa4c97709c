use std::collections::BTreeMap;

use kafka_protocol::messages::CreatePartitionsResponse;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::BrokerId;

use super::{Answer, Context, Outcome, Pending, bounded_timeout, within};
use crate::api::Call;
use crate::broker::{MorePartitions, TopicFailure};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{CreatePartitionsRequest, PartitionsRequest};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = CreatePartitionsRequest::decode(reader)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let mut repeats: BTreeMap<StrBytes, usize> = BTreeMap::new();
        for topic in &request.topics {
            *repeats.entry(topic.name.clone()).or_default() += 1;
        }
        let timeout = bounded_timeout(request.timeout_ms);
        let cluster = context.broker.cluster();
        let mut slots = Vec::with_capacity(request.topics.len());
        let mut topics = Vec::new();
        for topic in &request.topics {
            let repeated = repeats.get(&topic.name).is_some_and(|count| *count > 1);
            slots.push(check(&cluster, topic, repeated).map(|more| topics.push(more)));
        }
        drop(cluster);
        let mut added = if topics.is_empty() {
            Vec::new()
        } else {
            let validate_only = request.validate_only;
            let added = context
                .broker
                .create_partitions(topics, validate_only, timeout);
            within(timeout, added).await.unwrap_or_default()
        }
        .into_iter();
        let mut failed = false;
        let mut results = Vec::with_capacity(slots.len());
        for (topic, slot) in request.topics.into_iter().zip(slots) {
            let late =
                || TopicFailure::new(BrokerError::TimedOut, "the cluster did not answer in time");
            let result = slot.and_then(|()| added.next().unwrap_or_else(|| Err(late())));
            failed |= result.is_err();
            let response = CreatePartitionsTopicResult::default().with_name(topic.name.into());
            results.push(match result {
                Ok(()) => response.with_error_message(None),
                Err(failure) => response
                    .with_error_code(failure.error.code())
                    .with_error_message(Some(StrBytes::from_string(failure.message))),
            });
        }
        let response = CreatePartitionsResponse::default().with_results(results);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// Checks what can be checked without the metadata behind the port.
fn check(
    cluster: &ClusterSnapshot,
    topic: &PartitionsRequest,
    repeated: bool,
) -> Result<MorePartitions, TopicFailure> {
    if repeated {
        return Err(TopicFailure::new(
            BrokerError::InvalidRequest,
            "the topic is named more than once in the request",
        ));
    }
    let found = cluster.topic(&topic.name).ok_or_else(|| {
        let message = format!("there is no topic {:?}", topic.name.as_str());
        TopicFailure::new(BrokerError::UnknownPartition, message)
    })?;
    // The cluster knows how many there are; here only what is no number of partitions is refused.
    let total = u32::try_from(topic.count).map_err(|_| {
        let message = format!("{} is no number of partitions", topic.count);
        TopicFailure::new(BrokerError::InvalidPartitions, message)
    })?;
    let ids = |brokers: &Vec<i32>| brokers.iter().map(|id| BrokerId::new(*id)).collect();
    let assignments = topic.assignments.as_ref();
    Ok(MorePartitions {
        topic: found.name.clone(),
        total,
        assignments: assignments.map(|lists| lists.iter().map(ids).collect()),
    })
}
