//! What a member sends, and how long a cluster takes after joins, deaths and partitions.

use std::time::Duration;

use rivven_core_types::test_util::{Figure, Target};
use rivven_swim::sim::{
    Faults, false_alarms, heal_after_partition, join_through_one, mass_failure, restart,
};

use crate::{peer, secs};

pub(crate) fn load() {
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
                target: Some(Target::AtMost(target)),
                baseline: None,
            }
            .print();
        }
    }
}

pub(crate) fn run(compare: bool) {
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
            target: Some(Target::AtMost(target)),
            baseline,
        }
        .print();
    }
    Figure {
        case: "128 nodes agree after a partition of 60 s",
        metric: "false deaths on the own side",
        value: wrongly as f64,
        unit: "events",
        target: Some(Target::AtMost(0.0)),
        baseline: None,
    }
    .print();
}
