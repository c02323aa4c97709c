//! The accepting side: one task per connection that answers its requests.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{BoxFuture, Lane, PeerIdentity, Reply, RpcHandler, RpcKind, RpcRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tracing::Instrument as _;
use tracing::instrument::Instrumented;

use super::bodies::{Received, received_body};
#[cfg(feature = "tls")]
use super::certificates::Judge;
use super::client::Answer;
use super::dial::Shaken;
use super::flight::Flight;
use super::lifecycle::{Phase, Shared};
use super::link::ReadSide;
use super::memory::{Held, Memory};
use super::metrics::{self, ConnectionGauge, Served, ServedHere};
use super::reader::{FRAMES_IN_A_ROW, FrameReader, Pulse, ReadError};
use super::replies::Replies;
use super::writer::{Outgoing, write_loop};
use crate::answer::{FailedAnswer, encode_failure};
use crate::error::FrameError;
use crate::frame::{
    Assembler, Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameType, lane_limit,
};
use crate::handshake::Established;

/// Why a connection is no longer served.
enum Ended {
    /// Lost, closed, or in breach of the protocol: a name for the metric, and the details.
    Closed(&'static str, String),
    /// The requests in flight at shutdown have been answered.
    Drained,
}

/// Answers the requests of one connection.
pub(super) struct Serve {
    pub(super) shared: Arc<Shared>,
    pub(super) handler: Arc<dyn RpcHandler>,
    pub(super) peer: PeerIdentity,
}

impl Serve {
    pub(super) async fn run(
        self,
        shaken: Shaken,
        _permit: OwnedSemaphorePermit,
        _alive: mpsc::Sender<()>,
    ) {
        let Shaken {
            mut link,
            established,
            buffer,
            ..
        } = shaken;
        let Established {
            lane,
            version,
            keys,
            abilities,
            ..
        } = established;
        if let Err(e) = link.unpark() {
            tracing::warn!(peer = %self.peer.name, "lost a connection: {e}");
            return;
        }
        #[cfg(feature = "tls")]
        let mut judge = Judge::new(&self.shared, link.chain());
        let mut objection = || -> Option<String> {
            #[cfg(feature = "tls")]
            return judge.objection(&self.shared);
            #[cfg(not(feature = "tls"))]
            None
        };
        let limits = self.shared.limits();
        let carrier = link.carrier();
        let _gauge = ConnectionGauge::new(lane, "in", carrier);
        let (send, receive) = keys.map(|keys| keys.seals()).unzip();
        let (read, write) = link.split();
        let max = lane_limit(lane);
        let (queue, frames) = mpsc::channel(limits.send_queue_frames);
        let pulse = Pulse::new();
        let encoder = FrameEncoder::new(version, max, send);
        let writer = write_loop(write, encoder, frames, lane, &pulse, limits.write_stall);
        tokio::pin!(writer);
        let answers = Arc::new(Replies {
            queue,
            bytes: Arc::new(Semaphore::new(limits.send_queue_bytes)),
            max_payload: max,
            compress: self.shared.compresses(lane, abilities),
        });
        // It lives until the last answer is out: on QUIC a dropped reader tells the peer to stop sending,
        // which would end its connection before it has read them.
        let mut reader = FrameReader::new(read, FrameDecoder::new(version, max, receive), buffer);
        let span = tracing::debug_span!(
            "conn", peer = %self.peer.name, lane = lane.name(), carrier, direction = "in"
        );
        let served = self.serve_requests(&mut reader, lane, &answers, &pulse, &mut objection);
        let served = served.instrument(span);
        let ended = tokio::select! {
            end = &mut writer => {
                Ended::Closed("io", end.map_or_else(|e| e.to_string(), |()| String::new()))
            }
            ended = served => ended,
            () = self.shared.reached(Phase::Closed) => Ended::Closed("shutdown", String::new()),
        };
        match ended {
            Ended::Closed(reason, details) => {
                metrics::disconnected("in", reason);
                tracing::debug!(peer = %self.peer.name, lane = lane.name(), reason, "closed: {details}");
            }
            Ended::Drained => {
                metrics::disconnected("in", "drained");
                // The queue closes with its last sender; the writer then flushes and hangs up.
                drop(answers);
                tokio::select! {
                    _flushed = &mut writer => {}
                    () = self.shared.reached(Phase::Closed) => {}
                }
            }
        }
    }

