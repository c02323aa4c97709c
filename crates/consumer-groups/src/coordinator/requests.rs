//! What members ask of the coordinator, and what it answers.

use bytes::Bytes;

use crate::command::{ClassicMember, ClientInfo, Heartbeat, Op};
use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::{GroupId, InstanceId, MemberId};
use crate::partitions::Partitions;

/// Names a request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// JoinGroup.
    Join(JoinRequest),
    /// SyncGroup.
    Sync(SyncRequest),
    /// Heartbeat.
    ClassicHeartbeat(ClassicHeartbeat),
    /// LeaveGroup.
    Leave(LeaveRequest),
    /// ConsumerGroupHeartbeat.
    Heartbeat(Box<Heartbeat>),
    /// A change that needs no conversation: committing or deleting offsets, deleting groups.
    Propose(Op),
}

/// An answer, of the kind of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// To a join.
    Joined(Result<Joined, GroupError>),
    /// To a sync.
    Synced(Result<Synced, GroupError>),
    /// To a leave: one outcome per member.
    Left(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// To a heartbeat of the consumer protocol.
    Heartbeat(Result<HeartbeatAnswer, GroupError>),
    /// To a classic heartbeat and to a change.
    Done(Result<(), GroupError>),
}

/// A member joins a classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The group.
    pub group: GroupId,
    /// Its id; `None` when it has none yet.
    pub member: Option<MemberId>,
    /// The id that it gets then: unique, made by the caller.
    pub fresh_id: MemberId,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// Who it is.
    pub client: ClientInfo,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: u32,
    /// How long it may take to rejoin, in milliseconds.
    pub rebalance_timeout_ms: u32,
    /// What the group is for.
    pub protocol_type: String,
    /// The assignors that it knows, the preferred first, with its subscription.
    pub protocols: Vec<(String, Bytes)>,
    /// The client joins twice, the second time with the id that it is given (KIP-394).
    pub knows_member_id_required: bool,
    /// The client understands that it leads but shall not assign (KIP-814).
    pub knows_skip_assignment: bool,
}

impl JoinRequest {
    pub(super) fn into_member(self, id: MemberId) -> ClassicMember {
        ClassicMember {
            id,
            instance: self.instance,
            client: self.client,
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            protocols: self.protocols,
            assignment: Bytes::new(),
        }
    }
}

/// A member has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation.
    pub generation: Epoch,
    /// What the group is for.
    pub protocol_type: String,
    /// The chosen assignor.
    pub protocol: String,
    /// Who assigns.
    pub leader: String,
    /// The member's id.
    pub member: MemberId,
    /// For the leader alone: the members, with their static ids and subscriptions.
    pub members: Vec<(MemberId, Option<InstanceId>, Bytes)>,
    /// The leader shall not assign: the assignment stands (KIP-814).
    pub skip_assignment: bool,
}

/// A member asks for its assignment; the leader brings all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// The generation.
    pub generation: Epoch,
    /// What it believes the group is for; `None` when it does not say.
    pub protocol_type: Option<String>,
    /// The assignor that it believes was chosen; `None` when it does not say.
    pub protocol: Option<String>,
    /// From the leader: who gets what.
    pub assignments: Vec<(MemberId, Bytes)>,
}

/// A classic member's assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// What the group is for.
    pub protocol_type: String,
    /// The chosen assignor.
    pub protocol: String,
    /// As the leader wrote it.
    pub assignment: Bytes,
}

/// A classic member's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicHeartbeat {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// Its generation.
    pub generation: Epoch,
}

/// Members leave a group, of either protocol when an operator takes them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveRequest {
    /// The group.
    pub group: GroupId,
    /// Who.
    pub members: Vec<Leaving>,
}

/// Who leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Its id; `None` when only the static id is known.
    pub member: Option<MemberId>,
    /// Its static id.
    pub instance: Option<InstanceId>,
}

/// The answer to a heartbeat of the consumer protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The member.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it should send the next one, in milliseconds.
    pub interval_ms: u32,
    /// What it may own; `None` when unchanged.
    pub assignment: Option<Partitions>,
}

impl Request {
    /// The group that a consumer joins by the consumer protocol, and as whom. None of a static member:
    /// its share is kept for it until its session ends.
    #[cfg(feature = "tokio")]
    pub(crate) fn joins(&self) -> Option<(GroupId, MemberId)> {
        match self {
            Self::Heartbeat(beat) if beat.epoch == Epoch::JOIN && beat.instance.is_none() => {
                Some((beat.group.clone(), beat.member.clone()))
            }
            _ => None,
        }
    }

    /// The refusal of this request.
    pub(crate) fn refusal(&self, error: GroupError) -> Response {
        match self {
            Self::Join(_) => Response::Joined(Err(error)),
            Self::Sync(_) => Response::Synced(Err(error)),
            Self::Leave(_) => Response::Left(Err(error)),
            Self::Heartbeat(_) => Response::Heartbeat(Err(error)),
            Self::ClassicHeartbeat(_) | Self::Propose(_) => Response::Done(Err(error)),
        }
    }
}
