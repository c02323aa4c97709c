//! One scenario per known bug.

use std::time::Duration;

use rivven_core_types::{
    AlterPartitionError, BrokerId, Durability, LeaderEpoch, NodeEpoch, Offset, PartitionState,
    ReplicaLog,
};

use super::support::*;
use crate::core::types::{Acks, FetchReply, OffsetSpec, Output, ReplicaFetched, ReplicaRole};
use crate::error::ReplicationError;

const BOTH: [Durability; 2] = [Durability::Fsync, Durability::Replicated];

fn with_isr(base: &PartitionState, isr: &[i32]) -> PartitionState {
    PartitionState {
        isr: isr.iter().copied().map(broker).collect(),
        partition_epoch: base.partition_epoch.next().unwrap(),
        ..base.clone()
    }
}

fn members(proposal: &rivven_core_types::AlterPartitionProposal) -> Vec<BrokerId> {
    proposal.new_isr.iter().map(|m| m.broker).collect()
}

#[test]
fn kip_101_a_restarted_replica_keeps_what_is_above_its_high_watermark() {
    let [a, b, _c] = trio(Durability::Fsync, 3);
    assert_eq!(a.high_watermark(), at(3));
    let mut b = b.crash(Offset::ZERO);
    assert_eq!(b.high_watermark(), Offset::ZERO, "the checkpoint is stale");
    assert_eq!(b.end(), at(3), "and is no reason to cut");
    // It becomes leader before it has fetched again.
    b.apply(&led_by(&record(Durability::Fsync), 2, &[2, 3]));
    assert_eq!(b.log.contents(), a.log.contents());
}

#[test]
fn kip_101_different_unflushed_tails_are_cut_by_epoch_and_not_merged() {
    let [mut a, mut b, _c] = trio(Durability::Replicated, 3);
    let _id = a.produce(&plain("only-on-a"), Acks::Leader);
    let next = led_by(&record(Durability::Replicated), 2, &[2, 3]);
    b.apply(&next);
    let _id = b.produce(&plain("only-on-b"), Acks::Leader);
    assert_eq!(a.end(), b.end(), "same offset, other record");
    a.apply(&next);
    for _ in 0..3 {
        sync(&mut b, &mut a);
    }
    assert_eq!(a.log.contents(), b.log.contents());
    assert_eq!(a.log.epochs(), b.log.epochs());
}

#[test]
fn kip_279_a_follower_with_an_epoch_that_the_leader_never_saw_converges() {
    // KAFKA-6361: two fast leader changes.
    let [mut a, mut b, mut c] = trio(Durability::Replicated, 2);
    let _id = a.produce(&plain("a0"), Acks::Leader);
    let one = led_by(&record(Durability::Replicated), 2, &[1, 2, 3]);
    b.apply(&one);
    let _id = b.produce(&plain("b1"), Acks::Leader);
    let _id = b.produce(&plain("b1"), Acks::Leader);
    let two = led_by(&one, 1, &[1, 3]);
    a.apply(&two);
    let _id = a.produce(&plain("a2"), Acks::Leader);
    b.apply(&two);
    c.apply(&two);
    for _ in 0..5 {
        sync(&mut a, &mut b);
        sync(&mut a, &mut c);
    }
    assert_eq!(b.log.contents(), a.log.contents());
    assert_eq!(c.log.contents(), a.log.contents());
}

#[test]
fn kafka_10706_epochs_without_records_converge_in_three_round_trips() {
    let [mut a, mut b, _c] = trio(Durability::Replicated, 2);
    let mut current = record(Durability::Replicated);
    for _ in 0..3 {
        // The follower leads twice in a row without a write.
        current = led_by(&current, 2, &[1, 2, 3]);
        b.apply(&current);
    }
    assert_eq!(
        b.log.epochs().len(),
        2,
        "an epoch without records replaces the one before"
    );
    current = led_by(&current, 1, &[1, 3]);
    a.apply(&current);
    let _id = a.produce(&plain("x"), Acks::Leader);
    b.apply(&current);
    for _ in 0..3 {
        sync(&mut a, &mut b);
    }
    assert_eq!(b.log.contents(), a.log.contents());
}

