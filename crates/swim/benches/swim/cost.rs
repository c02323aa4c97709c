//! What the protocol costs: CPU for each message, memory for each member.

use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target};
use rivven_swim::sim::{Recorded, Simulation};
use rivven_swim::{Detector, Input, Output};

use crate::{millis, secs};

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

pub(crate) fn run(long: bool) {
    memory();
    quiet();
    if long {
        ten_thousand();
    }
}

fn figure(case: &str, metric: &str, value: f64, unit: &str, target: Option<f64>) {
    Figure {
        case,
        metric,
        value,
        unit,
        target: target.map(Target::AtMost),
        baseline: None,
    }
    .print();
}

/// Memory once every member has heard every other, so that each has its replay window.
fn memory() {
    const NODES: u32 = 512;
    eprintln!("swim: memory of {NODES} nodes that have all heard each other");
    let before = resident();
    let mut network = Simulation::acquainted(2, NODES, |_| {});
    network.run(secs(120));
    let pairs = f64::from(NODES) * f64::from(NODES - 1);
    let each = (resident() - before) / pairs;
    let case = format!("{NODES} nodes that have heard each other, with the simulator");
    figure(
        &case,
        "memory per observer and member",
        each,
        "B",
        Some(96.0),
    );
}

/// CPU of a quiet cluster, the simulator's own included.
fn quiet() {
    const NODES: u32 = 2048;
    eprintln!("swim: CPU and memory of {NODES} nodes");
    let before = resident();
    let mut network = Simulation::acquainted(1, NODES, |_| {});
    network.run(secs(1));
    let pairs = f64::from(NODES) * f64::from(NODES - 1);
    let memory = (resident() - before) / pairs;
    network.reset();
    let start = computed();
    network.run(secs(10));
    let took = computed().saturating_sub(start);
    let messages = network.measured().delivered as f64;
    let per_message = took.as_secs_f64() * 1e6 / messages;
    let case = format!("quiet, {NODES} nodes, authenticated, with the simulator");
    figure(&case, "CPU per message", per_message, "us", None);
    figure(
        &case,
        "memory per observer and member",
        memory,
        "B",
        Some(96.0),
    );
    forged(&mut network);
    drop(network);
    alone(NODES);
}

/// Single detectors by themselves, as in production: what happened to some nodes of a simulation happens
/// again to detectors that begin as theirs did, without the simulator and the other 2,000 tables in
/// between. The clock of the processor, median of some passes.
fn alone(count: u32) {
    const WATCHED: u32 = 512;
    const PASSES: usize = 7;
    eprintln!("swim: CPU of {WATCHED} single members among {count}, {PASSES} times");
    let mut network = Simulation::acquainted(1, count, |_| {});
    for node in 0..WATCHED {
        network.record(node);
    }
    network.run(secs(30));
    let recorded: Vec<_> = (0..WATCHED).map(|node| network.recorded(node)).collect();
    let all = recorded.iter().flat_map(|inputs| inputs.iter());
    let messages = all.filter(|(_, datagram)| datagram.is_some()).count() as f64;
    let (mut whole, mut envelope) = (Vec::new(), Vec::new());
    for _ in 0..PASSES {
        let mut again = Simulation::acquainted(1, count, |_| {});
        let start = computed();
        for (node, inputs) in (0u32..).zip(&recorded) {
            again.with_detector(node, |detector, _, out| replay(detector, inputs, out));
        }
        whole.push(computed().saturating_sub(start).as_secs_f64() * 1e6 / messages);
        let start = computed();
        for (node, inputs) in (0u32..).zip(&recorded) {
            let datagrams = inputs.iter().filter_map(|(_, datagram)| datagram.as_ref());
            for (_, payload) in datagrams {
                assert!(again.open_and_seal(node, payload).is_some());
            }
        }
        envelope.push(computed().saturating_sub(start).as_secs_f64() * 1e6 / messages);
    }
    let case = format!("quiet, one of {count} nodes by itself, authenticated");
    figure(&case, "CPU per message", median(whole), "us", Some(0.7));
    let of_it = median(envelope);
    figure(&case, "of it to open one and seal one", of_it, "us", None);
}

fn replay(detector: &mut Detector, inputs: &[Recorded], out: &mut Vec<Output>) {
    for (now, datagram) in inputs {
        let input = match datagram {
            Some((from, payload)) => Input::Datagram {
                from: *from,
                payload,
            },
            None => Input::Timeout,
        };
        detector.handle(*now, input, out);
        out.clear();
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
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
            target: Some(Target::AtMost(target)),
            baseline: None,
        }
        .print();
    }
    crashes(&mut network, NODES);
}

/// One after the other, each once the one before is known everywhere.
fn crashes(network: &mut Simulation, nodes: u32) {
    const CRASHES: u32 = 16;
    let (mut failed, mut first, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for victim in 0..CRASHES {
        network.run(Duration::from_millis(u64::from(victim) * 37 % 100));
        network.reset();
        network.kill(77 + victim * 601);
        let crashed = network.now();
        network.run(secs(3));
        let since = |at: Duration| millis(at - crashed);
        let deaths = network.trace.iter().filter(|(_, _, event)| {
            matches!(event, rivven_swim::Event::MemberChanged { state, .. }
                if *state == rivven_swim::MemberState::Dead)
        });
        let deaths: Vec<_> = deaths.map(|(at, ..)| since(*at)).collect();
        let known = deaths.len() == (nodes - 1 - victim) as usize;
        failed.push(network.first_failed_probe().map_or(f64::INFINITY, since));
        first.push(deaths.first().copied().unwrap_or(f64::INFINITY));
        all.push(
            deaths
                .last()
                .copied()
                .filter(|_| known)
                .unwrap_or(f64::INFINITY),
        );
    }
    let case = format!("{CRASHES} crashes, {nodes} nodes");
    let after = crate::mean(&all) - crate::mean(&first);
    let failed = crate::mean(&failed);
    figure(&case, "first failed probe, mean", failed, "ms", Some(200.0));
    figure(&case, "first dead, mean", crate::mean(&first), "ms", None);
    figure(&case, "all after the first, mean", after, "ms", Some(50.0));
}
