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
