//! The members of the cluster: who joins, who votes, who is removed. The leader of the metadata group
//! decides; [`crate::voters`] holds the rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BrokerId, Clock, FencedState, Incarnation, Lane, LogIndex, MonoTime, NodeName, PeerIdentity,
    PeerRpc, RaftNodeId, Reply, RpcError, RpcKind, RpcRequest, RpcResponse,
};
use rivven_metadata::{BrokerRecord, ClusterState, Command, Rejection};
use rivven_raft_store::{Member, RaftHandle, RaftMembership, RaftState, RaftStoreError};

use crate::error::CoordinatorError;
use crate::messages::{
    self, FirstVoter, JoinReply, JoinRequest, RemoveReply, RemoveRequest, RemoveTarget,
};
use crate::proposals::MetadataProposer;
use crate::state::StateWatch;
use crate::voters::{self, Standing, Step, View};

/// How often the leader looks whether a change is due.
const TICK: Duration = Duration::from_millis(200);
/// How long one change of the membership may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// A voter whose session has been lost for longer is replaced by a learner, if there is one. Longer
/// than any restart should take.
const VOTER_REPLACED_AFTER: Duration = Duration::from_secs(60);
/// Pause before a request to the leader is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest time that a forwarded request may keep this node busy.
const MAX_FORWARDED_DEADLINE: Duration = Duration::from_secs(60);

/// Keeps the members of this node's cluster; acts while this node leads the metadata group.
pub(crate) struct Members {
    pub(crate) own: FirstVoter,
    pub(crate) target_voters: usize,
    pub(crate) raft: RaftHandle,
    pub(crate) state: StateWatch,
    pub(crate) proposer: MetadataProposer,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Since when each voter has been seen without a session.
    pub(crate) away_since: Mutex<BTreeMap<RaftNodeId, MonoTime>>,
}

/// What the cluster knows of a name.
enum Known<'a> {
    Nobody,
    /// This very life.
    Same(&'a BrokerRecord),
    Other(&'a BrokerRecord),
}

fn known<'a>(state: &'a ClusterState, node: &FirstVoter) -> Known<'a> {
    match state.broker_by_name(&node.name) {
        None => Known::Nobody,
        Some(record) if record.incarnation == node.incarnation => Known::Same(record),
        Some(record) => Known::Other(record),
    }
}

impl Members {
    /// Runs for ever; the caller aborts it at shutdown.
    pub(crate) async fn run(&self) {
        let mut status = self.raft.watch_status();
        loop {
            if self.raft.is_leader() {
                self.act().await;
            } else {
                self.away_since().clear();
            }
            if let Ok(Err(_)) = tokio::time::timeout(TICK, status.changed()).await {
                return;
            }
        }
    }

    fn away_since(&self) -> std::sync::MutexGuard<'_, BTreeMap<RaftNodeId, MonoTime>> {
        self.away_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn act(&self) {
        let Some(step) = self.due() else { return };
        tracing::info!(?step, "the members of the metadata group change");
        let outcome = match &step {
            Step::SetVoters(voters) => self.raft.set_voters(voters, CHANGE_DEADLINE).await,
            Step::Remove(id) => self.raft.remove_member(*id, CHANGE_DEADLINE).await,
            Step::HandOver(heir) => self.raft.transfer_leadership(heir).await,
        };
        match outcome {
            Ok(()) => metrics::counter!("rivven_raft_membership_changes_total").increment(1),
            // Another change is under way, or this node has just been elected or deposed.
            Err(
                error @ (RaftStoreError::MembershipRefused(_) | RaftStoreError::NotLeader { .. }),
            ) => {
                tracing::debug!(%error, ?step, "not now");
            }
            Err(error) => tracing::warn!(%error, ?step, "cannot change the members"),
        }
    }

    fn due(&self) -> Option<Step> {
        let state = self.state.current();
        // Before the first command nobody is registered, and nothing is known of anybody.
        state.cluster_id()?;
        let membership = self.raft.membership().ok()?;
        let now = self.clock.now();
        let mut away = self.away_since();
        away.retain(|id, _| membership.members().any(|m| m.raft_id == *id));
        let mut standings = BTreeMap::new();
        for member in membership.members() {
            standings.insert(member.raft_id, standing(&state, member, now, &mut away));
        }
        drop(away);
        let view = View {
            own: self.own.raft_id,
            membership: &membership,
            last_log: self.raft.status().last_log.unwrap_or(LogIndex::new(0)),
            target: self.target_voters,
        };
        voters::next_step(&view, |member| {
            let standing = standings.get(&member.raft_id).copied();
            standing.unwrap_or(Standing::Unknown)
        })
    }

