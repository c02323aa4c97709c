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

use super::choice::{Choice, Request};
use crate::error::PlacementError;
use crate::ring::{Ring, Walk, WalkScratch};

/// `1 + e` for replicas, as a fraction.
const REPLICA_SLACK: (u128, u128) = (11, 10);
/// `1 + e` for leaders, as a fraction.
const LEADER_SLACK: (u128, u128) = (1, 1);

/// Chooses the replicas; the first is the preferred leader. Positions of members.
pub(crate) fn select(
    request: &Request<'_>,
    ring: &Ring,
    scratch: &mut WalkScratch,
) -> Result<Vec<usize>, PlacementError> {
    let mut choice = Choice::new(request)?;
    let mut walk = ring.walk(request.hash, scratch);
    while !choice.is_complete() {
        let leads = choice.chosen.is_empty();
        let Some(node) = pick(request, &choice, &mut walk, leads) else {
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

fn pick(
    request: &Request<'_>,
    choice: &Choice<'_>,
    walk: &mut Walk<'_>,
    leads: bool,
) -> Option<usize> {
    let least_used = choice.least_used();
    let mut best: Option<(u8, usize)> = None;
    let mut step = 0;
    while let Some(node) = walk.nth_node(step) {
        step += 1;
        if !choice.is_open(node) {
            continue;
        }
        let breaches = breaches(request, choice, node, leads, least_used);
        if breaches == 0 {
            return Some(node);
        }
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
fn breaches(
    request: &Request<'_>,
    choice: &Choice<'_>,
    node: usize,
    leads: bool,
    least_used: usize,
) -> u8 {
    let member = &choice.members[node];
    let in_topic = request.ledger.topic_load(member.slot);
    let bounded = |held, total, slack| choice.reaches(node, held, total, slack);
    let (topic, all) = (choice.topic_totals, choice.totals);
    let bounds = [
        leads && bounded(in_topic.leaders, topic.leaders, LEADER_SLACK),
        leads && bounded(member.load.leaders, all.leaders, LEADER_SLACK),
        bounded(in_topic.replicas, topic.replicas, REPLICA_SLACK),
        bounded(member.load.replicas, all.replicas, REPLICA_SLACK),
    ];
    let racks = choice.rack_breaches(node, least_used);
    bounds
        .into_iter()
        .fold(racks, |bits, breach| bits << 1 | u8::from(breach))
}

/// Which of two nodes carries less for its weight.
fn compare_load(choice: &Choice<'_>, a: usize, b: usize, leads: bool) -> Ordering {
    let (a, b) = (&choice.members[a], &choice.members[b]);
    let scaled = |held: u64, weight: u32| u128::from(held) * u128::from(weight);
    let replicas = scaled(a.load.replicas, b.weight).cmp(&scaled(b.load.replicas, a.weight));
    if leads {
        let leaders = scaled(a.load.leaders, b.weight).cmp(&scaled(b.load.leaders, a.weight));
        return leaders.then(replicas);
    }
    replicas
}
