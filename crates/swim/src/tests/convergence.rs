//! Without faults: everybody learns everything, and nobody is doubted.

use super::network::Network;
use crate::{Event, Input, MemberState, ProbeOutcome};

#[test]
fn without_loss_nobody_is_ever_suspected() {
    for count in [3, 16, 64] {
        let mut network = Network::joined(7, count);
        network.run(60_000);
        assert_eq!(network.seen(MemberState::Suspect), [], "{count} nodes");
        assert_eq!(network.seen(MemberState::Dead), [], "{count} nodes");
        let probes = |outcome: ProbeOutcome| {
            let finished = Event::ProbeFinished { outcome };
            let trace = network.trace.iter();
            trace.filter(|(_, _, event)| *event == finished).count()
        };
        assert_eq!(probes(ProbeOutcome::Failed), 0);
        assert_eq!(probes(ProbeOutcome::Indirect), 0);
        assert!(probes(ProbeOutcome::Direct) > usize::from(count) * 590);
        for node in 0..count {
            let dropped = network.trace.iter().find(|(_, observer, event)| {
                *observer == node && matches!(event, Event::Dropped { .. })
            });
            assert_eq!(dropped, None);
        }
    }
}

#[test]
fn sixty_four_nodes_that_join_through_one_know_each_other_within_two_seconds() {
    let network = Network::joined(11, 64);
    assert!(
        network.now <= super::network::at(2_000),
        "{:?}",
        network.now
    );
}

#[test]
fn all_survivors_learn_of_a_death_in_bounded_time() {
    for (count, limit) in [(3, 1_200), (16, 2_500), (64, 3_500)] {
        let mut network = Network::joined(3, count);
        network.run(1_000);
        network.kill(count - 1);
        network.until(limit, "the death is known everywhere", |network| {
            network.all_hold(count - 1, MemberState::Dead)
        });
        let deaths = network.seen(MemberState::Dead);
        let only = super::network::name(count - 1);
        assert!(deaths.iter().all(|(_, _, name)| *name == only));
    }
}

#[test]
fn a_restart_with_a_newer_boot_id_comes_back_before_and_after_its_death_is_known() {
    let mut network = Network::joined(5, 16);
    for (pause, boot_id) in [(5_000, 2), (0, 3)] {
        network.kill(9);
        network.run(pause);
        network.start(9, boot_id);
        network.until(3_000, "back everywhere", |network| {
            let known = network.nodes().all(|node| {
                let view = network.detector(node).view();
                let member = view.get(&super::network::name(9)).cloned();
                member.is_some_and(|member| member.boot_id == boot_id)
            });
            known && network.all_hold(9, MemberState::Alive)
        });
        assert_eq!(network.live(9), 16);
    }
    network.trace.clear();
    network.run(10_000);
    assert_eq!(
        network.seen(MemberState::Suspect),
        [],
        "the old life haunts"
    );
}

#[test]
fn who_leaves_is_gone_everywhere_without_being_suspected() {
    let mut network = Network::joined(13, 16);
    network.input(4, Input::Leave);
    network.until(1_000, "the driver may stop", |network| {
        let trace = network.trace.iter();
        let mut told = trace.filter(|(_, _, event)| *event == Event::LeaveFinished);
        told.any(|(_, node, _)| *node == 4)
    });
    network.kill(4);
    network.until(500, "known everywhere", |network| {
        network.all_hold(4, MemberState::Left)
    });
    network.run(5_000);
    assert_eq!(network.seen(MemberState::Suspect), []);
    assert_eq!(network.seen(MemberState::Dead), []);
}

#[test]
fn equal_seeds_give_equal_traces() {
    let trace = |seed: u64| {
        let mut network = Network::joined(seed, 8);
        network.loss = 200;
        network.run(20_000);
        network.kill(3);
        network.run(5_000);
        network.trace
    };
    let one = trace(42);
    assert!(one.len() > 1_000);
    assert_eq!(one, trace(42));
    assert_ne!(one, trace(43));
}