    /// Reads and answers requests. All futures of the handler die with this one.
    async fn serve_requests(
        &self,
        reader: &mut FrameReader<ReadSide>,
        lane: Lane,
        answers: &Arc<Replies>,
        pulse: &Pulse,
        objection: &mut (dyn FnMut() -> Option<String> + Send),
    ) -> Ended {
        let limits = self.shared.limits();
        let mut flight = Flight::new(limits.max_in_flight_requests);
        let mut here = Here {
            lane,
            memory: Memory::of(&self.shared, lane),
            times: ServedHere::on(lane),
            now: Instant::now(),
            in_a_row: 0,
        };
        let mut bodies = Bodies::default();
        let mut ticker = interval(limits.ping_interval);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let draining = self.shared.reached(Phase::Draining);
        tokio::pin!(draining);
        loop {
            // What has come in already needs no look at anything else, until it is the others' turn: a peer
            // that sends on and on would put off a shutdown for ever.
            let come = if here.in_a_row >= FRAMES_IN_A_ROW {
                here.in_a_row = 0;
                yield_now().await;
                here.now = Instant::now();
                Ok(None)
            } else {
                reader.buffered()
            };
            here.in_a_row += 1;
            let frame = match come {
                Ok(Some(frame)) => Ok(frame),
                Err(e) => Err(ReadError::Frame(e)),
                Ok(None) => tokio::select! {
                    // The frames come last, as they may be there always; and once the peer has been told that
                    // no more requests are run, none may be.
                    biased;
                    () = &mut draining => {
                        // What has been read is answered; the caller is told that the rest was not run. A body
                        // that is half-read and older than a request that has run needs to be told apart: by
                        // its number alone the caller would wait for an answer that never comes.
                        for id in bodies.half_read().filter(|id| *id <= flight.last) {
                            answers.refuse(id, &FailedAnswer::Shutdown);
                        }
                        answers.go_away(flight.last);
                        flight.land().await;
                        return Ended::Drained;
                    }
                    _ = ticker.tick() => {
                        // The caller pings far more often than this.
                        if pulse.silent_for() > limits.dead_after {
                            return Ended::Closed("silent", "no sign of life".to_owned());
                        }
                        if let Some(objection) = objection() {
                            tracing::warn!(peer = %self.peer.name, "closed a connection: {objection}");
                            return Ended::Closed("untrusted", objection);
                        }
                        // A member that announces bodies and sends no parts holds memory up to its own deadline.
                        let now = Instant::now();
                        bodies.release(|header, (_, received)| {
                            let over = deadline_of(header, *received) <= now;
                            if over {
                                metrics::request_expired(RpcKind(header.kind));
                            }
                            over
                        });
                        self.shared.note_memory();
                        reader.rest();
                        continue;
                    }
                    frame = reader.next(Some(pulse)) => frame,
                },
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(ReadError::Closed) => return Ended::Closed("closed", String::new()),
                Err(ReadError::Io(e)) => return Ended::Closed("io", e.to_string()),
                Err(ReadError::Frame(e)) => return broken(&e),
            };
            let received = reader.last_read();
            let request = match self.assemble(frame, received, answers, &mut bodies, &mut flight) {
                Ok(Heard::Nothing) => continue,
                Ok(Heard::Announced(frame)) => {
                    let announced = announce(frame, received, answers, &here.memory, &mut bodies);
                    let announced = announced.await;
                    here.now = Instant::now();
                    pulse.heard_at(here.now);
                    self.shared.note_memory();
                    match announced {
                        Ok(()) => continue,
                        Err(e) => return broken(&e),
                    }
                }
                Ok(Heard::Request(request)) => request,
                Err(ended) => return ended,
            };
            let alone = bodies.is_empty();
            here.now = here.now.max(received);
            let dispatched = self.dispatch(request, alone, answers, &mut here, &mut flight);
            if let Err(e) = dispatched.await {
                return broken(&e);
            }
            // While we did not read, its silence was our doing.
            pulse.heard_at(here.now);
        }
    }

