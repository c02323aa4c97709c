//! The owner of a Raft group's node.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, BoxFuture, NodeName, PeerRpc, ProposeError, Proposed, Proposer, RpcError, RpcRequest,
    RpcResponse, StateMachine,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{RaftNodeConfig, RaftNodeOptions};
use crate::error::RaftStoreError;
use crate::handle::RaftHandle;
use crate::identity::Identity;
use crate::instance::{Context, Store};
use crate::kv::{KvReader, KvStateMachine};
use crate::machine::guard;
use crate::status::{RaftState, Voter};
use crate::supervisor::Shared;

/// Deadline of [`RaftNode::propose`] and [`RaftNode::kv_get`].
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for a standalone node to lead itself.
const STANDALONE_DEADLINE: Duration = Duration::from_secs(30);

enum Stage {
    Opened(Box<Store>),
    Running {
        stop: oneshot::Sender<()>,
        supervisor: JoinHandle<()>,
    },
    Closed,
}

/// One node of one Raft group: it owns the store and the supervisor. Dropping it ends both without
/// waiting; [`RaftNode::shutdown`] waits.
pub struct RaftNode {
    shared: Arc<Shared>,
    stage: Stage,
    kv: Option<KvReader>,
}

impl fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// For a node without peers.
#[derive(Debug, Clone, Copy)]
struct NoPeers;

impl PeerRpc for NoPeers {
    fn call(
        &self,
        peer: &NodeName,
        _request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let peer = peer.clone();
        Box::pin(async { Err(RpcError::UnknownPeer { peer }) })
    }
}

impl RaftNode {
    /// Opens a node with the built-in key-value state machine ([`crate::KvCommand`]) and no peers,
    /// on the operating system's disk.
    ///
    /// # Errors
    /// As [`RaftNode::open`], and those of [`Identity::load_or_create`].
    pub async fn with_config(config: RaftNodeConfig) -> Result<Self, RaftStoreError> {
        Self::with_options(config, RaftNodeOptions::default()).await
    }

    /// As [`RaftNode::with_config`], with other options.
    ///
    /// # Errors
    /// As [`RaftNode::with_config`].
    pub async fn with_options(
        config: RaftNodeConfig,
        options: RaftNodeOptions,
    ) -> Result<Self, RaftStoreError> {
        config.validate()?;
        let identity = Identity::load_or_create(
            &options.vfs,
            &config.data_dir,
            &config.name()?,
            &*options.entropy,
        )?;
        let machine = KvStateMachine::new();
        let reader = machine.reader();
        let rpc = Arc::new(NoPeers);
        let mut node = Self::open(config, identity, options, Box::new(machine), rpc).await?;
        node.kv = Some(reader);
        Ok(node)
    }

    /// Opens a node's store, making it on the first start, and checks every record in it.
    ///
    /// `state_machine` must be blank and is never applied to itself: it is the prototype from whose
    /// [`StateMachine::restore`] every state is built, so that a core can be rebuilt in-process. What
    /// it publishes it must share with the machines that it restores, from
    /// [`StateMachine::installed`] on.
    ///
    /// # Errors
    /// [`RaftStoreError::Config`]; [`RaftStoreError::StoreLost`], [`RaftStoreError::Corrupt`],
    /// [`RaftStoreError::FormatTooNew`]: a person has to look, nothing was changed;
    /// [`RaftStoreError::AlreadyOpen`], [`RaftStoreError::Io`].
    pub async fn open(
        config: RaftNodeConfig,
        identity: Identity,
        options: RaftNodeOptions,
        state_machine: Box<dyn StateMachine>,
        rpc: Arc<dyn PeerRpc>,
    ) -> Result<Self, RaftStoreError> {
        config.validate()?;
        let context = Arc::new(Context {
            config,
            options,
            identity: Mutex::new(identity),
            genesis: state_machine.freeze(),
            admission: state_machine.admission(),
            prototype: Arc::new(Mutex::new(state_machine)),
            rpc,
        });
        let store = context.options.runtime.enter(context.open()).await?;
        let shared = Arc::new(Shared::new(context));
        Ok(Self {
            shared,
            stage: Stage::Opened(Box::new(store)),
            kv: None,
        })
    }

