//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsResponse, ListPartitionReassignmentsResponse,
};
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST;
use rivven_core_types::{BrokerId, PartitionId, TopicId};

use super::list_offsets::partition_id;
use super::{Answer, Context, Outcome, Pending, bounded_timeout, within};
use crate::api::Call;
use crate::broker::{Reassigning, ReplicaChange, TopicFailure};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest};
use crate::wire::{DecodeError, Reader};

pub(super) fn alter(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = AlterPartitionReassignmentsRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let mut response = AlterPartitionReassignmentsResponse::default().with_error_message(None);
        if call.version >= 1 {
            response.allow_replication_factor_change = request.allow_replication_factor_change;
        }
        let count: usize = request.topics.iter().map(|(_, p)| p.len()).sum();
        if count > MAX_PARTITIONS_PER_REQUEST {
            let message = format!(
                "{count} partitions in one request; at most {MAX_PARTITIONS_PER_REQUEST} are allowed"
            );
            let response = response
                .with_error_code(BrokerError::InvalidRequest.code())
                .with_error_message(Some(StrBytes::from_string(message)));
            let frame = Frame::encode(call, &response)?;
            return Ok(Answer::write(frame, Outcome::Error));
        }
        let cluster = context.broker.cluster();
        let repeated = repeated(&request);
        let mut changes = Vec::with_capacity(count);
        let mut slots = Vec::with_capacity(count);
        for (name, partitions) in &request.topics {
            for (index, target) in partitions {
                let twice = repeated.contains(&(name.as_str(), *index));
                let found = partition_id(&cluster, name, *index);
                let free = request.allow_replication_factor_change;
                let checked = check(found, target.as_deref(), twice, free);
                slots.push(checked.map(|change| changes.push(change)));
            }
        }
        drop(cluster);
        let timeout = bounded_timeout(request.timeout_ms);
        let answered = if changes.is_empty() {
            Vec::new()
        } else {
            let answered = within(timeout, context.broker.reassign(changes, timeout)).await;
            answered.unwrap_or_default()
        };
        let mut answered = answered.into_iter();
        let mut slots = slots.into_iter();
        let mut failed = false;
        for (name, partitions) in request.topics {
            let mut results = Vec::with_capacity(partitions.len());
            for ((index, _), slot) in partitions.iter().zip(&mut slots) {
                let late = || {
                    TopicFailure::new(BrokerError::TimedOut, "the cluster did not answer in time")
                };
                let result = slot.and_then(|()| answered.next().unwrap_or_else(|| Err(late())));
                failed |= result.is_err();
                let result_of =
                    ReassignablePartitionResponse::default().with_partition_index(*index);
                results.push(match result {
                    Ok(()) => result_of.with_error_message(None),
                    Err(failure) => result_of
                        .with_error_code(failure.error.code())
                        .with_error_message(Some(StrBytes::from_string(failure.message))),
                });
            }
            let topic = ReassignableTopicResponse::default().with_name(name.into());
            response.responses.push(topic.with_partitions(results));
        }
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// The partitions that a request names more than once: which of the targets is meant nobody can tell.
fn repeated(request: &AlterPartitionReassignmentsRequest) -> BTreeSet<(&str, i32)> {
    let mut seen = BTreeSet::new();
    let named = request.topics.iter().flat_map(|(name, partitions)| {
        let indexes = partitions.iter().map(|(index, _)| *index);
        indexes.map(|index| (name.as_str(), index))
    });
    named.filter(|partition| !seen.insert(*partition)).collect()
}

/// Checks what can be checked without the metadata's epochs.
fn check(
    found: Option<PartitionId>,
    target: Option<&[i32]>,
    repeated: bool,
    may_change_count: bool,
) -> Result<ReplicaChange, TopicFailure> {
    if repeated {
        return Err(TopicFailure::new(
            BrokerError::InvalidRequest,
            "the partition is named more than once in the request",
        ));
    }
    let partition = found.ok_or_else(|| {
        let message = "there is no such partition";
        TopicFailure::new(BrokerError::UnknownPartition, message)
    })?;
    if let Some(brokers) = target {
        let invalid =
            |message: &str| TopicFailure::new(BrokerError::InvalidReplicaAssignment, message);
        if brokers.is_empty() {
            return Err(invalid("a partition needs a replica"));
        }
        let distinct: BTreeSet<&i32> = brokers.iter().collect();
        if distinct.len() != brokers.len() {
            return Err(invalid("a broker is named twice for one partition"));
        }
    }
    let ids = |brokers: &[i32]| brokers.iter().map(|id| BrokerId::new(*id)).collect();
    Ok(ReplicaChange {
        partition,
        target: target.map(ids),
        may_change_count,
    })
}

pub(super) fn list(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ListPartitionReassignmentsRequest::decode(reader)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let cluster = context.broker.cluster();
        let under_way = context.broker.reassignments();
        // What is not under way, or does not exist, is left out, as in Kafka.
        let wanted: Option<BTreeSet<PartitionId>> = request.topics.map(|topics| {
            let ids = topics.iter().flat_map(|(name, indexes)| {
                let id = |index: &i32| partition_id(&cluster, name, *index);
                indexes.iter().filter_map(id)
            });
            ids.collect()
        });
        let mut topics: BTreeMap<TopicId, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
        for (id, reassigning) in under_way {
            if wanted.as_ref().is_none_or(|wanted| wanted.contains(&id)) {
                let ongoing = topics.entry(id.topic).or_default();
                ongoing.push(ongoing_of(id, &reassigning));
            }
        }
        let answers = topics.into_iter().filter_map(|(id, partitions)| {
            let name = StrBytes::from_string(cluster.topic_by_id(&id)?.name.to_string());
            let topic = OngoingTopicReassignment::default().with_name(name.into());
            Some(topic.with_partitions(partitions))
        });
        let response = ListPartitionReassignmentsResponse::default()
            .with_error_message(None)
            .with_topics(answers.collect());
        Ok(Answer::write(Frame::encode(call, &response)?, Outcome::Ok))
    }))
}

fn ongoing_of(id: PartitionId, reassigning: &Reassigning) -> OngoingPartitionReassignment {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|b| b.get().into()).collect();
    OngoingPartitionReassignment::default()
        .with_partition_index(i32::try_from(id.index.get()).unwrap_or(i32::MAX))
        .with_replicas(ids(&reassigning.replicas))
        .with_adding_replicas(ids(&reassigning.adding))
        .with_removing_replicas(ids(&reassigning.removing))
}
