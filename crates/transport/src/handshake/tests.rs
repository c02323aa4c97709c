use proptest::prelude::*;
use rivven_core_types::test_util::SeededEntropy;

use super::*;
use crate::secret::Secret;

fn local(name: &str, cluster: Option<u8>) -> LocalIdentity {
    LocalIdentity {
        name: NodeName::new(name).unwrap(),
        incarnation: Incarnation::from_bytes([1; 16]),
        cluster: cluster.map(|b| ClusterId::from_bytes([b; 16])),
        quic: None,
    }
}

fn shared(text: &str) -> Security {
    Security::SharedSecret(Secret::new(format!("{text:-<32}")).unwrap())
}

struct Side(LocalIdentity, Security);

/// Both outcomes: the initiator's, and the responder's (`Err` when it refused).
fn run(
    a: Side,
    b: Side,
    expected: Option<&str>,
) -> (
    Result<Established, HandshakeError>,
    Result<Established, HandshakeRefusal>,
) {
    let entropy = SeededEntropy::new(1);
    let expected = expected.map(|n| NodeName::new(n).unwrap());
    let (mut initiator, mut to_b) =
        Initiator::start(a.0, a.1, None, expected, Lane::Bulk, &entropy).unwrap();
    let mut responder = Responder::new(b.0, b.1, None);
    let mut at_b = Err(HandshakeRefusal::Authentication);
    loop {
        let (to_a, last) = match responder.receive(&to_b, &entropy).unwrap() {
            ResponderStep::Send(bytes) => (bytes, false),
            ResponderStep::Done(bytes, established) => {
                at_b = Ok(*established);
                (bytes, true)
            }
            ResponderStep::Refuse(bytes, refusal) => {
                at_b = Err(refusal);
                (bytes, true)
            }
            ResponderStep::Early(_) => panic!("a whole handshake"),
        };
        match initiator.receive(&to_a) {
            Ok(InitiatorStep::Send(bytes)) => to_b = bytes,
            Ok(InitiatorStep::Done(established)) => return (Ok(*established), at_b),
            Err(e) => return (Err(e), at_b),
        }
        assert!(!last, "one side is done and the other is not");
    }
}

#[test]
fn both_sides_learn_each_other_and_derive_the_same_keys() {
    let (a, b) = run(
        Side(local("a", Some(1)), shared("s")),
        Side(local("b", None), shared("s")),
        Some("b"),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.peer.name.as_str(), "b");
    assert_eq!(
        a.peer.cluster, None,
        "a blank node is let in and seen as one"
    );
    assert_eq!(b.peer.name.as_str(), "a");
    assert_eq!(
        (b.lane, b.version, a.version),
        (Lane::Bulk, MAX_VERSION, MAX_VERSION)
    );
    let (mut send, _) = a.keys.unwrap().seals();
    let (mut back, mut receive) = b.keys.unwrap().seals();
    let seal = send.seal(b"h", b"m", b"b");
    assert_eq!(receive.check(b"h", b"m", b"b", &seal), Ok(()));
    assert_ne!(
        back.seal(b"h", b"m", b"b"),
        seal,
        "each direction has its key"
    );
}

#[test]
fn a_wrong_secret_and_another_mode_are_authentication_failures_on_both_sides() {
    for (a, b) in [
        (shared("one"), shared("two")),
        (shared("one"), Security::InsecureDev),
        (Security::InsecureDev, shared("one")),
    ] {
        let (a, b) = run(
            Side(local("a", None), a),
            Side(local("b", Some(1)), b),
            None,
        );
        assert_eq!(a.unwrap_err(), AUTHENTICATION);
        assert_eq!(b.unwrap_err(), HandshakeRefusal::Authentication);
    }
}

#[test]
fn every_pair_in_a_rotation_finds_a_common_secret() {
    let old = || Secret::new("the old secret...").unwrap();
    let new = || Secret::new("the new secret...").unwrap();
    let both = || new().with_previous("the old secret...").unwrap();
    let outcome = |a: Secret, b: Secret| {
        let a = Side(local("a", None), Security::SharedSecret(a));
        let b = Side(local("b", None), Security::SharedSecret(b));
        let (a, b) = run(a, b, None);
        assert_eq!(a.is_ok(), b.is_ok());
        a.is_ok()
    };
    assert!(outcome(old(), both()) && outcome(both(), old()) && outcome(both(), both()));
    assert!(outcome(new(), both()) && outcome(both(), new()));
    assert!(!outcome(old(), new()) && !outcome(new(), old()));
}

#[test]
fn a_foreign_cluster_and_a_wrong_name_are_told_to_members() {
    let (a, b) = run(
        Side(local("a", Some(1)), shared("s")),
        Side(local("b", Some(2)), shared("s")),
        Some("c"),
    );
    let (one, two) = (
        ClusterId::from_bytes([1; 16]),
        ClusterId::from_bytes([2; 16]),
    );
    let foreign = |ours, theirs| HandshakeRefusal::ForeignCluster { ours, theirs };
    assert_eq!(a.unwrap_err(), HandshakeError::Refused(foreign(one, two)));
    assert_eq!(b.unwrap_err(), foreign(two, one));

    let (a, b) = run(
        Side(local("a", Some(1)), Security::InsecureDev),
        Side(local("b", Some(1)), Security::InsecureDev),
        Some("c"),
    );
    let wrong = HandshakeRefusal::WrongNode {
        expected: NodeName::new("c").unwrap(),
        found: NodeName::new("b").unwrap(),
    };
    assert_eq!(a.unwrap_err(), HandshakeError::Refused(wrong.clone()));
    assert_eq!(b.unwrap_err(), wrong);
}

