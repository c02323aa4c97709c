//! What is asked of a failure detector, each as one run from one seed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::faults::{Faults, Measured};
use super::network::Simulation;
use crate::{Event, Input, MemberState, SwimConfig};

const STEP: Duration = Duration::from_millis(5);

/// How a crash was noticed, in time since it.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// The first probe of it failed.
    pub first_failed_probe: Option<Duration>,
    /// The first survivor took it for dead.
    pub first_dead: Option<Duration>,
    /// Every survivor did.
    pub all_dead: Option<Duration>,
}

/// One node of `count` crashes.
pub fn crash(seed: u64, count: u32, faults: Faults, limit: Duration) -> Crash {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.faults = faults;
    let phase = Duration::from_micros(seed.wrapping_mul(7_919) % 100_000);
    network.run(Duration::from_secs(3) + phase);
    network.reset();
    let crashed_at = network.now();
    let victim = u32::try_from(seed % u64::from(count)).unwrap_or(0);
    network.kill(victim);
    let mut survivors: BTreeSet<u32> = network.running().collect();
    let mut result = Crash {
        first_failed_probe: None,
        first_dead: None,
        all_dead: None,
    };
    while network.now() - crashed_at < limit && !survivors.is_empty() {
        network.run(STEP);
        for (time, observer, event) in network.trace.drain(..) {
            if is_death_of(&event, victim) && survivors.remove(&observer) {
                let took = time - crashed_at;
                result.first_dead.get_or_insert(took);
                if survivors.is_empty() {
                    result.all_dead = Some(took);
                }
            }
        }
    }
    let failed = network.first_failed_probe();
    result.first_failed_probe = failed.map(|at| at - crashed_at);
    result
}

pub(super) fn is_death_of(event: &Event, node: u32) -> bool {
    matches!(event, Event::MemberChanged { name, state: MemberState::Dead, .. }
        if *name == super::network::name(node))
}

/// What happened while nobody crashed.
#[derive(Debug, Clone, Copy)]
pub struct FalseAlarms {
    /// What was counted after the first two seconds.
    pub measured: Measured,
    /// How many of the other nodes a node holds for alive at the end, on average.
    pub known_at_the_end: f64,
}

/// `count` nodes run for `span` on a bad network, and none of them crashes.
pub fn false_alarms(
    seed: u64,
    count: u32,
    faults: Faults,
    span: Duration,
    config: impl FnOnce(&mut SwimConfig),
) -> FalseAlarms {
    let mut network = Simulation::acquainted(seed, count, config);
    network.faults = faults;
    network.run(Duration::from_secs(2));
    network.reset();
    let end = network.now() + span;
    while network.now() < end {
        network.run(Duration::from_secs(1));
        network.trace.clear();
    }
    let known = |node: u32| {
        network
            .detector(node)
            .map_or(0, crate::Detector::live_others)
    };
    let total: usize = network.running().map(known).sum();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let known_at_the_end = total as f64 / f64::from(count);
    FalseAlarms {
        measured: network.measured(),
        known_at_the_end,
    }
}

/// Nodes 1 to `count` start at once and ask node 0: the time until all know all.
pub fn join_through_one(seed: u64, count: u32, limit: Duration) -> Option<Duration> {
    let mut network = Simulation::new(seed);
    network.start(0, 1);
    for node in 1..count {
        network.join(node, 1, 0);
    }
    let others = count as usize - 1;
    network.until(limit, STEP, |network| network.all_know(others))
}

/// Half of the nodes die at once: the time until every survivor knows of all of them.
pub fn mass_failure(seed: u64, count: u32, limit: Duration) -> Option<Duration> {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(3));
    for node in count / 2..count {
        network.kill(node);
    }
    let others = (count / 2) as usize - 1;
    let took = network.until(limit, STEP, |network| network.all_know(others));
    let false_deaths = network.measured().false_deaths;
    took.filter(|_| false_deaths == 0)
}

/// Half of the nodes cannot reach the other half for `cut`, then they can: the time until all know all
/// again. Also the false deaths after the cut among those who never lost contact.
pub fn heal_after_partition(
    seed: u64,
    count: u32,
    cut: Duration,
    limit: Duration,
) -> (Option<Duration>, usize) {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(2));
    let side = move |node: u32| node < count / 2;
    network.cut(move |from, to| side(from) != side(to));
    network.run(cut);
    network.reset();
    network.heal();
    let others = count as usize - 1;
    let took = network.until(limit, STEP, |network| {
        network.all_know(others) && network.is_agreed()
    });
    let of_the_same_side = network.trace.iter().filter(|(_, observer, event)| {
        let mut nodes = network.running();
        nodes.any(|node| is_death_of(event, node) && side(node) == side(*observer))
    });
    (took, of_the_same_side.count())
}

/// A node crashes and starts again `pause` later with the next boot id: the time from then until it is
/// alive everywhere.
pub fn restart(seed: u64, count: u32, pause: Duration, limit: Duration) -> Option<Duration> {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(2));
    network.kill(1);
    network.run(pause);
    network.join(1, 2, 0);
    let others = count as usize - 1;
    network.until(limit, STEP, |network| {
        network.all_know(others) && network.is_agreed() && network.all_hold(1, MemberState::Alive)
    })
}

/// Every node restarts, one each `pause`: whether all know all of the new lives within `limit` of the
/// last one.
pub fn rolling_restart(
    seed: u64,
    count: u32,
    pause: Duration,
    limit: Duration,
) -> Option<Duration> {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(1));
    for node in 0..count {
        network.kill(node);
        network.run(pause);
        network.join(node, 2, (node + 1) % count);
        network.run(pause);
    }
    let others = count as usize - 1;
    network.until(limit, STEP, |network| {
        network.all_know(others) && network.is_agreed()
    })
}

/// Some nodes stand still for 3 s every 10 s: the times that a node which never stood still was taken
/// for dead, by anybody.
pub fn slow_members(seed: u64, count: u32, slow: u32, span: Duration) -> usize {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(2));
    network.reset();
    let end = network.now() + span;
    while network.now() < end {
        for node in 0..slow {
            network.pause(node, Duration::from_secs(3));
            network.run(Duration::from_millis(97));
        }
        network.run(Duration::from_secs(10));
    }
    let healthy = network.trace.iter().filter(|(_, _, event)| {
        let mut nodes = network.running().filter(|node| *node >= slow);
        nodes.any(|node| is_death_of(event, node))
    });
    healthy.count()
}

/// A node leaves: the time until all others know, and whether anybody suspected it.
pub fn leave(seed: u64, count: u32, limit: Duration) -> (Option<Duration>, bool) {
    let mut network = Simulation::acquainted(seed, count, |_| {});
    network.run(Duration::from_secs(2));
    network.reset();
    network.input(1, Input::Leave);
    let took = network.until(limit, STEP, |network| {
        network.all_hold(1, MemberState::Left)
    });
    (took, network.measured().suspicions > 0)
}
