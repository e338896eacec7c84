//! Hundreds of planners over real chains in virtual time, with loss, partitions, restarts and liars. Broadcast is left out: what
//! heals here heals by sync alone. The seed is printed when something fails; `SEED=n` runs that one.

mod apart;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    block::{
        Block, Header, Origin, Point,
        chain::{ChainStore, Core, Event as ChainEvent, Memory, Rules},
        kit::{self, Maker, NOW},
        penalty::Offence,
        purpose,
        sync::{
            check,
            exchange::unproven,
            plan::{Failure, Imported, Output, Place, Pulled, State, View},
            planner::Planner,
            wire::{Greeting, Ladder, RawBlock, Span},
        },
    },
    identity::{Identity, Purpose},
    primitives::{Hash, PeerId},
};

const DEPTH: u64 = 12;
/// Between two looks of a planner at its timers.
const TICK_MS: u64 = 200;
/// Between two SHAKEHANDs with one peer.
const GREET_MS: u64 = 3000;
const TIMEOUT_MS: u64 = 10_000;

/// What a node does with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Honest,
    /// Claims a height far above everybody and has nothing.
    Tall,
    /// Claims the same, and answers no pull.
    Mute,
    /// Leaves a block out of each answer.
    Gaps,
    /// Answers with blocks of other heights.
    Wrong,
    /// Answers with a broken signature.
    Forged,
    /// Answers with good headers, two of which have each other's body.
    Body,
}

struct Node {
    kind: Kind,
    id: PeerId,
    store: Arc<Memory>,
    core: Core,
    planner: Planner,
    peers: Vec<usize>,
    conflicts: usize,
    banned: HashSet<PeerId>,
    points: BTreeMap<PeerId, f64>,
}

impl Node {
    fn hash_at(&self, height: u64) -> Option<Hash> {
        self.store.hash_at(height).unwrap()
    }
}

/// A node's chain, while its planner is borrowed.
struct Sight<'a>(&'a Core, &'a Memory);

impl View for Sight<'_> {
    fn place(&self) -> Place {
        let halted = self.0.status().halted.is_some();
        Place { head: self.0.head(), committed: self.0.committed(), halted }
    }

    fn held(&self, hash: &Hash) -> Option<u64> {
        let header = self.1.header(hash).unwrap()?;
        Some(Header::decode(&header).unwrap().height)
    }

    fn hash_at(&self, height: u64) -> Option<Hash> {
        self.1.hash_at(height).unwrap()
    }
}

/// What happens at some time. `life` counts restarts: what a former life asked for is not answered to the next one.
enum Happening {
    Tick(usize),
    Greet(usize, usize),
    Greeted(usize, PeerId, Box<Greeting>),
    Pulled(usize, u32, u64, Result<Pulled, Failure>),
    Headers(usize, u32, u64, Result<Vec<Header>, Failure>),
    Proven(usize, u32, u64, Result<(), Failure>),
    Imported(usize, u32, u64, Vec<Block>),
}

