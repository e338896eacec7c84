//! Medians, rates and the lines that report them.

use std::time::Duration;

/// The median of some durations.
pub(crate) fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// The median of some numbers.
pub(crate) fn median_f(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Prints one promise: what was measured, the baseline, their ratio, and what the ratio should be.
pub(crate) fn report(what: &str, candidate: &str, baseline: &str, ratio: f64, at_least: f64) {
    let verdict = if ratio >= at_least { "ok" } else { "BELOW" };
    println!("{what}\n    ours {candidate}   baseline {baseline}   ratio {ratio:.2} (at least {at_least})  {verdict}");
}

/// Prints a promise without a baseline: a value and its bound.
pub(crate) fn bound(what: &str, value: &str, holds: bool, limit: &str) {
    println!("{what}\n    {value}   (limit {limit})  {}", if holds { "ok" } else { "OVER" });
}

/// Processor time that this process has used, to a hundredth of a second.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses, which may hold spaces; user and system time are fields 14 and 15.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    // The kernel shows programs a hundred ticks a second on every architecture.
    Duration::from_millis(10 * ticks)
}

/// Bytes that this process has made the disk write.
pub(crate) fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}
