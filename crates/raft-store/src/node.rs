//! The owner of a Raft group's node.

use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::{PeerRpc, ProposeError, Proposed, StateMachine};
use tokio::sync::watch;

use crate::config::{RaftNodeConfig, RaftNodeOptions};
use crate::error::RaftStoreError;
use crate::handle::RaftHandle;
use crate::identity::Identity;
use crate::status::RaftStatus;

/// One node of one Raft group.
#[derive(Debug)]
pub struct RaftNode {
    status: watch::Sender<RaftStatus>,
}

impl RaftNode {
    /// Opens a node with the built-in key-value state machine and no peers.
    pub async fn with_config(config: RaftNodeConfig) -> Result<Self, RaftStoreError> {
        config.validate()?;
        Ok(Self {
            status: watch::Sender::new(RaftStatus::default()),
        })
    }

    /// Opens a node.
    pub async fn open(
        config: RaftNodeConfig,
        _identity: Identity,
        _options: RaftNodeOptions,
        _state_machine: Box<dyn StateMachine>,
        _rpc: Arc<dyn PeerRpc>,
    ) -> Result<Self, RaftStoreError> {
        config.validate()?;
        Ok(Self {
            status: watch::Sender::new(RaftStatus::default()),
        })
    }

    /// Starts the Raft core.
    pub async fn start(&mut self) -> Result<(), RaftStoreError> {
        Ok(())
    }

    /// Stops the core and closes the store.
    pub async fn shutdown(&mut self) {}

    /// A handle for everybody else.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle::new(self.status.subscribe())
    }

    /// Proposes a command with the default deadline.
    pub async fn propose(&self, _command: Bytes) -> Result<Proposed, ProposeError> {
        Err(ProposeError::NotInitialized)
    }

    /// Reads a key of the built-in state machine, linearizably.
    pub async fn kv_get(&self, _key: &[u8]) -> Result<Option<Bytes>, RaftStoreError> {
        Err(RaftStoreError::NoKeyValueState)
    }
}
