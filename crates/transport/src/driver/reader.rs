//! Frames from a socket, and how long it has been silent.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::metrics::Moved;
use crate::error::FrameError;
use crate::frame::{Frame, FrameDecoder};

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("closed by the peer")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// Cuts frames from `io`.
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    decoder: FrameDecoder,
    last_read: Instant,
    moved: Moved,
}

/// Frames that are taken one after another before other connections have their turn, and the owner of this
/// one looks at what else it has to do. Of every type: a cancellation costs a look at all that is in flight.
pub(super) const FRAMES_IN_A_ROW: usize = 64;

/// A buffer with more room than this is given back when the connection rests.
const RESTING_BYTES: usize = 32 * 1024;

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(io: R, decoder: FrameDecoder, buffer: BytesMut) -> Self {
        Self {
            io,
            buffer,
            decoder,
            last_read: Instant::now(),
            moved: Moved::new("in"),
        }
    }

    /// Gives the buffer's memory back if nothing is in it.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > RESTING_BYTES {
            self.buffer = BytesMut::new();
        }
    }

    /// A frame that has come in already.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.decode(&mut self.buffer)
    }

    /// The next frame. Cancel-safe: what has been read stays in the buffer. Bytes that arrive clear
    /// `pulse`.
    pub(super) async fn next(&mut self, pulse: Option<&Pulse>) -> Result<Frame, ReadError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.buffer.reserve(self.decoder.room(&self.buffer));
            let read = self.io.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return Err(ReadError::Closed);
            }
            self.last_read = Instant::now();
            if let Some(pulse) = pulse {
                pulse.heard_at(self.last_read);
                self.moved.by(read);
            }
        }
    }

    /// When bytes last arrived: the latest moment at which the newest frame can have been sent.
    pub(super) const fn last_read(&self) -> Instant {
        self.last_read
    }

    /// The other direction of the same socket.
    pub(super) const fn io_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// The socket, and bytes that were read and not yet decoded.
    pub(super) fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }
}

/// Whether the peer still shows signs of life. The reader and the writer share it.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    /// Microseconds since `origin` of the last byte received.
    heard_at: AtomicU64,
    /// Microseconds since `origin` (at least 1) when a ping that nothing has followed left; 0 = none.
    pinged_at: AtomicU64,
    /// Microseconds (at least 1) from the last such ping to what followed it; 0 = taken.
    round_trip: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            heard_at: AtomicU64::new(0),
            pinged_at: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
        }
    }

    fn at(&self, moment: Instant) -> u64 {
        let since = moment.duration_since(self.origin);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Bytes arrived; or reading resumes after a pause of our own, which says nothing about the peer.
    pub(super) fn heard(&self) {
        self.heard_at(Instant::now());
    }

    /// The same at a moment that is known already, for those who look at the clock anyway.
    pub(super) fn heard_at(&self, moment: Instant) {
        let now = self.at(moment).max(1);
        self.heard_at.store(now, Ordering::Relaxed);
        let pinged = self.pinged_at.load(Ordering::Relaxed);
        if pinged != 0 {
            self.pinged_at.store(0, Ordering::Relaxed);
            let took = now.saturating_sub(pinged).max(1);
            self.round_trip.store(took, Ordering::Relaxed);
        }
    }

    /// The time from the last ping to what followed it, once.
    pub(super) fn take_round_trip(&self) -> Option<Duration> {
        let took = self.round_trip.swap(0, Ordering::Relaxed);
        (took != 0).then(|| Duration::from_micros(took))
    }

    /// Now, for [`Self::pinged`]; never what it is before anything was heard.
    pub(super) fn mark(&self) -> u64 {
        self.now().max(1)
    }

    /// A ping has left for the kernel, in a batch whose writing began at `mark`. What was heard since then
    /// may be its answer: to wait for another would call a quiet and healthy peer dead.
    pub(super) fn pinged(&self, mark: u64) {
        if self.heard_at.load(Ordering::Relaxed) < mark {
            self.pinged_at.store(self.mark(), Ordering::Relaxed);
        }
    }

    pub(super) fn silent_for(&self) -> Duration {
        let heard = self.heard_at.load(Ordering::Relaxed);
        Duration::from_micros(self.now().saturating_sub(heard))
    }

    /// How long a ping has been out with nothing heard since. Counted from when the ping left our
    /// queue, so that our own slow bulk transfer does not look like a dead peer.
    pub(super) fn unanswered_for(&self) -> Duration {
        match self.pinged_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_micros(self.now().saturating_sub(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_heard_while_the_ping_was_being_written_counts() {
        let pulse = Pulse::new();
        let silent = |pulse: &Pulse| !pulse.unanswered_for().is_zero();
        let step = Duration::from_millis(1);
        pulse.pinged(pulse.mark());
        tokio::time::advance(step).await;
        assert!(silent(&pulse), "nothing has ever been heard");
        pulse.heard();
        assert!(!silent(&pulse));
        tokio::time::advance(step).await;
        let mark = pulse.mark();
        // The pong comes before the writer knows that all of its batch is out.
        pulse.heard();
        tokio::time::advance(step).await;
        pulse.pinged(mark);
        tokio::time::advance(step).await;
        assert!(!silent(&pulse));
        pulse.pinged(pulse.mark());
        tokio::time::advance(step).await;
        assert!(silent(&pulse));
    }
}
