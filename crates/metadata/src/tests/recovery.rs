//! When nobody electable is left: recovery by claims, and the operator's unclean election.

use rivven_core_types::{LeaderEpoch, Offset, PartitionId, RecoveryState};

use super::support::{Cluster, b};
use crate::{Command, CommandResult, Rejection, ReplicaClaim};

/// All three lose power while each was in the ISR, and come back having lost records.
fn after_power_loss() -> (Cluster, PartitionId) {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    for n in 1..=3 {
        c.fence(n);
    }
    c.expect(p, None, &[], &[2, 3], &[2, 3]);
    for n in 1..=3 {
        c.register(n, 1, &[p]);
    }
    c.expect(p, None, &[], &[], &[2, 3]);
    (c, p)
}

fn claim(c: &Cluster, n: i32, last_epoch: i32, log_end: i64) -> ReplicaClaim {
    ReplicaClaim {
        broker: b(n),
        node_epoch: c.epoch(n),
        last_epoch: (last_epoch >= 0).then(|| LeaderEpoch::new(last_epoch)),
        log_end: Offset::new(log_end).unwrap(),
    }
}

fn recover(c: &Cluster, p: PartitionId, claims: Vec<ReplicaClaim>) -> Command {
    Command::RecoverPartition {
        partition: p,
        partition_epoch: c.partition(p).partition_epoch,
        claims,
    }
}

#[test]
fn kip_966_recovery_waits_for_every_last_known_member() {
    let (mut c, p) = after_power_loss();
    c.unfence(1);
    c.unfence(2);
    c.expect(p, None, &[], &[], &[2, 3]);
    let some = recover(&c, p, vec![claim(&c, 1, 0, 9), claim(&c, 2, 0, 5)]);
    assert_eq!(c.refused(&some), Rejection::MissingClaim { broker: b(3) });
    // It has registered, but does not serve yet.
    let all = recover(&c, p, vec![claim(&c, 2, 0, 5), claim(&c, 3, 0, 7)]);
    let rejection = c.refused(&all);
    assert_eq!(rejection, Rejection::MissingClaim { broker: b(3) });
    assert!(rejection.is_retriable());
    c.unfence(3);
    assert_eq!(c.state().needing_recovery().count(), 1);
    let CommandResult::PartitionElected { partition } = c.ok(&all) else {
        panic!("not elected");
    };
    assert_eq!(partition.leader, Some(b(3)));
    assert_eq!(partition.recovery, RecoveryState::Recovered);
    c.expect(p, Some(3), &[3], &[], &[2, 3]);
    assert_eq!(c.state().needing_recovery().count(), 0);
}

#[test]
fn the_last_epoch_counts_before_the_length_and_replica_order_breaks_ties() {
    let cases = [
        ([(1, 5), (2, 3)], 3),
        ([(2, 3), (1, 5)], 2),
        ([(-1, 0), (0, 1)], 3),
        ([(2, 4), (2, 4)], 2),
        ([(-1, 0), (-1, 0)], 2),
    ];
    for ([two, three], winner) in cases {
        let (mut c, p) = after_power_loss();
        c.unfence(2);
        c.unfence(3);
        let claims = vec![claim(&c, 3, three.0, three.1), claim(&c, 2, two.0, two.1)];
        let command = recover(&c, p, claims);
        c.ok(&command);
        assert_eq!(c.partition(p).leader, Some(b(winner)));
    }
}

#[test]
fn claims_of_strangers_other_lives_twins_or_the_future_are_refused() {
    let (mut c, p) = after_power_loss();
    for n in 1..=3 {
        c.unfence(n);
    }
    let (two, three) = (claim(&c, 2, 0, 5), claim(&c, 3, 0, 7));
    let mut stranger = two;
    stranger.broker = b(4);
    let mut past = two;
    past.node_epoch = rivven_core_types::NodeEpoch::new(1);
    let future = claim(&c, 2, 99, 5);
    let refuse = |c: &mut Cluster, claims| {
        let command = recover(c, p, claims);
        c.refused(&command)
    };
    for bad in [stranger, future] {
        assert_eq!(
            refuse(&mut c, vec![bad, three]),
            Rejection::InvalidClaim { broker: bad.broker }
        );
    }
    assert_eq!(
        refuse(&mut c, vec![two, two, three]),
        Rejection::InvalidClaim { broker: b(2) }
    );
    assert!(matches!(
        refuse(&mut c, vec![past, three]),
        Rejection::StaleNodeEpoch { .. }
    ));
    assert!(matches!(
        refuse(&mut c, vec![two; 16]),
        Rejection::TooManyItems { .. }
    ));
    let stale = recover(&c, p, vec![two, three]);
    c.ok(&Command::ElectUnclean { partition: p });
    assert_eq!(
        c.refused(&stale),
        Rejection::ElectionNotNeeded { leader: b(2) }
    );
}

