//! The public face of the driver.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rivven_core_types::{
    BoxFuture, BrokerId, EpochEnd, LeaderEpoch, MonoTime, Offset, PartitionId, PeerIdentity, Reply,
    RpcRequest, SystemClock, TimestampedOffset,
};
use tokio::sync::{mpsc, oneshot};

use super::api::{
    Fetch, Fetched, FetchedPartition, LocalLog, MetadataUpdate, Produce, Produced, ReplicationPorts,
};
use super::command::{Command, ShardUpdate};
use super::fetcher::{BrokerTable, SignalTable};
use super::flusher::FlushWork;
use super::inner::{Inner, tick};
use super::seed::{NoController, NoPeers, PartitionReplication, TokioExecutor};
use super::session::Sessions;
use super::shard::{Mailbox, Shard, ShardParts, StatusTable, signal};
use super::throttle::Throttles;
use super::{alter, flusher, scrubber, serve};
use crate::config::ReplicationConfig;
use crate::core::{ClusterView, OffsetSpec, PartitionStatus, ReplicaRole};
use crate::error::ReplicationError;
use crate::mem_log::MemLogStore;

/// Most flushes that wait for the flusher; further ones wait in their shard.
const FLUSH_QUEUE: usize = 1024;
/// Most in-sync-set proposals that wait for the controller; further ones are sent again later.
const ALTER_QUEUE: usize = 4096;
/// How much longer than its timeout a call waits for a shard that does not answer.
const SHARD_GRACE: Duration = Duration::from_secs(5);

/// Replicates the partitions of one node. Cheap to clone; all clones are the same manager.
///
/// ```
/// use std::time::Duration;
/// use rivven_core_types::{BatchBuilder, BrokerId, PartitionId, TopicId};
/// use rivven_isr::{Acks, Produce, ReplicationConfig, ReplicationManager};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let manager = ReplicationManager::new(BrokerId::new(1), ReplicationConfig {
///     min_isr: 1,
///     ..Default::default()
/// });
/// let partition = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
/// let handle = manager.get_or_create(partition, true);
/// let batch = BatchBuilder::new(0).record(0, None, Some(b"hello")).build().unwrap();
/// let timeout = Duration::from_secs(5);
/// let produced = manager.produce(Produce { partition, batch, acks: Acks::All, timeout }).await.unwrap();
/// assert_eq!(produced.base_offset.get(), 0);
/// assert_eq!(handle.id(), partition);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct ReplicationManager {
    pub(super) inner: Arc<Inner>,
}

/// Which of `count` shards owns a partition.
pub(super) fn shard_of(partition: PartitionId, count: usize) -> usize {
    // FNV-1a over the topic; the index is added, so that a topic spreads evenly.
    let hash = partition
        .topic
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let spread = hash.wrapping_add(u64::from(partition.index.get()));
    let count = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(spread % count).unwrap_or(0)
}

impl ReplicationManager {
    /// A manager on its own: logs in memory, no peers, no controller. Values of `config` that are out
    /// of range ([`ReplicationConfig::validate`]) are replaced by their defaults.
    ///
    /// # Panics
    /// Outside of a tokio runtime context with time enabled.
    pub fn new(node_id: BrokerId, config: ReplicationConfig) -> Self {
        let executor = Arc::new(TokioExecutor::current());
        let ports = ReplicationPorts {
            logs: Arc::new(MemLogStore::default()),
            rpc: Arc::new(NoPeers),
            controller: Arc::new(NoController),
            clock: Arc::new(SystemClock::default()),
            shards: executor.clone(),
            flusher: executor,
        };
        let manager = Self::with_ports(node_id, config, ports);
        // Nobody else can lead what only this process knows.
        manager.controller_contact(MonoTime::from_origin(Duration::MAX));
        manager
    }

