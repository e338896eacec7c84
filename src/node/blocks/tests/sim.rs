//! Whole networks of block exchange in virtual time: chain, sync, broadcast, pool and production of each node as the daemon puts them
//! together, over lines with latency and losses, with nodes that come and go, a line that is cut, and peers that lie in every protocol at
//! once. Hours pass in seconds. What each machine does alone, by a seed, is in the simulations of `block`; here it is what they do to each
//! other. Choices follow from the seed, which a failure prints; what runs first among equals does not.

#![allow(clippy::disallowed_methods, reason = "tasks of a simulation end with its runtime")]

mod liars;
mod sky;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::mpsc, time::Instant};

use self::{
    liars::Liar,
    sky::{Boards, Sky},
};
use crate::{
    block::{
        self, BlockId,
        chain::{self, Memory},
        kit,
        penalty::{Offence, Verdict},
    },
    config::Config,
    identity::Identity,
    net::{self, pubsub::Publisher},
    primitives::{Clock, Hash, Multiaddr, PeerId, UnixMillis},
    runtime::{Stop, Supervisor},
    telemetry::Registry,
};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After a start a node has this long to catch up before it counts.
const SETTLE: Duration = Duration::from_secs(20);
/// Blocks behind the best head that a node may be for a moment: what was made within the time that an announcement takes.
const LAG: u64 = 2;

/// Wall-clock time that goes with the runtime's, and is off by some.
#[derive(Debug)]
struct Skewed {
    begun: Instant,
    at: UnixMillis,
}

impl Clock for Skewed {
    fn now(&self) -> UnixMillis {
        self.at.plus(self.begun.elapsed())
    }
}

/// A node while it runs.
struct Alive {
    stop: Stop,
    tasks: Supervisor,
    net: net::Detached,
    publishers: [Publisher; 3],
    verdicts: mpsc::Receiver<Verdict>,
    handle: block::Handle,
    since: Instant,
}

struct Node {
    identity: Identity,
    config: Config,
    clock: Arc<dyn Clock>,
    store: Arc<Memory>,
    peers: Vec<PeerId>,
    alive: Option<Alive>,
}

struct World {
    random: StdRng,
    sky: Arc<Sky>,
    boards: Boards,
    nodes: Vec<Node>,
    index: HashMap<PeerId, usize>,
    liars: HashMap<PeerId, Liar>,
    /// Who banned whom, and for what last.
    bans: Vec<(usize, PeerId, Offence)>,
    /// How often a node that had time to catch up was found how many blocks behind.
    lags: BTreeMap<u64, usize>,
    submitted: Vec<(Instant, Hash)>,
    number: u64,
}

impl World {
    /// `count` nodes in a ring with some lines across, and `liars` with lines to six of them each. Every twelfth node produces.
    fn new(seed: u64, count: usize, liars: &[Liar]) -> Self {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let sky = Arc::new(Sky::new(seed));
        let boards = Boards::over(&sky);
        let begun = Instant::now();
        let mut lines: Vec<HashSet<usize>> = vec![HashSet::new(); count];
        for a in 0..count {
            for b in [(a + 1) % count, random.random_range(0..count), random.random_range(0..count)] {
                if a != b {
                    lines[a].insert(b);
                    lines[b].insert(a);
                }
            }
        }
        let identities: Vec<_> = (0..count).map(|_| Identity::from_seed(random.random())).collect();
        let nodes: Vec<_> = (0..count)
            .map(|i| {
                let mut config = Config::default();
                config.node.network = kit::network();
                config.block.produce = i % 12 == 0;
                let skew = random.random_range(0..600);
                let clock: Arc<dyn Clock> = Arc::new(Skewed { begun, at: UnixMillis(kit::NOW.0 + skew) });
                let peers = lines[i].iter().map(|p| identities[*p].address()).collect();
                Node { identity: identities[i].clone(), config, clock, store: Arc::default(), peers, alive: None }
            })
            .collect();
        let index = nodes.iter().enumerate().map(|(i, node)| (node.identity.address(), i)).collect();
        let mut world = Self {
            random,
            sky,
            boards,
            nodes,
            index,
            liars: HashMap::new(),
            bans: Vec::new(),
            lags: BTreeMap::new(),
            submitted: Vec::new(),
            number: 0,
        };
        for liar in liars {
            let id = Identity::from_seed(world.random.random()).address();
            let all: Vec<_> = (0..count).collect();
            all.sample(&mut world.random, 6).for_each(|victim| world.nodes[*victim].peers.push(id));
            liar.play(id, world.random.random(), &world.sky, &world.boards);
            world.liars.insert(id, *liar);
        }
        (0..count).for_each(|i| world.start(i));
        world
    }

    fn address(&self, i: usize) -> PeerId {
        self.nodes[i].identity.address()
    }

