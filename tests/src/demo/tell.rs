//! The verdicts, in words.

use super::outcome::{Outcome, Summary};
use super::teller::{Teller, thousands};
use crate::check::Verdict;

/// One line for each of several runs.
pub(super) fn tell_summary(teller: &Teller, summary: &Summary) {
    teller
        .line("\n run  verdict   records    lost  twice  disorder  election  failover  records/s");
    for (run, number) in summary.runs.iter().zip(1..) {
        teller.line(&format!(
            "{number:4}  {:7} {:>9} {:>7} {:>6} {:>9} {:6} ms {:6} ms  {:>9}",
            if run.is_ok() { "ok" } else { "FAILED" },
            thousands(run.acked),
            judged(run, |verdict| verdict.lost),
            judged(run, |verdict| verdict.duplicates),
            judged(run, |verdict| verdict.order_violations),
            run.election_ms,
            run.failover_ms_max,
            thousands(run.records_per_s),
        ));
    }
    let passed = summary.runs.iter().filter(|run| run.is_ok()).count();
    teller.line(&format!("{passed} of {} runs passed", summary.runs.len()));
}

fn judged(run: &Outcome, count: impl Fn(&Verdict) -> usize) -> String {
    run.verdict
        .as_ref()
        .map_or_else(|| "?".to_owned(), |verdict| count(verdict).to_string())
}

/// What one run showed.
pub(super) fn tell_verdict(teller: &Teller, outcome: &Outcome) {
    let mark = |is_ok: bool| if is_ok { "ok  " } else { "BAD " };
    let acked = format!(
        "{} of {} records acknowledged",
        thousands(outcome.acked),
        thousands(outcome.records)
    );
    teller.line(&format!(
        "\n  {} {acked}",
        mark(outcome.acked == outcome.records)
    ));
    if let Some(verdict) = &outcome.verdict {
        let complete = verdict.lost == 0 && verdict.duplicates == 0;
        let (lost, twice) = (verdict.lost, verdict.duplicates);
        teller.line(&format!(
            "  {} read back: {lost} lost, {twice} twice",
            mark(complete)
        ));
        let violations = verdict.order_violations;
        teller.line(&format!(
            "  {} order per key: {violations} violations",
            mark(violations == 0)
        ));
    } else {
        teller.line("  BAD  nothing was read back");
    }
    let identical = outcome.replicas_identical;
    let text = if identical {
        "equal byte by byte"
    } else {
        "not shown to be equal"
    };
    teller.line(&format!(
        "  {} logs of the three nodes, up to the high watermark: {text}",
        mark(identical)
    ));
    teller.line(&format!(
        "       a new controller {} ms after the kill, longest failover {} ms, {} records per second",
        outcome.election_ms,
        outcome.failover_ms_max,
        thousands(outcome.records_per_s)
    ));
    teller.line(if outcome.is_ok() {
        "\nNot a record was lost."
    } else {
        "\nThe demo FAILED."
    });
}
