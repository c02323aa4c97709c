//! `reset`: committed offsets of a group that nobody is in.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::OffsetCommitRequest;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use serde::Serialize;

use super::client::{Client, GroupCommandError, Result, describe_code, text};
use super::describe::{EMPTY, describe};
use super::output::{self, Row, render};
use super::positions::{EARLIEST, LATEST, Leaders, TopicPartition, committed};
use crate::cli::group::{ResetTo, TopicChoice};

const OFFSET_COMMIT_VERSION: i16 = 8;
/// In the place of a generation: whoever commits is no member.
const NO_MEMBER: i32 = -1;

/// One partition's reset.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Step {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
}

impl Row for Step {
    const HEAD: &'static [&'static str] = &["TOPIC", "PARTITION", "FROM", "TO", "CHANGE"];

    fn cells(&self) -> Vec<String> {
        let change = self.from.map(|from| format!("{:+}", self.to - from));
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            output::number(self.from),
            self.to.to_string(),
            output::number(change),
        ]
    }
}

#[derive(Serialize)]
struct Report<'a> {
    group: &'a str,
    executed: bool,
    partitions: &'a [Step],
}

pub(super) fn run(
    client: &mut Client,
    group: &str,
    to: ResetTo,
    topics: &[TopicChoice],
    execute: bool,
    json: bool,
) -> Result<String> {
    refuse_live(client, group)?;
    let committed = committed(client, group)?;
    let steps = plan(client, group, to, topics, &committed)?;
    if execute {
        commit(client, group, &steps)?;
    }
    if json {
        let report = Report {
            group,
            executed: execute,
            partitions: &steps,
        };
        return output::json(&report);
    }
    let end = if execute {
        format!("{} offsets of {group} are reset\n", steps.len())
    } else {
        "nothing is changed; add --execute to do it\n".to_owned()
    };
    Ok(render(&steps) + &end)
}

/// Members keep their own positions and would commit over the reset ones. The coordinator refuses the
/// commit too, should one join meanwhile.
fn refuse_live(client: &mut Client, group: &str) -> Result<()> {
    let described = match describe(client, group) {
        // A group may be made by its first offsets.
        Err(GroupCommandError::Failed(_)) => return Ok(()),
        described => described?,
    };
    if described.state == EMPTY {
        return Ok(());
    }
    Err(GroupCommandError::Failed(format!(
        "group {group} is {} with {} members; stop them first",
        described.state,
        described.members.len()
    )))
}

fn plan(
    client: &mut Client,
    group: &str,
    to: ResetTo,
    topics: &[TopicChoice],
    committed: &BTreeMap<TopicPartition, i64>,
) -> Result<Vec<Step>> {
    let failed = |text: String| GroupCommandError::Failed(text);
    let names: BTreeSet<String> = if topics.is_empty() {
        committed.keys().map(|(topic, _)| topic.clone()).collect()
    } else {
        topics.iter().map(|t| t.name.to_string()).collect()
    };
    if names.is_empty() {
        let none = format!("group {group} has no committed offset; name the topics with --topic");
        return Err(failed(none));
    }
    let leaders = Leaders::of(client, &names)?;
    let mut chosen: BTreeSet<TopicPartition> = BTreeSet::new();
    if topics.is_empty() {
        chosen.extend(leaders.0.keys().cloned());
    }
    for topic in topics {
        let name = topic.name.as_str();
        let known: BTreeSet<i32> = leaders
            .0
            .keys()
            .filter(|at| at.0 == name)
            .map(|at| at.1)
            .collect();
        if known.is_empty() {
            return Err(failed(format!("there is no topic {name}")));
        }
        if let Some(index) = topic.partitions.iter().find(|index| !known.contains(index)) {
            return Err(failed(format!("topic {name} has no partition {index}")));
        }
        let all = topic.partitions.is_empty();
        let wanted = known
            .iter()
            .filter(|index| all || topic.partitions.contains(index));
        chosen.extend(wanted.map(|index| (name.to_owned(), *index)));
    }
    let starts = leaders.list_offsets(client, &chosen, EARLIEST)?;
    let ends = leaders.list_offsets(client, &chosen, LATEST)?;
    let timed = match to {
        ResetTo::Time(time) => leaders.list_offsets(client, &chosen, time)?,
        _ => BTreeMap::new(),
    };
    let mut steps = Vec::new();
    for at in chosen {
        let offset = |offsets: &BTreeMap<TopicPartition, Option<i64>>| offsets.get(&at).copied();
        let bounds = offset(&starts).flatten().zip(offset(&ends).flatten());
        let silent = || failed(format!("the leader of {}-{} does not answer", at.0, at.1));
        let (start, end) = bounds.ok_or_else(silent)?;
        let from = committed.get(&at).copied();
        let wanted = match to {
            ResetTo::Earliest => start,
            ResetTo::Latest => end,
            ResetTo::Offset(offset) => offset,
            // Where no record is so late, whatever comes next is.
            ResetTo::Time(_) => offset(&timed).ok_or_else(silent)?.unwrap_or(end),
            ResetTo::Shift(by) => match from {
                Some(from) => from.saturating_add(by),
                // From nowhere nothing can be shifted.
                None => continue,
            },
        };
        steps.push(Step {
            from,
            // The two are asked for one after the other: the topic may be another one by then.
            to: wanted.min(end).max(start),
            topic: at.0,
            partition: at.1,
        });
    }
    if steps.is_empty() {
        let none = format!("group {group} has no committed offset there that could be shifted");
        return Err(failed(none));
    }
    Ok(steps)
}

fn commit(client: &mut Client, group: &str, steps: &[Step]) -> Result<()> {
    let topics = steps.chunk_by(|a, b| a.topic == b.topic).map(|run| {
        let partitions = run.iter().map(|step| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(step.partition)
                .with_committed_offset(step.to)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text("")))
        });
        let name = run.first().map_or("", |step| step.topic.as_str());
        OffsetCommitRequestTopic::default()
            .with_name(text(name).into())
            .with_partitions(partitions.collect())
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(text(group).into())
        .with_generation_id_or_member_epoch(NO_MEMBER)
        .with_topics(topics.collect());
    let code = |answer: &kafka_protocol::messages::OffsetCommitResponse| {
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut codes = partitions.map(|partition| partition.error_code);
        codes.find(|code| *code != 0).unwrap_or(0)
    };
    let answer = client.at_coordinator(group, OFFSET_COMMIT_VERSION, &request, code)?;
    if code(&answer) == ResponseError::UnknownMemberId.code() {
        let changed = if client.was_repeated() {
            "an answer was lost before: describe shows whether its offsets are reset"
        } else {
            "nothing is changed"
        };
        let joined = format!("somebody has joined group {group}; {changed}");
        return Err(GroupCommandError::Failed(joined));
    }
    let mut refused = Vec::new();
    for topic in &answer.topics {
        for partition in topic.partitions.iter().filter(|p| p.error_code != 0) {
            let (name, index) = (topic.name.as_str(), partition.partition_index);
            let why = describe_code(partition.error_code);
            refused.push(format!("{name}-{index} ({why})"));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let (done, refused) = (
        steps.len().saturating_sub(refused.len()),
        refused.join(", "),
    );
    let partly = format!("{done} offsets of {group} are reset; these are not: {refused}");
    Err(GroupCommandError::Failed(partly))
}
