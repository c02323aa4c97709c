//! The recommended strategy: even to within one, at the cost of a few memory accesses.
//!
//! Each rack keeps its nodes that carry least as a set of bits. A replica goes to the rack that
//! carries least for its weight and has none of the partition yet, and there to the next node of that
//! set behind a place given by the partition's hash. What "carries least" means is the topic's own
//! replicas first, so that a topic is spread over all nodes even if one of them is new and empty, and
//! all replicas second, so that the rests of all topics add up evenly. As long as a topic that is
//! placed in one go will reach every node once more, the second does not matter and is left out: it
//! would put the same nodes together again and again. The choice depends on the loads alone and not on
//! how they came about.

use super::choice::{Choice, Request, scale};
use crate::error::PlacementError;
use crate::hash::pair_hash;
use crate::ledger::{Ledger, Member, NodeLoad};
use crate::topology::Topology;

/// What a node or a rack would carry for its weight with one replica more: of the topic, and in all.
/// The least goes first.
type Fill = (u64, u64);
/// Cannot be given anything.
const CLOSED: Fill = (u64::MAX, u64::MAX);

/// A set of things with fills, of which one with the least fill is found quickly.
#[derive(Debug, Clone)]
struct LeastFilled {
    fills: Vec<Fill>,
    least: Fill,
    /// One bit for each thing that has the least fill.
    bits: Vec<u64>,
    /// How many have it.
    count: usize,
}

impl LeastFilled {
    fn new(fills: Vec<Fill>) -> Self {
        let words = fills.len().div_ceil(64);
        let mut this = Self {
            fills,
            least: CLOSED,
            bits: vec![0; words],
            count: 0,
        };
        this.rebuild();
        this
    }

    fn rebuild(&mut self) {
        self.least = self.fills.iter().copied().min().unwrap_or(CLOSED);
        self.count = 0;
        for (word, fills) in self.bits.iter_mut().zip(self.fills.chunks(64)) {
            *word = 0;
            for (bit, fill) in fills.iter().enumerate() {
                if *fill == self.least {
                    *word |= 1 << bit;
                    self.count += 1;
                }
            }
        }
    }

    fn set(&mut self, at: usize, fill: Fill) {
        let old = std::mem::replace(&mut self.fills[at], fill);
        if fill < self.least {
            self.rebuild();
            return;
        }
        let (word, bit) = (at / 64, 1 << (at % 64));
        if old == self.least && fill != self.least {
            self.bits[word] &= !bit;
            self.count -= 1;
            if self.count == 0 {
                self.rebuild();
            }
        } else if old != self.least && fill == self.least {
            self.bits[word] |= bit;
            self.count += 1;
        }
    }

    /// One of the least filled, the next behind a place that `hash` gives, that is not `excluded`.
    fn find(&self, hash: u64, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        if self.least == CLOSED {
            return None;
        }
        let length = self.fills.len();
        // The upper half of the product: a number below `length`, without a division.
        let from = (u128::from(hash) * length as u128) >> 64;
        let from = usize::try_from(from).unwrap_or(0);
        let words = self.bits.len();
        for step in 0..=words {
            let at = (from / 64 + step) % words;
            let mut word = self.bits[at];
            if step == 0 {
                word &= u64::MAX << (from % 64);
            } else if step == words {
                word &= !(u64::MAX << (from % 64));
            }
            while word != 0 {
                let found = at * 64 + word.trailing_zeros() as usize;
                if !excluded(found) {
                    return Some(found);
                }
                word &= word - 1;
            }
        }
        // All of the least filled are excluded, which happens in small racks only.
        (0..length)
            .filter(|at| self.fills[*at] != CLOSED && !excluded(*at))
            .min_by_key(|at| (self.fills[*at], (at + length - from) % length))
    }
}

#[derive(Debug, Clone)]
struct Rack {
    /// Positions of its members of a weight above 0.
    nodes: Vec<usize>,
    filled: LeastFilled,
    weight: u64,
    load: NodeLoad,
    topic: NodeLoad,
    open: usize,
}

/// The fills of all nodes and racks for the topic in focus. It is made anew when anything but its own
/// choices changes.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    racks: Vec<Rack>,
    rack_fills: LeastFilled,
    /// Per member: its index within its rack.
    place: Vec<usize>,
    cap: u64,
    max_rack_weight: u64,
    /// Whether the replicas of all topics count, beside those of this one.
    heed_totals: bool,
}

impl Balancer {
    pub(crate) fn new(ledger: &Ledger, topology: &Topology, cap: u64) -> Self {
        let mut place = vec![0; ledger.members().len()];
        let mut racks = Vec::with_capacity(topology.racks.len());
        for nodes in &topology.racks {
            for (at, node) in nodes.iter().enumerate() {
                place[*node] = at;
            }
            let weight = |node: &usize| u64::from(ledger.members()[*node].weight);
            racks.push(Rack {
                nodes: nodes.clone(),
                filled: LeastFilled::new(Vec::new()),
                weight: nodes.iter().map(weight).sum(),
                load: NodeLoad::default(),
                topic: NodeLoad::default(),
                open: 0,
            });
        }
        let mut this = Self {
            rack_fills: LeastFilled::new(Vec::new()),
            max_rack_weight: racks.iter().map(|rack| rack.weight).max().unwrap_or(1),
            racks,
            place,
            cap,
            heed_totals: true,
        };
        this.refill(ledger, topology);
        this
    }

