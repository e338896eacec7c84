//! A real service between channels: peers that speak the protocols by hand, right and wrong.

mod flood;
mod judged;
mod peers;
mod retry;
mod shunned;

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    block::{
        Block, Body, MAX_BODY_BYTES, Origin, PIECE_BYTES, Pieces, Point,
        broadcast::{
            self, Ends, Metrics, Settings,
            wire::{
                Announcement, Get, NewBlock, Notify, NotifyAnswer, Wanted, block_response, get_request, piece_response,
                read_block, read_get_request, read_piece,
            },
        },
        chain::{Chain, DEFAULT_COMMIT_DEPTH, Known, Memory},
        kit::{self, Maker},
        penalty::Penalties,
        sync::{self, State},
        trace::{Code, Trace},
    },
    identity::Identity,
    net::{
        self,
        pubsub::{Publisher, Received, Verdict},
        rpc::{Client, Inbound, Loopback, RequestError},
    },
    primitives::{Hash, ManualClock, PeerId},
    runtime::Stop,
    test_util::until,
    wire::{Status, proto::block as pb},
};

/// A peer that is played by hand.
struct Peer {
    id: PeerId,
    get: Client<Get>,
    asked: mpsc::Receiver<Inbound<Get>>,
    notify: Client<Notify>,
    notified: mpsc::Receiver<Inbound<Notify>>,
}

struct Rig {
    local: PeerId,
    chain: Chain,
    handle: broadcast::Handle,
    /// The wall clock of the service and of its chain.
    clock: Arc<ManualClock>,
    control: net::Detached,
    new_in: mpsc::Sender<Received>,
    hash_in: mpsc::Sender<Received>,
    new_out: mpsc::UnboundedReceiver<Vec<u8>>,
    hash_out: mpsc::UnboundedReceiver<Vec<u8>>,
    gets: Loopback<Get>,
    notifies: Loopback<Notify>,
    sync: sync::Handle,
    state: watch::Sender<State>,
    claims: mpsc::Receiver<(PeerId, Point)>,
    penalties: Penalties,
    trace: Trace,
    metrics: Metrics,
    maker: Maker,
    _tasks: JoinSet<()>,
    _verdicts: mpsc::Receiver<crate::block::penalty::Verdict>,
}

impl Rig {
    fn start() -> Self {
        let clock = Arc::new(ManualClock::new(kit::NOW));
        let chain = kit::chain_with(kit::rules(DEFAULT_COMMIT_DEPTH), Arc::new(Memory::default()), clock.clone());
        Self::start_on(chain, clock)
    }

