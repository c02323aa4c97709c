//! What strangers, captures and noise can do: nothing.

use std::time::Duration;

use proptest::prelude::*;

use super::peer::{
    Peer, addr, at, config, detector, dropped, endpoint, give, gossip, hints, info, is_silent,
    name, says,
};
use crate::message::Message;
use crate::profile::Destination;
use crate::sim::{Faults, Simulation};
use crate::{
    ClusterTag, Detector, DropReason, Input, MAX_SWIM_DATAGRAM_BYTES, MemberState, Output,
    SharedSecret, SwimConfig, SwimSecurity,
};

const PING: Message<'static> = Message::Ping { seq: 1, digest: 0 };
const GOSSIP: Message<'static> = Message::Gossip { digest: 0 };

#[test]
fn foreign_and_forged_datagrams_change_nothing_and_get_no_answer() {
    let other_secret = SharedSecret::new("another secret of some length").unwrap();
    let cases = [
        (
            SwimConfig {
                security: SwimSecurity::SharedSecret(other_secret),
                ..config(1)
            },
            DropReason::Unauthenticated,
        ),
        (
            SwimConfig {
                security: SwimSecurity::InsecureDev,
                ..config(1)
            },
            DropReason::Unauthenticated,
        ),
        (
            SwimConfig {
                cluster: ClusterTag::from_name("another"),
                ..config(1)
            },
            DropReason::ForeignCluster,
        ),
        // The same short tag, another cluster: the keys differ.
        (
            SwimConfig {
                cluster: ClusterTag::new(1 << 40),
                ..config(1)
            },
            DropReason::Unauthenticated,
        ),
    ];
    for (config, expected) in cases {
        let mut detector = detector();
        let mut stranger = Peer::with_config(1, &config);
        let datagram = stranger.datagram(7, PING, &[]);
        let out = give(&mut detector, at(1), 1, &datagram);
        assert_eq!(dropped(&out), Some(expected));
        assert!(is_silent(&out));
        assert_eq!(detector.version(), 1);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let mut peer = Peer::new(1, 1);
    let datagram = peer.datagram(7, PING, &[]);
    for at_byte in 0..datagram.len() {
        let mut detector = detector();
        for bit in 0..8 {
            let mut forged = datagram.clone();
            forged[at_byte] ^= 1 << bit;
            let out = give(&mut detector, at(1), 1, &forged);
            assert!(dropped(&out).is_some() && is_silent(&out), "byte {at_byte}");
        }
        let cut = &datagram[..at_byte];
        assert!(dropped(&give(&mut detector, at(1), 1, cut)).is_some());
        assert_eq!(detector.version(), 1);
    }
}

#[test]
fn a_replay_has_no_effect_at_the_receiver_at_others_or_at_its_next_life() {
    let mut peer = Peer::new(1, 1);
    let datagram = peer.datagram(7, PING, &[]);
    let mut receiver = detector();
    assert_eq!(dropped(&give(&mut receiver, at(1), 1, &datagram)), None);
    let version = receiver.version();
    let again = give(&mut receiver, at(2), 1, &datagram);
    assert_eq!(dropped(&again), Some(DropReason::Replayed));
    assert!(is_silent(&again));
    assert_eq!(receiver.version(), version);

    // Who is meant is part of the tag.
    let mut other = Detector::new(info(2), config(7), 1, at(0)).unwrap();
    let elsewhere = give(&mut other, at(2), 1, &datagram);
    assert_eq!(dropped(&elsewhere), Some(DropReason::Unauthenticated));
    assert_eq!(other.version(), 1);

    let mut next_life = Detector::new(info(0), config(8), 1, at(0)).unwrap();
    let later = give(&mut next_life, at(2), 1, &datagram);
    assert_eq!(dropped(&later), Some(DropReason::StaleReceiver));
    assert_eq!(next_life.version(), 1);
}

#[test]
fn without_authentication_a_datagram_for_another_node_is_still_noticed() {
    let insecure = |boot_id| SwimConfig {
        security: SwimSecurity::InsecureDev,
        ..config(boot_id)
    };
    let mut peer = Peer::with_config(1, &insecure(1));
    let datagram = peer.datagram(7, PING, &[]);
    let mut other = Detector::new(info(2), insecure(7), 1, at(0)).unwrap();
    let out = give(&mut other, at(1), 1, &datagram);
    assert_eq!(dropped(&out), Some(DropReason::NotForThisNode));
}

#[test]
fn a_replayed_leave_does_not_evict_who_has_come_back() {
    let mut detector = detector();
    let mut first_life = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut first_life, &[]);
    let left = [hints(1, 1, 0, MemberState::Left)];
    let leave = first_life.sealed(endpoint(0, 7), GOSSIP, &left);
    give(&mut detector, at(1), 1, &leave);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Left));
    let mut second_life = Peer::new(1, 2);
    gossip(&mut detector, at(2), &mut second_life, &[]);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Alive));

    let version = detector.version();
    let replayed = give(&mut detector, at(3), 1, &leave);
    assert_eq!(dropped(&replayed), Some(DropReason::StaleSender));
    // Neither does the same evidence from somebody who has not heard of the return.
    let mut other = Peer::new(2, 1);
    gossip(&mut detector, at(4), &mut other, &[]);
    assert_eq!(detector.version(), version + 1);
    gossip(&mut detector, at(5), &mut other, &left);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Alive));
    assert_eq!(detector.version(), version + 1);
}

