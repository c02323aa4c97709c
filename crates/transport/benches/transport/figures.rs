//! Figures on standard output, one JSON object a line; what people want to see on standard error.

/// A figure, with what it is held against.
#[derive(Default)]
pub(crate) struct Figure<'a> {
    pub(crate) case: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) value: f64,
    pub(crate) unit: &'a str,
    /// What it must reach: at least for rates, at most for times and sizes.
    pub(crate) target: Option<f64>,
    /// The limit measured in the same run.
    pub(crate) baseline: Option<f64>,
}

impl Figure<'_> {
    pub(crate) fn print(&self) {
        let at_least = matches!(self.unit, "req/s" | "MB/s");
        let mut line = format!(
            "{{\"case\":\"{}\",\"metric\":\"{}\",\"value\":{:.1},\"unit\":\"{}\"",
            self.case, self.metric, self.value, self.unit
        );
        if let Some(target) = self.target {
            let ok = (self.value >= target) == at_least || self.value.to_bits() == target.to_bits();
            line.push_str(&format!(",\"target\":{target:.1},\"ok\":{ok}"));
        }
        if let Some(baseline) = self.baseline.filter(|b| *b > 0.0) {
            let ratio = self.value / baseline;
            line.push_str(&format!(",\"baseline\":{baseline:.1},\"ratio\":{ratio:.3}"));
        }
        line.push('}');
        println!("{line}");
        let target = self
            .target
            .map_or_else(String::new, |t| format!("  (target {t:.0})"));
        eprintln!(
            "{:<44} {:<12} {:>14.1} {}{target}",
            self.case, self.metric, self.value, self.unit
        );
    }
}

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
