//! The accepting side: the accept loop, and one task per connection that answers its requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, PeerIdentity, Reply, RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::admission::Door;
#[cfg(feature = "tls")]
use super::certificates::Judge;
use super::dial::{Shaken, respond, secure_incoming};
use super::lifecycle::{Phase, Shared};
use super::link::ReadSide;
use super::metrics::{self, ConnectionGauge};
use super::reader::{FrameReader, Pulse};
use super::socket;
use super::writer::{Outgoing, write_loop};
use crate::answer::{FailedAnswer, encode_failure};
use crate::error::HandshakeError;
use crate::frame::{Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameType, lane_limit};
use crate::handshake::Established;

/// Pauses after a failed accept (no file descriptors left, say), which would otherwise spin.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until shutdown.
pub(super) async fn accept_loop(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    handler: Arc<dyn RpcHandler>,
    alive: mpsc::Sender<()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!("cannot accept connections: {e}");
            return;
        }
    };
    let door = Door::default();
    let connections = Arc::new(Semaphore::new(shared.limits().max_connections));
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE_MIN;
                let place = door.admit(remote.ip(), shared.limits());
                let permit = Arc::clone(&connections).try_acquire_owned();
                // Both are taken before anything is spawned or read.
                let (Some(place), Ok(permit)) = (place, permit) else {
                    metrics::handshake_failed("too_many_connections");
                    if shared.may_warn("too_many_connections") {
                        tracing::warn!(address = %remote, "too many connections; closed this one");
                    }
                    continue;
                };
                let (shared, handler) = (Arc::clone(&shared), Arc::clone(&handler));
                let alive = alive.clone();
                tokio::spawn(async move {
                    let welcomed = welcome(&shared, stream, remote).await;
                    drop(place);
                    if let Some(shaken) = welcomed {
                        let runtime = shared.runtime(shaken.established.lane).clone();
                        let serve = Serve {
                            shared,
                            handler,
                            peer: shaken.established.peer.clone(),
                        };
                        runtime.spawn(serve.run(shaken, permit, alive));
                    }
                });
            }
            Err(e) => {
                if shared.may_warn("accept") {
                    tracing::warn!("cannot accept a connection, trying again in {pause:?}: {e}");
                }
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Shakes hands. The socket comes back without a runtime, for its lane may live on another one.
async fn welcome(shared: &Shared, stream: TcpStream, remote: SocketAddr) -> Option<Shaken> {
    let limits = shared.limits();
    let io = |e: std::io::Error| HandshakeError::Io(e.to_string());
    let shaken = async {
        socket::configure(&stream, limits.write_stall).map_err(io)?;
        let shaken = timeout(limits.handshake_timeout, async {
            respond(shared, secure_incoming(shared, stream).await?).await
        });
        let mut shaken = shaken.await.unwrap_or(Err(HandshakeError::Timeout))?;
        shaken.link.park().map_err(io)?;
        Ok(shaken)
    };
    let shaken = tokio::select! {
        shaken = shaken => shaken,
        () = shared.reached(Phase::Draining) => return None,
    };
    shaken
        .map_err(|error| shared.handshake_failed("accepted", &remote.to_string(), &error))
        .ok()
}

/// Why a connection is no longer served.
enum Ended {
    /// Lost, closed, or in breach of the protocol.
    Closed(String),
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
        } = shaken;
        let Established {
            lane,
            version,
            keys,
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
        let _gauge = ConnectionGauge::new(lane, "in");
        let (send, receive) = keys.map(|keys| keys.seals()).unzip();
        let (read, write) = link.split();
        let max = lane_limit(lane);
        let (queue, frames) = mpsc::channel(limits.send_queue_frames);
        let pulse = Pulse::new();
        let encoder = FrameEncoder::new(version, max, send);
        let writer = write_loop(write, encoder, frames, &pulse, limits.write_stall);
        tokio::pin!(writer);
        let answers = Answers {
            queue,
            bytes: Arc::new(Semaphore::new(limits.send_queue_bytes)),
            max_payload: max,
        };
        let reader = FrameReader::new(read, FrameDecoder::new(version, max, receive), buffer);
        let served = self.serve_requests(reader, lane, &answers, &pulse, &mut objection);
        let ended = tokio::select! {
            end = &mut writer => {
                Ended::Closed(end.map_or_else(|e| e.to_string(), |()| "queue closed".to_owned()))
            }
            ended = served => ended,
            () = self.shared.reached(Phase::Closed) => Ended::Closed("shut down".to_owned()),
        };
        match ended {
            Ended::Closed(reason) => {
                tracing::debug!(peer = %self.peer.name, lane = lane.name(), "closed: {reason}");
            }
            Ended::Drained => {
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
        mut reader: FrameReader<ReadSide>,
        lane: rivven_core_types::Lane,
        answers: &Answers,
        pulse: &Pulse,
        objection: &mut (dyn FnMut() -> Option<String> + Send),
    ) -> Ended {
        let limits = self.shared.limits();
        let mut flight = Flight::new(limits.max_in_flight_requests, limits.max_in_flight_bytes);
        let mut ticker = interval(limits.ping_interval);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let draining = self.shared.reached(Phase::Draining);
        tokio::pin!(draining);
        loop {
            let frame = tokio::select! {
                frame = reader.next(Some(pulse)) => frame,
                _ = ticker.tick() => {
                    // The caller pings far more often than this.
                    if pulse.silent_for() > limits.dead_after {
                        return Ended::Closed("no sign of life".to_owned());
                    }
                    if let Some(objection) = objection() {
                        tracing::warn!(peer = %self.peer.name, "closed a connection: {objection}");
                        return Ended::Closed(objection);
                    }
                    continue;
                }
                () = &mut draining => {
                    flight.land().await;
                    return Ended::Drained;
                }
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => return Ended::Closed(e.to_string()),
            };
            let correlation = frame.header.correlation;
            match frame.header.frame_type {
                FrameType::Request => {
                    if self.is_foreign() {
                        return Ended::Closed("the peer belongs to another cluster".to_owned());
                    }
                    let received = reader.last_read();
                    let dispatched = self.dispatch(frame, lane, received, answers, &mut flight);
                    dispatched.await;
                    // While we did not read, its silence was our doing.
                    pulse.heard();
                }
                FrameType::Cancel => flight.cancel(correlation),
                FrameType::Ping => answers.pong(),
                FrameType::Pong => {}
                other @ (FrameType::Handshake | FrameType::Response | FrameType::Failure) => {
                    return Ended::Closed(format!("unexpected {other:?} frame"));
                }
            }
        }
    }

    /// This node was blank when the peer came, and has joined another cluster since.
    fn is_foreign(&self) -> bool {
        matches!(
            (self.shared.cluster(), self.peer.cluster),
            (Some(ours), Some(theirs)) if ours != theirs
        )
    }

    async fn dispatch(
        &self,
        frame: Frame,
        lane: rivven_core_types::Lane,
        received: Instant,
        answers: &Answers,
        flight: &mut Flight,
    ) {
        let kind = RpcKind(frame.header.kind);
        let correlation = frame.header.correlation;
        let deadline = received + Duration::from_millis(u64::from(frame.header.budget_ms));
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            metrics::request_expired(kind);
            return;
        }
        let length = frame.meta.len() + frame.body.len();
        let request = RpcRequest {
            kind,
            lane,
            meta: frame.meta,
            body: frame.body,
            deadline: left,
        };
        match self.handler.handle(&self.peer, request) {
            Reply::Now(result) => answers.send(correlation, result, deadline).await,
            Reply::Later(answer) => {
                let Some(permits) = self.permits(length, deadline, answers, flight).await else {
                    metrics::request_expired(kind);
                    return;
                };
                let task = later(answer, kind, correlation, deadline, answers.clone());
                flight.start(correlation, async move {
                    task.await;
                    drop(permits);
                });
            }
        }
    }

    /// Room for one more request in flight; nothing is read meanwhile, so that TCP holds the peer
    /// back. The peer is told that we are alive.
    async fn permits(
        &self,
        length: usize,
        deadline: Instant,
        answers: &Answers,
        flight: &Flight,
    ) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let length = u32::try_from(length).ok()?;
        let wait = async {
            let request = Arc::clone(&flight.requests).acquire_owned().await.ok()?;
            let bytes = Arc::clone(&flight.bytes);
            Some((request, bytes.acquire_many_owned(length).await.ok()?))
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

/// Runs a handler's future to its answer, or to the deadline.
async fn later(
    answer: BoxFuture<'static, Result<RpcResponse, RpcError>>,
    kind: RpcKind,
    correlation: u32,
    deadline: Instant,
    answers: Answers,
) {
    /// Tells the caller if the handler panics, so that it need not wait for its deadline.
    struct OnPanic(u32, Answers);
    impl Drop for OnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let failed = FailedAnswer::Failed("the handler panicked".to_owned());
                if let Ok(meta) = encode_failure(&failed) {
                    let mut frame = Outgoing::bare(FrameType::Failure, self.0);
                    frame.meta = meta;
                    let _sent = self.1.queue.try_send(frame).is_ok();
                }
            }
        }
    }
    let on_panic = OnPanic(correlation, answers);
    match timeout_at(deadline, answer).await {
        Ok(result) => on_panic.1.send(correlation, result, deadline).await,
        Err(_) => metrics::request_expired(kind),
    }
}

