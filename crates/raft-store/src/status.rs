//! What a node knows about its group.

use std::ops::Deref;

use rivven_core_types::{Address, LogIndex, NodeName, RaftGroupId, RaftNodeId, Term};

use crate::error::RaftStoreError;
use crate::runtime::WatchReceiver;

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

/// Follows the status of a node, across restarts of its core. Followers of one node wake in the order
/// in which they began to follow it.
#[derive(Debug, Clone)]
pub struct StatusWatch(WatchReceiver<RaftStatus>);

impl StatusWatch {
    pub(crate) const fn new(receiver: WatchReceiver<RaftStatus>) -> Self {
        Self(receiver)
    }

    /// The newest status. Do not hold it across an await: the node waits for it to publish another.
    pub fn borrow(&self) -> impl Deref<Target = RaftStatus> + '_ {
        self.0.borrow()
    }

    /// As [`StatusWatch::borrow`]; [`StatusWatch::changed`] then waits for a newer one.
    pub fn borrow_and_update(&mut self) -> impl Deref<Target = RaftStatus> + '_ {
        self.0.borrow_and_update()
    }

    /// Waits for a status that was not seen yet, and marks it as seen. Safe to cancel.
    ///
    /// # Errors
    /// [`RaftStoreError::Unavailable`] when the node and all its handles are gone.
    pub async fn changed(&mut self) -> Result<(), RaftStoreError> {
        let gone = |_| RaftStoreError::Unavailable("the node is gone".to_owned());
        self.0.changed().await.map_err(gone)
    }

    /// Waits for a status that satisfies `condition`, beginning with the present one; returns it.
    /// Safe to cancel.
    ///
    /// # Errors
    /// As [`StatusWatch::changed`].
    pub async fn wait_for(
        &mut self,
        mut condition: impl FnMut(&RaftStatus) -> bool,
    ) -> Result<RaftStatus, RaftStoreError> {
        loop {
            {
                let status = self.0.borrow_and_update();
                if condition(&status) {
                    return Ok(status.clone());
                }
            }
            self.changed().await?;
        }
    }
}
