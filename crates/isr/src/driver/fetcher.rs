//! Fetches from one leader broker for all partitions that it leads and this node follows.
//!
//! One long poll is in flight. When a flush ends while it is parked, a second fetch that asks for
//! nothing reports the progress at once; so the poll's wait never delays an acknowledgement, and data
//! on its way is never thrown away. Both carry growing session epochs, and the leader ignores the
//! progress of whichever was overtaken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rivven_core_types::{
    BoxFuture, BrokerId, Clock, Lane, MonoTime, NodeEpoch, NodeName, PeerRpc, RpcError, RpcKind,
    RpcRequest, RpcResponse,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::command::{Command, Positions};
use super::protocol::{self, Answer, FULL_FETCH, FetchEntry, FetchHeader};
use crate::config::ReplicationConfig;
use crate::core::{FetchReply, ReplicaFetched};

/// How much longer than the leader may hold a fetch its answer may take.
const CALL_SLACK: Duration = Duration::from_secs(5);
/// From this many failures in a row on, the operator is warned.
const WARN_AFTER_FAILURES: u64 = 5;
/// A warning is repeated after so many further failures.
const WARN_EVERY: u64 = 100;

/// How a shard tells a fetcher that something has changed.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// A replica's durable end moved.
    pub(super) progress: Notify,
    /// The set of partitions, or an epoch, changed.
    pub(super) changed: Notify,
}

/// The signals of all fetchers, by leader.
pub(super) type SignalTable = Arc<RwLock<BTreeMap<BrokerId, Arc<Signals>>>>;

/// Names and epochs of the brokers.
#[derive(Debug, Default)]
pub(super) struct BrokerTable {
    pub(super) local_epoch: Option<NodeEpoch>,
    pub(super) brokers: BTreeMap<BrokerId, (NodeName, NodeEpoch)>,
}

/// What a fetcher works with.
pub(super) struct Fetcher {
    pub(super) leader: BrokerId,
    pub(super) config: ReplicationConfig,
    pub(super) shards: Vec<mpsc::Sender<Command>>,
    pub(super) rpc: Arc<dyn PeerRpc>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) brokers: Arc<RwLock<Arc<BrokerTable>>>,
    pub(super) session_epochs: Arc<AtomicU64>,
    pub(super) signals: Arc<Signals>,
}

/// A fetch in flight: what it said, and the call.
struct InFlight {
    entries: Vec<FetchEntry>,
    call: BoxFuture<'static, Result<RpcResponse, RpcError>>,
}

/// Why a round of fetching ended.
enum RoundEnd {
    /// Go on at once.
    Again,
    /// The fetch failed.
    Failed(String),
    /// The manager is gone.
    Stopped,
}

impl Fetcher {
    /// Runs until its task is aborted or the shards are gone.
    pub(super) async fn run(self) {
        let mut failures = 0u64;
        let mut turn = 0usize;
        loop {
            match self.round(turn).await {
                RoundEnd::Again => failures = 0,
                RoundEnd::Stopped => return,
                RoundEnd::Failed(reason) => {
                    failures += 1;
                    metrics::counter!("rivven_isr_fetch_failures_total").increment(1);
                    if failures >= WARN_AFTER_FAILURES
                        && (failures - WARN_AFTER_FAILURES).is_multiple_of(WARN_EVERY)
                    {
                        tracing::warn!(leader = %self.leader, failures, %reason,
                            "fetches from the leader keep failing");
                    }
                    tokio::time::sleep(self.config.fetch_interval).await;
                }
            }
            turn = turn.wrapping_add(1);
        }
    }

    async fn round(&self, turn: usize) -> RoundEnd {
        let Some(positions) = self.positions(turn, false).await else {
            return RoundEnd::Stopped;
        };
        let retry = positions.retry_at.map(|at| self.until(at));
        if positions.entries.is_empty() {
            self.wait_for_change(retry).await;
            return RoundEnd::Again;
        }
        let wait = self.config.fetch_max_wait;
        let mut poll = match self.send(positions.entries, self.config.fetch_max_bytes, wait) {
            Ok(poll) => poll,
            Err(reason) => return RoundEnd::Failed(reason),
        };
        let mut report: Option<InFlight> = None;
        let retry = tokio::time::sleep(retry.unwrap_or(wait + CALL_SLACK));
        tokio::pin!(retry);
        loop {
            // In this order, so that a run of the simulator repeats itself; each branch but the reports
            // ends the round, and there is one report at a time.
            tokio::select! {
                biased;
                answer = &mut poll.call => return self.take(&poll.entries, answer).await,
                answer = pending_call(&mut report) => {
                    let entries = report.take().map(|r| r.entries).unwrap_or_default();
                    match self.take(&entries, answer).await {
                        RoundEnd::Again => {}
                        end @ (RoundEnd::Failed(_) | RoundEnd::Stopped) => return end,
                    }
                }
                () = self.signals.progress.notified(), if report.is_none() => {
                    let Some(positions) = self.positions(turn, true).await else {
                        return RoundEnd::Stopped;
                    };
                    if positions.entries.is_empty() {
                        continue;
                    }
                    match self.send(positions.entries, 0, Duration::ZERO) {
                        Ok(call) => report = Some(call),
                        Err(reason) => return RoundEnd::Failed(reason),
                    }
                }
                () = self.signals.changed.notified() => return RoundEnd::Again,
                () = &mut retry => return RoundEnd::Again,
            }
        }
    }

