//! What a client is told of the ends of leader epochs, and who waits across one.

use rivven_core_types::{Durability, EpochEnd, LeaderEpoch, ReplicaLog};

use super::support::*;
use crate::core::types::Acks;
use crate::error::ReplicationError;

#[test]
fn kip_320_a_client_learns_where_an_epoch_ended_and_so_what_was_cut() {
    let epoch = LeaderEpoch::new;
    let [mut a, mut b, _c] = trio(Durability::Replicated, 3);
    // Read by somebody at offset 4 of epoch 0, and lost with the leader.
    let _id = a.produce(&plain("only-on-a"), Acks::Leader);
    b.apply(&led_by(&record(Durability::Replicated), 2, &[2, 3]));
    let _id = b.produce(&plain("b1"), Acks::Leader);
    let ask = |node: &Node, asked, known| node.core.epoch_end(epoch(asked), known, &node.log);
    let end = |of, end| {
        Ok(Some(EpochEnd {
            epoch: epoch(of),
            end: at(end),
        }))
    };
    assert_eq!(ask(&b, 0, None), end(0, 3), "the fourth record is gone");
    assert_eq!(ask(&b, 1, Some(epoch(1))), end(1, 4));
    assert_eq!(ask(&b, 7, None), Ok(None), "nobody has led it");
    // KAFKA-6975: what a client knows of the leader is checked, in both directions.
    assert!(matches!(
        ask(&b, 0, Some(epoch(0))),
        Err(ReplicationError::FencedLeaderEpoch { .. })
    ));
    assert!(matches!(
        ask(&b, 0, Some(epoch(2))),
        Err(ReplicationError::UnknownLeaderEpoch { .. })
    ));
    a.apply(&led_by(&record(Durability::Replicated), 2, &[2, 3]));
    assert!(matches!(
        ask(&a, 0, None),
        Err(ReplicationError::NotLeader { .. })
    ));
}

#[test]
fn kip_279_of_a_deleted_epoch_only_the_start_of_the_log_is_known() {
    let epoch = LeaderEpoch::new;
    let [_a, mut b, mut c] = trio(Durability::Fsync, 3);
    let next = led_by(&record(Durability::Fsync), 2, &[2, 3]);
    b.apply(&next);
    c.apply(&next);
    let _id = b.produce(&plain("b1"), Acks::Leader);
    b.flush();
    for _ in 0..3 {
        sync(&mut b, &mut c);
        c.flush();
    }
    assert_eq!(b.high_watermark(), at(4));
    let _id = b.delete(Some(at(4)));
    assert_eq!(b.log.log_start(), at(4));
    let asked = b.core.epoch_end(epoch(0), None, &b.log).unwrap().unwrap();
    assert_eq!(asked.end, at(4), "{asked:?}");
}

/// A replica that goes ends the epoch. The one that leads goes on leading: a client that is told otherwise
/// writes its records a second time.
#[test]
fn a_leader_that_goes_on_in_the_next_epoch_answers_who_waits() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let [mut a, mut b, mut c] = trio(durability, 1);
        let written = a.produce(&plain("x"), Acks::All);
        let next = led_by(&record(durability), 1, &[1, 2, 3]);
        for node in [&mut a, &mut b, &mut c] {
            node.apply(&next);
        }
        assert!(!a.acks().contains_key(&written), "nobody else holds it yet");
        a.flush();
        for _ in 0..3 {
            sync(&mut a, &mut b);
            sync(&mut a, &mut c);
        }
        assert!(a.acks()[&written].is_ok(), "{:?}", a.acks());

        // Two epochs on, another one may have led meanwhile.
        let written = a.produce(&plain("y"), Acks::All);
        a.apply(&led_by(&led_by(&next, 2, &[1, 2, 3]), 1, &[1, 2, 3]));
        assert!(a.acks()[&written].is_err());
    }
}
