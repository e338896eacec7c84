//! Real swarms on loopback: near the limits, over them, and in a row. Traps of gossip that a block may fall into are in `traps.rs`.

mod traps;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    block::{
        Block, MAX_BODY_BYTES, Origin, PIECE_BYTES,
        broadcast::{
            self, Ends, Metrics, Settings,
            wire::{Get, MAX_NEW_BLOCK, NEW_TOPIC, NewBlock, SMALL_BODY, Wanted, get_request},
        },
        chain::{Chain, Known},
        kit::{self, Maker},
        penalty::Penalties,
        sync::{self, State},
        trace::Trace,
    },
    net::{
        pubsub::{self, Mesh, Publisher, Received},
        rpc::{Client, Inbound, RequestError, Wire},
    },
    primitives::{Hash, ManualClock, PeerId, UnixMillis},
    test_util::{Node, node, until},
    wire::{Status, proto::block as pb},
};

const SETTINGS: Settings = Settings { max_body_bytes: MAX_BODY_BYTES, degree: 0, peers: 16, max_peers: 300 };

struct Member {
    node: Node,
    chain: Chain,
    penalties: Penalties,
    handle: broadcast::Handle,
    metrics: Metrics,
    hashes: Publisher,
    _keep: (watch::Sender<State>, mpsc::Receiver<crate::block::penalty::Verdict>),
}

impl Member {
    async fn start() -> Self {
        let (mut node, ends) = node(Node::config(), |p, t| Ends::new(&SETTINGS, p, t)).await;
        let (sync, state, _claims) = sync::Handle::detached(State::Synced);
        let ((penalties, verdicts), chain, metrics) = (Penalties::new(), kit::chain(), Metrics::default());
        let hashes = ends.hashes.0.clone();
        let deps = broadcast::Deps {
            chain: chain.clone(),
            sync,
            net: node.handle.clone(),
            network: kit::network(),
            // Soon after the genesis block, so that the first blocks on it are news.
            clock: Arc::new(ManualClock::new(UnixMillis(kit::genesis().header().time.0 + 5000))),
            penalties: penalties.clone(),
            trace: Trace::default(),
            ends,
            metrics: metrics.clone(),
        };
        let (service, handle) = broadcast::new(SETTINGS, deps);
        node.tasks.spawn("broadcast", |stop| service.run(stop));
        Self { node, chain, penalties, handle, metrics, hashes, _keep: (state, verdicts) }
    }

    async fn holds(&self, hash: Hash) {
        until("the block is held", || matches!(self.chain.known(&hash), Ok(Known::Held(_)))).await;
    }

    /// Whether announcements on the topic are believed to reach a peer.
    fn reaches(&self, peer: &PeerId) -> bool {
        self.hashes.reaches(peer)
    }
}

fn block(parent: &Block, bytes: usize, salt: u64) -> Block {
    let (maker, body) = (Maker::new(1), super::body(bytes, salt));
    let header = maker.header(parent, 2000, &body);
    maker.sign(header, body)
}

fn topic(block: &Block) -> Vec<u8> {
    NewBlock::to_topic(block.header(), block.body().bytes())
}

/// `block/get/1` spoken by somebody who knows no limits.
struct Unlimited;

impl Wire for Unlimited {
    const NAME: &'static str = Get::NAME;
    const MAX_REQUEST: usize = 1 << 20;
    const MAX_RESPONSE: usize = 1 << 23;
    type Request = pb::GetRequest;
    type Response = pb::GetResponse;
}

/// `block/get/1` spoken by somebody who means something else.
struct Confused;

impl Wire for Confused {
    const NAME: &'static str = Get::NAME;
    const MAX_REQUEST: usize = 1 << 20;
    const MAX_RESPONSE: usize = 1 << 20;
    type Request = pb::NewBlock;
    type Response = pb::GetResponse;
}

struct Raw {
    node: Node,
    new: Publisher,
    _heard: mpsc::Receiver<Received>,
    get: Client<Unlimited>,
    asked: mpsc::Receiver<Inbound<Unlimited>>,
}

impl Raw {
    async fn at(member: &Member) -> Self {
        let wire = |p: &mut crate::net::rpc::Protocols, t: &mut pubsub::Topics| {
            (t.add(NEW_TOPIC, Mesh::default()), p.add::<Unlimited>())
        };
        let (node, ((new, heard), (get, asked))) = node(Node::config(), wire).await;
        node.handle.connect(member.node.addrs[0].clone()).await.unwrap();
        let id = member.node.handle.local();
        until("the topic is shared", || new.reaches(&id)).await;
        Self { node, new, _heard: heard, get, asked }
    }
}

