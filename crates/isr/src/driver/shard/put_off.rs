//! What waits for the leader's quota.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use rivven_core_types::{BrokerId, MonoTime, PartitionId};

use crate::driver::session::Session;
use crate::driver::throttle::Throttle;

/// Most reads that one tick makes ready. The first of them may use up what there is, and the others
/// are put off again: a tick's work must not grow with the backlog.
const RESUMED_PER_TICK: usize = 64;

/// Reads that were put off, longest waiting first: whoever has had his turn is behind the others.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    queue: VecDeque<(PartitionId, BrokerId)>,
    /// One each, so that this is bounded by what the sessions hold.
    waiting: BTreeMap<(PartitionId, BrokerId), Weak<Session>>,
}

impl PutOff {
    /// Puts a read off. A session that has replaced another takes its place, also in the queue.
    /// Returns whether none of this broker waited.
    pub(super) fn push(&mut self, partition: PartitionId, session: &Arc<Session>) -> bool {
        let key = (partition, session.broker);
        let before = self.waiting.insert(key, Arc::downgrade(session));
        let new = before.is_none();
        if new {
            self.queue.push_back(key);
        }
        new
    }

    /// Whether a read of this broker waits.
    pub(super) fn has(&self, partition: PartitionId, broker: BrokerId) -> bool {
        self.waiting.contains_key(&(partition, broker))
    }

    /// Makes some of them ready again once the quota grants something.
    pub(super) fn resume(&mut self, throttle: &Throttle, now: MonoTime) {
        if self.queue.is_empty() || throttle.available(now) == 0 {
            return;
        }
        let count = self.queue.len().min(RESUMED_PER_TICK);
        for key in self.queue.drain(..count) {
            wake(self.waiting.remove(&key), key.0);
        }
    }

    /// Makes the read of a replica that is not to wait any more ready at once.
    pub(super) fn release(&mut self, partition: PartitionId, broker: BrokerId) {
        let key = (partition, broker);
        if let Some(session) = self.waiting.remove(&key) {
            self.queue.retain(|queued| *queued != key);
            wake(Some(session), partition);
        }
    }
}

fn wake(session: Option<Weak<Session>>, partition: PartitionId) {
    if let Some(session) = session.and_then(|s| s.upgrade()) {
        session.push(partition);
    }
}
