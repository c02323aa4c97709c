//! What many samples come to.

use std::time::Duration;

/// The value below which `percent` of the sorted samples lie; zero without samples.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