    /// Each node has a public IP of its own, and all liars have one together.
    fn place_of(&self, peer: &PeerId) -> Multiaddr {
        let host = self.index.get(peer).map_or(0, |i| i + 1);
        format!("/ip4/198.51.{}.{}/tcp/4001", 100 + host / 250, host % 250).parse().unwrap()
    }

    fn start(&mut self, i: usize) {
        let node = &self.nodes[i];
        let id = node.identity.address();
        let validator =
            Arc::new(chain::Spaced::new(node.config.chain.spacing_ms, node.config.chain.validator().unwrap()));
        let rules = node.config.chain.rules(&node.config.node.network, validator).unwrap();
        let deps =
            chain::Deps { store: node.store.clone(), clock: node.clock.clone(), metrics: chain::Metrics::default() };
        let (service, chain) = chain::open(rules, deps).unwrap();
        let stop = Stop::new();
        tokio::spawn(service.run_inline(stop.child()));
        let (net, control) = net::Handle::detached(id);
        let (publishers, gossip) = self.sky.join(id);
        let ends = self.boards.ends(id, publishers.clone(), gossip);
        let parts = super::super::Parts {
            config: &node.config,
            identity: &node.identity,
            clock: &node.clock,
            registry: &mut Registry::default(),
            net: &net,
        };
        let mut tasks = Supervisor::new(stop.clone());
        let (handle, verdicts) = super::super::assemble(parts, chain, ends, &mut tasks);
        let alive = Alive { stop, tasks, net: control, publishers, verdicts, handle, since: Instant::now() };
        self.nodes[i].alive = Some(alive);
        for peer in self.nodes[i].peers.clone() {
            self.connect(i, peer);
        }
    }

    /// A line comes up, if both sides run and nobody cut it.
    fn connect(&mut self, i: usize, peer: PeerId) {
        let id = self.address(i);
        let other = self.index.get(&peer).copied();
        if self.sky.is_cut(&id, &peer) || other.is_some_and(|o| self.nodes[o].alive.is_none()) {
            return;
        }
        self.sky.connect(id, peer);
        for (a, b) in other.map(|o| (o, id)).into_iter().chain([(i, peer)]) {
            if let Some(alive) = &self.nodes[a].alive {
                alive.publishers.iter().for_each(|publisher| publisher.heard_of(b));
                alive.net.up_at(b, self.place_of(&b));
            }
        }
    }

    fn disconnect(&mut self, i: usize, peer: PeerId) {
        let id = self.address(i);
        self.sky.disconnect(id, peer);
        for (a, b) in self.index.get(&peer).map(|o| (*o, id)).into_iter().chain([(i, peer)]) {
            if let Some(alive) = &self.nodes[a].alive {
                alive.net.down(b);
            }
        }
    }

    /// Its memory is gone; what it wrote stays.
    async fn kill(&mut self, i: usize) {
        let Some(mut alive) = self.nodes[i].alive.take() else { return };
        for peer in self.nodes[i].peers.clone() {
            self.disconnect(i, peer);
        }
        self.sky.leave(&self.address(i));
        alive.stop.stop();
        assert_eq!(alive.tasks.join(Duration::from_secs(10)).await, Vec::<&str>::new(), "everything stops");
    }

    /// Cuts all lines between the first `n` nodes and the others, or brings them back. Lines to liars are on neither side.
    fn cut(&mut self, n: usize) {
        let side = (0..self.nodes.len()).map(|i| (self.address(i), i < n)).collect();
        self.sky.cut(side);
        for i in 0..self.nodes.len() {
            for peer in self.nodes[i].peers.clone() {
                let Some(other) = self.index.get(&peer).copied() else { continue };
                if i < other && self.nodes[i].alive.is_some() && self.nodes[other].alive.is_some() {
                    match self.sky.is_cut(&self.address(i), &peer) {
                        true => self.disconnect(i, peer),
                        false if !self.sky.is_connected(&self.address(i), &peer) => self.connect(i, peer),
                        false => {}
                    }
                }
            }
        }
    }

    /// Somebody who is never killed takes a transaction.
    async fn submit(&mut self) {
        self.number += 1;
        let i = self.random.random_range(0..self.nodes.len() / 12) * 12;
        let size = if self.number.is_multiple_of(7) { 60_000 } else { 300 };
        let mut transaction = vec![5; size];
        transaction[..8].copy_from_slice(&self.number.to_be_bytes());
        let Some(alive) = &self.nodes[i].alive else { return };
        let hash = alive.handle.submit(Bytes::from(transaction)).await.unwrap();
        self.submitted.push((Instant::now(), hash));
    }

    fn heads(&self) -> Vec<(usize, block::Point)> {
        let head = |(i, node): (usize, &Node)| Some((i, node.alive.as_ref()?.handle.status().head));
        self.nodes.iter().enumerate().filter_map(head).collect()
    }

