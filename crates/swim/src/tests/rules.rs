//! One rule each, on one detector, with datagrams made by hand.

use rivven_core_types::{MonoTime, NodeInfo};

use super::network::{addr, at, config, info, name};
use crate::envelope::{Endpoint, Envelope};
use crate::message::{Body, Message, Update};
use crate::{Detector, DropReason, Event, Input, MemberState, Output, SwimConfig};

/// A peer that says whatever a test wants, properly sealed.
pub(super) struct Peer {
    node: u16,
    boot_id: u64,
    envelope: Envelope,
}

pub(super) fn endpoint(node: u16, boot_id: u64) -> Endpoint {
    Endpoint {
        name: name(node),
        boot_id,
    }
}

pub(super) fn says(node: u16, boot_id: u64, incarnation: u64, state: MemberState) -> Update {
    Update {
        info: info(node),
        state,
        boot_id,
        incarnation,
        age_secs: 0,
    }
}

impl Peer {
    pub(super) fn new(node: u16, boot_id: u64) -> Self {
        Self::with_config(node, &config(boot_id))
    }

    pub(super) fn with_config(node: u16, config: &SwimConfig) -> Self {
        let boot_id = config.boot_id.unwrap();
        Self {
            node,
            boot_id,
            envelope: Envelope::new(config, endpoint(node, boot_id)),
        }
    }

    /// A datagram for life `receiver_boot` of node 0, with this peer alive and `updates`.
    pub(super) fn datagram(
        &mut self,
        receiver_boot: u64,
        message: Message,
        updates: Vec<Update>,
    ) -> Vec<u8> {
        let mut all = vec![says(self.node, self.boot_id, 0, MemberState::Alive)];
        all.extend(updates);
        self.sealed(&endpoint(0, receiver_boot), message, all)
    }

    pub(super) fn sealed(
        &mut self,
        receiver: &Endpoint,
        message: Message,
        updates: Vec<Update>,
    ) -> Vec<u8> {
        let body = Body { message, updates }.encode().unwrap();
        self.envelope.seal(Some(receiver), &body).to_vec()
    }

    /// Decodes what was sent to this peer.
    pub(super) fn read(&self, payload: &[u8]) -> Body {
        Body::decode(self.envelope.open(payload).unwrap().body).unwrap()
    }
}

/// Node 0, life 7, which has not been told of anybody.
pub(super) fn detector() -> Detector {
    Detector::new(info(0), config(7), 1, at(0)).unwrap()
}

pub(super) fn give(
    detector: &mut Detector,
    now: MonoTime,
    node: u16,
    payload: &[u8],
) -> Vec<Output> {
    let mut out = Vec::new();
    let from = addr(node);
    detector.handle(now, Input::Datagram { from, payload }, &mut out);
    out
}

pub(super) fn gossip(detector: &mut Detector, now: MonoTime, peer: &mut Peer, about: Vec<Update>) {
    let datagram = peer.datagram(7, Message::Gossip, about);
    give(detector, now, peer.node, &datagram);
}

pub(super) fn dropped(out: &[Output]) -> Option<DropReason> {
    out.iter().find_map(|output| match output {
        Output::Event(Event::Dropped { reason }) => Some(*reason),
        _ => None,
    })
}

/// Runs the detector's own timers until `end`; what it sent.
fn run(detector: &mut Detector, end: MonoTime) -> Vec<(MonoTime, Output)> {
    let mut sent = Vec::new();
    while detector.poll_timeout() <= end {
        let now = detector.poll_timeout();
        let mut out = Vec::new();
        detector.handle(now, Input::Timeout, &mut out);
        sent.extend(out.into_iter().map(|output| (now, output)));
    }
    sent
}

/// The first ping of node 1 in `sent`, and when.
fn ping_seq(peer: &Peer, sent: &[(MonoTime, Output)]) -> (MonoTime, u64) {
    let mut pings = sent.iter().filter_map(|(now, output)| match output {
        Output::Send { to, payload } if to.port() == addr(peer.node).port() => {
            match peer.read(payload).message {
                Message::Ping { seq } => Some((*now, seq)),
                _ => None,
            }
        }
        _ => None,
    });
    pings.next().unwrap()
}

#[test]
fn only_an_ack_of_the_same_number_from_the_same_life_counts() {
    for (right_seq, boot_id, suspected) in [(true, 1, false), (false, 1, true), (true, 2, true)] {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, vec![]);
        let sent = run(&mut detector, at(100));
        let (asked, seq) = ping_seq(&peer, &sent);
        let seq = if right_seq { seq } else { seq - 1 };
        // The same life goes on counting; another one answers what it was not asked.
        let mut other = Peer::new(1, boot_id);
        let answering = if boot_id == 1 { &mut peer } else { &mut other };
        let update = vec![says(1, 1, 0, MemberState::Alive)];
        let datagram = answering.sealed(&endpoint(0, 7), Message::Ack { seq }, update);
        give(&mut detector, asked, 1, &datagram);
        run(&mut detector, asked + config(1).ping_interval);
        let state = detector.state_of(&name(1)).unwrap();
        assert_eq!(
            state == MemberState::Suspect,
            suspected,
            "{right_seq} {boot_id}"
        );
    }
}

