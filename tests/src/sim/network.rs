//! An in-memory network: RPC and datagrams with a seeded latency, and nodes that can be cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rivven_coordinator::{
    BoundNetwork, ClusterNetwork, CoordinatorError, NetworkFactory, NetworkIdentity,
};
use rivven_core_types::{
    Address, BoxFuture, ClusterId, Datagram, NodeName, PeerIdentity, PeerRpc, Reply, Rng, RpcError,
    RpcHandler, RpcRequest, RpcResponse,
};
use tokio::sync::mpsc;

/// Datagrams that wait for a receiver; more are lost, as in a socket buffer.
const DATAGRAM_QUEUE: usize = 1024;
/// Shortest one-way latency, in microseconds.
const MIN_LATENCY_MICROS: u64 = 100;
/// Spread of the one-way latency, in microseconds.
const LATENCY_SPREAD_MICROS: u64 = 900;

#[derive(Default)]
struct Host {
    generation: u64,
    identity: Option<PeerIdentity>,
    handler: Option<Arc<dyn RpcHandler>>,
    datagrams: Option<mpsc::Sender<(Vec<u8>, SocketAddr)>>,
}

struct World {
    rng: Rng,
    hosts: BTreeMap<SocketAddr, Host>,
    addresses: BTreeMap<NodeName, SocketAddr>,
    /// Pairs between which nothing passes, in either direction.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
}

/// The network between simulated nodes. Clones share it.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<World>>);

impl std::fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimNetwork")
    }
}

impl SimNetwork {
    /// An empty network whose latencies depend on `seed`.
    pub fn new(seed: u64) -> Self {
        let world = World {
            rng: Rng::new(seed),
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            cut: BTreeSet::new(),
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// What a node at `address` binds its network with.
    pub fn factory(&self, address: SocketAddr) -> Arc<dyn NetworkFactory> {
        Arc::new(SimFactory {
            network: self.clone(),
            address,
        })
    }

    /// Takes the node at `address` off the network: calls in flight get no answer.
    pub fn kill(&self, address: SocketAddr) {
        if let Some(host) = self.world().hosts.get_mut(&address) {
            let generation = host.generation + 1;
            *host = Host {
                generation,
                ..Host::default()
            };
        }
    }

    /// Cuts or restores the link between two nodes.
    pub fn set_link(&self, a: SocketAddr, b: SocketAddr, up: bool) {
        let mut world = self.world();
        for pair in [(a, b), (b, a)] {
            if up {
                world.cut.remove(&pair);
            } else {
                world.cut.insert(pair);
            }
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latency(&self) -> Duration {
        let micros = MIN_LATENCY_MICROS + self.world().rng.below(LATENCY_SPREAD_MICROS);
        Duration::from_micros(micros)
    }

    fn connected(&self, from: SocketAddr, generation: u64, to: SocketAddr) -> bool {
        let world = self.world();
        let alive = world
            .hosts
            .get(&from)
            .is_some_and(|h| h.generation == generation);
        alive && !world.cut.contains(&(from, to))
    }
}

struct SimFactory {
    network: SimNetwork,
    address: SocketAddr,
}

impl NetworkFactory for SimFactory {
    fn bind(
        &self,
        identity: NetworkIdentity,
    ) -> BoxFuture<'static, Result<BoundNetwork, CoordinatorError>> {
        let (network, address) = (self.network.clone(), self.address);
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(DATAGRAM_QUEUE);
            let mut world = network.world();
            world.addresses.insert(identity.name.clone(), address);
            let host = world.hosts.entry(address).or_default();
            host.generation += 1;
            host.datagrams = Some(sender);
            host.identity = Some(PeerIdentity {
                name: identity.name,
                incarnation: identity.incarnation,
                cluster: identity.cluster,
            });
            let generation = host.generation;
            drop(world);
            let rpc = SimRpc {
                network: network.clone(),
                address,
                generation,
            };
            let datagram = SimDatagram {
                network,
                address,
                generation,
                receiver: receiver.into(),
            };
            Ok(BoundNetwork {
                rpc: Arc::new(rpc),
                datagram: Arc::new(datagram),
            })
        })
    }
}

#[derive(Clone)]
struct SimRpc {
    network: SimNetwork,
    address: SocketAddr,
    generation: u64,
}

impl SimRpc {
    async fn deliver(
        self,
        to: SocketAddr,
        peer: NodeName,
        request: RpcRequest,
    ) -> Result<(PeerIdentity, RpcResponse), RpcError> {
        let waited = request.deadline;
        let lost = RpcError::Timeout {
            peer: peer.clone(),
            waited,
        };
        let passes = || self.network.connected(self.address, self.generation, to);
        let exchange = async {
            tokio::time::sleep(self.network.latency()).await;
            let (from, target) = {
                let world = self.network.world();
                let from = world
                    .hosts
                    .get(&self.address)
                    .and_then(|h| h.identity.clone());
                let target = world
                    .hosts
                    .get(&to)
                    .and_then(|h| Some((h.handler.clone()?, h.identity.clone()?, h.generation)));
                (from, target)
            };
            let (Some(from), Some((handler, identity, generation)), true) =
                (from, target, passes())
            else {
                return None;
            };
            let response = match handler.handle(&from, request) {
                Reply::Now(response) => response,
                Reply::Later(response) => response.await,
            };
            tokio::time::sleep(self.network.latency()).await;
            let same_life = self
                .network
                .world()
                .hosts
                .get(&to)
                .is_some_and(|h| h.generation == generation);
            (same_life && passes()).then_some(response.map(|r| (identity, r)))
        };
        match tokio::time::timeout(waited, exchange).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => {
                let reason = "no route in the simulated network".to_owned();
                Err(RpcError::Unreachable { peer, reason })
            }
            Err(_) => Err(lost),
        }
    }
}

