//! The messages of `REPLICA_FETCH`. Tables and records travel in the RPC body, since a table of many
//! partitions is longer than the message part may be.

use bytes::{Bytes, BytesMut};
use rivven_core_types::limits::{
    MAX_BULK_FRAME_BYTES, MAX_PARTITIONS_PER_REQUEST, MAX_RPC_META_BYTES,
};
use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{LeaderEpoch, NodeEpoch, Offset, PartitionId, RpcError, RpcResponse};
use serde::{Deserialize, Serialize};

use crate::core::FetchPosition;

/// Version of all messages here.
const VERSION: u8 = 2;
/// The session id of a fetch outside of any session: it reports progress and asks for nothing.
pub(super) const NO_SESSION: u64 = 0;

/// The message part of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FetchHeader {
    /// The life of the broker that fetches.
    pub(super) node_epoch: NodeEpoch,
    /// The fetch session (KIP-227), numbered by the follower; grows with every session of this life.
    pub(super) session_id: u64,
    /// The fetch's number in its session; 0 opens it. Partitions that a later fetch does not name stand
    /// where the last fetch that named them said.
    pub(super) sequence: u64,
    /// The last fetch of the session whose answer has arrived. What later ones were answered is lost.
    pub(super) answered: u64,
    /// Grows with every fetch of this life; what a fetch says is ignored once a later one has spoken.
    pub(super) session_epoch: u64,
    /// How long the leader may hold the fetch, in milliseconds.
    pub(super) max_wait_ms: u32,
    /// Most record bytes; 0 in a fetch that only reports progress.
    pub(super) max_bytes: u32,
    /// Most record bytes of one partition.
    pub(super) partition_max_bytes: u32,
}

/// One partition of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FetchEntry {
    pub(crate) partition: PartitionId,
    pub(crate) position: FetchPosition,
    /// The high watermark that the follower has; nothing is answered when there is no news.
    pub(crate) high_watermark: Offset,
}

/// One partition of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AnswerEntry {
    pub(super) partition: PartitionId,
    pub(super) answer: Answer,
}

/// What the leader says about one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The logs agree; `bytes` of the body are this partition's records.
    Data {
        high_watermark: Offset,
        log_start: Offset,
        bytes: u32,
    },
    /// The logs part.
    Diverging { epoch: LeaderEpoch, end: Offset },
    /// The offset lies outside the leader's log.
    OutOfRange { log_start: Offset, log_end: Offset },
    /// Refused, with the Kafka error code.
    Refused(i16),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct AnswerHeader {
    /// Length of the table in front of the records, in bytes.
    table_bytes: u32,
}

/// Encodes a request: message part and body.
pub(super) fn encode_fetch(
    header: &FetchHeader,
    entries: &[FetchEntry],
) -> Result<(Bytes, Bytes), WireError> {
    Ok((
        wire::encode(VERSION, header, MAX_RPC_META_BYTES)?,
        wire::encode(VERSION, &entries, MAX_BULK_FRAME_BYTES)?,
    ))
}

/// Decodes a request.
pub(super) fn decode_fetch(
    meta: &[u8],
    body: &[u8],
) -> Result<(FetchHeader, Vec<FetchEntry>), RpcError> {
    let malformed = |e: WireError| RpcError::Malformed(e.to_string());
    let header: FetchHeader = wire::decode(VERSION, meta, MAX_RPC_META_BYTES).map_err(malformed)?;
    let entries: Vec<FetchEntry> =
        wire::decode(VERSION, body, MAX_BULK_FRAME_BYTES).map_err(malformed)?;
    if entries.len() > MAX_PARTITIONS_PER_REQUEST {
        return Err(RpcError::Malformed(format!(
            "{} partitions in one fetch; at most {MAX_PARTITIONS_PER_REQUEST}",
            entries.len()
        )));
    }
    if header.session_id == NO_SESSION && header.max_bytes > 0 {
        let text = "a fetch outside of any session asks for records".to_owned();
        return Err(RpcError::Malformed(text));
    }
    Ok((header, entries))
}

/// Encodes an answer; `records` are the bytes of the data entries, in their order.
pub(super) fn encode_answer(
    entries: &[AnswerEntry],
    records: &[Bytes],
) -> Result<RpcResponse, RpcError> {
    let malformed = |e: WireError| RpcError::Malformed(e.to_string());
    let table = wire::encode(VERSION, &entries, MAX_BULK_FRAME_BYTES).map_err(malformed)?;
    let header = AnswerHeader {
        table_bytes: u32::try_from(table.len()).unwrap_or(u32::MAX),
    };
    let total = table.len() + records.iter().map(Bytes::len).sum::<usize>();
    let mut body = BytesMut::with_capacity(total);
    body.extend_from_slice(&table);
    for bytes in records {
        body.extend_from_slice(bytes);
    }
    Ok(RpcResponse {
        meta: wire::encode(VERSION, &header, MAX_RPC_META_BYTES).map_err(malformed)?,
        body: body.freeze(),
    })
}

/// Decodes an answer: its entries, each with its records. The lengths are checked against the bytes
/// that are there.
pub(super) fn decode_answer(response: &RpcResponse) -> Result<Vec<(AnswerEntry, Bytes)>, RpcError> {
    let malformed = |e: WireError| RpcError::Malformed(e.to_string());
    let short = || RpcError::Malformed("the answer is shorter than it says".to_owned());
    let header: AnswerHeader =
        wire::decode(VERSION, &response.meta, MAX_RPC_META_BYTES).map_err(malformed)?;
    let table_bytes = usize::try_from(header.table_bytes).unwrap_or(usize::MAX);
    let table = response.body.get(..table_bytes).ok_or_else(short)?;
    let entries: Vec<AnswerEntry> =
        wire::decode(VERSION, table, MAX_BULK_FRAME_BYTES).map_err(malformed)?;
    let mut rest = response.body.slice(table_bytes..);
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        let length = match &entry.answer {
            Answer::Data { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
            Answer::Diverging { .. } | Answer::OutOfRange { .. } | Answer::Refused(_) => 0,
        };
        if length > rest.len() {
            return Err(short());
        }
        answers.push((entry, rest.split_to(length)));
    }
    if rest.is_empty() {
        Ok(answers)
    } else {
        Err(RpcError::Malformed(format!(
            "{} bytes left over after the records",
            rest.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(bytes: u32) -> AnswerEntry {
        AnswerEntry {
            partition: PartitionId::new(rivven_core_types::TopicId::from_bytes([1; 16]), 0),
            answer: Answer::Data {
                high_watermark: Offset::ZERO,
                log_start: Offset::ZERO,
                bytes,
            },
        }
    }

    #[test]
    fn an_answer_that_lies_about_its_lengths_is_refused() {
        let records = Bytes::from_static(b"abc");
        let good = encode_answer(&[data(3)], std::slice::from_ref(&records)).unwrap();
        assert_eq!(
            decode_answer(&good).unwrap(),
            vec![(data(3), records.clone())]
        );
        let long = encode_answer(&[data(4)], std::slice::from_ref(&records)).unwrap();
        assert!(decode_answer(&long).is_err());
        let short = encode_answer(&[data(2)], &[records]).unwrap();
        assert!(decode_answer(&short).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            meta in proptest::collection::vec(any::<u8>(), 0..40),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _request = decode_fetch(&meta, &body);
            let response = RpcResponse { meta: meta.into(), body: body.into() };
            let _answer = decode_answer(&response);
        }
    }
}