    /// Starts the Raft core and its supervisor. A standalone node forms its group of one on the
    /// first start and leads it when this returns; any other node without members awaits them.
    ///
    /// # Errors
    /// [`RaftStoreError::NotStartable`] on a second call, or when a standalone node finds other
    /// voters in its store; [`RaftStoreError::Raft`], [`RaftStoreError::Timeout`].
    pub async fn start(&mut self) -> Result<(), RaftStoreError> {
        let refuse = |reason| RaftStoreError::NotStartable {
            group: self.shared.group(),
            reason,
        };
        let store = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Opened(store) => store,
            running @ Stage::Running { .. } => {
                let error = refuse("it is running");
                self.stage = running;
                return Err(error);
            }
            Stage::Closed => return Err(refuse("it was shut down or could not be started")),
        };
        let context = &self.shared.context;
        let hooks = context.options.runtime.clone();
        let instance = hooks.enter(context.run(*store)).await?;
        self.shared.adopt(Arc::new(instance));
        let (stop, stopped) = oneshot::channel();
        let supervise = Arc::clone(&self.shared).supervise(stopped);
        let supervisor = hooks.spawn(supervise);
        self.stage = Stage::Running { stop, supervisor };
        if self.shared.context.config.standalone {
            let alone = self.start_alone().await;
            if alone.is_err() {
                self.shutdown().await;
            }
            return alone;
        }
        Ok(())
    }

    async fn start_alone(&self) -> Result<(), RaftStoreError> {
        let handle = self.handle();
        let (raft_id, name) = {
            let identity = guard(&self.shared.context.identity);
            (identity.raft_id, identity.node_name.clone())
        };
        let voters = handle.status().voters;
        if voters.is_empty() {
            let address = Address::new("localhost", 0)?;
            handle
                .initialize(vec![Voter {
                    raft_id,
                    name,
                    address,
                }])
                .await?;
        } else if voters.len() > 1 {
            let reason = "standalone is true, but the store names several voters";
            return Err(RaftStoreError::NotStartable {
                group: self.shared.group(),
                reason,
            });
        }
        let leads = |status: &crate::RaftStatus| status.state == RaftState::Leader;
        handle
            .wait_status(STANDALONE_DEADLINE, "the standalone node to lead", leads)
            .await?;
        Ok(())
    }

    /// Ends the core, makes everything queued durable and closes the store. Idempotent.
    pub async fn shutdown(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Opened(store) => {
                let hooks = self.shared.context.options.runtime.clone();
                hooks.enter(store.close()).await;
            }
            Stage::Running { stop, supervisor } => {
                // An error means that the supervisor has ended by itself.
                stop.send(()).unwrap_or_default();
                if let Err(error) = supervisor.await {
                    tracing::error!(%error, "the Raft supervisor did not end cleanly");
                }
            }
            Stage::Closed => {}
        }
    }

    /// A handle for everybody else. Valid before the start too.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle::new(Arc::clone(&self.shared))
    }

    #[cfg(test)]
    pub(crate) fn shared_for_tests(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Proposes a command and waits up to 10 s until it is applied.
    ///
    /// # Errors
    /// Those of [`Proposer::propose`].
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        self.handle()
            .propose(self.shared.group(), command, DEFAULT_DEADLINE)
            .await
    }

    /// Proposes commands in one go and waits up to 10 s until they are applied; see
    /// [`RaftHandle::propose_batch`].
    ///
    /// # Errors
    /// As there.
    pub async fn propose_batch(
        &self,
        commands: Vec<Bytes>,
    ) -> Result<Vec<Result<Proposed, ProposeError>>, ProposeError> {
        self.handle()
            .propose_batch(commands, DEFAULT_DEADLINE)
            .await
    }

    /// Reads a key of the built-in state machine, linearizably; on the leader only.
    ///
    /// # Errors
    /// [`RaftStoreError::NoKeyValueState`], [`RaftStoreError::NotLeader`],
    /// [`RaftStoreError::Unavailable`]. Nothing changes.
    pub async fn kv_get(&self, key: &[u8]) -> Result<Option<Bytes>, RaftStoreError> {
        let reader = self.kv.as_ref().ok_or(RaftStoreError::NoKeyValueState)?;
        match self.handle().read_barrier(DEFAULT_DEADLINE).await {
            Ok(_) => Ok(reader.get(key)),
            Err(ProposeError::NotLeader { leader }) => Err(RaftStoreError::NotLeader { leader }),
            Err(error) => Err(RaftStoreError::Unavailable(error.to_string())),
        }
    }
}
