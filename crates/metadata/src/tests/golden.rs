//! The bytes of every command, of its result and of an image, as released: a build that writes or reads
//! others would part from the nodes that run this one.
//!
//! After a change that only adds, `UPDATE_GOLDEN=1 cargo test -p rivven-metadata golden` writes the file
//! anew; a line that was there before must not change.

use rivven_core_types::StateMachine;
use rivven_core_types::test_util::golden::{self, hex, unhex};

use super::levels::{blank, later_command, raise, upgrade};
use super::support::{Cluster, b, ids, registration, topic_name};
use crate::placement::{PlacementCommand, ReplicaTarget};
use crate::{Command, CommandResult, LevelCommand, ReplicaClaim, TopicChange};
use rivven_core_types::{ClusterId, LeaderEpoch, Offset};

const GOLDEN: &str = include_str!("golden.txt");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/golden.txt");

/// Exhaustive on purpose: a new command needs its bytes here.
const fn name(command: &Command) -> &'static str {
    match command {
        Command::FormCluster { .. } => "FormCluster",
        Command::RegisterBroker { .. } => "RegisterBroker",
        Command::UnfenceBroker { .. } => "UnfenceBroker",
        Command::FenceBroker { .. } => "FenceBroker",
        Command::BeginControlledShutdown { .. } => "BeginControlledShutdown",
        Command::CreateTopic { .. } => "CreateTopic",
        Command::DeleteTopic { .. } => "DeleteTopic",
        Command::AlterPartitions { .. } => "AlterPartitions",
        Command::AllocateProducerIds { .. } => "AllocateProducerIds",
        Command::RecoverPartition { .. } => "RecoverPartition",
        Command::ElectUnclean { .. } => "ElectUnclean",
        Command::RemoveBroker { .. } => "RemoveBroker",
        Command::AlterTopic { .. } => "AlterTopic",
        Command::Place(PlacementCommand::Reassign { .. }) => "Place.Reassign",
        Command::Place(PlacementCommand::ElectPreferred { .. }) => "Place.ElectPreferred",
        Command::Place(PlacementCommand::SetDraining { .. }) => "Place.SetDraining",
        Command::Place(PlacementCommand::SetRebalancing { .. }) => "Place.SetRebalancing",
        Command::Place(PlacementCommand::AddPartitions { .. }) => "Place.AddPartitions",
        Command::Level(LevelCommand::Register(_)) => "Level.Register",
        Command::Level(LevelCommand::Raise { .. }) => "Level.Raise",
    }
}

const COMMANDS: usize = 20;

/// A history in which every command occurs, accepted or refused.
fn history() -> Cluster {
    let mut c = blank(1, 2);
    c.ok(&Command::FormCluster {
        cluster_id: ClusterId::from_bytes([1; 16]),
    });
    for broker in 1..=4 {
        c.register(broker, 1, &[]);
        c.unfence(broker);
    }
    let p = c.topic(1, &[1, 2, 3], 2);
    let q = c.topic(2, &[2, 1], 1);
    c.topic(3, &[3], 1);
    c.alter(p, &[1, 2]);
    let node_epoch = c.epoch(1);
    c.ok(&Command::AllocateProducerIds {
        broker: b(1),
        node_epoch,
    });
    c.ok(&Command::AlterTopic {
        name: topic_name("topic-1"),
        change: TopicChange {
            retention_ms: Some(Some(60_000)),
            ..TopicChange::default()
        },
    });
    let partition_epoch = c.partition(q).partition_epoch;
    c.ok(&Command::Place(PlacementCommand::Reassign {
        changes: vec![ReplicaTarget {
            partition: q,
            partition_epoch,
            target: Some(ids(&[4, 1])),
        }],
    }));
    c.ok(&Command::Place(PlacementCommand::ElectPreferred {
        partitions: vec![p],
    }));
    c.ok(&Command::Place(PlacementCommand::SetDraining {
        broker: b(3),
        draining: true,
    }));
    c.ok(&Command::Place(PlacementCommand::SetRebalancing {
        rebalancing: true,
    }));
    c.ok(&Command::Place(PlacementCommand::AddPartitions {
        topic: topic_name("topic-1"),
        partitions_now: 1,
        replicas: vec![ids(&[2, 4, 1])],
    }));
    c.ok(&Command::DeleteTopic {
        name: topic_name("topic-3"),
    });
    c.fence(1);
    c.shut_down(2);
    let partition_epoch = c.partition(p).partition_epoch;
    c.run(&Command::RecoverPartition {
        partition: p,
        partition_epoch,
        claims: vec![ReplicaClaim {
            broker: b(1),
            node_epoch,
            last_epoch: Some(LeaderEpoch::new(2)),
            log_end: Offset::new(77).unwrap(),
        }],
    });
    c.run(&Command::ElectUnclean { partition: p });
    c.run(&Command::RemoveBroker {
        broker: b(1),
        node_epoch,
        accept_loss: true,
    });
    c
}

/// What came after: brokers that say which levels they understand.
fn later(c: &mut Cluster) {
    c.ok(&upgrade(3, 1, 1, 1));
    c.ok(&upgrade(5, 1, 1, 2));
    c.run(&raise(1, 2));
}

/// And then the level: what is refused before it and after it, and who.
fn raised(c: &mut Cluster) {
    c.run(&later_command());
    for broker in 2..=4 {
        c.ok(&upgrade(broker, 1, 1, 2));
    }
    c.ok(&raise(1, 2));
    c.run(&later_command());
    c.run(&raise(1, 2));
    c.run(&raise(1, 3));
    c.run(&raise(2, 3));
    c.run(&registration(4, 1, &[]));
    c.run(&upgrade(6, 1, 3, 4));
}

fn image(c: &Cluster) -> Vec<u8> {
    let mut bytes = Vec::new();
    c.machine.freeze().write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn golden_bytes_of_commands_results_and_images_never_change() {
    let mut c = history();
    let (mut lines, mut told) = (Vec::new(), 0);
    let mut names = std::collections::BTreeSet::new();
    let more: [fn(&mut Cluster); 3] = [|_| (), later, raised];
    for more in more {
        more(&mut c);
        for (entry, result) in c.history.iter().zip(&c.results).skip(told) {
            let name = name(&Command::decode(&entry.command).unwrap());
            names.insert(name);
            lines.push(format!("{name} {} {}", hex(&entry.command), hex(result)));
        }
        told = c.history.len();
        lines.push(format!("Image {}", hex(&image(&c))));
        lines.push(format!("Hash {:016x}", c.machine.hash()));
    }
    assert_eq!(names.len(), COMMANDS, "{names:?}");
    let text = lines.join("\n") + "\n";
    golden::hold(&text, GOLDEN, PATH).unwrap();
}

/// Reading is the other half: the golden bytes, applied and restored, give the golden state.
#[test]
fn golden_bytes_are_understood() {
    let mut c = blank(1, 2);
    let mut restored = None;
    for line in GOLDEN.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = |word: &str| unhex(word).unwrap();
        match words.as_slice() {
            ["Image", image] => {
                let image = bytes(image);
                restored = Some(c.machine.restore(&mut image.as_slice()).unwrap().hash());
            }
            ["Hash", hash] => {
                let hash = u64::from_str_radix(hash, 16).unwrap();
                assert_eq!((c.machine.hash(), restored), (hash, Some(hash)));
            }
            [name, command, result] => {
                let command = Command::decode(&bytes(command)).unwrap();
                let found = c.run(&command);
                assert_eq!(
                    found,
                    CommandResult::decode(&bytes(result)).unwrap(),
                    "{name}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(restored.is_some());
}
