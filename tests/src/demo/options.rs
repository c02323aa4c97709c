//! The command line of the demo.

use std::path::PathBuf;

/// What `--help` prints.
pub const HELP: &str = "\
demo - three nodes, real records, kill -9, and not a record lost

Usage: cargo xtask demo [options]

Starts three nodes in a temporary directory, creates the topic `flights` (6 partitions, 3 replicas,
min.insync.replicas 2) and writes the 27,004 flights that left New York City in January 2013, keyed by
carrier, acks=all, idempotent, over at least 10 seconds. Kills the controller with SIGKILL, restarts it,
then kills the leader of the busiest partition, and restarts that. Reads everything back and checks that
every record is there once and in order, and that the logs of the three nodes are equal byte by byte.

Options:
  --runs N      Run N times, each with a new cluster; fails if any run fails (default: 1)
  --input FILE  Write the lines of FILE instead of the flights
  --key COLUMN  FILE is a CSV file with a header; key each record by this column
  --keep        Leave the cluster running at the end, and say how to use and to stop it
  --json        Print the figures as one JSON object, the last line of standard output. Of several runs
                it has the sums of the counts, the longest times and the lowest rate; `results` has
                the figures of each
  --help        Print this and exit

Exit status: 0 all is well, 1 a check failed or the demo could not run, 2 wrong usage.
";

/// Most runs that may be asked for.
const MAX_RUNS: usize = 1_000;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print the help.
    Help,
    /// Run.
    Run(DemoOptions),
}

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// How often.
    pub runs: usize,
    /// The records, if not the flights.
    pub input: Option<PathBuf>,
    /// The key column of `input`.
    pub key: Option<String>,
    /// Whether the cluster goes on running.
    pub keep: bool,
    /// Whether to print a JSON object.
    pub json: bool,
}

impl DemoOptions {
    /// Parses the arguments behind the program's name; the error says what is wrong.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Request, String> {
        let mut this = Self {
            runs: 1,
            input: None,
            key: None,
            keep: false,
            json: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, mut inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                let value = inline.take().or_else(|| arguments.next());
                value.ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(Request::Help),
                "--json" => this.json = true,
                "--keep" => this.keep = true,
                "--input" => this.input = Some(value()?.into()),
                "--key" => this.key = Some(value()?),
                "--runs" => {
                    let text = value()?;
                    let runs = text
                        .parse()
                        .ok()
                        .filter(|runs| (1..=MAX_RUNS).contains(runs));
                    this.runs =
                        runs.ok_or_else(|| format!("--runs {text}: not within 1..={MAX_RUNS}"))?;
                }
                _ => return Err(format!("unknown argument {name:?}")),
            }
            if let Some(value) = inline {
                return Err(format!("{name} takes no value, but got {value:?}"));
            }
        }
        if this.key.is_some() && this.input.is_none() {
            return Err("--key needs --input".to_owned());
        }
        if this.keep && this.runs > 1 {
            return Err("--keep leaves one cluster running; it goes with one run".to_owned());
        }
        Ok(Request::Run(this))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        DemoOptions::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_named() {
        let plain = DemoOptions {
            runs: 1,
            input: None,
            key: None,
            keep: false,
            json: false,
        };
        assert_eq!(parsed(""), Ok(Request::Run(plain.clone())));
        let asked = DemoOptions {
            runs: 5,
            json: true,
            ..plain.clone()
        };
        assert_eq!(parsed("--runs=5 --json"), Ok(Request::Run(asked)));
        let own = DemoOptions {
            input: Some("a.csv".into()),
            key: Some("id".into()),
            ..plain
        };
        assert_eq!(parsed("--input a.csv --key id"), Ok(Request::Run(own)));
        assert_eq!(parsed("--runs 3 --help"), Ok(Request::Help));
        for (line, word) in [
            ("--runs 0", "1..="),
            ("--runs", "value"),
            ("--frob", "--frob"),
            ("--json=1", "no value"),
            ("--key id", "--input"),
            ("--keep --runs 2", "one run"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
