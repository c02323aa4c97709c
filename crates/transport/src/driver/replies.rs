//! The way of answers back to the caller.

use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::{RpcError, RpcResponse};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::bodies::{is_compressed_first, outgoing_body};
use super::writer::Outgoing;
use crate::answer::{FailedAnswer, encode_failure};
use crate::frame::{FrameEncoder, FrameType};

/// A frame's share of the queue's bytes. An answer that has been checked is shorter than this can say.
fn length_of(frame: &Outgoing) -> Option<u32> {
    u32::try_from(frame.meta.len() + frame.body.len()).ok()
}

/// The way back to the caller.
pub(super) struct Replies {
    pub(super) queue: mpsc::Sender<Outgoing>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) max_payload: usize,
    pub(super) compress: bool,
}

impl Replies {
    /// Queues an answer; drops it when the queue has no room before the caller's deadline. Says whether it had
    /// to wait.
    pub(super) async fn send(
        &self,
        correlation: u32,
        result: Result<RpcResponse, RpcError>,
        deadline: Instant,
    ) -> bool {
        let mut waited = false;
        let (frame_type, meta, body) = self.encode(result);
        let mut frame = Outgoing::bare(frame_type, correlation);
        (frame.meta, frame.body) = (meta, body);
        if is_compressed_first(&frame.body, self.compress) {
            let ready = outgoing_body(std::mem::take(&mut frame.body), self.compress);
            let Ok((body, compressed)) = Box::pin(timeout_at(deadline, ready)).await else {
                return true;
            };
            (frame.body, frame.header.compressed) = (body, compressed);
            waited = true;
        }
        if let Some(frame) = self.queue_now(frame) {
            Box::pin(self.queue_by(deadline, frame)).await;
            waited = true;
        }
        waited
    }

    /// Queues a frame, or gives it back if there is no room now.
    fn queue_now(&self, mut frame: Outgoing) -> Option<Outgoing> {
        let Ok(place) = self.queue.try_reserve() else {
            return Some(frame);
        };
        let share = Arc::clone(&self.bytes).try_acquire_many_owned(length_of(&frame)?);
        let Ok(share) = share else {
            return Some(frame);
        };
        frame.share = Some(share);
        place.send(frame);
        None
    }

    /// Queues a frame when there is room; drops it when there is none before `deadline`.
    async fn queue_by(&self, deadline: Instant, mut frame: Outgoing) {
        let Some(length) = length_of(&frame) else {
            return;
        };
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

    /// There is no memory for a request; it is not run.
    pub(super) fn refuse_overloaded(&self, correlation: u32) {
        self.refuse(correlation, &FailedAnswer::Overloaded);
    }

    /// A request is not run.
    pub(super) fn refuse(&self, correlation: u32, why: &FailedAnswer) {
        let mut frame = Outgoing::bare(FrameType::Failure, correlation);
        frame.meta = encode_failure(why).unwrap_or_default();
        // Without it the caller waits for its deadline.
        let _sent = self.queue.try_send(frame).is_ok();
    }

    /// No request after `last` will be run.
    pub(super) fn go_away(&self, last: u32) {
        let frame = Outgoing::bare(FrameType::GoAway, last);
        // Without it the caller learns the same from the end of the connection, and cannot be sure.
        let _sent = self.queue.try_send(frame).is_ok();
    }

    /// A sign of life. Not queued when the queue is full: then other frames are one.
    pub(super) fn pong(&self) {
        let _sent = self
            .queue
            .try_send(Outgoing::bare(FrameType::Pong, 0))
            .is_ok();
    }
}
