//! Long polls: followers' fetches that come by RPC, and consumers' fetches.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BrokerId, NodeEpoch, PartitionId, PeerIdentity, Reply, RpcError, RpcKind, RpcRequest,
    RpcResponse,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::api::{Fetch, FetchPartition, FetchedPartition};
use super::command::{Command, ConsumerFetch, ReplicaAnswer, ReplicaRead, Stand};
use super::inner::Inner;
use super::manager::shard_of;
use super::protocol::{self, Answer, AnswerEntry, FetchEntry, FetchHeader, NO_SESSION};
use super::session::{Session, SessionError};
use crate::core::ReplicaFetched;
use crate::error::ReplicationError;

/// The longest that any fetch is held.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) fn handle_rpc(inner: &Arc<Inner>, peer: &PeerIdentity, request: RpcRequest) -> Reply {
    if request.kind != RpcKind::REPLICA_FETCH {
        return Reply::Now(Err(RpcError::UnknownKind { kind: request.kind }));
    }
    // Who fetches is what the handshake has proved, never what a message says.
    let broker = {
        let table = inner.brokers.read().unwrap_or_else(PoisonError::into_inner);
        let found = table
            .brokers
            .iter()
            .find(|(_, (name, _))| *name == peer.name);
        found.map(|(broker, _)| *broker)
    };
    let Some(broker) = broker else {
        let text = format!("{} is not a registered broker", peer.name);
        return Reply::Now(Err(RpcError::Refused(text)));
    };
    match protocol::decode_fetch(&request.meta, &request.body) {
        Ok((header, entries)) => {
            let inner = Arc::clone(inner);
            Reply::Later(Box::pin(replica_fetch(inner, broker, header, entries)))
        }
        Err(error) => Reply::Now(Err(error)),
    }
}

fn bytes_limit(limit: u32, max: usize) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).min(max)
}

async fn replica_fetch(
    inner: Arc<Inner>,
    broker: BrokerId,
    header: FetchHeader,
    entries: Vec<FetchEntry>,
) -> Result<RpcResponse, RpcError> {
    if header.session_id == NO_SESSION {
        return report(&inner, broker, &header, entries).await;
    }
    let refused = |error: SessionError| RpcError::Refused(error.to_string());
    let session = inner.sessions.of(broker, &header).map_err(refused)?;
    let sequence = header.sequence;
    let arrived = session.arrive(sequence, inner.ports.clock.now());
    arrived.map_err(refused)?;
    let wait = Duration::from_millis(u64::from(header.max_wait_ms)).min(MAX_WAIT);
    let deadline = Instant::now() + wait;
    let limit = inner.config.fetch_max_partitions;
    let mut entries = Some(entries);
    let mut named = Vec::new();
    // What was ready at the last wake and has not been looked at.
    let mut unread = 0;
    loop {
        let mut table = session.table.lock().await;
        if session.is_overtaken(sequence) {
            // What woke this fetch was meant for the newer one.
            session.wake.notify_one();
            return Err(refused(SessionError::Overtaken));
        }
        if let Some(entries) = entries.take() {
            named = table.take(&session, &header, entries).map_err(refused)?;
        }
        let over = Instant::now() >= deadline;
        if unread == 0 {
            unread = session.ready_count();
        }
        let stands = table.take_due(&session, &mut named, limit);
        unread = unread.saturating_sub(limit);
        let max_bytes = bytes_limit(header.max_bytes, inner.config.fetch_max_bytes);
        let answers = read_replicas(&inner, &session, &header, stands, max_bytes).await?;
        let (mut answer, quiet) = news(answers, &NewsOf::Session(&session));
        for partition in quiet {
            session.push_quiet(partition);
        }
        let now = inner.ports.clock.now();
        if over || !answer.table.is_empty() && table.is_quiet_due(now) {
            table.told_quiet(now + inner.config.fetch_max_wait);
            let stands = table.quiet(&session, limit);
            let answers = read_replicas(&inner, &session, &header, stands, 0).await?;
            answer.extend(news(answers, &NewsOf::HighWatermark).0);
        }
        table.has_read();
        if over || !answer.table.is_empty() {
            for entry in &answer.table {
                let refused = matches!(entry.answer, Answer::Refused(_));
                table.note_answer(entry.partition, refused);
            }
            table.finish(sequence);
            return protocol::encode_answer(&answer.table, &answer.records);
        }
        drop(table);
        if unread > 0 {
            // Nothing new so far. No wake tells of those behind; each is looked at once per wake, so
            // that this ends.
            continue;
        }
        // Woken or not: what is there is read and answered, or the deadline has come.
        let _elapsed = tokio::time::timeout_at(deadline, session.wake.notified()).await;
    }
}