struct Sim {
    start: Instant,
    now: u64,
    random: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<(u64, u64), Happening>,
    number: u64,
    nodes: Vec<Node>,
    lives: Vec<u32>,
    /// In a hundred requests.
    loss: u64,
    /// Which side each node is on.
    side: Option<Vec<bool>>,
    purpose: Purpose,
    rules: Rules,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            start: Instant::now(),
            now: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            number: 0,
            nodes: Vec::new(),
            lives: Vec::new(),
            loss: 5,
            side: None,
            purpose: purpose(&kit::network()),
            rules: kit::rules(DEPTH),
        }
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// A node that holds these blocks already.
    fn add(&mut self, kind: Kind, blocks: &[&[Block]]) -> usize {
        let store = Arc::new(Memory::default());
        let mut core = Core::open(self.rules.clone(), store.clone(), NOW).unwrap();
        for row in blocks {
            core.import_segment(row.to_vec(), Origin::File, NOW).unwrap();
        }
        let planner = Planner::new(DEPTH, false, self.instant());
        let mut key = [7; 32];
        key[..8].copy_from_slice(&self.next().to_be_bytes());
        let id = Identity::from_seed(key).address();
        let node = Node {
            kind,
            id,
            store,
            core,
            planner,
            peers: Vec::new(),
            conflicts: 0,
            banned: HashSet::new(),
            points: BTreeMap::new(),
        };
        self.nodes.push(node);
        self.lives.push(0);
        self.nodes.len() - 1
    }

    /// Connects everybody with `n` others, and starts them.
    fn connect(&mut self, n: usize) {
        let count = self.nodes.len();
        for a in 0..count {
            while self.nodes[a].peers.len() < n.min(count - 1) {
                let b = self.below(count);
                if a != b && !self.nodes[a].peers.contains(&b) {
                    self.nodes[a].peers.push(b);
                    if !self.nodes[b].peers.contains(&a) {
                        self.nodes[b].peers.push(a);
                    }
                }
            }
        }
        for a in 0..count {
            let at = self.next() % TICK_MS;
            self.push(at, Happening::Tick(a));
            for b in self.nodes[a].peers.clone() {
                let at = self.next() % 400;
                self.push(at, Happening::Greet(a, b));
            }
        }
    }

    fn push(&mut self, after: u64, happening: Happening) {
        self.number += 1;
        let key = (self.now + after, self.number);
        self.queue.push(Reverse(key));
        self.happenings.insert(key, happening);
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= end) {
            let Some(Reverse(key)) = self.queue.pop() else { break };
            self.now = key.0;
            let happening = self.happenings.remove(&key).unwrap();
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.instant();
        let node = match happening {
            Happening::Tick(a) => {
                self.push(TICK_MS, Happening::Tick(a));
                a
            }
            Happening::Greet(a, b) => {
                let again = GREET_MS * 8 / 10 + self.next() % (GREET_MS * 4 / 10);
                self.push(again, Happening::Greet(a, b));
                if let Some(rtt) = self.way(a, b) {
                    let greeting = self.greeting(b);
                    let id = self.nodes[b].id;
                    self.push(rtt, Happening::Greeted(a, id, greeting.into()));
                }
                return;
            }
            Happening::Greeted(a, peer, greeting) => {
                if !self.nodes[a].banned.contains(&peer) {
                    self.nodes[a].planner.on_greeting(peer, &greeting, now);
                }
                a
            }
            Happening::Pulled(a, life, id, result) => {
                if self.lives[a] == life {
                    self.nodes[a].planner.on_pulled(id, result, now);
                }
                a
            }
            Happening::Headers(a, life, id, result) => {
                if self.lives[a] == life {
                    let node = &mut self.nodes[a];
                    node.planner.on_headers(id, result, &Sight(&node.core, &node.store), now);
                }
                a
            }
            Happening::Proven(a, life, id, result) => {
                if self.lives[a] == life {
                    let node = &mut self.nodes[a];
                    node.planner.on_proven(id, result, &Sight(&node.core, &node.store), now);
                }
                a
            }
            Happening::Imported(a, life, id, blocks) => {
                if self.lives[a] == life {
                    let node = &mut self.nodes[a];
                    let result = match node.core.import_segment(blocks, Origin::File, NOW) {
                        Ok((outcome, _)) => {
                            Imported::Held { held: outcome.held, new: outcome.new, stopped: outcome.stopped }
                        }
                        Err(_) => Imported::Refused,
                    };
                    node.planner.on_imported(id, result, now);
                }
                a
            }
        };
        self.poll(node);
    }

    /// The time to `b` and back; `None` when something on the way is lost.
    fn way(&mut self, a: usize, b: usize) -> Option<u64> {
        let lost = self.next() % 100 < self.loss;
        let apart = self.side.as_ref().is_some_and(|s| s[a] != s[b]);
        let rtt = 20 + self.next() % 180;
        (!lost && !apart).then_some(rtt)
    }

    fn greeting(&mut self, b: usize) -> Greeting {
        let (status, address) = (self.nodes[b].core.status(), self.nodes[b].id);
        let mut greeting = Greeting::of(&status, NOW, address);
        if matches!(self.nodes[b].kind, Kind::Tall | Kind::Mute) {
            greeting.head = Point { height: 1 << 62, hash: Hash::of(&self.next().to_be_bytes()) };
        }
        greeting
    }

    fn poll(&mut self, a: usize) {
        if self.nodes[a].kind != Kind::Honest {
            return;
        }
        let now = self.instant();
        let mut seed = self.next();
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f64 / f64::from(1 << 24)
        };
        let node = &mut self.nodes[a];
        let outputs = node.planner.poll(&Sight(&node.core, &node.store), now, &mut random);
        let life = self.lives[a];
        for output in outputs {
            match output {
                Output::Pull { id, peer, span, .. } => {
                    let (rtt, result) = self.pull(a, peer, span);
                    self.push(rtt, Happening::Pulled(a, life, id, result));
                }
                Output::Headers { id, peer, ladder } => {
                    let (rtt, result) = self.headers(a, peer, ladder);
                    let result = result.and_then(|raw| check::headers(&raw));
                    self.push(rtt, Happening::Headers(a, life, id, result));
                }
                Output::Prove { id, peer, span, fork, told } => {
                    let ladder = Ladder { start: span.start, count: span.count, stride: 1 };
                    let (rtt, result) = self.headers(a, peer, ladder);
                    let result = result.and_then(|raw| check::proof(&raw, span.start, fork, &self.purpose));
                    let result = result.and_then(|proof| {
                        let events =
                            self.nodes[a].core.conflict(peer, &proof, told, NOW).map_err(|error| unproven(&error))?;
                        let of_conflict = events.iter().filter(|e| matches!(e, ChainEvent::Conflict { .. }));
                        self.nodes[a].conflicts += of_conflict.count();
                        Ok(())
                    });
                    self.push(rtt, Happening::Proven(a, life, id, result));
                }
                Output::Import { id, blocks, .. } => self.push(5, Happening::Imported(a, life, id, blocks)),
                Output::Report { peer, offence } => {
                    let node = &mut self.nodes[a];
                    let points = node.points.entry(peer).or_default();
                    *points += offence.points();
                    if *points > 80.0 {
                        node.banned.insert(peer);
                        node.planner.on_gone(&peer, now);
                    }
                }
            }
        }
    }

    fn index(&self, peer: PeerId) -> usize {
        self.nodes.iter().position(|n| n.id == peer).unwrap()
    }

    fn pull(&mut self, a: usize, peer: PeerId, span: Span) -> (u64, Result<Pulled, Failure>) {
        let b = self.index(peer);
        let Some(rtt) = self.way(a, b) else { return (TIMEOUT_MS, Err(Failure::Timeout)) };
        let node = &self.nodes[b];
        let head = node.core.head().height;
        if node.kind == Kind::Mute {
            return (TIMEOUT_MS, Err(Failure::Timeout));
        }
        if span.start > head {
            return (rtt, Err(Failure::NotFound(head)));
        }
        let mut raw: Vec<RawBlock> = Vec::new();
        for hash in node.store.hashes(span.start, span.count as usize).unwrap() {
            let header = node.store.header(&hash).unwrap().unwrap();
            raw.push(RawBlock { header, body: node.store.body(&hash).unwrap().unwrap_or_default() });
        }
        match node.kind {
            Kind::Gaps if raw.len() > 2 => drop(raw.remove(1)),
            Kind::Wrong | Kind::Gaps => raw.rotate_left(1),
            Kind::Forged => {
                for block in &mut raw {
                    let mut header = block.header.to_vec();
                    *header.last_mut().unwrap() ^= 1;
                    block.header = header.into();
                }
            }
            Kind::Body if raw.len() > 1 => {
                let body = raw[0].body.clone();
                assert_eq!(body.len(), raw[1].body.len(), "only the roots tell");
                raw[0].body = std::mem::replace(&mut raw[1].body, body);
            }
            _ => {}
        }
        (rtt, check::blocks(raw, span, 1 << 20, &self.purpose))
    }

    fn headers(&mut self, a: usize, peer: PeerId, ladder: Ladder) -> (u64, Result<Vec<bytes::Bytes>, Failure>) {
        let b = self.index(peer);
        let Some(rtt) = self.way(a, b) else { return (TIMEOUT_MS, Err(Failure::Timeout)) };
        let node = &self.nodes[b];
        if node.kind == Kind::Mute {
            return (TIMEOUT_MS, Err(Failure::Timeout));
        }
        let hashes = (0..u64::from(ladder.count)).map_while(|i| node.hash_at(ladder.start + i * ladder.stride));
        (rtt, Ok(hashes.map(|h| node.store.header(&h).unwrap().unwrap()).collect()))
    }

    /// The process ends and starts again on its store.
    fn restart(&mut self, a: usize) {
        let now = self.instant();
        self.lives[a] += 1;
        let node = &mut self.nodes[a];
        node.core = Core::open(self.rules.clone(), node.store.clone(), NOW).unwrap();
        node.planner = Planner::new(DEPTH, false, now);
    }

    fn honest(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.kind == Kind::Honest)
    }

    /// How many honest nodes are at `head` and in step.
    fn there(&self, head: Hash) -> usize {
        self.honest().filter(|n| n.core.head().hash == head && n.planner.state() == State::Synced).count()
    }

    /// Honest nodes banned no honest one.
    fn assert_none_banned(&self, seed: u64) {
        let honest: HashSet<PeerId> = self.honest().map(|n| n.id).collect();
        for node in self.honest() {
            assert!(node.banned.is_disjoint(&honest), "SEED={seed}: {:?}", node.points);
        }
    }

    /// An honest node saw that one of this kind lied, and not only that an answer was lost.
    fn is_caught(&self, kind: Kind) -> bool {
        let lying: HashSet<PeerId> = self.nodes.iter().filter(|n| n.kind == kind).map(|n| n.id).collect();
        self.honest().any(|node| {
            let mut theirs = node.points.iter().filter(|(peer, _)| lying.contains(*peer));
            theirs.any(|(_, points)| *points >= Offence::WrongData.points())
        })
    }

    /// Runs until all honest nodes are at `head`, at most `seconds`.
    fn run_until(&mut self, head: Hash, seconds: u64) {
        for _ in 0..seconds {
            self.run(1000);
            if self.there(head) == self.honest().count() {
                return;
            }
        }
    }

    /// Every honest node is at `head` and in step.
    fn assert_all_at(&self, head: Hash, seed: u64) {
        let late: Vec<_> =
            self.honest().filter(|n| n.core.head().hash != head || n.planner.state() != State::Synced).collect();
        let shown: Vec<_> =
            late.iter().take(5).map(|n| (n.core.head().height, n.planner.state(), n.conflicts)).collect();
        assert!(
            late.is_empty(),
            "SEED={seed}: {} of {} are elsewhere after {} s: {shown:?}",
            late.len(),
            self.honest().count(),
            self.now / 1000
        );
    }
}

