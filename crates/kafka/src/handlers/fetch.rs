use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Kafka;
use rivven_core_types::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};

use super::{Answer, Context, Outcome, Pending, within};
use crate::api::Call;
use crate::broker::{FetchPartition, FetchRequest as BrokerFetch, Fetched};
use crate::config::KafkaConfig;
use crate::error::BrokerError;
use crate::fetch_response::{FetchResponse, PartitionAnswer, TopicAnswer};
use crate::requests::{FetchRequest, FetchTopicRequest};
use crate::snapshot::{BrokerInfo, ClusterSnapshot, TopicInfo};
use crate::wire::{DecodeError, Reader};

/// The first version that names topics by id (KIP-516).
const FIRST_WITH_IDS: i16 = 13;
/// The isolation level of a reader of committed records.
const READ_COMMITTED: i8 = 1;

/// One partition: refused at once, or the next of those that the broker was asked for.
type Slot = Result<(), i16>;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = FetchRequest::decode(reader, call.version)?;
    tracing::trace!(
        replica = ?request.replica,
        forgotten = request.forgotten.len(),
        rack = %request.rack,
        "Fetch"
    );
    let context = context.clone();
    Ok(Box::pin(async move {
        if request.session_epoch > 0 {
            // We never hand out a session, so this one is not ours (KIP-227); the client then sends
            // a full request.
            let response = FetchResponse {
                error: Kafka::FetchSessionIdNotFound.code(),
                ..FetchResponse::default()
            };
            return Ok(Answer::write(response.write(call)?, Outcome::Error));
        }
        let (slots, ask) = plan(&context.broker.cluster(), &context.config, call, &request);
        let asked = ask.partitions.len();
        let fetched = if asked == 0 {
            Vec::new()
        } else {
            let wait = ask.max_wait;
            within(wait, context.broker.fetch(ask))
                .await
                .unwrap_or_default()
        };
        if fetched.len() != asked {
            tracing::warn!(
                asked,
                answered = fetched.len(),
                "the broker left a fetch unanswered"
            );
        }
        let cluster = context.broker.cluster();
        let response = assemble(&cluster, call, request, slots, fetched);
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let outcome = Outcome::of(partitions.clone().any(|partition| partition.error != 0));
        Ok(Answer::write(response.write(call)?, outcome))
    }))
}

/// Resolves the partitions. Those that cannot be asked for make the broker answer at once: an error is
/// news for the client.
fn plan(
    cluster: &ClusterSnapshot,
    config: &KafkaConfig,
    call: Call,
    request: &FetchRequest,
) -> (Vec<Slot>, BrokerFetch) {
    let mut slots = Vec::new();
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let found = find(cluster, call.version, topic);
        for asked in &topic.partitions {
            let slot = found.and_then(|info| {
                let index = u32::try_from(asked.index).ok();
                let known = index.and_then(|i| info.partitions.get(usize::try_from(i).ok()?));
                let (Some(index), Some(_)) = (index, known) else {
                    return Err(BrokerError::UnknownPartition.code());
                };
                let offset = Offset::new(asked.fetch_offset)
                    .map_err(|_| BrokerError::OffsetOutOfRange.code())?;
                let epoch = asked.current_leader_epoch;
                partitions.push(FetchPartition {
                    partition: PartitionId::new(info.id, index),
                    offset,
                    current_leader_epoch: (epoch >= 0).then(|| LeaderEpoch::new(epoch)),
                    max_bytes: size(asked.max_bytes).min(config.max_fetch_bytes),
                });
                Ok(())
            });
            slots.push(slot);
        }
    }
    let at_once = slots.iter().any(Result::is_err);
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let fetch = BrokerFetch {
        partitions,
        max_wait: if at_once {
            Duration::ZERO
        } else {
            max_wait.min(config.max_fetch_wait)
        },
        min_bytes: size(request.min_bytes).min(config.max_fetch_bytes),
        max_bytes: size(request.max_bytes).min(config.max_fetch_bytes),
    };
    (slots, fetch)
}

fn find<'a>(
    cluster: &'a ClusterSnapshot,
    version: i16,
    topic: &FetchTopicRequest,
) -> Result<&'a Arc<TopicInfo>, i16> {
    if version >= FIRST_WITH_IDS {
        cluster
            .topic_by_id(&TopicId::from_bytes(topic.id))
            .ok_or(Kafka::UnknownTopicId.code())
    } else {
        cluster
            .topic(&topic.name)
            .ok_or(BrokerError::UnknownPartition.code())
    }
}

fn size(bytes: i32) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}

fn assemble(
    cluster: &ClusterSnapshot,
    call: Call,
    request: FetchRequest,
    slots: Vec<Slot>,
    fetched: Vec<Fetched>,
) -> FetchResponse {
    let mut slots = slots.into_iter();
    let mut fetched = fetched.into_iter();
    let mut leaders: BTreeMap<BrokerId, BrokerInfo> = BTreeMap::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (asked, slot) in topic.partitions.iter().zip(&mut slots) {
            let answer = match slot {
                Err(code) => PartitionAnswer::failed(asked.index, code, None),
                Ok(()) => {
                    let late = || Fetched {
                        result: Err(BrokerError::TimedOut),
                    };
                    let fetched = fetched.next().unwrap_or_else(late);
                    answer(cluster, call.version, asked.index, fetched)
                }
            };
            let leader = answer.leader.and_then(|l| cluster.broker(l.broker));
            if let Some(broker) = leader {
                leaders.insert(broker.id, broker.clone());
            }
            partitions.push(answer);
        }
        topics.push(TopicAnswer {
            name: topic.name,
            id: topic.id,
            partitions,
        });
    }
    FetchResponse {
        error: 0,
        read_committed: request.isolation_level == READ_COMMITTED,
        topics,
        endpoints: leaders.into_values().collect(),
    }
}

fn answer(
    cluster: &ClusterSnapshot,
    version: i16,
    index: i32,
    fetched: Fetched,
) -> PartitionAnswer {
    match fetched.result {
        Ok(read) => PartitionAnswer {
            index,
            error: 0,
            high_watermark: read.high_watermark.get(),
            log_start: read.log_start.get(),
            leader: None,
            records: read.records,
        },
        Err(error) => {
            let code = error.fetch_code(version >= FIRST_WITH_IDS);
            // A leader whose address the client cannot learn is no hint.
            let leader = error
                .current_leader()
                .filter(|leader| cluster.broker(leader.broker).is_some());
            PartitionAnswer::failed(index, code, leader)
        }
    }
}
