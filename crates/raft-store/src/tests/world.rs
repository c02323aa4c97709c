//! What the tests share: simulated nodes and the network between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::test_util::{MemVfs, SeededEntropy};
use rivven_core_types::{
    Address, BoxFuture, Incarnation, NodeName, PeerIdentity, PeerRpc, Reply, Rng, RpcError,
    RpcHandler, RpcKind, RpcRequest, RpcResponse, StateMachine,
};
use tokio::time::Instant;

use crate::machine::guard;
use crate::messages::{AppendMessage, SnapshotAnswer, decode_answer, decode_request};
use crate::{
    Identity, InlineExecutor, KvReader, KvStateMachine, NodeScope, RaftHandle, RaftLimits,
    RaftNode, RaftNodeConfig, RaftNodeOptions, RaftStoreError, RuntimeHooks, Voter,
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
    handlers: Arc<Mutex<BTreeMap<NodeName, (RaftHandle, NodeScope)>>>,
    cut: Arc<Mutex<std::collections::BTreeSet<Key>>>,
    seed: u64,
    installed: Arc<AtomicU64>,
    /// Every so many snapshot chunks one is lost, and as many answers; 0 loses none.
    pub(super) lose_chunks: Arc<AtomicU64>,
    /// Whether the connection breaks over which a voter watches its leader, whenever it asks.
    pub(super) lose_watches: Arc<AtomicBool>,
    chunks: Arc<AtomicU64>,
    chaos: Option<Arc<Mutex<Chaos>>>,
}

/// What a disturbed network does, and what it has seen.
struct Chaos {
    rng: Rng,
    start: Instant,
    calm: bool,
    /// A running hash, as of each event.
    trace: Vec<u64>,
    leaders: BTreeMap<u64, u64>,
}

impl Chaos {
    /// Latency of the next message; `None` when it is lost.
    fn fate(&mut self) -> Option<Duration> {
        let lost = self.rng.below(100) < 4;
        let millis = match self.rng.below(10) {
            0 => self.rng.below(60),
            _ => 1 + self.rng.below(3),
        };
        if self.calm {
            Some(Duration::from_millis(1))
        } else {
            (!lost).then(|| Duration::from_millis(millis))
        }
    }

    fn record(&mut self, kind: u64, from: &NodeName, to: &NodeName, parts: [&[u8]; 2]) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
        let digest = parts.iter().fold(0, |crc, p| crc32c::crc32c_append(crc, p));
        let names = crc32c::crc32c(format!("{from}>{to}").as_bytes());
        let mut hash = self.trace.last().copied().unwrap_or_default();
        for word in [nanos, kind, u64::from(names), u64::from(digest)] {
            hash = Rng::new(hash ^ word).next_u64();
        }
        self.trace.push(hash);
    }

    /// One leader per term, seen at the sender of every AppendEntries.
    fn check_leader(&mut self, request: &RpcRequest) {
        if request.kind == RpcKind::RAFT_APPEND {
            let vote = decode_request::<AppendMessage>(request).unwrap().vote;
            let leader = *self.leaders.entry(vote.term).or_insert(vote.node);
            assert_eq!(leader, vote.node, "two leaders in term {}", vote.term);
        }
    }
}

impl Net {
    /// A network that delays, reorders and loses messages as its seed says, and records them.
    pub(super) fn disturbed(seed: u64) -> Self {
        let chaos = Chaos {
            rng: Rng::new(seed),
            start: Instant::now(),
            calm: false,
            trace: Vec::new(),
            leaders: BTreeMap::new(),
        };
        Self {
            seed,
            chaos: Some(Arc::new(Mutex::new(chaos))),
            ..Self::default()
        }
    }

    /// How many snapshots were sent to the last chunk and installed.
    pub(super) fn installed(&self) -> u64 {
        self.installed.load(Ordering::Relaxed)
    }

    /// How many snapshot chunks and answers to them were on the way.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// From now on nothing is lost.
    pub(super) fn calm(&self) {
        guard(self.chaos.as_ref().unwrap()).calm = true;
        self.heal();
    }

    /// The running hash as of each event, and the number of terms that had a leader.
    pub(super) fn trace(&self) -> (Vec<u64>, usize) {
        let chaos = guard(self.chaos.as_ref().unwrap());
        (chaos.trace.clone(), chaos.leaders.len())
    }

    fn attach(&self, node: &NodeName, handle: RaftHandle, scope: NodeScope) {
        guard(&self.handlers).insert(node.clone(), (handle, scope));
    }

    fn blocked(&self, from: &NodeName, to: &NodeName) -> bool {
        guard(&self.cut).contains(&(from.clone(), to.clone()))
    }