#[test]
fn kafka_7415_a_new_leader_assigns_its_epoch_even_without_a_write() {
    let [_a, mut b, _c] = trio(Durability::Fsync, 2);
    b.apply(&led_by(&record(Durability::Fsync), 2, &[2, 3]));
    let expected = vec![(LeaderEpoch::new(0), at(0)), (LeaderEpoch::new(1), at(2))];
    assert_eq!(b.log.epochs(), expected);
}

#[test]
fn kafka_9491_a_full_truncation_moves_the_high_watermark_with_the_log_start() {
    let [mut a, mut b, _c] = trio(Durability::Fsync, 5);
    let mut d = Node::new(3);
    d.apply(&record(Durability::Fsync));
    let _id = a.delete(Some(at(4)));
    assert_eq!(a.log.log_start(), at(4));
    sync(&mut a, &mut d);
    assert_eq!((d.log.log_start(), d.high_watermark()), (at(4), at(4)));
    sync(&mut a, &mut d);
    assert_eq!(d.end(), at(5));
    sync(&mut a, &mut b);
    assert_eq!(b.log.log_start(), at(4));
}

#[test]
fn kip_497_a_proposed_shrink_does_not_move_the_high_watermark_until_it_is_committed() {
    let [mut a, mut b, _c] = trio(Durability::Fsync, 1);
    let id = a.produce(&plain("x"), Acks::All);
    a.flush();
    a.advance(LAG / 2);
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    a.advance(LAG * 3 / 4);
    let proposal = a.proposals().pop().expect("node 3 lags");
    assert!(!members(&proposal).contains(&broker(3)));
    assert_eq!(a.high_watermark(), at(1), "node 3 may still be elected");
    assert!(!a.acks().contains_key(&id));
    // No answer: the very same proposal goes out again.
    a.core
        .alter_answered(a.now, &proposal, None, &a.view, &mut a.log, &mut a.out);
    let sent = a.proposals().len();
    a.advance(Duration::from_millis(100));
    assert_eq!(a.proposals().len(), sent + 1);
    assert_eq!(a.proposals().pop(), Some(proposal.clone()));
    let committed = with_isr(&record(Durability::Fsync), &[1, 2]);
    a.core.alter_answered(
        a.now,
        &proposal,
        Some(Ok(committed)),
        &a.view,
        &mut a.log,
        &mut a.out,
    );
    assert_eq!(
        a.high_watermark(),
        at(2),
        "committed: it is re-evaluated at once"
    );
    assert!(a.acks()[&id].is_ok());
}

/// A leader with in-sync set {1, 2} and a third replica that is about to join.
fn joining() -> ([Node; 3], PartitionState) {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 2);
    let small = with_isr(&record(Durability::Fsync), &[1, 2]);
    for node in [&mut a, &mut b, &mut c] {
        node.apply(&small);
    }
    ([a, b, c], small)
}

#[test]
fn an_expansion_that_the_controller_applied_counts_before_its_answer_arrives() {
    // KIP-966: between the controller's commit and the answer the joiner may be elected.
    let ([mut a, mut b, mut c], small) = joining();
    sync(&mut a, &mut c);
    let proposal = a.proposals().pop().expect("node 3 holds everything");
    assert_eq!(members(&proposal), vec![broker(1), broker(2), broker(3)]);
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    a.advance(LAG * 3);
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    assert_eq!(a.high_watermark(), at(2), "the joiner does not have it yet");
    a.core.alter_answered(
        a.now,
        &proposal,
        Some(Ok(with_isr(&small, &[1, 2]))),
        &a.view,
        &mut a.log,
        &mut a.out,
    );
    assert_eq!(a.high_watermark(), at(3), "committed without the joiner");
}

#[test]
fn a_refused_joiner_counts_until_the_partition_epoch_has_moved() {
    // A copy of the proposal may be under way and be accepted once the replica is eligible again.
    let ([mut a, mut b, mut c], small) = joining();
    sync(&mut a, &mut c);
    let proposal = a.proposals().pop().expect("node 3 holds everything");
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    a.advance(LAG * 3);
    let refused = || Some(Err(AlterPartitionError::IneligibleReplica));
    a.core
        .alter_answered(a.now, &proposal, refused(), &a.view, &mut a.log, &mut a.out);
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    assert_eq!(a.high_watermark(), at(2), "the joiner does not have it yet");
    let withdrawal = a.proposals().pop().expect("the committed set again");
    assert_eq!(members(&withdrawal), vec![broker(1), broker(2)]);
    a.core.alter_answered(
        a.now,
        &withdrawal,
        refused(),
        &a.view,
        &mut a.log,
        &mut a.out,
    );
    assert_eq!(a.proposals().len(), 2, "not at once again");
    assert_eq!(a.high_watermark(), at(2));
    a.apply(&with_isr(&small, &[1, 2]));
    assert_eq!(a.high_watermark(), at(3));
    assert_eq!(a.core.state.isr, small.isr);
}

