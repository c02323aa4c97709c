//! Verifies closed segments in the background, slowly and for ever, so that damage is found while
//! other replicas still have the bytes, and not when they are needed.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::command::{Command, ScrubDone, ScrubJob};
use super::inner::Inner;

/// Pause when there is nothing to verify.
const IDLE: Duration = Duration::from_secs(60);
/// Shortest pause between two pieces.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Runs for as long as the manager lives.
pub(super) async fn run(manager: Weak<Inner>) {
    let mut turn = 0usize;
    let mut idle_shards = 0usize;
    loop {
        let Some(inner) = manager.upgrade() else {
            return;
        };
        if inner.closed.load(Ordering::Acquire) {
            return;
        }
        turn = turn.wrapping_add(1);
        let count = inner.shards.len().max(1);
        let pause = match inner.shards.get(turn % count) {
            Some(shard) => verify_one(&inner, shard).await,
            None => return,
        };
        drop(inner);
        if pause.is_some() {
            idle_shards = 0;
        } else {
            idle_shards += 1;
        }
        let all_idle = idle_shards >= count;
        tokio::time::sleep(match pause {
            Some(pause) => pause.max(MIN_PAUSE),
            None if all_idle => IDLE,
            None => MIN_PAUSE,
        })
        .await;
    }
}

/// Verifies one piece; returns how long to wait then, `None` if there was nothing.
async fn verify_one(inner: &Inner, shard: &tokio::sync::mpsc::Sender<Command>) -> Option<Duration> {
    let (reply, answer) = oneshot::channel();
    shard.send(Command::NextScrub { reply }).await.ok()?;
    let ScrubJob {
        partition,
        instance,
        ticket,
    } = answer.await.ok()??;
    let (done, outcome) = oneshot::channel();
    let (job, generation) = (ticket.job, ticket.generation);
    let work = async move {
        // Nobody waits any more: the manager is gone.
        let _gone = done.send(job());
    };
    inner.ports.flusher.spawn("isr-scrub", Box::pin(work));
    let outcome = outcome.await.ok()?;
    metrics::counter!("rivven_isr_scrubbed_bytes_total").increment(ticket.bytes);
    let scrubbed = ScrubDone {
        partition,
        instance,
        generation,
        outcome,
    };
    shard.send(Command::Scrubbed(scrubbed)).await.ok()?;
    let millis = ticket.bytes.saturating_mul(1000) / inner.config.scrub_bytes_per_second;
    Some(Duration::from_millis(millis))
}
