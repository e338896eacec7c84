//! Limits on connections: those beyond them are refused, those within them stay.

use crate::{
    identity::Identity,
    net::{
        self,
        pubsub::{Mesh, Topics},
        rpc::Protocols,
    },
    primitives::Multiaddr,
    test_util::{Ground, Node, node, node_on, until},
};

async fn start(config: net::Config) -> Node {
    node(config, |_, _| {}).await.0
}

fn full(node: &Node, addr: &Multiaddr) -> Multiaddr {
    addr.clone().with_p2p(node.handle.local()).unwrap()
}

/// Dials; whoever refuses may do so after the handshake.
async fn dial(from: &Node, to: &Node) {
    let _ = from.handle.connect(full(to, &to.addrs[0])).await;
}

#[tokio::test]
async fn a_full_node_refuses_more_keeps_a_place_for_its_own_dials_and_lets_in_the_next_when_one_leaves() {
    let full = start(net::Config { max_connections: 4, ..Node::config() }).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let node = start(Node::config()).await;
        dial(&node, &full).await;
        until("it is let in", || full.handle.is_connected(&node.handle.local())).await;
        inside.push(node);
    }
    let late = start(Node::config()).await;
    dial(&late, &full).await;
    until("it is refused", || !late.handle.is_connected(&full.handle.local())).await;
    assert_eq!(full.handle.peer_count(), 3);
    let chosen = start(Node::config()).await;
    dial(&full, &chosen).await;
    until("the place for dials", || full.handle.is_connected(&chosen.handle.local())).await;
    assert!(inside.iter().all(|node| full.handle.is_connected(&node.handle.local())), "nobody was put out");
    let left = inside.pop().unwrap();
    left.handle.disconnect(full.handle.local()).await.unwrap();
    until("a place is free", || full.handle.peer_count() == 3).await;
    dial(&late, &full).await;
    until("it is let in now", || full.handle.is_connected(&late.handle.local())).await;
}

#[tokio::test]
async fn one_peer_has_no_more_connections_than_it_may() {
    let strict = start(net::Config { max_connections_per_peer: 2, ..Node::config() }).await;
    // One key at three places: each has a connection of its own.
    let identity = Identity::generate();
    let mut places = Vec::new();
    for _ in 0..3 {
        let ground = Ground { identity: identity.clone(), ..Ground::fresh() };
        let (place, ()) = node_on(ground, Node::config(), |_, _| {}).await;
        dial(&place, &strict).await;
        places.push(place);
    }
    let inside = || places.iter().filter(|place| place.handle.is_connected(&strict.handle.local())).count();
    until("one of them is refused", || inside() == 2).await;
    let connections = || strict.handle.peer(&identity.address()).map_or(0, |peer| peer.connections);
    until("two connections", || connections() == 2).await;
    let other = start(Node::config()).await;
    dial(&other, &strict).await;
    until("others are let in", || strict.handle.is_connected(&other.handle.local())).await;
    assert_eq!(connections(), 2);
}

#[tokio::test]
async fn without_memory_nobody_is_let_in() {
    // Any process is larger than that.
    let poor = start(net::Config { max_memory_mib: 1, ..Node::config() }).await;
    let node = start(Node::config()).await;
    dial(&node, &poor).await;
    until("it is refused", || !node.handle.is_connected(&poor.handle.local())).await;
    assert_eq!(poor.handle.peer_count(), 0);
}

#[tokio::test]
async fn above_the_high_water_mark_peers_go_that_are_neighbours_of_everybody_only() {
    const MARK: usize = 17;
    let everybody = |_: &mut Protocols, topics: &mut Topics| topics.add("news", Mesh::everybody(20));
    let config = net::Config { target_peers: 1, high_water: MARK, ..Node::config() };
    let (hub, (publisher, _news)) = node(config, everybody).await;
    let mut others = Vec::new();
    for _ in 0..MARK + 3 {
        let (other, ends) = node(net::Config { target_peers: 1, ..Node::config() }, everybody).await;
        dial(&other, &hub).await;
        until("they listen to each other", || publisher.reaches(&other.handle.local())).await;
        others.push((other, ends));
    }
    // Connections are young for ten seconds.
    until("those above the mark are gone", || hub.handle.peer_count() <= MARK).await;
}
