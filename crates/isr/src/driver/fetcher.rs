//! Fetches from one leader broker for all partitions that it leads and this node follows.
//!
//! One long poll is in flight. When a flush ends while it is parked, a second fetch that asks for
//! nothing reports the progress at once; so the poll's wait never delays an acknowledgement, and data
//! on its way is never thrown away. Both carry growing session epochs, and the leader ignores the
//! progress of whichever was overtaken.
//!
//! The polls are an incremental session (KIP-227): each names the partitions that stand elsewhere than
//! the leader was told or that were in its last answer, and no others. A failed poll ends the session; a
//! poll that is given up does not, since each says which answer was the last to arrive.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rivven_core_types::{
    BoxFuture, BrokerId, Clock, Lane, MonoTime, NodeEpoch, NodeName, PartitionId, PeerRpc,
    RpcError, RpcKind, RpcRequest, RpcResponse,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::command::{Command, Positions, Wanted, earlier};
use super::protocol::{self, Answer, FetchEntry, FetchHeader, NO_SESSION};
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

/// The fetch session with the leader (KIP-227), as the follower sees it.
#[derive(Debug, Default)]
struct SessionState {
    /// Its id, and the life of this broker in which it was opened; `None` before the first fetch and
    /// after a failed one.
    open: Option<(u64, NodeEpoch)>,
    /// The number of the next fetch in it.
    next: u64,
    /// The last fetch whose answer has arrived.
    answered: u64,
    /// What a fetch that was given up had named.
    again: Vec<PartitionId>,
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
        let mut session = SessionState::default();
        loop {
            match self.round(&mut session).await {
                RoundEnd::Again => failures = 0,
                RoundEnd::Stopped => return,
                RoundEnd::Failed(reason) => {
                    // Nobody knows what the leader has heard.
                    session = SessionState::default();
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
        }
    }

    async fn round(&self, session: &mut SessionState) -> RoundEnd {
        let node_epoch = self.table().local_epoch;
        let open = session.open.filter(|(_, epoch)| Some(*epoch) == node_epoch);
        let wanted = if open.is_some() {
            Wanted::Session(std::mem::take(&mut session.again))
        } else {
            Wanted::All
        };
        let Some(positions) = self.positions(&wanted).await else {
            return RoundEnd::Stopped;
        };
        let retry = positions.retry_at.map(|at| self.until(at));
        let held = positions.held_until.map(|at| self.until(at));
        if open.is_none() {
            if positions.entries.is_empty() {
                let first = retry.into_iter().chain(held).min();
                self.wait_for_change(first).await;
                return RoundEnd::Again;
            }
            let Some(node_epoch) = node_epoch else {
                return RoundEnd::Failed("this broker is not registered".to_owned());
            };
            *session = SessionState {
                open: Some((self.next_epoch(), node_epoch)),
                ..SessionState::default()
            };
        }
        // Given up when the quota grants something, the poll might have data in sync on their way: it
        // is asked to end by then instead.
        let max_wait = self.config.fetch_max_wait;
        let wait = held.map_or(max_wait, |held| held.min(max_wait));
        let sequence = session.next;
        session.next += 1;
        let mut poll = match self.send(positions.entries, Some((session, sequence)), wait) {
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
                answer = &mut poll.call => {
                    let end = self.take(None, answer).await;
                    session.answered = sequence;
                    return end;
                }
                answer = pending_call(&mut report) => {
                    let entries = report.take().map(|r| r.entries).unwrap_or_default();
                    match self.take(Some(&entries), answer).await {
                        RoundEnd::Again => {}
                        end @ (RoundEnd::Failed(_) | RoundEnd::Stopped) => return end,
                    }
                }
                () = self.signals.progress.notified(), if report.is_none() => {
                    let Some(positions) = self.positions(&Wanted::Moved).await else {
                        return RoundEnd::Stopped;
                    };
                    if positions.is_cut_short {
                        // Nothing else tells of the rest; it goes once this report is answered.
                        self.signals.progress.notify_one();
                    }
                    if positions.entries.is_empty() {
                        continue;
                    }
                    match self.send(positions.entries, None, Duration::ZERO) {
                        Ok(call) => report = Some(call),
                        Err(reason) => return RoundEnd::Failed(reason),
                    }
                }
                () = self.signals.changed.notified() => break,
                () = &mut retry => break,
            }
        }
        // Given up: whether the leader heard it is not known.
        session.again = poll.entries.iter().map(|e| e.partition).collect();
        RoundEnd::Again
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

    /// Where the followed partitions stand; `None` when a shard is gone.
    async fn positions(&self, wanted: &Wanted) -> Option<Positions> {
        let mut all = Positions::default();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let limit = self.config.fetch_max_partitions - all.entries.len();
            let command = Command::Positions {
                leader: self.leader,
                wanted: wanted.clone(),
                limit,
                reply,
            };
            shard.send(command).await.ok()?;
            let positions = answer.await.ok()?;
            all.entries.extend(positions.entries);
            all.is_cut_short |= positions.is_cut_short;
            all.retry_at = earlier(all.retry_at, positions.retry_at);
            all.held_until = earlier(all.held_until, positions.held_until);
        }
        Some(all)
    }