    /// A manager in a cluster. Until [`ReplicationManager::controller_contact`] is first called it
    /// refuses what needs the controller session.
    ///
    /// # Panics
    /// Outside of a tokio runtime context with time enabled; follower fetchers and timers run there,
    /// shards and the flusher on their executors.
    pub fn with_ports(
        node_id: BrokerId,
        config: ReplicationConfig,
        ports: ReplicationPorts,
    ) -> Self {
        let config = if let Err(error) = config.validate() {
            tracing::error!(%error, "invalid replication config; the defaults are used");
            ReplicationConfig::default()
        } else {
            config
        };
        let (flush_tx, flush_rx) = mpsc::channel(FLUSH_QUEUE);
        let (alter_tx, alter_rx) = mpsc::channel(ALTER_QUEUE);
        let statuses = StatusTable::default();
        let signals = SignalTable::default();
        let contact_until = Arc::new(AtomicU64::new(0));
        let throttles = Arc::new(Throttles::new(&config));
        let mut shards = Vec::new();
        let mut mailboxes = Vec::new();
        for index in 0..config.shards {
            let (tx, rx) = mpsc::channel(config.shard_queue);
            let mailbox = Arc::new(Mailbox::default());
            let shard = Shard::new(ShardParts {
                index,
                count: config.shards,
                me: node_id,
                config: config.clone(),
                logs: Arc::clone(&ports.logs),
                clock: Arc::clone(&ports.clock),
                mailbox: Arc::clone(&mailbox),
                flusher: flush_tx.clone(),
                alters: alter_tx.clone(),
                statuses: Arc::clone(&statuses),
                signals: Arc::clone(&signals),
                contact_until: Arc::clone(&contact_until),
                throttles: Arc::clone(&throttles),
            });
            let name = format!("isr-shard-{index}");
            ports.shards.spawn(&name, Box::pin(shard.run(rx)));
            shards.push(tx);
            mailboxes.push(mailbox);
        }
        // Weak, so that the loops end when the manager is dropped.
        let weak = || shards.iter().map(mpsc::Sender::downgrade).collect();
        let group_from = config.group_sync_from;
        let flushes = flusher::run(flush_rx, Arc::clone(&ports.logs), weak(), group_from);
        ports.flusher.spawn("isr-flusher", Box::pin(flushes));
        let runtime = tokio::runtime::Handle::current();
        let alters = alter::run(alter_rx, Arc::clone(&ports.controller), weak());
        drop(runtime.spawn(alters));
        let inner = Arc::new(Inner {
            node_id,
            config,
            ports,
            shards,
            mailboxes,
            flusher: flush_tx,
            statuses,
            signals,
            brokers: Arc::default(),
            session_epochs: Arc::new(AtomicU64::new(1)),
            sessions: Sessions::default(),
            contact_until,
            runtime,
            fetchers: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
        });
        drop(inner.runtime.spawn(tick(Arc::downgrade(&inner))));
        drop(inner.runtime.spawn(scrubber::run(Arc::downgrade(&inner))));
        Self { inner }
    }

    /// This broker's id.
    pub fn node_id(&self) -> BrokerId {
        self.inner.node_id
    }

    /// The configuration in force.
    pub fn config(&self) -> &ReplicationConfig {
        &self.inner.config
    }

    /// A handle of a partition, whose log is opened if need be.
    ///
    /// It cannot override the cluster: `is_leader` counts only for a partition that has no record
    /// yet, which then becomes a partition of this node alone (replicas: itself, `min_isr` as
    /// configured) until [`ReplicationManager::apply`] brings the real record. Without a record and
    /// without `is_leader` the replica waits.
    pub fn get_or_create(
        &self,
        partition_id: PartitionId,
        is_leader: bool,
    ) -> PartitionReplication {
        let index = shard_of(partition_id, self.inner.shards.len());
        if let (Some(mailbox), Some(shard)) = (
            self.inner.mailboxes.get(index),
            self.inner.shards.get(index),
        ) {
            let mut adopt = mailbox.adopt.lock().unwrap_or_else(PoisonError::into_inner);
            *adopt.entry(partition_id).or_insert(false) |= is_leader;
            // A nudge; a full queue means that the shard is awake anyway.
            let _full = shard.try_send(Command::Tick);
        }
        PartitionReplication {
            manager: self.clone(),
            partition: partition_id,
        }
    }

