//! One partition on one node: its role, and the changes of it.

use std::collections::BTreeMap;

use rivven_core_types::{
    BrokerId, Durability, LeaderEpoch, LogError, MonoTime, Offset, PartitionEpoch, PartitionId,
    PartitionState, RecoveryState, ReplicaLog, planted,
};

use super::isr::PendingIsr;
use super::producers::ProducerTable;
use super::purgatory::Purgatory;
use super::remote::Remote;
use super::types::{
    ClusterView, Flushed, Output, PartitionStatus, ReplicaRole, ReplicaStatus, Settings,
};
use crate::error::ReplicationError;

/// What a leader knows, in one leader epoch.
#[derive(Debug)]
pub(crate) struct Leader {
    /// The log end when the epoch began. Until the high watermark reaches it, the true high
    /// watermark is not known (KIP-207).
    pub(crate) epoch_start: Offset,
    pub(crate) remotes: BTreeMap<BrokerId, Remote>,
    pub(crate) pending: Option<PendingIsr>,
    /// No expansion is proposed before this, after one was refused.
    pub(crate) expand_not_before: MonoTime,
    pub(crate) next_lag_check: MonoTime,
    /// When the followers outside the in-sync set are asked again where they stand, after an
    /// expansion was refused.
    pub(crate) restate_at: Option<MonoTime>,
    pub(crate) waiting: WaitingWrites,
}

/// Whoever waits for an answer of a leader.
#[derive(Debug, Default)]
pub(crate) struct WaitingWrites {
    /// Writes that wait for the local durable end (acks=1).
    pub(crate) durable: Purgatory,
    /// Writes that wait for the high watermark (acks=all).
    pub(crate) committed: Purgatory,
    /// Deletions that wait for the in-sync replicas to follow.
    pub(crate) trimmed: Purgatory,
}

impl WaitingWrites {
    /// Answers all of them with `error`.
    fn fail(mut self, error: &ReplicationError, out: &mut Vec<Output>) {
        let waiting = self.durable.drain().into_iter();
        let waiting = waiting.chain(self.committed.drain());
        for w in waiting.chain(self.trimmed.drain()) {
            out.push(Output::Ack {
                id: w.id,
                result: Err(error.clone()),
            });
        }
    }
}

/// What a follower knows, in one leader epoch.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) leader: BrokerId,
    /// No fetch before this, after one was refused.
    pub(crate) retry_at: MonoTime,
    /// The leader's high watermark in its last answer.
    pub(crate) leader_high_watermark: Option<Offset>,
}

#[derive(Debug)]
pub(crate) enum Role {
    Idle,
    Leader(Box<Leader>),
    Follower(Follower),
    Offline(String),
}

/// One partition on one node.
///
/// The log is passed in with every call; this is its only user, and everything here is a function of
/// the inputs, so that a simulator replays a run from its seed.
#[derive(Debug)]
pub struct PartitionReplica {
    pub(crate) me: BrokerId,
    pub(crate) settings: Settings,
    pub(crate) state: PartitionState,
    pub(crate) role: Role,
    pub(crate) high_watermark: Offset,
    pub(crate) producers: ProducerTable,
    /// Stored bytes were found to be wrong.
    corrupt: bool,
    /// The record was made here ([`crate::ReplicationManager::get_or_create`]), not by a controller.
    standalone: bool,
}

impl PartitionReplica {
    /// A replica over an opened log, without a role. `high_watermark_hint` comes from a checkpoint: it
    /// is only where the high watermark starts and never a reason to cut the log (KIP-101).
    ///
    /// # Errors
    /// If the log cannot be scanned for its producers.
    pub fn open(
        me: BrokerId,
        settings: Settings,
        partition: PartitionId,
        high_watermark_hint: Offset,
        log: &dyn ReplicaLog,
    ) -> Result<Self, LogError> {
        let producers = ProducerTable::rebuild(settings.max_producers, log)?;
        let high_watermark = high_watermark_hint.min(log.log_end()).max(log.log_start());
        Ok(Self {
            me,
            settings,
            state: blank_record(partition),
            role: Role::Idle,
            high_watermark,
            producers,
            corrupt: false,
            standalone: false,
        })
    }

