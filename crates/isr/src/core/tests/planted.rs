//! The simulation finds bugs: the same faults, with one bug planted at a time.

use rivven_core_types::plant;
use rivven_core_types::test_util::hunt::assert_found;

use super::rules;
use super::sim::{SEEDS, run};

/// What the faults of this simulation find. Two more are found by whole nodes (`cargo xtask sim --planted`).
const FINDS: [&str; 13] = [
    "isr.acks-one-record-early",
    "isr.commits-under-min-isr",
    "isr.counts-what-is-not-synced",
    "isr.duplicate-acked-at-once",
    "isr.equal-epoch-settles-a-proposal",
    "isr.expands-by-message-lag",
    "isr.joiner-does-not-count",
    "isr.joins-without-the-epochs-records",
    "isr.proposed-shrink-counts",
    "isr.refused-proposal-is-forgotten",
    "isr.remembers-producers-of-a-cut-log",
    "isr.truncate-to-high-watermark",
    "isr.visible-end-goes-back",
];

#[test]
fn the_same_faults_find_every_planted_bug() {
    assert_found(&FINDS, 0..SEEDS, run);
}

/// Mistakes behind a second line of defence, and the scenario of their own that shows each.
///
/// - A restarted leader: whole nodes, and this simulation, hear of their partitions only once they have
///   registered anew, and a registration ends every reign of the broker's earlier life.
/// - Overtaken progress: what an earlier life holds less is known to the controller, which lets nobody in
///   by that life's epoch; and within one life and leader epoch the end of a follower never falls but
///   where the logs part, which is answered before anything counts.
#[test]
fn scenarios_find_the_planted_bugs_that_another_rule_covers() {
    let scenarios: [(&str, fn()); 2] = [
        (
            "isr.leads-an-epoch-twice",
            rules::a_log_never_leads_an_epoch_that_it_already_holds,
        ),
        (
            "isr.takes-overtaken-progress",
            rules::kip_903_an_earlier_life_of_a_replica_neither_joins_nor_counts,
        ),
    ];
    for (name, scenario) in scenarios {
        scenario();
        let _planted = plant(name).unwrap();
        assert!(std::panic::catch_unwind(scenario).is_err(), "{name}");
    }
}
