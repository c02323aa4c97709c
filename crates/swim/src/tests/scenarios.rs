//! Whole clusters under virtual time. The bounds here are those that the project promises; the figures
//! that are reached, and longer runs, come from `cargo xtask bench swim`.

use std::time::Duration;

use crate::sim::{
    Faults, Simulation, crash, false_alarms, heal_after_partition, join_through_one, leave,
    mass_failure, restart, rolling_restart, slow_members,
};
use crate::{Event, MemberState};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lossy(per_mille: u64) -> Faults {
    Faults {
        loss_per_mille: per_mille,
        ..Faults::default()
    }
}

fn mean(all: &[Duration]) -> Duration {
    let total: Duration = all.iter().sum();
    total / u32::try_from(all.len()).unwrap()
}

#[test]
fn a_crash_is_noticed_in_time_and_everywhere_at_once() {
    for (count, dead_within) in [(16, 650), (64, 950)] {
        let runs: Vec<_> = (0..12)
            .map(|seed| crash(seed, count, Faults::default(), secs(20)))
            .collect();
        let failed: Vec<_> = runs
            .iter()
            .map(|run| run.first_failed_probe.unwrap())
            .collect();
        assert!(mean(&failed) <= millis(200), "{count}: {failed:?}");
        let first: Vec<_> = runs.iter().map(|run| run.first_dead.unwrap()).collect();
        assert!(mean(&first) <= millis(dead_within), "{count}: {first:?}");
        for run in &runs {
            let all = run.all_dead.unwrap();
            assert!(all - run.first_dead.unwrap() <= millis(100), "{run:?}");
        }
    }
}

/// Probes at random times, and confirmations that come when they come, would make one crash in some
/// hundreds take twice the usual time: its watcher notices within two turns, and those who check confirm
/// within the shortest suspicion.
#[test]
fn no_crash_takes_much_longer_than_the_others() {
    for (count, shortest) in [(16, 400), (64, 600)] {
        for seed in 0..100 {
            let run = crash(seed, count, Faults::default(), secs(20));
            let failed = run.first_failed_probe.unwrap();
            // Two turns, and a probe: its patience and a ping timeout.
            assert!(failed <= millis(200 + 100), "{count}, {seed}: {run:?}");
            let suspected = run.first_dead.unwrap() - failed;
            assert!(
                suspected <= millis(shortest + 20),
                "{count}, {seed}: {run:?}"
            );
        }
    }
}

/// Completeness (section 3 of the SWIM paper): also when half of the datagrams' way is bad.
#[test]
fn a_crash_is_noticed_by_everybody_under_loss() {
    for loss in [50, 200] {
        for seed in 0..3 {
            let run = crash(seed, 32, lossy(loss), secs(20));
            let all = run.all_dead.expect("every survivor notices");
            assert!(all < secs(8), "{loss}: {all:?}");
        }
    }
}

#[test]
fn up_to_a_fifth_of_the_datagrams_may_be_lost_without_a_false_death() {
    for (loss, span) in [(0, 30), (10, 30), (50, 60), (100, 30), (200, 15)] {
        let run = false_alarms(loss, 64, lossy(loss), secs(span), |_| {});
        assert_eq!(run.measured.false_deaths, 0, "{loss}: {run:?}");
        if loss == 0 {
            assert_eq!(run.measured.suspicions, 0);
        }
    }
}

/// CI's share of what `cargo xtask bench swim loss --long` runs: 50 node-hours.
#[test]
fn nobody_dies_in_fifty_node_hours_at_a_loss_of_one_in_twenty() {
    const NODES: u32 = 128;
    for seed in 0..6 {
        let span = secs(50 * 3600 / u64::from(NODES) / 6 + 1);
        let run = false_alarms(100 + seed, NODES, lossy(50), span, |_| {});
        assert_eq!(run.measured.false_deaths, 0, "seed {seed}: {run:?}");
    }
}

/// Nearly a third of all datagrams: a probe and its answer come through every second time.
#[test]
fn at_three_tenths_loss_the_cluster_stays_together() {
    for (count, span) in [(3, 60), (32, 15)] {
        let run = false_alarms(1, count, lossy(300), secs(span), |_| {});
        assert!(run.known_at_the_end > f64::from(count) - 1.5, "{run:?}");
        assert!(run.measured.false_deaths <= 2, "{run:?}");
    }
}

