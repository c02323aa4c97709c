//! One figure, as one line of JSON.

use std::io::Write as _;
use std::time::Duration;

/// A measured value, with its target and its baseline from the same run.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was done.
    pub case: String,
    /// What was measured.
    pub metric: &'static str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The target, and whether more is better.
    pub target: Option<(f64, bool)>,
    /// What the machine gave without us, in the same unit.
    pub baseline: Option<f64>,
}

impl Figure {
    /// Prints the figure as a line of JSON.
    pub fn print(&self) {
        let mut line = format!(
            "{{\"case\":\"{}\",\"metric\":\"{}\",\"value\":{:.3},\"unit\":\"{}\"",
            self.case, self.metric, self.value, self.unit
        );
        if let Some((target, more_is_better)) = self.target {
            let ok = if more_is_better {
                self.value >= target
            } else {
                self.value <= target
            };
            line.push_str(&format!(",\"target\":{target:.3},\"ok\":{ok}"));
        }
        if let Some(baseline) = self.baseline {
            let ratio = self.value / baseline.max(f64::MIN_POSITIVE);
            line.push_str(&format!(",\"baseline\":{baseline:.3},\"ratio\":{ratio:.3}"));
        }
        // A reader that has gone wants no more figures.
        drop(writeln!(std::io::stdout(), "{line}}}"));
    }
}

/// The value below which `percent` of the sorted samples lie; zero without samples.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
