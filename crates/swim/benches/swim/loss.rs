//! False deaths on a network that loses datagrams.

use rivven_core_types::test_util::{Figure, Target};
use rivven_swim::sim::false_alarms;

use crate::{Curves, lossy, peer, secs};

pub(crate) fn run(compare: bool, hours: u64, curves: &mut Curves) {
    const NODES: u32 = 128;
    node_hours(hours);
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
        let figure = |metric, value, unit, target: Option<f64>, baseline| {
            Figure {
                case: &case,
                metric,
                value,
                unit,
                target: target.map(Target::AtMost),
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
        if (seed + 1) % 500 == 0 {
            eprintln!("swim: {} of {runs} seeds, {deaths} false deaths", seed + 1);
        }
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
            target: target.map(Target::AtMost),
            baseline: None,
        }
        .print();
    }
}
