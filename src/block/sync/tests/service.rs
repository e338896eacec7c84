//! The real service over loopback protocols and real chains, and peers that speak the protocols by hand.

mod behind;
mod wrong;

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use super::stored;
use crate::{
    block::{
        Block, Origin, Point, VerifiedHeader,
        chain::{self, Chain, ChainStore, Memory, Rocks, Rules},
        kit::{self, Maker, NOW},
        penalty::{Offence, Penalties, Verdict},
        purpose,
        sync::{
            self, Deps, Handle, Metrics, Settings, State,
            wire::{
                Greeting, Headers, Ladder, Pull, Push, SOFT_BYTES, Shakehand, Span, headers_request, pull_request,
                push_response, read_headers_response, read_pull_request, read_push_response,
            },
        },
        trace::{Code, Trace},
    },
    net::{
        self, Detached,
        rpc::{Inbound, Loopback, RequestError},
    },
    primitives::{Hash, ManualClock, PeerId},
    runtime::Stop,
    store::Store,
    test_util::until,
    wire::{Status, proto::block_sync as pb},
};

#[derive(Default)]
struct Boards {
    shakehand: Loopback<Shakehand>,
    pull: Loopback<Pull>,
    headers: Loopback<Headers>,
}

struct Node {
    id: PeerId,
    chain: Chain,
    handle: Handle,
    net: Detached,
    penalties: Penalties,
    verdicts: mpsc::Receiver<Verdict>,
    trace: Trace,
    stop: Stop,
    tasks: JoinSet<()>,
}

fn settings() -> Settings {
    Settings {
        depth: chain::DEFAULT_COMMIT_DEPTH,
        max_body_bytes: 1 << 20,
        interval: Duration::from_secs(2),
        solitary: false,
    }
}

fn start(boards: &Boards, rules: Rules) -> Node {
    start_on(boards, rules, Arc::new(Memory::default()))
}

fn start_on(boards: &Boards, rules: Rules, store: Arc<dyn ChainStore>) -> Node {
    let clock = Arc::new(ManualClock::new(NOW));
    let chain = kit::chain_with(rules, store, clock.clone());
    let id = PeerId::random();
    let (handle_net, net) = net::Handle::detached(id);
    let (penalties, verdicts) = Penalties::new();
    let trace = Trace::default();
    let deps = Deps {
        chain: chain.clone(),
        net: handle_net,
        network: kit::network(),
        clock,
        penalties: penalties.clone(),
        trace: trace.clone(),
        shakehand: boards.shakehand.join(id),
        pull: boards.pull.join(id),
        headers: boards.headers.join(id),
    };
    let (service, handle) = sync::new(settings(), deps, Metrics::default());
    let (stop, mut tasks) = (Stop::new(), JoinSet::new());
    let signal = stop.clone();
    tasks.spawn(async move { service.run(signal).await.unwrap() });
    Node { id, chain, handle, net, penalties, verdicts, trace, stop, tasks }
}

/// A node that holds these blocks.
async fn start_with(boards: &Boards, blocks: &[Block]) -> Node {
    let node = start(boards, kit::rules(chain::DEFAULT_COMMIT_DEPTH));
    let outcome = node.chain.import_segment(blocks.to_vec(), Origin::File).await.unwrap();
    assert_eq!(outcome.held, blocks.len());
    node
}

impl Node {
    fn meets(&self, other: PeerId) {
        self.net.up(other);
    }

    fn state(&self) -> State {
        *self.handle.state().borrow()
    }

    async fn reaches(&self, height: u64) {
        until("the chain is here", || self.chain.status().head.height >= height && self.state() == State::Synced).await;
    }

