//! `cargo xtask sim`: seeds of the simulated cluster.

use std::collections::BTreeMap;
use std::process::Command as Process;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::Args;
use crate::process::{cargo, run as run_process, run_lines};
use crate::report::Report;
use crate::test::run_counted;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "sim",
    about: "plays seeds of a whole simulated cluster with faults and checks every invariant",
    help: "Usage: cargo xtask sim [--meta | --planted] [arguments of the program]\n\n\
        Builds the program `sim` of rivven-tests and runs it with all arguments:\n\
        --seed S, --seeds N, --minutes M, --secs T, --jobs J, --replay S, --only A,B, --marks, --dense, --members, --calm,\n\
        --boundaries, --every E, --json; `cargo xtask sim -- --help` says more.\n\
        --meta     plays the seeds in two fresh processes and compares their traces\n\
        --planted  plants each known bug and counts the seeds until the swarm finds it; then runs the\n\
                   tests of the crates that find the others\n\
        --bug NAME with --planted: this bug alone; with --replay: plays with it",
    passes_on: true,
    run,
};

/// Seeds that every CI run plays, with simulated seconds of faults each.
const CI_SEEDS: &str = "50";
const CI_SECONDS: &str = "120";
/// How many of them are played once more, in another process.
const CI_COMPARED: u64 = 25;
/// Seeds that no run has played before.
const CI_FRESH_SEEDS: &str = "500";
/// Fresh seeds begin above this, a block of them per day.
const FRESH: u64 = 1_000_000;
const FRESH_PER_DAY: u64 = 100_000;
/// The first syncs of a node; the power goes at each.
const BOUNDARIES: &str = "500";
const BOUNDARY_SECONDS: &str = "20";
/// Within so many seeds of so many seconds the swarm finds each planted bug that is its to find.
const PLANTED_SEEDS: &str = "40";
const PLANTED_SECONDS: &str = "60";
/// Histories of single parts that CI plays, 20,000 in all; each test plays fewer without being asked.
const CORES: [(&str, &str, &str); 4] = [
    (
        "RIVVEN_ISR_SEEDS",
        "9000",
        "no_committed_record_is_lost_or_changed_under_any_faults",
    ),
    (
        "RIVVEN_METADATA_SEEDS",
        "1000",
        "committed_records_stay_with_whoever_may_lead",
    ),
    (
        "RIVVEN_SEGMENT_LOG_SEEDS",
        "8000",
        "no_durable_record_is_lost_and_nothing_invalid_is_served_after_power_losses",
    ),
    (
        "RIVVEN_SWIM_SEEDS",
        "2000",
        "random_stories_break_no_rule_and_end_in_agreement",
    ),
];
/// The crates whose tests plant bugs of their own.
const PLANTING: [&str; 5] = [
    "rivven-isr",
    "rivven-metadata",
    "rivven-raft-store",
    "rivven-segment-log",
    "rivven-swim",
];

/// Always with the bugs that can be planted, of which none is unless asked for: one build serves every use.
fn program(rest: &[String]) -> Result<Process, Failure> {
    let mut sim = cargo(&root()?);
    sim.args(["run", "--quiet", "--package", "rivven-tests"]);
    sim.args(["--features", "planted", "--bin", "sim", "--"]);
    sim.args(rest);
    Ok(sim)
}

/// The tests that plant bugs in a single part. A filter that finds no test proves nothing.
fn planting_tests() -> Result<bool, Failure> {
    let mut tests = cargo(&root()?);
    tests.args(["test", "--quiet", "--lib"]);
    for package in PLANTING {
        tests.args(["--package", package]);
    }
    let (ok, counts) = run_counted(tests.arg("planted"))?;
    Ok(ok && counts.passed >= PLANTING.len())
}

/// Many histories of single parts, each in a test of its crate, which must be there.
fn cores() -> Result<bool, Failure> {
    // The build of `cargo test --workspace` serves here too.
    let mut tests = cargo(&root()?);
    tests.args(["test", "--quiet", "--workspace", "--lib", "--"]);
    for (variable, seeds, test) in CORES {
        tests.env(variable, seeds).arg(test);
    }
    let (ok, counts) = run_counted(&mut tests)?;
    Ok(ok && counts.passed == CORES.len())
}

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let mut report = Report::new("sim");
    let (meta, rest): (Vec<_>, Vec<_>) = args.rest.iter().cloned().partition(|w| w == "--meta");
    let rest: Vec<String> = rest.into_iter().filter(|word| word != "--").collect();
    if meta.is_empty() {
        let ok = run_process(&mut program(&rest)?)?;
        report.check("sim", ok);
        let has = |wanted: &str| rest.iter().any(|word| word == wanted);
        if has("--planted") && !has("--bug") {
            report.check("tests that plant bugs", planting_tests()?);
        }
        return Ok(report);
    }
    let first = traces(&rest)?;
    let second = traces(&rest)?;
    compare(&mut report, &first, &second);
    Ok(report)
}

