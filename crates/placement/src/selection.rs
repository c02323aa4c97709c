//! The choice of replicas for one partition: a walk around the ring under bounded loads.
//!
//! A node is *bounded* when it already holds `ceil((1 + e) * total * weight / total weight)`, where
//! `total` counts what will be placed once this partition is (Mirrokni et al., algorithm of section
//! 2). Leaders have `e` = 0, so that they spread as evenly as whole numbers can; replicas have `e` =
//! 1/10. Both hold within the topic first, so that no topic lies on one node because that node
//! happens to be the emptiest, and over all topics second. The first node of the walk that breaks no
//! bound is taken; if every node breaks one, the one that breaks the least important bound, and
//! among equals the least loaded for its weight. All of it is integer arithmetic.

use std::cmp::Ordering;

use rivven_core_types::TopicName;

use crate::config::PlacementConfig;
use crate::error::PlacementError;
use crate::ledger::{Ledger, Member, NodeLoad, TopicTable};
use crate::ring::{Ring, Walk};

/// `1 + e` for replicas, as a fraction.
const REPLICA_SLACK: (u128, u128) = (11, 10);
/// `1 + e` for leaders, as a fraction.
const LEADER_SLACK: (u128, u128) = (1, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
}

/// What is asked for, and the state it is asked in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) config: &'a PlacementConfig,
    pub(crate) ledger: &'a Ledger,
    pub(crate) ring: &'a Ring,
    pub(crate) topic: &'a TopicName,
    pub(crate) partition: u32,
    pub(crate) replication_factor: usize,
    /// Members that hold the partition already, preferred leader first; they stay.
    pub(crate) survivors: &'a [usize],
}

/// Chooses the replicas; the first is the preferred leader. Indices into the ledger's members.
pub(crate) fn select(request: &Request<'_>) -> Result<Vec<usize>, PlacementError> {
    let mut selection = Selection::new(request)?;
    while selection.chosen.len() < request.replication_factor {
        let role = if selection.chosen.is_empty() {
            Role::Leader
        } else {
            Role::Follower
        };
        let Some(node) = selection.pick(role) else {
            // `new` has counted enough open nodes, and every one of them has a point on the ring.
            return Err(PlacementError::NotEnoughNodes {
                needed: request.replication_factor,
                available: selection.chosen.len(),
            });
        };
        selection.take(node);
    }
    Ok(selection.chosen)
}

struct Selection<'a> {
    members: &'a [Member],
    ring: &'a Ring,
    topic: Option<&'a TopicTable>,
    /// What the topic and the cluster hold once this partition is placed.
    topic_totals: NodeLoad,
    totals: NodeLoad,
    cap: u64,
    rack_aware: bool,
    chosen: Vec<usize>,
    /// Per rack: replicas of this partition in it.
    used: Vec<usize>,
    /// Per rack: nodes that could still be chosen.
    open: Vec<usize>,
    walk: Walk<'a>,
}

impl<'a> Selection<'a> {
    fn new(request: &Request<'a>) -> Result<Self, PlacementError> {
        let Request { ledger, ring, .. } = *request;
        let survivors = request.survivors;
        let needed = request.replication_factor;
        let missing = needed.saturating_sub(survivors.len());
        let after = |held: NodeLoad| NodeLoad {
            replicas: held
                .replicas
                .saturating_add(u64::try_from(missing).unwrap_or(u64::MAX)),
            leaders: held.leaders.saturating_add(u64::from(survivors.is_empty())),
        };
        let topic = ledger.topic(request.topic);
        let mut selection = Self {
            members: ledger.members(),
            ring,
            topic,
            topic_totals: after(topic.map(TopicTable::totals).unwrap_or_default()),
            totals: after(ledger.totals()),
            cap: request.config.cap(),
            rack_aware: request.config.rack_aware,
            chosen: Vec::with_capacity(needed),
            used: vec![0; ring.eligible().len()],
            open: ring.eligible().to_vec(),
            walk: ring.walk(request.topic, request.partition),
        };
        if selection.cap != u64::MAX {
            for (node, member) in selection.members.iter().enumerate() {
                if member.weight > 0
                    && member.load.replicas >= selection.cap
                    && let Some(open) = selection.open.get_mut(ring.rack_of(node))
                {
                    *open -= 1;
                }
            }
        }
        for node in survivors {
            selection.take(*node);
        }
        let available = survivors.len() + selection.open.iter().sum::<usize>();
        if available >= needed {
            return Ok(selection);
        }
        let idle = survivors
            .iter()
            .filter(|node| ledger.members().get(**node).is_some_and(|m| m.weight == 0))
            .count();
        let nodes = ring.eligible().iter().sum::<usize>() + idle;
        Err(if nodes < needed {
            PlacementError::NotEnoughNodes {
                needed,
                available: nodes,
            }
        } else {
            PlacementError::NoCapacity {
                needed,
                available,
                cap: request.config.max_partitions_per_node,
            }
        })
    }

