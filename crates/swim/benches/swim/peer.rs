//! foca 2.0.0 in the same network: one-way latency 0.3 ms + Exp(0.5 ms), loss for each datagram by
//! itself. Its periods are those of ours (100 ms, 50 ms, 3 relays), and transmissions and suspicion grow
//! with the size as its presets have it; gossip and announcements are those of its preset for local
//! networks. Down members are told, and renew their identity.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{
    Config, Foca, Identity, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer,
};
use rivven_core_types::Rng;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    ip: [u8; 4],
    port: u16,
    life: u16,
}

impl Id {
    const fn new(node: u32) -> Self {
        Self {
            ip: node.to_be_bytes(),
            port: 7946,
            life: 0,
        }
    }

    fn node(self) -> usize {
        u32::from_be_bytes(self.ip) as usize
    }
}

impl Identity for Id {
    type Addr = [u8; 4];

    fn renew(&self) -> Option<Self> {
        Some(Self {
            life: self.life.wrapping_add(1),
            ..*self
        })
    }

    fn addr(&self) -> [u8; 4] {
        self.ip
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life > other.life
    }
}

/// Our generator behind the traits that foca asks for.
struct Dice(Rng);

impl rand_core::TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.0.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

type Node = Foca<Id, PostcardCodec, Dice, NoCustomBroadcast>;

enum What {
    Datagram(Vec<u8>),
    Timer(Timer<Id>),
}

struct Due {
    at: u64,
    number: u64,
    to: usize,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
struct Sink {
    sends: Vec<(Id, Vec<u8>)>,
    timers: Vec<(Timer<Id>, Duration)>,
    downs: Vec<Id>,
}

impl Runtime<Id> for &mut Sink {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        if let Notification::MemberDown(id) = notification {
            self.downs.push(*id);
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.push((event, after));
    }
}

struct Network {
    nodes: Vec<Option<Node>>,
    queue: BinaryHeap<Reverse<Due>>,
    now: u64,
    number: u64,
    rng: Rng,
    loss: u64,
    sink: Sink,
    /// When, at whom, who.
    downs: Vec<(u64, usize, usize)>,
    /// When a node first sent a request to relays, which it does when a direct probe has failed.
    failed_at: Option<u64>,
}

fn config(count: u32) -> Config {
    let size = std::num::NonZeroU32::new(count).unwrap();
    let digits = f64::from(count + 1).log10();
    let suspicion = 4.0 * f64::from(count).log10().max(1.0) * 0.1;
    let mut config = Config::new_lan(size);
    config.probe_period = Duration::from_millis(100);
    config.probe_rtt = Duration::from_millis(50);
    config.num_indirect_probes = NonZeroUsize::new(3).unwrap();
    config.max_transmissions = NonZeroU8::new((4.0 * digits) as u8).unwrap();
    config.suspect_to_down_after = Duration::from_secs_f64(suspicion);
    config.notify_down_members = true;
    config
}

impl Network {
    fn new(seed: u64, count: u32, acquainted: bool) -> Self {
        let mut network = Self {
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            now: 0,
            number: 0,
            rng: Rng::new(seed),
            loss: 0,
            sink: Sink::default(),
            downs: Vec::new(),
            failed_at: None,
        };
        for node in 0..count {
            let dice = Dice(Rng::new(network.rng.next_u64()));
            network.nodes.push(Some(Foca::new(
                Id::new(node),
                config(count),
                dice,
                PostcardCodec,
            )));
        }
        for node in 0..count as usize {
            // Nodes start within a period.
            network.now = network.rng.below(100_000);
            if acquainted {
                let others = (0..count).filter(|other| *other as usize != node);
                let members = others.map(|other| Member::alive(Id::new(other)));
                network.call(node, |foca, sink| foca.apply_many(members, false, sink));
            } else if node > 0 {
                network.call(node, |foca, sink| foca.announce(Id::new(0), sink));
            }
        }
        network.now = 0;
        network
    }

