//! The I/O threads of a simulated node: each has the pace of its disk, and dies with its node.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rivven_coordinator::NodeScope;
use rivven_core_types::{BoxFuture, IoExecutor, Rng};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

/// How long the disk of a node takes per round of I/O; shared by all lives of the node.
#[derive(Debug)]
pub(super) struct DiskPace {
    rng: Mutex<Rng>,
    slow_millis: AtomicU64,
}

impl DiskPace {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(Rng::new(seed)),
            slow_millis: AtomicU64::new(0),
        }
    }

    /// From now on a round of I/O takes up to `slow_millis`; 0 makes the disk fast again.
    pub(super) fn set(&self, slow_millis: u64) {
        self.slow_millis.store(slow_millis, Ordering::Relaxed);
    }

    fn draw(&self) -> Option<Duration> {
        let slow = self.slow_millis.load(Ordering::Relaxed);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        if slow > 0 {
            return Some(Duration::from_millis(1 + rng.below(slow)));
        }
        // Half of the rounds are immediate, so that both orders of every race occur.
        (rng.below(2) == 0).then(|| Duration::from_micros(100 + rng.below(1_900)))
    }
}

/// Runs the I/O tasks of one life of one node.
#[derive(Debug)]
pub(super) struct DiskThreads {
    pace: Arc<DiskPace>,
    scope: NodeScope,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl DiskThreads {
    pub(super) fn new(pace: Arc<DiskPace>, scope: NodeScope) -> Self {
        Self {
            pace,
            scope,
            tasks: Mutex::default(),
        }
    }

    /// Ends all tasks where they stand, as the death of the process does.
    pub(super) fn kill(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

impl IoExecutor for DiskThreads {
    fn spawn(&self, _name: &str, task: BoxFuture<'static, ()>) {
        let paced = Paced {
            task,
            busy: None,
            pace: Arc::clone(&self.pace),
        };
        let task = tokio::spawn(self.scope.hold(paced)).abort_handle();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

/// A task that, whenever it is woken, first waits for its disk: what it then does it does at once,
/// with all that has been queued meanwhile.
struct Paced {
    task: BoxFuture<'static, ()>,
    busy: Option<Pin<Box<Sleep>>>,
    pace: Arc<DiskPace>,
}

impl Future for Paced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.busy.is_none() {
            self.busy = self
                .pace
                .draw()
                .map(|busy| Box::pin(tokio::time::sleep(busy)));
        }
        if let Some(busy) = &mut self.busy {
            if busy.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.busy = None;
        }
        self.task.as_mut().poll(context)
    }
}
