//! Reassignment (KIP-455), preferred leaders, draining, more partitions.

use std::collections::BTreeSet;

use rivven_core_types::{LeaderEpoch, Offset, PartitionId, RecoveryState, StateMachine};

use super::support::{Cluster, b, ids, machine, topic_name};
use crate::{
    ClusterState, Command, CommandResult, PlacementCommand, Rejection, ReplicaClaim, ReplicaTarget,
    TopicChange,
};

fn place(command: PlacementCommand) -> Command {
    Command::Place(command)
}

fn target(c: &Cluster, partition: PartitionId, target: Option<&[i32]>) -> Command {
    place(PlacementCommand::Reassign {
        changes: vec![ReplicaTarget {
            partition,
            partition_epoch: c.partition(partition).partition_epoch,
            target: target.map(ids),
        }],
    })
}

fn reassign(c: &mut Cluster, partition: PartitionId, to: &[i32]) {
    let command = target(c, partition, Some(to));
    c.ok(&command);
}

#[test]
fn the_target_takes_over_in_the_step_in_which_all_of_it_is_in_sync() {
    let mut c = Cluster::with_brokers(5);
    let p = c.topic(1, &[1, 2, 3], 2);
    reassign(&mut c, p, &[4, 2, 5]);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3, 4, 5]));
    c.expect(p, Some(1), &[1, 2, 3], &[], &[1, 2, 3]);
    assert_eq!(c.state().partitions_of(b(4)).count(), 1);
    c.alter(p, &[1, 2, 3, 4]);
    assert!(c.state().reassignment(&p).is_some());
    // The old leader proposes the last one, and is no replica in the answer.
    let after = c.alter(p, &[1, 2, 3, 4, 5]);
    assert_eq!(after.replicas, ids(&[4, 2, 5]));
    c.expect(p, Some(4), &[4, 2, 5], &[], &[4, 2, 5]);
    assert_eq!(c.state().reassignment(&p), None);
    assert_eq!(c.state().partitions_of(b(1)).count(), 0);
    assert_eq!(c.state().partitions_of(b(4)).count(), 1);
}

/// In a new epoch: should the replica that has gone come back with an empty log, no fetch that it sent
/// before may speak for that one.
#[test]
fn a_leader_that_stays_goes_on_leading_in_a_new_epoch_once_a_replica_has_gone() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    let epoch = c.partition(p).leader_epoch;
    reassign(&mut c, p, &[1, 2, 4]);
    assert_eq!(c.partition(p).leader_epoch, epoch, "one more is no harm");
    c.alter(p, &[1, 2, 3, 4]);
    c.expect(p, Some(1), &[1, 2, 4], &[], &[1, 2, 4]);
    assert_eq!(c.partition(p).leader_epoch, epoch.next().unwrap());
}

#[test]
fn a_cancelled_reassignment_leaves_what_was() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    assert!(matches!(
        {
            let none = target(&c, p, None);
            c.refused(&none)
        },
        Rejection::NoReassignment { .. }
    ));
    reassign(&mut c, p, &[4, 2, 3]);
    c.alter(p, &[1, 2, 4]);
    let cancel = target(&c, p, None);
    c.ok(&cancel);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3]));
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
    assert_eq!(c.state().reassignment(&p), None);
}

#[test]
fn a_dead_target_is_exchanged_and_a_dead_original_replaced() {
    let mut c = Cluster::with_brokers(5);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    reassign(&mut c, p, &[1, 2, 4]);
    c.fence(4);
    reassign(&mut c, p, &[1, 2, 5]);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3, 5]));
    c.alter(p, &[1, 2, 5]);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 5]));
    assert_eq!(c.state().partitions_of(b(3)).count(), 0);
}

/// The committed records must not hang on replicas that are dropped.
#[test]
fn holders_of_committed_records_are_not_dropped_while_too_few_others_are_in_sync() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    reassign(&mut c, p, &[4, 2, 3]);
    c.alter(p, &[1, 4]);
    // 2 and 3 fell out of sync; without 4 only 1 has everything.
    let cancel = target(&c, p, None);
    assert_eq!(
        c.refused(&cancel),
        Rejection::UnsafeReassignment { partition: p }
    );
    c.fence(1);
    let cancel = target(&c, p, None);
    assert_eq!(
        c.refused(&cancel),
        Rejection::UnsafeReassignment { partition: p }
    );
    c.expect(p, Some(4), &[4], &[1], &[1, 4]);
}

#[test]
fn invalid_targets_are_refused_whole() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    for wrong in [&[][..], &[1, 2, 2], &[1, 2, 9]] {
        let command = target(&c, p, Some(wrong));
        assert_eq!(
            c.refused(&command),
            Rejection::InvalidTarget { partition: p }
        );
    }
    let stale = target(&c, p, Some(&[1, 2, 4]));
    c.alter(p, &[1, 2]);
    assert!(matches!(
        c.refused(&stale),
        Rejection::StalePartitionEpoch { .. }
    ));
}

