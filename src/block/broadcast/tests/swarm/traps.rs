//! Traps of gossip and what they do to blocks. The numbers are those of the design; the table is in `block/tests/defects.rs`.

use super::*;
use crate::{
    block::{
        Point,
        broadcast::wire::{Announcement, HASH_TOPIC, Notify, piece_response, read_get_request},
    },
    net::{
        raw::{Raw as RawGossip, frame},
        rpc::Protocols,
    },
    primitives::NetworkId,
};

async fn next<T>(queue: &mut mpsc::Receiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), queue.recv()).await.expect("in time").expect("open")
}

fn announcement(block: &Block, by: &PeerId) -> Vec<u8> {
    Announcement::of(block.header(), block.hash()).to_topic(by)
}

/// A peer that announces by hand, and is asked.
struct Announcing {
    node: Node,
    hashes: Publisher,
    _heard: mpsc::Receiver<Received>,
    asked: mpsc::Receiver<Inbound<Get>>,
}

impl Announcing {
    async fn at(member: &Member) -> Self {
        let wire = |p: &mut Protocols, t: &mut pubsub::Topics| {
            (t.add(HASH_TOPIC, Mesh::everybody(300).with_max_payload(512)), p.add::<Get>())
        };
        let (node, ((hashes, heard), (_, asked))) = node(Node::config(), wire).await;
        node.handle.connect(member.node.addrs[0].clone()).await.unwrap();
        let id = member.node.handle.local();
        until("the topic is shared", || hashes.reaches(&id)).await;
        Self { node, hashes, _heard: heard, asked }
    }

    async fn announce(&self, block: &Block) {
        self.hashes.publish(announcement(block, &self.node.handle.local())).await.unwrap();
    }
}

/// Answers as somebody who has the block, which is small.
fn serve(asked: Inbound<Get>, block: &Block) {
    let (hash, wanted) = read_get_request(&asked.request).unwrap();
    assert_eq!((hash, wanted), (block.hash(), Wanted::Block));
    let body = block.body().bytes();
    let pieces = crate::block::Pieces::of(body);
    asked.respond(broadcast::wire::block_response(block.header(), &pieces, || Some(body.clone())).unwrap().0);
}

#[test]
fn l4_the_block_topics_have_numbers_that_fit_together_whatever_is_configured() {
    let degrees = [0, 1, 2, 3, 5, 8, 64, 1000];
    let peers = [0, 1, 2, 3, 4, 7, 16, 50, 300, 100_000];
    for (degree, peers) in degrees.into_iter().flat_map(|d| peers.map(|p| (d, p))) {
        let settings = Settings { degree, peers, max_peers: peers, ..SETTINGS };
        let network = NetworkId::default();
        let (mut protocols, mut topics) = (Protocols::new(network.clone()), pubsub::Topics::new(network.clone()));
        let _ends = Ends::new(&settings, &mut protocols, &mut topics);
        let built = topics.built();
        assert_eq!(
            built.iter().map(|(t, _)| t).collect::<Vec<_>>(),
            [&network.name(NEW_TOPIC), &network.name(HASH_TOPIC)]
        );
        for (topic, mesh) in &built {
            let [n, low, high, outbound, payload] = mesh.numbers();
            assert!(outbound <= low && low <= n && n <= high && 2 * outbound <= n, "{topic}: {mesh:?}");
            assert!(payload <= MAX_NEW_BLOCK, "L10, L16: no frame is large");
        }
        let [wanted, ..] = built[0].1.numbers();
        assert!(degree == 0 || wanted == degree);
        assert!(degree > 0 || (wanted * wanted >= peers && (wanted - 1).pow(2) < peers.max(1)), "{wanted} of {peers}");
        assert_eq!(built[1].1.numbers()[0], peers.max(1), "L9: every neighbour hears it from whoever has it");
    }
}

#[tokio::test]
async fn l5_garbage_under_a_true_header_keeps_no_block_out() {
    let member = Member::start().await;
    let (liar, honest) = (Raw::at(&member).await, Raw::at(&member).await);
    let good = block(&kit::genesis(), 1000, 1);
    let other = block(&kit::genesis(), 1000, 2);
    let garbage = NewBlock::to_topic(good.header(), other.body().bytes());
    let true_one = topic(&good);
    assert_eq!(garbage.len(), true_one.len());
    liar.new.publish(garbage).await.unwrap();
    let id = liar.node.handle.local();
    until("it is rejected", || member.penalties.points(&id) > 40.0).await;
    assert!(matches!(member.chain.known(&good.hash()), Ok(Known::No)));
    honest.new.publish(true_one).await.unwrap();
    member.holds(good.hash()).await;
}

