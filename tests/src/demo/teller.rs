//! What the demo says: a timeline on standard output, the progress on standard error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the demo speaks to a person"
)]

use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// Width of the bar, in characters.
const BAR_WIDTH: usize = 30;
/// Without a terminal a line is printed every so many per cent.
const PLAIN_STEP: usize = 10;

/// Tells what happens, with the time since it was made.
#[derive(Debug)]
pub struct Teller {
    started: Instant,
    bar: Mutex<Bar>,
}

#[derive(Debug)]
struct Bar {
    is_terminal: bool,
    is_shown: bool,
    drawn: Option<Instant>,
    /// The last step of [`PLAIN_STEP`] that was printed.
    step: usize,
}

/// How far the producer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) acked: usize,
    pub(super) records: usize,
    pub(super) in_flight: usize,
    pub(super) elapsed: Duration,
}

impl Teller {
    /// Begins the timeline.
    pub fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = Bar {
            is_terminal,
            is_shown: false,
            drawn: None,
            step: 0,
        };
        Self {
            started: Instant::now(),
            bar: Mutex::new(bar),
        }
    }

    /// A line of the timeline.
    pub fn event(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.line(&format!("{seconds:7.2} s  {text}"));
    }

    /// A line without a time.
    pub fn line(&self, text: &str) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.clear();
        println!("{text}");
        // A closed standard output is the reader's wish, not a failure.
        drop(std::io::stdout().flush());
    }

    /// Shows the progress, now and then.
    pub(super) fn progress(&self, position: Position) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = position.acked * 100 / position.records.max(1);
        let rate = rate(position.acked, position.elapsed);
        let text = format!(
            "{} of {} records acknowledged, {} per second, {} requests in flight",
            thousands(position.acked),
            thousands(position.records),
            thousands(rate),
            position.in_flight
        );
        if !bar.is_terminal {
            if percent / PLAIN_STEP > bar.step {
                bar.step = percent / PLAIN_STEP;
                eprintln!("           {percent:3} %  {text}");
            }
            return;
        }
        if bar
            .drawn
            .is_some_and(|drawn| drawn.elapsed() < BAR_INTERVAL)
        {
            return;
        }
        let filled = BAR_WIDTH * percent / 100;
        let full = "█".repeat(filled);
        let empty = "░".repeat(BAR_WIDTH.saturating_sub(filled));
        eprint!("\r\x1b[2K{full}{empty} {percent:3} %  {text}");
        drop(std::io::stderr().flush());
        bar.drawn = Some(Instant::now());
        bar.is_shown = true;
    }

    /// Takes the progress away.
    pub(super) fn progress_done(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.clear();
        bar.step = 0;
    }
}

impl Default for Teller {
    fn default() -> Self {
        Self::new()
    }
}

impl Bar {
    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            eprint!("\r\x1b[2K");
            self.drawn = None;
        }
    }
}

/// Records per second, rounded down.
pub(super) fn rate(records: usize, elapsed: Duration) -> usize {
    let millis = usize::try_from(elapsed.as_millis())
        .unwrap_or(usize::MAX)
        .max(1);
    records.saturating_mul(1_000) / millis
}

/// A number with its digits in groups of three.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 999, 1_000, 27_004, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "27,004", "1,234,567"]);
    }
}