    /// Whether a controller has spoken about this partition.
    pub fn has_record(&self) -> bool {
        self.state.partition_epoch.get() >= 0
    }

    /// Makes a partition of this node alone, until a controller's record replaces it. Does nothing if
    /// there is a record already.
    pub fn apply_standalone(
        &mut self,
        now: MonoTime,
        min_isr: u32,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if self.has_record() {
            return;
        }
        let epoch = log
            .last_epoch()
            .map_or(Some(LeaderEpoch::new(0)), LeaderEpoch::next);
        let Some(leader_epoch) = epoch else {
            self.go_offline("the leader epochs are used up".to_owned(), out);
            return;
        };
        let record = PartitionState {
            replicas: vec![self.me],
            isr: vec![self.me],
            last_known_isr: vec![self.me],
            leader: Some(self.me),
            leader_epoch,
            partition_epoch: PartitionEpoch::new(0),
            min_isr,
            ..blank_record(self.state.id)
        };
        self.apply(now, &record, view, log, out);
        self.standalone = true;
    }

    /// Applies a committed record. An older one changes nothing; an equal one is allowed, since the
    /// answer to a proposal may have brought it first.
    pub fn apply(
        &mut self,
        now: MonoTime,
        record: &PartitionState,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if record.partition_epoch < self.state.partition_epoch
            || record.leader_epoch < self.state.leader_epoch && !self.standalone
        {
            return;
        }
        let was_standalone = std::mem::replace(&mut self.standalone, false);
        let newer = record.partition_epoch > self.state.partition_epoch;
        let same_epoch = record.leader_epoch == self.state.leader_epoch;
        // Nobody else can have led in between, so that what waits here still stands in the log.
        let goes_on =
            self.state.leader_epoch.next() == Some(record.leader_epoch) && !was_standalone;
        let lazy = self.state.durability == Durability::Replicated;
        self.state = record.clone();
        if matches!(self.role, Role::Offline(_)) {
            return;
        }
        let leads = record.leader == Some(self.me) && record.is_replica(self.me);
        if lazy && record.durability == Durability::Fsync && log.durable_end() < log.log_end() {
            out.push(Output::Flush);
        }
        if was_standalone && !leads && log.log_end() > log.log_start() {
            // These records carry an epoch that the controller gave to nobody: followed from here,
            // the logs could part without anyone noticing.
            let reason =
                "it holds records written before the partition had a record in the cluster";
            self.go_offline(reason.to_owned(), out);
            return;
        }
        match (&mut self.role, record.leader) {
            (Role::Leader(leader), _) if leads && same_epoch => {
                leader.remotes.retain(|b, _| record.is_replica(*b));
                for broker in record.replicas.iter().filter(|b| **b != self.me) {
                    let _known = leader
                        .remotes
                        .entry(*broker)
                        .or_insert_with(|| Remote::new(None));
                }
                if newer || planted("isr.equal-epoch-settles-a-proposal") {
                    leader.pending = None;
                }
                self.on_isr_committed(now, view, log, out);
            }
            (Role::Follower(follower), Some(l)) if !leads && same_epoch && follower.leader == l => {
                if !record.is_replica(self.me) {
                    self.leave_role(out);
                }
            }
            (Role::Leader(leader), _) if leads && goes_on => {
                let waiting = std::mem::take(&mut leader.waiting);
                self.become_leader(now, waiting, view, log, out);
            }
            (_, _) if leads => self.become_leader(now, WaitingWrites::default(), view, log, out),
            (_, Some(leader)) if record.is_replica(self.me) => {
                self.leave_role(out);
                self.role = Role::Follower(Follower {
                    leader,
                    retry_at: now,
                    leader_high_watermark: None,
                });
                if self.state.durability == Durability::Fsync && log.durable_end() < log.log_end() {
                    out.push(Output::Flush);
                }
            }
            (_, _) => self.leave_role(out),
        }
    }

