//! The leader's side of fetch sessions (KIP-227): what each follower has told, and which partitions
//! have something new for it. A fetch costs what has changed and not what there is.
//!
//! A follower names a partition when it stands elsewhere than it last told. The leader reads it at once;
//! if there is nothing, the partition waits until its log grows, which puts it into the queue of the
//! ready. The queue is served first in, first out, so that a busy partition cannot starve the others.
//! What was answered is not read again until the follower names it. Each fetch says which answer arrived
//! last; what was in a lost one becomes ready again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rivven_core_types::{BrokerId, MonoTime, NodeEpoch, PartitionId};
use tokio::sync::Notify;

use super::command::Stand;
use super::protocol::{FetchEntry, FetchHeader};

/// Most partitions that one session remembers.
pub(super) const MAX_SESSION_PARTITIONS: usize = 200_000;

/// A follower's session with this leader. Each broker has one at most: a new one replaces it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) broker: BrokerId,
    pub(super) node_epoch: NodeEpoch,
    id: u64,
    /// The newest fetch; older ones that still wait give way.
    newest: Mutex<Option<u64>>,
    polled_at_nanos: AtomicU64,
    ready: Mutex<Ready>,
    /// Woken when a partition becomes ready, or a newer fetch arrives.
    pub(super) wake: Notify,
    /// Held by the fetch that is being answered.
    pub(super) table: tokio::sync::Mutex<Table>,
}

/// The partitions with something new.
#[derive(Debug, Default)]
struct Ready {
    queue: VecDeque<PartitionId>,
    queued: BTreeSet<PartitionId>,
    /// Those of which only the high watermark has moved: they wait for an occasion.
    quiet: BTreeSet<PartitionId>,
    /// Those that are answered even if there is nothing new, so that they are named again.
    asked: BTreeSet<PartitionId>,
}

/// What the follower has told.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: BTreeMap<PartitionId, Slot>,
    /// The last fetch that was answered, and what with.
    last_answered: u64,
    unheard: Vec<PartitionId>,
    /// What has been taken for reading: if that was broken off, it is ready again.
    reading: Vec<PartitionId>,
    /// When the follower next hears of high watermarks alone.
    next_quiet: MonoTime,
}

#[derive(Debug)]
struct Slot {
    stand: Stand,
    state: SlotState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// Read when it becomes ready.
    Waiting,
    /// Answered; the follower will name it again.
    Answered,
    /// Refused; forgotten once the follower has heard it.
    Refused,
}

/// Why a fetch of a session is refused; nothing has changed. The follower opens a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the fetch session is not known, or has been replaced")]
    Unknown,
    #[error("a newer fetch of the session has arrived")]
    Overtaken,
    #[error("the fetch session would have more than {MAX_SESSION_PARTITIONS} partitions")]
    TooLarge,
}

/// The sessions of all followers.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeMap<BrokerId, Arc<Session>>>);

impl Sessions {
    /// The session of a fetch, opened if the fetch says so. Whoever opens an older session than the one
    /// that there is, or names one that is gone, has to begin anew.
    pub(super) fn of(
        &self,
        broker: BrokerId,
        header: &FetchHeader,
    ) -> Result<Arc<Session>, SessionError> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (header.node_epoch, header.session_id);
        if let Some(session) = sessions.get(&broker) {
            let known = (session.node_epoch, session.id);
            if known == key {
                return Ok(Arc::clone(session));
            }
            if known > key {
                return Err(SessionError::Unknown);
            }
        }
        if header.sequence != 0 {
            return Err(SessionError::Unknown);
        }
        let session = Arc::new(Session {
            broker,
            node_epoch: header.node_epoch,
            id: header.session_id,
            newest: Mutex::default(),
            polled_at_nanos: AtomicU64::new(0),
            ready: Mutex::default(),
            wake: Notify::new(),
            table: tokio::sync::Mutex::default(),
        });
        if let Some(before) = sessions.insert(broker, Arc::clone(&session)) {
            // Whoever still waits in it has been overtaken.
            *before.newest() = Some(u64::MAX);
            before.wake.notify_one();
        }
        Ok(session)
    }
}

impl Session {
    fn newest(&self) -> MutexGuard<'_, Option<u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a fetch has arrived, and makes older ones give way; fails if it is itself an old one.
    pub(super) fn arrive(&self, sequence: u64, now: MonoTime) -> Result<(), SessionError> {
        let mut newest = self.newest();
        if newest.is_some_and(|newest| sequence <= newest) {
            return Err(SessionError::Overtaken);
        }
        *newest = Some(sequence);
        drop(newest);
        self.note_poll(now);
        self.wake.notify_one();
        Ok(())
    }

    /// Whether a newer fetch has arrived.
    pub(super) fn is_overtaken(&self, sequence: u64) -> bool {
        self.newest().is_some_and(|newest| sequence < newest)
    }

