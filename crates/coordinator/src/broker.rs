//! The broker's side of its session: registers with the controller, then sends heartbeats.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rivven_core_types::watch;
use rivven_core_types::{
    BrokerId, Clock, Incarnation, Lane, LogDirId, LogStore, NodeInfo, PartitionId, PartitionState,
    PeerRpc, RaftNodeId, RpcError, RpcKind, RpcRequest, SharedIoExecutor,
};
use rivven_isr::{LocalBroker, ReplicationManager};
use rivven_metadata::{ClusterState, Command, CommandResult, LevelRange, Registration};
use rivven_raft_store::{RaftHandle, RaftState};

use crate::blocking;
use crate::config::SessionConfig;
use crate::controller::Controller;
use crate::error::CoordinatorError;
use crate::log_sizes::{Reporter, SizeReport};
use crate::messages::{self, HeartbeatReply, HeartbeatRequest};
use crate::proposals::MetadataProposer;
use crate::state::StateWatch;

/// How long one attempt to register may take.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);
/// Most damaged logs at a time under which the disk still counts as healthy.
const MAX_DAMAGED_LOGS: usize = 16;
/// Pause after a failed heartbeat or registration.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause after a refused registration: each try is an entry of the log.
const MAX_REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The pause after a registration that was refused `refusals` times in a row, 0 for one that did not get
/// through.
fn register_pause(refusals: u32) -> Duration {
    let doubled = 2u32.saturating_pow(refusals.saturating_sub(1));
    RETRY_PAUSE.saturating_mul(doubled).min(MAX_REFUSED_PAUSE)
}

/// The command that announces a broker, unless the cluster would refuse its build.
fn announcement(
    registration: &Registration,
    state: &ClusterState,
) -> Result<Command, CoordinatorError> {
    state.check_build(&registration.info.name, registration.levels)?;
    Ok(registration.clone().into_command())
}

/// What the disk held when the process started.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskInventory {
    /// Every partition that has a log here.
    pub(crate) partitions: Vec<PartitionId>,
    /// Those whose logs lost bytes, or cannot be read.
    pub(crate) lossy: Vec<PartitionId>,
    /// Every partition that should have a log here; `None` if the disk does not say.
    pub(crate) remembered: Option<BTreeSet<PartitionId>>,
}

impl DiskInventory {
    /// The partitions whose records `broker` should hold by the metadata, but of which there is not
    /// even a directory though the disk remembers that they were written: somebody has removed it
    /// while the node was down. A log that is gone has cut nothing, so that only the metadata can tell.
    /// One that was never written lacks nothing: its partition may be led at once.
    pub(crate) fn missing(&self, broker: BrokerId, state: &ClusterState) -> Vec<PartitionId> {
        let holds = |p: &&PartitionState| {
            [&p.isr, &p.elr, &p.last_known_isr]
                .iter()
                .any(|list| list.contains(&broker))
        };
        let here: BTreeSet<_> = self.partitions.iter().collect();
        let held = state.partitions_of(broker).filter(holds).map(|p| p.id);
        let written = |id: &PartitionId| self.remembered.as_ref().is_none_or(|r| r.contains(id));
        held.filter(|id| !here.contains(id) && written(id))
            .collect()
    }
}

/// Opens every log once, so that recovery has run before this broker says what it holds (D9).
pub(crate) async fn take_inventory(
    io: &SharedIoExecutor,
    logs: &Arc<dyn LogStore>,
) -> Result<DiskInventory, CoordinatorError> {
    let logs = Arc::clone(logs);
    let inventory = blocking::run(io, "rivven-recovery", move || {
        let partitions = logs.list()?;
        let mut lossy = Vec::new();
        for partition in &partitions {
            match logs.open(*partition) {
                Ok(opened) if opened.cut_bytes == 0 => {}
                Ok(opened) => {
                    tracing::warn!(%partition, bytes = opened.cut_bytes, "cut a torn tail off a log");
                    lossy.push(*partition);
                }
                Err(error) => {
                    tracing::error!(%partition, %error, "a log cannot be opened: registered as lossy");
                    lossy.push(*partition);
                }
            }
        }
        let remembered = logs.remembered()?;
        // What was lost is on record now, log by log.
        logs.mark_running()?;
        Ok::<_, CoordinatorError>(DiskInventory {
            partitions,
            lossy,
            remembered,
        })
    });
    inventory.await?
}

