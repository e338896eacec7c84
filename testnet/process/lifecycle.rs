//! Start and stop.

use std::{os::unix::net::UnixDatagram, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::daemon::{Home, Pair, READY, eventually, vos, wait_at_most};

#[test]
fn sigterm_ends_a_daemon_within_five_seconds_and_it_comes_back_the_same() {
    let pair = Pair::start(&[]);
    let Pair { a, b, at_a, at_b } = pair;
    let (at_a, at_b) = (at_a.unwrap(), at_b.unwrap());
    let address = at_b.address.clone();
    let (status, took) = at_b.terminate();
    assert!(status.success(), "{status}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    assert!(!b.file("api.sock").exists(), "a stopped daemon leaves no socket behind");
    eventually("the goodbye", || {
        let record = a.json(&["map", "get", &address]);
        (record["records"][0]["state"] == "offline").then_some(())
    });
    let again = b.start(&[]);
    assert_eq!(again.address, address);
    eventually("back without a bootstrap node", || {
        let record = a.json(&["map", "get", &address]);
        (record["records"][0]["state"] == "online").then_some(())
    });
    at_a.terminate();
}

#[test]
fn a_daemon_alone_is_ready_and_knows_itself() {
    let home = Home::new(&[]);
    let daemon = home.start(&["--name", "alone"]);
    assert!(daemon.listen.iter().all(|addr| !addr.contains("/tcp/0")), "{:?}", daemon.listen);
    let status = home.json(&["status"]);
    assert_eq!((&status["address"], &status["name"]), (&daemon.address.as_str().into(), &"alone".into()));
    assert_eq!(home.json(&["map", "ls"])["records"][0]["address"], daemon.address);
}

#[test]
fn a_killed_daemon_starts_again_on_what_it_left() {
    let home = Home::new(&[]);
    let daemon = home.start(&[]);
    let address = daemon.address.clone();
    daemon.kill();
    assert!(home.file("api.sock").exists(), "the socket of a killed daemon is still there");
    assert_eq!(home.start(&[]).address, address);
}

#[test]
fn systemd_hears_when_a_daemon_is_ready_and_when_it_stops() {
    let home = Home::new(&[]);
    let path = home.file("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(READY)).unwrap();
    let hears = |what: &str| {
        let mut text = [0; 256];
        let n = socket.recv(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..n]);
        assert!(text.lines().any(|line| line == what), "{text} instead of {what}");
    };
    let mut daemon = vos();
    daemon.env("NOTIFY_SOCKET", &path).arg("--data-dir").arg(home.file("data"));
    daemon.args(["daemon", "--listen", "/ip4/127.0.0.1/tcp/0"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    hears("READY=1");
    kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM).unwrap();
    hears("STOPPING=1");
    assert!(wait_at_most(&mut daemon, Duration::from_secs(5)).success());
}
