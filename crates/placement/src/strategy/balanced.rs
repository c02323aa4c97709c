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

use super::choice::{Choice, Few, Request, Rules, scale};
use super::least::{CLOSED, Fill, Least, Overlap, fill};
use crate::error::PlacementError;
use crate::ledger::{Ledger, Loads, Slot};
use crate::topology::{Seat, Topology};

/// A hash for each replica of a partition: its upper bits differ from those of the others (Fibonacci
/// hashing: Knuth, volume 3, 6.4).
#[inline]
fn spread(hash: u64, place: usize) -> u64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    hash.wrapping_mul(GOLDEN.wrapping_add(2 * place as u64))
}

/// As many racks fit into a word; with more of them the general way is taken.
const MAX_PLAIN_RACKS: usize = 64;

/// A chosen member: its rack, and its index within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pick {
    rack: usize,
    at: usize,
}

/// A count plus one, times `of / weight` in units of 2^-16, rounded down; the next one is found without
/// a division (Bresenham).
#[derive(Debug, Clone, Copy, Default)]
struct Steps {
    value: u64,
    remainder: u64,
    /// What one more adds.
    step: u64,
    step_remainder: u64,
    weight: u64,
}

impl Steps {
    fn new(count: u64, weight: u64, of: u64) -> Self {
        let weight = weight.max(1);
        let one = u128::from(of) << 16;
        let exact = u128::from(count.saturating_add(1)).saturating_mul(one);
        let quotient = |n: u128| u64::try_from(n / u128::from(weight)).unwrap_or(u64::MAX);
        let remainder = |n: u128| u64::try_from(n % u128::from(weight)).unwrap_or(0);
        Self {
            value: quotient(exact),
            remainder: remainder(exact),
            step: quotient(one),
            step_remainder: remainder(one),
            weight,
        }
    }

    #[inline]
    const fn advance(&mut self) {
        self.value = self.value.saturating_add(self.step);
        // Both are less than the weight, a sum of those of nodes.
        self.remainder += self.step_remainder;
        if self.remainder >= self.weight {
            self.remainder -= self.weight;
            self.value = self.value.saturating_add(1);
        }
    }
}

#[derive(Debug, Clone)]
struct Rack {
    /// Positions of its members of a weight above 0.
    nodes: Vec<usize>,
    /// Their seats.
    seats: Vec<Seat>,
    /// Which of them hold least, of the topic and in all.
    filled: Least,
    /// Which of them lead least, of the topic and in all.
    leading: Least,
    /// Which of those that hold least lead least, and which do not.
    short: Overlap,
    /// Which of them hold anything of the topic.
    touched: Vec<usize>,
    /// Which of them lead anything of the topic; some of them more than once.
    led: Vec<usize>,
    weight: u64,
    /// What it holds for its weight with one more: of the topic, and in all.
    topic: Steps,
    load: Steps,
    open: usize,
}

impl Rack {
    fn new(nodes: &[usize], topology: &Topology) -> Self {
        let weight = |node: &usize| u64::from(topology.seats[*node].weight);
        Self {
            nodes: nodes.to_vec(),
            seats: nodes.iter().map(|node| topology.seats[*node]).collect(),
            filled: Least::default(),
            leading: Least::default(),
            short: Overlap::default(),
            touched: Vec::new(),
            led: Vec::new(),
            weight: nodes.iter().map(weight).sum(),
            topic: Steps::default(),
            load: Steps::default(),
            open: 0,
        }
    }

    /// One of the least filled that is not `taken`; rather one that does not lead least.
    #[inline]
    fn follower(&self, hash: u64, taken: impl Fn(usize) -> bool) -> Option<usize> {
        let found = self.short.find_first_alone(hash, &taken);
        found.or_else(|| self.filled.find(hash, taken))
    }