#[test]
fn a_join_request_teaches_nothing_and_a_capture_of_it_amplifies_nothing() {
    let mut joiner = Detector::new(info(1), config(1), 1, at(0)).unwrap();
    let mut out = Vec::new();
    joiner.handle(at(0), Input::Join(vec![addr(0).into()]), &mut out);
    let Some(Output::Send { payload, .. }) = out.first() else {
        panic!("no request: {out:?}");
    };
    let mut detector = detector();
    let mut peer = Peer::new(2, 1);
    let many: Vec<_> = (3..20).map(|n| says(n, 1, 0, MemberState::Alive)).collect();
    gossip(&mut detector, at(0), &mut peer, &many);
    let version = detector.version();
    let mut answers = 0;
    for _ in 0..1000 {
        let to_the_claimed = |output: &&Output| {
            let there = Destination::Socket(addr(1));
            matches!(output, Output::Send { to, .. } if *to == there)
        };
        let out = give(&mut detector, at(1), 1, payload);
        for answer in out.iter().filter(to_the_claimed) {
            let Output::Send { payload: sent, .. } = answer else {
                continue;
            };
            answers += 1;
            // Who this node is, and some news: not the table.
            assert!(sent.len() < 1_000, "{}", sent.len());
        }
    }
    assert_eq!(detector.version(), version);
    assert_eq!(answers, 1, "however often it comes");
}

/// What is authentic but over gets an answer, so that its sender learns better; but whoever captured it
/// cannot use up with it the answers that are meant for those who join.
#[test]
fn captures_that_come_again_and_again_keep_nobody_from_joining() {
    let mut node = detector();
    let mut earlier = Peer::new(1, 1);
    let from_an_earlier_life = earlier.datagram(7, PING, &[]);
    gossip(&mut node, at(0), &mut Peer::new(1, 2), &[]);
    let to_an_earlier_life = Peer::new(2, 1).datagram(6, PING, &[]);
    let mut answers = 0;
    for _ in 0..2_000 {
        for capture in [&from_an_earlier_life, &to_an_earlier_life] {
            let out = give(&mut node, at(1), 9, capture);
            assert!(dropped(&out).is_some());
            answers += usize::from(!is_silent(&out));
        }
    }
    assert!((2..=24).contains(&answers), "{answers} in a period");
    let mut joiner = Detector::new(info(3), config(1), 1, at(0)).unwrap();
    let mut out = Vec::new();
    joiner.handle(at(0), Input::Join(vec![addr(0).into()]), &mut out);
    let Some(Output::Send { payload, .. }) = out.first() else {
        panic!("no request: {out:?}");
    };
    assert!(!is_silent(&give(&mut node, at(1), 3, payload)));
}

/// Which events were seen is remembered of every member, or those of the ones that were pushed out would
/// be new again at their next telling, everywhere, without end.
#[test]
fn events_of_two_thousand_members_are_delivered_once() {
    const MEMBERS: u16 = 2_000;
    let config = SwimConfig {
        max_members: 4_096,
        ..config(7)
    };
    let mut node = Detector::new(info(0), config, 1, at(0)).unwrap();
    let mut teller = Peer::new(1, 1);
    let mut delivered = 0;
    for round in 0..2u64 {
        for member in 2..MEMBERS {
            let known = [says(member, 1, 0, MemberState::Alive)];
            let binding = crate::envelope::Binding {
                receiver: Some(endpoint(0, 7)),
                key: teller.envelope.key_for(teller.envelope.keys()),
            };
            let mut bytes = teller.envelope.begin(&binding);
            GOSSIP.put(&mut bytes, false);
            for claim in &known {
                teller.put(&mut bytes, claim);
            }
            crate::message::put_event(&mut bytes, endpoint(member, 1), 1, b"something");
            let payload = teller.envelope.seal(bytes, &binding);
            // Slowly enough to be no flood.
            let now = at(10_000 * round + u64::from(member));
            let out = give(&mut node, now, 1, &payload);
            let events = out
                .iter()
                .filter(|output| matches!(output, Output::Event(crate::Event::User { .. })));
            delivered += events.count();
        }
    }
    assert_eq!(delivered, usize::from(MEMBERS) - 2);
}

#[test]
fn an_incarnation_far_ahead_is_refused_from_others() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        &[says(2, 1, 0, MemberState::Alive)],
    );
    for incarnation in [1 << 30, u32::MAX] {
        let version = detector.version();
        let dead = hints(2, 1, incarnation, MemberState::Dead);
        gossip(&mut detector, at(1), &mut peer, &[dead]);
        let dead = hints(0, 7, incarnation, MemberState::Dead);
        gossip(&mut detector, at(2), &mut peer, &[dead]);
        assert_eq!(detector.version(), version);
    }
}

