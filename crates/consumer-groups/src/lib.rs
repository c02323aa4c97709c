//! Consumer groups: who is a member, who reads which partition, and how far it has read.
//!
//! A pure core in three layers, and a thin driver behind the feature `tokio`:
//! - [`GroupsStateMachine`] is what Raft replicates: members, targets, assignments, epochs, offsets.
//! - [`GroupCoordinator`] runs on the leader alone: it checks requests against that state, keeps the
//!   sessions and the join barriers, and decides what to propose. A heartbeat that changes nothing
//!   proposes nothing.
//! - [`AssignorKind`] and [`assign_cooperatively`] say who reads what. Only their result is
//!   replicated, so that nodes of different versions cannot disagree.
//!
//! Both the consumer protocol (KIP-848) and the classic one run on this state; offsets are committed
//! in one way for both.
//!
//! ```
//! use rivven_consumer_groups::{
//!     AssignorKind, GroupSpec, MemberId, MemberSpec, Partitions, TopicSpec,
//! };
//! use rivven_core_types::TopicId;
//!
//! let orders = TopicSpec { id: TopicId::from_bytes([1; 16]), partitions: 3, racks: Vec::new() };
//! let member = |id| MemberId::new(id).map(|id| MemberSpec {
//!     id, instance: None, rack: None, topics: [0].into(), owned: Partitions::default(), generation: 0,
//! });
//! let spec = GroupSpec::new(vec![member("a")?, member("b")?], vec![orders])?;
//! let shares: Vec<usize> = AssignorKind::Uniform.assign(&spec).lists().iter().map(Vec::len).collect();
//! assert_eq!(shares, [2, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - A partition has one owner at most; nobody is given one that another member has not given up.
//! - Epochs and generations never fall and never restart, not even when a group is deleted.
//! - A member's epoch is at most its group's target epoch, and that at most the group epoch.
//! - Every command is checked when it is applied; a loser changes nothing.
//! - A committed offset was committed by whoever was entitled to at its place in the log.
//! - A change of coordinator removes no member and moves no epoch.
//!
//! # Sources
//! KIP-848 (the consumer protocol), KIP-62, KIP-134, KIP-345 (static members), KIP-394 (member ids),
//! KIP-429 (cooperative rebalancing), KIP-792 (generations of claims), KIP-814, KIP-211 (expiry of
//! offsets), KIP-320 (leader epochs), KAFKA-12890, KAFKA-18688.

mod assignor;
mod command;
mod coordinator;
mod digest;
#[cfg(feature = "tokio")]
mod driver;
mod epoch;
mod error;
mod ids;
mod image;
mod machine;
mod partitions;
mod shared;
mod state;
#[cfg(test)]
mod tests;

pub use assignor::{
    Assignment, AssignorKind, GroupSpec, MemberSpec, TopicSpec, assign_cooperatively,
};
pub use command::{
    Batch, ClassicMember, ClassicRound, ClientInfo, Committer, Heartbeat, MAX_OPS, OffsetToCommit,
    Op, OpResult, SetTarget, TopicRuns, decode_results,
};
pub use coordinator::{
    ClassicHeartbeat, GroupConfig, GroupCoordinator, HeartbeatAnswer, JoinRequest, Joined,
    LeaveRequest, Leaving, MAX_QUEUED_OPS, Proposal, Request, Response, SyncRequest, Synced,
    Ticket, TopicCatalog, TopicShape, View, subscribed_topics,
};
#[cfg(feature = "tokio")]
pub use driver::{ConsumerCoordinator, GroupPorts};
pub use epoch::Epoch;
pub use error::{AssignError, GroupError};
pub use ids::{GroupId, InstanceId, MAX_GROUP_ID_BYTES, MAX_GROUP_MEMBERS, MAX_ID_BYTES, MemberId};
pub use machine::{GroupsStateMachine, GroupsWatch, Publisher};
pub use partitions::Partitions;
pub use shared::Shared;
pub use state::{
    ClassicGroup, CommittedOffset, ConsumerGroup, ConsumerMember, Group, GroupPhase, GroupsState,
    MAX_GROUPS, MAX_OFFSET_METADATA_BYTES, MemberState,
};
