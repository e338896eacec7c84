//! What the scenario found: for people one line each, for programs one JSON document.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

/// One step of the scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was to hold.
    pub name: String,
    /// Whether it held. A skipped step is no failure; its detail says why it was skipped.
    pub ok: bool,
    /// How long it took until it held, in milliseconds.
    pub ms: u64,
    /// What was seen, in one line.
    pub detail: String,
}

impl Step {
    /// A step that held.
    #[must_use]
    pub fn passed(name: &str, started: Instant, detail: String) -> Self {
        Self { name: name.into(), ok: true, ms: millis(started.elapsed()), detail }
    }

    /// A step that did not hold.
    #[must_use]
    pub fn failed(name: &str, started: Instant, detail: String) -> Self {
        Self { ok: false, ..Self::passed(name, started, detail) }
    }

    /// A step that this network is too small for.
    #[must_use]
    pub fn skipped(name: &str, why: &str) -> Self {
        Self { name: name.into(), ok: true, ms: 0, detail: format!("skipped: {why}") }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if !self.ok {
            "FAILED"
        } else if self.detail.starts_with("skipped: ") {
            "-"
        } else {
            "ok"
        };
        write!(f, "{mark:<6} {:>7} ms  {}: {}", self.ms, self.name, self.detail)
    }
}

/// The whole scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nodes in the network.
    pub nodes: usize,
    /// Its steps, in their order.
    pub steps: Vec<Step>,
}

impl Report {
    /// A report without steps.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { nodes, steps: Vec::new() }
    }

    /// Adds a step.
    pub fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Whether there were steps and all held.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|s| s.ok)
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self.steps.iter().filter(|s| !s.ok).map(|s| s.name.as_str()).collect();
        let ms: u64 = self.steps.iter().map(|s| s.ms).sum();
        // Milliseconds of a scenario are far below 2^52, so the quotient is exact enough for one decimal.
        let seconds = ms as f64 / 1000.0;
        if failed.is_empty() {
            format!("all {} steps passed in {seconds:.1} s", self.steps.len())
        } else {
            format!("{} of {} steps failed: {}", failed.len(), self.steps.len(), failed.join(", "))
        }
    }

    /// One JSON document, with a line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings, numbers and booleans");
        text.push('\n');
        text
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_promised_shape() {
        let mut report = Report::new(8);
        assert!(!report.passed(), "a scenario without steps proved nothing");
        report.add(Step { name: "maps complete".into(), ok: true, ms: 12, detail: "8 records".into() });
        report.add(Step::skipped("network cut", "needs 4 nodes"));
        assert!(report.passed());
        report.add(Step::failed("a file", Instant::now(), "timed out".into()));
        assert!(!report.passed());
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["nodes"], 8);
        let first = serde_json::json!({"name": "maps complete", "ok": true, "ms": 12, "detail": "8 records"});
        assert_eq!(json["steps"][0], first);
        assert_eq!(json["steps"][2]["ok"], false);
        assert_eq!(report.summary(), "1 of 3 steps failed: a file");
    }
}