#[test]
fn a_late_ack_does_not_clear_a_suspicion_but_a_greater_incarnation_does() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, vec![]);
    let sent = run(&mut detector, at(300));
    let (_, old) = ping_seq(&peer, &sent);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Suspect));
    let late = peer.datagram(7, Message::Ack { seq: old }, vec![]);
    give(&mut detector, at(300), 1, &late);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Suspect));
    let refuted = vec![says(1, 1, 1, MemberState::Alive)];
    gossip(&mut detector, at(301), &mut peer, refuted);
    assert_eq!(detector.state_of(&name(1)), Some(MemberState::Alive));
}

#[test]
fn the_suspicion_lasts_its_whole_window_from_when_it_began() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, vec![]);
    // Node 2 has not been heard of for long when somebody suspects it.
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Alive)],
    );
    let suspected = vec![says(2, 1, 0, MemberState::Suspect)];
    gossip(&mut detector, at(40), &mut peer, suspected);
    let end = at(40) + detector.suspicion_window();
    let just_before =
        MonoTime::from_origin(end.since_origin() - std::time::Duration::from_millis(1));
    run(&mut detector, just_before);
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Suspect));
    run(&mut detector, end);
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Dead));
}

#[test]
fn a_death_that_arrives_before_its_suspicion_is_believed() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Alive)],
    );
    gossip(
        &mut detector,
        at(10),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Dead)],
    );
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Dead));
    // Of a member never heard of as well; and the suspicion that comes late changes nothing.
    gossip(
        &mut detector,
        at(20),
        &mut peer,
        vec![says(3, 1, 0, MemberState::Dead)],
    );
    gossip(
        &mut detector,
        at(30),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Suspect)],
    );
    assert_eq!(detector.state_of(&name(3)), Some(MemberState::Dead));
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Dead));
}

#[test]
fn who_was_heard_just_now_gets_its_window_before_hearsay_kills_it() {
    let mut detector = detector();
    let (mut peer, mut victim) = (Peer::new(1, 1), Peer::new(2, 1));
    gossip(&mut detector, at(0), &mut victim, vec![]);
    gossip(
        &mut detector,
        at(10),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Dead)],
    );
    gossip(
        &mut detector,
        at(20),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Dead)],
    );
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Suspect));
    let end = at(10) + detector.suspicion_window();
    run(&mut detector, end);
    assert_eq!(detector.state_of(&name(2)), Some(MemberState::Dead));
}

#[test]
fn evidence_is_ordered_by_boot_id_then_incarnation_then_state() {
    let order = [
        (1, 0, MemberState::Alive),
        (1, 0, MemberState::Suspect),
        (1, 0, MemberState::Dead),
        (1, 0, MemberState::Left),
        (1, 1, MemberState::Alive),
        (1, 1, MemberState::Dead),
        (2, 0, MemberState::Alive),
        (2, 0, MemberState::Left),
    ];
    for (held_at, held) in order.iter().enumerate() {
        for (offered_at, offered) in order.iter().enumerate() {
            let mut detector = detector();
            let mut peer = Peer::new(1, 1);
            for (boot_id, incarnation, state) in [*held, *offered] {
                let update = says(2, boot_id, incarnation, state);
                gossip(&mut detector, at(1), &mut peer, vec![update]);
            }
            let view = detector.view();
            let member = view.get(&name(2)).unwrap();
            let found = (member.boot_id, member.incarnation, member.state);
            let expected = if offered_at > held_at { offered } else { held };
            assert_eq!(found, *expected, "{held:?} then {offered:?}");
        }
    }
}

#[test]
fn an_accused_node_refutes_with_a_greater_incarnation_at_once() {
    for state in [MemberState::Suspect, MemberState::Dead, MemberState::Left] {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, vec![]);
        let seq = 99;
        let accused = vec![says(0, 7, 4, state)];
        let ping = peer.datagram(7, Message::Ping { seq }, accused);
        let out = give(&mut detector, at(5), 1, &ping);
        let ack = out.iter().find_map(|output| match output {
            Output::Send { payload, .. } => {
                Some(peer.read(payload)).filter(|body| body.message == Message::Ack { seq })
            }
            _ => None,
        });
        let own = ack
            .unwrap()
            .updates
            .into_iter()
            .find(|u| u.info.name == name(0));
        let own = own.unwrap();
        assert_eq!(
            (own.boot_id, own.incarnation, own.state),
            (7, 5, MemberState::Alive)
        );
    }
}

