//! Consumer groups on this node: Raft group 1 follows its leader, its leader coordinates the groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_consumer_groups::{
    ConsumerCoordinator, Group, GroupConfig, GroupError, GroupPhase, GroupPorts, GroupsState,
    GroupsWatch, Request, Response, TopicCatalog, TopicShape,
};
use rivven_core_types::{
    BoxFuture, Clock, Entropy, Lane, NodeName, PeerRpc, ProposeError, RackId, Reply, RpcKind,
    RpcRequest, RpcResponse, Term, TopicId, TopicName, watch,
};
use rivven_metadata::TopicRecord;
use rivven_raft_store::{RaftHandle, RaftState, RaftStatus, RaftStoreError, Voter};

use crate::messages::{self, GroupLeaderReply};
use crate::state::StateWatch;

/// How long a newly elected coordinator may take to confirm its leadership, per attempt.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);
/// Pause after a failed attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a request waits for a coordinator that is being elected or is loading: clients that are
/// refused meanwhile back off for seconds.
const ELECTION_WAIT: Duration = Duration::from_secs(3);
/// How long a read may take to be confirmed.
const READ_DEADLINE: Duration = Duration::from_secs(3);
/// How often the voters are compared with those of the metadata group.
const VOTERS_INTERVAL: Duration = Duration::from_millis(500);
/// How long one change of the voters may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a peer may take to say who coordinates.
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// Consumer groups, as this node serves them. Clones share them.
#[derive(Debug, Clone)]
pub struct GroupService {
    raft: RaftHandle,
    own_name: NodeName,
    coordinator: ConsumerCoordinator,
    state: GroupsWatch,
    topics: StateWatch,
    entropy: Entropies,
    /// The term in which this node coordinates.
    leading: watch::Sender<Option<Term>>,
}

/// A source of entropy that can be printed.
#[derive(Clone)]
struct Entropies(Arc<dyn Entropy>);

impl std::fmt::Debug for Entropies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl GroupService {
    pub(crate) fn new(
        own_name: NodeName,
        raft: RaftHandle,
        state: GroupsWatch,
        topics: StateWatch,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        config: GroupConfig,
    ) -> Self {
        let ports = GroupPorts {
            proposer: Arc::new(raft.clone()),
            state: state.clone(),
            topics: Arc::new(Catalog(topics.clone())),
            clock,
        };
        Self {
            raft,
            own_name,
            coordinator: ConsumerCoordinator::new(config, ports),
            state,
            topics,
            entropy: Entropies(entropy),
            leading: watch::Sender::new(None),
        }
    }

    /// Raft group 1 as this node sees it.
    pub fn raft_status(&self) -> RaftStatus {
        self.raft.status()
    }

    /// The hash of the applied groups, comparable between nodes at equal index.
    pub fn state_hash(&self) -> u64 {
        self.state.current().hash()
    }

    /// The newest state that this node has applied: as old as its last word from the leader. See
    /// [`GroupService::read`].
    pub fn applied_state(&self) -> Arc<GroupsState> {
        self.state.current()
    }

    /// Random bytes for a new member's id.
    pub fn random_id(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.entropy.0.fill(&mut bytes);
        bytes
    }

    /// Whether this node coordinates the groups.
    pub fn is_coordinator(&self) -> bool {
        self.coordinator.is_leading()
    }

