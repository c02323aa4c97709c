//! A node's identity towards its runtime, carried by a task-local through its tasks and its calls.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::Rng;
use tokio::task::futures::TaskLocalFuture;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::clock::NodeClock;
use super::pause::{Held, Pause};
use crate::machine::guard;

tokio::task_local! {
    /// The node whose code runs; `None` in production.
    static CURRENT: Option<NodeScope>;
}

/// Finished tasks are forgotten whenever the list has doubled, and never below this length.
const MIN_TASKS_TO_PRUNE: usize = 64;

/// What a node runs on.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum RuntimeHooks {
    /// The tokio runtime that the node is opened in, its clock, the operating system's randomness.
    #[default]
    Production,
    /// As the scope says. Only for a paused current-thread runtime, with
    /// [`InlineExecutor`](crate::InlineExecutor) and a disk in memory.
    Simulated(NodeScope),
}

impl RuntimeHooks {
    fn scope(&self) -> Option<NodeScope> {
        match self {
            Self::Production => None,
            Self::Simulated(scope) => Some(scope.clone()),
        }
    }

    /// Runs a call into the node as the node.
    pub(crate) fn enter<F: Future>(&self, call: F) -> TaskLocalFuture<Option<NodeScope>, F> {
        enter(self.scope(), call)
    }

    /// A task of the node that was not spawned here: it stands still while the node does.
    pub fn hold<F: Future>(&self, task: F) -> Held<F> {
        Held::new(self.scope(), task)
    }

    /// Runs a short call as this node.
    pub(crate) fn within<T>(&self, call: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.scope(), call)
    }

    /// Spawns a task of the node.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn_in(self.scope(), task)
    }
}

/// What outlives a process: the machine it runs on.
#[derive(Debug)]
struct Host {
    rng: Mutex<Rng>,
    clock: Mutex<NodeClock>,
    sync_delay: Mutex<Duration>,
    pause: Pause,
}

#[derive(Debug, Default)]
struct Life {
    tasks: Vec<AbortHandle>,
    prune_at: usize,
    crashed: bool,
}

/// One life of one simulated node: its seed, its clock and its tasks. Clones are the same life.
///
/// Everything the node's Raft code does happens in its scope: tasks that it spawns inherit it, and
/// calls through [`RaftNode`](crate::RaftNode) and [`RaftHandle`](crate::RaftHandle) enter it, from
/// whatever task they come. With equal seeds, equal calls at equal times and a deterministic
/// network, a run on a paused current-thread tokio runtime repeats itself exactly.
#[derive(Clone)]
pub struct NodeScope {
    host: Arc<Host>,
    life: Arc<Mutex<Life>>,
}

impl fmt::Debug for NodeScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeScope")
            .field("life", &*guard(&self.life))
            .finish_non_exhaustive()
    }
}