/// More replicas: those that come are replicas at once, and it is done when all of them are in sync.
#[test]
fn a_partition_is_given_more_replicas_than_its_topic_was_made_with() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2], 2);
    reassign(&mut c, p, &[3, 1, 2, 4]);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3, 4]));
    assert!(
        c.state().reassignment(&p).is_some(),
        "nobody new is in sync"
    );
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
    c.alter(p, &[1, 2, 3, 4]);
    c.expect(p, Some(1), &[3, 1, 2, 4], &[], &[3, 1, 2, 4]);
    assert_eq!(c.state().reassignment(&p), None);
}

/// Fewer replicas than min ISR: all of them are what is needed (`min(min ISR, replicas)`), and nobody who
/// was eligible to lead stays so.
#[test]
fn a_partition_with_fewer_replicas_than_min_isr_needs_all_of_them() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.alter(p, &[1]);
    assert!(c.partition(p).is_under_min_isr() && !c.partition(p).elr.is_empty());
    // The one that is to stay is not in sync: nothing is dropped before it is.
    reassign(&mut c, p, &[3]);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3]));
    assert!(c.state().reassignment(&p).is_some());
    c.alter(p, &[1, 3]);
    assert_eq!(c.partition(p).replicas, ids(&[3]));
    c.expect(p, Some(3), &[3], &[], &[3]);
    assert!(!c.partition(p).is_under_min_isr());
    // Its only replica goes: it is offline until that one is back.
    c.fence(3);
    assert_eq!(c.partition(p).leader, None);
    c.unfence(3);
    c.expect(p, Some(3), &[3], &[], &[3]);
}

#[test]
fn a_cancelled_change_of_the_number_of_replicas_leaves_what_was() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    reassign(&mut c, p, &[1, 2, 3, 4]);
    let cancel = target(&c, p, None);
    c.ok(&cancel);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3]));
    c.alter(p, &[1, 2]);
    reassign(&mut c, p, &[3, 2]);
    assert!(c.state().reassignment(&p).is_some());
    let cancel = target(&c, p, None);
    c.ok(&cancel);
    assert_eq!(c.state().reassignment(&p), None);
    assert_eq!(c.partition(p).replicas, ids(&[1, 2, 3]));
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
}

/// An election may bring all of the target into sync as well as a proposal does: of an eligible leader
/// when the only member fails or when it comes back, and of the longest log.
#[test]
fn an_election_that_makes_the_target_the_in_sync_set_ends_the_reassignment() {
    let lagging = || {
        let mut c = Cluster::with_brokers(3);
        let p = c.topic(1, &[1, 2, 3], 2);
        c.fence(3);
        c.alter(p, &[1]);
        c.expect(p, Some(1), &[1], &[2], &[1, 2]);
        reassign(&mut c, p, &[2]);
        assert!(c.state().reassignment(&p).is_some());
        (c, p)
    };
    let ended = |c: &Cluster, p| {
        assert_eq!(c.state().reassignment(&p), None);
        assert_eq!(c.partition(p).replicas, ids(&[2]));
        c.expect(p, Some(2), &[2], &[], &[2]);
        assert!(!c.partition(p).is_under_min_isr());
    };
    let (mut c, p) = lagging();
    c.fence(1);
    ended(&c, p);

    let (mut c, p) = lagging();
    c.fence(2);
    c.fence(1);
    c.expect(p, None, &[], &[1, 2], &[1, 2]);
    c.unfence(2);
    ended(&c, p);

    let (mut c, p) = lagging();
    c.fence(2);
    c.register(1, 1, &[p]);
    c.register(2, 1, &[p]);
    c.expect(p, None, &[], &[], &[1, 2]);
    c.unfence(1);
    c.unfence(2);
    let claim = |n, log_end| ReplicaClaim {
        broker: b(n),
        node_epoch: c.epoch(n),
        last_epoch: Some(LeaderEpoch::new(0)),
        log_end: Offset::new(log_end).unwrap(),
    };
    let recover = Command::RecoverPartition {
        partition: p,
        partition_epoch: c.partition(p).partition_epoch,
        claims: vec![claim(1, 4), claim(2, 5)],
    };
    let CommandResult::PartitionElected { partition } = c.ok(&recover) else {
        panic!("no leader was elected");
    };
    assert_eq!(partition, c.partition(p));
    ended(&c, p);
}

fn alter_min_isr(min_isr: Option<u32>) -> Command {
    Command::AlterTopic {
        name: topic_name("topic-1"),
        change: TopicChange {
            min_isr,
            ..TopicChange::default()
        },
    }
}