    /// Leads, with the writes that wait since the epoch before, if it led that one.
    fn become_leader(
        &mut self,
        now: MonoTime,
        waiting: WaitingWrites,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        self.leave_role(out);
        let epoch = self.state.leader_epoch;
        let last = log.last_epoch();
        // Leading an epoch that the log already holds, after a restart that may have lost a tail,
        // would write a second history under the same epoch, which no truncation by epoch can tell
        // from the first. Only a replica without others may: nobody has the first history.
        let again = last.is_some_and(|last| last >= epoch) && !planted("isr.leads-an-epoch-twice");
        if again && (last > Some(epoch) || self.state.replicas.len() > 1) {
            waiting.fail(&self.not_leader(), out);
            return;
        }
        let epoch_start = log.log_end();
        // KAFKA-7415: the epoch is assigned even when no record follows.
        if !again && let Err(error) = log.assign_epoch(epoch, epoch_start) {
            let error = self.on_log_error(&error, out);
            waiting.fail(&error, out);
            return;
        }
        let remote = |broker: &BrokerId| {
            let in_sync = self.state.isr.contains(broker);
            (*broker, Remote::new(in_sync.then_some(now)))
        };
        let others = self.state.replicas.iter().filter(|b| **b != self.me);
        self.role = Role::Leader(Box::new(Leader {
            epoch_start,
            remotes: others.map(remote).collect(),
            pending: None,
            expand_not_before: now,
            next_lag_check: now + self.lag_check_interval(),
            restate_at: None,
            waiting,
        }));
        if log.durable_end() < epoch_start {
            out.push(Output::Flush);
        }
        self.on_isr_committed(now, view, log, out);
        if self.state.recovery == RecoveryState::Recovering {
            self.propose_recovered(view, out);
        }
    }

    /// Ends the current role: writes that wait have an unknown outcome now.
    fn leave_role(&mut self, out: &mut Vec<Output>) {
        let error = self.not_leader();
        self.fail_waiting(&error, out);
        self.role = Role::Idle;
        out.push(Output::RoleChanged);
    }

    /// Answers all waiting writes with `error`.
    pub fn fail_waiting(&mut self, error: &ReplicationError, out: &mut Vec<Output>) {
        if let Role::Leader(leader) = &mut self.role {
            std::mem::take(&mut leader.waiting).fail(error, out);
        }
    }

    /// Fail-stop: refuses everything from now on.
    pub fn go_offline(&mut self, reason: String, out: &mut Vec<Output>) {
        let error = ReplicationError::LogUnavailable {
            reason: reason.clone(),
        };
        self.fail_waiting(&error, out);
        self.role = Role::Offline(reason);
        out.push(Output::RoleChanged);
    }

    /// Turns a log error into the caller's error; a failed or corrupt log goes offline.
    pub(crate) fn on_log_error(
        &mut self,
        error: &LogError,
        out: &mut Vec<Output>,
    ) -> ReplicationError {
        let mapped = ReplicationError::from_log(error);
        self.corrupt |= matches!(error, LogError::Corrupt { .. });
        if let ReplicationError::LogUnavailable { reason } = &mapped {
            self.go_offline(reason.clone(), out);
        }
        mapped
    }

    pub(crate) fn not_leader(&self) -> ReplicationError {
        ReplicationError::NotLeader {
            leader_hint: self.state.leader.filter(|l| *l != self.me),
        }
    }

    pub(crate) fn lag_check_interval(&self) -> std::time::Duration {
        self.settings.lag_max_time / 4
    }

    /// How soon what was appended should become durable.
    pub(crate) const fn flush_wish(&self) -> Output {
        match self.state.durability {
            Durability::Fsync => Output::Flush,
            Durability::Replicated => Output::FlushLater,
        }
    }

    /// The end of this replica's own log that counts for the high watermark.
    pub(crate) fn counted_end(&self, log: &dyn ReplicaLog) -> Offset {
        match self.state.durability {
            Durability::Fsync if planted("isr.counts-what-is-not-synced") => log.log_end(),
            Durability::Fsync => log.durable_end(),
            Durability::Replicated => log.log_end(),
        }
    }

    /// Takes note of a finished flush.
    pub fn flushed(
        &mut self,
        now: MonoTime,
        flushed: Flushed,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let Flushed {
            end,
            generation,
            result,
        } = flushed;
        if let Err(error) = log.finish_flush(end, generation, result) {
            // Whatever it was, a log that cannot become durable is of no use (fail-stop).
            self.go_offline(error.to_string(), out);
            return;
        }
        match self.role {
            Role::Leader(_) => {
                self.complete_durable(log, out);
                self.advance_high_watermark(now, view, log, out);
            }
            Role::Follower(_) if self.state.durability == Durability::Fsync => {
                out.push(Output::Progress);
            }
            Role::Follower(_) | Role::Idle | Role::Offline(_) => {}
        }
    }

