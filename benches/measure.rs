//! Medians, rates and the lines that report them.

use std::time::Duration;

/// The median of some durations.
pub fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// The median of some numbers.
pub fn median_f(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Prints one promise: what was measured, the baseline, their ratio, and what the ratio should be.
pub fn report(what: &str, candidate: &str, baseline: &str, ratio: f64, at_least: f64) {
    let verdict = if ratio >= at_least { "ok" } else { "BELOW" };
    println!("{what}\n    ours {candidate}   baseline {baseline}   ratio {ratio:.2} (at least {at_least})  {verdict}");
}

/// Prints a promise without a baseline: a value and its bound.
pub fn bound(what: &str, value: &str, holds: bool, limit: &str) {
    println!("{what}\n    {value}   (limit {limit})  {}", if holds { "ok" } else { "OVER" });
}
