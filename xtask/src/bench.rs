//! `cargo xtask bench`: figures in release, with their baselines in the same run.
//!
//! A bench prints one JSON object per figure on a line of its own; what it says to people goes to
//! standard error. This command collects the figures into the one report that scripts read.

use std::path::PathBuf;

use crate::args::Args;
use crate::json::Json;
use crate::process::{cargo, run as run_process, run_lines};
use crate::report::{Case, Report};
use crate::workspace::root;
use crate::{Command, Failure};

pub(crate) const COMMAND: Command = Command {
    name: "bench",
    about: "measures in release, each figure with its target and baseline",
    help: "Usage: cargo xtask bench [name] [--compare] [--json] [arguments of the bench]\n\n\
        Without a name it lists what there is. --compare also runs the peers that are installed.\n\
        A figure that misses its target makes the exit code 1. Figures of a busy machine are noisy:\n\
        compare ratios within one run, and medians of several.",
    passes_on: false,
    run,
};

/// One bench.
struct Bench {
    name: &'static str,
    about: &'static str,
    package: &'static str,
    target: Target,
    features: &'static [&'static str],
    peer: Peer,
}

/// Whom `--compare` runs under the same load, where the bench does not bring it along anyway.
enum Peer {
    None,
    /// Its client is compiled in by this feature.
    Feature(&'static str),
    /// A program in a workspace of its own, and the variable that tells the bench its path.
    Program(PeerProgram),
}

struct PeerProgram {
    manifest: &'static str,
    program: &'static str,
    variable: &'static str,
}

/// Where a bench lives.
enum Target {
    /// `benches/<name>.rs` of a crate that needs no cluster.
    Bench(&'static str),
    /// A program of the tests package that starts processes.
    Program(&'static str),
}

/// Every bench, in the order of the crates' layers.
const BENCHES: [Bench; 8] = [
    Bench {
        name: "placement",
        about: "placements and plans, against a hash ring and plain rendezvous hashing",
        package: "rivven-placement",
        target: Target::Bench("placement"),
        features: &[],
        peer: Peer::None,
    },
    Bench {
        name: "metadata",
        about: "snapshot and apply of 300,000 partitions, and the memory they take",
        package: "rivven-metadata",
        target: Target::Bench("metadata"),
        features: &[],
        peer: Peer::None,
    },
    Bench {
        name: "transport",
        about: "calls and bulk between two processes over TCP, a shared secret, TLS and QUIC",
        package: "rivven-transport",
        target: Target::Bench("transport"),
        features: &["quic"],
        peer: Peer::Program(PeerProgram {
            manifest: "tests/tonic/Cargo.toml",
            program: "rivven-tonic-peer",
            variable: "RIVVEN_TONIC_PEER",
        }),
    },
    Bench {
        name: "swim",
        about: "detection, false deaths, load and recovery in a simulated network, and real sockets",
        package: "rivven-swim",
        target: Target::Bench("swim"),
        features: &["sim"],
        peer: Peer::None,
    },
    Bench {
        name: "groups",
        about: "assignors, and the group coordinator under many groups and in a large one",
        package: "rivven-consumer-groups",
        target: Target::Bench("groups"),
        features: &[],
        peer: Peer::None,
    },
    Bench {
        name: "commits",
        about: "durable offset commits through the Kafka port of three processes; a part of groups",
        package: "rivven-tests",
        target: Target::Program("bench-commits"),
        features: &[],
        peer: Peer::None,
    },
    Bench {
        name: "isr",
        about: "produce through the Kafka port with three replicas, and the failover gap",
        package: "rivven-tests",
        target: Target::Program("bench-isr"),
        features: &[],
        peer: Peer::None,
    },
    Bench {
        name: "raft",
        about: "durable proposals, linearizable reads, failover, restart, catch-up of real processes",
        package: "rivven-tests",
        target: Target::Program("bench-raft"),
        features: &[],
        peer: Peer::Feature("compare"),
    },
];

/// Benches that belong to another one, which runs them after itself.
const PARTS: [(&str, &str); 1] = [("groups", "commits")];

fn run(args: &Args) -> Result<Report, Failure> {
    let Some((name, rest)) = args.rest.split_first() else {
        for bench in &BENCHES {
            println!("{:<12} {}", bench.name, bench.about);
        }
        return Ok(Report::new("bench"));
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
        let known = names.join(", ");
        return Err(Failure::new(format!(
            "there is no bench {name:?}; there are: {known}"
        )));
    };
    let mut report = Report::new(bench.name);
    measure(bench, rest, &mut report)?;
    let parts = PARTS.iter().filter(|(whole, _)| *whole == bench.name);
    for (_, part) in parts {
        if let Some(part) = BENCHES.iter().find(|bench| bench.name == *part) {
            let rest: Vec<String> = match part.peer {
                Peer::None => rest
                    .iter()
                    .filter(|word| *word != "--compare")
                    .cloned()
                    .collect(),
                Peer::Feature(_) | Peer::Program(_) => rest.to_vec(),
            };
            measure(part, &rest, &mut report)?;
        }
    }
    Ok(report)
}

/// Runs one bench and adds its figures to the report.
fn measure(bench: &Bench, rest: &[String], report: &mut Report) -> Result<(), Failure> {
    let mut command = cargo(&root()?);
    match bench.target {
        Target::Bench(target) => command.args(["bench", "--quiet", "--bench", target]),
        Target::Program(target) => command.args(["run", "--quiet", "--release", "--bin", target]),
    };
    command.args(["--package", bench.package]);
    let mut features = bench.features.to_vec();
    let compares = rest.iter().any(|argument| argument == "--compare");
    if let (Peer::Feature(feature), true) = (&bench.peer, compares) {
        features.push(feature);
    }
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    command.arg("--").args(rest);
    if let (Peer::Program(peer), true) = (&bench.peer, compares) {
        command.env(peer.variable, build(peer)?);
    }
    let before = report.cases.len();
    let mut odd = Vec::new();
    let ok = run_lines(&mut command, |line| match figure(line) {
        Some(case) => report.cases.push(case),
        None if line.is_empty() => (),
        None => odd.push(line.to_owned()),
    })?;
    if let Some(line) = odd.first() {
        return Err(Failure::new(format!("not a figure: {line:?}")));
    }
    if report.cases.len() == before {
        return Err(Failure::new("the bench printed no figure"));
    }
    if !ok {
        report.check("the bench ran to its end", false);
    }
    Ok(())
}

/// Builds a program to compare with; where it is.
fn build(peer: &PeerProgram) -> Result<PathBuf, Failure> {
    let root = root()?;
    let target = root.join("target/peers");
    let mut command = cargo(&root);
    command.args(["build", "--quiet", "--release", "--locked"]);
    command.args(["--manifest-path", peer.manifest]);
    command.arg("--target-dir").arg(&target);
    if !run_process(&mut command)? {
        return Err(Failure::new(format!("{} does not build", peer.manifest)));
    }
    Ok(target.join("release").join(peer.program))
}

/// A line of a bench as a figure, or `None` if it is not one.
fn figure(line: &str) -> Option<Case> {
    let json = Json::parse(line).ok()?;
    let Json::Number(value) = json.get("value") else {
        return None;
    };
    let ok = match json.get("ok") {
        Json::Bool(ok) => Some(*ok),
        Json::Null => None,
        Json::Number(_) | Json::Text(_) | Json::List(_) | Json::Object(_) => return None,
    };
    let mut case = Case::new(
        json.get("case").as_text()?,
        json.get("metric").as_text()?.to_owned(),
        value.clone(),
        json.get("unit").as_text()?.to_owned(),
    );
    case.ok = ok;
    for key in json.keys() {
        if !["case", "metric", "value", "unit", "ok"].contains(&key) {
            case.more.push((key.to_owned(), json.get(key).clone()));
        }
    }
    Some(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_keeps_its_target_and_baseline() {
        let line = r#"{"case":"echo x32","metric":"rate","value":1.5e3,"unit":"req/s","target":1000,"ratio":0.5,"ok":true}"#;
        let mut report = Report::new("transport");
        report.cases.push(figure(line).unwrap());
        let json = Json::parse(&report.to_json()).unwrap();
        let result = &json.get("results").items()[0];
        assert_eq!(result.get("target"), &Json::Number("1000".to_owned()));
        assert_eq!(result.get("value"), &Json::Number("1.5e3".to_owned()));
        assert_eq!(result.get("ok"), &Json::Bool(true));
        assert!(figure("warming up").is_none());
        assert!(figure(r#"{"case":"x","metric":"m","value":"fast","unit":"u"}"#).is_none());
    }
}
