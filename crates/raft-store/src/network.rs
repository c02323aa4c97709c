//! openraft's network over the [`PeerRpc`] port.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use rivven_core_types::{
    Entropy, Lane, NodeName, PeerRpc, RaftGroupId, RpcError, RpcKind, RpcRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine::MachineSnapshot;
use crate::messages::{
    AppendAnswer, AppendMessage, SnapshotAnswer, SnapshotMessage, TransferAnswer, TransferMessage,
    VoteAnswer, VoteMessage, decode_answer, encode_entries, encode_request,
};
use crate::runtime::timeout;
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::types::{PeerNode, TypeConfig, Vote};
use crate::worker::Worker;

/// First and greatest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What every connection of a node shares.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) group: RaftGroupId,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) dir: SnapshotDir,
    pub(crate) files: Worker<()>,
    pub(crate) chunk_bytes: usize,
    /// How long a request that carries entries may take: the peer answers after its fsync, which may
    /// well exceed the heartbeat interval that openraft offers.
    pub(crate) append_deadline: Duration,
    pub(crate) chunk_deadline: Duration,
}

/// The way to one peer.
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

    /// Sends a snapshot file, chunk by chunk.
    async fn send(
        &self,
        vote: Vote,
        snapshot: MachineSnapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let transfer = self.network.entropy.next_u64();
        let total = snapshot.snapshot.bytes;
        let mut offset = 0;
        loop {
            let bytes = self.read_chunk(snapshot.snapshot.clone(), offset).await?;
            let length = bytes.len() as u64;
            let message = SnapshotMessage {
                target: self.target,
                vote: (&vote).into(),
                last: snapshot.meta.last_log_id.map(Into::into),
                membership: (&snapshot.meta.last_membership).into(),
                transfer,
                offset,
                total,
            };
            let call = Call {
                kind: RpcKind::RAFT_SNAPSHOT,
                lane: Lane::Bulk,
                body: bytes,
                deadline: self.network.chunk_deadline,
            };
            offset += length;
            match self.call(call, &message).await? {
                SnapshotAnswer::Installed(vote) => return Ok(SnapshotResponse::new(vote.into())),
                SnapshotAnswer::Continue if offset < total => {}
                SnapshotAnswer::Continue => {
                    return Err(RpcError::Malformed(
                        "the peer wants more than there is".into(),
                    ));
                }
            }
        }
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

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
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
        let answer: AppendAnswer = self.call(call, &message).await.map_err(|e| failure(&e))?;
        Ok(match answer {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::PartialSuccess(last) => {
                AppendEntriesResponse::PartialSuccess(last.map(Into::into))
            }
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
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
