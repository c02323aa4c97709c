//! `cargo xtask chaos`: harm to a cluster of real processes, every record checked.

use crate::args::Args;
use crate::process::{cargo, run_lines};
use crate::report::Report;
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "chaos",
    about: "kills, freezes, cuts and starves real nodes under load and checks every record",
    help: "Usage: cargo xtask chaos [arguments of the program]\n\n\
        Builds rivven-node and the program `chaos` of rivven-tests, and runs it with all arguments:\n\
        --secs N, --hours N, --episodes N, --seed N, --only NAME[,NAME...], --rate N, --json, --list.\n\
        Cut and lossy networks and full disks need root, iproute2 and nftables, failing disks and\n\
        wrong clocks a C compiler; what is missing is reported as SKIPPED by name, and\n\
        REQUIRE=namespaces makes missing namespaces a failure.",
    passes_on: true,
    run,
};

pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let root = root()?;
    let mut report = Report::new("chaos");
    let mut chaos = cargo(&root);
    chaos.args(["run", "--quiet", "--package", "rivven-tests"]);
    chaos.args(["--bin", "chaos", "--"]).args(&args.rest);
    let ok = run_lines(&mut chaos, |line| {
        if let Some((name, _)) = line
            .strip_prefix("SKIPPED ")
            .and_then(|rest| rest.split_once(": "))
        {
            report.skipped.push(name.to_owned());
        }
    })?;
    report.check("chaos", ok);
    if crate::process::is_required("namespaces") {
        let there = !report.skipped.iter().any(|name| name == "isolate");
        report.check("namespaces are there", there);
    }
    Ok(report)
}
