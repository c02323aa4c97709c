use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ElectLeadersResponse;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST;
use rivven_core_types::{BoxFuture, PartitionId};

use super::list_offsets::partition_id;
use super::{Answer, Context, Outcome, Pending, all_within, bounded_timeout, within};
use crate::api::Call;
use crate::broker::TopicFailure;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::ElectLeadersRequest;
use crate::snapshot::{ClusterSnapshot, PartitionInfo, TopicInfo};
use crate::wire::{DecodeError, Reader};

/// What an election is for. An unclean one is the operator's word that committed records may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Election {
    Preferred,
    Unclean,
}

impl Election {
    const fn of(kind: i8) -> Option<Self> {
        match kind {
            0 => Some(Self::Preferred),
            1 => Some(Self::Unclean),
            _ => None,
        }
    }

    /// Whether a request that names no partition means this one.
    fn concerns(self, partition: &PartitionInfo) -> bool {
        match self {
            Self::Unclean => partition.leader.is_none(),
            Self::Preferred => {
                partition.leader.is_some()
                    && partition.leader != partition.replicas.first().copied()
            }
        }
    }
}

type Elected = Result<(), TopicFailure>;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ElectLeadersRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let timeout = bounded_timeout(request.timeout_ms);
        let cluster = context.broker.cluster();
        let Some(election) = Election::of(request.election_type) else {
            return refuse(call);
        };
        let named = request.topics.is_some();
        let topics = request.topics.unwrap_or_else(|| all(&cluster, election));
        let ids: Vec<Option<PartitionId>> = topics
            .iter()
            .flat_map(|(name, indexes)| indexes.iter().map(|i| partition_id(&cluster, name, *i)))
            .collect();
        drop(cluster);
        // Nothing is known of what lies beyond; a request that names all is simply sent again.
        if named && ids.len() > MAX_PARTITIONS_PER_REQUEST {
            return refuse(call);
        }
        let mut results = elect(&context, election, &ids, timeout).await.into_iter();
        let mut failed = false;
        let mut answers = Vec::with_capacity(topics.len());
        for (name, partitions) in topics {
            let mut elected = Vec::with_capacity(partitions.len());
            for (index, result) in partitions.iter().zip(&mut results) {
                failed |= result.is_err();
                let response = PartitionResult::default().with_partition_id(*index);
                elected.push(match result {
                    Ok(()) => response.with_error_message(None),
                    Err(failure) => response
                        .with_error_code(failure.error.code())
                        .with_error_message(Some(StrBytes::from_string(failure.message))),
                });
            }
            let answer = ReplicaElectionResult::default().with_topic(name.into());
            answers.push(answer.with_partition_result(elected));
        }
        let response = ElectLeadersResponse::default().with_replica_election_results(answers);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

/// An election that is neither, or of too many partitions. Version 0 has no code for the whole.
fn refuse(call: Call) -> Result<Answer, crate::frame::EncodeError> {
    let mut response = ElectLeadersResponse::default();
    if call.version >= 1 {
        response.error_code = ResponseError::InvalidRequest.code();
    }
    Ok(Answer::write(
        Frame::encode(call, &response)?,
        Outcome::Error,
    ))
}

/// The results in the order asked.
async fn elect(
    context: &Context,
    election: Election,
    ids: &[Option<PartitionId>],
    timeout: Duration,
) -> Vec<Elected> {
    let failure = |error, message: &str| TopicFailure {
        error,
        message: message.to_owned(),
    };
    let unknown = failure(BrokerError::UnknownPartition, "there is no such partition");
    let late = failure(BrokerError::TimedOut, "the cluster did not answer in time");
    let known: Vec<PartitionId> = ids.iter().copied().flatten().collect();
    let elected = match election {
        Election::Preferred if known.is_empty() => Vec::new(),
        Election::Preferred => {
            let elected = context.broker.elect_preferred(known, timeout);
            within(timeout, elected).await.unwrap_or_default()
        }
        Election::Unclean => {
            let one = |id: &PartitionId| context.broker.elect_unclean(*id, timeout);
            let elections: Vec<BoxFuture<'static, Elected>> = known.iter().map(one).collect();
            all_within(timeout, elections, Err(late.clone())).await
        }
    };
    let mut elected = elected.into_iter();
    ids.iter()
        .map(|id| match id {
            Some(_) => elected.next().unwrap_or_else(|| Err(late.clone())),
            None => Err(unknown.clone()),
        })
        .collect()
}

/// Every partition that a request without names means, but no more than are elected at a time.
fn all(cluster: &ClusterSnapshot, election: Election) -> Vec<(StrBytes, Vec<i32>)> {
    let mut left = MAX_PARTITIONS_PER_REQUEST;
    let of_topic = |topic: &Arc<TopicInfo>| {
        let partitions = (0i32..).zip(&topic.partitions);
        let meant = partitions.filter(|(_, partition)| election.concerns(partition));
        let indexes: Vec<i32> = meant.map(|(index, _)| index).take(left).collect();
        left -= indexes.len();
        (StrBytes::from_string(topic.name.to_string()), indexes)
    };
    let all = cluster.topics().map(of_topic);
    all.filter(|(_, indexes)| !indexes.is_empty()).collect()
}
