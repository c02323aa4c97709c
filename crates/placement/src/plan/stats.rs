//! Figures of an assignment that a person can read.

use rivven_core_types::BrokerId;

use super::model::{Model, NOBODY};
use super::types::NodeState;

/// How even an assignment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Fewest and most replicas on a node that may be given some.
    pub replicas: (u64, u64),
    /// Mean replicas of these nodes, in thousandths.
    pub mean_replicas_milli: u64,
    /// Fewest and most preferred leaders of these nodes.
    pub leaders: (u64, u64),
    /// Replicas that are missing or lost.
    pub missing: u64,
    /// Replicas on nodes that are to be emptied.
    pub to_drain: u64,
    /// Partitions with more replicas in a rack than there must be.
    pub rack_violations: u64,
}

/// What a node has and will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSummary {
    /// Which node.
    pub node: BrokerId,
    /// Replicas before and after.
    pub replicas: (u64, u64),
    /// Preferred leaders before and after.
    pub leaders: (u64, u64),
    /// Replicas that it is given.
    pub incoming: u64,
    /// Replicas that it gives away.
    pub outgoing: u64,
}

/// Replicas and leaders of each node.
pub(super) fn loads(model: &Model<'_>) -> Vec<(u64, u64)> {
    let mut loads: Vec<(u64, u64)> = model.nodes.iter().map(|n| (n.load(), 0)).collect();
    for partition in 0..model.partitions() {
        let first = model.replicas(partition).first().copied();
        if let Some(node) = first.and_then(|slot| model.node(slot)) {
            loads[node].1 += 1;
        }
    }
    loads
}

pub(super) fn summarize(model: &Model<'_>) -> Stats {
    let loads = loads(model);
    let usable: Vec<(u64, u64)> = model.racks.iter().flatten().map(|n| loads[*n]).collect();
    let range = |values: &dyn Fn(&(u64, u64)) -> u64| {
        let least = usable.iter().map(values).min().unwrap_or(0);
        (least, usable.iter().map(values).max().unwrap_or(0))
    };
    let total: u64 = usable.iter().map(|(replicas, _)| replicas).sum();
    let count = (usable.len() as u64).max(1);
    let mut stats = Stats {
        replicas: range(&|load| load.0),
        mean_replicas_milli: total.saturating_mul(1_000) / count,
        leaders: range(&|load| load.1),
        ..Stats::default()
    };
    for partition in 0..model.partitions() {
        let replicas = model.replicas(partition);
        let per_rack = model.per_rack(replicas.len());
        let mut violated = false;
        for (place, slot) in replicas.iter().enumerate() {
            match model.node(*slot) {
                None => stats.missing += 1,
                Some(node) => {
                    let draining = model.nodes[node].state == NodeState::Draining;
                    stats.to_drain += u64::from(draining);
                    violated |= model.in_rack(partition, model.nodes[node].rack, place) >= per_rack;
                }
            }
        }
        stats.rack_violations += u64::from(violated);
        debug_assert!(
            replicas
                .iter()
                .all(|s| *s == NOBODY || (*s as usize) < loads.len())
        );
    }
    stats
}

pub(super) fn nodes(model: &Model<'_>, before: &[(u64, u64)]) -> Vec<NodeSummary> {
    let after = loads(model);
    let mut summaries: Vec<NodeSummary> = model
        .nodes
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(node, (before, after))| NodeSummary {
            node: node.id,
            replicas: (before.0, after.0),
            leaders: (before.1, after.1),
            incoming: 0,
            outgoing: 0,
        })
        .collect();
    let find = |summaries: &[NodeSummary], id: BrokerId| {
        summaries.binary_search_by_key(&id, |s| s.node).ok()
    };
    for step in &model.moves {
        if let Some(at) = find(&summaries, step.to) {
            summaries[at].incoming += 1;
        }
        if let Some(at) = step.from.and_then(|from| find(&summaries, from)) {
            summaries[at].outgoing += 1;
        }
    }
    summaries
}