    fn start_on(chain: Chain, clock: Arc<ManualClock>) -> Self {
        let local = Identity::generate().address();
        let (net, control) = net::Handle::detached(local);
        let (gets, notifies) = (Loopback::<Get>::default(), Loopback::<Notify>::default());
        let (new, new_out) = Publisher::detached();
        let (hashes, hash_out) = Publisher::detached();
        let ((new_in, new_queue), (hash_in, hash_queue)) = (mpsc::channel(512), mpsc::channel(64));
        let ends = Ends {
            new: (new, new_queue),
            hashes: (hashes, hash_queue),
            notify: notifies.join(local),
            get: gets.join(local),
        };
        let (sync, state, claims) = sync::Handle::detached(State::Synced);
        let (penalties, verdicts) = Penalties::new();
        let (trace, metrics) = (Trace::default(), Metrics::default());
        let deps = broadcast::Deps {
            chain: chain.clone(),
            sync: sync.clone(),
            net,
            network: kit::network(),
            clock: clock.clone(),
            penalties: penalties.clone(),
            trace: trace.clone(),
            ends,
            metrics: metrics.clone(),
        };
        let settings = Settings { max_body_bytes: 2 * 1024 * 1024, degree: 0, peers: 50, max_peers: 300 };
        let (service, handle) = broadcast::new(settings, deps);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            service.run(Stop::new()).await.unwrap();
        });
        let maker = Maker::new(1);
        Self {
            local,
            chain,
            handle,
            clock,
            control,
            new_in,
            hash_in,
            new_out,
            hash_out,
            gets,
            notifies,
            sync,
            state,
            claims,
            penalties,
            trace,
            metrics,
            maker,
            _tasks: tasks,
            _verdicts: verdicts,
        }
    }

    fn peer(&self) -> Peer {
        let id = Identity::generate().address();
        let (get, asked) = self.gets.join(id);
        let (notify, notified) = self.notifies.join(id);
        self.control.up(id);
        Peer { id, get, asked, notify, notified }
    }

    /// A block of `bytes` bytes on `parent`.
    fn block(&self, parent: &Block, bytes: usize, salt: u64) -> Block {
        let body = super::body(bytes, salt);
        let header = self.maker.header(parent, 2000, &body);
        self.maker.sign(header, body)
    }

    /// Gossips; the verdict comes out.
    async fn gossip(&self, peer: &Peer, data: Vec<u8>) -> mpsc::Receiver<Verdict> {
        let (received, verdict) = Received::watched(peer.id, data);
        self.new_in.send(received).await.unwrap();
        verdict
    }

    async fn announce(&self, peer: &Peer, block: &Block) -> mpsc::Receiver<Verdict> {
        let (received, verdict) = Received::watched(peer.id, announcement(block).to_topic(&peer.id));
        self.hash_in.send(received).await.unwrap();
        verdict
    }

    /// Announces to the node alone; its answer comes out.
    async fn notify(&self, peer: &Peer, announcement: Announcement) -> NotifyAnswer {
        let answer = peer.notify.request(self.local, announcement.to_request()).await.unwrap();
        NotifyAnswer::from_response(&answer).unwrap()
    }

    async fn held(&self, block: &Block) {
        let (chain, hash) = (self.chain.clone(), block.hash());
        until("the block is held", || matches!(chain.known(&hash), Ok(Known::Held(_)))).await;
    }
}

fn announcement(block: &Block) -> Announcement {
    Announcement::of(block.header(), block.hash())
}

fn topic(block: &Block) -> Vec<u8> {
    NewBlock::to_topic(block.header(), block.body().bytes())
}

fn message(block: &Block) -> pb::NewBlock {
    pb::NewBlock::decode(&*topic(block)).unwrap()
}

fn answer(block: &Block) -> pb::GetResponse {
    let body = block.body().bytes();
    block_response(block.header(), &Pieces::of(body), || Some(body.clone())).unwrap().0
}

async fn next<T>(queue: &mut mpsc::Receiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), queue.recv()).await.expect("in time").expect("open")
}

async fn next_out(queue: &mut mpsc::UnboundedReceiver<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(Duration::from_secs(20), queue.recv()).await.expect("in time").expect("open")
}

/// Answers as somebody who has the block.
fn serve(asked: Inbound<Get>, block: &Block) {
    let (hash, wanted) = read_get_request(&asked.request).unwrap();
    assert_eq!(hash, block.hash());
    let body = block.body().bytes();
    match wanted {
        Wanted::Block => asked.respond(answer(block)),
        Wanted::Piece(i) => asked.respond(piece_response(body.slice(Pieces::of(body).range(i)))),
    }
}

async fn serve_all(mut asked: mpsc::Receiver<Inbound<Get>>, blocks: Vec<Block>) {
    while let Some(asked) = asked.recv().await {
        let (hash, _) = read_get_request(&asked.request).unwrap();
        match blocks.iter().find(|b| b.hash() == hash) {
            Some(block) => serve(asked, block),
            None => asked.refuse(Status::NotFound),
        }
    }
}

const LARGE: usize = 5 * PIECE_BYTES + 1000;

