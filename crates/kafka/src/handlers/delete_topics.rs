use kafka_protocol::ResponseError;
use kafka_protocol::messages::DeleteTopicsResponse;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::{BoxFuture, TopicId, TopicName};
use uuid::Uuid;

use super::{Answer, Context, Outcome, Pending, all_within, bounded_timeout};
use crate::api::Call;
use crate::broker::TopicFailure;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{DeleteTopic, DeleteTopicsRequest};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

/// What cannot be deleted: a Kafka code and what is wrong.
type Refused = (i16, String);

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = DeleteTopicsRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let timeout = bounded_timeout(request.timeout_ms);
        let cluster = context.broker.cluster();
        let mut deletions: Vec<BoxFuture<'static, Result<(), Refused>>> = Vec::new();
        let mut named = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let found = find(&cluster, &topic);
            let (name, id) = match &found {
                Ok((name, id)) => (Some(name.to_string()), *id.as_bytes()),
                Err(_) => (topic.name.map(|n| n.to_string()), topic.id),
            };
            named.push((name, id));
            deletions.push(match found {
                Ok((name, _)) => {
                    let deleted = context.broker.delete_topic(name, timeout);
                    Box::pin(async move { deleted.await.map_err(refused) })
                }
                Err(refused) => Box::pin(async move { Err(refused) }),
            });
        }
        drop(cluster);
        let late = (
            BrokerError::TimedOut.code(),
            "the cluster did not answer in time".to_owned(),
        );
        let results = all_within(timeout, deletions, Err(late)).await;
        let failed = results.iter().any(Result::is_err);
        let responses = named.into_iter().zip(results).map(|((name, id), result)| {
            let response = DeletableTopicResult::default()
                .with_name(name.map(|name| StrBytes::from_string(name).into()))
                .with_topic_id(Uuid::from_bytes(id));
            match result {
                Ok(()) => response.with_error_message(None),
                Err((code, message)) => response
                    .with_error_code(code)
                    .with_error_message(Some(StrBytes::from_string(message))),
            }
        });
        let response = DeleteTopicsResponse::default().with_responses(responses.collect());
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

fn refused(failure: TopicFailure) -> Refused {
    (failure.error.code(), failure.message)
}

/// The topic meant. An unknown id has a code of its own (KIP-516).
fn find(cluster: &ClusterSnapshot, topic: &DeleteTopic) -> Result<(TopicName, TopicId), Refused> {
    if let Some(name) = &topic.name {
        if topic.id != [0; 16] {
            let message = "give either the name or the id of a topic, not both".to_owned();
            return Err((BrokerError::InvalidRequest.code(), message));
        }
        let found = cluster.topic(name);
        return found.map(|t| (t.name.clone(), t.id)).ok_or_else(|| {
            let message = format!("there is no topic {:?}", name.as_str());
            (BrokerError::UnknownPartition.code(), message)
        });
    }
    let found = cluster.topic_by_id(&TopicId::from_bytes(topic.id));
    found.map(|t| (t.name.clone(), t.id)).ok_or_else(|| {
        let message = "there is no topic with this id".to_owned();
        (ResponseError::UnknownTopicId.code(), message)
    })
}
