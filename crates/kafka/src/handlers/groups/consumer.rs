//! ConsumerGroupHeartbeat (KIP-848).

use kafka_protocol::messages::ConsumerGroupHeartbeatResponse;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use rivven_coordinator::consumer_groups::{
    ClientInfo, Epoch, GroupError, Heartbeat, HeartbeatAnswer, Partitions, Request, Response,
};
use rivven_core_types::{PartitionId, TopicId, TopicName};
use uuid::Uuid;

use super::{client, fresh_id, group_id, instance_id, member_id, text};
use crate::api::Call;
use crate::frame::Frame;
use crate::handlers::{Answer, Context, Outcome, Pending};
use crate::requests::ConsumerHeartbeatRequest;
use crate::wire::{DecodeError, Reader};

pub(in crate::handlers) fn heartbeat(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ConsumerHeartbeatRequest::decode(reader, call.version)?;
    let groups = context.broker.groups();
    let asked = heartbeat_request(request, client(context, reader), groups.random_id());
    let answer = asked.map(|beat| groups.call(Request::Heartbeat(Box::new(beat))));
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => match answer.await {
                Response::Heartbeat(outcome) => outcome,
                _ => Err(GroupError::LoadInProgress),
            },
        };
        let failed = outcome.is_err();
        let frame = Frame::encode(call, &response(outcome))?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn heartbeat_request(
    request: ConsumerHeartbeatRequest,
    client: ClientInfo,
    random: [u8; 16],
) -> Result<Heartbeat, GroupError> {
    let invalid = |e: String| GroupError::InvalidRequest(e);
    let topics = request.topics.map(|names| {
        let names = names.iter().map(|name| TopicName::new(name.as_str()));
        names.collect::<Result<Vec<_>, _>>()
    });
    let owned = request.owned.map(|topics| {
        let partitions = topics.into_iter().flat_map(|(id, indexes)| {
            let id = TopicId::from_bytes(id);
            let indexes = indexes.into_iter().filter_map(|i| u32::try_from(i).ok());
            indexes.map(move |index| PartitionId::new(id, index))
        });
        partitions.collect::<Partitions>()
    });
    let rack = request.rack.filter(|rack| !rack.is_empty());
    let member = member_id(&request.member)?;
    let joins = request.epoch == Epoch::JOIN.get();
    Ok(Heartbeat {
        group: group_id(&request.group)?,
        member: match member {
            Some(member) => member,
            // Version 0 lets the coordinator choose.
            None if joins => fresh_id(&client, random),
            None => return Err(GroupError::UnknownMember),
        },
        instance: instance_id(request.instance.as_ref())?,
        epoch: Epoch::new(request.epoch),
        rack: rack
            .map(|rack| rack.as_str().parse())
            .transpose()
            .map_err(|e: rivven_core_types::InvalidId| invalid(e.to_string()))?,
        client,
        rebalance_timeout_ms: u32::try_from(request.rebalance_timeout_ms).ok(),
        topics: topics.transpose().map_err(|e| invalid(e.to_string()))?,
        pattern: request.pattern.map(|p| p.to_string()),
        assignor: request.assignor.map(|a| a.to_string()),
        owned,
    })
}

fn response(outcome: Result<HeartbeatAnswer, GroupError>) -> ConsumerGroupHeartbeatResponse {
    let response = ConsumerGroupHeartbeatResponse::default();
    match outcome {
        Err(error) => response
            .with_error_code(error.code())
            .with_error_message(Some(text(&error.to_string()))),
        Ok(answer) => {
            let interval = i32::try_from(answer.interval_ms).unwrap_or(i32::MAX);
            let assignment = answer.assignment.map(|partitions| {
                let topics = partitions.by_topic().into_iter().map(|(topic, indexes)| {
                    let indexes = indexes.into_iter().filter_map(|i| i32::try_from(i).ok());
                    TopicPartitions::default()
                        .with_topic_id(Uuid::from_bytes(*topic.as_bytes()))
                        .with_partitions(indexes.collect())
                });
                Assignment::default().with_topic_partitions(topics.collect())
            });
            response
                .with_member_id(Some(text(answer.member.as_str())))
                .with_member_epoch(answer.epoch.get())
                .with_heartbeat_interval_ms(interval)
                .with_assignment(assignment)
        }
    }
}