    /// One hop: its latency, or nothing when the message is lost.
    async fn hop(&self, kind: u64, way: (&NodeName, &NodeName), parts: [&[u8]; 2]) -> Option<()> {
        let (from, to) = way;
        let snapshot = u64::from(RpcKind::RAFT_SNAPSHOT.0);
        let lose = self.lose_chunks.load(Ordering::Relaxed);
        if lose > 0 && (kind == snapshot || kind == !snapshot) {
            let number = self.chunks.fetch_add(1, Ordering::Relaxed);
            if number % lose == lose - 1 {
                return None;
            }
        }
        let fate = match &self.chaos {
            None => Some(Duration::from_millis(1)),
            Some(chaos) => guard(chaos).fate(),
        };
        // sleep-ok: the simulated one-way latency, on a paused clock.
        tokio::time::sleep(fate?).await;
        if self.blocked(from, to) {
            return None;
        }
        if let Some(chaos) = &self.chaos {
            guard(chaos).record(kind, from, to, parts);
        }
        Some(())
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
            if let Some(chaos) = &net.chaos {
                guard(chaos).check_leader(&request);
            }
            let kind = u64::from(request.kind.0);
            let parts = [&request.meta[..], &request.body[..]];
            let sent = net.hop(kind, (&from, &peer), parts).await;
            let target = guard(&net.handlers).get(&peer).cloned();
            let target = target.filter(|_| guard(&net.handlers).contains_key(&from));
            let Some((handler, scope)) = target.filter(|_| sent.is_some()) else {
                let reason = "cut".to_owned();
                return Err(RpcError::Unreachable { peer, reason });
            };
            let incarnation = Incarnation::from_bytes([0; 16]);
            let identity = PeerIdentity {
                name: from.clone(),
                incarnation,
                cluster: None,
            };
            let lost = || RpcError::ConnectionLost { peer: peer.clone() };
            let is_watch = request.kind == RpcKind::RAFT_WATCH_LEADER;
            if is_watch && net.lose_watches.load(Ordering::Relaxed) {
                return Err(lost());
            }
            let waited = request.deadline;
            // The message outlives its sender, and dies with its receiver.
            let answer = scope.spawn(async move {
                match handler.handle(&identity, request) {
                    Reply::Now(answer) => answer,
                    Reply::Later(answer) => answer.await,
                }
            });
            let peer_died = || RpcError::Timeout {
                peer: peer.clone(),
                waited,
            };
            // A process that is killed has its connections closed; a machine without power closes nothing.
            let answer = answer.await.map_err(|_| {
                if guard(&net.handlers).contains_key(&peer) {
                    lost()
                } else {
                    peer_died()
                }
            })??;
            if kind == u64::from(RpcKind::RAFT_SNAPSHOT.0)
                && let Ok(SnapshotAnswer::Installed(_)) = decode_answer(&answer)
            {
                net.installed.fetch_add(1, Ordering::Relaxed);
            }
            let parts = [&answer.meta[..], &answer.body[..]];
            let back = net.hop(!kind, (&peer, &from), parts).await;
            back.ok_or_else(peer_died).map(|()| answer)
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
    pub(super) scope: NodeScope,
}

impl TestNode {
    pub(super) async fn start(
        net: &Net,
        node: &str,
        vfs: MemVfs,
        edit: impl Fn(&mut RaftNodeConfig, &mut RaftNodeOptions),
    ) -> Result<Self, RaftStoreError> {
        let seed = net.seed * 1000 + u64::from(node.bytes().last().unwrap());
        Self::start_as(net, node, vfs, NodeScope::new(seed), edit).await
    }

    /// Starts a node in a given life.
    pub(super) async fn start_as(
        net: &Net,
        node: &str,
        vfs: MemVfs,
        scope: NodeScope,
        edit: impl Fn(&mut RaftNodeConfig, &mut RaftNodeOptions),
    ) -> Result<Self, RaftStoreError> {
        Self::start_machine(net, node, vfs, scope, edit, |kv| Box::new(kv)).await
    }

    /// Starts a node whose state machine is made of the built-in one.
    pub(super) async fn start_machine(
        net: &Net,
        node: &str,
        vfs: MemVfs,
        scope: NodeScope,
        edit: impl Fn(&mut RaftNodeConfig, &mut RaftNodeOptions),
        wrap: impl FnOnce(KvStateMachine) -> Box<dyn StateMachine>,
    ) -> Result<Self, RaftStoreError> {
        let name = name(node);
        let seed = net.seed * 1000 + u64::from(node.bytes().last().unwrap());
        let (mut config, mut options) = (config(node), options(&vfs, seed));
        options.runtime = RuntimeHooks::Simulated(scope.clone());
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
        let mut node = RaftNode::open(config, identity, options, wrap(machine), rpc).await?;
        node.start().await?;
        net.attach(&name, node.handle(), scope.clone());
        Ok(Self {
            name,
            vfs,
            node,
            kv,
            voter,
            scope,
        })
    }

    pub(super) fn handle(&self) -> RaftHandle {
        self.node.handle()
    }
}
