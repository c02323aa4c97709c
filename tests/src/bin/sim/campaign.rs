//! Many seeds, side by side: one world per thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rivven_tests::sim::SwarmReport;

use crate::arguments::Arguments;

/// A run that takes longer, in wall time, stands still: some task runs for ever without waiting.
const STUCK: Duration = Duration::from_secs(600);
/// Pause between two looks for such runs.
const LOOK: Duration = Duration::from_secs(5);

/// Plays the seeds that the arguments name and hands each report over as it comes.
pub(crate) fn each_seed(
    arguments: &Arguments,
    mut take: impl FnMut(SwarmReport, Duration),
) -> Result<(), String> {
    let next = AtomicU64::new(arguments.first);
    let until = arguments
        .minutes
        .map(|m| Instant::now() + Duration::from_secs(m * 60));
    let more = |seed: u64| {
        seed - arguments.first < arguments.count
            || until.is_some_and(|until| Instant::now() < until)
    };
    let running: Mutex<BTreeMap<u64, Instant>> = Mutex::default();
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let sender = sender.clone();
            let (next, running, more) = (&next, &running, &more);
            scope.spawn(move || {
                let running = || running.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    let seed = next.fetch_add(arguments.every, Ordering::Relaxed);
                    if !more(seed) {
                        return;
                    }
                    let begun = Instant::now();
                    running().insert(seed, begun);
                    let report = arguments.run(seed, &arguments.options);
                    running().remove(&seed);
                    if sender.send(report.map(|r| (r, begun.elapsed()))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        loop {
            match results.recv_timeout(LOOK) {
                Ok(Ok((report, wall))) => take(report, wall),
                Ok(Err(error)) => return Err(format!("the runtime cannot be built: {error}")),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some((seed, _)) = running.iter().find(|(_, at)| at.elapsed() > STUCK) {
                        eprintln!("seed {seed} stands still: its clock does not move");
                        // Its thread cannot be stopped.
                        std::process::exit(1);
                    }
                }
            }
        }
    })
}
