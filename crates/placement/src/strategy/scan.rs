//! The strategies that look at every node for every replica.

use super::choice::{Choice, Few, Request};
use super::log2::negative_log2;
use crate::error::PlacementError;
use crate::hash::pair_hash;

/// The partition as the striping strategies see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stripe {
    /// The hash of the topic: where its first partition begins.
    pub(crate) topic: u64,
    /// The partition's index.
    pub(crate) partition: u32,
}

/// Chooses, replica after replica, the open node with the least `(rack breaches, key)`; among equals
/// the first by name.
fn select_by<K: Ord>(
    request: &Request<'_>,
    key: impl Fn(&Choice<'_>, usize) -> K,
) -> Result<Few, PlacementError> {
    select_in(request, key).map(|choice| choice.chosen)
}

fn select_in<'a, K: Ord>(
    request: &Request<'a>,
    key: impl Fn(&Choice<'_>, usize) -> K,
) -> Result<Choice<'a>, PlacementError> {
    let mut choice = Choice::new(request)?;
    while !choice.is_complete() {
        let least_used = choice.least_used();
        let nodes = 0..choice.nodes();
        let best = nodes
            .filter(|node| choice.is_open(*node))
            .min_by_key(|node| (choice.rack_breaches(*node, least_used), key(&choice, *node)));
        let Some(node) = best else {
            // `Choice::new` has counted enough open nodes.
            return Err(PlacementError::NotEnoughNodes {
                needed: request.replication_factor,
                available: choice.chosen.len(),
            });
        };
        choice.take(node);
    }
    Ok(choice)
}

/// The least loaded nodes, of which the one that leads least leads.
pub(crate) fn least_loaded(request: &Request<'_>) -> Result<Few, PlacementError> {
    let mut choice = select_in(request, |choice, node| {
        let load = choice.scaled(node, choice.load(node).replicas);
        (load, pair_hash(request.hash, request.topology.hashes[node]))
    })?;
    choice.elect(request);
    Ok(choice.chosen)
}

/// Racks in turn from one that the partition begins with; in each rack the least loaded node.
pub(crate) fn rack_aware(request: &Request<'_>, stripe: Stripe) -> Result<Few, PlacementError> {
    let topology = request.topology;
    let mut turn = vec![0u64; topology.racks.len()];
    let usable = topology.usable_racks();
    let count = u64::try_from(usable).unwrap_or(u64::MAX).max(1);
    let start = (stripe.topic % count + u64::from(stripe.partition)) % count;
    let racks = topology.eligible.iter().zip(&mut turn);
    for ((_, turn), place) in racks.filter(|(nodes, _)| **nodes > 0).zip(0u64..) {
        *turn = (place + count - start) % count;
    }
    select_by(request, |choice, node| {
        let load = choice.load(node);
        let leads = choice.chosen.is_empty();
        (
            turn[topology.rack_of[node]],
            leads.then(|| choice.scaled(node, load.leaders)),
            choice.scaled(node, load.replicas),
            pair_hash(request.hash, topology.hashes[node]),
        )
    })
}

/// Striped over an order of nodes that alternates racks; the distance from the leader to the
/// followers grows by one each time around, so that not always the same nodes go together.
pub(crate) fn round_robin(request: &Request<'_>, stripe: Stripe) -> Result<Few, PlacementError> {
    let topology = request.topology;
    let nodes: usize = topology.eligible.iter().sum();
    let count = u64::try_from(nodes).unwrap_or(u64::MAX).max(1);
    let partition = u64::from(stripe.partition);
    let leader = (stripe.topic % count + partition) % count;
    let others = (count - 1).max(1);
    let shift = (partition / count) % others;
    select_by(request, |choice, node| {
        let place = topology.stripe[node].unwrap_or(0);
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        let distance = (place + count - leader) % count;
        if choice.chosen.is_empty() {
            distance
        } else {
            // The leader's own place comes last: it is taken, unless a survivor leads.
            distance
                .checked_sub(1)
                .map_or(count, |behind| (behind + others - shift) % others)
        }
    })
}

/// Weighted rendezvous hashing: the score of a node is `-log(u) / weight`, with `u` a hash of the
/// partition and the node's name; the least scores win, whatever other nodes there are.
pub(crate) fn rendezvous(request: &Request<'_>) -> Result<Few, PlacementError> {
    let score = |hash: &u64, weight: u32| {
        // The logarithm has 38 bits; the shift keeps what a division by the weight would lose.
        (negative_log2(pair_hash(request.hash, *hash)) << 25) / u64::from(weight.max(1))
    };
    let members = request.ledger.members().iter();
    let scores: Vec<u64> = members
        .zip(&request.topology.hashes)
        .map(|(member, hash)| score(hash, member.weight))
        .collect();
    select_by(request, |_, node| scores[node])
}
