//! Hundreds of broadcast machines on a random graph with latency, loss, slow uplinks and liars, in virtual time. Every run is
//! named by its seed.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{GENESIS, block, point};
use crate::{
    block::{
        Point, VerifiedHeader,
        broadcast::{
            core::{Asked, Core, Output},
            fetcher::Failure,
            hold::{Hold, Until},
            wire::{Announcement, Content, SMALL_BODY, Wanted},
        },
    },
    primitives::{Hash, PeerId},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Honest,
    /// Takes everything and says nothing.
    Silent,
    /// Passes headers on, announces at once, never answers.
    Mute,
    /// Passes headers on, announces at once, has nothing.
    Empty,
    /// Passes headers on, announces at once, answers rubbish.
    Garbage,
    /// Passes headers on and nothing else: its body never comes.
    HeaderOnly,
}

#[derive(Clone, Debug)]
enum Message {
    New(Box<VerifiedHeader>, Content),
    Hash(Announcement),
    Ask(u64, Hash, Wanted),
    Block(u64, Hash),
    Piece(u64, Hash, usize, Bytes),
    Failed(u64, Failure),
}

#[derive(Debug)]
enum Event {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    Imported {
        node: usize,
        hash: Hash,
    },
    Tick {
        node: usize,
    },
    /// The uplink is free.
    Free {
        node: usize,
    },
}

struct Node {
    kind: Kind,
    core: Core,
    neighbours: Vec<usize>,
    mesh: Vec<usize>,
    held: HashSet<Hash>,
    hold: Hold<(usize, Box<VerifiedHeader>, Content)>,
    tickets: HashMap<u64, (usize, u64, Hash, usize)>,
    /// Requests under way, by name: cancelled ones are gone.
    asked: HashMap<u64, (usize, Wanted)>,
    got: HashMap<Hash, Instant>,
    /// What waits for the uplink, by receiver: each gets its share, as streams do.
    queues: BTreeMap<usize, VecDeque<Message>>,
    sending: bool,
    last_to: usize,
    body_bytes: usize,
    tick: Option<Instant>,
    lost: usize,
    peak: usize,
}

struct World {
    seed: u64,
    random: StdRng,
    now: Instant,
    start: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    nodes: Vec<Node>,
    ids: Vec<PeerId>,
    index: HashMap<PeerId, usize>,
    latency: HashMap<(usize, usize), Duration>,
    blocks: HashMap<Hash, (VerifiedHeader, Content, Bytes)>,
    loss: f64,
    tickets: u64,
}

/// 50 Mbit/s.
const UPLINK: f64 = 6.25e6;
const IMPORT: Duration = Duration::from_millis(5);
/// The client's patience with a request that got lost.
const REQUEST: Duration = Duration::from_secs(8);

impl World {
    fn new(seed: u64, n: usize, degree: usize, liars: f64, kinds: &[Kind], loss: f64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        // The same ids in every run of a seed, since they decide among equals: what an Ed25519 key looks like.
        let id = |i: usize| {
            let key = Hash::of(&[seed.to_le_bytes(), i.to_le_bytes()].concat());
            PeerId::from_bytes(&[&[0, 36, 8, 1, 18, 32], &key.0[..]].concat()).unwrap()
        };
        let ids: Vec<_> = (0..n).map(id).collect();
        let mut links = HashSet::new();
        for a in 0..n {
            // A ring of honest nodes is not promised: what keeps the honest ones together is their number of links.
            for _ in 0..degree / 2 {
                let b = random.random_range(0..n);
                if a != b {
                    links.insert((a.min(b), a.max(b)));
                }
            }
        }
        let mut latency = HashMap::new();
        let mut neighbours = vec![Vec::new(); n];
        let mut sorted: Vec<_> = links.into_iter().collect();
        sorted.sort_unstable();
        for (a, b) in sorted {
            let delay = Duration::from_millis(random.random_range(10..80));
            latency.insert((a, b), delay);
            latency.insert((b, a), delay);
            neighbours[a].push(b);
            neighbours[b].push(a);
        }
        let nodes = neighbours
            .into_iter()
            .enumerate()
            .map(|(i, neighbours)| {
                let liar = i > 0 && random.random_bool(liars);
                let kind = if liar { kinds[random.random_range(0..kinds.len())] } else { Kind::Honest };
                let mut core = Core::new(seed.wrapping_mul(31).wrapping_add(i as u64));
                neighbours.iter().for_each(|p| core.up(ids[*p]));
                Node {
                    kind,
                    core,
                    neighbours,
                    mesh: Vec::new(),
                    held: HashSet::from([GENESIS.hash]),
                    hold: Hold::default(),
                    tickets: HashMap::new(),
                    asked: HashMap::new(),
                    got: HashMap::new(),
                    queues: BTreeMap::new(),
                    sending: false,
                    last_to: 0,
                    body_bytes: 0,
                    tick: None,
                    lost: 0,
                    peak: 0,
                }
            })
            .collect();
        let index = ids.iter().enumerate().map(|(i, p)| (*p, i)).collect();
        let mut world = Self {
            seed,
            random,
            now: start,
            start,
            events: BTreeMap::new(),
            serial: 0,
            nodes,
            ids,
            index,
            latency,
            blocks: HashMap::new(),
            loss,
            tickets: 0,
        };
        world.meshes(degree);
        world
    }

