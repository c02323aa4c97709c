//! The recommended strategy: even to within one, at the cost of a few memory accesses.
//!
//! Each rack keeps its nodes that carry least as a set of bits. A replica goes to the rack that
//! carries least for its weight and has none of the partition yet, and there to the next node of that
//! set behind a place given by the partition's hash. What "carries least" means is the topic's own
//! replicas first, so that a topic is spread over all nodes even if one of them is new and empty, and
//! all replicas second, so that the rests of all topics add up evenly. As long as a topic that is
//! placed in one go will reach every node once more, the second does not matter and is left out: it
//! would put the same nodes together again and again.
//!
//! The nodes that lead least are a second set of bits. Followers are taken from outside it where
//! possible and the leader from inside it, so that whoever is short of leaderships is still to be had
//! when it is needed: leaders then come out as even as replicas. The choice depends on the loads alone
//! and not on how they came about.

use super::choice::{Choice, Few, Request, part, scale};
use super::least::{CLOSED, Fill, Least, find};
use crate::error::PlacementError;
use crate::ledger::{Ledger, Loads, NodeLoad};
use crate::topology::Topology;

/// A hash for each replica of a partition: its upper bits differ from those of the others (Fibonacci
/// hashing: Knuth, volume 3, 6.4).
#[inline]
fn spread(hash: u64, place: usize) -> u64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    hash.wrapping_mul(GOLDEN.wrapping_add(2 * place as u64))
}

#[derive(Debug, Clone)]
struct Rack {
    /// Positions of its members of a weight above 0.
    nodes: Vec<usize>,
    /// What the first replica of a topic counts on each of them.
    firsts: Vec<u64>,
    /// Which of them hold least, of the topic and in all.
    filled: Least,
    /// Which of them lead least, of the topic and in all.
    leading: Least,
    weight: u64,
    load: NodeLoad,
    topic: NodeLoad,
    open: usize,
}

impl Rack {
    fn new(nodes: &[usize], ledger: &Ledger, topology: &Topology) -> Self {
        let weight = |node: &usize| u64::from(ledger.members()[*node].weight);
        let first = |node: &usize| {
            let weight = ledger.members()[*node].weight;
            scale(1, weight, topology.max_weight)
        };
        Self {
            firsts: nodes.iter().map(first).collect(),
            nodes: nodes.to_vec(),
            filled: Least::default(),
            leading: Least::default(),
            weight: nodes.iter().map(weight).sum(),
            load: NodeLoad::default(),
            topic: NodeLoad::default(),
            open: 0,
        }
    }

    /// One of the least filled that is not in `chosen`; rather one that does not lead least.
    #[inline]
    fn follower(&self, hash: u64, chosen: &[usize]) -> Option<usize> {
        let taken = |at: usize| chosen.contains(&self.nodes[at]);
        let (filled, leading) = (self.filled.words(), self.leading.words());
        let found = find(
            self.nodes.len(),
            hash,
            |at| filled[at] & !leading[at],
            taken,
        );
        found
            .or_else(|| self.filled.find(hash, taken))
            .map(|at| self.nodes[at])
    }

    /// One that may take the place of `node`, of those that are filled as little, and leads least.
    #[inline]
    fn leader(&self, hash: u64, at: usize, chosen: &[usize]) -> Option<usize> {
        if !self.filled.is_least(at) {
            return None;
        }
        let taken = |at: usize| chosen.contains(&self.nodes[at]);
        let (filled, leading) = (self.filled.words(), self.leading.words());
        find(self.nodes.len(), hash, |at| filled[at] & leading[at], taken)
    }
}

/// The fills of all nodes and racks for the topic in focus. It is made anew when anything but its own
/// choices changes.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    racks: Vec<Rack>,
    rack_fills: Least,
    /// Per member: its index within its rack.
    place: Vec<usize>,
    cap: u64,
    max_rack_weight: u64,
    /// Members that may be given anything.
    usable: usize,
    /// Whether the replicas of all topics count, beside those of this one.
    heed_totals: bool,
    /// The fills are those of another topic.
    stale: bool,
}

