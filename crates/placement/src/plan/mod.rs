//! From the present assignment to a good one with the fewest moves.
//!
//! [`plan`] is a pure function. Its phases follow each other, and none undoes what an earlier one
//! achieved:
//! 1. *repair*: replicas that are missing, or on nodes that are gone, get another node;
//! 2. *drain*: nodes that are to be emptied give everything away;
//! 3. *rack*: partitions whose replicas share a rack without need are spread;
//! 4. *balance*: nodes above their share give to nodes below it, and nothing else moves, so that the
//!    number of moves is the least possible: the sum of what the nodes hold beyond their shares;
//! 5. *leaders*: the preferred leaders are evened out, which copies nothing.
//!
//! The shares follow from weights, caps and what racks allow. Since every move brings a node nearer to
//! its share and shares do not depend on the moves, planning again after some of the moves were made
//! gives the rest of them.

mod balance;
pub(crate) mod leaders;
mod model;
mod shares;
mod stats;
mod types;
mod waves;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::{PartitionId, TopicId};

use model::Model;

pub use stats::{NodeSummary, Stats};
pub use types::{
    Assignment, ClusterView, Goals, LeaderMove, Limiting, Move, NodeState, Phase, PlacedPartition,
    Shortage, ViewNode,
};
pub use waves::Limits;

/// How often the phases are gone through while something cannot be placed.
const MAX_ATTEMPTS: usize = 16;

/// What is to be done, and what it achieves. See [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// [`Assignment::version`] of the assignment it starts from: if that has changed, plan again.
    pub base_version: u64,
    /// The replicas to be copied, in the order of their importance.
    pub moves: Vec<Move>,
    /// Changes of the preferred leader among replicas that a partition has (then): nothing is copied.
    pub leader_moves: Vec<LeaderMove>,
    /// How even the cluster is now.
    pub before: Stats,
    /// How even it is once all is done.
    pub after: Stats,
    /// Each node, by number: what it has and what it will have.
    pub nodes: Vec<NodeSummary>,
    /// What cannot be achieved, and what is lacking for it.
    pub shortages: Vec<Shortage>,
    /// All replicas of the cluster, as it should be.
    pub total_replicas: u64,
}

impl Plan {
    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.leader_moves.is_empty()
    }

    /// Bytes to be copied.
    pub fn bytes(&self) -> u64 {
        self.moves
            .iter()
            .fold(0, |sum, m| sum.saturating_add(m.bytes))
    }
}

/// Plans the way from `current` to an assignment that fits `view` and `goals`. The order of the nodes
/// and partitions given does not matter; of two entries for one node or partition the first counts.
pub fn plan(current: &Assignment, view: &ClusterView, goals: &Goals) -> Plan {
    let mut model = Model::new(current, view, goals);
    let before = stats::summarize(&model);
    let loads_before = stats::loads(&model);
    model.shares = shares::compute(&model);
    // Evening out may make room for what could not be placed at first.
    for _ in 0..MAX_ATTEMPTS {
        let before = model.shifts;
        model.shortages.clear();
        let complete = arrange(&mut model);
        if complete || model.shifts == before {
            break;
        }
    }
    if goals.leaders {
        elect(&mut model);
    }
    // Back to where it was, by way of another node.
    model.moves.retain(|step| step.from != Some(step.to));
    let leader_moves = model.leader_moves(current);
    let after = stats::summarize(&model);
    Plan {
        base_version: current.version,
        nodes: stats::nodes(&model, &loads_before),
        total_replicas: model.total_slots(),
        leader_moves,
        before,
        after,
        moves: std::mem::take(&mut model.moves),
        shortages: std::mem::take(&mut model.shortages),
    }
}

/// One pass of the phases. Returns whether each achieved all it is for, but for the balance.
fn arrange(model: &mut Model<'_>) -> bool {
    balance::repair(model);
    let mut spread = true;
    if model.goals.racks {
        spread = balance::spread_racks(model);
        // A node of weight 0 may have given something away: what it keeps is not to be divided.
        model.shares = shares::compute(model);
    }
    if model.goals.balance {
        balance::even_out(model);
    }
    spread && model.shortages.is_empty()
}

/// Evens the leaders out among the nodes that are to keep what they have.
fn elect(model: &mut Model<'_>) {
    let mut leaders = vec![0u64; model.nodes.len()];
    let mut candidates = leaders::Candidates::default();
    // A list has the usable replicas alone: this is where they are among all.
    let mut places = Vec::with_capacity(model.partitions());
    for partition in 0..model.partitions() {
        let replicas = model.replicas(partition).iter().enumerate();
        let active: Vec<(usize, usize)> = replicas
            .filter_map(|(place, node)| Some((place, model.node(*node)?)))
            .filter(|(_, node)| model.nodes[*node].is_active())
            .collect();
        if let Some((_, first)) = active.first() {
            leaders[*first] += 1;
        }
        let topic = model.id(partition).topic;
        let may_change = |topics: &BTreeSet<TopicId>| topics.contains(&topic);
        let movable: &[(usize, usize)] =
            match model.goals.leaders_of.as_ref().is_none_or(may_change) {
                true => active.as_slice(),
                false => &[],
            };
        candidates.push(movable.iter().map(|(_, node)| *node));
        places.push(active.iter().map(|(place, _)| *place).collect::<Vec<_>>());
    }
    let weight = |node: &model::Node| if node.is_active() { node.weight } else { 0 };
    let weights: Vec<u32> = model.nodes.iter().map(weight).collect();
    if leaders::is_even_enough(&leaders, &weights, model.goals.tolerance_percent) {
        return;
    }
    for (partition, place) in leaders::even_out(leaders, weights, candidates) {
        let chosen = places[partition][place];
        model.replicas_mut(partition).swap(0, chosen);
    }
}

impl Model<'_> {
    /// Partitions whose first replica, once their moves are made, is another than it should be.
    fn leader_moves(&self, current: &Assignment) -> Vec<LeaderMove> {
        let mut moved: BTreeMap<PartitionId, Vec<&Move>> = BTreeMap::new();
        for step in &self.moves {
            moved.entry(step.partition).or_default().push(step);
        }
        let mut moves = Vec::new();
        for partition in 0..self.partitions() {
            let now = self.replicas(partition).first();
            let Some(to) = now.and_then(|slot| self.broker(*slot)) else {
                continue;
            };
            let placed = &current.partitions[self.source[partition]];
            let first = match moved.get(&placed.id) {
                None => placed.replicas.first().copied(),
                Some(steps) => {
                    let start = placed.replicas.clone();
                    let after = steps
                        .iter()
                        .fold(start, |replicas, step| step.apply(&replicas));
                    after.first().copied()
                }
            };
            if let Some(from) = first.filter(|from| *from != to) {
                moves.push(LeaderMove {
                    partition: placed.id,
                    from,
                    to,
                });
            }
        }
        moves
    }
}
