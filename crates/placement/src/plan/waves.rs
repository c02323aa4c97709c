//! How much of a plan may be under way at once.

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::BrokerId;

use super::Plan;
use super::types::{Move, Phase};

/// Bounds of what is copied at the same time. A partition never has two moves at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most moves that a node takes part in, as giver or taker. Default: 5.
    pub max_moves_per_node: usize,
    /// Most moves in all. Default: 50.
    pub max_concurrent: usize,
    /// Most bytes under way, but always one move; 0 = without limit. Default: 0.
    pub max_bytes_in_flight: u64,
    /// Most bytes on their way to a node, but always one move; 0 = without limit. Default: 0.
    pub max_bytes_in_per_node: u64,
    /// Most bytes on their way from a node, but always one move; 0 = without limit. Default: 0. It
    /// binds the node that gives a replica up, for the leader that is read from is another at times.
    pub max_bytes_out_per_node: u64,
    /// Most replicas under way, in percent of all, but always one. Default: 5.
    pub max_misplaced_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_moves_per_node: 5,
            max_concurrent: 50,
            max_bytes_in_flight: 0,
            max_bytes_in_per_node: 0,
            max_bytes_out_per_node: 0,
            max_misplaced_percent: 5,
        }
    }
}

/// What is under way at one node.
#[derive(Debug, Clone, Copy, Default)]
struct Busy {
    moves: usize,
    bytes_in: u64,
    bytes_out: u64,
}

/// Whether `more` bytes may join those `under_way`.
const fn fits(under_way: u64, more: u64, most: u64) -> bool {
    most == 0 || under_way == 0 || under_way.saturating_add(more) <= most
}

/// What is under way.
struct Under<'a> {
    limits: &'a Limits,
    partitions: BTreeSet<rivven_core_types::PartitionId>,
    per_node: BTreeMap<BrokerId, Busy>,
    count: usize,
    bytes: u64,
    most: usize,
}

impl<'a> Under<'a> {
    fn new(limits: &'a Limits, total_replicas: u64) -> Self {
        let misplaced =
            total_replicas.saturating_mul(u64::from(limits.max_misplaced_percent)) / 100;
        let misplaced = usize::try_from(misplaced).unwrap_or(usize::MAX).max(1);
        Self {
            limits,
            partitions: BTreeSet::new(),
            per_node: BTreeMap::new(),
            count: 0,
            bytes: 0,
            most: limits.max_concurrent.max(1).min(misplaced),
        }
    }

    /// A lost replica is not copied from its node: only the taker is busy.
    fn giver(step: &Move) -> Option<BrokerId> {
        step.from.filter(|_| step.phase != Phase::Repair)
    }

    fn busy(&self, node: BrokerId) -> Busy {
        self.per_node.get(&node).copied().unwrap_or_default()
    }

    fn admits(&self, step: &Move) -> bool {
        let limits = self.limits;
        let has_place = |busy: Busy| busy.moves < limits.max_moves_per_node.max(1);
        let taker = self.busy(step.to);
        let takes =
            has_place(taker) && fits(taker.bytes_in, step.bytes, limits.max_bytes_in_per_node);
        let gives = Self::giver(step).is_none_or(|giver| {
            let giver = self.busy(giver);
            let most = limits.max_bytes_out_per_node;
            has_place(giver) && fits(giver.bytes_out, step.bytes, most)
        });
        self.count < self.most
            && !self.partitions.contains(&step.partition)
            && takes
            && gives
            && (self.count == 0 || fits(self.bytes, step.bytes, limits.max_bytes_in_flight))
    }

    fn add(&mut self, step: &Move) {
        self.partitions.insert(step.partition);
        if let Some(giver) = Self::giver(step) {
            let giver = self.per_node.entry(giver).or_default();
            giver.moves += 1;
            giver.bytes_out = giver.bytes_out.saturating_add(step.bytes);
        }
        let taker = self.per_node.entry(step.to).or_default();
        taker.moves += 1;
        taker.bytes_in = taker.bytes_in.saturating_add(step.bytes);
        self.count += 1;
        self.bytes = self.bytes.saturating_add(step.bytes);
    }
}

impl Plan {
    /// The moves that may begin now, while `in_flight` are under way. While a partition is under its
    /// min ISR (`under_min_isr`), only lost replicas are replaced: anything else would take bandwidth
    /// from what is in danger.
    pub fn next_wave(&self, in_flight: &[Move], limits: &Limits, under_min_isr: bool) -> Vec<Move> {
        let mut under = Under::new(limits, self.total_replicas);
        in_flight.iter().for_each(|step| under.add(step));
        let mut wave = Vec::new();
        for step in &self.moves {
            if under_min_isr && step.phase != Phase::Repair {
                continue;
            }
            if under.count >= under.most {
                break;
            }
            if under.admits(step) {
                under.add(step);
                wave.push(*step);
            }
        }
        wave
    }

    /// All moves in waves, each begun when the one before is done.
    pub fn waves(&self, limits: &Limits) -> Vec<Vec<Move>> {
        let mut left = self.moves.clone();
        let mut waves = Vec::new();
        while !left.is_empty() {
            let mut under = Under::new(limits, self.total_replicas);
            let mut wave = Vec::new();
            // The first move is always admitted, so that every wave has one.
            left.retain(|step| {
                let admitted = under.admits(step);
                if admitted {
                    under.add(step);
                    wave.push(*step);
                }
                !admitted
            });
            waves.push(wave);
        }
        waves
    }
}
