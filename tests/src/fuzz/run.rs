//! The loop.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the fuzzer speaks to a person"
)]

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rivven_core_types::Rng;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::mutate::mutate;
use super::options::FuzzOptions;
use super::targets::{Decode, Target, find, targets};
use crate::failure::{Doing, Failure};
use crate::process::workspace_root;

/// Memory that the whole program may have: a decoder that wants more ends it.
const MAX_MEMORY_BYTES: u64 = 2 << 30;
/// An input that takes longer is a finding.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Inputs between two looks at the clock.
const ROUND: u64 = 256;
/// The least share of inputs that must decode, in per cent: otherwise only the first checks are tested.
const LEAST_DECODED: u64 = 10;

/// What one target showed.
#[derive(Debug, Default)]
struct Tally {
    executions: u64,
    decoded: u64,
    slowest: Duration,
    took: Duration,
    finding: Option<String>,
}

/// Runs all targets; false if there is a finding.
pub fn run_fuzz(options: &FuzzOptions) -> Result<bool, Failure> {
    let limit = Rlimit {
        current: Some(MAX_MEMORY_BYTES),
        maximum: Some(MAX_MEMORY_BYTES),
    };
    setrlimit(Resource::As, limit).doing(|| "limiting the memory".to_owned())?;
    let chosen = match &options.target {
        Some(name) => vec![find(name)?],
        None => targets().into_iter().collect(),
    };
    if let (Some(input), [target]) = (&options.input, chosen.as_slice()) {
        let mut decode = (target.decoder)()?;
        println!("{}: decodes: {}", target.name, decode(input));
        return Ok(true);
    }
    let drawn = || RandomState::new().hash_one("fuzz") >> 32;
    let seed = options.seed.unwrap_or_else(drawn);
    println!("seed {seed}");
    let (mut json, mut is_ok) = (Vec::new(), true);
    for target in &chosen {
        let tally = run_target(target, options, seed)?;
        let share = tally.decoded * 100 / tally.executions.max(1);
        let decodes = share >= LEAST_DECODED;
        println!(
            "{:<10} {:>10} inputs in {:>6.1} s, {share:>3} % decode, slowest {:.1} ms{}",
            target.name,
            tally.executions,
            tally.took.as_secs_f64(),
            tally.slowest.as_secs_f64() * 1e3,
            if decodes { "" } else { "  TOO FEW DECODE" }
        );
        if let Some(finding) = &tally.finding {
            println!("FINDING ({}): {finding}", target.name);
        }
        is_ok &= decodes && tally.finding.is_none();
        json.extend(figures(target.name, &tally, share));
    }
    if options.json {
        let results = json.join(",");
        println!("{{\"name\":\"fuzz\",\"ok\":{is_ok},\"seed\":{seed},\"results\":[{results}]}}");
    }
    Ok(is_ok)
}

fn figures(name: &str, tally: &Tally, share: u64) -> [String; 3] {
    let figure = |metric: &str, value: u64, unit: &str, ok: Option<bool>| {
        let ok = ok.map_or_else(String::new, |ok| format!(",\"ok\":{ok}"));
        format!(
            "{{\"case\":\"{name}\",\"metric\":\"{metric}\",\"value\":{value},\"unit\":\"{unit}\"{ok}}}"
        )
    };
    let findings = u64::from(tally.finding.is_some());
    [
        figure("executions", tally.executions, "count", None),
        figure("decoded", share, "%", Some(share >= LEAST_DECODED)),
        figure("findings", findings, "count", Some(findings == 0)),
    ]
}

/// Inputs that once were findings, if there are any.
fn regressions(name: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let dir: PathBuf = workspace_root().join("tests/fuzz-corpus").join(name);
    let mut files = match std::fs::read_dir(&dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    files.sort();
    let read = |file: PathBuf| std::fs::read(&file).doing(|| file.display().to_string());
    files.into_iter().map(read).collect()
}

fn run_target(target: &Target, options: &FuzzOptions, seed: u64) -> Result<Tally, Failure> {
    let samples = (target.samples)()?;
    let mut decode = (target.decoder)()?;
    let mut tally = Tally::default();
    for sample in &samples {
        if !decode(sample) {
            let hex = hex(sample);
            let text = format!("{}: a valid message does not decode: {hex}", target.name);
            return Err(Failure::new(text));
        }
    }
    let mut corpus = samples;
    corpus.extend(regressions(target.name)?);
    let mut rng = Rng::new(seed);
    let started = Instant::now();
    let mut old = corpus.clone().into_iter();
    while tally.executions < options.executions && started.elapsed() < options.time {
        for _ in 0..ROUND.min(options.executions - tally.executions) {
            // Each of the corpus as it is first.
            let input = old.next().unwrap_or_else(|| {
                let from = pick(&mut rng, &corpus);
                let other = pick(&mut rng, &corpus);
                let mut input = mutate(&mut rng, from, other);
                (target.repair)(&mut rng, &mut input);
                input
            });
            if let Some(finding) = tally.try_input(&mut decode, &input) {
                tally.finding = Some(finding);
                tally.took = started.elapsed();
                return Ok(tally);
            }
        }
    }
    tally.took = started.elapsed();
    Ok(tally)
}

fn pick<'a>(rng: &mut Rng, corpus: &'a [Vec<u8>]) -> &'a [u8] {
    let bound = u64::try_from(corpus.len()).unwrap_or(1);
    let at = usize::try_from(rng.below(bound)).unwrap_or(0);
    corpus.get(at).map_or(&[], Vec::as_slice)
}

impl Tally {
    /// Decodes one input; tells what is wrong, if anything is.
    fn try_input(&mut self, decode: &mut Decode, input: &[u8]) -> Option<String> {
        self.executions += 1;
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| decode(input)));
        let took = started.elapsed();
        self.slowest = self.slowest.max(took);
        match outcome {
            Err(_) => Some(format!("a panic (above); --input {}", hex(input))),
            Ok(_) if took > MAX_TIME => Some(format!("{took:?}; --input {}", hex(input))),
            Ok(decoded) => {
                self.decoded += u64::from(decoded);
                None
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").unwrap_or_default();
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_decodes_its_samples_and_a_share_of_what_is_made_of_them() {
        let options = FuzzOptions {
            executions: 3_000,
            time: Duration::MAX,
            ..FuzzOptions::default()
        };
        for target in targets() {
            let tally = run_target(&target, &options, 1).unwrap();
            assert_eq!(tally.finding, None, "{}", target.name);
            let share = tally.decoded * 100 / tally.executions;
            assert!(share >= LEAST_DECODED, "{}: {share} %", target.name);
        }
    }

    #[test]
    fn a_panic_is_a_finding_that_can_be_repeated() {
        let mut tally = Tally::default();
        let mut decode: Decode = Box::new(|input| input[1] == 7);
        assert_eq!(tally.try_input(&mut decode, &[0, 7]), None);
        let finding = tally.try_input(&mut decode, &[0xab]).unwrap();
        assert!(finding.contains("--input ab"), "{finding}");
        assert_eq!((tally.executions, tally.decoded), (2, 1));
    }
}