/// The step of `cargo xtask ci`: histories of single parts; the same seeds of whole clusters each time and
/// fresh ones by the date; some of the same in another process, whose traces must be equal; a loss of power
/// at each of the first syncs; and each planted bug, which must be found.
pub(crate) fn ci() -> Result<Report, Failure> {
    let mut report = Report::new("sim");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    report.check("single parts", cores()?);
    let base = [
        "--seed", "1", "--seeds", CI_SEEDS, "--secs", CI_SECONDS, "--marks", "--dense",
    ];
    let mut first = Traces::new();
    let ok = run_lines(&mut program(&words(&base))?, |line| {
        first.extend(trace_of(line));
    })?;
    report.check("base seeds", ok);
    let day = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() / 86_400);
    let from = (FRESH + day * FRESH_PER_DAY).to_string();
    let fresh = words(&[
        "--seed",
        &from,
        "--seeds",
        CI_FRESH_SEEDS,
        "--secs",
        CI_SECONDS,
        "--dense",
    ]);
    let ok = run_process(&mut program(&fresh)?)?;
    report.check("fresh seeds", ok);
    let compared = CI_COMPARED.to_string();
    let again = words(&["--seed", "1", "--seeds", &compared, "--secs", CI_SECONDS]);
    let second = traces(&again)?;
    first.retain(|seed, _| *seed <= CI_COMPARED);
    compare(&mut report, &first, &second);
    let cuts = [
        "--boundaries",
        "--seeds",
        BOUNDARIES,
        "--secs",
        BOUNDARY_SECONDS,
        "--json",
    ];
    let ok = run_process(&mut program(&words(&cuts))?)?;
    report.check("power lost at each sync", ok);
    // The tests of single parts that plant bugs are run with all others.
    let planted = [
        "--planted",
        "--seeds",
        PLANTED_SEEDS,
        "--secs",
        PLANTED_SECONDS,
    ];
    let ok = run_process(&mut program(&words(&planted))?)?;
    report.check("planted bugs", ok);
    Ok(report)
}

/// The trace of each seed.
type Traces = BTreeMap<u64, String>;

fn traces(rest: &[String]) -> Result<Traces, Failure> {
    let mut words = rest.to_vec();
    words.push("--traces".to_owned());
    let mut found = Traces::new();
    let ok = run_lines(&mut program(&words)?, |line| {
        if let Some((seed, trace)) = line.split_once(' ')
            && let Ok(seed) = seed.parse()
        {
            found.insert(seed, trace.to_owned());
        }
    })?;
    if ok {
        Ok(found)
    } else {
        Err(Failure::new("the simulator did not print its traces"))
    }
}

/// The trace in the line that tells of a seed.
fn trace_of(line: &str) -> Option<(u64, String)> {
    let (seed, rest) = line.strip_prefix("seed ")?.split_once(':')?;
    let (_, rest) = rest.split_once("trace ")?;
    let (trace, _) = rest.split_once(" events")?;
    Some((seed.parse().ok()?, trace.replacen("of ", "", 1)))
}

fn compare(report: &mut Report, first: &Traces, second: &Traces) {
    let differ = first
        .iter()
        .filter(|(seed, trace)| second.get(seed) != Some(trace));
    let differ: Vec<_> = differ.map(|(seed, _)| *seed).collect();
    println!(
        "sim: {} of {} seeds have the same trace in two processes",
        first.len() - differ.len(),
        first.len()
    );
    if !differ.is_empty() {
        println!("sim: these differ: {differ:?}");
    }
    report.count("seeds", "compared", first.len());
    let same = !first.is_empty() && first.len() == second.len() && differ.is_empty();
    report.check("equal seeds, equal traces", same);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_read_from_both_kinds_of_lines_and_compared() {
        let line = "seed 7: 12 acked, recovered in 3 ms, trace 00ab of 55 events, 30 s in 4 ms";
        assert_eq!(trace_of(line), Some((7, "00ab 55".to_owned())));
        assert_eq!(trace_of("seed 7: VIOLATION of \"x\""), None);
        let first = Traces::from([(7, "00ab 55".to_owned())]);
        let mut report = Report::new("sim");
        compare(&mut report, &first, &first.clone());
        assert!(report.is_ok());
        compare(
            &mut report,
            &first,
            &Traces::from([(7, "00ac 55".to_owned())]),
        );
        assert!(!report.is_ok());
        let mut report = Report::new("sim");
        compare(&mut report, &Traces::new(), &Traces::new());
        assert!(!report.is_ok(), "nothing compared proves nothing");
    }
}
