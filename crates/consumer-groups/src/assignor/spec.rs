//! What an assignor is given.

use std::collections::BTreeSet;
use std::sync::Arc;

use rivven_core_types::limits::MAX_PARTITIONS_PER_TOPIC;
use rivven_core_types::{RackId, TopicId};

use super::assignment::Assignment;
use super::topic_index::TopicIndex;
use super::{balance, range, round_robin, uniform};
use crate::error::AssignError;
use crate::ids::{InstanceId, MAX_GROUP_MEMBERS, MemberId};
use crate::partitions::Partitions;

/// A topic to be assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its id.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The racks that hold a replica, per partition; empty when racks do not count.
    pub racks: Vec<Vec<RackId>>,
}

/// A member, what it wants and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// Its id.
    pub id: MemberId,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// Its rack.
    pub rack: Option<RackId>,
    /// What it subscribes to: positions in the topics of [`GroupSpec`], ascending. Members that want the
    /// same share one list.
    pub topics: Arc<[u32]>,
    /// What it has at present.
    pub owned: Partitions,
    /// How recent that claim is (KIP-792): a claim of an older generation yields to a newer one, and
    /// two of the same generation cancel each other out.
    pub generation: i32,
}

impl MemberSpec {
    /// The order in which members are served: static ones first, by instance id, so that their
    /// ranges survive a restart under a new member id; then dynamic ones by member id.
    fn rank(&self) -> (bool, Option<&InstanceId>, &MemberId) {
        (self.instance.is_none(), self.instance.as_ref(), &self.id)
    }
}

/// A group to be assigned. [`GroupSpec::new`] checks it and puts it in order.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    pub(super) members: Vec<MemberSpec>,
    pub(crate) topics: Vec<TopicSpec>,
    /// The number of each topic's first partition when all are numbered through.
    pub(super) first: Vec<u32>,
    pub(super) total: u32,
    index: TopicIndex,
    /// Whether all members subscribe to the same topics.
    pub(super) homogeneous: bool,
}

/// No member.
pub(super) const NOBODY: u32 = u32::MAX;

impl GroupSpec {
    /// Checks and orders members and topics.
    ///
    /// # Errors
    /// Members or instances given twice, and more members or partitions than allowed.
    pub fn new(mut members: Vec<MemberSpec>, topics: Vec<TopicSpec>) -> Result<Self, AssignError> {
        if members.len() > MAX_GROUP_MEMBERS {
            return Err(AssignError::TooManyMembers {
                members: members.len(),
                max: MAX_GROUP_MEMBERS,
            });
        }
        members.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()));
        check_unique(&members)?;
        let mut first = Vec::with_capacity(topics.len());
        let mut total = 0u32;
        for topic in &topics {
            first.push(total);
            let sum = total.checked_add(topic.partitions);
            total = match sum.filter(|_| topic.partitions <= MAX_PARTITIONS_PER_TOPIC) {
                Some(total) => total,
                None => {
                    return Err(AssignError::TooManyPartitions {
                        topic: topic.id,
                        partitions: topic.partitions,
                        max: MAX_PARTITIONS_PER_TOPIC,
                    });
                }
            };
        }
        let homogeneous = members.windows(2).all(|pair| {
            let (a, b) = (&pair[0].topics, &pair[1].topics);
            Arc::ptr_eq(a, b) || a == b
        });
        Ok(Self {
            index: TopicIndex::new(&topics),
            members,
            topics,
            first,
            total,
            homogeneous,
        })
    }

    /// The members in the order of the assignments.
    pub fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    /// The position of a topic.
    pub(crate) fn position(&self, topic: TopicId) -> Option<usize> {
        self.index.position(&self.topics, topic)
    }

    /// Who has each partition at present, by its number through all topics: the valid claim of the
    /// highest generation, and nobody where two such claims meet.
    pub(crate) fn claims(&self) -> Vec<u32> {
        let mut owners = vec![NOBODY; self.total as usize];
        let mut disputed: Vec<bool> = Vec::new();
        for (member, spec) in (0u32..).zip(&self.members) {
            let wants_all = spec.topics.len() == self.topics.len();
            for run in spec.owned.as_slice().chunk_by(|a, b| a.topic == b.topic) {
                let Some(position) = run.first().and_then(|p| self.position(p.topic)) else {
                    continue;
                };
                let wanted = u32::try_from(position).unwrap_or(NOBODY);
                if !wants_all && spec.topics.binary_search(&wanted).is_err() {
                    continue;
                }
                let (first, count) = (self.first[position], self.topics[position].partitions);
                for partition in run.iter().filter(|p| p.index.get() < count) {
                    let number = (first + partition.index.get()) as usize;
                    let owner = owners[number];
                    if owner == NOBODY {
                        owners[number] = member;
                        continue;
                    }
                    disputed.resize(owners.len(), false);
                    let other = self.members[owner as usize].generation;
                    if spec.generation > other {
                        owners[number] = member;
                        disputed[number] = false;
                    } else if spec.generation == other {
                        disputed[number] = true;
                    }
                }
            }
        }
        for (owner, disputed) in owners.iter_mut().zip(&disputed) {
            if *disputed {
                *owner = NOBODY;
            }
        }
        owners
    }

    /// The members of each topic, by position.
    pub(crate) fn subscribers(&self) -> Vec<Vec<u32>> {
        let mut subscribers = vec![Vec::new(); self.topics.len()];
        for (member, spec) in (0u32..).zip(&self.members) {
            for topic in spec.topics.iter() {
                if let Some(list) = subscribers.get_mut(*topic as usize) {
                    list.push(member);
                }
            }
        }
        subscribers
    }

    /// Whether the partition `number` of the topic at `position` has a replica in the member's rack;
    /// true when racks do not count for either of them.
    pub(super) fn is_near(&self, member: u32, position: usize, index: u32) -> bool {
        let Some(rack) = &self.members[member as usize].rack else {
            return true;
        };
        self.topics[position]
            .racks
            .get(index as usize)
            .is_none_or(|racks| racks.is_empty() || racks.contains(rack))
    }

    /// Whether racks count at all.
    pub(super) fn has_racks(&self) -> bool {
        self.members.iter().any(|m| m.rack.is_some())
            && self.topics.iter().any(|t| !t.racks.is_empty())
    }
}

