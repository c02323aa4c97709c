//! The in-sync set: who joins, who leaves, and the proposal on its way to the controller (KIP-497).

use rivven_core_types::{
    AlterPartitionError, AlterPartitionProposal, BrokerId, IsrMember, MonoTime, PartitionState,
    RecoveryState, ReplicaLog, planted,
};

use super::partition::{PartitionReplica, Role};
use super::remote::Remote;
use super::types::{ClusterView, Output};
use crate::error::ReplicationError;

/// Where a proposal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sent; the answer is awaited.
    InFlight,
    /// No answer, or not from the controller: the same proposal goes out again.
    RepeatAt(MonoTime),
    /// Refused because this node's metadata is old: it stays pending until newer metadata arrives,
    /// since until then nobody here knows whether it was applied.
    AwaitMetadata,
}

/// The one proposal of a partition that is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingIsr {
    proposal: AlterPartitionProposal,
    /// The broker that it adds. A proposal that removes members adds none: until it is committed
    /// they still count.
    adds: Option<BrokerId>,
    phase: Phase,
}

/// What the controller said to a proposal.
pub type AlterResult = Result<PartitionState, AlterPartitionError>;

impl PartitionReplica {
    /// The committed in-sync set and whoever is proposed to join: the controller may already have
    /// made any of them a leader-to-be.
    pub(crate) fn maximal_isr(&self) -> Vec<BrokerId> {
        let mut members = self.state.isr.clone();
        if planted("isr.proposed-shrink-counts")
            && let Role::Leader(leader) = &self.role
            && let Some(pending) = leader.pending.as_ref().filter(|p| p.adds.is_none())
        {
            return pending.proposal.new_isr.iter().map(|m| m.broker).collect();
        }
        if let Role::Leader(leader) = &self.role
            && let Some(adds) = leader.pending.as_ref().and_then(|p| p.adds)
            && !members.contains(&adds)
            && !planted("isr.joiner-does-not-count")
        {
            members.push(adds);
        }
        members
    }

    pub(crate) fn is_caught_up(
        &self,
        remote: &Remote,
        now: MonoTime,
        log: &dyn ReplicaLog,
    ) -> bool {
        remote.is_caught_up(
            now,
            log.log_end(),
            self.settings.lag_max_time,
            self.state.durability,
        )
    }

