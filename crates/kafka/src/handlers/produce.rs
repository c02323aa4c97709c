use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError as Kafka;
use kafka_protocol::messages::ProduceResponse;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::{BatchError, BoxFuture, BrokerId, Compression, RecordBatch};

use super::list_offsets::partition_id;
use super::{Answer, Context, Outcome, Pending, all_within, bounded_timeout};
use crate::api::Call;
use crate::broker::{Acks, Produced};
use crate::error::{BrokerError, CurrentLeader};
use crate::frame::{EncodeError, Frame};
use crate::requests::{ProducePartition, ProduceRequest};
use crate::snapshot::{BrokerInfo, ClusterSnapshot};
use crate::wire::{DecodeError, Reader};

/// The first version that carries leader hints (KIP-951).
const FIRST_WITH_LEADER: i16 = 10;
/// Where the magic byte of a batch, and of the message sets before it, is.
const MAGIC_AT: usize = 16;
/// The attribute bit that says that the broker stamps the records.
const LOG_APPEND_TIME: u16 = 0x08;

/// Why one partition's records were not taken.
#[derive(Debug, Clone)]
struct Refusal {
    code: i16,
    message: StrBytes,
    leader: Option<CurrentLeader>,
}

impl Refusal {
    fn new(kind: Kafka, message: &'static str) -> Self {
        Self {
            code: kind.code(),
            message: StrBytes::from_static_str(message),
            leader: None,
        }
    }
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        Self {
            code: error.produce_code(),
            message: StrBytes::from_string(error.to_string()),
            leader: error.current_leader(),
        }
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        let kind = if matches!(error, BatchError::Crc { .. }) {
            Kafka::CorruptMessage
        } else if matches!(error, BatchError::Magic(_)) {
            Kafka::UnsupportedForMessageFormat
        } else if let BatchError::BadLength { length, max, .. } = &error
            && usize::try_from(*length).is_ok_and(|length| length > *max)
        {
            Kafka::MessageTooLarge
        } else {
            Kafka::InvalidRecord
        };
        Self {
            code: kind.code(),
            message: StrBytes::from_string(error.to_string()),
            leader: None,
        }
    }
}

type Taken = Result<Produced, Refusal>;

/// Queues the appends before it returns: that is what keeps a connection's records in order.
pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ProduceRequest::decode(reader)?;
    let timeout = bounded_timeout(request.timeout_ms);
    let cluster = context.broker.cluster();
    let acks = check_request(&request);
    let mut queued: Vec<BoxFuture<'static, Taken>> = Vec::new();
    let mut shape = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut indexes = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            indexes.push(partition.index);
            let checked = acks
                .clone()
                .and_then(|acks| check_partition(&cluster, &topic.name, partition, acks));
            queued.push(match checked {
                Ok((id, batch, acks)) => {
                    let appended = context.broker.produce(id, batch, acks, timeout);
                    Box::pin(async move { appended.await.map_err(Refusal::from) })
                }
                Err(refusal) => Box::pin(async move { Err(refusal) }),
            });
        }
        shape.push((topic.name, indexes));
    }
    let silent = request.acks == 0;
    let context = context.clone();
    Ok(Box::pin(async move {
        let late = Err(Refusal::from(BrokerError::TimedOut));
        let taken = all_within(timeout, queued, late).await;
        let outcome = Outcome::of(taken.iter().any(Result::is_err));
        if silent {
            return Ok(Answer {
                frame: None,
                outcome,
                close: outcome == Outcome::Error,
            });
        }
        let frame = respond(call, &context.broker.cluster(), shape, taken)?;
        Ok(Answer::write(frame, outcome))
    }))
}

/// What holds for all partitions of a request.
fn check_request(request: &ProduceRequest) -> Result<Acks, Refusal> {
    if request.transactional_id.is_some() {
        return Err(Refusal::new(
            Kafka::TransactionalIdAuthorizationFailed,
            "transactions are not supported",
        ));
    }
    match request.acks {
        0 => Ok(Acks::None),
        1 => Ok(Acks::Leader),
        -1 => Ok(Acks::All),
        _ => Err(Refusal::new(
            Kafka::InvalidRequiredAcks,
            "acks must be 0, 1 or -1",
        )),
    }
}

