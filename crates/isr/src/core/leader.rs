//! The leader's side: writes, reads, followers' fetches and the high watermark.

use rivven_core_types::{
    BrokerId, EpochEnd, LeaderEpoch, MonoTime, NodeEpoch, Offset, ReplicaLog, TimestampedOffset,
    planted,
};
use std::ops::ControlFlow;

use super::partition::{Leader, PartitionReplica, Role};
use super::producers::SequenceCheck;
use super::purgatory::{AckId, Waiting};
use super::remote::Progress;
use super::types::{
    Acked, Acks, ClusterView, OffsetSpec, Output, ProduceIn, ReplicaFetch, ReplicaFetched,
};
use crate::error::ReplicationError;

/// What a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRead {
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The log's first offset.
    pub log_start: Offset,
    /// Whole batches below the high watermark.
    pub bytes: bytes::Bytes,
}

impl PartitionReplica {
    /// Checks that this node leads, and in the epoch that the caller knows (KIP-320).
    pub(crate) fn check_leader(
        &self,
        epoch: Option<LeaderEpoch>,
    ) -> Result<&Leader, ReplicationError> {
        let leader = match &self.role {
            Role::Leader(leader) => leader,
            Role::Offline(reason) => {
                return Err(ReplicationError::LogUnavailable {
                    reason: reason.clone(),
                });
            }
            Role::Idle | Role::Follower(_) => {
                let current = self.state.leader_epoch;
                return Err(match epoch {
                    Some(requested) if requested > current => {
                        ReplicationError::UnknownLeaderEpoch { current, requested }
                    }
                    Some(_) | None => self.not_leader(),
                });
            }
        };
        let current = self.state.leader_epoch;
        match epoch {
            Some(requested) if requested < current => {
                Err(ReplicationError::FencedLeaderEpoch { current, requested })
            }
            Some(requested) if requested > current => {
                Err(ReplicationError::UnknownLeaderEpoch { current, requested })
            }
            Some(_) | None => Ok(leader),
        }
    }