    async fn stop(mut self) {
        self.stop.stop();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn both_meet(a: &Node, b: &Node) {
    a.meets(b.id);
    b.meets(a.id);
}

/// A peer whose other side is played by hand.
struct Raw {
    id: PeerId,
    shakehands: mpsc::Receiver<Inbound<Shakehand>>,
    pulls: mpsc::Receiver<Inbound<Pull>>,
    headers: mpsc::Receiver<Inbound<Headers>>,
    ask: net::rpc::Client<Pull>,
    ask_headers: net::rpc::Client<Headers>,
    greet: net::rpc::Client<Shakehand>,
}

impl Raw {
    fn join(boards: &Boards) -> Self {
        let id = PeerId::random();
        let (greet, shakehands) = boards.shakehand.join(id);
        let (ask, pulls) = boards.pull.join(id);
        let (ask_headers, headers) = boards.headers.join(id);
        Self { id, shakehands, pulls, headers, ask, ask_headers, greet }
    }

    fn greeting(&self, head: Point) -> Greeting {
        Greeting {
            genesis: kit::genesis().hash(),
            timestamp: NOW,
            committed: Point { height: 0, hash: kit::genesis().hash() },
            head,
            earliest: 1,
            address: self.id,
        }
    }

    /// Claims `head` for ever, and answers pulls as told; headers are refused.
    fn play(self, tasks: &mut JoinSet<()>, head: Point, pulls: impl FnMut(Inbound<Pull>) + Send + 'static) {
        let said = self.greeting(head).to_wire();
        self.play_all(tasks, said, pulls, |asked| asked.refuse(Status::Failed));
    }

    /// Claims `head` for ever, and keeps every pull without a word: to drop it would say that the peer is busy.
    fn keep_silent(self, tasks: &mut JoinSet<()>, head: Point) {
        let mut kept = Vec::new();
        self.play(tasks, head, move |asked| kept.push(asked));
    }

    /// Answers every SHAKEHAND with `said`, and everything else as told.
    fn play_all(
        mut self,
        tasks: &mut JoinSet<()>,
        said: pb::Shakehand,
        mut pulls: impl FnMut(Inbound<Pull>) + Send + 'static,
        mut headers: impl FnMut(Inbound<Headers>) + Send + 'static,
    ) {
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    Some(asked) = self.shakehands.recv() => asked.respond(said.clone()),
                    Some(asked) = self.pulls.recv() => pulls(asked),
                    Some(asked) = self.headers.recv() => headers(asked),
                    else => return,
                }
            }
        });
    }

    /// Asks for everything that may be asked for, and gets it: of a node that holds `row`, thirty blocks.
    async fn is_served_by(&self, node: &Node, row: &[Block]) {
        let (state, span) = (node.state(), Span { start: 1, count: 30 });
        let answer = self.ask.request(node.id, pull_request(span, SOFT_BYTES)).await.unwrap();
        let Some(Push::Blocks(blocks)) = read_push_response(answer, span) else { panic!("N11: none in {state:?}") };
        assert_eq!(blocks.len(), 30, "N11: {state:?}");
        let ladder = Ladder { start: 1, count: 30, stride: 1 };
        let answer = self.ask_headers.request(node.id, headers_request(ladder)).await.unwrap();
        let expected: Vec<_> = row.iter().map(|block| stored(block).header).collect();
        assert_eq!(read_headers_response(answer, 30), Some(expected), "N11: {state:?}");
        let said = self.greeting(Point { height: 0, hash: kit::genesis().hash() }).to_wire();
        let theirs = Greeting::read(&self.greet.request(node.id, said).await.unwrap(), node.id);
        assert_eq!(theirs.map(|theirs| theirs.head), Some(head_of(row)), "N11: {state:?}");
    }
}

fn head_of(chain: &[Block]) -> Point {
    let last = chain.last().unwrap();
    Point { height: last.header().height, hash: last.hash() }
}

/// The honest answer of who has `chain` from height 1.
fn serve(chain: &[Block], asked: Inbound<Pull>) {
    let (span, _) = read_pull_request(&asked.request).unwrap();
    let blocks = chain.iter().skip(span.start as usize - 1).take(span.count as usize).map(stored).collect();
    asked.respond_encoded(push_response(&Push::Blocks(blocks), span.count));
}

