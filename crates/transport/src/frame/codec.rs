//! Frames out of bytes and into bytes, without copying bodies.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use rivven_core_types::{Lane, limits};

use super::header::{FrameHeader, FrameType, HEADER_BYTES};
use super::seal::{FrameSeal, SEAL_BYTES};
use crate::error::FrameError;

/// A receive buffer grows by at most this much ahead of the bytes that have arrived.
pub const GROWTH_STEP_BYTES: usize = 256 * 1024;
/// Longest body of one frame; a longer one goes in parts of this length, and others go in between.
/// Measured on one shared connection: a heartbeat behind bodies of 1 MiB waits 12 ms (27 ms on TLS) at
/// the 99th percentile, behind parts of this length 2 ms (2.7 ms).
pub const PART_BYTES: usize = 64 * 1024;
/// A receive buffer always has about this much room, so that one read takes many small frames.
const READ_ROOM_BYTES: usize = 32 * 1024;
/// Bodies up to this length are copied next to their header; longer ones are a slice of their own.
const COPY_BODY_BYTES: usize = 8 * 1024;
/// Most slices of one vectored write.
pub const MAX_SLICES: usize = 64;

/// The longest message plus body of a frame on `lane`, in bytes; header and seal come on top.
pub const fn lane_limit(lane: Lane) -> usize {
    match lane {
        Lane::Control => limits::MAX_CONTROL_FRAME_BYTES,
        Lane::Rpc => limits::MAX_RPC_FRAME_BYTES,
        Lane::Bulk => limits::MAX_BULK_FRAME_BYTES,
    }
}

/// A received frame. Its parts share memory with the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The message part.
    pub meta: Bytes,
    /// The body.
    pub body: Bytes,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    version: u8,
    max_payload: usize,
    seal: Option<FrameSeal>,
}

impl FrameDecoder {
    /// Accepts frames of `version` with a message plus body of at most `max_payload` bytes; sealed
    /// if there is a `seal`, unsealed otherwise.
    pub const fn new(version: u8, max_payload: usize, seal: Option<FrameSeal>) -> Self {
        Self {
            version,
            max_payload,
            seal,
        }
    }

    /// Takes the next frame off `buffer`; `None` when it is not complete yet. After an error the
    /// connection must be closed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.header(buffer)? else {
            return Ok(None);
        };
        let Some(head) = buffer.first_chunk::<HEADER_BYTES>().copied() else {
            return Ok(None);
        };
        let (meta_len, body_len) = lengths_here(&header);
        let seal_len = if header.sealed { SEAL_BYTES } else { 0 };
        if buffer.len() < HEADER_BYTES + meta_len + body_len + seal_len {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let meta = cut(buffer, meta_len);
        let body = cut(buffer, body_len);
        if let Some(seal) = &mut self.seal {
            let mut found = [0; SEAL_BYTES];
            buffer.copy_to_slice(&mut found);
            seal.check(&head, &meta, &body, &found)?;
        }
        Ok(Some(Frame { header, meta, body }))
    }

    /// How many bytes to make room for before the next read: bounded by [`GROWTH_STEP_BYTES`]
    /// whatever the header claims.
    pub fn room(&self, buffer: &BytesMut) -> usize {
        let mut least = READ_ROOM_BYTES;
        let missing = match self.header(buffer) {
            Ok(Some(header)) => {
                if header.frame_type == FrameType::Part {
                    // More of them follow: one read takes several.
                    least = GROWTH_STEP_BYTES;
                }
                let (meta_len, body_len) = lengths_here(&header);
                (HEADER_BYTES + meta_len + body_len + SEAL_BYTES).saturating_sub(buffer.len())
            }
            Ok(None) | Err(_) => 0,
        };
        let least = least.min(self.max_payload + HEADER_BYTES + SEAL_BYTES);
        missing.clamp(least, GROWTH_STEP_BYTES.max(least))
    }

    /// The header at the front of `buffer`, checked against everything that was agreed on.
    fn header(&self, buffer: &BytesMut) -> Result<Option<FrameHeader>, FrameError> {
        let Some(bytes) = buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = FrameHeader::decode(bytes)?;
        if header.version != self.version {
            return Err(FrameError::Version {
                found: header.version,
                expected: self.version,
            });
        }
        if header.sealed != self.seal.is_some() {
            return Err(FrameError::Flags(u16::from(header.sealed)));
        }
        let (meta_len, body_len) = lengths(&header);
        check_lengths(meta_len, body_len, self.max_payload)?;
        check_part(lengths_here(&header).1)?;
        Ok(Some(header))
    }
}

/// The first bytes of `buffer`. Each piece counts as a user of the buffer's memory, so that there are none
/// of no length.
fn cut(buffer: &mut BytesMut, length: usize) -> Bytes {
    match length {
        0 => Bytes::new(),
        _ => buffer.split_to(length).freeze(),
    }
}

fn lengths(header: &FrameHeader) -> (usize, usize) {
    let wide = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    (wide(header.meta_len), wide(header.body_len))
}

