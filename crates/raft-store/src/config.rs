//! What is configured: [`RaftNodeConfig`] by the operator, [`RaftNodeOptions`] by the embedder.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{
    Address, Entropy, NodeName, OsEntropy, OsVfs, RaftGroupId, SharedIoExecutor, Vfs,
};

use crate::error::RaftStoreError;
use crate::executor::ThreadExecutor;
use crate::runtime::RuntimeHooks;

/// Greatest heartbeat interval and election timeout, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 60_000;
/// Most members of the first voter set.
const MAX_INITIAL_MEMBERS: usize = 7;

/// The operator's configuration of a Raft node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftNodeConfig {
    /// The node's name: 1 to 128 letters, digits, `.`, `_`, `-`. It must stay the same for the life
    /// of the data directory.
    pub node_id: String,
    /// Run alone: a group of one voter on the same durable path, which initializes itself.
    pub standalone: bool,
    /// Where the identity file and the directory `raft` live.
    pub data_dir: PathBuf,
    /// Pause between a leader's heartbeats, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Least random election timeout, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Greatest random election timeout, in milliseconds. It is also the leader's lease: a follower
    /// stands only after this time plus a random timeout.
    pub election_timeout_max_ms: u64,
    /// Least number of applied entries between two snapshots; see also
    /// [`RaftLimits::snapshot_min_log_bytes`].
    pub snapshot_threshold: u64,
    /// The first voters, by name. Empty: the node waits to be told its members.
    pub initial_members: Vec<InitialMember>,
}

/// One of the first voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: NodeName,
    /// Where its peers reach it.
    pub address: Address,
}

impl Default for RaftNodeConfig {
    fn default() -> Self {
        Self {
            node_id: "node-1".to_owned(),
            standalone: false,
            data_dir: PathBuf::from("/var/lib/rivven/raft"),
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            snapshot_threshold: 10_000,
            initial_members: Vec::new(),
        }
    }
}

fn refuse(field: &'static str, reason: impl Into<String>) -> Result<(), RaftStoreError> {
    Err(RaftStoreError::Config {
        field,
        reason: reason.into(),
    })
}

impl RaftNodeConfig {
    /// The heartbeat and election times of the `fast` preset (50, 150 and 200 ms): shorter
    /// failover at the price of needless elections on a stalling host.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.heartbeat_interval_ms = 50;
        self.election_timeout_min_ms = 150;
        self.election_timeout_max_ms = 200;
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`RaftStoreError::Config`] or [`RaftStoreError::InvalidId`] names the first bad field.
    pub fn validate(&self) -> Result<(), RaftStoreError> {
        self.name()?;
        if self.data_dir.as_os_str().is_empty() {
            refuse("data_dir", "must not be empty")?;
        }
        if self.heartbeat_interval_ms == 0 || self.heartbeat_interval_ms > MAX_TIMEOUT_MS {
            refuse(
                "heartbeat_interval_ms",
                format!("must be 1..={MAX_TIMEOUT_MS}"),
            )?;
        }
        if self.election_timeout_min_ms < self.heartbeat_interval_ms.saturating_mul(2) {
            refuse(
                "election_timeout_min_ms",
                "must be at least twice heartbeat_interval_ms",
            )?;
        }
        if self.election_timeout_max_ms <= self.election_timeout_min_ms
            || self.election_timeout_max_ms > MAX_TIMEOUT_MS
        {
            refuse(
                "election_timeout_max_ms",
                format!("must be above election_timeout_min_ms and at most {MAX_TIMEOUT_MS}"),
            )?;
        }
        if self.snapshot_threshold == 0 {
            refuse("snapshot_threshold", "must be at least 1")?;
        }
        self.validate_members()
    }

    fn validate_members(&self) -> Result<(), RaftStoreError> {
        if self.standalone && !self.initial_members.is_empty() {
            refuse("initial_members", "must be empty when standalone is true")?;
        }
        if self.initial_members.len() > MAX_INITIAL_MEMBERS {
            refuse(
                "initial_members",
                format!("at most {MAX_INITIAL_MEMBERS} are allowed"),
            )?;
        }
        let mut names: Vec<_> = self.initial_members.iter().map(|m| &m.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            refuse("initial_members", "a name occurs twice")?;
        }
        Ok(())
    }

    /// The node's name, checked.
    ///
    /// # Errors
    /// [`RaftStoreError::InvalidId`].
    pub fn name(&self) -> Result<NodeName, RaftStoreError> {
        Ok(NodeName::new(&self.node_id)?)
    }
}

