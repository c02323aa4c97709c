//! The messages that coordinators exchange, beside Raft's and the replication's own.

use bytes::Bytes;
use rivven_core_types::{
    Address, BrokerId, ClusterId, Incarnation, LeaderEpoch, LogIndex, NodeEpoch, NodeName, Offset,
    PartitionEpoch, PartitionId, Proposed, RaftGroupId, RaftNodeId, RpcError, RpcResponse, limits,
    wire,
};
use rivven_metadata::{LevelRange, Rejection};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of all messages in this file.
const VERSION: u8 = 1;

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, RpcError> {
    wire::encode(VERSION, message, limits::MAX_RPC_META_BYTES)
        .map_err(|e| RpcError::Malformed(e.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    wire::decode(VERSION, bytes, limits::MAX_RPC_META_BYTES)
        .map_err(|e| RpcError::Malformed(e.to_string()))
}

/// How far a node is on its way into a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Formation {
    /// Knows of no cluster.
    Blank,
    /// Has been told its cluster, but its Raft log is still empty.
    Announced(ClusterId),
    /// Is a member: its Raft log has entries.
    Member(ClusterId),
}

/// `BOOTSTRAP_PROBE`: how far are you, and with whom do you want to form a cluster?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeRequest {
    pub(crate) name: NodeName,
}

/// A first voter of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstVoter {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft_id: RaftNodeId,
    pub(crate) address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeReply {
    /// The answering node.
    pub(crate) node: FirstVoter,
    pub(crate) formation: Formation,
    /// The names it wants to form a cluster with, itself included, sorted; empty until it knows
    /// them all.
    pub(crate) members: Vec<NodeName>,
    /// What the cluster knows of the asking node's name, if anything.
    pub(crate) known_as: Option<KnownAs>,
    /// The metadata levels that its build understands. They travel beside the message, for builds that know
    /// of the first level alone say nothing of levels and expect nothing.
    #[serde(skip, default = "unsaid")]
    pub(crate) levels: LevelRange,
}

const fn unsaid() -> LevelRange {
    LevelRange::UNSAID
}

impl ProbeReply {
    pub(crate) fn into_response(self) -> Result<RpcResponse, RpcError> {
        let body = if self.levels == LevelRange::UNSAID {
            Bytes::new()
        } else {
            encode(&self.levels)?
        };
        let meta = encode(&self)?;
        Ok(RpcResponse { meta, body })
    }

    pub(crate) fn from_response(response: &RpcResponse) -> Result<Self, RpcError> {
        let mut reply: Self = decode(&response.meta)?;
        if !response.body.is_empty() {
            reply.levels = decode(&response.body)?;
        }
        Ok(reply)
    }
}

/// The life of a data directory that registered under a name last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownAs {
    pub(crate) incarnation: Incarnation,
    /// An operator has removed it: another one may take the name.
    pub(crate) removed: bool,
}

/// `CLUSTER_JOIN`: make this node a learner of the metadata group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) node: FirstVoter,
    /// A member passes it on to the leader.
    pub(crate) forwarded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JoinReply {
    /// It is a member, or was one already.
    Accepted,
    /// Not now.
    Retry { reason: String },
    /// The name belongs to another life.
    NameTaken { known: Incarnation },
    /// An operator has removed this life.
    Removed,
}

/// Whom an operator has removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoveTarget {
    pub(crate) name: NodeName,
    /// The operator knows that records will be lost, or that they are lost already.
    pub(crate) accept_loss: bool,
}

/// `CLUSTER_REMOVE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoveRequest {
    pub(crate) target: RemoveTarget,
    pub(crate) deadline_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RemoveReply {
    /// It is no member any more, and its life will never be one again.
    Removed,
    /// Nothing changed.
    Rejected(Rejection),
    /// Nobody bears that name.
    Unknown,
    /// Not now, or not by this node.
    Retry { reason: String },
}

/// `BOOTSTRAP_COMMIT`: this is our cluster, and these are its first voters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommitRequest {
    pub(crate) cluster: ClusterId,
    pub(crate) voters: Vec<FirstVoter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CommitReply {
    /// The cluster id is on stable storage.
    Accepted,
    /// Belongs to another cluster, or is not the node that was probed.
    Refused(String),
}

/// `PROPOSE`: the command is in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposeRequest {
    pub(crate) group: RaftGroupId,
    pub(crate) deadline_ms: u64,
}

/// The result is in the body when it committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProposeReply {
    Committed { index: LogIndex },
    NotLeader { leader: Option<NodeName> },
    NotInitialized,
    TooLarge { length: u64, max: u64 },
    Overloaded,
    Unknown { reason: String },
    Unavailable { reason: String },
    Forbidden { reason: String },
    NotUnderstood { reason: String },
}

impl ProposeReply {
    pub(crate) const fn committed(proposed: &Proposed) -> Self {
        Self::Committed {
            index: proposed.index,
        }
    }
}

/// `BROKER_HEARTBEAT`: keeps the sender's session with the controller. The body has sizes of logs
/// ([`crate::log_sizes::SizeReport`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeartbeatRequest {
    pub(crate) broker: BrokerId,
    pub(crate) node_epoch: NodeEpoch,
    /// How far the sender has applied the metadata.
    pub(crate) applied: LogIndex,
    /// Whether its log directory works.
    pub(crate) disk_healthy: bool,
    /// Whether it wants to hand its leaderships over and stop (KIP-841).
    pub(crate) wants_shutdown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HeartbeatReply {
    /// The session lives.
    Alive {
        /// Whether the sender may lead and be in-sync.
        fenced: bool,
        /// Whether the sender leads nothing any more and may stop.
        may_stop: bool,
    },
    /// The sender must register again.
    StaleEpoch,
    /// Ask there.
    NotController { leader: Option<NodeName> },
}

/// The answer to `GROUP_LEADER`: who coordinates the consumer groups, if the peer knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupLeaderReply {
    pub(crate) leader: Option<NodeName>,
    /// Whether the peer's Raft group 1 has members.
    pub(crate) formed: bool,
}

/// `LOG_CLAIMS`: how far do your logs of these leaderless partitions reach?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimsRequest {
    /// Each with the partition epoch at which it has no leader.
    pub(crate) partitions: Vec<(PartitionId, PartitionEpoch)>,
}

/// How far a replica's log reaches, by (last epoch, end): the longer log has more of what was
/// committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogClaim {
    pub(crate) last_epoch: Option<LeaderEpoch>,
    pub(crate) log_end: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimsReply {
    /// The life of the broker that answers.
    pub(crate) node_epoch: NodeEpoch,
    /// In the order asked; `None` where it has not applied that partition epoch, or has no sound log.
    pub(crate) claims: Vec<Option<LogClaim>>,
}
