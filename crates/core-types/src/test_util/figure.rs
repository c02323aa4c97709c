//! What a bench prints: one figure a line, as `cargo xtask bench` collects them.

use std::io::Write as _;

/// What a value must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// For rates.
    AtLeast(f64),
    /// For times, sizes and counts of what should not be.
    AtMost(f64),
}

impl Target {
    const fn value(self) -> f64 {
        match self {
            Self::AtLeast(value) | Self::AtMost(value) => value,
        }
    }

    fn is_met_by(self, found: f64) -> bool {
        match self {
            Self::AtLeast(least) => found >= least,
            Self::AtMost(most) => found <= most,
        }
    }
}

/// A measured value, with what it is held against.
#[derive(Debug, Clone, Copy)]
pub struct Figure<'a> {
    /// What was done.
    pub case: &'a str,
    /// What was measured.
    pub metric: &'a str,
    /// The value.
    pub value: f64,
    /// Its unit, and that of the target and the baseline.
    pub unit: &'a str,
    /// What it must reach.
    pub target: Option<Target>,
    /// What the machine, or a peer, gave.
    pub baseline: Option<f64>,
}

impl<'a> Figure<'a> {
    /// A figure that is not compared with the machine or a peer.
    pub const fn new(
        case: &'a str,
        metric: &'a str,
        value: f64,
        unit: &'a str,
        target: Option<Target>,
    ) -> Self {
        Self {
            case,
            metric,
            value,
            unit,
            target,
            baseline: None,
        }
    }

    /// The figure as an object of JSON.
    pub fn line(&self) -> String {
        let mut line = format!(
            r#"{{"case":{:?},"metric":{:?},"value":{:.3},"unit":{:?}"#,
            self.case, self.metric, self.value, self.unit
        );
        if let Some(target) = self.target {
            let (value, ok) = (target.value(), target.is_met_by(self.value));
            line += &format!(r#","target":{value},"ok":{ok}"#);
        }
        if let Some(baseline) = self.baseline {
            line += &format!(r#","baseline":{baseline:.3}"#);
            if baseline > 0.0 {
                line += &format!(r#","ratio":{:.3}"#, self.value / baseline);
            }
        }
        line + "}"
    }

    /// Prints the line. A reader that has gone wants no more figures.
    pub fn print(&self) {
        drop(writeln!(std::io::stdout(), "{}", self.line()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_the_sense_of_its_target() {
        let figure = |value, target| Figure {
            case: "echo",
            metric: "rate",
            value,
            unit: "req/s",
            target: Some(target),
            baseline: Some(4.0),
        };
        assert_eq!(
            figure(2.0, Target::AtLeast(3.0)).line(),
            r#"{"case":"echo","metric":"rate","value":2.000,"unit":"req/s","target":3,"ok":false,"baseline":4.000,"ratio":0.500}"#
        );
        assert!(
            figure(2.0, Target::AtMost(3.0))
                .line()
                .contains(r#""ok":true"#)
        );
        let bare = Figure {
            target: None,
            baseline: Some(0.0),
            ..figure(1.0, Target::AtMost(0.0))
        };
        assert!(!bare.line().contains("ok") && !bare.line().contains("ratio"));
    }
}
