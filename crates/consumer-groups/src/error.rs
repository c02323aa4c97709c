//! Why an assignment could not be made.

use rivven_core_types::TopicName;

use crate::member::{InstanceId, MemberId};

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
        topic: TopicName,
        /// Its partitions.
        partitions: u32,
        /// Most partitions allowed.
        max: u32,
    },
}