#[test]
fn an_old_partition_epoch_keeps_the_maximal_set_until_metadata_arrives() {
    let ([mut a, mut b, mut c], small) = joining();
    sync(&mut a, &mut c);
    let proposal = a.proposals().pop().unwrap();
    let stale = Some(Err(AlterPartitionError::InvalidUpdateVersion));
    a.core
        .alter_answered(a.now, &proposal, stale, &a.view, &mut a.log, &mut a.out);
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    a.advance(LAG * 3);
    assert_eq!(a.high_watermark(), at(2));
    assert_eq!(a.proposals().len(), 1, "nothing new is proposed meanwhile");
    a.apply(&with_isr(&small, &[1, 2]));
    assert_eq!(a.high_watermark(), at(3));
}

#[test]
fn the_min_isr_test_uses_the_committed_set_and_not_the_maximal() {
    let ([mut a, _b, mut c], small) = joining();
    a.apply(&with_isr(&small, &[1]));
    let refused = a.produce(&plain("x"), Acks::All);
    assert!(matches!(
        a.acks()[&refused],
        Err(ReplicationError::NotEnoughReplicas {
            in_sync: 1,
            required: 2
        })
    ));
    assert_eq!(a.end(), at(2), "refused before the append");
    let _one = a.produce(&plain("y"), Acks::Leader);
    a.flush();
    for _ in 0..3 {
        sync(&mut a, &mut c);
    }
    assert_eq!(a.proposals().len(), 1, "the joiner is proposed");
    assert_eq!(
        a.high_watermark(),
        at(2),
        "but until it is committed nothing commits"
    );
}

#[test]
fn kip_841_a_fenced_replica_is_not_proposed_and_does_not_hold_the_high_watermark() {
    // KAFKA-13916 and KAFKA-15021.
    let ([mut a, mut b, mut c], _small) = joining();
    a.view.ineligible.insert(broker(3));
    sync(&mut a, &mut c);
    assert!(a.proposals().is_empty());
    let id = a.produce(&plain("x"), Acks::All);
    a.flush();
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    assert!(
        a.acks()[&id].is_ok(),
        "commits without waiting for the lag time"
    );
}

#[test]
pub(super) fn kip_903_an_earlier_life_of_a_replica_neither_joins_nor_counts() {
    let ([mut a, mut b, mut c], small) = joining();
    let old = c.fetch();
    a.view.node_epochs.insert(broker(3), NodeEpoch::new(20));
    let refused = a.serve(&old);
    assert!(matches!(
        refused,
        Err(ReplicationError::StaleNodeEpoch { .. })
    ));
    assert!(a.proposals().is_empty());
    // A member that registers again counts only from its next fetch on.
    let id = a.produce(&plain("x"), Acks::All);
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    a.view.node_epochs.insert(broker(2), NodeEpoch::new(20));
    a.apply(&with_isr(&small, &[1, 2]));
    a.flush();
    assert!(!a.acks().contains_key(&id));
    b.view.node_epochs.insert(broker(2), NodeEpoch::new(20));
    sync(&mut a, &mut b);
    assert!(a.acks()[&id].is_ok());
}

#[test]
fn kafka_15221_a_fetch_of_another_epoch_changes_nothing() {
    let ([mut a, _b, mut c], small) = joining();
    let old = c.fetch();
    let next = led_by(&small, 1, &[1, 2]);
    a.apply(&next);
    assert!(matches!(
        a.serve(&old),
        Err(ReplicationError::FencedLeaderEpoch { .. })
    ));
    c.apply(&led_by(&next, 1, &[1, 2]));
    let newer = c.fetch();
    assert!(matches!(
        a.serve(&newer),
        Err(ReplicationError::UnknownLeaderEpoch { .. })
    ));
    assert!(a.proposals().is_empty());
    assert!(
        a.core
            .status(&a.log)
            .followers
            .iter()
            .all(|f| f.log_end.is_none())
    );
}