#[test]
fn a_crash_among_two_thousand_is_known_everywhere_at_once() {
    let run = crash(1, 2048, Faults::default(), secs(5));
    let (first, all) = (run.first_dead.unwrap(), run.all_dead.unwrap());
    assert!(all - first <= millis(50), "{run:?}");
}

#[test]
fn bursts_of_loss_shorter_than_the_window_kill_nobody() {
    let bursts = Faults {
        loss_per_mille: 10,
        bursts_per_minute: 6,
        burst_ms: 300,
        ..Faults::default()
    };
    let run = false_alarms(1, 64, bursts, secs(60), |_| {});
    assert_eq!(run.measured.false_deaths, 0, "{run:?}");
}

/// Section 5.1 of the SWIM paper: what a member sends and gets does not depend on how many there are.
#[test]
fn the_load_of_a_member_is_the_same_in_any_cluster() {
    for count in [16, 64, 256] {
        let run = false_alarms(3, count, Faults::default(), secs(10), |_| {});
        let each = run.measured.datagrams / u64::from(count) / 10;
        let bytes = run.measured.bytes / u64::from(count) / 10;
        assert!(
            (19..=20).contains(&each),
            "{count}: {each} datagrams a second"
        );
        assert!(bytes <= 1_100, "{count}: {bytes} bytes a second");
    }
}

#[test]
fn many_join_through_one() {
    assert!(join_through_one(1, 64, secs(10)).unwrap() < secs(1));
    assert!(join_through_one(2, 256, secs(10)).unwrap() < secs(3));
}

#[test]
fn half_of_the_nodes_may_die_at_once() {
    assert!(mass_failure(1, 64, secs(20)).unwrap() < secs(4));
    assert!(mass_failure(2, 128, secs(20)).unwrap() < secs(5));
}

#[test]
fn a_partition_heals_by_itself_and_kills_nobody_of_the_own_side() {
    for (seed, count) in [(1, 3), (2, 16), (3, 32)] {
        let (took, false_deaths) = heal_after_partition(seed, count, secs(20), secs(30));
        let took = took.expect("the views agree again");
        assert!(took < secs(10), "{count}: {took:?}");
        assert_eq!(false_deaths, 0, "{count}");
    }
}

#[test]
fn a_restarted_member_is_back_everywhere_within_a_second() {
    // Inside the window of its suspicion, and long after its death.
    for pause in [millis(150), millis(400), secs(5)] {
        let took = restart(4, 64, pause, secs(10)).expect("it comes back");
        assert!(took < secs(1), "{pause:?}: {took:?}");
    }
}

#[test]
fn all_nodes_may_restart_one_after_the_other() {
    assert!(rolling_restart(5, 16, millis(250), secs(10)).unwrap() < secs(3));
}

#[test]
fn members_that_stand_still_for_three_seconds_accuse_nobody_else() {
    assert_eq!(slow_members(6, 32, 4, secs(30)), 0);
}

#[test]
fn who_leaves_is_gone_everywhere_and_never_suspected() {
    let (took, suspected) = leave(7, 64, secs(5));
    assert!(took.expect("all know") < millis(300));
    assert!(!suspected);
}

#[test]
fn a_member_that_only_one_cannot_reach_is_not_even_suspected() {
    let mut network = Simulation::acquainted(8, 8, |_| {});
    network.cut(|from, to| (from, to) == (1, 2) || (from, to) == (2, 1));
    network.run(secs(20));
    assert_eq!(network.measured().suspicions, 0);
}

/// A cut in one direction: node 2 sends and hears nothing. It must not accuse the others, and they must
/// find it unreachable.
#[test]
fn who_hears_nobody_accuses_nobody_and_is_found_out() {
    let mut network = Simulation::acquainted(9, 8, |_| {});
    network.run(secs(1));
    network.reset();
    network.cut(|_, to| to == 2);
    network.run(secs(5));
    assert!(
        (0..8)
            .filter(|node| *node != 2)
            .all(|node| { network.state(node, 2) == Some(MemberState::Dead) })
    );
    let wrongly = network.trace.iter().filter(|(_, observer, event)| {
        *observer != 2
            && matches!(event, Event::MemberChanged { name, state, .. }
                if *state == MemberState::Dead && name.as_str() != "node-2")
    });
    assert_eq!(wrongly.count(), 0);
    network.heal();
    let agreed = network.until(secs(12), millis(50), |network| {
        network.all_know(7) && network.is_agreed()
    });
    agreed.expect("it comes back");
}