    /// Time passes. Bans are carried out as the daemon does, and who is behind is counted.
    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            for i in 0..self.nodes.len() {
                let Some(alive) = &mut self.nodes[i].alive else { continue };
                let banned: Vec<_> = std::iter::from_fn(|| alive.verdicts.try_recv().ok()).collect();
                for Verdict { peer, offence, .. } in banned {
                    self.bans.push((i, peer, offence));
                    self.disconnect(i, peer);
                }
            }
            let heads = self.heads();
            let best = heads.iter().map(|(_, head)| head.height).max().unwrap_or(0);
            for (i, head) in heads {
                if self.nodes[i].alive.as_ref().is_some_and(|alive| alive.since.elapsed() >= SETTLE) {
                    *self.lags.entry(best - head.height).or_default() += 1;
                }
            }
        }
    }

    /// Time passes while transactions come.
    async fn live(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.submit().await;
            self.run(Duration::from_secs(1)).await;
        }
    }

    /// Everybody has one head within `seconds`. Blocks go on being made meanwhile.
    async fn agrees(&mut self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while self.heads().iter().map(|(_, head)| head.hash).collect::<HashSet<_>>().len() > 1 {
            assert!(Instant::now() < end, "no agreement after {seconds} s: {:?}", self.places());
            self.run(LOOK).await;
        }
    }

    /// What is under way comes to its end, and everything is as it has to be.
    async fn ends_well(&mut self) {
        self.run(Duration::from_secs(30)).await;
        self.agrees(20).await;
        self.check(Duration::from_secs(25));
    }

    /// For whoever reads a failure: head, what is final, and how far sync thinks it is.
    fn places(&self) -> Vec<String> {
        let place = |(i, node): (usize, &Node)| {
            let handle = &node.alive.as_ref()?.handle;
            let (status, progress) = (handle.status(), handle.progress());
            let progress = progress.borrow();
            Some(format!(
                "{i}: {} {:.6} final {} {:?} of {}",
                status.head.height,
                status.head.hash.to_string(),
                status.committed.height,
                progress.state,
                progress.target
            ))
        };
        self.nodes.iter().enumerate().filter_map(place).collect()
    }

    /// What has to be true of every network, whatever happened to it: honest nodes did not ban each other, nobody halted, and what was
    /// submitted more than `ago` before now is in the chain once.
    fn check(&self, ago: Duration) {
        let unjust: Vec<_> = self.bans.iter().filter(|(_, peer, _)| self.index.contains_key(peer)).collect();
        assert!(unjust.is_empty(), "honest nodes were banned: {unjust:?}");
        for node in &self.nodes {
            let Some(alive) = &node.alive else { continue };
            assert_eq!(alive.handle.status().halted, None);
        }
        let (_, head) = self.heads()[0];
        let handle = &self.nodes[0].alive.as_ref().unwrap().handle;
        let mut found: HashMap<Hash, usize> = HashMap::new();
        for height in 1..=head.height {
            let held = handle.block(BlockId::Height(height)).unwrap().unwrap();
            held.body.transactions().for_each(|t| *found.entry(Hash::of(t)).or_default() += 1);
        }
        let twice = found.values().filter(|n| **n > 1).count();
        assert_eq!(twice, 0, "transactions are in the chain twice");
        let old = self.submitted.iter().filter(|(at, _)| at.elapsed() > ago);
        let lost: Vec<_> = old.filter(|(_, hash)| !found.contains_key(hash)).collect();
        assert!(lost.is_empty(), "{} of {} transactions are not in the chain", lost.len(), self.submitted.len());
    }

    /// More than half of these liars were banned by somebody.
    fn caught(&self, liar: Liar) {
        let all = self.liars.values().filter(|l| **l == liar).count();
        let of: HashSet<_> = self.bans.iter().map(|(_, peer, _)| peer).filter(|p| self.liars[*p] == liar).collect();
        assert!(of.len() * 2 > all, "{} of {all} that are {liar:?}", of.len());
    }

    /// The share of looks at which a node was more than [`LAG`] blocks behind.
    fn behind(&self) -> f64 {
        let all: usize = self.lags.values().sum();
        let late: usize = self.lags.range(LAG + 1..).map(|(_, n)| n).sum();
        println!("looks by blocks behind: {:?}; bans: {}", self.lags, self.bans.len());
        late as f64 / all.max(1) as f64
    }
}

/// Runs a world on a clock that stands while anything is to be done.
fn in_virtual_time<F: Future<Output = ()>>(world: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(world);
}

