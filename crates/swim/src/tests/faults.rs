//! Loss, silence, partitions.

use std::time::Duration;

use super::network::Network;
use crate::{Event, MemberState, SwimConfig};

#[test]
fn four_hundred_milliseconds_of_silence_kill_nobody() {
    for seed in 0..10 {
        let mut network = Network::joined(seed, 16);
        network.run(2_000);
        network.trace.clear();
        let (from, to) = (network.now, network.now + Duration::from_millis(400));
        network.cut = Box::new(move |now, a, b| now >= from && now < to && (a == 5 || b == 5));
        network.run(10_000);
        assert_eq!(network.seen(MemberState::Dead), [], "seed {seed}");
        assert!(network.all_hold(5, MemberState::Alive), "seed {seed}");
    }
}

#[test]
fn five_percent_loss_kills_nobody() {
    let mut network = Network::joined(21, 16);
    network.loss = 50;
    network.run(60_000);
    assert_eq!(network.seen(MemberState::Dead), []);
}

#[test]
fn a_member_that_only_one_cannot_reach_is_not_even_suspected() {
    let mut network = Network::joined(23, 5);
    network.cut = Box::new(|_, from, to| (from, to) == (1, 2) || (from, to) == (2, 1));
    network.run(10_000);
    assert_eq!(network.seen(MemberState::Suspect), []);
    assert_eq!(network.seen(MemberState::Dead), []);
}

#[test]
fn a_partition_longer_than_the_suspicion_heals_by_itself() {
    for seed in [1, 2, 3] {
        let mut network = Network::joined(seed, 16);
        network.cut = Box::new(|_, from, to| (from < 8) != (to < 8));
        network.until(10_000, "each side holds the other for dead", |network| {
            network.nodes().all(|node| network.live(node) == 8)
        });
        network.run(5_000);
        network.trace.clear();
        network.cut = Box::new(|_, _, _| false);
        network.until(20_000, "healed", |network| {
            network.nodes().all(|node| network.live(node) == 16)
        });
        network.run(5_000);
        assert!(network.nodes().all(|node| network.live(node) == 16));
        // What the other side held must not kill those with whom a node never lost contact.
        assert_eq!(network.seen(MemberState::Dead), [], "seed {seed}");
    }
}

#[test]
fn a_lone_node_finds_its_seed_however_late_the_seed_starts() {
    let mut network = Network::new(31);
    network.start(1, 1);
    network.run(30_000);
    network.start(0, 1);
    network.until(11_000, "found", |network| {
        network.live(0) == 2 && network.live(1) == 2
    });
}

#[test]
fn tombstones_expire_everywhere_and_stay_away() {
    let mut network = Network::new(37);
    network.config = SwimConfig {
        tombstone_ttl: Duration::from_secs(20),
        ..network.config
    };
    for node in 0..5 {
        network.start(node, 1);
    }
    network.run(2_000);
    network.kill(3);
    network.run(5_000);
    assert!(network.all_hold(3, MemberState::Dead));
    // A newcomer hears of the dead one late, and must not keep it longer for that.
    network.run(13_000);
    network.start(5, 1);
    network.run(5_000);
    network.trace.clear();
    for node in [0, 1, 2, 4, 5] {
        assert_eq!(network.state(node, 3), None, "node {node}");
    }
    network.run(30_000);
    assert_eq!(network.seen(MemberState::Dead), []);
}

#[test]
fn a_process_that_stood_still_accuses_nobody() {
    let mut network = Network::joined(41, 5);
    network.run(1_000);
    let view = network.detector(2).version();
    // Node 2 alone jumps ahead by three seconds, as after SIGSTOP and SIGCONT.
    let before = network.now;
    network.now = before + Duration::from_secs(3);
    network.input(2, crate::Input::Timeout);
    assert_eq!(network.detector(2).version(), view);
    let trace = &network.trace;
    let noticed = trace
        .iter()
        .any(|(_, node, event)| *node == 2 && *event == Event::Paused);
    assert!(noticed);
    assert_eq!(network.seen(MemberState::Suspect), []);
}
