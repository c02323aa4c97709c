//! Hands each request of a peer to the part that answers it.

use std::sync::{Arc, OnceLock};

use rivven_core_types::{
    PeerIdentity, RaftGroupId, Reply, RpcError, RpcHandler, RpcKind, RpcRequest,
};
use rivven_isr::ReplicationManager;
use rivven_raft_store::{RaftHandle, raft_group_of};

use crate::controller::Controller;
use crate::formation::Former;
use crate::groups::GroupService;
use crate::member_probe;
use crate::members::Members;
use crate::proposals::MetadataProposer;
use crate::recovery::Recovery;
use crate::state::StateWatch;

pub(crate) struct Router {
    pub(crate) raft: RaftHandle,
    pub(crate) groups_raft: RaftHandle,
    pub(crate) groups: GroupService,
    pub(crate) former: Arc<Former>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) members: Arc<Members>,
    pub(crate) proposer: MetadataProposer,
    pub(crate) recovery: Arc<Recovery>,
    pub(crate) state: StateWatch,
    pub(crate) replication: Arc<OnceLock<ReplicationManager>>,
    /// Which life of this node it is.
    pub(crate) boot_id: u64,
}

impl RpcHandler for Router {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        match request.kind {
            RpcKind::BOOTSTRAP_PROBE => return self.former.answer_probe(peer),
            RpcKind::BOOTSTRAP_COMMIT => return self.former.answer_commit(peer, &request.meta),
            _ => {}
        }
        // The handshake lets a blank node in; only bootstrap is open to it.
        if peer.cluster.is_none() || peer.cluster != self.former.cluster_id() {
            let text = format!(
                "{} and this node are not members of one cluster yet",
                peer.name
            );
            return Reply::Now(Err(RpcError::Refused(text)));
        }
        match request.kind {
            RpcKind::REPLICA_FETCH => self.replication.get().map_or_else(
                || Reply::Now(Err(RpcError::Refused("not registered yet".to_owned()))),
                |replication| replication.handle_rpc(peer, request),
            ),
            RpcKind::PROPOSE => self.proposer.answer(peer, request, &self.state.current()),
            RpcKind::BROKER_HEARTBEAT => self.controller.answer(peer, &request),
            RpcKind::CLUSTER_JOIN => self.members.answer_join(peer, &request.meta),
            RpcKind::CLUSTER_REMOVE => self.members.answer_remove(&request.meta),
            RpcKind::MEMBER_PROBE => member_probe::answer(self.boot_id),
            RpcKind::LOG_CLAIMS => self.recovery.answer(&request.meta),
            RpcKind::RAFT_APPEND
            | RpcKind::RAFT_VOTE
            | RpcKind::RAFT_PRE_VOTE
            | RpcKind::RAFT_SNAPSHOT
            | RpcKind::RAFT_TRANSFER
            | RpcKind::RAFT_READ_INDEX
            | RpcKind::RAFT_WATCH_LEADER => match raft_group_of(&request) {
                Ok(RaftGroupId::GROUPS) => self.groups_raft.handle(peer, request),
                // A group that nobody serves is refused by name there.
                Ok(_) => self.raft.handle(peer, request),
                Err(error) => Reply::Now(Err(error)),
            },
            RpcKind::GROUP_LEADER => self.groups.answer_leader(),
            kind => Reply::Now(Err(RpcError::UnknownKind { kind })),
        }
    }
}