/// The bounds of a Raft node. The defaults suit production; tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftLimits {
    /// Most proposals in flight; more are refused as overloaded.
    pub max_inflight_proposals: usize,
    /// Most operations that wait for the log writer; beyond it the Raft core waits.
    pub max_queued_writes: usize,
    /// Most bytes of synced entries kept in memory for readers (unsynced ones are always kept).
    pub tail_cache_bytes: usize,
    /// Most bytes of entries in one AppendEntries, though always at least one entry.
    pub max_append_bytes: usize,
    /// Least log bytes between two snapshots; the last snapshot's size counts if it is greater.
    pub snapshot_min_log_bytes: u64,
    /// Entries kept behind a snapshot for followers that lag.
    pub logs_kept_behind_snapshot: u64,
    /// Entries that are purged at once; fewer wait for the next snapshot.
    pub purge_batch_entries: u64,
    /// Greatest snapshot that is accepted from a peer or written, in bytes.
    pub max_snapshot_bytes: u64,
    /// Bytes per chunk of a snapshot in transfer.
    pub snapshot_chunk_bytes: usize,
    /// Deadline of one snapshot transfer.
    pub install_snapshot_timeout: Duration,
    /// Whether a commit of the log is two fsyncs, the second of which makes it current. One alone
    /// relies on checksums to tell a torn commit after a crash; `bench-raft --only one-phase` compares.
    pub two_phase_commit: bool,
    /// Restarts of a failed Raft core within a minute before the node gives up.
    pub max_restarts_per_minute: u32,
}

impl Default for RaftLimits {
    fn default() -> Self {
        Self {
            max_inflight_proposals: 4096,
            max_queued_writes: 4096,
            tail_cache_bytes: 32 * 1024 * 1024,
            max_append_bytes: 1024 * 1024,
            snapshot_min_log_bytes: 64 * 1024 * 1024,
            logs_kept_behind_snapshot: 100_000,
            purge_batch_entries: 256,
            max_snapshot_bytes: 8 * 1024 * 1024 * 1024,
            snapshot_chunk_bytes: 1024 * 1024,
            install_snapshot_timeout: Duration::from_secs(60),
            two_phase_commit: true,
            max_restarts_per_minute: 3,
        }
    }
}

/// What the embedder plugs into a Raft node.
#[derive(Clone)]
pub struct RaftNodeOptions {
    /// Which group this node takes part in.
    pub group: RaftGroupId,
    /// The disk.
    pub vfs: Arc<dyn Vfs>,
    /// Random bytes for identities and transfer ids.
    pub entropy: Arc<dyn Entropy>,
    /// Runs the log writer, the log reader and the snapshot writer.
    pub io: SharedIoExecutor,
    /// Bounds.
    pub limits: RaftLimits,
    /// Whence time, randomness and tasks come.
    pub runtime: RuntimeHooks,
}

impl Default for RaftNodeOptions {
    fn default() -> Self {
        Self {
            group: RaftGroupId::METADATA,
            vfs: Arc::new(OsVfs),
            entropy: Arc::new(OsEntropy),
            io: Arc::new(ThreadExecutor),
            limits: RaftLimits::default(),
            runtime: RuntimeHooks::default(),
        }
    }
}

impl fmt::Debug for RaftNodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNodeOptions")
            .field("group", &self.group)
            .field("vfs", &self.vfs)
            .field("limits", &self.limits)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named() {
        assert!(RaftNodeConfig::default().validate().is_ok());
        assert!(RaftNodeConfig::default().fast().validate().is_ok());
        let bad = |change: fn(&mut RaftNodeConfig), field: &str| {
            let mut config = RaftNodeConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        };
        bad(|c| c.node_id = String::new(), "node name");
        bad(|c| c.data_dir = PathBuf::new(), "data_dir");
        bad(|c| c.heartbeat_interval_ms = 0, "heartbeat_interval_ms");
        bad(
            |c| c.election_timeout_min_ms = 60,
            "election_timeout_min_ms",
        );
        bad(
            |c| c.election_timeout_max_ms = 150,
            "election_timeout_max_ms",
        );
        bad(|c| c.snapshot_threshold = 0, "snapshot_threshold");
        bad(
            |c| {
                let name = NodeName::new("a").unwrap();
                let address = Address::new("a", 1).unwrap();
                c.initial_members = vec![InitialMember { name, address }; 2];
            },
            "initial_members",
        );
    }
}
