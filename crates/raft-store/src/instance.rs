//! One life of the Raft core: the store opened, the state restored, openraft running on both. The
//! supervisor throws a failed one away and makes the next.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{Config, Raft, SnapshotPolicy};
use rivven_core_types::{
    Admission, FrozenState, OpenMode, PeerRpc, RaftGroupId, StateMachine, Vfs, planted,
};
use tokio::sync::mpsc;

use crate::config::{RaftNodeConfig, RaftNodeOptions};
use crate::db::{Change, Db, SharedDb, SnapshotRecord, Stored, database_path};
use crate::error::RaftStoreError;
use crate::identity::Identity;
use crate::log_store::{LogStore, Memory};
use crate::machine::{Core, Machine, Prototype, guard};
use crate::network::Network;
use crate::observe;
use crate::receiver::Receiver;
use crate::runtime::carry;
use crate::snapshot::SnapshotDir;
use crate::types::TypeConfig;
use crate::worker::Worker;
use crate::writer::Writer;

/// Longest wait for one chunk of a snapshot to be written by the peer.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for a new core to report what it has loaded.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) type RaftCore = Raft<TypeConfig, Machine>;

/// All that is needed to open a store, again and again.
pub(crate) struct Context {
    pub(crate) config: RaftNodeConfig,
    pub(crate) options: RaftNodeOptions,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) prototype: Prototype,
    pub(crate) genesis: Arc<dyn FrozenState>,
    pub(crate) admission: Admission,
    pub(crate) rpc: Arc<dyn PeerRpc>,
}

/// An open store.
pub(crate) struct Store {
    pub(crate) log: LogStore,
    pub(crate) machine: Machine,
    files: Worker<()>,
}

/// A running core.
pub(crate) struct Instance {
    pub(crate) raft: RaftCore,
    pub(crate) store: Store,
    pub(crate) receiver: Receiver,
}

/// openraft's configuration. What it leaves to its defaults loses data or does not fit us in four
/// places, which a test below holds.
pub(crate) fn raft_config(
    config: &RaftNodeConfig,
    options: &RaftNodeOptions,
) -> Result<Config, RaftStoreError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let built = Config {
        cluster_name: format!("rivven-{}", options.group),
        heartbeat_interval: config.heartbeat_interval_ms,
        election_timeout_min: config.election_timeout_min_ms,
        election_timeout_max: config.election_timeout_max_ms,
        install_snapshot_timeout: millis(options.limits.install_snapshot_timeout),
        // The supervisor triggers snapshots, by entries and by bytes.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.limits.logs_kept_behind_snapshot,
        purge_batch_size: options.limits.purge_batch_entries,
        enable_pre_vote: Some(true),
        // A leader that restarts must stand again: its unsynced tail is gone, and under the same
        // term it would write other entries where followers hold the old ones.
        enable_leader_restore: Some(planted("raft-store.leader-restored")),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    built.validate().map_err(|e| RaftStoreError::Config {
        field: "raft",
        reason: e.to_string(),
    })
}

impl Context {
    pub(crate) fn group(&self) -> RaftGroupId {
        self.options.group
    }

    pub(crate) fn raft_id(&self) -> u64 {
        guard(&self.identity).raft_id.get()
    }

    fn path(&self) -> PathBuf {
        database_path(&self.config.data_dir, self.group())
    }

    /// Opens the database, making it on the first start. Blocks; runs on an I/O thread.
    fn open_database(&self) -> Result<Db, RaftStoreError> {
        let vfs = &*self.options.vfs;
        let path = self.path();
        let mut identity = guard(&self.identity);
        identity.reload()?;
        let incarnation = identity.incarnation;
        let exists = vfs
            .exists(&path)
            .map_err(RaftStoreError::io("look for", &path))?;
        let lost = |reason: &str| RaftStoreError::StoreLost {
            path: path.clone(),
            incarnation,
            reason: reason.to_owned(),
        };
        if identity.store_created(self.group()) {
            if !exists || is_empty(vfs, &path)? {
                return Err(lost("the file is missing or empty"));
            }
        } else if !exists {
            Db::create(vfs, &path, self.group(), incarnation)?;
        }
        let db =
            Db::open(vfs, &path, self.group())?.two_phase(self.options.limits.two_phase_commit);
        match db.incarnation()? {
            Some(found) if found == incarnation => {}
            Some(found) => return Err(lost(&format!("it belongs to incarnation {found}"))),
            None => return Err(lost("it holds no data")),
        }
        if !identity.store_created(self.group()) {
            identity.mark_store_created(self.group())?;
        }
        Ok(db)
    }

