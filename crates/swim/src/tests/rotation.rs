//! Changing the secret of a running cluster, without anybody taking anybody for dead.

use std::time::Duration;

use super::peer::{at, config, detector};
use crate::sim::Simulation;
use crate::{Detector, MemberState, SharedSecret, SwimConfig, SwimError, SwimSecurity};

const NODES: u32 = 8;

fn old() -> SharedSecret {
    SharedSecret::new("the old secret, long enough").unwrap()
}

fn new() -> SharedSecret {
    SharedSecret::new("the new secret, long enough").unwrap()
}

fn settle(network: &mut Simulation) {
    network.run(Duration::from_secs(3));
    let others = NODES as usize - 1;
    assert!(network.all_know(others) && network.is_agreed());
}

/// As the operator's guide says: every node restarts with the new secret and the old one, then every
/// node with the new one alone. Half-way the halves hold different primary secrets.
#[test]
fn a_rolling_restart_with_a_new_secret_flaps_nobody() {
    let mut network = Simulation::acquainted(7, NODES, |config| {
        config.security = SwimSecurity::SharedSecret(old());
    });
    network.run(Duration::from_secs(1));
    let both = new().with_previous("the old secret, long enough").unwrap();
    for (boot_id, secret) in [(2, both), (3, new())] {
        network.config.security = SwimSecurity::SharedSecret(secret);
        for node in 0..NODES {
            network.kill(node);
            network.join(node, boot_id, (node + 1) % NODES);
            settle(&mut network);
        }
    }
    assert_eq!(network.measured().false_deaths, 0);
    // A datagram under the way to a life that has just ended is all that may be missing.
    assert_eq!(network.measured().suspicions, 0);
}

#[test]
fn a_live_rotation_flaps_nobody_and_leaves_the_old_secret_worthless() {
    let mut network = Simulation::acquainted(8, NODES, |config| {
        config.security = SwimSecurity::SharedSecret(old());
    });
    network.run(Duration::from_secs(1));
    let mut key = 0;
    for node in 0..NODES {
        let installed = network.with_detector(node, |detector, now, out| {
            detector.install_secret(now, &new(), out)
        });
        key = installed.unwrap().unwrap();
        network.run(Duration::from_millis(130));
    }
    settle(&mut network);
    for node in 0..NODES {
        let used =
            network.with_detector(node, |detector, now, out| detector.use_key(now, key, out));
        used.unwrap().unwrap();
        network.run(Duration::from_millis(130));
    }
    settle(&mut network);
    let old_key = network
        .detector(0)
        .unwrap()
        .envelope
        .keys()
        .as_slice()
        .iter()
        .copied()
        .find(|id| *id != key)
        .unwrap();
    for node in 0..NODES {
        let removed = network.with_detector(node, |detector, now, out| {
            detector.remove_key(now, old_key, out)
        });
        removed.unwrap().unwrap();
        network.run(Duration::from_millis(130));
    }
    settle(&mut network);
    network.run(Duration::from_secs(12));
    settle(&mut network);
    assert_eq!(network.measured().suspicions, 0);
    for node in 0..NODES {
        let held = network.detector(node).unwrap().envelope.keys();
        assert_eq!(held.as_slice(), [key]);
    }
    // Who still has the old secret alone is a stranger.
    network.config.security = SwimSecurity::SharedSecret(old());
    network.join(NODES, 1, 0);
    network.run(Duration::from_secs(3));
    assert_eq!(network.state(0, NODES), None);
    // Who has the new one is welcome.
    network.config.security = SwimSecurity::SharedSecret(new());
    network.join(NODES, 2, 0);
    network.run(Duration::from_secs(3));
    assert!(network.all_hold(NODES, MemberState::Alive));
}

