use kafka_protocol::ResponseError;
use kafka_protocol::messages::ListOffsetsResponse;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use rivven_core_types::{BoxFuture, LeaderEpoch, PartitionId};

use super::{Answer, Context, DEFAULT_TIMEOUT, Outcome, Pending, all_within, bounded_timeout};
use crate::api::Call;
use crate::broker::{Broker, ListedOffset, OffsetQuery};
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{ListOffsetsPartitionRequest, ListOffsetsRequest};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

type Listed = Result<Option<ListedOffset>, i16>;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ListOffsetsRequest::decode(reader, call.version)?;
    tracing::trace!(
        replica = request.replica_id,
        isolation = request.isolation_level,
        "ListOffsets"
    );
    let context = context.clone();
    Ok(Box::pin(async move {
        let limit = if request.timeout_ms > 0 {
            bounded_timeout(request.timeout_ms)
        } else {
            DEFAULT_TIMEOUT
        };
        let cluster = context.broker.cluster();
        let mut asked = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let id = partition_id(&cluster, &topic.name, partition.index);
                asked.push(ask(context.broker.as_ref(), call.version, id, partition));
            }
        }
        drop(cluster);
        let late = BrokerError::TimedOut.list_offsets_code(call.version);
        let mut answers = all_within(limit, asked, Err(late)).await.into_iter();
        let mut failed = false;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition, answer) in topic.partitions.iter().zip(&mut answers) {
                failed |= answer.is_err();
                partitions.push(response(call.version, partition.index, answer));
            }
            topics.push(
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.into())
                    .with_partitions(partitions),
            );
        }
        let response = ListOffsetsResponse::default().with_topics(topics);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// The partition `index` of the topic `name`, if both exist.
pub(super) fn partition_id(
    cluster: &ClusterSnapshot,
    name: &str,
    index: i32,
) -> Option<PartitionId> {
    let topic = cluster.topic(name)?;
    let index = u32::try_from(index).ok()?;
    topic.partitions.get(usize::try_from(index).ok()?)?;
    Some(PartitionId::new(topic.id, index))
}

fn ask(
    broker: &dyn Broker,
    version: i16,
    id: Option<PartitionId>,
    partition: &ListOffsetsPartitionRequest,
) -> BoxFuture<'static, Listed> {
    let Some(id) = id else {
        return Box::pin(async { Err(BrokerError::UnknownPartition.code()) });
    };
    let query = match query(version, partition.timestamp) {
        Query::Ask(query) => query,
        Query::Nothing => return Box::pin(async { Ok(None) }),
        Query::Unsupported => {
            return Box::pin(async { Err(ResponseError::UnsupportedVersion.code()) });
        }
    };
    let epoch = partition.current_leader_epoch;
    let epoch = (epoch >= 0).then(|| LeaderEpoch::new(epoch));
    let listed = broker.list_offset(id, epoch, query);
    Box::pin(async move { listed.await.map_err(|e| e.list_offsets_code(version)) })
}

enum Query {
    Ask(OffsetQuery),
    Nothing,
    Unsupported,
}

/// What a timestamp asks for. The specials came with KIP-79, KIP-734, KIP-405 and KIP-1005; without
/// tiered storage the earliest local offset is the earliest, and there is no latest tiered one.
const fn query(version: i16, timestamp: i64) -> Query {
    match timestamp {
        0.. => Query::Ask(OffsetQuery::AtOrAfter(timestamp)),
        -1 => Query::Ask(OffsetQuery::Latest),
        -2 => Query::Ask(OffsetQuery::Earliest),
        -3 if version >= 7 => Query::Ask(OffsetQuery::MaxTimestamp),
        -4 if version >= 8 => Query::Ask(OffsetQuery::Earliest),
        -5 if version >= 9 => Query::Nothing,
        _ => Query::Unsupported,
    }
}

fn response(version: i16, index: i32, answer: Listed) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match answer {
        Err(code) => response.with_error_code(code),
        Ok(None) => response,
        Ok(Some(found)) => {
            // Before version 4 the field does not exist, and setting it is an error of the encoder.
            let epoch = found.leader_epoch.filter(|_| version >= 4);
            response
                .with_offset(found.offset.get())
                .with_timestamp(found.timestamp.unwrap_or(-1))
                .with_leader_epoch(epoch.map_or(-1, LeaderEpoch::get))
        }
    }
}
