//! The consensus ports: what Raft replicates ([`StateMachine`]) and how a command gets in
//! ([`Proposer`]). Commands and results are opaque bytes, as in etcd's `Entry.Data`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::epochs::{LogIndex, Term};
use crate::ids::{NodeName, RaftGroupId};
use crate::rpc::BoxFuture;
use crate::wire::WireError;

/// One committed command.
#[derive(Debug, Clone)]
pub struct CommittedEntry {
    /// Its place in the Raft log.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// The command; empty for entries that Raft itself writes, which are not passed on.
    pub command: Bytes,
}

/// Port: a deterministic replicated state machine. Equal sequences of entries give equal states,
/// results and hashes on every node. A command that cannot be applied is a result that says so,
/// never a panic.
pub trait StateMachine: Send + 'static {
    /// Applies committed entries in order and returns one result for each.
    ///
    /// # Errors
    /// [`ApplyStop`] at an entry that this build does not understand. To skip it, or to refuse it,
    /// would be to differ from nodes that do understand it: the caller stops the node and uses this
    /// state no more.
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop>;

    /// Tells whether a command is one that this build can apply. The leader asks before it proposes,
    /// so that no proposer can stop the nodes with bytes that none of them understands.
    fn admission(&self) -> Admission {
        |_| Ok(())
    }

    /// An immutable image of the state, in O(1); it is written out while applying goes on.
    fn freeze(&self) -> Arc<dyn FrozenState>;

    /// Builds a fresh state from an image's bytes. The caller swaps it in whole, after checking the
    /// image's checksum, and then calls [`StateMachine::installed`] on it.
    fn restore(&self, image: &mut dyn io::Read) -> Result<Box<dyn StateMachine>, RestoreError>;

    /// Called once when this state has replaced another (snapshot installed, or start).
    fn installed(&mut self) {}

    /// A hash of the state, comparable across nodes at equal index.
    fn hash(&self) -> u64;
}

/// Whether a command can be applied; the error says why not.
pub type Admission = fn(&[u8]) -> Result<(), String>;

/// A committed command cannot be applied: it is of a later version, or its bytes are damaged. The state
/// as of this entry is not known, and retrying cannot help: the node needs a build that understands
/// the command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the committed command at index {index} cannot be applied: {reason}; \
     run the version that the other nodes run"
)]
pub struct ApplyStop {
    /// Where the command is in the log.
    pub index: LogIndex,
    /// What is wrong with it.
    pub reason: String,
}

/// Port: an immutable image of a state machine.
pub trait FrozenState: Send + Sync + 'static {
    /// Streams the image. Called on an I/O thread.
    fn write_to(&self, sink: &mut dyn io::Write) -> io::Result<()>;
}

/// Why an image could not be restored. The old state is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The image cannot be read.
    #[error("cannot read the image: {0}")]
    Io(#[from] io::Error),
    /// The image is not valid.
    #[error("malformed image: {0}")]
    Malformed(String),
    /// The image is sound, but one of another version: a build that understands it is needed.
    #[error("this build does not understand the image: {0}")]
    Unsupported(String),
}

impl From<WireError> for RestoreError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Version { .. } => Self::Unsupported(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

/// A committed and applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Where it was committed.
    pub index: LogIndex,
    /// What the state machine answered.
    pub result: Bytes,
}

/// Why a proposal was not seen to commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead the group. Not proposed; retry at the leader.
    #[error("not the leader of this Raft group; the leader is {}", leader.as_ref().map_or("unknown", |l| l.as_str()))]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeName>,
    },
    /// The group has no members yet. Not proposed; retry once the cluster has been formed.
    #[error("the Raft group is not initialized: it awaits its members")]
    NotInitialized,
    /// The command is too long. Not proposed; not retriable.
    #[error("command of {length} bytes exceeds the limit of {max}")]
    TooLarge {
        /// Length of the command, in bytes.
        length: usize,
        /// Limit, in bytes.
        max: usize,
    },
    /// The leader's state machine does not understand the command. Not proposed; not retriable.
    #[error("the leader does not understand the command: {reason}")]
    NotUnderstood {
        /// What is wrong with it.
        reason: String,
    },
    /// Too many proposals wait. Not proposed; retry later.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The outcome is not known: it may commit later. Only an idempotent command may be retried.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The local Raft store has failed or is closed. Not proposed here; another node may serve.
    #[error("the Raft store is not available: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

/// Port: get a command committed. Forwarding to the leader is the implementor's business.
pub trait Proposer: Send + Sync + 'static {
    /// Proposes `command` to `group` and waits until it is applied, or until `deadline` has passed.
    fn propose(
        &self,
        group: RaftGroupId,
        command: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Proposed, ProposeError>>;
}
