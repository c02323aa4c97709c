//! A process that stands still while time goes on, as after SIGSTOP or on a machine that is moved.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use super::scope::NodeScope;
use crate::machine::guard;

/// Whether a node stands still, and whom to wake when it goes on.
#[derive(Debug, Default)]
pub(super) struct Pause {
    is_on: AtomicBool,
    held: Mutex<HeldTasks>,
}

#[derive(Debug, Default)]
struct HeldTasks {
    /// Which pause this is: a task waits once in each.
    turn: u64,
    wakers: Vec<Waker>,
}

impl Pause {
    pub(super) fn begin(&self) {
        if !self.is_on.swap(true, Ordering::Relaxed) {
            guard(&self.held).turn += 1;
        }
    }

    /// Wakes the tasks in the order in which they came.
    pub(super) fn end(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        let wakers = std::mem::take(&mut guard(&self.held).wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Whether the task must not run now; it is woken when it may.
    fn holds(&self, seen: &mut u64, waker: &Waker) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut held = guard(&self.held);
        if *seen != held.turn {
            *seen = held.turn;
            held.wakers.push(waker.clone());
        }
        true
    }
}

pin_project! {
    /// A task that stands still while its node does ([`NodeScope::pause`]); in production it just runs. It must
    /// be polled by one task from first to last.
    #[derive(Debug)]
    pub struct Held<F> {
        #[pin]
        task: F,
        scope: Option<NodeScope>,
        // The pause in which it last waited.
        seen: u64,
    }
}

impl<F> Held<F> {
    pub(super) const fn new(scope: Option<NodeScope>, task: F) -> Self {
        Self {
            task,
            scope,
            seen: 0,
        }
    }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Some(scope) = this.scope
            && scope.pause_of_host().holds(this.seen, context.waker())
        {
            return Poll::Pending;
        }
        this.task.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_node_takes_no_step_and_then_finds_all_that_was_due() {
        const SECOND: Duration = Duration::from_secs(1);
        let (stops, runs) = (NodeScope::new(1), NodeScope::new(2));
        let started = Instant::now();
        let ticks = |scope: &NodeScope| {
            scope.spawn(async move {
                let mut ticks = Vec::new();
                for n in 1..=3 {
                    // sleep-ok: a timer of the node, on a paused clock.
                    tokio::time::sleep_until(started + SECOND * n).await;
                    ticks.push(started.elapsed().as_secs());
                }
                ticks
            })
        };
        let (stopped, running) = (ticks(&stops), ticks(&runs));
        for _ in 0..2 {
            // sleep-ok: when the process is stopped, on a paused clock.
            tokio::time::sleep_until(started + SECOND / 2).await;
            stops.pause();
        }
        assert!(stops.is_paused() && !runs.is_paused());
        assert_eq!(running.await.unwrap(), [1, 2, 3]);
        // sleep-ok: when it goes on, on a paused clock.
        tokio::time::sleep_until(started + SECOND * 10).await;
        assert!(!stopped.is_finished());
        stops.resume();
        assert_eq!(stopped.await.unwrap(), [10, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_life_of_a_node_that_was_stopped_runs() {
        let scope = NodeScope::new(1);
        scope.pause();
        let task = scope.spawn(async { 1 });
        tokio::task::yield_now().await;
        scope.crash();
        assert!(task.await.unwrap_err().is_cancelled());
        let next = scope.next_life();
        assert!(!next.is_paused());
        assert_eq!(next.spawn(async { 2 }).await.unwrap(), 2);
    }
}
