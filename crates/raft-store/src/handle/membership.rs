//! Who is in the group, and how that changes: one learner in, voters by joint consensus (Ongaro's
//! thesis, section 4.3; the Raft paper, section 6), members out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use rivven_core_types::{LogIndex, RaftNodeId};

use super::RaftHandle;
use crate::error::RaftStoreError;
use crate::runtime::{RaftInstant, timeout};
use crate::status::Member;
use crate::supervisor::member;
use crate::types::{Membership, PeerNode};

/// Most members of a group, voters and learners together: every one of them is sent the whole log.
const MAX_MEMBERS: usize = 1_000;

/// The members of a group, as one node has them. What it says of the others' logs is known to the
/// leader alone, and empty elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftMembership {
    /// The voters; while they change, those that will vote.
    pub voters: Vec<Member>,
    /// Voters that are on their way out. Not empty: a change is under way, and both sets must agree
    /// to everything.
    pub outgoing: Vec<Member>,
    /// Members that receive the log and do not vote.
    pub learners: Vec<Member>,
    /// How far each other member's log is known to agree with the leader's.
    pub matched: BTreeMap<RaftNodeId, LogIndex>,
    /// How long ago each other member last answered the leader.
    pub silent_for: BTreeMap<RaftNodeId, Duration>,
}

impl RaftMembership {
    /// Every member, each once: voters, outgoing voters, learners.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let voters = self.voters.iter().chain(&self.outgoing);
        voters.chain(&self.learners)
    }

    /// The ids of the voters.
    pub fn voter_ids(&self) -> BTreeSet<RaftNodeId> {
        self.voters.iter().map(|voter| voter.raft_id).collect()
    }
}

fn named(membership: &Membership, ids: impl IntoIterator<Item = u64>) -> Vec<Member> {
    let known = |id| Some(member(id, membership.get_node(&id)?));
    ids.into_iter().filter_map(known).collect()
}

fn refused(reason: impl ToString) -> RaftStoreError {
    RaftStoreError::MembershipRefused(reason.to_string())
}

impl RaftHandle {
    /// The members as this node knows them at this moment.
    ///
    /// # Errors
    /// [`RaftStoreError::Unavailable`] when the core does not run.
    pub fn membership(&self) -> Result<RaftMembership, RaftStoreError> {
        let instance = self.running()?;
        let metrics = instance.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let newest = configs.last().cloned().unwrap_or_default();
        let all: BTreeSet<u64> = configs.iter().flatten().copied().collect();
        let id = |id: &u64| RaftNodeId::new(*id);
        let own = metrics.id;
        let matched = metrics.replication.iter().flatten();
        let heard = metrics.heartbeat.iter().flatten();
        // The node's own clock: it may be simulated.
        let now = self.in_scope(RaftInstant::now);
        Ok(RaftMembership {
            outgoing: named(membership, all.difference(&newest).copied()),
            voters: named(membership, newest),
            learners: named(membership, membership.learner_ids()),
            matched: matched
                .filter(|(member, _)| **member != own)
                .filter_map(|(member, at)| Some((id(member), LogIndex::new(at.as_ref()?.index))))
                .collect(),
            silent_for: heard
                .filter(|(member, _)| **member != own)
                .filter_map(|(member, at)| Some((id(member), now - **at.as_ref()?)))
                .collect(),
        })
    }

    /// Adds a learner: it is sent the log from now on, and does not vote. Returns once that is
    /// committed, not once the learner has caught up. Adding the same member again changes nothing.
    ///
    /// # Errors
    /// [`RaftStoreError::NotLeader`]; [`RaftStoreError::MembershipRefused`] when another member has
    /// that name, or another change is under way (nothing changed; retry the latter);
    /// [`RaftStoreError::Timeout`]: it may still happen. [`RaftStoreError::Unavailable`].
    pub async fn add_learner(
        &self,
        learner: Member,
        deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        let membership = self.membership()?;
        let same = |m: &&Member| m.raft_id == learner.raft_id;
        if membership.members().any(|m| same(&m)) {
            return Ok(());
        }
        if let Some(other) = membership.members().find(|m| m.name == learner.name) {
            let text = format!("{} is a member already, as {}", other.name, other.raft_id);
            return Err(refused(text));
        }
        if membership.members().count() >= MAX_MEMBERS {
            return Err(refused(format!("the group has {MAX_MEMBERS} members")));
        }
        let node = PeerNode {
            name: learner.name,
            address: learner.address,
        };
        let nodes = BTreeMap::from([(learner.raft_id.get(), node)]);
        self.change(ChangeMembers::AddNodes(nodes), deadline).await
    }

    /// Makes a learner a voter. It should have caught up: until then the group waits for it whenever
    /// its vote is needed.
    ///
    /// # Errors
    /// As [`RaftHandle::add_learner`]; [`RaftStoreError::MembershipRefused`] when it is no member.
    pub async fn promote(&self, id: RaftNodeId, deadline: Duration) -> Result<(), RaftStoreError> {
        let ids = BTreeSet::from([id.get()]);
        self.change(ChangeMembers::AddVoterIds(ids), deadline).await
    }

    /// Makes exactly `voters` vote, by joint consensus: a majority of the old set and one of the new
    /// must agree. Every one must be a member. Those that vote no longer stay as learners. Also ends
    /// a change that a fallen leader has left half-way.
    ///
    /// # Errors
    /// As [`RaftHandle::promote`].
    pub async fn set_voters(
        &self,
        voters: &BTreeSet<RaftNodeId>,
        deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        if voters.is_empty() {
            return Err(refused("a group needs at least one voter"));
        }
        let ids = voters.iter().map(|id| id.get()).collect();
        self.change(ChangeMembers::ReplaceAllVoters(ids), deadline)
            .await
    }

    /// Removes a member, its vote first. Its Raft id must never come back. Removing an id that is no
    /// member changes nothing.
    ///
    /// # Errors
    /// As [`RaftHandle::add_learner`]; [`RaftStoreError::MembershipRefused`] for the leader itself
    /// (transfer the leadership first) and for the last voter.
    pub async fn remove_member(
        &self,
        id: RaftNodeId,
        deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        let membership = self.membership()?;
        if id.get() == self.shared.context.raft_id() {
            return Err(refused("a leader does not remove itself"));
        }
        let mut voters = membership.voter_ids();
        let leaving = membership.outgoing.iter().any(|m| m.raft_id == id);
        if voters.remove(&id) || leaving {
            self.set_voters(&voters, deadline).await?;
        } else if !membership.learners.iter().any(|m| m.raft_id == id) {
            return Ok(());
        }
        let ids = BTreeSet::from([id.get()]);
        self.change(ChangeMembers::RemoveNodes(ids), deadline).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, PeerNode>,
        deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        let instance = self.running()?;
        let what = format!("{change}");
        let change = async { instance.raft.change_membership(change, true).await };
        let change = async { timeout(deadline, change).await };
        match self.enter(change).await {
            Ok(Ok(_)) => {
                tracing::info!(group = self.group().get(), change = %what, "membership changed");
                Ok(())
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(RaftStoreError::NotLeader {
                    leader: forward.leader_node.map(|node| node.name),
                })
            }
            Ok(Err(RaftError::APIError(error))) => Err(refused(error)),
            Ok(Err(RaftError::Fatal(error))) => Err(RaftStoreError::Raft(error.to_string())),
            Err(_) => Err(RaftStoreError::Timeout(format!(
                "the membership change {what}"
            ))),
        }
    }
}
