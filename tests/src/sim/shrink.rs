//! Finding the few faults that a violation needs (delta debugging: Zeller, 1999).

use std::io;

use super::swarm::{SwarmOptions, SwarmReport, run_swarm};

/// Most runs that a shrinking may take.
const MAX_RUNS: usize = 80;

/// What is left of a schedule.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The run with the fewest faults that still breaks the same invariant.
    pub report: SwarmReport,
    /// The options that play it.
    pub options: SwarmOptions,
    /// How many runs it took.
    pub runs: usize,
}

/// Leaves out faults of a run that broke an invariant, as long as the same one breaks.
///
/// # Errors
/// If a runtime cannot be built.
pub fn shrink(report: &SwarmReport, options: &SwarmOptions) -> io::Result<Shrunk> {
    let mut best = Shrunk {
        report: report.clone(),
        options: options.clone(),
        runs: 0,
    };
    let invariant = report.violation.as_ref().map(|v| v.invariant);
    let numbers = |report: &SwarmReport| report.steps.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let mut kept = numbers(report);
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 && best.runs < MAX_RUNS {
        let mut at = 0;
        while at < kept.len() && best.runs < MAX_RUNS {
            let gone = at..(at + chunk).min(kept.len());
            let left: Vec<u64> = (0..)
                .zip(&kept)
                .filter(|(place, _)| !gone.contains(place))
                .map(|(_, step)| *step)
                .collect();
            let tried = SwarmOptions {
                only: Some(left),
                ..options.clone()
            };
            let report = run_swarm(best.report.seed, &tried)?;
            best.runs += 1;
            if report.violation.as_ref().map(|v| v.invariant) == invariant {
                kept = numbers(&report);
                best.report = report;
                best.options = tried;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    best.options.only = Some(kept);
    Ok(best)
}