#[tokio::test]
async fn a_header_goes_on_before_its_body_and_the_body_as_it_comes() {
    let mut rig = Rig::start();
    let (mut source, asker) = (rig.peer(), rig.peer());
    let block = rig.block(&kit::genesis(), LARGE, 1);
    // Not heard of yet.
    let early = asker.get.request(rig.local, get_request(block.hash(), Wanted::Piece(0))).await;
    assert_eq!(early, Err(RequestError::Status(Status::NotFound)));
    let mut verdict = rig.gossip(&source, topic(&block)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    let asked: Vec<_> = [
        next(&mut source.asked).await,
        next(&mut source.asked).await,
        next(&mut source.asked).await,
        next(&mut source.asked).await,
        next(&mut source.asked).await,
        next(&mut source.asked).await,
    ]
    .into();
    // Somebody else asks for the header, and for the last piece, which is not here yet.
    let header = asker.get.request(rig.local, get_request(block.hash(), Wanted::Block)).await.unwrap();
    assert_eq!(read_block(&header, &block.hash(), MAX_BODY_BYTES).unwrap().header, *block.header());
    let request = get_request(block.hash(), Wanted::Piece(5));
    let (get, local) = (asker.get.clone(), rig.local);
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { get.request(local, request).await });
    let mut left = Vec::new();
    for asked in asked {
        match read_get_request(&asked.request).unwrap().1 {
            Wanted::Piece(5) => {
                assert!(waiting.try_join_next().is_none());
                serve(asked, &block);
                let piece =
                    tokio::time::timeout(Duration::from_secs(10), waiting.join_next()).await.unwrap().unwrap().unwrap();
                assert_eq!(read_piece(piece.unwrap()).unwrap(), block.body().bytes().slice(5 * PIECE_BYTES..));
            }
            _ => left.push(asked),
        }
    }
    assert_eq!(rig.chain.known(&block.hash()), Ok(Known::No), "five pieces are missing");
    left.into_iter().for_each(|asked| serve(asked, &block));
    rig.held(&block).await;
    // Nobody listens to the topic here: those who may lack it are told one by one, and not the one it came from, nor the one that
    // asked for it.
    let bystander = rig.peer();
    let child = rig.block(&block, 100, 2);
    let mut verdict = rig.gossip(&source, topic(&child)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    let mut bystander = bystander;
    let told = next(&mut bystander.notified).await;
    assert!([block.hash(), child.hash()].map(|h| h.0.to_vec()).contains(&told.request.hash.to_vec()));
    assert!(source.notified.try_recv().is_err());
    assert!(rig.hash_out.try_recv().is_err());
    assert_eq!(rig.metrics.received_bytes.get(), (LARGE + 100) as u64);
}

#[tokio::test]
async fn what_is_broken_is_rejected_and_the_next_block_is_taken() {
    let rig = Rig::start();
    let (liar, honest) = (rig.peer(), rig.peer());
    let genesis = kit::genesis();
    let good = rig.block(&genesis, 1000, 1);
    let other = rig.block(&genesis, 1000, 2);
    let (mut swapped, mut unsigned) = (message(&good), good.header().clone());
    swapped.body = other.body().bytes().clone();
    unsigned.signature[0] ^= 1;
    let mut zero = good.header().clone();
    zero.height = 0;
    let zero = Maker::new(2).sign(zero, good.body().clone());
    let large = rig.block(&genesis, 3 * 1024 * 1024, 3);
    let unsigned = {
        let mut m = message(&good);
        m.header = unsigned.encode().into();
        m
    };
    // N1: whatever comes, the next good block is taken. L2, L3: so with what is large.
    let broken: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 300],
        vec![0xff; 60_000],
        swapped.encode_to_vec(),
        unsigned.encode_to_vec(),
        topic(&zero),
        topic(&large),
        [topic(&good), vec![0x78, 1]].concat(),
        topic(&good)[..200].to_vec(),
    ];
    for (i, data) in broken.into_iter().enumerate() {
        // One peer each: two invalid blocks ban.
        let liar = if i == 0 { &liar } else { &rig.peer() };
        assert_eq!(next(&mut rig.gossip(liar, data).await).await, Verdict::Reject, "{i}");
        assert!(rig.penalties.points(&liar.id) > 40.0);
    }
    let mut verdict = rig.gossip(&honest, topic(&good)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    rig.held(&good).await;
    // N1: a known block published again, and an announcement of it.
    assert_eq!(next(&mut rig.gossip(&honest, topic(&good)).await).await, Verdict::Ignore);
    assert_eq!(next(&mut rig.announce(&honest, &good).await).await, Verdict::Ignore);
    let forged = announcement(&good).to_topic(&liar.id);
    let (received, mut verdict) = Received::watched(honest.id, forged);
    rig.hash_in.send(received).await.unwrap();
    assert_eq!(next(&mut verdict).await, Verdict::Reject, "announcements are made for oneself");
}

