//! Plays seeds of the simulated cluster; see `sim --help`. Exits with 1 when an invariant was broken.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool prints"
)]

mod arguments;
mod campaign;
#[cfg(feature = "planted")]
mod hunt;
#[cfg(any(test, feature = "planted"))]
mod suites;
mod totals;

use std::process::ExitCode;
use std::time::Instant;

use arguments::{Arguments, Task, USAGE};
use rivven_tests::sim::{SwarmReport, shrink};
use totals::Totals;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}; see --help");
            return ExitCode::from(2);
        }
    };
    let done = match arguments.task {
        Task::Play => play(&arguments),
        Task::Replay => replay(&arguments),
        Task::Traces => traces(&arguments),
        #[cfg(feature = "planted")]
        Task::Planted => hunt::hunt(&arguments),
        #[cfg(not(feature = "planted"))]
        Task::Planted => Err("bugs are planted in builds with --features planted".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn tell(report: &SwarmReport, wall_millis: u128) {
    println!(
        "seed {}: {} acked, {} read, {} commands, {} crashes, {} leader changes, {} isr changes, \
         {} faults, recovered in {} ms, trace {:016x} of {} events, {} s in {wall_millis} ms",
        report.seed,
        report.acked,
        report.read,
        report.metadata_commands,
        report.crashes,
        report.leader_changes,
        report.isr_changes,
        report.faults(),
        report.recovery_millis,
        report.trace,
        report.events,
        report.simulated_millis / 1000,
    );
    if let Some(violation) = &report.violation {
        println!(
            "seed {}: VIOLATION of \"{}\" at {} ms: {}",
            report.seed, violation.invariant, violation.at_millis, violation.detail
        );
    }
}

/// Plays all seeds and judges them together.
fn play(arguments: &Arguments) -> Result<bool, String> {
    let started = Instant::now();
    let mut totals = Totals::default();
    campaign::each_seed(arguments, |report, wall| {
        if !arguments.json || report.violation.is_some() {
            tell(&report, wall.as_millis());
        }
        totals.add(&report, wall);
    })?;
    let wall = started.elapsed();
    if !arguments.json {
        totals.print();
    }
    totals.print_verdict(arguments, wall);
    if arguments.json {
        println!("{}", totals.json(arguments, wall));
    }
    if let Some(seed) = totals.first_violation() {
        println!(
            "sim: replay with `cargo xtask sim --replay {seed} --secs {}{}`",
            arguments.options.seconds,
            if arguments.boundaries {
                " --boundaries"
            } else {
                ""
            }
        );
    }
    Ok(totals.is_good(arguments))
}

/// Tells the story of one seed; if it breaks an invariant, finds the faults that it takes.
fn replay(arguments: &Arguments) -> Result<bool, String> {
    #[cfg(feature = "planted")]
    let _bug = arguments
        .bug
        .as_deref()
        .map(rivven_core_types::plant)
        .transpose()
        .map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let run = |options| {
        arguments
            .run(arguments.first, options)
            .map_err(|e| e.to_string())
    };
    let report = run(&arguments.options)?;
    report.story.iter().for_each(|line| println!("{line}"));
    for (what, n) in &report.counters {
        println!("{n:>8} {what}");
    }
    tell(&report, begun.elapsed().as_millis());
    if report.violation.is_none() || arguments.boundaries {
        return Ok(report.violation.is_none());
    }
    let shrunk = shrink(&report, &arguments.options).map_err(|e| e.to_string())?;
    println!(
        "shrunk from {} faults to {} in {} runs:",
        report.steps.len(),
        shrunk.report.steps.len(),
        shrunk.runs
    );
    for (step, fault) in &shrunk.report.steps {
        println!("{step:>8} {fault}");
    }
    let only: Vec<_> = shrunk
        .options
        .only
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    println!(
        "sim: `cargo xtask sim --replay {} --secs {} --only {}` plays just these",
        arguments.first,
        arguments.options.seconds,
        only.join(",")
    );
    Ok(false)
}

/// Prints the trace of every seed and nothing that depends on the machine, for comparison.
fn traces(arguments: &Arguments) -> Result<bool, String> {
    let mut lines = Vec::new();
    campaign::each_seed(arguments, |report, _| {
        lines.push((report.seed, report.trace, report.events));
    })?;
    lines.sort_unstable();
    for (seed, trace, events) in lines {
        println!("{seed} {trace:016x} {events}");
    }
    Ok(true)
}
