//! Running short blocking disk work on an I/O thread, never on an asynchronous worker.

use std::io;

use rivven_core_types::SharedIoExecutor;
use tokio::sync::oneshot;

use crate::error::CoordinatorError;

/// Runs `work` on the executor and waits for it.
pub(crate) async fn run<T: Send + 'static>(
    io: &SharedIoExecutor,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CoordinatorError> {
    let (done, outcome) = oneshot::channel();
    io.spawn(
        name,
        Box::pin(async move {
            // The receiver is gone only when the caller has given up.
            drop(done.send(work()));
        }),
    );
    let lost = |_| io::Error::other(format!("the I/O task {name} did not finish"));
    outcome.await.map_err(|e| CoordinatorError::Task(lost(e)))
}
