//! The handle through which everybody else uses a Raft group.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, LogIndex, NodeName, PeerIdentity, ProposeError, Proposed, Proposer, RaftGroupId,
    Reply, RpcError, RpcHandler, RpcRequest, Term,
};
use tokio::sync::watch;

use crate::error::RaftStoreError;
use crate::status::{RaftState, RaftStatus, Voter};

/// A shared handle to a node of one Raft group. It stays valid while the supervisor rebuilds the
/// core behind it.
#[derive(Debug, Clone)]
pub struct RaftHandle {
    status: watch::Receiver<RaftStatus>,
}

impl RaftHandle {
    pub(crate) fn new(status: watch::Receiver<RaftStatus>) -> Self {
        Self { status }
    }

    /// The group.
    pub fn group(&self) -> RaftGroupId {
        self.status.borrow().group
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.status.borrow().state == RaftState::Leader
    }

    /// The leader and its term, if known.
    pub fn leader(&self) -> Option<(NodeName, Term)> {
        let status = self.status.borrow();
        status.leader.clone().map(|name| (name, status.term))
    }

    /// What the node knows now.
    pub fn status(&self) -> RaftStatus {
        self.status.borrow().clone()
    }

    /// Follows [`RaftHandle::status`].
    pub fn watch_status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Whether the group has members.
    pub fn is_initialized(&self) -> bool {
        !self.status.borrow().voters.is_empty()
    }

    /// Forms the group.
    pub async fn initialize(&self, _voters: Vec<Voter>) -> Result<(), RaftStoreError> {
        Err(RaftStoreError::Unavailable("not started".to_owned()))
    }

    /// ReadIndex.
    pub async fn read_barrier(&self, _deadline: Duration) -> Result<LogIndex, ProposeError> {
        Err(ProposeError::NotInitialized)
    }

    /// Waits until `index` is applied here.
    pub async fn wait_applied(
        &self,
        _index: LogIndex,
        _deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        Err(RaftStoreError::Unavailable("not started".to_owned()))
    }

    /// Starts a snapshot.
    pub async fn trigger_snapshot(&self) -> Result<(), RaftStoreError> {
        Err(RaftStoreError::Unavailable("not started".to_owned()))
    }

    /// Hands leadership over.
    pub async fn transfer_leadership(&self, _to: &NodeName) -> Result<(), RaftStoreError> {
        Err(RaftStoreError::Unavailable("not started".to_owned()))
    }

    /// The state machine's hash and the index at which it holds.
    pub fn state_hash(&self) -> (Option<LogIndex>, u64) {
        (None, 0)
    }
}

impl Proposer for RaftHandle {
    fn propose(
        &self,
        _group: RaftGroupId,
        _command: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        Box::pin(async { Err(ProposeError::NotInitialized) })
    }
}

impl RpcHandler for RaftHandle {
    fn handle(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
        Reply::Now(Err(RpcError::UnknownKind { kind: request.kind }))
    }
}