    /// Symmetric meshes of about the root of `degree`, as gossip makes them.
    fn meshes(&mut self, degree: usize) {
        let want = degree.isqrt() + 1;
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.shuffle(&mut self.random);
        for a in order {
            let mut others = self.nodes[a].neighbours.clone();
            others.shuffle(&mut self.random);
            for b in others {
                let full = |n: &Node| n.mesh.len() >= want;
                if full(&self.nodes[a]) {
                    break;
                }
                if self.nodes[b].mesh.len() < want + 2 && !self.nodes[a].mesh.contains(&b) {
                    self.nodes[a].mesh.push(b);
                    self.nodes[b].mesh.push(a);
                }
            }
        }
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((when, self.serial), event);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.nodes[from].queues.entry(to).or_default().push_back(message);
        if !self.nodes[from].sending {
            self.send_next(from);
        }
    }

    fn send_next(&mut self, from: usize) {
        let node = &mut self.nodes[from];
        let next = node.queues.range(node.last_to + 1..).next().or_else(|| node.queues.iter().next());
        let Some(to) = next.map(|(to, _)| *to) else {
            node.sending = false;
            return;
        };
        (node.sending, node.last_to) = (true, to);
        let queue = node.queues.get_mut(&to).unwrap();
        let message = queue.pop_front().unwrap();
        if queue.is_empty() {
            node.queues.remove(&to);
        }
        let bytes = match &message {
            Message::New(_, Content::Body(body)) => 300 + body.len(),
            Message::New(_, Content::Pieces(pieces)) => 300 + 32 * pieces.count(),
            Message::Hash(_) => 150,
            Message::Piece(.., piece) => 60 + piece.len(),
            _ => 80,
        };
        let sent = self.now + Duration::from_secs_f64(bytes as f64 / UPLINK);
        self.at(sent, Event::Free { node: from });
        let lost = self.random.random_bool(self.loss);
        // A lost exchange fails by time; a lost announcement is just lost.
        let (at, event) = match message {
            _ if !lost => (sent + self.latency[&(from, to)], Event::Deliver { from, to, message }),
            Message::Ask(id, ..) => {
                let message = Message::Failed(id, Failure::NoAnswer);
                (self.now + REQUEST, Event::Deliver { from: to, to: from, message })
            }
            Message::Piece(id, ..) | Message::Block(id, _) | Message::Failed(id, _) => {
                let message = Message::Failed(id, Failure::NoAnswer);
                (self.now + REQUEST, Event::Deliver { from, to, message })
            }
            Message::New(..) | Message::Hash(_) => return,
        };
        self.at(at, event);
    }

    /// Node 0 makes a block.
    fn produce(&mut self, parent: Point, bytes: usize, salt: u64) -> Point {
        let (header, content, body) = block(parent, bytes, salt);
        let at = point(&header);
        self.blocks.insert(at.hash, (header.clone(), content.clone(), body.clone()));
        let now = self.now;
        self.nodes[0].core.put(now, header.clone(), body);
        for to in self.nodes[0].mesh.clone() {
            self.send(0, to, Message::New(header.clone().into(), content.clone()));
        }
        self.imported(0, at.hash);
        at
    }

