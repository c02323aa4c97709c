//! What the metadata group can do: real processes, the real transport with its frame authentication, every
//! entry on stable storage before it is acknowledged. `cargo xtask bench raft` runs it in release.
//!
//! The load comes from this process, over the same transport and on the same machine, as the peers'
//! figures were measured. Progress goes to standard error, one JSON object per figure to standard output.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that speaks to a person and to xtask"
)]

mod cases;
mod cluster;
#[cfg(feature = "compare")]
mod etcd;
mod load;
mod node;
mod peer;

use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
Usage: bench-raft [--seconds N] [--kills N] [--only CASE] [--compare]

  --seconds N  how long each load runs (default 3)
  --kills N    leaders that are killed for the failover figure (default 10)
  --only CASE  one of: single, three, reads, failover, restart, catchup; or one-phase, which is not among
               those that run without this option
  --compare    Also runs etcd with three members under the same writes and reads, if it is installed, and
               holds the figures against those of this run
";

/// What was asked for.
#[derive(Debug, Clone)]
struct Options {
    seconds: Duration,
    kills: usize,
    only: Option<String>,
    /// Whether etcd runs under the same load.
    compare: bool,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        seconds: Duration::from_secs(3),
        kills: 10,
        only: None,
        compare: false,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        let number = |text: &String| text.parse::<u32>().map_err(|e| format!("{text}: {e}"));
        match argument.as_str() {
            "--seconds" => options.seconds = Duration::from_secs(number(value()?)?.into()),
            "--kills" => options.kills = usize::try_from(number(value()?)?).unwrap_or(usize::MAX),
            "--only" => options.only = Some(value()?.clone()),
            "--compare" => options.compare = true,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = if let Some(("--node", rest)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        node::run(rest)
    } else {
        match options(&arguments) {
            Ok(options) => cases::run(&options),
            Err(error) => {
                eprint!("bench-raft: {error}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-raft: {failure}");
            ExitCode::FAILURE
        }
    }
}
