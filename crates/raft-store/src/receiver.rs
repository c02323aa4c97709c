//! The answering side of the Raft calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use rivven_core_types::{RpcError, RpcKind, RpcRequest, RpcResponse, VfsFile, planted};
use tokio::sync::Mutex;

use crate::error::RaftStoreError;
use crate::instance::RaftCore;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::messages::{
    AppendAnswer, AppendMessage, LeaderWatchAnswer, LeaderWatchMessage, ReadIndexAnswer,
    ReadIndexMessage, SnapshotAnswer, SnapshotMessage, TransferAnswer, TransferMessage, VoteAnswer,
    VoteMessage, decode_entries, decode_request, encode_answer,
};
use crate::runtime::{spawn, timeout};
use crate::snapshot::SnapshotFile;
use crate::types::{LogId, LogIdRecord, SnapshotMeta, TypeConfig, Vote, VoteRecord};

/// Longest time that a follower's read may keep this node busy.
const MAX_READ_DEADLINE: Duration = Duration::from_secs(30);

/// Longest time for which a follower's call is held.
const MAX_HOLD: Duration = Duration::from_secs(30);

/// Which snapshot a message is about. The transfer's id has 32 bits of entropy, since a CRC is linear:
/// alone it would not tell two snapshots of one length apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announced {
    transfer: u64,
    total: u64,
    last: Option<LogIdRecord>,
}

impl From<&SnapshotMessage> for Announced {
    fn from(message: &SnapshotMessage) -> Self {
        Self {
            transfer: message.transfer,
            total: message.total,
            last: message.last,
        }
    }
}

/// A snapshot on its way in.
struct Incoming {
    what: Announced,
    offset: u64,
    file: Arc<dyn VfsFile>,
    at: SnapshotFile,
}

/// The snapshot that was installed last, for a sender that has not heard of it: its answer was lost.
struct Installed {
    what: Announced,
    /// Under which vote it was sent, and what was answered.
    votes: (VoteRecord, VoteRecord),
}

#[derive(Default)]
struct Transfers {
    incoming: Option<Incoming>,
    installed: Option<Installed>,
    /// How many files were begun: no two ever share a name.
    begun: u64,
}

/// Answers requests for one life of the core.
#[derive(Clone)]
pub(crate) struct Receiver {
    machine: Machine,
    transfers: Arc<Mutex<Transfers>>,
}

/// A request together with what checks it.
pub(crate) struct Incall<'a> {
    pub(crate) raft: &'a RaftCore,
    pub(crate) log: &'a LogStore,
    pub(crate) own_id: u64,
    pub(crate) peer: &'a str,
}

fn refused(reason: impl ToString) -> RpcError {
    RpcError::Refused(reason.to_string())
}

impl Incall<'_> {
    /// The message must be for this life of the data directory, and come from whom it names.
    fn check(&self, target: u64, sender: u64) -> Result<(), RpcError> {
        if target != self.own_id {
            let text = format!("this node has Raft id {}, not {target}", self.own_id);
            return Err(refused(text));
        }
        let metrics = self.raft.metrics();
        let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics);
        match metrics.membership_config.get_node(&sender) {
            Some(node) if node.name.as_str() != self.peer => {
                let text = format!("Raft id {sender} is {}, not {}", node.name, self.peer);
                Err(refused(text))
            }
            _ => Ok(()),
        }
    }
}