impl Balancer {
    pub(crate) fn new(ledger: &Ledger, topology: &Topology, cap: u64) -> Self {
        let mut place = vec![0; ledger.members().len()];
        for nodes in &topology.racks {
            for (at, node) in nodes.iter().enumerate() {
                place[*node] = at;
            }
        }
        let rack = |nodes: &Vec<usize>| Rack::new(nodes, ledger, topology);
        let racks: Vec<Rack> = topology.racks.iter().map(rack).collect();
        let mut this = Self {
            rack_fills: Least::default(),
            max_rack_weight: racks.iter().map(|rack| rack.weight).max().unwrap_or(1),
            racks,
            place,
            cap,
            usable: topology.eligible.iter().sum(),
            heed_totals: true,
            stale: false,
        };
        this.refill(ledger, topology);
        this
    }

    /// Another topic is in focus.
    pub(crate) fn change_topic(&mut self) {
        self.stale = true;
    }

    /// Makes the fills those of the topic in focus, of which `expected` replicas are about to be placed
    /// (0 if that is not known).
    pub(crate) fn prepare(&mut self, ledger: &Ledger, topology: &Topology, expected: usize) {
        let heed_totals = expected <= self.usable;
        let same = heed_totals == self.heed_totals;
        if same && !self.stale {
            return;
        }
        self.heed_totals = heed_totals;
        self.stale = false;
        if same && heed_totals && ledger.topic_totals().replicas == 0 {
            self.begin_topic();
        } else {
            self.refill(ledger, topology);
        }
    }

    /// A topic that holds nothing yet: what there is in all stays.
    fn begin_topic(&mut self) {
        let mut racks = std::mem::take(&mut self.racks);
        for rack in &mut racks {
            rack.topic = NodeLoad::default();
            rack.filled.restart(&rack.firsts);
            rack.leading.restart(&rack.firsts);
        }
        self.refill_racks(racks);
    }

    fn refill(&mut self, ledger: &Ledger, topology: &Topology) {
        let mut racks = std::mem::take(&mut self.racks);
        for rack in &mut racks {
            rack.load = NodeLoad::default();
            rack.topic = NodeLoad::default();
            let (mut filled, mut leading) = (Vec::new(), Vec::new());
            for node in &rack.nodes {
                let loads = ledger.loads(topology.seats[*node].slot);
                rack.load.replicas += loads.all.replicas;
                rack.topic.replicas += loads.topic.replicas;
                let (fill, leads) = self.fills_of(topology, *node, loads);
                filled.push(fill);
                leading.push(leads);
            }
            rack.open = filled.iter().filter(|fill| **fill != CLOSED).count();
            rack.filled = Least::new(filled);
            rack.leading = Least::new(leading);
        }
        self.refill_racks(racks);
    }

    fn refill_racks(&mut self, racks: Vec<Rack>) {
        let fill = |rack| rack_fill(rack, self.heed_totals, self.max_rack_weight);
        let fills = racks.iter().map(fill).collect();
        self.rack_fills = Least::new(fills);
        self.racks = racks;
    }

