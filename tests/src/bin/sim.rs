//! Plays seeds of the simulated cluster: `sim [--seed S] [--seeds N] [--secs T] [--json]
//! [--replay S] [--calm]`. Exits with 1 when an invariant was broken.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool prints"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use rivven_tests::sim::{SwarmOptions, SwarmReport, run_swarm};

const USAGE: &str = "sim: plays seeds of a simulated cluster of three whole nodes

  --seed S     first seed (default 1)
  --seeds N    how many seeds (default 10)
  --secs T     simulated seconds with faults per seed (default 30)
  --replay S   plays one seed and tells its story
  --calm       no faults
  --json       prints one JSON object as the last line

Exit code 1: an invariant was broken; the seed and the invariant are printed.";

struct Arguments {
    first: u64,
    count: u64,
    replay: bool,
    json: bool,
    options: SwarmOptions,
}

fn parse() -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments {
        first: 1,
        count: 10,
        replay: false,
        json: false,
        options: SwarmOptions::default(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().unwrap_or_default();
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} takes a number, not {value:?}"))
        };
        match word.as_str() {
            "--seed" => parsed.first = number()?,
            "--seeds" => parsed.count = number()?,
            "--secs" => parsed.options.seconds = number()?,
            "--replay" => {
                parsed.first = number()?;
                parsed.count = 1;
                parsed.replay = true;
                parsed.options.story = true;
            }
            "--calm" => parsed.options.faults = false,
            "--json" => parsed.json = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}; see --help")),
        }
    }
    Ok(Some(parsed))
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    simulated_millis: u64,
    acked: usize,
    read: usize,
    metadata_commands: u64,
    leader_changes: u64,
    isr_changes: u64,
    faults: u64,
    messages: u64,
    disturbed: u64,
    max_recovery_millis: u64,
    counters: BTreeMap<String, u64>,
    violations: Vec<(u64, String, String)>,
}

impl Totals {
    fn add(&mut self, report: &SwarmReport) {
        self.seeds += 1;
        self.simulated_millis += report.simulated_millis;
        self.acked += report.acked;
        self.read += report.read;
        self.metadata_commands += report.metadata_commands;
        self.leader_changes += report.leader_changes;
        self.isr_changes += report.isr_changes;
        self.faults += report.faults();
        self.messages += report.messages;
        self.disturbed += report.disturbed;
        self.max_recovery_millis = self.max_recovery_millis.max(report.recovery_millis);
        for (what, n) in &report.counters {
            *self.counters.entry(what.clone()).or_default() += n;
        }
        if let Some(v) = &report.violation {
            let invariant = v.invariant.to_owned();
            self.violations
                .push((report.seed, invariant, v.detail.clone()));
        }
    }

    fn json(&self, wall_millis: u128) -> String {
        let violations: Vec<_> = self
            .violations
            .iter()
            .map(|(seed, invariant, detail)| {
                format!("{{\"seed\":{seed},\"invariant\":{invariant:?},\"detail\":{detail:?}}}")
            })
            .collect();
        format!(
            "{{\"command\":\"sim\",\"ok\":{},\"seeds\":{},\"simulated_ms\":{},\"wall_ms\":{wall_millis},\
             \"acked\":{},\"read\":{},\"metadata_commands\":{},\"leader_changes\":{},\
             \"isr_changes\":{},\"faults\":{},\"messages\":{},\"disturbed\":{},\
             \"max_recovery_ms\":{},\"violations\":[{}]}}",
            self.violations.is_empty(),
            self.seeds,
            self.simulated_millis,
            self.acked,
            self.read,
            self.metadata_commands,
            self.leader_changes,
            self.isr_changes,
            self.faults,
            self.messages,
            self.disturbed,
            self.max_recovery_millis,
            violations.join(",")
        )
    }
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let mut totals = Totals::default();
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        let begun = Instant::now();
        let report = match run_swarm(seed, arguments.options) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("the runtime cannot be built: {error}");
                return ExitCode::from(2);
            }
        };
        for line in &report.story {
            println!("{line}");
        }
        println!(
            "seed {seed}: {} acked, {} read, {} commands, {} leader changes, {} isr changes, {} faults, \
             recovered in {} ms, trace {:016x}, {} s simulated in {} ms",
            report.acked,
            report.read,
            report.metadata_commands,
            report.leader_changes,
            report.isr_changes,
            report.faults(),
            report.recovery_millis,
            report.trace,
            report.simulated_millis / 1000,
            begun.elapsed().as_millis()
        );
        if let Some(violation) = &report.violation {
            println!(
                "seed {seed}: VIOLATION of \"{}\" at {} ms: {}",
                violation.invariant, violation.at_millis, violation.detail
            );
        }
        totals.add(&report);
    }
    if arguments.replay || !arguments.json {
        for (what, n) in &totals.counters {
            println!("{n:>8} {what}");
        }
    }
    if arguments.json {
        println!("{}", totals.json(started.elapsed().as_millis()));
    }
    if totals.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
