//! The simulated network and its clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{MonoTime, NodeInfo, NodeName, RackId, Rng};

use super::faults::{Faults, Measured};
use super::flight::{Flight, Kind};
use super::recording::Recorded;
use crate::profile::Destination;
use crate::{
    Detector, Event, Input, MAX_SWIM_DATAGRAM_BYTES, MemberState, Output, Registry, SharedSecret,
    SwimConfig, SwimSecurity,
};

const PORT: u16 = 7946;
/// Least one-way latency, and the mean of the exponential part on top, in microseconds.
const LATENCY_US: u64 = 300;
const LATENCY_EXTRA_US: f64 = 500.0;
/// Datagrams that a paused node's socket keeps.
const SOCKET_BUFFER: usize = 256;
/// Racks that the nodes are spread over.
const RACKS: u32 = 3;

pub(super) struct Node {
    pub(super) detector: Detector,
    /// When its timer is due, in simulated time; stale entries of the heap differ from it.
    due: u64,
    pub(super) boot_id: u64,
    pub(super) incarnation: u64,
    paused_until: u64,
    buffered: usize,
    lossy_from: u64,
    lossy_until: u64,
    /// Its clock gains so many microseconds in a second.
    drift_ppm: i64,
}

type Cut = Box<dyn Fn(u32, u32) -> bool>;
/// What an observer held of a member: boot id, incarnation, state.
pub(super) type Held = (u64, u64, MemberState);

/// Detectors and the datagrams between them, under virtual time.
pub struct Simulation {
    pub(super) nodes: Vec<Option<Node>>,
    registry: Arc<Registry>,
    flights: BinaryHeap<Reverse<Flight>>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    pub(super) now: u64,
    number: u64,
    rng: Rng,
    /// What every node is configured with, but for its boot id.
    pub config: SwimConfig,
    /// What goes wrong.
    pub faults: Faults,
    cut: Option<Cut>,
    pub(super) measured: Measured,
    /// Changes of members: when, at whom, what. Cleared by the caller.
    pub trace: Vec<(Duration, u32, Event)>,
    pub(super) names: HashMap<NodeName, u32>,
    pub(super) held: BTreeMap<(u32, u32), Held>,
    out: Vec<Output>,
    pub(super) first_failed: Option<u64>,
    hash: u64,
    /// Whether the datagram at hand was dropped.
    pub(super) dropped: bool,
    /// Of the datagrams that arrive several times, those that were taken.
    pub(super) taken: BTreeSet<u64>,
    pub(super) inputs: u64,
    pub(super) tolerant: bool,
    pub(super) broken: Option<String>,
    pub(super) recorded: BTreeMap<u32, Vec<Recorded>>,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

fn address(node: u32) -> SocketAddr {
    let [_, a, b, c] = node.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), PORT)
}

fn node_at(address: SocketAddr) -> Option<u32> {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            Some(u32::from_be_bytes([0, a, b, c]))
        }
        IpAddr::V6(_) => None,
    }
}

/// The name of a simulated node.
pub(crate) fn name(node: u32) -> NodeName {
    NodeName::new(format!("node-{node}")).expect("letters, a dash and digits")
}

fn info(node: u32) -> NodeInfo {
    let rack = RackId::new(format!("rack-{}", node % RACKS)).expect("letters, a dash and digits");
    NodeInfo::new(name(node), address(node).into(), address(node).into()).with_rack(rack)
}

impl Simulation {
    /// A network without nodes, authenticated.
    pub fn new(seed: u64) -> Self {
        let secret = SharedSecret::new("the secret of the simulation").expect("it is long enough");
        Self {
            nodes: Vec::new(),
            registry: Arc::default(),
            flights: BinaryHeap::new(),
            timers: BinaryHeap::new(),
            now: 0,
            number: 0,
            rng: Rng::new(seed),
            config: SwimConfig {
                security: SwimSecurity::SharedSecret(secret),
                max_members: 16_384,
                ..SwimConfig::default()
            },
            faults: Faults::default(),
            cut: None,
            measured: Measured::default(),
            trace: Vec::new(),
            names: HashMap::new(),
            held: BTreeMap::new(),
            out: Vec::new(),
            first_failed: None,
            hash: 0,
            dropped: false,
            taken: BTreeSet::new(),
            inputs: 0,
            tolerant: false,
            broken: None,
            recorded: BTreeMap::new(),
        }
    }

    /// A network of `count` nodes that all know each other already.
    pub fn acquainted(seed: u64, count: u32, config: impl FnOnce(&mut SwimConfig)) -> Self {
        let mut network = Self::new(seed);
        config(&mut network.config);
        for node in 0..count {
            network.start(node, 1);
        }
        let profiles: Vec<_> = network
            .nodes
            .iter()
            .flatten()
            .map(|node| Arc::clone(&node.detector.me.profile))
            .collect();
        for node in network.nodes.iter_mut().flatten() {
            node.detector.meet(&profiles);
        }
        network
    }

