//! openraft's log storage: an in-memory tail that readers see at once, and a queue to the writer
//! that makes it durable.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use openraft::async_runtime::Instant as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use rivven_core_types::planted;
use tokio::sync::{mpsc, oneshot};

use crate::db::{Change, SharedDb, SnapshotRecord, Stored};
use crate::error::RaftStoreError;
use crate::runtime::RaftInstant;
use crate::tail::Tail;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::worker::Worker;
use crate::writer::{Done, Op};

/// Entries per chunk when a long range is streamed to the state machine.
const STREAM_CHUNK_ENTRIES: u64 = 512;

/// What the store knows without touching the disk.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) tail: Tail,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Bytes appended since the newest snapshot was frozen.
    log_bytes: u64,
    snapshot: Option<SnapshotRecord>,
    previous: Option<SnapshotRecord>,
    /// Operations that the writer owes an answer, and since when the oldest of them may wait.
    waiting: Option<(u64, RaftInstant)>,
    /// Set once the writer has failed: the store is given up (fail-stop).
    pub(crate) failed: Option<String>,
}

/// A shared handle to the log of one group. Clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    memory: Arc<Mutex<Memory>>,
    queue: mpsc::Sender<Op>,
    reader: Worker<SharedDb>,
    max_append_bytes: usize,
    /// Held by whoever records a snapshot: one is built while another one comes in.
    recording: Arc<tokio::sync::Mutex<()>>,
}

pub(crate) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the Raft log is closed")
}

impl Memory {
    pub(crate) fn new(stored: Stored, tail_bytes: usize) -> Self {
        let last = stored.last;
        // The saved index is a hint; it must never point beyond the log that is really here.
        let saved = stored.committed.map(LogId::from);
        let committed = if planted("raft-store.committed-beyond-the-log") {
            saved
        } else {
            saved.min(last)
        };
        let purged = stored.purged.map(LogId::from);
        Self {
            tail: Tail::new(stored.tail, stored.begin, last, purged, tail_bytes),
            vote: stored.vote.map(Into::into),
            committed,
            log_bytes: stored.bytes_since_snapshot,
            snapshot: stored.snapshot,
            previous: stored.previous,
            waiting: None,
            failed: None,
        }
    }

    fn asked(&mut self) {
        let (count, since) = self.waiting.unwrap_or_else(|| (0, RaftInstant::now()));
        self.waiting = Some((count + 1, since));
    }

    /// The writer is through with `count` operations that it took at `taken`; whatever else waits came
    /// later.
    pub(crate) fn answered(&mut self, count: u64, taken: RaftInstant) {
        let left = self.waiting.map_or(0, |(all, _)| all.saturating_sub(count));
        self.waiting = (left > 0).then_some((left, taken));
    }
}

impl LogStore {
    pub(crate) fn new(
        memory: Arc<Mutex<Memory>>,
        queue: mpsc::Sender<Op>,
        reader: Worker<SharedDb>,
        max_append_bytes: usize,
    ) -> Self {
        Self {
            memory,
            queue,
            reader,
            max_append_bytes,
            recording: Arc::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Why the store was given up, if it was.
    pub(crate) fn failure(&self) -> Option<String> {
        self.memory().failed.clone()
    }

    /// Whether there is, or ever was, an entry.
    pub(crate) fn is_blank(&self) -> bool {
        self.memory().tail.last().is_none()
    }

    /// Bytes appended since the newest snapshot, and that snapshot's size.
    pub(crate) fn bytes_since_snapshot(&self) -> (u64, u64) {
        let memory = self.memory();
        (memory.log_bytes, memory.snapshot.map_or(0, |s| s.bytes))
    }

    /// How long the oldest operation has been waiting for the disk.
    pub(crate) fn waited(&self) -> Duration {
        let waiting = self.memory().waiting;
        waiting.map_or(Duration::ZERO, |(_, since)| RaftInstant::now() - since)
    }

    async fn queue(&self, change: Option<Change>, done: Done) -> io::Result<()> {
        let generation = self.memory().tail.generation();
        // Whoever gives up here has not asked yet: what was counted and never sent would look like a
        // disk that stands still for ever.
        let permit = self.queue.reserve().await.map_err(|_| gone())?;
        self.memory().asked();
        permit.send(Op::Write {
            change,
            done,
            generation,
        });
        Ok(())
    }

    async fn write_durably(&self, change: Option<Change>) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.queue(change, Done::Reply(tx)).await?;
        rx.await.map_err(|_| gone())?
    }

    /// Waits until every write queued so far is durable.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        self.write_durably(None).await
    }