    /// Whether `broker` follows from so far behind that nobody waits for it: a member of the in-sync
    /// set, present or proposed, is never held back (KIP-73), nor one that the high watermark waits for.
    pub fn is_catching_up(&self, broker: BrokerId, now: MonoTime, log: &dyn ReplicaLog) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let remote = leader.remotes.get(&broker);
        remote.is_some_and(|remote| !self.is_caught_up(remote, now, log))
            && !self.maximal_isr().contains(&broker)
    }

    /// Proposes `broker` for the in-sync set if it holds everything committed: all conditions are
    /// judged on one snapshot of one fetch (KAFKA-15221).
    pub(crate) fn try_expand(
        &mut self,
        now: MonoTime,
        broker: BrokerId,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if leader.pending.is_some()
            || now < leader.expand_not_before
            || self.state.isr.contains(&broker)
        {
            return;
        }
        let Some(remote) = leader.remotes.get(&broker) else {
            return;
        };
        let (Some(progress), Some(end)) =
            (remote.progress, remote.counted_end(self.state.durability))
        else {
            return;
        };
        let tolerated = if planted("isr.expands-by-message-lag") {
            4
        } else {
            0
        };
        let reaches_epoch =
            end >= leader.epoch_start || planted("isr.joins-without-the-epochs-records");
        let holds_committed = self.high_watermark.since(end) <= tolerated && reaches_epoch;
        // Under min ISR the high watermark stands still, so reaching it proves little: without this a
        // slow replica flaps in and out (KAFKA-19996).
        let keeps_up = !self.state.is_under_min_isr()
            || self.is_caught_up(remote, now, log)
            || planted("isr.joins-without-the-epochs-records");
        if holds_committed && keeps_up && view.is_eligible(broker, progress.node_epoch) {
            let mut isr = self.state.isr.clone();
            isr.push(broker);
            self.propose(&isr, Some(broker), view, out);
        }
    }

    /// Has the followers outside the in-sync set say anew where they stand. What they told earlier may
    /// have been true then only: a damaged log is made anew within the life of its broker.
    pub(crate) fn ask_joiners(&self, out: &mut Vec<Output>) {
        if let Role::Leader(leader) = &self.role {
            let mut joiners = leader.remotes.iter();
            let known = joiners.any(|(broker, remote)| {
                remote.progress.is_some() && !self.state.isr.contains(broker)
            });
            if known {
                out.push(Output::Restate);
            }
        }
    }

    /// Proposes to drop the members that have been behind for longer than the lag time.
    pub(crate) fn check_lag(
        &mut self,
        now: MonoTime,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let next = now + self.lag_check_interval();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.next_lag_check = next;
        if leader.pending.is_some() {
            return;
        }
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let in_sync = |broker: &BrokerId| {
            *broker == self.me
                || leader
                    .remotes
                    .get(broker)
                    .is_some_and(|remote| self.is_caught_up(remote, now, log))
        };
        let keep: Vec<BrokerId> = self.state.isr.iter().copied().filter(in_sync).collect();
        if keep.len() < self.state.isr.len() {
            self.propose(&keep, None, view, out);
        }
    }

    /// Tells the controller that an uncleanly elected leader serves again.
    pub(crate) fn propose_recovered(&mut self, view: &ClusterView, out: &mut Vec<Output>) {
        let isr = self.state.isr.clone();
        self.propose(&isr, None, view, out);
    }

    /// Takes back a refused expansion by proposing the committed set.
    ///
    /// The refusal says nothing about copies of the proposal that are still under way (a call is
    /// repeated after a time-out): one of them is accepted if the replica becomes eligible first. Only a
    /// new partition epoch makes them all void, so until then the replica counts.
    fn withdraw(&mut self, view: &ClusterView, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let Some(pending) = &leader.pending else {
            return;
        };
        let joiner = pending
            .adds
            .filter(|adds| pending.proposal.new_isr.iter().any(|m| m.broker == *adds));
        if joiner.is_some() {
            let committed = self.state.isr.clone();
            self.propose(&committed, joiner, view, out);
        }
    }

    fn propose(
        &mut self,
        isr: &[BrokerId],
        adds: Option<BrokerId>,
        view: &ClusterView,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        // The epoch under which a member fetched; for one that has not fetched yet, or ourselves, the
        // one of the metadata.
        let member = |broker: &BrokerId| {
            let fetched = leader.remotes.get(broker).and_then(|r| r.progress);
            let node_epoch = fetched
                .map(|p| p.node_epoch)
                .or_else(|| view.node_epochs.get(broker).copied())?;
            Some(IsrMember {
                broker: *broker,
                node_epoch,
            })
        };
        // A member whose epoch nobody knows cannot be vouched for; metadata will bring it.
        let Some(new_isr) = isr.iter().map(member).collect::<Option<Vec<_>>>() else {
            return;
        };
        let proposal = AlterPartitionProposal {
            partition: self.state.id,
            leader_epoch: self.state.leader_epoch,
            partition_epoch: self.state.partition_epoch,
            new_isr,
            recovery: RecoveryState::Recovered,
        };
        leader.pending = Some(PendingIsr {
            proposal: proposal.clone(),
            adds,
            phase: Phase::InFlight,
        });
        out.push(Output::Alter(proposal));
    }

    /// Sends an unanswered proposal again when its time has come.
    pub(crate) fn repeat_proposal(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(pending) = &mut leader.pending
            && let Phase::RepeatAt(at) = pending.phase
            && now >= at
        {
            pending.phase = Phase::InFlight;
            out.push(Output::Alter(pending.proposal.clone()));
        }
    }

    /// Takes the controller's answer to `proposal`; `None` if there was none that says anything.
    pub fn alter_answered(
        &mut self,
        now: MonoTime,
        proposal: &AlterPartitionProposal,
        answer: Option<AlterResult>,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if let Some(Ok(record)) = &answer {
            self.apply(now, record, view, log, out);
            return;
        }
        let retry_at = now + self.settings.alter_retry;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(pending) = leader.pending.as_mut().filter(|p| p.proposal == *proposal) else {
            return;
        };
        match answer {
            Some(Ok(_)) => {}
            Some(Err(AlterPartitionError::IneligibleReplica))
                if planted("isr.refused-proposal-is-forgotten") =>
            {
                leader.pending = None;
                leader.expand_not_before = retry_at;
                leader.restate_at = Some(retry_at);
            }
            Some(Err(AlterPartitionError::IneligibleReplica)) => {
                pending.phase = Phase::RepeatAt(retry_at);
                leader.expand_not_before = retry_at;
                leader.restate_at = Some(retry_at);
                self.withdraw(view, out);
            }
            None | Some(Err(AlterPartitionError::NotController)) => {
                pending.phase = Phase::RepeatAt(retry_at);
            }
            // Fenced, not the leader, an old partition epoch: newer metadata is on its way and will
            // replace the pending state. An error of a later version is treated alike, since keeping
            // the maximal set is always safe.
            Some(Err(_)) => pending.phase = Phase::AwaitMetadata,
        }
    }

    /// What follows when the committed set or the brokers' eligibility have changed.
    pub fn on_isr_committed(
        &mut self,
        now: MonoTime,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let under = self.state.is_under_min_isr();
        let error = ReplicationError::NotEnoughReplicasAfterAppend {
            in_sync: self.state.isr.len(),
            required: self.state.effective_min_isr(),
        };
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        for (broker, remote) in &mut leader.remotes {
            let current = view.node_epochs.get(broker);
            let stale = remote
                .progress
                .is_some_and(|p| current.is_some_and(|c| *c != p.node_epoch));
            if stale && !planted("isr.takes-overtaken-progress") {
                // Another life of the broker: its log may be empty now (KIP-903).
                remote.forget_progress();
            }
        }
        if under {
            for w in leader.waiting.committed.drain() {
                out.push(Output::Ack {
                    id: w.id,
                    result: Err(error.clone()),
                });
            }
        }
        self.advance_high_watermark(now, view, log, out);
        self.complete_trimmed(log, out);
        self.ask_joiners(out);
    }
}
