//! What a run showed, and the JSON of all runs.

use std::fmt::Write as _;

use crate::check::Verdict;

/// What one run showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records that were to be written.
    pub records: usize,
    /// Records that were acknowledged.
    pub acked: usize,
    /// What was read back, if the run came that far.
    pub verdict: Option<Verdict>,
    /// Whether the logs of the replicas are equal byte by byte.
    pub replicas_identical: bool,
    /// Records not yet handed to the producer, at each kill.
    pub unsent_at_kill: Vec<usize>,
    /// Unanswered requests, at each kill: to the node that was killed if records go there.
    pub inflight_at_kill: Vec<usize>,
    /// From the kill of the controller until a survivor names another one.
    pub election_ms: u64,
    /// Longest time from a kill to an acknowledgement by another node, over the partitions that the
    /// killed node led.
    pub failover_ms_max: u64,
    /// Acknowledged records per second, from the first that was sent to the last acknowledgement.
    pub records_per_s: usize,
    /// Why the run could not be completed, or what else is wrong.
    pub errors: Vec<String>,
}

impl Outcome {
    /// Whether every check passed.
    pub fn is_ok(&self) -> bool {
        let quarter = self.records.div_ceil(4);
        self.errors.is_empty()
            && self.records > 0
            && self.acked == self.records
            && self.verdict.is_some_and(|verdict| verdict.is_clean())
            && self.replicas_identical
            && self.unsent_at_kill.len() == 2
            && self.unsent_at_kill.iter().all(|unsent| *unsent >= quarter)
            && self.inflight_at_kill.len() == 2
            && self.inflight_at_kill.iter().all(|count| *count > 0)
    }
}

/// All runs together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The runs.
    pub runs: Vec<Outcome>,
}

impl Summary {
    /// Whether every run passed.
    pub fn is_ok(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(Outcome::is_ok)
    }

    fn sum(&self, count: impl Fn(&Outcome) -> usize) -> usize {
        self.runs.iter().map(count).sum()
    }

    /// The sum of a count of the verdicts; null if a run has none.
    fn judged(&self, count: impl Fn(&Verdict) -> usize) -> String {
        let counts: Option<Vec<usize>> = self
            .runs
            .iter()
            .map(|run| run.verdict.as_ref().map(&count))
            .collect();
        counts.map_or_else(
            || "null".to_owned(),
            |counts| counts.iter().sum::<usize>().to_string(),
        )
    }

    fn longest(&self, time: impl Fn(&Outcome) -> u64) -> u64 {
        self.runs.iter().map(time).max().unwrap_or(0)
    }

    /// The agreed JSON object, on one line.
    pub fn to_json(&self) -> String {
        let rows: Vec<String> = self
            .runs
            .iter()
            .zip(1..)
            .flat_map(|(run, number)| rows(run, number))
            .collect();
        let flat = |list: fn(&Outcome) -> &Vec<usize>| {
            let all: Vec<String> = self
                .runs
                .iter()
                .flat_map(list)
                .map(ToString::to_string)
                .collect();
            all.join(",")
        };
        let errors: Vec<String> = self
            .runs
            .iter()
            .flat_map(|run| &run.errors)
            .map(|error| quote(error))
            .collect();
        format!(
            "{{\"name\":\"demo\",\"ok\":{},\"machine\":{},\"results\":[{}],\"runs\":{},\"records\":{},\
             \"acked\":{},\"lost\":{},\"duplicates\":{},\"order_violations\":{},\
             \"replicas_identical\":{},\"unsent_at_kill\":[{}],\"inflight_at_kill\":[{}],\
             \"election_ms\":{},\"failover_ms_max\":{},\"records_per_s\":{},\"errors\":[{}]}}",
            self.is_ok(),
            quote(&machine()),
            rows.join(","),
            self.runs.len(),
            self.sum(|run| run.records),
            self.sum(|run| run.acked),
            self.judged(|verdict| verdict.lost),
            self.judged(|verdict| verdict.duplicates),
            self.judged(|verdict| verdict.order_violations),
            self.runs.iter().all(|run| run.replicas_identical),
            flat(|run| &run.unsent_at_kill),
            flat(|run| &run.inflight_at_kill),
            self.longest(|run| run.election_ms),
            self.longest(|run| run.failover_ms_max),
            self.runs
                .iter()
                .map(|run| run.records_per_s)
                .min()
                .unwrap_or(0),
            errors.join(",")
        )
    }
}

