//! `cargo xtask fuzz`: changed messages for every decoder, on stable Rust.

use crate::args::Args;
use crate::process::{cargo, run as run_process};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "fuzz",
    about: "feeds changed messages to every decoder",
    help: "Usage: cargo xtask fuzz [arguments of the program]\n\n\
        Builds and runs the program `fuzz` of rivven-tests with all arguments: --secs N (for each\n\
        target), --executions N, --target NAME, --seed N, --input HEX, --json, --list.",
    passes_on: true,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let mut fuzz = cargo(&root()?);
    fuzz.args(["run", "--quiet", "--package", "rivven-tests"]);
    let ok = run_process(fuzz.args(["--bin", "fuzz", "--"]).args(&args.rest))?;
    let mut report = Report::new("fuzz");
    report.check("fuzz", ok);
    Ok(report)
}
