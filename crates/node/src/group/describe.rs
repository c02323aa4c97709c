//! `describe`: who is in a group, and how far it lags behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::{Assignment, Member};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribeGroupsRequest,
    DescribeGroupsResponse,
};
use serde::Serialize;

use super::client::{Client, GroupCommandError, Result, check, text};
use super::output::{self, Row, render};
use super::positions::{EARLIEST, LATEST, Leaders, TopicPartition, committed};

const CONSUMER_DESCRIBE_VERSION: i16 = 1;
const CLASSIC_DESCRIBE_VERSION: i16 = 5;
/// What DescribeGroups calls a group that does not exist, before version 6 (KIP-1043).
const DEAD: &str = "Dead";
/// What Kafka calls a group without members.
pub(super) const EMPTY: &str = "Empty";

/// A group as its coordinator describes it.
#[derive(Debug, Serialize)]
pub(super) struct Described {
    group: String,
    #[serde(rename = "type")]
    kind: &'static str,
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<i32>,
    assignor: String,
    pub(super) members: Vec<MemberRow>,
}

#[derive(Debug, Serialize)]
pub(super) struct MemberRow {
    member: String,
    instance: Option<String>,
    client: String,
    host: String,
    rack: Option<String>,
    epoch: Option<i32>,
    /// What it may read now.
    assigned: BTreeMap<String, Vec<i32>>,
    /// What it shall read, if that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<BTreeMap<String, Vec<i32>>>,
}

impl Row for MemberRow {
    const HEAD: &'static [&'static str] = &[
        "MEMBER",
        "INSTANCE",
        "CLIENT",
        "EPOCH",
        "PARTITIONS",
        "TARGET",
    ];

    fn cells(&self) -> Vec<String> {
        let count = |map: &BTreeMap<String, Vec<i32>>| map.values().map(Vec::len).sum::<usize>();
        let assigned = count(&self.assigned);
        vec![
            output::or_dash(&self.member),
            output::or_dash(self.instance.as_deref().unwrap_or_default()),
            output::or_dash(&self.client),
            output::number(self.epoch),
            assigned.to_string(),
            self.target.as_ref().map_or(assigned, count).to_string(),
        ]
    }
}

/// How far a group has read a partition.
#[derive(Debug, Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    /// In messages; none without a committed offset, which is not the same as 0.
    lag: Option<i64>,
    /// Age of the oldest batch that is not read whole.
    time_lag_ms: Option<i64>,
    member: Option<String>,
}

impl Row for PartitionRow {
    const HEAD: &'static [&'static str] = &[
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "END",
        "LAG",
        "TIME-LAG",
        "MEMBER",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            output::number(self.committed),
            output::number(self.end),
            output::number(self.lag),
            output::duration(self.time_lag_ms),
            output::or_dash(self.member.as_deref().unwrap_or_default()),
        ]
    }
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    group: Described,
    /// Of all partitions with a committed offset.
    lag: i64,
    partitions: Vec<PartitionRow>,
}

pub(super) fn run(client: &mut Client, groups: &[String], json: bool) -> Result<String> {
    let mut reports = Vec::new();
    for group in groups {
        reports.push(report(client, group)?);
    }
    if json {
        return output::json(&reports);
    }
    let mut said = String::new();
    for (at, report) in reports.iter().enumerate() {
        let group = &report.group;
        let epoch = group.epoch.map(|epoch| format!(", epoch {epoch}"));
        let assignor = match group.assignor.as_str() {
            "" => String::new(),
            assignor => format!(", assignor {}", output::or_dash(assignor)),
        };
        // Writing to a String cannot fail.
        writeln!(
            said,
            "{}GROUP {}: {} ({}{}{assignor}), {} members, lag {}",
            if at == 0 { "" } else { "\n" },
            output::or_dash(&group.group),
            group.state,
            group.kind,
            epoch.unwrap_or_default(),
            group.members.len(),
            report.lag,
        )
        .unwrap_or_default();
        if !group.members.is_empty() {
            said.push('\n');
            said.push_str(&render(&group.members));
        }
        if !report.partitions.is_empty() {
            said.push('\n');
            said.push_str(&render(&report.partitions));
        }
    }
    Ok(said)
}

fn report(client: &mut Client, name: &str) -> Result<Report> {
    let group = describe(client, name)?;
    let committed = committed(client, name)?;
    let mut readers: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for member in &group.members {
        for (topic, indexes) in &member.assigned {
            let at = indexes.iter().map(|index| (topic.clone(), *index));
            readers.extend(at.map(|at| (at, member.member.clone())));
        }
    }
    let all: BTreeSet<TopicPartition> = committed.keys().chain(readers.keys()).cloned().collect();
    let topics = all.iter().map(|(topic, _)| topic.clone()).collect();
    let leaders = Leaders::of(client, &topics)?;
    let ends = leaders.list_offsets(client, &all, LATEST)?;
    let starts = leaders.list_offsets(client, &all, EARLIEST)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let mut partitions = Vec::new();
    for at in all {
        let done = committed.get(&at).copied();
        let end = ends.get(&at).copied().flatten();
        let lag = done
            .zip(end)
            .map(|(done, end)| end.saturating_sub(done).max(0));
        let time_lag_ms = match (lag, done) {
            (Some(0), _) => Some(0),
            (Some(_), Some(done)) => {
                // What retention has deleted is not waiting any more.
                let start = starts.get(&at).copied().flatten().unwrap_or(0);
                let since = leaders.time_at(client, &at, done.max(start))?;
                since.map(|since| now.saturating_sub(since).max(0))
            }
            _ => None,
        };
        partitions.push(PartitionRow {
            committed: done,
            end,
            lag,
            time_lag_ms,
            member: readers.get(&at).cloned(),
            topic: at.0,
            partition: at.1,
        });
    }
    Ok(Report {
        lag: partitions.iter().filter_map(|p| p.lag).sum(),
        group,
        partitions,
    })
}

