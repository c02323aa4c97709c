use kafka_protocol::ResponseError;
use kafka_protocol::messages::ElectLeadersResponse;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::BoxFuture;

use super::list_offsets::partition_id;
use super::{Answer, Context, Outcome, Pending, all_within, bounded_timeout};
use crate::api::Call;
use crate::broker::TopicFailure;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::ElectLeadersRequest;
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

const UNCLEAN: i8 = 1;

/// An unclean election is the operator's word that committed records may go: it names its partitions.
pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ElectLeadersRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        if request.election_type != UNCLEAN {
            // The preferred leader is elected by the controller itself.
            let mut response = ElectLeadersResponse::default();
            if call.version >= 1 {
                response.error_code = ResponseError::InvalidRequest.code();
            }
            let frame = Frame::encode(call, &response)?;
            return Ok(Answer::write(frame, Outcome::Error));
        }
        let timeout = bounded_timeout(request.timeout_ms);
        let cluster = context.broker.cluster();
        let topics = request.topics.unwrap_or_else(|| leaderless(&cluster));
        let mut elections: Vec<BoxFuture<'static, Result<(), TopicFailure>>> = Vec::new();
        for (name, partitions) in &topics {
            for index in partitions {
                elections.push(match partition_id(&cluster, name, *index) {
                    Some(id) => context.broker.elect_unclean(id, timeout),
                    None => {
                        let message = "there is no such partition".to_owned();
                        let error = BrokerError::UnknownPartition;
                        Box::pin(async move { Err(TopicFailure { error, message }) })
                    }
                });
            }
        }
        drop(cluster);
        let late = TopicFailure {
            error: BrokerError::TimedOut,
            message: "the cluster did not answer in time".to_owned(),
        };
        let mut results = all_within(timeout, elections, Err(late)).await.into_iter();
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

/// Every partition without a leader.
fn leaderless(cluster: &ClusterSnapshot) -> Vec<(StrBytes, Vec<i32>)> {
    let of_topic = |topic: &std::sync::Arc<crate::TopicInfo>| {
        let partitions = (0i32..).zip(&topic.partitions);
        let without = partitions.filter(|(_, p)| p.leader.is_none());
        let indexes: Vec<i32> = without.map(|(index, _)| index).collect();
        (StrBytes::from_string(topic.name.to_string()), indexes)
    };
    let all = cluster.topics().map(of_topic);
    all.filter(|(_, indexes)| !indexes.is_empty()).collect()
}
