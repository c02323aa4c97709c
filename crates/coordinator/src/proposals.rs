//! Getting a metadata command committed from any node, and answering those that peers forward.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Clock, Lane, LogIndex, NodeName, PeerIdentity, PeerRpc, ProposeError, Proposed, Proposer,
    RaftGroupId, Reply, RpcError, RpcKind, RpcRequest, RpcResponse,
};
use rivven_metadata::{ClusterState, Command, CommandResult, LevelCommand, Rejection};
use rivven_raft_store::RaftHandle;

use crate::error::CoordinatorError;
use crate::messages::{self, ProposeReply, ProposeRequest};
use crate::state::StateWatch;

/// Pause before a proposal is tried again while there is no leader, or the leader is not reachable.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Time given to the network on top of the proposal's own deadline.
const NETWORK_SLACK: Duration = Duration::from_millis(50);
/// Longest time that a forwarded proposal may keep this node busy.
const MAX_FORWARDED_DEADLINE: Duration = Duration::from_secs(30);

/// A committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) index: LogIndex,
    pub(crate) result: CommandResult,
}

/// Proposes metadata commands: here if this node leads the group, else at the leader.
#[derive(Clone)]
pub(crate) struct MetadataProposer {
    own_name: NodeName,
    raft: RaftHandle,
    rpc: Arc<dyn PeerRpc>,
    clock: Arc<dyn Clock>,
    state: StateWatch,
}

impl MetadataProposer {
    pub(crate) fn new(
        own_name: NodeName,
        raft: RaftHandle,
        rpc: Arc<dyn PeerRpc>,
        clock: Arc<dyn Clock>,
        state: StateWatch,
    ) -> Self {
        Self {
            own_name,
            raft,
            rpc,
            clock,
            state,
        }
    }

