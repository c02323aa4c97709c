//! What a command found, as the JSON line that `--json` prints.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::json::{Json, quote};

/// One figure or verdict of a command.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) case: String,
    metric: Cow<'static, str>,
    /// A number as JSON writes it.
    pub(crate) value: String,
    unit: Cow<'static, str>,
    /// `None` for a figure without a verdict, and for what was skipped.
    pub(crate) ok: Option<bool>,
    /// Further members, such as a target and a baseline.
    pub(crate) more: Vec<(String, Json)>,
}

impl Case {
    /// A figure without a verdict.
    pub(crate) fn new(
        case: impl Into<String>,
        metric: impl Into<Cow<'static, str>>,
        value: String,
        unit: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            case: case.into(),
            metric: metric.into(),
            value,
            unit: unit.into(),
            ok: None,
            more: Vec::new(),
        }
    }
}

/// What a command found.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    name: &'static str,
    broken: bool,
    pub(crate) cases: Vec<Case>,
    /// Why the whole command was skipped, or parts of it.
    pub(crate) skipped: Vec<String>,
}

impl Report {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            broken: false,
            cases: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// A command that could not do its work.
    pub(crate) fn failed(name: &'static str) -> Self {
        Self {
            broken: true,
            ..Self::new(name)
        }
    }

    /// Adds a verdict.
    pub(crate) fn check(&mut self, case: impl Into<String>, ok: bool) {
        let mut verdict = Case::new(case, "passed", u8::from(ok).to_string(), "bool");
        verdict.ok = Some(ok);
        self.cases.push(verdict);
    }

    /// Adds a count without a verdict.
    pub(crate) fn count(&mut self, case: impl Into<String>, metric: &'static str, value: usize) {
        self.cases
            .push(Case::new(case, metric, value.to_string(), "count"));
    }

    pub(crate) fn is_ok(&self) -> bool {
        !self.broken && self.cases.iter().all(|case| case.ok != Some(false))
    }

    /// The whole report on one line.
    pub(crate) fn to_json(&self) -> String {
        let mut json = format!(
            "{{\"name\":{},\"ok\":{},\"machine\":{},\"results\":[",
            quote(self.name),
            self.is_ok(),
            quote(&machine())
        );
        for (i, case) in self.cases.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Writing into a String cannot fail.
            let _infallible = write!(
                json,
                "{comma}{{\"case\":{},\"metric\":{},\"value\":{},\"unit\":{}",
                quote(&case.case),
                quote(&case.metric),
                case.value,
                quote(&case.unit)
            );
            for (key, value) in &case.more {
                let _infallible = write!(json, ",{}:{value}", quote(key));
            }
            if let Some(ok) = case.ok {
                json.push_str(if ok { ",\"ok\":true" } else { ",\"ok\":false" });
            }
            json.push('}');
        }
        json.push_str("]}");
        json
    }
}

/// The machine, for a reader who compares figures.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model.trim());
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{os} {arch}, {cpus} cpus, {model}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    #[test]
    fn the_json_line_has_the_agreed_members() {
        let mut report = Report::new("tidy");
        report.check("edges \"x\"", true);
        report.count("files", "lines", 12);
        let line = report.to_json();
        assert!(!line.contains('\n'));
        let json = Json::parse(&line).unwrap();
        assert_eq!(
            json.keys().collect::<Vec<_>>(),
            ["name", "ok", "machine", "results"]
        );
        assert_eq!(json.get("ok"), &Json::Bool(true));
        let first = &json.get("results").items()[0];
        let keys = ["case", "metric", "value", "unit", "ok"];
        assert_eq!(first.keys().collect::<Vec<_>>(), keys);
        report.check("bad", false);
        assert!(!report.is_ok());
        assert!(!Report::failed("tidy").is_ok());
    }
}