    fn table(&self) -> Arc<BrokerTable> {
        let table = self.brokers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&table)
    }

    fn next_epoch(&self) -> u64 {
        self.session_epochs.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a fetch of the session with this sequence, or a report outside of any.
    fn send(
        &self,
        entries: Vec<FetchEntry>,
        session: Option<(&SessionState, u64)>,
        max_wait: Duration,
    ) -> Result<InFlight, String> {
        let table = self.table();
        let Some((name, _)) = table.brokers.get(&self.leader) else {
            return Err("the leader is not registered".to_owned());
        };
        let node_epoch = table
            .local_epoch
            .ok_or_else(|| "this broker is not registered".to_owned())?;
        let opened = session.and_then(|(state, sequence)| Some((state, sequence, state.open?)));
        let (session_id, sequence, answered, max_bytes) = match opened {
            Some((_, _, (_, opened_in))) if opened_in != node_epoch => {
                return Err("this broker has registered anew".to_owned());
            }
            Some((state, sequence, (id, _))) => {
                (id, sequence, state.answered, self.config.fetch_max_bytes)
            }
            None => (NO_SESSION, 0, 0, 0),
        };
        let header = FetchHeader {
            node_epoch,
            session_id,
            sequence,
            answered,
            session_epoch: self.next_epoch(),
            max_wait_ms: u32::try_from(max_wait.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX),
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

    /// Hands an answer to the shards and waits until they have stored it. `report` is what the fetch
    /// said if it was outside of the session.
    async fn take(
        &self,
        report: Option<&[FetchEntry]>,
        answer: Result<RpcResponse, RpcError>,
    ) -> RoundEnd {
        let answers = match answer.and_then(|response| protocol::decode_answer(&response)) {
            Ok(answers) => answers,
            Err(error) => return RoundEnd::Failed(error.to_string()),
        };
        let said: Option<BTreeMap<_, _>> =
            report.map(|entries| entries.iter().map(|e| (e.partition, e.position)).collect());
        let mut by_shard: Vec<Vec<_>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (answer, bytes) in answers {
            let partition = answer.partition;
            let asked = match &said {
                None => None,
                Some(said) => match said.get(&partition) {
                    Some(position) => Some(*position),
                    None => {
                        let text = "the answer names a partition not asked for";
                        return RoundEnd::Failed(text.to_owned());
                    }
                },
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
            let shard = super::manager::shard_of(partition, self.shards.len());
            if let Some(replies) = by_shard.get_mut(shard) {
                replies.push((partition, asked, reply));
            }
        }
        for (shard, replies) in self.shards.iter().zip(by_shard) {
            if replies.is_empty() {
                continue;
            }
            let (reply, stored) = oneshot::channel();
            let command = Command::Fetched {
                leader: self.leader,
                replies,
                reply,
            };
            if shard.send(command).await.is_err() || stored.await.is_err() {
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
