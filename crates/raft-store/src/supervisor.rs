//! Keeps a core running: publishes its status, triggers snapshots, and builds the next core when one
//! has panicked. All Raft state is durable, so a new core over the same store goes on where the old
//! one stopped. A store that failed to write is not opened again: after a failed fsync the page
//! cache may show bytes that the disk does not have (Rebello et al., USENIX ATC 2020).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};
use rivven_core_types::{LogIndex, RaftGroupId, RaftNodeId, Term, planted};
use tokio::sync::{Semaphore, oneshot};

use crate::error::RaftStoreError;
use crate::instance::{Context, Instance};
use crate::leader_watch;
use crate::observe::{self, Outcomes};
use crate::runtime::{RaftInstant, WatchReceiver, WatchSender, sleep, spawn, timeout};
use crate::status::{Member, RaftState, RaftStatus};
use crate::types::{LogId, PeerNode, TypeConfig};

/// The window of [`crate::RaftLimits::max_restarts_per_minute`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How far apart two statuses are at least that differ in nothing but how far the log has got. The core
/// tells of each step of each entry, and whoever waits for an entry asks the core itself.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(10);

/// How often the disk is looked at.
const DISK_CHECK: Duration = Duration::from_millis(250);

/// A write that waits longer than this is a stall: the leader hands over, for a leader that cannot write
/// holds up everybody, and its heartbeats keep the others from replacing it.
const DISK_STALL: Duration = Duration::from_secs(1);

/// What a node, its handles and its supervisor share.
pub(crate) struct Shared {
    pub(crate) context: Arc<Context>,
    pub(crate) instance: ArcSwapOption<Instance>,
    pub(crate) status: WatchSender<RaftStatus>,
    pub(crate) proposals: Semaphore,
    pub(crate) outcomes: Outcomes,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

pub(crate) fn member(id: u64, node: &PeerNode) -> Member {
    let PeerNode { name, address } = node.clone();
    Member {
        raft_id: RaftNodeId::new(id),
        name,
        address,
    }
}

/// Translates openraft's metrics.
fn translate(group: RaftGroupId, restarts: u64, metrics: &RaftMetrics<TypeConfig>) -> RaftStatus {
    let membership = &metrics.membership_config;
    let members = |ids: Vec<u64>| {
        let known = ids
            .into_iter()
            .filter_map(|id| Some(member(id, membership.get_node(&id)?)));
        known.collect::<Vec<_>>()
    };
    let voters = members(membership.voter_ids().collect());
    let learners = members(membership.membership().learner_ids().collect());
    let leader = metrics
        .current_leader
        .and_then(|id| membership.get_node(&id));
    let state = match metrics.state {
        ServerState::Shutdown => RaftState::Stopped,
        _ if voters.is_empty() => RaftState::AwaitingMembers,
        ServerState::Learner => RaftState::Learner,
        ServerState::Follower => RaftState::Follower,
        ServerState::Candidate => RaftState::Candidate,
        ServerState::Leader => RaftState::Leader,
    };
    let index = |id: &Option<LogId>| id.map(|id| LogIndex::new(id.index));
    RaftStatus {
        group,
        term: Term::new(metrics.current_term),
        leader: leader.map(|node| node.name.clone()),
        state,
        last_log: metrics.last_log_index.map(LogIndex::new),
        committed: index(&metrics.local_committed),
        applied: index(&metrics.last_applied),
        snapshot: index(&metrics.snapshot),
        voters,
        learners,
        restarts,
        failure: None,
    }
}

type MetricsWatch = WatchReceiver<RaftMetrics<TypeConfig>>;

/// What everybody must hear of at once when it changes.
#[derive(Debug, PartialEq, Eq)]
struct News {
    term: u64,
    leader: Option<u64>,
    state: ServerState,
    membership: Option<LogId>,
    snapshot: Option<LogId>,
}

impl News {
    fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        Self {
            term: metrics.current_term,
            leader: metrics.current_leader,
            state: metrics.state,
            membership: *metrics.membership_config.log_id(),
            snapshot: metrics.snapshot,
        }
    }
}

