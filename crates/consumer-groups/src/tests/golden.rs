//! The bytes of every operation, of its result and of an image, as released: a build that writes or reads
//! others would part from the nodes that run this one.
//!
//! After a change that only adds, `UPDATE_GOLDEN=1 cargo test -p rivven-consumer-groups golden` writes the
//! file anew; a line that was there before must not change.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::test_util::golden::{self, hex, unhex};
use rivven_core_types::{
    CommittedEntry, LogIndex, PartitionId, StateMachine, Term, TopicId, TopicName, UnixMillis,
};

use super::world::{group, member};
use crate::{
    Batch, ClassicMember, ClassicRound, ClientInfo, Committer, Epoch, GroupsStateMachine,
    Heartbeat, InstanceId, OffsetToCommit, Op, Partitions, SetTarget, Shared,
};

const GOLDEN: &str = include_str!("golden.txt");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/golden.txt");

/// Exhaustive on purpose: a new operation needs its bytes here.
const fn name(op: &Op) -> &'static str {
    match op {
        Op::Heartbeat(_) => "Heartbeat",
        Op::SetTarget(_) => "SetTarget",
        Op::TopicsChanged { .. } => "TopicsChanged",
        Op::Fence { .. } => "Fence",
        Op::ClassicRound(_) => "ClassicRound",
        Op::ClassicSync { .. } => "ClassicSync",
        Op::ClassicReplace { .. } => "ClassicReplace",
        Op::RemoveMembers { .. } => "RemoveMembers",
        Op::Commit { .. } => "Commit",
        Op::DeleteOffsets { .. } => "DeleteOffsets",
        Op::DeleteTopics { .. } => "DeleteTopics",
        Op::Expire { .. } => "Expire",
        Op::DeleteGroup { .. } => "DeleteGroup",
    }
}

const OPERATIONS: usize = 13;