    /// Starts a node that knows nobody.
    pub fn start(&mut self, node: u32, boot_id: u64) {
        self.place(node, info(node), boot_id);
    }

    /// Starts another process under the name of node `original`, at the address of `node`, which asks
    /// `seed`.
    pub fn impersonate(&mut self, node: u32, original: u32, boot_id: u64, seed: u32) {
        let address = address(node);
        let info = NodeInfo::new(name(original), address.into(), address.into());
        self.place(node, info, boot_id);
        self.input(node, Input::Join(vec![self::address(seed).into()]));
    }

    fn place(&mut self, node: u32, info: NodeInfo, boot_id: u64) {
        let config = SwimConfig {
            boot_id: Some(boot_id),
            ..self.config.clone()
        };
        let seed = self.rng.next_u64();
        let registry = Arc::clone(&self.registry);
        let now = at(self.now);
        let detector = Detector::sharing(info, config, seed, now, registry)
            .expect("the configuration of the simulation is valid");
        let index = usize::try_from(node).expect("a node number fits");
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, || None);
        }
        self.names.entry(name(node)).or_insert(node);
        let place = self.nodes.get_mut(index).expect("it was made above");
        *place = Some(Node {
            detector,
            due: u64::MAX,
            boot_id,
            incarnation: 0,
            paused_until: 0,
            buffered: 0,
            lossy_from: 0,
            lossy_until: 0,
            drift_ppm: 0,
        });
        self.held.retain(|(observer, _), _| *observer != node);
        self.schedule(node);
    }

    /// Starts a node that asks `seed`.
    pub fn join(&mut self, node: u32, boot_id: u64, seed: u32) {
        self.start(node, boot_id);
        self.input(node, Input::Join(vec![address(seed).into()]));
    }

    /// The node's process ends without a word.
    pub fn kill(&mut self, node: u32) {
        if let Some(place) = self.nodes.get_mut(node as usize) {
            *place = None;
        }
    }

    /// The node stands still, as under SIGSTOP; its socket keeps what comes.
    pub fn pause(&mut self, node: u32, pause: Duration) {
        let until = self.now + micros(pause);
        if let Some(node) = self.node_mut(node) {
            node.paused_until = until;
        }
    }

    /// The node's clock runs fast (or slow) from now on.
    pub fn drift(&mut self, node: u32, ppm: i64) {
        if let Some(node) = self.node_mut(node) {
            node.drift_ppm = ppm;
        }
    }

    /// Cuts off the datagrams from the first to the second node wherever this says so.
    pub fn cut(&mut self, cut: impl Fn(u32, u32) -> bool + 'static) {
        self.cut = Some(Box::new(cut));
    }

    /// All datagrams get through again.
    pub fn heal(&mut self) {
        self.cut = None;
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// What was counted since the start, or since [`Simulation::reset`].
    pub const fn measured(&self) -> Measured {
        self.measured
    }

    /// Counts anew.
    pub fn reset(&mut self) {
        self.measured = Measured::default();
        self.first_failed = None;
        self.trace.clear();
    }

    /// When the first probe failed since the last reset.
    pub fn first_failed_probe(&self) -> Option<Duration> {
        self.first_failed.map(Duration::from_micros)
    }

    /// Depends on every datagram and every change: equal for equal runs.
    pub const fn trace_hash(&self) -> u64 {
        self.hash
    }

    /// The running nodes.
    pub fn running(&self) -> impl Iterator<Item = u32> {
        let numbered = (0u32..).zip(&self.nodes);
        numbered.filter_map(|(number, node)| node.as_ref().map(|_| number))
    }

    /// What one node believes of another.
    pub fn state(&self, observer: u32, node: u32) -> Option<MemberState> {
        let observer = self.nodes.get(observer as usize)?.as_ref()?;
        observer.detector.state_of(&name(node))
    }

    /// The detector of a running node.
    pub fn detector(&self, node: u32) -> Option<&Detector> {
        self.nodes.get(node as usize)?.as_ref().map(|n| &n.detector)
    }

    pub(super) fn node_mut(&mut self, node: u32) -> Option<&mut Node> {
        self.nodes.get_mut(node as usize)?.as_mut()
    }

    /// Whether every other running node holds `node` for `state`.
    pub fn all_hold(&self, node: u32, state: MemberState) -> bool {
        let mut others = self.running().filter(|other| *other != node);
        others.all(|other| self.state(other, node) == Some(state))
    }

    /// Whether every running node holds exactly `count` others for live, and none of them for
    /// suspected.
    pub fn all_know(&self, count: usize) -> bool {
        let mut running = self.nodes.iter().flatten();
        running.all(|node| node.detector.live_others() == count)
    }

    /// Whether all running nodes hold the same table.
    pub fn is_agreed(&self) -> bool {
        let mut digests = self.nodes.iter().flatten();
        let first = digests.next().map(|node| node.detector.table.digest());
        digests.all(|node| Some(node.detector.table.digest()) == first)
    }

    /// Gives one node an input, and carries out what follows.
    pub fn input(&mut self, node: u32, input: Input<'_>) {
        let mut out = std::mem::take(&mut self.out);
        let now = self.now;
        if let Some(running) = self.node_mut(node) {
            let local = at(running.local(now));
            running.detector.handle(local, input, &mut out);
        }
        self.carry_out(node, &mut out);
        self.check_bounds(node);
        self.out = out;
        self.schedule(node);
    }

    /// Calls the detector itself, for what is no input.
    pub fn with_detector<T>(
        &mut self,
        node: u32,
        call: impl FnOnce(&mut Detector, MonoTime, &mut Vec<Output>) -> T,
    ) -> Option<T> {
        let mut out = Vec::new();
        let now = self.now;
        let running = self.node_mut(node)?;
        let local = at(running.local(now));
        let result = call(&mut running.detector, local, &mut out);
        self.carry_out(node, &mut out);
        self.schedule(node);
        Some(result)
    }

    /// A stranger's datagram of that length which passes every check before the tag.
    pub fn forgery(&self, length: usize) -> Vec<u8> {
        let held = self.nodes.iter().flatten().next();
        let envelope = held.map(|node| &node.detector.envelope);
        let key = envelope.map_or(0, |e| e.key_for(e.keys()));
        let mut bytes = vec![2, 1, key];
        bytes.extend_from_slice(&self.config.cluster.short().to_be_bytes());
        bytes.resize(length.max(bytes.len()), 0x5a);
        bytes
    }

    /// Delivers bytes of a stranger's making.
    pub fn inject(&mut self, to: u32, payload: &[u8]) {
        let from = SocketAddr::from(([192, 0, 2, 1], PORT));
        self.input(to, Input::Datagram { from, payload });
    }

    fn carry_out(&mut self, node: u32, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send {
                    to: Destination::Socket(to),
                    payload,
                } => self.send(node, to, payload),
                Output::Event(event) => self.observe(node, event),
                Output::Send { .. } | Output::StreamProbe { .. } => {}
            }
        }
    }

    /// Adds to the trace, eight bytes at a time: every datagram goes through here.
    pub(super) fn mix(&mut self, bytes: &[u8]) {
        let mut hash = self.hash ^ bytes.len() as u64;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            hash = crate::round::mix(hash ^ word);
        }
        let rest = words.remainder().iter();
        self.hash = rest.fold(hash, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.rng.below(1000) < per_mille
    }

    fn latency(&mut self) -> u64 {
        // 53 random bits make a number in (0, 1].
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a random number below 2^53, and a latency of some milliseconds"
        )]
        {
            let uniform = ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            LATENCY_US + (-uniform.ln() * LATENCY_EXTRA_US) as u64
        }
    }

    fn send(&mut self, from: u32, to: SocketAddr, payload: Bytes) {
        let Some(to) = node_at(to) else {
            return;
        };
        self.measured.datagrams += 1;
        self.measured.bytes += payload.len() as u64;
        self.measured.longest = self.measured.longest.max(payload.len());
        assert!(
            payload.len() <= MAX_SWIM_DATAGRAM_BYTES,
            "a datagram is too long"
        );
        self.mix(&payload);
        let faults = self.faults;
        let latency = self.latency();
        if self.cut.as_ref().is_some_and(|cut| cut(from, to)) || self.chance(faults.loss_per_mille)
        {
            return;
        }
        let mut at = self.now + latency;
        if self.chance(faults.reordered_per_mille) {
            at += self.rng.below(30_000);
        }
        let sent = self.number;
        let mut copies = Vec::new();
        if self.chance(faults.duplicates_per_mille) {
            copies.push(at + self.latency());
        }
        if self.chance(faults.replayed_per_mille) {
            copies.push(at + self.rng.below(5_000_000));
        }
        // A join request is bound to nobody and does nothing: it may come as often as it likes.
        let bound = payload.get(1).is_some_and(|flags| flags & 2 == 0);
        let kind = if copies.is_empty() || !bound {
            Kind::Only
        } else {
            Kind::OneOfSeveral
        };
        let mut flight = Flight {
            at,
            number: 0,
            sent,
            from,
            to,
            payload,
            kind,
        };
        for again in copies {
            self.fly(Flight {
                at: again,
                payload: flight.payload.clone(),
                ..flight
            });
        }
        if self.chance(faults.damaged_per_mille) {
            let mut bytes = flight.payload.to_vec();
            let place = usize::try_from(self.rng.below(bytes.len() as u64)).unwrap_or(0);
            if self.chance(500) {
                bytes.truncate(place);
            } else if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << self.rng.below(8);
            }
            flight.payload = bytes.into();
            flight.kind = Kind::Damaged;
        }
        self.fly(flight);
    }

    fn fly(&mut self, flight: Flight) {
        self.number += 1;
        let number = self.number;
        self.flights.push(Reverse(Flight { number, ..flight }));
    }

    fn schedule(&mut self, node: u32) {
        let now = self.now;
        let Some(running) = self.node_mut(node) else {
            return;
        };
        let local = running.detector.poll_timeout().since_origin();
        let due = running.simulated(micros(local)).max(now);
        if due != running.due {
            running.due = due;
            self.timers.push(Reverse((due, node)));
        }
    }

    /// Runs for a span of virtual time.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + micros(span);
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `condition` holds (looked at every `every`) and says how long it took; `None` if it
    /// did not within `limit`.
    pub fn until(
        &mut self,
        limit: Duration,
        every: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now();
        while !condition(self) {
            if self.now() - start >= limit {
                return None;
            }
            self.run(every);
        }
        Some(self.now() - start)
    }

    fn step(&mut self, end: u64) -> bool {
        let flight = self.flights.peek().map(|Reverse(flight)| flight.at);
        let timer = self.timers.peek().map(|Reverse((due, _))| *due);
        let flies = flight.is_some_and(|at| timer.is_none_or(|due| at <= due));
        if flies && flight <= Some(end) {
            if let Some(Reverse(flight)) = self.flights.pop() {
                self.now = self.now.max(flight.at);
                self.arrive(flight);
            }
            return true;
        }
        if flies || timer.is_none_or(|due| due > end) {
            return false;
        }
        if let Some(Reverse((due, node))) = self.timers.pop() {
            self.now = self.now.max(due);
            self.timer(due, node);
        }
        true
    }

    fn timer(&mut self, due: u64, node: u32) {
        let Some(running) = self.node_mut(node).filter(|running| running.due == due) else {
            return;
        };
        if running.paused_until > due {
            let due = running.paused_until;
            running.due = due;
            return self.timers.push(Reverse((due, node)));
        }
        running.due = u64::MAX;
        if !self.recorded.is_empty() {
            self.keep(node, None);
        }
        self.input(node, Input::Timeout);
    }

    fn arrive(&mut self, flight: Flight) {
        let now = self.now;
        let Some(node) = self.node_mut(flight.to) else {
            return;
        };
        if node.paused_until > now {
            if node.buffered < SOCKET_BUFFER {
                node.buffered += 1;
                // Behind the timer that wakes the node.
                let at = node.paused_until + 1;
                self.fly(Flight { at, ..flight });
            }
            return;
        }
        node.buffered = 0;
        if self.is_in_burst(flight.to) {
            return;
        }
        self.measured.delivered += 1;
        let from = address(flight.from);
        if !self.recorded.is_empty() {
            self.keep(flight.to, Some((from, flight.payload.clone())));
        }
        self.dropped = false;
        let payload = &flight.payload;
        self.input(flight.to, Input::Datagram { from, payload });
        self.check_datagram(flight.to, flight.sent, flight.kind);
    }

    /// Bursts of loss begin at random, each node's for itself.
    fn is_in_burst(&mut self, node: u32) -> bool {
        let faults = self.faults;
        if faults.bursts_per_minute == 0 {
            return false;
        }
        let (now, drawn) = (self.now, self.rng.next_u64());
        let Some(node) = self.node_mut(node) else {
            return false;
        };
        if node.lossy_until <= now {
            node.lossy_from = now + drawn % (2 * 60_000_000 / faults.bursts_per_minute);
            node.lossy_until = node.lossy_from + faults.burst_ms * 1000;
        }
        node.lossy_from <= now
    }
}

impl Node {
    /// Simulated time on this node's clock.
    pub(super) fn local(&self, now: u64) -> u64 {
        let gained = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        u64::try_from(i128::from(now) + gained).unwrap_or(0)
    }

    /// When this node's clock shows `local`, in simulated time, rounded up.
    fn simulated(&self, local: u64) -> u64 {
        if self.drift_ppm == 0 {
            return local;
        }
        let scaled = i128::from(local) * 1_000_000;
        let now = scaled / (1_000_000 + i128::from(self.drift_ppm)) + 1;
        u64::try_from(now).unwrap_or(u64::MAX)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn at(micros: u64) -> MonoTime {
    MonoTime::from_origin(Duration::from_micros(micros))
}
