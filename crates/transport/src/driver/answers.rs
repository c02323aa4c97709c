//! The reading half of an outgoing connection: answers to their callers, and when to stop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{Lane, NodeName, Rng, RpcError, RpcResponse};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::bodies::{Received, received_body};
use super::client::{Answer, Pending};
use super::lifecycle::{Shared, lock};
use super::link::ReadSide;
use super::memory::{Held, Memory};
use super::metrics;
use super::reader::{FRAMES_IN_A_ROW, FrameReader, Pulse, ReadError};
use super::writer::Outgoing;
use crate::answer::decode_answer;
use crate::error::FrameError;
use crate::frame::{Assembler, Frame, FrameType, lane_limit};

/// Why a connection ended: a name for the metric, and the details.
type Ended = (&'static str, String);

/// Hands answers to their callers.
pub(super) struct AnswerReader<'a> {
    shared: Arc<Shared>,
    peer: &'a NodeName,
    lane: Lane,
    pending: &'a Mutex<Pending>,
    memory: Memory,
    bodies: Assembler<Held>,
    /// No new calls from then on.
    retire_at: Instant,
    /// The next id when a call was last seen, and when that was.
    used: (Option<u32>, Instant),
}

impl<'a> AnswerReader<'a> {
    pub(super) fn new(
        shared: &Arc<Shared>,
        peer: &'a NodeName,
        lane: Lane,
        pending: &'a Mutex<Pending>,
    ) -> Self {
        let age = shared.limits().max_connection_age;
        let now = Instant::now();
        // Up to a tenth less, so that connections made together do not end together.
        let jitter = u64::try_from(age.as_micros() / 10).unwrap_or(u64::MAX);
        let jitter = Rng::new(shared.entropy.next_u64()).below(jitter.saturating_add(1));
        Self {
            shared: Arc::clone(shared),
            peer,
            lane,
            pending,
            memory: Memory::of(shared, lane),
            bodies: Assembler::default(),
            retire_at: now + age.saturating_sub(Duration::from_micros(jitter)),
            used: (None, now),
        }
    }

    /// Reads until the connection fails or is of no use any more; says why.
    pub(super) async fn read(
        &mut self,
        mut reader: FrameReader<ReadSide>,
        pulse: &Pulse,
        queue: &mpsc::WeakSender<Outgoing>,
    ) -> Ended {
        let limits = self.shared.limits().clone();
        // Two looks per ping interval, so that a dead peer is noticed soon after `dead_after`.
        let mut ticker = interval(limits.ping_interval / 2);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_ping = Instant::now();
        let mut load = metrics::Load::of(self.peer.as_str(), self.lane);
        let mut in_a_row = 0;
        loop {
            let come = if in_a_row >= FRAMES_IN_A_ROW {
                in_a_row = 0;
                yield_now().await;
                Ok(None)
            } else {
                reader.buffered()
            };
            in_a_row += 1;
            let frame = match come {
                Ok(Some(frame)) => Ok(frame),
                Err(e) => Err(ReadError::Frame(e)),
                Ok(None) => tokio::select! {
                    frame = reader.next(Some(pulse)) => frame,
                    _ = ticker.tick() => {
                        if pulse.unanswered_for() > limits.dead_after - limits.ping_interval {
                            return ("silent", "no sign of life".to_owned());
                        }
                        if let Some(took) = pulse.take_round_trip() {
                            metrics::round_trip(self.peer.as_str(), took);
                        }
                        let due = last_ping.elapsed() >= limits.ping_interval;
                        if due && pulse.unanswered_for().is_zero() {
                            last_ping = Instant::now();
                            // A full queue is itself something the peer must answer or the writer stalls on.
                            if let Some(queue) = queue.upgrade() {
                                let ping = Outgoing::bare(FrameType::Ping, 0);
                                let _sent = queue.try_send(ping).is_ok();
                            }
                        }
                        self.release_unawaited();
                        let queued = queue
                            .upgrade()
                            .map_or(0, |queue| queue.max_capacity() - queue.capacity());
                        load.is(lock(self.pending).calls.len(), queued);
                        self.shared.note_memory();
                        reader.rest();
                        if let Some(ended) = self.retire() {
                            return ended;
                        }
                        continue;
                    }
                },
            };
            let taken = match frame {
                Ok(frame) => self.take(frame, pulse).await,
                Err(ReadError::Closed) => return ("closed", String::new()),
                Err(ReadError::Io(e)) => return ("io", e.to_string()),
                Err(ReadError::Frame(e)) => Err(e),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(error) => {
                    metrics::frame_rejected(error.name());
                    return ("protocol", error.to_string());
                }
            }
        }
    }

    /// Gives back the memory of long answers that nobody waits for any more: every call has a deadline, so
    /// that a peer which announces an answer and sends no parts holds nothing beyond it.
    fn release_unawaited(&mut self) {
        let pending = lock(self.pending);
        self.bodies
            .release(|header, _| !pending.calls.contains_key(&header.correlation));
    }

