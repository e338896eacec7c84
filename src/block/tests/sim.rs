//! A hundred chains that flood their blocks to each other with delays and losses, and a network that is cut in two for less and for
//! more than the commit depth. Time is virtual; what happens follows from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use super::Random;
use crate::{
    block::{
        Block, Body, Header, Origin, VerifiedHeader,
        chain::{ChainError, ChainStore, Core, ForkChoice, Longest, Memory, Norn, Outcome},
        kit::{self, Maker},
        purpose,
    },
    primitives::{Hash, UnixMillis},
};

const NODES: usize = 100;
const NEIGHBOURS: usize = 6;
const PRODUCERS: usize = 6;
const DEPTH: u64 = 6;
const INTERVAL_MS: u64 = 2000;
const GREET_MS: u64 = 3000;
/// Of a hundred messages.
const LOST: usize = 4;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Somebody's block arrives.
    Block { to: usize, from: usize, hash: Hash },
    /// Somebody asks for a block.
    Ask { to: usize, from: usize, hash: Hash },
    /// A node compares itself with a neighbour.
    Greet { node: usize },
    /// A producer's turn, unless its head has changed since.
    Produce { node: usize, head: Hash },
}

struct Node {
    core: Core,
    store: Arc<Memory>,
    maker: Maker,
    neighbours: Vec<usize>,
}

struct World {
    random: Random,
    now: UnixMillis,
    nodes: Vec<Node>,
    /// Every block ever made: a message names it, and the receiver gets it if the sender has it.
    blocks: BTreeMap<Hash, Block>,
    headers: BTreeMap<Hash, VerifiedHeader>,
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    number: u64,
    /// Nodes below are cut off from the others.
    cut: usize,
    producing: bool,
}

impl World {
    fn new(seed: u64, choice: &Arc<dyn ForkChoice>) -> Self {
        let mut random = Random(seed);
        let mut neighbours = vec![Vec::new(); NODES];
        for a in 0..NODES {
            while neighbours[a].len() < NEIGHBOURS {
                let b = random.below(NODES);
                if a != b && !neighbours[a].contains(&b) {
                    neighbours[a].push(b);
                    neighbours[b].push(a);
                }
            }
        }
        let node = |(number, neighbours)| {
            let store = Arc::new(Memory::default());
            let core = Core::open(kit::rules_with(DEPTH, choice.clone()), store.clone(), kit::NOW).unwrap();
            Node { core, store, maker: Maker::new(number), neighbours }
        };
        let nodes = (0u64..).zip(neighbours).map(node).collect();
        let genesis = kit::genesis();
        let mut world = Self {
            random,
            now: kit::NOW,
            nodes,
            blocks: BTreeMap::from([(genesis.hash(), genesis)]),
            headers: BTreeMap::new(),
            events: BinaryHeap::new(),
            number: 0,
            cut: 0,
            producing: true,
        };
        for node in 0..NODES {
            let first = u64::try_from(world.random.below(3000)).unwrap();
            world.later(first, What::Greet { node });
        }
        (0..PRODUCERS).for_each(|i| world.plan(producer(i)));
        world
    }

    fn later(&mut self, ms: u64, what: What) {
        self.number += 1;
        self.events.push(Reverse((self.now.0 + ms, self.number, what)));
    }

    fn send(&mut self, from: usize, to: usize, what: What) {
        let apart = (from < self.cut) != (to < self.cut) && self.cut > 0;
        if !apart && self.random.below(100) >= LOST {
            let delay = 10 + u64::try_from(self.random.below(70)).unwrap();
            self.later(delay, what);
        }
    }

    fn plan(&mut self, node: usize) {
        let head = self.nodes[node].core.head().hash;
        let wait = INTERVAL_MS + u64::try_from(self.random.below(400)).unwrap();
        self.later(wait, What::Produce { node, head });
    }

