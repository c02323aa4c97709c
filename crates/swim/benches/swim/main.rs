//! The failure detector measured: in a simulated network (one-way latency 0.3 ms + Exp(0.5 ms), loss for
//! each datagram by itself) and on real sockets. Prints one JSON object for each figure;
//! `cargo xtask bench swim` collects them.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench prints, calculates, and stops at the first thing that is wrong"
)]

mod cost;
mod detection;
mod flood;
mod loss;
mod peer;
mod plot;
mod recovery;
mod sockets;

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_swim::sim::Faults;

const USAGE: &str =
    "cargo xtask bench swim [PART...] [--compare] [--long] [--sockets SECS] [--plots DIR]

  PART       cost, detection, loss, load, recovery, flood, sockets; all of them without any
  --compare  foca in the same simulated network
  --long     10,000 nodes, and 10,000 node-hours at 5 % loss: an hour and 3 GB
  --hours    node-hours at 5 % loss instead of the 50 of every run
  --sockets  how long the members on real sockets run (default 15)
  --members  how many of them, instead of 3, 16 and 64
  --plots    draws the curves as SVG into this folder (needs detection and loss)";

/// Points of the curves that are drawn: by curve, x and y.
pub(crate) type Curves = BTreeMap<&'static str, Vec<(f64, f64)>>;

#[derive(Default)]
struct Options {
    parts: Vec<String>,
    compare: bool,
    long: bool,
    hours: u64,
    sockets: u64,
    members: Option<usize>,
    plots: Option<String>,
}

const PARTS: [&str; 7] = [
    "cost",
    "detection",
    "loss",
    "load",
    "recovery",
    "flood",
    "sockets",
];

fn options() -> Result<Options, String> {
    let mut options = Options {
        hours: 50,
        sockets: 15,
        ..Options::default()
    };
    let mut args = std::env::args().skip(1);
    let number = |word: Option<String>| word.and_then(|word| word.parse().ok());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--compare" => options.compare = true,
            "--long" => (options.long, options.hours) = (true, 10_000),
            "--hours" => {
                options.hours = number(args.next()).ok_or("--hours takes a number")?;
            }
            "--sockets" => {
                options.sockets = number(args.next()).ok_or("--sockets takes seconds")?;
            }
            "--members" => {
                let members = number(args.next()).ok_or("--members takes a number")?;
                options.members = Some(members as usize);
            }
            "--plots" => options.plots = Some(args.next().ok_or("--plots takes a folder")?),
            // Cargo adds this one.
            "--bench" => {}
            part if PARTS.contains(&part) => options.parts.push(part.to_owned()),
            other => return Err(format!("unknown argument {other:?}\n\n{USAGE}")),
        }
    }
    Ok(options)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn lossy(per_mille: u64) -> Faults {
    Faults {
        loss_per_mille: per_mille,
        ..Faults::default()
    }
}

pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

pub(crate) fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

fn main() -> std::process::ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return std::process::ExitCode::from(2);
        }
    };
    let mut curves = Curves::new();
    for part in PARTS {
        if !options.parts.is_empty() && !options.parts.iter().any(|wanted| wanted == part) {
            continue;
        }
        match part {
            // First: what a process has freed would hide what it takes.
            "cost" => cost::run(options.long),
            "detection" => detection::run(options.compare, &mut curves),
            "loss" => loss::run(options.compare, options.hours, &mut curves),
            "load" => recovery::load(),
            "recovery" => recovery::run(options.compare),
            "flood" => flood::run(),
            _ => sockets::run(options.sockets, options.members),
        }
    }
    if let Some(dir) = options.plots {
        plot::draw(&dir, &curves);
    }
    std::process::ExitCode::SUCCESS
}