impl NodeScope {
    /// A node with a true clock. Must be called inside the simulator's runtime, whose paused clock
    /// is the true time.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let host = Host {
            rng: Mutex::new(Rng::new(seed)),
            clock: Mutex::new(NodeClock::new(Instant::now())),
            sync_delay: Mutex::new(Duration::ZERO),
            pause: Pause::default(),
        };
        Self {
            host: Arc::new(host),
            life: Arc::default(),
        }
    }

    /// The next life of the same node, after [`NodeScope::crash`]: the clock runs on and the random
    /// sequence continues, the tasks are others.
    #[must_use]
    pub fn next_life(&self) -> Self {
        Self {
            host: Arc::clone(&self.host),
            life: Arc::default(),
        }
    }

    /// Kills the process as `kill -9` does: no task of this life runs any further, not even to its
    /// next step, and none can be spawned. Calls in progress answer that the core is gone. What
    /// becomes of unsynced writes is the disk's matter.
    pub fn crash(&self) {
        let tasks = {
            let mut life = guard(&self.life);
            life.crashed = true;
            std::mem::take(&mut life.tasks)
        };
        for task in tasks {
            task.abort();
        }
        // The next process is not the one that was stopped.
        self.host.pause.end();
    }

    /// Stops the process as SIGSTOP does: no task of the node takes a step, while time goes on.
    pub fn pause(&self) {
        self.host.pause.begin();
    }

    /// Lets the process go on, as SIGCONT does: whatever was due meanwhile is due now.
    pub fn resume(&self) {
        self.host.pause.end();
    }

    /// Whether the process is stopped.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.host.pause.is_on()
    }

    /// A task that stands still while the node does.
    pub fn hold<F: Future>(&self, task: F) -> Held<F> {
        Held::new(Some(self.clone()), task)
    }

    /// Whether this life has ended by [`NodeScope::crash`].
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        guard(&self.life).crashed
    }

    /// How many tasks of this life have not ended.
    #[must_use]
    pub fn live_tasks(&self) -> usize {
        let life = guard(&self.life);
        life.tasks.iter().filter(|t| !t.is_finished()).count()
    }

    /// Lets the clock run faster (above zero) or slower from now on, in parts per million; 10,000 is
    /// one per cent. Bounded to half a million either way.
    pub fn set_clock_rate_ppm(&self, ppm: i32) {
        guard(&self.host.clock).set_rate(Instant::now(), ppm);
    }

    /// Steps the clock forward. Timers that run already see it when they fire, hence late by at most
    /// what they had to wait still.
    pub fn jump_clock(&self, forward: Duration) {
        guard(&self.host.clock).jump(Instant::now(), forward);
    }

    /// Stops the clock for `time` of true time. That is what a step back is to a monotonic clock.
    /// Timers that run already wait on.
    pub fn stall_clock(&self, time: Duration) {
        guard(&self.host.clock).stall(Instant::now(), time);
    }

    /// Lets every transaction of the log writer wait that long, in true time, before it reaches the
    /// disk: a slow fsync.
    pub fn set_sync_delay(&self, delay: Duration) {
        *guard(&self.host.sync_delay) = delay;
    }

    /// Spawns a task that belongs to this life. An [`IoExecutor`](rivven_core_types::IoExecutor) of
    /// the simulator uses it, so that a crash ends the I/O too.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn_in(Some(self.clone()), task)
    }

    pub(super) fn pause_of_host(&self) -> &Pause {
        &self.host.pause
    }

    fn own(&self, task: AbortHandle) {
        let mut life = guard(&self.life);
        if life.crashed {
            task.abort();
            return;
        }
        life.tasks.push(task);
        if life.tasks.len() >= life.prune_at.max(MIN_TASKS_TO_PRUNE) {
            life.tasks.retain(|task| !task.is_finished());
            life.prune_at = life.tasks.len() * 2;
        }
    }

    pub(super) fn draw(&self) -> u64 {
        guard(&self.host.rng).next_u64()
    }

    /// What the node's clock shows, in the simulator's time.
    #[must_use]
    pub fn local_now(&self) -> Instant {
        guard(&self.host.clock).local(Instant::now())
    }

    /// The true time at which the clock shows `local`; `None` when it does so already.
    pub(super) fn wait_for(&self, local: Instant) -> Option<Instant> {
        let clock = guard(&self.host.clock);
        (clock.local(Instant::now()) < local).then(|| clock.due(local))
    }
}

/// The scope of the running task.
pub(super) fn current() -> Option<NodeScope> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

pub(super) fn is_simulated() -> bool {
    CURRENT.try_with(Option::is_some).unwrap_or(false)
}

/// What the running task's clock shows.
pub(super) fn now() -> Instant {
    let local = CURRENT.try_with(|scope| scope.as_ref().map(NodeScope::local_now));
    local.ok().flatten().unwrap_or_else(Instant::now)
}

pub(super) fn enter<F: Future>(
    scope: Option<NodeScope>,
    call: F,
) -> TaskLocalFuture<Option<NodeScope>, F> {
    CURRENT.scope(scope, call)
}

/// Binds a future to the running task's scope, for whoever will run it.
pub(crate) fn carry<F: Future>(task: F) -> TaskLocalFuture<Option<NodeScope>, F> {
    CURRENT.scope(current(), task)
}

/// Spawns a task into the running task's scope.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_in(current(), task)
}

/// One instantiation serves production and the simulator: openraft's tasks are large.
fn spawn_in<F>(scope: Option<NodeScope>, task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let task = Held::new(scope.clone(), task);
    let handle = tokio::spawn(CURRENT.scope(scope.clone(), task));
    if let Some(scope) = scope {
        scope.own(handle.abort_handle());
    }
    handle
}

/// The simulated time that the disk takes; nothing in production.
pub(crate) async fn sync_delay() {
    let delay = CURRENT.try_with(|scope| scope.as_ref().map(|s| *guard(&s.host.sync_delay)));
    if let Some(delay) = delay.ok().flatten().filter(|d| !d.is_zero()) {
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crash_ends_every_task_of_the_life_and_of_no_other() {
        let (dies, lives) = (NodeScope::new(1), NodeScope::new(1));
        let endless = || async {
            let inner = spawn(std::future::pending::<()>());
            inner.await.unwrap_or_default();
        };
        let (a, b) = (dies.spawn(endless()), lives.spawn(endless()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((dies.live_tasks(), lives.live_tasks()), (2, 2));
        dies.crash();
        assert!(a.await.unwrap_err().is_cancelled());
        assert!(dies.spawn(async {}).await.unwrap_err().is_cancelled());
        assert_eq!(lives.live_tasks(), 2);
        assert!(!b.is_finished() && !lives.is_crashed() && dies.is_crashed());
        assert!(dies.next_life().spawn(async { 1 }).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn finished_tasks_are_forgotten() {
        let scope = NodeScope::new(1);
        for _ in 0..1000 {
            scope.spawn(async {}).await.unwrap();
        }
        assert!(guard(&scope.life).tasks.len() <= MIN_TASKS_TO_PRUNE);
    }
}
