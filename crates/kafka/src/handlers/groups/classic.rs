//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::consumer_groups::{
    ClassicHeartbeat, ClientInfo, Epoch, GroupError, JoinRequest, Joined, LeaveRequest, Leaving,
    MemberId, Request, Response, SyncRequest, Synced,
};
use rivven_core_types::BoxFuture;

use super::{client, done, fresh_id, group_id, instance_id, member_id, text};
use crate::api::Call;
use crate::frame::Frame;
use crate::handlers::{Answer, Context, Outcome, Pending};
use crate::requests::{HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest};
use crate::wire::{DecodeError, Reader};

/// Longest time that a member may take to rejoin, whatever it asks for.
const MAX_REBALANCE_TIMEOUT_MS: u32 = 3_600_000;

/// A request to the coordinator, or why there is none.
fn call_or_refuse(
    context: &Context,
    request: Result<Request, GroupError>,
) -> Result<BoxFuture<'static, Response>, GroupError> {
    request.map(|request| context.broker.groups().call(request))
}

pub(in crate::handlers) fn join(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = JoinGroupRequest::decode(reader, call.version)?;
    let said = request.member.clone();
    let random = context.broker.groups().random_id();
    let asked =
        join_request(request, client(context, reader), random, call.version).map(Request::Join);
    let answer = call_or_refuse(context, asked);
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => match answer.await {
                Response::Joined(outcome) => outcome,
                _ => Err(GroupError::LoadInProgress),
            },
        };
        let failed = outcome.is_err();
        let response = join_response(call.version, said, outcome);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn join_request(
    request: JoinGroupRequest,
    client: ClientInfo,
    random: [u8; 16],
    version: i16,
) -> Result<JoinRequest, GroupError> {
    let ms = |value: i32| u32::try_from(value).unwrap_or(0);
    let protocols = request.protocols.into_iter();
    Ok(JoinRequest {
        group: group_id(&request.group)?,
        member: member_id(&request.member)?,
        fresh_id: fresh_id(&client, random),
        instance: instance_id(request.instance.as_ref())?,
        client,
        session_timeout_ms: ms(request.session_timeout_ms),
        rebalance_timeout_ms: ms(request.rebalance_timeout_ms).min(MAX_REBALANCE_TIMEOUT_MS),
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.map(|(n, m)| (n.to_string(), m)).collect(),
        knows_member_id_required: version >= 4,
        knows_skip_assignment: version >= 9,
    })
}

fn join_response(
    version: i16,
    said: StrBytes,
    outcome: Result<Joined, GroupError>,
) -> JoinGroupResponse {
    let response = JoinGroupResponse::default();
    match outcome {
        Ok(joined) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                let member = JoinGroupResponseMember::default()
                    .with_member_id(text(id.as_str()))
                    .with_metadata(metadata);
                if version >= 5 {
                    member.with_group_instance_id(instance.map(|i| text(i.as_str())))
                } else {
                    member
                }
            });
            let response = response
                .with_generation_id(joined.generation.get())
                .with_protocol_name(Some(text(&joined.protocol)))
                .with_leader(text(&joined.leader))
                .with_member_id(text(joined.member.as_str()))
                .with_members(members.collect());
            let response = if version >= 9 {
                response.with_skip_assignment(joined.skip_assignment)
            } else {
                response
            };
            if version >= 7 {
                response.with_protocol_type(Some(text(&joined.protocol_type)))
            } else {
                response
            }
        }
        Err(error) => {
            let member = match &error {
                GroupError::MemberIdRequired(id) => text(id.as_str()),
                _ => said,
            };
            // Before version 7 the name must not be null.
            response
                .with_error_code(error.code())
                .with_generation_id(-1)
                .with_protocol_name((version < 7).then(StrBytes::default))
                .with_member_id(member)
        }
    }
}

