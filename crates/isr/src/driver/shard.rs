//! A shard: one loop that owns its partitions and their logs. Nothing else touches them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use rivven_core_types::{
    AlterPartitionProposal, BrokerId, Clock, LogStore, MonoTime, Offset, PartitionId, ReplicaLog,
    SyncBy,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use super::api::Produced;
use super::command::{Answer, Command};
use super::fetcher::SignalTable;
use super::flusher::{FlushJob, FlushWork};
use super::session::{Session, tell};
use super::throttle::Throttles;
use crate::config::ReplicationConfig;
use crate::core::{
    AckId, ClusterView, FetchPosition, Flushed, Output, PartitionReplica, PartitionStatus,
    ReplicaRole, Settings,
};
use crate::error::ReplicationError;
use put_off::PutOff;

mod apply;
mod heal;
mod keep;
mod put_off;
mod quota;
mod serve;

/// Most commands of one round; after it flushes begin and states are published.
const MAX_ROUND: usize = 256;

/// The published states, by partition.
pub(super) type StatusTable = Arc<RwLock<BTreeMap<PartitionId, Arc<PartitionStatus>>>>;

/// What a shard shares with the manager.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Partitions that [`super::ReplicationManager::get_or_create`] named: whether this node leads.
    pub(super) adopt: Mutex<BTreeMap<PartitionId, bool>>,
    /// Record bytes in the queue.
    pub(super) queued_bytes: AtomicUsize,
}

/// What a shard is made of.
pub(super) struct ShardParts {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) me: BrokerId,
    pub(super) config: ReplicationConfig,
    pub(super) logs: Arc<dyn LogStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) flusher: mpsc::Sender<FlushWork>,
    pub(super) alters: mpsc::Sender<AlterPartitionProposal>,
    pub(super) statuses: StatusTable,
    pub(super) signals: SignalTable,
    /// Until when the controller session is good, in nanoseconds of the clock's origin.
    pub(super) contact_until: Arc<AtomicU64>,
    pub(super) throttles: Arc<Throttles>,
}

struct Entry {
    core: PartitionReplica,
    log: Box<dyn ReplicaLog>,
    /// Tells this opening of the log from an earlier one, for flushes that end late.
    instance: u64,
    flushing: bool,
    /// Bytes cut off when the log was opened, until the store has been told that the broker has
    /// registered as lossy.
    cut_bytes: u64,
    /// Whether `cut_bytes` was reported before the registration.
    reported: bool,
    /// What the leader was last told, in whatever way.
    told: Option<FetchPosition>,
    /// What it was told in the present session and has not answered.
    session_told: Option<FetchPosition>,
    /// The followers' sessions that wait for news of this log.
    watchers: Vec<Weak<Session>>,
    consumers: Vec<Weak<Notify>>,
}

/// The partitions that may stand elsewhere than their leader knows.
#[derive(Debug, Default)]
struct Moved {
    for_session: BTreeSet<PartitionId>,
    for_report: BTreeSet<PartitionId>,
    /// Those that the follower's quota holds back; the session hears of them once it grants something.
    held: BTreeSet<PartitionId>,
}

/// Why a log could not be opened.
#[derive(Debug, Clone)]
struct OpenFailure {
    reason: String,
    /// Stored bytes are wrong; the disk works.
    corrupt: bool,
}

pub(super) struct Shard {
    parts: ShardParts,
    settings: Settings,
    partitions: BTreeMap<PartitionId, Entry>,
    /// Logs that could not be opened, and why.
    failed: BTreeMap<PartitionId, OpenFailure>,
    /// Damaged replicas that this process has made anew.
    healed: u32,
    /// Partitions with bytes that should become durable some time.
    lazy: BTreeSet<PartitionId>,
    next_lazy_flush: MonoTime,
    /// The next partition to look at for retention, while a round is under way.
    retention: Option<PartitionId>,
    next_retention: MonoTime,
    /// The partition that was last verified.
    scrubbed: Option<PartitionId>,
    view: Arc<ClusterView>,
    acks: BTreeMap<AckId, Answer<Produced>>,
    next_ack: AckId,
    next_instance: u64,
    outputs: Vec<Output>,
    /// By leader, the followed partitions that may have moved.
    moved: BTreeMap<BrokerId, Moved>,
    /// Partitions whose published state may be old.
    touched: BTreeSet<PartitionId>,
    /// Partitions with bytes that should become durable.
    unflushed: BTreeSet<PartitionId>,
    /// Flushes that have begun and did not fit into the flusher's queue.
    held_flushes: VecDeque<FlushJob>,
    /// Partitions that have deadlines.
    hot: BTreeSet<PartitionId>,
    next_sweep: MonoTime,
    hints: Option<BTreeMap<PartitionId, Offset>>,
    /// Reads for followers that catch up, which wait for the quota.
    put_off: PutOff,
}