/// The seeds to run.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

const LIARS: [Kind; 6] = [Kind::Tall, Kind::Mute, Kind::Gaps, Kind::Wrong, Kind::Forged, Kind::Body];

#[test]
fn two_hundred_new_nodes_find_the_chain_of_twenty_among_forty_liars() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 20);
    for seed in seeds(1) {
        let mut sim = Sim::new(seed);
        (0..20).for_each(|_| {
            sim.add(Kind::Honest, &[&chain]);
        });
        for i in 0..180 {
            let has = sim.below(300);
            let has = if i % 3 == 0 { 0 } else { has };
            sim.add(Kind::Honest, &[&chain[..has]]);
        }
        for i in 0..40 {
            let has = sim.below(400);
            sim.add(LIARS[i % LIARS.len()], &[&chain[..has]]);
        }
        sim.connect(6);
        for _ in 0..10 {
            sim.run(1000);
            let who = sim.below(200);
            sim.restart(who);
        }
        sim.run_until(chain[399].hash(), 300);
        sim.assert_all_at(chain[399].hash(), seed);
        assert!(sim.honest().all(|n| n.conflicts == 0), "SEED={seed}: nobody is on another chain");
        sim.assert_none_banned(seed);
        for kind in [Kind::Gaps, Kind::Wrong, Kind::Forged, Kind::Body] {
            assert!(sim.is_caught(kind), "SEED={seed}: {kind:?} goes unnoticed");
        }
    }
}

#[test]
fn all_nodes_restarted_together_go_on() {
    let chain = Maker::new(1).row(&kit::genesis(), 60, 0);
    for seed in seeds(3) {
        let mut sim = Sim::new(seed);
        for _ in 0..60 {
            let has = sim.below(60);
            sim.add(Kind::Honest, &[&chain[..has]]);
        }
        let most = sim.nodes.iter().map(|n| n.core.head()).max_by_key(|p| p.height).unwrap();
        sim.connect(4);
        (0..60).for_each(|i| sim.restart(i));
        sim.run_until(most.hash, 120);
        sim.assert_all_at(most.hash, seed);
        sim.assert_none_banned(seed);
    }
}
