//! `cargo xtask certs`: certificates for development.

use crate::args::Args;
use crate::process::{cargo, run as run_process};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "certs",
    about: "makes a CA and certificates for nodes, for development",
    help: "Usage: cargo xtask certs --out DIR --cluster NAME --node NAME [--node NAME]... [--days N]\n\n\
        Runs `rivven-node certs` with all arguments.",
    passes_on: true,
    run,
};

fn run(args: &Args) -> Result<Report, Failure> {
    let mut command = cargo(&root()?);
    command.args(["run", "--quiet", "--package", "rivven-node", "--", "certs"]);
    let mut report = Report::new("certs");
    report.check("certs", run_process(command.args(&args.rest))?);
    Ok(report)
}
