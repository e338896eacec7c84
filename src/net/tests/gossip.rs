//! Gossip: what one publishes the others judge, and only what is accepted travels on.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    net::pubsub::{PublishError, Publisher, Received, Verdict},
    test_util::{Node, node, until},
};

async fn start() -> (Node, (Publisher, mpsc::Receiver<Received>)) {
    node(Node::config(), |_, topics| topics.add("news/1")).await
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