/// A partition with fewer replicas than min ISR moves, grows and shrinks without refusing a write: what it
/// needs rises only once the data is there.
#[test]
fn min_isr_does_not_rise_before_the_data_is_copied() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    let needs = |c: &Cluster, wanted| {
        let partition = c.partition(p);
        assert!(!partition.is_under_min_isr());
        assert_eq!(partition.effective_min_isr(), wanted);
    };
    let shrink = target(&c, p, Some(&[1]));
    let one = CommandResult::Placed {
        partitions_changed: 1,
    };
    assert_eq!(c.ok(&shrink), one, "also in the step in which it ends");
    needs(&c, 1);
    reassign(&mut c, p, &[2]);
    needs(&c, 1);
    c.ok(&alter_min_isr(Some(1)));
    c.ok(&alter_min_isr(None));
    needs(&c, 1);
    c.alter(p, &[1, 2]);
    c.expect(p, Some(2), &[2], &[], &[2]);
    needs(&c, 1);
    reassign(&mut c, p, &[2, 3, 4]);
    needs(&c, 1);
    c.ok(&alter_min_isr(Some(3)));
    c.alter(p, &[2, 3]);
    needs(&c, 1);
    c.alter(p, &[2, 3, 4]);
    needs(&c, 3);
    // One that is taken back leaves what was needed before, also if it was redirected.
    c.ok(&alter_min_isr(Some(2)));
    reassign(&mut c, p, &[1]);
    needs(&c, 2);
    reassign(&mut c, p, &[1, 2]);
    needs(&c, 2);
    let cancel = target(&c, p, None);
    c.ok(&cancel);
    needs(&c, 2);
    assert_eq!(c.partition(p).min_isr, 2);
}

/// As in Kafka, new partitions have as many replicas as the first one is to have, and min ISR is at most
/// that.
#[test]
fn new_partitions_have_as_many_replicas_as_the_first() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2], 2);
    reassign(&mut c, p, &[1, 2, 3]);
    let add = |now, replicas: &[i32]| {
        place(PlacementCommand::AddPartitions {
            topic: topic_name("topic-1"),
            partitions_now: now,
            replicas: vec![ids(replicas)],
        })
    };
    assert!(matches!(
        c.refused(&add(1, &[2, 1])),
        Rejection::InvalidReplicationFactor {
            found: 2,
            expected: 3,
            ..
        }
    ));
    c.ok(&add(1, &[2, 3, 1]));
    c.ok(&alter_min_isr(Some(3)));
    reassign(&mut c, p, &[1]);
    c.expect(p, Some(1), &[1], &[], &[1]);
    c.ok(&add(2, &[2]));
    assert!(matches!(
        c.refused(&alter_min_isr(Some(2))),
        Rejection::InvalidMinIsr {
            found: 2,
            replication_factor: 1
        }
    ));
    // What it was set to before is no reason to refuse other settings, nor to refuse it said again.
    c.ok(&alter_min_isr(None));
    c.ok(&alter_min_isr(Some(3)));
    c.ok(&alter_min_isr(Some(1)));
}

#[test]
fn leaders_return_to_the_preferred_replica_when_it_is_in_sync() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(1);
    c.expect(p, Some(2), &[2, 3], &[], &[2, 3]);
    let elect = place(PlacementCommand::ElectPreferred {
        partitions: vec![p],
    });
    c.unfence(1);
    let nothing = CommandResult::Placed {
        partitions_changed: 0,
    };
    assert_eq!(c.ok(&elect), nothing, "it is not in sync yet");
    c.alter(p, &[1, 2, 3]);
    assert_eq!(
        c.ok(&elect),
        CommandResult::Placed {
            partitions_changed: 1
        }
    );
    c.expect(p, Some(1), &[1, 2, 3], &[], &[1, 2, 3]);
    assert_eq!(c.ok(&elect), nothing);
    // Another order is another preferred leader, at once.
    reassign(&mut c, p, &[3, 1, 2]);
    assert_eq!(c.partition(p).replicas, ids(&[3, 1, 2]));
    assert_eq!(
        c.ok(&elect),
        CommandResult::Placed {
            partitions_changed: 1
        }
    );
    assert_eq!(c.partition(p).leader, Some(b(3)));
}

