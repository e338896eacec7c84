//! Order between whole nodes: large and small messages, a recipient that goes away, numbers that never come.

use std::time::{Duration, Instant};

use vos::{
    message::{Body, Draft, Received, SendState},
    primitives::{MessageId, PeerId},
    test_util::{Member, config, until},
};

const WAIT: Duration = Duration::from_secs(30);
/// Far below what a recipient waits when nobody says anything.
const SOON: Duration = Duration::from_secs(8);

async fn send(from: &Member, to: PeerId, body: Vec<u8>) -> MessageId {
    let draft = Draft { to, body: Body::Bytes(body), file_name: String::new(), ttl: None };
    from.node.message.send(draft).await.unwrap().id
}

async fn delivered(from: &Member, id: MessageId) {
    let end = from.node.message.wait(id, SendState::Delivered, WAIT).await.unwrap().expect("in time");
    assert_eq!(end.state, SendState::Delivered, "{}", end.last_error);
}

/// Oldest first.
async fn inbox(node: &Member) -> Vec<Received> {
    let mut inbox = node.node.message.inbox(1000).await.unwrap();
    inbox.reverse();
    inbox
}

async fn shows(node: &Member, count: usize) -> Vec<Received> {
    let start = Instant::now();
    loop {
        let shown = inbox(node).await;
        if shown.len() >= count {
            return shown;
        }
        assert!(start.elapsed() < WAIT, "{} of {count} messages are shown", shown.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_shown_in_the_order_they_were_accepted_in_and_a_hole_does_not_hold_them_up() {
    let _turn = super::beside_others().await;
    let a = Member::start("a", config(&[])).await;
    let b = Member::start("b", config(&[a.multiaddr()])).await;
    let to = b.address();
    until("they know each other", || a.node.map.get(&to).is_some() && b.node.map.get(&a.address()).is_some()).await;
    // Every tenth is of several parts and slower than those behind it.
    let mut ids = Vec::new();
    for n in 0..60_usize {
        ids.push(send(&a, to, vec![1; if n % 10 == 0 { 3_000_000 } else { n }]).await);
    }
    for id in &ids {
        delivered(&a, *id).await;
    }
    let shown = shows(&b, 60).await;
    assert_eq!(shown.iter().map(|m| m.id).collect::<Vec<_>>(), ids);
    assert!(shown.iter().all(|m| m.missing == 0 && !m.late));
    // The recipient is away, two of five are cancelled meanwhile.
    let dir = b.stop().await;
    let mut more = Vec::new();
    for n in 0..5_u8 {
        more.push(send(&a, to, vec![n; 10]).await);
    }
    for cancelled in [1, 2] {
        a.node.message.cancel(more[cancelled]).await.unwrap();
    }
    let b = Member::start_in(dir, "b", config(&[a.multiaddr()])).await;
    delivered(&a, more[4]).await;
    let start = Instant::now();
    let shown = shows(&b, 63).await;
    assert!(start.elapsed() < SOON, "its sender says at once that they never come: {:?}", start.elapsed());
    let marks: Vec<_> = shown[60..].iter().map(|m| (m.id, m.missing, m.late)).collect();
    assert_eq!(marks, [(more[0], 0, false), (more[3], 2, false), (more[4], 0, false)]);
    b.stop().await;
    a.stop().await;
}
