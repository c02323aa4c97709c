//! The crate's error type.

use std::io;
use std::path::PathBuf;

use rivven_core_types::{ClusterId, Incarnation, InvalidId, NodeName, RaftGroupId};

/// Why the Raft store could not be opened, started or driven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftStoreError {
    /// A configuration value is out of range. Nothing was touched; not retriable.
    #[error("invalid Raft configuration: {field}: {reason}")]
    Config {
        /// The offending field.
        field: &'static str,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// An identifier is not valid. Nothing was touched; not retriable.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A file operation failed. What was being written must be taken as unknown; the store is closed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Stored bytes are not what was written. Nothing was changed; not retriable. The node must not
    /// go on with a guess: restore the file, or rejoin with an empty data directory.
    #[error("corrupt {what} in {}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
        /// How it was noticed.
        reason: String,
    },
    /// The database behind an existing identity is gone, empty or another one's. A node that went on
    /// under the same Raft id could vote twice in one term (the Raft paper, section 5.2, needs a
    /// durable vote), so it refuses.
    #[error(
        "the Raft store {} of incarnation {incarnation} is lost: {reason}; restore it. Only once the \
         cluster has removed this member: move the whole data directory away, and the node rejoins \
         as a new incarnation",
        path.display()
    )]
    StoreLost {
        /// The database file.
        path: PathBuf,
        /// The incarnation that the identity file names.
        incarnation: Incarnation,
        /// What was found instead.
        reason: String,
    },
    /// The data directory belongs to another node name. Nothing was changed; not retriable.
    #[error("the data directory {} belongs to node {found}, not to {expected}", path.display())]
    ForeignIdentity {
        /// The identity file.
        path: PathBuf,
        /// The configured name.
        expected: NodeName,
        /// The stored name.
        found: NodeName,
    },
    /// The node is already part of another cluster. Nothing was changed; not retriable.
    #[error("this node belongs to cluster {ours}; it cannot join {theirs}")]
    ForeignCluster {
        /// The stored cluster.
        ours: ClusterId,
        /// The cluster that was to be set.
        theirs: ClusterId,
    },
    /// The file was written by a later version. Nothing was changed; use that version.
    #[error("{} has format {found}; this build reads up to {supported}", path.display())]
    FormatTooNew {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The greatest format understood.
        supported: u32,
    },
    /// The state in a snapshot is of another version: its build is needed. The file is sound, nothing was
    /// changed.
    #[error("{}: {reason}; run the version that the other nodes run", path.display())]
    StateUnsupported {
        /// The snapshot.
        path: PathBuf,
        /// What is not understood.
        reason: String,
    },
    /// A snapshot is compressed with a codec that this build does not have. Nothing was changed.
    #[error("{} uses snapshot codec {codec}; build with the feature `compression`", path.display())]
    UnknownCodec {
        /// The snapshot.
        path: PathBuf,
        /// The codec byte.
        codec: u8,
    },
    /// The store is open in this or another process. Retry when the other one has ended.
    #[error("the Raft store {} is in use by another process", path.display())]
    AlreadyOpen {
        /// The database file.
        path: PathBuf,
    },
    /// `start` was called twice, or after `shutdown`. Nothing changed.
    #[error("Raft group {group} cannot be started: {reason}")]
    NotStartable {
        /// The group.
        group: RaftGroupId,
        /// Why.
        reason: &'static str,
    },
    /// The Raft core refused or failed. Whether state changed depends on the text; a running node's
    /// supervisor rebuilds the core.
    #[error("Raft: {0}")]
    Raft(String),
    /// The group already has members, or this node is not among those given. Nothing changed.
    #[error("cannot initialize the Raft group: {0}")]
    NotInitializable(String),
    /// The members cannot be changed like this, or another change is under way: the text says which.
    /// Nothing changed; retry the latter.
    #[error("cannot change the members of the Raft group: {0}")]
    MembershipRefused(String),
    /// A wait ended before its condition held. Nothing changed; retriable.
    #[error("timed out waiting for {0}")]
    Timeout(String),
    /// This node does not lead the group. Nothing changed; retry at the leader.
    #[error("not the leader; the leader is {}", leader.as_ref().map_or("unknown", |l| l.as_str()))]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeName>,
    },
    /// No such member. Nothing changed.
    #[error("{0} is not a member of the Raft group")]
    UnknownMember(NodeName),
    /// The store is closed, was never started or has failed. Nothing changed.
    #[error("the Raft store is not available: {0}")]
    Unavailable(String),
    /// This node was opened with a state machine of its own and has no built-in key-value state.
    #[error("no built-in key-value state: the node was opened with another state machine")]
    NoKeyValueState,
}

impl RaftStoreError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn corrupt(
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        reason: impl ToString,
    ) -> Self {
        Self::Corrupt {
            path: path.into(),
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// Whether a file is not what was written, or gone, rather than out of reach for now.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }

    /// Carries the error through openraft's storage traits, which speak [`io::Error`].
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