#[test]
fn partitions_are_added_once() {
    let mut c = Cluster::with_brokers(3);
    let first = c.topic(1, &[1, 2, 3], 2);
    let add = place(PlacementCommand::AddPartitions {
        topic: topic_name("topic-1"),
        partitions_now: 1,
        replicas: vec![ids(&[2, 3, 1]), ids(&[3, 1, 2])],
    });
    assert_eq!(
        c.ok(&add),
        CommandResult::Placed {
            partitions_changed: 2
        }
    );
    let topic = c.state().topic(&topic_name("topic-1")).unwrap();
    assert_eq!(topic.partitions, 3);
    assert_eq!(
        c.partition(PartitionId::new(first.topic, 2)).leader,
        Some(b(3))
    );
    assert!(matches!(
        c.refused(&add),
        Rejection::InvalidPartitionCount { .. }
    ));
}

fn restored(c: &Cluster) -> u64 {
    let mut image = Vec::new();
    c.machine.freeze().write_to(&mut image).unwrap();
    machine().0.restore(&mut image.as_slice()).unwrap().hash()
}

#[test]
fn an_image_holds_everything_that_is_under_way() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    let quiet: fn(&ClusterState) -> bool = |s| s.reassignments().next().is_none();
    assert!(quiet(c.state()));
    let plain = c.state().hash();
    reassign(&mut c, p, &[4, 2, 3]);
    c.ok(&place(PlacementCommand::SetDraining {
        broker: b(1),
        draining: true,
    }));
    c.ok(&place(PlacementCommand::SetRebalancing {
        rebalancing: true,
    }));
    assert!(c.state().is_draining(b(1)) && c.state().is_rebalancing());
    assert_ne!(c.state().hash(), plain);
    assert_eq!(restored(&c), c.state().hash());
    c.ok(&place(PlacementCommand::SetDraining {
        broker: b(1),
        draining: false,
    }));
    c.ok(&place(PlacementCommand::SetRebalancing {
        rebalancing: false,
    }));
    c.ok(&Command::DeleteTopic {
        name: topic_name("topic-1"),
    });
    assert!(quiet(c.state()));
    assert_eq!(restored(&c), c.state().hash());
}

/// Anything may happen between the steps of a reassignment: the invariants, which the harness checks
/// after each command, hold, and nobody who holds all committed records is dropped for one who does not.
#[test]
fn random_histories_of_reassignment_keep_the_invariants() {
    let mut state = 9u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i32::try_from((state >> 33) % below).unwrap()
    };
    let (mut begun, mut ended) = (0, 0);
    let mut sizes = BTreeSet::new();
    for _ in 0..60 {
        let mut c = Cluster::with_brokers(6);
        let p = c.topic(1, &[1, 2, 3], 2);
        for _ in 0..120 {
            let broker = 1 + random(6);
            let before = c.partition(p);
            let pending = c.state().reassignment(&p).is_some();
            let mut proposed = false;
            match random(6) {
                0 => c.fence(broker),
                1 | 2 => c.unfence(broker),
                3 => {
                    let start = random(6);
                    // Mostly three, as many as the topic was made with, else one to five.
                    let count = if random(3) == 0 { 1 + random(5) } else { 3 };
                    let step = [1, 5, 2][usize::try_from(random(3)).unwrap()];
                    let to: Vec<i32> = (0..count).map(|i| 1 + (start + i * step) % 6).collect();
                    let command = if random(5) == 0 {
                        target(&c, p, None)
                    } else {
                        target(&c, p, Some(&to))
                    };
                    begun += u32::from(c.run(&command).into_result().is_ok());
                }
                _ => {
                    let Some(leader) = before.leader else {
                        continue;
                    };
                    let active = before.replicas.iter().filter(|r| c.state().is_active(**r));
                    let joins: Vec<i32> = active
                        .filter(|r| {
                            **r == leader || before.isr.contains(r) || r.get() % 2 == random(2)
                        })
                        .map(|r| r.get())
                        .collect();
                    let proposal = c.proposal(p, &joins);
                    c.propose(leader.get(), proposal).unwrap();
                    proposed = true;
                    ended += u32::from(pending && c.state().reassignment(&p).is_none());
                }
            }
            let after = c.partition(p);
            // Who a leader proposes has everything; whatever else happens, somebody who had it stays.
            let held = proposed
                || before
                    .isr
                    .iter()
                    .chain(&before.elr)
                    .any(|m| after.isr.contains(m) || after.elr.contains(m));
            assert!(held, "{before:?} -> {after:?}");
            if let Some(under_way) = c.state().reassignment(&p) {
                let is_done = under_way.target.iter().all(|r| after.isr.contains(r));
                assert!(!is_done || after.recovery == RecoveryState::Recovering);
                assert_eq!(after.effective_min_isr(), under_way.original.len().min(2));
                assert!(
                    under_way
                        .target
                        .iter()
                        .chain(&under_way.original)
                        .all(|r| after.is_replica(*r))
                );
            } else {
                sizes.insert(after.replicas.len());
            }
        }
    }
    assert!(begun > 300 && ended > 60, "{begun} {ended}");
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}
