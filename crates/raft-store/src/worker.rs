//! A loop on the I/O executor that runs closures over a state it owns: the log reader and the
//! snapshot files live on such loops, so that no blocking call runs on an asynchronous worker.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rivven_core_types::IoExecutor;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::carry;

/// Most jobs that wait; more make their senders wait.
const MAX_QUEUED_JOBS: usize = 256;

type Run<S> = Box<dyn FnOnce(&S) + Send>;

enum Job<S> {
    Run(Run<S>),
    Close(oneshot::Sender<()>),
}

/// A handle to a loop. Clones feed the same one.
pub(crate) struct Worker<S>(mpsc::Sender<Job<S>>);

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the Raft store is closed")
}

impl<S: Send + Sync + 'static> Worker<S> {
    pub(crate) fn spawn(io: &Arc<dyn IoExecutor>, name: &str, state: S) -> Self {
        let (tx, mut rx) = mpsc::channel::<Job<S>>(MAX_QUEUED_JOBS);
        let task = async move {
            while let Some(job) = rx.recv().await {
                match job {
                    Job::Run(run) => {
                        // The job's answer channel closes when it panics, which its sender sees.
                        if catch_unwind(AssertUnwindSafe(|| run(&state))).is_err() {
                            tracing::error!("a job on an I/O thread panicked");
                        }
                    }
                    Job::Close(done) => {
                        drop(state);
                        drop(rx);
                        done.send(()).unwrap_or_default();
                        return;
                    }
                }
            }
        };
        io.spawn(name, Box::pin(carry(task)));
        Self(tx)
    }

    /// Runs `job` on the loop and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&S) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (tx, rx) = oneshot::channel();
        let run: Run<S> = Box::new(move |state| drop(tx.send(job(state))));
        self.0.send(Job::Run(run)).await.map_err(|_| closed())?;
        rx.await.map_err(|_| closed())
    }

    /// Runs what is queued, ends the loop and drops its state.
    pub(crate) async fn close(&self) {
        let (tx, rx) = oneshot::channel();
        if self.0.send(Job::Close(tx)).await.is_ok() {
            rx.await.unwrap_or_default();
        }
    }
}