/// Takes a follower's progress outside of any session, and answers at once.
async fn report(
    inner: &Arc<Inner>,
    broker: BrokerId,
    header: &FetchHeader,
    entries: Vec<FetchEntry>,
) -> Result<RpcResponse, RpcError> {
    let session_epoch = header.session_epoch;
    let stand = |entry| Stand {
        entry,
        session_epoch,
    };
    let stands = entries.into_iter().map(stand).collect();
    let who = (broker, header.node_epoch);
    let answers = read_by_shard(inner, who, None, stands, [0, 0]).await?;
    let (answer, _) = news(answers, &NewsOf::HighWatermark);
    protocol::encode_answer(&answer.table, &answer.records)
}

async fn read_replicas(
    inner: &Arc<Inner>,
    session: &Arc<Session>,
    header: &FetchHeader,
    stands: Vec<Stand>,
    max_bytes: usize,
) -> Result<Vec<(FetchEntry, ReplicaAnswer)>, RpcError> {
    let per_partition = bytes_limit(header.partition_max_bytes, inner.config.fetch_max_bytes);
    let who = (session.broker, header.node_epoch);
    let limits = [max_bytes, per_partition.min(max_bytes)];
    read_by_shard(inner, who, Some(session), stands, limits).await
}

/// Has the shards read, within `limits` of bytes in all and per partition.
async fn read_by_shard(
    inner: &Arc<Inner>,
    (broker, node_epoch): (BrokerId, NodeEpoch),
    session: Option<&Arc<Session>>,
    stands: Vec<Stand>,
    [max_bytes, partition_max_bytes]: [usize; 2],
) -> Result<Vec<(FetchEntry, ReplicaAnswer)>, RpcError> {
    let mut left = max_bytes;
    let mut answers = Vec::with_capacity(stands.len());
    let groups = group(stands.into_iter().enumerate(), inner.shards.len(), |s| {
        s.entry.partition
    });
    for (shard, stands) in groups {
        let (reply, answer) = oneshot::channel();
        let command = Command::ReplicaRead(ReplicaRead {
            broker,
            node_epoch,
            entries: stands.into_iter().map(|(_, stand)| stand).collect(),
            max_bytes: left,
            partition_max_bytes,
            session: session.cloned(),
            reply,
        });
        let shard = inner.shards.get(shard).ok_or(RpcError::Shutdown)?;
        shard.send(command).await.map_err(|_| RpcError::Shutdown)?;
        for answer in answer.await.map_err(|_| RpcError::Shutdown)? {
            if let Ok(ReplicaFetched::Data { bytes, .. }) = &answer.1 {
                left = left.saturating_sub(bytes.len());
            }
            answers.push(answer);
        }
    }
    Ok(answers)
}

/// What an answer will say.
#[derive(Default)]
struct Told {
    table: Vec<AnswerEntry>,
    records: Vec<Bytes>,
}

impl Told {
    fn extend(&mut self, more: Self) {
        self.table.extend(more.table);
        self.records.extend(more.records);
    }
}

/// Whether a moved high watermark alone is worth an answer.
enum NewsOf<'a> {
    /// It waits for an occasion, since nobody waits for the follower to know it, unless the follower is
    /// asked where it stands.
    Session(&'a Session),
    HighWatermark,
}

