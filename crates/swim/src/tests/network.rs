//! A network of detectors under virtual time: latency, loss and cuts from one seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Address, MonoTime, NodeInfo, NodeName, Rng};

use crate::{Detector, Event, Input, MemberState, Output, SharedSecret, SwimConfig, SwimSecurity};

pub(super) const SECRET: &str = "a shared secret of some length";

pub(super) fn secret() -> SwimSecurity {
    SwimSecurity::SharedSecret(SharedSecret::new(SECRET).unwrap())
}

pub(super) fn name(node: u16) -> NodeName {
    NodeName::new(format!("node-{node:03}")).unwrap()
}

pub(super) fn addr(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + node))
}

pub(super) fn info(node: u16) -> NodeInfo {
    NodeInfo::new(name(node), addr(node).into(), addr(node).into())
}

pub(super) fn config(boot_id: u64) -> SwimConfig {
    SwimConfig {
        security: secret(),
        boot_id: Some(boot_id),
        ..Default::default()
    }
}

pub(super) fn at(millis: u64) -> MonoTime {
    MonoTime::from_origin(Duration::from_millis(millis))
}

struct Node {
    detector: Detector,
    /// Cached, since a network asks for it at every step.
    due: MonoTime,
}

type Cut = Box<dyn Fn(MonoTime, u16, u16) -> bool>;

/// Detectors and the datagrams between them.
pub(super) struct Network {
    nodes: BTreeMap<u16, Node>,
    flying: BTreeMap<(MonoTime, u64), (u16, u16, Bytes)>,
    sent: u64,
    rng: Rng,
    pub(super) now: MonoTime,
    /// Lost datagrams in a thousand.
    pub(super) loss: u64,
    /// Whether a datagram is cut off.
    pub(super) cut: Cut,
    pub(super) trace: Vec<(MonoTime, u16, Event)>,
    pub(super) config: SwimConfig,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            rng: Rng::new(seed),
            now: MonoTime::default(),
            loss: 0,
            cut: Box::new(|_, _, _| false),
            trace: Vec::new(),
            config: config(1),
        }
    }

    /// Starts nodes 0..count, which join through node 0, and waits until all know all.
    pub(super) fn joined(seed: u64, count: u16) -> Self {
        let mut network = Self::new(seed);
        for node in 0..count {
            network.start(node, 1);
        }
        network.until(20_000, "all know all", |network| {
            network
                .nodes()
                .all(|node| network.live(node) == usize::from(count))
        });
        network
    }

    pub(super) fn start(&mut self, node: u16, boot_id: u64) {
        let config = SwimConfig {
            boot_id: Some(boot_id),
            ..self.config.clone()
        };
        let seed = self.rng.next_u64();
        let detector = Detector::new(info(node), config, seed, self.now).unwrap();
        let due = detector.poll_timeout();
        self.nodes.insert(node, Node { detector, due });
        if node != 0 {
            self.input(node, Input::Join(vec![addr(0).into()]));
        }
    }

    pub(super) fn kill(&mut self, node: u16) {
        self.nodes.remove(&node);
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = u16> {
        self.nodes.keys().copied()
    }

    pub(super) fn state(&self, observer: u16, node: u16) -> Option<MemberState> {
        self.nodes[&observer].detector.state_of(&name(node))
    }

    pub(super) fn detector(&self, node: u16) -> &Detector {
        &self.nodes[&node].detector
    }

    /// How many members the node holds for alive, itself included.
    pub(super) fn live(&self, node: u16) -> usize {
        let members = self.nodes[&node].detector.view().members;
        let alive = members.iter().filter(|m| m.state == MemberState::Alive);
        alive.count()
    }

    /// Whether all other running nodes hold `node` for `state`.
    pub(super) fn all_hold(&self, node: u16, state: MemberState) -> bool {
        let mut others = self.nodes().filter(|other| *other != node);
        others.all(|other| self.state(other, node) == Some(state))
    }

    pub(super) fn input(&mut self, node: u16, input: Input<'_>) {
        let Some(running) = self.nodes.get_mut(&node) else {
            return;
        };
        let mut out = Vec::new();
        running.detector.handle(self.now, input, &mut out);
        running.due = running.detector.poll_timeout();
        for output in out {
            match output {
                Output::Send { to, payload } => self.send(node, &to, payload),
                Output::Event(event) => self.trace.push((self.now, node, event)),
            }
        }
    }

    fn send(&mut self, from: u16, to: &Address, payload: Bytes) {
        let to = to.port() - 10_000;
        let lost = self.rng.below(1000) < self.loss;
        let latency = Duration::from_micros(300 + self.rng.below(1000));
        if lost || (self.cut)(self.now, from, to) {
            return;
        }
        self.sent += 1;
        let arrival = (self.now + latency, self.sent);
        self.flying.insert(arrival, (from, to, payload));
    }

    fn step(&mut self, end: MonoTime) -> bool {
        let arrival = self.flying.keys().next().copied();
        let timer = self
            .nodes
            .iter()
            .map(|(node, running)| (running.due, *node));
        let timer = timer.min();
        let arrives_first = match (arrival, timer) {
            (Some((arrival, _)), Some((due, _))) => arrival <= due,
            (arrival, _) => arrival.is_some(),
        };
        let due = arrival.map(|(due, _)| due).filter(|_| arrives_first);
        let timer_due = timer.map(|(due, _)| due);
        let Some(due) = due.or(timer_due).filter(|due| *due <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(due);
        if arrives_first {
            let (_, (from, to, payload)) = self.flying.pop_first().unwrap();
            let from = addr(from);
            self.input(
                to,
                Input::Datagram {
                    from,
                    payload: &payload,
                },
            );
        } else if let Some((_, node)) = timer {
            self.input(node, Input::Timeout);
        }
        true
    }

    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.step(end) {}
    }

    /// Runs until `condition` holds and says how long it took, in milliseconds; panics after `millis`.
    pub(super) fn until(
        &mut self,
        millis: u64,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> u128 {
        let start = self.now;
        let end = start + Duration::from_millis(millis);
        loop {
            if condition(self) {
                return self.now.since(start).as_millis();
            }
            let next = self.now + Duration::from_millis(10);
            assert!(next <= end, "not within {millis} ms: {what}");
            while self.step(next) {}
        }
    }

    /// Which members anybody took for `state` since the trace was cleared, with the observer.
    pub(super) fn seen(&self, state: MemberState) -> Vec<(MonoTime, u16, NodeName)> {
        let mut seen = Vec::new();
        for (time, observer, event) in &self.trace {
            if let Event::MemberChanged {
                name, state: now, ..
            } = event
                && *now == state
            {
                seen.push((*time, *observer, name.clone()));
            }
        }
        seen
    }
}