    fn imported(&mut self, node: usize, hash: Hash) {
        let (header, ..) = self.blocks[&hash].clone();
        let announcement = Announcement::of(header.header(), hash);
        self.nodes[node].held.insert(hash);
        let now = self.now;
        self.nodes[node].got.entry(hash).or_insert(now);
        self.nodes[node].core.on_imported(&hash);
        let announce = self.nodes[node].core.announce(now, hash, |_| true);
        assert!(announce.notify.is_empty(), "all are on the topic");
        if announce.topic {
            for to in self.nodes[node].neighbours.clone() {
                self.send(node, to, Message::Hash(announcement));
            }
        }
        for (from, header, content) in self.nodes[node].hold.children(&hash) {
            self.new_block(node, from, header, content);
        }
        self.carry_out(node);
    }

    fn new_block(&mut self, node: usize, from: usize, header: Box<VerifiedHeader>, content: Content) {
        let hash = header.hash();
        let parent = header.header().parent;
        let (now, from_id) = (self.now, self.ids[from]);
        let this = &mut self.nodes[node];
        this.core.learn(&from_id, hash);
        if this.held.contains(&hash) {
            return;
        }
        if !this.held.contains(&parent) {
            if !this.core.is_coming(&parent) {
                this.core.want(now, from_id, parent);
            }
            let until = (Until::Parent(parent), now + Duration::from_secs(8));
            let _ = this.hold.put(from_id, until.0, until.1, (from, header, content));
            return self.carry_out(node);
        }
        let first = !this.core.has_seen(&hash);
        if this.core.on_block(now, from_id, *header.clone(), content.clone()).is_ok() && first {
            for to in self.nodes[node].mesh.clone() {
                if to != from {
                    self.send(node, to, Message::New(header.clone(), content.clone()));
                }
            }
        }
        self.carry_out(node);
    }