/// The answers that tell the follower something: records, a moved log start, or that something is
/// wrong; and the partitions of which only the high watermark has moved, if that is to wait.
fn news(answers: Vec<(FetchEntry, ReplicaAnswer)>, of: &NewsOf<'_>) -> (Told, Vec<PartitionId>) {
    let mut told = Told::default();
    let mut quiet = Vec::new();
    for (entry, answer) in answers {
        let partition = entry.partition;
        let asked = match of {
            NewsOf::Session(session) => session.take_asked(partition),
            NewsOf::HighWatermark => false,
        };
        let answer = match answer {
            Ok(ReplicaFetched::Data {
                high_watermark,
                log_start,
                bytes,
            }) => {
                // What the follower makes of it: bounded by its own log.
                let position = &entry.position;
                let theirs = high_watermark
                    .min(position.fetch_offset)
                    .max(position.log_start);
                if bytes.is_empty() && log_start <= position.log_start && !asked {
                    if theirs == entry.high_watermark {
                        continue;
                    }
                    if matches!(of, NewsOf::Session(_)) {
                        quiet.push(partition);
                        continue;
                    }
                }
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                told.records.push(bytes);
                Answer::Data {
                    high_watermark,
                    log_start,
                    bytes: length,
                }
            }
            Ok(ReplicaFetched::Diverging { epoch, end }) => Answer::Diverging { epoch, end },
            Err(ReplicationError::OffsetOutOfRange {
                log_start, log_end, ..
            }) => Answer::OutOfRange { log_start, log_end },
            Err(error) => Answer::Refused(error.kafka_code()),
        };
        told.table.push(AnswerEntry { partition, answer });
    }
    (told, quiet)
}

/// Groups requests by shard, shards in the order in which the request first names them.
fn group<T>(
    items: impl Iterator<Item = (usize, T)>,
    shards: usize,
    partition: impl Fn(&T) -> PartitionId,
) -> Vec<(usize, Vec<(usize, T)>)> {
    let mut groups: Vec<(usize, Vec<(usize, T)>)> = Vec::new();
    for (index, item) in items {
        let shard = shard_of(partition(&item), shards);
        match groups.iter_mut().find(|(s, _)| *s == shard) {
            Some((_, group)) => group.push((index, item)),
            None => groups.push((shard, vec![(index, item)])),
        }
    }
    groups
}

pub(super) async fn consumer_fetch(inner: &Arc<Inner>, fetch: Fetch) -> Vec<FetchedPartition> {
    let deadline = Instant::now() + fetch.max_wait.min(MAX_WAIT);
    let wake = Arc::new(Notify::new());
    let wanted: Vec<FetchPartition> = fetch.partitions.clone();
    let groups = group(
        fetch.partitions.into_iter().enumerate(),
        inner.shards.len(),
        |p| p.partition,
    );
    loop {
        let mut left = fetch.max_bytes;
        let mut answers = BTreeMap::new();
        for (shard, partitions) in &groups {
            for (index, answer) in read_shard(inner, *shard, partitions, left, &wake).await {
                if let Ok(fetched) = &answer.result {
                    left = left.saturating_sub(fetched.bytes.len());
                }
                let _previous = answers.insert(index, answer);
            }
        }
        let failed = answers.values().any(|a| a.result.is_err()) || answers.len() < wanted.len();
        let enough = fetch.max_bytes.saturating_sub(left) >= fetch.min_bytes;
        if failed || enough || Instant::now() >= deadline {
            // A shard that has ended gives no answer.
            return wanted
                .iter()
                .enumerate()
                .map(|(index, wanted)| {
                    answers.remove(&index).unwrap_or(FetchedPartition {
                        partition: wanted.partition,
                        result: Err(ReplicationError::Shutdown),
                    })
                })
                .collect();
        }
        // Woken or not: what is there is read and answered, or the deadline has come.
        let _elapsed = tokio::time::timeout_at(deadline, wake.notified()).await;
    }
}

async fn read_shard(
    inner: &Arc<Inner>,
    shard: usize,
    partitions: &[(usize, FetchPartition)],
    max_bytes: usize,
    wake: &Arc<Notify>,
) -> Vec<(usize, FetchedPartition)> {
    let (reply, answer) = oneshot::channel();
    let command = Command::Read(ConsumerFetch {
        partitions: partitions.to_vec(),
        max_bytes,
        wake: Arc::clone(wake),
        reply,
    });
    let Some(shard) = inner.shards.get(shard) else {
        return Vec::new();
    };
    if shard.send(command).await.is_err() {
        return Vec::new();
    }
    answer.await.unwrap_or_default()
}