/// Where a broker stands with the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionStatus {
    /// Id and epoch of the current registration.
    pub local: Option<LocalBroker>,
    /// Whether the controller keeps this broker from leading.
    pub fenced: bool,
    /// Whether the controller has let this broker go (it asked to stop).
    pub may_stop: bool,
}

/// The session of this broker.
pub(crate) struct BrokerSession {
    pub(crate) info: NodeInfo,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft_id: RaftNodeId,
    pub(crate) log_dir: LogDirId,
    pub(crate) config: SessionConfig,
    pub(crate) raft: RaftHandle,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: StateWatch,
    pub(crate) proposer: MetadataProposer,
    pub(crate) controller: Arc<Controller>,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) local: watch::Sender<Option<LocalBroker>>,
    pub(crate) status: watch::Sender<SessionStatus>,
}

enum Beat {
    Alive { fenced: bool, may_stop: bool },
    StaleEpoch,
    NoController,
}

impl BrokerSession {
    /// Registers, trying until it works, and publishes the registration.
    pub(crate) async fn register(&self, lossy: &[PartitionId]) -> LocalBroker {
        let registration = Registration {
            info: self.info.clone(),
            incarnation: self.incarnation,
            raft_id: self.raft_id,
            log_dir: self.log_dir,
            lossy: lossy.to_vec(),
            levels: LevelRange::SUPPORTED,
        };
        let (mut failures, mut refusals) = (0u32, 0u32);
        loop {
            let outcome = match announcement(&registration, &self.state.current()) {
                Ok(command) => self.proposer.commit(&command, REGISTER_DEADLINE).await,
                Err(refused) => Err(refused),
            };
            match outcome.map(|committed| committed.result) {
                Ok(CommandResult::Registered { broker, node_epoch }) => {
                    let local = LocalBroker {
                        id: broker,
                        node_epoch,
                    };
                    tracing::info!(%broker, %node_epoch, lossy = lossy.len(), "registered");
                    self.local.send_replace(Some(local));
                    self.status.send_if_modified(|s| {
                        s.local = Some(local);
                        s.fenced = true;
                        true
                    });
                    return local;
                }
                Ok(other) => tracing::error!(?other, "unexpected answer to a registration"),
                Err(error) => {
                    failures += 1;
                    refusals = match &error {
                        CoordinatorError::Rejected(reason) if !reason.is_retriable() => {
                            refusals + 1
                        }
                        _ => 0,
                    };
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, failures, "cannot register yet");
                    }
                }
            }
            tokio::time::sleep(register_pause(refusals)).await;
        }
    }

    /// Keeps the session alive for ever; registers again when the controller calls for it.
    ///
    /// `lossy` is what the registration has named already.
    pub(crate) async fn run(
        &self,
        mut local: LocalBroker,
        replication: ReplicationManager,
        lossy: &[PartitionId],
    ) {
        let mut told: BTreeSet<PartitionId> = lossy.iter().copied().collect();
        let mut sizes = Reporter::default();
        loop {
            let failed = replication.failed_logs();
            let damaged: Vec<_> = failed.iter().filter(|(_, c)| *c).map(|(p, _)| *p).collect();
            if damaged.iter().any(|partition| !told.contains(partition)) {
                // Found only now. Nobody must count on these replicas any more, which is what a
                // registration as lossy says; then they are made anew.
                tracing::error!(logs = damaged.len(), "damaged logs: registering as lossy");
                local = self.register(&damaged).await;
                told = damaged.into_iter().collect();
            } else {
                // One that is not open yet has not been found sound either.
                told.retain(|p| damaged.contains(p) || replication.status(*p).is_none());
            }
            let sent = self.clock.now();
            let report = sizes.due(sent, || replication.led_sizes());
            let pause = match self.beat(local, &replication, &report).await {
                Beat::Alive { fenced, may_stop } => {
                    replication.controller_contact(sent + self.config.timeout);
                    self.status.send_if_modified(|status| {
                        let before = *status;
                        status.fenced = fenced;
                        status.may_stop = may_stop;
                        before != *status
                    });
                    // While it is fenced a broker serves nobody: it hurries.
                    if fenced {
                        RETRY_PAUSE
                    } else {
                        self.config.heartbeat_interval
                    }
                }
                Beat::StaleEpoch => {
                    tracing::warn!("the controller does not know this registration; again");
                    // Same process, same logs: nothing was lost but what has been told.
                    let lossy: Vec<_> = told.iter().copied().collect();
                    local = self.register(&lossy).await;
                    RETRY_PAUSE
                }
                Beat::NoController => RETRY_PAUSE,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn beat(
        &self,
        local: LocalBroker,
        replication: &ReplicationManager,
        sizes: &SizeReport,
    ) -> Beat {
        let request = HeartbeatRequest {
            broker: local.id,
            node_epoch: local.node_epoch,
            applied: self.state.current().applied(),
            disk_healthy: self.is_disk_healthy(replication),
            wants_shutdown: self.stopping.load(Ordering::Relaxed),
        };
        let Some((leader, _)) = self.raft.leader() else {
            return Beat::NoController;
        };
        let reply = if leader == self.info.name {
            let own = &self.info.name;
            Ok(self.controller.heartbeat(own, &request, sizes))
        } else {
            self.call(&leader, &request, sizes).await
        };
        match reply {
            Ok(HeartbeatReply::Alive { fenced, may_stop }) => Beat::Alive { fenced, may_stop },
            Ok(HeartbeatReply::StaleEpoch) => Beat::StaleEpoch,
            Ok(HeartbeatReply::NotController { .. }) => Beat::NoController,
            Err(error) => {
                tracing::debug!(controller = %leader, %error, "heartbeat failed");
                Beat::NoController
            }
        }
    }

    /// One log directory, one fate: a broker with a failed log asks to be fenced, so that its
    /// leaderships move to replicas that work (KIP-112 takes a log directory off in the same way). A
    /// few damaged logs are no failed disk: they are made anew from their leaders.
    fn is_disk_healthy(&self, replication: &ReplicationManager) -> bool {
        let failed = replication.failed_logs();
        let disk_failed = failed.iter().any(|(_, corrupt)| !corrupt);
        !disk_failed
            && failed.len() <= MAX_DAMAGED_LOGS
            && self.raft.status().state != RaftState::Failed
    }

    async fn call(
        &self,
        leader: &rivven_core_types::NodeName,
        request: &HeartbeatRequest,
        sizes: &SizeReport,
    ) -> Result<HeartbeatReply, RpcError> {
        let request = RpcRequest {
            kind: RpcKind::BROKER_HEARTBEAT,
            lane: Lane::Control,
            meta: messages::encode(request)?,
            body: sizes.encode()?,
            deadline: self.config.heartbeat_interval * 2,
        };
        let response = self.rpc.call(leader, request).await?;
        messages::decode(&response.meta)
    }
}

#[cfg(test)]
mod tests {
    use rivven_metadata::Rejection;

    use super::*;
    use crate::builds::{Builds, registration};

    /// Each refused registration would be an entry of the log, twenty in a second and for ever.
    #[test]
    fn a_build_that_the_cluster_would_refuse_is_not_announced() {
        let mut builds = Builds::new();
        let fits = announcement(&registration(1, 1, 2), builds.state()).unwrap();
        assert_eq!(fits, registration(1, 1, 2).into_command());
        builds.apply(&fits);
        builds.raise(1, 2);
        for (min, max) in [(1, 1), (3, 4)] {
            let refused = announcement(&registration(2, min, max), builds.state());
            assert!(
                matches!(
                    &refused,
                    Err(CoordinatorError::Rejected(Rejection::LevelUnsupported { level, .. }))
                        if level.get() == 2
                ),
                "{refused:?}"
            );
        }
        announcement(&registration(2, 2, 4), builds.state()).unwrap();
    }

    /// Builds that do not know the command by which levels are told are in the cluster as well.
    #[test]
    fn this_build_tells_its_levels_only_if_there_is_something_to_tell() {
        let builds = Builds::new();
        let own = Registration {
            levels: LevelRange::SUPPORTED,
            ..registration(1, 1, 1)
        };
        let command = announcement(&own, builds.state()).unwrap();
        let is_plain = matches!(command, Command::RegisterBroker { .. });
        assert_eq!(is_plain, LevelRange::SUPPORTED == LevelRange::UNSAID);
    }

    #[test]
    fn a_refused_registration_is_tried_ever_more_seldom() {
        let pauses: Vec<_> = (0..=3).map(register_pause).collect();
        let expected = [1, 1, 2, 4].map(|times| RETRY_PAUSE * times);
        assert_eq!(pauses, expected);
        assert_eq!(register_pause(u32::MAX), MAX_REFUSED_PAUSE);
    }
}
