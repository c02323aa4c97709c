//! What waits for the leader's quota.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use rivven_core_types::{BrokerId, MonoTime, PartitionId};

use crate::driver::session::Session;
use crate::driver::throttle::Throttle;

/// Reads that were put off, longest waiting first: whoever has had his turn is behind the others.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    queue: VecDeque<(PartitionId, Weak<Session>)>,
    /// One each, so that this is bounded by what the sessions hold.
    queued: BTreeSet<(PartitionId, BrokerId)>,
}

impl PutOff {
    pub(super) fn push(&mut self, partition: PartitionId, session: &Arc<Session>) {
        if self.queued.insert((partition, session.broker)) {
            self.queue.push_back((partition, Arc::downgrade(session)));
        }
    }

    /// Makes all of them ready again once the quota grants something.
    pub(super) fn resume(&mut self, throttle: &Throttle, now: MonoTime) {
        if self.queue.is_empty() || throttle.available(now) == 0 {
            return;
        }
        self.queued.clear();
        for (partition, session) in self.queue.drain(..) {
            if let Some(session) = session.upgrade() {
                session.push(partition);
            }
        }
    }
}
