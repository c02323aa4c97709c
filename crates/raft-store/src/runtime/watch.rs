//! openraft's watch channels: those that wake in a fixed order, whatever the runtime.

use std::sync::RwLockReadGuard;

use openraft::rt::watch;
use openraft::rt::{OptionalSend, OptionalSync};

pub(crate) use rivven_core_types::watch::{Receiver as WatchReceiver, Sender as WatchSender};

/// openraft's watch channels.
#[derive(Debug)]
pub(crate) struct FifoWatch;

impl watch::Watch for FifoWatch {
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let sender = WatchSender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<FifoWatch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        if self.receiver_count() == 0 {
            return Err(watch::SendError(value));
        }
        drop(self.send_replace(value));
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        Self::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        Self::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<FifoWatch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        Self::changed(self).await.map_err(|_| watch::RecvError(()))
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        Self::borrow_and_update(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::machine::guard;

    /// With tokio's channel the order differs from run to run.
    #[tokio::test]
    async fn receivers_wake_in_the_order_of_their_age() {
        let sender = WatchSender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in 0..20 {
            let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                for _ in 0..5 {
                    receiver.changed().await.unwrap();
                    guard(&order).push(name);
                }
            }));
        }
        tokio::task::yield_now().await;
        for round in 1..=5 {
            sender.send_if_modified(|value| std::mem::replace(value, round) < round);
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
            let mut receiver = sender.subscribe();
            tasks.push(tokio::spawn(async move {
                let mut last = 0;
                while receiver.changed().await.is_ok() {
                    let now = *receiver.borrow_and_update();
                    assert!(now >= last);
                    last = now;
                }
                last
            }));
        }
        let writer = tokio::spawn(async move {
            for value in 1..=LAST {
                sender.send_if_modified(|v| std::mem::replace(v, value) < value);
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
}
