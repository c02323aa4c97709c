//! openraft's state machine over the [`StateMachine`] port.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use rivven_core_types::{ClusterId, CommittedEntry, FrozenState, LogIndex, StateMachine, Term};

use crate::db::SnapshotRecord;
use crate::error::RaftStoreError;
use crate::log_store::LogStore;
use crate::snapshot::{SnapshotDir, SnapshotFile, SnapshotHeader};
use crate::types::{Applied, LastMembership, LogId, SnapshotMeta, TypeConfig};
use crate::worker::Worker;

/// Most entries that are applied under one lock.
const APPLY_CHUNK_ENTRIES: usize = 256;

pub(crate) type MachineSnapshot = Snapshot<
    openraft::vote::leader_id_std::CommittedLeaderId<u64>,
    u64,
    crate::types::PeerNode,
    SnapshotFile,
>;

/// The machine that is never applied to: fresh states are built from it.
pub(crate) type Prototype = Arc<Mutex<Box<dyn StateMachine>>>;

/// The applied state.
pub(crate) struct Core {
    machine: Box<dyn StateMachine>,
    last_applied: Option<LogId>,
    membership: LastMembership,
    snapshot: Option<(SnapshotMeta, SnapshotFile)>,
    /// Set when the supervisor has given this state up: a straggling task must not touch what its
    /// successor publishes.
    closed: bool,
    /// Why this build cannot go on with this log, if so. The state is worth nothing then.
    stopped: Option<String>,
}

/// A shared handle to the applied state. Clones are the same state.
#[derive(Clone)]
pub(crate) struct Machine {
    core: Arc<Mutex<Core>>,
    prototype: Prototype,
    dir: SnapshotDir,
    files: Worker<()>,
    log: LogStore,
    cluster: Option<ClusterId>,
}

pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(
        mut machine: Box<dyn StateMachine>,
        snapshot: Option<(SnapshotMeta, SnapshotFile)>,
    ) -> Self {
        machine.installed();
        let meta = snapshot
            .as_ref()
            .map(|(meta, _)| meta.clone())
            .unwrap_or_default();
        Self {
            machine,
            last_applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshot,
            closed: false,
            stopped: None,
        }
    }

    /// Gives this state up for a reason that a new core over the same log would meet again.
    fn stop(&mut self, reason: String) -> io::Error {
        self.closed = true;
        self.stopped = Some(reason.clone());
        io::Error::other(reason)
    }

    fn apply(&mut self, chunk: &mut Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        if self.closed {
            return Err(io::Error::other("this state machine was given up"));
        }
        let commands: Vec<_> = chunk
            .iter()
            .filter_map(|(entry, _)| committed(entry))
            .collect();
        let results = match self.machine.apply(&commands) {
            Ok(results) if results.len() == commands.len() => results,
            Ok(results) => {
                let (want, got) = (commands.len(), results.len());
                let text = format!("the state machine gave {got} results for {want} commands");
                return Err(self.stop(text));
            }
            Err(stop) => return Err(self.stop(stop.to_string())),
        };
        let mut results = results.into_iter();
        for (entry, responder) in chunk.drain(..) {
            self.last_applied = Some(entry.log_id);
            let result = match entry.payload {
                EntryPayload::Normal(_) => results.next().unwrap_or_default(),
                EntryPayload::Blank => Bytes::new(),
                EntryPayload::Membership(membership) => {
                    self.membership = LastMembership::new(Some(entry.log_id), membership);
                    Bytes::new()
                }
            };
            if let Some(responder) = responder {
                responder.send(Applied(result));
            }
        }
        Ok(())
    }
}

