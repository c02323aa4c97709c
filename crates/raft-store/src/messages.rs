//! What nodes of a group say to each other. In front of each message stands the group, so that a
//! dispatcher can tell groups apart without decoding.

use bytes::{BufMut, Bytes, BytesMut};
use rivven_core_types::limits::{MAX_CONTROL_FRAME_BYTES, MAX_RPC_META_BYTES};
use rivven_core_types::wire;
use rivven_core_types::{RaftGroupId, RpcError, RpcRequest, RpcResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Entry, EntryRecord, LastMembershipRecord, LogIdRecord, VoteRecord};

/// Version byte of every message.
pub(crate) const VERSION: u8 = 1;

/// AppendEntries; the entries are in the body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppendMessage {
    /// The Raft id the message is for: a wiped node has another one, and must refuse.
    pub(crate) target: u64,
    pub(crate) vote: VoteRecord,
    pub(crate) prev: Option<LogIdRecord>,
    pub(crate) commit: Option<LogIdRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    Success,
    PartialSuccess(Option<LogIdRecord>),
    Conflict,
    HigherVote(VoteRecord),
}

/// RequestVote and pre-vote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteMessage {
    pub(crate) target: u64,
    pub(crate) vote: VoteRecord,
    pub(crate) last: Option<LogIdRecord>,
    pub(crate) transfer: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteAnswer {
    pub(crate) vote: VoteRecord,
    pub(crate) granted: bool,
    pub(crate) last: Option<LogIdRecord>,
}

/// One chunk of a snapshot file; the bytes are in the body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotMessage {
    pub(crate) target: u64,
    pub(crate) vote: VoteRecord,
    pub(crate) last: Option<LogIdRecord>,
    pub(crate) membership: LastMembershipRecord,
    /// Names the snapshot that is sent, the same in every attempt, so that an attempt goes on where
    /// the last one stopped.
    pub(crate) transfer: u64,
    pub(crate) offset: u64,
    pub(crate) total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    /// Send what follows from here.
    Continue { next: u64 },
    /// The snapshot is installed and durable, or was not needed.
    Installed(VoteRecord),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TransferMessage {
    pub(crate) target: u64,
    pub(crate) from: VoteRecord,
    pub(crate) to: u64,
    pub(crate) last: Option<LogIdRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum TransferAnswer {
    Accepted,
    VoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    LogNotFlushed {
        expected: Option<LogIdRecord>,
        actual: Option<LogIdRecord>,
    },
}

/// Up to where must the asker have applied the log, to read what is committed now?
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadIndexMessage {
    pub(crate) target: u64,
    pub(crate) from: u64,
    /// How long the asker waits.
    pub(crate) deadline_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ReadIndexAnswer {
    /// A quorum has confirmed the leader since the question came in.
    Confirmed { index: u64 },
    /// Not the leader, or no quorum in time.
    Unconfirmed(String),
}

/// Answer after a while, or once you lead no more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeaderWatchMessage {
    pub(crate) target: u64,
    pub(crate) from: u64,
    pub(crate) hold_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeaderWatchAnswer {
    pub(crate) leads: bool,
}

fn malformed(error: impl ToString) -> RpcError {
    RpcError::Malformed(error.to_string())
}

/// The group that a Raft request is for.
///
/// # Errors
/// [`RpcError::Malformed`] when the message is too short to say.
pub fn raft_group_of(request: &RpcRequest) -> Result<RaftGroupId, RpcError> {
    let (group, _) = request
        .meta
        .split_first_chunk::<4>()
        .ok_or_else(|| malformed("no Raft group"))?;
    Ok(RaftGroupId::new(u32::from_le_bytes(*group)))
}

pub(crate) fn encode_request<T: Serialize>(
    group: RaftGroupId,
    message: &T,
) -> Result<Bytes, RpcError> {
    let encoded = wire::encode(VERSION, message, MAX_RPC_META_BYTES - 4).map_err(malformed)?;
    let mut meta = BytesMut::with_capacity(4 + encoded.len());
    meta.put_u32_le(group.get());
    meta.extend_from_slice(&encoded);
    Ok(meta.freeze())
}

pub(crate) fn decode_request<T: DeserializeOwned>(request: &RpcRequest) -> Result<T, RpcError> {
    let message = request.meta.get(4..).unwrap_or_default();
    wire::decode(VERSION, message, MAX_RPC_META_BYTES).map_err(malformed)
}

pub(crate) fn encode_answer<T: Serialize>(answer: &T) -> Result<RpcResponse, RpcError> {
    let meta = wire::encode(VERSION, answer, MAX_RPC_META_BYTES).map_err(malformed)?;
    Ok(RpcResponse {
        meta,
        body: Bytes::new(),
    })
}

pub(crate) fn decode_answer<T: DeserializeOwned>(response: &RpcResponse) -> Result<T, RpcError> {
    wire::decode(VERSION, &response.meta, MAX_RPC_META_BYTES).map_err(malformed)
}

pub(crate) fn encode_entries(entries: &[Entry]) -> Result<Bytes, RpcError> {
    if entries.is_empty() {
        return Ok(Bytes::new());
    }
    let records: Vec<EntryRecord> = entries.iter().map(Into::into).collect();
    wire::encode(VERSION, &records, MAX_CONTROL_FRAME_BYTES).map_err(malformed)
}

pub(crate) fn decode_entries(body: &Bytes) -> Result<Vec<Entry>, RpcError> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let records: Vec<EntryRecord> =
        wire::decode(VERSION, body, MAX_CONTROL_FRAME_BYTES).map_err(malformed)?;
    records
        .into_iter()
        .map(|record| record.decode().map_err(malformed))
        .collect()
}