    /// Ends the connection in order when it is old, or has not been used for long.
    fn retire(&mut self) -> Option<Ended> {
        let now = Instant::now();
        let mut pending = lock(self.pending);
        if pending.next_id != self.used.0 || !pending.calls.is_empty() {
            self.used = (pending.next_id, now);
        }
        let idle = now.duration_since(self.used.1) >= self.shared.limits().idle_timeout;
        if idle || now >= self.retire_at {
            // Whoever comes now finds it closed, and dials anew.
            pending.next_id = None;
            pending.in_order = true;
        }
        (pending.next_id.is_none() && pending.calls.is_empty())
            .then(|| ("retired", if idle { "idle" } else { "old" }.to_owned()))
    }

    async fn take(&mut self, frame: Frame, pulse: &Pulse) -> Result<Option<Ended>, FrameError> {
        let id = frame.header.correlation;
        match frame.header.frame_type {
            FrameType::Pong => return Ok(None),
            FrameType::Response if frame.header.in_parts => {
                self.announced(frame, pulse).await?;
                return Ok(None);
            }
            FrameType::Response if frame.header.compressed => {
                Box::pin(self.respond(frame, None)).await?;
            }
            FrameType::Response => {
                let (meta, body) = (frame.meta, frame.body);
                return Ok(self.deliver(id, Ok(RpcResponse { meta, body })));
            }
            FrameType::Part => {
                if let Some((frame, held)) = self.bodies.part(&frame)? {
                    Box::pin(self.respond(frame, Some(held))).await?;
                }
            }
            FrameType::Failure => {
                return Ok(self.deliver(id, Err(decode_answer(self.peer, &frame.meta))));
            }
            FrameType::GoAway => self.went_away(id),
            other @ (FrameType::Handshake
            | FrameType::Request
            | FrameType::Cancel
            | FrameType::Ping) => {
                return Ok(Some(("protocol", format!("unexpected {other:?} frame"))));
            }
        }
        Ok(done(&lock(self.pending)))
    }

    /// Takes memory for a long answer that is to come.
    async fn announced(&mut self, frame: Frame, pulse: &Pulse) -> Result<(), FrameError> {
        let id = frame.header.correlation;
        let awaited = lock(self.pending).calls.contains_key(&id);
        let mut held = None;
        if awaited {
            let length = usize::try_from(frame.header.body_len).unwrap_or(usize::MAX);
            held = self.memory.for_body(length, self.bodies.is_empty()).await;
            // While we did not read, its silence was our doing.
            pulse.heard();
            if held.is_none() {
                self.no_memory(id);
            }
        }
        self.bodies.begin(frame, held)
    }

    async fn respond(&self, frame: Frame, held: Option<Held>) -> Result<(), FrameError> {
        let id = frame.header.correlation;
        match received_body(frame, &self.memory, lane_limit(self.lane)).await? {
            Received::Plain(frame, more) => {
                let (meta, body) = (frame.meta, frame.body);
                self.deliver(id, Ok(RpcResponse { meta, body }));
                drop((held, more));
            }
            Received::NoMemory(_) => self.no_memory(id),
        }
        Ok(())
    }

    /// The peer has run the request; only its answer finds no room.
    fn no_memory(&self, id: u32) {
        let failed = RpcError::AnswerFailed {
            peer: self.peer.clone(),
            reason: "there is no memory left for its answer".to_owned(),
        };
        self.deliver(id, Err(failed));
    }

    /// Hands an answer to its caller; says why the connection is of no use any more, if it is not.
    fn deliver(&self, id: u32, answer: Answer) -> Option<Ended> {
        let mut pending = lock(self.pending);
        let caller = pending.calls.remove(&id);
        let done = done(&pending);
        drop(pending);
        let delivered = caller.is_some_and(|caller| caller.send(answer).is_ok());
        if !delivered {
            metrics::late_response();
        }
        done
    }

    /// The peer takes no more calls here, and has not run those after `last`.
    fn went_away(&self, last: u32) {
        let mut pending = lock(self.pending);
        pending.next_id = None;
        pending.in_order = true;
        let not_run = match last.checked_add(1) {
            Some(first) => pending.calls.split_off(&first),
            None => return,
        };
        drop(pending);
        for caller in not_run.into_values() {
            let _told = caller.send(Err(RpcError::Unreachable {
                peer: self.peer.clone(),
                reason: "it is shutting down and has not run the call".to_owned(),
            }));
        }
    }
}

/// Whether nobody waits for an answer, and nobody will.
fn done(pending: &Pending) -> Option<Ended> {
    (pending.next_id.is_none() && pending.calls.is_empty())
        .then(|| ("retired", "the peer goes away".to_owned()))
}
