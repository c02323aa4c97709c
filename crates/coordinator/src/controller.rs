//! The controller: the leader of the metadata group keeps the broker sessions and fences whoever
//! loses one. Elections happen in the state machine, as part of the fencing command.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Clock, FencedState, NodeName, PeerIdentity, PeerRpc, ProposeError, Proposer, RaftGroupId,
    Reply, RpcError, RpcRequest, RpcResponse, Term,
};
use rivven_metadata::{ClusterState, Command, CommandResult, LevelCommand, LevelRange};
use rivven_raft_store::{Member, RaftHandle, RaftState, RaftStatus};
use rivven_swim::{MemberState, Membership};

use crate::config::SessionConfig;
use crate::formation::Former;
use crate::groups::GroupService;
use crate::log_sizes::{LogSizes, SizeReport};
use crate::messages::{self, HeartbeatReply, HeartbeatRequest};
use crate::proposals;
use crate::sessions::Sessions;
use crate::state::StateWatch;

/// How often the sessions are looked through.
const TICK: Duration = Duration::from_millis(50);
/// How long a command of the controller itself may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(2);

/// The controller's side of this node; idle unless this node leads the metadata group.
pub(crate) struct Controller {
    pub(crate) own_name: NodeName,
    pub(crate) raft: RaftHandle,
    pub(crate) state: StateWatch,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: SessionConfig,
    pub(crate) former: Arc<Former>,
    pub(crate) groups: GroupService,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) membership: Arc<OnceLock<Membership>>,
    pub(crate) sessions: Mutex<Option<(Term, Sessions)>>,
    pub(crate) log_sizes: Arc<LogSizes>,
}

/// Raises the metadata level once every registered broker understands the next one, and every member of
/// the group, which applies what comes then, is the present life of such a broker. A member that has not
/// registered yet has not said what it understands.
fn level_due(state: &ClusterState, raft: &RaftStatus) -> Option<Command> {
    let (from, to) = (state.level(), state.next_level()?);
    let has_said = |member: &Member| {
        let broker = state.broker_by_raft_id(member.raft_id);
        broker.is_some_and(|b| b.state != FencedState::Removed)
    };
    let mut members = raft.voters.iter().chain(&raft.learners);
    members
        .all(has_said)
        .then_some(Command::Level(LevelCommand::Raise { from, to }))
}

/// A new cluster begins with the first level, at which a build beyond it cannot register: its leader raises
/// the level to the least that it understands before anybody has registered. Those who formed the cluster
/// begin with the same one.
fn first_level_due(state: &ClusterState, own: LevelRange) -> Option<Command> {
    let (from, to) = (state.level(), own.min);
    let nobody = state.brokers().all(|b| b.state == FencedState::Removed);
    (nobody && from < to).then_some(Command::Level(LevelCommand::Raise { from, to }))
}

impl Controller {
    /// Runs for ever; the caller aborts it at shutdown.
    pub(crate) async fn run(&self) {
        let mut status = self.raft.watch_status();
        loop {
            self.follow_leadership();
            self.act().await;
            let metadata = self.raft.status();
            if metadata.state == RaftState::Leader {
                self.groups.form(&metadata, &self.rpc).await;
            }
            // Both a tick and a change of leadership lead to another look.
            if let Ok(Err(_)) = tokio::time::timeout(TICK, status.changed()).await {
                return;
            }
        }
    }

    fn follow_leadership(&self) {
        let status = self.raft.status();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let held = sessions.as_ref().map(|(term, _)| *term);
        if status.state != RaftState::Leader {
            if held.is_some() {
                tracing::info!(term = %status.term, "no longer the controller");
            }
            *sessions = None;
            self.log_sizes.clear();
        } else if held != Some(status.term) {
            tracing::info!(term = %status.term, "this node is the controller");
            metrics::counter!("rivven_controller_elections_total").increment(1);
            let table = Sessions::new(self.config.clone(), self.clock.now());
            *sessions = Some((status.term, table));
        }
    }

