//! What all strategies share: which nodes may be chosen, and what racks and caps say about them.

use smallvec::SmallVec;

use crate::config::RackMode;
use crate::error::PlacementError;
use crate::ledger::{Ledger, Loads, NodeLoad};
use crate::topology::Topology;

/// Positions of members, or counts per rack; the usual few without an allocation.
pub(crate) type Few = SmallVec<[usize; 4]>;

/// What is asked for, and the state it is asked in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) topology: &'a Topology,
    pub(crate) rules: Rules,
    /// The hash of topic and partition.
    pub(crate) hash: u64,
    pub(crate) replication_factor: usize,
    /// Positions of the members that hold the partition already, preferred leader first; they stay.
    pub(crate) survivors: &'a [usize],
}

/// The configured limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Most replicas on a node.
    pub(crate) cap: u64,
    pub(crate) rack_mode: RackMode,
    /// See [`crate::PlacementOptions::max_skew_percent`].
    pub(crate) max_skew_percent: u32,
}

/// The replicas of one partition while they are being chosen.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    ledger: &'a Ledger,
    pub(crate) topology: &'a Topology,
    rules: Rules,
    needed: usize,
    /// What the topic and the cluster hold once this partition is placed.
    pub(crate) topic_totals: NodeLoad,
    pub(crate) totals: NodeLoad,
    pub(crate) chosen: Few,
    /// Per rack: replicas of this partition in it.
    used: Few,
    /// Per rack: nodes that could still be chosen.
    open: Few,
}

impl<'a> Choice<'a> {
    /// Begins with the survivors; fails if there cannot be enough nodes.
    pub(crate) fn new(request: &Request<'a>) -> Result<Self, PlacementError> {
        let Request {
            ledger, topology, ..
        } = *request;
        let survivors = request.survivors;
        let needed = request.replication_factor;
        let missing = needed.saturating_sub(survivors.len());
        let after = |held: NodeLoad| NodeLoad {
            replicas: held
                .replicas
                .saturating_add(u64::try_from(missing).unwrap_or(u64::MAX)),
            leaders: held.leaders.saturating_add(u64::from(survivors.is_empty())),
        };
        let mut choice = Self {
            ledger,
            topology,
            rules: request.rules,
            needed,
            topic_totals: after(ledger.topic_totals()),
            totals: after(ledger.totals()),
            chosen: Few::new(),
            used: Few::from_elem(0, topology.racks.len()),
            open: Few::from_slice(&topology.eligible),
        };
        if choice.rules.cap != u64::MAX {
            for (seat, rack) in topology.seats.iter().zip(&topology.rack_of) {
                let full = ledger.loads(seat.slot).all.replicas >= choice.rules.cap;
                choice.open[*rack] -= usize::from(seat.weight > 0 && full);
            }
        }
        for node in survivors {
            choice.take(*node);
        }
        choice.check(survivors)?;
        Ok(choice)
    }

