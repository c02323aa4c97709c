//! The choice of replicas on a hash ring under bounded loads.
//!
//! A node is *bounded* when it already holds `ceil((1 + e) * total * weight / total weight)`, where
//! `total` counts what will be placed once this partition is (Mirrokni et al., algorithm of section
//! 2). Leaders have `e` = 0, so that they spread as evenly as whole numbers can; replicas have `e` =
//! 1/10. Both hold within the topic first, so that no topic lies on one node because that node
//! happens to be the emptiest, and over all topics second. The first node of the walk that breaks no
//! bound is taken; if every node breaks one, the one that breaks the least important bound, and
//! among equals the least loaded for its weight. All of it is integer arithmetic.

use std::cmp::Ordering;

use super::choice::{Choice, Few, Request};
use crate::error::PlacementError;
use crate::ledger::Loads;
use crate::ring::{Ring, Walk, WalkScratch};

/// `1 + e` for replicas, as a fraction.
const REPLICA_SLACK: (u64, u64) = (11, 10);
/// `1 + e` for leaders, as a fraction.
const LEADER_SLACK: (u64, u64) = (1, 1);

/// Chooses the replicas; the first is the preferred leader. Positions of members.
pub(crate) fn select(
    request: &Request<'_>,
    ring: &Ring,
    scratch: &mut WalkScratch,
) -> Result<Few, PlacementError> {
    let mut choice = Choice::new(request)?;
    let mut walk = ring.walk(request.hash, scratch);
    let mut bounds = Bounds::new(&choice, u32::MAX);
    // Where the walk was when a follower was found, and how much its rack held: whoever was passed over
    // on the way there is passed over again as long as no rack has become less crowded than the others.
    let mut passed = (0, usize::MAX);
    while !choice.is_complete() {
        let leads = choice.chosen.is_empty();
        let least_used = choice.least_used();
        let from = if passed.1 == least_used { passed.0 } else { 0 };
        let found = first_free(&choice, &mut walk, (&mut bounds, leads), (from, least_used));
        let node = match found {
            Some((step, node)) => {
                if !leads {
                    passed = (step, least_used);
                }
                Some(node)
            }
            None => least_bad(&choice, &mut walk, (&mut bounds, leads), least_used),
        };
        let Some(node) = node else {
            // `Choice::new` has counted enough open nodes, and each has a point on the ring.
            return Err(PlacementError::NotEnoughNodes {
                needed: request.replication_factor,
                available: choice.chosen.len(),
            });
        };
        choice.take(node);
    }
    Ok(choice.chosen)
}

/// The bounds of nodes of one weight; most clusters have a single one.
struct Bounds {
    weight: u32,
    leaders: NodeBounds,
    replicas: NodeBounds,
}

struct NodeBounds {
    in_topic: u64,
    in_all: u64,
}

impl Bounds {
    fn new(choice: &Choice<'_>, weight: u32) -> Self {
        let of = |in_topic, in_all, slack| NodeBounds {
            in_topic: choice.bound(weight, in_topic, slack),
            in_all: choice.bound(weight, in_all, slack),
        };
        let (topic, all) = (choice.topic_totals, choice.totals);
        Self {
            weight,
            leaders: of(topic.leaders, all.leaders, LEADER_SLACK),
            replicas: of(topic.replicas, all.replicas, REPLICA_SLACK),
        }
    }
}

/// The first node of the walk, from a step on, that breaks nothing, and its step.
fn first_free(
    choice: &Choice<'_>,
    walk: &mut Walk<'_>,
    (bounds, leads): (&mut Bounds, bool),
    (from, least_used): (usize, usize),
) -> Option<(usize, usize)> {
    let mut step = from;
    while let Some(node) = walk.nth_node(step) {
        if choice.rack_breaches(node, least_used) == 0 {
            // Whoever is on the ring has a weight.
            let weight = choice.weight(node);
            if bounds.weight != weight {
                *bounds = Bounds::new(choice, weight);
            }
            let loads = choice.loads(node);
            if breaches(loads, bounds, leads) == 0 && choice.has_room(node, loads.all) {
                return Some((step, node));
            }
        }
        step += 1;
    }
    None
}

/// The node that breaks the least important bound; of several the least loaded.
fn least_bad(
    choice: &Choice<'_>,
    walk: &mut Walk<'_>,
    (bounds, leads): (&mut Bounds, bool),
    least_used: usize,
) -> Option<usize> {
    let mut best: Option<(u8, usize)> = None;
    let mut step = 0;
    while let Some(node) = walk.nth_node(step) {
        step += 1;
        let loads = choice.loads(node);
        if !choice.has_room(node, loads.all) {
            continue;
        }
        let weight = choice.weight(node);
        if bounds.weight != weight {
            *bounds = Bounds::new(choice, weight);
        }
        let racks = choice.rack_breaches(node, least_used);
        let breaches = racks << 4 | breaches(loads, bounds, leads);
        // Strictly better only, so that equals keep the order of the walk.
        let better = best.is_none_or(|(fewest, other)| {
            breaches
                .cmp(&fewest)
                .then_with(|| compare_load(choice, node, other, leads))
                == Ordering::Less
        });
        if better {
            best = Some((breaches, node));
        }
    }
    best.map(|(_, node)| node)
}

/// The bounds that the node breaks, as bits: the more important, the higher.
#[inline]
fn breaches(loads: Loads, bounds: &Bounds, leads: bool) -> u8 {
    let (in_topic, in_all) = (loads.topic, loads.all);
    u8::from(leads && in_topic.leaders >= bounds.leaders.in_topic) << 3
        | u8::from(leads && in_all.leaders >= bounds.leaders.in_all) << 2
        | u8::from(in_topic.replicas >= bounds.replicas.in_topic) << 1
        | u8::from(in_all.replicas >= bounds.replicas.in_all)
}

/// Which of two nodes carries less for its weight.
fn compare_load(choice: &Choice<'_>, a: usize, b: usize, leads: bool) -> Ordering {
    let weights = (choice.weight(a), choice.weight(b));
    let (a, b) = (choice.load(a), choice.load(b));
    let scaled = |held: u64, weight: u32| u128::from(held) * u128::from(weight);
    let replicas = scaled(a.replicas, weights.1).cmp(&scaled(b.replicas, weights.0));
    if leads {
        let leaders = scaled(a.leaders, weights.1).cmp(&scaled(b.leaders, weights.0));
        return leaders.then(replicas);
    }
    replicas
}
