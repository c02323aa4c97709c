//! An outgoing connection: the calls that wait for their answers on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{Lane, PeerIdentity, RpcError, RpcRequest, RpcResponse, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use super::answers::AnswerReader;
use super::bodies::{is_compressed_first, outgoing_body};
use super::dial::Shaken;
use super::lifecycle::{Phase, Shared, lock};
use super::metrics::{self, ConnectionGauge};
use super::reader::{FrameReader, Pulse};
use super::writer::{Outgoing, write_loop};
use crate::frame::{FrameDecoder, FrameEncoder, FrameHeader, FrameType, lane_limit};
use crate::handshake::Established;

pub(super) type Answer = Result<RpcResponse, RpcError>;
/// A place among the pending calls, a share of the queue's bytes, a place in the queue.
type Entry<'a> = (
    SemaphorePermit<'a>,
    OwnedSemaphorePermit,
    mpsc::Permit<'a, Outgoing>,
);

/// Calls that wait for their answers.
#[derive(Debug)]
pub(super) struct Pending {
    /// `None` once the connection is of no use for new calls.
    pub(super) next_id: Option<u32>,
    /// It takes no more calls because one of the sides said so, not because it broke.
    pub(super) in_order: bool,
    pub(super) calls: BTreeMap<u32, oneshot::Sender<Answer>>,
}

/// The calling side of a connection; it closes when the last clone of its `Arc` is dropped.
pub(super) struct Connection {
    peer: PeerIdentity,
    lane: Lane,
    opened: Instant,
    queue: mpsc::Sender<Outgoing>,
    pending: Arc<Mutex<Pending>>,
    /// Calls that are pending or wait to be.
    admitted: Semaphore,
    /// Calls that are pending.
    slots: Semaphore,
    /// Bytes in the send queue.
    bytes: Arc<Semaphore>,
    compress: bool,
}

/// Takes a call out of the pending ones however its future ends, and tells the peer if it was given
/// up.
struct PendingCall<'a> {
    connection: &'a Connection,
    id: u32,
    /// Whether it may be among the pending ones still.
    is_out: bool,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if !self.is_out {
            return;
        }
        let given_up = lock(&self.connection.pending).calls.remove(&self.id);
        if given_up.is_some() {
            // Best effort: without it the peer gives up at the deadline.
            let cancel = Outgoing::bare(FrameType::Cancel, self.id);
            let _told = self.connection.queue.try_send(cancel).is_ok();
        }
    }
}

impl Connection {
    /// Starts the connection's task on the current runtime.
    pub(super) fn start(
        shared: &Arc<Shared>,
        shaken: Shaken,
        alive: mpsc::Sender<()>,
    ) -> Arc<Self> {
        let limits = shared.limits().clone();
        let Shaken {
            link,
            established,
            buffer,
            ..
        } = shaken;
        let Established {
            peer,
            lane,
            version,
            keys,
            abilities,
            ..
        } = established;
        let (send, receive) = keys.map(|keys| keys.seals()).unzip();
        let max = lane_limit(lane);
        let (queue, frames) = mpsc::channel(limits.send_queue_frames);
        let pending = Arc::new(Mutex::new(Pending {
            next_id: Some(1),
            in_order: false,
            calls: BTreeMap::new(),
        }));
        let connection = Arc::new(Self {
            peer: peer.clone(),
            lane,
            opened: Instant::now(),
            queue: queue.clone(),
            pending: Arc::clone(&pending),
            admitted: Semaphore::new(limits.max_pending_calls + limits.max_waiting_calls),
            slots: Semaphore::new(limits.max_pending_calls),
            bytes: Arc::new(Semaphore::new(limits.send_queue_bytes)),
            compress: shared.compresses(lane, abilities),
        });
        let shared = Arc::clone(shared);
        let queue = queue.downgrade();
        let span = tracing::debug_span!(
            "conn", peer = %peer.name, lane = lane.name(), carrier = link.carrier(), direction = "out"
        );
        let running = async move {
            let _alive = alive;
            let _gauge = ConnectionGauge::new(lane, "out", link.carrier());
            let pulse = Pulse::new();
            let (read, write) = link.split();
            let encoder = FrameEncoder::new(version, max, send);
            let reader = FrameReader::new(read, FrameDecoder::new(version, max, receive), buffer);
            let mut answers = AnswerReader::new(&shared, &peer.name, lane, &pending);
            let (reason, ended) = tokio::select! {
                end = write_loop(write, encoder, frames, lane, &pulse, limits.write_stall) => {
                    end.map_or_else(|e| ("io", e.to_string()), |()| ("unused", String::new()))
                }
                end = answers.read(reader, &pulse, &queue) => end,
                () = shared.reached(Phase::Closed) => ("shutdown", String::new()),
            };
            metrics::disconnected("out", reason);
            tracing::debug!(peer = %peer.name, lane = lane.name(), "connection ended ({reason}): {ended}");
            let mut pending = lock(&pending);
            pending.next_id = None;
            // Dropping the senders is how the callers learn of it.
            pending.calls.clear();
        };
        tokio::spawn(running.instrument(span));
        connection
    }

