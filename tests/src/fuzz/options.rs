//! The command line.

use std::time::Duration;

/// What `--help` says.
pub const HELP: &str = "\
Usage: fuzz [--secs N] [--executions N] [--target NAME] [--seed N] [--json]
       fuzz --target NAME --input HEX

Feeds changed messages to every decoder, and reports how many of them decode.

  --secs N         seconds for each target (default 6)
  --executions N   end each target after so many inputs, whatever the time
  --target NAME    only this one; --list names them
  --seed N         what the changes are drawn from (default: drawn and printed)
  --input HEX      this input alone, as a finding printed it
  --json           one JSON object with all figures as the last line
  --list           the targets
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print the help.
    Help,
    /// Name the targets.
    List,
    /// Run.
    Run(FuzzOptions),
}

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuzzOptions {
    /// For each target.
    pub time: Duration,
    /// Inputs for each target, at most.
    pub executions: u64,
    /// The only target.
    pub target: Option<String>,
    /// The seed; drawn if there is none.
    pub seed: Option<u64>,
    /// The only input.
    pub input: Option<Vec<u8>>,
    /// Whether to print the figures as JSON.
    pub json: bool,
}

impl Default for FuzzOptions {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(6),
            executions: u64::MAX,
            target: None,
            seed: None,
            input: None,
            json: false,
        }
    }
}

impl FuzzOptions {
    /// Understands the arguments behind the program's name.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Request, String> {
        let mut options = Self::default();
        let (mut words, mut is_timed) = (words, false);
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(Request::Help),
                "--list" => return Ok(Request::List),
                "--json" => options.json = true,
                "--secs" => {
                    is_timed = true;
                    options.time = Duration::from_secs(number(&word, &value()?)?);
                }
                "--executions" => options.executions = number(&word, &value()?)?,
                "--seed" => options.seed = Some(number(&word, &value()?)?),
                "--target" => options.target = Some(value()?),
                "--input" => options.input = Some(bytes(&value()?)?),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        if options.executions < u64::MAX && !is_timed {
            // The number of inputs alone decides.
            options.time = Duration::MAX;
        }
        if options.input.is_some() && options.target.is_none() {
            return Err("--input needs --target".to_owned());
        }
        Ok(Request::Run(options))
    }
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{name} {text}: not a whole number"))
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("--input {hex}: not pairs of hexadecimal digits");
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).map_err(|_| wrong()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, String> {
        FuzzOptions::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_and_mistakes_named() {
        let expected = FuzzOptions {
            time: Duration::MAX,
            executions: 10,
            target: Some("swim".to_owned()),
            input: Some(vec![0, 255]),
            ..FuzzOptions::default()
        };
        let words = "--executions 10 --target swim --input 00fF";
        assert_eq!(parse(words), Ok(Request::Run(expected)));
        for (bad, word) in [
            ("--secs", "needs a value"),
            ("--secs x", "--secs x"),
            ("--input 00", "--target"),
            ("--target a --input 0", "pairs"),
            ("--target a --input 0é", "pairs"),
            ("--sec 1", "--sec"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