/// Asks for a group of either protocol.
pub(super) fn describe(client: &mut Client, name: &str) -> Result<Described> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![text(name).into()]);
    let code = |answer: &ConsumerGroupDescribeResponse| {
        answer.groups.first().map_or(0, |group| group.error_code)
    };
    let found = client.at_coordinator(name, CONSUMER_DESCRIBE_VERSION, &request, code)?;
    if code(&found) == ResponseError::GroupIdNotFound.code() {
        return classic(client, name);
    }
    check(code(&found), || format!("group {name}"))?;
    let missing = || GroupCommandError::Failed("an answer about no group".to_owned());
    let group = found.groups.into_iter().next().ok_or_else(missing)?;
    Ok(Described {
        group: name.to_owned(),
        kind: "consumer",
        state: group.group_state.to_string(),
        epoch: Some(group.group_epoch),
        assignor: group.assignor_name.to_string(),
        members: group.members.into_iter().map(member).collect(),
    })
}

fn by_topic(assignment: Assignment) -> BTreeMap<String, Vec<i32>> {
    let topics = assignment.topic_partitions.into_iter();
    topics
        .map(|topic| (topic.topic_name.to_string(), topic.partitions))
        .collect()
}

fn member(member: Member) -> MemberRow {
    let assigned = by_topic(member.assignment);
    let target = by_topic(member.target_assignment);
    MemberRow {
        member: member.member_id.to_string(),
        instance: member.instance_id.map(|id| id.to_string()),
        client: member.client_id.to_string(),
        host: member.client_host.to_string(),
        rack: member.rack_id.map(|rack| rack.to_string()),
        epoch: Some(member.member_epoch),
        target: (target != assigned).then_some(target),
        assigned,
    }
}

fn classic(client: &mut Client, name: &str) -> Result<Described> {
    let request = DescribeGroupsRequest::default().with_groups(vec![text(name).into()]);
    let code =
        |answer: &DescribeGroupsResponse| answer.groups.first().map_or(0, |group| group.error_code);
    let found = client.at_coordinator(name, CLASSIC_DESCRIBE_VERSION, &request, code)?;
    check(code(&found), || format!("group {name}"))?;
    let group = found.groups.into_iter().next();
    let Some(group) = group.filter(|group| group.group_state.as_str() != DEAD) else {
        let missing = format!("group {name} does not exist; list shows the groups");
        return Err(GroupCommandError::Failed(missing));
    };
    let members = group.members.into_iter().map(|member| MemberRow {
        member: member.member_id.to_string(),
        instance: member.group_instance_id.map(|id| id.to_string()),
        client: member.client_id.to_string(),
        host: member.client_host.to_string(),
        rack: None,
        epoch: None,
        assigned: assignment(member.member_assignment).unwrap_or_default(),
        target: None,
    });
    Ok(Described {
        group: name.to_owned(),
        kind: "classic",
        state: group.group_state.to_string(),
        epoch: None,
        assignor: group.protocol_data.to_string(),
        members: members.collect(),
    })
}

/// A classic consumer's assignment: a version, then topics with partitions, then whatever the assignor
/// likes. The bytes are a client's own; what does not parse is none.
fn assignment(mut bytes: Bytes) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut topics = BTreeMap::new();
    let _version = bytes.try_get_i16().ok()?;
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let name = (length <= bytes.len()).then(|| bytes.split_to(length))?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        let mut partitions = Vec::new();
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.push(bytes.try_get_i32().ok()?);
        }
        topics.insert(name, partitions);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_assignment_is_read_and_garbage_is_none() {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2];
        bytes.extend([0, 0, 0, 3, 0, 0, 0, 5, 0xff]);
        let whole = assignment(Bytes::from(bytes.clone())).unwrap();
        assert_eq!(whole, BTreeMap::from([("t".to_owned(), vec![3, 5])]));
        for cut in 0..bytes.len() - 1 {
            assert_eq!(assignment(Bytes::from(bytes[..cut].to_vec())), None);
        }
        // A count that no length backs ends at the bytes' end and reserves nothing.
        let hostile: &[u8] = &[0, 1, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(assignment(Bytes::copy_from_slice(hostile)), None);
        assert_eq!(
            assignment(Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff, 0xff])),
            Some(BTreeMap::new())
        );
    }
}
