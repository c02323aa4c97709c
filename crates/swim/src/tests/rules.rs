//! One rule each, on one detector, with datagrams made by hand.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::MonoTime;

use super::peer::{
    ACK, NACK, PING, PING_REQ, Peer, accuses, addr, at, config, detector, endpoint, give, gossip,
    held, hints, info, is_silent, name, run, says,
};
use crate::message::Message;
use crate::{Detector, Event, Input, MemberState, Output, ProbeOutcome, SwimConfig};

use MemberState::{Alive, Dead, Left, Suspect};

fn outcomes(sent: &[(MonoTime, Output)]) -> Vec<ProbeOutcome> {
    let finished = sent.iter().filter_map(|(_, output)| match output {
        Output::Event(Event::ProbeFinished { outcome }) => Some(*outcome),
        _ => None,
    });
    finished.collect()
}

/// The first ping of `peer`, and when.
fn first_ping(peer: &Peer, sent: &[(MonoTime, Output)]) -> (MonoTime, u32) {
    let mut pings = sent.iter().filter_map(|(now, output)| {
        let bodies = peer.received(std::slice::from_ref(output));
        let ping = bodies.into_iter().find(|body| body.kind == PING);
        ping.map(|ping| (*now, ping.seq))
    });
    pings.next().unwrap()
}

#[test]
fn only_an_ack_of_the_same_number_from_the_same_life_counts() {
    for (right_seq, boot_id, suspected) in [(true, 1, false), (false, 1, true), (true, 2, true)] {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, &[]);
        let sent = run(&mut detector, at(100));
        let (asked, seq) = first_ping(&peer, &sent);
        let seq = if right_seq { seq } else { seq - 1 };
        // The same life goes on counting; another one answers what it was not asked.
        let mut other = Peer::new(1, boot_id);
        let answering = if boot_id == 1 { &mut peer } else { &mut other };
        let digest = detector.table.digest();
        let ack = Message::Ack { seq, digest };
        let datagram = answering.sealed(endpoint(0, 7), ack, &[]);
        give(&mut detector, asked, 1, &datagram);
        run(&mut detector, asked + config(1).ping_interval);
        let state = detector.state_of(&name(1)).unwrap();
        assert_eq!(state == Suspect, suspected, "{right_seq} {boot_id}");
    }
}

#[test]
fn a_late_ack_does_not_clear_a_suspicion_but_a_greater_incarnation_does() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[]);
    let sent = run(&mut detector, at(300));
    let (_, seq) = first_ping(&peer, &sent);
    assert_eq!(detector.state_of(&name(1)), Some(Suspect));
    let digest = 0;
    let late = peer.datagram(7, Message::Ack { seq, digest }, &[]);
    give(&mut detector, at(300), 1, &late);
    assert_eq!(detector.state_of(&name(1)), Some(Suspect));
    gossip(&mut detector, at(301), &mut peer, &[hints(1, 1, 1, Alive)]);
    assert_eq!(detector.state_of(&name(1)), Some(Alive));
}

/// Lifeguard, section IV-B: with the word of two more that cannot reach the accused on their own the
/// timeout is the shortest; with none it is six times as long (`suspicion.rs` has the whole curve).
#[test]
fn a_suspicion_that_two_others_confirm_lasts_one_window() {
    for confirmed in [false, true] {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        let others: Vec<_> = (2..6).map(|node| says(node, 1, 0, Alive)).collect();
        gossip(&mut detector, at(0), &mut peer, &others);
        gossip(&mut detector, at(10), &mut peer, &[accuses(3, 2, 0)]);
        if confirmed {
            // The same accuser again says nothing new.
            let more = [accuses(3, 2, 0), accuses(4, 2, 0), accuses(5, 2, 0)];
            gossip(&mut detector, at(20), &mut peer, &more);
        }
        let window = detector.suspicion_window();
        // This node hears somebody all the time, or it would doubt itself.
        let mut now = at(20);
        while now < at(8) + window {
            gossip(&mut detector, now, &mut peer, &[]);
            now = (now + Duration::from_millis(50)).min(at(8) + window);
            run(&mut detector, now);
        }
        assert_eq!(detector.state_of(&name(2)), Some(Suspect), "{confirmed}");
        gossip(&mut detector, now, &mut peer, &[]);
        run(&mut detector, at(12) + window);
        let dead = detector.state_of(&name(2)) == Some(Dead);
        assert_eq!(dead, confirmed);
    }
}