    fn lie(&mut self, node: usize, from: usize, message: Message) {
        let kind = self.nodes[node].kind;
        match message {
            _ if kind == Kind::Silent => {}
            Message::New(header, content) if self.nodes[node].held.insert(header.hash()) => {
                let announcement = Announcement::of(header.header(), header.hash());
                for to in self.nodes[node].mesh.clone() {
                    self.send(node, to, Message::New(header.clone(), content.clone()));
                }
                for to in self.nodes[node].neighbours.clone() {
                    if kind != Kind::HeaderOnly {
                        self.send(node, to, Message::Hash(announcement));
                    }
                }
            }
            Message::Ask(id, ..) if kind == Kind::Empty => {
                self.send(node, from, Message::Failed(id, Failure::NotFound));
            }
            Message::Ask(id, hash, Wanted::Piece(index)) if kind == Kind::Garbage => {
                self.send(node, from, Message::Piece(id, hash, index, Bytes::from(vec![7; 1000])));
            }
            Message::Ask(id, ..) => {
                self.at(
                    self.now + REQUEST,
                    Event::Deliver { from: node, to: from, message: Message::Failed(id, Failure::NoAnswer) },
                );
            }
            _ => {}
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if self.nodes[to].kind != Kind::Honest {
            return self.lie(to, from, message);
        }
        let (now, from_id) = (self.now, self.ids[from]);
        match message {
            Message::New(header, content) => return self.new_block(to, from, header, content),
            Message::Hash(announcement) => {
                let node = &mut self.nodes[to];
                match node.held.contains(&announcement.point.hash) {
                    true => node.core.learn(&from_id, announcement.point.hash),
                    false => drop(node.core.on_announced(now, from_id, announcement)),
                }
            }
            Message::Ask(id, hash, Wanted::Block) => {
                let known = self.nodes[to].core.block(&hash).is_some() || self.nodes[to].held.contains(&hash);
                let answer = if known { Message::Block(id, hash) } else { Message::Failed(id, Failure::NotFound) };
                self.send(to, from, answer);
            }
            Message::Ask(id, hash, Wanted::Piece(index)) => {
                self.tickets += 1;
                let (ticket, node) = (self.tickets, &mut self.nodes[to]);
                let answer = match node.core.on_asked(now, &from_id, &hash, index, ticket) {
                    Asked::Here(piece) => Message::Piece(id, hash, index, piece),
                    Asked::Wait => {
                        node.tickets.insert(ticket, (from, id, hash, index));
                        return self.carry_out(to);
                    }
                    Asked::No => Message::Failed(id, Failure::Busy),
                    Asked::Elsewhere | Asked::Nonsense => Message::Failed(id, Failure::NotFound),
                };
                self.send(to, from, answer);
            }
            Message::Block(id, hash) => {
                if self.nodes[to].asked.remove(&id).is_some() && self.nodes[to].core.on_answer(now, id).is_some() {
                    let (header, content, _) = self.blocks[&hash].clone();
                    return self.new_block(to, from, header.into(), content);
                }
            }
            Message::Piece(id, hash, index, piece) => {
                let node = &mut self.nodes[to];
                node.body_bytes += piece.len();
                if node.asked.remove(&id).is_some() {
                    node.core.on_piece(now, id, from_id, &hash, index, piece);
                }
            }
            Message::Failed(id, failure) => {
                if self.nodes[to].asked.remove(&id).is_some() {
                    self.nodes[to].core.on_failure(now, id, failure);
                }
            }
        }
        self.carry_out(to);
    }

    fn carry_out(&mut self, node: usize) {
        for output in self.nodes[node].core.take_outputs() {
            match output {
                Output::Ask { id, peer, hash, wanted } => {
                    let to = self.index[&peer];
                    self.nodes[node].asked.insert(id, (to, wanted));
                    self.send(node, to, Message::Ask(id, hash, wanted));
                }
                Output::Cancel(id) => drop(self.nodes[node].asked.remove(&id).unwrap()),
                Output::Serve(ticket, piece) => {
                    let (to, id, hash, index) = self.nodes[node].tickets.remove(&ticket).expect("answered once");
                    let message = match piece {
                        Some(piece) => Message::Piece(id, hash, index, piece),
                        None => Message::Failed(id, Failure::Busy),
                    };
                    self.send(node, to, message);
                }
                Output::Import { header, body, .. } => {
                    assert_eq!(body, self.blocks[&header.hash()].2);
                    self.at(self.now + IMPORT, Event::Imported { node, hash: header.hash() });
                }
                Output::Blame(peer, fault) => {
                    let kind = self.nodes[self.index[&peer]].kind;
                    let allowed =
                        kind != Kind::Honest || self.loss > 0.0 || fault == super::super::fetcher::Fault::Timeout;
                    assert!(allowed, "seed {}: an honest node is blamed for {fault:?}", self.seed);
                }
                Output::Lost(hash) => {
                    self.nodes[node].lost += 1;
                    if std::env::var("SIM").is_ok() {
                        eprintln!("{:?} node {node} lost {hash}", self.now - self.start);
                    }
                }
            }
        }
        let bytes = self.nodes[node].core.sizes().2;
        self.nodes[node].peak = self.nodes[node].peak.max(bytes);
        if let Some(deadline) = self.nodes[node].core.deadline()
            && self.nodes[node].tick.is_none_or(|t| deadline < t)
        {
            self.nodes[node].tick = Some(deadline);
            self.at(deadline, Event::Tick { node });
        }
    }

    fn run(&mut self, until: Instant) {
        while let Some(((when, serial), _)) = self.events.first_key_value().filter(|((when, _), _)| *when <= until) {
            let (when, serial) = (*when, *serial);
            let event = self.events.remove(&(when, serial)).unwrap();
            self.now = when;
            if let Ok(watch) = std::env::var("SIM")
                && let Event::Deliver { from, to, message } = &event
                && (watch == to.to_string() || watch == from.to_string())
            {
                let text = format!("{message:?}");
                eprintln!("{:?} {from} -> {to} {}", self.now - self.start, &text[..text.len().min(120)]);
            }
            match event {
                Event::Deliver { from, to, message } => self.deliver(from, to, message),
                Event::Imported { node, hash } => self.imported(node, hash),
                Event::Free { node } => self.send_next(node),
                Event::Tick { node } => {
                    self.nodes[node].tick = None;
                    self.nodes[node].core.tick(when);
                    self.carry_out(node);
                }
            }
        }
        self.now = until;
    }
}

#[derive(Debug)]
struct Report {
    /// Body copies that honest nodes received, on average.
    copies: f64,
    /// Until the last honest node had a block, the worst of them.
    last: Duration,
    /// Which node that was.
    #[allow(dead_code, reason = "printed when a bound is missed")]
    slowest: usize,
}

/// So many blocks, one every two seconds; everybody honest gets each, and nothing is left over.
fn broadcast(mut world: World, blocks: u64, bytes: usize) -> Report {
    let (seed, mut parent, mut made) = (world.seed, GENESIS, Vec::new());
    for salt in 0..blocks {
        made.push((world.now, parent));
        parent = world.produce(parent, bytes, seed * 1000 + salt + 1);
        made.last_mut().unwrap().1 = parent;
        let until = world.now + Duration::from_secs(2);
        world.run(until);
    }
    let end = world.now + Duration::from_secs(150);
    world.run(end);
    let (mut last, mut slowest) = (Duration::ZERO, 0);
    for (i, node) in world.nodes.iter().enumerate().filter(|(_, n)| n.kind == Kind::Honest) {
        for (at, point) in &made {
            let got = node.got.get(&point.hash);
            let got = got.unwrap_or_else(|| {
                let neighbours: Vec<_> = node.neighbours.iter().map(|n| world.nodes[*n].kind).collect();
                panic!("seed {seed}: node {i} lacks block {}, {neighbours:?}, lost {}", point.height, node.lost)
            });
            if *got - *at > last {
                (last, slowest) = (*got - *at, i);
            }
        }
        let (fetching, in_flight, _, waiting) = node.core.sizes();
        assert_eq!((fetching, in_flight, waiting), (0, 0, 0), "seed {seed}: node {i} has something left over");
        assert!(node.tickets.is_empty() && node.asked.is_empty(), "seed {seed}: node {i}");
        assert!(node.peak <= super::super::assembly::TOTAL, "seed {seed}: node {i}");
    }
    let honest: Vec<_> = world.nodes.iter().skip(1).filter(|n| n.kind == Kind::Honest).collect();
    let received: usize = honest.iter().map(|n| n.body_bytes).sum();
    let once = honest.len() * bytes * blocks as usize;
    // Every piece came over a line: what is counted is what bounds are set for.
    assert!(bytes <= SMALL_BODY || received >= once, "seed {seed}: {received} bytes are less than one copy each");
    Report { copies: received as f64 / once as f64, last, slowest }
}

const MIB: usize = 1024 * 1024;

#[test]
fn everybody_gets_each_body_about_once() {
    for seed in 0..3 {
        // Every node has bodies of its own here, so the large ones go to fewer nodes.
        let large = broadcast(World::new(seed, 80, 16, 0.0, &[], 0.0), 2, MIB);
        assert!(large.copies < 1.1 && large.last < Duration::from_secs(3), "seed {seed}: {large:?}");
        let small = broadcast(World::new(seed, 300, 16, 0.0, &[], 0.0), 3, 100_000);
        assert!(small.copies < 1.1 && small.last < Duration::from_millis(1200), "seed {seed}: {small:?}");
    }
}

#[test]
fn a_tenth_of_all_messages_may_be_lost() {
    for seed in 0..4 {
        let report = broadcast(World::new(seed, 200, 16, 0.0, &[], 0.1), 3, 150_000);
        assert!(report.copies < 1.6 && report.last < Duration::from_secs(30), "seed {seed}: {report:?}");
    }
}

#[test]
fn half_of_the_nodes_may_be_silent() {
    for seed in 0..4 {
        let report = broadcast(World::new(seed, 200, 16, 0.5, &[Kind::Silent], 0.0), 3, 150_000);
        assert!(report.copies < 1.2 && report.last < Duration::from_secs(12), "seed {seed}: {report:?}");
    }
}

#[test]
fn liars_of_every_kind_stop_nothing() {
    let kinds = [Kind::Mute, Kind::Empty, Kind::Garbage, Kind::HeaderOnly, Kind::Silent];
    for kind in kinds {
        for seed in 0..3 {
            let report = broadcast(World::new(seed, 200, 16, 0.4, &[kind], 0.0), 3, 150_000);
            assert!(report.copies < 2.0 && report.last < Duration::from_secs(20), "{kind:?}, seed {seed}: {report:?}");
        }
    }
    for seed in 0..6 {
        let report = broadcast(World::new(seed, 200, 16, 0.5, &kinds, 0.0), 3, 150_000);
        assert!(report.copies < 2.0 && report.last < Duration::from_secs(90), "all kinds, seed {seed}: {report:?}");
    }
}

#[test]
fn small_blocks_travel_with_their_headers() {
    let report = broadcast(World::new(7, 300, 16, 0.0, &[], 0.0), 5, 3000);
    assert_eq!(report.copies, 0.0, "nobody had to ask for a piece");
    assert!(report.last < Duration::from_secs(1), "{report:?}");
}