fn committed(entry: &crate::types::Entry) -> Option<CommittedEntry> {
    match &entry.payload {
        EntryPayload::Normal(command) => Some(CommittedEntry {
            index: LogIndex::new(entry.log_id.index),
            term: Term::new(entry.log_id.leader_id.term),
            command: command.0.clone(),
        }),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

impl Machine {
    pub(crate) fn new(
        core: Core,
        prototype: Prototype,
        dir: SnapshotDir,
        files: Worker<()>,
        log: LogStore,
        cluster: Option<ClusterId>,
    ) -> Self {
        Self {
            core: Arc::new(Mutex::new(core)),
            prototype,
            dir,
            files,
            log,
            cluster,
        }
    }

    /// Stops this state from changing.
    pub(crate) fn close(&self) {
        guard(&self.core).closed = true;
    }

    /// Why this build cannot go on with this log, if so.
    pub(crate) fn stopped(&self) -> Option<String> {
        guard(&self.core).stopped.clone()
    }

    /// The state's hash and the last applied index, taken together; no index once the state machine has
    /// stopped, for some of the entries after it may be in the state.
    pub(crate) fn hash(&self) -> (Option<LogIndex>, u64) {
        let core = guard(&self.core);
        let applied = core.last_applied.filter(|_| core.stopped.is_none());
        (
            applied.map(|id| LogIndex::new(id.index)),
            core.machine.hash(),
        )
    }

    pub(crate) const fn dir(&self) -> &SnapshotDir {
        &self.dir
    }

    pub(crate) const fn files(&self) -> &Worker<()> {
        &self.files
    }

    /// Publishes a durable temporary file and records it. Returns it with the older ones that are of
    /// no use any more.
    async fn adopt(
        &self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
        log_bytes: u64,
        keeps_log: bool,
    ) -> io::Result<(SnapshotFile, Vec<SnapshotRecord>)> {
        let last = meta.last_log_id.map(Into::into);
        let dir = self.dir.clone();
        let file = self.files.run(move |()| dir.publish(&file, last)).await?;
        let file = file.map_err(RaftStoreError::into_io)?;
        if let Some(last) = last {
            let record = SnapshotRecord {
                last,
                bytes: file.bytes,
            };
            let stale = self.log.record_snapshot(record, log_bytes, keeps_log);
            return Ok((file, stale.await?));
        }
        Ok((file, Vec::new()))
    }

    /// Removes older files. Only space is at stake, so a failure is logged; the next start removes
    /// them again.
    async fn remove(&self, stale: Vec<SnapshotRecord>) {
        for old in stale {
            let dir = self.dir.clone();
            let removed = self
                .files
                .run(move |()| dir.remove(&dir.path(Some(old.last))));
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(%error, "cannot remove an old snapshot");
            }
        }
    }

    fn builder(&self) -> Builder {
        let core = guard(&self.core);
        Builder {
            machine: self.clone(),
            state: core.machine.freeze(),
            meta: SnapshotMeta {
                last_log_id: core.last_applied,
                last_membership: core.membership.clone(),
            },
            log_bytes: self.log.bytes_since_snapshot().0,
        }
    }
}

/// Writes one frozen state.
pub(crate) struct Builder {
    machine: Machine,
    state: Arc<dyn FrozenState>,
    meta: SnapshotMeta,
    log_bytes: u64,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<MachineSnapshot> {
        let machine = &self.machine;
        let header = SnapshotHeader {
            group: machine.dir.group().get(),
            cluster: machine.cluster.map(|id| *id.as_bytes()),
            last: self.meta.last_log_id.map(Into::into),
            membership: (&self.meta.last_membership).into(),
        };
        let (dir, state) = (machine.dir.clone(), Arc::clone(&self.state));
        let written = machine
            .files
            .run(move |()| dir.write(&header, &*state))
            .await?;
        let file = written.map_err(RaftStoreError::into_io)?;
        let adopted = machine.adopt(&self.meta, file, self.log_bytes, true);
        let (file, stale) = adopted.await?;
        {
            let mut core = guard(&machine.core);
            let held = core.snapshot.as_ref().map(|(held, _)| held.last_log_id);
            // The leader may have sent a later one meanwhile.
            if held <= Some(self.meta.last_log_id) {
                core.snapshot = Some((self.meta.clone(), file.clone()));
            }
        }
        machine.remove(stale).await;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: file,
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, LastMembership)> {
        let core = guard(&self.core);
        Ok((core.last_applied, core.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunks = entries.ready_chunks(APPLY_CHUNK_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk.into_iter().collect::<io::Result<Vec<_>>>()?;
            guard(&self.core).apply(&mut chunk)?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let empty = guard(&self.core).last_applied.is_none();
        (force || !empty).then(|| self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (dir, prototype) = (self.dir.clone(), Arc::clone(&self.prototype));
        let path = snapshot.path.clone();
        let restored = self.files.run(move |()| {
            let verified = dir.verify(&path)?;
            let header = verified.header.clone();
            Ok((header, verified.restore(&**guard(&prototype))?))
        });
        let restored: Result<_, RaftStoreError> = restored.await?;
        let (header, machine) = restored.map_err(|error| match &error {
            // Its checksums were right: it is an image that this build does not understand.
            RaftStoreError::Corrupt { .. }
            | RaftStoreError::FormatTooNew { .. }
            | RaftStoreError::StateUnsupported { .. }
            | RaftStoreError::UnknownCodec { .. } => guard(&self.core).stop(error.to_string()),
            // The next core may well be able to read it.
            _ => error.into_io(),
        })?;
        if header.meta().as_ref() != Ok(meta) {
            return Err(io::Error::other(
                "the snapshot's header is not what was announced",
            ));
        }
        let log_bytes = self.log.bytes_since_snapshot().0;
        // What of the log lies behind it need not be what led to it, and goes.
        let (file, stale) = self.adopt(meta, snapshot, log_bytes, false).await?;
        {
            let mut core = guard(&self.core);
            if core.closed {
                return Err(io::Error::other("this state machine was given up"));
            }
            *core = Core::new(machine, Some((meta.clone(), file)));
        }
        self.remove(stale).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<MachineSnapshot>> {
        let core = guard(&self.core);
        let snapshot = core.snapshot.clone();
        Ok(snapshot.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
