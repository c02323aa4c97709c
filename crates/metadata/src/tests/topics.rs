//! Topic creation and deletion, and the change feed.

use std::sync::Arc;

use rivven_core_types::{Durability, LogConfig, PartitionId, StateMachine};

use super::support::{Cluster, b, entry, ids, topic_id, topic_name};
use crate::{Command, CommandResult, MAX_STRATEGY_BYTES, Rejection, TopicChange, TopicPlacement};

fn create(name: &str, id: u8, replicas: &[&[i32]], min_isr: u32) -> Command {
    Command::CreateTopic {
        name: topic_name(name),
        id: topic_id(id),
        replicas: replicas.iter().map(|r| ids(r)).collect(),
        min_isr,
        durability: Durability::Replicated,
        log: LogConfig::default(),
        placement: None,
    }
}

#[test]
fn a_topic_is_found_by_name_id_and_partition() {
    let mut c = Cluster::with_brokers(3);
    let result = c.ok(&create("a", 1, &[&[1, 2], &[2, 3]], 2));
    assert_eq!(result, CommandResult::TopicCreated { id: topic_id(1) });
    let topic = c.state().topic(&topic_name("a")).unwrap();
    assert_eq!(c.state().topic_by_id(&topic_id(1)), Some(topic));
    assert_eq!((topic.partitions, topic.replication_factor), (2, 2));
    let indexes: Vec<u32> = c
        .state()
        .partitions_of_topic(topic_id(1))
        .map(|p| p.id.index.get())
        .collect();
    assert_eq!(indexes, [0, 1]);
    assert_eq!(c.state().partition_count(), 2);
    c.expect(
        PartitionId::new(topic_id(1), 1),
        Some(2),
        &[2, 3],
        &[],
        &[2, 3],
    );
}