pub(in crate::handlers) fn sync(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = SyncGroupRequest::decode(reader, call.version)?;
    let asked = sync_request(request).map(Request::Sync);
    let answer = call_or_refuse(context, asked);
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => match answer.await {
                Response::Synced(outcome) => outcome,
                _ => Err(GroupError::LoadInProgress),
            },
        };
        let failed = outcome.is_err();
        let response = sync_response(call.version, outcome);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn sync_request(request: SyncGroupRequest) -> Result<SyncRequest, GroupError> {
    let assignments = request.assignments.into_iter();
    Ok(SyncRequest {
        group: group_id(&request.group)?,
        member: member_id(&request.member)?.ok_or(GroupError::UnknownMember)?,
        instance: instance_id(request.instance.as_ref())?,
        generation: Epoch::new(request.generation),
        protocol_type: request.protocol_type.map(|t| t.to_string()),
        protocol: request.protocol.map(|t| t.to_string()),
        assignments: assignments
            // Ids that cannot be a member's are passed over like those of strangers.
            .filter_map(|(id, bytes)| Some((MemberId::new(id.as_str()).ok()?, bytes)))
            .collect(),
    })
}

fn sync_response(version: i16, outcome: Result<Synced, GroupError>) -> SyncGroupResponse {
    let response = SyncGroupResponse::default();
    match outcome {
        Err(error) => response.with_error_code(error.code()),
        Ok(synced) => {
            let response = response.with_assignment(synced.assignment);
            if version >= 5 {
                response
                    .with_protocol_type(Some(text(&synced.protocol_type)))
                    .with_protocol_name(Some(text(&synced.protocol)))
            } else {
                response
            }
        }
    }
}

pub(in crate::handlers) fn heartbeat(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = HeartbeatRequest::decode(reader, call.version)?;
    let asked = || {
        Ok(Request::ClassicHeartbeat(ClassicHeartbeat {
            group: group_id(&request.group)?,
            member: member_id(&request.member)?.ok_or(GroupError::UnknownMember)?,
            instance: instance_id(request.instance.as_ref())?,
            generation: Epoch::new(request.generation),
        }))
    };
    let answer = call_or_refuse(context, asked());
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => done(answer.await),
        };
        let code = outcome.as_ref().map_or_else(GroupError::code, |()| 0);
        let response = HeartbeatResponse::default().with_error_code(code);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(code != 0)))
    }))
}

pub(in crate::handlers) fn leave(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = LeaveGroupRequest::decode(reader, call.version)?;
    let asked = || {
        let leaving = |(member, instance): &(StrBytes, Option<StrBytes>)| {
            Ok(Leaving {
                member: member_id(member)?,
                instance: instance_id(instance.as_ref())?,
            })
        };
        let members: Result<Vec<Leaving>, GroupError> =
            request.members.iter().map(leaving).collect();
        Ok(Request::Leave(LeaveRequest {
            group: group_id(&request.group)?,
            members: members?,
        }))
    };
    let answer = call_or_refuse(context, asked());
    Ok(Box::pin(async move {
        let outcome = match answer {
            Err(error) => Err(error),
            Ok(answer) => match answer.await {
                Response::Left(outcome) => outcome,
                _ => Err(GroupError::LoadInProgress),
            },
        };
        let code = |outcome: &Result<(), GroupError>| {
            outcome.as_ref().map_or_else(GroupError::code, |()| 0)
        };
        let response = LeaveGroupResponse::default();
        let response = match &outcome {
            Err(error) => response.with_error_code(error.code()),
            Ok(results) if call.version < 3 => {
                response.with_error_code(results.first().map_or(0, code))
            }
            Ok(results) => {
                let members = request.members.iter().zip(results);
                let members = members.map(|((member, instance), outcome)| {
                    MemberResponse::default()
                        .with_member_id(member.clone())
                        .with_group_instance_id(instance.clone())
                        .with_error_code(code(outcome))
                });
                response.with_members(members.collect())
            }
        };
        let failed = outcome.is_err();
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}