    /// A follower fetched at `at` without naming this partition: it stood where it had last told. A
    /// write that follows does not find it lagging because nothing had been written for long.
    pub fn polled(
        &mut self,
        broker: BrokerId,
        node_epoch: NodeEpoch,
        at: MonoTime,
        log: &dyn ReplicaLog,
    ) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(remote) = leader.remotes.get_mut(&broker)
            && remote.progress.is_some_and(|p| p.node_epoch == node_epoch)
        {
            remote.polled(at, log.log_end(), self.state.durability);
        }
    }

    /// A client's write. The answer comes as [`Output::Ack`].
    pub fn produce(
        &mut self,
        now: MonoTime,
        input: &ProduceIn<'_>,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if let Err(error) = self.try_produce(now, input, view, log, out) {
            out.push(Output::Ack {
                id: input.id,
                result: Err(error),
            });
        }
    }

    fn try_produce(
        &mut self,
        now: MonoTime,
        input: &ProduceIn<'_>,
        view: &ClusterView,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<(), ReplicationError> {
        let leader = self.check_leader(None)?;
        if input.acks != Acks::All && !input.contact {
            return Err(ReplicationError::ControllerContactLost);
        }
        if input.acks == Acks::All && self.state.is_under_min_isr() {
            return Err(ReplicationError::NotEnoughReplicas {
                in_sync: self.state.isr.len(),
                required: self.state.effective_min_isr(),
            });
        }
        let waiting = leader.waiting.durable.len() + leader.waiting.committed.len();
        if input.acks != Acks::None && waiting >= self.settings.max_pending_acks {
            return Err(ReplicationError::Overloaded {
                queue: "pending acknowledgements",
            });
        }
        let log_complete = log.log_start() == Offset::ZERO;
        let header = input.batch.header();
        let (base, end) = match self.producers.check(header, log_complete)? {
            SequenceCheck::Duplicate { base, .. } if planted("isr.duplicate-acked-at-once") => {
                (base, Offset::ZERO)
            }
            SequenceCheck::Duplicate { base, end } => (base, end),
            SequenceCheck::Fresh => {
                let appended = log
                    .append_as_leader(self.state.leader_epoch, input.batch)
                    .map_err(|error| self.on_log_error(&error, out))?;
                self.producers.record(header, appended.base, appended.end);
                out.push(Output::Appended);
                out.push(self.flush_wish());
                (appended.base, appended.end)
            }
        };
        let waiting = Waiting {
            id: input.id,
            required: end,
            base,
            since: now,
            deadline: input.deadline,
        };
        self.await_ack(input.acks, waiting, log, out);
        self.advance_high_watermark(now, view, log, out);
        Ok(())
    }

    /// Acknowledges at once what needs no more; a duplicate waits for the same as the original did,
    /// since its first copy may not be committed yet.
    fn await_ack(
        &mut self,
        acks: Acks,
        waiting: Waiting,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let reached = match acks {
            Acks::None => Offset::MAX,
            Acks::Leader => self.counted_end(log),
            Acks::All => self.high_watermark,
        };
        if waiting.required <= reached {
            out.push(ack(&waiting, log));
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            match acks {
                Acks::None => {}
                Acks::Leader => leader.waiting.durable.insert(waiting),
                Acks::All => leader.waiting.committed.insert(waiting),
            }
        }
    }

    /// Acknowledges acks=1 writes that are durable here.
    pub(crate) fn complete_durable(&mut self, log: &dyn ReplicaLog, out: &mut Vec<Output>) {
        let reached = self.counted_end(log);
        if let Role::Leader(leader) = &mut self.role {
            while let Some(w) = leader.waiting.durable.pop_reached(reached) {
                out.push(ack(&w, log));
            }
        }
    }

    /// A follower's fetch: says whether the logs agree, takes its progress, and reads.
    ///
    /// A fetch whose session epoch is not above the newest is served, but its progress is ignored: it
    /// was overtaken, and what it says about the follower's log may not hold any more.
    pub fn replica_fetch(
        &mut self,
        now: MonoTime,
        fetch: &ReplicaFetch,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<ReplicaFetched, ReplicationError> {
        let position = &fetch.position;
        let _leads = self.check_leader(Some(position.leader_epoch))?;
        self.check_replica(fetch, view)?;
        if position.durable_end > position.fetch_offset {
            return Err(ReplicationError::InvalidRequest(
                "the durable end is beyond the log end",
            ));
        }
        let leader_end = log.log_end();
        let out_of_range = ReplicationError::OffsetOutOfRange {
            requested: position.fetch_offset,
            log_start: log.log_start(),
            log_end: leader_end,
        };
        if position.fetch_offset < log.log_start() {
            return Err(out_of_range);
        }
        if let Some(EpochEnd { epoch, end }) = divergence(fetch, log)
            && !planted("isr.divergence-not-told")
        {
            return Ok(ReplicaFetched::Diverging { epoch, end });
        }
        // An epoch above our last was never led by anyone whose log this one continues.
        if position.fetch_offset > leader_end || position.last_fetched_epoch > log.last_epoch() {
            return Err(out_of_range);
        }
        let bytes = if fetch.max_bytes == 0 {
            bytes::Bytes::new()
        } else {
            log.read(position.fetch_offset, leader_end, fetch.max_bytes)
                .map_err(|error| self.on_log_error(&error, out))?
                .bytes
        };
        self.take_progress(now, fetch, leader_end, view, log, out);
        Ok(ReplicaFetched::Data {
            high_watermark: self.high_watermark,
            log_start: log.log_start(),
            bytes,
        })
    }

    fn check_replica(
        &self,
        fetch: &ReplicaFetch,
        view: &ClusterView,
    ) -> Result<(), ReplicationError> {
        if fetch.broker == self.me || !self.state.is_replica(fetch.broker) {
            return Err(ReplicationError::UnknownReplica {
                broker: fetch.broker,
            });
        }
        let expected = view.node_epochs.get(&fetch.broker).copied();
        if expected != Some(fetch.node_epoch) && !planted("isr.takes-overtaken-progress") {
            return Err(ReplicationError::StaleNodeEpoch {
                broker: fetch.broker,
                expected,
                found: fetch.node_epoch,
            });
        }
        Ok(())
    }

    fn take_progress(
        &mut self,
        now: MonoTime,
        fetch: &ReplicaFetch,
        leader_end: Offset,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(remote) = leader.remotes.get_mut(&fetch.broker) else {
            return;
        };
        let progress = Progress {
            node_epoch: fetch.node_epoch,
            session_epoch: fetch.session_epoch,
            log_end: fetch.position.fetch_offset,
            durable_end: fetch.position.durable_end,
            log_start: fetch.position.log_start,
        };
        if remote.update(now, progress, leader_end, self.state.durability) {
            // The expansion first: a joiner holds the high watermark from the moment it is proposed.
            self.try_expand(now, fetch.broker, view, log, out);
            self.advance_high_watermark(now, view, log, out);
            self.complete_trimmed(log, out);
        }
    }

    /// Moves the high watermark to the least counted end over the maximal in-sync set (committed and
    /// proposed, KIP-497) and over the eligible followers outside of it that keep up, which are about
    /// to join. Only forward, and only while the committed set is not under min ISR (KIP-966).
    pub(crate) fn advance_high_watermark(
        &mut self,
        now: MonoTime,
        view: &ClusterView,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let Some(candidate) = self.high_watermark_candidate(now, view, log) else {
            return;
        };
        if candidate <= self.high_watermark {
            return;
        }
        self.high_watermark = candidate;
        out.push(Output::HighWatermark);
        if let Role::Leader(leader) = &mut self.role {
            while let Some(w) = leader.waiting.committed.pop_reached(candidate) {
                out.push(ack(&w, log));
            }
        }
    }

    fn high_watermark_candidate(
        &self,
        now: MonoTime,
        view: &ClusterView,
        log: &dyn ReplicaLog,
    ) -> Option<Offset> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        if self.state.is_under_min_isr() && !planted("isr.commits-under-min-isr") {
            return None;
        }
        let mut candidate = self.counted_end(log);
        if planted("isr.high-watermark-ignores-followers") {
            return Some(candidate);
        }
        let members = self.maximal_isr();
        for broker in members.iter().filter(|b| **b != self.me) {
            // A member that has not fetched in this epoch may have anything: nothing moves.
            let end = leader
                .remotes
                .get(broker)?
                .counted_end(self.state.durability)?;
            candidate = candidate.min(end);
        }
        // What is wrong with the proposed member shows only where this second line does not hold.
        if planted("isr.joiner-does-not-count")
            || planted("isr.equal-epoch-settles-a-proposal")
            || planted("isr.refused-proposal-is-forgotten")
        {
            return Some(candidate);
        }
        for (broker, remote) in leader.remotes.iter().filter(|(b, _)| !members.contains(b)) {
            let eligible = remote
                .progress
                .is_some_and(|p| view.is_eligible(*broker, p.node_epoch));
            if let Some(end) = remote.counted_end(self.state.durability)
                && eligible
                && self.is_caught_up(remote, now, log)
            {
                candidate = candidate.min(end);
            }
        }
        Some(candidate)
    }

    /// A consumer's read, below the high watermark.
    ///
    /// A new leader's high watermark may be behind the old one's; then it answers
    /// [`ReplicationError::OffsetNotAvailable`] at its end, so that no consumer sees the end go back
    /// (KIP-207).
    pub fn consumer_read(
        &mut self,
        offset: Offset,
        epoch: Option<LeaderEpoch>,
        max_bytes: usize,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<ConsumerRead, ReplicationError> {
        let end_known = self.high_watermark >= self.check_leader(epoch)?.epoch_start
            || planted("isr.visible-end-goes-back");
        if offset < log.log_start() || offset > log.log_end() {
            return Err(ReplicationError::OffsetOutOfRange {
                requested: offset,
                log_start: log.log_start(),
                log_end: self.high_watermark,
            });
        }
        let mut read = ConsumerRead {
            high_watermark: self.high_watermark,
            log_start: log.log_start(),
            bytes: bytes::Bytes::new(),
        };
        if offset >= self.high_watermark {
            return if end_known {
                Ok(read)
            } else {
                Err(ReplicationError::OffsetNotAvailable)
            };
        }
        if max_bytes > 0 {
            read.bytes = log
                .read(offset, self.high_watermark, max_bytes)
                .map_err(|error| self.on_log_error(&error, out))?
                .bytes;
        }
        Ok(read)
    }

    /// Finds an offset for a client. `contact` says whether the controller session is good: without
    /// it another leader may have moved the end.
    pub fn list_offset(
        &mut self,
        spec: OffsetSpec,
        epoch: Option<LeaderEpoch>,
        contact: bool,
        log: &dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<Option<TimestampedOffset>, ReplicationError> {
        let end_known = self.high_watermark >= self.check_leader(epoch)?.epoch_start
            || planted("isr.visible-end-goes-back");
        let plain = |offset| TimestampedOffset {
            offset,
            timestamp: -1,
            epoch: self.state.leader_epoch,
        };
        let limit = self.high_watermark;
        let found = match spec {
            OffsetSpec::Earliest => return Ok(Some(plain(log.log_start()))),
            OffsetSpec::Latest | OffsetSpec::MaxTimestamp if !contact => {
                return Err(ReplicationError::ControllerContactLost);
            }
            OffsetSpec::Latest | OffsetSpec::MaxTimestamp if !end_known => {
                return Err(ReplicationError::OffsetNotAvailable);
            }
            OffsetSpec::Latest => return Ok(Some(plain(limit))),
            OffsetSpec::MaxTimestamp => max_timestamp(log, limit).and_then(|max| match max {
                Some(max) => log.offset_for_timestamp(max, limit),
                None => Ok(None),
            }),
            OffsetSpec::Timestamp(at) => log.offset_for_timestamp(at, limit),
        };
        match found {
            Ok(None) if !end_known => Err(ReplicationError::OffsetNotAvailable),
            Ok(found) => Ok(found),
            Err(error) => Err(self.on_log_error(&error, out)),
        }
    }

    /// Where `asked` ends in this log, for a client that checks whether what it has read was cut off
    /// (KIP-320): the greatest epoch not above it, and its exclusive end. Below all known epochs the
    /// records are deleted, and all that is known is where the log begins (KIP-279); `None` above them.
    pub fn epoch_end(
        &self,
        asked: LeaderEpoch,
        epoch: Option<LeaderEpoch>,
        log: &dyn ReplicaLog,
    ) -> Result<Option<EpochEnd>, ReplicationError> {
        let _leads = self.check_leader(epoch)?;
        let below_all = || {
            let known = log.last_epoch().is_some_and(|last| asked <= last);
            known.then(|| EpochEnd {
                epoch: asked,
                end: log.log_start(),
            })
        };
        Ok(log.epoch_end(asked).or_else(below_all))
    }

    /// The node epoch of an assigned replica, for a fetch by call.
    pub fn node_epoch_of(
        &self,
        broker: BrokerId,
        view: &ClusterView,
    ) -> Result<NodeEpoch, ReplicationError> {
        let assigned = broker != self.me && self.state.is_replica(broker);
        let known = view.node_epochs.get(&broker).copied();
        known
            .filter(|_| assigned)
            .ok_or(ReplicationError::UnknownReplica { broker })
    }

    /// The session epoch after the newest one of a replica, for a fetch by call.
    pub fn next_session_epoch(&self, broker: BrokerId) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader
                .remotes
                .get(&broker)
                .and_then(|r| r.progress)
                .map_or(1, |p| p.session_epoch.saturating_add(1)),
            Role::Idle | Role::Follower(_) | Role::Offline(_) => 1,
        }
    }

    /// The followers that lack more than `max` records: a figure for metrics, nothing else.
    pub fn lagging_followers(&self, max: u64, log: &dyn ReplicaLog) -> Vec<BrokerId> {
        match &self.role {
            Role::Leader(leader) => leader
                .remotes
                .iter()
                .filter(|(_, r)| {
                    let end = r.progress.map_or_else(|| log.log_start(), |p| p.log_end);
                    log.log_end().since(end) > max
                })
                .map(|(broker, _)| *broker)
                .collect(),
            Role::Idle | Role::Follower(_) | Role::Offline(_) => Vec::new(),
        }
    }

    /// A waiting write's caller is told apart by its id only.
    #[cfg(test)]
    pub(crate) fn waiting_acks(&self) -> usize {
        match &self.role {
            Role::Leader(l) => l.waiting.durable.len() + l.waiting.committed.len(),
            Role::Idle | Role::Follower(_) | Role::Offline(_) => 0,
        }
    }
}