    /// Everything that blocks, in one go on an I/O thread.
    fn open_files(&self) -> Result<(Db, Stored, Core, SnapshotDir), RaftStoreError> {
        let limits = &self.options.limits;
        let vfs = Arc::clone(&self.options.vfs);
        let dir = SnapshotDir::open(
            vfs,
            &self.config.data_dir,
            self.group(),
            limits.max_snapshot_bytes,
        )?;
        let db = self.open_database()?;
        let mut stored = db.load(limits.tail_cache_bytes)?;
        let covered = stored.snapshot.map_or(0, |s| s.last.index + 1);
        if stored.purged.is_some_and(|purged| purged.index >= covered) {
            let reason = "the log is purged, and no snapshot covers what is gone";
            return Err(RaftStoreError::corrupt(
                self.path(),
                "snapshot record",
                reason,
            ));
        }
        let core = match stored.snapshot {
            None => Core::new(self.blank()?, None),
            Some(newest) => match (self.restore(&dir, newest), fallback(&stored)) {
                (Err(error), Some(previous)) if error.is_damage() => {
                    tracing::error!(
                        %error,
                        "the newest snapshot cannot be read; the log is applied to the one before"
                    );
                    observe::snapshot_fallback(self.group());
                    let core = self.restore(&dir, previous)?;
                    db.commit(&[Change::Snapshot {
                        newest: previous,
                        previous: None,
                    }])?;
                    stored = db.load(limits.tail_cache_bytes)?;
                    core
                }
                (restored, _) => restored?,
            },
        };
        let kept = [stored.snapshot, stored.previous].into_iter().flatten();
        let kept: Vec<PathBuf> = kept.map(|record| dir.path(Some(record.last))).collect();
        dir.remove_others(&kept)?;
        Ok((db, stored, core, dir))
    }

    fn restore(&self, dir: &SnapshotDir, record: SnapshotRecord) -> Result<Core, RaftStoreError> {
        let path = dir.path(Some(record.last));
        let corrupt = |reason: &str| RaftStoreError::corrupt(&path, "snapshot", reason);
        let verified = dir.verify(&path)?;
        if verified.header.last != Some(record.last) {
            return Err(corrupt("it is another snapshot than the one recorded"));
        }
        let meta = verified.header.meta().map_err(|reason| corrupt(&reason))?;
        let file = verified.file.clone();
        let machine = verified.restore(&**guard(&self.prototype))?;
        Ok(Core::new(machine, Some((meta, file))))
    }

    /// A fresh state: the prototype's own image, restored.
    fn blank(&self) -> Result<Box<dyn StateMachine>, RaftStoreError> {
        let broken = |reason: String| RaftStoreError::Config {
            field: "state_machine",
            reason,
        };
        let mut image = Vec::new();
        self.genesis
            .write_to(&mut image)
            .map_err(|e| broken(e.to_string()))?;
        let machine = guard(&self.prototype).restore(&mut image.as_slice());
        machine.map_err(|e| broken(format!("it cannot restore its own initial state: {e}")))
    }

