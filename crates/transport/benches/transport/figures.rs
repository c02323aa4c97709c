//! What many runs come to.

/// The middle of some measurements.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The value below which `share` of the sorted `times` lie.
pub(crate) fn quantile(times: &[u64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into what was measured"
    )]
    let at = ((times.len() as f64) * share) as usize;
    #[allow(clippy::cast_precision_loss, reason = "microseconds fit")]
    times
        .get(at.min(times.len().saturating_sub(1)))
        .map_or(0.0, |t| *t as f64)
}

/// What the figures were measured on.
pub(crate) fn machine() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(':').nth(1))
        .unwrap_or(" unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("machine:{model}, {cores} cores, load {}", load.trim());
}
