//! The handle through which everybody else uses a Raft group.

mod membership;
mod proposing;
mod reading;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use openraft::errors::{ForwardToLeader, RaftError};
use rivven_core_types::{
    BoxFuture, LogIndex, NodeName, PeerIdentity, ProposeError, RaftGroupId, Reply, RpcError,
    RpcHandler, RpcKind, RpcRequest, Term,
};

use crate::error::RaftStoreError;
use crate::instance::Instance;
use crate::messages::raft_group_of;
use crate::receiver::Incall;
use crate::runtime::timeout;
use crate::status::{RaftState, RaftStatus, StatusWatch, Voter};
use crate::supervisor::Shared;
use crate::types::{PeerNode, TypeConfig};

pub use membership::RaftMembership;

/// Longest wait of a call that only talks to the local core.
const LOCAL_DEADLINE: Duration = Duration::from_secs(10);

/// A shared handle to a node of one Raft group. It stays valid while the supervisor rebuilds the
/// core behind it; calls made meanwhile answer that the store is not available.
#[derive(Debug, Clone)]
pub struct RaftHandle {
    shared: Arc<Shared>,
}

fn unavailable(reason: impl ToString) -> ProposeError {
    ProposeError::Unavailable {
        reason: reason.to_string(),
    }
}

fn not_leader(forward: ForwardToLeader<TypeConfig>) -> ProposeError {
    ProposeError::NotLeader {
        leader: forward.leader_node.map(|node| node.name),
    }
}

fn core_error(error: impl ToString) -> RaftStoreError {
    RaftStoreError::Raft(error.to_string())
}

