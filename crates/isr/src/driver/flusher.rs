//! The loop that calls fsync, so that no shard ever waits for a disk to be sure.

use std::sync::Arc;

use rivven_core_types::{FlushTicket, LogError, LogStore, Offset, PartitionId, SyncBy};
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, FlushDone};

/// Most jobs taken at once.
const MAX_GROUP: usize = 1024;

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
/// that is the group commit of one log. As many as `group_from` logs at once are made durable by one
/// sync of the whole disk, if it has that: the group commit of many.
pub(super) async fn run(
    mut queue: mpsc::Receiver<FlushWork>,
    logs: Arc<dyn LogStore>,
    shards: Vec<mpsc::WeakSender<Command>>,
    group_from: usize,
) {
    let mut group = Vec::new();
    let mut jobs = Vec::new();
    while queue.recv_many(&mut group, MAX_GROUP).await > 0 {
        for work in group.drain(..) {
            match work {
                FlushWork::Flush(job) => jobs.push(job),
                FlushWork::Checkpoint {
                    high_watermarks,
                    done,
                } => {
                    flush_all(&mut jobs, &*logs, &shards, group_from).await;
                    checkpoint(&*logs, &high_watermarks);
                    if let Some(done) = done {
                        // Nobody waits any more: nothing to tell.
                        let _gone = done.send(());
                    }
                }
                FlushWork::MarkStopped { done } => {
                    flush_all(&mut jobs, &*logs, &shards, group_from).await;
                    if let Err(error) = logs.mark_stopped() {
                        tracing::warn!(%error, "the clean stop was not noted");
                    }
                    let _gone = done.send(());
                }
            }
        }
        flush_all(&mut jobs, &*logs, &shards, group_from).await;
    }
}

/// Runs the flushes that have been queued, together if there are many.
async fn flush_all(
    jobs: &mut Vec<FlushJob>,
    logs: &dyn LogStore,
    shards: &[mpsc::WeakSender<Command>],
    group_from: usize,
) {
    let by = if jobs.len() >= group_from {
        sync_disk(logs)
    } else {
        SyncBy::Job
    };
    for job in jobs.drain(..) {
        flush(job, by, shards).await;
    }
}

/// Syncs the whole disk. If that fails, each log finds out by its own sync whether it is concerned.
fn sync_disk(logs: &dyn LogStore) -> SyncBy {
    match logs.sync_disk() {
        Ok(true) => {
            metrics::counter!("rivven_isr_group_syncs_total").increment(1);
            SyncBy::WholeDisk
        }
        Ok(false) => SyncBy::Job,
        Err(error) => {
            tracing::warn!(%error, "the disk cannot be synced as a whole; each log is by itself");
            SyncBy::Job
        }
    }
}

async fn flush(job: FlushJob, by: SyncBy, shards: &[mpsc::WeakSender<Command>]) {
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
        result: work(by),
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
