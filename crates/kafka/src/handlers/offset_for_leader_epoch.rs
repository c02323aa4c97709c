use kafka_protocol::messages::OffsetForLeaderEpochResponse;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use rivven_core_types::{BoxFuture, EpochEnd, LeaderEpoch};

use super::list_offsets::partition_id;
use super::{Answer, Context, DEFAULT_TIMEOUT, Outcome, Pending, all_within};
use crate::api::Call;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{EpochPartition, OffsetForLeaderEpochRequest};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

type Found = Result<Option<EpochEnd>, BrokerError>;

/// Answers where leader epochs end, so that a consumer finds out whether what it has read was cut off
/// by a change of leader (KIP-320).
pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = OffsetForLeaderEpochRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let cluster = context.broker.cluster();
        let asked = request.topics.iter().flat_map(|(name, partitions)| {
            let one = |p| ask(context.broker.as_ref(), &cluster, name, p);
            partitions.iter().map(one).collect::<Vec<_>>()
        });
        let asked = asked.collect();
        drop(cluster);
        let late = Err(BrokerError::TimedOut);
        let mut answers = all_within(DEFAULT_TIMEOUT, asked, late).await.into_iter();
        let mut failed = false;
        let mut topics = Vec::with_capacity(request.topics.len());
        for (name, partitions) in request.topics {
            let mut results = Vec::with_capacity(partitions.len());
            for (partition, answer) in partitions.iter().zip(&mut answers) {
                failed |= answer.is_err();
                results.push(result(partition.index, answer));
            }
            topics.push(
                OffsetForLeaderTopicResult::default()
                    .with_topic(name.into())
                    .with_partitions(results),
            );
        }
        let response = OffsetForLeaderEpochResponse::default().with_topics(topics);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

fn ask(
    broker: &dyn Broker,
    cluster: &ClusterSnapshot,
    name: &str,
    partition: &EpochPartition,
) -> BoxFuture<'static, Found> {
    let Some(id) = partition_id(cluster, name, partition.index) else {
        return Box::pin(async { Err(BrokerError::UnknownPartition) });
    };
    // No epoch: nothing is known of it.
    if partition.asked < 0 {
        return Box::pin(async { Ok(None) });
    }
    let current = partition.current_leader_epoch;
    let current = (current >= 0).then(|| LeaderEpoch::new(current));
    broker.epoch_end(id, LeaderEpoch::new(partition.asked), current)
}

fn result(index: i32, answer: Found) -> EpochEndOffset {
    let result = EpochEndOffset::default().with_partition(index);
    match answer {
        // The codes that consumers take well are those of Fetch.
        Err(error) => result.with_error_code(error.fetch_code(false)),
        Ok(None) => result,
        Ok(Some(found)) => result
            .with_leader_epoch(found.epoch.get())
            .with_end_offset(found.end.get()),
    }
}
