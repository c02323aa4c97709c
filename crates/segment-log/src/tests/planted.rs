//! The random losses of power find mistakes, planted one at a time.

use rivven_core_types::test_util::hunt::assert_found;

use super::power_loss::run;

#[test]
fn the_same_losses_of_power_find_every_planted_bug() {
    const FINDS: [&str; 3] = [
        "segment-log.flush-does-not-sync",
        "segment-log.flush-outlives-a-cut",
        "segment-log.torn-batch-is-served",
    ];
    assert_found(&FINDS, 0..2_000, run);
}
