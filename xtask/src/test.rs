//! `cargo xtask test`: all tests, and which of them could not run for want of a tool.

use std::process::Command as Process;

use crate::args::Args;
use crate::process::{cargo, is_required, run_lines, works};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "test",
    about: "runs every test and names the tools that some of them missed",
    help: "Usage: cargo xtask test [--json] [arguments of cargo test]\n\n\
        Runs cargo test --workspace --no-fail-fast (with arguments, those instead of --workspace).\n\
        Tests with real clients use kcat, confluent-kafka and kafka-python (of the Python\n\
        $RIVVEN_PYTHON, default python3); a missing one is reported as SKIPPED.\n\
        REQUIRE=kcat,confluent,kafka-python makes it a failure.",
    passes_on: false,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let mut report = Report::new("test");
    let mut cargo = cargo(&root()?);
    cargo.args(["test", "--no-fail-fast"]);
    if args.rest.is_empty() {
        cargo.arg("--workspace");
    }
    let (ok, counts) = run_counted(cargo.args(&args.rest))?;
    report.check("cargo test", ok);
    report.count("tests", "passed", counts.passed);
    report.count("tests", "failed", counts.failed);
    report.count("tests", "ignored", counts.ignored);
    println!(
        "test: {} passed, {} failed, {} ignored",
        counts.passed, counts.failed, counts.ignored
    );
    let python = std::env::var("RIVVEN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for (tool, name, found) in [
        ("kcat", "kcat", works(Process::new("kcat").arg("-V"))),
        (
            "confluent",
            "confluent-kafka",
            works(Process::new(&python).args(["-c", "import confluent_kafka"])),
        ),
        (
            "kafka-python",
            "kafka-python",
            works(Process::new(&python).args(["-c", "import kafka.coordinator.assignors"])),
        ),
    ] {
        if !found {
            println!("SKIPPED {tool}: {name} is not installed, its tests did not run");
            report.skipped.push(tool.to_owned());
        }
        if is_required(tool) {
            report.check(format!("{tool} is there"), found);
        }
    }
    Ok(report)
}

/// Runs tests, and counts their results.
pub(crate) fn run_counted(tests: &mut Process) -> Result<(bool, Counts), Failure> {
    let mut counts = Counts::default();
    let ok = run_lines(tests, |line| counts.add(line))?;
    Ok((ok, counts))
}

/// The sum over all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split([';', '.']) {
            let Some((count, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let count: usize = count.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_summed() {
        let mut counts = Counts::default();
        counts.add("test a ... ok");
        counts.add("test result: ok. 30 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s");
        counts.add("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        let expected = Counts {
            passed: 32,
            failed: 1,
            ignored: 1,
        };
        assert_eq!(counts, expected);
    }
}
