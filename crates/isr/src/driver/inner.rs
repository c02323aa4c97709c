//! What all clones of a manager share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rivven_core_types::{BrokerId, Offset, PartitionId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::api::ReplicationPorts;
use super::command::Command;
use super::fetcher::{BrokerTable, Fetcher, SignalTable, Signals};
use super::flusher::FlushWork;
use super::session::Sessions;
use super::shard::{Mailbox, StatusTable};
use crate::config::ReplicationConfig;

/// How often shards look at their deadlines.
const TICK: Duration = Duration::from_millis(10);

/// What all clones of a manager share.
pub(super) struct Inner {
    pub(super) node_id: BrokerId,
    pub(super) config: ReplicationConfig,
    pub(super) ports: ReplicationPorts,
    pub(super) shards: Vec<mpsc::Sender<Command>>,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) flusher: mpsc::Sender<FlushWork>,
    pub(super) statuses: StatusTable,
    pub(super) signals: SignalTable,
    pub(super) brokers: Arc<RwLock<Arc<BrokerTable>>>,
    pub(super) session_epochs: Arc<AtomicU64>,
    /// The sessions of the brokers that follow this one.
    pub(super) sessions: Sessions,
    pub(super) contact_until: Arc<AtomicU64>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) fetchers: Mutex<BTreeMap<BrokerId, JoinHandle<()>>>,
    /// One metadata change at a time.
    pub(super) applying: tokio::sync::Mutex<()>,
    pub(super) closed: AtomicBool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationManager")
            .field("node_id", &self.node_id)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_fetchers(&BTreeSet::new());
    }
}

impl Inner {
    pub(super) fn high_watermarks(&self) -> Vec<(PartitionId, Offset)> {
        let table = self.statuses.read().unwrap_or_else(PoisonError::into_inner);
        table
            .values()
            .map(|s| (s.partition, s.high_watermark))
            .collect()
    }

    /// Stops the fetchers of all leaders but `keep`.
    pub(super) fn stop_fetchers(&self, keep: &BTreeSet<BrokerId>) {
        let mut fetchers = self.fetchers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut signals = self.signals.write().unwrap_or_else(PoisonError::into_inner);
        signals.retain(|leader, _| keep.contains(leader));
        fetchers.retain(|leader, task| {
            let kept = keep.contains(leader);
            if !kept {
                task.abort();
            }
            kept
        });
    }

    pub(super) fn start_fetcher(&self, leader: BrokerId) {
        let mut fetchers = self.fetchers.lock().unwrap_or_else(PoisonError::into_inner);
        if fetchers.contains_key(&leader) {
            return;
        }
        let signals = Arc::new(Signals::default());
        let _previous = self
            .signals
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(leader, Arc::clone(&signals));
        let fetcher = Fetcher {
            leader,
            config: self.config.clone(),
            shards: self.shards.clone(),
            rpc: Arc::clone(&self.ports.rpc),
            clock: Arc::clone(&self.ports.clock),
            brokers: Arc::clone(&self.brokers),
            session_epochs: Arc::clone(&self.session_epochs),
            signals,
        };
        let _previous = fetchers.insert(leader, self.runtime.spawn(fetcher.run()));
    }
}

/// Gives the shards their sense of time and saves checkpoints, for as long as the manager lives.
pub(super) async fn tick(manager: std::sync::Weak<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_checkpoint = None;
    let mut first = 0;
    loop {
        let _at = interval.tick().await;
        let Some(inner) = manager.upgrade() else {
            return;
        };
        if inner.closed.load(Ordering::Acquire) {
            return;
        }
        // Another shard is the first each time: it finds what a quota has granted since.
        let shards = inner.shards.iter().cycle().skip(first);
        first = (first + 1) % inner.shards.len().max(1);
        for shard in shards.take(inner.shards.len()) {
            // A full queue means that the shard is busy; the next tick will do.
            let _full = shard.try_send(Command::Tick);
        }
        let now = inner.ports.clock.now();
        let due = *next_checkpoint.get_or_insert(now + inner.config.checkpoint_interval);
        if now >= due {
            next_checkpoint = Some(now + inner.config.checkpoint_interval);
            let work = FlushWork::Checkpoint {
                high_watermarks: inner.high_watermarks(),
                done: None,
            };
            let _full = inner.flusher.try_send(work);
        }
    }
}
