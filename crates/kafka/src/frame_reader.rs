//! Reads request frames off a socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::FIXED_HEADER_BYTES;
use crate::config::KafkaConfig;
use crate::metrics;

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;
/// How far the buffer grows at first, and how far it reads beyond a frame: small pipelined requests
/// then come with one call.
const CHUNK_BYTES: usize = 16 * 1024;

/// Why no further request comes from a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the client closed the connection")]
    Closed,
    #[error("no request for {0:?}")]
    Idle(Duration),
    #[error("the frame was not whole after {0:?}")]
    Slow(Duration),
    #[error("a frame of {length} bytes; allowed are {FIXED_HEADER_BYTES}..={max}")]
    Length { length: i32, max: usize },
    #[error("the memory for requests is used up")]
    Memory,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A request frame without its length, and the memory that it was granted.
#[derive(Debug)]
pub(crate) struct RequestFrame {
    pub(crate) bytes: Bytes,
    pub(crate) memory: OwnedSemaphorePermit,
}

/// Splits a byte stream into frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    config: Arc<KafkaConfig>,
    memory: Arc<Semaphore>,
    waits_for_memory: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, config: Arc<KafkaConfig>, memory: Arc<Semaphore>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            config,
            memory,
            waits_for_memory: false,
        }
    }

    /// The next frame. `busy` tells whether requests are in flight: such a connection is not idle.
    pub(crate) async fn next(
        &mut self,
        busy: impl Fn() -> bool,
    ) -> Result<RequestFrame, ReadError> {
        let idle = self.config.idle_timeout;
        while self.buffer.is_empty() {
            match timeout(idle, self.read_some(LENGTH_BYTES)).await {
                Ok(read) => read?,
                Err(_) if busy() => {}
                Err(_) => return Err(ReadError::Idle(idle)),
            }
        }
        // From its first byte on a frame has a deadline, which bounds how long a client that sends
        // one byte at a time holds memory.
        let limit = self.config.frame_timeout;
        timeout_at(Instant::now() + limit, self.rest_of_frame())
            .await
            .unwrap_or_else(|_| Err(self.late(limit)))
    }

    /// A frame that is late because no memory came is not its client's fault.
    const fn late(&self, limit: Duration) -> ReadError {
        if self.waits_for_memory {
            ReadError::Memory
        } else {
            ReadError::Slow(limit)
        }
    }

    async fn rest_of_frame(&mut self) -> Result<RequestFrame, ReadError> {
        self.fill(LENGTH_BYTES).await?;
        let max = self.config.max_frame_bytes;
        let length = self
            .buffer
            .first_chunk()
            .map_or(0, |b| i32::from_be_bytes(*b));
        let size = u32::try_from(length)
            .ok()
            .filter(|size| {
                usize::try_from(*size).is_ok_and(|s| (FIXED_HEADER_BYTES..=max).contains(&s))
            })
            .ok_or(ReadError::Length { length, max })?;
        // The whole frame is granted at once: if connections took memory bit by bit, they could all
        // end up waiting for each other. Nothing is allocated for it yet.
        self.waits_for_memory = true;
        let memory = Arc::clone(&self.memory)
            .acquire_many_owned(size)
            .await
            .map_err(|_| ReadError::Memory)?;
        self.waits_for_memory = false;
        let size = usize::try_from(size).map_err(|_| ReadError::Length { length, max })?;
        self.fill(LENGTH_BYTES + size).await?;
        self.buffer.advance(LENGTH_BYTES);
        let bytes = self.buffer.split_to(size).freeze();
        metrics::bytes("in", LENGTH_BYTES + size);
        Ok(RequestFrame { bytes, memory })
    }

    async fn fill(&mut self, needed: usize) -> Result<(), ReadError> {
        while self.buffer.len() < needed {
            self.read_some(needed - self.buffer.len()).await?;
        }
        Ok(())
    }

    /// Reads once. The buffer at most doubles, so a length that is a lie costs no memory.
    async fn read_some(&mut self, missing: usize) -> Result<(), ReadError> {
        let room = missing.clamp(CHUNK_BYTES, self.buffer.len().max(CHUNK_BYTES));
        if self.buffer.capacity() - self.buffer.len() < room.min(missing) {
            self.buffer.reserve(room);
        }
        // Not beyond the frame by more than a chunk, since that is not granted.
        let limit = u64::try_from(missing.max(CHUNK_BYTES)).unwrap_or(u64::MAX);
        let mut io = (&mut self.io).take(limit);
        if io.read_buf(&mut self.buffer).await? == 0 {
            return Err(ReadError::Closed);
        }
        Ok(())
    }

    /// How much memory the buffer holds, in bytes.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
