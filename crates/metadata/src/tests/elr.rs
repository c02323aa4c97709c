//! The transitions of ISR and ELR (KIP-966), min ISR 2 of three replicas unless said otherwise.

use super::support::{Cluster, b, topic_name};
use crate::{Command, TopicChange};

#[test]
fn kip_966_a_member_that_leaves_a_sufficient_isr_is_not_eligible() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.expect(p, Some(1), &[1, 2, 3], &[], &[1, 2, 3]);
    c.fence(3);
    c.expect(p, Some(1), &[1, 2], &[], &[1, 2]);
}

#[test]
fn kip_966_members_that_leave_below_min_isr_become_eligible() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    c.fence(2);
    c.expect(p, Some(1), &[1], &[2], &[1, 2]);
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    // The leader drops both at once: all three held what was committed until then.
    c.alter(p, &[1]);
    c.expect(p, Some(1), &[1], &[2, 3], &[1, 2, 3]);
}

#[test]
fn kip_966_the_elr_grows_while_the_isr_stays_below_min_isr() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3, 4], 3);
    c.alter(p, &[1, 2]);
    c.expect(p, Some(1), &[1, 2], &[3, 4], &[1, 2, 3, 4]);
    c.alter(p, &[1]);
    c.expect(p, Some(1), &[1], &[2, 3, 4], &[1, 2, 3, 4]);
    // One comes back and the ISR is still too small: the others stay eligible.
    c.alter(p, &[1, 4]);
    c.expect(p, Some(1), &[1, 4], &[2, 3], &[1, 2, 3, 4]);
}

#[test]
fn kip_966_an_isr_back_at_min_isr_clears_the_elr() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    c.fence(2);
    c.unfence(3);
    c.expect(p, Some(1), &[1], &[2], &[1, 2]);
    c.alter(p, &[1, 3]);
    c.expect(p, Some(1), &[1, 3], &[], &[1, 3]);
    // Number 2 may lack what those two have committed since: it must not lead.
    c.unfence(2);
    c.fence(1);
    c.fence(3);
    c.expect(p, None, &[], &[1, 3], &[1, 3]);
}

#[test]
fn kip_966_an_unclean_member_of_the_elr_leaves_it() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    c.fence(2);
    c.register(2, 1, &[p]);
    c.expect(p, Some(1), &[1], &[], &[1, 2]);
    c.unfence(2);
    c.fence(1);
    c.expect(p, None, &[], &[1], &[1, 2]);
}

#[test]
fn kip_966_a_clean_member_of_the_elr_stays_in_it_through_a_restart() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    c.fence(2);
    c.register(2, 1, &[]);
    c.expect(p, Some(1), &[1], &[2], &[1, 2]);
    c.unfence(2);
    c.fence(1);
    c.expect(p, Some(2), &[2], &[1], &[1, 2]);
}

#[test]
fn kip_966_an_eligible_leader_is_elected_only_when_the_isr_is_empty() {
    let mut c = Cluster::with_brokers(4);
    let p = c.topic(1, &[1, 2, 3, 4], 3);
    c.alter(p, &[1, 3]);
    c.expect(p, Some(1), &[1, 3], &[2, 4], &[1, 2, 3, 4]);
    c.fence(1);
    // Number 2 comes first in replica order, but 3 is in sync.
    c.expect(p, Some(3), &[3], &[1, 2, 4], &[1, 2, 3, 4]);
    c.fence(3);
    c.expect(p, Some(2), &[2], &[1, 3, 4], &[1, 2, 3, 4]);
}

#[test]
fn b14_kip_966_the_last_replica_standing_leads_again_only_if_it_lost_nothing() {
    for (lossy, leads) in [(false, true), (true, false)] {
        let mut c = Cluster::with_brokers(3);
        let p = c.topic(1, &[1, 2, 3], 1);
        c.fence(2);
        c.fence(3);
        c.expect(p, Some(1), &[1], &[], &[1]);
        c.fence(1);
        c.expect(p, None, &[], &[1], &[1]);
        c.unfence(2);
        c.unfence(3);
        c.expect(p, None, &[], &[1], &[1]);
        let lost = if lossy { vec![p] } else { vec![] };
        c.register(1, 1, &lost);
        c.unfence(1);
        if leads {
            c.expect(p, Some(1), &[1], &[], &[1]);
        } else {
            c.expect(p, None, &[], &[], &[1]);
            assert_eq!(c.state().needing_recovery().count(), 1);
        }
    }
}

#[test]
fn a_leader_change_raises_the_leader_epoch_and_an_isr_change_does_not_kafka_15021() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 1);
    c.fence(3);
    assert_eq!(c.partition(p).leader_epoch.get(), 0);
    assert_eq!(c.partition(p).partition_epoch.get(), 1);
    c.fence(1);
    assert_eq!(c.partition(p).leader, Some(b(2)));
    assert_eq!(c.partition(p).leader_epoch.get(), 1);
    c.fence(2);
    assert_eq!(c.partition(p).leader_epoch.get(), 2);
    c.unfence(2);
    assert_eq!(c.partition(p).leader, Some(b(2)));
    assert_eq!(c.partition(p).leader_epoch.get(), 3);
}

#[test]
fn min_isr_above_the_replicas_of_a_partition_counts_as_their_number() {
    let mut c = Cluster::with_brokers(1);
    let p = c.topic(1, &[1], 1);
    assert_eq!(c.partition(p).effective_min_isr(), 1);
    c.fence(1);
    c.expect(p, None, &[], &[1], &[1]);
    c.unfence(1);
    c.expect(p, Some(1), &[1], &[], &[1]);
}

#[test]
fn kip_966_a_lower_min_isr_clears_the_elr() {
    let mut c = Cluster::with_brokers(3);
    let p = c.topic(1, &[1, 2, 3], 2);
    c.fence(3);
    c.fence(2);
    c.expect(p, Some(1), &[1], &[2], &[1, 2]);
    // Number 1 commits alone from here on: number 2 may lack what it does.
    c.ok(&Command::AlterTopic {
        name: topic_name("topic-1"),
        change: TopicChange {
            min_isr: Some(1),
            ..TopicChange::default()
        },
    });
    c.expect(p, Some(1), &[1], &[], &[1]);
    c.unfence(2);
    c.fence(1);
    c.expect(p, None, &[], &[1], &[1]);
}
