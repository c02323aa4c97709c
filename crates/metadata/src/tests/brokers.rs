//! Registration, fencing, shutdown, producer ids, the formation of the cluster.

use rivven_core_types::{ClusterId, FencedState, NodeEpoch, PartitionId, RaftNodeId};

use super::support::{Cluster, b, registration};
use crate::{Command, CommandResult, PRODUCER_ID_BLOCK, Rejection};

#[test]
fn nothing_happens_before_the_cluster_is_formed_and_it_is_formed_once() {
    let mut c = Cluster::blank();
    assert_eq!(c.refused(&registration(1, 1, &[])), Rejection::NotFormed);
    let [ours, theirs] = [[1; 16], [2; 16]].map(ClusterId::from_bytes);
    c.ok(&Command::FormCluster { cluster_id: ours });
    let hash = c.state().hash();
    c.ok(&Command::FormCluster { cluster_id: ours });
    assert_eq!(c.state().hash(), hash);
    assert_eq!(
        c.refused(&Command::FormCluster { cluster_id: theirs }),
        Rejection::ForeignCluster { ours, theirs }
    );
    assert_eq!(c.state().cluster_id(), Some(ours));
}

#[test]
fn a_broker_keeps_its_number_and_gets_the_log_index_as_node_epoch() {
    let mut c = Cluster::with_brokers(2);
    let index = c.index;
    assert_eq!(
        c.register(1, 1, &[]).get(),
        i64::try_from(index + 1).unwrap()
    );
    assert_eq!(
        c.register(1, 2, &[]).get(),
        i64::try_from(index + 2).unwrap()
    );
    let record = c.state().broker(b(1)).unwrap();
    assert_eq!(record.state, FencedState::Fenced);
    assert_eq!(c.state().broker_by_name(&record.info.name), Some(record));
    assert_eq!(c.state().broker_by_raft_id(record.raft_id), Some(record));
    assert_eq!(
        c.register(3, 1, &[]).get(),
        i64::try_from(index + 3).unwrap()
    );
}

#[test]
fn a_raft_id_is_never_shared_nor_reused_in_another_life() {
    let mut c = Cluster::with_brokers(2);
    let taken = c.state().broker(b(1)).unwrap().raft_id;
    for (n, life) in [(2, 1), (1, 2)] {
        let mut command = registration(n, life, &[]);
        if let Command::RegisterBroker { raft_id, .. } = &mut command {
            *raft_id = taken;
        }
        assert_eq!(
            c.refused(&command),
            Rejection::RaftIdInUse {
                raft_id: taken,
                owner: b(1)
            }
        );
    }
    assert!(c.state().broker_by_raft_id(RaftNodeId::new(7)).is_none());
}

#[test]
fn b15_kafka_18106_an_unclean_registration_moves_leadership_and_epoch_at_once() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    let q = c.topic(2, &[1, 2, 3], 2);
    // The controller has not noticed that number 1 died; it comes back having lost records.
    c.register(1, 1, &[p]);
    for id in [p, q] {
        c.expect(id, Some(2), &[2, 3], &[], &[2, 3]);
        assert_eq!(c.partition(id).leader_epoch.get(), 1);
    }
    assert_eq!(c.state().leaderships_of(b(1)), 0);
}

#[test]
fn b15_kafka_18106_a_lossy_replica_is_never_elected_in_the_step_that_registers_it() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 2);
    let q = c.topic(2, &[1, 2], 2);
    c.fence(2);
    c.expect(p, Some(1), &[1], &[2], &[1, 2]);
    c.register(1, 1, &[p]);
    c.expect(p, None, &[], &[2], &[1, 2]);
    c.expect(q, None, &[], &[1, 2], &[1, 2]);
    c.unfence(1);
    c.expect(p, None, &[], &[2], &[1, 2]);
    c.expect(q, Some(1), &[1], &[2], &[1, 2]);
}

#[test]
fn another_incarnation_has_lost_everything() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 2);
    c.fence(2);
    c.register(2, 2, &[]);
    c.expect(p, Some(1), &[1], &[], &[1, 2]);
}

#[test]
fn another_log_directory_has_lost_everything() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 2);
    let mut command = registration(1, 1, &[]);
    if let Command::RegisterBroker { log_dir, .. } = &mut command {
        *log_dir = rivven_core_types::LogDirId::from_bytes([9; 16]);
    }
    c.ok(&command);
    c.expect(p, Some(2), &[2], &[], &[1, 2]);
}