    async fn act(&self) {
        for command in self.due() {
            let bytes = match proposals::encode(&command, &self.state.current()) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::error!(%error, ?command, "a command cannot be proposed");
                    continue;
                }
            };
            let proposal = self
                .raft
                .propose(RaftGroupId::METADATA, bytes, COMMAND_DEADLINE);
            match proposal
                .await
                .map(|proposed| CommandResult::decode(&proposed.result))
            {
                Ok(Ok(CommandResult::Rejected(reason))) => {
                    tracing::info!(%reason, ?command, "the session command came too late");
                }
                Ok(Ok(result)) => tracing::info!(?command, ?result, "session changed"),
                Ok(Err(error)) => tracing::error!(%error, "unreadable result"),
                // Elected a moment ago, or deposed: the next look at the status tells which.
                Err(error @ ProposeError::NotLeader { .. }) => {
                    tracing::debug!(%error, ?command, "not the leader to commit this");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, ?command, "cannot commit a session command");
                    return;
                }
            }
        }
    }

    fn due(&self) -> Vec<Command> {
        let state = self.state.current();
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, sessions)) = sessions.as_ref() else {
            return Vec::new();
        };
        match (state.cluster_id(), self.former.cluster_id()) {
            (None, Some(cluster_id)) => std::iter::once(Command::FormCluster { cluster_id })
                .chain(first_level_due(&state, LevelRange::SUPPORTED))
                .collect(),
            (None, None) => Vec::new(),
            (Some(_), _) => {
                let mut due = sessions.due(self.clock.now(), &state, &|name| self.is_dead(name));
                due.extend(first_level_due(&state, LevelRange::SUPPORTED));
                due.extend(level_due(&state, &self.raft.status()));
                due
            }
        }
    }

    fn is_dead(&self, name: &NodeName) -> bool {
        let membership = self.membership.get();
        *name != self.own_name
            && membership
                .and_then(|m| m.state_of(name))
                .is_some_and(|state| matches!(state, MemberState::Dead | MemberState::Left))
    }

    /// Answers a broker's heartbeat.
    pub(crate) fn heartbeat(
        &self,
        sender: &NodeName,
        request: &HeartbeatRequest,
        sizes: &SizeReport,
    ) -> HeartbeatReply {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((term, sessions)) = sessions.as_mut() else {
            return HeartbeatReply::NotController {
                leader: self.raft.leader().map(|(l, _)| l),
            };
        };
        // A table of an earlier term must not keep a session alive.
        if self.raft.status().term != *term {
            return HeartbeatReply::NotController {
                leader: self.raft.leader().map(|(l, _)| l),
            };
        }
        let state = self.state.current();
        let reply = sessions.heartbeat(self.clock.now(), sender, request, &state);
        if matches!(reply, HeartbeatReply::Alive { .. }) {
            self.log_sizes.record(request.broker, sizes, &state);
        }
        reply
    }

    /// Answers `BROKER_HEARTBEAT`.
    pub(crate) fn answer(&self, peer: &PeerIdentity, request: &RpcRequest) -> Reply {
        let answer = || -> Result<RpcResponse, RpcError> {
            let sizes = SizeReport::decode(&request.body)?;
            let request: HeartbeatRequest = messages::decode(&request.meta)?;
            let reply = self.heartbeat(&peer.name, &request, &sizes);
            Ok(RpcResponse {
                meta: messages::encode(&reply)?,
                body: Bytes::new(),
            })
        };
        Reply::Now(answer())
    }
}

#[cfg(test)]
mod tests {
    use rivven_core_types::{Address, RaftNodeId};
    use rivven_metadata::MetadataLevel;

    use super::*;
    use crate::builds::{Builds, range};

    fn members(ids: &[u64]) -> Vec<Member> {
        let member = |id: &u64| Member {
            raft_id: RaftNodeId::new(*id),
            name: NodeName::new(format!("node-{id}")).unwrap(),
            address: Address::new("127.0.0.1", 1).unwrap(),
        };
        ids.iter().map(member).collect()
    }

    fn group(voters: &[u64], learners: &[u64]) -> RaftStatus {
        RaftStatus {
            voters: members(voters),
            learners: members(learners),
            ..RaftStatus::default()
        }
    }

    /// Nobody could register, and without a registered broker no level would ever rise.
    #[test]
    fn a_build_beyond_the_first_level_begins_a_cluster_with_its_own() {
        let mut builds = Builds::new();
        assert_eq!(first_level_due(builds.state(), range(1, 9)), None);
        let due = first_level_due(builds.state(), range(3, 4)).unwrap();
        builds.apply(&due);
        assert_eq!(builds.state().level(), MetadataLevel::new(3));
        assert_eq!(first_level_due(builds.state(), range(3, 4)), None);
        builds.register(1, 3, 4);

        let mut older = Builds::new();
        older.register(1, 1, 2);
        assert_eq!(first_level_due(older.state(), range(2, 2)), None);
        older.remove(1);
        assert!(first_level_due(older.state(), range(2, 2)).is_some());
    }

    /// In a new cluster the first to register says nothing for those that are still about to: of an older
    /// build, they would stop at the raised level.
    #[test]
    fn the_level_rises_only_once_every_member_of_the_group_has_said_what_it_understands() {
        let (from, to) = (MetadataLevel::new(1), MetadataLevel::new(2));
        let raise = Some(Command::Level(LevelCommand::Raise { from, to }));
        let mut builds = Builds::new();
        builds.register(1, 1, 2);
        assert_eq!(level_due(builds.state(), &group(&[1], &[])), raise);
        assert_eq!(level_due(builds.state(), &group(&[1, 2, 3], &[])), None);
        builds.register(2, 1, 2);
        builds.register(3, 1, 3);
        assert_eq!(level_due(builds.state(), &group(&[1, 2, 3], &[])), raise);
        assert_eq!(level_due(builds.state(), &group(&[1, 2, 3], &[4])), None);
        // A member whose disk was exchanged has another Raft id: the new one has not registered.
        assert_eq!(level_due(builds.state(), &group(&[1, 2, 9], &[])), None);

        builds.remove(3);
        assert_eq!(level_due(builds.state(), &group(&[1, 2, 3], &[])), None);
        assert_eq!(level_due(builds.state(), &group(&[1, 2], &[])), raise);
        builds.raise(1, 2);
        assert_eq!(level_due(builds.state(), &group(&[1, 2], &[])), None);
    }
}
