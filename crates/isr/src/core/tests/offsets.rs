//! What a client asks a leader about its offsets, and what a leader still has to do.

use rivven_core_types::{BatchBuilder, Durability};

use super::support::*;
use crate::core::types::{Acks, OffsetSpec, Output};

/// KIP-734: of the committed records the one with the greatest time, wherever it is.
#[test]
fn kip_734_the_greatest_time_is_that_of_a_committed_record() {
    let [mut a, mut b, mut c] = trio(Durability::Replicated, 0);
    let timed = |time| BatchBuilder::new(time).record(0, None, Some(b"v")).build();
    let greatest = |node: &mut Node| {
        let spec = OffsetSpec::MaxTimestamp;
        let (core, log) = (&mut node.core, &node.log);
        let found = core
            .list_offset(spec, None, true, log, &mut node.out)
            .unwrap();
        found.map(|found| (found.offset, found.timestamp))
    };
    assert_eq!(greatest(&mut a), None);
    for time in [100, 300, 200] {
        let _id = a.produce(&timed(time).unwrap(), Acks::All);
    }
    sync(&mut a, &mut b);
    assert_eq!(greatest(&mut a), None, "one of three replicas lags");
    for _ in 0..2 {
        sync(&mut a, &mut b);
        sync(&mut a, &mut c);
    }
    assert_eq!(greatest(&mut a), Some((at(1), 300)));
    let _id = a.produce(&timed(900).unwrap(), Acks::All);
    assert_eq!(
        greatest(&mut a),
        Some((at(1), 300)),
        "nobody may read it yet"
    );
}

#[test]
fn only_a_leader_with_something_that_waits_looks_at_the_clock() {
    let [mut a, b, _c] = trio(Durability::Fsync, 0);
    assert!(!a.core.has_deadlines() && !b.core.has_deadlines());
    let _id = a.produce(&plain("x"), Acks::Leader);
    assert!(a.core.has_deadlines(), "for the disk");
    a.flush();
    assert!(!a.core.has_deadlines());
    let _id = a.produce(&plain("y"), Acks::All);
    assert!(a.core.has_deadlines(), "for the others");
}

/// What it wrote as the leader counts for its new leader only once it is on disk.
#[test]
fn who_follows_with_an_unflushed_tail_asks_for_its_flush() {
    let [mut a, _b, _c] = trio(Durability::Fsync, 1);
    let next = led_by(&record(Durability::Fsync), 2, &[1, 2, 3]);
    let mut flushed = Node::over(1, a.log.clone());
    flushed.apply(&next);
    assert!(!flushed.out.iter().any(|o| matches!(o, Output::Flush)));
    let _id = a.produce(&plain("tail"), Acks::All);
    a.out.clear();
    a.apply(&next);
    assert!(a.out.iter().any(|o| matches!(o, Output::Flush)));
}