    /// Records a snapshot whose file is durable. `log_bytes` is what
    /// [`LogStore::bytes_since_snapshot`] said when its state was frozen. `keeps_log` says that the log
    /// goes on behind it, so that the snapshot before it stays of use. Returns those that are of no use any
    /// more: this one itself, when a later one has come in meanwhile.
    pub(crate) async fn record_snapshot(
        &self,
        newest: SnapshotRecord,
        log_bytes: u64,
        keeps_log: bool,
    ) -> io::Result<Vec<SnapshotRecord>> {
        let _turn = self.recording.lock().await;
        let older = {
            let memory = self.memory();
            [memory.snapshot, memory.previous]
        };
        if older
            .iter()
            .flatten()
            .any(|held| held.last.index > newest.last.index)
        {
            return Ok(vec![newest]);
        }
        let mut stale: Vec<_> = older.into_iter().flatten().collect();
        stale.retain(|old| old.last != newest.last);
        let previous = (keeps_log && !stale.is_empty()).then(|| stale.remove(0));
        let change = Change::Snapshot { newest, previous };
        self.write_durably(Some(change)).await?;
        let mut memory = self.memory();
        memory.log_bytes = memory.log_bytes.saturating_sub(log_bytes);
        memory.snapshot = Some(newest);
        memory.previous = previous;
        Ok(stale)
    }

    /// Writes what is queued, ends both loops and closes the database.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        let (tx, rx) = oneshot::channel();
        if self.queue.send(Op::Close(tx)).await.is_ok() {
            rx.await.unwrap_or_default();
        }
    }

    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let (disk, cached) = self.memory().tail.read(range);
        let mut entries = Vec::new();
        if let Some(range) = disk {
            entries = self.read_disk(range.clone(), max_bytes).await?;
            if entries
                .last()
                .is_none_or(|e| e.log_id.index + 1 < range.end)
            {
                return Ok(entries);
            }
        }
        entries.extend(cached);
        let mut bytes = 0;
        let within = entries.iter().take_while(|entry| {
            let first = bytes == 0;
            bytes += crate::types::entry_bytes(entry);
            first || bytes <= max_bytes
        });
        let count = within.count();
        entries.truncate(count);
        Ok(entries)
    }

    async fn read_disk(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let wanted = range.clone();
        let read = self
            .reader
            .run(move |db| db.entries(wanted, max_bytes))
            .await?;
        let entries = read.map_err(RaftStoreError::into_io)?;
        // What was purged meanwhile may be missing in front; nothing else may.
        let begin = self.memory().tail.begin();
        let expected = entries.first().map_or(range.end, |e| e.log_id.index);
        let contiguous = (expected..)
            .zip(&entries)
            .all(|(index, e)| e.log_id.index == index);
        if contiguous && (expected == range.start || expected <= begin) {
            return Ok(entries);
        }
        let text = format!("entries {range:?} are missing from the Raft log");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, self.max_append_bytes).await
    }

    /// In chunks, so that catching up never holds the whole log in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let range = bounds(&range);
        let store = self.clone();
        let chunks = stream::try_unfold((store, range), |(store, range)| async move {
            if range.is_empty() {
                return Ok::<_, io::Error>(None);
            }
            let upto = range
                .end
                .min(range.start.saturating_add(STREAM_CHUNK_ENTRIES));
            let entries = store
                .read(range.start..upto, store.max_append_bytes)
                .await?;
            let Some(last) = entries.last() else {
                return Ok(None);
            };
            let rest = last.log_id.index + 1..range.end;
            Ok(Some((
                stream::iter(entries.into_iter().map(Ok)),
                (store, rest),
            )))
        });
        Box::pin(futures_util::TryStreamExt::try_flatten(chunks))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        let last_purged_log_id = memory.tail.purged();
        Ok(LogState {
            last_purged_log_id,
            last_log_id: memory.tail.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write_durably(Some(Change::Vote(vote.into()))).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    /// Only queued: the writer saves it with the next batch, never by an fsync of its own. In the
    /// queue it stands behind the entries it speaks of, so it is never ahead of the durable log.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.memory().committed = committed;
        let Some(committed) = committed else {
            return Ok(());
        };
        self.queue(Some(Change::Committed(committed.into())), Done::Nothing)
            .await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut memory = self.memory();
            if let Some(reason) = &memory.failed {
                return Err(io::Error::other(reason.clone()));
            }
            memory.log_bytes += memory.tail.append(&entries)?;
        }
        self.queue(Some(Change::Append(entries)), Done::Flushed(callback))
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.memory().tail.truncate_after(last);
        self.queue(
            Some(Change::TruncateAfter(last.map(|id| id.index))),
            Done::Nothing,
        )
        .await
    }

    /// Nobody reads what is purged; on disk it stays as far as the previous snapshot needs it.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let needed = {
            let mut memory = self.memory();
            memory.tail.purge(upto);
            let newest = memory.snapshot.map(|newest| LogId::from(newest.last));
            let previous = memory.previous.map(|previous| LogId::from(previous.last));
            // Beyond the newest one nothing is kept: the log starts anew behind one that comes in.
            previous.filter(|_| Some(upto) <= newest)
        };
        let upto = needed.map_or(upto, |needed| upto.min(needed));
        self.queue(Some(Change::Purge(upto.into())), Done::Nothing)
            .await
    }
}
