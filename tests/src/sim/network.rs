//! An in-memory network: RPC and datagrams with a seeded latency, loss, stalls and one-way cuts.
//!
//! A message is a task of the world: it outlives its sender and the sender's patience, so a request
//! that its caller has given up may still be executed, as with a real network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rivven_coordinator::{
    BoundNetwork, ClusterNetwork, CoordinatorError, NetworkFactory, NetworkIdentity,
};
use rivven_core_types::{
    Address, BoxFuture, ClusterId, Datagram, NodeName, PeerIdentity, PeerRpc, Reply, Rng, RpcError,
    RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::trace::{Event, Trace};

/// Datagrams that wait for a receiver; more are lost, as in a socket buffer.
const DATAGRAM_QUEUE: usize = 1024;
/// Shortest one-way latency, in microseconds.
const MIN_LATENCY_MICROS: u64 = 100;
/// Longest time for which a stalled message is held, in milliseconds.
const MAX_STALL_MILLIS: u64 = 4_000;

/// How the links behave that are not cut. Shares are in thousandths of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Spread of the one-way latency, in microseconds.
    pub latency_spread_micros: u64,
    /// Requests that are held for up to 4 seconds and then executed all the same.
    pub stalled_requests: u64,
    /// Proposals to the controller that are held in the same way: late copies of in-sync sets.
    pub stalled_proposals: u64,
    /// Requests that never arrive.
    pub lost_requests: u64,
    /// Answers that never arrive: the request was executed.
    pub lost_answers: u64,
    /// Datagrams that never arrive.
    pub lost_datagrams: u64,
    /// Datagrams that arrive twice.
    pub doubled_datagrams: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency_spread_micros: 900,
            stalled_requests: 0,
            stalled_proposals: 0,
            lost_requests: 0,
            lost_answers: 0,
            lost_datagrams: 0,
            doubled_datagrams: 0,
        }
    }
}

/// What the network has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Calls that were sent.
    pub calls: u64,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Messages that were lost, stalled or doubled, or ran into a cut.
    pub disturbed: u64,
}

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
    /// Ordered pairs: nothing passes from the first to the second.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    weather: Weather,
    traffic: Traffic,
    delivered: BTreeMap<(RpcKind, SocketAddr), u64>,
    trace: Trace,
}

/// A node's address as a word of the trace.
fn word(address: SocketAddr) -> u64 {
    u64::from(address.port())
}

fn digest(bytes: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(bytes))
}

impl World {
    fn chance(&mut self, thousandths: u64) -> bool {
        thousandths > 0 && self.rng.below(1000) < thousandths
    }

