//! Long polls: followers' fetches that come by RPC, and consumers' fetches.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BrokerId, PeerIdentity, Reply, RpcError, RpcKind, RpcRequest, RpcResponse,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::api::{Fetch, FetchPartition, FetchedPartition};
use super::command::{Command, ConsumerFetch, ReplicaAnswer, ReplicaRead};
use super::inner::Inner;
use super::manager::shard_of;
use super::protocol::{self, Answer, AnswerEntry, FetchEntry, FetchHeader};
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
    let wait = Duration::from_millis(u64::from(header.max_wait_ms)).min(MAX_WAIT);
    let deadline = Instant::now() + wait;
    let wake = Arc::new(Notify::new());
    let groups = group(entries.into_iter().enumerate(), inner.shards.len(), |e| {
        e.partition
    });
    loop {
        let mut left = bytes_limit(header.max_bytes, inner.config.fetch_max_bytes);
        let mut answers = Vec::new();
        for (shard, entries) in &groups {
            let (reply, answer) = oneshot::channel();
            let command = Command::ReplicaRead(ReplicaRead {
                broker,
                node_epoch: header.node_epoch,
                session_epoch: header.session_epoch,
                entries: entries
                    .iter()
                    .map(|(i, e)| (u32::try_from(*i).unwrap_or(u32::MAX), *e))
                    .collect(),
                max_bytes: left,
                partition_max_bytes: bytes_limit(
                    header.partition_max_bytes,
                    inner.config.fetch_max_bytes,
                ),
                wake: Arc::clone(&wake),
                reply,
            });
            let shard = inner.shards.get(*shard).ok_or(RpcError::Shutdown)?;
            shard.send(command).await.map_err(|_| RpcError::Shutdown)?;
            for answer in answer.await.map_err(|_| RpcError::Shutdown)? {
                if let Ok(ReplicaFetched::Data { bytes, .. }) = &answer.2 {
                    left = left.saturating_sub(bytes.len());
                }
                answers.push(answer);
            }
        }
        let (table, records) = news(answers);
        if !table.is_empty() || Instant::now() >= deadline {
            return protocol::encode_answer(&table, &records);
        }
        // Woken or not: what is there is read and answered, or the deadline has come.
        let _elapsed = tokio::time::timeout_at(deadline, wake.notified()).await;
    }
}

/// The answers that tell the follower something: records, a moved high watermark or log start, or
/// that something is wrong.
fn news(answers: Vec<(u32, FetchEntry, ReplicaAnswer)>) -> (Vec<AnswerEntry>, Vec<Bytes>) {
    let mut table = Vec::new();
    let mut records = Vec::new();
    for (index, entry, answer) in answers {
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
                let known = theirs == entry.high_watermark && log_start <= position.log_start;
                if bytes.is_empty() && known {
                    continue;
                }
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                records.push(bytes);
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
        table.push(AnswerEntry { index, answer });
    }
    (table, records)
}

/// Groups requests by shard, shards in the order in which the request first names them.
fn group<T>(
    items: impl Iterator<Item = (usize, T)>,
    shards: usize,
    partition: impl Fn(&T) -> rivven_core_types::PartitionId,
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