#[tokio::test]
async fn a_new_node_syncs_follows_and_shows_its_progress() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 700, 100);
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(start_with(&boards, &row[..690]).await);
    }
    let new = start_with(&boards, &[]).await;
    let mut exchanges = new.trace.listen();
    assert_eq!(new.state(), State::NoPeers);
    old.iter().for_each(|o| both_meet(o, &new));
    new.reaches(690).await;
    let progress = new.handle.progress().borrow().clone();
    assert!(progress.blocks >= 690 && progress.bytes > 690 * 250, "{progress:?}");
    until("the progress is shown", || new.handle.progress().borrow().height == 690).await;
    // One clock for all; what a request takes is not even on both ways.
    assert!(new.handle.progress().borrow().clock_offset_ms.is_some_and(|ms| ms.abs() < 1000));
    // Three are ahead now, by less than the commit depth: broadcast does not bring it, so sync does.
    for node in &old {
        node.chain.import_segment(row[690..].to_vec(), Origin::File).await.unwrap();
    }
    new.reaches(700).await;
    let mut codes = Vec::new();
    while let Ok(exchange) = exchanges.try_recv() {
        codes.push(exchange.code);
    }
    assert!([Code::Shakehand, Code::PullBlock, Code::PushBlock].iter().all(|c| codes.contains(c)));
    old.push(new);
    for (a, b) in old.iter().flat_map(|a| old.iter().map(move |b| (a, b))) {
        assert!(a.penalties.points(&b.id) < 1.0, "nobody did anything wrong");
    }
    for node in old {
        node.stop().await;
    }
}