impl Receiver {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            transfers: Arc::default(),
        }
    }

    pub(crate) async fn answer(
        &self,
        call: Incall<'_>,
        request: RpcRequest,
    ) -> Result<RpcResponse, RpcError> {
        match request.kind {
            RpcKind::RAFT_APPEND => append(&call, &request).await,
            RpcKind::RAFT_VOTE | RpcKind::RAFT_PRE_VOTE => vote(&call, &request).await,
            RpcKind::RAFT_TRANSFER => transfer(&call, &request).await,
            RpcKind::RAFT_SNAPSHOT => self.snapshot(&call, request).await,
            RpcKind::RAFT_READ_INDEX => read_index(&call, &request).await,
            RpcKind::RAFT_WATCH_LEADER => watch_leader(&call, &request).await,
            kind => Err(RpcError::UnknownKind { kind }),
        }
    }

    async fn snapshot(
        &self,
        call: &Incall<'_>,
        request: RpcRequest,
    ) -> Result<RpcResponse, RpcError> {
        let message: SnapshotMessage = decode_request(&request)?;
        call.check(message.target, message.vote.node)?;
        let transfers = Arc::clone(&self.transfers).lock_owned().await;
        // From here on the caller may go (the transport drops the answer with its connection): what has
        // begun ends before the next message is looked at. Were it dropped half-way, the next attempt
        // would write to the file that openraft is installing.
        let (receiver, raft, log) = (self.clone(), call.raft.clone(), call.log.clone());
        let taken = spawn(async move {
            let (mut transfers, body) = (transfers, request.body);
            let core = (&raft, &log);
            let answer = receiver.take(core, &mut transfers, message, body).await;
            drop(transfers);
            answer
        });
        let answer = taken.await;
        encode_answer(&answer.map_err(|_| refused("the node is stopping"))??)
    }

    /// Takes one chunk, and installs the snapshot that it completes.
    async fn take(
        &self,
        core: (&RaftCore, &LogStore),
        transfers: &mut Transfers,
        message: SnapshotMessage,
        body: Bytes,
    ) -> Result<SnapshotAnswer, RpcError> {
        let what = Announced::from(&message);
        if let Some(done) = &transfers.installed
            && done.what == what
            && done.votes.0 == message.vote
        {
            return Ok(SnapshotAnswer::Installed(done.votes.1));
        }
        let known = |s: &&mut Incoming| s.what == what;
        if message.offset == 0 && transfers.incoming.as_mut().filter(known).is_none() {
            self.begin(transfers, what).await?;
        }
        let Some(state) = transfers.incoming.as_mut().filter(known) else {
            // This life knows nothing of what was sent before.
            return Ok(SnapshotAnswer::Continue { next: 0 });
        };
        let length = body.len() as u64;
        if message.offset != state.offset {
            // Sent again, or a new attempt: it goes on where the last one stopped.
            let next = state.offset;
            return Ok(SnapshotAnswer::Continue { next });
        }
        if length == 0 || state.offset + length > what.total {
            let text = format!("{length} bytes at {} of {}", state.offset, what.total);
            return Err(refused(text));
        }
        let (file, offset) = (Arc::clone(&state.file), state.offset);
        let written = self
            .machine
            .files()
            .run(move |()| file.write_all_at(&body, offset))
            .await;
        written.and_then(|done| done).map_err(refused)?;
        state.offset += length;
        if state.offset < what.total {
            let next = state.offset;
            return Ok(SnapshotAnswer::Continue { next });
        }
        let Some(done) = transfers.incoming.take() else {
            return Err(refused("no transfer"));
        };
        let vote = message.vote;
        let answer = self.install(core, message, done).await?;
        transfers.installed = Some(Installed {
            what,
            votes: (vote, answer),
        });
        Ok(SnapshotAnswer::Installed(answer))
    }

    async fn begin(&self, transfers: &mut Transfers, what: Announced) -> Result<(), RpcError> {
        if let Some(old) = transfers.incoming.take() {
            self.discard(old.at).await;
        }
        let dir = self.machine.dir().clone();
        if what.total > dir.max_bytes() {
            let text = format!("{} bytes; at most {}", what.total, dir.max_bytes());
            return Err(refused(format!("the snapshot is too large: {text}")));
        }
        transfers.begun += 1;
        let name = format!("incoming-{:016x}-{}", what.transfer, transfers.begun);
        let path = dir.temporary(&name);
        let at = SnapshotFile {
            path: path.clone(),
            bytes: what.total,
        };
        let created = self.machine.files().run(move |()| dir.create(&path)).await;
        let file = created.map_err(refused)?.map_err(refused)?;
        transfers.incoming = Some(Incoming {
            what,
            offset: 0,
            file,
            at,
        });
        Ok(())
    }

    async fn install(
        &self,
        (raft, log): (&RaftCore, &LogStore),
        message: SnapshotMessage,
        done: Incoming,
    ) -> Result<VoteRecord, RpcError> {
        let membership = message.membership.decode().map_err(refused)?;
        let meta = SnapshotMeta {
            last_log_id: message.last.map(LogId::from),
            last_membership: membership,
        };
        // Whatever is wrong with the file must be found here: an error inside openraft's
        // installation is fatal to the core.
        let (dir, file, path) = (self.machine.dir().clone(), done.file, done.at.path.clone());
        let checked = self.machine.files().run(move |()| {
            file.sync_data()
                .map_err(RaftStoreError::io("sync", &path))?;
            Ok::<_, RaftStoreError>(dir.verify(&path)?.header)
        });
        let header = match checked.await.map_err(refused)? {
            Ok(header) if header.meta().as_ref() == Ok(&meta) => header,
            Ok(_) => {
                self.discard(done.at).await;
                return Err(refused("the snapshot's header is not what was announced"));
            }
            Err(error) => {
                self.discard(done.at).await;
                return Err(refused(error));
            }
        };
        tracing::info!(last = ?header.last, bytes = done.what.total, "received a snapshot");
        let snapshot = Snapshot {
            meta,
            snapshot: done.at.clone(),
        };
        let vote = Vote::from(message.vote);
        let answer = raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(refused)?;
        // openraft answers at once when the snapshot is not ahead of what is committed here, though
        // that may lie beyond what is durable. The leader will book the answer as durable.
        if !planted("raft-store.snapshot-without-barrier") {
            log.barrier().await.map_err(refused)?;
        }
        self.discard(done.at).await;
        Ok((&answer.vote).into())
    }

    /// Removes a received file that was not adopted (an adopted one has another name by now).
    async fn discard(&self, file: SnapshotFile) {
        let dir = self.machine.dir().clone();
        let removed = self
            .machine
            .files()
            .run(move |()| dir.remove(&file.path))
            .await;
        if let Ok(Err(error)) = removed {
            tracing::debug!(%error, "nothing to remove after a snapshot transfer");
        }
    }
}

