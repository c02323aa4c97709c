//! Few distinct replica sets.
//!
//! With replicas anywhere, a hundred nodes have tens of thousands of replica sets, and the loss of any
//! three nodes hits some partition's only three. Here all partitions share few sets: each node is
//! in `ceil(scatter width / (replicas - 1))` of them, which is also with how many peers it shares
//! partitions. Source: Cidon et al., "Copysets: Reducing the Frequency of Data Loss in Cloud Storage",
//! USENIX ATC 2013; sets that exist stay and new ones are opened for nodes that have too few, as in
//! their "Tiered Replication", USENIX ATC 2015.

use std::collections::BTreeSet;

use super::choice::{Choice, Few, Request};
use crate::error::PlacementError;
use crate::hash::pair_hash;
use crate::ledger::Ledger;
use crate::topology::Topology;

/// The sets in use for one replication factor.
#[derive(Debug, Clone)]
pub(crate) struct Copysets {
    replication_factor: usize,
    /// Each sorted; positions of members.
    sets: Vec<Vec<usize>>,
}

impl Copysets {
    /// The sets of the table, and as many more as give every node its scatter width.
    pub(crate) fn new(
        ledger: &Ledger,
        topology: &Topology,
        scatter_width: u16,
        replication_factor: usize,
        racks_matter: bool,
    ) -> Self {
        let eligible = |set: &Vec<usize>| {
            set.len() == replication_factor
                && set.iter().all(|node| ledger.members()[*node].weight > 0)
        };
        let known = ledger.replica_sets();
        let mut sets: Vec<Vec<usize>> = known.into_iter().filter(eligible).collect();
        let peers = replication_factor.saturating_sub(1).max(1);
        let wanted = usize::from(scatter_width).div_ceil(peers).max(1);
        let mut memberships = vec![0usize; ledger.members().len()];
        for node in sets.iter().flatten() {
            memberships[*node] += 1;
        }
        let mut distinct: BTreeSet<Vec<usize>> = sets.iter().cloned().collect();
        let nodes: Vec<usize> = topology.racks.iter().flatten().copied().collect();
        for round in 1..=wanted {
            let seed = u64::try_from(round).unwrap_or(u64::MAX);
            let order = |node: &usize| (pair_hash(topology.hashes[*node], seed), *node);
            let mut pending = nodes.clone();
            pending.sort_unstable_by_key(order);
            for first in pending {
                if memberships[first] >= round {
                    continue;
                }
                let set = open_set(
                    topology,
                    first,
                    seed,
                    replication_factor,
                    racks_matter,
                    &memberships,
                );
                if set.len() < replication_factor {
                    continue;
                }
                for node in &set {
                    memberships[*node] += 1;
                }
                if distinct.insert(set.clone()) {
                    sets.push(set);
                }
            }
        }
        sets.sort_unstable();
        Self {
            replication_factor,
            sets,
        }
    }

    pub(crate) const fn fits(&self, replication_factor: usize) -> bool {
        self.replication_factor == replication_factor
    }

    /// Chooses the set that carries least; if replicas survive, one that holds them, else single nodes
    /// that carry least. The member that leads least leads.
    pub(crate) fn select(&self, request: &Request<'_>) -> Result<Few, PlacementError> {
        let mut choice = Choice::new(request)?;
        let free = |node: &usize| request.survivors.contains(node) || choice.is_open(*node);
        let usable = |set: &&Vec<usize>| {
            set.iter().all(free) && request.survivors.iter().all(|node| set.contains(node))
        };
        let best = self.sets.iter().filter(usable).min_by_key(|set| {
            let fills = set.iter().map(|node| {
                let load = choice.load(*node);
                choice.scaled(*node, load.replicas)
            });
            let greatest = fills.clone().max().unwrap_or(0);
            let sum = fills.map(u128::from).sum::<u128>();
            let first = set.first().map_or(0, |n| request.topology.hashes[*n]);
            (greatest, sum, pair_hash(request.hash, first))
        });
        let Some(set) = best else {
            return super::scan::least_loaded(request);
        };
        for node in set {
            if !request.survivors.contains(node) {
                choice.take(*node);
            }
        }
        choice.elect(request);
        Ok(choice.chosen)
    }
}

/// A set with `first` in it: at each step a node of another rack that is in the fewest sets.
fn open_set(
    topology: &Topology,
    first: usize,
    seed: u64,
    replication_factor: usize,
    racks_matter: bool,
    memberships: &[usize],
) -> Vec<usize> {
    let mut set = vec![first];
    let key = pair_hash(topology.hashes[first], seed);
    while set.len() < replication_factor {
        let in_rack = |rack: usize| set.iter().filter(|n| topology.rack_of[**n] == rack).count();
        let nodes = topology.racks.iter().enumerate().flat_map(|(rack, nodes)| {
            let crowd = if racks_matter { in_rack(rack) } else { 0 };
            nodes.iter().map(move |node| (crowd, *node))
        });
        let next = nodes
            .filter(|(_, node)| !set.contains(node))
            .min_by_key(|(crowd, node)| {
                let tie = pair_hash(key, topology.hashes[*node]);
                (*crowd, memberships[*node], tie, *node)
            });
        let Some((_, node)) = next else {
            break;
        };
        set.push(node);
    }
    set.sort_unstable();
    set
}
