//! The commands that Raft replicates, and their results.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{PartitionId, RackId, TopicId, TopicName, UnixMillis, limits};

use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::{GroupId, InstanceId, MemberId};
use crate::partitions::Partitions;
use crate::shared::Shared;

/// Version of the encoding. Fields and variants are only ever added at the end; any other change
/// raises it.
const VERSION: u8 = 1;
/// Most operations in one command.
pub const MAX_OPS: usize = 4_096;
/// Longest encoded list of results, in bytes.
const MAX_RESULTS_BYTES: usize = 8 * 1024 * 1024;

/// One Raft command: operations in the order in which the coordinator took them up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The coordinator's wall clock. Applied as the greatest seen so far, so that the state's time
    /// never goes back.
    pub at: UnixMillis,
    /// The operations.
    pub ops: Vec<Op>,
}

/// Who a client says it is; only shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Its `client.id`.
    pub id: String,
    /// The address it connects from.
    pub host: String,
}

/// A heartbeat of the consumer protocol (KIP-848) that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// The epoch that it knows, or one of [`Epoch::JOIN`], [`Epoch::LEAVE`], [`Epoch::LEAVE_STATIC`].
    pub epoch: Epoch,
    /// Its rack, if it says so.
    pub rack: Option<RackId>,
    /// Who it is.
    pub client: ClientInfo,
    /// How long it may take to give partitions up, in milliseconds; `None` when unchanged.
    pub rebalance_timeout_ms: Option<u32>,
    /// The topics that it wants; `None` when unchanged.
    pub topics: Option<Vec<TopicName>>,
    /// The pattern of the topics that it wants, empty for none; `None` when unchanged.
    pub pattern: Option<String>,
    /// The server-side assignor that it wants; `None` when unchanged.
    pub assignor: Option<String>,
    /// What it owns; `None` when unchanged.
    pub owned: Option<Partitions>,
}

/// Positions of topics in [`SetTarget::topics`], each with the indexes of its partitions.
pub type TopicRuns = Vec<(u32, Vec<u32>)>;

/// New target assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTarget {
    /// The group.
    pub group: GroupId,
    /// The group epoch for which it was computed. Another one supersedes it.
    pub epoch: Epoch,
    /// The fingerprint of the topics for which it was computed.
    pub fingerprint: u64,
    /// The topics that occur.
    pub topics: Vec<TopicId>,
    /// The members whose target changes: indexes into `topics`, each with its partitions.
    pub members: Vec<(MemberId, TopicRuns)>,
}

/// A member of the classic protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassicMember {
    /// Its id.
    pub id: MemberId,
    /// Its static id (KIP-345).
    pub instance: Option<InstanceId>,
    /// Who it is.
    pub client: ClientInfo,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: u32,
    /// How long it may take to rejoin, in milliseconds.
    pub rebalance_timeout_ms: u32,
    /// The assignors that it knows, the preferred first, with its subscription as each wants it.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader has assigned to it.
    pub assignment: Bytes,
}

/// The end of a classic join barrier: a new generation, which awaits the leader's assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassicRound {
    /// The group.
    pub group: GroupId,
    /// The generation that it follows. Another one supersedes it.
    pub after: Epoch,
    /// `consumer`, or whatever the group is for.
    pub protocol_type: String,
    /// The chosen assignor.
    pub protocol: String,
    /// Who assigns.
    pub leader: MemberId,
    /// All members. None make the group empty.
    pub members: Vec<ClassicMember>,
}

/// An offset to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetToCommit {
    /// Where.
    pub partition: PartitionId,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The consumer's own text.
    pub metadata: Box<str>,
}

/// In whose name offsets are committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committer {
    /// The member; `None` for a consumer that is not a member of its group, and for tools.
    pub member: Option<MemberId>,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// Its generation or member epoch; negative for none.
    pub epoch: Epoch,
}