#[tokio::test]
async fn l8_a_block_made_while_alone_reaches_whoever_comes_later() {
    let (first, second) = (Member::start().await, Member::start().await);
    let mut parent = kit::genesis();
    for bytes in [100, 3 * PIECE_BYTES] {
        parent = block(&parent, bytes, 1);
        first.chain.import(parent.clone(), Origin::Local).await.unwrap();
        let published = first.metrics.published.clone();
        let already = u64::from(bytes > 100);
        until("it is published to nobody", || published.get() > already).await;
    }
    // The announcements that follow a publication within a moment go to nobody either.
    tokio::time::sleep(Duration::from_millis(600)).await;
    second.node.handle.connect(first.node.addrs[0].clone()).await.unwrap();
    // The head by NOTIFY, and its parent because it is missing.
    second.holds(parent.hash()).await;
    second.holds(parent.header().parent).await;
}

#[tokio::test]
async fn l9_everybody_who_announces_a_block_is_asked_until_one_has_it() {
    let member = Member::start().await;
    let block = block(&kit::genesis(), 1000, 1);
    let mut announcing = Vec::new();
    for _ in 0..4 {
        announcing.push(Announcing::at(&member).await);
    }
    futures::future::join_all(announcing.iter().map(|one| one.announce(&block))).await;
    // All but the last one refuse, whoever that is.
    let mut refused = Vec::new();
    for _ in 0..3 {
        let (asked, i) = first_asked(&mut announcing).await;
        assert!(!refused.contains(&i), "each is asked once");
        refused.push(i);
        asked.refuse(Status::NotFound);
    }
    let (asked, last) = first_asked(&mut announcing).await;
    assert!(!refused.contains(&last));
    serve(asked, &block);
    member.holds(block.hash()).await;
    until("each copy was one", || member.metrics.announcements.get() == 4).await;
}

/// Whoever is asked next.
async fn first_asked(announcing: &mut [Announcing]) -> (Inbound<Get>, usize) {
    let all = announcing.iter_mut().map(|a| Box::pin(next(&mut a.asked)));
    let (asked, i, _) = futures::future::select_all(all).await;
    (asked, i)
}

#[tokio::test]
async fn l9_an_announcement_is_not_passed_on() {
    let (member, beyond) = (Member::start().await, Member::start().await);
    beyond.node.handle.connect(member.node.addrs[0].clone()).await.unwrap();
    let mut one = Announcing::at(&member).await;
    let block = block(&kit::genesis(), 1000, 1);
    one.announce(&block).await;
    serve(next(&mut one.asked).await, &block);
    // It comes to the other one by an announcement of the member's own, and nothing else.
    beyond.holds(block.hash()).await;
    assert_eq!(beyond.metrics.announcements.get(), 1);
    assert_eq!(beyond.penalties.points(&member.node.handle.local()), 0.0, "an announcer is who it says");
}

#[tokio::test]
async fn l1_l14_a_peer_on_whose_connection_gossip_is_dead_is_told_of_blocks_by_request() {
    let member = Member::start().await;
    let wire = |p: &mut Protocols| (p.add::<Notify>(), p.add::<Get>());
    let (mut peer, ((_, mut notified), (get, _))) = RawGossip::dial(&member.node.addrs[0], wire);
    let network = NetworkId::default();
    let topics = [network.name(NEW_TOPIC), network.name(HASH_TOPIC)];
    // It listens to both topics, and then its streams are reset again and again: from then on nothing arrives, in either direction,
    // and nothing says so.
    let all: Vec<u8> = topics.iter().flat_map(|t| frame::subscribe(t)).collect();
    let mut dead = false;
    for _ in 0..8 {
        dead |= peer.open(all.clone()).await.is_none();
    }
    assert!(dead, "the trap is there");
    until("it is believed to listen", || member.reaches(&peer.id)).await;
    let block = block(&kit::genesis(), 3 * PIECE_BYTES, 1);
    member.chain.import(block.clone(), Origin::Local).await.unwrap();
    until("it is announced", || member.metrics.announced.get() == 1).await;
    assert!(notified.try_recv().is_err(), "nobody knows yet that it did not arrive");
    // By SHAKEHAND it tells a head that is one behind, as often as it does.
    let told = async {
        let mut round = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                told = notified.recv() => break told.unwrap(),
                _ = round.tick() => member.handle.head(peer.id, Point { height: 0, hash: kit::genesis().hash() }),
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.expect("told in time");
    assert_eq!(told.request.hash, block.hash().0.to_vec());
    let piece = get.request(member.node.handle.local(), get_request(block.hash(), Wanted::Piece(0))).await.unwrap();
    assert_eq!(piece, piece_response(block.body().bytes().slice(..PIECE_BYTES)));
}

#[test]
fn l3_l10_l11_l16_no_frame_of_gossip_is_large_whatever_the_body() {
    for bytes in [5, SMALL_BODY, SMALL_BODY + 1, PIECE_BYTES, 1 << 20, MAX_BODY_BYTES] {
        let frame = topic(&block(&kit::genesis(), bytes, 1));
        assert!(frame.len() <= MAX_NEW_BLOCK, "{bytes}: {}", frame.len());
    }
    // So that a thousand of them wait for one peer in a few megabytes, and one takes a slow link a tenth of a second.
    const { assert!(MAX_NEW_BLOCK <= 20 << 10) };
}
