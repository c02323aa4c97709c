//! The public face of the driver.

use std::sync::Arc;

use rivven_core_types::{
    BrokerId, LeaderEpoch, MonoTime, Offset, PartitionId, PeerIdentity, Reply, RpcError,
    RpcRequest, TimestampedOffset,
};

use super::api::{
    Fetch, Fetched, FetchedPartition, LocalLog, MetadataUpdate, Produce, Produced, ReplicationPorts,
};
use super::seed::PartitionReplication;
use crate::config::ReplicationConfig;
use crate::core::{OffsetSpec, PartitionStatus};
use crate::error::ReplicationError;

/// Replicates the partitions of one node. Cheap to clone; all clones are the same manager.
#[derive(Debug, Clone)]
pub struct ReplicationManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node_id: BrokerId,
    config: ReplicationConfig,
}

impl ReplicationManager {
    /// A manager on its own: logs in memory, no peers, no controller.
    pub fn new(node_id: BrokerId, config: ReplicationConfig) -> Self {
        Self {
            inner: Arc::new(Inner { node_id, config }),
        }
    }

    /// A manager in a cluster.
    pub fn with_ports(
        node_id: BrokerId,
        config: ReplicationConfig,
        _ports: ReplicationPorts,
    ) -> Self {
        Self {
            inner: Arc::new(Inner { node_id, config }),
        }
    }

    /// This broker's id.
    pub fn node_id(&self) -> BrokerId {
        self.inner.node_id
    }

    /// The configuration.
    pub fn config(&self) -> &ReplicationConfig {
        &self.inner.config
    }

    /// A handle of the partition.
    pub fn get_or_create(
        &self,
        partition_id: PartitionId,
        _is_leader: bool,
    ) -> PartitionReplication {
        PartitionReplication {
            manager: self.clone(),
            partition: partition_id,
        }
    }

    /// Serves a follower's fetch by call.
    pub async fn handle_replica_fetch(
        &self,
        _partition_id: &PartitionId,
        _replica_id: &BrokerId,
        _fetch_offset: Offset,
    ) -> Result<Fetched, ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Opens every log on disk, before registration.
    pub async fn open_local_logs(&self) -> Result<Vec<LocalLog>, ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Applies committed metadata.
    pub async fn apply(&self, _update: MetadataUpdate) -> Result<(), ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Writes a batch and waits for its acknowledgement.
    pub async fn produce(&self, _produce: Produce) -> Result<Produced, ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Reads below the high watermark.
    pub async fn fetch(&self, _fetch: Fetch) -> Vec<FetchedPartition> {
        Vec::new()
    }

    /// Finds an offset.
    pub async fn list_offset(
        &self,
        _partition: PartitionId,
        _spec: OffsetSpec,
        _current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<TimestampedOffset>, ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Deletes the records below `before` (KIP-107); the new log start.
    pub async fn delete_records(
        &self,
        _partition: PartitionId,
        _before: Offset,
    ) -> Result<Offset, ReplicationError> {
        Err(ReplicationError::Shutdown)
    }

    /// Answers `RpcKind::REPLICA_FETCH`.
    pub fn handle_rpc(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
        Reply::Now(Err(RpcError::UnknownKind { kind: request.kind }))
    }

    /// The controller session is good until `until`.
    pub fn controller_contact(&self, _until: MonoTime) {}

    /// The latest published state of a partition.
    pub fn status(&self, _partition: PartitionId) -> Option<PartitionStatus> {
        None
    }

    /// The latest published state of all partitions, by id.
    pub fn statuses(&self) -> Vec<PartitionStatus> {
        Vec::new()
    }

    /// Flushes everything durably and stops.
    pub async fn shutdown(&self) {}
}
