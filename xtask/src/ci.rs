//! `cargo xtask ci`: everything that must be green, in a fixed order.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::process::{cargo, run as run_process};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure, chaos, demo, deny, features, fuzz, sim, test, tidy};

pub(crate) const COMMAND: Command = Command {
    name: "ci",
    about: "runs every check in a fixed order and prints how long each took",
    help: "Usage: cargo xtask ci [--json]\n\n\
        tidy, fmt, clippy, deny, doc, test, sim (about 12 minutes), features, demo (5 runs), fuzz (a minute),\n\
        chaos (2 minutes). A failed step stops nothing; the last line counts the steps.\n\
        REQUIRE=kcat,confluent,kafka-python,deny makes a missing tool a failure.",
    passes_on: false,
    run,
};

/// How often the demo runs: a cluster that comes up once may have been lucky.
const DEMO_RUNS: &str = "5";

/// For how long chaos begins episodes: about as long as each nemesis needs to have its turn.
const CHAOS_SECS: &str = "120";

/// A schedule in which every harm has its turn; other seeds are for longer runs by hand.
const CHAOS_SEED: &str = "2";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

struct Step {
    name: &'static str,
    run: fn(&Path) -> Result<Report, Failure>,
}

const STEPS: [Step; 11] = [
    Step {
        name: "tidy",
        run: |_| tidy::run(&Args::default()),
    },
    Step {
        name: "fmt",
        run: |root| step("fmt", cargo(root).args(["fmt", "--all", "--check"])),
    },
    Step {
        name: "clippy",
        run: |root| {
            let mut clippy = cargo(root);
            clippy.args(["clippy", "--workspace", "--all-targets", "--quiet"]);
            step("clippy", clippy.args(["--", "-D", "warnings"]))
        },
    },
    Step {
        name: "deny",
        run: |_| deny::run(&Args::default()),
    },
    Step {
        name: "doc",
        run: |root| {
            let mut doc = cargo(root);
            doc.args(["doc", "--workspace", "--no-deps", "--quiet"]);
            step("doc", doc.env("RUSTDOCFLAGS", "-D warnings"))
        },
    },
    Step {
        name: "test",
        run: |_| test::run(&Args::default()),
    },
    Step {
        name: "sim",
        run: |_| sim::ci(),
    },
    Step {
        name: "features",
        run: |_| features::run(&Args::default()),
    },
    Step {
        name: "demo",
        run: |_| {
            let rest = ["--runs", DEMO_RUNS].map(str::to_owned).to_vec();
            demo::run(&Args {
                rest,
                ..Args::default()
            })
        },
    },
    Step {
        name: "fuzz",
        run: |_| fuzz::run(&Args::default()),
    },
    Step {
        name: "chaos",
        run: |_| {
            let rest = ["--seed", CHAOS_SEED, "--secs", CHAOS_SECS];
            chaos::run(&Args {
                rest: rest.map(str::to_owned).to_vec(),
                ..Args::default()
            })
        },
    },
];

fn step(name: &'static str, command: &mut std::process::Command) -> Result<Report, Failure> {
    let ok = run_process(command)?;
    let mut report = Report::new(name);
    report.check(name, ok);
    Ok(report)
}

fn run(args: &Args) -> Result<Report, Failure> {
    args.expect_none()?;
    let root = root()?;
    let mut report = Report::new("ci");
    let mut table = Vec::new();
    for step in &STEPS {
        println!("\n==> {}", step.name);
        let start = now();
        let outcome = (step.run)(&root).unwrap_or_else(|failure| {
            eprintln!("{}: {failure}", step.name);
            Report::failed(step.name)
        });
        let verdict = verdict(&outcome);
        if verdict != Verdict::Skipped {
            report.check(step.name, verdict == Verdict::Passed);
        }
        report.skipped.extend(outcome.skipped.iter().cloned());
        table.push((step.name, verdict, start.elapsed(), outcome.skipped));
    }
    print_table(&table);
    Ok(report)
}

#[allow(
    clippy::disallowed_methods,
    reason = "this program times other programs; the ban on the wall clock is for protocol code"
)]
fn now() -> Instant {
    Instant::now()
}

/// A step of which a part was skipped passed with what it had; one that is named as a whole did not
/// run.
fn verdict(report: &Report) -> Verdict {
    if !report.is_ok() {
        Verdict::Failed
    } else if report.skipped.iter().any(|s| s == "cargo-deny") {
        Verdict::Skipped
    } else {
        Verdict::Passed
    }
}

type Row = (&'static str, Verdict, Duration, Vec<String>);

fn print_table(table: &[Row]) {
    println!("\n{:<10} {:>8}  result", "step", "seconds");
    for (name, verdict, took, skipped) in table {
        let result = match verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "SKIPPED",
        };
        let without = match skipped.as_slice() {
            [] => String::new(),
            names => format!(" (skipped: {})", names.join(", ")),
        };
        println!("{name:<10} {:>8.1}  {result}{without}", took.as_secs_f64());
    }
    println!("{}", closing_line(table));
}

/// Counts the steps that passed or failed, and all that was skipped, by name, within or instead of
/// a step.
fn closing_line(table: &[Row]) -> String {
    let count = |wanted| table.iter().filter(|(_, v, _, _)| *v == wanted).count();
    let (passed, failed) = (count(Verdict::Passed), count(Verdict::Failed));
    match table
        .iter()
        .map(|(_, _, _, names)| names.len())
        .sum::<usize>()
    {
        0 => format!("{passed} passed, {failed} failed"),
        skipped => format!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: Verdict, skipped: &[&str]) -> Row {
        let skipped = skipped.iter().map(ToString::to_string).collect();
        ("x", verdict, Duration::ZERO, skipped)
    }

    #[test]
    fn the_closing_line_counts_the_steps() {
        let table = [
            row(Verdict::Passed, &[]),
            row(Verdict::Failed, &[]),
            row(Verdict::Passed, &[]),
        ];
        assert_eq!(closing_line(&table), "2 passed, 1 failed");
        let table = [
            row(Verdict::Skipped, &["cargo-deny"]),
            row(Verdict::Passed, &["kcat", "confluent"]),
        ];
        assert_eq!(closing_line(&table), "1 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn a_skipped_part_is_no_pass_of_a_step_that_did_not_run() {
        let mut report = Report::new("deny");
        report.skipped.push("advisories".to_owned());
        assert_eq!(verdict(&report), Verdict::Passed);
        report.skipped.push("cargo-deny".to_owned());
        assert_eq!(verdict(&report), Verdict::Skipped);
        report.check("cargo-deny", false);
        assert_eq!(verdict(&report), Verdict::Failed);
    }

    #[test]
    fn the_order_of_the_steps_is_fixed() {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        let expected = [
            "tidy", "fmt", "clippy", "deny", "doc", "test", "sim", "features", "demo", "fuzz",
            "chaos",
        ];
        assert_eq!(names, expected);
    }
}
