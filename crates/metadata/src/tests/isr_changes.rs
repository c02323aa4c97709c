//! AlterPartition: the checks, their order, and the bugs that they hold off.

use rivven_core_types::{
    AlterPartitionError, LeaderEpoch, NodeEpoch, PartitionEpoch, PartitionId, RecoveryState,
};

use super::support::{Cluster, b, topic_id};
use crate::{Command, Rejection};

fn led_by_one() -> (Cluster, PartitionId) {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3], 2);
    // Two leader changes, so that there are lower epochs to come with.
    c.fence(1);
    c.unfence(1);
    c.fence(2);
    c.fence(3);
    c.unfence(2);
    c.unfence(3);
    let leader = c.partition(p).leader.unwrap().get();
    c.alter(p, &[1, 2, 3]);
    assert!(c.partition(p).leader_epoch.get() > 0, "led by {leader}");
    (c, p)
}

#[test]
fn the_checks_come_in_kafkas_order_kip_497() {
    let (mut c, p) = led_by_one();
    let leader = c.partition(p).leader.unwrap().get();
    let other = if leader == 2 { 3 } else { 2 };
    let good = c.proposal(p, &[1, 2, 3]);

    let mut unknown = good.clone();
    unknown.partition = PartitionId::new(topic_id(9), 0);
    unknown.leader_epoch = LeaderEpoch::new(99);
    assert_eq!(
        c.propose(leader, unknown),
        Err(AlterPartitionError::UnknownPartition)
    );

    // A higher epoch comes before everything else, even before a lower one.
    let mut ahead = good.clone();
    ahead.partition_epoch = PartitionEpoch::new(good.partition_epoch.get() + 1);
    ahead.leader_epoch = LeaderEpoch::new(0);
    assert_eq!(
        c.propose(other, ahead),
        Err(AlterPartitionError::NotController)
    );

    let mut fenced = good.clone();
    fenced.leader_epoch = LeaderEpoch::new(good.leader_epoch.get() - 1);
    fenced.partition_epoch = PartitionEpoch::new(0);
    assert_eq!(
        c.propose(other, fenced),
        Err(AlterPartitionError::FencedLeaderEpoch)
    );

    let mut stale = good;
    stale.partition_epoch = PartitionEpoch::new(0);
    stale.new_isr.clear();
    assert_eq!(
        c.propose(other, stale.clone()),
        Err(AlterPartitionError::InvalidRequest)
    );
    assert_eq!(
        c.propose(leader, stale),
        Err(AlterPartitionError::InvalidUpdateVersion)
    );
}

#[test]
fn an_isr_must_be_a_set_of_replicas_with_the_leader() {
    let (mut c, p) = led_by_one();
    let leader = c.partition(p).leader.unwrap().get();
    for isr in [
        vec![],
        vec![if leader == 3 { 2 } else { 3 }],
        vec![leader, 4],
        vec![leader, leader],
        vec![1, 2, 3, 1],
    ] {
        let proposal = c.proposal(p, &isr);
        let before = c.partition(p);
        assert_eq!(
            c.propose(leader, proposal),
            Err(AlterPartitionError::InvalidRequest),
            "{isr:?}"
        );
        assert_eq!(c.partition(p), before);
    }
}

#[test]
fn b28_kafka_14154_a_proposal_ahead_of_the_controller_is_not_its_to_judge() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    for (leader_epoch, partition_epoch) in [(1, 0), (0, 1), (5, 9)] {
        let mut proposal = c.proposal(p, &[1, 2]);
        proposal.leader_epoch = LeaderEpoch::new(leader_epoch);
        proposal.partition_epoch = PartitionEpoch::new(partition_epoch);
        // The sender does not even lead here: it does elsewhere, in a later state.
        assert_eq!(
            c.propose(2, proposal),
            Err(AlterPartitionError::NotController)
        );
    }
}

#[test]
fn b9_kip_841_kafka_13916_a_fenced_or_leaving_follower_cannot_join_the_isr() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    c.fence(2);
    c.shut_down(3);
    c.expect(p, Some(1), &[1], &[], &[1]);
    for joiner in [2, 3] {
        let proposal = c.proposal(p, &[1, joiner]);
        assert_eq!(
            c.propose(1, proposal),
            Err(AlterPartitionError::IneligibleReplica)
        );
    }
    c.unfence(2);
    c.alter(p, &[1, 2]);
}

#[test]
fn b10_kip_903_kafka_14139_a_delayed_expansion_with_an_earlier_life_is_refused() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    c.alter(p, &[1]);
    // Number 2 is caught up and about to be let in. Its disk is replaced meanwhile.
    let delayed = c.proposal(p, &[1, 2]);
    c.register(2, 2, &[]);
    c.unfence(2);
    assert_eq!(c.partition(p).partition_epoch, delayed.partition_epoch);
    assert_eq!(
        c.propose(1, delayed),
        Err(AlterPartitionError::IneligibleReplica)
    );
    c.expect(p, Some(1), &[1], &[], &[1]);
}