#[test]
fn a_relay_probes_only_whom_it_knows_and_carries_a_bounded_number() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    let to_three = |out: &[Output]| {
        let there = Destination::Socket(addr(3));
        let sent = |output: &&Output| matches!(output, Output::Send { to, .. } if *to == there);
        out.iter().filter(sent).count()
    };
    let target = endpoint(3, 1);
    let ask = Message::PingReq { seq: 5, target };
    let request = peer.datagram(7, ask, &[]);
    assert_eq!(to_three(&give(&mut detector, at(1), 1, &request)), 0);
    gossip(
        &mut detector,
        at(2),
        &mut peer,
        &[says(3, 1, 0, MemberState::Alive)],
    );
    let mut refused = None;
    for _ in 0..300 {
        let request = peer.datagram(7, ask, &[]);
        let out = give(&mut detector, at(3), 1, &request);
        refused = refused.or_else(|| dropped(&out));
    }
    assert_eq!(refused, Some(DropReason::Overloaded));
}

#[test]
fn one_member_that_floods_is_cut_off_and_the_others_are_heard() {
    let mut detector = detector();
    let (mut flooder, mut other) = (Peer::new(1, 1), Peer::new(2, 1));
    gossip(&mut detector, at(0), &mut flooder, &[]);
    let mut limited = 0;
    for _ in 0..3_000 {
        let out = gossip(&mut detector, at(1), &mut flooder, &[]);
        limited += usize::from(dropped(&out) == Some(DropReason::RateLimited));
    }
    assert!(limited >= 999, "{limited}");
    let out = gossip(&mut detector, at(2), &mut other, &[]);
    assert_eq!(dropped(&out), None);
}

/// The whole cluster under noise: nothing is believed and nobody is taken for dead.
#[test]
fn duplicated_reordered_replayed_and_damaged_datagrams_kill_nobody() {
    let mut network = Simulation::acquainted(5, 32, |_| {});
    network.faults = Faults {
        loss_per_mille: 20,
        duplicates_per_mille: 50,
        reordered_per_mille: 100,
        replayed_per_mille: 100,
        damaged_per_mille: 20,
        ..Faults::default()
    };
    network.run(Duration::from_secs(20));
    assert_eq!(network.measured().false_deaths, 0);
    assert!(network.all_know(31));
}

#[test]
fn a_flood_of_forgeries_and_captures_changes_nothing_in_a_cluster() {
    let mut network = Simulation::acquainted(6, 16, |_| {});
    let mut stranger = Peer::with_config(
        1,
        &SwimConfig {
            security: SwimSecurity::SharedSecret(SharedSecret::new("x".repeat(32)).unwrap()),
            ..config(1)
        },
    );
    let mut junk = rivven_core_types::Rng::new(1);
    for _ in 0..20 {
        for to in 0..16 {
            for _ in 0..20 {
                let claims = [hints(3, 1, 9, MemberState::Dead)];
                let forged = stranger.datagram(1, GOSSIP, &claims);
                network.inject(to, &forged);
                let length = usize::try_from(junk.below(1300)).unwrap();
                let bytes: Vec<u8> = (0..length)
                    .map(|_| junk.next_u64().to_be_bytes()[0])
                    .collect();
                network.inject(to, &bytes);
            }
        }
        network.run(Duration::from_millis(100));
    }
    assert_eq!(network.measured().suspicions, 0);
    assert!(network.all_know(15) && network.is_agreed());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_change_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_SWIM_DATAGRAM_BYTES + 8),
    ) {
        let mut detector = detector();
        let out = give(&mut detector, at(1), 1, &bytes);
        prop_assert!(dropped(&out).is_some() && is_silent(&out));
        prop_assert_eq!(detector.version(), 1);
    }

    /// A member that went mad: past the envelope, into every decoder.
    #[test]
    fn arbitrary_bodies_never_panic(
        bodies in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..120), 1..8),
        kind in 0u8..12,
        flips in proptest::collection::vec((0usize..120, any::<u8>()), 0..4),
    ) {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, &[says(2, 1, 0, MemberState::Alive)]);
        for mut body in bodies {
            if let Some(first) = body.first_mut() {
                *first = kind;
            }
            // Half of it like a real one.
            peer.put(&mut body, &hints(2, 1, 1, MemberState::Suspect));
            for (position, value) in &flips {
                if let Some(byte) = body.get_mut(*position) {
                    *byte = *value;
                }
            }
            let binding = crate::envelope::Binding {
                receiver: Some(endpoint(0, 7)),
                key: peer.envelope.key_for(peer.envelope.keys()),
            };
            let mut bytes = peer.envelope.begin(&binding);
            bytes.extend_from_slice(&body);
            let payload = peer.envelope.seal(bytes, &binding);
            for output in give(&mut detector, at(1), 1, &payload) {
                if let Output::Send { payload, .. } = output {
                    prop_assert!(payload.len() <= MAX_SWIM_DATAGRAM_BYTES);
                }
            }
        }
        super::peer::run(&mut detector, at(2_000));
    }
}