    fn note_poll(&self, now: MonoTime) {
        let nanos = u64::try_from(now.since_origin().as_nanos()).unwrap_or(u64::MAX);
        let _before = self.polled_at_nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    /// When the follower last fetched. It then stood with every partition where it had told.
    pub(super) fn polled_at(&self) -> MonoTime {
        let nanos = self.polled_at_nanos.load(Ordering::Relaxed);
        MonoTime::from_origin(std::time::Duration::from_nanos(nanos))
    }

    /// A log has grown, or its role has changed.
    pub(super) fn push(&self, partition: PartitionId) {
        self.queue(partition);
        self.wake.notify_one();
    }

    /// There is more to read, for the next fetch.
    pub(super) fn queue(&self, partition: PartitionId) {
        let mut ready = self.ready();
        if ready.queued.insert(partition) {
            ready.queue.push_back(partition);
        }
    }

    /// The follower is to say anew where it stands.
    pub(super) fn ask(&self, partition: PartitionId) {
        let _new = self.ready().asked.insert(partition);
        self.push(partition);
    }

    /// Whether it is, and notes that it will.
    pub(super) fn take_asked(&self, partition: PartitionId) -> bool {
        self.ready().asked.remove(&partition)
    }

    /// A high watermark has moved.
    pub(super) fn push_quiet(&self, partition: PartitionId) {
        let _new = self.ready().quiet.insert(partition);
    }

    /// How many are ready.
    pub(super) fn ready_count(&self) -> usize {
        self.ready().queue.len()
    }

    /// The ready, longest waiting first.
    fn take_ready(&self, limit: usize) -> Vec<PartitionId> {
        let mut ready = self.ready();
        let count = ready.queue.len().min(limit);
        let taken: Vec<_> = ready.queue.drain(..count).collect();
        for partition in &taken {
            let _was = ready.queued.remove(partition);
        }
        taken
    }

    fn take_quiet(&self, limit: usize) -> Vec<PartitionId> {
        let mut ready = self.ready();
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(partition) = ready.quiet.pop_first()
        {
            taken.push(partition);
        }
        taken
    }
}

impl Table {
    /// Takes what a fetch says. Returns the partitions that it names, in its order.
    pub(super) fn take(
        &mut self,
        session: &Session,
        header: &FetchHeader,
        entries: Vec<FetchEntry>,
    ) -> Result<Vec<PartitionId>, SessionError> {
        for partition in std::mem::take(&mut self.reading) {
            session.queue(partition);
        }
        let heard = header.answered >= self.last_answered;
        for partition in std::mem::take(&mut self.unheard) {
            let Some(slot) = self.slots.get_mut(&partition) else {
                continue;
            };
            if !heard {
                slot.state = SlotState::Waiting;
                session.queue(partition);
            } else if slot.state == SlotState::Refused {
                let _gone = self.slots.remove(&partition);
            }
        }
        if self.slots.len() + entries.len() > MAX_SESSION_PARTITIONS {
            let new = entries
                .iter()
                .filter(|entry| !self.slots.contains_key(&entry.partition));
            if self.slots.len() + new.count() > MAX_SESSION_PARTITIONS {
                return Err(SessionError::TooLarge);
            }
        }
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries {
            let stand = Stand {
                entry,
                session_epoch: header.session_epoch,
            };
            let state = SlotState::Waiting;
            named.push(entry.partition);
            let _before = self.slots.insert(entry.partition, Slot { stand, state });
        }
        Ok(named)
    }

    /// What to read now: the ready that still wait, then those that were just named.
    pub(super) fn take_due(
        &mut self,
        session: &Session,
        named: &mut Vec<PartitionId>,
        limit: usize,
    ) -> Vec<Stand> {
        let mut order = session.take_ready(limit);
        if !named.is_empty() {
            let first: BTreeSet<PartitionId> = order.iter().copied().collect();
            named.retain(|partition| !first.contains(partition));
            order.append(named);
        }
        self.waiting(order)
    }

    /// Those of which only the high watermark has moved.
    pub(super) fn quiet(&mut self, session: &Session, limit: usize) -> Vec<Stand> {
        self.waiting(session.take_quiet(limit))
    }

    fn waiting(&mut self, partitions: Vec<PartitionId>) -> Vec<Stand> {
        let slots = partitions.iter().filter_map(|p| self.slots.get(p));
        let waiting = slots.filter(|slot| slot.state == SlotState::Waiting);
        let stands = waiting.map(|slot| slot.stand).collect();
        self.reading.extend(partitions);
        stands
    }

    /// Whether an answer should also tell of high watermarks alone.
    pub(super) fn is_quiet_due(&self, now: MonoTime) -> bool {
        now >= self.next_quiet
    }

    /// Notes that they are told, and when next.
    pub(super) const fn told_quiet(&mut self, next: MonoTime) {
        self.next_quiet = next;
    }

    /// Notes that what was taken has been read.
    pub(super) fn has_read(&mut self) {
        self.reading.clear();
    }

    /// Notes that a partition is in the answer to come.
    pub(super) fn note_answer(&mut self, partition: PartitionId, refused: bool) {
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.state = if refused {
                SlotState::Refused
            } else {
                SlotState::Answered
            };
            self.unheard.push(partition);
        }
    }

    /// Notes that the answer to a fetch is complete.
    pub(super) const fn finish(&mut self, sequence: u64) {
        self.last_answered = sequence;
    }
}

/// Tells every session that watches a log, and forgets those that are gone.
pub(super) fn tell(watchers: &mut Vec<Weak<Session>>, tell: impl Fn(&Session)) {
    watchers.retain(|watcher| match watcher.upgrade() {
        Some(session) => {
            tell(&session);
            true
        }
        None => false,
    });
}

/// Has a session watch a log, instead of an earlier session of the same broker. A fetch of the earlier
/// one may reach the log last: it changes nothing.
pub(super) fn watch(watchers: &mut Vec<Weak<Session>>, session: &Arc<Session>) {
    let this = Arc::downgrade(session);
    let key = (session.node_epoch, session.id);
    let stays = |watcher: &Weak<Session>| {
        watcher.ptr_eq(&this)
            || watcher.upgrade().is_some_and(|other| {
                other.broker == session.broker && (other.node_epoch, other.id) > key
            })
    };
    if watchers.iter().any(stays) {
        return;
    }
    watchers.retain(|watcher| {
        watcher
            .upgrade()
            .is_some_and(|other| other.broker != session.broker)
    });
    watchers.push(this);
}

#[cfg(test)]
mod tests;