    fn latency(&mut self) -> Duration {
        let spread = self.weather.latency_spread_micros;
        Duration::from_micros(MIN_LATENCY_MICROS + self.rng.below(spread))
    }
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
            weather: Weather::default(),
            traffic: Traffic::default(),
            delivered: BTreeMap::new(),
            trace: Trace::new(),
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// What a node at `address` binds its network with.
    /// Only one life may use it: [`Self::kill`] and the next factory make it useless.
    pub fn factory(&self, address: SocketAddr) -> Arc<dyn NetworkFactory> {
        self.kill(address);
        let generation = self.world().hosts.entry(address).or_default().generation;
        Arc::new(SimFactory {
            network: self.clone(),
            address,
            generation,
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

    /// Cuts or restores the link between two nodes, in both directions.
    pub fn set_link(&self, a: SocketAddr, b: SocketAddr, up: bool) {
        self.set_way(a, b, up);
        self.set_way(b, a, up);
    }

    /// Cuts or restores what goes from `from` to `to`.
    pub fn set_way(&self, from: SocketAddr, to: SocketAddr, up: bool) {
        let mut world = self.world();
        if up {
            world.cut.remove(&(from, to));
        } else {
            world.cut.insert((from, to));
        }
    }

    /// Restores all links.
    pub fn restore_links(&self) {
        self.world().cut.clear();
    }

    /// Sets how the links behave from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.world().weather = weather;
    }

    /// What the network has done so far.
    pub fn traffic(&self) -> Traffic {
        self.world().traffic
    }

    /// How many requests of a kind have reached their receiver.
    pub(super) fn delivered(&self, kind: RpcKind) -> u64 {
        let world = self.world();
        let counts = world.delivered.iter().filter(|((k, _), _)| *k == kind);
        counts.map(|(_, count)| count).sum()
    }

    /// How many of them have reached this one.
    pub(super) fn delivered_to(&self, kind: RpcKind, to: SocketAddr) -> u64 {
        let world = self.world();
        world
            .delivered
            .get(&(kind, to))
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn trace(&self) -> Trace {
        self.world().trace.clone()
    }

    fn note(&self, event: Event, words: &[u64]) {
        self.world().trace.note(event, words);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self, address: SocketAddr, generation: u64) -> bool {
        let world = self.world();
        let host = world.hosts.get(&address);
        host.is_some_and(|h| h.generation == generation)
    }

    /// How a message from `from` to `to` fares; `None` if it never arrives.
    fn send(&self, from: SocketAddr, to: SocketAddr, lost: u64, stalled: u64) -> Option<Duration> {
        let mut world = self.world();
        let mut latency = world.latency();
        if world.cut.contains(&(from, to)) || world.chance(lost) {
            world.traffic.disturbed += 1;
            return None;
        }
        if world.chance(stalled) {
            world.traffic.disturbed += 1;
            latency += Duration::from_millis(world.rng.below(MAX_STALL_MILLIS));
        }
        Some(latency)
    }

    fn is_cut(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.world().cut.contains(&(from, to))
    }
}

struct SimFactory {
    network: SimNetwork,
    address: SocketAddr,
    generation: u64,
}

impl NetworkFactory for SimFactory {
    fn bind(
        &self,
        identity: NetworkIdentity,
    ) -> BoxFuture<'static, Result<BoundNetwork, CoordinatorError>> {
        let (network, address, generation) = (self.network.clone(), self.address, self.generation);
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(DATAGRAM_QUEUE);
            let mut world = network.world();
            world.addresses.insert(identity.name.clone(), address);
            let host = world.hosts.entry(address).or_default();
            if host.generation != generation {
                let dead = "the simulated process is dead".to_owned();
                return Err(CoordinatorError::InvalidRequest(dead));
            }
            host.datagrams = Some(sender);
            host.identity = Some(PeerIdentity {
                name: identity.name,
                incarnation: identity.incarnation,
                cluster: identity.cluster,
            });
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

type Answer = Result<(PeerIdentity, RpcResponse), RpcError>;

#[derive(Clone)]
struct SimRpc {
    network: SimNetwork,
    address: SocketAddr,
    generation: u64,
}

impl SimRpc {
    async fn deliver(self, to: SocketAddr, peer: NodeName, request: RpcRequest) -> Answer {
        let waited = request.deadline;
        let deadline = Instant::now() + waited;
        if self.network.is_alive(self.address, self.generation) {
            let (answer, answered) = oneshot::channel();
            let message = self.clone().carry(to, peer.clone(), request, answer);
            drop(tokio::spawn(message));
            if let Ok(Ok(outcome)) = tokio::time::timeout_at(deadline, answered).await {
                return outcome;
            }
        }
        // Silence is only known for what it is when the time is over.
        tokio::time::sleep_until(deadline).await;
        Err(RpcError::Timeout { peer, waited })
    }

    /// One message and its answer. Says nothing when either is lost.
    async fn carry(
        self,
        to: SocketAddr,
        peer: NodeName,
        request: RpcRequest,
        answer: oneshot::Sender<Answer>,
    ) {
        let from = self.identity();
        let weather = {
            let mut world = self.network.world();
            world.traffic.calls += 1;
            world.weather
        };
        let message = [
            word(self.address),
            word(to),
            u64::from(request.kind.0),
            digest(&request.meta),
            digest(&request.body),
        ];
        self.network.note(Event::Request, &message);
        let (lost, stalled) = match request.kind {
            RpcKind::PROPOSE => (
                weather.lost_requests,
                weather.stalled_requests.max(weather.stalled_proposals),
            ),
            _ => (weather.lost_requests, weather.stalled_requests),
        };
        let Some(latency) = self.network.send(self.address, to, lost, stalled) else {
            return;
        };
        tokio::time::sleep(latency).await;
        if self.network.is_cut(self.address, to) {
            return;
        }
        let target = self.network.world().hosts.get(&to).and_then(|host| {
            let (handler, identity) = (host.handler.clone()?, host.identity.clone()?);
            Some((handler, identity, host.generation))
        });
        self.network.note(Event::Delivery, &message);
        *self
            .network
            .world()
            .delivered
            .entry((request.kind, to))
            .or_default() += 1;
        let (Some(from), Some((handler, identity, generation))) = (from, target) else {
            let reason = "connection refused in the simulated network".to_owned();
            drop(answer.send(Err(RpcError::Unreachable { peer, reason })));
            return;
        };
        let patience = request.deadline;
        let response = match handler.handle(&from, request) {
            Reply::Now(response) => response,
            Reply::Later(response) => match tokio::time::timeout(patience, response).await {
                Ok(response) => response,
                Err(_elapsed) => return,
            },
        };
        // A dead node answers nobody.
        if !self.network.is_alive(to, generation) {
            return;
        }
        let lost = weather.lost_answers;
        if let Some(latency) = self.network.send(to, self.address, lost, 0) {
            tokio::time::sleep(latency).await;
            if !self.network.is_cut(to, self.address) {
                let content = response.as_ref().map_or([0; 2], |response| {
                    [digest(&response.meta), digest(&response.body)]
                });
                self.network.note(Event::Answer, &message);
                self.network.note(Event::Answer, &content);
                // The caller may have given up.
                drop(answer.send(response.map(|response| (identity, response))));
            }
        }
    }

    fn identity(&self) -> Option<PeerIdentity> {
        let world = self.network.world();
        let host = world.hosts.get(&self.address)?;
        host.identity
            .clone()
            .filter(|_| host.generation == self.generation)
    }

    fn own_host(&self, change: impl FnOnce(&mut Host)) {
        let mut world = self.network.world();
        let host = world.hosts.get_mut(&self.address);
        if let Some(host) = host.filter(|host| host.generation == self.generation) {
            change(host);
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
        self.own_host(|host| host.handler = Some(handler));
    }

    fn add_peer(&self, _name: NodeName, _address: Address) {
        // Names are resolved by the network itself.
    }

    fn set_cluster_id(&self, cluster: ClusterId) {
        self.own_host(|host| {
            if let Some(identity) = &mut host.identity {
                identity.cluster = Some(cluster);
            }
        });
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
        // A later life of the node must not be taken off with this one.
        if self.network.is_alive(self.address, self.generation) {
            self.network.kill(self.address);
        }
        Box::pin(async {})
    }
}

struct SimDatagram {
    network: SimNetwork,
    address: SocketAddr,
    generation: u64,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

impl SimDatagram {
    fn launch(&self, payload: &[u8], to: SocketAddr, lost: u64) {
        let Some(latency) = self.network.send(self.address, to, lost, 0) else {
            return;
        };
        let (network, payload, from) = (self.network.clone(), payload.to_vec(), self.address);
        drop(tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            let world = network.world();
            let message = [word(from), word(to), digest(&payload)];
            world.trace.note(Event::Datagram, &message);
            let target = world.hosts.get(&to).and_then(|h| h.datagrams.as_ref());
            if let Some(target) = target {
                // A full buffer or a dead receiver loses the datagram, as UDP does.
                drop(target.try_send((payload, from)));
            }
        }));
    }
}

impl Datagram for SimDatagram {
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>> {
        if self.network.is_alive(self.address, self.generation) {
            let (weather, doubled) = {
                let mut world = self.network.world();
                world.traffic.datagrams += 1;
                let weather = world.weather;
                let doubled = world.chance(weather.doubled_datagrams);
                world.traffic.disturbed += u64::from(doubled);
                (weather, doubled)
            };
            for _ in 0..=u8::from(doubled) {
                self.launch(payload, to, weather.lost_datagrams);
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
