//! Nodes whose network changes under them.

use super::{
    commands::run,
    lab::{Lab, Ports},
    view::{addrs, delivers, external, path, reachability, state},
};
use crate::process::daemon::eventually;

#[test]
fn a_node_that_gets_another_addr_is_soon_known_there() {
    let Some(mut lab) = Lab::new() else { return };
    let (place, moving) = (lab.public("hub", "11.0.0.1"), lab.public("moving", "11.0.0.5"));
    let hub = place.home(&["--set", "net.relay_server=true"]);
    let at_hub = hub.start(&["--name", "hub"]);
    let mover = moving.home(&["--bootstrap", &place.addr(&at_hub)]);
    let at_mover = mover.start(&["--name", "mover"]);
    let known_at = |ip: &str| addrs(&hub, &at_mover.address).iter().any(|a| a.contains(&format!("/{ip}/")));
    eventually("the first addr", || known_at("11.0.0.5").then_some(()));
    eventually("it is tested", || (!external(&mover).is_empty()).then_some(()));
    run(&format!("ip -n {} address delete 11.0.0.5/24 dev eth0", moving.netns), "");
    run(&format!("ip -n {} address add 11.0.0.9/24 dev eth0", moving.netns), "");
    eventually("the new addr alone", || (known_at("11.0.0.9") && !known_at("11.0.0.5")).then_some(()));
    delivers(&hub, "mover", "welcome to your new place");
    delivers(&mover, "hub", "thank you");
}

#[test]
fn a_node_whose_cable_was_pulled_comes_back_by_itself() {
    let Some(mut lab) = Lab::new() else { return };
    let (place, other) = (lab.public("hub", "11.0.0.1"), lab.public("other", "11.0.0.5"));
    let hub = place.home(&[]);
    let at_hub = hub.start(&["--name", "hub"]);
    let node = other.home(&["--bootstrap", &place.addr(&at_hub)]);
    let at_node = node.start(&["--name", "node"]);
    eventually("known", || (state(&hub, &at_node.address) == "online").then_some(()));
    run(&format!("ip -n {} link set eth0 down", other.netns), "");
    eventually("missed", || (state(&hub, &at_node.address) == "offline").then_some(()));
    run(&format!("ip -n {} link set eth0 up", other.netns), "");
    eventually("back", || (state(&hub, &at_node.address) == "online").then_some(()));
    delivers(&hub, "node", "there you are");
}

#[test]
fn a_public_node_that_is_carried_behind_a_nat_moves_to_a_relay() {
    let Some(mut lab) = Lab::new() else { return };
    let (place, mut moving) = (lab.public("relay", "11.0.0.1"), lab.public("moving", "11.0.0.5"));
    let mut router = lab.router("nat", "11.0.0.2", Ports::Kept);
    let relay = place.home(&["--set", "net.relay_server=true"]);
    let at_relay = relay.start(&["--name", "relay"]);
    let mover = moving.home(&["--bootstrap", &place.addr(&at_relay)]);
    let at_mover = mover.start(&["--name", "mover"]);
    eventually("public", || (reachability(&mover) == "public").then_some(()));
    lab.carry_behind(&mut moving, &mut router);
    eventually("private", || (reachability(&mover) == "private").then_some(()));
    eventually("a place at the relay, and the public addr is gone", || {
        let addrs = addrs(&relay, &at_mover.address);
        let circuit = addrs.iter().any(|a| a.contains("/p2p-circuit"));
        (circuit && !addrs.iter().any(|a| a.contains("/11.0.0.5/"))).then_some(())
    });
    // A stranger reaches it, by the relay at first.
    let outside = lab.public("outside", "11.0.0.4");
    let stranger = outside.home(&["--bootstrap", &place.addr(&at_relay)]);
    let _at_stranger = stranger.start(&["--name", "stranger"]);
    eventually("reached", || path(&stranger, &at_mover.address).is_string().then_some(()));
    delivers(&stranger, &at_mover.address, "found you");
}
