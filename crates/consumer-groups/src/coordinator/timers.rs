//! The coordinator's timers. A session's timer is set once and looks, when it fires, whether the
//! session has been renewed meanwhile: a heartbeat touches no timer.

use std::collections::BTreeMap;

use rivven_core_types::MonoTime;

use crate::epoch::Epoch;
use crate::ids::{GroupId, MemberId};

/// What is due.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    /// A member may have been silent for too long.
    Session(GroupId, MemberId),
    /// A member should have given its partitions up, if it still is at this epoch.
    Revocation(GroupId, MemberId, Epoch),
    /// A barrier, a plan or a sync may be due.
    Group(GroupId),
}

/// Timers by time, then in the order in which they were set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<(MonoTime, u64), Timer>,
    set: u64,
}

impl Timers {
    pub(super) fn at(&mut self, time: MonoTime, timer: Timer) {
        self.set += 1;
        self.queue.insert((time, self.set), timer);
    }

    pub(super) fn next(&self) -> Option<MonoTime> {
        self.queue.first_key_value().map(|((time, _), _)| *time)
    }

    /// The next timer that is due by `now`.
    pub(super) fn pop(&mut self, now: MonoTime) -> Option<Timer> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