/// One change. Each is checked against the state when it is applied; a loser changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Op {
    /// A member of the consumer protocol joins, changes, confirms or leaves.
    Heartbeat(Shared<Heartbeat>),
    /// The planner has assigned.
    SetTarget(Box<SetTarget>),
    /// The topics that a group subscribes to have changed.
    TopicsChanged {
        /// The group.
        group: GroupId,
        /// The group epoch that was seen.
        epoch: Epoch,
        /// The fingerprint of the topics as they are now.
        fingerprint: u64,
    },
    /// A member of the consumer protocol was silent, or gave partitions up too slowly.
    Fence {
        /// The group.
        group: GroupId,
        /// The member.
        member: MemberId,
        /// The member epoch when the time ran out.
        epoch: Epoch,
    },
    /// A classic join barrier has ended.
    ClassicRound(Box<ClassicRound>),
    /// The leader of a classic group has assigned.
    ClassicSync {
        /// The group.
        group: GroupId,
        /// The generation.
        generation: Epoch,
        /// What each member gets; the others get nothing.
        assignments: Vec<(MemberId, Bytes)>,
    },
    /// A static member of a stable classic group came back under a new id (KIP-345).
    ClassicReplace {
        /// The group.
        group: GroupId,
        /// The generation.
        generation: Epoch,
        /// Its id so far.
        old: MemberId,
        /// What it is now.
        member: Box<ClassicMember>,
    },
    /// Members leave, are taken out by an operator, or (classic) were silent.
    RemoveMembers {
        /// The group.
        group: GroupId,
        /// Only if this is still the epoch; `None` whatever it is.
        epoch: Option<Epoch>,
        /// Who. Those who are not there are passed over.
        members: Vec<MemberId>,
    },
    /// Offsets are committed: all of them or none.
    Commit {
        /// The group.
        group: GroupId,
        /// In whose name.
        by: Committer,
        /// What.
        offsets: Vec<OffsetToCommit>,
    },
    /// Offsets are deleted, all or none.
    DeleteOffsets {
        /// The group.
        group: GroupId,
        /// Where.
        partitions: Vec<PartitionId>,
    },
    /// The offsets of deleted topics go.
    DeleteTopics {
        /// The topics.
        topics: Vec<TopicId>,
    },
    /// Old offsets expire (KIP-211): those of `partitions` that were committed no later than `before`,
    /// and the group itself when it has neither members nor offsets left.
    Expire {
        /// The group.
        group: GroupId,
        /// The group epoch that was seen.
        epoch: Epoch,
        /// Only what was committed up to this time.
        before: UnixMillis,
        /// Where.
        partitions: Vec<PartitionId>,
    },
    /// An empty group is deleted with its offsets.
    DeleteGroup {
        /// The group.
        group: GroupId,
    },
}

/// The outcome of an operation.
pub type OpResult = Result<(), GroupError>;

/// A [`Batch`] of operations that belong to somebody else. Its encoding is the same.
#[derive(Serialize)]
struct BorrowedBatch<'a> {
    at: UnixMillis,
    ops: Vec<&'a Op>,
}

impl Batch {
    /// Encodes a command of these operations; fails beyond [`limits::MAX_COMMAND_BYTES`].
    pub fn encode_ops<'a>(
        at: UnixMillis,
        ops: impl IntoIterator<Item = &'a Op>,
    ) -> Result<Bytes, WireError> {
        let ops = ops.into_iter().collect();
        wire::encode(
            VERSION,
            &BorrowedBatch { at, ops },
            limits::MAX_COMMAND_BYTES,
        )
    }

    /// Encodes the command; fails beyond [`limits::MAX_COMMAND_BYTES`].
    pub fn encode(&self) -> Result<Bytes, WireError> {
        wire::encode(VERSION, self, limits::MAX_COMMAND_BYTES)
    }

    /// Decodes a command. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(VERSION, bytes, limits::MAX_COMMAND_BYTES)
    }
}

/// Encodes the results of a command.
pub(crate) fn encode_results(results: &Vec<OpResult>) -> Result<Bytes, WireError> {
    wire::encode(VERSION, results, MAX_RESULTS_BYTES)
}

