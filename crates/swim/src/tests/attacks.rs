//! What strangers, captures and noise can do: nothing.

use proptest::prelude::*;
use rivven_core_types::limits::MAX_DATAGRAM_BYTES;

use super::network::{addr, at, config, info, name};
use super::rules::{Peer, detector, dropped, endpoint, give, gossip, says};
use crate::message::Message;
use crate::{
    ClusterTag, Detector, DropReason, Input, MemberState, Output, SharedSecret, SwimConfig,
    SwimSecurity,
};

fn is_silent(out: &[Output]) -> bool {
    !out.iter()
        .any(|output| matches!(output, Output::Send { .. }))
}

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
    ];
    for (config, expected) in cases {
        let mut detector = detector();
        let mut stranger = Peer::with_config(1, &config);
        let datagram = stranger.datagram(7, Message::Ping { seq: 1 }, vec![]);
        let out = give(&mut detector, at(1), 1, &datagram);
        assert_eq!(dropped(&out), Some(expected));
        assert!(is_silent(&out));
        assert_eq!(detector.version(), 1);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut peer = Peer::new(1, 1);
    let datagram = peer.datagram(7, Message::Ping { seq: 1 }, vec![]);
    for at_byte in 0..datagram.len() {
        let mut detector = detector();
        let mut forged = datagram.clone();
        forged[at_byte] ^= 1;
        let out = give(&mut detector, at(1), 1, &forged);
        assert!(dropped(&out).is_some() && is_silent(&out), "byte {at_byte}");
        assert_eq!(detector.version(), 1);
        let mut cut = datagram.clone();
        cut.truncate(at_byte);
        assert!(dropped(&give(&mut detector, at(1), 1, &cut)).is_some());
    }
}

#[test]
fn a_replay_has_no_effect_at_the_receiver_at_others_or_at_its_next_life() {
    let mut peer = Peer::new(1, 1);
    let datagram = peer.datagram(7, Message::Ping { seq: 1 }, vec![]);
    let mut receiver = detector();
    assert_eq!(dropped(&give(&mut receiver, at(1), 1, &datagram)), None);
    let version = receiver.version();
    let again = give(&mut receiver, at(2), 1, &datagram);
    assert_eq!(dropped(&again), Some(DropReason::Replayed));
    assert!(is_silent(&again));
    assert_eq!(receiver.version(), version);

    let mut other = Detector::new(info(2), config(7), 1, at(0)).unwrap();
    let elsewhere = give(&mut other, at(2), 1, &datagram);
    assert_eq!(dropped(&elsewhere), Some(DropReason::NotForThisNode));
    assert_eq!(other.version(), 1);

    let mut next_life = Detector::new(info(0), config(8), 1, at(0)).unwrap();
    let later = give(&mut next_life, at(2), 1, &datagram);
    assert_eq!(dropped(&later), Some(DropReason::StaleReceiver));
    assert_eq!(next_life.version(), 1);
}

#[test]
fn a_replayed_leave_does_not_evict_who_has_come_back() {
    let mut detector = detector();
    let mut first_life = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut first_life, vec![]);
    let left = vec![says(1, 1, 0, MemberState::Left)];
    let leave = first_life.sealed(&endpoint(0, 7), Message::Gossip, left.clone());
    give(&mut detector, at(1), 1, &leave);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Left));
    let mut second_life = Peer::new(1, 2);
    gossip(&mut detector, at(2), &mut second_life, vec![]);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Alive));

    let version = detector.version();
    let replayed = give(&mut detector, at(3), 1, &leave);
    assert_eq!(dropped(&replayed), Some(DropReason::StaleSender));
    // Neither does the same evidence from somebody who has not heard of the return.
    let mut other = Peer::new(2, 1);
    gossip(&mut detector, at(4), &mut other, vec![]);
    let version_with_other = detector.version();
    assert_eq!(version_with_other, version + 1);
    gossip(&mut detector, at(5), &mut other, left);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Alive));
    assert_eq!(detector.version(), version_with_other);
}

#[test]
fn a_join_request_teaches_nothing_and_its_answers_are_bounded() {
    let mut joiner = Detector::new(info(1), config(1), 1, at(0)).unwrap();
    let mut out = Vec::new();
    joiner.handle(at(0), Input::Join(vec![addr(0).into()]), &mut out);
    let Some(Output::Send { payload, .. }) = out.first() else {
        panic!("no request: {out:?}");
    };
    let mut detector = detector();
    let mut answers = 0;
    for _ in 0..1000 {
        let out = give(&mut detector, at(1), 1, payload);
        answers += usize::from(!is_silent(&out));
    }
    assert_eq!(detector.version(), 1);
    assert_eq!(answers, 64);
}

#[test]
fn an_incarnation_far_ahead_is_refused_from_others() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Alive)],
    );
    for incarnation in [1 << 30, u64::MAX] {
        let version = detector.version();
        let update = says(2, 1, incarnation, MemberState::Dead);
        gossip(&mut detector, at(1), &mut peer, vec![update]);
        let update = says(0, 7, incarnation, MemberState::Dead);
        gossip(&mut detector, at(2), &mut peer, vec![update]);
        assert_eq!(detector.version(), version);
    }
}

#[test]
fn a_relay_probes_only_whom_it_knows() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    let ask = |target: u16| Message::PingReq {
        seq: 5,
        target: name(target),
        target_boot: 1,
    };
    let request = peer.datagram(7, ask(3), vec![]);
    assert!(is_silent(&give(&mut detector, at(1), 1, &request)));
    let known = vec![says(3, 1, 0, MemberState::Alive)];
    let request = peer.datagram(7, ask(3), known);
    let out = give(&mut detector, at(2), 1, &request);
    let to: Vec<u16> = out
        .iter()
        .filter_map(|output| match output {
            Output::Send { to, .. } => Some(to.port()),
            _ => None,
        })
        .collect();
    assert_eq!(to, [addr(3).port()]);
    // However many ask: what is carried for others is bounded.
    let mut refused = None;
    for _ in 0..300 {
        let request = peer.datagram(7, ask(3), vec![]);
        let out = give(&mut detector, at(3), 1, &request);
        refused = refused.or_else(|| dropped(&out));
    }
    assert_eq!(refused, Some(DropReason::Overloaded));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_change_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_DATAGRAM_BYTES + 8),
    ) {
        let mut detector = detector();
        let out = give(&mut detector, at(1), 1, &bytes);
        prop_assert!(dropped(&out).is_some() && is_silent(&out));
        prop_assert_eq!(detector.version(), 1);
    }

    /// Without a MAC the bytes get further: past the envelope, into the decoder.
    #[test]
    fn arbitrary_bodies_never_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((0usize..200, any::<u8>()), 0..4),
    ) {
        let insecure = |boot_id| SwimConfig {
            security: SwimSecurity::InsecureDev,
            ..config(boot_id)
        };
        let mut detector = Detector::new(info(0), insecure(7), 1, at(0)).unwrap();
        let mut peer = Peer::with_config(1, &insecure(1));
        let mut bytes = peer.datagram(7, Message::Gossip, vec![says(2, 1, 0, MemberState::Dead)]);
        for (position, value) in flips {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        bytes.extend(tail);
        give(&mut detector, at(1), 1, &bytes);
        let mut out = Vec::new();
        while detector.poll_timeout() <= at(2_000) {
            let now = detector.poll_timeout();
            detector.handle(now, Input::Timeout, &mut out);
        }
    }
}