#[test]
fn b12_leaving_and_rejoining_shows_in_the_epochs_even_if_seen_as_one_change() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    let seen = c.partition(p);
    let life = c.epoch(2);
    c.register(2, 1, &[]);
    c.unfence(2);
    c.alter(p, &[1, 2]);
    let now = c.partition(p);
    assert_eq!((&seen.isr, seen.leader), (&now.isr, now.leader));
    assert_eq!(now.partition_epoch.get(), seen.partition_epoch.get() + 2);
    assert!(c.epoch(2) > life);
    // The same for the leader: it is never the leader of one epoch in two lives.
    c.alter(p, &[1]);
    let seen = c.partition(p);
    c.register(1, 1, &[]);
    c.unfence(1);
    let now = c.partition(p);
    assert_eq!(now.leader, Some(b(1)));
    assert_eq!(now.leader_epoch.get(), seen.leader_epoch.get() + 2);
}

#[test]
fn two_changes_on_one_partition_epoch_cannot_both_win() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    let (one, two) = (c.proposal(p, &[1, 2]), c.proposal(p, &[1, 3]));
    assert!(c.propose(1, one).is_ok());
    assert_eq!(
        c.propose(1, two),
        Err(AlterPartitionError::InvalidUpdateVersion)
    );
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
}

#[test]
fn the_same_isr_again_moves_the_partition_epoch_and_so_voids_every_other_copy() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    let small = c.proposal(p, &[1, 2]);
    assert!(c.propose(1, small).is_ok());
    let before = c.partition(p);
    let expansion = c.proposal(p, &[1, 2, 3]);
    let withdrawal = c.proposal(p, &[2, 1]);
    let after = c.propose(1, withdrawal).unwrap();
    assert_eq!(Some(after.partition_epoch), before.partition_epoch.next());
    assert_eq!(
        (after.leader_epoch, &after.isr),
        (before.leader_epoch, &before.isr)
    );
    assert_eq!(c.partition(p), after);
    assert_eq!(
        c.propose(1, expansion),
        Err(AlterPartitionError::InvalidUpdateVersion),
        "a copy of the withdrawn proposal that comes late"
    );
}

#[test]
fn a_sender_of_an_earlier_life_is_refused_whole() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    let proposal = c.proposal(p, &[1]);
    let rejection = c.refused(&Command::AlterPartitions {
        broker: b(1),
        node_epoch: NodeEpoch::new(1),
        proposals: vec![proposal.clone()],
    });
    assert!(matches!(rejection, Rejection::StaleNodeEpoch { .. }));
    let rejection = c.refused(&Command::AlterPartitions {
        broker: b(7),
        node_epoch: NodeEpoch::new(1),
        proposals: vec![proposal],
    });
    assert_eq!(rejection, Rejection::UnknownBroker { broker: b(7) });
}

#[test]
fn too_many_proposals_in_one_request_are_refused() {
    let mut c = Cluster::with_brokers(1);
    let p = c.topic(1, &[1], 1);
    let proposal = c.proposal(p, &[1]);
    let node_epoch = c.epoch(1);
    let rejection = c.refused(&Command::AlterPartitions {
        broker: b(1),
        node_epoch,
        proposals: vec![proposal; 10_001],
    });
    assert!(matches!(rejection, Rejection::TooManyItems { .. }));
}

#[test]
fn a_recovering_leader_stays_alone_until_it_has_recovered() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 1);
    let mut relapse = c.proposal(p, &[1]);
    relapse.recovery = RecoveryState::Recovering;
    assert_eq!(
        c.propose(1, relapse),
        Err(AlterPartitionError::InvalidRequest)
    );
    c.alter(p, &[1]);
    c.fence(1);
    c.ok(&Command::ElectUnclean { partition: p });
    let crowd = c.proposal(p, &[2]);
    c.unfence(1);
    let mut crowd = crowd;
    crowd.new_isr = c.proposal(p, &[1, 2]).new_isr;
    assert_eq!(crowd.recovery, RecoveryState::Recovering);
    assert_eq!(
        c.propose(2, crowd.clone()),
        Err(AlterPartitionError::InvalidRequest)
    );
    crowd.recovery = RecoveryState::Recovered;
    let recovered = c.propose(2, crowd).unwrap();
    assert_eq!(recovered.recovery, RecoveryState::Recovered);
    c.expect(p, Some(2), &[1, 2], &[], &[1, 2]);
}
