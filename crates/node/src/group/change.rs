//! Deleting groups and offsets, and taking members out.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{DeleteGroupsRequest, LeaveGroupRequest, OffsetDeleteRequest};
use serde::Serialize;

use super::client::{Client, GroupCommandError, Result, check, text};
use super::{output, positions};
use crate::cli::group::{TopicChoice, Who};

const DELETE_GROUPS_VERSION: i16 = 2;
const OFFSET_DELETE_VERSION: i16 = 0;
const LEAVE_GROUP_VERSION: i16 = 5;

fn done(said: String, json: bool, value: &impl Serialize) -> Result<String> {
    if json { output::json(value) } else { Ok(said) }
}

/// One after the other; the first that is refused ends it, and says which are gone.
pub(super) fn delete(client: &mut Client, groups: &[String], json: bool) -> Result<String> {
    let mut gone: Vec<&String> = Vec::new();
    for group in groups {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![text(group).into()]);
        let code = |answer: &kafka_protocol::messages::DeleteGroupsResponse| {
            answer.results.first().map_or(0, |result| result.error_code)
        };
        let answer = client.at_coordinator(group, DELETE_GROUPS_VERSION, &request, code)?;
        check(code(&answer), || match gone.as_slice() {
            [] => format!("group {group} is not deleted"),
            gone => format!("{gone:?} are deleted, and group {group} is not"),
        })?;
        gone.push(group);
    }
    let said = gone.iter().map(|group| format!("{group} is deleted\n"));
    done(said.collect(), json, &gone)
}

#[derive(Serialize)]
struct Forgotten {
    topic: String,
    partition: i32,
}

pub(super) fn delete_offsets(
    client: &mut Client,
    group: &str,
    topics: &[TopicChoice],
    json: bool,
) -> Result<String> {
    let committed = positions::committed(client, group)?;
    let chosen = committed.keys().filter(|(topic, index)| {
        let of = |choice: &&TopicChoice| choice.name.as_str() == topic;
        let choice = topics.iter().find(of);
        choice.is_some_and(|c| c.partitions.is_empty() || c.partitions.contains(index))
    });
    let chosen: Vec<_> = chosen.cloned().collect();
    if chosen.is_empty() {
        let none = format!("group {group} has no committed offset there");
        return Err(GroupCommandError::Failed(none));
    }
    let asked = chosen.chunk_by(|a, b| a.0 == b.0).map(|run| {
        let partitions = run
            .iter()
            .map(|(_, index)| OffsetDeleteRequestPartition::default().with_partition_index(*index));
        let name = run.first().map_or("", |(topic, _)| topic.as_str());
        OffsetDeleteRequestTopic::default()
            .with_name(text(name).into())
            .with_partitions(partitions.collect())
    });
    let request = OffsetDeleteRequest::default()
        .with_group_id(text(group).into())
        .with_topics(asked.collect());
    let answer = client.at_coordinator(group, OFFSET_DELETE_VERSION, &request, |a| a.error_code)?;
    check(answer.error_code, || format!("group {group}"))?;
    let mut gone = Vec::new();
    for topic in answer.topics {
        for partition in topic.partitions {
            let topic = topic.name.to_string();
            let index = partition.partition_index;
            check(partition.error_code, || format!("{topic}-{index}"))?;
            gone.push(Forgotten {
                topic,
                partition: index,
            });
        }
    }
    let said = format!("{} offsets of {group} are deleted\n", gone.len());
    done(said, json, &gone)
}

#[derive(Serialize)]
struct Removed<'a> {
    group: &'a str,
    removed: &'a str,
}

pub(super) fn remove_member(
    client: &mut Client,
    group: &str,
    who: &Who,
    json: bool,
) -> Result<String> {
    let identity = MemberIdentity::default().with_reason(Some(text("taken out by an operator")));
    let (identity, name) = match who {
        Who::Member(id) => (identity.with_member_id(text(id)), id),
        Who::Instance(id) => (identity.with_group_instance_id(Some(text(id))), id),
    };
    let request = LeaveGroupRequest::default()
        .with_group_id(text(group).into())
        .with_members(vec![identity]);
    let answer = client.at_coordinator(group, LEAVE_GROUP_VERSION, &request, |a| a.error_code)?;
    let member = answer.members.first().map_or(0, |m| m.error_code);
    let code = if answer.error_code == 0 {
        member
    } else {
        answer.error_code
    };
    if code == ResponseError::UnknownMemberId.code() {
        let none = format!("group {group} has no member {name}; describe shows its members");
        return Err(GroupCommandError::Failed(none));
    }
    check(code, || format!("{name} is not removed from {group}"))?;
    let removed = Removed {
        group,
        removed: name,
    };
    done(format!("{name} is removed from {group}\n"), json, &removed)
}