#[test]
fn no_common_version_names_both_ranges() {
    let hello = encode(&HandshakeMessage::Hello(Hello {
        min_version: MAX_VERSION + 1,
        max_version: MAX_VERSION + 3,
        mode: SecurityMode::InsecureDev,
        lane: Lane::Rpc,
        nonce: [0; 32],
    }))
    .unwrap();
    let mut responder = Responder::new(local("b", None), Security::InsecureDev, None);
    let step = responder.receive(&hello, &SeededEntropy::new(1)).unwrap();
    let ResponderStep::Refuse(_, HandshakeRefusal::Version { peer_max, .. }) = step else {
        panic!("{step:?}");
    };
    assert_eq!(peer_max, MAX_VERSION + 3);
}

#[test]
fn a_recorded_claim_is_worth_nothing_against_a_fresh_nonce() {
    let entropy = SeededEntropy::new(1);
    let (mut a, hello) = Initiator::start(
        local("a", None),
        shared("s"),
        None,
        None,
        Lane::Rpc,
        &entropy,
    )
    .unwrap();
    let mut b = Responder::new(local("b", None), shared("s"), None);
    let ResponderStep::Send(challenge) = b.receive(&hello, &entropy).unwrap() else {
        panic!("expected a challenge");
    };
    let InitiatorStep::Send(claim) = a.receive(&challenge).unwrap() else {
        panic!("expected a claim");
    };
    let mut again = Responder::new(local("b", None), shared("s"), None);
    assert!(matches!(
        again.receive(&hello, &entropy).unwrap(),
        ResponderStep::Send(_)
    ));
    assert!(matches!(
        again.receive(&claim, &entropy).unwrap(),
        ResponderStep::Refuse(_, HandshakeRefusal::Authentication)
    ));
    assert!(matches!(
        b.receive(&claim, &entropy).unwrap(),
        ResponderStep::Done(..)
    ));
}

#[test]
fn a_proof_sent_back_to_its_sender_proves_nothing() {
    let entropy = SeededEntropy::new(1);
    let dial = || {
        let expected = Some(NodeName::new("b").unwrap());
        let (local, lane) = (local("a", None), Lane::Rpc);
        Initiator::start(local, shared("s"), None, expected, lane, &entropy).unwrap()
    };
    // Whoever a dials knows no secret, and has only what a says.
    let (mut a, _) = dial();
    let challenge = encode(&HandshakeMessage::Challenge {
        version: MAX_VERSION,
        mode: SecurityMode::SharedSecret,
        nonce: [7; 32],
    });
    let InitiatorStep::Send(claim) = a.receive(&challenge.unwrap()).unwrap() else {
        panic!("expected a claim");
    };
    let HandshakeMessage::Claim { claim, proofs } = decode(&claim).unwrap() else {
        panic!("expected a claim");
    };
    let claim = Claim {
        name: NodeName::new("b").unwrap(),
        expected: None,
        ..claim
    };
    let proof = proofs.first().copied();
    let welcome = encode(&HandshakeMessage::Welcome(Welcome { claim, proof })).unwrap();
    let refusal = HandshakeError::Refused(HandshakeRefusal::Authentication);
    assert_eq!(a.receive(&welcome).unwrap_err(), refusal);
    // Nor does it help to hand on everything to a's own listener: a wanted b.
    let (mut a, hello) = dial();
    let mut listener = Responder::new(local("a", None), shared("s"), None);
    let ResponderStep::Send(challenge) = listener.receive(&hello, &entropy).unwrap() else {
        panic!("expected a challenge");
    };
    let InitiatorStep::Send(claim) = a.receive(&challenge).unwrap() else {
        panic!("expected a claim");
    };
    assert!(matches!(
        listener.receive(&claim, &entropy).unwrap(),
        ResponderStep::Refuse(_, HandshakeRefusal::WrongNode { .. })
    ));
}

#[test]
fn a_listener_names_neither_itself_nor_its_cluster_before_the_proof() {
    let entropy = SeededEntropy::new(1);
    let (mut a, hello) = Initiator::start(
        local("a", None),
        shared("x"),
        None,
        None,
        Lane::Rpc,
        &entropy,
    )
    .unwrap();
    let mut b = Responder::new(local("the-listener", Some(0xAB)), shared("s"), None);
    let ResponderStep::Send(challenge) = b.receive(&hello, &entropy).unwrap() else {
        panic!("expected a challenge");
    };
    let InitiatorStep::Send(claim) = a.receive(&challenge).unwrap() else {
        panic!("expected a claim");
    };
    let ResponderStep::Refuse(refusal, _) = b.receive(&claim, &entropy).unwrap() else {
        panic!("expected a refusal");
    };
    for said in [&challenge, &refusal] {
        assert!(!said.windows(12).any(|w| w == b"the-listener"));
        assert!(!said.windows(16).any(|w| w == [0xAB; 16]));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_a_handshake(bytes in proptest::collection::vec(any::<u8>(), 0..300), tag in 0u8..6) {
        let entropy = SeededEntropy::new(1);
        let mut bytes = bytes;
        if bytes.len() > 1 {
            bytes[0] = messages::HANDSHAKE_VERSION;
            bytes[1] = tag;
        }
        let mut b = Responder::new(local("b", None), shared("s"), None);
        let _first = b.receive(&bytes, &entropy);
        let (mut a, hello) =
            Initiator::start(local("a", None), shared("s"), None, None, Lane::Rpc, &entropy).unwrap();
        let _outcome = a.receive(&bytes).is_ok();
        let mut c = Responder::new(local("b", None), shared("s"), None);
        prop_assert!(c.receive(&hello, &entropy).is_ok());
        let _outcome = c.receive(&bytes, &entropy).is_ok();
    }
}