    /// What follows from time alone: expired writes, lagging followers, proposals to repeat.
    pub fn tick(
        &mut self,
        now: MonoTime,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let expired = leader.waiting.durable.expire(now).into_iter();
        let expired = expired.chain(leader.waiting.committed.expire(now));
        for w in expired.chain(leader.waiting.trimmed.expire(now)) {
            out.push(Output::Ack {
                id: w.id,
                result: Err(ReplicationError::RequestTimedOut {
                    waited: now.since(w.since),
                }),
            });
        }
        let lag_check = now >= leader.next_lag_check;
        let restate = leader.restate_at.take_if(|at| now >= *at).is_some();
        self.repeat_proposal(now, out);
        if lag_check || restate {
            self.ask_joiners(out);
        }
        if lag_check {
            self.check_lag(now, view, log, out);
            // A replica outside the set that has fallen behind holds the high watermark no longer.
            self.advance_high_watermark(now, view, log, out);
        }
    }

    /// Whether time alone may make this partition act before the next lag check.
    pub fn has_deadlines(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                leader.pending.is_some()
                    || leader.restate_at.is_some()
                    || !leader.waiting.durable.is_empty()
                    || !leader.waiting.committed.is_empty()
                    || !leader.waiting.trimmed.is_empty()
            }
            Role::Idle | Role::Follower(_) | Role::Offline(_) => false,
        }
    }

    /// Gives the role up for good: the partition is removed, or the node stops.
    pub fn retire(&mut self, out: &mut Vec<Output>) {
        if !matches!(self.role, Role::Offline(_)) {
            self.leave_role(out);
        }
    }

    /// The committed record in force; its epochs are -1 before the first.
    pub const fn record(&self) -> &PartitionState {
        &self.state
    }

    /// Whether stored bytes were found to be wrong.
    pub const fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// The high watermark.
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// When a record counts as stored.
    pub const fn durability(&self) -> Durability {
        self.state.durability
    }

    /// The state as it is published.
    pub fn status(&self, log: &dyn ReplicaLog) -> PartitionStatus {
        let mut followers = Vec::new();
        let (role, offline_reason) = match &self.role {
            Role::Idle => (ReplicaRole::Idle, None),
            Role::Follower(_) => (ReplicaRole::Follower, None),
            Role::Offline(reason) => (ReplicaRole::Offline, Some(reason.clone())),
            Role::Leader(leader) => {
                followers.extend(leader.remotes.iter().map(|(broker, r)| ReplicaStatus {
                    broker: *broker,
                    log_end: r.progress.map(|p| p.log_end),
                    durable_end: r.progress.map(|p| p.durable_end),
                }));
                (ReplicaRole::Leader, None)
            }
        };
        PartitionStatus {
            partition: self.state.id,
            role,
            leader: self.state.leader,
            leader_epoch: self.state.leader_epoch,
            partition_epoch: self.state.partition_epoch,
            high_watermark: self.high_watermark,
            log_start: log.log_start(),
            log_end: log.log_end(),
            durable_end: log.durable_end(),
            size_bytes: log.size_bytes(),
            last_epoch: log.last_epoch(),
            isr: self.state.isr.clone(),
            under_min_isr: self.has_record() && self.state.is_under_min_isr(),
            replicas: self.state.replicas.clone(),
            followers,
            offline_reason,
            corrupt: self.corrupt,
        }
    }
}

fn blank_record(id: PartitionId) -> PartitionState {
    PartitionState {
        id,
        replicas: Vec::new(),
        isr: Vec::new(),
        elr: Vec::new(),
        last_known_isr: Vec::new(),
        leader: None,
        leader_epoch: LeaderEpoch::new(-1),
        partition_epoch: PartitionEpoch::new(-1),
        recovery: RecoveryState::Recovered,
        min_isr: 1,
        durability: Durability::Fsync,
    }
}
