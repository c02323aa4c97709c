//! The writing half of a connection: takes queued frames in batches and writes each batch with one
//! vectored write where the kernel takes it. Long bodies go in parts, in turns, and short frames go
//! before the next parts.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use super::metrics::Moved;
use super::reader::Pulse;
use crate::error::FrameError;
use crate::frame::{
    FrameEncoder, FrameHeader, FrameType, MAX_OPEN_BODIES, MAX_SLICES, PART_BYTES, WriteBatch,
};

/// Most frames taken from the queue at once.
const BATCH_FRAMES: usize = 256;
/// Parts are added to a batch up to this length: what a short frame waits for at most, apart from what
/// the kernel holds.
const BATCH_BYTES: usize = 4 * PART_BYTES;

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

    /// Writes what is left of the budget into the header; `false` when nothing is.
    fn in_time(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.deadline else {
            return true;
        };
        let left = deadline.saturating_duration_since(now).as_millis();
        self.header.budget_ms = u32::try_from(left).unwrap_or(u32::MAX);
        left > 0
    }
}

/// A body of which parts are still to be sent.
struct OpenBody {
    correlation: u32,
    rest: Bytes,
    share: Option<OwnedSemaphorePermit>,
}

/// What is being sent.
struct Sending {
    encoder: FrameEncoder,
    batch: WriteBatch,
    /// Long bodies in turns, and those whose turn has not begun.
    open: VecDeque<OpenBody>,
    waiting: VecDeque<Outgoing>,
    /// Shares of the queue that are free once the batch is written.
    shares: Vec<OwnedSemaphorePermit>,
    has_ping: bool,
}

impl Sending {
    fn has_bodies(&self) -> bool {
        !(self.open.is_empty() && self.waiting.is_empty())
    }

    /// Makes the next batch.
    fn fill(&mut self, frames: &mut Vec<Outgoing>) -> Result<(), FrameError> {
        let now = Instant::now();
        for mut frame in frames.drain(..) {
            let correlation = frame.header.correlation;
            match frame.header.frame_type {
                FrameType::Ping => self.has_ping = true,
                FrameType::Cancel => {
                    self.open.retain(|body| body.correlation != correlation);
                    let waits = |f: &Outgoing| f.header.correlation == correlation;
                    self.waiting.retain(|frame| !waits(frame));
                }
                FrameType::Handshake
                | FrameType::Request
                | FrameType::Response
                | FrameType::Failure
                | FrameType::Pong
                | FrameType::Part
                | FrameType::GoAway => {}
            }
            if frame.body.len() > PART_BYTES {
                self.waiting.push_back(frame);
            } else if frame.in_time(now) {
                self.shares.extend(frame.share);
                let batch = &mut self.batch;
                self.encoder
                    .encode(frame.header, &frame.meta, frame.body, batch)?;
            }
        }
        self.take_turns(now)
    }

    /// A part of each open body in turn, until the batch is long enough.
    fn take_turns(&mut self, now: Instant) -> Result<(), FrameError> {
        while self.batch.pending() < BATCH_BYTES {
            if self.open.len() < MAX_OPEN_BODIES
                && let Some(mut frame) = self.waiting.pop_front()
            {
                if frame.in_time(now) {
                    let length = frame.body.len();
                    let batch = &mut self.batch;
                    self.encoder
                        .announce(frame.header, &frame.meta, length, batch)?;
                    self.open.push_back(OpenBody {
                        correlation: frame.header.correlation,
                        rest: frame.body,
                        share: frame.share,
                    });
                }
                continue;
            }
            let Some(mut body) = self.open.pop_front() else {
                break;
            };
            let part = body.rest.split_to(PART_BYTES.min(body.rest.len()));
            let mut header = FrameHeader::new(0, FrameType::Part);
            header.correlation = body.correlation;
            self.encoder
                .encode(header, &Bytes::new(), part, &mut self.batch)?;
            if body.rest.is_empty() {
                self.shares.extend(body.share);
            } else {
                self.open.push_back(body);
            }
        }
        Ok(())
    }
}

/// Writes frames until the queue is closed and empty, then shuts the direction down. Fails when the
/// socket does, or takes nothing for `stall`.
pub(super) async fn write_loop<W: AsyncWrite + Unpin>(
    mut io: W,
    encoder: FrameEncoder,
    mut queue: mpsc::Receiver<Outgoing>,
    pulse: &Pulse,
    stall: Duration,
) -> io::Result<()> {
    let mut frames = Vec::new();
    let moved = Moved::new("out");
    let mut sending = Sending {
        encoder,
        batch: WriteBatch::default(),
        open: VecDeque::new(),
        waiting: VecDeque::new(),
        shares: Vec::new(),
        has_ping: false,
    };
    loop {
        if !sending.has_bodies() {
            if queue.recv_many(&mut frames, BATCH_FRAMES).await == 0 {
                return timeout(stall, io.shutdown())
                    .await
                    .unwrap_or_else(|_| stalled());
            }
            // Callers that were woken together queue their frames one after another. Letting them go
            // first makes one write of what would else be one write each: a third of the processor
            // time at 256 calls in flight.
            tokio::task::yield_now().await;
        }
        while frames.len() < BATCH_FRAMES {
            let Ok(frame) = queue.try_recv() else { break };
            frames.push(frame);
        }
        sending.fill(&mut frames).map_err(io::Error::other)?;
        sending.batch.close_segment();
        write_batch(&mut io, &mut sending.batch, stall, &moved).await?;
        sending.shares.clear();
        if std::mem::take(&mut sending.has_ping) {
            pulse.pinged();
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    io: &mut W,
    batch: &mut WriteBatch,
    stall: Duration,
    moved: &Moved,
) -> io::Result<()> {
    while !batch.is_empty() {
        let mut room = [IoSlice::new(&[]); MAX_SLICES];
        let slices = batch.slices(&mut room);
        let written = match timeout(stall, io.write_vectored(slices)).await {
            Ok(result) => result?,
            Err(_) => return stalled(),
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        moved.by(written);
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
