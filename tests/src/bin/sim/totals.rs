//! What many runs come to.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_tests::sim::{Mark, SwarmReport};

use crate::arguments::Arguments;

#[derive(Default)]
pub(crate) struct Totals {
    seeds: u64,
    thin: Vec<u64>,
    simulated_millis: u64,
    busy: Duration,
    acked: usize,
    least_acked: Option<usize>,
    read: usize,
    metadata_commands: u64,
    crashes: u64,
    leader_changes: u64,
    isr_changes: u64,
    faults: u64,
    messages: u64,
    disturbed: u64,
    events: u64,
    max_recovery_millis: u64,
    counters: BTreeMap<String, u64>,
    violations: Vec<(u64, String, String)>,
}

impl Totals {
    pub(crate) fn add(&mut self, report: &SwarmReport, wall: Duration) {
        self.seeds += 1;
        if !report.is_dense() {
            self.thin.push(report.seed);
        }
        self.simulated_millis += report.simulated_millis;
        self.busy += wall;
        self.acked += report.acked;
        let least = self.least_acked.unwrap_or(usize::MAX);
        self.least_acked = Some(least.min(report.acked));
        self.read += report.read;
        self.metadata_commands += report.metadata_commands;
        self.crashes += report.crashes;
        self.leader_changes += report.leader_changes;
        self.isr_changes += report.isr_changes;
        self.faults += report.faults();
        self.messages += report.messages;
        self.disturbed += report.disturbed;
        self.events += report.events;
        self.max_recovery_millis = self.max_recovery_millis.max(report.recovery_millis);
        for (what, n) in &report.counters {
            *self.counters.entry(what.clone()).or_default() += n;
        }
        if let Some(v) = &report.violation {
            let invariant = v.invariant.to_owned();
            self.violations
                .push((report.seed, invariant, v.detail.clone()));
        }
    }

    pub(crate) fn first_violation(&self) -> Option<u64> {
        self.violations.iter().map(|(seed, ..)| *seed).min()
    }

    /// The marks that were never hit.
    fn missed(&self, members: bool) -> Vec<Mark> {
        let missed = |mark: &Mark| !self.counters.contains_key(&mark.counter());
        let of_members = Mark::OF_MEMBERS.into_iter().filter(|_| members);
        Mark::ALL
            .into_iter()
            .chain(of_members)
            .filter(missed)
            .collect()
    }

    pub(crate) fn is_good(&self, arguments: &Arguments) -> bool {
        let dense = !arguments.dense || self.thin.is_empty();
        let marked = !arguments.marks || self.missed(arguments.options.members).is_empty();
        self.violations.is_empty() && dense && marked
    }

    /// Simulated seconds per second of one core.
    fn speed(&self) -> u128 {
        u128::from(self.simulated_millis) / self.busy.as_millis().max(1)
    }

    pub(crate) fn print(&self) {
        for (what, n) in &self.counters {
            println!("{n:>8} {what}");
        }
    }

    pub(crate) fn print_verdict(&self, arguments: &Arguments, wall: Duration) {
        println!(
            "sim: {} seeds, {} simulated s in {} s on {} threads ({} per second and core), {} acked \
             (at least {}), {} commands, {} crashes, {} faults, {} messages, {} events, {} seeds thin",
            self.seeds,
            self.simulated_millis / 1000,
            wall.as_secs(),
            arguments.jobs,
            self.speed(),
            self.acked,
            self.least_acked.unwrap_or(0),
            self.metadata_commands,
            self.crashes,
            self.faults,
            self.messages,
            self.events,
            self.thin.len()
        );
        if arguments.dense && !self.thin.is_empty() {
            println!("sim: too little happened in these seeds: {:?}", self.thin);
        }
        let missed = self.missed(arguments.options.members);
        if arguments.marks && !missed.is_empty() {
            println!("sim: never happened: {missed:?}");
        }
        for (seed, invariant, _) in &self.violations {
            println!("sim: seed {seed} broke \"{invariant}\"");
        }
    }

    pub(crate) fn json(&self, arguments: &Arguments, wall: Duration) -> String {
        let violations: Vec<_> = self
            .violations
            .iter()
            .map(|(seed, invariant, detail)| {
                format!("{{\"seed\":{seed},\"invariant\":{invariant:?},\"detail\":{detail:?}}}")
            })
            .collect();
        let missed = self.missed(arguments.options.members);
        let missed: Vec<_> = missed.iter().map(|m| format!("\"{m:?}\"")).collect();
        format!(
            "{{\"command\":\"sim\",\"ok\":{},\"first_seed\":{},\"seeds\":{},\"thin_seeds\":{:?},\
             \"simulated_ms\":{},\"wall_ms\":{},\"simulated_s_per_core_s\":{},\
             \"acked\":{},\"least_acked\":{},\"read\":{},\"metadata_commands\":{},\"crashes\":{},\
             \"leader_changes\":{},\"isr_changes\":{},\"faults\":{},\"messages\":{},\"disturbed\":{},\
             \"events\":{},\"max_recovery_ms\":{},\"never_happened\":[{}],\"violations\":[{}]}}",
            self.is_good(arguments),
            arguments.first,
            self.seeds,
            self.thin,
            self.simulated_millis,
            wall.as_millis(),
            self.speed(),
            self.acked,
            self.least_acked.unwrap_or(0),
            self.read,
            self.metadata_commands,
            self.crashes,
            self.leader_changes,
            self.isr_changes,
            self.faults,
            self.messages,
            self.disturbed,
            self.events,
            self.max_recovery_millis,
            missed.join(","),
            violations.join(",")
        )
    }
}
