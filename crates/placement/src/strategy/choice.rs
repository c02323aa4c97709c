//! What all strategies share: which nodes may be chosen, and what racks and caps say about them.

use crate::config::RackMode;
use crate::error::PlacementError;
use crate::ledger::{Ledger, Member, NodeLoad};
use crate::topology::Topology;

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
    pub(crate) members: &'a [Member],
    pub(crate) topology: &'a Topology,
    rules: Rules,
    needed: usize,
    /// What the topic and the cluster hold once this partition is placed.
    pub(crate) topic_totals: NodeLoad,
    pub(crate) totals: NodeLoad,
    pub(crate) chosen: Vec<usize>,
    /// Per rack: replicas of this partition in it.
    used: Vec<usize>,
    /// Per rack: nodes that could still be chosen.
    open: Vec<usize>,
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
            members: ledger.members(),
            topology,
            rules: request.rules,
            needed,
            topic_totals: after(ledger.topic_totals()),
            totals: after(ledger.totals()),
            chosen: Vec::with_capacity(needed),
            used: vec![0; topology.racks.len()],
            open: topology.eligible.clone(),
        };
        if choice.rules.cap != u64::MAX {
            for (node, member) in choice.members.iter().enumerate() {
                if member.weight > 0 && member.load.replicas >= choice.rules.cap {
                    choice.open[topology.rack_of[node]] -= 1;
                }
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
            let idle = |node: &&usize| self.members[**node].weight == 0;
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

    pub(crate) fn is_complete(&self) -> bool {
        self.chosen.len() >= self.needed
    }

    /// Whether the node may be chosen: it has capacity, is not full and not chosen yet.
    pub(crate) fn is_open(&self, node: usize) -> bool {
        let member = &self.members[node];
        member.weight > 0 && member.load.replicas < self.rules.cap && !self.chosen.contains(&node)
    }

    pub(crate) fn take(&mut self, node: usize) {
        let rack = self.topology.rack_of[node];
        self.open[rack] -= usize::from(self.is_open(node));
        self.used[rack] += 1;
        self.chosen.push(node);
    }

    /// The fewest replicas that a rack with an open node holds: the racks to go to next.
    pub(crate) fn least_used(&self) -> usize {
        let racks = self.used.iter().zip(&self.open);
        racks
            .filter(|(_, open)| **open > 0)
            .map(|(used, _)| *used)
            .min()
            .unwrap_or(0)
    }

    /// The rack rules that the node breaks, as bits: the more important, the higher.
    pub(crate) fn rack_breaches(&self, node: usize, least_used: usize) -> u8 {
        if self.rules.rack_mode == RackMode::Off {
            return 0;
        }
        let crowded = self.used[self.topology.rack_of[node]] > least_used;
        u8::from(self.is_overloaded(node)) << 1 | u8::from(crowded)
    }

    /// Whether the node holds more than racks may ask of it.
    pub(crate) fn is_overloaded(&self, node: usize) -> bool {
        let percent = match (self.rules.rack_mode, self.rules.max_skew_percent) {
            (RackMode::Strict | RackMode::Off, _) | (_, 0) => return false,
            (RackMode::Prefer, percent) => 100 + u128::from(percent),
        };
        let member = &self.members[node];
        let slack = (percent, 100);
        let weights = (member.weight, self.topology.total_weight);
        reaches(member.load.replicas, self.totals.replicas, weights, slack)
    }

    /// Whether one more on the node exceeds its part of `total` times `slack`.
    pub(crate) fn reaches(&self, node: usize, held: u64, total: u64, slack: (u128, u128)) -> bool {
        let weights = (self.members[node].weight, self.topology.total_weight);
        reaches(held, total, weights, slack)
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
            .filter(|(_, node)| self.members[**node].weight > 0)
            .min_by_key(|(_, node)| {
                let member = &self.members[**node];
                let in_topic = request.ledger.topic_load(member.slot).leaders;
                (
                    self.scaled(member, in_topic),
                    self.scaled(member, member.load.leaders),
                    crate::hash::pair_hash(request.hash, self.topology.hashes[**node]),
                    **node,
                )
            })
            .map(|(place, _)| place);
        if let Some(place) = first {
            self.chosen.swap(0, place);
        }
    }

    /// What the member would carry for its weight with one more than `held`, in units of which the
    /// heaviest member counts 65,536 for one replica.
    pub(crate) fn scaled(&self, member: &Member, held: u64) -> u64 {
        scale(
            held.saturating_add(1),
            member.weight,
            self.topology.max_weight,
        )
    }
}

/// `count` for a node of `weight`, comparable between weights; saturates.
pub(crate) fn scale(count: u64, weight: u32, max_weight: u32) -> u64 {
    const UNIT: u128 = 1 << 16;
    if weight == max_weight {
        return count.saturating_mul(1 << 16);
    }
    let scaled = u128::from(count) * UNIT * u128::from(max_weight) / u128::from(weight.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Whether `held` reaches `ceil(slack * total * weight / total weight)`; `weights` is the pair.
fn reaches(held: u64, total: u64, weights: (u32, u64), slack: (u128, u128)) -> bool {
    // held >= ceil(x) for a whole number held means held >= x: no division is needed.
    let share = slack.0 * u128::from(total) * u128::from(weights.0);
    u128::from(held) * slack.1 * u128::from(weights.1) >= share
}
