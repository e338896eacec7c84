//! Start and stop.

use std::time::Duration;

use super::daemon::{Home, Pair, eventually};

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
