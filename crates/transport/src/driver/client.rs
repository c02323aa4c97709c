//! An outgoing connection: the calls that wait for their answers on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{Lane, NodeName, PeerIdentity, RpcError, RpcRequest, RpcResponse, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::dial::Shaken;
use super::lifecycle::{Phase, Shared, lock};
use super::link::ReadSide;
use super::metrics::{self, ConnectionGauge};
use super::reader::{FrameReader, Pulse, ReadError};
use super::writer::{Outgoing, write_loop};
use crate::answer::decode_answer;
use crate::config::TransportLimits;
use crate::frame::{Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameType, lane_limit};
use crate::handshake::Established;

type Answer = Result<RpcResponse, RpcError>;
/// A place among the pending calls, a share of the queue's bytes, a place in the queue.
type Entry<'a> = (
    SemaphorePermit<'a>,
    OwnedSemaphorePermit,
    mpsc::Permit<'a, Outgoing>,
);

/// Calls that wait for their answers.
#[derive(Debug)]
struct Pending {
    /// `None` once the connection is of no use for new calls.
    next_id: Option<u32>,
    calls: BTreeMap<u32, oneshot::Sender<Answer>>,
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
}

/// Takes a call out of the pending ones however its future ends, and tells the peer if it was given
/// up.
struct PendingCall<'a> {
    connection: &'a Connection,
    id: u32,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
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
        } = shaken;
        let Established {
            peer,
            lane,
            version,
            keys,
        } = established;
        let (send, receive) = keys.map(|keys| keys.seals()).unzip();
        let max = lane_limit(lane);
        let (queue, frames) = mpsc::channel(limits.send_queue_frames);
        let pending = Arc::new(Mutex::new(Pending {
            next_id: Some(1),
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
        });
        let shared = Arc::clone(shared);
        let queue = queue.downgrade();
        tokio::spawn(async move {
            let _alive = alive;
            let _gauge = ConnectionGauge::new(lane, "out");
            let pulse = Pulse::new();
            let (read, write) = link.split();
            let encoder = FrameEncoder::new(version, max, send);
            let reader = FrameReader::new(read, FrameDecoder::new(version, max, receive), buffer);
            let ended = tokio::select! {
                end = write_loop(write, encoder, frames, &pulse, limits.write_stall) => {
                    end.map_or_else(|e| e.to_string(), |()| "no longer used".to_owned())
                }
                end = read_answers(reader, &peer.name, &pending, &pulse, &queue, &limits) => end,
                () = shared.reached(Phase::Closed) => "shut down".to_owned(),
            };
            tracing::debug!(peer = %peer.name, lane = lane.name(), "connection ended: {ended}");
            let mut pending = lock(&pending);
            pending.next_id = None;
            // Dropping the senders is how the callers learn of it.
            pending.calls.clear();
        });
        connection
    }

    pub(super) const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Whether a new call may use it.
    pub(super) fn usable(&self) -> bool {
        lock(&self.pending).next_id.is_some()
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
    pub(super) async fn call(&self, request: RpcRequest, deadline: Instant) -> Answer {
        let length = request.meta.len() + request.body.len();
        let _admitted = self.admitted.try_acquire().map_err(|_| self.overloaded())?;
        let share = u32::try_from(length).map_err(|_| self.overloaded())?;
        let (_slot, share, place) = self.enter(share, deadline).await?;
        let (answered, answer) = oneshot::channel();
        let id = self.register(answered).ok_or_else(|| self.gone())?;
        let _pending = PendingCall {
            connection: self,
            id,
        };
        let mut header = FrameHeader::new(0, FrameType::Request);
        header.kind = request.kind.0;
        header.correlation = id;
        place.send(Outgoing {
            header,
            meta: request.meta,
            body: request.body,
            deadline: Some(deadline),
            share: Some(share),
        });
        let peer = || self.peer.name.clone();
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RpcError::ConnectionLost { peer: peer() }),
            Err(_) => Err(RpcError::Timeout {
                peer: peer(),
                waited: request.deadline,
            }),
        }
    }

    /// Waits for a place among the pending calls and in the send queue. On the control lane a call
    /// that cannot go out now is of no use later (Raft sends a newer one instead), so it never waits.
    async fn enter(&self, share: u32, deadline: Instant) -> Result<Entry<'_>, RpcError> {
        let bytes = Arc::clone(&self.bytes);
        if self.lane == Lane::Control {
            let slot = self.slots.try_acquire().map_err(|_| self.overloaded())?;
            let share = bytes
                .try_acquire_many_owned(share)
                .map_err(|_| self.overloaded())?;
            return match self.queue.try_reserve() {
                Ok(place) => Ok((slot, share, place)),
                Err(mpsc::error::TrySendError::Full(())) => Err(self.overloaded()),
                Err(mpsc::error::TrySendError::Closed(())) => Err(self.gone()),
            };
        }
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

/// Hands answers to their callers until the connection fails; says why it did.
async fn read_answers(
    mut reader: FrameReader<ReadSide>,
    peer: &NodeName,
    pending: &Mutex<Pending>,
    pulse: &Pulse,
    queue: &mpsc::WeakSender<Outgoing>,
    limits: &TransportLimits,
) -> String {
    // Two looks per ping interval, so that a dead peer is noticed soon after `dead_after`.
    let mut ticker = interval(limits.ping_interval / 2);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_ping = Instant::now();
    loop {
        let frame = tokio::select! {
            frame = reader.next(Some(pulse)) => frame,
            _ = ticker.tick() => {
                if pulse.unanswered_for() > limits.dead_after - limits.ping_interval {
                    return "no sign of life".to_owned();
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
                continue;
            }
        };
        match frame {
            Ok(frame) => {
                if let Err(reason) = take_answer(frame, peer, pending) {
                    return reason;
                }
            }
            Err(e @ (ReadError::Closed | ReadError::Io(_) | ReadError::Frame(_))) => {
                return e.to_string();
            }
        }
    }
}

fn take_answer(frame: Frame, peer: &NodeName, pending: &Mutex<Pending>) -> Result<(), String> {
    let answer = match frame.header.frame_type {
        FrameType::Pong => return Ok(()),
        FrameType::Response => Ok(RpcResponse {
            meta: frame.meta,
            body: frame.body,
        }),
        FrameType::Failure => Err(decode_answer(peer, &frame.meta)),
        other @ (FrameType::Handshake
        | FrameType::Request
        | FrameType::Cancel
        | FrameType::Ping) => return Err(format!("unexpected {other:?} frame")),
    };
    let caller = lock(pending).calls.remove(&frame.header.correlation);
    let delivered = caller.is_some_and(|caller| caller.send(answer).is_ok());
    if !delivered {
        metrics::late_response();
    }
    Ok(())
}