    fn check(&self, survivors: &[usize]) -> Result<(), PlacementError> {
        let needed = self.needed;
        let available = survivors.len() + self.open.iter().sum::<usize>();
        if available < needed {
            let idle = |node: &&usize| self.weight(**node) == 0;
            let idle = survivors.iter().filter(idle).count();
            let nodes = self.topology.eligible.iter().sum::<usize>() + idle;
            return Err(if nodes < needed {
                PlacementError::NotEnoughNodes {
                    needed,
                    available: nodes,
                }
            } else {
                PlacementError::NoCapacity {
                    needed,
                    available,
                    cap: u32::try_from(self.rules.cap).unwrap_or(u32::MAX),
                }
            });
        }
        if self.rules.rack_mode == RackMode::Strict {
            let needed = needed.min(self.topology.usable_racks());
            let reachable = self.used.iter().zip(&self.open);
            let available = reachable.filter(|(used, open)| **used + **open > 0).count();
            // Survivors that share a rack take the place of one in another.
            let racks_held = self.used.iter().filter(|used| **used > 0).count();
            let lost = survivors.len().saturating_sub(racks_held);
            let attainable = available.min(self.needed.saturating_sub(lost));
            if attainable < needed {
                return Err(PlacementError::NoRackCapacity {
                    needed,
                    available: attainable,
                });
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.chosen.len() >= self.needed
    }

    /// Whether the node may be chosen: it has capacity, is not full and not chosen yet.
    #[inline]
    pub(crate) fn is_open(&self, node: usize) -> bool {
        self.weight(node) > 0 && self.has_room(node, self.load(node))
    }

    /// Whether the node, which has a weight and carries `load`, is not full and not chosen yet.
    #[inline]
    pub(crate) fn has_room(&self, node: usize, load: NodeLoad) -> bool {
        load.replicas < self.rules.cap && !self.chosen.contains(&node)
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.topology.seats.len()
    }

    #[inline]
    pub(crate) fn weight(&self, node: usize) -> u32 {
        self.topology.seats[node].weight
    }

    /// What the node carries, in all and of the topic.
    #[inline]
    pub(crate) fn loads(&self, node: usize) -> Loads {
        self.ledger.loads(self.topology.seats[node].slot)
    }

    /// What the node carries in all.
    #[inline]
    pub(crate) fn load(&self, node: usize) -> NodeLoad {
        self.loads(node).all
    }

    #[inline]
    pub(crate) fn take(&mut self, node: usize) {
        let rack = self.topology.rack_of[node];
        self.open[rack] -= usize::from(self.is_open(node));
        self.used[rack] += 1;
        self.chosen.push(node);
    }

    /// The fewest replicas that a rack with an open node holds: the racks to go to next.
    #[inline]
    pub(crate) fn least_used(&self) -> usize {
        let racks = self.used.iter().zip(&self.open);
        racks
            .filter(|(_, open)| **open > 0)
            .map(|(used, _)| *used)
            .min()
            .unwrap_or(0)
    }

    /// The rack rules that the node breaks, as bits: the more important, the higher.
    #[inline]
    pub(crate) fn rack_breaches(&self, node: usize, least_used: usize) -> u8 {
        if self.rules.rack_mode == RackMode::Off {
            return 0;
        }
        let crowded = self.is_crowded(node, least_used);
        let overloaded = self.rules.max_skew_percent > 0 && self.is_overloaded(node);
        u8::from(overloaded) << 1 | u8::from(crowded)
    }

    /// Whether the node's rack holds more of the partition than another with room.
    #[inline]
    fn is_crowded(&self, node: usize, least_used: usize) -> bool {
        self.used[self.topology.seats[node].rack as usize] > least_used
    }

    /// Whether the node holds more than racks may ask of it.
    pub(crate) fn is_overloaded(&self, node: usize) -> bool {
        let percent = match (self.rules.rack_mode, self.rules.max_skew_percent) {
            (RackMode::Strict | RackMode::Off, _) | (_, 0) => return false,
            (RackMode::Prefer, percent) => 100 + u64::from(percent),
        };
        let bound = self.bound(self.weight(node), self.totals.replicas, (percent, 100));
        self.load(node).replicas >= bound
    }

    /// The least number of which one more exceeds the part of `total` times `slack` that is due to a
    /// node of `weight`.
    #[inline]
    pub(crate) fn bound(&self, weight: u32, total: u64, slack: (u64, u64)) -> u64 {
        bound(total, (weight, self.topology.total_weight), slack)
    }

    /// Puts the chosen node that leads least for its weight first; `hash` decides between equals. Does
    /// nothing once somebody leads.
    pub(crate) fn elect(&mut self, request: &Request<'_>) {
        if !request.survivors.is_empty() {
            return;
        }
        let first = self
            .chosen
            .iter()
            .enumerate()
            .filter(|(_, node)| self.weight(**node) > 0)
            .min_by_key(|(_, node)| {
                let loads = self.loads(**node);
                (
                    self.scaled(**node, loads.topic.leaders),
                    self.scaled(**node, loads.all.leaders),
                    crate::hash::pair_hash(request.hash, self.topology.hashes[**node]),
                    **node,
                )
            })
            .map(|(place, _)| place);
        if let Some(place) = first {
            self.chosen.swap(0, place);
        }
    }

    /// What the node would carry for its weight with one more than `held`, in units of which the
    /// heaviest counts 65,536 for one replica.
    pub(crate) fn scaled(&self, node: usize, held: u64) -> u64 {
        let count = held.saturating_add(1);
        scale(count, self.weight(node), self.topology.max_weight)
    }
}

/// `count` for a node of `weight`, comparable between weights; saturates.
#[inline]
pub(crate) fn scale(count: u64, weight: u32, max_weight: u32) -> u64 {
    if weight == max_weight {
        return count.saturating_mul(1 << 16);
    }
    part(count, u64::from(max_weight) << 16, u64::from(weight))
}

/// `a * b / c`, rounded down; saturates. `c` = 0 counts as 1.
#[inline]
pub(crate) fn part(a: u64, b: u64, c: u64) -> u64 {
    let c = c.max(1);
    // A division of 128 bits takes several times as long.
    match a.checked_mul(b) {
        Some(product) => product / c,
        None => {
            let exact = u128::from(a) * u128::from(b) / u128::from(c);
            u64::try_from(exact).unwrap_or(u64::MAX)
        }
    }
}

/// `ceil(slack * total * weight / total weight)`; `weights` is the pair.
fn bound(total: u64, weights: (u32, u64), slack: (u64, u64)) -> u64 {
    let product = (slack.0.checked_mul(total)).and_then(|n| n.checked_mul(u64::from(weights.0)));
    let divisor = slack.1.checked_mul(weights.1);
    if let (Some(product), Some(divisor)) = (product, divisor) {
        return product.div_ceil(divisor.max(1));
    }
    let product = u128::from(slack.0) * u128::from(total) * u128::from(weights.0);
    let exact = product.div_ceil((u128::from(slack.1) * u128::from(weights.1)).max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}
