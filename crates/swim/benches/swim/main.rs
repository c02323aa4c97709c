//! The failure detector measured: in a simulated network (one-way latency 0.3 ms + Exp(0.5 ms), loss for
//! each datagram by itself) and on real sockets. Prints one JSON object for each figure;
//! `cargo xtask bench swim` collects them.
//!
//! `--compare` runs foca in the same network, `--large` 10,000 nodes, `--long` 10,000 node-hours at 5 %
//! loss, `--sockets SECS` sets how long the real ones run, `--plots DIR` draws the curves.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench prints, calculates, and stops at the first thing that is wrong"
)]

mod peer;
mod plot;
mod sockets;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rivven_swim::sim::{
    Faults, Simulation, crash, false_alarms, heal_after_partition, join_through_one, mass_failure,
    restart,
};

/// One figure.
pub(crate) struct Figure<'a> {
    pub(crate) case: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) value: f64,
    pub(crate) unit: &'a str,
    /// At most this, if there is a target.
    pub(crate) target: Option<f64>,
    pub(crate) baseline: Option<f64>,
}

impl Figure<'_> {
    pub(crate) fn print(&self) {
        let mut line = format!(
            r#"{{"case":"{}","metric":"{}","value":{:.3},"unit":"{}""#,
            self.case, self.metric, self.value, self.unit
        );
        if let Some(target) = self.target {
            line += &format!(r#","target":{target},"ok":{}"#, self.value <= target);
        }
        if let Some(baseline) = self.baseline {
            line += &format!(r#","baseline":{baseline:.3}"#);
            if baseline > 0.0 {
                line += &format!(r#","ratio":{:.3}"#, self.value / baseline);
            }
        }
        println!("{line}}}");
    }
}

/// Points of the curves that are drawn: by curve, x and y.
pub(crate) type Curves = BTreeMap<&'static str, Vec<(f64, f64)>>;

#[derive(Default)]
struct Options {
    compare: bool,
    large: bool,
    long: bool,
    sockets: u64,
    plots: Option<String>,
}

fn options() -> Options {
    let mut options = Options {
        sockets: 15,
        ..Options::default()
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--compare" => options.compare = true,
            "--large" => options.large = true,
            "--long" => options.long = true,
            "--sockets" => options.sockets = args.next().unwrap().parse().unwrap(),
            "--plots" => options.plots = args.next(),
            // Cargo adds this one.
            "--bench" => {}
            other => panic!("unknown argument {other:?}; see the head of benches/swim/main.rs"),
        }
    }
    options
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn lossy(per_mille: u64) -> Faults {
    Faults {
        loss_per_mille: per_mille,
        ..Faults::default()
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

fn main() {
    let options = options();
    let mut curves = Curves::new();
    detection(options.compare, &mut curves);
    false_deaths(options.compare, &mut curves);
    load();
    recovery(options.compare);
    cost();
    if options.large {
        ten_thousand();
    }
    if options.long {
        node_hours(10_000);
    }
    sockets::run(options.sockets);
    if let Some(dir) = options.plots {
        plot::draw(&dir, &curves);
    }
}

fn detection(compare: bool, curves: &mut Curves) {
    for (count, runs) in [(16, 40), (32, 40), (64, 40), (128, 20), (512, 8), (2048, 2)] {
        eprintln!("swim: {runs} crashes of one of {count} nodes");
        let runs: Vec<_> = (0..runs)
            .map(|seed| crash(seed, count, Faults::default(), secs(20)))
            .collect();
        let all = |pick: fn(&rivven_swim::sim::Crash) -> Option<Duration>| -> Vec<f64> {
            runs.iter().map(|run| millis(pick(run).unwrap())).collect()
        };
        let (failed, first, last) = (
            all(|run| run.first_failed_probe),
            all(|run| run.first_dead),
            all(|run| run.all_dead),
        );
        let spread: Vec<f64> = last
            .iter()
            .zip(&first)
            .map(|(last, first)| last - first)
            .collect();
        let mut sorted = last.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let worst = sorted[sorted.len() - 1];
        let foca = (compare && count <= 512).then(|| peer::crashes(count, 8));
        let case = format!("crash, {count} nodes");
        let figure = |metric, value, target, baseline| {
            let unit = if metric == "worst over median" {
                "x"
            } else {
                "ms"
            };
            Figure {
                case: &case,
                metric,
                value,
                unit,
                target,
                baseline,
            }
            .print();
        };
        let first_target = match count {
            16 => Some(650.0),
            64 => Some(950.0),
            _ => None,
        };
        let baseline = |pick: fn(&peer::Crashes) -> f64| foca.as_ref().map(pick);
        figure(
            "first failed probe",
            mean(&failed),
            Some(200.0),
            baseline(|f| f.failed),
        );
        figure(
            "first dead",
            mean(&first),
            first_target,
            baseline(|f| f.first),
        );
        figure("all dead", mean(&last), None, baseline(|f| f.all));
        figure(
            "all after the first",
            mean(&spread),
            Some(50.0),
            baseline(|f| f.all - f.first),
        );
        figure(
            "worst over median",
            worst / median,
            Some(2.0),
            baseline(|f| f.straggler),
        );
        let nodes = f64::from(count);
        let mut point = |curve, value| curves.entry(curve).or_default().push((nodes, value));
        point("detection: first failed probe", mean(&failed));
        point("detection: first dead", mean(&first));
        point("detection: all dead", mean(&last));
        if let Some(foca) = foca {
            point("detection: all dead, foca", foca.all);
        }
    }
}

fn false_deaths(compare: bool, curves: &mut Curves) {
    const NODES: u32 = 128;
    node_hours(50);
    // What foca 2.0.0 shows in 300 s, for runs without it.
    for (loss, published) in [
        (0, 0.0),
        (10, 0.0),
        (100, 1079.0),
        (200, 9065.0),
        (300, 9664.0),
    ] {
        let span = secs(300);
        eprintln!("swim: {NODES} nodes for 300 s at {} % loss", loss / 10);
        let run = false_alarms(loss, NODES, lossy(loss), span, |_| {});
        let foca = if compare {
            peer::false_deaths(NODES, loss, 300) as f64
        } else {
            published
        };
        let hours = f64::from(NODES) * span.as_secs_f64() / 3600.0;
        let case = format!("{NODES} nodes, {} % loss, 300 s", loss / 10);
        let figure = |metric, value, unit, target, baseline| {
            Figure {
                case: &case,
                metric,
                value,
                unit,
                target,
                baseline,
            }
            .print();
        };
        let deaths = run.measured.false_deaths as f64;
        figure(
            "false deaths",
            deaths,
            "events",
            Some(foca / 10.0),
            Some(foca),
        );
        figure(
            "false deaths per node-hour",
            deaths / hours,
            "1/h",
            None,
            None,
        );
        let suspicions = run.measured.suspicions as f64;
        figure(
            "suspicions per node-hour",
            suspicions / hours,
            "1/h",
            None,
            None,
        );
        let each = f64::from(NODES) * span.as_secs_f64();
        figure(
            "bytes per member",
            run.measured.bytes as f64 / each,
            "B/s",
            None,
            None,
        );
        let percent = loss as f64 / 10.0;
        let mut point = |curve, value: f64| curves.entry(curve).or_default().push((percent, value));
        point("loss: false deaths in 300 s", deaths);
        point("loss: false deaths in 300 s, foca", foca);
    }
}

/// At 5 % loss; false deaths are counted, each observer's.
fn node_hours(hours: u64) {
    const NODES: u32 = 128;
    let each = secs(60);
    let runs = (hours * 3600).div_ceil(u64::from(NODES) * each.as_secs());
    eprintln!("swim: {NODES} nodes at 5 % loss for {hours} node-hours, {runs} seeds");
    let mut deaths = 0;
    let mut failed = 0;
    for seed in 0..runs {
        let run = false_alarms(1_000 + seed, NODES, lossy(50), each, |_| {});
        deaths += run.measured.false_deaths;
        failed += run.measured.failed_probes;
    }
    let case = format!("{NODES} nodes, 5 % loss, {hours} node-hours");
    for (metric, value, target) in [
        ("false deaths", deaths as f64, Some(0.0)),
        ("failed probes", failed as f64, None),
    ] {
        Figure {
            case: &case,
            metric,
            value,
            unit: "events",
            target,
            baseline: None,
        }
        .print();
    }
}

fn load() {
    for count in [16, 128, 512, 2048] {
        eprintln!("swim: what each of {count} nodes sends");
        let span = 20;
        let run = false_alarms(3, count, Faults::default(), secs(span), |_| {});
        let each = f64::from(count) * span as f64;
        let case = format!("quiet, {count} nodes");
        for (metric, value, unit, target) in [
            (
                "datagrams per member",
                run.measured.datagrams as f64 / each,
                "1/s",
                20.1,
            ),
            (
                "bytes per member",
                run.measured.bytes as f64 / each,
                "B/s",
                1_100.0,
            ),
            (
                "longest datagram",
                run.measured.longest as f64,
                "B",
                1_200.0,
            ),
        ] {
            Figure {
                case: &case,
                metric,
                value,
                unit,
                target: Some(target),
                baseline: None,
            }
            .print();
        }
    }
}

fn recovery(compare: bool) {
    eprintln!("swim: joins, a partition, a mass failure, a restart");
    let limit = secs(60);
    let took = |runs: Vec<Option<Duration>>| -> f64 {
        let worst = runs
            .into_iter()
            .map(|run| run.map_or(f64::INFINITY, |t| t.as_secs_f64()));
        worst.fold(0.0, f64::max)
    };
    let joins = took(
        (0..3)
            .map(|seed| join_through_one(seed, 512, limit))
            .collect(),
    );
    let mass = took((0..3).map(|seed| mass_failure(seed, 512, limit)).collect());
    let back = took(
        (0..10)
            .map(|seed| restart(seed, 64, Duration::from_millis(seed * 150), limit))
            .collect(),
    );
    let heals: Vec<_> = (0..5)
        .map(|seed| heal_after_partition(seed, 128, secs(60), limit))
        .collect();
    let wrongly: usize = heals.iter().map(|(_, deaths)| deaths).sum();
    let heal = took(heals.into_iter().map(|(took, _)| took).collect());
    let foca_join = compare.then(|| peer::join(512));
    let foca_mass = compare.then(|| peer::mass_failure(512));
    for (case, value, target, baseline) in [
        ("512 nodes join through one", joins, 3.0, foca_join),
        ("half of 512 nodes die at once", mass, 8.0, foca_mass),
        ("a restarted one of 64 is back everywhere", back, 1.0, None),
        (
            "128 nodes agree after a partition of 60 s",
            heal,
            10.0,
            None,
        ),
    ] {
        Figure {
            case,
            metric: "worst of the seeds",
            value,
            unit: "s",
            target: Some(target),
            baseline,
        }
        .print();
    }
    Figure {
        case: "128 nodes agree after a partition of 60 s",
        metric: "false deaths on the own side",
        value: wrongly as f64,
        unit: "events",
        target: Some(0.0),
        baseline: None,
    }
    .print();
}

/// What this process has computed so far: on a busy machine the clock on the wall measures the
/// neighbours.
pub(crate) fn computed() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// The same for all threads, to 10 ms.
pub(crate) fn computed_by_all() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name
        .split(' ')
        .filter_map(|f| f.parse().ok())
        .collect();
    // The letter before them is no number: user and system time are the 11th and 12th.
    let ticks = fields.get(10).unwrap_or(&0) + fields.get(11).unwrap_or(&0);
    Duration::from_millis(ticks * 10)
}

/// Memory of this process that is in use, in bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// CPU and memory, the simulator's own included.
fn cost() {
    const NODES: u32 = 2048;
    eprintln!("swim: CPU and memory of {NODES} nodes");
    let before = resident();
    let mut network = Simulation::acquainted(1, NODES, |_| {});
    network.run(secs(1));
    network.reset();
    let start = computed();
    network.run(secs(10));
    let took = computed().saturating_sub(start);
    let messages = network.measured().delivered as f64;
    let pairs = f64::from(NODES) * f64::from(NODES - 1);
    let case = format!("quiet, {NODES} nodes, authenticated, with the simulator");
    let per_message = took.as_secs_f64() * 1e6 / messages;
    for (metric, value, unit, target) in [
        ("CPU per message", per_message, "us", 0.7),
        (
            "memory per observer and member",
            (resident() - before) / pairs,
            "B",
            96.0,
        ),
    ] {
        Figure {
            case: &case,
            metric,
            value,
            unit,
            target: Some(target),
            baseline: None,
        }
        .print();
    }
    forged(&mut network);
}

/// What a datagram of a stranger costs before it is dropped.
fn forged(network: &mut Simulation) {
    for (case, length) in [("junk of 46 B", 46), ("junk of 1,200 B", 1_200)] {
        let mut datagram = network.forgery(length);
        let start = computed();
        let count = 100_000u32;
        for number in 0..count {
            if let Some(last) = datagram.last_mut() {
                *last = number.to_be_bytes()[3];
            }
            network.inject(0, &datagram);
        }
        let each = computed().saturating_sub(start).as_secs_f64() * 1e6 / f64::from(count);
        Figure {
            case,
            metric: "verification",
            value: each,
            unit: "us",
            target: None,
            baseline: None,
        }
        .print();
    }
}

fn ten_thousand() {
    const NODES: u32 = 10_000;
    eprintln!("swim: {NODES} nodes");
    let before = resident();
    let mut network = Simulation::acquainted(1, NODES, |_| {});
    network.run(secs(1));
    let (start, wall) = (computed(), Instant::now());
    network.run(secs(10));
    let took = computed().saturating_sub(start).as_secs_f64();
    eprintln!("swim: 10 s took {:?} on the wall", wall.elapsed());
    let pairs = f64::from(NODES) * f64::from(NODES - 1);
    for (metric, value, unit, target) in [
        ("CPU per simulated second", took / 10.0, "s", 1.0),
        (
            "memory per observer and member",
            (resident() - before) / pairs,
            "B",
            96.0,
        ),
    ] {
        Figure {
            case: "quiet, 10,000 nodes, authenticated, with the simulator",
            metric,
            value,
            unit,
            target: Some(target),
            baseline: None,
        }
        .print();
    }
    network.reset();
    network.kill(77);
    let crashed = network.now();
    network.run(secs(5));
    let failed = network.first_failed_probe().map(|at| millis(at - crashed));
    let deaths: Vec<_> = network
        .trace
        .iter()
        .filter(|(_, _, event)| {
            matches!(event, rivven_swim::Event::MemberChanged { state, .. }
                if *state == rivven_swim::MemberState::Dead)
        })
        .map(|(at, ..)| millis(*at - crashed))
        .collect();
    let all = deaths.len() == NODES as usize - 1;
    for (metric, value) in [
        ("first failed probe", failed.unwrap_or(f64::INFINITY)),
        (
            "first dead",
            deaths.first().copied().unwrap_or(f64::INFINITY),
        ),
        (
            "all dead",
            if all {
                deaths[deaths.len() - 1]
            } else {
                f64::INFINITY
            },
        ),
    ] {
        Figure {
            case: "crash, 10,000 nodes",
            metric,
            value,
            unit: "ms",
            target: None,
            baseline: None,
        }
        .print();
    }
}