#[test]
fn flapping_links_and_drifting_clocks_end_in_agreement() {
    let mut network = Simulation::acquainted(10, 16, |_| {});
    for node in 0..16 {
        network.drift(node, if node % 2 == 0 { 500 } else { -500 });
    }
    for _ in 0..10 {
        network.cut(|from, to| from % 4 == 0 || to % 4 == 0);
        network.run(millis(700));
        network.heal();
        network.run(millis(700));
    }
    let agreed = network.until(secs(12), millis(50), |network| {
        network.all_know(15) && network.is_agreed()
    });
    agreed.expect("the views agree");
}

#[test]
fn of_two_nodes_with_one_name_the_newer_life_wins_and_the_older_learns_it() {
    let mut network = Simulation::acquainted(11, 4, |_| {});
    network.run(secs(1));
    // The address is the same one: the older process was replaced behind it, and its datagrams are
    // still under way.
    network.join(1, 2, 0);
    network.run(secs(1));
    for observer in [0, 2, 3] {
        let view = network.detector(observer).unwrap().view();
        let held = view
            .members
            .iter()
            .find(|m| m.info.name.as_str() == "node-1");
        assert_eq!(
            held.map(|m| (m.boot_id, m.state)),
            Some((2, MemberState::Alive))
        );
    }
    assert_eq!(network.measured().false_deaths, 0);
}

/// The older process still runs, elsewhere: it learns that it was replaced, and disturbs nobody.
#[test]
fn of_two_running_processes_with_one_name_the_newer_life_is_the_member() {
    let mut network = Simulation::acquainted(14, 8, |_| {});
    network.run(secs(1));
    network.impersonate(20, 1, 2, 0);
    network.run(secs(5));
    for observer in (0..8).filter(|node| *node != 1) {
        let view = network.detector(observer).unwrap().view();
        let held = view
            .members
            .iter()
            .find(|m| m.info.name.as_str() == "node-1");
        let held = held.map(|m| (m.boot_id, m.state));
        assert_eq!(held, Some((2, MemberState::Alive)), "{observer}");
    }
    let old = network.detector(1).unwrap().view();
    assert_eq!(old.superseded_by, Some(2));
    assert_eq!(network.measured().false_deaths, 0);
}

/// A copied machine: the same name and the same boot id twice. Nothing can tell them apart; but the
/// others must not pay for it.
#[test]
fn two_processes_with_one_name_and_one_boot_id_harm_nobody_else() {
    let mut network = Simulation::acquainted(15, 8, |_| {});
    network.tolerate();
    network.run(secs(1));
    network.impersonate(20, 1, 1, 0);
    network.run(secs(20));
    for observer in (0..8).filter(|node| *node != 1) {
        for node in (0..8).filter(|node| ![1, observer].contains(node)) {
            let held = network.state(observer, node);
            assert_eq!(held, Some(MemberState::Alive), "{observer} of {node}");
        }
    }
}

#[test]
fn tombstones_expire_everywhere_and_stay_away() {
    let mut network = Simulation::acquainted(12, 5, |config| {
        config.tombstone_ttl = secs(20);
    });
    network.run(secs(2));
    network.kill(3);
    network.run(secs(5));
    assert!(network.all_hold(3, MemberState::Dead));
    // A newcomer hears of the dead one late, and must not keep it longer for that.
    network.run(secs(13));
    network.join(5, 1, 0);
    network.run(secs(5));
    for node in [0, 1, 2, 4, 5] {
        assert_eq!(network.state(node, 3), None, "node {node}");
    }
    network.reset();
    network.run(secs(30));
    assert!(network.trace.is_empty());
}

#[test]
fn a_lone_node_finds_its_seed_however_late_the_seed_starts() {
    let mut network = Simulation::new(13);
    network.join(1, 1, 0);
    network.run(secs(30));
    network.start(0, 1);
    let found = network.until(secs(13), millis(50), |network| network.all_know(1));
    found.expect("found");
}

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let hash = |seed| {
        let mut network = Simulation::acquainted(seed, 16, |_| {});
        network.faults = lossy(100);
        network.run(secs(5));
        network.kill(2);
        network.run(secs(3));
        network.trace_hash()
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}