/// The requests of one connection that are being answered.
struct Flight {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    tasks: JoinSet<()>,
    /// For cancelling; finished ones are swept out now and then.
    running: BTreeMap<u32, AbortHandle>,
    sweep_at: usize,
}

impl Flight {
    fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(max_requests)),
            bytes: Arc::new(Semaphore::new(max_bytes)),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            sweep_at: 2 * max_requests,
        }
    }

    fn start(&mut self, correlation: u32, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        if self.running.len() >= self.sweep_at {
            self.running.retain(|_, task| !task.is_finished());
        }
        let handle = self.tasks.spawn(task);
        self.running.insert(correlation, handle);
    }

    fn cancel(&mut self, correlation: u32) {
        if let Some(task) = self.running.remove(&correlation) {
            task.abort();
        }
    }

    /// Waits for all of them.
    async fn land(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The way back to the caller.
#[derive(Clone)]
struct Answers {
    queue: mpsc::Sender<Outgoing>,
    bytes: Arc<Semaphore>,
    max_payload: usize,
}

impl Answers {
    /// Queues an answer; drops it when the queue has no room before the caller's deadline.
    async fn send(
        &self,
        correlation: u32,
        result: Result<RpcResponse, RpcError>,
        deadline: Instant,
    ) {
        let (frame_type, meta, body) = self.encode(result);
        let mut frame = Outgoing::bare(frame_type, correlation);
        frame.header = FrameHeader {
            correlation,
            ..FrameHeader::new(0, frame_type)
        };
        let Ok(length) = u32::try_from(meta.len() + body.len()) else {
            return;
        };
        (frame.meta, frame.body) = (meta, body);
        let queued = async {
            let bytes = Arc::clone(&self.bytes);
            frame.share = bytes.acquire_many_owned(length).await.ok();
            // A closed queue means that the connection is gone, and the caller knows.
            let _sent = self.queue.send(frame).await.is_ok();
        };
        let _in_time = timeout_at(deadline, queued).await.is_ok();
    }

    fn encode(&self, result: Result<RpcResponse, RpcError>) -> (FrameType, Bytes, Bytes) {
        let failure = match result {
            Ok(RpcResponse { meta, body }) => {
                let encoder = FrameEncoder::new(0, self.max_payload, None);
                match encoder.check(&meta, &body) {
                    Ok(()) => return (FrameType::Response, meta, body),
                    Err(e) => FailedAnswer::Failed(format!("its answer: {e}")),
                }
            }
            Err(error) => FailedAnswer::from_handler(&error),
        };
        let meta = encode_failure(&failure).unwrap_or_default();
        (FrameType::Failure, meta, Bytes::new())
    }

    /// A sign of life. Not queued when the queue is full: then other frames are one.
    fn pong(&self) {
        let _sent = self
            .queue
            .try_send(Outgoing::bare(FrameType::Pong, 0))
            .is_ok();
    }
}