fn check_unique(members: &[MemberSpec]) -> Result<(), AssignError> {
    let mut ids = BTreeSet::new();
    // Those who have no instance are in order already.
    let dynamic = members.partition_point(|m| m.instance.is_some());
    let (fixed, dynamic) = members.split_at(dynamic);
    for pair in fixed.windows(2) {
        if let (Some(instance), true) = (&pair[0].instance, pair[0].instance == pair[1].instance) {
            return Err(AssignError::DuplicateInstance {
                instance: instance.clone(),
                first: pair[0].id.clone(),
                second: pair[1].id.clone(),
            });
        }
    }
    let twice = dynamic.windows(2).find(|pair| pair[0].id == pair[1].id);
    let twice = twice.map(|pair| &pair[0]).or_else(|| {
        ids.extend(fixed.iter().map(|m| &m.id));
        if ids.len() < fixed.len() {
            return fixed.first();
        }
        dynamic.iter().find(|m| ids.contains(&m.id))
    });
    match twice {
        Some(member) => Err(AssignError::DuplicateMember {
            member: member.id.clone(),
        }),
        None => Ok(()),
    }
}

/// The assignors that a coordinator runs itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AssignorKind {
    /// Even shares with as few moves as possible; also known as `sticky`.
    #[default]
    Uniform,
    /// Per topic contiguous ranges, so that topics of equal partition counts go together.
    Range,
    /// One partition to each in turn, whatever anybody has.
    RoundRobin,
}

impl AssignorKind {
    /// The assignor of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "uniform" | "sticky" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            "roundrobin" => Some(Self::RoundRobin),
            _ => None,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    /// Assigns every partition that somebody wants.
    pub fn assign(self, spec: &GroupSpec) -> Assignment<'_> {
        let claims = spec.claims();
        let owners = match self {
            _ if spec.members.is_empty() => claims.clone(),
            Self::Uniform if spec.homogeneous => uniform::assign(spec, &claims),
            Self::Uniform => balance::assign(spec, &claims),
            Self::Range => range::assign(spec),
            Self::RoundRobin => round_robin::assign(spec),
        };
        Assignment::new(spec, claims, owners)
    }
}