#[tokio::test]
async fn garbage_costs_one_try_and_an_announcer_helps_out() {
    let rig = Rig::start();
    let (mut liar, honest) = (rig.peer(), rig.peer());
    let block = rig.block(&kit::genesis(), LARGE, 1);
    assert_eq!(next(&mut rig.gossip(&liar, topic(&block)).await).await, Verdict::Accept);
    let asked = next(&mut liar.asked).await;
    let honest_id = honest.id;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(honest.asked, vec![block.clone()]));
    let (received, _verdict) = Received::watched(honest_id, announcement(&block).to_topic(&honest_id));
    rig.hash_in.send(received).await.unwrap();
    until("the announcement is heard", || rig.metrics.announcements.get() == 1).await;
    asked.respond(piece_response(vec![7; PIECE_BYTES].into()));
    rig.held(&block).await;
    assert!(rig.penalties.points(&liar.id) >= 19.0 && rig.penalties.points(&honest_id) < 1.0);
}

#[tokio::test]
async fn a_source_that_says_nothing_is_left() {
    let rig = Rig::start();
    let (mute, honest) = (rig.peer(), rig.peer());
    let block = rig.block(&kit::genesis(), LARGE, 1);
    assert_eq!(next(&mut rig.gossip(&mute, topic(&block)).await).await, Verdict::Accept);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(honest.asked, vec![block.clone()]));
    // Nobody announced it: a neighbour is asked all the same.
    rig.held(&block).await;
    drop(mute);
}

