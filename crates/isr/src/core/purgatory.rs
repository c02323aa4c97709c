//! Writes that wait for an offset, ordered by that offset.

use std::collections::VecDeque;

use rivven_core_types::{MonoTime, Offset, planted};

/// A caller's handle of a waiting write.
pub type AckId = u64;

/// A write that waits until an end reaches `required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The caller's handle.
    pub(crate) id: AckId,
    /// The offset after its last record.
    pub(crate) required: Offset,
    /// The offset of its first record.
    pub(crate) base: Offset,
    /// When it began to wait.
    pub(crate) since: MonoTime,
    /// When it stops waiting.
    pub(crate) deadline: MonoTime,
}

/// Writes ordered by required offset, so that completing costs only what completes.
#[derive(Debug, Default)]
pub(crate) struct Purgatory {
    queue: VecDeque<Waiting>,
    /// Not later than the earliest deadline in the queue.
    next_deadline: Option<MonoTime>,
}

impl Purgatory {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds a write. Appends arrive in order; only a duplicate goes further to the front.
    pub(crate) fn insert(&mut self, waiting: Waiting) {
        let at = self
            .queue
            .partition_point(|other| other.required <= waiting.required);
        self.queue.insert(at, waiting);
        self.next_deadline = Some(
            self.next_deadline
                .map_or(waiting.deadline, |next| next.min(waiting.deadline)),
        );
    }

    /// Takes out the next write that needs no more than `reached` (an exclusive end).
    pub(crate) fn pop_reached(&mut self, reached: Offset) -> Option<Waiting> {
        let front = self.queue.front()?;
        let reached = if planted("isr.acks-one-record-early") {
            reached.checked_add(1).unwrap_or(reached)
        } else {
            reached
        };
        (front.required <= reached).then(|| self.queue.pop_front())?
    }

    /// Takes out the writes whose deadline has passed.
    pub(crate) fn expire(&mut self, now: MonoTime) -> VecDeque<Waiting> {
        if self.next_deadline.is_none_or(|next| next > now) {
            return VecDeque::new();
        }
        let (expired, kept): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|w| w.deadline <= now);
        self.queue = kept;
        self.next_deadline = self.queue.iter().map(|w| w.deadline).min();
        expired
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> VecDeque<Waiting> {
        self.next_deadline = None;
        std::mem::take(&mut self.queue)
    }
}