#[test]
fn a_replica_that_is_removed_and_added_again_starts_without_progress() {
    // One metadata delta (KIP-966's analysis): the old log end must not count for the new replica.
    let [mut a, _b, _c] = trio(Durability::Fsync, 2);
    let mut without = with_isr(&record(Durability::Fsync), &[1, 2]);
    without.replicas.retain(|r| *r != broker(3));
    a.apply(&without);
    a.apply(&PartitionState {
        replicas: vec![broker(1), broker(2), broker(3)],
        partition_epoch: without.partition_epoch.next().unwrap(),
        ..without
    });
    let status = a.core.status(&a.log);
    let third = status
        .followers
        .iter()
        .find(|f| f.broker == broker(3))
        .unwrap();
    assert_eq!(third.log_end, None);
}

#[test]
fn fsync_an_unflushed_tail_never_commits_so_its_loss_is_harmless() {
    // The fsync demonstration: one node loses its unsynced tail, comes back and leads.
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 1);
    let id = a.produce(&plain("x"), Acks::All);
    a.flush();
    // Both followers have it in the page cache only.
    for follower in [&mut b, &mut c] {
        let fetch = follower.fetch();
        let answer = a.serve(&fetch);
        follower.take(&fetch, answer);
        let fetch = follower.fetch();
        let _answer = a.serve(&fetch);
    }
    assert!(!a.acks().contains_key(&id));
    assert_eq!(a.high_watermark(), at(1));
    let mut b = b.crash(Offset::ZERO);
    b.apply(&led_by(&record(Durability::Fsync), 2, &[2, 3]));
    assert_eq!(b.end(), at(1), "nothing that was acknowledged is gone");
}

#[test]
fn kafka_19996_under_min_isr_a_replica_at_a_stale_high_watermark_does_not_flap_in() {
    let ([mut a, _b, mut c], small) = joining();
    a.apply(&with_isr(&small, &[1]));
    for i in 0..5 {
        let _id = a.produce(&plain(&format!("one-{i}")), Acks::Leader);
    }
    a.flush();
    a.advance(LAG * 3);
    // It holds the high watermark, but lags: the log end is far off.
    let stuck = c.fetch();
    let _answer = a.serve(&stuck);
    assert!(a.proposals().is_empty());
    sync(&mut a, &mut c);
    sync(&mut a, &mut c);
    assert_eq!(a.proposals().len(), 1, "caught up, it joins");
}

#[test]
pub(super) fn a_log_never_leads_an_epoch_that_it_already_holds() {
    // After a restart that lost a tail, the same epoch would get a second history.
    let [mut a, mut b, _c] = trio(Durability::Replicated, 2);
    let _id = a.produce(&plain("lost"), Acks::Leader);
    sync(&mut a, &mut b);
    let mut a = a.crash(Offset::ZERO);
    a.apply(&record(Durability::Replicated));
    assert_eq!(a.core.status(&a.log).role, ReplicaRole::Idle);
    a.apply(&led_by(&record(Durability::Replicated), 1, &[1]));
    assert_eq!(a.core.status(&a.log).role, ReplicaRole::Leader);
}

#[test]
fn overtaken_progress_is_served_but_not_believed() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 1);
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    for follower in [&mut b, &mut c] {
        let fetch = follower.fetch();
        let answer = a.serve(&fetch);
        follower.take(&fetch, answer);
    }
    c.flush();
    let boast = c.fetch();
    // The same life of the replica says less, later.
    let mut humble = c.fetch();
    humble.position.durable_end = at(1);
    let _answer = a.serve(&humble).unwrap();
    assert!(matches!(a.serve(&boast), Ok(ReplicaFetched::Data { .. })));
    sync(&mut a, &mut b);
    assert_eq!(a.high_watermark(), at(1));
}

