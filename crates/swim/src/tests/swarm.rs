//! Random stories with the rules checked at every step; and known mistakes, to see that they show.

use rivven_core_types::{PLANTED_BUGS, plant};

use crate::sim::swarm;

/// Seeds played; `RIVVEN_SWIM_SEEDS` asks for more.
const SEEDS: u64 = 100;
/// Seeds within which each planted bug must show.
const ENOUGH: u64 = 300;

fn seeds() -> u64 {
    let asked = std::env::var("RIVVEN_SWIM_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn random_stories_break_no_rule_and_end_in_agreement() {
    for seed in 0..seeds() {
        let played = swarm(seed);
        assert_eq!(played.broken, None, "seed {seed}");
    }
}

#[test]
fn a_story_repeats_itself() {
    for seed in 0..4 {
        assert_eq!(swarm(seed).trace_hash, swarm(seed).trace_hash);
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut counts = Vec::new();
    for bug in PLANTED_BUGS
        .iter()
        .filter(|bug| bug.name.starts_with("swim."))
    {
        let guard = plant(bug.name).unwrap();
        let found = (0..ENOUGH).find_map(|seed| Some((seed + 1, swarm(seed).broken?)));
        let hits = guard.hits();
        drop(guard);
        let (seeds, rule) =
            found.unwrap_or_else(|| panic!("{} not found; made {hits} times", bug.name));
        assert!(hits > 0, "{} was never made", bug.name);
        assert_eq!(
            swarm(seeds - 1).broken,
            None,
            "{} is not to blame",
            bug.name
        );
        eprintln!("{}: after {seeds} seeds: {rule}", bug.name);
        counts.push(seeds);
    }
    assert!(counts.len() >= 10, "{counts:?}");
}
