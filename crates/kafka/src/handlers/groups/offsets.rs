//! OffsetCommit, OffsetFetch, OffsetDelete.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::consumer_groups::{
    CommittedOffset, Committer, Epoch, GroupError, GroupsState, MAX_OFFSET_METADATA_BYTES,
    OffsetToCommit, Op, Request, subscribed_topics,
};
use rivven_core_types::PartitionId;

use super::{done, group_id, instance_id, member_id, text};
use crate::api::Call;
use crate::frame::Frame;
use crate::handlers::list_offsets::partition_id;
use crate::handlers::{Answer, Context, Outcome, Pending};
use crate::requests::{
    CommitPartition, NamedPartitions, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

pub(in crate::handlers) fn commit(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = OffsetCommitRequest::decode(reader, call.version)?;
    let cluster = context.broker.cluster();
    // What can be said of each partition at once; the rest goes to the coordinator together.
    let mut offsets = Vec::new();
    let check = |name: &str, partition: &CommitPartition| -> Result<OffsetToCommit, GroupError> {
        let id = partition_id(&cluster, name, partition.index);
        let metadata = partition.metadata.as_ref().map_or("", |m| m.as_str());
        if metadata.len() > MAX_OFFSET_METADATA_BYTES {
            return Err(GroupError::MetadataTooLarge(MAX_OFFSET_METADATA_BYTES));
        }
        Ok(OffsetToCommit {
            partition: id.ok_or(GroupError::UnknownPartition)?,
            offset: partition.offset,
            leader_epoch: partition.leader_epoch,
            metadata: metadata.into(),
        })
    };
    let mut checked: Vec<(StrBytes, Vec<(i32, i16)>)> = Vec::new();
    for (name, partitions) in &request.topics {
        let mut codes = Vec::with_capacity(partitions.len());
        for partition in partitions {
            match check(name, partition) {
                Ok(offset) => {
                    offsets.push(offset);
                    codes.push((partition.index, 0));
                }
                Err(error) => codes.push((partition.index, error.code())),
            }
        }
        checked.push((name.clone(), codes));
    }
    let asked = || {
        let by = Committer {
            member: member_id(&request.member)?,
            instance: instance_id(request.instance.as_ref())?,
            epoch: Epoch::new(request.generation),
        };
        let group = group_id(&request.group)?;
        Ok(Request::Propose(Op::Commit { group, by, offsets }))
    };
    let answer = asked().map(|request| context.broker.groups().call(request));
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => done(answer.await),
        };
        let code = match &outcome {
            Ok(()) => 0,
            // A code that came with KIP-848.
            Err(GroupError::GroupNotFound(_)) if call.version < 9 => {
                ResponseError::IllegalGeneration.code()
            }
            Err(error) => error.code(),
        };
        let topics = checked.into_iter().map(|(name, codes)| {
            let partitions = codes.into_iter().map(|(index, own)| {
                let code = if own == 0 { code } else { own };
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code)
            });
            OffsetCommitResponseTopic::default()
                .with_name(name.into())
                .with_partitions(partitions.collect())
        });
        let response = OffsetCommitResponse::default().with_topics(topics.collect());
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(outcome.is_err())))
    }))
}

/// Per topic its partitions, each with its committed offset, if it has one.
type Found = Vec<(StrBytes, Vec<(i32, Option<CommittedOffset>)>)>;

pub(in crate::handlers) fn fetch(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = OffsetFetchRequest::decode(reader, call.version)?;
    let context = context.clone();
    let read = context.broker.groups().read();
    Ok(Box::pin(async move {
        let state = read.await;
        let cluster = context.broker.cluster();
        // Never 15 or 16, nor any error of a partition: librdkafka then never fetches it again. 14 for
        // the group it retries.
        let code = match &state {
            Ok(_) => 0,
            Err(_) => ResponseError::CoordinatorLoadInProgress.code(),
        };
        let found = request.groups.into_iter().map(|(group, asked)| {
            let found = match &state {
                Ok(state) => find(state, &cluster, &group, asked),
                Err(_) => Vec::new(),
            };
            (group, found)
        });
        let response = fetch_response(call.version, found.collect(), code);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(code != 0)))
    }))
}

