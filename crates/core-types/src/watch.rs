//! A watch channel that wakes its receivers in the order of their age.
//!
//! It does what `tokio::sync::watch` does, except that tokio's chooses at random which of several
//! receivers it wakes first. That choice alone would make every run of the simulator another one. It
//! needs no runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

/// Every sender is gone: the value will not change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every sender of the watched value is gone")]
pub struct Closed;

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    /// Counts the changes; it changes only under the value's write lock.
    version: AtomicU64,
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    senders: usize,
    receivers: usize,
    next_id: u64,
    /// Who waits, by the receiver's id. A receiver waits once at most.
    waiting: BTreeMap<u64, Waker>,
}

/// Sets the value. Clones set the same one.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Follows the value. A clone has seen what its original has seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    seen: u64,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Wakes everybody, outside every lock.
    fn wake(&self) {
        let waiting = std::mem::take(&mut guard(&self.ends).waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl<T> Sender<T> {
    /// A sender without receivers.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            ends: Mutex::new(Ends {
                senders: 1,
                ..Ends::default()
            }),
        }))
    }

    /// The value. Do not hold it across an await: the senders wait for it to set another.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// Sets the value and tells the receivers, also when there is none; returns the old value.
    pub fn send_replace(&self, value: T) -> T {
        let mut value = value;
        self.send_if_modified(|old| {
            std::mem::swap(old, &mut value);
            true
        });
        value
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        guard(&self.0.ends).receivers
    }

    /// Changes the value in place; returns what `change` returns: whether to tell the receivers.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut value);
        if changed {
            self.0.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if changed {
            self.0.wake();
        }
        changed
    }

    /// A new receiver, for which the present value is an old one.
    pub fn subscribe(&self) -> Receiver<T> {
        // Under the value's lock the version stands still.
        let value = self.0.read();
        let receiver = Receiver::attach(&self.0, self.0.version());
        drop(value);
        receiver
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        guard(&self.0.ends).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let last = {
            let mut ends = guard(&self.0.ends);
            ends.senders -= 1;
            ends.senders == 0
        };
        if last {
            self.0.wake();
        }
    }
}

impl<T> Receiver<T> {
    fn attach(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        let mut ends = guard(&shared.ends);
        ends.receivers += 1;
        let id = ends.next_id;
        ends.next_id += 1;
        drop(ends);
        Self {
            shared: Arc::clone(shared),
            id,
            seen,
        }
    }

    /// The value. Do not hold it across an await.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    /// As [`Receiver::borrow`]; [`Receiver::changed`] then waits for a newer one.
    pub fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        value
    }

    /// Waits for a value not seen yet and marks it as seen; [`Closed`] when
    /// every sender is gone. Safe to cancel.
    ///
    /// # Errors
    /// [`Closed`]; a value not seen yet comes first.
    pub fn changed(&mut self) -> Changed<'_, T> {
        Changed(self)
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::attach(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        guard(&self.shared.ends).receivers -= 1;
    }
}

/// See [`Receiver::changed`].
pub struct Changed<'a, T>(&'a mut Receiver<T>);

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let receiver = &mut *self.0;
        let mut ends = guard(&receiver.shared.ends);
        // A sender raises the version before it takes the list of those who wait, so whoever is
        // entered into the list with an old version in mind is woken.
        let version = receiver.shared.version();
        if version != receiver.seen {
            receiver.seen = version;
            return Poll::Ready(Ok(()));
        }
        if ends.senders == 0 {
            return Poll::Ready(Err(Closed));
        }
        let known = ends.waiting.get(&receiver.id);
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            let old = ends.waiting.insert(receiver.id, cx.waker().clone());
            // Dropped outside the lock: the last waker of a task drops the task.
            drop(ends);
            drop(old);
        }
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        let waker = guard(&self.0.shared.ends).waiting.remove(&self.0.id);
        // Outside the lock, as above.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(waiting: &mut Changed<'_, T>) -> Poll<Result<(), Closed>> {
        Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_cancelled_wait_leaves_nothing_behind() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        let mut waiting = receiver.changed();
        assert!(poll(&mut waiting).is_pending());
        assert_eq!(guard(&sender.0.ends).waiting.len(), 1);
        drop(waiting);
        assert!(guard(&sender.0.ends).waiting.is_empty());
        drop(receiver);
        assert_eq!(sender.receiver_count(), 0);
        let mut late = sender.subscribe();
        drop(sender);
        assert_eq!(poll(&mut late.changed()), Poll::Ready(Err(Closed)));
    }

    #[test]
    fn each_value_is_news_once() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        assert!(poll(&mut receiver.changed()).is_pending(), "not the first");
        assert_eq!(sender.send_replace(1), 0);
        assert!(!sender.send_if_modified(|_| false));
        assert!(poll(&mut receiver.changed()).is_ready());
        assert!(poll(&mut receiver.changed()).is_pending());
        assert_eq!(*receiver.borrow_and_update(), 1);
        sender.send_replace(2);
        drop(sender);
        assert_eq!(poll(&mut receiver.changed()), Poll::Ready(Ok(())));
        assert_eq!(poll(&mut receiver.changed()), Poll::Ready(Err(Closed)));
    }
}
