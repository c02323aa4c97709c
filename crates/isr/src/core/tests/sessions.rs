//! What the leader may conclude when a follower does not name a partition (KIP-227).

use rivven_core_types::{Durability, NodeEpoch};

use super::support::*;
use crate::core::types::{Acks, Output};

#[test]
fn a_follower_is_not_behind_because_nothing_was_written_for_long() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 1);
    let lag = settings().lag_max_time;
    let epoch = NodeEpoch::new(10);
    // For long its sessions only say that it stands where it stood.
    a.advance(lag * 3);
    let polled_at = a.now;
    for follower in [broker(2), broker(3)] {
        a.core.polled(follower, epoch, polled_at, &a.log);
    }
    let _id = a.produce(&plain("after a long silence"), Acks::All);
    a.flush();
    a.advance(lag / 2);
    assert!(a.proposals().is_empty(), "both had everything until now");
    for _ in 0..2 {
        sync(&mut a, &mut b);
        sync(&mut a, &mut c);
    }
    assert_eq!(a.high_watermark(), at(2));
}

#[test]
fn a_poll_vouches_for_nobody_who_was_behind_or_lived_another_life() {
    let [mut a, mut b, _c] = trio(Durability::Fsync, 1);
    let lag = settings().lag_max_time;
    let _id = a.produce(&plain("x"), Acks::All);
    a.flush();
    sync(&mut a, &mut b);
    sync(&mut a, &mut b);
    // Broker 3 polls for other partitions and never asks for this record.
    for _ in 0..6 {
        a.advance(lag / 3);
        for (follower, epoch) in [(2, 10), (3, 10), (3, 11)] {
            let epoch = NodeEpoch::new(epoch);
            a.core.polled(broker(follower), epoch, a.now, &a.log);
        }
    }
    let proposals = a.proposals();
    let members = |p: &rivven_core_types::AlterPartitionProposal| {
        p.new_isr.iter().map(|m| m.broker).collect::<Vec<_>>()
    };
    let shrunk = proposals.iter().map(members).next_back();
    assert_eq!(shrunk, Some(vec![broker(1), broker(2)]));
}

#[test]
fn a_joiner_is_asked_where_it_stands_and_not_judged_by_what_it_once_told() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 1);
    let mut smaller = record(Durability::Fsync);
    smaller.isr = vec![broker(1), broker(2)];
    smaller.partition_epoch = smaller.partition_epoch.next().unwrap();
    a.apply(&smaller);
    a.out.clear();
    // It told that it has everything; its log may have been made anew since.
    a.advance(settings().lag_max_time);
    assert!(a.out.contains(&Output::Restate));
    assert!(a.proposals().is_empty(), "old words are no reason to join");
    sync(&mut a, &mut b);
    sync(&mut a, &mut c);
    assert_eq!(a.proposals().len(), 1, "fresh ones are");
}