fn find(
    state: &Arc<GroupsState>,
    cluster: &ClusterSnapshot,
    group: &str,
    asked: Option<NamedPartitions>,
) -> Found {
    let group = group_id(group).ok().and_then(|id| state.group(&id));
    if let Some(asked) = asked {
        let offset = |name: &str, index: i32| {
            let id = partition_id(cluster, name, index)?;
            group?.offset(&id).cloned()
        };
        let topics = asked.into_iter().map(|(name, indexes)| {
            let offsets = indexes.into_iter().map(|i| (i, offset(&name, i))).collect();
            (name, offsets)
        });
        return topics.collect();
    }
    let mut found: Found = Vec::new();
    let mut last: Option<rivven_core_types::TopicId> = None;
    for (partition, offset) in group.into_iter().flat_map(|g| g.offsets()) {
        let Some(topic) = cluster.topic_by_id(&partition.topic) else {
            continue;
        };
        if last != Some(partition.topic) {
            last = Some(partition.topic);
            found.push((text(topic.name.as_str()), Vec::new()));
        }
        if let Some((_, offsets)) = found.last_mut() {
            let index = i32::try_from(partition.index.get()).unwrap_or(i32::MAX);
            offsets.push((index, Some(offset.clone())));
        }
    }
    found
}

fn fetch_response(version: i16, found: Vec<(StrBytes, Found)>, code: i16) -> OffsetFetchResponse {
    let response = OffsetFetchResponse::default();
    if version >= 8 {
        let groups = found.into_iter().map(|(group, topics)| {
            let topics = topics.into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|(index, offset)| {
                    let partition =
                        OffsetFetchResponsePartitions::default().with_partition_index(index);
                    let offset = offset.as_ref();
                    partition
                        .with_committed_offset(offset.map_or(-1, |o| o.offset))
                        .with_committed_leader_epoch(offset.map_or(-1, |o| o.leader_epoch))
                        .with_metadata(Some(text(offset.map_or("", |o| &o.metadata))))
                });
                OffsetFetchResponseTopics::default()
                    .with_name(name.into())
                    .with_partitions(partitions.collect())
            });
            OffsetFetchResponseGroup::default()
                .with_group_id(group.into())
                .with_topics(topics.collect())
                .with_error_code(code)
        });
        return response.with_groups(groups.collect());
    }
    let topics = found.into_iter().flat_map(|(_, topics)| topics);
    let topics = topics.map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, offset)| {
            let partition = OffsetFetchResponsePartition::default().with_partition_index(index);
            let offset = offset.as_ref();
            let partition = partition
                .with_committed_offset(offset.map_or(-1, |o| o.offset))
                .with_metadata(Some(text(offset.map_or("", |o| &o.metadata))));
            if version >= 5 {
                partition.with_committed_leader_epoch(offset.map_or(-1, |o| o.leader_epoch))
            } else {
                partition
            }
        });
        OffsetFetchResponseTopic::default()
            .with_name(name.into())
            .with_partitions(partitions.collect())
    });
    let response = response.with_topics(topics.collect());
    if version >= 2 {
        response.with_error_code(code)
    } else {
        response
    }
}

pub(in crate::handlers) fn delete(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = OffsetDeleteRequest::decode(reader)?;
    let context = context.clone();
    let groups = context.broker.groups();
    Ok(Box::pin(async move {
        let cluster = context.broker.cluster();
        let read = groups.read().await;
        let checked = read.and_then(|state| {
            let id = group_id(&request.group)?;
            let group = state
                .group(&id)
                .ok_or_else(|| GroupError::GroupNotFound(id.clone()))?;
            Ok((id, subscribed_topics(group).unwrap_or_default()))
        });
        let mut code = checked.as_ref().err().map_or(0, GroupError::code);
        let mut wanted: Vec<PartitionId> = Vec::new();
        let mut topics = Vec::new();
        for (name, indexes) in request.topics {
            let subscribed = checked
                .as_ref()
                .is_ok_and(|(_, s)| s.contains(name.as_str()));
            let partitions = indexes.into_iter().map(|index| {
                let own = match partition_id(&cluster, &name, index) {
                    None => GroupError::UnknownPartition.code(),
                    Some(_) if subscribed => GroupError::SubscribedToTopic.code(),
                    Some(id) => {
                        wanted.push(id);
                        0
                    }
                };
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(own)
            });
            let partitions = partitions.collect();
            topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(name.into())
                    .with_partitions(partitions),
            );
        }
        if let (Ok((group, _)), false) = (checked, wanted.is_empty()) {
            let partitions = wanted;
            let op = Op::DeleteOffsets { group, partitions };
            let outcome = done(groups.call(Request::Propose(op)).await);
            code = outcome.err().map_or(0, |e| e.code());
        }
        let response = OffsetDeleteResponse::default().with_error_code(code);
        let response = if code == 0 {
            response.with_topics(topics)
        } else {
            response
        };
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(code != 0)))
    }))
}