fn topic(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn heartbeat(id: &str, epoch: i32) -> Heartbeat {
    let joins = epoch == 0;
    Heartbeat {
        group: group("modern"),
        member: member(id),
        instance: (id == "s").then(|| InstanceId::new("static").unwrap()),
        epoch: Epoch::new(epoch),
        rack: joins.then(|| "rack-1".parse().unwrap()),
        client: ClientInfo {
            id: "client".to_owned(),
            host: "/127.0.0.1".to_owned(),
        },
        rebalance_timeout_ms: joins.then_some(300_000),
        topics: joins.then(|| vec![TopicName::new("t").unwrap(), TopicName::new("u").unwrap()]),
        pattern: joins.then(|| "orders-.*".to_owned()),
        assignor: joins.then(|| "uniform".to_owned()),
        owned: Some(Partitions::default()),
    }
}

fn target(epoch: i32, of: &str, indexes: Vec<u32>) -> Op {
    Op::SetTarget(Box::new(SetTarget {
        group: group("modern"),
        epoch: Epoch::new(epoch),
        fingerprint: 0x0123_4567_89ab_cdef,
        topics: vec![topic(1), topic(2)],
        members: vec![(member(of), vec![(0, indexes), (1, vec![7])])],
    }))
}

fn classic(id: &str, instance: Option<&str>) -> ClassicMember {
    ClassicMember {
        id: member(id),
        instance: instance.map(|i| InstanceId::new(i).unwrap()),
        client: ClientInfo {
            id: "client".to_owned(),
            host: String::new(),
        },
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocols: vec![("range".to_owned(), Bytes::from_static(b"subscription"))],
        assignment: Bytes::new(),
    }
}

fn commit(name: &str, by: Option<&str>, epoch: i32) -> Op {
    let offset = |n: u32| OffsetToCommit {
        partition: PartitionId::new(topic(1), n),
        offset: 1_000 + i64::from(n),
        leader_epoch: 3,
        metadata: "note".into(),
    };
    Op::Commit {
        group: group(name),
        by: Committer {
            member: by.map(member),
            instance: None,
            epoch: Epoch::new(epoch),
        },
        offsets: (0..3).map(offset).collect(),
    }
}

/// A history in which every operation occurs, accepted or refused.
fn history() -> Vec<Op> {
    let modern = || group("modern");
    let beat = |id, epoch| Op::Heartbeat(Shared::new(heartbeat(id, epoch)));
    let leaves = Op::Heartbeat(Shared::new(Heartbeat {
        topics: None,
        ..heartbeat("a", -1)
    }));
    vec![
        beat("a", 0),
        target(1, "a", vec![0, 1, 2]),
        beat("a", 0),
        commit("modern", Some("a"), 1),
        commit("modern", Some("a"), 9),
        beat("s", 0),
        target(2, "a", vec![0]),
        beat("a", 1),
        beat("a", 7),
        Op::TopicsChanged {
            group: modern(),
            epoch: Epoch::new(2),
            fingerprint: 77,
        },
        Op::Fence {
            group: modern(),
            member: member("s"),
            epoch: Epoch::new(0),
        },
        leaves,
        beat("b", 0),
        target(6, "b", vec![0, 1]),
        beat("b", 0),
        commit("simple", None, -1),
        Op::DeleteOffsets {
            group: group("simple"),
            partitions: vec![PartitionId::new(topic(1), 2)],
        },
        commit("gone", None, -1),
        Op::DeleteGroup {
            group: group("gone"),
        },
        Op::ClassicRound(Box::new(ClassicRound {
            group: group("classic"),
            after: Epoch::new(0),
            protocol_type: "consumer".to_owned(),
            protocol: "range".to_owned(),
            leader: member("x"),
            members: vec![classic("x", None), classic("y", Some("fixed"))],
        })),
        Op::ClassicSync {
            group: group("classic"),
            generation: Epoch::new(1),
            assignments: vec![(member("x"), Bytes::from_static(b"X"))],
        },
        Op::ClassicReplace {
            group: group("classic"),
            generation: Epoch::new(1),
            old: member("y"),
            member: Box::new(classic("z", Some("fixed"))),
        },
        commit("classic", Some("z"), 1),
        Op::RemoveMembers {
            group: group("classic"),
            epoch: Some(Epoch::new(1)),
            members: vec![member("x")],
        },
        Op::DeleteTopics {
            topics: vec![topic(9)],
        },
        Op::Expire {
            group: group("simple"),
            epoch: Epoch::new(0),
            before: UnixMillis(1_700_000_000_017),
            partitions: vec![PartitionId::new(topic(1), 0)],
        },
    ]
}

fn blank() -> GroupsStateMachine {
    GroupsStateMachine::new(Arc::new(|_| {}))
}

fn apply(machine: &mut GroupsStateMachine, index: u64, command: Bytes) -> Bytes {
    let entry = CommittedEntry {
        index: LogIndex::new(index),
        term: Term::new(1),
        command,
    };
    machine.apply(&[entry]).unwrap().remove(0)
}

#[test]
fn golden_bytes_of_operations_results_and_images_never_change() {
    let mut machine = blank();
    let mut lines = Vec::new();
    let mut names = BTreeSet::new();
    for (index, op) in (1..).zip(history()) {
        let name = name(&op);
        names.insert(name);
        let at = UnixMillis(1_700_000_000_000 + i64::try_from(index).unwrap());
        let command = Batch { at, ops: vec![op] }.encode().unwrap();
        let result = apply(&mut machine, index, command.clone());
        lines.push(format!("{name} {} {}", hex(&command), hex(&result)));
    }
    assert_eq!(names.len(), OPERATIONS, "{names:?}");
    let mut image = Vec::new();
    machine.freeze().write_to(&mut image).unwrap();
    lines.push(format!("Image {}", hex(&image)));
    lines.push(format!("Hash {:016x}", machine.hash()));
    let text = lines.join("\n") + "\n";
    golden::hold(&text, GOLDEN, PATH).unwrap();
}

/// Reading is the other half: the golden bytes, applied and restored, give the golden state.
#[test]
fn golden_bytes_are_understood() {
    let mut machine = blank();
    let mut restored = None;
    for (index, line) in (1..).zip(GOLDEN.lines()) {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = |word: &str| unhex(word).unwrap();
        match words.as_slice() {
            ["Image", image] => {
                let image = bytes(image);
                restored = Some(machine.restore(&mut image.as_slice()).unwrap().hash());
            }
            ["Hash", hash] => {
                let hash = u64::from_str_radix(hash, 16).unwrap();
                assert_eq!((machine.hash(), restored), (hash, Some(hash)));
            }
            [name, command, result] => {
                let found = apply(&mut machine, index, bytes(command).into());
                assert_eq!(found, bytes(result), "{name}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(restored.is_some());
}
