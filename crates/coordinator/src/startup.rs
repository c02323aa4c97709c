//! Opening what a node stands on, before it answers anybody: identity, boot counter, logs, Raft.

use std::path::Path;
use std::sync::Arc;

use rivven_consumer_groups::{GroupsStateMachine, GroupsWatch};
use rivven_core_types::{LogStore, PeerRpc, RaftGroupId, StateMachine, Vfs};
use rivven_metadata::MetadataStateMachine;
use rivven_raft_store::{Identity, RaftNode, RaftNodeConfig, RaftNodeOptions};
use rivven_segment_log::{SegmentLogConfig, SegmentLogStore};

use crate::blocking;
use crate::config::{ClusterMode, CoordinatorConfig};
use crate::coordinator::CoordinatorPorts;
use crate::error::CoordinatorError;
use crate::network::BoundNetwork;
use crate::state::StateWatch;

/// Longest boot counter file, in bytes.
const MAX_BOOT_FILE_BYTES: usize = 64;

/// The network, seen as no more than the port for calls.
pub(crate) fn rpc_of(network: &BoundNetwork) -> Arc<dyn PeerRpc> {
    Arc::clone(&network.rpc) as Arc<dyn PeerRpc>
}

pub(crate) async fn load_identity(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
) -> Result<Identity, CoordinatorError> {
    let (vfs, entropy) = (Arc::clone(&ports.vfs), Arc::clone(&ports.entropy));
    let (dir, name) = (config.data_dir.clone(), config.node.name.clone());
    let identity = blocking::run(&ports.io, "rivven-identity", move || {
        Identity::load_or_create(&vfs, &dir, &name, entropy.as_ref())
    });
    Ok(identity.await??)
}

pub(crate) async fn open_log_store(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
) -> Result<Arc<dyn LogStore>, CoordinatorError> {
    let (vfs, dir) = (Arc::clone(&ports.vfs), config.data_dir.join("logs"));
    let default = SegmentLogConfig::default();
    let settings = SegmentLogConfig {
        max_open_files: config.max_open_log_files.unwrap_or(default.max_open_files),
        ..default
    };
    let store = blocking::run(&ports.io, "rivven-recovery", move || {
        SegmentLogStore::open(&dir, vfs, settings)
    });
    Ok(Arc::new(store.await??))
}

/// Counts the starts of this data directory, so that the failure detector can tell a restarted node
/// from its earlier life whatever the wall clock says. A blank directory begins at the wall clock's
/// seconds: above what an earlier directory of the same name has counted up to, unless that was
/// started more than once a second all its life.
pub(crate) async fn next_boot_id(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
) -> Result<u64, CoordinatorError> {
    fn count(vfs: &dyn Vfs, path: &Path, seconds: u64) -> std::io::Result<u64> {
        let last = if vfs.exists(path)? {
            let bytes = vfs.read_file(path, MAX_BOOT_FILE_BYTES)?;
            String::from_utf8_lossy(&bytes)
                .trim()
                .parse()
                .map_err(|_| {
                    let text = format!("{} is damaged: it must hold one number", path.display());
                    std::io::Error::new(std::io::ErrorKind::InvalidData, text)
                })?
        } else {
            seconds
        };
        let next = last.saturating_add(1);
        vfs.write_file_atomically(path, format!("{next}\n").as_bytes())?;
        Ok(next)
    }
    let (vfs, path) = (Arc::clone(&ports.vfs), config.data_dir.join("BOOTS"));
    let seconds = u64::try_from(ports.clock.wall().0 / 1000).unwrap_or(0);
    let boot = blocking::run(&ports.io, "rivven-identity", move || {
        count(vfs.as_ref(), &path, seconds)
    });
    boot.await?.map_err(CoordinatorError::DataDir)
}

/// Opens the store of Raft group 0, the metadata.
pub(crate) async fn open_raft(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
    identity: &Identity,
    network: &BoundNetwork,
    state: &StateWatch,
) -> Result<RaftNode, CoordinatorError> {
    let published = state.clone();
    let machine = MetadataStateMachine::new(Arc::new(move |state| published.publish(state)));
    let group = RaftGroupId::METADATA;
    open_group(config, ports, identity, network, group, Box::new(machine)).await
}

/// Opens the store of Raft group 1, the consumer groups; makes it where there is none yet.
pub(crate) async fn open_groups_raft(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
    identity: &Identity,
    network: &BoundNetwork,
    state: &GroupsWatch,
) -> Result<RaftNode, CoordinatorError> {
    let machine = GroupsStateMachine::new(state.publisher());
    let group = RaftGroupId::GROUPS;
    open_group(config, ports, identity, network, group, Box::new(machine)).await
}

async fn open_group(
    config: &CoordinatorConfig,
    ports: &CoordinatorPorts,
    identity: &Identity,
    network: &BoundNetwork,
    group: RaftGroupId,
    machine: Box<dyn StateMachine>,
) -> Result<RaftNode, CoordinatorError> {
    let raft_config = RaftNodeConfig {
        node_id: config.node.name.to_string(),
        standalone: config.mode == ClusterMode::Standalone,
        data_dir: config.data_dir.clone(),
        heartbeat_interval_ms: config.raft.heartbeat_interval_ms,
        election_timeout_min_ms: config.raft.election_timeout_min_ms,
        election_timeout_max_ms: config.raft.election_timeout_max_ms,
        snapshot_threshold: config.raft.snapshot_threshold,
        initial_members: Vec::new(),
    };
    let options = RaftNodeOptions {
        group,
        vfs: Arc::clone(&ports.vfs),
        entropy: Arc::clone(&ports.entropy),
        io: Arc::clone(&ports.io),
        limits: config.raft.limits,
        runtime: ports.runtime.clone(),
    };
    let node = RaftNode::open(
        raft_config,
        identity.clone(),
        options,
        machine,
        rpc_of(network),
    );
    Ok(node.await?)
}
