//! Drives the forming of a cluster: probes the other members, announces, initializes Raft. The
//! decisions are in [`crate::bootstrap`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, ClusterId, Entropy, FencedState, Incarnation, Lane, LogDirId, NodeName, PeerIdentity,
    Reply, RpcError, RpcKind, RpcRequest, RpcResponse, SharedIoExecutor,
};
use rivven_metadata::LevelRange;
use rivven_raft_store::{Identity, RaftHandle, RaftStoreError, Voter};

use crate::blocking;
use crate::bootstrap::{self, Decision, OwnView};
use crate::config::ClusterMember;
use crate::error::CoordinatorError;
use crate::messages::{
    self, CommitReply, CommitRequest, FirstVoter, Formation, JoinReply, JoinRequest, KnownAs,
    ProbeReply, ProbeRequest,
};
use crate::network::ClusterNetwork;
use crate::state::StateWatch;

/// Pause between two rounds of probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// How long a probe or an announcement may take.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How long the members may take to let this node in.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks whether the cluster still knows this node, while it is not in session.
const STANDING_INTERVAL: Duration = Duration::from_secs(2);
/// How often the log says for whom we wait.
const REPORT_INTERVAL_ROUNDS: u32 = 25;

/// What the former needs.
pub(crate) struct Former {
    pub(crate) identity: Mutex<Identity>,
    pub(crate) own: FirstVoter,
    pub(crate) members: Vec<ClusterMember>,
    pub(crate) raft: RaftHandle,
    pub(crate) groups: RaftHandle,
    pub(crate) network: Arc<dyn ClusterNetwork>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) io: SharedIoExecutor,
    pub(crate) state: StateWatch,
    /// The names that this node wants to form a cluster with, once it knows them all.
    pub(crate) names: Mutex<Vec<NodeName>>,
}

impl Former {
    fn identity(&self) -> Identity {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The cluster that this node has been told to belong to.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cluster_id
    }

    /// The id of this node's log directory.
    pub(crate) fn log_dir_id(&self) -> LogDirId {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .log_dir_id
    }

    fn formation(&self) -> Formation {
        match self.cluster_id() {
            None => Formation::Blank,
            Some(cluster) if self.raft.is_initialized() => Formation::Member(cluster),
            Some(cluster) => Formation::Announced(cluster),
        }
    }

    /// Makes the cluster id durable and tells the network.
    pub(crate) async fn join_cluster(&self, cluster: ClusterId) -> Result<(), CoordinatorError> {
        let mut identity = self.identity();
        let identity = blocking::run(&self.io, "rivven-identity", move || {
            identity.set_cluster_id(cluster).map(|()| identity)
        })
        .await??;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        self.network.set_cluster_id(cluster);
        Ok(())
    }

    /// Returns once the Raft log has its members: formed here, or received from the leader.
    pub(crate) async fn run(&self) -> Result<(), CoordinatorError> {
        let mut status = self.raft.watch_status();
        for round in 0u32.. {
            if self.raft.is_initialized() {
                return Ok(());
            }
            let replies = self.probe_all(self.seeds()).await;
            let own = self.own_view();
            if let Some(names) = bootstrap::member_names(&own, &replies) {
                *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
            }
            match bootstrap::decide(&own, &replies) {
                Decision::Wait(reasons) => {
                    if round % REPORT_INTERVAL_ROUNDS == REPORT_INTERVAL_ROUNDS - 1 {
                        tracing::warn!(waiting_for = %reasons.join("; "), "cluster not formed yet");
                    }
                }
                Decision::Initialize { announced, voters } => {
                    if let Err(error) = self.initialize(announced, voters).await {
                        tracing::warn!(%error, "forming the cluster failed; trying again");
                    }
                }
                Decision::Join { cluster, members } => {
                    let report = round % REPORT_INTERVAL_ROUNDS == REPORT_INTERVAL_ROUNDS - 1;
                    if let Some(reason) = self.join(cluster, &members).await?
                        && report
                    {
                        tracing::warn!(%cluster, %reason, "not admitted to the cluster yet");
                    }
                }
                Decision::NameTaken { by, known } => return Err(self.name_taken(by, known)),
                Decision::Removed { by } => return Err(self.removed(by)),
            }
            // The leader's first message ends the wait early.
            let changed = tokio::time::timeout(PROBE_INTERVAL, status.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Err(CoordinatorError::Shutdown);
            }
        }
        Ok(())
    }