    fn call(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut Node, &mut Sink) -> Result<(), foca::Error>,
    ) {
        let Some(foca) = self.nodes[node].as_mut() else {
            return;
        };
        // foca reports what it drops as an error; there is nothing else to be done about it.
        drop(call(foca, &mut self.sink));
        let sink = std::mem::take(&mut self.sink);
        for (to, data) in sink.sends {
            let uniform = ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            let latency = 300 + (-uniform.ln() * 500.0) as u64;
            if self.loss == 0 || self.rng.below(1000) >= self.loss {
                self.push(self.now + latency, to.node(), What::Datagram(data));
            }
        }
        for (timer, after) in sink.timers {
            if matches!(timer, Timer::ChangeSuspectToDown { .. }) {
                self.failed_at.get_or_insert(self.now);
            }
            self.push(
                self.now + after.as_micros() as u64,
                node,
                What::Timer(timer),
            );
        }
        for id in sink.downs {
            self.downs.push((self.now, node, id.node()));
        }
    }

    fn push(&mut self, at: u64, to: usize, what: What) {
        self.number += 1;
        self.queue.push(Reverse(Due {
            at,
            number: self.number,
            to,
            what,
        }));
    }

    fn run(&mut self, span: u64) {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= end) {
            let Some(Reverse(due)) = self.queue.pop() else {
                return;
            };
            self.now = self.now.max(due.at);
            match due.what {
                What::Datagram(data) => {
                    self.call(due.to, |foca, sink| foca.handle_data(&data, sink));
                }
                What::Timer(timer) => {
                    self.call(due.to, |foca, sink| foca.handle_timer(timer, sink));
                }
            }
        }
        self.now = end;
    }

    fn knows(&self, node: usize) -> usize {
        self.nodes[node]
            .as_ref()
            .map_or(0, |foca| foca.iter_members().count())
    }

    /// The time until every running node knows so many; at most `limit` seconds.
    fn until_all_know(&mut self, count: usize, limit: f64) -> f64 {
        let start = self.now;
        loop {
            let running = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some());
            let seconds = (self.now - start) as f64 / 1e6;
            if running.clone().all(|node| self.knows(node) == count) || seconds >= limit {
                return seconds;
            }
            self.run(20_000);
        }
    }
}

/// Means over some crashes, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crashes {
    pub(crate) failed: f64,
    pub(crate) first: f64,
    pub(crate) all: f64,
    /// The slowest run over the median one.
    pub(crate) straggler: f64,
}

pub(crate) fn crashes(count: u32, runs: u64) -> Crashes {
    eprintln!("foca: {runs} crashes of one of {count} nodes");
    let (mut failed, mut first, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..runs {
        let mut network = Network::new(seed, count, true);
        network.run(3_000_000 + seed * 7_919 % 100_000);
        let victim = (seed % u64::from(count)) as usize;
        network.nodes[victim] = None;
        network.downs.clear();
        network.failed_at = None;
        let start = network.now;
        let mut left: BTreeSet<usize> = (0..count as usize).filter(|n| *n != victim).collect();
        while !left.is_empty() && network.now - start < 60_000_000 {
            network.run(5_000);
            for (at, observer, subject) in std::mem::take(&mut network.downs) {
                if subject == victim && left.remove(&observer) {
                    let took = (at - start) as f64 / 1e3;
                    if left.len() == count as usize - 2 {
                        first.push(took);
                    }
                    if left.is_empty() {
                        all.push(took);
                    }
                }
            }
        }
        if let Some(at) = network.failed_at {
            failed.push((at - start) as f64 / 1e3);
        }
    }
    all.sort_by(f64::total_cmp);
    Crashes {
        failed: crate::mean(&failed),
        first: crate::mean(&first),
        all: crate::mean(&all),
        straggler: all[all.len() - 1] / all[all.len() / 2],
    }
}

/// Times that an observer took a running node for dead.
pub(crate) fn false_deaths(count: u32, loss: u64, seconds: u64) -> usize {
    eprintln!(
        "foca: {count} nodes for {seconds} s at {} % loss",
        loss / 10
    );
    let mut network = Network::new(1, count, true);
    network.loss = loss;
    network.run(2_000_000);
    network.downs.clear();
    network.run(seconds * 1_000_000);
    network.downs.len()
}

pub(crate) fn join(count: u32) -> f64 {
    eprintln!("foca: {count} nodes join through one");
    let mut network = Network::new(1, count, false);
    network.until_all_know(count as usize - 1, 60.0)
}

pub(crate) fn mass_failure(count: u32) -> f64 {
    eprintln!("foca: half of {count} nodes die at once");
    let mut network = Network::new(1, count, true);
    network.run(3_000_000);
    for node in count as usize / 2..count as usize {
        network.nodes[node] = None;
    }
    network.until_all_know(count as usize / 2 - 1, 60.0)
}
