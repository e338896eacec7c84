//! What a node tells about another one.

use serde_json::Value;

use crate::process::daemon::{Home, shown};

/// The addrs in the record of `address` that `home` has; none when it has no record.
pub(super) fn addrs(home: &Home, address: &str) -> Vec<String> {
    strings(&answer(home, &["map", "get", address])["records"][0]["addrs"])
}

/// `online` or `offline` in the record of `address`, without a probe.
pub(super) fn state(home: &Home, address: &str) -> Value {
    answer(home, &["map", "get", address])["records"][0]["state"].clone()
}

/// How `home` reaches `address`: `direct` or `relayed`; `null` when it does not.
pub(super) fn path(home: &Home, address: &str) -> Value {
    answer(home, &["online", address])["path"].clone()
}

/// What `home` knows of its own reachability.
pub(super) fn reachability(home: &Home) -> Value {
    home.json(&["status"])["nat"]["reachability"].clone()
}

/// Confirmed external addrs of `home`.
pub(super) fn external(home: &Home) -> Vec<String> {
    strings(&home.json(&["status"])["external"])
}

/// Sends a message and waits for the recipient's receipt.
#[track_caller]
pub(super) fn delivers(from: &Home, to: &str, text: &str) {
    let sent = from.run(&["send", to, text, "--wait", "delivered", "--timeout", "60"]);
    assert!(sent.status.success(), "{}", shown(&sent));
}

/// The JSON of a command that may fail.
fn answer(home: &Home, args: &[&str]) -> Value {
    let output = home.run(&[&["--json"], args].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect()
}