#[test]
fn a_rotation_is_refused_where_it_would_cut_the_node_off() {
    let mut node = detector();
    let mut out = Vec::new();
    let primary = node.envelope.keys().as_slice()[0];
    let unknown = node.use_key(at(1), primary ^ 0x55, &mut out);
    assert!(matches!(unknown, Err(SwimError::UnknownKey { .. })));
    let removed = node.remove_key(at(1), primary, &mut out);
    assert!(matches!(removed, Err(SwimError::PrimaryKey { .. })));
    for extra in 0..7 {
        let secret = SharedSecret::new(format!("another secret, number {extra}")).unwrap();
        node.install_secret(at(1), &secret, &mut out).unwrap();
    }
    let full = node.install_secret(at(1), &new(), &mut out);
    assert!(matches!(full, Err(SwimError::InvalidConfig { .. })));
    let insecure = SwimConfig {
        security: SwimSecurity::InsecureDev,
        ..config(1)
    };
    let mut node = Detector::new(super::peer::info(0), insecure, 1, at(0)).unwrap();
    let none = node.install_secret(at(1), &new(), &mut out);
    assert!(matches!(none, Err(SwimError::NoKeys)));
    assert!(!format!("{node:?}").contains("secret, long"));
}

/// What a node does whose files of secrets are replaced: the new one with the old one behind it, and once
/// everybody has it the new one alone.
#[test]
fn replaced_secrets_flap_nobody_on_a_bad_network_and_the_old_one_goes() {
    let mut network = Simulation::acquainted(9, NODES, |config| {
        config.security = SwimSecurity::SharedSecret(old());
    });
    network.faults.loss_per_mille = 50;
    network.run(Duration::from_secs(1));
    let both = new().with_previous("the old secret, long enough").unwrap();
    for secret in [both, new()] {
        for node in 0..NODES {
            let replaced = network.with_detector(node, |detector, now, out| {
                detector.replace_secrets(now, &secret, out)
            });
            replaced.unwrap().unwrap();
            network.run(Duration::from_millis(700));
        }
        let all_hold_it = network.until(
            Duration::from_secs(10),
            Duration::from_millis(100),
            |network| {
                let mut nodes = network.running().filter_map(|node| network.detector(node));
                nodes.all(|node| node.members_without_primary_key() == 0)
            },
        );
        all_hold_it.expect("everybody comes to know who holds the new secret");
    }
    network.run(Duration::from_secs(12));
    assert_eq!(network.measured().false_deaths, 0);
    let ring = Detector::new(super::peer::info(0), with(new()), 1, at(0)).unwrap();
    for node in 0..NODES {
        let detector = network.detector(node).unwrap();
        assert_eq!(detector.envelope.keys(), ring.envelope.keys());
        assert_eq!(detector.live_others(), NODES as usize - 1);
    }
    network.config.security = SwimSecurity::SharedSecret(old());
    network.join(NODES, 1, 0);
    network.run(Duration::from_secs(3));
    assert_eq!(network.state(0, NODES), None);
}

fn with(secret: SharedSecret) -> SwimConfig {
    SwimConfig {
        security: SwimSecurity::SharedSecret(secret),
        cluster: crate::ClusterTag::default(),
        ..config(1)
    }
}

/// A key's number has eight bits. Of two keys with one number the wrong one would be used for sending,
/// and the new one would be taken for installed.
#[test]
fn two_secrets_with_one_number_are_refused_and_nothing_changes() {
    let number = |text: &str| {
        let secret = SharedSecret::new(text).unwrap();
        let node = Detector::new(super::peer::info(0), with(secret), 1, at(0)).unwrap();
        node.envelope.keys().as_slice()[0]
    };
    let first = "the secret that was there first";
    let same = (0..10_000)
        .map(|n| format!("the secret that comes after it, {n}"))
        .find(|text| number(text) == number(first))
        .expect("one in 255 has that number");
    let refused = |result: Result<u8, SwimError>| {
        let error = result.expect_err("it is refused");
        assert!(error.to_string().contains("draw another"), "{error}");
    };
    let secret = SharedSecret::new(first).unwrap();
    let both = secret.clone().with_previous(same.clone()).unwrap();
    let begun = Detector::new(super::peer::info(0), with(both.clone()), 1, at(0));
    refused(begun.map(|_| 0));
    let mut node = Detector::new(super::peer::info(0), with(secret), 1, at(0)).unwrap();
    let (keys, mut out) = (node.envelope.keys(), Vec::new());
    let other = SharedSecret::new(same).unwrap();
    refused(node.install_secret(at(1), &other, &mut out));
    refused(node.replace_secrets(at(1), &both, &mut out).map(|()| 0));
    assert_eq!(node.envelope.keys(), keys);
    // By itself it may replace the other one.
    node.replace_secrets(at(1), &other, &mut out).unwrap();
    assert_eq!(node.envelope.keys(), keys, "the number is the same");
}
