//! The one writer of a store: takes the whole queue, makes it durable in one transaction, and only
//! then answers. One queue for votes and entries keeps their order, which Raft's safety needs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use openraft::async_runtime::Instant as _;
use openraft::storage::IOFlushed;
use rivven_core_types::{RaftGroupId, planted};
use tokio::sync::{mpsc, oneshot};

use crate::db::{Change, SharedDb};
use crate::log_store::{Memory, lock};
use crate::observe;
use crate::runtime::{RaftInstant, sync_delay};
use crate::types::{LogIdRecord, TypeConfig};

/// Most operations in one transaction.
const MAX_BATCH_OPS: usize = 4096;

/// How far the saved committed index may lag behind. It is a hint: a node that starts learns the rest
/// from its leader, and each saving costs a copy of its page in a transaction that is otherwise one entry.
const COMMITTED_LAG: u64 = 256;

/// Whom to tell when an operation is durable, or has failed.
pub(crate) enum Done {
    Nothing,
    Flushed(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
}

/// An operation in the writer's queue.
pub(crate) enum Op {
    /// `None` is a barrier.
    Write {
        change: Option<Change>,
        done: Done,
        generation: u64,
    },
    Close(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    db: SharedDb,
    memory: Arc<Mutex<Memory>>,
    group: RaftGroupId,
    /// End of the log as of the operations seen so far.
    log_end: u64,
    /// A committed index that waits for a batch to ride on.
    committed: Option<LogIdRecord>,
    /// The committed index that is saved.
    saved: Option<u64>,
    failed: Option<String>,
}

impl Done {
    fn tell(self, result: Result<(), &str>) {
        let result = result.map_err(|reason| io::Error::other(reason.to_owned()));
        match self {
            Self::Nothing => {}
            Self::Flushed(callback) => callback.io_completed(result),
            // The asker may have gone; that concerns nobody else.
            Self::Reply(tx) => drop(tx.send(result)),
        }
    }
}

impl Writer {
    pub(crate) fn new(db: SharedDb, memory: Arc<Mutex<Memory>>, group: RaftGroupId) -> Self {
        let log_end = lock(&memory).tail.last().map_or(0, |id| id.index + 1);
        Self {
            db,
            memory,
            group,
            log_end,
            committed: None,
            saved: None,
            failed: None,
        }
    }

    /// The loop. Ends when it is told to, or when nobody can tell it anything any more.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Op>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, MAX_BATCH_OPS).await > 0 {
            let (taken, count) = (RaftInstant::now(), batch.len() as u64);
            sync_delay().await;
            let closed = self.step(std::mem::take(&mut batch));
            lock(&self.memory).answered(count, taken);
            if let Some(closed) = closed {
                drop(self);
                drop(queue);
                closed.send(()).unwrap_or_default();
                return;
            }
        }
    }

    /// Makes a batch durable and then fires its callbacks. Blocks on the disk. Returns whom to tell
    /// when the store has been closed, if the batch asked for that.
    pub(crate) fn step(&mut self, batch: Vec<Op>) -> Option<oneshot::Sender<()>> {
        let mut changes = Vec::new();
        let mut waiting = Vec::new();
        let mut appended = None;
        let mut closing = None;
        for op in batch {
            match op {
                Op::Close(tx) => closing = Some(tx),
                Op::Write {
                    change,
                    done,
                    generation,
                } => {
                    waiting.push(done);
                    if let Some(end) = self.sort_in(change, &mut changes) {
                        appended = Some((end, generation));
                    }
                }
            }
        }
        if planted("raft-store.committed-beyond-the-log") && self.failed.is_none() {
            let early: Vec<Change> = self
                .committed
                .take()
                .map(Change::Committed)
                .into_iter()
                .collect();
            self.commit(&early);
        }
        changes.extend(self.committed_to_save(closing.is_some(), !changes.is_empty()));
        if !changes.is_empty() && self.failed.is_none() {
            self.commit(&changes);
        }
        if let (None, Some((end, generation))) = (&self.failed, appended) {
            lock(&self.memory).tail.durable(end, generation);
        }
        // The newest first: openraft keeps the greatest flushed position alone, and each one before it
        // would wake it once more. Two wake-ups within a microsecond cost it a timer of a millisecond.
        for done in waiting.into_iter().rev() {
            done.tell(self.failed.as_deref().map_or(Ok(()), Err));
        }
        closing
    }

    /// The committed index, when it is time to save it.
    fn committed_to_save(&mut self, is_closing: bool, has_company: bool) -> Option<Change> {
        let due = |id: &mut LogIdRecord| {
            let lags = self
                .saved
                .is_none_or(|saved| id.index >= saved + COMMITTED_LAG);
            is_closing || has_company && lags
        };
        let id = self.committed.take_if(due)?;
        self.saved = Some(id.index);
        Some(Change::Committed(id))
    }

    /// Puts a change in its place; returns the end of the log if it was an append.
    fn sort_in(&mut self, change: Option<Change>, changes: &mut Vec<Change>) -> Option<u64> {
        let mut appended = None;
        match &change {
            Some(Change::Append(entries)) => {
                self.log_end = entries.last().map_or(self.log_end, |e| e.log_id.index + 1);
                appended = Some(self.log_end);
            }
            Some(Change::TruncateAfter(last)) => {
                self.log_end = self.log_end.min(last.map_or(0, |index| index + 1));
            }
            Some(Change::Purge(upto)) => self.log_end = self.log_end.max(upto.index + 1),
            Some(Change::Committed(id)) => {
                // A committed index beyond the durable log would keep the node from starting.
                if id.index < self.log_end || planted("raft-store.committed-beyond-the-log") {
                    self.committed = Some(*id);
                }
                return None;
            }
            Some(Change::Vote(_) | Change::Snapshot { .. }) | None => {}
        }
        changes.extend(change);
        appended
    }

    fn commit(&mut self, changes: &[Change]) {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.db.commit(changes)));
        let failure = match outcome {
            Ok(Ok(())) => {
                observe::fsync(self.group, started.elapsed());
                return;
            }
            Ok(Err(error)) => error.to_string(),
            // redb panics on some kinds of corruption.
            Err(_) => "the database panicked while writing".to_owned(),
        };
        tracing::error!(group = self.group.get(), %failure, "the Raft log cannot be written");
        lock(&self.memory).failed = Some(failure.clone());
        self.failed = Some(failure);
    }
}