#[tokio::test]
async fn blocks_are_pulled_from_packs_and_from_where_others_are() {
    let boards = Boards::default();
    let dir = tempfile::tempdir().unwrap();
    let rocks = Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap().packing_from(100_000));
    let maker = Maker::new(1);
    let (packed, more) = (maker.row(&kit::genesis(), 200, 1000), 300);
    let old = start_on(&boards, kit::rules(chain::DEFAULT_COMMIT_DEPTH), rocks);
    for part in packed.chunks(150) {
        old.chain.import_segment(part.to_vec(), Origin::File).await.unwrap();
    }
    let alone = maker.row(&packed[199], more, 10);
    old.chain.import_segment(alone.clone(), Origin::File).await.unwrap();
    assert_eq!(old.chain.stretch(140, 100, usize::MAX).unwrap().map(|s| s.count), Some(11), "a pack ends there");
    let asking = Raw::join(&boards);
    for (start, count) in [(1, 128), (140, 128), (151, 20), (190, 128), (450, 128)] {
        let span = Span { start, count };
        let answer = asking.ask.request(old.id, pull_request(span, SOFT_BYTES)).await.unwrap();
        let Some(Push::Blocks(blocks)) = read_push_response(answer, span) else { panic!("no blocks from {start}") };
        for (height, block) in (start..).zip(&blocks) {
            let expected = packed.iter().chain(&alone).nth(usize::try_from(height).unwrap() - 1).unwrap();
            assert_eq!((&block.header[..], &block.body), (&expected.header().encode()[..], expected.body().bytes()));
        }
        // One that ends where the packs do is short, and what follows is asked for.
        let expected = if start == 140 { 11 } else { count.min(u32::try_from(501 - start).unwrap()) };
        assert_eq!(blocks.len(), expected as usize, "from {start}");
    }
    let mut exchanges = old.trace.listen();
    let new = start_with(&boards, &[]).await;
    both_meet(&old, &new);
    new.reaches(500).await;
    let mut pushed = 0;
    while let Ok(exchange) = exchanges.try_recv() {
        pushed += usize::from(exchange.code == Code::PushBlock && exchange.data["block_header"]["height"].is_u64());
    }
    assert!(pushed >= 500, "each is told to who listens: {pushed}");
    for node in [old, new] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_claim_by_announcement_starts_a_pull() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 60, 0);
    let (a, b) = (start_with(&boards, &row[..20]).await, start_with(&boards, &row[..20]).await);
    both_meet(&a, &b);
    until("both know each other", || a.state() == State::Synced && b.state() == State::Synced).await;
    b.chain.import_segment(row.clone(), Origin::File).await.unwrap();
    a.handle.claim(b.id, head_of(&row));
    a.handle.claim(PeerId::random(), Point { height: 1 << 60, hash: row[0].hash() });
    a.reaches(60).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn another_genesis_is_refused_and_not_asked() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 30, 0);
    let mut rules = kit::rules(12);
    rules.genesis = crate::block::Genesis { time: NOW, extra: "another".into() }.block();
    let (ours, theirs) = (start_with(&boards, &row).await, start(&boards, rules));
    both_meet(&ours, &theirs);
    until("both know", || ours.handle.is_foreign(&theirs.id) && theirs.handle.is_foreign(&ours.id)).await;
    assert_eq!((ours.state(), theirs.state()), (State::NoPeers, State::NoPeers));
    assert_eq!(theirs.chain.status().head.height, 0);
    let raw = Raw::join(&boards);
    let mut greeting = raw.greeting(head_of(&row));
    greeting.genesis = theirs.chain.status().genesis;
    let answer = raw.greet.request(ours.id, greeting.to_wire()).await;
    assert_eq!(answer.unwrap_err(), RequestError::Status(Status::Refused));
    let span = Span { start: 1, count: 5 };
    assert!(raw.ask.request(ours.id, pull_request(span, SOFT_BYTES)).await.is_ok(), "nobody knows it");
    ours.net.up(raw.id);
    let known = async {
        while !ours.handle.is_foreign(&raw.id) {
            let _ = raw.greet.request(ours.id, greeting.to_wire()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("it is foreign while it is connected");
    assert_eq!(
        raw.ask.request(ours.id, pull_request(span, SOFT_BYTES)).await,
        Err(RequestError::Status(Status::Refused))
    );
    let ladder = Ladder { start: 1, count: 5, stride: 1 };
    let headers = raw.ask_headers.request(ours.id, headers_request(ladder)).await;
    assert_eq!(headers, Err(RequestError::Status(Status::Refused)));
    theirs.net.down(ours.id);
    until("forgotten with the connection", || !theirs.handle.is_foreign(&ours.id)).await;
    ours.stop().await;
    theirs.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_counted() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 30, 0);
    let node = start_with(&boards, &row).await;
    let raw = Raw::join(&boards);
    let pull = |start, count| raw.ask.request(node.id, pb::PullBlock { start, count, max_bytes: 0 });
    let answer = pull(31, 1).await.unwrap();
    assert_eq!((answer.status(), answer.height), (pb::push_block::Status::NotFound, 30));
    assert_eq!(pull(u64::MAX - 200, 128).await.unwrap().status(), pb::push_block::Status::NotFound);
    assert_eq!(pull(30, 128).await.unwrap().status(), pb::push_block::Status::Partial);
    assert_eq!(pull(0, 1).await.unwrap().status(), pb::push_block::Status::Ok, "the genesis block is a block");
    let headers = |start, count, stride| raw.ask_headers.request(node.id, pb::GetHeaders { start, count, stride });
    assert!(headers(99, 5, 1).await.unwrap().headers.is_empty());
    let invalid = RequestError::Status(Status::Invalid);
    assert_eq!(pull(1, 0).await.unwrap_err(), invalid);
    assert_eq!(pull(u64::MAX, 1).await.unwrap_err(), invalid);
    assert_eq!(headers(0, 1, 0).await.unwrap_err(), invalid);
    let mut greeting = raw.greeting(head_of(&row)).to_wire();
    greeting.address = PeerId::random().to_bytes().into();
    assert_eq!(raw.greet.request(node.id, greeting).await.unwrap_err(), invalid);
    assert!((node.penalties.points(&raw.id) - 80.0).abs() < 1.0);
    assert_eq!(pull(1, 129).await.unwrap_err(), invalid);
    assert_eq!(pull(1, 1).await.unwrap_err(), RequestError::Status(Status::Refused), "banned");
    let greeting = raw.greeting(head_of(&row)).to_wire();
    let later = RequestError::Status(Status::Busy);
    assert_eq!(raw.greet.request(node.id, greeting).await.unwrap_err(), later, "its chain is not another one");
    let mut node = node;
    assert_eq!(node.verdicts.recv().await.unwrap().peer, raw.id);
    node.stop().await;
}

#[tokio::test]
async fn a_flood_is_told_to_come_back_and_others_are_served_on() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 600, 2000);
    let (old, new) = (start_with(&boards, &row).await, start_with(&boards, &[]).await);
    let raw = Raw::join(&boards);
    let mut flood = JoinSet::new();
    for _ in 0..40 {
        let (ask, peer) = (raw.ask.clone(), old.id);
        flood.spawn(async move {
            let mut busy = 0;
            for _ in 0..50 {
                match ask.request(peer, pb::PullBlock { start: 1, count: 128, max_bytes: 0 }).await {
                    Ok(answer) => busy += usize::from(answer.status() == pb::push_block::Status::Busy),
                    Err(RequestError::Status(Status::Busy)) => busy += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            busy
        });
    }
    both_meet(&old, &new);
    new.reaches(600).await;
    let busy: usize = flood.join_all().await.into_iter().sum();
    assert!(busy > 100, "{busy} of 2000 were told to come back");
    old.stop().await;
    new.stop().await;
}

#[tokio::test]
async fn liars_are_named_and_the_chain_comes_from_who_has_it() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 400, 50);
    let new = start_with(&boards, &[]).await;
    let (mut tasks, mut liars) = (JoinSet::new(), Vec::new());
    type Lie = fn(&[Block], Inbound<Pull>);
    let lies: [Lie; 5] = [
        // A block in the middle is missing.
        |chain, asked| {
            let mut gap = chain.to_vec();
            gap.remove(1);
            serve(&gap, asked);
        },
        // More than was asked for.
        |chain, asked| {
            let blocks: Vec<_> = chain.iter().take(200).map(stored).collect();
            asked.respond_encoded(push_response(&Push::Blocks(blocks), 200));
        },
        // The body of the block after it, which is as long: only the root tells.
        |chain, asked| {
            let (span, _) = read_pull_request(&asked.request).unwrap();
            let mut blocks: Vec<_> =
                chain.iter().skip(span.start as usize - 1).take(span.count as usize).map(stored).collect();
            blocks[0].body = chain[span.start as usize % chain.len()].body().bytes().clone();
            asked.respond_encoded(push_response(&Push::Blocks(blocks), span.count));
        },
        // Bytes that are no blocks.
        |_, asked| asked.respond(pb::PushBlock { blocks: vec![0xff; 1000].into(), ..Default::default() }),
        // It says that it has no such height, and means the opposite.
        |_, asked| {
            let mut answer = pb::PushBlock { height: u64::MAX, ..Default::default() };
            answer.set_status(pb::push_block::Status::NotFound);
            asked.respond(answer);
        },
    ];
    for lie in lies {
        let raw = Raw::join(&boards);
        liars.push(raw.id);
        let chain = row.clone();
        new.meets(raw.id);
        raw.play(&mut tasks, head_of(&row), move |asked| lie(&chain, asked));
    }
    until("all liars are named", || liars.iter().all(|l| new.penalties.points(l) > 1.0)).await;
    assert_eq!(new.chain.status().head.height, 0);
    let old = start_with(&boards, &row).await;
    both_meet(&old, &new);
    new.reaches(400).await;
    assert!(new.penalties.points(&old.id) < 1.0);
    new.stop().await;
    old.stop().await;
}

