//! The range assignor.

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::limits::MAX_PARTITIONS_PER_TOPIC;
use rivven_core_types::{PartitionIndex, TopicName};

use crate::error::AssignError;
use crate::member::{MemberId, Subscription};

/// Most members of one group.
pub const MAX_GROUP_MEMBERS: usize = 10_000;

/// What one member reads: per topic its partitions in ascending order. Topics without one are left
/// out.
pub type Assignment = BTreeMap<TopicName, Vec<PartitionIndex>>;

/// Kafka's range assignor: per topic, the subscribed members in order get contiguous ranges, and the
/// first ones get one partition more if the count does not divide evenly. Topics of equal partition
/// counts and the same subscribers are therefore co-partitioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeAssignor;

impl RangeAssignor {
    /// The name by which clients select it.
    pub const NAME: &'static str = "range";

    /// Assigns the partitions of every subscribed topic; `partitions` has the partition count of
    /// each existing topic. A subscribed topic that does not exist is passed over, and every member
    /// appears in the result, if with an empty assignment.
    ///
    /// Fails on a member or instance id given twice, and beyond [`MAX_GROUP_MEMBERS`] or the
    /// partitions a topic may have.
    pub fn assign(
        self,
        members: &[Subscription],
        partitions: &BTreeMap<TopicName, u32>,
    ) -> Result<BTreeMap<MemberId, Assignment>, AssignError> {
        let members = in_order(members)?;
        let mut subscribers: BTreeMap<&TopicName, Vec<&Subscription>> = BTreeMap::new();
        let mut assigned: BTreeMap<MemberId, Assignment> = BTreeMap::new();
        for member in members {
            assigned.insert(member.member.clone(), Assignment::new());
            for topic in &member.topics {
                subscribers.entry(topic).or_default().push(member);
            }
        }
        for (topic, subscribers) in subscribers {
            let Some(count) = partitions.get(topic).copied() else {
                continue;
            };
            for (member, range) in subscribers
                .iter()
                .zip(ranges(topic, count, subscribers.len())?)
            {
                if let Some(assignment) = assigned.get_mut(&member.member)
                    && !range.is_empty()
                {
                    assignment.insert(topic.clone(), range.map(PartitionIndex::new).collect());
                }
            }
        }
        Ok(assigned)
    }
}

/// The members in the order in which they are served, checked for duplicates.
fn in_order(members: &[Subscription]) -> Result<Vec<&Subscription>, AssignError> {
    if members.len() > MAX_GROUP_MEMBERS {
        return Err(AssignError::TooManyMembers {
            members: members.len(),
            max: MAX_GROUP_MEMBERS,
        });
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = members.iter().find(|m| !ids.insert(&m.member)) {
        return Err(AssignError::DuplicateMember {
            member: twice.member.clone(),
        });
    }
    let mut members: Vec<&Subscription> = members.iter().collect();
    members.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()));
    for (first, second) in members.iter().zip(members.iter().skip(1)) {
        if let Some(instance) = &first.instance
            && second.instance.as_ref() == Some(instance)
        {
            return Err(AssignError::DuplicateInstance {
                instance: instance.clone(),
                first: first.member.clone(),
                second: second.member.clone(),
            });
        }
    }
    Ok(members)
}

/// `0..count` cut into `members` ranges whose sizes differ by at most one, the longer ones first.
fn ranges(
    topic: &TopicName,
    count: u32,
    members: usize,
) -> Result<impl Iterator<Item = std::ops::Range<u32>>, AssignError> {
    if count > MAX_PARTITIONS_PER_TOPIC {
        return Err(AssignError::TooManyPartitions {
            topic: topic.clone(),
            partitions: count,
            max: MAX_PARTITIONS_PER_TOPIC,
        });
    }
    // At most MAX_GROUP_MEMBERS, and at least one: a topic is only looked at for its subscribers.
    let members = u32::try_from(members).unwrap_or(u32::MAX).max(1);
    let (share, longer) = (count / members, count % members);
    Ok((0..members).map(move |i| {
        let start = share * i + longer.min(i);
        start..start + share + u32::from(i < longer)
    }))
}

#[cfg(test)]
mod tests;