    /// What a frame means; a part is put to its body.
    fn assemble(
        &self,
        frame: Frame,
        received: Instant,
        answers: &Replies,
        bodies: &mut Bodies,
        flight: &mut Flight,
    ) -> Result<Heard, Ended> {
        let foreign = || Ended::Closed("cluster", "it belongs to another cluster".to_owned());
        let correlation = frame.header.correlation;
        match frame.header.frame_type {
            FrameType::Request if self.is_foreign() => Err(foreign()),
            FrameType::Request if frame.header.in_parts => Ok(Heard::Announced(frame)),
            FrameType::Request => Ok(Heard::Request(Incoming {
                frame,
                held: None,
                received,
            })),
            FrameType::Part => match bodies.part(&frame) {
                Ok(None) => Ok(Heard::Nothing),
                Ok(Some(_)) if self.is_foreign() => Err(foreign()),
                Ok(Some((frame, (held, received)))) => Ok(Heard::Request(Incoming {
                    frame,
                    held: Some(held),
                    received,
                })),
                Err(e) => Err(broken(&e)),
            },
            FrameType::Cancel => {
                bodies.forget(correlation);
                flight.cancel(correlation);
                metrics::request_cancelled();
                Ok(Heard::Nothing)
            }
            FrameType::Ping => {
                answers.pong();
                Ok(Heard::Nothing)
            }
            FrameType::Pong => Ok(Heard::Nothing),
            other @ (FrameType::Handshake
            | FrameType::Response
            | FrameType::Failure
            | FrameType::GoAway) => Err(Ended::Closed(
                "protocol",
                format!("unexpected {other:?} frame"),
            )),
        }
    }

    /// This node was blank when the peer came, and has joined another cluster since.
    fn is_foreign(&self) -> bool {
        matches!(
            (self.shared.cluster(), self.peer.cluster),
            (Some(ours), Some(theirs)) if ours != theirs
        )
    }

    /// Runs a request. `alone` says that no body of this connection is half-read.
    async fn dispatch(
        &self,
        request: Incoming,
        alone: bool,
        answers: &Arc<Replies>,
        here: &mut Here,
        flight: &mut Flight,
    ) -> Result<(), FrameError> {
        let Incoming {
            frame,
            held,
            received,
        } = request;
        let (lane, memory) = (here.lane, &here.memory);
        flight.last = flight.last.max(frame.header.correlation);
        let (frame, more) = if frame.header.compressed {
            match Box::pin(received_body(frame, memory, lane_limit(lane))).await? {
                Received::Plain(frame, more) => {
                    here.now = Instant::now();
                    (frame, more)
                }
                Received::NoMemory(frame) => {
                    answers.refuse_overloaded(frame.header.correlation);
                    return Ok(());
                }
            }
        } else {
            (frame, None)
        };
        let kind = RpcKind(frame.header.kind);
        let correlation = frame.header.correlation;
        let deadline = deadline_of(&frame.header, received);
        let began = here.now;
        let left = deadline.saturating_duration_since(began);
        if left.is_zero() {
            metrics::request_expired(kind);
            return Ok(());
        }
        // What came in parts or compressed has its memory already.
        let mut length = match (&held, &more) {
            (None, None) => frame.meta.len() + frame.body.len(),
            _ => 0,
        };
        let mut ahead = None;
        if !alone {
            // A wait for memory could be one for what the half-read bodies hold, whose parts nobody reads
            // meanwhile. So it is taken now, or the request is not run.
            ahead = memory.try_hold(length);
            if ahead.is_none() {
                answers.refuse_overloaded(correlation);
                return Ok(());
            }
            length = 0;
        }
        let request = RpcRequest {
            kind,
            lane,
            meta: frame.meta,
            body: frame.body,
            deadline: left,
        };
        let times = here.times.of(kind);
        times.begun(began.duration_since(received));
        let span = tracing::debug_span!(
            "rpc.server", peer = %self.peer.name, kind = kind.name(), lane = lane.name(), correlation
        );
        match span.in_scope(|| self.handler.handle(&self.peer, request)) {
            Reply::Now(result) => {
                here.now = Instant::now();
                times.answered(here.now.duration_since(began));
                if answers.send(correlation, result, deadline).await {
                    here.now = Instant::now();
                }
            }
            Reply::Later(answer) => {
                let times = Arc::clone(times);
                let permits = match room(length, memory, flight) {
                    None => {
                        here.in_a_row = FRAMES_IN_A_ROW;
                        let permits = self.permits(length, deadline, answers, memory, flight);
                        Box::pin(permits).await
                    }
                    there => there,
                };
                here.now = Instant::now();
                let Some(permits) = permits else {
                    metrics::request_expired(kind);
                    return Ok(());
                };
                let later = Later {
                    answers: Arc::clone(answers),
                    times,
                    kind,
                    correlation,
                    began,
                    deadline,
                };
                let holds = (permits, held, more, ahead);
                flight.start(correlation, async move {
                    later.answer(answer.instrument(span)).await;
                    drop(holds);
                });
            }
        }
        Ok(())
    }