#[test]
fn recovery_builds_on_the_partition_epoch_and_waits_for_eligible_leaders() {
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 2);
    c.fence(2);
    let old = c.partition(p).partition_epoch;
    c.register(1, 1, &[p]);
    c.unfence(1);
    c.expect(p, None, &[], &[2], &[1, 2]);
    let command = recover(&c, p, vec![claim(&c, 1, 0, 5)]);
    assert_eq!(
        c.refused(&command),
        Rejection::AwaitingEligibleReplica { broker: b(2) }
    );
    let stale = Command::RecoverPartition {
        partition: p,
        partition_epoch: old,
        claims: Vec::new(),
    };
    assert!(matches!(
        c.refused(&stale),
        Rejection::StalePartitionEpoch { .. }
    ));
}

/// A blank log is not a report: the records that only the old disk held would be given up silently.
#[test]
fn a_member_that_lost_its_disk_does_not_report_for_the_one_it_was() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[3], 1);
    c.fence(3);
    c.register(3, 2, &[]);
    c.unfence(3);
    c.expect(p, None, &[], &[], &[3]);
    let blank = recover(&c, p, vec![claim(&c, 3, -1, 0)]);
    assert_eq!(c.refused(&blank), Rejection::MissingClaim { broker: b(3) });
    // Nor is it proposed again and again.
    assert_eq!(c.state().needing_recovery().count(), 0);
    // Nor does it report when its new life ends well, or after another disk.
    for life in [2, 3] {
        c.register(3, life, &[]);
        c.unfence(3);
        let later = recover(&c, p, vec![claim(&c, 3, 0, 9)]);
        assert_eq!(c.refused(&later), Rejection::MissingClaim { broker: b(3) });
    }
    assert_eq!(c.state().lost_members(&p), [b(3)]);
    // An operator who accepts the loss is the way out.
    c.ok(&Command::ElectUnclean { partition: p });
    c.expect(p, Some(3), &[3], &[], &[3]);
    assert!(c.state().lost_members(&p).is_empty());
}

#[test]
fn a_disk_lost_after_the_log_was_cut_counts_until_the_member_is_in_sync_again() {
    let (mut c, p) = after_power_loss();
    // Out of ISR and ELR by now, and wiped only then.
    c.register(3, 2, &[]);
    for n in 1..=3 {
        c.unfence(n);
    }
    let all = recover(&c, p, vec![claim(&c, 2, 0, 5), claim(&c, 3, 0, 7)]);
    assert_eq!(c.refused(&all), Rejection::MissingClaim { broker: b(3) });
    // Number 3 is asked last: number 2 has what is left.
    c.ok(&Command::ElectUnclean { partition: p });
    c.expect(p, Some(2), &[2], &[], &[2]);
    assert!(c.state().lost_members(&p).is_empty());

    // While a leader is left it leads, and the member that has caught up counts again.
    let mut c = Cluster::with_brokers(2);
    let p = c.topic(1, &[1, 2], 2);
    c.register(2, 2, &[]);
    c.expect(p, Some(1), &[1], &[], &[1, 2]);
    assert_eq!(c.state().lost_members(&p), [b(2)]);
    c.unfence(2);
    c.alter(p, &[1, 2]);
    assert!(c.state().lost_members(&p).is_empty());
}

#[test]
fn an_unclean_election_prefers_any_old_log_to_a_new_disk() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[3, 1], 1);
    c.alter(p, &[3]);
    c.register(3, 2, &[]);
    c.unfence(3);
    c.expect(p, None, &[], &[], &[3]);
    c.ok(&Command::ElectUnclean { partition: p });
    c.expect(p, Some(1), &[1], &[], &[1]);
}

#[test]
fn b17_an_unclean_election_happens_only_when_asked_for_and_is_recorded() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    let command = Command::ElectUnclean { partition: p };
    assert_eq!(
        c.refused(&command),
        Rejection::ElectionNotNeeded { leader: b(1) }
    );
    c.alter(p, &[1]);
    c.fence(1);
    // Numbers 2 and 3 are alive but lack records: they do not lead by themselves.
    c.expect(p, None, &[], &[1], &[1]);
    let before = c.partition(p);
    c.ok(&command);
    c.expect(p, Some(2), &[2], &[], &[2]);
    let after = c.partition(p);
    assert_eq!(after.recovery, RecoveryState::Recovering);
    assert_eq!(after.leader_epoch.get(), before.leader_epoch.get() + 1);
    // The old leader comes back and is a follower.
    c.unfence(1);
    c.expect(p, Some(2), &[2], &[], &[2]);
}

#[test]
fn an_unclean_election_needs_somebody_and_prefers_who_was_in_sync() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    c.alter(p, &[1, 3]);
    for n in [2, 1, 3] {
        c.fence(n);
    }
    let command = Command::ElectUnclean { partition: p };
    assert_eq!(c.refused(&command), Rejection::NoActiveReplica { index: 0 });
    c.register(3, 1, &[p]);
    for n in [2, 3] {
        c.unfence(n);
    }
    c.ok(&command);
    c.expect(p, Some(3), &[3], &[], &[3]);
    let unknown = PartitionId::new(p.topic, 1);
    assert_eq!(
        c.refused(&Command::ElectUnclean { partition: unknown }),
        Rejection::UnknownPartition { partition: unknown }
    );
}