#[tokio::test]
async fn an_announced_block_is_asked_for_and_one_that_never_comes_is_given_up() {
    let rig = Rig::start();
    let (mut liar, mut honest) = (rig.peer(), rig.peer());
    let block = rig.block(&kit::genesis(), LARGE, 1);
    let phantom = rig.block(&kit::genesis(), 100, 2);
    assert_eq!(next(&mut rig.announce(&liar, &phantom).await).await, Verdict::Ignore);
    assert_eq!(next(&mut rig.announce(&honest, &block).await).await, Verdict::Ignore);
    let asked = next(&mut liar.asked).await;
    asked.refuse(Status::NotFound);
    until("it is blamed", || rig.penalties.points(&liar.id) > 4.0).await;
    // The block by its hash, then its pieces.
    for _ in 0..7 {
        serve(next(&mut honest.asked).await, &block);
    }
    rig.held(&block).await;
    // From here on time goes as fast as nothing else happens: for longer than anybody waits.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(rig.metrics.lost.get(), 1, "given up");
    assert!(liar.asked.try_recv().is_err(), "asked once");
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_is_refused() {
    // N8: only what was asked for is kept; the wrong block for a hash is held against its sender.
    let rig = Rig::start();
    let mut peer = rig.peer();
    let (block, other) = (rig.block(&kit::genesis(), 100, 1), rig.block(&kit::genesis(), 100, 2));
    rig.announce(&peer, &block).await;
    next(&mut peer.asked).await.respond(answer(&other));
    until("it is blamed", || rig.penalties.points(&peer.id) > 19.0).await;
    assert_eq!(rig.chain.known(&other.hash()), Ok(Known::No));
    assert_eq!(rig.chain.known(&block.hash()), Ok(Known::No));
}

#[tokio::test]
async fn a_child_that_overtakes_its_parent_waits_for_it() {
    let rig = Rig::start();
    let mut peer = rig.peer();
    let parent = rig.block(&kit::genesis(), LARGE, 1);
    let child = rig.block(&parent, 100, 2);
    assert_eq!(next(&mut rig.gossip(&peer, topic(&parent)).await).await, Verdict::Accept);
    let mut verdict = rig.gossip(&peer, topic(&child)).await;
    let first = next(&mut peer.asked).await;
    assert!(verdict.try_recv().is_err(), "its parent is on its way");
    serve(first, &parent);
    for _ in 0..5 {
        serve(next(&mut peer.asked).await, &parent);
    }
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    rig.held(&child).await;
}

#[tokio::test]
async fn an_orphan_s_ancestors_are_asked_of_its_sender() {
    let mut rig = Rig::start();
    let peer = rig.peer();
    let mut blocks = vec![rig.block(&kit::genesis(), 100, 1)];
    for salt in 2..6 {
        let next = rig.block(blocks.last().unwrap(), if salt == 3 { LARGE } else { 100 }, salt);
        blocks.push(next);
    }
    let tip = blocks.last().unwrap().clone();
    let mut verdict = rig.gossip(&peer, topic(&tip)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Ignore, "nobody is sent a branch from nowhere");
    let mut tasks = JoinSet::new();
    let id = peer.id;
    tasks.spawn(serve_all(peer.asked, blocks.clone()));
    rig.held(&tip).await;
    assert_eq!(next(&mut rig.claims).await.0, id, "sync hears of it");
}

#[tokio::test]
async fn far_ahead_is_sync_s_and_while_syncing_all_is() {
    let mut rig = Rig::start();
    let peer = rig.peer();
    let mut far = kit::genesis();
    for block in rig.maker.row(&kit::genesis(), 40, 0) {
        far = block;
    }
    assert_eq!(next(&mut rig.gossip(&peer, topic(&far)).await).await, Verdict::Ignore);
    assert_eq!(next(&mut rig.claims).await, (peer.id, Point { height: 40, hash: far.hash() }));
    // N7: so is nonsense; nothing is fetched.
    let absurd = Announcement { point: Point { height: 1 << 62, hash: Hash::of(b"x") }, body_bytes: 1 };
    let answer = peer.notify.request(rig.local, absurd.to_request()).await.unwrap();
    assert_eq!(NotifyAnswer::from_response(&answer), Ok(NotifyAnswer::Ignored));
    assert_eq!(next(&mut rig.claims).await.1, absurd.point);
    rig.state.send(State::Syncing).unwrap();
    let near = rig.block(&kit::genesis(), 100, 1);
    let answer = peer.notify.request(rig.local, announcement(&near).to_request()).await.unwrap();
    assert_eq!(NotifyAnswer::from_response(&answer), Ok(NotifyAnswer::Ignored));
    assert_eq!(next(&mut rig.claims).await.1.hash, near.hash());
    assert_eq!(rig.metrics.fetching.get(), 0);
    // A block on what is held is taken in every state.
    assert_eq!(next(&mut rig.gossip(&peer, topic(&near)).await).await, Verdict::Accept);
    rig.held(&near).await;
    // At the end the head is told, once.
    let mut bystander = rig.peer();
    rig.state.send(State::Synced).unwrap();
    assert_eq!(next(&mut bystander.notified).await.request.hash, near.hash().0.to_vec());
}

#[tokio::test]
async fn our_own_blocks_are_published_and_served() {
    let mut rig = Rig::start();
    let mut peer = rig.peer();
    let block = rig.block(&kit::genesis(), LARGE, 1);
    rig.chain.import(block.clone(), Origin::Local).await.unwrap();
    let new = NewBlock::from_topic(&next_out(&mut rig.new_out).await, MAX_BODY_BYTES).unwrap();
    assert_eq!(new.header, *block.header());
    assert_eq!(next(&mut peer.notified).await.request.hash, block.hash().0.to_vec());
    for i in 0..6 {
        let piece = peer.get.request(rig.local, get_request(block.hash(), Wanted::Piece(i))).await.unwrap();
        let body = block.body().bytes();
        assert_eq!(read_piece(piece).unwrap(), body.slice(Pieces::of(body).range(i)));
    }
}

#[tokio::test]
async fn seed_exchange_block_known_and_get_block() {
    let rig = Rig::start();
    let mut trace = rig.trace.listen();
    let mut peer = rig.peer();
    let block = rig.block(&kit::genesis(), 100, 1);
    let answer = peer.notify.request(rig.local, announcement(&block).to_request()).await.unwrap();
    assert_eq!(NotifyAnswer::from_response(&answer), Ok(NotifyAnswer::WillAsk));
    serve(next(&mut peer.asked).await, &block);
    rig.held(&block).await;
    let answer = peer.notify.request(rig.local, announcement(&block).to_request()).await.unwrap();
    assert_eq!(NotifyAnswer::from_response(&answer), Ok(NotifyAnswer::Known));
    let mut seen = Vec::new();
    while let Ok(exchange) = trace.try_recv() {
        seen.push((exchange.sent, exchange.code));
    }
    for expected in
        [(false, Code::NewBlockHash), (true, Code::GetBlock), (false, Code::NewBlock), (true, Code::BlockKnown)]
    {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    // One that lags is told what it lacks, once; the one that told us is not.
    let mut laggard = rig.peer();
    rig.handle.head(laggard.id, Point { height: 0, hash: kit::genesis().hash() });
    rig.handle.head(peer.id, Point { height: 0, hash: kit::genesis().hash() });
    rig.handle.head(laggard.id, Point { height: 0, hash: kit::genesis().hash() });
    let told = next(&mut laggard.notified).await;
    assert_eq!(told.request.hash, block.hash().0.to_vec());
    told.respond(NotifyAnswer::Known.to_response());
    until("all heads are heard", || rig.handle.is_idle()).await;
    assert!(laggard.notified.try_recv().is_err() && peer.notified.try_recv().is_err());
}

#[tokio::test]
async fn everybody_who_asks_gets_an_answer() {
    let rig = Rig::start();
    let peer = rig.peer();
    let mut blocks = vec![rig.block(&kit::genesis(), LARGE, 1)];
    for salt in 2..5 {
        let next = rig.block(blocks.last().unwrap(), 100, salt);
        blocks.push(next);
    }
    for block in &blocks {
        rig.chain.import(block.clone(), Origin::File).await.unwrap();
    }
    let ask = |request| peer.get.request(rig.local, request);
    for block in &blocks {
        let answer = ask(get_request(block.hash(), Wanted::Block)).await.unwrap();
        assert_eq!(read_block(&answer, &block.hash(), MAX_BODY_BYTES).unwrap().header, *block.header());
    }
    let status = |answer: Result<pb::GetResponse, RequestError>| match answer {
        Err(RequestError::Status(status)) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(ask(get_request(Hash::of(b"?"), Wanted::Block)).await), Status::NotFound);
    assert_eq!(status(ask(get_request(kit::genesis().hash(), Wanted::Block)).await), Status::NotFound);
    assert_eq!(status(ask(get_request(blocks[0].hash(), Wanted::Piece(6))).await), Status::Invalid);
    assert_eq!(status(ask(pb::GetRequest { hash: vec![1].into(), piece: 0 }).await), Status::Invalid);
    // GET amplification: a peer that asks without end is told to come back, others are not. It gets its share, and what comes back of it
    // while it asks.
    let (mut given, begun) = (0_u32, std::time::Instant::now());
    for _ in 0..200 {
        match ask(get_request(blocks[1].hash(), Wanted::Block)).await {
            Ok(_) => given += 1,
            refused => assert_eq!(status(refused), Status::Busy),
        }
    }
    let most = 129.0 + 12.8 * begun.elapsed().as_secs_f64();
    assert!(given >= 100 && f64::from(given) <= most, "{given}, and {most} at most");
    let other = rig.peer();
    assert!(other.get.request(rig.local, get_request(blocks[1].hash(), Wanted::Block)).await.is_ok());
}

#[tokio::test]
async fn a_body_that_is_none_is_never_fetched_again() {
    let rig = Rig::start();
    let peer = rig.peer();
    // Its root is right, and what it commits to is no list of transactions.
    let bytes = bytes::Bytes::from(vec![0xff; 1000]);
    let mut header = rig.block(&kit::genesis(), 100, 1).header().clone();
    (header.body_root, header.body_bytes, header.transactions) = (Hash::of(&bytes), 1000, 1);
    let signed = rig.maker.sign(header, Body::default());
    let data = NewBlock::to_topic(signed.header(), &bytes);
    assert_eq!(next(&mut rig.gossip(&peer, data.clone()).await).await, Verdict::Accept);
    until("it is found out", || rig.metrics.invalid.get() == 1).await;
    assert_eq!(next(&mut rig.gossip(&peer, data).await).await, Verdict::Ignore);
    let other = rig.peer();
    assert_eq!(rig.notify(&other, announcement(&signed)).await, NotifyAnswer::Ignored, "it will not be asked for");
    let good = rig.block(&kit::genesis(), 100, 2);
    assert_eq!(next(&mut rig.gossip(&peer, topic(&good)).await).await, Verdict::Accept);
    rig.held(&good).await;
}