/// Decodes the results of a command, in the order of its operations.
pub fn decode_results(bytes: &[u8]) -> Result<Vec<OpResult>, WireError> {
    wire::decode(VERSION, bytes, MAX_RESULTS_BYTES)
}

impl Op {
    /// The group that it is about, if it is one.
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Heartbeat(heartbeat) => Some(&heartbeat.group),
            Self::SetTarget(target) => Some(&target.group),
            Self::ClassicRound(round) => Some(&round.group),
            Self::TopicsChanged { group, .. }
            | Self::Fence { group, .. }
            | Self::ClassicSync { group, .. }
            | Self::ClassicReplace { group, .. }
            | Self::RemoveMembers { group, .. }
            | Self::Commit { group, .. }
            | Self::DeleteOffsets { group, .. }
            | Self::Expire { group, .. }
            | Self::DeleteGroup { group } => Some(group),
            Self::DeleteTopics { .. } => None,
        }
    }

    /// About how many bytes it takes in a command: never less than it does.
    pub(crate) fn estimated_bytes(&self) -> usize {
        // An encoded id has at most its text and two bytes; a number at most five.
        const SMALL: usize = 64;
        const PARTITION: usize = 24;
        let text = |s: &str| s.len() + 2;
        let group = self.group().map_or(0, |group| text(group.as_str()));
        let member = |m: &ClassicMember| {
            let protocols = m.protocols.iter().map(|(n, b)| text(n) + b.len() + 5);
            SMALL
                + text(m.id.as_str())
                + m.instance.as_ref().map_or(0, |i| text(i.as_str()))
                + text(&m.client.id)
                + text(&m.client.host)
                + protocols.sum::<usize>()
                + m.assignment.len()
        };
        let rest = match self {
            Self::Heartbeat(h) => {
                let topics = h.topics.iter().flatten().map(|t| text(t.as_str()));
                let owned = h.owned.as_ref().map_or(0, |o| o.len() * PARTITION);
                text(h.member.as_str())
                    + h.instance.as_ref().map_or(0, |i| text(i.as_str()))
                    + h.rack.as_ref().map_or(0, |r| text(r.as_str()))
                    + text(&h.client.id)
                    + text(&h.client.host)
                    + h.pattern.as_ref().map_or(0, |p| text(p))
                    + h.assignor.as_ref().map_or(0, |a| text(a))
                    + topics.sum::<usize>()
                    + owned
            }
            Self::SetTarget(t) => {
                let members = t.members.iter().map(|(id, runs)| {
                    let runs = runs.iter().map(|(_, indexes)| 10 + indexes.len() * 3);
                    text(id.as_str()) + 5 + runs.sum::<usize>()
                });
                t.topics.len() * 16 + members.sum::<usize>()
            }
            Self::ClassicRound(r) => {
                text(&r.protocol_type)
                    + text(&r.protocol)
                    + text(r.leader.as_str())
                    + r.members.iter().map(member).sum::<usize>()
            }
            Self::ClassicSync { assignments, .. } => assignments
                .iter()
                .map(|(id, bytes)| text(id.as_str()) + bytes.len() + 5)
                .sum(),
            Self::ClassicReplace {
                old, member: new, ..
            } => text(old.as_str()) + member(new),
            Self::RemoveMembers { members, .. } => members.iter().map(|m| text(m.as_str())).sum(),
            Self::Fence { member, .. } => text(member.as_str()),
            Self::Commit { by, offsets, .. } => {
                let offsets = offsets.iter().map(|o| PARTITION + 20 + text(&o.metadata));
                by.member.as_ref().map_or(0, |m| text(m.as_str()))
                    + by.instance.as_ref().map_or(0, |i| text(i.as_str()))
                    + offsets.sum::<usize>()
            }
            Self::DeleteOffsets { partitions, .. } | Self::Expire { partitions, .. } => {
                partitions.len() * PARTITION
            }
            Self::DeleteTopics { topics } => topics.len() * 16,
            Self::TopicsChanged { .. } | Self::DeleteGroup { .. } => 0,
        };
        SMALL + group + rest
    }
}
