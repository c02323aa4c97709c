//! What goes at the front of the log, and a log that goes whole.

use std::time::Duration;

use rivven_core_types::{Durability, LogConfig, ReplicaLog, UnixMillis};

use super::support::*;
use crate::core::types::Acks;
use crate::error::ReplicationError;

#[test]
fn kip_107_a_deletion_is_answered_once_every_in_sync_replica_has_made_it() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 5);
    let beyond = a.delete(Some(at(6)));
    assert!(matches!(
        a.acks()[&beyond],
        Err(ReplicationError::OffsetOutOfRange { .. })
    ));
    let id = a.delete(Some(at(3)));
    // Twice: to learn of the new start, and to say that it is made.
    for _ in 0..2 {
        sync(&mut a, &mut b);
        assert_eq!(a.acks().get(&id), None);
    }
    sync(&mut a, &mut c);
    assert_eq!(a.acks().get(&id), None);
    sync(&mut a, &mut c);
    assert_eq!(a.acks()[&id].as_ref().unwrap().log_start, at(3));
    let starts = [&a, &b, &c].map(|n| n.log.log_start());
    assert_eq!(starts, [at(3); 3]);
    // Without an offset: everything committed. Without an answer: the deadline ends it.
    let id = a.delete(None);
    assert_eq!(a.log.log_start(), at(5));
    a.advance(Duration::from_secs(31));
    assert!(matches!(
        a.acks()[&id],
        Err(ReplicationError::RequestTimedOut { .. })
    ));
}

#[test]
fn retention_drops_committed_records_only_and_only_on_leaders() {
    let [mut a, mut b, mut c] = trio(Durability::Fsync, 3);
    let _uncommitted = a.produce(&plain("tail"), Acks::All);
    a.flush();
    let config = LogConfig {
        retention_ms: Some(1_000),
        ..LogConfig::default()
    };
    for node in [&mut a, &mut b, &mut c] {
        node.log.configure(&config, Durability::Fsync).unwrap();
        let moved = node.retain(UnixMillis(1_000_000));
        assert_eq!(moved, node.log.log_start() > at(0));
        assert!(!node.retain(UnixMillis(1_000_000)), "nothing is left to do");
    }
    let starts = [&a, &b, &c].map(|n| n.log.log_start());
    assert_eq!(starts, [at(3), at(0), at(0)]);
    sync(&mut a, &mut b);
    assert_eq!(b.log.log_start(), at(3));
}

#[test]
fn a_follower_that_shares_no_epoch_with_its_leader_starts_again() {
    let [mut a, _b, mut c] = [Node::new(1), Node::new(2), Node::new(3)];
    let first = record(Durability::Replicated);
    a.apply(&first);
    for text in ["one", "two"] {
        let _id = a.produce(&plain(text), Acks::Leader);
    }
    // Number 3 leads epoch 1 with an empty log, writes, and loses the lead to one without its record.
    let second = led_by(&first, 3, &[1, 2, 3]);
    c.apply(&second);
    let _id = c.produce(&plain("other"), Acks::Leader);
    let third = led_by(&second, 1, &[1, 2]);
    a.apply(&third);
    c.apply(&third);
    for _ in 0..4 {
        sync(&mut a, &mut c);
    }
    assert_eq!(c.log.contents(), a.log.contents());
    assert_eq!(c.end(), at(2));
}