    /// Takes a follower's fetch by call instead of RPC: moves its progress (both its log end and its
    /// durable end) to `fetch_offset`, with it the high watermark and the in-sync set, and returns the
    /// records from there on. The caller vouches that the replica's log is a prefix of the leader's.
    ///
    /// # Errors
    /// [`ReplicationError::UnknownReplica`] if the replica is not assigned,
    /// [`ReplicationError::OffsetOutOfRange`] beyond the log; nothing changed then.
    pub async fn handle_replica_fetch(
        &self,
        partition_id: &PartitionId,
        replica_id: &BrokerId,
        fetch_offset: Offset,
    ) -> Result<Fetched, ReplicationError> {
        let (partition, broker) = (*partition_id, *replica_id);
        self.ask(partition, |reply| Command::LocalFetch {
            partition,
            broker,
            offset: fetch_offset,
            reply,
        })
        .await
    }

    /// Opens every log on disk, before the broker registers: a cut tail or a log that does not open
    /// means that it must register as lossy. The first [`ReplicationManager::apply`] after it tells
    /// the store that the cuts are registered.
    ///
    /// # Errors
    /// [`ReplicationError::LogUnavailable`] if the directory cannot be read; a single log that cannot
    /// be opened is reported in its entry.
    pub async fn open_local_logs(&self) -> Result<Vec<LocalLog>, ReplicationError> {
        let mut logs = Vec::new();
        for shard in &self.inner.shards {
            let (reply, answer) = oneshot::channel();
            send(shard, Command::OpenLogs { reply }).await?;
            logs.extend(answer.await.map_err(|_| ReplicationError::Shutdown)??);
        }
        logs.sort_by_key(|log| log.partition);
        Ok(logs)
    }

