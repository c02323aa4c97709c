//! `cargo xtask mutants`: which small changes of the code no test notices.

use crate::args::Args;
use crate::process::{cargo, run as run_process, works};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "mutants",
    about: "changes code in small ways and names the changes that no test notices",
    help: "Usage: cargo xtask mutants -p CRATE [arguments of cargo mutants]\n\n\
        Needs cargo-mutants: cargo install cargo-mutants --locked. Each mutant is one build and one\n\
        run of the crate's tests; `-f FILE` picks files, `--shard K/N` a part, `--list` only lists.\n\
        Details of each mutant are put into target/mutants.",
    passes_on: true,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let root = root()?;
    if !works(cargo(&root).args(["mutants", "--version"])) {
        return Err(Failure::new(
            "cargo-mutants is missing: cargo install cargo-mutants --locked",
        ));
    }
    let picks = |word: &String| word == "-p" || word.starts_with("--package");
    if !args.rest.iter().any(picks) {
        return Err(Failure::new("name a crate with -p; see --help"));
    }
    let mut mutants = cargo(&root);
    mutants.args(["mutants", "--output"]);
    mutants.arg(root.join("target/mutants")).args(&args.rest);
    let ok = run_process(&mut mutants)?;
    let mut report = Report::new("mutants");
    report.check("every mutant is noticed", ok);
    Ok(report)
}
