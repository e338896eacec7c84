//! Relays and hole punching.

use super::{
    lab::{Host, Lab, Ports},
    view::{addrs, delivers, path, reachability},
};
use crate::process::daemon::{Daemon, Home, eventually};

/// Two nodes behind two routers, and a relay in the internet. Daemons end before the lab does.
struct Scene {
    a: Home,
    b: Home,
    at_relay: Daemon,
    at_a: Daemon,
    at_b: Daemon,
    _relay: Home,
    _lab: Lab,
}

impl Scene {
    /// Both know that nobody can dial them, have a place at the relay, and know it of each other. `args` go to both.
    fn start(ports: Ports, args: &[&str]) -> Option<Self> {
        let mut lab = Lab::new()?;
        let place = lab.public("relay", "11.0.0.1");
        let mut routers = [lab.router("nat-a", "11.0.0.2", ports), lab.router("nat-b", "11.0.0.3", ports)];
        let [a, b] = [lab.behind(&mut routers[0], "a"), lab.behind(&mut routers[1], "b")];
        // Nothing tells it that its addr is public: it sees that on its interface.
        let relay = place.home(&["--set", "net.relay_server=true"]);
        let at_relay = relay.start(&["--name", "relay"]);
        let bootstrap = place.addr(&at_relay);
        let args = [&["--bootstrap", &bootstrap], args].concat();
        let home = |host: &Host| host.home(&args);
        let (a, b) = (home(&a), home(&b));
        let (at_a, at_b) = (a.start(&["--name", "alice"]), b.start(&["--name", "bob"]));
        for home in [&a, &b] {
            eventually("it knows that it is private", || (reachability(home) == "private").then_some(()));
        }
        for (home, other) in [(&a, &at_b), (&b, &at_a)] {
            eventually("a place at the relay in the record", || {
                addrs(home, &other.address).iter().any(|addr| addr.contains("/p2p-circuit")).then_some(())
            });
        }
        Some(Self { a, b, at_relay, at_a, at_b, _relay: relay, _lab: lab })
    }
}

#[test]
fn nodes_behind_two_nats_meet_at_a_relay_and_punch_a_direct_connection() {
    let Some(scene) = Scene::start(Ports::Kept, &[]) else { return };
    let (to_a, to_b) = (scene.at_a.address.clone(), scene.at_b.address.clone());
    delivers(&scene.a, &to_b, "by the relay or not");
    for (home, to) in [(&scene.a, &to_b), (&scene.b, &to_a)] {
        eventually("a direct connection", || (path(home, to) == "direct").then_some(()));
    }
    // Nothing is left on the relay's path: they do without it.
    assert!(scene.at_relay.terminate().0.success());
    delivers(&scene.a, &to_b, "there");
    delivers(&scene.b, &to_a, "and back");
    assert_eq!(path(&scene.a, &to_b), "direct");
}

#[test]
fn where_punching_cannot_work_messages_stay_on_the_relay() {
    // They need not find out again that they are private: the other test has the silence.
    let args = ["-v", "--set", "net.reachability=private"];
    let Some(scene) = Scene::start(Ports::Random, &args) else { return };
    let (to_a, to_b) = (scene.at_a.address.clone(), scene.at_b.address.clone());
    delivers(&scene.a, &to_b, "by the relay");
    eventually("punching was tried and failed", || {
        let said = |home: &Home| std::fs::read_to_string(home.file("daemon.log")).unwrap();
        [&scene.a, &scene.b].iter().any(|home| said(home).contains("no direct connection")).then_some(())
    });
    delivers(&scene.a, &to_b, "still by the relay");
    delivers(&scene.b, &to_a, "and back");
    assert_eq!(path(&scene.a, &to_b), "relayed");
    assert_eq!(path(&scene.b, &to_a), "relayed");
}
