//! The phases that move replicas.

use super::model::{Model, NOBODY, number};
use super::types::{Limiting, NodeState, Phase};
use crate::config::RackMode;
use crate::hash::pair_hash;

/// Replaces what is lost, then empties the nodes that are to be emptied.
pub(super) fn repair(model: &mut Model<'_>) {
    for phase in [Phase::Repair, Phase::Drain] {
        for partition in 0..model.partitions() {
            for place in 0..model.replicas(partition).len() {
                let slot = model.replicas(partition)[place];
                let due = match phase {
                    Phase::Repair => slot == NOBODY,
                    _ => model
                        .node(slot)
                        .is_some_and(|node| model.nodes[node].state == NodeState::Draining),
                };
                if !due {
                    continue;
                }
                match choose_target(model, partition, place) {
                    Some(to) => model.shift(partition, place, to, phase),
                    None => report(model, partition, place),
                }
            }
        }
    }
}

/// Which node is to take the replica at `place`: of the racks that the partition uses least, the node
/// that lacks most for its share.
fn choose_target(model: &Model<'_>, partition: usize, place: usize) -> Option<usize> {
    let replicas = model.replicas(partition);
    let racks_matter = model.goals.rack_mode != RackMode::Off;
    let per_rack = model.per_rack(replicas.len());
    let cap = model.cap();
    let key = u64::from(number(partition));
    let mut best: Option<(Rank, usize)> = None;
    for (rack, nodes) in model.racks.iter().enumerate() {
        let crowd = if racks_matter && !nodes.is_empty() {
            model.in_rack(partition, rack, place)
        } else {
            0
        };
        if model.goals.rack_mode == RackMode::Strict && crowd >= per_rack {
            continue;
        }
        // Any rack is as good as another that stays within what each may hold.
        let crowded = crowd.saturating_sub(per_rack.saturating_sub(1));
        for node in nodes {
            if model.nodes[*node].load() >= cap || replicas.contains(&number(*node)) {
                continue;
            }
            let need = need(model, *node);
            if best.is_some_and(|(rank, _)| (crowded, need) > (rank.0, rank.1)) {
                continue;
            }
            let rank = Rank(
                crowded,
                need,
                model.topic_count(*node, partition),
                pair_hash(key, model.nodes[*node].hash),
            );
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, *node));
            }
        }
    }
    best.map(|(_, node)| node)
}

/// What decides between targets, the most important first: crowded racks, need, how much of the topic
/// is there already, and a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(usize, (u8, u64), usize, u64);

/// Below its share, at it, above it; and how full it would be for its weight.
fn need(model: &Model<'_>, node: usize) -> (u8, u64) {
    let share = model.shares[node];
    let load = model.nodes[node].load();
    let class = if load < share.low {
        0
    } else if load < share.high {
        1
    } else {
        2
    };
    // The share stands for the weight. In thousandths, so that small shares still compare.
    let full = load.saturating_add(1).saturating_mul(1_000) / share.high.max(1);
    (class, full)
}

fn report(model: &mut Model<'_>, partition: usize, place: usize) {
    let replicas = model.replicas(partition);
    let needed = replicas.len() as u64;
    let holds = |node: usize| model.replicas(partition).contains(&number(node));
    let stays = replicas
        .iter()
        .enumerate()
        .filter(|(at, slot)| {
            let node = model.node(**slot);
            *at != place && node.is_some_and(|node| model.nodes[node].is_active())
        })
        .count() as u64;
    let usable = |node: &&usize| !holds(**node);
    let free = model.racks.iter().flatten().filter(usable).count() as u64;
    let cap = model.cap();
    let open = model
        .racks
        .iter()
        .flatten()
        .filter(|node| !holds(**node) && model.nodes[**node].load() < cap)
        .count() as u64;
    let example = Some(model.id(partition));
    let (limiting, available) = if free == 0 {
        (Limiting::Nodes, stays)
    } else if open == 0 {
        (Limiting::Capacity, stays)
    } else {
        let racks = model.racks.iter().filter(|rack| !rack.is_empty()).count();
        (Limiting::Racks, racks as u64)
    };
    model.fall_short(limiting, (needed, available), example);
    let places = cap.saturating_mul(model.racks.iter().flatten().count() as u64);
    if limiting == Limiting::Capacity && places < model.total_slots() {
        let total = model.total_slots();
        model.fall_short(Limiting::TotalCapacity, (total, places), None);
    }
}

/// Moves replicas out of racks that hold more of a partition than they must. Returns whether none is
/// left.
pub(super) fn spread_racks(model: &mut Model<'_>) -> bool {
    if model.goals.rack_mode == RackMode::Off {
        return true;
    }
    let mut spread = true;
    for partition in 0..model.partitions() {
        while let Some(place) = crowded_place(model, partition) {
            let rack = model
                .node(model.replicas(partition)[place])
                .map(|node| model.nodes[node].rack);
            let target = choose_target(model, partition, place);
            // Only into a rack that has room for it, or nothing is gained.
            let per_rack = model.per_rack(model.replicas(partition).len());
            let gains = target.filter(|to| {
                let into = model.nodes[*to].rack;
                Some(into) != rack && model.in_rack(partition, into, place) < per_rack
            });
            let Some(to) = gains else {
                spread = false;
                break;
            };
            model.shift(partition, place, to, Phase::Rack);
        }
    }
    spread
}

/// The replica to be moved of a rack that holds too many: one on a full node, and not the leader.
fn crowded_place(model: &Model<'_>, partition: usize) -> Option<usize> {
    let replicas = model.replicas(partition);
    let per_rack = model.per_rack(replicas.len());
    let crowded = |place: usize, slot: u32| {
        let node = model.node(slot)?;
        let inside = model.in_rack(partition, model.nodes[node].rack, place);
        (inside >= per_rack).then_some((place, node))
    };
    replicas
        .iter()
        .enumerate()
        .filter_map(|(place, slot)| crowded(place, *slot))
        .max_by_key(|(place, node)| (need(model, *node), *place))
        .map(|(place, _)| place)
}