    /// Commits `command` and waits until this node has applied it, so that the caller reads its own
    /// write. Tries again until `deadline` whatever goes wrong on the way: every command carries the
    /// epochs that it expects, so that a second execution is refused or changes nothing. A command of a
    /// level that is not active here yet waits for it as long.
    pub(crate) async fn commit(
        &self,
        command: &Command,
        deadline: Duration,
    ) -> Result<Committed, CoordinatorError> {
        let started = self.clock.now();
        let bytes = encode_when_active(command, &self.state, deadline).await?;
        loop {
            let left = deadline.saturating_sub(self.clock.now().since(started));
            let error = match self.propose_once(bytes.clone(), left).await {
                Ok(proposed) => return self.applied_here(proposed, left).await,
                Err(
                    error @ (ProposeError::TooLarge { .. } | ProposeError::NotUnderstood { .. }),
                ) => return Err(error.into()),
                Err(error) => error,
            };
            if self.clock.now().since(started) + RETRY_PAUSE >= deadline {
                return Err(error.into());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn applied_here(
        &self,
        proposed: Proposed,
        deadline: Duration,
    ) -> Result<Committed, CoordinatorError> {
        let result = CommandResult::decode(&proposed.result)
            .map_err(|e| CoordinatorError::UnexpectedAnswer(e.to_string()))?;
        // A refusal changed nothing that one could wait for.
        let result = result.into_result()?;
        self.raft.wait_applied(proposed.index, deadline).await?;
        Ok(Committed {
            index: proposed.index,
            result,
        })
    }

    async fn propose_once(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Proposed, ProposeError> {
        match self
            .raft
            .propose(RaftGroupId::METADATA, command.clone(), deadline)
            .await
        {
            Err(ProposeError::NotLeader {
                leader: Some(leader),
            }) if leader != self.own_name => self.forward(&leader, command, deadline).await,
            outcome => outcome,
        }
    }

    async fn forward(
        &self,
        leader: &NodeName,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Proposed, ProposeError> {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let request = ProposeRequest {
            group: RaftGroupId::METADATA,
            deadline_ms,
        };
        let failed = |e: RpcError| {
            let reason = format!("forwarding to {leader}: {e}");
            if e.maybe_executed() {
                ProposeError::Unknown { reason }
            } else {
                ProposeError::Unavailable { reason }
            }
        };
        let request = RpcRequest {
            kind: RpcKind::PROPOSE,
            lane: Lane::Rpc,
            meta: messages::encode(&request).map_err(failed)?,
            body: command,
            deadline: deadline + NETWORK_SLACK,
        };
        let response = self.rpc.call(leader, request).await.map_err(failed)?;
        let reply: ProposeReply = messages::decode(&response.meta).map_err(failed)?;
        match reply {
            ProposeReply::Committed { index } => Ok(Proposed {
                index,
                result: response.body,
            }),
            ProposeReply::NotLeader { leader } => Err(ProposeError::NotLeader { leader }),
            ProposeReply::NotInitialized => Err(ProposeError::NotInitialized),
            ProposeReply::Overloaded => Err(ProposeError::Overloaded),
            ProposeReply::TooLarge { length, max } => Err(ProposeError::TooLarge {
                length: usize::try_from(length).unwrap_or(usize::MAX),
                max: usize::try_from(max).unwrap_or(usize::MAX),
            }),
            ProposeReply::NotUnderstood { reason } => Err(ProposeError::NotUnderstood { reason }),
            ProposeReply::Unknown { reason } => Err(ProposeError::Unknown { reason }),
            ProposeReply::Unavailable { reason } | ProposeReply::Forbidden { reason } => {
                Err(ProposeError::Unavailable { reason })
            }
        }
    }

    /// Answers a proposal that a peer forwarded.
    pub(crate) fn answer(
        &self,
        peer: &PeerIdentity,
        request: RpcRequest,
        state: &ClusterState,
    ) -> Reply {
        let asked: ProposeRequest = match messages::decode(&request.meta) {
            Ok(asked) => asked,
            Err(e) => return Reply::Now(Err(e)),
        };
        if let Err(refusal) = admit(peer, &request.body, state) {
            tracing::warn!(peer = %peer.name, ?refusal, "refused a forwarded proposal");
            return Reply::Now(respond(&refusal, Bytes::new()));
        }
        let deadline = Duration::from_millis(asked.deadline_ms).min(MAX_FORWARDED_DEADLINE);
        let outcome = self.raft.propose(asked.group, request.body, deadline);
        Reply::Later(Box::pin(async move {
            match outcome.await {
                Ok(proposed) => respond(&ProposeReply::committed(&proposed), proposed.result),
                Err(e) => respond(&refusal(e), Bytes::new()),
            }
        }))
    }
}

/// The bytes of a command that may be proposed: every way to propose one begins here, or at [`admit`].
///
/// # Errors
/// [`CoordinatorError::Rejected`] before the command's level is active,
/// [`CoordinatorError::InvalidRequest`] if it is too long.
pub(crate) fn encode(command: &Command, state: &ClusterState) -> Result<Bytes, CoordinatorError> {
    state.check_level(command)?;
    command
        .encode()
        .map_err(|e| CoordinatorError::InvalidRequest(e.to_string()))
}

/// As [`encode`], but this node may lag behind the one that has raised the level: it is given time.
async fn encode_when_active(
    command: &Command,
    state: &StateWatch,
    deadline: Duration,
) -> Result<Bytes, CoordinatorError> {
    let mut changes = state.subscribe();
    let active = async {
        loop {
            match encode(command, &state.current()) {
                Err(CoordinatorError::Rejected(Rejection::LevelTooLow { .. })) => {}
                outcome => return outcome,
            }
            if changes.changed().await.is_err() {
                return Err(CoordinatorError::Shutdown);
            }
        }
    };
    match tokio::time::timeout(deadline, active).await {
        Ok(outcome) => outcome,
        Err(_) => encode(command, &state.current()),
    }
}

fn respond(reply: &ProposeReply, body: Bytes) -> Result<RpcResponse, RpcError> {
    Ok(RpcResponse {
        meta: messages::encode(reply)?,
        body,
    })
}

fn refusal(error: ProposeError) -> ProposeReply {
    match error {
        ProposeError::NotLeader { leader } => ProposeReply::NotLeader { leader },
        ProposeError::NotInitialized => ProposeReply::NotInitialized,
        ProposeError::Overloaded => ProposeReply::Overloaded,
        ProposeError::TooLarge { length, max } => ProposeReply::TooLarge {
            length: length as u64,
            max: max as u64,
        },
        ProposeError::NotUnderstood { reason } => ProposeReply::NotUnderstood { reason },
        ProposeError::Unknown { reason } => ProposeReply::Unknown { reason },
        ProposeError::Unavailable { reason } => ProposeReply::Unavailable { reason },
        other => ProposeReply::Unavailable {
            reason: other.to_string(),
        },
    }
}

/// Whether a peer may have this command proposed. What this build cannot read is for its sender to know:
/// trying again does not help.
fn admit(peer: &PeerIdentity, command: &[u8], state: &ClusterState) -> Result<(), ProposeReply> {
    let command = Command::decode(command).map_err(|e| ProposeReply::NotUnderstood {
        reason: e.to_string(),
    })?;
    authorize(peer, &command, state).map_err(|reason| ProposeReply::Forbidden { reason })?;
    let early = |e: Rejection| ProposeReply::Unavailable {
        reason: e.to_string(),
    };
    state.check_level(&command).map_err(early)
}

/// A peer may speak for itself only, and sessions are the controller's own business.
fn authorize(peer: &PeerIdentity, command: &Command, state: &ClusterState) -> Result<(), String> {
    let sender = match command {
        Command::RegisterBroker { info, .. } => Some(info.name.clone()),
        Command::Level(LevelCommand::Register(registration)) => {
            Some(registration.info.name.clone())
        }
        Command::AlterPartitions { broker, .. } | Command::AllocateProducerIds { broker, .. } => {
            state.broker(*broker).map(|record| record.info.name.clone())
        }
        Command::CreateTopic { .. }
        | Command::DeleteTopic { .. }
        | Command::RemoveBroker { .. }
        | Command::AlterTopic { .. }
        | Command::ElectUnclean { .. }
        | Command::Place(_) => Some(peer.name.clone()),
        _ => None,
    };
    if sender.as_ref() == Some(&peer.name) {
        return Ok(());
    }
    Err(format!("{} must not propose this command", peer.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::{Builds, registration};
    use rivven_core_types::{BrokerId, ClusterId, Incarnation, NodeEpoch};
    use rivven_metadata::{MetadataLevel, TOPIC_OF_LEVEL_2};

    fn peer() -> PeerIdentity {
        PeerIdentity {
            name: NodeName::new("node-2").unwrap(),
            incarnation: Incarnation::from_bytes([2; 16]),
            cluster: None,
        }
    }

    #[test]
    fn a_peer_may_speak_for_itself_only_and_never_for_the_controller() {
        let state = ClusterState::default();
        let (broker, node_epoch) = (BrokerId::new(1), NodeEpoch::new(1));
        let fence = Command::FenceBroker { broker, node_epoch };
        let form = Command::FormCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
        };
        let of_another = Command::AllocateProducerIds { broker, node_epoch };
        let (from, to) = (MetadataLevel::FIRST, MetadataLevel::new(2));
        let raise = Command::Level(LevelCommand::Raise { from, to });
        let register = |name: &str| {
            let mut registration = registration(3, 1, 2);
            registration.info.name = NodeName::new(name).unwrap();
            registration.into_command()
        };
        for command in [fence, form, of_another, raise, register("node-3")] {
            assert!(
                matches!(
                    admit(&peer(), &command.encode().unwrap(), &state),
                    Err(ProposeReply::Forbidden { .. })
                ),
                "{command:?}"
            );
        }
        let delete = Command::DeleteTopic {
            name: "t".parse().unwrap(),
        };
        for command in [delete, register("node-2")] {
            assert!(admit(&peer(), &command.encode().unwrap(), &state).is_ok());
        }
    }

    #[test]
    fn a_command_of_another_version_is_not_understood_rather_than_forbidden() {
        let state = ClusterState::default();
        let delete = Command::DeleteTopic {
            name: "t".parse().unwrap(),
        };
        let mut later = delete.encode().unwrap().to_vec();
        later[0] += 1;
        for bytes in [&later[..], b"junk"] {
            let refused = admit(&peer(), bytes, &state);
            assert!(matches!(refused, Err(ProposeReply::NotUnderstood { .. })));
        }
    }

    fn later_command() -> Command {
        Command::DeleteTopic {
            name: TOPIC_OF_LEVEL_2.parse().unwrap(),
        }
    }

    fn too_early<T: std::fmt::Debug>(outcome: Result<T, CoordinatorError>) {
        assert!(
            matches!(
                outcome,
                Err(CoordinatorError::Rejected(Rejection::LevelTooLow { .. }))
            ),
            "{outcome:?}"
        );
    }

    /// Once in the log it would stop the nodes that do not know it.
    #[test]
    fn a_command_of_a_later_level_is_proposed_by_nobody_until_the_level_is_active() {
        let mut builds = Builds::new();
        builds.register(1, 1, 2);
        let bytes = later_command().encode().unwrap();
        too_early(encode(&later_command(), builds.state()));
        let forwarded = admit(&peer(), &bytes, builds.state());
        // The sender tries again until its deadline.
        assert!(
            matches!(&forwarded, Err(ProposeReply::Unavailable { reason })
                if reason.contains("metadata level 2 is needed")),
            "{forwarded:?}"
        );
        builds.raise(1, 2);
        assert_eq!(encode(&later_command(), builds.state()).unwrap(), bytes);
        assert!(admit(&peer(), &bytes, builds.state()).is_ok());
    }

    /// It has not heard of the raise yet, which the leader has applied.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_lags_behind_the_raise_waits_for_it_until_the_deadline() {
        let deadline = Duration::from_secs(3);
        let (state, command) = (StateWatch::default(), later_command());
        let mut builds = Builds::new();
        builds.register(1, 1, 2);
        state.publish(Arc::new(builds.state().clone()));
        let started = tokio::time::Instant::now();
        too_early(encode_when_active(&command, &state, deadline).await);
        assert!(started.elapsed() >= deadline);

        builds.raise(1, 2);
        let raised = async {
            tokio::task::yield_now().await;
            state.publish(Arc::new(builds.state().clone()));
        };
        let (encoded, ()) = tokio::join!(encode_when_active(&command, &state, deadline), raised);
        assert_eq!(encoded.unwrap(), command.encode().unwrap());
    }
}
