//! Where I/O loops run: [`ThreadExecutor`] in production, [`InlineExecutor`] in the simulator.

use std::thread;

use rivven_core_types::{BoxFuture, IoExecutor};

/// One operating-system thread per task, so that a blocking call never holds up an asynchronous
/// worker (a single slow fsync there would be a missed election).
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadExecutor;

impl IoExecutor for ThreadExecutor {
    fn spawn(&self, name: &str, task: BoxFuture<'static, ()>) {
        let label = name.to_owned();
        let run = move || match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime.block_on(task),
            Err(error) => tracing::error!(%error, "cannot build the runtime of an I/O thread"),
        };
        // When the task cannot be run it is dropped, which its owner sees as a closed queue.
        if let Err(error) = thread::Builder::new().name(label).spawn(run) {
            tracing::error!(name, %error, "cannot start an I/O thread");
        }
    }
}

/// Runs tasks on the current tokio runtime, within the [`NodeScope`](crate::NodeScope) of whoever
/// asks. For the simulator only, whose disk does not block: a
/// foreign thread would let a paused clock run ahead of the I/O.
#[derive(Debug, Clone, Copy, Default)]
pub struct InlineExecutor;

impl IoExecutor for InlineExecutor {
    fn spawn(&self, _name: &str, task: BoxFuture<'static, ()>) {
        drop(crate::runtime::spawn(task));
    }
}