    /// One that may take the place of that at `at`, of those that are filled as little, and leads least.
    #[inline]
    fn leader(&self, hash: u64, at: usize, taken: impl Fn(usize) -> bool) -> Option<usize> {
        if !self.filled.is_least(at) {
            return None;
        }
        self.short.find_both(hash, taken)
    }

    /// What the rack would hold for its weight with one more.
    #[inline]
    const fn fill(&self, heed_totals: bool) -> Fill {
        if self.open == 0 {
            return CLOSED;
        }
        let in_all = if heed_totals { self.load.value } else { 0 };
        fill(self.topic.value, in_all)
    }

    /// Takes note of what one of the nodes would hold, and of what it would lead if that has changed.
    #[inline]
    fn set(&mut self, at: usize, fill: Fill, leads: Option<Fill>) {
        let mut others = self.filled.set(at, fill);
        if let Some(leads) = leads {
            others |= self.leading.set(at, leads);
        }
        if others {
            self.short.rebuild(&self.filled, &self.leading);
        } else {
            self.short.renew(at, &self.filled, &self.leading);
        }
    }
}

/// The fills of all nodes and racks for the topic in focus. It is made anew when anything but its own
/// choices changes.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    racks: Vec<Rack>,
    rack_fills: Least,
    /// The replicas that were chosen last.
    picks: Vec<Pick>,
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
        let rack = |nodes: &Vec<usize>| Rack::new(nodes, topology);
        let racks: Vec<Rack> = topology.racks.iter().map(rack).collect();
        let mut this = Self {
            rack_fills: Least::default(),
            max_rack_weight: racks.iter().map(|rack| rack.weight).max().unwrap_or(1),
            racks,
            picks: Vec::new(),
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
            self.begin_topic(topology);
        } else {
            self.refill(ledger, topology);
        }
    }

    /// A topic that holds nothing yet: only those that hold something of the one before count anew.
    fn begin_topic(&mut self, topology: &Topology) {
        let mut racks = std::mem::take(&mut self.racks);
        for rack in &mut racks {
            rack.topic = Steps::new(0, rack.weight, self.max_rack_weight);
            for at in rack.touched.drain(..) {
                let first = scale(1, rack.seats[at].weight, topology.max_weight);
                rack.filled.restart(at, first);
            }
            for at in rack.led.drain(..) {
                let first = scale(1, rack.seats[at].weight, topology.max_weight);
                rack.leading.restart(at, first);
            }
            rack.filled.settle();
            rack.leading.settle();
            rack.short.rebuild(&rack.filled, &rack.leading);
        }
        self.refill_racks(racks);
    }

    fn refill(&mut self, ledger: &Ledger, topology: &Topology) {
        let mut racks = std::mem::take(&mut self.racks);
        for rack in &mut racks {
            let (mut in_all, mut of_topic) = (0u64, 0u64);
            let (mut filled, mut leading) = (Vec::new(), Vec::new());
            rack.touched.clear();
            rack.led.clear();
            for (at, seat) in rack.seats.iter().enumerate() {
                let loads = ledger.loads(seat.slot);
                in_all = in_all.saturating_add(loads.all.replicas);
                of_topic = of_topic.saturating_add(loads.topic.replicas);
                if loads.topic.replicas > 0 {
                    rack.touched.push(at);
                }
                if loads.topic.leaders > 0 {
                    rack.led.push(at);
                }
                filled.push(self.fill_of(topology, seat.weight, loads));
                leading.push(self.leads_of(topology, seat.weight, loads));
            }
            rack.load = Steps::new(in_all, rack.weight, self.max_rack_weight);
            rack.topic = Steps::new(of_topic, rack.weight, self.max_rack_weight);
            rack.open = filled.iter().filter(|fill| **fill != CLOSED).count();
            rack.filled = Least::new(filled);
            rack.leading = Least::new(leading);
            rack.short = Overlap::new(&rack.filled, &rack.leading);
        }
        self.refill_racks(racks);
    }

    fn refill_racks(&mut self, racks: Vec<Rack>) {
        let fill = |rack: &Rack| rack.fill(self.heed_totals);
        let fills = racks.iter().map(fill).collect();
        self.rack_fills = Least::new(fills);
        self.racks = racks;
    }

    /// Whether there is nothing to weigh but the fills: no limits, and enough nodes.
    pub(crate) const fn is_plain(&self, rules: &Rules, replication_factor: usize) -> bool {
        rules.cap == u64::MAX
            && rules.max_skew_percent == 0
            && self.usable >= replication_factor
            && self.racks.len() <= MAX_PLAIN_RACKS
    }

    /// As [`Self::select`] where [`Self::is_plain`] holds and nothing survives; the choice is kept.
    #[inline]
    fn select_plainly(&mut self, hash: u64, factor: usize, racks_matter: bool) {
        let (mut served, mut exhausted) = (0u64, 0u64);
        // Whether a rack may hold two replicas.
        let mut crowded = !racks_matter;
        self.picks.clear();
        while self.picks.len() < factor {
            let hash = spread(hash, self.picks.len());
            let Some(rack) = self.rack_fills.find_outside(hash, served | exhausted) else {
                if served == 0 {
                    // Not reached: there are enough nodes.
                    break;
                }
                served = 0;
                crowded = true;
                continue;
            };
            let picks = &self.picks;
            let taken = |at: usize| crowded && picks.contains(&Pick { rack, at });
            match self.racks[rack].follower(hash, taken) {
                Some(at) => {
                    self.picks.push(Pick { rack, at });
                    served |= u64::from(racks_matter) << rack;
                }
                None => exhausted |= 1 << rack,
            }
        }
        self.elect(hash, true, crowded);
    }

    /// Chooses the replicas of a partition that has none where [`Self::is_plain`] holds, and takes note
    /// of them here and in the ledger's loads; the first of `slots` is the preferred leader.
    #[inline]
    pub(crate) fn place_plainly(
        &mut self,
        ledger: &mut Ledger,
        topology: &Topology,
        (hash, factor, racks_matter): (u64, usize, bool),
        slots: &mut Vec<Slot>,
    ) {
        self.select_plainly(hash, factor, racks_matter);
        self.note(topology, |place, slot| {
            slots.push(slot);
            ledger.credit(slot, place == 0)
        });
    }

    /// Chooses the replicas; the first is the preferred leader. Positions of members.
    pub(crate) fn select(&mut self, request: &Request<'_>) -> Result<Few, PlacementError> {
        let factor = request.replication_factor;
        let racks_matter = request.rules.rack_mode != crate::config::RackMode::Off;
        if request.survivors.is_empty() && self.is_plain(&request.rules, factor) {
            self.select_plainly(request.hash, factor, racks_matter);
            return Ok(self.positions());
        }
        let choice = Choice::new(request)?;
        self.rack_fills.settle();
        let mut chosen = Few::from_slice(request.survivors);
        self.picks.clear();
        // Racks that have had their replica in this round, and racks that can give none at all.
        let mut served = Few::new();
        let mut exhausted = Few::new();
        let mut heed_skew = racks_matter && request.rules.max_skew_percent > 0;
        if racks_matter {
            self.serve_survivors(request, &choice, &mut served);
        }
        while chosen.len() < factor {
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
            let nodes = &self.racks[rack].nodes;
            let found = self.racks[rack].follower(hash, |at| chosen.contains(&nodes[at]));
            let overloaded = |at: &usize| heed_skew && choice.is_overloaded(nodes[*at]);
            match found.filter(|at| !overloaded(at)) {
                Some(at) => {
                    chosen.push(nodes[at]);
                    self.picks.push(Pick { rack, at });
                    if racks_matter {
                        served.push(rack);
                    }
                }
                None => exhausted.push(rack),
            }
        }
        if !request.survivors.is_empty() {
            return Ok(chosen);
        }
        // Which of two that hold as much of the topic holds more in all may matter to racks.
        self.elect(request.hash, request.rules.max_skew_percent == 0, true);
        Ok(self.positions())
    }

    fn positions(&self) -> Few {
        let position = |pick: &Pick| self.racks[pick.rack].nodes[pick.at];
        self.picks.iter().map(position).collect()
    }

    /// Puts whoever leads least first: one of the chosen, or one that may just as well take the place of
    /// one of them if there may be `others`. `crowded`: a rack may hold two of the chosen.
    #[inline]
    fn elect(&mut self, hash: u64, others: bool, crowded: bool) {
        let mut best: Option<((Fill, u64), usize, usize)> = None;
        for (place, pick) in self.picks.iter().enumerate() {
            let rack = &self.racks[pick.rack];
            let hash = spread(hash, place);
            // Nobody in the rack leads less than its least.
            if best.is_some_and(|(other, ..)| other <= (rack.leading.least(), hash)) {
                continue;
            }
            let is_picked = |at: usize| self.picks.contains(&Pick { at, ..*pick });
            let taken = |at: usize| at == pick.at || crowded && is_picked(at);
            let another = match others {
                true => rack.leader(hash, pick.at, taken),
                false => None,
            };
            let (at, leads) = match another {
                Some(at) => (at, rack.leading.least()),
                None => (pick.at, rack.leading.fill(pick.at)),
            };
            let rank = (leads, hash);
            if best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, place, at));
            }
        }
        if let Some((_, place, at)) = best {
            self.picks[place].at = at;
            self.picks.swap(0, place);
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

    /// Takes note of one more replica on each of those chosen last, of which the first leads.
    pub(crate) fn update(&mut self, ledger: &Ledger, topology: &Topology) {
        self.note(topology, |_, slot| ledger.loads(slot));
    }

    /// As [`Self::update`], with what each carries by its place and slot.
    #[inline]
    fn note(&mut self, topology: &Topology, mut loads: impl FnMut(usize, Slot) -> Loads) {
        for (place, pick) in self.picks.iter().enumerate() {
            let seat = self.racks[pick.rack].seats[pick.at];
            let loads = loads(place, seat.slot);
            let fill = self.fill_of(topology, seat.weight, loads);
            let leads = match place == 0 || fill == CLOSED {
                true => Some(self.leads_of(topology, seat.weight, loads)),
                false => None,
            };
            let rack = &mut self.racks[pick.rack];
            rack.open -= usize::from(fill == CLOSED);
            rack.load.advance();
            rack.topic.advance();
            if loads.topic.replicas == 1 {
                rack.touched.push(pick.at);
            }
            if place == 0 {
                rack.led.push(pick.at);
            }
            rack.set(pick.at, fill, leads);
        }
        let small = self.rack_fills.is_small();
        for pick in &self.picks {
            let fill = self.racks[pick.rack].fill(self.heed_totals);
            match small {
                true => self.rack_fills.put_unsettled(pick.rack, fill),
                false => self.rack_fills.put(pick.rack, fill),
            }
        }
        if !small {
            self.rack_fills.settle();
        }
    }

    /// What a member of `weight` would hold for it with one more.
    #[inline]
    fn fill_of(&self, topology: &Topology, weight: u32, Loads { all, topic }: Loads) -> Fill {
        if all.replicas >= self.cap {
            return CLOSED;
        }
        let part = |held: u64| scale(held.saturating_add(1), weight, topology.max_weight);
        let in_all = match self.heed_totals {
            true => part(all.replicas),
            false => 0,
        };
        fill(part(topic.replicas), in_all)
    }

    /// What a member of `weight` would lead for it with one more.
    #[inline]
    fn leads_of(&self, topology: &Topology, weight: u32, Loads { all, topic }: Loads) -> Fill {
        if all.replicas >= self.cap {
            return CLOSED;
        }
        let part = |held: u64| scale(held.saturating_add(1), weight, topology.max_weight);
        fill(part(topic.leaders), part(all.leaders))
    }
}
