//! The loop that calls fsync, so that no shard ever waits for a disk to be sure.

use std::sync::Arc;

use rivven_core_types::{FlushTicket, LogError, LogStore, Offset, PartitionId};
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, FlushDone};

/// Most jobs taken at once.
const MAX_GROUP: usize = 256;

/// A flush to run.
#[derive(Debug)]
pub(super) struct FlushJob {
    pub(super) shard: usize,
    pub(super) partition: PartitionId,
    pub(super) instance: u64,
    pub(super) ticket: FlushTicket,
}

/// Work for the flusher.
#[derive(Debug)]
pub(super) enum FlushWork {
    Flush(FlushJob),
    /// Save the high-watermark checkpoint.
    Checkpoint {
        high_watermarks: Vec<(PartitionId, Offset)>,
        done: Option<oneshot::Sender<()>>,
    },
    /// Note that everything is flushed and nothing writes any more.
    MarkStopped {
        done: oneshot::Sender<()>,
    },
}

/// Runs until its queue closes. What a log wrote while its last flush ran goes with the next one:
/// that is the group commit.
pub(super) async fn run(
    mut queue: mpsc::Receiver<FlushWork>,
    logs: Arc<dyn LogStore>,
    shards: Vec<mpsc::WeakSender<Command>>,
) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, MAX_GROUP).await > 0 {
        for work in group.drain(..) {
            match work {
                FlushWork::Flush(job) => flush(job, &shards).await,
                FlushWork::Checkpoint {
                    high_watermarks,
                    done,
                } => {
                    checkpoint(&*logs, &high_watermarks);
                    if let Some(done) = done {
                        // Nobody waits any more: nothing to tell.
                        let _gone = done.send(());
                    }
                }
                FlushWork::MarkStopped { done } => {
                    if let Err(error) = logs.mark_stopped() {
                        tracing::warn!(%error, "the clean stop was not noted");
                    }
                    let _gone = done.send(());
                }
            }
        }
    }
}

async fn flush(job: FlushJob, shards: &[mpsc::WeakSender<Command>]) {
    let FlushTicket {
        end,
        generation,
        job: work,
    } = job.ticket;
    let done = FlushDone {
        partition: job.partition,
        instance: job.instance,
        end,
        generation,
        result: work(),
    };
    let shard = shards.get(job.shard).and_then(mpsc::WeakSender::upgrade);
    if let Some(shard) = shard
        && shard.send(Command::Flushed(done)).await.is_err()
    {
        tracing::debug!("a flush ended after its shard");
    }
}

fn checkpoint(logs: &dyn LogStore, high_watermarks: &[(PartitionId, Offset)]) {
    let saved: Result<(), LogError> = logs.save_checkpoint(high_watermarks);
    if let Err(error) = saved {
        // A hint only: without it a new leader's high watermark starts lower and catches up.
        tracing::warn!(%error, "the high-watermark checkpoint was not saved");
    }
}