    /// Whether the node may be chosen: it has capacity, is not full and not chosen yet.
    fn is_open(&self, node: usize) -> bool {
        self.members
            .get(node)
            .is_some_and(|m| m.weight > 0 && m.load.replicas < self.cap)
            && !self.chosen.contains(&node)
    }

    fn take(&mut self, node: usize) {
        let rack = self.ring.rack_of(node);
        let was_open = self.is_open(node);
        if let Some(open) = self.open.get_mut(rack) {
            *open -= usize::from(was_open);
        }
        if let Some(used) = self.used.get_mut(rack) {
            *used += 1;
        }
        self.chosen.push(node);
    }

    /// The fewest replicas that a rack with an open node holds: the racks to go to next.
    fn least_used(&self) -> usize {
        let racks = self.used.iter().zip(&self.open);
        racks
            .filter(|(_, open)| **open > 0)
            .map(|(used, _)| *used)
            .min()
            .unwrap_or(0)
    }

    fn pick(&mut self, role: Role) -> Option<usize> {
        let least_used = self.least_used();
        let mut best: Option<(u8, usize)> = None;
        let mut step = 0;
        while let Some(node) = self.walk.nth_node(step) {
            step += 1;
            if !self.is_open(node) {
                continue;
            }
            let breaches = self.breaches(node, role, least_used);
            if breaches == 0 {
                return Some(node);
            }
            // Strictly better only, so that equals keep the order of the walk.
            let better = best.is_none_or(|(fewest, other)| {
                breaches
                    .cmp(&fewest)
                    .then_with(|| self.compare_load(node, other, role))
                    == Ordering::Less
            });
            if better {
                best = Some((breaches, node));
            }
        }
        best.map(|(_, node)| node)
    }

    /// The bounds that the node breaks, as bits: the more important, the higher.
    fn breaches(&self, node: usize, role: Role, least_used: usize) -> u8 {
        let Some(member) = self.members.get(node) else {
            return u8::MAX;
        };
        let in_topic = self.topic.map(|t| t.load(&member.name)).unwrap_or_default();
        let bounded = |held, total, slack| self.is_bounded(member.weight, held, total, slack);
        let used = self.used.get(self.ring.rack_of(node)).copied();
        let rack = self.rack_aware && used.is_some_and(|used| used > least_used);
        let leads = role == Role::Leader;
        let bounds = [
            rack,
            leads && bounded(in_topic.leaders, self.topic_totals.leaders, LEADER_SLACK),
            leads && bounded(member.load.leaders, self.totals.leaders, LEADER_SLACK),
            bounded(in_topic.replicas, self.topic_totals.replicas, REPLICA_SLACK),
            bounded(member.load.replicas, self.totals.replicas, REPLICA_SLACK),
        ];
        bounds
            .into_iter()
            .fold(0, |bits, breach| bits << 1 | u8::from(breach))
    }

    /// Whether one more would exceed `ceil(slack * total * weight / total weight)`.
    fn is_bounded(&self, weight: u32, held: u64, total: u64, slack: (u128, u128)) -> bool {
        let share = slack.0 * u128::from(total) * u128::from(weight);
        let whole = slack.1 * u128::from(self.ring.total_weight());
        u128::from(held) >= share.div_ceil(whole.max(1))
    }

    /// Which of two nodes carries less for its weight.
    fn compare_load(&self, a: usize, b: usize, role: Role) -> Ordering {
        let (Some(a), Some(b)) = (self.members.get(a), self.members.get(b)) else {
            return Ordering::Equal;
        };
        let scaled = |held: u64, weight: u32| u128::from(held) * u128::from(weight);
        let leaders = scaled(a.load.leaders, b.weight).cmp(&scaled(b.load.leaders, a.weight));
        let replicas = scaled(a.load.replicas, b.weight).cmp(&scaled(b.load.replicas, a.weight));
        match role {
            Role::Leader => leaders.then(replicas),
            Role::Follower => replicas,
        }
    }
}
