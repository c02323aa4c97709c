//! The network between simulated nodes: the one in memory of the transport, with what the simulator notes of
//! each message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rivven_coordinator::{
    BoundNetwork, ClusterNetwork, CoordinatorError, NetworkFactory, NetworkIdentity, NodeScope,
};
use rivven_core_types::{
    Address, BoxFuture, ClusterId, NodeName, PeerIdentity, PeerRpc, Reply, RpcError, RpcHandler,
    RpcKind, RpcRequest, RpcResponse,
};
use rivven_transport::{MemoryEvent, MemoryHost, MemoryNetwork};
pub use rivven_transport::{Traffic, Weather};

use super::trace::{Event, Trace};

/// How many requests of a kind have reached a receiver.
type Delivered = Arc<Mutex<BTreeMap<(RpcKind, SocketAddr), u64>>>;

/// The network between simulated nodes. Clones share it.
#[derive(Debug, Clone)]
pub struct SimNetwork {
    network: MemoryNetwork,
    delivered: Delivered,
    trace: Trace,
}

/// A node's address as a word of the trace.
fn word(address: SocketAddr) -> u64 {
    u64::from(address.port())
}

fn digest(bytes: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(bytes))
}

fn note(
    trace: &Trace,
    delivered: &Delivered,
    (from, to): (SocketAddr, SocketAddr),
    event: &MemoryEvent<'_>,
) {
    let (from_word, to_word) = (word(from), word(to));
    let message = |request: &RpcRequest| {
        let (meta, body) = (digest(&request.meta), digest(&request.body));
        [from_word, to_word, u64::from(request.kind.0), meta, body]
    };
    match event {
        MemoryEvent::Sent(request) => trace.note(Event::Request, &message(request)),
        MemoryEvent::Delivered(request) => {
            trace.note(Event::Delivery, &message(request));
            *locked(delivered).entry((request.kind, to)).or_default() += 1;
        }
        MemoryEvent::Answered(request, answer) => {
            let content = answer.as_ref().map_or([0; 2], |answer| {
                [digest(&answer.meta), digest(&answer.body)]
            });
            trace.note(Event::Answer, &message(request));
            trace.note(Event::Answer, &content);
        }
        MemoryEvent::Datagram(payload) => {
            trace.note(Event::Datagram, &[from_word, to_word, digest(payload)]);
        }
        // The list may grow; what is not known here would make traces differ in nothing.
        _ => {}
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimNetwork {
    /// An empty network whose latencies depend on `seed`.
    pub fn new(seed: u64) -> Self {
        let (delivered, trace) = (Delivered::default(), Trace::new());
        let (counts, notes) = (Arc::clone(&delivered), trace.clone());
        let network = MemoryNetwork::new(seed).observed(Arc::new(move |from, to, event| {
            note(&notes, &counts, (from, to), &event);
        }));
        Self {
            network,
            delivered,
            trace,
        }
    }

    /// What a node at `address` binds its network with.
    /// Only one life may use it: [`Self::kill`] and the next factory make it useless.
    /// What it answers it works out in `scope`.
    pub fn factory(&self, address: SocketAddr, scope: NodeScope) -> Arc<dyn NetworkFactory> {
        Arc::new(SimFactory(self.network.host(address), scope))
    }

    /// Takes the node at `address` off the network: calls in flight get no answer.
    pub fn kill(&self, address: SocketAddr) {
        self.network.kill(address);
    }

    /// Cuts or restores the link between two nodes, in both directions.
    pub fn set_link(&self, a: SocketAddr, b: SocketAddr, up: bool) {
        self.network.set_link(a, b, up);
    }

    /// Cuts or restores what goes from `from` to `to`.
    pub fn set_way(&self, from: SocketAddr, to: SocketAddr, up: bool) {
        self.network.set_way(from, to, up);
    }

    /// The process at `address` stands still: messages from it and to it wait.
    pub fn pause(&self, address: SocketAddr) {
        self.network.pause(address);
    }

    /// The process at `address` goes on.
    pub fn resume(&self, address: SocketAddr) {
        self.network.resume(address);
    }

    /// Restores all links.
    pub fn restore_links(&self) {
        self.network.restore_links();
    }

    /// Sets how the links behave from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.network.set_weather(weather);
    }

    /// What the network has done so far.
    pub fn traffic(&self) -> Traffic {
        self.network.traffic()
    }

    /// How many requests of a kind have reached their receiver.
    pub(super) fn delivered(&self, kind: RpcKind) -> u64 {
        let delivered = locked(&self.delivered);
        let counts = delivered.iter().filter(|((k, _), _)| *k == kind);
        counts.map(|(_, count)| count).sum()
    }

    /// How many of them have reached this one.
    pub(super) fn delivered_to(&self, kind: RpcKind, to: SocketAddr) -> u64 {
        let delivered = locked(&self.delivered);
        delivered.get(&(kind, to)).copied().unwrap_or_default()
    }

    pub(super) fn trace(&self) -> Trace {
        self.trace.clone()
    }
}

struct SimFactory(MemoryHost, NodeScope);

impl NetworkFactory for SimFactory {
    fn bind(
        &self,
        identity: NetworkIdentity,
    ) -> BoxFuture<'static, Result<BoundNetwork, CoordinatorError>> {
        let (host, scope) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let datagram = host.bind(PeerIdentity {
                name: identity.name,
                incarnation: identity.incarnation,
                cluster: identity.cluster,
            });
            let dead =
                |_| CoordinatorError::InvalidRequest("the simulated process is dead".to_owned());
            Ok(BoundNetwork {
                datagram: Arc::new(datagram.map_err(dead)?),
                rpc: Arc::new(SimRpc { host, scope }),
            })
        })
    }
}

/// A host as the coordinator knows it.
struct SimRpc {
    host: MemoryHost,
    scope: NodeScope,
}

/// Answers as `handler` does, but not while its node stands still.
struct Paused {
    handler: Arc<dyn RpcHandler>,
    scope: NodeScope,
}

impl RpcHandler for Paused {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        match self.handler.handle(peer, request) {
            Reply::Later(answer) => Reply::Later(Box::pin(self.scope.hold(answer))),
            now @ Reply::Now(_) => now,
        }
    }
}

impl PeerRpc for SimRpc {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        self.host.call(peer, request)
    }
}

impl ClusterNetwork for SimRpc {
    fn serve(&self, handler: Arc<dyn RpcHandler>) {
        let scope = self.scope.clone();
        self.host.serve(Arc::new(Paused { handler, scope }));
    }

    fn add_peer(&self, _name: NodeName, _address: Address) {
        // Names are resolved by the network itself.
    }

    fn set_cluster_id(&self, cluster: ClusterId) {
        self.host.set_cluster_id(cluster);
    }

    fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>> {
        self.host.call_address(address, request)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.host.shutdown();
        Box::pin(async {})
    }
}
