//! A watch channel that wakes its receivers in the order of their age. tokio's chooses at random
//! which of them it wakes first.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use openraft::rt::watch;
use openraft::rt::{OptionalSend, OptionalSync};

use crate::machine::guard;

/// openraft's watch channels.
#[derive(Debug)]
pub(crate) struct FifoWatch;

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

#[derive(Debug)]
pub(crate) struct WatchSender<T>(Arc<Shared<T>>);

#[derive(Debug)]
pub(crate) struct WatchReceiver<T> {
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

impl<T> WatchSender<T> {
    /// A sender without receivers.
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            ends: Mutex::new(Ends {
                senders: 1,
                ..Ends::default()
            }),
        }))
    }

    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// Changes the value in place; returns what `change` returns: whether to tell the receivers.
    pub(crate) fn modify_if(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
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

    pub(crate) fn receiver(&self) -> WatchReceiver<T> {
        // Under the value's lock the version stands still.
        let value = self.0.read();
        let receiver = WatchReceiver::attach(&self.0, self.0.version());
        drop(value);
        receiver
    }
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        guard(&self.0.ends).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for WatchSender<T> {
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

impl<T> WatchReceiver<T> {
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

    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    pub(crate) fn borrow_seen(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        value
    }

    /// Waits for a value not seen yet and marks it as seen; an error when every sender is gone.
    pub(crate) fn next(&mut self) -> Next<'_, T> {
        Next(self)
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        Self::attach(&self.shared, self.seen)
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        guard(&self.shared.ends).receivers -= 1;
    }
}

/// See [`WatchReceiver::next`].
pub(crate) struct Next<'a, T>(&'a mut WatchReceiver<T>);

impl<T> Future for Next<'_, T> {
    type Output = Result<(), watch::RecvError>;

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
            return Poll::Ready(Err(watch::RecvError(())));
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

impl<T> Drop for Next<'_, T> {
    fn drop(&mut self) {
        let waker = guard(&self.0.shared.ends).waiting.remove(&self.0.id);
        // Outside the lock, as above.
        drop(waker);
    }
}

impl watch::Watch for FifoWatch {
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let sender = WatchSender::new(init);
        let receiver = sender.receiver();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<FifoWatch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        if guard(&self.0.ends).receivers == 0 {
            return Err(watch::SendError(value));
        }
        // The old value is dropped outside the lock.
        let mut value = Some(value);
        self.modify_if(|old| {
            if let Some(new) = &mut value {
                std::mem::swap(old, new);
            }
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.modify_if(modify)
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        self.receiver()
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<FifoWatch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        self.next().await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        self.borrow_seen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With tokio's channel the order differs from run to run.
    #[tokio::test]
    async fn receivers_wake_in_the_order_of_their_age() {
        let sender = WatchSender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in 0..20 {
            let (mut receiver, order) = (sender.receiver(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                for _ in 0..5 {
                    receiver.next().await.unwrap();
                    guard(&order).push(name);
                }
            }));
        }
        tokio::task::yield_now().await;
        for round in 1..=5 {
            sender.modify_if(|value| std::mem::replace(value, round) < round);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        let expected: Vec<i32> = (0..5).flat_map(|_| 0..20).collect();
        assert_eq!(*guard(&order), expected);
    }

    /// Many threads: no change is missed and none is seen twice.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_up_is_lost_between_threads() {
        const LAST: u64 = 20_000;
        let sender = WatchSender::new(0u64);
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let mut receiver = sender.receiver();
            tasks.push(tokio::spawn(async move {
                let mut last = 0;
                while receiver.next().await.is_ok() {
                    let now = *receiver.borrow_seen();
                    assert!(now >= last);
                    last = now;
                }
                last
            }));
        }
        let writer = tokio::spawn(async move {
            for value in 1..=LAST {
                sender.modify_if(|v| std::mem::replace(v, value) < value);
                if value % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        writer.await.unwrap();
        for task in tasks {
            let last = tokio::time::timeout(std::time::Duration::from_secs(30), task);
            assert_eq!(last.await.unwrap().unwrap(), LAST);
        }
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let sender = WatchSender::new(0);
        let mut receiver = sender.receiver();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), receiver.next());
        assert!(waited.await.is_err());
        assert!(guard(&sender.0.ends).waiting.is_empty());
        drop(receiver);
        assert_eq!(guard(&sender.0.ends).receivers, 0);
        let mut late = sender.receiver();
        drop(sender);
        assert!(late.next().await.is_err());
    }
}