    fn run(&mut self, ms: u64) {
        let end = self.now.0 + ms;
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, what))) = self.events.pop() else { break };
            self.now = UnixMillis(at);
            match what {
                What::Block { to, from, hash } => self.take(to, from, hash),
                What::Ask { to, from, hash } => {
                    if self.nodes[to].store.header(&hash).unwrap().is_some() {
                        self.send(to, from, What::Block { to: from, from: to, hash });
                    }
                }
                What::Greet { node } => self.greet(node),
                What::Produce { node, head } if self.producing && self.nodes[node].core.head().hash == head => {
                    self.produce(node, head);
                }
                What::Produce { .. } => {}
            }
        }
        self.now = UnixMillis(end);
    }

    fn take(&mut self, to: usize, from: usize, hash: Hash) {
        let block = self.blocks[&hash].clone();
        let origin = Origin::Peer(self.nodes[from].maker.address());
        let before = self.nodes[to].core.head();
        match self.nodes[to].core.import(block, origin, self.now) {
            Ok((Outcome::Imported { .. }, _)) => self.pass_on(to, from, hash),
            Ok((Outcome::Orphan { missing }, _)) => {
                self.send(to, from, What::Ask { to: from, from: to, hash: missing });
            }
            Ok(_) | Err(ChainError::Halted(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if self.nodes[to].core.head() != before && (0..PRODUCERS).any(|i| producer(i) == to) {
            self.plan(to);
        }
    }

    fn pass_on(&mut self, node: usize, but: usize, hash: Hash) {
        for to in self.nodes[node].neighbours.clone() {
            if to != but {
                self.send(node, to, What::Block { to, from: node, hash });
            }
        }
    }

    fn produce(&mut self, node: usize, head: Hash) {
        let parent = self.blocks[&head].clone();
        let count = self.random.below(3);
        let transactions: Vec<Vec<u8>> = (0..count).map(|_| self.random.next().to_be_bytes().to_vec()).collect();
        let body = Body::new(&transactions).unwrap();
        let after = self.now.0.saturating_sub(parent.header().time.0).max(1);
        let header: Header = self.nodes[node].maker.header(&parent, after, &body);
        let verified = VerifiedHeader::new(header.clone(), &purpose(&kit::network())).unwrap();
        let block = Block::trusted(header, body);
        self.headers.insert(block.hash(), verified);
        self.blocks.insert(block.hash(), block.clone());
        self.take(node, node, block.hash());
    }

    /// What SHAKEHAND brings: the other's head is fetched, or it proves that it is on another branch for good.
    fn greet(&mut self, node: usize) {
        self.later(GREET_MS, What::Greet { node });
        let neighbours = &self.nodes[node].neighbours;
        let other = neighbours[self.random.below(neighbours.len())];
        if (other < self.cut) != (node < self.cut) && self.cut > 0 {
            return;
        }
        self.nodes[node].core.tick(self.now).unwrap();
        let (head, mine) = (self.nodes[other].core.head(), self.nodes[node].core.committed());
        let theirs = self.nodes[other].store.hash_at(mine.height).unwrap();
        if theirs.is_some_and(|hash| hash != mine.hash) {
            let headers = self.proof(node, other);
            let told = self.nodes[node].neighbours.iter().map(|n| self.nodes[*n].maker.address()).collect();
            let peer = self.nodes[other].maker.address();
            self.nodes[node].core.conflict(peer, &headers, told, self.now).unwrap();
        } else if self.nodes[node].store.header(&head.hash).unwrap().is_none() {
            self.send(node, other, What::Ask { to: other, from: node, hash: head.hash });
        }
    }

    fn proof(&self, node: usize, other: usize) -> Vec<VerifiedHeader> {
        let hashes = |n: usize| self.nodes[n].store.hashes(0, 10_000).unwrap();
        let (mine, theirs) = (hashes(node), hashes(other));
        let common = mine.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        theirs[common..].iter().map(|hash| self.headers[hash].clone()).collect()
    }

    /// Production ends, and everything on its way arrives.
    fn settle(&mut self) {
        self.producing = false;
        self.run(30_000);
    }

    fn heads(&self, nodes: std::ops::Range<usize>) -> BTreeMap<Hash, usize> {
        let mut heads = BTreeMap::new();
        for node in &self.nodes[nodes] {
            *heads.entry(node.core.head().hash).or_default() += 1;
        }
        heads
    }
}

/// Spread over both sides of every cut.
fn producer(i: usize) -> usize {
    i * NODES / PRODUCERS + 3
}

fn rules() -> [Arc<dyn ForkChoice>; 2] {
    [Arc::new(Norn), Arc::new(Longest)]
}

#[test]
fn every_node_has_the_same_chain_in_spite_of_losses_and_a_short_cut() {
    for (seed, choice) in (1..).zip(rules()) {
        let mut world = World::new(seed, &choice);
        world.run(20_000);
        world.cut = NODES / 2;
        world.run(7_000);
        world.cut = 0;
        world.run(20_000);
        world.settle();
        assert_eq!(world.heads(0..NODES).len(), 1, "seed {seed}: {:?}", world.heads(0..NODES));
        let first = &world.nodes[0];
        assert!(first.core.committed().height > 8, "{:?}", first.core.committed());
        let chain = first.store.hashes(0, 1000).unwrap();
        for node in &world.nodes {
            assert_eq!(node.core.committed(), first.core.committed());
            assert_eq!(node.store.hashes(0, 1000).unwrap(), chain);
            assert_eq!(node.core.status().halted, None);
        }
        // Forks were met, or this shows nothing.
        assert!(world.blocks.len() > chain.len() + 2, "{} blocks, {} in the chain", world.blocks.len(), chain.len());
    }
}

#[test]
fn a_long_cut_is_noticed_everywhere_the_smaller_side_stops_and_nobody_changes_what_is_final() {
    for (seed, choice) in (3..).zip(rules()) {
        let mut world = World::new(seed, &choice);
        world.run(20_000);
        let small = NODES / 4;
        world.cut = small;
        world.run(60_000);
        assert_eq!(world.heads(0..NODES).len().min(2), 2, "seed {seed}: two sides");
        let top = |world: &World| world.nodes[small..].iter().map(|n| n.core.head().height).max().unwrap();
        let before_heal = top(&world);
        let finals: Vec<_> = world.nodes.iter().map(|n| n.core.committed()).collect();
        world.cut = 0;
        // Time for each to compare itself with most of its neighbours.
        world.run(180_000);
        let (mut halted, mut against) = (0, 0);
        for (i, node) in world.nodes.iter().enumerate() {
            let final_here = finals[i];
            let differs =
                |n: &&usize| world.nodes[**n].store.hash_at(final_here.height).unwrap() != Some(final_here.hash);
            let contradict = node.neighbours.iter().filter(differs).count();
            let stopped = node.core.status().halted.is_some();
            halted += usize::from(stopped);
            against += usize::from(contradict > 0);
            // A neighbour or two may not have been met yet.
            let (most, told) = (contradict.saturating_sub(2) * 2, node.neighbours.len());
            assert!(stopped || most < told, "seed {seed}: node {i} goes on against {contradict} of {told}");
            assert!(!stopped || contradict * 2 >= told, "seed {seed}: node {i} stopped for {contradict} of {told}");
        }
        assert!(halted * 2 > small && halted <= small + NODES / 10, "seed {seed}: {halted} stopped");
        let alarmed = world.nodes.iter().filter(|n| n.core.conflicting_peers() > 0).count();
        assert!(alarmed * 10 >= against * 9, "seed {seed}: {alarmed} of {against} noticed it");
        for (node, before) in world.nodes.iter().zip(finals) {
            assert_eq!(node.store.hash_at(before.height).unwrap(), Some(before.hash), "what is final stays");
        }
        assert!(top(&world) > before_heal + 20, "seed {seed}: the larger side goes on");
    }
}
