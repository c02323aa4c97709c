//! Response frames: what is written to a socket, as a list of byte slices.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Encodable;

use crate::api::Call;

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;

/// Why a response could not be written. It is a fault of ours: the connection is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("{0}")]
    Message(String),
    #[error("the response has {0} bytes, more than a frame can announce")]
    TooLong(usize),
}

/// One response, ready to be written: slices that are never joined, so that records are not copied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    parts: VecDeque<Bytes>,
}

impl Frame {
    /// Encodes `message` as the answer to `call`, with its header and length.
    pub(crate) fn encode<M: Encodable>(call: Call, message: &M) -> Result<Self, EncodeError> {
        let size = message
            .compute_size(call.version)
            .map_err(|error| EncodeError::Message(error.to_string()))?;
        let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + 5 + size);
        bytes.put_i32(0);
        put_header(&mut bytes, call);
        message
            .encode(&mut bytes, call.version)
            .map_err(|error| EncodeError::Message(error.to_string()))?;
        let length = announced(bytes.len() - LENGTH_BYTES)?;
        if let Some(prefix) = bytes.first_chunk_mut() {
            *prefix = length;
        }
        Ok(Self {
            parts: VecDeque::from([bytes.freeze()]),
        })
    }

    /// Puts the length in front of `parts`, which begin with the response header.
    pub(crate) fn seal(mut parts: VecDeque<Bytes>) -> Result<Self, EncodeError> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        parts.push_front(Bytes::copy_from_slice(&announced(length)?));
        Ok(Self { parts })
    }
}

fn announced(length: usize) -> Result<[u8; LENGTH_BYTES], EncodeError> {
    i32::try_from(length)
        .map(i32::to_be_bytes)
        .map_err(|_| EncodeError::TooLong(length))
}

/// Writes the response header: the correlation id, and empty tagged fields where they belong.
pub(crate) fn put_header(bytes: &mut BytesMut, call: Call) {
    bytes.put_i32(call.correlation);
    if call.api.has_flexible_response_header(call.version) {
        bytes.put_u8(0);
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, part) in slices.iter_mut().zip(&self.parts) {
            *slot = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.parts.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.parts.pop_front();
        }
    }
}