    /// Answers `CLUSTER_JOIN`.
    pub(crate) fn answer_join(self: &Arc<Self>, peer: &PeerIdentity, meta: &[u8]) -> Reply {
        let request: JoinRequest = match messages::decode(meta) {
            Ok(request) => request,
            Err(error) => return Reply::Now(Err(error)),
        };
        // A node speaks for itself; a member may pass on what it was asked.
        let own_words =
            request.node.name == peer.name && request.node.incarnation == peer.incarnation;
        if !own_words && !request.forwarded {
            let text = format!("{} must not ask for {}", peer.name, request.node.name);
            return Reply::Now(Err(RpcError::Refused(text)));
        }
        let this = Arc::clone(self);
        Reply::Later(Box::pin(async move {
            let reply = this.join(request).await;
            Ok(RpcResponse {
                meta: messages::encode(&reply)?,
                body: Bytes::new(),
            })
        }))
    }

    async fn join(&self, request: JoinRequest) -> JoinReply {
        let retry = |reason: String| JoinReply::Retry { reason };
        if self.raft.is_leader() {
            return self.admit(request.node).await;
        }
        let Some((leader, _)) = self.raft.leader().filter(|_| !request.forwarded) else {
            return retry(format!("{} knows no controller", self.own.name));
        };
        let forwarded = JoinRequest {
            forwarded: true,
            ..request
        };
        let answer = self.call(&leader, RpcKind::CLUSTER_JOIN, &forwarded, CHANGE_DEADLINE);
        match answer.await {
            Ok(reply) => reply,
            Err(error) => retry(format!("{leader}: {error}")),
        }
    }

    /// Makes a node a learner, on the leader.
    async fn admit(&self, node: FirstVoter) -> JoinReply {
        let state = self.state.current();
        match known(&state, &node) {
            Known::Same(record) if record.state == FencedState::Removed => {
                return JoinReply::Removed;
            }
            Known::Other(record) if record.state != FencedState::Removed => {
                let known = record.incarnation;
                return JoinReply::NameTaken { known };
            }
            Known::Nobody | Known::Same(_) | Known::Other(_) => {}
        }
        let learner = Member {
            raft_id: node.raft_id,
            name: node.name.clone(),
            address: node.address,
        };
        match self.raft.add_learner(learner, CHANGE_DEADLINE).await {
            Ok(()) => {
                tracing::info!(node = %node.name, raft_id = %node.raft_id, "joins as a learner");
                JoinReply::Accepted
            }
            Err(error) => JoinReply::Retry {
                reason: error.to_string(),
            },
        }
    }

