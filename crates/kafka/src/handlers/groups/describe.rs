//! ListGroups, DescribeGroups, ConsumerGroupDescribe, DeleteGroups.

use std::sync::Arc;

use kafka_protocol::messages::consumer_group_describe_response as cgd;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeResponse, DeleteGroupsResponse, DescribeGroupsResponse, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::consumer_groups::{
    ClassicMember, ConsumerMember, Group, GroupError, GroupsState, MemberState, Op, Partitions,
    Request,
};
use uuid::Uuid;

use super::{done, group_id, text};
use crate::api::Call;
use crate::frame::Frame;
use crate::group_broker::GroupBroker;
use crate::handlers::{Answer, Context, Outcome, Pending};
use crate::requests::{GroupIdsRequest, ListGroupsRequest};
use crate::snapshot::ClusterSnapshot;
use crate::wire::{DecodeError, Reader};

/// What a group is called that does not exist.
const DEAD: &str = "Dead";

fn is_consumer(group: &Group) -> bool {
    group.consumer().is_some()
}

pub(in crate::handlers) fn list(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = ListGroupsRequest::decode(reader, call.version)?;
    let groups = context.broker.groups();
    Ok(Box::pin(async move {
        let response = ListGroupsResponse::default();
        let response = match groups.read().await {
            // Clients ask every broker; each lists what it coordinates.
            Err(GroupError::NotCoordinator) => response,
            Err(error) => response.with_error_code(error.code()),
            Ok(state) => {
                let matches = |filter: &[StrBytes], is: &str| {
                    filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(is))
                };
                let listed = state.groups().filter_map(|group| {
                    let phase = groups.phase(group).name();
                    let kind = if is_consumer(group) {
                        "consumer"
                    } else {
                        "classic"
                    };
                    let wanted = matches(&request.states, phase) && matches(&request.types, kind);
                    wanted.then(|| listed(call.version, group, phase, kind))
                });
                response.with_groups(listed.collect())
            }
        };
        let failed = response.error_code != 0;
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn listed(version: i16, group: &Group, phase: &str, kind: &str) -> ListedGroup {
    let protocol = match group.classic() {
        Some(classic) => classic.protocol_type(),
        None if is_consumer(group) => "consumer",
        None => "",
    };
    let listed = ListedGroup::default()
        .with_group_id(text(group.id().as_str()).into())
        .with_protocol_type(text(protocol));
    let listed = if version >= 4 {
        listed.with_group_state(text(phase))
    } else {
        listed
    };
    if version >= 5 {
        listed.with_group_type(text(kind))
    } else {
        listed
    }
}

pub(in crate::handlers) fn describe(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = GroupIdsRequest::decode(reader, call.version >= 3)?;
    let groups = context.broker.groups();
    Ok(Box::pin(async move {
        let read = groups.read().await;
        let described = request.groups.into_iter().map(|name| {
            let group = DescribedGroup::default().with_group_id(name.clone().into());
            match &read {
                Err(error) => group.with_error_code(error.code()),
                Ok(state) => describe_one(call.version, group, &name, state, groups.as_ref()),
            }
        });
        let response = DescribeGroupsResponse::default().with_groups(described.collect());
        let failed = response.groups.iter().any(|g| g.error_code != 0);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn describe_one(
    version: i16,
    described: DescribedGroup,
    name: &str,
    state: &Arc<GroupsState>,
    groups: &dyn GroupBroker,
) -> DescribedGroup {
    let found = group_id(name).ok().and_then(|id| state.group(&id));
    let Some(group) = found.filter(|group| !is_consumer(group)) else {
        let described = described.with_group_state(text(DEAD));
        // From version 6 on (KIP-1043) it is said in so many words.
        if version < 6 {
            return described;
        }
        return described
            .with_error_code(69)
            .with_error_message(Some(text(&format!("{name} is not a classic group"))));
    };
    let described = described.with_group_state(text(groups.phase(group).name()));
    let Some(classic) = group.classic() else {
        return described;
    };
    let member = |m: &ClassicMember| {
        let metadata = m
            .protocols
            .iter()
            .find(|(name, _)| name == classic.protocol());
        let member = DescribedGroupMember::default()
            .with_member_id(text(m.id.as_str()))
            .with_client_id(text(&m.client.id))
            .with_client_host(text(&m.client.host))
            .with_member_metadata(metadata.map(|(_, bytes)| bytes.clone()).unwrap_or_default())
            .with_member_assignment(m.assignment.clone());
        if version >= 4 {
            member.with_group_instance_id(m.instance.as_ref().map(|i| text(i.as_str())))
        } else {
            member
        }
    };
    described
        .with_protocol_type(text(classic.protocol_type()))
        .with_protocol_data(text(classic.protocol()))
        .with_members(classic.members().map(member).collect())
}

pub(in crate::handlers) fn consumer_describe(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = GroupIdsRequest::decode(reader, true)?;
    let groups = context.broker.groups();
    let cluster = context.broker.cluster();
    Ok(Box::pin(async move {
        let read = groups.read().await;
        let described = request.groups.into_iter().map(|name| {
            let described = cgd::DescribedGroup::default().with_group_id(name.clone().into());
            let found = match &read {
                Err(error) => Err(error.clone()),
                Ok(state) => group_id(&name).and_then(|id| {
                    let group = state.group(&id).filter(|g| is_consumer(g));
                    group.ok_or(GroupError::GroupNotFound(id))
                }),
            };
            match found {
                Err(error) => described
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&error.to_string()))),
                Ok(group) => {
                    let phase = groups.phase(group).name();
                    consumer_one(call.version, described, group, phase, &cluster)
                }
            }
        });
        let response = ConsumerGroupDescribeResponse::default().with_groups(described.collect());
        let failed = response.groups.iter().any(|g| g.error_code != 0);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}

fn consumer_one(
    version: i16,
    described: cgd::DescribedGroup,
    group: &Group,
    phase: &str,
    cluster: &ClusterSnapshot,
) -> cgd::DescribedGroup {
    let Some(consumer) = group.consumer() else {
        return described;
    };
    let member = |m: &Arc<ConsumerMember>| {
        let topics = m.topics.iter().map(|t| text(t.as_str()).into());
        let own = cgd::Member::default()
            .with_member_id(text(m.id.as_str()))
            .with_instance_id(m.instance.as_ref().map(|i| text(i.as_str())))
            .with_rack_id(m.rack.as_ref().map(|r| text(r.as_str())))
            .with_member_epoch(m.epoch.get())
            .with_client_id(text(&m.client.id))
            .with_client_host(text(&m.client.host))
            .with_subscribed_topic_names(topics.collect())
            .with_subscribed_topic_regex((!m.pattern.is_empty()).then(|| text(&m.pattern)))
            .with_assignment(assignment(&owned_by(m), cluster))
            .with_target_assignment(assignment(&m.target, cluster));
        // 1: a member of the consumer protocol.
        if version >= 1 {
            own.with_member_type(1)
        } else {
            own
        }
    };
    let wanted = consumer.members().map(|m| m.assignor.as_str());
    let assignor = wanted
        .max()
        .filter(|name| !name.is_empty())
        .unwrap_or("uniform");
    described
        .with_group_state(text(phase))
        .with_group_epoch(group.epoch().get())
        .with_assignment_epoch(consumer.target_epoch().get())
        .with_assignor_name(text(assignor))
        .with_members(consumer.members().map(member).collect())
}

/// What a member owns: also what it has not given up yet.
fn owned_by(member: &ConsumerMember) -> Partitions {
    if member.state == MemberState::Unrevoked {
        let both = member.assigned.iter().chain(member.revoking.iter());
        return both.copied().collect();
    }
    member.assigned.clone()
}

fn assignment(partitions: &Partitions, cluster: &ClusterSnapshot) -> cgd::Assignment {
    let topics = partitions.by_topic().into_iter().map(|(id, indexes)| {
        let name = cluster.topic_by_id(&id).map_or("", |t| t.name.as_str());
        let indexes = indexes.into_iter().filter_map(|i| i32::try_from(i).ok());
        cgd::TopicPartitions::default()
            .with_topic_id(Uuid::from_bytes(*id.as_bytes()))
            .with_topic_name(text(name).into())
            .with_partitions(indexes.collect())
    });
    cgd::Assignment::default().with_topic_partitions(topics.collect())
}

pub(in crate::handlers) fn delete(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = GroupIdsRequest::decode(reader, false)?;
    let groups = context.broker.groups();
    let calls: Vec<_> = request
        .groups
        .into_iter()
        .map(|name| {
            let call = group_id(&name)
                .map(|group| groups.call(Request::Propose(Op::DeleteGroup { group })));
            (name, call)
        })
        .collect();
    Ok(Box::pin(async move {
        let mut results = Vec::with_capacity(calls.len());
        for (name, call) in calls {
            let outcome = match call {
                Err(error) => Err(error),
                Ok(call) => done(call.await),
            };
            let result = DeletableGroupResult::default()
                .with_group_id(name.into())
                .with_error_code(outcome.err().map_or(0, |e| e.code()));
            results.push(result);
        }
        let failed = results.iter().any(|r| r.error_code != 0);
        let response = DeleteGroupsResponse::default().with_results(results);
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(failed)))
    }))
}
