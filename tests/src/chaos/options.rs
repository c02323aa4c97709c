//! The command line.

use std::time::Duration;

use super::nemesis::Nemesis;

/// What `--help` says.
pub const HELP: &str = "\
Usage: chaos [--secs N | --hours N] [--episodes N] [--seed N] [--only NAME[,NAME...]] [--json]

Runs three rivven-node processes under load and does them harm, one episode after the other, as drawn
from the seed; checks every record at the end.

  --secs N       begin episodes for so many seconds (default 120)
  --hours N      the same in hours
  --episodes N   end after so many episodes, whatever the time
  --seed N       the schedule's seed (default: drawn and printed)
  --only NAMES   only these nemeses; --list names them
  --rate N       records per second that our own producers write (default 800)
  --json         one JSON object with all figures as the last line
  --list         the nemeses, and what each needs
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print the help.
    Help,
    /// Name the nemeses.
    List,
    /// Run.
    Run(ChaosOptions),
}

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChaosOptions {
    /// For how long episodes are begun.
    pub time: Duration,
    /// How many episodes at most.
    pub episodes: Option<usize>,
    /// The seed of the schedule; drawn if there is none.
    pub seed: Option<u64>,
    /// The nemeses to choose from.
    pub only: Vec<Nemesis>,
    /// Records per second.
    pub rate: u64,
    /// Whether to print the figures as JSON.
    pub json: bool,
}

impl Default for ChaosOptions {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(120),
            episodes: None,
            seed: None,
            only: Nemesis::ALL.to_vec(),
            rate: 800,
            json: false,
        }
    }
}

/// Records per second that a run may be asked for.
const MAX_RATE: u64 = 20_000;
/// Longest run, in seconds: a week.
const MAX_SECS: u64 = 7 * 86_400;

impl ChaosOptions {
    /// Understands the arguments behind the program's name.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Request, String> {
        let mut options = Self::default();
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(Request::Help),
                "--list" => return Ok(Request::List),
                "--json" => options.json = true,
                "--secs" => options.time = seconds(&word, &value()?, 1)?,
                "--hours" => options.time = seconds(&word, &value()?, 3_600)?,
                "--episodes" => {
                    let count = number(&word, &value()?, 1, 1_000_000)?;
                    options.episodes = usize::try_from(count).ok();
                }
                "--seed" => options.seed = Some(number(&word, &value()?, 0, u64::MAX)?),
                "--rate" => options.rate = number(&word, &value()?, 1, MAX_RATE)?,
                "--only" => options.only = names(&value()?)?,
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        if options.episodes.is_some() && options.time == Self::default().time {
            // The number of episodes alone decides.
            options.time = Duration::from_secs(MAX_SECS);
        }
        Ok(Request::Run(options))
    }
}

fn number(name: &str, text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse().ok();
    let number = number.filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name} {text}: not a number from {least} to {most}"))
}

fn seconds(name: &str, text: &str, unit: u64) -> Result<Duration, String> {
    let count = number(name, text, 1, MAX_SECS / unit)?;
    Ok(Duration::from_secs(count * unit))
}

fn names(text: &str) -> Result<Vec<Nemesis>, String> {
    let known = |name: &str| {
        let found = Nemesis::ALL.iter().find(|nemesis| nemesis.name() == name);
        found.copied().ok_or_else(|| {
            let all = Nemesis::ALL.map(Nemesis::name).join(", ");
            format!("no nemesis {name:?}; there are {all}")
        })
    };
    text.split(',').map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, String> {
        ChaosOptions::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_and_mistakes_named() {
        let expected = ChaosOptions {
            time: Duration::from_secs(7_200),
            seed: Some(7),
            only: vec![Nemesis::Kill, Nemesis::Isolate],
            json: true,
            ..ChaosOptions::default()
        };
        let words = "--hours 2 --seed 7 --only kill,isolate --json";
        assert_eq!(parse(words), Ok(Request::Run(expected)));
        let Ok(Request::Run(counted)) = parse("--episodes 200 --only kill") else {
            panic!("it is understood")
        };
        assert_eq!(counted.episodes, Some(200));
        assert!(counted.time > Duration::from_secs(86_400));
        for (bad, word) in [
            ("--secs", "needs a value"),
            ("--secs 0", "from 1"),
            ("--seed x", "--seed x"),
            ("--only kil", "kill"),
            ("--onyl kill", "--onyl"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