    fn name_taken(&self, by: NodeName, known: Incarnation) -> CoordinatorError {
        CoordinatorError::NameTaken {
            name: self.own.name.clone(),
            by,
            known,
            found: self.own.incarnation,
        }
    }

    fn removed(&self, by: NodeName) -> CoordinatorError {
        let name = self.own.name.clone();
        CoordinatorError::Removed { name, by }
    }

    /// Asks the members of a cluster to take this node in; returns why they have not yet.
    async fn join(
        &self,
        cluster: ClusterId,
        members: &[Address],
    ) -> Result<Option<String>, CoordinatorError> {
        // The identity first: whoever takes this node in must find it in its cluster ever after.
        self.join_cluster(cluster).await?;
        let mut reason = String::new();
        for address in members {
            let request = JoinRequest {
                node: self.own.clone(),
                forwarded: false,
            };
            let request = RpcRequest {
                deadline: JOIN_DEADLINE,
                ..request_of(RpcKind::CLUSTER_JOIN, &request)?
            };
            let answer = self.network.call_address(address, request).await;
            match answer.and_then(|(peer, r)| Ok((peer, messages::decode(&r.meta)?))) {
                Ok((peer, JoinReply::Accepted)) => {
                    tracing::info!(%cluster, by = %peer.name, "admitted to the cluster");
                    return Ok(None);
                }
                Ok((peer, JoinReply::NameTaken { known })) => {
                    return Err(self.name_taken(peer.name, known));
                }
                Ok((peer, JoinReply::Removed)) => return Err(self.removed(peer.name)),
                Ok((_, JoinReply::Retry { reason: text })) => reason = text,
                Err(error) => reason = error.to_string(),
            }
        }
        Ok(Some(reason))
    }

    /// Ends when the others say that this life is no member any more, or that another has its name.
    /// Asks only while this node is not in session: the group tells nobody that he was removed, and
    /// one who was away learns it in no other way.
    pub(crate) async fn watch_standing(
        &self,
        is_in_session: impl Fn() -> bool,
    ) -> CoordinatorError {
        loop {
            tokio::time::sleep(STANDING_INTERVAL).await;
            if is_in_session() || !self.raft.is_initialized() {
                continue;
            }
            let status = self.raft.status();
            let mut addresses = self.seeds();
            let others = status.voters.into_iter().chain(status.learners);
            addresses.extend(
                others
                    .filter(|m| m.name != self.own.name)
                    .map(|m| m.address),
            );
            addresses.sort_unstable();
            addresses.dedup();
            let own = self.own_view();
            for reply in self.probe_all(addresses).await.values() {
                match bootstrap::refusal(&own, reply) {
                    Some(Decision::Removed { by }) => return self.removed(by),
                    Some(Decision::NameTaken { by, known }) => return self.name_taken(by, known),
                    _ => {}
                }
            }
        }
    }

    fn seeds(&self) -> Vec<Address> {
        self.members.iter().map(|m| m.address.clone()).collect()
    }

    fn own_view(&self) -> OwnView {
        let others = self
            .members
            .iter()
            .map(|m| (m.address.clone(), m.name.clone()))
            .collect();
        OwnView {
            node: self.own.clone(),
            formation: self.formation(),
            levels: LevelRange::SUPPORTED,
            others,
        }
    }

    async fn probe_all(&self, addresses: Vec<Address>) -> BTreeMap<Address, ProbeReply> {
        let mut calls = tokio::task::JoinSet::new();
        for address in addresses {
            let request = ProbeRequest {
                name: self.own.name.clone(),
            };
            let Ok(request) = request_of(RpcKind::BOOTSTRAP_PROBE, &request) else {
                continue;
            };
            let call = self.network.call_address(&address, request);
            calls.spawn(async move { (address, call.await) });
        }
        let mut replies = BTreeMap::new();
        while let Some(joined) = calls.join_next().await {
            let Ok((address, outcome)) = joined else {
                continue;
            };
            match outcome.and_then(|(peer, r)| Ok((peer, ProbeReply::from_response(&r)?))) {
                // What the peer says of its name is what the handshake proved, or it is no answer.
                Ok((peer, reply)) if peer.name == reply.node.name => {
                    replies.insert(address, reply);
                }
                Ok((peer, reply)) => {
                    tracing::warn!(%address, peer = %peer.name, said = %reply.node.name, "lying peer");
                }
                Err(error @ RpcError::Handshake { .. }) => {
                    tracing::warn!(%address, %error, "a member refuses this node");
                }
                Err(error) => tracing::debug!(%address, %error, "a member does not answer"),
            }
        }
        replies
    }