/// The figures of one run as rows; those that must hold have a verdict.
fn rows(run: &Outcome, number: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let mut row = |metric: &str, value: u64, unit: &str, ok: Option<bool>| {
        let ok = ok.map_or_else(String::new, |ok| format!(",\"ok\":{ok}"));
        rows.push(format!(
            "{{\"case\":\"run {number}\",\"metric\":\"{metric}\",\"value\":{value},\"unit\":\"{unit}\"{ok}}}"
        ));
    };
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let quarter = run.records.div_ceil(4);
    row("passed", u64::from(run.is_ok()), "bool", Some(run.is_ok()));
    row(
        "acked",
        count(run.acked),
        "records",
        Some(run.acked == run.records),
    );
    if let Some(Verdict {
        lost,
        duplicates,
        order_violations,
    }) = run.verdict
    {
        row("lost", count(lost), "records", Some(lost == 0));
        row(
            "duplicates",
            count(duplicates),
            "records",
            Some(duplicates == 0),
        );
        row(
            "order_violations",
            count(order_violations),
            "records",
            Some(order_violations == 0),
        );
    }
    let identical = run.replicas_identical;
    row(
        "replicas_identical",
        u64::from(identical),
        "bool",
        Some(identical),
    );
    for unsent in &run.unsent_at_kill {
        row(
            "unsent_at_kill",
            count(*unsent),
            "records",
            Some(*unsent >= quarter),
        );
    }
    for in_flight in &run.inflight_at_kill {
        row(
            "inflight_at_kill",
            count(*in_flight),
            "requests",
            Some(*in_flight > 0),
        );
    }
    row("election_ms", run.election_ms, "ms", None);
    row("failover_ms_max", run.failover_ms_max, "ms", None);
    row("records_per_s", count(run.records_per_s), "records/s", None);
    rows
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                write!(quoted, "\\u{:04x}", u32::from(c)).unwrap_or_default();
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The machine, for a reader who compares figures.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model.trim());
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{os} {arch}, {cpus} cpus, {model}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Outcome {
        Outcome {
            records: 100,
            acked: 100,
            verdict: Some(Verdict::default()),
            replicas_identical: true,
            unsent_at_kill: vec![70, 25],
            inflight_at_kill: vec![2, 1],
            election_ms: 500,
            failover_ms_max: 900,
            records_per_s: 10,
            ..Outcome::default()
        }
    }

    #[test]
    fn a_run_passes_only_if_every_check_does() {
        assert!(good().is_ok());
        let lost = Verdict {
            lost: 1,
            ..Verdict::default()
        };
        for bad in [
            Outcome {
                acked: 99,
                ..good()
            },
            Outcome {
                verdict: Some(lost),
                ..good()
            },
            Outcome {
                verdict: None,
                ..good()
            },
            Outcome {
                replicas_identical: false,
                ..good()
            },
            Outcome {
                unsent_at_kill: vec![70],
                ..good()
            },
            Outcome {
                unsent_at_kill: vec![70, 24],
                ..good()
            },
            Outcome {
                inflight_at_kill: vec![1, 0],
                ..good()
            },
            Outcome {
                errors: vec!["it \"broke\"".to_owned()],
                ..good()
            },
            Outcome::default(),
        ] {
            assert!(!bad.is_ok(), "{bad:?}");
            assert!(
                !Summary {
                    runs: vec![good(), bad]
                }
                .is_ok()
            );
        }
        assert!(!Summary::default().is_ok());
    }

    #[test]
    fn the_json_has_the_agreed_members_on_one_line() {
        let broken = Outcome {
            errors: vec!["it \"broke\"\nat once".to_owned()],
            ..good()
        };
        let json = Summary {
            runs: vec![good(), broken],
        }
        .to_json();
        assert!(!json.contains('\n'));
        for part in [
            "{\"name\":\"demo\",\"ok\":false,\"machine\":\"",
            "\"results\":[{\"case\":\"run 1\",\"metric\":\"passed\",\"value\":1,\"unit\":\"bool\",\"ok\":true}",
            "\"records\":200,\"acked\":200,\"lost\":0,\"duplicates\":0,\"order_violations\":0",
            "\"replicas_identical\":true,\"unsent_at_kill\":[70,25,70,25],\"inflight_at_kill\":[2,1,2,1]",
            "\"election_ms\":500,\"failover_ms_max\":900,\"records_per_s\":10",
            "\"errors\":[\"it \\\"broke\\\"\\nat once\"]}",
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }
}