    /// Answers a request, if this node coordinates the groups. While it is being elected or loads,
    /// the request waits for a moment; otherwise it is taken up before this returns.
    pub fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        if self.is_coordinator() {
            return Box::pin(self.coordinator.call(request));
        }
        let this = self.clone();
        Box::pin(async move {
            this.wait_until_ready().await;
            this.coordinator.call(request).await
        })
    }

    /// The groups with everything that was committed before this call, on the coordinator alone.
    ///
    /// # Errors
    /// [`GroupError::NotCoordinator`] elsewhere; [`GroupError::LoadInProgress`] when no quorum has
    /// confirmed in time that this node is the coordinator.
    pub async fn read(&self) -> Result<Arc<GroupsState>, GroupError> {
        self.wait_until_ready().await;
        if !self.is_coordinator() {
            return Err(GroupError::NotCoordinator);
        }
        match self.raft.read_barrier(READ_DEADLINE).await {
            Ok(_) => Ok(self.state.current()),
            Err(ProposeError::NotLeader { .. }) => Err(GroupError::NotCoordinator),
            Err(_) => Err(GroupError::LoadInProgress),
        }
    }

    /// The state of a group as its members see it.
    pub fn phase(&self, group: &Group) -> GroupPhase {
        self.coordinator.phase(group)
    }

    /// The topics as this node knows them.
    pub fn catalog(&self) -> impl TopicCatalog + use<> {
        Catalog(self.topics.clone())
    }

    /// Waits while this node leads the Raft group without coordinating yet, and while nobody leads.
    async fn wait_until_ready(&self) {
        let undecided = |status: &RaftStatus| {
            let leads = status.state == RaftState::Leader;
            !status.voters.is_empty() && (status.leader.is_none() || leads)
        };
        if self.is_coordinator() || !undecided(&self.raft.status()) {
            return;
        }
        let mut leading = self.leading.subscribe();
        let mut status = self.raft.watch_status();
        let ready = async {
            loop {
                if leading.borrow_and_update().is_some() || !undecided(&status.borrow_and_update())
                {
                    return;
                }
                let changed = tokio::select! {
                    biased;
                    changed = leading.changed() => changed.is_ok(),
                    changed = status.changed() => changed.is_ok(),
                };
                if !changed {
                    return;
                }
            }
        };
        // Late is as good as in time: the request is refused then.
        drop(tokio::time::timeout(ELECTION_WAIT, ready).await);
    }

    /// The name of the node that coordinates the groups; waits a moment for one to be elected.
    pub(crate) async fn find_coordinator(&self, rpc: &Arc<dyn PeerRpc>) -> Option<NodeName> {
        self.wait_until_ready().await;
        if let Some(leader) = self.raft.status().leader {
            return Some(leader);
        }
        // Not every node follows Raft group 1; those that do are among the brokers, asked by number.
        let state = self.topics.current();
        let peers = state
            .brokers()
            .filter(|b| b.is_active())
            .map(|b| b.info.name.clone());
        for peer in peers.filter(|name| *name != self.own_name) {
            let reply = ask(rpc, &peer).await;
            if let Some(GroupLeaderReply {
                leader: Some(name), ..
            }) = reply
            {
                return Some(name);
            }
        }
        None
    }

    /// Answers `GROUP_LEADER`.
    pub(crate) fn answer_leader(&self) -> Reply {
        let leader = self.raft.status().leader;
        let formed = self.raft.is_initialized();
        let reply = messages::encode(&GroupLeaderReply { leader, formed });
        Reply::Now(reply.map(|meta| RpcResponse {
            meta,
            body: Bytes::new(),
        }))
    }

    /// Runs the coordinator and follows the leadership; for ever, the caller aborts it.
    pub(crate) async fn run(self) {
        tokio::join!(self.coordinator.run(), self.follow_leadership());
    }

    async fn follow_leadership(&self) {
        let mut status = self.raft.watch_status();
        loop {
            let (state, term) = {
                let seen = status.borrow_and_update();
                (seen.state, seen.term)
            };
            let held = *self.leading.borrow();
            if state != RaftState::Leader {
                if held.is_some() {
                    tracing::info!(%term, "no longer the group coordinator");
                    self.coordinator.resign();
                    self.leading.send_replace(None);
                }
            } else if held != Some(term) {
                // Only a quorum knows that nobody else leads; then everything older is applied here.
                if self.raft.read_barrier(CONFIRM_DEADLINE).await.is_ok() {
                    let groups = self.state.current().group_count();
                    tracing::info!(%term, groups, "this node is the group coordinator");
                    metrics::counter!("rivven_groups_coordinator_elections_total").increment(1);
                    self.coordinator.lead();
                    self.leading.send_replace(Some(term));
                } else {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    /// Forms Raft group 1 on the voters of the metadata group, if no voter has it yet. Called by the
    /// controller: so a cluster from before consumer groups gets them, and one whose formation was cut
    /// short. Every voter is asked first: a node that has just become one must not form a second group
    /// beside the one that it is about to be taken into.
    pub(crate) async fn form(&self, metadata: &RaftStatus, rpc: &Arc<dyn PeerRpc>) {
        if self.raft.is_initialized() || metadata.voters.is_empty() {
            return;
        }
        let others = metadata.voters.iter().filter(|v| v.name != self.own_name);
        for voter in others {
            match ask(rpc, &voter.name).await {
                Some(reply) if !reply.formed => {}
                _ => return,
            }
        }
        match self.raft.initialize(metadata.voters.clone()).await {
            Ok(()) => tracing::info!("consumer groups formed"),
            Err(error) => tracing::warn!(%error, "cannot form the consumer groups yet"),
        }
    }

    /// Keeps the voters of Raft group 1 those of the metadata group, while this node leads it.
    pub(crate) async fn follow_voters(&self, metadata: &RaftHandle) {
        loop {
            tokio::time::sleep(VOTERS_INTERVAL).await;
            if !self.raft.is_leader() {
                continue;
            }
            if let Err(error) = self.match_voters(metadata).await {
                tracing::debug!(%error, "the voters of the consumer groups do not change now");
            }
        }
    }

    /// One step towards the voters of the metadata group.
    async fn match_voters(&self, metadata: &RaftHandle) -> Result<(), RaftStoreError> {
        let wanted = metadata.membership()?;
        let present = self.raft.membership()?;
        // One change at a time, on both sides.
        if !wanted.outgoing.is_empty() || !present.outgoing.is_empty() || wanted.voters.is_empty() {
            return Ok(());
        }
        let is_member = |v: &Voter| present.members().any(|m| m.raft_id == v.raft_id);
        if let Some(missing) = wanted.voters.iter().find(|v| !is_member(v)) {
            return self
                .raft
                .add_learner(missing.clone(), CHANGE_DEADLINE)
                .await;
        }
        let ids = wanted.voter_ids();
        if ids != present.voter_ids() {
            return self.raft.set_voters(&ids, CHANGE_DEADLINE).await;
        }
        match present.learners.iter().find(|m| !ids.contains(&m.raft_id)) {
            Some(gone) => self.raft.remove_member(gone.raft_id, CHANGE_DEADLINE).await,
            None => Ok(()),
        }
    }
}

/// Asks a peer about the consumer groups.
async fn ask(rpc: &Arc<dyn PeerRpc>, peer: &NodeName) -> Option<GroupLeaderReply> {
    let request = RpcRequest {
        kind: RpcKind::GROUP_LEADER,
        lane: Lane::Rpc,
        meta: Bytes::new(),
        body: Bytes::new(),
        deadline: ASK_DEADLINE,
    };
    let response = rpc.call(peer, request).await.ok()?;
    messages::decode(&response.meta).ok()
}

/// The topics of the cluster, from the metadata.
#[derive(Debug, Clone)]
struct Catalog(StateWatch);

fn shape(topic: &TopicRecord) -> TopicShape {
    TopicShape {
        id: topic.id,
        name: topic.name.clone(),
        partitions: topic.partitions,
    }
}

impl TopicCatalog for Catalog {
    fn version(&self) -> u64 {
        self.0.current().applied().get()
    }

    fn by_name(&self, name: &TopicName) -> Option<TopicShape> {
        self.0.current().topic(name).map(shape)
    }

    fn by_id(&self, id: TopicId) -> Option<TopicShape> {
        self.0.current().topic_by_id(&id).map(shape)
    }

    fn all(&self) -> Vec<TopicShape> {
        self.0.current().topics().map(shape).collect()
    }

    fn racks(&self, id: TopicId) -> Vec<Vec<RackId>> {
        let state = self.0.current();
        let racks: BTreeMap<_, _> = state
            .brokers()
            .filter_map(|b| Some((b.id, b.info.rack.clone()?)))
            .collect();
        let of = |p: &rivven_core_types::PartitionState| {
            p.replicas
                .iter()
                .filter_map(|b| racks.get(b).cloned())
                .collect()
        };
        state.partitions_of_topic(id).map(of).collect()
    }
}