/// Evens out: as long as a node is off its share there is a giver above and a taker below.
pub(super) fn even_out(model: &mut Model<'_>) {
    if is_even_enough(model) {
        return;
    }
    // One pass is enough unless racks stand in the way, when a move may clear it for another. Each move
    // lessens what the nodes are off in all, so that this ends.
    loop {
        let before = model.shifts;
        fill_the_short(model);
        relieve_the_full(model);
        if model.shifts == before {
            return;
        }
    }
}

/// Whether no node is so far off that anything is worth a move.
fn is_even_enough(model: &Model<'_>) -> bool {
    let percent = u64::from(model.goals.tolerance_percent);
    if percent == 0 {
        return false;
    }
    let off = |(node, share): (&super::model::Node, &super::shares::Share)| {
        let tolerated = (share.high.saturating_mul(percent) / 100).max(1);
        let (held, above) = (node.load(), share.high.saturating_add(tolerated));
        node.is_usable() && (held > above || held.saturating_add(tolerated) < share.low)
    };
    !model.nodes.iter().zip(&model.shares).any(off)
}

fn usable(model: &Model<'_>) -> Vec<usize> {
    model.racks.iter().flatten().copied().collect()
}

/// Brings every node up to its share.
fn fill_the_short(model: &mut Model<'_>) {
    let mut short: Vec<usize> = usable(model);
    short.retain(|node| model.nodes[*node].load() < model.shares[*node].low);
    // Nodes that once could not be filled; what is filled later does not change that.
    while let Some((at, to)) = neediest(model, &short) {
        let givers = givers(model, to);
        let found = givers
            .into_iter()
            .find_map(|from| best_replica(model, from, to));
        match found {
            Some((partition, place)) => model.shift(partition, place, to, Phase::Balance),
            None => {
                short.swap_remove(at);
            }
        }
    }
}

fn neediest(model: &Model<'_>, short: &[usize]) -> Option<(usize, usize)> {
    let lacking = |node: usize| {
        model.shares[node]
            .low
            .saturating_sub(model.nodes[node].load())
    };
    short
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, node)| lacking(*node) > 0)
        .max_by_key(|(_, node)| (lacking(*node), std::cmp::Reverse(*node)))
}

/// Who may give to `to`: those above their share first, of its own rack first, the fullest first.
fn givers(model: &Model<'_>, to: usize) -> Vec<usize> {
    let mut givers: Vec<(bool, bool, u64, usize)> = Vec::new();
    for from in usable(model) {
        let (load, share) = (model.nodes[from].load(), model.shares[from]);
        if load > share.low && from != to {
            let elsewhere = model.nodes[from].rack != model.nodes[to].rack;
            let surplus = load - share.low;
            givers.push((load <= share.high, elsewhere, u64::MAX - surplus, from));
        }
    }
    givers.sort_unstable();
    givers.into_iter().map(|(_, _, _, from)| from).collect()
}

/// Brings every node down to its share, to nodes that have not quite reached theirs.
fn relieve_the_full(model: &mut Model<'_>) {
    for from in usable(model) {
        while model.nodes[from].load() > model.shares[from].high {
            let mut takers: Vec<(bool, (u8, u64), usize)> = usable(model)
                .into_iter()
                .filter(|to| model.nodes[*to].load() < model.shares[*to].high)
                .map(|to| {
                    let elsewhere = model.nodes[from].rack != model.nodes[to].rack;
                    (elsewhere, need(model, to), to)
                })
                .collect();
            takers.sort_unstable();
            let found = takers.into_iter().find_map(|(_, _, to)| {
                let (partition, place) = best_replica(model, from, to)?;
                Some((partition, place, to))
            });
            let Some((partition, place, to)) = found else {
                break;
            };
            model.shift(partition, place, to, Phase::Balance);
        }
    }
}

/// The replica that goes best from one node to the other: of a topic of which the one has much and
/// the other little, not the leader, small. `None` if every one of them would crowd a rack.
fn best_replica(model: &Model<'_>, from: usize, to: usize) -> Option<(usize, usize)> {
    let (rack_from, rack_to) = (model.nodes[from].rack, model.nodes[to].rack);
    let same_rack = rack_from == rack_to || model.goals.rack_mode == RackMode::Off;
    let held = &model.nodes[from].held;
    let mut best: Option<((usize, bool, u64), usize, usize)> = None;
    let mut at = 0;
    while let Some(first) = held.get(at) {
        // One topic at a time: its concentration is the same for all of its partitions.
        let end = model.topic_end(*first as usize);
        let count = held[at..].partition_point(|p| *p < end);
        let there = model.topic_count(to, *first as usize);
        // What there is least reason to move is the greatest.
        let reluctance = usize::MAX / 2 + there - count;
        let group = &held[at..at + count];
        at += count;
        if best.is_some_and(|((least, ..), ..)| reluctance > least) {
            continue;
        }
        for partition in group.iter().map(|p| *p as usize) {
            let replicas = model.replicas(partition);
            let Some(place) = replicas.iter().position(|slot| *slot == number(from)) else {
                continue;
            };
            if replicas.contains(&number(to)) {
                continue;
            }
            let fits = same_rack
                || model.in_rack(partition, rack_to, place) < model.per_rack(replicas.len());
            let rank = (reluctance, place == 0, model.size(partition));
            if fits && best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, partition, place));
            }
        }
    }
    best.map(|(_, partition, place)| (partition, place))
}
