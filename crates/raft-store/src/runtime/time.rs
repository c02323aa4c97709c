//! Instants and timers on a node's clock.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use openraft::rt::Instant as _;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::scope::{self, NodeScope};

/// Stands for a time that never comes: about thirty years ahead, as in tokio.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A point on the clock of the node that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RaftInstant(Instant);

impl openraft::rt::Instant for RaftInstant {
    fn now() -> Self {
        Self(scope::now())
    }
}

impl RaftInstant {
    /// The point after `duration`, or one that never comes.
    pub(crate) fn after(duration: Duration) -> Self {
        let now = Self::now().0;
        Self(
            now.checked_add(duration)
                .unwrap_or_else(|| now + FAR_FUTURE),
        )
    }

    /// Time left until this point.
    pub(crate) fn left(self) -> Duration {
        self.saturating_duration_since(Self::now())
    }
}

impl Add<Duration> for RaftInstant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 += rhs;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - rhs)
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 -= rhs;
    }
}

impl Sub for RaftInstant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.0 - rhs.0
    }
}

pin_project! {
    /// Waits until the node's clock shows a time, even if it stalls meanwhile.
    pub(crate) struct Sleep {
        #[pin]
        timer: tokio::time::Sleep,
        deadline: Instant,
        scope: Option<NodeScope>,
    }
}

impl Sleep {
    pub(crate) fn after(duration: Duration) -> Self {
        Self::until(RaftInstant::after(duration))
    }

    pub(crate) fn until(deadline: RaftInstant) -> Self {
        let deadline = deadline.0;
        let scope = scope::current();
        let due = match &scope {
            None => deadline,
            Some(scope) => scope.wait_for(deadline).unwrap_or_else(Instant::now),
        };
        Self {
            timer: tokio::time::sleep_until(due),
            deadline,
            scope,
        }
    }
}

/// Sleeps on the node's clock.
pub(crate) fn sleep(duration: Duration) -> Sleep {
    Sleep::after(duration)
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            ready!(this.timer.as_mut().poll(cx));
            match this.scope.as_ref().and_then(|s| s.wait_for(*this.deadline)) {
                None => return Poll::Ready(()),
                Some(due) => this.timer.as_mut().reset(due),
            }
        }
    }
}

/// The deadline came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub(crate) struct Elapsed;

pin_project! {
    /// A future with a deadline.
    pub(crate) struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        // The future may have used up the task's budget; the deadline must hold all the same.
        let sleep = pin!(tokio::task::unconstrained(this.sleep));
        sleep.poll(cx).map(|()| Err(Elapsed))
    }
}

/// Ends `future` after `duration`.
pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(RaftInstant::after(duration), future)
}

/// Ends `future` at `deadline`.
pub(crate) fn timeout_at<F: Future>(deadline: RaftInstant, future: F) -> Timeout<F> {
    Timeout {
        future,
        sleep: Sleep::until(deadline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True time that a sleep of one second takes on a clock.
    async fn second(scope: &NodeScope, during: impl Fn(&NodeScope)) -> Duration {
        let start = Instant::now();
        let task = scope.spawn(async { Sleep::after(Duration::from_secs(1)).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        during(scope);
        task.await.unwrap();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn timers_follow_the_clock_of_their_node() {
        let millis = Duration::from_millis;
        let scope = NodeScope::new(1);
        assert_eq!(second(&scope, |_| ()).await, millis(1000));
        scope.set_clock_rate_ppm(10_000);
        assert_eq!(second(&scope, |_| ()).await, millis(991));
        scope.set_clock_rate_ppm(-10_000);
        assert_eq!(second(&scope, |_| ()).await, millis(1011));
        scope.set_clock_rate_ppm(0);
        assert_eq!(
            second(&scope, |s| s.stall_clock(millis(500))).await,
            millis(1500)
        );
        let jumped = second(&scope, |s| s.jump_clock(millis(500))).await;
        assert_eq!(jumped, millis(1000), "a running timer is late, never early");
        let late =
            scope.spawn(async move { timeout(millis(10), std::future::pending::<()>()).await });
        assert_eq!(late.await.unwrap(), Err(Elapsed));
    }

    /// In real time: a paused clock stands still while anything is busy.
    #[tokio::test]
    async fn a_deadline_holds_over_a_future_that_is_always_busy() {
        let busy = std::future::poll_fn(|cx| {
            while let Poll::Ready(budget) = tokio::task::coop::poll_proceed(cx) {
                budget.made_progress();
            }
            Poll::<()>::Pending
        });
        assert_eq!(timeout(Duration::from_millis(5), busy).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_duration_beyond_the_clock_is_for_ever() {
        let never = timeout(Duration::MAX, tokio::time::sleep(Duration::from_secs(9)));
        assert_eq!(never.await, Ok(()));
    }
}
