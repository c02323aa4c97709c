//! openraft's network over the [`PeerRpc`] port.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FusedStream as _, FuturesOrdered};
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use rivven_core_types::{Lane, NodeName, PeerRpc, RaftGroupId, RpcError, RpcKind, RpcRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine::MachineSnapshot;
use crate::messages::{
    AppendAnswer, AppendMessage, SnapshotAnswer, SnapshotMessage, TransferAnswer, TransferMessage,
    VoteAnswer, VoteMessage, decode_answer, encode_entries, encode_request,
};
use crate::runtime::{RaftInstant, sleep, timeout};
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::types::{PeerNode, TypeConfig, Vote};
use crate::worker::Worker;

/// First and greatest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How often a snapshot chunk is sent again before the attempt is given up.
const CHUNK_RETRIES: u32 = 5;

/// AppendEntries requests on the way to one peer at once. While it syncs one batch the next ones arrive,
/// and it syncs those together.
const APPENDS_IN_FLIGHT: usize = 8;

type AppendResponse = Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// What every connection of a node shares.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) group: RaftGroupId,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) dir: SnapshotDir,
    pub(crate) files: Worker<()>,
    pub(crate) chunk_bytes: usize,
    /// How long a request that carries entries may take: the peer answers after its fsync, which may
    /// well exceed the heartbeat interval that openraft offers.
    pub(crate) append_deadline: Duration,
    pub(crate) chunk_deadline: Duration,
    /// How long the peer may take to check and install what it was sent.
    pub(crate) install_deadline: Duration,
    /// This node's Raft id.
    pub(crate) own_id: u64,
}

/// The way to one peer.
#[derive(Clone)]
pub(crate) struct Peer {
    network: Network,
    target: u64,
    name: NodeName,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Peer {
        Peer {
            network: self.clone(),
            target,
            name: node.name.clone(),
        }
    }
}

/// Unreachable makes openraft back off; other errors are retried at once.
fn failure(error: &RpcError) -> RPCError<TypeConfig> {
    if error.maybe_executed() {
        RPCError::Network(NetworkError::new(error))
    } else {
        RPCError::Unreachable(Unreachable::new(error))
    }
}

/// Whether sending the same chunk again may help.
const fn is_passing(error: &RpcError) -> bool {
    matches!(
        error,
        RpcError::Timeout { .. }
            | RpcError::Unreachable { .. }
            | RpcError::ConnectionLost { .. }
            | RpcError::Overloaded { .. }
    )
}

struct Call {
    kind: RpcKind,
    lane: Lane,
    body: Bytes,
    deadline: Duration,
}

impl Call {
    const fn control(kind: RpcKind, deadline: Duration) -> Self {
        Self {
            kind,
            lane: Lane::Control,
            body: Bytes::new(),
            deadline,
        }
    }
}

impl Peer {
    async fn call<M, A>(&self, call: Call, message: &M) -> Result<A, RpcError>
    where
        M: Serialize + Sync,
        A: DeserializeOwned,
    {
        let Call {
            kind,
            lane,
            body,
            deadline,
        } = call;
        let meta = encode_request(self.network.group, message)?;
        let request = RpcRequest {
            kind,
            lane,
            meta,
            body,
            deadline,
        };
        let answer = self.network.rpc.call(&self.name, request);
        // The port keeps the deadline; this one keeps a faulty transport from holding a lane.
        match timeout(deadline, answer).await {
            Ok(response) => decode_answer(&response?),
            Err(_) => Err(RpcError::Timeout {
                peer: self.name.clone(),
                waited: deadline,
            }),
        }
    }

