//! Request-response: answers, refusals, limits, dead peers, many at once.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    net::rpc::{Client, Inbound, RequestError, Wire},
    primitives::PeerId,
    test_util::{Node, node, until},
    wire::Status,
};

pub(super) struct Echo;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Text {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) body: Vec<u8>,
}

impl Wire for Echo {
    const NAME: &'static str = "test/echo/1";
    const MAX_REQUEST: usize = 4096;
    const MAX_RESPONSE: usize = 4096;
    const TIMEOUT: Duration = Duration::from_secs(2);
    const QUEUE: usize = 512;
    const CONCURRENCY: usize = 64;
    const RATE: u32 = 100_000;
    type Request = Text;
    type Response = Text;
}

type Asked = (Client<Echo>, mpsc::Receiver<Inbound<Echo>>);

async fn start() -> (Node, Asked) {
    node(Node::config(), |protocols, _| protocols.add::<Echo>()).await
}

/// Two nodes, the first knowing the second's addrs; the second echoes, or does what the text says.
async fn pair() -> (Node, Client<Echo>, Node, tokio::task::JoinHandle<()>) {
    let (a, (client, _)) = start().await;
    let (b, (_, mut inbound)) = start().await;
    a.book.set(b.handle.local(), b.addrs.clone());
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(asked) = inbound.recv().await {
            match &asked.request.body[..] {
                b"refuse" => asked.refuse(Status::Refused),
                b"drop" => drop(asked),
                b"hold" => held.push(asked),
                b"huge" => asked.respond(Text { body: vec![0; 10_000] }),
                body => {
                    let body = body.to_vec();
                    asked.respond(Text { body });
                }
            }
        }
    });
    (a, client, b, server)
}

pub(super) fn text(body: &[u8]) -> Text {
    Text { body: body.to_vec() }
}

#[tokio::test]
async fn a_request_dials_and_is_answered() {
    let (_a, client, b, _server) = pair().await;
    let peer = b.handle.local();
    assert_eq!(client.request(peer, text(b"hello")).await.unwrap().body, b"hello");
    assert_eq!(client.request(peer, text(b"again")).await.unwrap().body, b"again");
}

#[tokio::test]
async fn every_way_to_refuse_is_an_answer_of_its_own() {
    let (_a, client, b, _server) = pair().await;
    let peer = b.handle.local();
    let ask = |body: &'static [u8]| client.request(peer, text(body));
    assert_eq!(ask(b"refuse").await, Err(RequestError::Status(Status::Refused)));
    assert_eq!(ask(b"drop").await, Err(RequestError::Status(Status::Busy)));
    assert_eq!(ask(b"huge").await, Err(RequestError::Status(Status::Failed)));
    let large = client.request(peer, Text { body: vec![0; 5000] }).await;
    assert!(matches!(large, Err(RequestError::TooLarge { limit: 4096, .. })), "{large:?}");
    let held = ask(b"hold").await;
    assert!(matches!(held, Err(RequestError::Timeout | RequestError::Status(Status::Busy))), "{held:?}");
    assert_eq!(ask(b"still served").await.unwrap().body, b"still served");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let (a, (client, _)) = start().await;
    let unknown = client.request(PeerId::random(), text(b"x")).await;
    assert!(matches!(unknown, Err(RequestError::Unreachable(_))), "{unknown:?}");
    let dead = crate::identity::Identity::generate().address();
    a.book.set(dead, vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()]);
    let refused = client.request(dead, text(b"x")).await;
    assert!(matches!(refused, Err(RequestError::Unreachable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_peer_without_the_protocol_says_so() {
    let (a, (client, _)) = start().await;
    let (b, ()) = node(Node::config(), |_, _| ()).await;
    a.book.set(b.handle.local(), b.addrs.clone());
    let answer = client.request(b.handle.local(), text(b"x")).await;
    assert_eq!(answer, Err(RequestError::Unsupported));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_at_once_are_all_answered() {
    let (_a, client, b, _server) = pair().await;
    let peer = b.handle.local();
    let asks = (0..300u32).map(|i| {
        let client = client.clone();
        async move { (i, client.request(peer, Text { body: i.to_be_bytes().to_vec() }).await) }
    });
    for (i, answer) in futures::future::join_all(asks).await {
        assert_eq!(answer.unwrap().body, i.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_peers_ask_one_at_the_same_moment() {
    let (b, (_, mut inbound)) = start().await;
    let server = tokio::spawn(async move {
        while let Some(asked) = inbound.recv().await {
            let body = asked.request.body.clone();
            asked.respond(Text { body });
        }
    });
    let mut nodes = Vec::new();
    for _ in 0..40 {
        let (a, (client, _)) = start().await;
        a.book.set(b.handle.local(), b.addrs.clone());
        nodes.push((a, client));
    }
    let peer = b.handle.local();
    let asks = nodes.iter().map(|(_, client)| client.request(peer, text(b"now")));
    for answer in futures::future::join_all(asks).await {
        assert_eq!(answer.unwrap().body, b"now");
    }
    server.abort();
}

#[tokio::test]
async fn a_peer_that_stops_is_noticed_and_its_streams_are_not_reused() {
    let (a, client, mut b, _server) = pair().await;
    let peer = b.handle.local();
    client.request(peer, text(b"first")).await.unwrap();
    b.stop.stop();
    assert!(b.tasks.join(Duration::from_secs(5)).await.is_empty());
    until("the peer is down", || !a.handle.is_connected(&peer)).await;
    let answer = client.request(peer, text(b"second")).await;
    assert!(matches!(answer, Err(RequestError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_banned_peer_is_cut_and_comes_back_when_the_ban_is_lifted() {
    let (a, client, b, _server) = pair().await;
    let peer = b.handle.local();
    client.request(peer, text(b"x")).await.unwrap();
    a.handle.ban(peer).await.unwrap();
    until("cut", || !a.handle.is_connected(&peer)).await;
    assert!(client.request(peer, text(b"x")).await.is_err());
    assert_eq!(a.handle.bans(), [peer]);
    a.handle.unban(peer).await.unwrap();
    assert_eq!(client.request(peer, text(b"back")).await.unwrap().body, b"back");
}