impl RaftHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs a call into the core as this node.
    fn enter<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        self.shared.context.options.runtime.enter(call)
    }

    /// Runs a short call as this node.
    fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
        self.shared.context.options.runtime.within(call)
    }

    /// The group.
    pub fn group(&self) -> RaftGroupId {
        self.shared.group()
    }

    /// Whether this node leads the group, as far as it knows. A deposed leader learns of it late;
    /// only [`RaftHandle::read_barrier`] is sure.
    pub fn is_leader(&self) -> bool {
        self.shared.members_and_leadership().1
    }

    /// The leader and its term, as far as this node knows.
    pub fn leader(&self) -> Option<(NodeName, Term)> {
        let status = self.status();
        status.leader.map(|name| (name, status.term))
    }

    /// What the node knows at this moment.
    pub fn status(&self) -> RaftStatus {
        self.shared.status_now()
    }

    /// Follows the status, across restarts of the core.
    pub fn watch_status(&self) -> StatusWatch {
        StatusWatch::new(self.shared.status.subscribe())
    }

    /// Whether the group has members, so that it must not be initialized again.
    pub fn is_initialized(&self) -> bool {
        self.shared.members_and_leadership().0
    }

    fn instance(&self) -> Result<Arc<Instance>, String> {
        self.shared.instance.load_full().ok_or_else(|| {
            let status = self.shared.status.borrow();
            let failure = status.failure.clone();
            failure.unwrap_or_else(|| format!("the Raft core is {:?}", status.state))
        })
    }

    fn running(&self) -> Result<Arc<Instance>, RaftStoreError> {
        self.instance().map_err(RaftStoreError::Unavailable)
    }

    /// Forms the group, on exactly one blank node. The others learn of it from the leader.
    ///
    /// # Errors
    /// [`RaftStoreError::NotInitializable`] when the group has members already or this node is not
    /// among `voters` (nothing changed), [`RaftStoreError::Unavailable`] when not running,
    /// [`RaftStoreError::Raft`] when the core failed: then check [`RaftHandle::is_initialized`].
    pub async fn initialize(&self, voters: Vec<Voter>) -> Result<(), RaftStoreError> {
        let count = voters.len();
        let nodes: BTreeMap<u64, PeerNode> = voters
            .into_iter()
            .map(|v| {
                (
                    v.raft_id.get(),
                    PeerNode {
                        name: v.name,
                        address: v.address,
                    },
                )
            })
            .collect();
        if nodes.len() != count || count == 0 {
            let reason = "no voters, or two with the same Raft id";
            return Err(RaftStoreError::NotInitializable(reason.to_owned()));
        }
        let instance = self.running()?;
        match self.enter(instance.raft.initialize(nodes)).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(error)) => {
                Err(RaftStoreError::NotInitializable(error.to_string()))
            }
            Err(RaftError::Fatal(error)) => Err(core_error(error)),
        }
    }

    fn check_initialized(&self) -> Result<(), ProposeError> {
        if self.is_initialized() {
            Ok(())
        } else {
            Err(ProposeError::NotInitialized)
        }
    }

    /// Waits until the status satisfies `condition`; returns it.
    ///
    /// # Errors
    /// [`RaftStoreError::Timeout`] after `deadline`, [`RaftStoreError::Unavailable`] when the node
    /// is gone.
    pub async fn wait_status(
        &self,
        deadline: Duration,
        what: &str,
        condition: impl FnMut(&RaftStatus) -> bool,
    ) -> Result<RaftStatus, RaftStoreError> {
        let mut status = self.watch_status();
        let wait = async { timeout(deadline, status.wait_for(condition)).await };
        match self.enter(wait).await {
            Ok(status) => status,
            Err(_) => Err(RaftStoreError::Timeout(what.to_owned())),
        }
    }

    /// Asks for a snapshot now; it is written in the background. Without applied entries nothing
    /// happens.
    ///
    /// # Errors
    /// [`RaftStoreError::Unavailable`] or [`RaftStoreError::Raft`].
    pub async fn trigger_snapshot(&self) -> Result<(), RaftStoreError> {
        let instance = self.running()?;
        let ask = async { instance.raft.trigger().snapshot().await };
        self.enter(ask).await.map_err(core_error)
    }

    /// Hands leadership to the voter `to`. Returns when the request is on its way; follow
    /// [`RaftHandle::watch_status`] to see it happen. It may fail silently, when `to` lags.
    ///
    /// # Errors
    /// [`RaftStoreError::NotLeader`], [`RaftStoreError::UnknownMember`], or those of
    /// [`RaftHandle::trigger_snapshot`].
    pub async fn transfer_leadership(&self, to: &NodeName) -> Result<(), RaftStoreError> {
        let instance = self.running()?;
        let status = self.status();
        if status.state != RaftState::Leader {
            return Err(RaftStoreError::NotLeader {
                leader: status.leader,
            });
        }
        let voter = status.voters.iter().find(|v| v.name == *to);
        let id = voter
            .ok_or_else(|| RaftStoreError::UnknownMember(to.clone()))?
            .raft_id;
        let transfer = async { instance.raft.trigger().transfer_leader(id.get()).await };
        let transfer = async { timeout(LOCAL_DEADLINE, transfer).await };
        match self.enter(transfer).await {
            Ok(done) => done.map_err(core_error),
            Err(_) => Err(RaftStoreError::Timeout(
                "the transfer to be accepted".to_owned(),
            )),
        }
    }

    /// The state machine's hash, and the last applied index at which it holds; `None` when nothing
    /// is applied or the node is not running. Comparable across nodes at equal index.
    pub fn state_hash(&self) -> Option<(LogIndex, u64)> {
        let instance = self.shared.instance.load_full()?;
        let (index, hash) = instance.store.machine.hash();
        index.map(|index| (index, hash))
    }

    fn answer(
        &self,
        peer: &PeerIdentity,
        request: RpcRequest,
    ) -> Result<impl Future<Output = RaftAnswer> + Send + use<>, RpcError> {
        let group = raft_group_of(&request)?;
        if group != self.group() {
            return Err(RpcError::Refused(format!(
                "Raft group {group} is not served here"
            )));
        }
        let instance = self.instance().map_err(RpcError::Refused)?;
        let own_id = self.shared.context.raft_id();
        let peer = peer.name.clone();
        let answer = async move {
            let call = Incall {
                raft: &instance.raft,
                log: &instance.store.log,
                own_id,
                peer: peer.as_str(),
            };
            instance.receiver.answer(call, request).await
        };
        Ok(self.enter(answer))
    }
}

type RaftAnswer = Result<rivven_core_types::RpcResponse, RpcError>;

impl RpcHandler for RaftHandle {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        let ours = matches!(
            request.kind,
            RpcKind::RAFT_APPEND
                | RpcKind::RAFT_VOTE
                | RpcKind::RAFT_PRE_VOTE
                | RpcKind::RAFT_SNAPSHOT
                | RpcKind::RAFT_TRANSFER
                | RpcKind::RAFT_READ_INDEX
                | RpcKind::RAFT_WATCH_LEADER
        );
        if !ours {
            return Reply::Now(Err(RpcError::UnknownKind { kind: request.kind }));
        }
        match self.answer(peer, request) {
            Ok(answer) => {
                let mut answer: BoxFuture<'static, RaftAnswer> = Box::pin(answer);
                // Begun here and now: the core must get what a lane delivers in the order in which it
                // came, and tasks start in any order.
                match answer.as_mut().now_or_never() {
                    Some(done) => Reply::Now(done),
                    None => Reply::Later(answer),
                }
            }
            Err(error) => Reply::Now(Err(error)),
        }
    }
}