#[test]
fn a_new_leader_shows_no_end_before_it_knows_the_high_watermark() {
    // KIP-207: the end that consumers see never goes back.
    let [a, mut b, mut c] = trio(Durability::Fsync, 2);
    assert_eq!(a.high_watermark(), at(2));
    b.core.high_watermark = at(1);
    let next = led_by(&record(Durability::Fsync), 2, &[2, 3]);
    b.apply(&next);
    let (log, out) = (&b.log, &mut b.out);
    let latest = b.core.list_offset(OffsetSpec::Latest, None, true, log, out);
    assert_eq!(latest, Err(ReplicationError::OffsetNotAvailable));
    let at_end = b.core.consumer_read(at(1), None, 1 << 20, log, out);
    assert_eq!(at_end, Err(ReplicationError::OffsetNotAvailable));
    assert!(b.core.consumer_read(at(0), None, 1 << 20, log, out).is_ok());
    c.apply(&next);
    b.flush();
    sync(&mut b, &mut c);
    let (log, out) = (&b.log, &mut b.out);
    let latest = b.core.list_offset(OffsetSpec::Latest, None, true, log, out);
    assert_eq!(latest.unwrap().unwrap().offset, at(2));
}

#[test]
fn a_record_is_acknowledged_when_the_high_watermark_passes_it_and_not_before() {
    // Exclusive ends: the peer completed one record early.
    for durability in BOTH {
        let [mut a, mut b, mut c] = trio(durability, 0);
        let id = a.produce(&plain("x"), Acks::All);
        a.flush();
        for follower in [&mut b, &mut c] {
            let fetch = follower.fetch();
            let _answer = a.serve(&fetch);
        }
        assert!(!a.acks().contains_key(&id), "no follower has it");
        for _ in 0..2 {
            sync(&mut a, &mut b);
            sync(&mut a, &mut c);
        }
        assert!(a.acks()[&id].is_ok());
    }
}

#[test]
fn two_writers_waiting_for_one_offset_are_both_answered_and_a_late_one_at_once() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 0);
    let first = a.produce(&idempotent(5, 0), Acks::All);
    let retry = a.produce(&idempotent(5, 0), Acks::All);
    assert_eq!(a.end(), at(1), "the retry is not written");
    assert!(a.acks().is_empty(), "nor acknowledged before its original");
    a.flush();
    for _ in 0..2 {
        sync(&mut a, &mut b);
        sync(&mut a, &mut c);
    }
    assert!(a.acks()[&first].is_ok() && a.acks()[&retry].is_ok());
    let late = a.produce(&idempotent(5, 0), Acks::All);
    assert_eq!(a.acks()[&late].clone().unwrap().base, at(0));
}

#[test]
fn a_shrink_below_min_isr_answers_what_waits() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 0);
    let id = a.produce(&plain("x"), Acks::All);
    a.apply(&with_isr(&record(Durability::Fsync), &[1]));
    assert!(matches!(
        a.acks()[&id],
        Err(ReplicationError::NotEnoughReplicasAfterAppend { .. })
    ));
}

#[test]
fn the_end_of_leadership_answers_what_waits() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 0);
    let all = a.produce(&plain("x"), Acks::All);
    let one = a.produce(&plain("y"), Acks::Leader);
    a.apply(&led_by(&record(Durability::Fsync), 2, &[1, 2, 3]));
    for id in [all, one] {
        let leader_hint = Some(broker(2));
        assert_eq!(
            a.acks()[&id],
            Err(ReplicationError::NotLeader { leader_hint })
        );
    }
    assert_eq!(a.core.waiting_acks(), 0);
}

#[test]
fn a_write_that_waits_too_long_is_answered_and_forgotten() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 0);
    let id = a.produce(&plain("x"), Acks::All);
    a.advance(Duration::from_secs(31));
    assert!(matches!(
        a.acks()[&id],
        Err(ReplicationError::RequestTimedOut { .. })
    ));
    assert_eq!(a.core.waiting_acks(), 0);
}

#[test]
fn the_purgatory_is_bounded_before_the_append() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 0);
    a.core.settings.max_pending_acks = 2;
    let ids: Vec<u64> = (0..3).map(|_| a.produce(&plain("x"), Acks::All)).collect();
    assert!(matches!(
        a.acks()[&ids[2]],
        Err(ReplicationError::Overloaded { .. })
    ));
    assert_eq!(a.end(), at(2));
}

#[test]
fn acks_1_waits_for_the_local_disk_in_fsync_mode_only() {
    for durability in BOTH {
        let [mut a, _b, _c] = trio(durability, 0);
        let id = a.produce(&plain("x"), Acks::Leader);
        assert_eq!(
            a.acks().contains_key(&id),
            durability == Durability::Replicated
        );
        a.flush();
        assert!(a.acks()[&id].is_ok());
    }
}