/// Waits until there are news, or progress that was not told for long enough. `Err` when the core is
/// gone.
async fn something_to_tell(
    metrics: &mut MetricsWatch,
    told: &News,
    quiet: RaftInstant,
) -> Result<(), ()> {
    let mut progress = false;
    let mut waited = std::pin::pin!(sleep(quiet.left()));
    loop {
        tokio::select! {
            biased;
            changed = metrics.changed() => changed.map_err(drop)?,
            () = &mut waited, if progress => return Ok(()),
        }
        if News::of(&metrics.borrow_watched()) != *told || quiet.left() == Duration::ZERO {
            return Ok(());
        }
        progress = true;
    }
}

/// Why following a core has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Asked,
    CoreDied,
}

impl Shared {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let group = context.group();
        let proposals = Semaphore::new(context.options.limits.max_inflight_proposals);
        let status = WatchSender::new(RaftStatus {
            group,
            ..RaftStatus::default()
        });
        Self {
            context,
            instance: ArcSwapOption::empty(),
            status,
            proposals,
            outcomes: Outcomes::new(group),
        }
    }

    pub(crate) fn group(&self) -> RaftGroupId {
        self.context.group()
    }

    /// The status as the core has it this moment; without a core, the last one published.
    pub(crate) fn status_now(&self) -> RaftStatus {
        let published = self.status.borrow().clone();
        match self.instance.load().as_ref() {
            Some(instance) => {
                let metrics = instance.raft.metrics();
                translate(self.group(), published.restarts, &metrics.borrow_watched())
            }
            None => published,
        }
    }

    /// Whether the group has members, and whether this node leads it: the part of the status that
    /// every proposal asks for, without copying the membership.
    pub(crate) fn members_and_leadership(&self) -> (bool, bool) {
        let instance = self.instance.load();
        let Some(instance) = instance.as_ref() else {
            return (!self.status.borrow().voters.is_empty(), false);
        };
        let metrics = instance.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.voter_ids().next().is_some();
        (members, members && metrics.state == ServerState::Leader)
    }

    pub(crate) fn adopt(&self, instance: Arc<Instance>) {
        self.instance.store(Some(instance));
        self.publish();
    }

    fn publish(&self) {
        let now = self.status_now();
        self.status.send_if_modified(|before| {
            observe::status(before, &now);
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn set_state(&self, state: RaftState, failure: Option<String>) {
        self.status.send_if_modified(|status| {
            status.state = state;
            status.leader = None;
            status.failure = failure;
            true
        });
    }

    fn fail(&self, reason: String) {
        tracing::error!(group = self.group().get(), %reason, "the Raft node has failed");
        self.set_state(RaftState::Failed, Some(reason));
    }

    /// Runs until `stop` resolves (also by being dropped) or the node fails for good.
    pub(crate) async fn supervise(self: Arc<Self>, mut stop: oneshot::Receiver<()>) {
        let mut restarts = VecDeque::new();
        while let Some(instance) = self.instance.load_full() {
            let context = Arc::clone(&self.context);
            let watch = spawn(leader_watch::run(context, instance.raft.clone()));
            let ended = self.follow(&instance, &mut stop).await;
            watch.abort();
            self.instance.store(None);
            if ended == Ended::CoreDied {
                self.set_state(RaftState::Restarting, None);
            }
            instance.close().await;
            if ended == Ended::Asked {
                self.set_state(RaftState::Stopped, None);
                return;
            }
            let store = &instance.store;
            let failure = store.log.failure().or_else(|| store.machine.stopped());
            drop(instance);
            if let Err(reason) = self.restart(failure, &mut restarts).await {
                self.fail(reason);
                return;
            }
        }
    }

    async fn restart(
        &self,
        failure: Option<String>,
        restarts: &mut VecDeque<RaftInstant>,
    ) -> Result<(), String> {
        if let Some(reason) = failure {
            return Err(reason);
        }
        let now = RaftInstant::now();
        while restarts
            .front()
            .is_some_and(|at| now - *at > RESTART_WINDOW)
        {
            restarts.pop_front();
        }
        let most = self.context.options.limits.max_restarts_per_minute;
        if restarts.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(format!(
                "the Raft core died more than {most} times in a minute"
            ));
        }
        restarts.push_back(now);
        observe::restart(self.group());
        tracing::warn!(
            group = self.group().get(),
            "the Raft core died; building a new one"
        );
        let reopened = async { self.context.run(self.context.open().await?).await };
        let instance = reopened.await.map_err(|e: RaftStoreError| e.to_string())?;
        self.status.send_if_modified(|status| {
            status.restarts += 1;
            true
        });
        self.adopt(Arc::new(instance));
        Ok(())
    }

    /// Follows a core's metrics. That channel closes when the core dies; `running_state` in it does
    /// not tell of a panic.
    async fn follow(&self, instance: &Instance, stop: &mut oneshot::Receiver<()>) -> Ended {
        let mut metrics = instance.raft.metrics();
        let mut triggered = 0;
        let mut look_at_disk = RaftInstant::after(DISK_CHECK);
        loop {
            let told = News::of(&metrics.borrow_watched());
            self.publish();
            self.snapshot_if_due(instance, &mut triggered).await;
            let quiet = RaftInstant::after(PROGRESS_INTERVAL);
            tokio::select! {
                biased;
                _ = &mut *stop => return Ended::Asked,
                told = something_to_tell(&mut metrics, &told, quiet) => if told.is_err() {
                    let looks_well = metrics.borrow_watched().running_state.is_ok();
                    if looks_well && planted("raft-store.core-death-not-noticed") {
                        let _stopped = (&mut *stop).await;
                        return Ended::Asked;
                    }
                    return Ended::CoreDied;
                },
                () = sleep(look_at_disk.left()) => {}
            }
            if look_at_disk.left() == Duration::ZERO {
                look_at_disk = RaftInstant::after(DISK_CHECK);
                self.flee_a_stalled_disk(instance).await;
            }
        }
    }

    /// Hands leadership to the voter that has the most of the log, once this node's disk has not
    /// answered for too long. Tried at every look, since the next leader may be as slow to answer.
    async fn flee_a_stalled_disk(&self, instance: &Instance) {
        let waited = instance.store.log.waited();
        let is_stalled = waited > DISK_STALL;
        observe::disk(self.group(), waited, is_stalled);
        if !is_stalled {
            return;
        }
        let successor = {
            let metrics = instance.raft.metrics();
            let metrics = metrics.borrow_watched();
            let own = self.context.raft_id();
            let is_voter = |id: u64| metrics.membership_config.voter_ids().any(|v| v == id);
            let matched = metrics.replication.iter().flatten();
            let others = matched.filter(|(id, _)| **id != own && is_voter(**id));
            let best = others.max_by_key(|(_, matched)| **matched);
            best.map(|(id, _)| *id)
        };
        // Only a leader has followers that it replicates to.
        let Some(successor) = successor else { return };
        tracing::warn!(
            group = self.group().get(),
            ?waited,
            successor,
            "the disk has stalled; handing the leadership over"
        );
        let transfer = async { instance.raft.trigger().transfer_leader(successor).await };
        if let Ok(Err(error)) = timeout(DISK_CHECK, transfer).await {
            tracing::warn!(%error, "the leadership cannot be handed over");
        }
    }

    /// A snapshot is due when both enough entries and enough bytes have come since the last: by
    /// entries alone, small commands at a high rate would cause one all the time.
    async fn snapshot_if_due(&self, instance: &Instance, triggered: &mut u64) {
        let (applied, covered) = {
            let status = self.status.borrow();
            let next = |index: Option<LogIndex>| index.map_or(0, |i| i.get() + 1);
            (next(status.applied), next(status.snapshot))
        };
        let since = applied.saturating_sub(covered.max(*triggered));
        if since < self.context.config.snapshot_threshold {
            return;
        }
        let (log_bytes, snapshot_bytes) = instance.store.log.bytes_since_snapshot();
        let least = self.context.options.limits.snapshot_min_log_bytes;
        if log_bytes < least.max(snapshot_bytes) && least > 0 {
            return;
        }
        *triggered = applied;
        if let Err(error) = instance.raft.trigger().snapshot().await {
            tracing::warn!(%error, "cannot trigger a snapshot");
        }
    }
}
