//! `cargo xtask demo`: a real cluster of processes, shown at work.

use crate::args::Args;
use crate::process::{cargo, run as run_process};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "demo",
    about: "builds the node and runs the demo of a three-node cluster",
    help: "Usage: cargo xtask demo [arguments of the demo]\n\n\
        Builds rivven-node and the program `demo` of rivven-tests, and runs it with all arguments\n\
        (`--runs N` repeats it; `--json` prints its figures as the last line).",
    passes_on: true,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let root = root()?;
    let mut report = Report::new("demo");
    let mut build = cargo(&root);
    build.args(["build", "--quiet", "--package", "rivven-node", "--bins"]);
    let built = run_process(&mut build)?;
    report.check("build", built);
    if built {
        let mut demo = cargo(&root);
        demo.args([
            "run",
            "--quiet",
            "--package",
            "rivven-tests",
            "--bin",
            "demo",
            "--",
        ]);
        let ok = run_process(demo.args(&args.rest))?;
        report.check("demo", ok);
    }
    Ok(report)
}