#[test]
fn replicas_that_are_unknown_or_ahead_are_refused_without_effect() {
    let [mut a, mut b, _c] = trio(Durability::Fsync, 2);
    let mut foreign = b.fetch();
    foreign.broker = broker(9);
    assert!(matches!(
        a.serve(&foreign),
        Err(ReplicationError::UnknownReplica { .. })
    ));
    let mut ahead = b.fetch();
    ahead.position.fetch_offset = at(7);
    ahead.position.durable_end = at(7);
    assert!(matches!(
        a.serve(&ahead),
        Ok(ReplicaFetched::Diverging { .. })
    ));
    let mut lying = b.fetch();
    lying.position.durable_end = at(9);
    assert!(matches!(
        a.serve(&lying),
        Err(ReplicationError::InvalidRequest(_))
    ));
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    assert_eq!(a.high_watermark(), at(2), "nothing of it counted");
}

#[test]
fn a_small_lag_in_records_neither_joins_nor_leaves_the_set() {
    // KIP-16: the peer let a replica in at offset 1 below a high watermark of 100.
    let ([mut a, mut b, _c], _small) = joining();
    a.now = a.now + LAG * 3;
    sync(&mut a, &mut b);
    for _ in 0..50 {
        let _id = a.produce(&plain("x"), Acks::All);
    }
    a.flush();
    for _ in 0..2 {
        sync(&mut a, &mut b);
    }
    assert!(a.high_watermark() > at(2));
    let mut empty = Node::new(3);
    empty.apply(&record(Durability::Fsync));
    let fetch = empty.fetch();
    let _answer = a.serve(&fetch);
    assert!(a.proposals().is_empty());
}

#[test]
fn producers_are_known_after_a_restart_and_forgotten_with_a_truncation() {
    let [mut a, mut b, _c] = trio(Durability::Replicated, 0);
    let _id = a.produce(&idempotent(5, 0), Acks::All);
    for _ in 0..2 {
        sync(&mut a, &mut b);
    }
    let _id = a.produce(&idempotent(5, 1), Acks::All);
    let next = led_by(&record(Durability::Replicated), 2, &[2, 3]);
    b.apply(&next);
    let retry = b.produce(&idempotent(5, 0), Acks::Leader);
    assert_eq!(
        b.acks()[&retry].clone().unwrap().base,
        at(0),
        "the follower kept the table"
    );
    let _id = b.produce(&plain("other"), Acks::Leader);
    a.apply(&next);
    for _ in 0..3 {
        sync(&mut b, &mut a);
    }
    a.apply(&led_by(&next, 1, &[1, 2]));
    let again = a.produce(&idempotent(5, 1), Acks::Leader);
    assert_eq!(
        a.acks()[&again].clone().unwrap().base,
        at(2),
        "its first copy was cut off"
    );
}

#[test]
fn a_damaged_answer_is_fetched_again_and_a_failed_log_goes_offline() {
    let [mut a, mut b, _c] = trio(Durability::Replicated, 0);
    let _id = a.produce(&plain("x"), Acks::All);
    let fetch = b.fetch();
    let Ok(ReplicaFetched::Data {
        high_watermark,
        log_start,
        bytes,
    }) = a.serve(&fetch)
    else {
        panic!("the logs agree");
    };
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let bytes = damaged.into();
    let reply = FetchReply::Fetched(ReplicaFetched::Data {
        high_watermark,
        log_start,
        bytes,
    });
    b.core
        .fetched(b.now, &fetch.position, reply, &mut b.log, &mut b.out);
    assert_eq!(b.end(), at(0));
    assert!(b.core.fetch_not_before(b.now).is_some());
    b.log.poison("EIO");
    sync(&mut a, &mut b);
    assert_eq!(b.core.status(&b.log).role, ReplicaRole::Offline);
    assert!(b.out.contains(&Output::RoleChanged));
}

#[test]
fn an_older_record_changes_nothing_and_an_equal_one_is_harmless() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 1);
    let newer = with_isr(&record(Durability::Fsync), &[1, 2]);
    a.apply(&newer);
    a.apply(&record(Durability::Fsync));
    assert_eq!(a.core.state, newer);
    let id = a.produce(&plain("x"), Acks::All);
    a.apply(&newer);
    assert!(!a.acks().contains_key(&id), "the role goes on");
}