#[tokio::test]
async fn a_forged_signature_costs_most() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 20, 50);
    let new = start_with(&boards, &[]).await;
    let (raw, mut tasks) = (Raw::join(&boards), JoinSet::new());
    let (liar, chain) = (raw.id, row.clone());
    new.meets(liar);
    raw.play(&mut tasks, head_of(&row), move |asked| {
        let (span, _) = read_pull_request(&asked.request).unwrap();
        let mut blocks: Vec<_> = chain.iter().take(span.count as usize).map(stored).collect();
        let mut last = blocks.pop().unwrap();
        let mut header = last.header.to_vec();
        *header.last_mut().unwrap() ^= 1;
        last.header = header.into();
        blocks.push(last);
        asked.respond_encoded(push_response(&Push::Blocks(blocks), span.count));
    });
    until("it is named", || new.penalties.points(&liar) > Offence::InvalidBlock.points() - 1.0).await;
    assert_eq!(new.chain.status().head.height, 0);
    new.stop().await;
}

#[tokio::test]
async fn a_longer_branch_is_followed_and_one_below_the_final_blocks_is_reported() {
    let boards = Boards::default();
    let trunk = Maker::new(1).row(&kit::genesis(), 30, 0);
    let (left, right) = (Maker::new(2).row(&trunk[29], 5, 0), Maker::new(3).row(&trunk[29], 8, 30));
    let (a, b) = (start_with(&boards, &trunk).await, start_with(&boards, &trunk).await);
    a.chain.import_segment(left.clone(), Origin::File).await.unwrap();
    b.chain.import_segment(right.clone(), Origin::File).await.unwrap();
    both_meet(&a, &b);
    // A block with transactions is better than one without, whichever side has more of them.
    until("one head", || a.chain.status().head == head_of(&right)).await;
    let other = Maker::new(4).row(&trunk[3], 50, 0);
    let c = start_with(&boards, &trunk[..4]).await;
    c.chain.import_segment(other.clone(), Origin::File).await.unwrap();
    let (mut seen_by_a, mut seen_by_c) = (a.chain.events(), c.chain.events());
    both_meet(&a, &c);
    for events in [&mut seen_by_a, &mut seen_by_c] {
        let conflict = async {
            loop {
                if let chain::Event::Conflict { fork, .. } = events.recv().await.unwrap() {
                    return fork.height;
                }
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), conflict).await.unwrap(), 4, "N14");
    }
    assert_eq!(a.chain.status().head, head_of(&right));
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_request_is_answered_in_every_state() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 30, 0);
    // Whoever asks is not connected, so that what it says of its own head counts for nothing.
    let (node, raw, mut tasks) = (start_with(&boards, &row).await, Raw::join(&boards), JoinSet::new());
    let nowhere = |height| Point { height, hash: Hash::of(b"no such block") };
    assert_eq!(node.state(), State::NoPeers);
    raw.is_served_by(&node, &row).await;
    for (height, state) in [(1 << 62, State::Syncing), (35, State::CatchingUp)] {
        let mute = Raw::join(&boards);
        let peer = mute.id;
        node.meets(peer);
        mute.keep_silent(&mut tasks, nowhere(height));
        until("it believes that it is behind", || node.state() == state).await;
        raw.is_served_by(&node, &row).await;
        assert_eq!(node.state(), state);
        node.net.down(peer);
        until("it is alone", || node.state() == State::NoPeers).await;
    }
    let broken = Raw::join(&boards);
    let peer = broken.id;
    node.meets(peer);
    broken.play(&mut tasks, nowhere(60), |asked| asked.refuse(Status::Failed));
    until("nobody gives it what is missing", || node.state() == State::Stalled).await;
    raw.is_served_by(&node, &row).await;
    assert_eq!(node.state(), State::Stalled);
    node.net.down(peer);
    until("it is alone", || node.state() == State::NoPeers).await;
    let network = purpose(&kit::network());
    let headers = Maker::new(2).row(&row[4], 30, 0).into_iter().map(|block| block.header().clone());
    let proof: Vec<_> = headers.map(|header| VerifiedHeader::new(header, &network).unwrap()).collect();
    let told: HashSet<_> = (1..=4).map(|number| Maker::new(number).address()).collect();
    for peer in told.iter().take(2) {
        node.chain.conflict(*peer, proof.clone(), told.clone()).await.unwrap();
    }
    assert!(node.chain.status().halted.is_some(), "two of four are on another branch");
    until("it takes no blocks", || node.state() == State::Stalled).await;
    raw.is_served_by(&node, &row).await;
    node.stop().await;
}