#[test]
fn replicas_that_are_not_active_start_out_of_sync() {
    let mut c = Cluster::with_brokers(3);
    c.fence(1);
    c.shut_down(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.expect(p, Some(2), &[2], &[], &[2]);
    let rejection = c.refused(&create("b", 2, &[&[1, 3]], 1));
    assert_eq!(rejection, Rejection::NoActiveReplica { index: 0 });
    assert!(rejection.is_retriable());
}

/// The peer took rf mismatches, doubled and foreign replicas without a word.
#[test]
fn peer_10_a_senseless_placement_is_refused_whole() {
    let mut c = Cluster::with_brokers(3);
    let cases: [(&[&[i32]], u32, Rejection); 9] = [
        (
            &[],
            1,
            Rejection::InvalidPartitionCount {
                found: 0,
                max: 100_000,
            },
        ),
        (&[&[1, 2], &[1]], 1, rf(1, 1, 2)),
        (&[&[]], 1, rf(0, 0, 0)),
        (&[&[1; 16]], 1, rf(0, 16, 16)),
        (
            &[&[1, 2, 1]],
            1,
            Rejection::DuplicateReplica {
                index: 0,
                broker: b(1),
            },
        ),
        (&[&[1], &[9]], 1, Rejection::UnknownBroker { broker: b(9) }),
        (
            &[&[1, 2]],
            0,
            Rejection::InvalidMinIsr {
                found: 0,
                replication_factor: 2,
            },
        ),
        (
            &[&[1, 2]],
            3,
            Rejection::InvalidMinIsr {
                found: 3,
                replication_factor: 2,
            },
        ),
        (&[&[-1]], 1, Rejection::UnknownBroker { broker: b(-1) }),
    ];
    for (replicas, min_isr, expected) in cases {
        assert_eq!(c.refused(&create("a", 1, replicas, min_isr)), expected);
    }
    assert_eq!(c.state().topic_count() + c.state().partition_count(), 0);
}

const fn rf(index: u32, found: u32, expected: u32) -> Rejection {
    Rejection::InvalidReplicationFactor {
        index,
        found,
        expected,
        max: 15,
    }
}

#[test]
fn too_many_partitions_are_refused() {
    let mut c = Cluster::with_brokers(1);
    let replicas = vec![ids(&[1]); 100_001];
    let command = Command::CreateTopic {
        name: topic_name("a"),
        id: topic_id(1),
        replicas,
        min_isr: 1,
        durability: Durability::Fsync,
        log: LogConfig::default(),
        placement: None,
    };
    assert!(matches!(
        c.refused(&command),
        Rejection::InvalidPartitionCount { found: 100_001, .. }
    ));
}

#[test]
fn names_and_ids_are_unique_and_free_again_after_deletion() {
    let mut c = Cluster::with_brokers(1);
    c.ok(&create("a", 1, &[&[1]], 1));
    let name = topic_name("a");
    assert_eq!(
        c.refused(&create("a", 2, &[&[1]], 1)),
        Rejection::TopicExists { name: name.clone() }
    );
    assert_eq!(
        c.refused(&create("b", 1, &[&[1]], 1)),
        Rejection::TopicIdExists { name: name.clone() }
    );
    let delete = Command::DeleteTopic { name };
    assert_eq!(
        c.ok(&delete),
        CommandResult::TopicDeleted { id: topic_id(1) }
    );
    assert!(matches!(c.refused(&delete), Rejection::UnknownTopic { .. }));
    c.ok(&create("a", 2, &[&[1]], 1));
}

#[test]
fn the_hash_does_not_depend_on_the_way_to_a_state() {
    let mut c = Cluster::with_brokers(1);
    let before = c.state().hash();
    c.ok(&create("a", 1, &[&[1], &[1]], 1));
    assert_ne!(c.state().hash(), before);
    c.ok(&Command::DeleteTopic {
        name: topic_name("a"),
    });
    assert_eq!(c.state().hash(), before);
}

#[test]
fn the_change_feed_names_what_changed_and_what_went() {
    let mut c = Cluster::with_brokers(2);
    let (p, q, r) = (
        c.topic(1, &[1, 2], 1),
        c.topic(2, &[2], 1),
        c.topic(3, &[1], 1),
    );
    let earlier = c.state().clone();
    assert!(c.state().changed_since(&earlier).is_empty());
    c.ok(&Command::DeleteTopic {
        name: topic_name("topic-2"),
    });
    c.fence(1);
    assert_eq!(c.state().changed_since(&earlier), [p, r, q]);
    assert_eq!(
        earlier.partition_count(),
        3,
        "an earlier state never changes"
    );
    let blank = crate::ClusterState::default();
    assert_eq!(c.state().changed_since(&blank), [p, r]);
    assert_eq!(
        c.state().leaderless().map(|p| p.id).collect::<Vec<_>>(),
        [r]
    );
}

#[test]
fn one_state_is_published_for_each_batch_and_at_installation() {
    let mut c = Cluster::with_brokers(1);
    c.published.lock().unwrap().clear();
    let batch = [create("a", 1, &[&[1]], 1), create("b", 2, &[&[1]], 1)];
    let entries: Vec<_> = (100..).zip(&batch).map(|(i, cmd)| entry(i, cmd)).collect();
    assert_eq!(c.machine.apply(&entries).unwrap().len(), 2);
    assert!(c.machine.apply(&[]).unwrap().is_empty());
    c.machine.installed();
    let published = c.published.lock().unwrap();
    assert_eq!(published.len(), 2);
    let last: &Arc<crate::ClusterState> = &published[1];
    assert_eq!((last.topic_count(), last.applied().get()), (2, 101));
}

#[test]
fn settings_change_one_by_one_and_every_partition_is_in_the_change_feed() {
    let mut c = Cluster::with_brokers(2);
    c.ok(&create("a", 1, &[&[1, 2], &[2, 1]], 2));
    let before = c.state().clone();
    let alter = |change| Command::AlterTopic {
        name: topic_name("a"),
        change,
    };
    c.ok(&alter(TopicChange {
        retention_ms: Some(Some(5_000)),
        segment_bytes: Some(2 << 20),
        ..TopicChange::default()
    }));
    let log = c.state().topic(&topic_name("a")).unwrap().log;
    let expected = LogConfig {
        retention_ms: Some(5_000),
        segment_bytes: 2 << 20,
        ..LogConfig::default()
    };
    assert_eq!(log, expected);
    assert_eq!(c.state().changed_since(&before).len(), 2);
    c.ok(&alter(TopicChange {
        min_isr: Some(1),
        retention_ms: Some(None),
        durability: Some(Durability::Fsync),
        ..TopicChange::default()
    }));
    let topic = c.state().topic(&topic_name("a")).unwrap();
    assert_eq!((topic.min_isr, topic.durability), (1, Durability::Fsync));
    assert_eq!(
        (topic.log.retention_ms, topic.log.segment_bytes),
        (None, 2 << 20)
    );
    let partition = c.partition(PartitionId::new(topic_id(1), 0));
    assert_eq!(
        (partition.min_isr, partition.durability),
        (1, Durability::Fsync)
    );
    assert_eq!(partition.partition_epoch.get(), 2);
}

#[test]
fn a_setting_out_of_range_changes_nothing() {
    let mut c = Cluster::with_brokers(1);
    c.ok(&create("a", 1, &[&[1]], 1));
    let alter = |change| Command::AlterTopic {
        name: topic_name("a"),
        change,
    };
    let hash = c.state().hash();
    let none = TopicChange::default();
    let refused = c.refused(&alter(TopicChange {
        min_isr: Some(2),
        ..none
    }));
    assert!(matches!(refused, Rejection::InvalidMinIsr { found: 2, .. }));
    let refused = c.refused(&alter(TopicChange {
        segment_bytes: Some(1),
        ..none
    }));
    assert!(matches!(refused, Rejection::InvalidTopicConfig { key, .. } if key == "segment.bytes"));
    let refused = c.refused(&alter(TopicChange {
        retention_ms: Some(Some(u64::MAX)),
        ..none
    }));
    assert!(matches!(refused, Rejection::InvalidTopicConfig { key, .. } if key == "retention.ms"));
    assert_eq!(c.state().hash(), hash);
}

#[test]
fn how_a_topic_was_placed_is_kept_and_survives_a_snapshot() {
    let mut c = Cluster::with_brokers(2);
    let mut command = create("a", 1, &[&[1, 2]], 1);
    let Command::CreateTopic { placement, .. } = &mut command else {
        unreachable!();
    };
    let kept = TopicPlacement {
        strategy: "copyset:10".to_owned(),
        algorithm_version: 2,
    };
    *placement = Some(kept.clone());
    c.ok(&command);
    c.ok(&create("b", 2, &[&[2, 1]], 1));
    let mut image = Vec::new();
    c.machine.freeze().write_to(&mut image).unwrap();
    let restored = crate::image::read(&mut image.as_slice(), crate::LevelRange::SUPPORTED).unwrap();
    for state in [c.state(), &restored] {
        let placement = |name| &state.topic(&topic_name(name)).unwrap().placement;
        assert_eq!(*placement("a"), Some(kept.clone()));
        assert_eq!(*placement("b"), None);
    }
    for strategy in [String::new(), "x".repeat(MAX_STRATEGY_BYTES + 1)] {
        let mut command = create("c", 3, &[&[1]], 1);
        let Command::CreateTopic { placement, .. } = &mut command else {
            unreachable!();
        };
        *placement = Some(TopicPlacement {
            strategy,
            algorithm_version: 2,
        });
        let refused = c.refused(&command);
        assert!(matches!(refused, Rejection::InvalidTopicConfig { .. }));
    }
}