async fn append(call: &Incall<'_>, request: &RpcRequest) -> Result<RpcResponse, RpcError> {
    let message: AppendMessage = decode_request(request)?;
    call.check(message.target, message.vote.node)?;
    let rpc = AppendEntriesRequest::<TypeConfig> {
        vote: message.vote.into(),
        prev_log_id: message.prev.map(Into::into),
        entries: decode_entries(&request.body)?,
        leader_commit: message.commit.map(Into::into),
    };
    let answer = call.raft.append_entries(rpc).await.map_err(refused)?;
    encode_answer(&match answer {
        AppendEntriesResponse::Success => AppendAnswer::Success,
        AppendEntriesResponse::PartialSuccess(last) => {
            AppendAnswer::PartialSuccess(last.map(Into::into))
        }
        AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote((&vote).into()),
    })
}

async fn vote(call: &Incall<'_>, request: &RpcRequest) -> Result<RpcResponse, RpcError> {
    let message: VoteMessage = decode_request(request)?;
    call.check(message.target, message.vote.node)?;
    let mut rpc = VoteRequest::<TypeConfig>::new(message.vote.into(), message.last.map(Into::into));
    rpc.leadership_transfer = message.transfer;
    let answer: VoteResponse<TypeConfig> = if request.kind == RpcKind::RAFT_VOTE {
        call.raft.vote(rpc).await.map_err(refused)?
    } else {
        call.raft.pre_vote(rpc).await.map_err(refused)?
    };
    encode_answer(&VoteAnswer {
        vote: (&answer.vote).into(),
        granted: answer.vote_granted,
        last: answer.last_log_id.map(Into::into),
    })
}

/// Confirms the leadership with a quorum before it names the index, so that a deposed leader never
/// does.
async fn read_index(call: &Incall<'_>, request: &RpcRequest) -> Result<RpcResponse, RpcError> {
    let message: ReadIndexMessage = decode_request(request)?;
    call.check(message.target, message.from)?;
    let deadline = Duration::from_millis(message.deadline_ms).min(MAX_READ_DEADLINE);
    let ask = call.raft.get_read_linearizer(ReadPolicy::ReadIndex);
    encode_answer(&match timeout(deadline, ask).await {
        Ok(Ok(linearizer)) => ReadIndexAnswer::Confirmed {
            index: linearizer.read_log_id().index(),
        },
        Ok(Err(error)) => ReadIndexAnswer::Unconfirmed(error.to_string()),
        Err(_) => ReadIndexAnswer::Unconfirmed(format!("no quorum within {deadline:?}")),
    })
}

/// Holds the call while this node leads.
async fn watch_leader(call: &Incall<'_>, request: &RpcRequest) -> Result<RpcResponse, RpcError> {
    let message: LeaderWatchMessage = decode_request(request)?;
    call.check(message.target, message.from)?;
    let hold = Duration::from_millis(message.hold_ms).min(MAX_HOLD);
    let mut metrics = call.raft.server_metrics();
    let deposed = async {
        while metrics.borrow_and_update().current_leader == Some(call.own_id) {
            metrics.changed().await?;
        }
        Ok::<_, rivven_core_types::watch::Closed>(())
    };
    let leads = match timeout(hold, deposed).await {
        Err(_) => true,
        Ok(Ok(())) => false,
        Ok(Err(_)) => return Err(refused("the node is stopping")),
    };
    encode_answer(&LeaderWatchAnswer { leads })
}

async fn transfer(call: &Incall<'_>, request: &RpcRequest) -> Result<RpcResponse, RpcError> {
    let message: TransferMessage = decode_request(request)?;
    call.check(message.target, message.from.node)?;
    let last = message.last.map(Into::into);
    let rpc = TransferLeaderRequest::<TypeConfig>::new(message.from.into(), message.to, last);
    let answer = call
        .raft
        .handle_transfer_leader(rpc)
        .await
        .map_err(refused)?;
    encode_answer(&match answer {
        Ok(()) => TransferAnswer::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferAnswer::VoteChanged {
            expected: (&expected).into(),
            actual: (&actual).into(),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            TransferAnswer::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            }
        }
    })
}