impl PeerRpc for SimRpc {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let (this, peer) = (self.clone(), peer.clone());
        let to = self.network.world().addresses.get(&peer).copied();
        Box::pin(async move {
            let to = to.ok_or_else(|| RpcError::UnknownPeer { peer: peer.clone() })?;
            this.deliver(to, peer, request)
                .await
                .map(|(_, response)| response)
        })
    }
}

impl ClusterNetwork for SimRpc {
    fn serve(&self, handler: Arc<dyn RpcHandler>) {
        if let Some(host) = self.network.world().hosts.get_mut(&self.address) {
            host.handler = Some(handler);
        }
    }

    fn add_peer(&self, _name: NodeName, _address: Address) {
        // Names are resolved by the network itself.
    }

    fn set_cluster_id(&self, cluster: ClusterId) {
        let mut world = self.network.world();
        let identity = world
            .hosts
            .get_mut(&self.address)
            .and_then(|h| h.identity.as_mut());
        if let Some(identity) = identity {
            identity.cluster = Some(cluster);
        }
    }

    fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>> {
        let this = self.clone();
        let to = address.to_string().parse();
        Box::pin(async move {
            let to = to.map_err(|_| RpcError::Malformed("not a socket address".to_owned()))?;
            let unnamed = NodeName::new("unnamed").map_err(|e| RpcError::Refused(e.to_string()))?;
            this.deliver(to, unnamed, request).await
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.network.kill(self.address);
        Box::pin(async {})
    }
}

struct SimDatagram {
    network: SimNetwork,
    address: SocketAddr,
    generation: u64,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

impl Datagram for SimDatagram {
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>> {
        if self.network.connected(self.address, self.generation, to) {
            let target = self
                .network
                .world()
                .hosts
                .get(&to)
                .and_then(|h| h.datagrams.clone());
            let (latency, payload, from) = (self.network.latency(), payload.to_vec(), self.address);
            if let Some(target) = target {
                tokio::spawn(async move {
                    tokio::time::sleep(latency).await;
                    // A full buffer or a dead receiver loses the datagram, as UDP does.
                    drop(target.try_send((payload, from)));
                });
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, std::io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let received = self.receiver.lock().await.recv().await;
            let (payload, from) =
                received.ok_or_else(|| std::io::Error::other("the simulated host is dead"))?;
            let length = payload.len().min(buffer.len());
            buffer[..length].copy_from_slice(&payload[..length]);
            Ok((length, from))
        })
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