#[tokio::test]
async fn large_blocks_in_a_row_go_down_a_line_of_nodes() {
    // L1, L2, L3, L16: no frame of gossip is large, whatever the bodies are.
    let line = [Member::start().await, Member::start().await, Member::start().await];
    for pair in line.windows(2) {
        pair[0].node.handle.connect(pair[1].node.addrs[0].clone()).await.unwrap();
    }
    until("all are connected", || line[1].node.handle.peer_count() == 2).await;
    let mut parent = kit::genesis();
    let sizes = [100, SMALL_BODY, SMALL_BODY + 1, PIECE_BYTES, PIECE_BYTES + 1, MAX_BODY_BYTES, 5, MAX_BODY_BYTES];
    let mut all = Vec::new();
    for (salt, bytes) in sizes.into_iter().enumerate() {
        parent = block(&parent, bytes, salt as u64);
        all.push(parent.hash());
        line[0].chain.import(parent.clone(), Origin::Local).await.unwrap();
    }
    for hash in all {
        line[2].holds(hash).await;
    }
    for member in &line {
        for other in &line {
            // On a busy machine a piece of a block that was announced may be late; what is nobody's accident costs more.
            assert!(member.penalties.points(&other.node.handle.local()) < 5.0);
        }
    }
}

#[tokio::test]
async fn an_oversized_frame_and_a_broken_block_leave_the_link_alive() {
    let member = Member::start().await;
    let raw = Raw::at(&member).await;
    // Over the topic's size: the library drops it. As large as can be, and rubbish: rejected.
    raw.new.publish(vec![7; pubsub::MAX_PAYLOAD]).await.unwrap();
    raw.new.publish(vec![7; MAX_NEW_BLOCK]).await.unwrap();
    let id = raw.node.handle.local();
    until("the second is rejected", || member.penalties.points(&id) > 40.0).await;
    let mut parent = kit::genesis();
    for salt in 0..3 {
        parent = block(&parent, SMALL_BODY, salt);
        let data = topic(&parent);
        assert!(data.len() <= MAX_NEW_BLOCK);
        raw.new.publish(data).await.unwrap();
        member.holds(parent.hash()).await;
    }
}

#[tokio::test]
async fn requests_that_are_none_are_answered_or_cut_and_good_ones_served() {
    let member = Member::start().await;
    let good = block(&kit::genesis(), 1000, 1);
    member.chain.import(good.clone(), Origin::File).await.unwrap();
    let raw = Raw::at(&member).await;
    let id = member.node.handle.local();
    let lie = |hash: Vec<u8>| pb::GetRequest { hash: hash.into(), piece: 0 };
    // Oversized: the stream is closed before anything is read.
    assert_eq!(raw.get.request(id, lie(vec![0; 10_000])).await, Err(RequestError::ConnectionLost));
    for hash in [Vec::new(), vec![1; 31], vec![1; 33]] {
        assert_eq!(raw.get.request(id, lie(hash)).await, Err(RequestError::Status(Status::Invalid)));
    }
    // A field of another type is no request at all.
    let (confused, (noise, _)) = node(Node::config(), |p, _| p.add::<Confused>()).await;
    confused.handle.connect(member.node.addrs[0].clone()).await.unwrap();
    let request = pb::NewBlock { header: vec![1; 20].into(), body: vec![0xff; 4].into(), nodes: vec![1].into() };
    assert_eq!(noise.request(id, request).await, Err(RequestError::Status(Status::Invalid)));
    let (asker, (get, _)) = node(Node::config(), |p, _| p.add::<Get>()).await;
    asker.handle.connect(member.node.addrs[0].clone()).await.unwrap();
    assert!(get.request(id, get_request(good.hash(), Wanted::Block)).await.is_ok());
}

#[tokio::test]
async fn an_oversized_answer_is_refused_and_somebody_else_is_asked() {
    let (member, helper) = (Member::start().await, Member::start().await);
    let mut raw = Raw::at(&member).await;
    let large = block(&kit::genesis(), 3 * PIECE_BYTES, 1);
    raw.new.publish(topic(&large)).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(20), raw.asked.recv()).await.unwrap().unwrap();
    let what = pb::get_response::What::Piece(vec![7; 4 << 20].into());
    asked.respond(pb::GetResponse { what: Some(what) });
    let id = raw.node.handle.local();
    until("it is blamed", || member.penalties.points(&id) > 19.0).await;
    helper.node.handle.connect(member.node.addrs[0].clone()).await.unwrap();
    helper.chain.import(large.clone(), Origin::Local).await.unwrap();
    member.holds(large.hash()).await;
}
