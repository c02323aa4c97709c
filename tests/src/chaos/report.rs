//! What a run showed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::nemesis::Nemesis;
use super::run::millis;
use crate::check::{Anomaly, LogReport};
use crate::demo::{Teller, thousands};

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    case: String,
    metric: &'static str,
    value: usize,
    unit: &'static str,
    ok: Option<bool>,
}

impl Figure {
    pub(super) fn count(case: &str, metric: &'static str, value: usize) -> Self {
        Self {
            case: case.to_owned(),
            metric,
            value,
            unit: "count",
            ok: None,
        }
    }
}

#[derive(Debug, Default)]
struct Harm {
    episodes: usize,
    longest_recovery: Duration,
    longest_wait: Duration,
}

/// Everything about a run.
#[derive(Debug)]
pub(super) struct ChaosReport {
    pub(super) seed: u64,
    pub(super) secs: u64,
    pub(super) replicas_are_equal: bool,
    pub(super) figures: Vec<Figure>,
    harms: BTreeMap<Nemesis, Harm>,
    acked: usize,
    lost: usize,
    skipped: Vec<String>,
    violations: usize,
}

impl ChaosReport {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed,
            secs: 0,
            replicas_are_equal: false,
            figures: Vec::new(),
            harms: BTreeMap::new(),
            acked: 0,
            lost: 0,
            skipped: Vec::new(),
            violations: 0,
        }
    }

    /// Something could not be done here.
    pub(super) fn skip(&mut self, teller: &Teller, name: &str, reason: &str) {
        teller.line(&format!("SKIPPED {name}: {reason}"));
        self.skipped.push(name.to_owned());
    }

    /// Something is wrong.
    pub(super) fn violation(&mut self, teller: &Teller, who: &str, text: &str) {
        teller.line(&format!("VIOLATION ({who}): {text}"));
        self.violations += 1;
    }

    pub(super) fn episode(&mut self, nemesis: Nemesis, recovery: Duration, wait: Duration) {
        let harm = self.harms.entry(nemesis).or_default();
        harm.episodes += 1;
        harm.longest_recovery = harm.longest_recovery.max(recovery);
        harm.longest_wait = harm.longest_wait.max(wait);
    }

    pub(super) fn log(&mut self, who: &str, log: &LogReport) {
        self.acked += log.acked;
        self.lost += log.count(Anomaly::LostWrite);
        for (metric, value) in [
            ("sent", log.sent),
            ("acked", log.acked),
            ("read", log.read),
            ("polled", log.polled),
        ] {
            self.figures.push(Figure::count(who, metric, value));
        }
        let anomalies = log.anomalies.values().sum();
        self.figures.push(Figure {
            ok: Some(anomalies == 0),
            ..Figure::count(who, "anomalies", anomalies)
        });
    }

    pub(super) const fn is_ok(&self) -> bool {
        self.violations == 0
    }

    /// The summary for a person.
    pub(super) fn tell(&self, teller: &Teller) {
        teller.line("\nnemesis      episodes  longest recovery  longest wait for an ack");
        for (nemesis, harm) in &self.harms {
            teller.line(&format!(
                "{:<12} {:>8} {:>14} ms {:>21} ms",
                nemesis.name(),
                harm.episodes,
                thousands(millis(harm.longest_recovery)),
                thousands(millis(harm.longest_wait))
            ));
        }
        let episodes: usize = self.harms.values().map(|harm| harm.episodes).sum();
        let (acked, lost) = (thousands(self.acked), self.lost);
        let verdict = if self.is_ok() { "ok" } else { "FAILED" };
        let equal = if self.replicas_are_equal {
            "equal byte by byte"
        } else {
            "not shown to be equal"
        };
        teller.line(&format!(
            "{verdict}: {episodes} episodes in {} s, {acked} records acknowledged, {lost} of them lost, \
             {} violations, replicas {equal}; seed {}",
            self.secs, self.violations, self.seed
        ));
    }

    /// Everything on one line.
    pub(super) fn to_json(&self) -> String {
        let mut figures = vec![
            Figure {
                unit: "s",
                ..Figure::count("run", "time", usize::try_from(self.secs).unwrap_or(0))
            },
            Figure {
                ok: Some(self.violations == 0),
                ..Figure::count("run", "violations", self.violations)
            },
            Figure {
                ok: Some(self.lost == 0),
                ..Figure::count("run", "acknowledged records lost", self.lost)
            },
        ];
        for (nemesis, harm) in &self.harms {
            let (case, unit) = (nemesis.name(), "ms");
            let recovery = Figure::count(case, "longest recovery", millis(harm.longest_recovery));
            let wait = Figure::count(case, "longest wait for an ack", millis(harm.longest_wait));
            figures.extend([
                Figure::count(case, "episodes", harm.episodes),
                Figure { unit, ..recovery },
                Figure { unit, ..wait },
            ]);
        }
        figures.extend(self.figures.iter().cloned());
        let mut json = format!(
            "{{\"name\":\"chaos\",\"ok\":{},\"seed\":{},\"skipped\":{:?},\"results\":[",
            self.is_ok(),
            self.seed,
            self.skipped
        );
        for (i, figure) in figures.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Writing to a String cannot fail.
            write!(
                json,
                "{comma}{{\"case\":{:?},\"metric\":{:?},\"value\":{},\"unit\":{:?}",
                figure.case, figure.metric, figure.value, figure.unit
            )
            .unwrap_or_default();
            if let Some(ok) = figure.ok {
                write!(json, ",\"ok\":{ok}").unwrap_or_default();
            }
            json.push('}');
        }
        json.push_str("]}");
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_makes_the_run_fail_and_the_json_says_so() {
        let teller = Teller::new();
        let mut report = ChaosReport::new(7);
        report.episode(
            Nemesis::Kill,
            Duration::from_millis(1_500),
            Duration::from_secs(1),
        );
        let log = LogReport {
            acked: 5,
            anomalies: BTreeMap::from([(Anomaly::LostWrite, 2)]),
            ..LogReport::default()
        };
        report.log("own clients", &log);
        report.skip(&teller, "loss", "needs root");
        assert!(report.is_ok());
        report.violation(&teller, "own clients", "a lost write");
        let json = report.to_json();
        for part in [
            "{\"name\":\"chaos\",\"ok\":false,\"seed\":7,\"skipped\":[\"loss\"]",
            "{\"case\":\"run\",\"metric\":\"acknowledged records lost\",\"value\":2,\"unit\":\"count\",\"ok\":false}",
            "{\"case\":\"kill\",\"metric\":\"longest recovery\",\"value\":1500,\"unit\":\"ms\"}",
        ] {
            assert!(json.contains(part), "{part} is not in {json}");
        }
        assert!(!json.contains('\n'));
    }
}