    async fn initialize(
        &self,
        announced: Option<ClusterId>,
        voters: Vec<FirstVoter>,
    ) -> Result<(), CoordinatorError> {
        let cluster = announced.unwrap_or_else(|| ClusterId::random(self.entropy.as_ref()));
        self.join_cluster(cluster).await?;
        for voter in voters.iter().filter(|voter| voter.name != self.own.name) {
            let commit = CommitRequest {
                cluster,
                voters: voters.clone(),
            };
            let request = request_of(RpcKind::BOOTSTRAP_COMMIT, &commit)?;
            let (_, response) = self.network.call_address(&voter.address, request).await?;
            if let CommitReply::Refused(reason) = messages::decode(&response.meta)? {
                let refused = format!("{} refuses cluster {cluster}: {reason}", voter.name);
                return Err(RpcError::Refused(refused).into());
            }
        }
        let voters: Vec<Voter> = voters
            .into_iter()
            .map(|v| Voter {
                raft_id: v.raft_id,
                name: v.name,
                address: v.address,
            })
            .collect();
        self.raft.initialize(voters.clone()).await?;
        // Should this fail or never be reached, the controller does it.
        if let Err(error) = self.groups.initialize(voters).await {
            tracing::debug!(%error, "the consumer groups are formed later");
        }
        tracing::info!(%cluster, "cluster formed");
        Ok(())
    }

    /// Answers `BOOTSTRAP_PROBE`.
    pub(crate) fn answer_probe(&self, peer: &PeerIdentity) -> Reply {
        let known = self
            .state
            .current()
            .broker_by_name(&peer.name)
            .map(|b| KnownAs {
                incarnation: b.incarnation,
                removed: b.state == FencedState::Removed,
            });
        let reply = ProbeReply {
            node: self.own.clone(),
            formation: self.formation(),
            members: self
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            known_as: known,
            levels: LevelRange::SUPPORTED,
        };
        Reply::Now(reply.into_response())
    }

    /// Answers `BOOTSTRAP_COMMIT`.
    pub(crate) fn answer_commit(self: &Arc<Self>, peer: &PeerIdentity, meta: &[u8]) -> Reply {
        let commit: CommitRequest = match messages::decode(meta) {
            Ok(commit) => commit,
            Err(e) => return Reply::Now(Err(e)),
        };
        let (this, from) = (Arc::clone(self), peer.name.clone());
        Reply::Later(Box::pin(async move {
            let reply = match this.accept(&from, &commit).await {
                Ok(()) => CommitReply::Accepted,
                Err(reason) => CommitReply::Refused(reason),
            };
            Ok(RpcResponse {
                meta: messages::encode(&reply)?,
                body: Bytes::new(),
            })
        }))
    }

    async fn accept(&self, from: &NodeName, commit: &CommitRequest) -> Result<(), String> {
        let named: Vec<_> = commit.voters.iter().map(|v| v.name.clone()).collect();
        let ours = self
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if named != ours {
            return Err(format!(
                "{} does not want to form a cluster with these",
                self.own.name
            ));
        }
        if named.first() != Some(from) {
            return Err(format!("{from} is not the member that initializes"));
        }
        let me = |v: &&FirstVoter| v.name == self.own.name && v.raft_id == self.own.raft_id;
        if !commit.voters.iter().any(|v| me(&v)) {
            return Err(format!("{} has another raft id by now", self.own.name));
        }
        match self.join_cluster(commit.cluster).await {
            Ok(()) => Ok(()),
            Err(CoordinatorError::RaftStore(RaftStoreError::ForeignCluster { ours, .. })) => {
                Err(format!("{} belongs to cluster {ours}", self.own.name))
            }
            Err(e) => Err(e.to_string()),
        }
    }
}

fn request_of<T: serde::Serialize>(kind: RpcKind, message: &T) -> Result<RpcRequest, RpcError> {
    Ok(RpcRequest {
        kind,
        lane: Lane::Rpc,
        meta: messages::encode(message)?,
        body: Bytes::new(),
        deadline: CALL_DEADLINE,
    })
}