    /// Chooses the replicas; the first is the preferred leader. Positions of members.
    pub(crate) fn select(&self, request: &Request<'_>) -> Result<Few, PlacementError> {
        // Without limits and survivors there is nothing to weigh but the fills.
        let plain = request.survivors.is_empty()
            && request.rules.cap == u64::MAX
            && request.rules.max_skew_percent == 0
            && self.usable >= request.replication_factor;
        let choice = match plain {
            true => None,
            false => Some(Choice::new(request)?),
        };
        let mut chosen = Few::from_slice(request.survivors);
        let racks_matter = request.rules.rack_mode != crate::config::RackMode::Off;
        // Racks that have had their replica in this round, and racks that can give none at all.
        let mut served = Few::new();
        let mut exhausted = Few::new();
        let mut heed_skew = racks_matter && request.rules.max_skew_percent > 0;
        if let Some(choice) = choice.as_ref().filter(|_| racks_matter) {
            self.serve_survivors(request, choice, &mut served);
        }
        while chosen.len() < request.replication_factor {
            let hash = spread(request.hash, chosen.len());
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
                    available: chosen.len(),
                });
            };
            let found = self.racks[rack].follower(hash, &chosen);
            let overloaded = |node: &usize| {
                let choice = choice.as_ref().filter(|_| heed_skew);
                choice.is_some_and(|choice| choice.is_overloaded(*node))
            };
            match found.filter(|node| !overloaded(node)) {
                Some(node) => {
                    chosen.push(node);
                    if racks_matter {
                        served.push(rack);
                    }
                }
                None => exhausted.push(rack),
            }
        }
        if request.survivors.is_empty() {
            self.elect(request, &mut chosen);
        }
        Ok(chosen)
    }

    /// Puts whoever leads least first: one of the chosen, or one that may just as well take the place of
    /// one of them.
    #[inline]
    fn elect(&self, request: &Request<'_>, chosen: &mut Few) {
        let mut best: Option<((Fill, u64), usize, usize)> = None;
        for place in 0..chosen.len() {
            let follower = chosen[place];
            let rack_at = request.topology.rack_of[follower];
            let rack = &self.racks[rack_at];
            let hash = spread(request.hash, place);
            let at = self.place[follower];
            // Which of two that hold as much of the topic holds more in all may matter to racks.
            let another = match request.rules.max_skew_percent {
                0 => rack.leader(hash, at, chosen),
                _ => None,
            };
            let at = another.unwrap_or(at);
            let rank = (rack.leading.fill(at), hash);
            if best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, place, rack.nodes[at]));
            }
        }
        if let Some((_, place, leader)) = best {
            chosen[place] = leader;
            chosen.swap(0, place);
        }
    }

    /// The racks of the survivors have had their turn, unless every rack has as many.
    fn serve_survivors(&self, request: &Request<'_>, choice: &Choice<'_>, served: &mut Few) {
        let least = choice.least_used();
        for node in request.survivors {
            let rack = request.topology.rack_of[*node];
            if choice.rack_breaches(*node, least) & 1 == 1 && !served.contains(&rack) {
                served.push(rack);
            }
        }
    }

    /// Takes note of one more replica on each of the given members, of which the first leads.
    pub(crate) fn update(&mut self, ledger: &Ledger, topology: &Topology, nodes: &[usize]) {
        for (place, node) in nodes.iter().enumerate() {
            let seat = topology.seats[*node];
            if seat.weight == 0 {
                continue;
            }
            let at = topology.rack_of[*node];
            let (fill, leads) = self.fills_of(topology, *node, ledger.loads(seat.slot));
            let rack = &mut self.racks[at];
            rack.open -= usize::from(fill == CLOSED);
            rack.load.replicas += 1;
            rack.topic.replicas += 1;
            rack.filled.set(self.place[*node], fill);
            if place == 0 || fill == CLOSED {
                rack.leading.set(self.place[*node], leads);
            }
        }
        let racks = &self.racks;
        let (heed_totals, most) = (self.heed_totals, self.max_rack_weight);
        self.rack_fills.set_all(nodes.iter().map(|node| {
            let at = topology.rack_of[*node];
            (at, rack_fill(&racks[at], heed_totals, most))
        }));
    }

    /// What the member would hold, and lead, for its weight with one more.
    #[inline]
    fn fills_of(&self, topology: &Topology, node: usize, loads: Loads) -> (Fill, Fill) {
        let Loads { all, topic } = loads;
        if all.replicas >= self.cap {
            return (CLOSED, CLOSED);
        }
        let weight = topology.seats[node].weight;
        let fill = |held: u64| scale(held.saturating_add(1), weight, topology.max_weight);
        let in_all = if self.heed_totals {
            fill(all.replicas)
        } else {
            0
        };
        (
            (fill(topic.replicas), in_all),
            (fill(topic.leaders), fill(all.leaders)),
        )
    }
}

/// What the rack would hold for its weight with one more.
#[inline]
fn rack_fill(rack: &Rack, heed_totals: bool, max_weight: u64) -> Fill {
    if rack.open == 0 {
        return CLOSED;
    }
    let fill = |held: u64| {
        let count = held.saturating_add(1).saturating_mul(1 << 16);
        if rack.weight == max_weight {
            return count;
        }
        part(count, max_weight, rack.weight)
    };
    let in_all = if heed_totals {
        fill(rack.load.replicas)
    } else {
        0
    };
    (fill(rack.topic.replicas), in_all)
}