    pub(super) const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Whether a new call may use it.
    pub(super) fn usable(&self) -> bool {
        lock(&self.pending).next_id.is_some()
    }

    /// Whether it was given up in order.
    pub(super) fn ended_in_order(&self) -> bool {
        lock(&self.pending).in_order
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    fn overloaded(&self) -> RpcError {
        let peer = self.peer.name.clone();
        RpcError::Overloaded { peer }
    }

    fn gone(&self) -> RpcError {
        RpcError::Unreachable {
            peer: self.peer.name.clone(),
            reason: "the connection has just been closed".to_owned(),
        }
    }

    /// Makes one call; gives up at `deadline`. `Unreachable` means that nothing was sent.
    pub(super) async fn call(&self, request: RpcRequest, deadline: Instant, span: &Span) -> Answer {
        let _admitted = self.admitted.try_acquire().map_err(|_| self.overloaded())?;
        let (body, compressed) = if is_compressed_first(&request.body, self.compress) {
            // The threads that compress may be busy: nothing has been sent then.
            let ready = timeout_at(deadline, outgoing_body(request.body, self.compress));
            Box::pin(ready).await.map_err(|_| self.overloaded())?
        } else {
            (request.body, false)
        };
        let length = request.meta.len() + body.len();
        let share = u32::try_from(length).map_err(|_| self.overloaded())?;
        let (_slot, share, place) = match self.enter_now(share) {
            // What waits is boxed: most calls need not carry its state.
            Err(RpcError::Overloaded { .. }) if self.lane != Lane::Control => {
                Box::pin(self.enter(share, deadline)).await?
            }
            entered => entered?,
        };
        let (answered, answer) = oneshot::channel();
        let id = self.register(answered).ok_or_else(|| self.gone())?;
        span.record("correlation", id);
        let mut call = PendingCall {
            connection: self,
            id,
            is_out: true,
        };
        let mut header = FrameHeader::new(0, FrameType::Request);
        header.kind = request.kind.0;
        header.correlation = id;
        header.compressed = compressed;
        place.send(Outgoing {
            header,
            meta: request.meta,
            body,
            deadline: Some(deadline),
            share: Some(share),
        });
        let peer = || self.peer.name.clone();
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => {
                call.is_out = false;
                answer
            }
            Ok(Err(_)) => Err(RpcError::ConnectionLost { peer: peer() }),
            Err(_) => Err(RpcError::Timeout {
                peer: peer(),
                waited: request.deadline,
            }),
        }
    }

    /// A place among the pending calls and in the send queue, if there is one now. On the control lane a
    /// call that cannot go out now is of no use later (Raft sends a newer one instead), so it never waits.
    fn enter_now(&self, share: u32) -> Result<Entry<'_>, RpcError> {
        let slot = self.slots.try_acquire().map_err(|_| self.overloaded())?;
        let share = Arc::clone(&self.bytes)
            .try_acquire_many_owned(share)
            .map_err(|_| self.overloaded())?;
        match self.queue.try_reserve() {
            Ok(place) => Ok((slot, share, place)),
            Err(mpsc::error::TrySendError::Full(())) => Err(self.overloaded()),
            Err(mpsc::error::TrySendError::Closed(())) => Err(self.gone()),
        }
    }

    /// Waits for such a place.
    async fn enter(&self, share: u32, deadline: Instant) -> Result<Entry<'_>, RpcError> {
        let bytes = Arc::clone(&self.bytes);
        let entry = async {
            let slot = self.slots.acquire().await;
            let share = bytes.acquire_many_owned(share).await;
            (slot, share, self.queue.reserve().await)
        };
        match timeout_at(deadline, entry).await {
            Ok((Ok(slot), Ok(share), Ok(place))) => Ok((slot, share, place)),
            Ok(_) => Err(self.gone()),
            Err(_) => Err(self.overloaded()),
        }
    }

    /// An id is used once: when they run out the connection is retired, so that a late answer can
    /// never meet another call.
    fn register(&self, answered: oneshot::Sender<Answer>) -> Option<u32> {
        let mut pending = lock(&self.pending);
        let id = pending.next_id?;
        pending.next_id = id.checked_add(1);
        pending.calls.insert(id, answered);
        Some(id)
    }
}

/// Why a request of this size cannot go out on its lane, if so.
pub(super) fn check_size(request: &RpcRequest) -> Result<(), RpcError> {
    let too_large = |length, max| {
        let lane = request.lane;
        Err(RpcError::TooLarge { length, max, lane })
    };
    if request.meta.len() > limits::MAX_RPC_META_BYTES {
        return too_large(request.meta.len(), limits::MAX_RPC_META_BYTES);
    }
    let length = request.meta.len().saturating_add(request.body.len());
    let max = lane_limit(request.lane);
    if length > max {
        return too_large(length, max);
    }
    Ok(())
}
