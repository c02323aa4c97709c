//! What the command line says.

use rivven_tests::sim::{SwarmOptions, SwarmReport, run_swarm};

pub(crate) const USAGE: &str = "sim: plays seeds of a simulated cluster of three whole nodes

  --seed S     first seed (default 1)
  --seeds N    how many seeds (default 10)
  --minutes M  goes on with further seeds until M minutes of wall time are over
  --secs T     simulated seconds with faults per seed (default 30)
  --jobs J     seeds that are played side by side (default: the number of cores)
  --replay S   plays one seed and tells its story; if it breaks an invariant, finds the few faults
               that it takes
  --only A,B   with --replay: plays only the faults of these steps
  --dense      fails if a seed is thin: too little has happened in it to prove anything
  --marks      fails if something that must happen sometimes never did
  --traces     prints the trace of each seed alone, for comparing two processes
  --planted    plants each known bug and counts the seeds until it is found
               (in builds with --features planted); fails if one is not found in --seeds seeds.
               Those that the tests of a crate find are named with that crate
  --bug NAME   with --planted: this bug alone; with --replay: plays with this bug
  --members    in a third of the seeds nodes join the cluster and leave it for good
  --calm       no faults
  --boundaries a seed is the number of a sync instead: the power goes there, for one node (an odd
               number) or for all, and the cluster must come back (try --secs 20)
  --every E    plays every E-th seed alone
  --json       prints one JSON object as the last line

Exit code 1: an invariant was broken; the seed and the invariant are printed.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Play,
    Replay,
    Traces,
    Planted,
}

#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) minutes: Option<u64>,
    pub(crate) jobs: usize,
    pub(crate) task: Task,
    pub(crate) bug: Option<String>,
    pub(crate) dense: bool,
    pub(crate) marks: bool,
    pub(crate) json: bool,
    pub(crate) boundaries: bool,
    pub(crate) every: u64,
    pub(crate) options: SwarmOptions,
}

/// The world whose syncs are counted with `--boundaries`.
const BOUNDARIES_SEED: u64 = 1;

impl Arguments {
    /// Plays what this number stands for.
    pub(crate) fn run(&self, seed: u64, options: &SwarmOptions) -> std::io::Result<SwarmReport> {
        if !self.boundaries {
            return run_swarm(seed, options);
        }
        let options = SwarmOptions {
            power_lost_after_syncs: Some(seed),
            ..options.clone()
        };
        Ok(SwarmReport {
            seed,
            ..run_swarm(BOUNDARIES_SEED, &options)?
        })
    }

    /// `None` if only help was asked for.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self {
            first: 1,
            count: 10,
            minutes: None,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            task: Task::Play,
            bug: None,
            dense: false,
            marks: false,
            json: false,
            boundaries: false,
            every: 1,
            options: SwarmOptions::default(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
            let number = |text: String| {
                text.parse::<u64>()
                    .map_err(|_| format!("{word} takes a number, not {text:?}"))
            };
            match word.as_str() {
                "--seed" => parsed.first = number(value()?)?,
                "--seeds" => parsed.count = number(value()?)?,
                "--minutes" => parsed.minutes = Some(number(value()?)?),
                "--secs" => parsed.options.seconds = number(value()?)?,
                "--jobs" => {
                    let jobs = number(value()?)?;
                    parsed.jobs = usize::try_from(jobs.max(1)).unwrap_or(1);
                }
                "--replay" => {
                    parsed.first = number(value()?)?;
                    parsed.count = 1;
                    parsed.task = Task::Replay;
                    parsed.options.story = true;
                }
                "--only" => {
                    let list = value()?;
                    let steps = list.split(',').filter(|s| !s.is_empty());
                    let steps: Result<Vec<_>, _> = steps.map(|s| number(s.to_owned())).collect();
                    parsed.options.only = Some(steps?);
                }
                "--bug" => parsed.bug = Some(value()?),
                "--planted" => parsed.task = Task::Planted,
                "--traces" => parsed.task = Task::Traces,
                "--dense" => parsed.dense = true,
                "--marks" => parsed.marks = true,
                "--calm" => parsed.options.faults = false,
                "--json" => parsed.json = true,
                "--members" => parsed.options.members = true,
                "--boundaries" => parsed.boundaries = true,
                "--every" => parsed.every = number(value()?)?.max(1),
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(Some(parsed))
    }
}