    fn until(&self, at: MonoTime) -> Duration {
        // At least a moment, so that rounding never makes this a busy loop.
        at.since(self.clock.now()).max(Duration::from_millis(1))
    }

    async fn wait_for_change(&self, retry: Option<Duration>) {
        let changed = self.signals.changed.notified();
        match retry {
            None => changed.await,
            Some(retry) => {
                // Either way the next round looks again.
                let _elapsed = tokio::time::timeout(retry, changed).await;
            }
        }
    }

    /// Where the followed partitions stand; `None` when a shard is gone. What was asked for and then
    /// not sent goes with the next poll, which names every partition.
    async fn positions(&self, turn: usize, only_moved: bool) -> Option<Positions> {
        let mut all = Positions::default();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let leader = self.leader;
            shard
                .send(Command::Positions {
                    leader,
                    only_moved,
                    reply,
                })
                .await
                .ok()?;
            let positions = answer.await.ok()?;
            all.entries.extend(positions.entries);
            all.retry_at = match (all.retry_at, positions.retry_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        // Every partition comes first in its turn, so that a busy one cannot starve the others.
        let count = all.entries.len();
        if count > 0 {
            all.entries.rotate_left(turn % count);
        }
        all.entries.truncate(self.config.fetch_max_partitions);
        Some(all)
    }

    fn send(
        &self,
        entries: Vec<FetchEntry>,
        max_bytes: usize,
        max_wait: Duration,
    ) -> Result<InFlight, String> {
        let table = self
            .brokers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some((name, _)) = table.brokers.get(&self.leader) else {
            return Err("the leader is not registered".to_owned());
        };
        let node_epoch = table
            .local_epoch
            .ok_or_else(|| "this broker is not registered".to_owned())?;
        let header = FetchHeader {
            node_epoch,
            session_id: FULL_FETCH,
            session_epoch: self.session_epochs.fetch_add(1, Ordering::Relaxed),
            max_wait_ms: u32::try_from(max_wait.as_millis()).unwrap_or(u32::MAX),
            max_bytes: u32::try_from(max_bytes).unwrap_or(u32::MAX),
            partition_max_bytes: u32::try_from(self.config.fetch_partition_max_bytes)
                .unwrap_or(u32::MAX),
        };
        let (meta, body) = protocol::encode_fetch(&header, &entries).map_err(|e| e.to_string())?;
        let request = RpcRequest {
            kind: RpcKind::REPLICA_FETCH,
            lane: Lane::Bulk,
            meta,
            body,
            deadline: max_wait + CALL_SLACK,
        };
        Ok(InFlight {
            call: self.rpc.call(name, request),
            entries,
        })
    }

    /// Hands an answer to the shards and waits until they have stored it.
    async fn take(
        &self,
        entries: &[FetchEntry],
        answer: Result<RpcResponse, RpcError>,
    ) -> RoundEnd {
        let answers = match answer.and_then(|response| protocol::decode_answer(&response)) {
            Ok(answers) => answers,
            Err(error) => return RoundEnd::Failed(error.to_string()),
        };
        let mut by_shard: Vec<Vec<_>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (answer, bytes) in answers {
            let index = usize::try_from(answer.index).unwrap_or(usize::MAX);
            let Some(entry) = entries.get(index) else {
                return RoundEnd::Failed("the answer names a partition not asked for".to_owned());
            };
            let reply = match answer.answer {
                Answer::Data {
                    high_watermark,
                    log_start,
                    bytes: _,
                } => FetchReply::Fetched(ReplicaFetched::Data {
                    high_watermark,
                    log_start,
                    bytes,
                }),
                Answer::Diverging { epoch, end } => {
                    FetchReply::Fetched(ReplicaFetched::Diverging { epoch, end })
                }
                Answer::OutOfRange { log_start, log_end } => {
                    FetchReply::OutOfRange { log_start, log_end }
                }
                Answer::Refused(_code) => FetchReply::Refused,
            };
            let shard = super::manager::shard_of(entry.partition, self.shards.len());
            if let Some(replies) = by_shard.get_mut(shard) {
                replies.push((entry.partition, entry.position, reply));
            }
        }
        for (shard, replies) in self.shards.iter().zip(by_shard) {
            if replies.is_empty() {
                continue;
            }
            let (reply, stored) = oneshot::channel();
            let sent = shard.send(Command::Fetched { replies, reply }).await;
            if sent.is_err() || stored.await.is_err() {
                return RoundEnd::Stopped;
            }
        }
        RoundEnd::Again
    }
}

/// The answer of the call, if there is one; never otherwise.
async fn pending_call(call: &mut Option<InFlight>) -> Result<RpcResponse, RpcError> {
    match call {
        Some(in_flight) => (&mut in_flight.call).await,
        None => std::future::pending().await,
    }
}