/// Where the logs part, if they do (KIP-320, KIP-595): the leader's end of the greatest epoch not
/// above the follower's last, when that is another epoch or ends before the follower's log.
fn divergence(fetch: &ReplicaFetch, log: &dyn ReplicaLog) -> Option<EpochEnd> {
    let position = &fetch.position;
    let Some(last) = position.last_fetched_epoch else {
        // Without an epoch only an empty log can be trusted to agree with ours.
        return (position.fetch_offset > position.log_start).then(|| EpochEnd {
            epoch: LeaderEpoch::new(-1),
            end: position.log_start,
        });
    };
    match log.epoch_end(last) {
        Some(ours) if ours.epoch < last || ours.end < position.fetch_offset => Some(ours),
        Some(_) => None,
        // Our table begins above the follower's last epoch, whose records are deleted here: they were
        // committed, so an offset at or above our start is consistent only if the log is empty there.
        None => log
            .last_epoch()
            .filter(|ours| *ours > last && position.fetch_offset > log.log_start())
            .map(|_| EpochEnd {
                epoch: LeaderEpoch::new(-1),
                end: log.log_start(),
            }),
    }
}

fn max_timestamp(
    log: &dyn ReplicaLog,
    limit: Offset,
) -> Result<Option<i64>, rivven_core_types::LogError> {
    let mut max = None;
    log.scan(log.log_start(), &mut |header| {
        if header.end_offset().is_none_or(|end| end > limit) {
            return ControlFlow::Break(());
        }
        max = max.max(Some(header.max_timestamp));
        ControlFlow::Continue(())
    })?;
    Ok(max)
}

pub(crate) fn ack(waiting: &Waiting, log: &dyn ReplicaLog) -> Output {
    let id: AckId = waiting.id;
    Output::Ack {
        id,
        result: Ok(Acked {
            base: waiting.base,
            log_start: log.log_start(),
        }),
    }
}
