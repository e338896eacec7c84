//! Every transport carries requests; a private network keeps others out; listeners come and go.

use tokio::sync::mpsc;

use super::rpc::{Echo, text};
use crate::{
    net::{
        self,
        rpc::{Client, Inbound},
    },
    primitives::Multiaddr,
    test_util::{Ground, Node, node, node_on, until},
};

/// A node that answers with what it is asked.
async fn echo(config: net::Config) -> (Node, Client<Echo>) {
    let (node, (client, mut inbound)): (_, (_, mpsc::Receiver<Inbound<Echo>>)) =
        node(config, |protocols, _| protocols.add::<Echo>()).await;
    tokio::spawn(async move {
        while let Some(asked) = inbound.recv().await {
            let answer = asked.request.clone();
            asked.respond(answer);
        }
    });
    (node, client)
}

fn listening(addrs: &[&str]) -> net::Config {
    net::Config { listen: addrs.iter().map(|a| a.parse().unwrap()).collect(), ..Node::config() }
}

fn full(node: &Node, addr: &Multiaddr) -> Multiaddr {
    addr.clone().with_p2p(node.handle.local()).unwrap()
}

async fn carries(listen: &str, transport: &str) {
    let (a, client) = echo(Node::config()).await;
    let (b, _) = echo(listening(&[listen])).await;
    assert_eq!(a.handle.connect(full(&b, &b.addrs[0])).await.unwrap(), b.handle.local());
    let info = a.handle.peer(&b.handle.local()).unwrap();
    assert_eq!((info.transport, info.relayed), (transport, false));
    assert_eq!(client.request(b.handle.local(), text(b"hello")).await.unwrap().body, b"hello");
}

#[tokio::test]
async fn quic_carries_requests() {
    carries("/ip4/127.0.0.1/udp/0/quic-v1", "quic").await;
}

#[tokio::test]
async fn websocket_carries_requests() {
    carries("/ip4/127.0.0.1/tcp/0/ws", "ws").await;
}

#[tokio::test]
async fn a_name_is_resolved_when_dialling() {
    let (a, _) = echo(Node::config()).await;
    let (b, _) = echo(Node::config()).await;
    let port = b.addrs[0].to_string().rsplit('/').next().unwrap().to_owned();
    let named: Multiaddr = format!("/dns4/localhost/tcp/{port}").parse().unwrap();
    assert_eq!(a.handle.connect(full(&b, &named)).await.unwrap(), b.handle.local());
}

#[tokio::test]
async fn only_who_has_the_key_of_a_private_network_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let private = |name: &str, byte: &str| {
        let path = dir.path().join(name);
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", byte.repeat(32));
        std::fs::write(&path, text).unwrap();
        let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/udp/0/quic-v1"];
        net::Config { private_key_file: path.to_str().unwrap().to_owned(), ..listening(&listen) }
    };
    let (inside, _) = echo(private("one", "1f")).await;
    assert_eq!(inside.addrs.len(), 2, "QUIC cannot carry the key: {:?}", inside.addrs);
    let mut outside = Vec::new();
    for addr in &inside.addrs {
        for config in [private("three", "2e"), Node::config()] {
            outside.push((echo(config).await.0, full(&inside, addr)));
        }
    }
    // All at once: each refused handshake takes its whole time.
    let refused = outside.iter().map(|(node, addr)| node.handle.connect(addr.clone()));
    for (result, (_, addr)) in futures::future::join_all(refused).await.into_iter().zip(&outside) {
        assert!(result.is_err(), "got in by {addr}");
    }
    for addr in &inside.addrs {
        let (member, client) = echo(private("two", "1f")).await;
        member.handle.connect(full(&inside, addr)).await.unwrap();
        assert_eq!(client.request(inside.handle.local(), text(b"x")).await.unwrap().body, b"x");
    }
    let members = inside.handle.peers();
    assert!(outside.iter().all(|(node, _)| members.iter().all(|p| p.address != node.handle.local())));
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    assert!(inside.handle.listen(quic).await.is_err());
}

