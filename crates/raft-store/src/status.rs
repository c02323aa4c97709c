//! What a node knows about its group.

use rivven_core_types::{Address, LogIndex, NodeName, RaftGroupId, RaftNodeId, Term};

/// A first voter, as [`crate::RaftHandle::initialize`] takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its id within Raft, from its identity file.
    pub raft_id: RaftNodeId,
    /// Its name.
    pub name: NodeName,
    /// Where its peers reach it.
    pub address: Address,
}

/// A member of the group as the membership records it.
pub type Member = Voter;

/// The role of a node within its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RaftState {
    /// Not started yet, or shut down.
    #[default]
    Stopped,
    /// Started, without members: it waits to be initialized or to be added by a leader.
    AwaitingMembers,
    /// Receives the log, does not vote.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads the group.
    Leader,
    /// The core is being rebuilt after a failure.
    Restarting,
    /// Failed for good: an I/O error, corruption, or too many failures. A person has to look.
    Failed,
}

/// A snapshot of what the node knows. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftStatus {
    /// The group.
    pub group: RaftGroupId,
    /// The current term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeName>,
    /// This node's role.
    pub state: RaftState,
    /// The last entry of the local log (it may not be durable yet).
    pub last_log: Option<LogIndex>,
    /// The last entry known to be committed.
    pub committed: Option<LogIndex>,
    /// The last entry applied to the state machine.
    pub applied: Option<LogIndex>,
    /// The last entry that the newest snapshot covers.
    pub snapshot: Option<LogIndex>,
    /// The voters.
    pub voters: Vec<Member>,
    /// The learners.
    pub learners: Vec<Member>,
    /// How often the core was rebuilt since the process started.
    pub restarts: u64,
    /// Why the node failed, in state [`RaftState::Failed`].
    pub failure: Option<String>,
}