    async fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> AppendResponse {
        let body = encode_entries(&rpc.entries).map_err(|e| failure(&e))?;
        let deadline = if body.is_empty() {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(self.network.append_deadline)
        };
        let message = AppendMessage {
            target: self.target,
            vote: (&rpc.vote).into(),
            prev: rpc.prev_log_id.map(Into::into),
            commit: rpc.leader_commit.map(Into::into),
        };
        let call = Call {
            kind: RpcKind::RAFT_APPEND,
            lane: Lane::Control,
            body,
            deadline,
        };
        let until = RaftInstant::after(deadline);
        let answer: AppendAnswer = self.call(call, &message).await.map_err(|e| failure(&e))?;
        if until.left().is_zero() {
            // This process stood still, and the answer waited for it. openraft books an answer also for
            // requests that it asked for since, and the leader's lease by those: as old as the lease it
            // would prove what is not so.
            return Err(failure(&RpcError::Timeout {
                peer: self.name.clone(),
                waited: deadline,
            }));
        }
        Ok(match answer {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::PartialSuccess(last) => {
                AppendEntriesResponse::PartialSuccess(last.map(Into::into))
            }
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
    }

    async fn ask_vote(
        &self,
        kind: RpcKind,
        rpc: VoteRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = VoteMessage {
            target: self.target,
            vote: (&rpc.vote).into(),
            last: rpc.last_log_id.map(Into::into),
            transfer: rpc.leadership_transfer,
        };
        let call = Call::control(kind, option.hard_ttl());
        let answer: VoteAnswer = self.call(call, &message).await.map_err(|e| failure(&e))?;
        let last = answer.last.map(Into::into);
        Ok(VoteResponse::new(
            Vote::from(answer.vote),
            last,
            answer.granted,
        ))
    }

    /// Sends a snapshot file, chunk by chunk. A chunk that is lost is sent again; an attempt that
    /// fails as a whole is taken up by the next one where the receiver says.
    async fn send(
        &self,
        vote: Vote,
        snapshot: MachineSnapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let mut message = SnapshotMessage {
            target: self.target,
            vote: (&vote).into(),
            last: snapshot.meta.last_log_id.map(Into::into),
            membership: (&snapshot.meta.last_membership).into(),
            transfer: self.transfer_id(&snapshot),
            offset: 0,
            total: snapshot.snapshot.bytes,
        };
        let mut failures = 0;
        loop {
            let bytes = self
                .read_chunk(snapshot.snapshot.clone(), message.offset)
                .await?;
            match self.send_chunk(&message, bytes).await {
                Ok(SnapshotAnswer::Installed(vote)) => {
                    return Ok(SnapshotResponse::new(vote.into()));
                }
                Ok(SnapshotAnswer::Continue { next }) if next < message.total => {
                    if next != message.offset {
                        failures = 0;
                    }
                    message.offset = next;
                }
                Ok(SnapshotAnswer::Continue { next }) => {
                    let text = format!("the peer wants byte {next} of {}", message.total);
                    return Err(RpcError::Malformed(text));
                }
                Err(error) if failures < CHUNK_RETRIES && is_passing(&error) => {
                    failures += 1;
                    tracing::debug!(peer = %self.name, %error, failures, "a snapshot chunk is sent again");
                    sleep(BACKOFF.0 * failures).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_chunk(
        &self,
        message: &SnapshotMessage,
        bytes: Bytes,
    ) -> Result<SnapshotAnswer, RpcError> {
        // The answer to the last one comes when the snapshot is checked and installed.
        let is_last = message.offset + bytes.len() as u64 >= message.total;
        let call = Call {
            kind: RpcKind::RAFT_SNAPSHOT,
            lane: Lane::Bulk,
            body: bytes,
            deadline: if is_last {
                self.network.install_deadline
            } else {
                self.network.chunk_deadline
            },
        };
        self.call(call, message).await
    }

    /// Equal for equal files: who wrote it, what it covers, how long it is. Should it ever be equal
    /// for others, length and last entry tell, else the checksum at the end, and the next attempt
    /// starts over.
    fn transfer_id(&self, snapshot: &MachineSnapshot) -> u64 {
        let (term, index) = snapshot
            .meta
            .last_log_id
            .map_or((0, 0), |id| (id.leader_id.term, id.index));
        let words = [self.network.own_id, term, index, snapshot.snapshot.bytes];
        let bytes = words.map(u64::to_le_bytes).concat();
        let high = u64::from(crc32c::crc32c(&bytes));
        let low = u64::from(crc32c::crc32c_append(crc32c::crc32c(b"transfer"), &bytes));
        high << 32 | low
    }

    async fn read_chunk(&self, file: SnapshotFile, offset: u64) -> Result<Bytes, RpcError> {
        let dir = self.network.dir.clone();
        let most = u64::try_from(self.network.chunk_bytes).unwrap_or(u64::MAX);
        let read = self.network.files.run(move |()| {
            let length = file.bytes.saturating_sub(offset).min(most);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            let source = dir.open_file(&file.path).map_err(|e| e.to_string())?;
            source
                .read_exact_at(&mut bytes, offset)
                .map_err(|e| e.to_string())?;
            Ok::<_, String>(Bytes::from(bytes))
        });
        // A newer snapshot may have replaced the file; openraft then starts over with that one.
        let failed = |e: String| RpcError::Refused(format!("cannot read the snapshot: {e}"));
        read.await
            .map_err(|e| failed(e.to_string()))?
            .map_err(failed)
    }
}

/// Makes a call of each request, `most` at once, and gives their outcomes in order. A request without entries
/// says no more than how much is committed. It waits while others are on the way, since its answer would wait
/// for theirs, and whichever comes next says it as well: openraft books an answer for every request that it
/// covers.
fn pipelined<'s, S, F>(
    input: S,
    most: usize,
    call: impl Fn(AppendEntriesRequest<TypeConfig>) -> F + Send + 's,
) -> impl Stream<Item = F::Output> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 's,
    F: Future<Output: Send> + Send + 's,
{
    let state = (input.fuse(), FuturesOrdered::new(), None, call);
    stream::unfold(
        state,
        move |(mut input, mut calls, mut held, call)| async move {
            loop {
                if calls.is_empty() {
                    calls.extend(held.take().map(&call));
                }
                let has_room = calls.len() < most && !input.is_terminated();
                tokio::select! {
                    biased;
                    rpc = input.next(), if has_room => {
                        let Some(rpc): Option<AppendEntriesRequest<TypeConfig>> = rpc else {
                            continue;
                        };
                        if rpc.entries.is_empty() && !calls.is_empty() {
                            held = Some(rpc);
                        } else {
                            held = None;
                            calls.push_back(call(rpc));
                        }
                    }
                    outcome = calls.next(), if !calls.is_empty() => {
                        return Some((outcome?, (input, calls, held, call)));
                    }
                    else => return None,
                }
            }
        },
    )
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> AppendResponse {
        self.append(rpc, &option).await
    }

    /// Pipelined. A lane keeps the order of requests while its connection lives; beyond that one may
    /// overtake another, and its conflict then speaks of a log that the other has completed since.
    /// openraft would take it for a follower that has lost what it acknowledged.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let peer: &'s Self = self;
        let calls = Box::pin(pipelined(input, APPENDS_IN_FLIGHT, move |rpc| {
            let prev = rpc.prev_log_id;
            let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
            let option = option.clone();
            async move { (prev, last, peer.append(rpc, &option).await) }
        }));
        let results = stream::unfold((Some(calls), None), move |(calls, matched)| async move {
            let mut calls = calls?;
            let (prev, last, response) = calls.next().await?;
            let response = match response {
                Ok(response) => response,
                Err(error) => return Some((Err(error), (None, matched))),
            };
            let is_whole = match &response {
                AppendEntriesResponse::PartialSuccess(upto) => *upto == last,
                _ => true,
            };
            if response.is_conflict() && prev <= matched {
                tracing::debug!(peer = %peer.name, ?matched, "an append overtook the one before it");
                let lost = RpcError::ConnectionLost {
                    peer: peer.name.clone(),
                };
                return Some((Err(failure(&lost)), (None, matched)));
            }
            let result = response.into_stream_result(prev, last);
            let matched = result.as_ref().map_or(matched, |upto| *upto);
            // What was sent behind a request that failed, or was taken in part, builds on what is
            // not there.
            let goes_on = result.is_ok() && is_whole;
            Some((Ok(result), (goes_on.then_some(calls), matched)))
        });
        Box::pin(async move { Ok(Box::pin(results) as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(RpcKind::RAFT_VOTE, rpc, &option).await
    }

    /// Must be implemented: openraft's default grants every pre-vote.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(RpcKind::RAFT_PRE_VOTE, rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: MachineSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = timeout(option.hard_ttl(), self.send(vote, snapshot));
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => Err(failure(&error).into()),
                Err(_) => {
                    let text = format!("no snapshot transfer within {:?}", option.hard_ttl());
                    Err(StreamingError::Unreachable(Unreachable::from_string(text)))
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = TransferMessage {
            target: self.target,
            from: req.from_leader().into(),
            to: *req.to_node_id(),
            last: req.last_log_id().copied().map(Into::into),
        };
        let call = Call::control(RpcKind::RAFT_TRANSFER, option.hard_ttl());
        let answer: TransferAnswer = self.call(call, &message).await.map_err(|e| failure(&e))?;
        Ok(match answer {
            TransferAnswer::Accepted => Ok(()),
            TransferAnswer::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferAnswer::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                })
            }
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, most) = BACKOFF;
        let next = move |pause: &Duration| Some((*pause * 2).min(most));
        Some(Backoff::new(std::iter::successors(Some(first), next)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use openraft::EntryPayload;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::types::{Entry, LogId};

    /// A request behind `prev` with so many entries, and how much is committed.
    fn request(prev: u64, entries: u64, commit: u64) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| LogId::new_term_index(1, index);
        let entry = |index| Entry {
            log_id: id(index),
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(prev)),
            entries: (prev + 1..=prev + entries).map(entry).collect(),
            leader_commit: Some(id(commit)),
        }
    }

    #[tokio::test]
    async fn a_commit_index_alone_waits_for_the_next_entries_while_others_are_on_the_way() {
        let (ask, asked) = mpsc::unbounded_channel();
        let (sent, mut on_the_way) = mpsc::unbounded_channel();
        let input = stream::unfold(asked, |mut asked| async move {
            asked.recv().await.map(|request| (request, asked))
        });
        let call = |rpc: AppendEntriesRequest<TypeConfig>| {
            let (answer, answered) = oneshot::channel();
            let said = (rpc.prev_log_id.unwrap().index, rpc.entries.len(), answer);
            sent.send(said).unwrap();
            async move { answered.await.unwrap() }
        };
        let mut outcomes = Box::pin(pipelined(Box::pin(input), 2, call));

        // Nothing is on the way.
        ask.send(request(5, 0, 4)).unwrap();
        assert!(outcomes.next().now_or_never().is_none());
        let (prev, entries, first) = on_the_way.try_recv().unwrap();
        assert_eq!((prev, entries), (5, 0));
        // Two more that say what is committed, and then entries.
        for rpc in [request(5, 0, 5), request(5, 0, 5), request(5, 3, 5)] {
            ask.send(rpc).unwrap();
        }
        ask.send(request(8, 1, 5)).unwrap();
        assert!(outcomes.next().now_or_never().is_none());
        let (prev, entries, second) = on_the_way.try_recv().unwrap();
        assert_eq!((prev, entries), (5, 3));
        assert!(on_the_way.try_recv().is_err(), "two are on the way");
        first.send('a').unwrap();
        assert_eq!(outcomes.next().now_or_never(), Some(Some('a')));
        assert!(outcomes.next().now_or_never().is_none());
        let (prev, entries, third) = on_the_way.try_recv().unwrap();
        assert_eq!((prev, entries), (8, 1));
        // The last word is said as soon as nothing is on the way, and before the end.
        ask.send(request(9, 0, 9)).unwrap();
        drop(ask);
        second.send('b').unwrap();
        third.send('c').unwrap();
        assert_eq!(outcomes.next().now_or_never(), Some(Some('b')));
        assert_eq!(outcomes.next().now_or_never(), Some(Some('c')));
        assert!(outcomes.next().now_or_never().is_none());
        let (prev, entries, last) = on_the_way.try_recv().unwrap();
        assert_eq!((prev, entries), (9, 0));
        last.send('d').unwrap();
        assert_eq!(outcomes.next().now_or_never(), Some(Some('d')));
        assert_eq!(outcomes.next().now_or_never(), Some(None));
    }
}