#[test]
fn accusations_of_an_earlier_life_or_incarnation_are_ignored() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        vec![says(0, 6, 9, MemberState::Dead)],
    );
    let version = detector.version();
    assert_eq!(detector.view().get(&name(0)).unwrap().incarnation, 0);
    gossip(
        &mut detector,
        at(1),
        &mut peer,
        vec![says(0, 7, 0, MemberState::Suspect)],
    );
    gossip(
        &mut detector,
        at(2),
        &mut peer,
        vec![says(0, 7, 0, MemberState::Dead)],
    );
    assert_eq!(detector.view().get(&name(0)).unwrap().incarnation, 1);
    assert_eq!(detector.version(), version + 1);
}

#[test]
fn a_newer_life_of_the_own_name_is_reported_and_not_fought() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(
        &mut detector,
        at(0),
        &mut peer,
        vec![says(0, 8, 0, MemberState::Alive)],
    );
    let view = detector.view();
    assert_eq!(view.superseded_by, Some(8));
    assert_eq!(view.get(&name(0)).unwrap().boot_id, 7);
}

#[test]
fn the_table_is_bounded_and_tombstones_make_room() {
    let bounded = SwimConfig {
        max_members: 4,
        ..config(7)
    };
    let mut detector = Detector::new(info(0), bounded, 1, at(0)).unwrap();
    let mut peer = Peer::new(1, 1);
    let many = (2..20)
        .map(|node| says(node, 1, 0, MemberState::Alive))
        .collect();
    gossip(&mut detector, at(1), &mut peer, many);
    assert_eq!(detector.view().members.len(), 4);
    gossip(
        &mut detector,
        at(2),
        &mut peer,
        vec![says(2, 1, 0, MemberState::Dead)],
    );
    gossip(
        &mut detector,
        at(3),
        &mut peer,
        vec![says(30, 1, 0, MemberState::Alive)],
    );
    assert_eq!(detector.view().members.len(), 4);
    assert_eq!(detector.state_of(&name(30)), Some(MemberState::Alive));
}

#[test]
fn a_table_of_the_longest_names_still_fits_its_datagrams() {
    let longest = |node: u16| {
        let prefix = format!("{node:03}");
        let address = rivven_core_types::Address::new("h".repeat(252), 65_535).unwrap();
        let name = rivven_core_types::NodeName::new(format!("{prefix}{}", "n".repeat(125)));
        NodeInfo::new(name.unwrap(), address.clone(), address)
            .with_rack(rivven_core_types::RackId::new("r".repeat(128)).unwrap())
    };
    let mut detector = Detector::new(longest(0), config(7), 1, at(0)).unwrap();
    let sender = Endpoint {
        name: longest(1).name,
        boot_id: 1,
    };
    let mut envelope = Envelope::new(&config(1), sender);
    let receiver = Endpoint {
        name: longest(0).name,
        boot_id: 7,
    };
    let mut told: Vec<rivven_core_types::NodeName> = Vec::new();
    for node in 1..5 {
        let update = Update {
            info: longest(node),
            ..says(node, 1, 0, MemberState::Alive)
        };
        let body = Body {
            message: Message::Ping { seq: 1 },
            updates: vec![update],
        };
        let payload = envelope.seal(Some(&receiver), &body.encode().unwrap());
        for output in give(&mut detector, at(1), 1, &payload) {
            if let Output::Send { payload, .. } = output {
                assert!(payload.len() <= rivven_core_types::limits::MAX_DATAGRAM_BYTES);
                let body = Body::decode(envelope.open(&payload).unwrap().body).unwrap();
                told.extend(body.updates.into_iter().map(|update| update.info.name));
            }
        }
    }
    assert_eq!(detector.view().members.len(), 5);
    assert!(told.contains(&longest(0).name));
}

#[test]
fn the_whole_table_goes_round_in_few_datagrams_when_nothing_is_new() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    for node in 2..202 {
        let update = vec![says(node, 1, 0, MemberState::Alive)];
        gossip(&mut detector, at(0), &mut peer, update);
    }
    let mut told = std::collections::BTreeSet::new();
    for round in 0..420 {
        // The first four hundred answers use up what is told first because it is new.
        if round == 400 {
            told.clear();
        }
        let ping = peer.datagram(7, Message::Ping { seq: round }, vec![]);
        for output in give(&mut detector, at(1), 1, &ping) {
            if let Output::Send { payload, .. } = output {
                let updates = peer.read(&payload).updates;
                told.extend(updates.into_iter().map(|update| update.info.name));
            }
        }
    }
    assert_eq!(told.len(), 202);
}