fn check_partition(
    cluster: &ClusterSnapshot,
    topic: &str,
    partition: ProducePartition,
    acks: Acks,
) -> Result<(rivven_core_types::PartitionId, RecordBatch, Acks), Refusal> {
    let id = partition_id(cluster, topic, partition.index)
        .ok_or_else(|| Refusal::from(BrokerError::UnknownPartition))?;
    let batch = check_batch(partition.records.unwrap_or_default())?;
    Ok((id, batch, acks))
}

/// From version 3 a partition's records are exactly one batch of magic 2. What the batch says of
/// itself is checked here, so that no lie reaches a log.
fn check_batch(mut records: Bytes) -> Result<RecordBatch, Refusal> {
    let invalid = |message| Refusal::new(Kafka::InvalidRecord, message);
    if records.is_empty() {
        return Err(invalid("no record batch"));
    }
    // Before the header, since a message set may be shorter than the header of a batch.
    if records.get(MAGIC_AT).is_some_and(|magic| *magic != 2) {
        return Err(Refusal::new(
            Kafka::UnsupportedForMessageFormat,
            "only record batches of magic 2 are supported",
        ));
    }
    let batch = RecordBatch::split_from(&mut records)?;
    if !records.is_empty() {
        return Err(invalid("more than one record batch in a partition"));
    }
    let header = batch.header();
    if header.compression() != Compression::None {
        return Err(Refusal::new(
            Kafka::UnsupportedCompressionType,
            "compressed batches are not supported; set compression.type=none",
        ));
    }
    if header.is_control() {
        return Err(invalid("clients must not write control batches"));
    }
    if header.is_transactional() {
        return Err(Refusal::new(
            Kafka::InvalidTxnState,
            "transactions are not supported",
        ));
    }
    if header.attributes & LOG_APPEND_TIME != 0 {
        return Err(Refusal::new(
            Kafka::InvalidTimestamp,
            "clients must not set the timestamp type to LogAppendTime",
        ));
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return Err(invalid("an idempotent batch without epoch or sequence"));
    }
    batch.verify_records()?;
    Ok(batch)
}

fn respond(
    call: Call,
    cluster: &ClusterSnapshot,
    shape: Vec<(StrBytes, Vec<i32>)>,
    taken: Vec<Taken>,
) -> Result<Frame, EncodeError> {
    let mut taken = taken.into_iter();
    let mut leaders: BTreeMap<BrokerId, &BrokerInfo> = BTreeMap::new();
    let mut topics = Vec::with_capacity(shape.len());
    for (name, indexes) in shape {
        let mut partitions = Vec::with_capacity(indexes.len());
        for (index, taken) in indexes.into_iter().zip(&mut taken) {
            let mut response = partition_response(index, &taken);
            let leader = taken.err().and_then(|refusal| refusal.leader);
            let broker = leader.and_then(|leader| cluster.broker(leader.broker));
            if let (Some(leader), Some(broker)) = (leader, broker)
                && call.version >= FIRST_WITH_LEADER
            {
                leaders.insert(leader.broker, broker);
                response.current_leader = LeaderIdAndEpoch::default()
                    .with_leader_id(leader.broker.get().into())
                    .with_leader_epoch(leader.epoch.get());
            }
            partitions.push(response);
        }
        topics.push(
            TopicProduceResponse::default()
                .with_name(name.into())
                .with_partition_responses(partitions),
        );
    }
    let response = ProduceResponse::default()
        .with_responses(topics)
        .with_node_endpoints(leaders.into_values().map(endpoint).collect());
    Frame::encode(call, &response)
}

fn partition_response(index: i32, taken: &Taken) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match taken {
        Ok(produced) => response
            .with_base_offset(produced.base_offset.get())
            .with_log_append_time_ms(produced.log_append_time.unwrap_or(-1))
            .with_log_start_offset(produced.log_start.get()),
        Err(refusal) => response
            .with_error_code(refusal.code)
            .with_base_offset(-1)
            .with_error_message(Some(refusal.message.clone())),
    }
}

fn endpoint(broker: &BrokerInfo) -> NodeEndpoint {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    NodeEndpoint::default()
        .with_node_id(broker.id.get().into())
        .with_host(text(&broker.host))
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.as_ref().map(|rack| text(rack.as_str())))
}
