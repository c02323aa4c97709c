//! Why a request was refused or an assignment could not be made.

use rivven_core_types::TopicId;
use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::ids::{GroupId, InstanceId, MemberId};

/// Why an assignment could not be made. The assignors keep no state, so nothing changed; retrying
/// with the same input cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// A member or instance id is empty.
    #[error("{what} must not be empty")]
    EmptyId {
        /// Which id.
        what: &'static str,
    },
    /// A member or instance id is too long.
    #[error("{what} is {length} bytes long; at most {max} are allowed")]
    IdTooLong {
        /// Which id.
        what: &'static str,
        /// Length found, in bytes.
        length: usize,
        /// Greatest length allowed, in bytes.
        max: usize,
    },
    /// Two subscriptions have the same member id.
    #[error("member {member} is given twice")]
    DuplicateMember {
        /// The member given twice.
        member: MemberId,
    },
    /// Two members have the same static instance id (KIP-345 fences the older one).
    #[error("instance {instance} is claimed by the members {first} and {second}")]
    DuplicateInstance {
        /// The instance id claimed twice.
        instance: InstanceId,
        /// The member with the smaller id.
        first: MemberId,
        /// The member with the greater id.
        second: MemberId,
    },
    /// The group has more members than the limit.
    #[error("the group has {members} members; at most {max} are allowed")]
    TooManyMembers {
        /// Members given.
        members: usize,
        /// Most members allowed.
        max: usize,
    },
    /// A topic has more partitions than the limit.
    #[error("topic {topic} has {partitions} partitions; at most {max} are allowed")]
    TooManyPartitions {
        /// The topic.
        topic: TopicId,
        /// Its partitions.
        partitions: u32,
        /// Most partitions allowed.
        max: u32,
    },
}

/// Why a group request was refused. Nothing changed, unless a variant says otherwise.
///
/// [`GroupError::code`] is Kafka's number for it. A request of a client is only answered with codes
/// that the common clients take well: an internal failure is never -1, which ends a librdkafka
/// consumer for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GroupError {
    /// Another node coordinates the groups. Retry there.
    #[error("not the group coordinator")]
    NotCoordinator,
    /// The coordinator was elected a moment ago, or cannot commit now. Retriable.
    #[error("the group coordinator is loading")]
    LoadInProgress,
    /// No coordinator can be reached. Retriable.
    #[error("no group coordinator is available")]
    NotAvailable,
    /// The group id is empty or too long.
    #[error("invalid group id: {0}")]
    InvalidGroupId(String),
    /// No such group.
    #[error("group {0} does not exist")]
    GroupNotFound(GroupId),
    /// The group has members.
    #[error("group {0} has members")]
    NonEmptyGroup(GroupId),
    /// No such member. It must join anew.
    #[error("unknown member")]
    UnknownMember,
    /// The client joins without an id and shall do so again with this one (KIP-394).
    #[error("join again as member {0}")]
    MemberIdRequired(MemberId),
    /// Another member has taken over the instance id.
    #[error("the instance id belongs to another member")]
    FencedInstance,
    /// The instance id is in use by a member that has not left.
    #[error("the instance id is still in use")]
    UnreleasedInstance,
    /// The member's epoch is not the coordinator's (KIP-848). It must join anew.
    #[error("the member epoch is not the current one, {0}")]
    FencedMemberEpoch(Epoch),
    /// An offset commit or fetch with a member epoch that is not the current one. Retry after the next
    /// heartbeat.
    #[error("the member epoch is stale")]
    StaleMemberEpoch,
    /// The generation is not the current one (classic protocol).
    #[error("illegal generation")]
    IllegalGeneration,
    /// The group rebalances; join again (classic protocol).
    #[error("a rebalance is in progress")]
    RebalanceInProgress,
    /// The member has no protocol in common with the group, or speaks the other group protocol.
    #[error("inconsistent group protocol")]
    InconsistentProtocol,
    /// The session time-out is outside of the allowed range.
    #[error("the session time-out must be within {min_ms} and {max_ms} ms")]
    InvalidSessionTimeout {
        /// Least, in milliseconds.
        min_ms: u32,
        /// Most, in milliseconds.
        max_ms: u32,
    },
    /// The group is full.
    #[error("the group has {0} members, which is the limit")]
    GroupMaxSize(usize),
    /// There are too many groups.
    #[error("there are {0} groups, which is the limit")]
    TooManyGroups(usize),
    /// The server-side assignor is not known.
    #[error("assignor {0:?} is not supported; there are uniform, sticky, range and roundrobin")]
    UnsupportedAssignor(String),
    /// The subscription's pattern does not parse.
    #[error("invalid subscription pattern: {0}")]
    InvalidRegex(String),
    /// The request contradicts itself.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The offset's metadata is too long.
    #[error("the metadata of an offset may have {0} bytes")]
    MetadataTooLarge(usize),
    /// No such topic or partition.
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// A member subscribes to the topic, so that its offsets must not be changed from outside.
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
    /// The request is longer than a Raft command may be.
    #[error("the change has {length} bytes; at most {max} can be committed at once")]
    TooLarge {
        /// Its length, in bytes.
        length: usize,
        /// The most, in bytes.
        max: usize,
    },
    /// The command was computed on a state that is no longer the current one. The coordinator tries
    /// again by itself.
    #[error("computed on an older state")]
    Superseded,
    /// The epochs of the group are used up, after 2^31 changes.
    #[error("the epochs of the group are exhausted")]
    EpochsExhausted,
}

impl GroupError {
    /// Kafka's error code.
    pub const fn code(&self) -> i16 {
        match self {
            Self::NotCoordinator => 16,
            Self::NotAvailable => 15,
            Self::LoadInProgress | Self::Superseded => 14,
            Self::InvalidGroupId(_) => 24,
            Self::GroupNotFound(_) => 69,
            Self::NonEmptyGroup(_) => 68,
            Self::UnknownMember => 25,
            Self::MemberIdRequired(_) => 79,
            Self::FencedInstance => 82,
            Self::UnreleasedInstance => 111,
            Self::FencedMemberEpoch(_) => 110,
            Self::StaleMemberEpoch => 113,
            Self::IllegalGeneration => 22,
            Self::RebalanceInProgress => 27,
            Self::InconsistentProtocol => 23,
            Self::InvalidSessionTimeout { .. } => 26,
            Self::GroupMaxSize(_) | Self::TooManyGroups(_) => 81,
            Self::UnsupportedAssignor(_) => 112,
            Self::InvalidRegex(_) => 128,
            Self::InvalidRequest(_) | Self::EpochsExhausted => 42,
            Self::MetadataTooLarge(_) => 12,
            Self::UnknownPartition => 3,
            Self::SubscribedToTopic => 86,
            Self::TooLarge { .. } => 10,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::NotCoordinator
                | Self::NotAvailable
                | Self::LoadInProgress
                | Self::Superseded
                | Self::RebalanceInProgress
                | Self::StaleMemberEpoch
                | Self::UnreleasedInstance
                | Self::GroupMaxSize(_)
                | Self::MemberIdRequired(_)
        )
    }
}
