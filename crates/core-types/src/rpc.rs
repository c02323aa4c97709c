//! The network ports: [`PeerRpc`] to call a peer, [`RpcHandler`] to answer one, [`Datagram`] for UDP.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Incarnation, NodeName};

/// A boxed future, as ports return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which of the three connections to a peer carries a call. A lane never waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Raft messages and broker heartbeats: small, never queued behind anything.
    Control,
    /// Metadata calls.
    Rpc,
    /// Record replication and snapshots.
    Bulk,
}

impl Lane {
    /// All lanes, by priority.
    pub const ALL: [Self; 3] = [Self::Control, Self::Rpc, Self::Bulk];

    /// A stable lower-case name, for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Rpc => "rpc",
            Self::Bulk => "bulk",
        }
    }
}

/// Which method a request calls: a stable number, part of the wire protocol. Never renumber.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RpcKind(pub u16);

macro_rules! rpc_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        impl RpcKind {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// A stable lower-case name, for metrics and logs.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => $label,)*
                    _ => "unknown",
                }
            }
        }
    };
}

rpc_kinds! {
    /// Raft AppendEntries.
    RAFT_APPEND = 0x0101, "raft_append";
    /// Raft RequestVote.
    RAFT_VOTE = 0x0102, "raft_vote";
    /// Raft pre-vote (Ongaro's thesis, section 9.6).
    RAFT_PRE_VOTE = 0x0103, "raft_pre_vote";
    /// Raft InstallSnapshot.
    RAFT_SNAPSHOT = 0x0104, "raft_snapshot";
    /// Raft leadership transfer.
    RAFT_TRANSFER = 0x0105, "raft_transfer";
    /// A follower asks the leader up to where it must have applied the log for a linearizable read
    /// (Ongaro's thesis, section 6.4).
    RAFT_READ_INDEX = 0x0106, "raft_read_index";
    /// A follower keeps a call to its leader open, to learn at once when the leader's process ends.
    RAFT_WATCH_LEADER = 0x0107, "raft_watch_leader";
    /// A follower's fetch of records from a partition leader.
    REPLICA_FETCH = 0x0201, "replica_fetch";
    /// A proposal forwarded to the Raft leader.
    PROPOSE = 0x0301, "propose";
    /// A broker's heartbeat to the controller: the broker session.
    BROKER_HEARTBEAT = 0x0302, "broker_heartbeat";
    /// A blank node asks whether a peer is blank too.
    BOOTSTRAP_PROBE = 0x0303, "bootstrap_probe";
    /// The initializing node announces the cluster id and the first voters.
    BOOTSTRAP_COMMIT = 0x0304, "bootstrap_commit";
    /// The controller asks a broker how far its logs reach, to recover a partition that has nobody
    /// electable left.
    LOG_CLAIMS = 0x0305, "log_claims";
    /// A node that is no member of its cluster yet asks to become one.
    CLUSTER_JOIN = 0x0306, "cluster_join";
    /// An operator has a node removed from the cluster.
    CLUSTER_REMOVE = 0x0307, "cluster_remove";
    /// A member whose datagrams stay out is asked over a connection whether it is there.
    MEMBER_PROBE = 0x0308, "member_probe";
    /// A node that does not follow Raft group 1 asks who leads it.
    GROUP_LEADER = 0x0401, "group_leader";
}

impl RpcKind {
    /// Whether a request of this kind asks and changes nothing, so that it may be run again, at any later
    /// time and by whoever has recorded it. Only such a request may come before the handshake is over
    /// (QUIC's 0-RTT: RFC 9001, section 9.2). A heartbeat is none: it prolongs a session. Neither is a
    /// fetch: it says how far a follower has got.
    pub const fn is_idempotent(self) -> bool {
        matches!(
            self,
            Self::RAFT_PRE_VOTE
                | Self::RAFT_READ_INDEX
                | Self::BOOTSTRAP_PROBE
                | Self::LOG_CLAIMS
                | Self::MEMBER_PROBE
                | Self::GROUP_LEADER
        )
    }
}

impl fmt::Debug for RpcKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#06x})", self.name(), self.0)
    }
}

/// A request to a peer.
#[derive(Debug, Clone)]
pub struct RpcRequest {
    /// The method.
    pub kind: RpcKind,
    /// The lane to use. The answer comes back on the same one.
    pub lane: Lane,
    /// The message, encoded with [`crate::wire`]; at most [`crate::limits::MAX_RPC_META_BYTES`].
    pub meta: Bytes,
    /// Raw bytes that go beside the message and are never copied through serde.
    pub body: Bytes,
    /// How long the caller waits. Sent along as the remaining budget.
    pub deadline: Duration,
}

/// A peer's answer.
#[derive(Debug, Clone, Default)]
pub struct RpcResponse {
    /// The message, encoded with [`crate::wire`].
    pub meta: Bytes,
    /// Raw bytes beside it.
    pub body: Bytes,
}