/// What of it is in the frame itself.
fn lengths_here(header: &FrameHeader) -> (usize, usize) {
    let (meta, body) = lengths(header);
    (meta, if header.in_parts { 0 } else { body })
}

const fn check_part(length: usize) -> Result<(), FrameError> {
    if length > PART_BYTES {
        let max = PART_BYTES;
        return Err(FrameError::TooLong { length, max });
    }
    Ok(())
}

fn check_lengths(meta: usize, body: usize, max_payload: usize) -> Result<(), FrameError> {
    let too_long = |length, max| Err(FrameError::TooLong { length, max });
    if meta > limits::MAX_RPC_META_BYTES {
        return too_long(meta, limits::MAX_RPC_META_BYTES);
    }
    let length = meta.saturating_add(body);
    if length > max_payload {
        return too_long(length, max_payload);
    }
    Ok(())
}

/// Turns frames into bytes, sealing them in the order in which they are written.
#[derive(Debug)]
pub struct FrameEncoder {
    version: u8,
    max_payload: usize,
    seal: Option<FrameSeal>,
}

impl FrameEncoder {
    /// The counterpart of [`FrameDecoder::new`].
    pub const fn new(version: u8, max_payload: usize, seal: Option<FrameSeal>) -> Self {
        Self {
            version,
            max_payload,
            seal,
        }
    }

    /// Whether a frame of these parts is short enough, without encoding it.
    pub fn check(&self, meta: &Bytes, body: &Bytes) -> Result<(), FrameError> {
        check_lengths(meta.len(), body.len(), self.max_payload)
    }

    /// Appends a frame to `batch`. Version, seal flag and lengths of `header` are filled in here. A body
    /// of more than [`PART_BYTES`] has to go in parts: see [`Self::announce`]. After an error nothing was
    /// appended.
    pub fn encode(
        &mut self,
        mut header: FrameHeader,
        meta: &Bytes,
        body: Bytes,
        batch: &mut WriteBatch,
    ) -> Result<(), FrameError> {
        check_part(body.len())?;
        header.in_parts = false;
        self.append(header, meta, body.len(), body, batch)
    }

    /// Appends a frame that announces a body of `body_len` bytes in parts: frames of type
    /// [`FrameType::Part`] with the same correlation id, in order, others in between.
    pub fn announce(
        &mut self,
        mut header: FrameHeader,
        meta: &Bytes,
        body_len: usize,
        batch: &mut WriteBatch,
    ) -> Result<(), FrameError> {
        header.in_parts = true;
        self.append(header, meta, body_len, Bytes::new(), batch)
    }

    fn append(
        &mut self,
        mut header: FrameHeader,
        meta: &Bytes,
        body_len: usize,
        body: Bytes,
        batch: &mut WriteBatch,
    ) -> Result<(), FrameError> {
        check_lengths(meta.len(), body_len, self.max_payload)?;
        let narrow = |n: usize| {
            u32::try_from(n).map_err(|_| FrameError::TooLong {
                length: n,
                max: self.max_payload,
            })
        };
        header.meta_len = narrow(meta.len())?;
        header.body_len = narrow(body_len)?;
        header.version = self.version;
        header.sealed = self.seal.is_some();
        let head = header.encode();
        let seal = self.seal.as_mut().map(|seal| seal.seal(&head, meta, &body));
        let seal_len = if seal.is_some() { SEAL_BYTES } else { 0 };
        batch.pending += HEADER_BYTES + meta.len() + body.len() + seal_len;
        batch.small.extend_from_slice(&head);
        batch.small.extend_from_slice(meta);
        batch.push_body(body);
        if let Some(seal) = seal {
            batch.small.extend_from_slice(&seal);
        }
        Ok(())
    }
}

/// Bytes waiting for one or more vectored writes.
#[derive(Debug, Default)]
pub struct WriteBatch {
    segments: VecDeque<Bytes>,
    small: BytesMut,
    pending: usize,
}

impl WriteBatch {
    fn push_body(&mut self, body: Bytes) {
        if body.len() <= COPY_BODY_BYTES {
            self.small.extend_from_slice(&body);
        } else {
            self.close_segment();
            self.segments.push_back(body);
        }
    }

    /// Makes everything appended so far visible to [`Self::slices`].
    pub fn close_segment(&mut self) {
        if !self.small.is_empty() {
            self.segments.push_back(self.small.split().freeze());
        }
    }

    /// Whether everything in closed segments has been written.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes appended and not yet written.
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// The slices of the next vectored write, put into `room`; those that were filled.
    pub fn slices<'a, 'room>(
        &'a self,
        room: &'room mut [IoSlice<'a>; MAX_SLICES],
    ) -> &'room [IoSlice<'a>] {
        let mut filled = 0;
        for (slot, segment) in room.iter_mut().zip(&self.segments) {
            *slot = IoSlice::new(segment);
            filled += 1;
        }
        room.get(..filled).unwrap_or_default()
    }

    /// Forgets the first `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        self.pending = self.pending.saturating_sub(written);
        while let Some(front) = self.segments.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
