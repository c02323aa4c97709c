//! A network in memory, behind the same ports as the real one ([`PeerRpc`], [`Datagram`]): for tests of what
//! is built on them, and for simulators.
//!
//! Everything that is drawn comes from one seed, and time is tokio's: on a paused clock, in one thread, a run
//! repeats itself exactly. A message is a task of the network and not of its sender: it outlives its sender
//! and the sender's patience, so that a request which its caller has given up may still be executed, as on a
//! real network.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rivven_core_types::{
//!     Incarnation, Lane, NodeName, PeerIdentity, PeerRpc, Reply, RpcError, RpcHandler, RpcKind, RpcRequest,
//!     RpcResponse,
//! };
//! use rivven_transport::{MemoryNetwork, Weather};
//!
//! struct Echo;
//!
//! impl RpcHandler for Echo {
//!     fn handle(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
//!         Reply::Now(Ok(RpcResponse { meta: request.meta, body: request.body }))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = MemoryNetwork::new(7);
//! let identity = |name: &str| -> Result<PeerIdentity, Box<dyn std::error::Error>> {
//!     let incarnation = Incarnation::from_bytes([0; 16]);
//!     Ok(PeerIdentity { name: NodeName::new(name)?, incarnation, cluster: None })
//! };
//! let (a, b) = (network.host("10.0.0.1:1".parse()?), network.host("10.0.0.2:1".parse()?));
//! a.bind(identity("a")?)?;
//! b.bind(identity("b")?)?;
//! b.serve(Arc::new(Echo));
//! network.set_weather(Weather { stalled_requests: 500, ..Weather::default() });
//! let request = RpcRequest {
//!     kind: RpcKind::MEMBER_PROBE,
//!     lane: Lane::Rpc,
//!     meta: "hello".into(),
//!     body: "".into(),
//!     deadline: std::time::Duration::from_secs(10),
//! };
//! assert_eq!(a.call(&NodeName::new("b")?, request.clone()).await?.meta, "hello");
//! // What goes from b to a is lost: the request is executed, and nobody learns of it.
//! network.set_way(b.address(), a.address(), false);
//! let outcome = a.call(&NodeName::new("b")?, request).await;
//! assert!(matches!(outcome, Err(RpcError::Timeout { .. })));
//! # Ok(())
//! # }
//! ```

mod datagram;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rivven_core_types::{
    NodeName, PeerIdentity, Rng, RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use tokio::sync::{mpsc, oneshot};

pub use datagram::MemoryDatagram;
pub use host::MemoryHost;

#[cfg(doc)]
use rivven_core_types::{Datagram, PeerRpc};

/// Shortest one-way latency, in microseconds.
const MIN_LATENCY_MICROS: u64 = 100;
/// Longest time for which a stalled message is held, in milliseconds.
const MAX_STALL_MILLIS: u64 = 4_000;

/// How the links behave that are not cut. Shares are in thousandths of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Spread of the one-way latency, in microseconds, on top of 100. Messages overtake each other
    /// where it is more than a millisecond, which is as fine as tokio's timers are.
    pub latency_spread_micros: u64,
    /// Requests that are held for up to 4 seconds and then executed all the same.
    pub stalled_requests: u64,
    /// The same for requests of one kind.
    pub stalled_kind: Option<(RpcKind, u64)>,
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
    /// Up to a millisecond each way; nothing is lost.
    fn default() -> Self {
        Self {
            latency_spread_micros: 900,
            stalled_requests: 0,
            stalled_kind: None,
            lost_requests: 0,
            lost_answers: 0,
            lost_datagrams: 0,
            doubled_datagrams: 0,
        }
    }
}

impl Weather {
    fn stalled(&self, kind: RpcKind) -> u64 {
        match self.stalled_kind {
            Some((stalled, share)) if stalled == kind => self.stalled_requests.max(share),
            _ => self.stalled_requests,
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

/// Something that happens to a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum MemoryEvent<'a> {
    /// A request sets out.
    Sent(&'a RpcRequest),
    /// It arrives, whether or not somebody is there.
    Delivered(&'a RpcRequest),
    /// Its answer arrives.
    Answered(&'a RpcRequest, &'a Result<RpcResponse, RpcError>),
    /// A datagram arrives.
    Datagram(&'a [u8]),
}

/// Is told of every message: from where, to where, and what happens. Of an answer too, the first address is
/// the caller's. It must not call the network.
pub type MemoryObserver = Arc<dyn Fn(SocketAddr, SocketAddr, MemoryEvent<'_>) + Send + Sync>;

#[derive(Default)]
struct Host {
    /// How many have been at this address before.
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
    /// Hosts that stand still, each with the messages that wait for it.
    paused: BTreeMap<SocketAddr, Vec<oneshot::Sender<()>>>,
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

/// The network between hosts in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryNetwork {
    world: Arc<Mutex<World>>,
    observer: Option<MemoryObserver>,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryNetwork")
    }
}

impl MemoryNetwork {
    /// An empty network; what is drawn depends on `seed`.
    pub fn new(seed: u64) -> Self {
        let world = World {
            rng: Rng::new(seed),
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            cut: BTreeSet::new(),
            weather: Weather::default(),
            traffic: Traffic::default(),
            paused: BTreeMap::new(),
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            observer: None,
        }
    }

    /// The same network, for hosts made from this value: `observer` is told of what they send.
    #[must_use]
    pub fn observed(mut self, observer: MemoryObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// A new host at `address`, which has no identity yet. Whoever was there is gone.
    pub fn host(&self, address: SocketAddr) -> MemoryHost {
        self.kill(address);
        let generation = self.world().hosts.entry(address).or_default().generation;
        MemoryHost::new(self.clone(), address, generation)
    }

    /// The process at `address` stands still, as after SIGSTOP: what it sends and what it is sent is kept in
    /// the buffers of its machine, in both directions, until [`MemoryNetwork::resume`].
    pub fn pause(&self, address: SocketAddr) {
        self.world().paused.entry(address).or_default();
    }

    /// The process at `address` goes on, and finds everything that waits for it, the oldest first.
    pub fn resume(&self, address: SocketAddr) {
        let waiting = self.world().paused.remove(&address);
        drop(waiting);
    }

    /// Takes the host at `address` off the network: calls in flight get no answer.
    pub fn kill(&self, address: SocketAddr) {
        self.resume(address);
        let old = self.world().hosts.get_mut(&address).map(|host| {
            let generation = host.generation + 1;
            let next = Host {
                generation,
                ..Host::default()
            };
            std::mem::replace(host, next)
        });
        // Its handler may use the network as it goes.
        drop(old);
    }

    /// Cuts or restores the link between two hosts, in both directions.
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

    fn tell(&self, from: SocketAddr, to: SocketAddr, event: MemoryEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(from, to, event);
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self, address: SocketAddr, generation: u64) -> bool {
        let world = self.world();
        let host = world.hosts.get(&address);
        host.is_some_and(|h| h.generation == generation)
    }

    /// Waits while the process at `address` stands still.
    async fn until_resumed(&self, address: SocketAddr) {
        loop {
            let waiting = self.world().paused.get_mut(&address).map(|waiting| {
                let (resumes, resumed) = oneshot::channel();
                waiting.push(resumes);
                resumed
            });
            let Some(resumed) = waiting else { return };
            // Its sender is dropped, never used.
            drop(resumed.await);
        }
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

#[cfg(test)]
mod tests;
