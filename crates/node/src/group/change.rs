//! Deleting groups and offsets, and taking members out.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{DeleteGroupsRequest, LeaveGroupRequest, OffsetDeleteRequest};
use serde::Serialize;

use super::client::{Client, GroupCommandError, Result, check, describe_code, text};
use super::positions::TopicPartition;
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
        let answer = client.at_coordinator(group, DELETE_GROUPS_VERSION, &request, code);
        let before = |outcome: &str| match gone.as_slice() {
            [] => format!("group {group} {outcome}"),
            gone => format!("{gone:?} are deleted, and group {group} {outcome}"),
        };
        let answer = answer.map_err(|error| {
            GroupCommandError::Failed(format!("{}: {error}", before("may not be")))
        })?;
        // The first attempt, whose answer was lost, may have deleted it.
        let is_gone =
            client.was_repeated() && code(&answer) == ResponseError::GroupIdNotFound.code();
        if !is_gone {
            check(code(&answer), || before("is not deleted"))?;
        }
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
    let chosen = choose(group, topics, committed.keys())?;
    let chosen: Vec<_> = chosen.into_iter().collect();
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
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    for topic in answer.topics {
        for found in topic.partitions {
            let (topic, partition) = (topic.name.to_string(), found.partition_index);
            if found.error_code == 0 {
                gone.push(Forgotten { topic, partition });
            } else {
                let why = describe_code(found.error_code);
                kept.push(format!("{topic}-{partition} ({why})"));
            }
        }
    }
    if !kept.is_empty() {
        let (gone, kept) = (gone.len(), kept.join(", "));
        let partly = format!("{gone} offsets of {group} are deleted; these are not: {kept}");
        return Err(GroupCommandError::Failed(partly));
    }
    let said = format!("{} offsets of {group} are deleted\n", gone.len());
    done(said, json, &gone)
}

/// The committed partitions that are chosen; a choice without any is a mistake.
fn choose<'a>(
    group: &str,
    topics: &[TopicChoice],
    committed: impl Iterator<Item = &'a TopicPartition>,
) -> Result<BTreeSet<TopicPartition>> {
    let committed: BTreeSet<&TopicPartition> = committed.collect();
    let mut chosen = BTreeSet::new();
    for choice in topics {
        let name = choice.name.as_str();
        let of_topic = || committed.iter().filter(|(topic, _)| topic == name);
        let known = |index: &&i32| of_topic().any(|(_, known)| known == *index);
        let missing = match choice.partitions.iter().find(|index| !known(index)) {
            Some(index) => format!("{name}-{index}"),
            None if of_topic().next().is_none() => format!("topic {name}"),
            None => String::new(),
        };
        if !missing.is_empty() {
            return Err(GroupCommandError::Failed(format!(
                "group {group} has no committed offset of {missing}; nothing is deleted"
            )));
        }
        let all = choice.partitions.is_empty();
        let wanted = of_topic().filter(|(_, index)| all || choice.partitions.contains(index));
        chosen.extend(wanted.map(|at| (*at).clone()));
    }
    Ok(chosen)
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
    let is_unknown = code == ResponseError::UnknownMemberId.code();
    // The first attempt, whose answer was lost, may have removed it.
    if is_unknown && !client.was_repeated() {
        let none = format!("group {group} has no member {name}; describe shows its members");
        return Err(GroupCommandError::Failed(none));
    }
    if !is_unknown {
        check(code, || format!("{name} is not removed from {group}"))?;
    }
    let removed = Removed {
        group,
        removed: name,
    };
    done(format!("{name} is removed from {group}\n"), json, &removed)
}

#[cfg(test)]
mod tests {
    use rivven_cluster::types::TopicName;

    use super::*;

    fn choice(name: &str, partitions: &[i32]) -> TopicChoice {
        TopicChoice {
            name: TopicName::new(name).unwrap(),
            partitions: partitions.to_vec(),
        }
    }

    #[test]
    fn a_topic_may_be_named_twice_and_what_is_not_there_is_refused() {
        let committed: Vec<TopicPartition> = vec![
            ("t".into(), 0),
            ("t".into(), 1),
            ("t".into(), 2),
            ("u".into(), 0),
        ];
        let chosen = |topics: &[TopicChoice]| choose("g", topics, committed.iter());
        let twice = chosen(&[choice("t", &[0]), choice("t", &[1])]).unwrap();
        assert_eq!(twice, [("t".into(), 0), ("t".into(), 1)].into());
        assert_eq!(chosen(&[choice("t", &[])]).unwrap().len(), 3);
        for (topics, missing) in [
            ([choice("t", &[0]), choice("v", &[])], "topic v"),
            ([choice("t", &[0]), choice("u", &[1])], "u-1"),
        ] {
            let error = chosen(&topics).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