#[test]
fn a_death_by_hearsay_gives_the_member_its_window_unless_a_suspicion_has_run_here() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    let others: Vec<_> = (2..6).map(|node| says(node, 1, 0, Alive)).collect();
    gossip(&mut detector, at(0), &mut peer, &others);
    gossip(&mut detector, at(10), &mut peer, &[hints(2, 1, 0, Dead)]);
    assert_eq!(detector.state_of(&name(2)), Some(Suspect));
    // It refutes what the other side of a healed partition held of it.
    gossip(&mut detector, at(20), &mut peer, &[hints(2, 1, 1, Alive)]);
    assert_eq!(detector.state_of(&name(2)), Some(Alive));
    // A suspicion that has run for half its window, and then the word of another: it is dead.
    gossip(&mut detector, at(30), &mut peer, &[accuses(3, 4, 0)]);
    let half = at(31) + detector.suspicion_window() / 2;
    gossip(&mut detector, half, &mut peer, &[hints(4, 1, 0, Dead)]);
    assert_eq!(detector.state_of(&name(4)), Some(Dead));
    // Of a member never heard of a death is believed at once.
    gossip(&mut detector, half, &mut peer, &[says(30, 1, 0, Dead)]);
    assert_eq!(detector.state_of(&name(30)), Some(Dead));
}

#[test]
fn an_accused_node_refutes_with_a_greater_incarnation_at_once() {
    for state in [Suspect, Dead, Left] {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, &[]);
        let ping = Message::Ping { seq: 99, digest: 0 };
        let datagram = peer.datagram(7, ping, &[hints(0, 7, 4, state)]);
        let out = give(&mut detector, at(5), 1, &datagram);
        let bodies = peer.received(&out);
        let ack = bodies
            .iter()
            .find(|body| (body.kind, body.seq) == (ACK, 99));
        let own = (endpoint(0, 7).id, 7, 5, Alive);
        assert!(ack.unwrap().heard.contains(&own), "{bodies:?}");
        // Having to refute is a sign of being slow.
        assert_eq!(detector.health(), 1);
    }
}

#[test]
fn accusations_of_an_earlier_life_or_incarnation_are_ignored() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[hints(0, 6, 9, Dead)]);
    let version = detector.version();
    assert_eq!(held(&detector, 0), Some((7, 0, Alive)));
    gossip(&mut detector, at(1), &mut peer, &[hints(0, 7, 0, Suspect)]);
    gossip(&mut detector, at(2), &mut peer, &[hints(0, 7, 0, Dead)]);
    assert_eq!(held(&detector, 0), Some((7, 1, Alive)));
    assert_eq!(detector.version(), version + 1);
}

#[test]
fn a_newer_life_of_the_own_name_is_reported_and_not_fought() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[says(0, 8, 0, Alive)]);
    assert_eq!(detector.view().superseded_by, Some(8));
    assert_eq!(held(&detector, 0), Some((7, 0, Alive)));
}

#[test]
fn a_newer_life_replaces_the_old_one_even_while_it_is_suspected() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[says(2, 1, 3, Alive)]);
    gossip(&mut detector, at(1), &mut peer, &[accuses(1, 2, 3)]);
    assert_eq!(held(&detector, 2), Some((1, 3, Suspect)));
    // Without its profile a new life cannot be held; with it, it can.
    gossip(&mut detector, at(2), &mut peer, &[hints(2, 2, 0, Alive)]);
    assert_eq!(held(&detector, 2), Some((1, 3, Suspect)));
    gossip(&mut detector, at(3), &mut peer, &[says(2, 2, 0, Alive)]);
    assert_eq!(held(&detector, 2), Some((2, 0, Alive)));
    gossip(&mut detector, at(4), &mut peer, &[says(2, 1, 9, Left)]);
    assert_eq!(held(&detector, 2), Some((2, 0, Alive)));
}

#[test]
fn the_table_is_bounded_and_tombstones_make_room() {
    let bounded = SwimConfig {
        max_members: 4,
        ..config(7)
    };
    let mut detector = Detector::new(info(0), bounded, 1, at(0)).unwrap();
    let mut peer = Peer::new(1, 1);
    let many: Vec<_> = (2..20).map(|node| says(node, 1, 0, Alive)).collect();
    gossip(&mut detector, at(1), &mut peer, &many);
    assert_eq!(detector.view().members.len(), 4);
    gossip(&mut detector, at(2), &mut peer, &[hints(2, 1, 0, Left)]);
    gossip(&mut detector, at(3), &mut peer, &[says(30, 1, 0, Alive)]);
    assert_eq!(detector.view().members.len(), 4);
    assert_eq!(detector.state_of(&name(30)), Some(Alive));
}

