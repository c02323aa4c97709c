//! The runtime that openraft runs on: tokio's, seen through the [`NodeScope`] of the node whose task
//! asks. Without a scope, as in production, it is tokio and nothing else. With one, time is the
//! node's own, randomness comes from its seed, and its tasks can be killed together. Wake-ups are in
//! a fixed order in both cases, so that a paused current-thread runtime replays a run exactly.

mod clock;
mod pause;
mod rng;
mod scope;
mod time;
mod watch;

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::future::{Either, ready};
use openraft::rt::{
    AsyncRuntime, Instant as _, Mpsc, MpscReceiver as _, OptionalSend, TryRecvError,
};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};

pub use pause::Held;
pub use scope::{NodeScope, RuntimeHooks};
pub(crate) use scope::{carry, spawn, sync_delay};
pub(crate) use time::{RaftInstant, sleep, timeout, timeout_at};
pub(crate) use watch::{FifoWatch, WatchReceiver, WatchSender};

/// Longest time for which a batch of proposals stays open for those that come meanwhile.
const GATHER: Duration = Duration::from_micros(200);

/// openraft's runtime. A value of it exists only in openraft's own test suite; a node runs on the
/// tokio runtime that it is opened in.
#[derive(Debug)]
pub(crate) struct NodeRuntime {
    tokio: tokio::runtime::Runtime,
    scope: Option<NodeScope>,
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = time::Sleep;
    type Instant = RaftInstant;
    type TimeoutError = time::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = time::Timeout<T>;
    type ThreadLocalRng = rng::NodeRng;
    type Mpsc = TokioMpsc;
    type Watch = FifoWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        time::Sleep::after(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        time::Sleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rng::NodeRng::current()
    }

    fn new(threads: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("only openraft's test suite builds runtimes, where a failure is a failed test");
        Self { tokio, scope: None }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio
            .block_on(scope::enter(self.scope.clone(), future))
    }

    /// The core takes what clients propose by this, one after another, until nothing is left: it is how a batch
    /// is made. Whoever was woken together with the first has not had its turn yet; a batch of one each would
    /// cost a write of the log and a message to each follower. So all that is ready has its turn first.
    async fn mpsc_recv_deadline<T: OptionalSend>(
        receiver: &mut <Self::Mpsc as Mpsc>::Receiver<T>,
        deadline: Self::Instant,
    ) -> Result<T, TryRecvError> {
        match receiver.try_recv() {
            Err(TryRecvError::Empty) => {}
            taken => return taken,
        }
        // The merging began at the deadline, as there is no linger. Where proposals come without a pause, the core
        // must not be kept from its other work for longer.
        if RaftInstant::now().saturating_duration_since(deadline) > GATHER {
            return Err(TryRecvError::Empty);
        }
        tokio::task::yield_now().await;
        match receiver.try_recv() {
            Err(TryRecvError::Empty) if deadline > RaftInstant::now() => {}
            taken => return taken,
        }
        match timeout_at(deadline, receiver.recv()).await {
            Ok(taken) => taken.ok_or(TryRecvError::Disconnected),
            Err(_) => Err(TryRecvError::Empty),
        }
    }

    /// Inline under a scope: a foreign thread would let a paused clock run ahead of the work.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if scope::is_simulated() {
            Either::Left(ready(Ok(f())))
        } else {
            Either::Right(TokioRuntime::spawn_blocking(f))
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::testing::Suite;

    use super::*;

    #[test]
    fn the_runtime_passes_openrafts_suite_as_in_production() {
        Suite::<NodeRuntime>::test_all();
    }

    /// Under a scope whose clock drifts, on a paused clock.
    #[test]
    fn the_runtime_passes_openrafts_suite_under_a_scope() {
        for ppm in [-10_000, 0, 10_000] {
            let tokio = paused();
            let scope = tokio.block_on(async { NodeScope::new(1) });
            tokio.block_on(async { scope.set_clock_rate_ppm(ppm) });
            let mut runtime = NodeRuntime {
                tokio,
                scope: Some(scope),
            };
            Suite::<NodeRuntime>::test_all_on(&mut runtime);
        }
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    }
}