    /// Has `name` removed, by whichever node leads. Returns once it is no member of the metadata
    /// group any more.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] and [`CoordinatorError::InvalidRequest`]: nothing changed.
    /// [`CoordinatorError::Rpc`]: no leader carried it out in time; asking again is safe.
    pub(crate) async fn remove(
        &self,
        target: RemoveTarget,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let started = self.clock.now();
        loop {
            let left = deadline.saturating_sub(self.clock.now().since(started));
            let reply = match self.raft.leader() {
                None => RemoveReply::Retry {
                    reason: "no controller is known".to_owned(),
                },
                Some((leader, _)) if leader == self.own.name => {
                    self.remove_here(&target, left).await
                }
                Some((leader, _)) => {
                    let request = RemoveRequest {
                        target: target.clone(),
                        deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                    };
                    let answer = self.call(&leader, RpcKind::CLUSTER_REMOVE, &request, left);
                    answer.await.unwrap_or_else(|error| RemoveReply::Retry {
                        reason: format!("{leader}: {error}"),
                    })
                }
            };
            let reason = match reply {
                RemoveReply::Removed => return Ok(()),
                RemoveReply::Rejected(rejection) => return Err(rejection.into()),
                RemoveReply::Unknown => {
                    let text = format!("no node called {} is known", target.name);
                    return Err(CoordinatorError::InvalidRequest(text));
                }
                RemoveReply::Retry { reason } => reason,
            };
            if self.clock.now().since(started) + RETRY_PAUSE >= deadline {
                let text = format!("{} is not removed yet: {reason}", target.name);
                return Err(RpcError::Refused(text).into());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Answers `CLUSTER_REMOVE`.
    pub(crate) fn answer_remove(self: &Arc<Self>, meta: &[u8]) -> Reply {
        let request: RemoveRequest = match messages::decode(meta) {
            Ok(request) => request,
            Err(error) => return Reply::Now(Err(error)),
        };
        let this = Arc::clone(self);
        let deadline = Duration::from_millis(request.deadline_ms).min(MAX_FORWARDED_DEADLINE);
        Reply::Later(Box::pin(async move {
            let reply = this.remove_here(&request.target, deadline).await;
            Ok(RpcResponse {
                meta: messages::encode(&reply)?,
                body: Bytes::new(),
            })
        }))
    }

    /// Removes a node, on the leader: first in the metadata, from where every later leader takes it
    /// up, then from the Raft group.
    async fn remove_here(&self, target: &RemoveTarget, deadline: Duration) -> RemoveReply {
        let retry = |reason: String| RemoveReply::Retry { reason };
        let state = self.state.current();
        let record = state.broker_by_name(&target.name);
        let members = match self.raft.membership() {
            Ok(membership) => membership,
            Err(error) => return retry(error.to_string()),
        };
        let Some(record) = record else {
            return self.remove_unregistered(target, &members).await;
        };
        if record.state != FencedState::Removed {
            let command = Command::RemoveBroker {
                broker: record.id,
                node_epoch: record.node_epoch,
                accept_loss: target.accept_loss,
            };
            match self.proposer.commit(&command, deadline).await {
                Ok(_) => tracing::warn!(node = %target.name, "removed by an operator"),
                // It has registered again a moment ago; look again.
                Err(CoordinatorError::Rejected(stale @ Rejection::StaleNodeEpoch { .. })) => {
                    return retry(stale.to_string());
                }
                Err(CoordinatorError::Rejected(rejection)) => {
                    return RemoveReply::Rejected(rejection);
                }
                Err(error) => return retry(error.to_string()),
            }
        }
        self.until_gone(record.raft_id, deadline).await
    }

    /// One that joined and never registered: only the Raft group knows it.
    async fn remove_unregistered(
        &self,
        target: &RemoveTarget,
        membership: &RaftMembership,
    ) -> RemoveReply {
        let Some(member) = membership.members().find(|m| m.name == target.name) else {
            return RemoveReply::Unknown;
        };
        match self
            .raft
            .remove_member(member.raft_id, CHANGE_DEADLINE)
            .await
        {
            Ok(()) => RemoveReply::Removed,
            Err(error) => RemoveReply::Retry {
                reason: error.to_string(),
            },
        }
    }

    /// Waits until `run` has taken the member out of the Raft group.
    async fn until_gone(&self, raft_id: RaftNodeId, deadline: Duration) -> RemoveReply {
        let mut status = self.raft.watch_status();
        let gone = async {
            loop {
                drop(status.borrow_and_update());
                let membership = self.raft.membership()?;
                if !membership.members().any(|m| m.raft_id == raft_id) {
                    return Ok::<_, RaftStoreError>(());
                }
                if self.raft.status().state != RaftState::Leader {
                    let leader = self.raft.leader().map(|(leader, _)| leader);
                    return Err(RaftStoreError::NotLeader { leader });
                }
                status.changed().await?;
            }
        };
        match tokio::time::timeout(deadline, gone).await {
            Ok(Ok(())) => RemoveReply::Removed,
            Ok(Err(error)) => RemoveReply::Retry {
                reason: error.to_string(),
            },
            Err(_) => RemoveReply::Retry {
                reason: "the Raft group has not let it go yet".to_owned(),
            },
        }
    }

    async fn call<M, A>(
        &self,
        peer: &NodeName,
        kind: RpcKind,
        message: &M,
        deadline: Duration,
    ) -> Result<A, RpcError>
    where
        M: serde::Serialize,
        A: serde::de::DeserializeOwned,
    {
        let request = RpcRequest {
            kind,
            lane: Lane::Rpc,
            meta: messages::encode(message)?,
            body: Bytes::new(),
            deadline,
        };
        messages::decode(&self.rpc.call(peer, request).await?.meta)
    }
}

/// Where a member stands, by its broker's record.
fn standing(
    state: &ClusterState,
    member: &Member,
    now: MonoTime,
    away: &mut BTreeMap<RaftNodeId, MonoTime>,
) -> Standing {
    let Some(record) = state.broker_by_name(&member.name) else {
        return Standing::Unknown;
    };
    if record.raft_id != member.raft_id {
        // Either its life was removed and another has registered, or another life has joined since
        // and has not registered yet.
        return if record.state == FencedState::Removed {
            Standing::Unknown
        } else {
            Standing::Removed
        };
    }
    match record.state {
        FencedState::Removed => Standing::Removed,
        FencedState::Active => {
            away.remove(&member.raft_id);
            Standing::Active
        }
        FencedState::Fenced | FencedState::ShuttingDown => {
            let since = *away.entry(member.raft_id).or_insert(now);
            if now.since(since) > VOTER_REPLACED_AFTER {
                Standing::Lost
            } else {
                Standing::Away
            }
        }
    }
}

/// The part of a member in the metadata group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Leads the group: the controller.
    Leader,
    /// Votes.
    Voter,
    /// Receives the metadata and does not vote.
    Learner,
    /// Is no member: it has been removed, or is not in yet.
    None,
}

/// One node of the cluster, as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name.
    pub name: NodeName,
    /// Its id within Raft.
    pub raft_id: RaftNodeId,
    /// Its part in the metadata group.
    pub role: MemberRole,
    /// Its broker number and state, once it has registered.
    pub broker: Option<(BrokerId, FencedState)>,
    /// The life of its data directory, once it has registered.
    pub incarnation: Option<Incarnation>,
    /// Where its peers reach it.
    pub address: rivven_core_types::Address,
    /// Replicas that it holds or should hold, and how many of them lead.
    pub replicas: (usize, usize),
    /// How many entries its metadata log is behind; only the controller knows.
    pub behind: Option<u64>,
}

/// The nodes by name: every member of the group, and every broker that ever registered.
pub(crate) fn list(
    state: &ClusterState,
    membership: &RaftMembership,
    leader: Option<&NodeName>,
    last_log: LogIndex,
) -> Vec<ClusterNode> {
    let role = |member: &Member, is_voter: bool| match (is_voter, leader) {
        (true, Some(leader)) if *leader == member.name => MemberRole::Leader,
        (true, _) => MemberRole::Voter,
        (false, _) => MemberRole::Learner,
    };
    let voters = membership.voters.iter().chain(&membership.outgoing);
    let members = voters
        .map(|m| (m, role(m, true)))
        .chain(membership.learners.iter().map(|m| (m, role(m, false))));
    let mut nodes: Vec<ClusterNode> = members
        .map(|(member, role)| {
            let record = state.broker_by_raft_id(member.raft_id);
            let matched = membership.matched.get(&member.raft_id);
            ClusterNode {
                name: member.name.clone(),
                raft_id: member.raft_id,
                role,
                broker: record.map(|r| (r.id, r.state)),
                incarnation: record.map(|r| r.incarnation),
                address: record
                    .map_or(&member.address, |r| &r.info.cluster_addr)
                    .clone(),
                replicas: record.map_or((0, 0), |r| replicas(state, r.id)),
                behind: matched.map(|at| last_log.get().saturating_sub(at.get())),
            }
        })
        .collect();
    let others = state
        .brokers()
        .filter(|r| !membership.members().any(|m| m.raft_id == r.raft_id));
    nodes.extend(others.map(|record| ClusterNode {
        name: record.info.name.clone(),
        raft_id: record.raft_id,
        role: MemberRole::None,
        broker: Some((record.id, record.state)),
        incarnation: Some(record.incarnation),
        address: record.info.cluster_addr.clone(),
        replicas: replicas(state, record.id),
        behind: None,
    }));
    nodes.sort_by(|a, b| (&a.name, a.raft_id).cmp(&(&b.name, b.raft_id)));
    nodes
}

fn replicas(state: &ClusterState, broker: BrokerId) -> (usize, usize) {
    let leads = |p: &&rivven_core_types::PartitionState| p.leader == Some(broker);
    let held = state.partitions_of(broker).count();
    (held, state.partitions_of(broker).filter(leads).count())
}