/// Lifeguard, section IV-A: a relay says that it, too, gets no answer, so that the one who asked can
/// tell its own trouble from the target's.
#[test]
fn a_relay_answers_with_a_nack_when_the_target_is_silent() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[says(2, 1, 0, Alive)]);
    let target = endpoint(2, 1);
    let request = peer.datagram(7, Message::PingReq { seq: 5, target }, &[]);
    let out = give(&mut detector, at(1), 1, &request);
    assert!(!is_silent(&out));
    let sent = run(&mut detector, at(60));
    let nack = sent.iter().find_map(|(now, output)| {
        let bodies = peer.received(std::slice::from_ref(output));
        let nack = bodies.iter().any(|b| (b.kind, b.seq) == (NACK, 5));
        nack.then_some(*now)
    });
    assert_eq!(nack, Some(at(21)), "at two fifths of a timeout");
    // A target that it does not know is no reason to be silent.
    let target = endpoint(9, 1);
    let request = peer.datagram(7, Message::PingReq { seq: 6, target }, &[]);
    let out = give(&mut detector, at(61), 1, &request);
    let bodies = peer.received(&out);
    assert!(bodies.iter().any(|b| (b.kind, b.seq) == (NACK, 6)));
}

#[test]
fn a_node_whose_relays_are_silent_doubts_itself_and_slows_down() {
    for nacked in [false, true] {
        let mut detector = detector();
        let mut peers: Vec<Peer> = (1..5).map(|node| Peer::new(node, 1)).collect();
        for peer in &mut peers {
            gossip(&mut detector, at(0), peer, &[]);
        }
        let mut failed = 0;
        while failed == 0 {
            let now = detector.poll_timeout();
            let sent = run(&mut detector, now);
            failed = outcomes(&sent).len();
            for (now, output) in &sent {
                for peer in peers.iter_mut().filter(|_| nacked) {
                    for body in peer.received(std::slice::from_ref(output)) {
                        if body.kind == PING_REQ {
                            let nack = Message::Nack { seq: body.seq };
                            let datagram = peer.sealed(endpoint(0, 7), nack, &[]);
                            give(&mut detector, *now, peer.node, &datagram);
                        }
                    }
                }
            }
        }
        assert_eq!(detector.health(), u32::from(!nacked));
        // Nobody at all was heard: no conclusion about the target.
        let suspected = detector
            .view()
            .live()
            .filter(|m| m.state == Suspect)
            .count();
        assert_eq!(suspected, usize::from(nacked));
    }
}

#[test]
fn relays_are_asked_in_different_racks() {
    let mut network = crate::sim::Simulation::acquainted(3, 31, |config| {
        config.indirect_probes = 3;
    });
    network.run(Duration::from_secs(1));
    network.kill(7);
    network.run(Duration::from_secs(10));
    assert!(network.all_hold(7, Dead));
    // The choice itself, on a detector whose target is known.
    let chosen = network
        .with_detector(0, |detector, _, _| {
            let target = detector.table.find(crate::profile::MemberId::of(
                &rivven_core_types::NodeName::new("node-3").unwrap(),
            ));
            let mut racks = Vec::new();
            for _ in 0..200 {
                let relays = detector.choose_relays(target.unwrap());
                let racks_of = relays.iter().map(|slot| {
                    let (profile, _) = detector.table.get(*slot).unwrap();
                    profile.rack
                });
                let distinct: std::collections::BTreeSet<u64> = racks_of.collect();
                racks.push((relays.len(), distinct.len()));
            }
            racks
        })
        .unwrap();
    assert!(chosen.iter().all(|(relays, _)| *relays == 3));
    let diverse = chosen.iter().filter(|(_, racks)| *racks == 3).count();
    assert!(diverse > 150, "{diverse} of 200");
}

#[test]
fn an_answer_over_the_stream_saves_a_member_whose_datagrams_stay_out() {
    for answered in [false, true] {
        let config = SwimConfig {
            stream_fallback: true,
            ..config(7)
        };
        let mut detector = Detector::new(info(0), config, 1, at(0)).unwrap();
        let mut peer = Peer::new(1, 1);
        gossip(&mut detector, at(0), &mut peer, &[]);
        let mut asked = false;
        while !asked {
            let now = detector.poll_timeout();
            for (now, output) in run(&mut detector, now) {
                if let Output::StreamProbe { seq, boot_id, .. } = output {
                    asked = true;
                    assert_eq!(boot_id, 1);
                    let mut out = Vec::new();
                    if answered {
                        detector.handle(now, Input::StreamAnswer { seq }, &mut out);
                    }
                }
            }
        }
        run(&mut detector, at(205));
        let suspected = detector.state_of(&name(1)) == Some(Suspect);
        assert_eq!(suspected, !answered);
    }
}

