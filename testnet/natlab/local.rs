//! Nodes of one broadcast domain that know nobody.

use super::{
    lab::{Lab, Ports},
    view::{addrs, delivers, path},
};
use crate::process::daemon::eventually;

#[test]
fn nodes_of_one_local_network_find_each_other_without_a_bootstrap_node() {
    let Some(mut lab) = Lab::new() else { return };
    let mut router = lab.router("nat", "11.0.0.2", Ports::Kept);
    let places = [lab.behind(&mut router, "a"), lab.behind(&mut router, "b"), lab.behind(&mut router, "c")];
    let homes = places.each_ref().map(|place| place.home(&["--set", "net.mdns=true"]));
    let at = [homes[0].start(&["--name", "alice"]), homes[1].start(&["--name", "bob"])];
    for (home, other) in [(&homes[0], &at[1]), (&homes[1], &at[0])] {
        eventually("the other one in the map", || (!addrs(home, &other.address).is_empty()).then_some(()));
    }
    delivers(&homes[0], "bob", "hello in there");
    assert_eq!(path(&homes[0], &at[1].address), "direct");
    // Who comes later asks, and is heard by those that asked long ago.
    let late = homes[2].start(&["--name", "carol"]);
    for (home, other) in [(&homes[2], &at[0]), (&homes[2], &at[1]), (&homes[0], &late), (&homes[1], &late)] {
        eventually("the late one and the others", || (!addrs(home, &other.address).is_empty()).then_some(()));
    }
    delivers(&homes[2], "alice", "sorry to be late");
}
