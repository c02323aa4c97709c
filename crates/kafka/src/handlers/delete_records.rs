use kafka_protocol::messages::DeleteRecordsResponse;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use rivven_core_types::{BoxFuture, Offset};

use super::list_offsets::partition_id;
use super::{Answer, Context, Outcome, Pending, all_within, bounded_timeout};
use crate::api::Call;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::DeleteRecordsRequest;
use crate::wire::{DecodeError, Reader};

/// Stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark of a partition that failed.
const UNKNOWN: i64 = -1;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = DeleteRecordsRequest::decode(reader)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let timeout = bounded_timeout(request.timeout_ms);
        let cluster = context.broker.cluster();
        let mut deletions: Vec<BoxFuture<'static, Result<Offset, BrokerError>>> = Vec::new();
        for topic in &request.topics {
            for (index, before) in &topic.partitions {
                let before = match *before {
                    HIGH_WATERMARK => Ok(None),
                    offset => Offset::new(offset)
                        .map(Some)
                        .map_err(|_| BrokerError::OffsetOutOfRange),
                };
                let id = partition_id(&cluster, &topic.name, *index);
                deletions.push(match (id, before) {
                    (Some(id), Ok(before)) => context.broker.delete_records(id, before, timeout),
                    (None, _) => Box::pin(async { Err(BrokerError::UnknownPartition) }),
                    (_, Err(error)) => Box::pin(async move { Err(error) }),
                });
            }
        }
        drop(cluster);
        let late = Err(BrokerError::TimedOut);
        let mut results = all_within(timeout, deletions, late).await.into_iter();
        let mut failed = false;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for ((index, _), result) in topic.partitions.iter().zip(&mut results) {
                failed |= result.is_err();
                let low_watermark = result.map_or(UNKNOWN, Offset::get);
                let code = result.err().map_or(0, BrokerError::code);
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(*index)
                        .with_low_watermark(low_watermark)
                        .with_error_code(code),
                );
            }
            topics.push(
                DeleteRecordsTopicResult::default()
                    .with_name(topic.name.into())
                    .with_partitions(partitions),
            );
        }
        let response = DeleteRecordsResponse::default().with_topics(topics);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}
