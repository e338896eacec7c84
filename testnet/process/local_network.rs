//! `vos testnet` itself.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::daemon::{eventually, fails, shown, vos, wait_at_most};

#[test]
fn three_nodes_play_the_scenario_once() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let output = vos().args(["testnet", "--nodes", "3", "--once", "--report"]).arg(&report).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["nodes"], 3);
    let steps = report["steps"].as_array().unwrap();
    assert!(steps.len() >= 9, "{report}");
    for step in steps {
        assert!(step["name"].is_string() && step["ms"].is_u64() && step["detail"].is_string(), "{step}");
        assert_eq!(step["ok"], true, "{step}");
    }
}

#[test]
fn a_bad_topology_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("net.toml");
    fs::write(&file, "[[node]]\nname = 'a'\n[[node]]\nname = 'b'\nbootstrap = ['z']\n").unwrap();
    let reason = fails(&vos().args(["testnet", "--once", "--topology"]).arg(&file).output().unwrap(), 2);
    assert!(reason.contains("b bootstraps from z"), "{reason}");
    fails(&vos().args(["testnet", "--once", "--nodes", "1"]).output().unwrap(), 2);
}

#[test]
fn a_signal_stops_every_process_and_removes_the_directories() {
    let dir = tempfile::tempdir().unwrap();
    let out = fs::File::create(dir.path().join("out")).unwrap();
    let mut child = vos().args(["testnet", "--nodes", "2"]).env("TMPDIR", dir.path()).stdout(out).spawn().unwrap();
    let folders = || {
        let entries = dir.path().read_dir().unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.is_dir()).collect::<Vec<_>>()
    };
    // In the middle of starting or playing: any moment has to be good.
    let sockets = eventually("a daemon", || {
        let found: Vec<_> = folders().iter().map(|p| p.join("node1/api.sock")).filter(|p| p.exists()).collect();
        (!found.is_empty()).then_some(found)
    });
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    wait_at_most(&mut child, Duration::from_secs(20));
    assert_eq!(folders(), Vec::<std::path::PathBuf>::new());
    assert!(sockets.iter().all(|s| std::os::unix::net::UnixStream::connect(s).is_err()));
    // The data directory is on the command line of every daemon: nobody has it any more.
    let place = dir.path().to_str().unwrap().to_owned();
    let left = fs::read_dir("/proc").unwrap().filter_map(|e| fs::read(e.ok()?.path().join("cmdline")).ok());
    assert_eq!(left.filter(|line| String::from_utf8_lossy(line).contains(&place)).count(), 0);
}
