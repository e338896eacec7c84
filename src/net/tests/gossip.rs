//! Gossip: what one publishes the others judge, and only what is accepted travels on.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    net::pubsub::{Mesh, PublishError, Publisher, Received, Verdict},
    test_util::{Node, node, until},
};

async fn start() -> (Node, (Publisher, mpsc::Receiver<Received>)) {
    node(Node::config(), |_, topics| topics.add("news/1", Mesh::default())).await
}

async fn next(received: &mut mpsc::Receiver<Received>) -> Received {
    tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap()
}

async fn publish(publisher: &Publisher, data: &[u8]) {
    let ready = async {
        while publisher.publish(data.to_vec()).await == Err(PublishError::NoPeers) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
}

#[tokio::test]
async fn accepted_news_travel_on_and_rejected_do_not() {
    // a - b - c in a line.
    let (a, (from_a, _at_a)) = start().await;
    let (b, (_from_b, mut at_b)) = start().await;
    let (c, (_from_c, mut at_c)) = start().await;
    let addr = |n: &Node| n.addrs[0].clone();
    a.handle.connect(addr(&b)).await.unwrap();
    c.handle.connect(addr(&b)).await.unwrap();
    until("connected", || b.handle.peer_count() == 2).await;
    publish(&from_a, b"bad").await;
    let bad = next(&mut at_b).await;
    assert_eq!((bad.source, &bad.data[..]), (a.handle.local(), &b"bad"[..]));
    bad.judge(Verdict::Reject);
    publish(&from_a, b"good").await;
    let good = next(&mut at_b).await;
    assert_eq!(good.data, b"good");
    good.judge(Verdict::Accept);
    let passed = next(&mut at_c).await;
    assert_eq!(
        (passed.source, &passed.data[..]),
        (b.handle.local(), &b"good"[..]),
        "the rejected one came first if at all"
    );
}

#[tokio::test]
async fn publishing_alone_or_too_much_says_so() {
    let (_a, (publisher, _received)) = start().await;
    assert_eq!(publisher.publish(b"x".to_vec()).await, Err(PublishError::NoPeers));
    assert_eq!(publisher.publish(vec![0; 70_000]).await, Err(PublishError::TooLarge));
}

#[test]
fn mesh_numbers_hold_their_relations_at_every_degree() {
    // `checked` asserts them.
    for peers in 0..1000 {
        let (root, all) = (Mesh::root_of(peers), Mesh::everybody(peers));
        assert!(root.n * root.n >= peers && (root.n - 1).pow(2) < peers.max(1), "{root:?} of {peers}");
        assert_eq!(all.high, peers.max(1));
        assert_eq!(Mesh::of_degree(peers).n, peers.max(1));
    }
    assert_eq!(Mesh::default().with_max_payload(usize::MAX).max_payload, crate::net::pubsub::MAX_PAYLOAD);
}

#[tokio::test]
async fn a_small_mesh_lives_through_heartbeats_and_who_listens_is_known() {
    // L4: numbers that gossipsub takes without looking and stumbles over later. Five nodes, so that there are more than the mesh wants.
    let mut nodes = Vec::new();
    for _ in 0..5 {
        nodes.push(node(Node::config(), |_, topics| topics.add("news/1", Mesh::of_degree(1))).await);
    }
    let (hub, (publisher, _received)) = &nodes[0];
    for (other, _) in &nodes[1..] {
        hub.handle.connect(other.addrs[0].clone()).await.unwrap();
    }
    let others: Vec<_> = nodes[1..].iter().map(|(n, _)| n.handle.local()).collect();
    until("all listen", || others.iter().all(|p| publisher.reaches(p))).await;
    assert!(!publisher.reaches(&hub.handle.local()));
    let gone = nodes.pop().unwrap();
    gone.0.stop.stop();
    let (hub, (publisher, _received)) = &nodes[0];
    until("the one that went is forgotten", || !publisher.reaches(&others[3])).await;
    // Three heartbeats: the overflow came with the first.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(hub.handle.peer_count(), 3, "the swarm task is alive");
    let (other, (_, _)) = &nodes[1];
    assert!(hub.handle.disconnect(other.handle.local()).await.is_ok(), "and answers");
}

#[tokio::test]
async fn a_topic_s_own_cap_is_below_everybody_s() {
    let cap = Mesh::default().with_max_payload(100);
    let (_a, (publisher, _received)) = node(Node::config(), |_, topics| topics.add("small/1", cap)).await;
    assert_eq!(publisher.publish(vec![0; 101]).await, Err(PublishError::TooLarge));
    assert_eq!(publisher.publish(vec![0; 100]).await, Err(PublishError::NoPeers));
}