impl Shard {
    pub(super) fn new(parts: ShardParts) -> Self {
        let config = &parts.config;
        let settings = Settings {
            lag_max_time: config.replica_lag_max_time,
            max_pending_acks: config.max_pending_acks,
            max_producers: config.max_producers,
            alter_retry: config.alter_retry,
            fetch_retry: config.fetch_interval,
        };
        Self {
            settings,
            parts,
            partitions: BTreeMap::new(),
            failed: BTreeMap::new(),
            healed: 0,
            lazy: BTreeSet::new(),
            next_lazy_flush: MonoTime::default(),
            retention: None,
            next_retention: MonoTime::default(),
            scrubbed: None,
            view: Arc::default(),
            acks: BTreeMap::new(),
            next_ack: 0,
            next_instance: 0,
            outputs: Vec::new(),
            moved: BTreeMap::new(),
            touched: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            held_flushes: VecDeque::new(),
            hot: BTreeSet::new(),
            next_sweep: MonoTime::default(),
            hints: None,
            put_off: PutOff::default(),
        }
    }

    /// Runs until the queue closes or the manager shuts down.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut round = Vec::with_capacity(MAX_ROUND);
        while queue.recv_many(&mut round, MAX_ROUND).await > 0 {
            self.adopt();
            for command in round.drain(..) {
                if let Command::Shutdown { reply } = command {
                    self.shut_down();
                    // The manager may have stopped waiting.
                    let _gone = reply.send(());
                    return;
                }
                self.handle(command);
            }
            self.begin_flushes();
            self.publish();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Produce {
                partition,
                batch,
                acks,
                deadline,
                reply,
            } => self.produce(partition, &batch, acks, deadline, reply),
            Command::Read(fetch) => self.consumer_fetch(fetch),
            Command::ListOffset {
                partition,
                spec,
                epoch,
                reply,
            } => self.list_offset(partition, spec, epoch, reply),
            Command::EpochEnd {
                partition,
                asked,
                epoch,
                reply,
            } => self.epoch_end(partition, asked, epoch, reply),
            Command::DeleteRecords {
                partition,
                before,
                deadline,
                reply,
            } => self.delete_records(partition, before, deadline, reply),
            Command::NextScrub { reply } => {
                let job = self.next_scrub();
                let _gone = reply.send(job);
            }
            Command::Scrubbed(done) => self.scrubbed(done),
            Command::ReplicaRead(read) => self.replica_read(read),
            Command::LocalFetch {
                partition,
                broker,
                offset,
                reply,
            } => self.local_fetch(partition, broker, offset, reply),
            Command::Apply { update, reply } => {
                let updated = self.apply(&update);
                let _gone = reply.send(updated);
            }
            Command::OpenLogs { reply } => {
                let opened = self.open_logs();
                let _gone = reply.send(opened);
            }
            Command::Positions {
                leader,
                wanted,
                limit,
                reply,
            } => {
                let positions = self.positions(leader, &wanted, limit);
                let _gone = reply.send(positions);
            }
            Command::Fetched {
                leader,
                replies,
                reply,
            } => {
                self.fetched(leader, replies);
                let _gone = reply.send(());
            }
            Command::AlterAnswered(answers) => {
                for (proposal, answer) in answers {
                    let partition = proposal.partition;
                    let _unknown = self.drive(partition, |core, log, view, now, out| {
                        core.alter_answered(now, &proposal, answer, view, log, out);
                    });
                }
            }
            Command::Flushed(done) => self.flushed(done),
            Command::Tick => self.tick(),
            // Handled by the loop, which ends with it.
            Command::Shutdown { .. } => {}
        }
    }

    fn now(&self) -> MonoTime {
        self.parts.clock.now()
    }

    /// Whether the controller session is good.
    fn contact(&self) -> bool {
        let until = Duration::from_nanos(self.parts.contact_until.load(Ordering::Acquire));
        self.now().since_origin() < until
    }

    /// Runs `step` on a partition's core and does what it asks for.
    fn drive<R>(
        &mut self,
        partition: PartitionId,
        step: impl FnOnce(
            &mut PartitionReplica,
            &mut dyn ReplicaLog,
            &ClusterView,
            MonoTime,
            &mut Vec<Output>,
        ) -> R,
    ) -> Result<R, ReplicationError> {
        let now = self.now();
        let Some(entry) = self.partitions.get_mut(&partition) else {
            return Err(match self.failed.get(&partition) {
                Some(failure) => ReplicationError::LogUnavailable {
                    reason: failure.reason.clone(),
                },
                None => ReplicationError::UnknownPartition { partition },
            });
        };
        let mut outputs = std::mem::take(&mut self.outputs);
        let result = step(
            &mut entry.core,
            &mut *entry.log,
            &self.view,
            now,
            &mut outputs,
        );
        self.carry_out(partition, now, &mut outputs);
        self.outputs = outputs;
        let _new = self.touched.insert(partition);
        Ok(result)
    }

    fn carry_out(&mut self, partition: PartitionId, now: MonoTime, outputs: &mut Vec<Output>) {
        let Some(entry) = self.partitions.get_mut(&partition) else {
            return;
        };
        for output in outputs.drain(..) {
            match output {
                Output::Ack { id, result } => {
                    if let Some(reply) = self.acks.remove(&id) {
                        let _gone = reply.send(result.map(|acked| Produced {
                            base_offset: acked.base,
                            log_start: acked.log_start,
                        }));
                    }
                }
                Output::Alter(proposal) => {
                    if self.parts.alters.try_send(proposal.clone()).is_err() {
                        let mut nothing_to_do = Vec::new();
                        entry.core.alter_answered(
                            now,
                            &proposal,
                            None,
                            &self.view,
                            &mut *entry.log,
                            &mut nothing_to_do,
                        );
                    }
                }
                Output::Appended => tell(&mut entry.watchers, |s| s.push(partition)),
                Output::HighWatermark => {
                    wake(&mut entry.consumers);
                    tell(&mut entry.watchers, |s| s.push_quiet(partition));
                }
                Output::Restate => tell(&mut entry.watchers, |s| s.ask(partition)),
                Output::RoleChanged => {
                    tell(&mut entry.watchers, |s| s.push(partition));
                    wake(&mut entry.consumers);
                }
                Output::Progress => {
                    if let Some(leader) = entry.core.follows() {
                        signal(&self.parts.signals, leader, |s| s.progress.notify_one());
                    }
                }
                Output::Flush => {
                    let _new = self.unflushed.insert(partition);
                }
                Output::FlushLater => {
                    let _new = self.lazy.insert(partition);
                }
            }
        }
        if entry.core.has_deadlines() {
            let _new = self.hot.insert(partition);
        }
        if let Some(leader) = entry.core.follows() {
            let moved = self.moved.entry(leader).or_default();
            let _new = moved.for_session.insert(partition);
            let _new = moved.for_report.insert(partition);
        }
    }

    fn flushed(&mut self, done: super::command::FlushDone) {
        let partition = done.partition;
        let current = self
            .partitions
            .get_mut(&partition)
            .filter(|entry| entry.instance == done.instance);
        let Some(entry) = current else {
            return;
        };
        entry.flushing = false;
        let _known = self.drive(partition, |core, log, view, now, out| {
            let flushed = Flushed {
                end: done.end,
                generation: done.generation,
                result: done.result,
            };
            core.flushed(now, flushed, view, log, out);
            let behind = log.durable_end() < log.log_end();
            let offline = core.status(log).role == ReplicaRole::Offline;
            if behind && !offline {
                out.push(core.flush_wish());
            }
        });
    }

    fn tick(&mut self) {
        let now = self.now();
        let sweep = now >= self.next_sweep;
        let due: Vec<PartitionId> = if sweep {
            self.next_sweep = now + self.settings.lag_max_time / 4;
            // Time alone changes nothing for a follower.
            let all = self.partitions.iter();
            let leading = all.filter(|(_, entry)| entry.core.follows().is_none());
            leading.map(|(partition, _)| *partition).collect()
        } else {
            self.hot.iter().copied().collect()
        };
        for partition in due {
            let hot = self.drive(partition, |core, log, view, now, out| {
                core.tick(now, view, log, out);
                core.has_deadlines()
            });
            if hot != Ok(true) {
                let _known = self.hot.remove(&partition);
            }
        }
        if sweep {
            self.sweep();
        }
        self.put_off.resume(&self.parts.throttles.leader, now);
        self.flush_lazily(now);
        self.retain_some(now);
    }

    /// Drops waiters that are gone, and reports lag.
    fn sweep(&mut self) {
        let max = self.parts.config.replica_lag_max_messages;
        let mut lagging = 0usize;
        for entry in self.partitions.values_mut() {
            entry.watchers.retain(|w| w.strong_count() > 0);
            entry.consumers.retain(|w| w.strong_count() > 0);
            lagging += entry.core.lagging_followers(max, &*entry.log).len();
        }
        let shard = self.parts.index.to_string();
        let lagging = u32::try_from(lagging).unwrap_or(u32::MAX);
        metrics::gauge!("rivven_isr_lagging_followers", "shard" => shard).set(f64::from(lagging));
    }

    /// Begins one flush per partition that has something to flush and none under way: whatever was
    /// appended in this round goes with it.
    fn begin_flushes(&mut self) {
        for partition in std::mem::take(&mut self.unflushed) {
            let Some(entry) = self.partitions.get_mut(&partition) else {
                continue;
            };
            if entry.flushing {
                // The end of the flush under way looks again.
                continue;
            }
            if let Some(ticket) = entry.log.begin_flush() {
                entry.flushing = true;
                self.held_flushes.push_back(FlushJob {
                    shard: self.parts.index,
                    partition,
                    instance: entry.instance,
                    ticket,
                });
            }
        }
        while let Some(job) = self.held_flushes.pop_front() {
            match self.parts.flusher.try_send(FlushWork::Flush(job)) {
                Ok(()) => {}
                Err(TrySendError::Full(FlushWork::Flush(job))) => {
                    // At most one per partition waits here; the next round tries again.
                    self.held_flushes.push_front(job);
                    break;
                }
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => break,
            }
        }
    }

    fn publish(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let mut table = self
            .parts
            .statuses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for partition in std::mem::take(&mut self.touched) {
            let status = match self.partitions.get(&partition) {
                Some(entry) => Some(entry.core.status(&*entry.log)),
                None => self
                    .failed
                    .get(&partition)
                    .map(|f| PartitionStatus::failed(partition, &f.reason, f.corrupt)),
            };
            let _previous = match status {
                Some(status) => table.insert(partition, Arc::new(status)),
                None => table.remove(&partition),
            };
        }
    }

    /// Answers everyone, and makes every log durable.
    fn shut_down(&mut self) {
        let all: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for partition in all {
            let _known = self.drive(partition, |core, log, view, now, out| {
                core.fail_waiting(&ReplicationError::Shutdown, out);
                if let Some(ticket) = log.begin_flush() {
                    // The loop may block here: it is the last thing that it does.
                    let result = (ticket.job)(SyncBy::Job);
                    let flushed = Flushed {
                        end: ticket.end,
                        generation: ticket.generation,
                        result,
                    };
                    core.flushed(now, flushed, view, log, out);
                }
                core.retire(out);
            });
        }
        self.publish();
    }
}

fn wake(waiters: &mut Vec<Weak<Notify>>) {
    for waiter in waiters.drain(..) {
        if let Some(waiter) = waiter.upgrade() {
            waiter.notify_one();
        }
    }
}

/// Signals the fetcher of `leader`, if there is one.
pub(super) fn signal(
    table: &SignalTable,
    leader: BrokerId,
    notify: impl FnOnce(&super::fetcher::Signals),
) {
    let table = table.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(signals) = table.get(&leader) {
        notify(signals);
    }
}

#[cfg(test)]
mod tests;
