//! The same calls over tonic: two processes of `tests/tonic`, in the same run.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rivven_core_types::test_util::Figure;

use crate::cases::{Bench, WINDOWS};
use crate::figures::median;

/// Where `cargo xtask bench transport --compare` says that the program is.
const PEER: &str = "RIVVEN_TONIC_PEER";

/// Calls of 64 bytes per second by window, of the better of one thread per side and one per processor;
/// `None` without the program.
pub(crate) fn measure(bench: &Bench) -> Option<[f64; 3]> {
    let peer = std::env::var_os(PEER)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let one = with_threads(&peer, 1, bench);
    let all = with_threads(&peer, cores, bench);
    let mut best = [0.0; 3];
    for ((best, window), (one, all)) in best.iter_mut().zip(WINDOWS).zip(one.into_iter().zip(all)) {
        *best = one.max(all);
        let case = format!("tonic echo 64 B x{window}");
        let value = *best;
        Figure {
            case: &case,
            metric: "rate",
            value,
            unit: "req/s",
            target: None,
            baseline: None,
        }
        .print();
    }
    Some(best)
}

fn with_threads(peer: &OsStr, threads: usize, bench: &Bench) -> [f64; 3] {
    let threads = threads.to_string();
    let mut server = Command::new(peer)
        .args(["server", &threads])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    let rates = WINDOWS.map(|window| {
        let mut runs = [(); 3].map(|()| {
            let client = Command::new(peer)
                .args(["client", address.trim(), &threads])
                .args([&window.to_string(), "64"])
                .arg(bench.length.as_secs_f64().to_string())
                .output()
                .unwrap();
            let line = String::from_utf8(client.stdout).unwrap();
            let rate = line.split_whitespace().next().unwrap();
            rate.parse::<f64>().unwrap()
        });
        median(&mut runs)
    });
    drop(server.stdin.take());
    drop(server.wait());
    rates
}