#[test]
fn metadata_travels_with_a_version_and_is_bounded() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[]);
    let mut newer = says(1, 1, 0, Alive);
    newer.version = 2;
    let out = gossip(&mut detector, at(1), &mut peer, &[newer]);
    let changed = Output::Event(Event::ProfileChanged { name: name(1) });
    assert!(out.contains(&changed), "{out:?}");
    // An older one that comes late changes nothing.
    newer.version = 1;
    let version = detector.version();
    gossip(&mut detector, at(2), &mut peer, &[newer]);
    assert_eq!(detector.version(), version);
    let mut out = Vec::new();
    let metadata = Bytes::from(vec![1; 512]);
    detector.handle(at(3), Input::SetMetadata(metadata.clone()), &mut out);
    assert_eq!(detector.view().get(&name(0)).unwrap().metadata, metadata);
    let too_long = Bytes::from(vec![1; 513]);
    detector.handle(at(4), Input::SetMetadata(too_long), &mut out);
    assert_eq!(detector.view().get(&name(0)).unwrap().metadata, metadata);
}

#[test]
fn a_user_event_is_delivered_once_whoever_tells_it() {
    let mut detector = detector();
    let (mut one, mut two) = (Peer::new(1, 1), Peer::new(2, 1));
    gossip(&mut detector, at(0), &mut one, &[]);
    gossip(&mut detector, at(0), &mut two, &[]);
    let delivered = |out: &[Output]| {
        let users = out
            .iter()
            .filter(|output| matches!(output, Output::Event(Event::User { .. })));
        users.count()
    };
    let first = one.event(endpoint(1, 1), 1, b"reload");
    assert_eq!(delivered(&give(&mut detector, at(1), 1, &first)), 1);
    let again = two.event(endpoint(1, 1), 1, b"reload");
    assert_eq!(delivered(&give(&mut detector, at(2), 2, &again)), 0);
    let next = two.event(endpoint(1, 1), 2, b"reload");
    assert_eq!(delivered(&give(&mut detector, at(3), 2, &next)), 1);
    // Nobody can speak for whom nobody knows.
    let unknown = two.event(endpoint(9, 1), 1, b"reload");
    assert_eq!(delivered(&give(&mut detector, at(4), 2, &unknown)), 0);
}

#[test]
fn a_departure_is_repeated_until_it_is_acknowledged() {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    gossip(&mut detector, at(0), &mut peer, &[]);
    let mut out = Vec::new();
    detector.handle(at(1), Input::Leave, &mut out);
    let own = (endpoint(0, 7).id, 7, 0, Left);
    let finished = |out: &[(MonoTime, Output)]| {
        out.iter().find_map(|(_, output)| match output {
            Output::Event(Event::LeaveFinished { acknowledged }) => Some(*acknowledged),
            _ => None,
        })
    };
    for round in 0..3 {
        let bodies = peer.received(&out);
        let told = bodies.iter().find(|body| body.kind == PING);
        assert!(told.unwrap().heard.contains(&own), "round {round}");
        let sent = run(&mut detector, at(1 + 50 * (round + 1)));
        assert_eq!(finished(&sent), None);
        out = sent.into_iter().map(|(_, output)| output).collect();
    }
    let seq = peer
        .received(&out)
        .iter()
        .find(|b| b.kind == PING)
        .unwrap()
        .seq;
    let digest = 0;
    let ack = peer.sealed(endpoint(0, 7), Message::Ack { seq, digest }, &[]);
    give(&mut detector, at(160), 1, &ack);
    let sent = run(&mut detector, at(260));
    assert_eq!(finished(&sent), Some(1));
}

#[test]
fn a_profile_of_the_longest_names_still_fits_its_datagrams() {
    let longest = |node: u16| {
        let address = rivven_core_types::Address::new("h".repeat(252), 65_535).unwrap();
        let name = rivven_core_types::NodeName::new(format!("{node:03}{}", "n".repeat(125)));
        rivven_core_types::NodeInfo::new(name.unwrap(), address.clone(), address)
            .with_rack(rivven_core_types::RackId::new("r".repeat(128)).unwrap())
    };
    let mut one = Detector::new(longest(1), config(1), 1, at(0)).unwrap();
    let mut two = Detector::new(longest(2), config(1), 2, at(0)).unwrap();
    // They find each other through datagrams alone.
    let mut mail = Vec::new();
    one.handle(at(0), Input::Join(vec![addr(2).into()]), &mut mail);
    for round in 0..10 {
        let mut answers = Vec::new();
        let (to, from) = if round % 2 == 0 {
            (&mut two, addr(1))
        } else {
            (&mut one, addr(2))
        };
        for output in mail.drain(..) {
            if let Output::Send { payload, .. } = output {
                assert!(payload.len() <= crate::MAX_SWIM_DATAGRAM_BYTES);
                let payload = &payload;
                to.handle(at(1), Input::Datagram { from, payload }, &mut answers);
            }
        }
        mail = answers;
    }
    assert_eq!(one.live_others(), 1);
    assert_eq!(two.live_others(), 1);
}