    /// Says how many replicas of the topic are about to be placed; 0 if that is not known.
    pub(crate) fn expect(&mut self, ledger: &Ledger, topology: &Topology, expected: usize) {
        let heed_totals = expected <= topology.eligible.iter().sum();
        if heed_totals != self.heed_totals {
            self.heed_totals = heed_totals;
            self.refill(ledger, topology);
        }
    }

    fn refill(&mut self, ledger: &Ledger, topology: &Topology) {
        let mut racks = std::mem::take(&mut self.racks);
        for rack in &mut racks {
            rack.load = NodeLoad::default();
            rack.topic = NodeLoad::default();
            let mut fills = Vec::with_capacity(rack.nodes.len());
            for node in &rack.nodes {
                let member = &ledger.members()[*node];
                rack.load.replicas += member.load.replicas;
                rack.topic.replicas += ledger.topic_load(member.slot).replicas;
                fills.push(self.fill_of(ledger, topology, member));
            }
            rack.open = fills.iter().filter(|fill| **fill != CLOSED).count();
            rack.filled = LeastFilled::new(fills);
        }
        let fills = racks.iter().map(|rack| self.rack_fill(rack)).collect();
        self.rack_fills = LeastFilled::new(fills);
        self.racks = racks;
    }

    /// Chooses the replicas; the first is the preferred leader. Positions of members.
    pub(crate) fn select(&self, request: &Request<'_>) -> Result<Vec<usize>, PlacementError> {
        let mut choice = Choice::new(request)?;
        let racks_matter = request.rules.rack_mode != crate::config::RackMode::Off;
        // Racks that have had their replica in this round, and racks that can give none at all.
        let mut served: Vec<usize> = Vec::with_capacity(request.replication_factor);
        let mut exhausted: Vec<usize> = Vec::new();
        let mut heed_skew = racks_matter && request.rules.max_skew_percent > 0;
        if racks_matter {
            self.serve_survivors(request, &choice, &mut served);
        }
        while !choice.is_complete() {
            let hash = pair_hash(request.hash, choice.chosen.len() as u64);
            let skip = |rack: usize| served.contains(&rack) || exhausted.contains(&rack);
            let Some(rack) = self.rack_fills.find(hash, skip) else {
                if !served.is_empty() {
                    served.clear();
                    continue;
                }
                if heed_skew {
                    heed_skew = false;
                    exhausted.clear();
                    continue;
                }
                // `Choice::new` has counted enough open nodes.
                return Err(PlacementError::NotEnoughNodes {
                    needed: request.replication_factor,
                    available: choice.chosen.len(),
                });
            };
            let nodes = &self.racks[rack];
            let taken = |at: usize| choice.chosen.contains(&nodes.nodes[at]);
            let found = nodes.filled.find(hash, taken).map(|at| nodes.nodes[at]);
            match found.filter(|node| !(heed_skew && choice.is_overloaded(*node))) {
                Some(node) => {
                    choice.take(node);
                    if racks_matter {
                        served.push(rack);
                    }
                }
                None => exhausted.push(rack),
            }
        }
        choice.elect(request);
        Ok(choice.chosen)
    }

    /// The racks of the survivors have had their turn, unless every rack has as many.
    fn serve_survivors(&self, request: &Request<'_>, choice: &Choice<'_>, served: &mut Vec<usize>) {
        let least = choice.least_used();
        for node in request.survivors {
            let rack = request.topology.rack_of[*node];
            if choice.rack_breaches(*node, least) & 1 == 1 && !served.contains(&rack) {
                served.push(rack);
            }
        }
    }

    /// Takes note of one more replica on each of the given members.
    pub(crate) fn update(&mut self, ledger: &Ledger, topology: &Topology, nodes: &[usize]) {
        for node in nodes {
            let member = &ledger.members()[*node];
            if member.weight == 0 {
                continue;
            }
            let at = topology.rack_of[*node];
            let fill = self.fill_of(ledger, topology, member);
            let rack = &mut self.racks[at];
            rack.open -= usize::from(fill == CLOSED);
            rack.load.replicas += 1;
            rack.topic.replicas += 1;
            rack.filled.set(self.place[*node], fill);
            let fill = self.rack_fill(&self.racks[at]);
            self.rack_fills.set(at, fill);
        }
    }

    fn fill_of(&self, ledger: &Ledger, topology: &Topology, member: &Member) -> Fill {
        if member.load.replicas >= self.cap {
            return CLOSED;
        }
        let fill = |held: u64| scale(held.saturating_add(1), member.weight, topology.max_weight);
        let in_topic = fill(ledger.topic_load(member.slot).replicas);
        let in_all = if self.heed_totals {
            fill(member.load.replicas)
        } else {
            0
        };
        (in_topic, in_all)
    }

    fn rack_fill(&self, rack: &Rack) -> Fill {
        if rack.open == 0 {
            return CLOSED;
        }
        let fill = |held: u64| {
            let count = held.saturating_add(1);
            if rack.weight == self.max_rack_weight {
                return count.saturating_mul(1 << 16);
            }
            let scaled = (u128::from(count) << 16) * u128::from(self.max_rack_weight);
            u64::try_from(scaled / u128::from(rack.weight.max(1))).unwrap_or(u64::MAX)
        };
        let in_all = if self.heed_totals {
            fill(rack.load.replicas)
        } else {
            0
        };
        (fill(rack.topic.replicas), in_all)
    }
}
