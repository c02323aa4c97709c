//! Whatever the bytes, of a command or of an image, the answer is a refusal and never a panic.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rivven_core_types::{CommittedEntry, LogIndex, StateMachine, Term};

use super::support::{Cluster, machine, registration};
use crate::image;
use crate::{Command, CommandResult, LevelRange};

fn busy_cluster() -> Cluster {
    let mut c = Cluster::with_brokers(3);
    c.topic(1, &[1, 2, 3], 2);
    c.topic(2, &[2, 1], 1);
    c.topic(3, &[3], 1);
    c.fence(2);
    c.register(3, 2, &[]);
    let node_epoch = c.epoch(1);
    c.ok(&Command::AllocateProducerIds {
        broker: super::support::b(1),
        node_epoch,
    });
    c
}

fn image_of(c: &Cluster) -> Vec<u8> {
    let mut bytes = Vec::new();
    c.machine.freeze().write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_command_of_another_version_stops_the_machine_and_is_never_proposed() {
    let mut c = Cluster::with_brokers(1);
    let (before, published) = (c.machine.hash(), c.published.lock().unwrap().len());
    let known = registration(1, 1, &[]).encode().unwrap().to_vec();
    let mut earlier = known.clone();
    earlier[0] = 1;
    let mut later = known.clone();
    later[0] = 3;
    let mut unknown_variant = known.clone();
    unknown_variant[1] = 100;
    let mut longer = known;
    longer.push(0);
    for bytes in [earlier, later, unknown_variant, longer] {
        assert!((c.machine.admission())(&bytes).is_err());
        let stop = c.machine.apply(&[CommittedEntry {
            index: LogIndex::new(50),
            term: Term::new(1),
            command: Bytes::from(bytes),
        }]);
        let stop = stop.unwrap_err();
        assert_eq!(stop.index, LogIndex::new(50));
        assert!(stop.to_string().contains("index 50"), "{stop}");
        assert_eq!(c.machine.hash(), before);
    }
    assert_eq!(c.published.lock().unwrap().len(), published);
}

#[test]
fn an_image_gives_back_the_state_and_its_behaviour() {
    let mut c = busy_cluster();
    let bytes = image_of(&c);
    let (fresh, published) = machine();
    let mut restored = fresh.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.hash(), c.machine.hash());
    restored.installed();
    let state = Arc::clone(&published.lock().unwrap()[0]);
    assert_eq!(state.applied(), c.state().applied());
    assert!(state.changed_since(c.state()).is_empty());
    // It has not seen the changes, only when each partition changed last.
    let blank = crate::ClusterState::default();
    let changed = c.state().changed_since(&blank);
    assert_eq!(changed.len(), c.state().partition_count());
    assert_eq!(state.changed_since(&blank), changed);
    let command = registration(1, 2, &[]);
    let entry = super::support::entry(c.index + 1, &command);
    let theirs = restored.apply(std::slice::from_ref(&entry));
    assert_eq!(theirs, c.machine.apply(&[entry]));
    assert!(theirs.is_ok());
    assert_eq!(restored.hash(), c.machine.hash());
    let mut again = Vec::new();
    restored.freeze().write_to(&mut again).unwrap();
    assert_eq!(again, image_of(&c));
}

#[test]
fn a_frozen_image_does_not_move_with_the_state() {
    let mut c = busy_cluster();
    let (before, frozen) = (image_of(&c), c.machine.freeze());
    c.fence(1);
    let mut bytes = Vec::new();
    frozen.write_to(&mut bytes).unwrap();
    assert_eq!(bytes, before);
    assert_ne!(image_of(&c), before);
}

#[test]
fn a_cut_or_flipped_image_is_never_taken_for_a_whole_one() {
    let c = busy_cluster();
    let bytes = image_of(&c);
    for length in 0..bytes.len() {
        assert!(
            image::read(&mut &bytes[..length], LevelRange::SUPPORTED).is_err(),
            "cut at {length}"
        );
    }
    // The applied index and the end record's own hash aside, every bit counts in the hash.
    let mut refused = 0usize;
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        refused +=
            usize::from(image::read(&mut flipped.as_slice(), LevelRange::SUPPORTED).is_err());
    }
    assert!(refused + 4 >= bytes.len(), "{refused} of {}", bytes.len());
}

/// Applies bytes as a command; whether they changed nothing.
fn apply_raw(c: &mut Cluster, bytes: Vec<u8>) -> bool {
    c.index += 1;
    let admitted = (c.machine.admission())(&bytes);
    let results = c.machine.apply(&[CommittedEntry {
        index: LogIndex::new(c.index),
        term: Term::new(1),
        command: Bytes::from(bytes),
    }]);
    assert_eq!(results.is_ok(), admitted.is_ok());
    results.map_or(true, |results| {
        let result = CommandResult::decode(&results[0]).unwrap();
        matches!(result, CommandResult::Rejected(_))
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_a_stop_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut c = busy_cluster();
        let before = c.state().clone();
        let is_refused = apply_raw(&mut c, bytes);
        super::support::check(&before, c.state());
        if is_refused {
            prop_assert_eq!(before.hash(), c.state().hash());
        }
    }

    #[test]
    fn a_valid_envelope_with_arbitrary_content_keeps_the_invariants(
        variant in 0u8..12,
        content in proptest::collection::vec(0u8..4, 0..120),
    ) {
        let mut c = busy_cluster();
        let before = c.state().clone();
        let mut bytes = vec![2, variant];
        bytes.extend(content);
        let is_refused = apply_raw(&mut c, bytes);
        super::support::check(&before, c.state());
        if is_refused {
            prop_assert_eq!(before.hash(), c.state().hash());
        }
    }

    #[test]
    fn an_arbitrary_image_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(image::read(&mut bytes.as_slice(), LevelRange::SUPPORTED).is_err());
    }
}