#[test]
fn nodes_that_come_and_go_on_bad_lines_follow_one_chain() {
    in_virtual_time(async {
        let mut world = World::new(1, 48, &[]);
        world.live(30).await;
        for round in 0..20 {
            // Never a producer; every fourth one for more than the commit depth.
            let victims: Vec<_> = (0..3).map(|_| world.random.random_range(0..4) * 12 + 1 + round % 11).collect();
            for i in &victims {
                world.kill(*i).await;
            }
            world.live(if round % 4 == 0 { 40 } else { 8 }).await;
            for i in &victims {
                if world.nodes[*i].alive.is_none() {
                    world.start(*i);
                }
            }
            world.live(10).await;
        }
        world.ends_well().await;
        assert_eq!(world.bans, []);
        assert!(world.behind() < 0.01, "{:?}", world.lags);
    });
}

#[test]
fn liars_in_every_protocol_do_not_keep_honest_nodes_from_the_chain() {
    in_virtual_time(async {
        let liars: Vec<_> = (0..16).map(|i| Liar::ALL[i % Liar::ALL.len()]).collect();
        let mut world = World::new(2, 36, &liars);
        world.live(180).await;
        // One comes back after more than the commit depth, among them.
        world.kill(5).await;
        world.live(60).await;
        world.start(5);
        world.live(300).await;
        world.ends_well().await;
        world.caught(Liar::Garbage);
        assert!(world.behind() < 0.01, "{:?}", world.lags);
    });
}

#[test]
fn a_crowd_at_one_place_does_not_keep_a_node_that_was_away_from_the_chain() {
    in_virtual_time(async {
        // Of each node's peers some twenty are of the crowd, and six are honest.
        let mut world = World::new(7, 24, &[Liar::Crowd; 80]);
        world.live(40).await;
        world.kill(5).await;
        world.live(60).await;
        world.start(5);
        world.live(20).await;
        let heads = world.heads();
        let best = heads.iter().map(|(_, head)| head.height).max().unwrap_or(0);
        assert!(heads[5].1.height + LAG >= best, "{:?}", world.places());
        world.ends_well().await;
        assert!(world.behind() < 0.01, "{:?}", world.lags);
    });
}

#[test]
fn hundreds_of_nodes_with_liars_among_them_that_come_and_go_and_are_cut_apart_follow_one_chain() {
    in_virtual_time(async {
        let liars: Vec<_> = (0..40).map(|i| Liar::ALL[i % Liar::ALL.len()]).collect();
        let mut world = World::new(4, 204, &liars);
        world.live(40).await;
        for round in 0..2 {
            let victims: Vec<_> = (0..10).map(|_| world.random.random_range(0..17) * 12 + 1 + round).collect();
            for i in &victims {
                world.kill(*i).await;
            }
            world.cut(if round % 2 == 0 { 60 } else { 150 });
            world.live(12).await;
            world.cut(0);
            for i in &victims {
                if world.nodes[*i].alive.is_none() {
                    world.start(*i);
                }
            }
            world.live(25).await;
        }
        world.ends_well().await;
        world.caught(Liar::Garbage);
    });
}

#[test]
fn a_network_cut_for_longer_raises_the_alarm_and_nobody_gives_up_what_is_final() {
    in_virtual_time(async {
        let mut world = World::new(5, 48, &[]);
        world.live(40).await;
        world.cut(24);
        world.live(60).await;
        let committed = |world: &World| -> Vec<block::Point> {
            world.nodes.iter().map(|node| node.alive.as_ref().unwrap().handle.status().committed).collect()
        };
        let before = committed(&world);
        world.cut(0);
        world.run(Duration::from_secs(120)).await;
        for (i, point) in before.iter().enumerate() {
            let handle = &world.nodes[i].alive.as_ref().unwrap().handle;
            let still = handle.block(BlockId::Height(point.height)).unwrap().unwrap();
            assert_eq!(still.hash, point.hash, "node {i} keeps what is final");
            let other = |peer: &PeerId| world.index.get(peer).is_some_and(|o| (*o < 24) != (i < 24));
            let others = world.nodes[i].peers.iter().filter(|peer| other(peer)).count();
            let (status, all) = (handle.status(), world.nodes[i].peers.len());
            assert!(others == 0 || status.conflicting_peers > 0 || status.halted.is_some(), "node {i} of {others}");
            assert!(status.halted.is_none() || others * 2 >= all, "node {i} stopped for {others} of {all}");
        }
        assert!(world.nodes.iter().any(|n| n.alive.as_ref().unwrap().handle.status().halted.is_some()));
        assert!(world.bans.is_empty(), "{:?}", world.bans);
    });
}

#[test]
fn a_network_cut_for_less_than_the_commit_depth_heals() {
    in_virtual_time(async {
        let mut world = World::new(3, 36, &[]);
        world.live(40).await;
        for n in [6, 18, 30] {
            world.cut(n);
            world.live(15).await;
            world.cut(0);
            world.agrees(30).await;
            world.live(30).await;
        }
        world.ends_well().await;
        assert_eq!(world.bans, []);
    });
}