    /// Applies committed metadata. Idempotent; a record older than the one applied changes nothing.
    ///
    /// # Errors
    /// [`ReplicationError::Shutdown`] only: what goes wrong with one partition takes that partition
    /// offline.
    pub async fn apply(&self, update: MetadataUpdate) -> Result<(), ReplicationError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.applying.lock().await;
        let view = Arc::new(ClusterView {
            node_epochs: update
                .brokers
                .iter()
                .map(|(b, (_, e))| (*b, *e))
                .chain([(update.local.id, update.local.node_epoch)])
                .collect(),
            ineligible: update.ineligible,
        });
        *inner
            .brokers
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(BrokerTable {
            local_epoch: Some(update.local.node_epoch),
            brokers: update.brokers,
        });
        let count = inner.shards.len();
        let log_configs = Arc::new(update.log_configs);
        let mut parts: Vec<ShardUpdate> = inner
            .shards
            .iter()
            .map(|_| ShardUpdate {
                view: Arc::clone(&view),
                changed: Vec::new(),
                log_configs: Arc::clone(&log_configs),
                removed: Vec::new(),
            })
            .collect();
        for record in update.changed {
            if let Some(part) = parts.get_mut(shard_of(record.id, count)) {
                part.changed.push(record);
            }
        }
        for partition in update.removed {
            if let Some(part) = parts.get_mut(shard_of(partition, count)) {
                part.removed.push(partition);
            }
        }
        let mut followed = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for (shard, update) in inner.shards.iter().zip(parts) {
            let (reply, answer) = oneshot::channel();
            send(shard, Command::Apply { update, reply }).await?;
            let updated = answer.await.map_err(|_| ReplicationError::Shutdown)?;
            followed.extend(updated.followed);
            touched.extend(updated.touched);
        }
        inner.stop_fetchers(&followed);
        for leader in &followed {
            inner.start_fetcher(*leader);
        }
        for leader in touched {
            signal(&inner.signals, leader, |s| s.changed.notify_one());
        }
        Ok(())
    }

    /// Writes a batch. It is queued when this returns, before the future is first polled: a
    /// connection's writes are appended in the order of these calls. The future waits for the
    /// acknowledgement; dropping it gives up the answer, not the write.
    ///
    /// # Errors
    /// See [`ReplicationError::outcome_unknown`] for those after which the record may be in the log.
    pub fn produce(
        &self,
        produce: Produce,
    ) -> BoxFuture<'static, Result<Produced, ReplicationError>> {
        let timeout = produce.timeout;
        let queued = self.queue_produce(produce);
        Box::pin(async move {
            match tokio::time::timeout(timeout.saturating_add(SHARD_GRACE), queued?).await {
                Ok(Ok(result)) => result,
                Ok(Err(_closed)) => Err(ReplicationError::Shutdown),
                Err(_elapsed) => Err(ReplicationError::RequestTimedOut { waited: timeout }),
            }
        })
    }

    fn queue_produce(
        &self,
        produce: Produce,
    ) -> Result<oneshot::Receiver<Result<Produced, ReplicationError>>, ReplicationError> {
        let Produce {
            partition,
            batch,
            acks,
            timeout,
        } = produce;
        let index = shard_of(partition, self.inner.shards.len());
        let mailbox = self
            .inner
            .mailboxes
            .get(index)
            .ok_or(ReplicationError::Shutdown)?;
        let bytes = batch.bytes().len();
        let queued = mailbox.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.inner.config.shard_queue_bytes {
            let _before = mailbox.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ReplicationError::Overloaded {
                queue: "shard bytes",
            });
        }
        let deadline = self.inner.ports.clock.now() + timeout;
        let (reply, answer) = oneshot::channel();
        let command = Command::Produce {
            partition,
            batch,
            acks,
            deadline,
            reply,
        };
        if let Err(error) = self.try_send(partition, command) {
            let _before = mailbox.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        Ok(answer)
    }

    /// Reads below the high watermark, waiting up to `max_wait` for `min_bytes`. The answers come in
    /// the order of the request; a partition that fails ends the wait.
    pub async fn fetch(&self, fetch: Fetch) -> Vec<FetchedPartition> {
        serve::consumer_fetch(&self.inner, fetch).await
    }

    /// Finds an offset. `None` when no record has such a timestamp.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetNotAvailable`] while a new leader does not know its high watermark,
    /// [`ReplicationError::ControllerContactLost`] for the latest offset without controller session.
    pub async fn list_offset(
        &self,
        partition: PartitionId,
        spec: OffsetSpec,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<TimestampedOffset>, ReplicationError> {
        self.ask(partition, |reply| Command::ListOffset {
            partition,
            spec,
            epoch: current_leader_epoch,
            reply,
        })
        .await
    }

    /// Where a leader epoch ends in the leader's log (KIP-320): the greatest epoch not above `asked`
    /// with its end; `None` if `asked` is above all that the log has.
    ///
    /// # Errors
    /// As [`Self::list_offset`]; this needs neither the high watermark nor the controller.
    pub async fn epoch_end(
        &self,
        partition: PartitionId,
        asked: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<EpochEnd>, ReplicationError> {
        self.ask(partition, |reply| Command::EpochEnd {
            partition,
            asked,
            epoch: current_leader_epoch,
            reply,
        })
        .await
    }

    /// Deletes the records below `before` (`None`: below the high watermark) on the leader and on all
    /// in-sync replicas (KIP-107); returns the new log start.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`] beyond the high watermark; nothing changed then.
    /// [`ReplicationError::RequestTimedOut`]: deleted here, and an in-sync replica has yet to follow.
    pub async fn delete_records(
        &self,
        partition: PartitionId,
        before: Option<Offset>,
        timeout: Duration,
    ) -> Result<Offset, ReplicationError> {
        let deadline = self.inner.ports.clock.now() + timeout;
        let (reply, answer) = oneshot::channel();
        let command = Command::DeleteRecords {
            partition,
            before,
            deadline,
            reply,
        };
        self.try_send(partition, command)?;
        match tokio::time::timeout(timeout.saturating_add(SHARD_GRACE), answer).await {
            Ok(Ok(result)) => result.map(|deleted| deleted.log_start),
            Ok(Err(_closed)) => Err(ReplicationError::Shutdown),
            Err(_elapsed) => Err(ReplicationError::RequestTimedOut { waited: timeout }),
        }
    }

    /// Answers [`rivven_core_types::RpcKind::REPLICA_FETCH`]; any other kind is refused.
    pub fn handle_rpc(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        serve::handle_rpc(&self.inner, peer, request)
    }

    /// The controller session is good until `until`, on this manager's clock. A session that is
    /// extended never gets shorter.
    pub fn controller_contact(&self, until: MonoTime) {
        let nanos = u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX);
        let _before = self.inner.contact_until.fetch_max(nanos, Ordering::AcqRel);
    }

    /// The latest published state of a partition.
    pub fn status(&self, partition: PartitionId) -> Option<PartitionStatus> {
        let table = self
            .inner
            .statuses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        table.get(&partition).map(|status| (**status).clone())
    }

    /// The latest published states of all partitions, by id.
    pub fn statuses(&self) -> Vec<PartitionStatus> {
        let table = self
            .inner
            .statuses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        table.values().map(|status| (**status).clone()).collect()
    }

    /// The partitions that this node leads, with the bytes of their logs, as published last.
    pub fn led_sizes(&self) -> Vec<(PartitionId, u64)> {
        let table = self
            .inner
            .statuses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let led = table.values().filter(|s| s.role == ReplicaRole::Leader);
        led.map(|s| (s.partition, s.size_bytes)).collect()
    }

    /// The partition logs that have failed, and whether damaged bytes are the reason (and not the
    /// disk).
    pub fn failed_logs(&self) -> Vec<(PartitionId, bool)> {
        let table = self
            .inner
            .statuses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let failed = table.values().filter(|s| s.role == ReplicaRole::Offline);
        failed.map(|s| (s.partition, s.corrupt)).collect()
    }

    /// Answers all waiting calls with [`ReplicationError::Shutdown`], makes every log durable, saves
    /// the high-watermark checkpoint, notes that the stop was clean (unless a log has failed) and
    /// stops. Later calls fail; calling it again does nothing.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        let _one_at_a_time = inner.applying.lock().await;
        if inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        inner.stop_fetchers(&BTreeSet::new());
        for shard in &inner.shards {
            let (reply, answer) = oneshot::channel();
            if send(shard, Command::Shutdown { reply }).await.is_ok() {
                // An error means that the shard has ended by itself.
                let _ended = answer.await;
            }
        }
        let (done, saved) = oneshot::channel();
        let work = FlushWork::Checkpoint {
            high_watermarks: inner.high_watermarks(),
            done: Some(done),
        };
        if inner.flusher.send(work).await.is_ok() {
            let _ended = saved.await;
        }
        if !self.failed_logs().is_empty() {
            return;
        }
        let (done, marked) = oneshot::channel();
        let work = FlushWork::MarkStopped { done };
        if inner.flusher.send(work).await.is_ok() {
            let _ended = marked.await;
        }
    }

    async fn ask<T>(
        &self,
        partition: PartitionId,
        command: impl FnOnce(oneshot::Sender<Result<T, ReplicationError>>) -> Command,
    ) -> Result<T, ReplicationError> {
        let (reply, answer) = oneshot::channel();
        self.try_send(partition, command(reply))?;
        match tokio::time::timeout(SHARD_GRACE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_closed)) => Err(ReplicationError::Shutdown),
            Err(_elapsed) => Err(ReplicationError::RequestTimedOut {
                waited: SHARD_GRACE,
            }),
        }
    }

    fn try_send(&self, partition: PartitionId, command: Command) -> Result<(), ReplicationError> {
        let index = shard_of(partition, self.inner.shards.len());
        let shard = self
            .inner
            .shards
            .get(index)
            .ok_or(ReplicationError::Shutdown)?;
        shard.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReplicationError::Overloaded { queue: "shard" },
            mpsc::error::TrySendError::Closed(_) => ReplicationError::Shutdown,
        })
    }
}

async fn send(shard: &mpsc::Sender<Command>, command: Command) -> Result<(), ReplicationError> {
    shard
        .send(command)
        .await
        .map_err(|_| ReplicationError::Shutdown)
}