    /// Opens the store.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Store, RaftStoreError> {
        let io = &self.options.io;
        let limits = &self.options.limits;
        let files = Worker::spawn(io, "raft-files", ());
        let context = Arc::clone(self);
        let opened = files.run(move |()| context.open_files()).await;
        let opened = opened.map_err(RaftStoreError::io("open", self.path()));
        let (db, stored, core, dir) = match opened.and_then(|opened| opened) {
            Ok(opened) => opened,
            Err(error) => {
                files.close().await;
                return Err(error);
            }
        };
        let db: SharedDb = Arc::new(db);
        let memory = Arc::new(Mutex::new(Memory::new(stored, limits.tail_cache_bytes)));
        let (queue, receiver) = mpsc::channel(limits.max_queued_writes);
        let writer = Writer::new(Arc::clone(&db), Arc::clone(&memory), self.group());
        io.spawn("raft-log", Box::pin(carry(writer.run(receiver))));
        let reader = Worker::spawn(io, "raft-read", db);
        let log = LogStore::new(memory, queue, reader, limits.max_append_bytes);
        let cluster = guard(&self.identity).cluster_id;
        let prototype = Arc::clone(&self.prototype);
        let machine = Machine::new(core, prototype, dir, files.clone(), log.clone(), cluster);
        Ok(Store {
            log,
            machine,
            files,
        })
    }

    /// Runs openraft on an open store.
    pub(crate) async fn run(&self, store: Store) -> Result<Instance, RaftStoreError> {
        let limits = &self.options.limits;
        let config = Arc::new(raft_config(&self.config, &self.options)?);
        let network = Network {
            group: self.group(),
            rpc: Arc::clone(&self.rpc),
            dir: store.machine.dir().clone(),
            files: store.files.clone(),
            chunk_bytes: limits.snapshot_chunk_bytes,
            append_deadline: Duration::from_millis(self.config.election_timeout_max_ms),
            chunk_deadline: CHUNK_DEADLINE,
            install_deadline: limits.install_snapshot_timeout,
            own_id: self.raft_id(),
        };
        let (log, machine) = (store.log.clone(), store.machine.clone());
        let id = self.raft_id();
        match Raft::new(id, config, network, log, machine.clone()).await {
            Ok(raft) => {
                if !store.log.is_blank() {
                    // The first metrics are a default without members. Whoever holds a log must
                    // never look like a blank node, not even for a moment.
                    let loaded = raft.wait(Some(LOAD_DEADLINE));
                    let loaded = loaded.metrics(|m| m.last_log_index.is_some(), "loaded state");
                    loaded
                        .await
                        .map_err(|e| RaftStoreError::Raft(e.to_string()))?;
                }
                let receiver = Receiver::new(machine);
                Ok(Instance {
                    raft,
                    store,
                    receiver,
                })
            }
            Err(error) => {
                store.close().await;
                Err(RaftStoreError::Raft(error.to_string()))
            }
        }
    }
}

/// The previous snapshot, if nothing is missing between it and the log.
fn fallback(stored: &Stored) -> Option<SnapshotRecord> {
    let previous = stored.previous?;
    let purged = stored.purged.map_or(0, |purged| purged.index + 1);
    let gap = stored.begin.max(purged) > previous.last.index + 1;
    (!gap).then_some(previous)
}

fn is_empty(vfs: &dyn Vfs, path: &Path) -> Result<bool, RaftStoreError> {
    let file = vfs
        .open(path, OpenMode::Read)
        .map_err(RaftStoreError::io("open", path))?;
    file.is_empty().map_err(RaftStoreError::io("read", path))
}

impl Store {
    /// Stops the state from changing, makes what is queued durable, and closes every file.
    pub(crate) async fn close(&self) {
        self.machine.close();
        self.log.close().await;
        self.files.close().await;
    }
}

impl Instance {
    /// Ends the core, then closes the store.
    pub(crate) async fn close(&self) {
        self.store.machine.close();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft core did not end cleanly");
        }
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under openraft's defaults a restarted leader goes on in its old term and loses data.
    #[test]
    fn a_restarted_leader_stands_again_and_other_dangerous_defaults_are_off() {
        let options = RaftNodeOptions::default();
        let config = raft_config(&RaftNodeConfig::default(), &options).unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert!(config.max_in_snapshot_log_to_keep >= 100_000);
        assert_eq!(config.purge_batch_size, 256);
        assert!(config.install_snapshot_timeout >= 10_000);
    }
}