/// Why a call failed.
///
/// "Maybe executed" says whether the peer may have run the request; when it may have, only an
/// idempotent request may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// No address is known for the peer. Not executed; retry after membership has been learnt.
    #[error("no address known for {peer}")]
    UnknownPeer {
        /// The peer.
        peer: NodeName,
    },
    /// No connection could be made. Not executed; retriable.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// The peer.
        peer: NodeName,
        /// What failed.
        reason: String,
    },
    /// The connection broke while the call was in flight. Maybe executed.
    #[error("the connection to {peer} was lost while a call was in flight")]
    ConnectionLost {
        /// The peer.
        peer: NodeName,
    },
    /// No answer before the deadline. Maybe executed.
    #[error("no answer from {peer} within {waited:?}")]
    Timeout {
        /// The peer.
        peer: NodeName,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The local send queue or the peer's is full. Not executed; retry later.
    #[error("the queue towards {peer} is full")]
    Overloaded {
        /// The peer.
        peer: NodeName,
    },
    /// The handshake failed: wrong secret, foreign cluster, wrong name, no common version. Not
    /// executed; a person has to mend the configuration.
    #[error("handshake with {peer} refused: {reason}")]
    Handshake {
        /// The peer.
        peer: NodeName,
        /// Why.
        reason: HandshakeRefusal,
    },
    /// The message is longer than the lane allows. Not executed; not retriable.
    #[error("message of {length} bytes exceeds the limit of {max} on the {lane:?} lane")]
    TooLarge {
        /// Length of the message, in bytes.
        length: usize,
        /// Limit, in bytes.
        max: usize,
        /// The lane.
        lane: Lane,
    },
    /// The peer has no handler for this kind: an older version, or not started yet.
    #[error("the peer does not serve {kind:?}")]
    UnknownKind {
        /// The method.
        kind: RpcKind,
    },
    /// The peer could not decode the request, or we its answer. Not executed.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The peer refused; the text says why. Not executed.
    #[error("refused by the peer: {0}")]
    Refused(String),
    /// The peer took the request and could not answer it: its handler panicked, the answer is longer
    /// than the lane allows, or a call that it made in turn has an unknown outcome. Maybe executed.
    #[error("{peer} could not answer: {reason}")]
    AnswerFailed {
        /// The peer.
        peer: NodeName,
        /// What failed.
        reason: String,
    },
    /// This node is shutting down.
    #[error("shutting down")]
    Shutdown,
}

impl RpcError {
    /// Whether the peer may have run the request.
    pub const fn maybe_executed(&self) -> bool {
        matches!(
            self,
            Self::ConnectionLost { .. } | Self::Timeout { .. } | Self::AnswerFailed { .. }
        )
    }
}

/// Why a handshake was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HandshakeRefusal {
    /// The peer could not prove that it knows the shared secret, or uses another security mode.
    #[error("authentication failed: the peers do not share the same secret or security mode")]
    Authentication,
    /// The peer belongs to another cluster.
    #[error("foreign cluster: ours is {ours}, the peer's is {theirs}")]
    ForeignCluster {
        /// Our cluster.
        ours: ClusterId,
        /// The peer's.
        theirs: ClusterId,
    },
    /// The node at that address has another name than expected.
    #[error("expected node {expected} at that address, found {found}")]
    WrongNode {
        /// The name we dialled.
        expected: NodeName,
        /// The name that answered.
        found: NodeName,
    },
    /// No protocol version in common.
    #[error(
        "no common protocol version: we speak {our_min}..={our_max}, the peer {peer_min}..={peer_max}"
    )]
    Version {
        /// Our least version.
        our_min: u8,
        /// Our greatest version.
        our_max: u8,
        /// The peer's least version.
        peer_min: u8,
        /// The peer's greatest version.
        peer_max: u8,
    },
    /// The certificates do not lead to trust: another CA, expired, denied, or for another cluster.
    #[error("untrusted peer: {reason}")]
    UntrustedPeer {
        /// What is wrong with which certificate.
        reason: String,
    },
}

/// Who is at the other end of a connection, as the handshake proved it. Handlers trust this and
/// never a name inside a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The peer's name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its cluster; `None` while it is blank. A blank peer may only call the bootstrap kinds.
    pub cluster: Option<ClusterId>,
}

/// Port: call a peer by name.
pub trait PeerRpc: Send + Sync + 'static {
    /// Calls `peer`. The future is cancel-safe: dropping it gives the call up.
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>>;
}

/// What a handler answers: at once (3.7 times cheaper than a task per request), or later.
pub enum Reply {
    /// The answer is here.
    Now(Result<RpcResponse, RpcError>),
    /// The answer comes from a future, which the transport runs and drops at the deadline.
    Later(BoxFuture<'static, Result<RpcResponse, RpcError>>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// Port: answer requests. `handle` must not block; slow work goes into [`Reply::Later`].
pub trait RpcHandler: Send + Sync + 'static {
    /// Answers one request of an authenticated peer.
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply;
}

/// Port: a bound datagram socket.
pub trait Datagram: Send + Sync + 'static {
    /// Sends one datagram; best effort.
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>>;
    /// Receives one datagram into `buffer`: its length and its sender.
    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, std::io::Result<(usize, SocketAddr)>>;
    /// The bound address.
    fn local_addr(&self) -> std::io::Result<SocketAddr>;
}

/// Port: runs one node's I/O loop (the redb writer, the log flusher).
///
/// In production each loop has an operating-system thread of its own, so that a blocking call never
/// holds up an asynchronous worker; in the simulator it runs inline on the paused runtime, where a
/// foreign thread would let the simulated clock run ahead.
pub trait IoExecutor: Send + Sync + 'static {
    /// Runs `task` to its end under `name`. Blocking inside `task` is allowed.
    fn spawn(&self, name: &str, task: BoxFuture<'static, ()>);
}

/// A shared handle to an [`IoExecutor`].
pub type SharedIoExecutor = Arc<dyn IoExecutor>;