#[tokio::test]
async fn listeners_come_and_go_while_running() {
    let (a, _) = echo(Node::config()).await;
    let (b, _) = echo(Node::config()).await;
    let more = b.handle.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap();
    assert!(b.handle.nat().borrow().listen.contains(&more));
    a.handle.connect(full(&b, &more)).await.unwrap();
    b.handle.unlisten(more.clone()).await.unwrap();
    until("not listening", || !b.handle.nat().borrow().listen.contains(&more)).await;
    assert!(a.handle.is_connected(&b.handle.local()), "connections stay");
    assert!(b.handle.unlisten(more.clone()).await.is_err());
    let (c, _) = echo(Node::config()).await;
    assert!(c.handle.connect(full(&b, &more)).await.is_err());
    c.handle.connect(full(&b, &b.addrs[0])).await.unwrap();
}

#[tokio::test]
async fn an_addr_that_others_confirmed_is_given_up_with_its_listener() {
    let external: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let (server, _) = echo(net::Config { relay_server: true, external: vec![external], ..Node::config() }).await;
    let (tested, _) = echo(net::Config { relay_client: true, ..Node::config() }).await;
    tested.handle.connect(full(&server, &server.addrs[0])).await.unwrap();
    let nat = || tested.handle.nat().borrow().clone();
    until("the addr is confirmed", || nat().external.contains(&tested.addrs[0])).await;
    assert_eq!(nat().reachability, net::Reachability::Public);
    tested.handle.unlisten(tested.addrs[0].clone()).await.unwrap();
    until("the addr is given up", || nat().external.is_empty()).await;
    assert_eq!(nat().reachability, net::Reachability::Unknown);
}

#[tokio::test]
async fn bans_hold_after_a_restart() {
    let ground = Ground::fresh();
    // The next run: another key, the same store.
    let second = Ground { store: ground.store.clone(), dir: ground.dir.clone(), ..Ground::fresh() };
    let wire = |_: &mut net::rpc::Protocols, _: &mut net::pubsub::Topics| {};
    let (mut a, ()) = node_on(ground, Node::config(), wire).await;
    let (b, _) = echo(Node::config()).await;
    a.handle.ban(b.handle.local()).await.unwrap();
    a.stop.stop();
    assert!(a.tasks.join(std::time::Duration::from_secs(5)).await.is_empty());
    let (a, ()) = node_on(second, Node::config(), wire).await;
    assert_eq!(a.handle.bans(), [b.handle.local()]);
    assert!(a.handle.connect_peer(b.handle.local()).await.is_err());
    b.handle.connect(full(&a, &a.addrs[0])).await.ok();
    until("not let in", || b.handle.peers().is_empty() && a.handle.peers().is_empty()).await;
    a.handle.unban(b.handle.local()).await.unwrap();
    b.handle.connect(full(&a, &a.addrs[0])).await.unwrap();
    until("let in", || a.handle.is_connected(&b.handle.local())).await;
}

#[tokio::test]
async fn many_who_wait_for_the_same_peer_share_one_dial() {
    let (a, _) = echo(Node::config()).await;
    let (b, _) = echo(Node::config()).await;
    let peer = b.handle.local();
    a.book.set(peer, b.addrs.clone());
    let waiting = (0..20).map(|_| a.handle.connect_peer(peer));
    for answer in futures::future::join_all(waiting).await {
        answer.unwrap();
    }
    assert_eq!(a.handle.peer(&peer).unwrap().connections, 1);
}

#[tokio::test]
async fn who_can_only_be_reached_through_a_relay_answers_requests() {
    let external: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let (relay, _) = echo(net::Config { relay_server: true, external: vec![external], ..Node::config() }).await;
    let hidden = net::Config {
        listen: Vec::new(),
        relay_client: true,
        reachability: net::ReachabilityMode::Private,
        ..Node::config()
    };
    let (hidden, _) = echo(hidden).await;
    hidden.handle.connect(full(&relay, &relay.addrs[0])).await.unwrap();
    until("a place at the relay", || !hidden.handle.nat().borrow().external.is_empty()).await;
    let (asker, client) = echo(Node::config()).await;
    let peer = hidden.handle.local();
    let circuit: Multiaddr = format!("{}/p2p-circuit", full(&relay, &relay.addrs[0])).parse().unwrap();
    asker.book.set(peer, vec![circuit]);
    assert_eq!(client.request(peer, text(b"through")).await.unwrap().body, b"through");
    let info = asker.handle.peer(&peer).unwrap();
    assert_eq!((info.relayed, info.transport), (true, "relay"));
    until("the relayed peer is seen", || hidden.handle.peer(&asker.handle.local()).is_some_and(|p| p.relayed)).await;
}
