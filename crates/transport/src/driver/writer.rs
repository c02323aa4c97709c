//! The writing half of a connection: takes queued frames in batches and writes each batch with one
//! vectored write where the kernel takes it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use super::metrics;
use super::reader::Pulse;
use crate::frame::{FrameEncoder, FrameHeader, FrameType, WriteBatch};

/// Most frames taken from the queue at once.
const BATCH_FRAMES: usize = 256;

/// A frame in the send queue.
pub(super) struct Outgoing {
    pub(super) header: FrameHeader,
    pub(super) meta: Bytes,
    pub(super) body: Bytes,
    /// A request's deadline: what is left of it is written into the header; a request that is over
    /// is not sent at all.
    pub(super) deadline: Option<Instant>,
    /// The frame's share of the queue's bytes, returned once it is written.
    pub(super) share: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// A frame of a header alone.
    pub(super) const fn bare(frame_type: FrameType, correlation: u32) -> Self {
        let mut header = FrameHeader::new(0, frame_type);
        header.correlation = correlation;
        Self {
            header,
            meta: Bytes::new(),
            body: Bytes::new(),
            deadline: None,
            share: None,
        }
    }
}

/// Writes until the queue is closed and empty (then closes the writing direction), or until writing
/// fails or stalls.
pub(super) async fn write_loop<W: AsyncWrite + Unpin>(
    mut io: W,
    mut encoder: FrameEncoder,
    mut queue: mpsc::Receiver<Outgoing>,
    pulse: &Pulse,
    stall: Duration,
) -> io::Result<()> {
    let mut frames = Vec::with_capacity(BATCH_FRAMES);
    let mut batch = WriteBatch::default();
    loop {
        if queue.recv_many(&mut frames, BATCH_FRAMES).await == 0 {
            return timeout(stall, io.shutdown())
                .await
                .unwrap_or_else(|_| stalled());
        }
        // Callers that were woken together queue their frames one after another. Letting them go
        // first makes one write of what would else be one write each: a third of the processor time
        // at 256 calls in flight.
        tokio::task::yield_now().await;
        while frames.len() < BATCH_FRAMES {
            let Ok(frame) = queue.try_recv() else { break };
            frames.push(frame);
        }
        let mut has_ping = false;
        let mut shares = Vec::new();
        let now = Instant::now();
        for mut frame in frames.drain(..) {
            if let Some(deadline) = frame.deadline {
                let left = deadline.saturating_duration_since(now).as_millis();
                if left == 0 {
                    continue;
                }
                frame.header.budget_ms = u32::try_from(left).unwrap_or(u32::MAX);
            }
            has_ping |= frame.header.frame_type == FrameType::Ping;
            shares.extend(frame.share);
            encoder
                .encode(frame.header, &frame.meta, frame.body, &mut batch)
                .map_err(io::Error::other)?;
        }
        batch.close_segment();
        write_batch(&mut io, &mut batch, stall).await?;
        if has_ping {
            pulse.pinged();
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    io: &mut W,
    batch: &mut WriteBatch,
    stall: Duration,
) -> io::Result<()> {
    while !batch.is_empty() {
        let written = match timeout(stall, io.write_vectored(&batch.slices())).await {
            Ok(result) => result?,
            Err(_) => return stalled(),
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        metrics::bytes_moved("out", written);
        batch.advance(written);
    }
    // TLS may hold back what the socket did not take.
    timeout(stall, io.flush())
        .await
        .unwrap_or_else(|_| stalled())
}

fn stalled() -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer takes no data",
    ))
}