    /// Room for one more request in flight; nothing is read meanwhile, so that TCP holds the peer
    /// back. The peer is told that we are alive; at shutdown, that this request is the last. The room may
    /// come too late to tell it then, and the peer would not know which of the others were run. The caller
    /// must not run another before it has looked for a shutdown.
    async fn permits(
        &self,
        length: usize,
        deadline: Instant,
        answers: &Replies,
        memory: &Memory,
        flight: &Flight,
    ) -> Option<(OwnedSemaphorePermit, Option<Held>)> {
        let room = async {
            let request = Arc::clone(&flight.requests).acquire_owned().await.ok()?;
            let held = match length {
                0 => None,
                _ => Some(memory.hold(length).await?),
            };
            Some((request, held))
        };
        let told = async {
            self.shared.reached(Phase::Draining).await;
            answers.go_away(flight.last);
            pending().await
        };
        let wait = async {
            tokio::select! {
                room = room => room,
                never = told => never,
            }
        };
        tokio::pin!(wait);
        loop {
            let step = self.shared.limits().ping_interval;
            if let Ok(permits) = timeout(step, &mut wait).await {
                return permits;
            }
            if Instant::now() >= deadline {
                return None;
            }
            answers.pong();
        }
    }
}

/// A request whose answer a task waits for.
struct Later {
    answers: Arc<Replies>,
    times: Arc<Served>,
    kind: RpcKind,
    correlation: u32,
    began: Instant,
    deadline: Instant,
}

impl Later {
    /// Runs a handler's future to its answer, or to the deadline.
    async fn answer(self, answer: Instrumented<BoxFuture<'static, Answer>>) {
        match timeout_at(self.deadline, answer).await {
            Ok(result) => {
                self.times.answered(self.began.elapsed());
                let answers = &self.answers;
                answers.send(self.correlation, result, self.deadline).await;
            }
            Err(_) => metrics::request_expired(self.kind),
        }
    }
}

impl Drop for Later {
    /// Tells the caller if the handler panics, so that it need not wait for its deadline.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failed = FailedAnswer::Failed("the handler panicked".to_owned());
            if let Ok(meta) = encode_failure(&failed) {
                let mut frame = Outgoing::bare(FrameType::Failure, self.correlation);
                frame.meta = meta;
                let _sent = self.answers.queue.try_send(frame).is_ok();
            }
        }
    }
}

/// Room for one more request in flight, if it is there.
fn room(
    length: usize,
    memory: &Memory,
    flight: &Flight,
) -> Option<(OwnedSemaphorePermit, Option<Held>)> {
    let request = Arc::clone(&flight.requests).try_acquire_owned().ok()?;
    let held = match length {
        0 => None,
        _ => Some(memory.try_hold(length)?),
    };
    Some((request, held))
}

/// When the caller of a request that began to come at `received` gives it up.
fn deadline_of(header: &FrameHeader, received: Instant) -> Instant {
    received + Duration::from_millis(u64::from(header.budget_ms))
}

fn broken(error: &FrameError) -> Ended {
    metrics::frame_rejected(error.name());
    Ended::Closed("protocol", error.to_string())
}

/// What the requests of one connection share.
struct Here {
    lane: Lane,
    memory: Memory,
    times: ServedHere,
    /// When the request at hand was looked at: when the bytes came that completed it, or when the one before
    /// it was done with, so that a request costs one look at the clock.
    now: Instant,
    /// Frames since others had their turn. Once a request had to wait, it is theirs.
    in_a_row: usize,
}

/// A request that has come in whole.
struct Incoming {
    frame: Frame,
    /// The memory of a body that came in parts.
    held: Option<Held>,
    /// When it began to come: its budget runs from then.
    received: Instant,
}

/// Bodies in parts: the memory of each, and when it was announced.
type Bodies = Assembler<(Held, Instant)>;

/// What a frame means to the serving side.
enum Heard {
    /// Nothing more to do.
    Nothing,
    /// A request whose body comes in parts.
    Announced(Frame),
    /// A whole request.
    Request(Incoming),
}

/// Takes memory for a body that is to come; without it the request is refused and its parts dropped.
async fn announce(
    frame: Frame,
    received: Instant,
    answers: &Replies,
    memory: &Memory,
    bodies: &mut Bodies,
) -> Result<(), FrameError> {
    let length = usize::try_from(frame.header.body_len).unwrap_or(usize::MAX);
    let held = memory.for_body(length, bodies.is_empty()).await;
    if held.is_none() {
        answers.refuse_overloaded(frame.header.correlation);
    }
    bodies.begin(frame, held.map(|held| (held, received)))
}