#[test]
fn b27_kafka_13173_two_brokers_fenced_together_each_act_on_what_the_other_left() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    let q = c.topic(2, &[2, 1, 3], 2);
    let commands: Vec<Command> = [1, 2]
        .map(|n| Command::FenceBroker {
            broker: b(n),
            node_epoch: c.epoch(n),
        })
        .to_vec();
    for command in &commands {
        c.ok(command);
    }
    // Computed from one old state, the second would have put the fenced first in charge.
    c.expect(p, Some(3), &[3], &[2], &[2, 3]);
    c.expect(q, Some(3), &[3], &[2], &[2, 3]);
}

#[test]
fn a_controlled_shutdown_hands_over_and_is_final_for_that_life() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    let node_epoch = c.epoch(1);
    c.shut_down(1);
    c.expect(p, Some(2), &[2], &[], &[2]);
    assert_eq!(c.state().leaderships_of(b(1)), 0);
    let unfence = Command::UnfenceBroker {
        broker: b(1),
        node_epoch,
    };
    assert_eq!(
        c.refused(&unfence),
        Rejection::BrokerShuttingDown { broker: b(1) }
    );
    c.fence(1);
    assert_eq!(
        c.refused(&unfence),
        Rejection::BrokerShuttingDown { broker: b(1) }
    );
    c.register(1, 1, &[]);
    assert!(matches!(
        c.refused(&unfence),
        Rejection::StaleNodeEpoch { .. }
    ));
    c.unfence(1);
    c.alter(p, &[1, 2]);
}

#[test]
fn a_shutdown_with_nobody_to_hand_over_to_leaves_an_eligible_leader_behind() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    c.fence(2);
    c.shut_down(1);
    c.expect(p, None, &[], &[1], &[1]);
    c.register(1, 1, &[]);
    c.unfence(1);
    c.expect(p, Some(1), &[1], &[], &[1]);
}

#[test]
fn fencing_again_and_fencing_another_life_change_nothing() {
    let mut c = Cluster::with_brokers(2);
    c.topic(1, &[1, 2], 1);
    let old = c.epoch(1);
    c.fence(1);
    let hash = c.state().hash();
    c.fence(1);
    assert_eq!(c.state().hash(), hash);
    c.register(1, 1, &[]);
    c.unfence(1);
    assert!(matches!(
        c.refused(&Command::FenceBroker {
            broker: b(1),
            node_epoch: old
        }),
        Rejection::StaleNodeEpoch { .. }
    ));
    assert!(c.state().is_active(b(1)));
}

#[test]
fn producer_ids_are_handed_out_once() {
    let mut c = Cluster::with_brokers(2);
    let mut next = 0;
    for n in [1, 2, 1] {
        let node_epoch = c.epoch(n);
        let result = c.ok(&Command::AllocateProducerIds {
            broker: b(n),
            node_epoch,
        });
        let CommandResult::ProducerIdBlock { first, len } = result else {
            panic!("{result:?}");
        };
        assert_eq!((first.get(), len), (next, PRODUCER_ID_BLOCK));
        next += i64::from(len);
    }
    assert!(matches!(
        c.refused(&Command::AllocateProducerIds {
            broker: b(1),
            node_epoch: NodeEpoch::new(0)
        }),
        Rejection::StaleNodeEpoch { .. }
    ));
}

#[test]
fn the_thousand_and_first_broker_is_refused() {
    let mut c = Cluster::with_brokers(0);
    for n in 1..=1000 {
        c.register(n, 1, &[]);
    }
    assert_eq!(
        c.refused(&registration(1001, 1, &[])),
        Rejection::TooManyBrokers { max: 1000 }
    );
    c.register(1000, 2, &[]);
}

#[test]
fn a_broker_is_indexed_with_its_partitions() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2], 1);
    let q = c.topic(2, &[2, 3], 1);
    let of = |c: &Cluster, n| -> Vec<PartitionId> {
        c.state().partitions_of(b(n)).map(|p| p.id).collect()
    };
    assert_eq!(of(&c, 1), [p]);
    assert_eq!(of(&c, 2), [p, q]);
    assert_eq!(of(&c, 3), [q]);
    assert_eq!(c.state().leaderships_of(b(2)), 1);
    c.ok(&Command::DeleteTopic {
        name: super::support::topic_name("topic-1"),
    });
    assert_eq!(of(&c, 1), []);
    assert_eq!(of(&c, 2), [q]);
}
