//! The writing half of a connection: takes queued frames in batches and writes each batch with one
//! vectored write where the kernel takes it. Long bodies go in parts, in turns, and short frames go
//! before the next parts; on the control lane a request waits for the earlier ones of its kind.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::Lane;
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
/// Frames that wait behind long bodies; beyond it the queue is not read, and its bounds hold the callers
/// back.
const WAITING_FRAMES: usize = 1024;

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
    /// Of a request whose kind has an order.
    kind: Option<u16>,
    rest: Bytes,
    share: Option<OwnedSemaphorePermit>,
}

/// What is being sent.
struct Sending {
    encoder: FrameEncoder,
    batch: WriteBatch,
    /// Whether requests of one kind keep their order, so that a short one waits for a long one. Raft's
    /// pipelined appends need it (openraft, `stream_append`): one that overtakes another meets a log
    /// without its predecessor, and the follower answers with a conflict. Only the control lane, where
    /// they go, pays for that.
    ordered: bool,
    /// Long bodies in turns, and frames whose turn has not begun.
    open: VecDeque<OpenBody>,
    waiting: VecDeque<Outgoing>,
    /// The shares of the queue that are free once the batch is written, given back in one.
    shares: Option<OwnedSemaphorePermit>,
    has_ping: bool,
}

impl Sending {
    fn has_bodies(&self) -> bool {
        !(self.open.is_empty() && self.waiting.is_empty())
    }

    /// What a request is to be kept in order with.
    fn order_of(&self, header: &FrameHeader) -> Option<u16> {
        (self.ordered && header.frame_type == FrameType::Request).then_some(header.kind)
    }

    /// Whether a body of this kind is being sent.
    fn is_open(&self, kind: Option<u16>) -> bool {
        kind.is_some() && self.open.iter().any(|body| body.kind == kind)
    }

    /// Whether an earlier request of this kind has not been sent in full.
    fn is_behind(&self, kind: Option<u16>) -> bool {
        let waits = |f: &Outgoing| self.order_of(&f.header) == kind;
        self.is_open(kind) || (kind.is_some() && self.waiting.iter().any(waits))
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
            let behind = || self.is_behind(self.order_of(&frame.header));
            if frame.body.len() > PART_BYTES || behind() {
                self.waiting.push_back(frame);
            } else if frame.in_time(now) {
                self.send_whole(frame)?;
            }
        }
        self.take_turns(now)
    }

    /// Gives a share back with the batch. All of them are of the queue that this writer empties.
    fn give_back(&mut self, share: Option<OwnedSemaphorePermit>) {
        match (&mut self.shares, share) {
            (Some(shares), Some(share)) => shares.merge(share),
            (none @ None, share) => *none = share,
            (Some(_), None) => {}
        }
    }

    /// A frame with its body.
    fn send_whole(&mut self, frame: Outgoing) -> Result<(), FrameError> {
        self.give_back(frame.share);
        let batch = &mut self.batch;
        self.encoder
            .encode(frame.header, &frame.meta, frame.body, batch)
    }

    /// The first frame that waits for nothing but its turn.
    fn next_waiting(&mut self) -> Option<Outgoing> {
        if self.open.len() >= MAX_OPEN_BODIES {
            // Not even a short one: a long one of its kind may be among those before it.
            return None;
        }
        let free = |f: &Outgoing| !self.is_open(self.order_of(&f.header));
        let at = self.waiting.iter().position(free)?;
        self.waiting.remove(at)
    }

    /// Begins a frame that has waited; whether it went out whole.
    fn begin(&mut self, mut frame: Outgoing, now: Instant) -> Result<bool, FrameError> {
        if !frame.in_time(now) {
            return Ok(false);
        }
        if frame.body.len() <= PART_BYTES {
            self.send_whole(frame)?;
            return Ok(true);
        }
        let length = frame.body.len();
        let batch = &mut self.batch;
        self.encoder
            .announce(frame.header, &frame.meta, length, batch)?;
        self.open.push_back(OpenBody {
            correlation: frame.header.correlation,
            kind: self.order_of(&frame.header),
            rest: frame.body,
            share: frame.share,
        });
        Ok(false)
    }

    /// A part of each open body in turn, until the batch is long enough. One at least: short frames
    /// that fill every batch would starve the long ones.
    fn take_turns(&mut self, now: Instant) -> Result<(), FrameError> {
        let mut turned = false;
        while !turned || self.batch.pending() < BATCH_BYTES {
            let full = self.batch.pending() >= BATCH_BYTES;
            if (self.open.is_empty() || !full)
                && let Some(frame) = self.next_waiting()
            {
                turned |= self.begin(frame, now)?;
                continue;
            }
            let Some(mut body) = self.open.pop_front() else {
                break;
            };
            turned = true;
            let part = body.rest.split_to(PART_BYTES.min(body.rest.len()));
            let mut header = FrameHeader::new(0, FrameType::Part);
            header.correlation = body.correlation;
            self.encoder
                .encode(header, &Bytes::new(), part, &mut self.batch)?;
            if body.rest.is_empty() {
                self.give_back(body.share);
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
    lane: Lane,
    pulse: &Pulse,
    stall: Duration,
) -> io::Result<()> {
    let mut frames = Vec::new();
    let moved = Moved::new("out");
    let mut sending = Sending {
        encoder,
        batch: WriteBatch::default(),
        ordered: lane == Lane::Control,
        open: VecDeque::new(),
        waiting: VecDeque::new(),
        shares: None,
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
        let room = WAITING_FRAMES.saturating_sub(sending.waiting.len());
        while frames.len() < BATCH_FRAMES.min(room) {
            let Ok(frame) = queue.try_recv() else { break };
            frames.push(frame);
        }
        sending.fill(&mut frames).map_err(io::Error::other)?;
        sending.batch.close_segment();
        let mark = std::mem::take(&mut sending.has_ping).then(|| pulse.mark());
        write_batch(&mut io, &mut sending.batch, stall, &moved).await?;
        sending.shares = None;
        if let Some(mark) = mark {
            pulse.pinged(mark);
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
        let written = within(stall, io.write_vectored(slices)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        moved.by(written);
        batch.advance(written);
    }
    // TLS may hold back what the socket did not take.
    within(stall, io.flush()).await
}

/// What `writing` comes to, if the peer takes data within `stall`. Mostly the kernel takes it at once, and no
/// clock is looked at.
async fn within<T>(stall: Duration, writing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut writing = pin!(writing);
    match poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
        Poll::Ready(written) => written,
        Poll::Pending => timeout(stall, writing).await.unwrap_or_else(|_| stalled()),
    }
}

fn stalled<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer takes no data",
    ))
}
