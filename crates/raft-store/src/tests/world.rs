//! What the tests share: simulated nodes and the network between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::test_util::{MemVfs, SeededEntropy};
use rivven_core_types::{
    Address, BoxFuture, Incarnation, NodeName, PeerIdentity, PeerRpc, Reply, RpcError, RpcHandler,
    RpcRequest, RpcResponse,
};

use crate::machine::guard;
use crate::{
    Identity, InlineExecutor, KvReader, KvStateMachine, RaftHandle, RaftLimits, RaftNode,
    RaftNodeConfig, RaftNodeOptions, RaftStoreError, Voter,
};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn config(node: &str) -> RaftNodeConfig {
    RaftNodeConfig {
        node_id: node.to_owned(),
        data_dir: PathBuf::from("/data"),
        ..RaftNodeConfig::default()
    }
}

pub(super) fn options(vfs: &MemVfs, seed: u64) -> RaftNodeOptions {
    RaftNodeOptions {
        vfs: Arc::new(vfs.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        io: Arc::new(InlineExecutor),
        limits: RaftLimits {
            snapshot_min_log_bytes: 0,
            ..RaftLimits::default()
        },
        ..RaftNodeOptions::default()
    }
}

type Key = (NodeName, NodeName);

/// An in-memory network: who can reach whom, and with which handler.
#[derive(Clone, Default)]
pub(super) struct Net {
    handlers: Arc<Mutex<BTreeMap<NodeName, RaftHandle>>>,
    cut: Arc<Mutex<std::collections::BTreeSet<Key>>>,
}

impl Net {
    pub(super) fn attach(&self, node: &NodeName, handle: RaftHandle) {
        guard(&self.handlers).insert(node.clone(), handle);
    }

    pub(super) fn detach(&self, node: &NodeName) {
        guard(&self.handlers).remove(node);
    }

    pub(super) fn isolate(&self, node: &NodeName, others: &[NodeName]) {
        let both = others
            .iter()
            .flat_map(|o| [(node.clone(), o.clone()), (o.clone(), node.clone())]);
        guard(&self.cut).extend(both);
    }

    pub(super) fn heal(&self) {
        guard(&self.cut).clear();
    }

    pub(super) fn from(&self, node: &NodeName) -> Arc<dyn PeerRpc> {
        Arc::new(Port {
            net: self.clone(),
            from: node.clone(),
        })
    }
}

struct Port {
    net: Net,
    from: NodeName,
}

impl PeerRpc for Port {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let (net, from, peer) = (self.net.clone(), self.from.clone(), peer.clone());
        Box::pin(async move {
            // sleep-ok: the simulated one-way latency, on a paused clock.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let blocked = guard(&net.cut).contains(&(from.clone(), peer.clone()));
            let handler = guard(&net.handlers)
                .get(&peer)
                .cloned()
                .filter(|_| !blocked);
            let Some(handler) = handler.filter(|_| guard(&net.handlers).contains_key(&from)) else {
                let reason = "cut".to_owned();
                return Err(RpcError::Unreachable { peer, reason });
            };
            let incarnation = Incarnation::from_bytes([0; 16]);
            let identity = PeerIdentity {
                name: from,
                incarnation,
                cluster: None,
            };
            match handler.handle(&identity, request) {
                Reply::Now(answer) => answer,
                Reply::Later(answer) => answer.await,
            }
        })
    }
}

/// One node of a simulated cluster.
pub(super) struct TestNode {
    pub(super) name: NodeName,
    pub(super) vfs: MemVfs,
    pub(super) node: RaftNode,
    pub(super) kv: KvReader,
    pub(super) voter: Voter,
}

impl TestNode {
    pub(super) async fn start(
        net: &Net,
        node: &str,
        vfs: MemVfs,
        edit: impl Fn(&mut RaftNodeConfig, &mut RaftNodeOptions),
    ) -> Result<Self, RaftStoreError> {
        let name = name(node);
        let seed = u64::from(node.bytes().last().unwrap());
        let (mut config, mut options) = (config(node), options(&vfs, seed));
        edit(&mut config, &mut options);
        let identity =
            Identity::load_or_create(&options.vfs, &config.data_dir, &name, &*options.entropy)?;
        let address = Address::new(node, 1).unwrap();
        let voter = Voter {
            raft_id: identity.raft_id,
            name: name.clone(),
            address,
        };
        let machine = KvStateMachine::new();
        let kv = machine.reader();
        let rpc = net.from(&name);
        let mut node = RaftNode::open(config, identity, options, Box::new(machine), rpc).await?;
        node.start().await?;
        net.attach(&name, node.handle());
        Ok(Self {
            name,
            vfs,
            node,
            kv,
            voter,
        })
    }

    pub(super) fn handle(&self) -> RaftHandle {
        self.node.handle()
    }
}
