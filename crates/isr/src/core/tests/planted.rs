//! The simulation finds bugs: the same faults, with one bug planted at a time.

use rivven_core_types::plant;

use super::sim::{SEEDS, run};

/// What the faults of this simulation find; the others that can be planted here are found by whole
/// nodes, or behind a second line of defence.
const FINDS: [&str; 10] = [
    "isr.acks-one-record-early",
    "isr.commits-under-min-isr",
    "isr.counts-what-is-not-synced",
    "isr.duplicate-acked-at-once",
    "isr.expands-by-message-lag",
    "isr.joiner-does-not-count",
    "isr.proposed-shrink-counts",
    "isr.remembers-producers-of-a-cut-log",
    "isr.truncate-to-high-watermark",
    "isr.visible-end-goes-back",
];

#[test]
fn the_same_faults_find_every_planted_bug() {
    let mut missed = Vec::new();
    for name in FINDS {
        let guard = plant(name).unwrap();
        let found = (0..SEEDS).find(|seed| {
            let run = std::panic::AssertUnwindSafe(|| drop(run(*seed)));
            std::panic::catch_unwind(run).is_err()
        });
        println!(
            "{}: found by seed {found:?}, {} times made",
            name,
            guard.hits()
        );
        if found.is_none() {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
