//! What a manager without a cluster runs on, and the handle of one partition.

use rivven_core_types::{
    AlterPartitionOutcome, AlterPartitionProposal, BoxFuture, IoExecutor, NodeName, PartitionId,
    PeerRpc, RpcError, RpcRequest, RpcResponse,
};

use super::api::{ControllerError, PartitionController};
use super::manager::ReplicationManager;
use crate::core::PartitionStatus;

/// Runs loops as tasks of the tokio runtime in whose context it was made. Right for logs that never
/// block (in memory, simulated); real disks need a thread per loop.
#[derive(Debug, Clone)]
pub struct TokioExecutor {
    handle: tokio::runtime::Handle,
}

impl TokioExecutor {
    /// An executor on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime context.
    pub fn current() -> Self {
        Self {
            handle: tokio::runtime::Handle::current(),
        }
    }
}

impl IoExecutor for TokioExecutor {
    fn spawn(&self, _name: &str, task: BoxFuture<'static, ()>) {
        // The task ends by itself when its queue closes; nobody waits for it.
        drop(self.handle.spawn(task));
    }
}

/// No peers: every call fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoPeers;

impl PeerRpc for NoPeers {
    fn call(
        &self,
        peer: &NodeName,
        _request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let peer = peer.clone();
        Box::pin(async move { Err(RpcError::UnknownPeer { peer }) })
    }
}

/// No controller: every proposal fails and stays pending.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoController;

impl PartitionController for NoController {
    fn alter_partitions(
        &self,
        _proposals: Vec<AlterPartitionProposal>,
    ) -> BoxFuture<'static, Result<Vec<AlterPartitionOutcome>, ControllerError>> {
        Box::pin(async {
            Err(ControllerError {
                reason: "this manager runs without a cluster".to_owned(),
            })
        })
    }
}

/// A handle of one partition of a [`ReplicationManager`].
#[derive(Debug, Clone)]
pub struct PartitionReplication {
    pub(super) manager: ReplicationManager,
    pub(super) partition: PartitionId,
}

impl PartitionReplication {
    /// The partition.
    pub const fn id(&self) -> PartitionId {
        self.partition
    }

    /// The latest published state; `None` until the shard has opened the log.
    pub fn status(&self) -> Option<PartitionStatus> {
        self.manager.status(self.partition)
    }

    /// Whether this node leads the partition.
    pub fn is_leader(&self) -> bool {
        self.status()
            .is_some_and(|s| s.role == crate::core::ReplicaRole::Leader)
    }

    /// The latest published high watermark.
    pub fn high_watermark(&self) -> Option<rivven_core_types::Offset> {
        self.status().map(|s| s.high_watermark)
    }
}
