//! How fast a crash is noticed.

use std::time::Duration;

use rivven_core_types::test_util::{Figure, Target};
use rivven_swim::sim::{Crash, Faults, crash};

use crate::{Curves, mean, millis, peer, secs};

pub(crate) fn run(compare: bool, curves: &mut Curves) {
    for (count, runs) in [
        (16, 1000),
        (32, 1000),
        (64, 500),
        (128, 200),
        (512, 100),
        (2048, 30),
    ] {
        eprintln!("swim: {runs} crashes of one of {count} nodes");
        let runs: Vec<_> = (0..runs)
            .map(|seed| crash(seed, count, Faults::default(), secs(20)))
            .collect();
        let all = |pick: fn(&Crash) -> Option<Duration>| -> Vec<f64> {
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
        let figure = |metric, value, target: Option<f64>, baseline| {
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
                target: target.map(Target::AtMost),
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
