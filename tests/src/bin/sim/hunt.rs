//! Planting known bugs, one at a time, to see whether the swarm finds them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use rivven_core_types::{PLANTED_BUGS, PlantedBug, plant};
use rivven_tests::sim::run_swarm;

use crate::arguments::Arguments;
use crate::suites::suite_of;

/// A network of failure detectors alone takes milliseconds.
const SWIM_SEEDS: u64 = 300;

fn is_swim(bug: PlantedBug) -> bool {
    bug.name.starts_with("swim.")
}

struct Found {
    bug: PlantedBug,
    /// Seeds that were played, and whether the last one broke an invariant.
    seeds: u64,
    invariant: Option<String>,
    hits: u64,
    wall_millis: u128,
}

/// Hunts every bug, or the one that is named. True if all were found.
pub(crate) fn hunt(arguments: &Arguments) -> Result<bool, String> {
    let named = arguments.bug.as_deref();
    let bugs: Vec<PlantedBug> = PLANTED_BUGS
        .iter()
        .copied()
        .filter(|bug| named.is_none_or(|name| bug.name == name))
        .collect();
    if bugs.is_empty() {
        return Err("no bug of this name is listed".to_owned());
    }
    let (elsewhere, bugs): (Vec<_>, Vec<_>) = bugs
        .into_iter()
        .partition(|bug| named.is_none() && suite_of(bug.name).is_some());
    for bug in &elsewhere {
        let suite = suite_of(bug.name).unwrap_or_default();
        println!("planted {}: `cargo test -p {suite} planted`", bug.name);
    }
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (sender, next, bugs) = (sender.clone(), &next, &bugs);
            scope.spawn(move || {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send(seek(*bug, arguments)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in results {
            let result = result?;
            let verdict = match &result.invariant {
                Some(invariant) => format!("found after {} seeds: {invariant}", result.seeds),
                None => format!("NOT FOUND in {} seeds", result.seeds),
            };
            println!(
                "planted {}: {verdict} (made {} times, {} ms)",
                result.bug.name, result.hits, result.wall_millis
            );
            found.push(result);
        }
        Ok::<_, String>(())
    })?;
    let mut counts: Vec<u64> = found
        .iter()
        .filter(|f| f.invariant.is_some())
        .map(|f| f.seeds)
        .collect();
    counts.sort_unstable();
    let median = counts.get(counts.len() / 2).copied();
    println!(
        "sim: {} of {} planted bugs found, median {} seeds, most {}; {} more by the tests of their crates",
        counts.len(),
        found.len(),
        median.unwrap_or(0),
        counts.last().copied().unwrap_or(0),
        elsewhere.len()
    );
    let all = counts.len() == found.len();
    if arguments.json {
        let cases: Vec<_> = found
            .iter()
            .map(|f| {
                format!(
                    "{{\"bug\":{:?},\"found\":{},\"seeds\":{},\"invariant\":{:?},\"hits\":{}}}",
                    f.bug.name,
                    f.invariant.is_some(),
                    f.seeds,
                    f.invariant.as_deref().unwrap_or(""),
                    f.hits
                )
            })
            .collect();
        println!(
            "{{\"command\":\"sim --planted\",\"ok\":{all},\"bugs\":{},\"found\":{},\
             \"median_seeds\":{},\"cases\":[{}]}}",
            found.len(),
            counts.len(),
            median.unwrap_or(0),
            cases.join(",")
        );
    }
    Ok(all)
}

fn seek(bug: PlantedBug, arguments: &Arguments) -> Result<Found, String> {
    let begun = Instant::now();
    let planted = plant(bug.name).map_err(|e| e.to_string())?;
    let mut found = Found {
        bug,
        seeds: 0,
        invariant: None,
        hits: 0,
        wall_millis: 0,
    };
    let count = if is_swim(bug) {
        arguments.count.max(SWIM_SEEDS)
    } else {
        arguments.count
    };
    for seed in arguments.first..arguments.first.saturating_add(count) {
        found.seeds += 1;
        if let Some(invariant) = play(bug, seed, arguments)? {
            found.invariant = Some(invariant);
            break;
        }
    }
    found.hits = planted.hits();
    found.wall_millis = begun.elapsed().as_millis();
    Ok(found)
}

/// The rule that the bug breaks in this seed, if it does.
fn play(bug: PlantedBug, seed: u64, arguments: &Arguments) -> Result<Option<String>, String> {
    // Whole clusters have three nodes and mend most of what their failure detector does wrong: its
    // mistakes are sought in a network of detectors alone.
    if is_swim(bug) {
        return Ok(rivven_swim::sim::swarm(seed).broken);
    }
    let report = run_swarm(seed, &arguments.options).map_err(|e| e.to_string())?;
    Ok(report.violation.map(|v| v.invariant.to_owned()))
}
