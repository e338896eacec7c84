//! Hundreds of maps in virtual time: gossip with loss, a partition, churn and rival records; comparison heals it all.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use super::{Random, body, identity, network, prop::map_of};
use crate::{
    identity::Identity,
    map::{
        digest::Range,
        record::Record,
        state::{Map, Source},
        sync::{Answer, Ask, Initiator, respond},
    },
    primitives::Hash,
};

const NODES: usize = 220;
const NEIGHBOURS: usize = 5;
/// Milliseconds between two comparisons of a node.
const SYNC_EVERY: u64 = 3_000;

enum Happens {
    /// A record arrives by gossip.
    Gossip { to: usize, record: usize },
    /// A node signs a new record.
    Publish { node: usize },
    /// A node compares with a random one.
    Compare { node: usize },
    /// A node goes away or comes back, with an empty map.
    Churn { node: usize },
}

struct Sim {
    random: Random,
    identities: Vec<Identity>,
    maps: Vec<Map>,
    up: Vec<bool>,
    seqs: Vec<u64>,
    records: Vec<Record>,
    by_hash: HashMap<Hash, usize>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happens: HashMap<u64, Happens>,
    next: u64,
    /// Two halves do not hear each other.
    parted: bool,
    /// Of 100 gossip messages, so many are lost.
    loss: usize,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let identities: Vec<_> = (0..NODES).map(|i| identity(5000 + u64::try_from(i).unwrap())).collect();
        let mut sim = Self {
            random: Random(seed),
            maps: (0..NODES).map(|i| map_of(5000 + u64::try_from(i).unwrap())).collect(),
            up: vec![true; NODES],
            seqs: vec![1; NODES],
            identities,
            records: Vec::new(),
            by_hash: HashMap::new(),
            queue: BinaryHeap::new(),
            happens: HashMap::new(),
            next: 0,
            parted: true,
            loss: 30,
        };
        for node in 0..NODES {
            let at = sim.random.next() % 1000;
            sim.plan(at, Happens::Publish { node });
            sim.plan(at + 500, Happens::Compare { node });
        }
        sim
    }

    fn plan(&mut self, at: u64, what: Happens) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next)));
        self.happens.insert(self.next, what);
    }

    fn can_talk(&self, a: usize, b: usize) -> bool {
        a != b && self.up[a] && self.up[b] && !(self.parted && (a < NODES / 2) != (b < NODES / 2))
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, id))) = self.queue.peek().copied() {
            if at > end {
                return;
            }
            self.queue.pop();
            match self.happens.remove(&id).unwrap() {
                Happens::Gossip { to, record } => self.on_gossip(at, to, record),
                Happens::Publish { node } => self.publish(at, node),
                Happens::Compare { node } => {
                    let with = self.random.below(NODES);
                    if self.can_talk(node, with) {
                        self.compare(node, with);
                    }
                    let jitter = self.random.next() % SYNC_EVERY;
                    self.plan(at + SYNC_EVERY / 2 + jitter, Happens::Compare { node });
                }
                Happens::Churn { node } => {
                    self.up[node] = !self.up[node];
                    if self.up[node] {
                        self.maps[node] = map_of(5000 + u64::try_from(node).unwrap());
                        self.plan(at, Happens::Publish { node });
                    }
                }
            }
        }
    }

    fn publish(&mut self, at: u64, node: usize) {
        self.seqs[node] += 1;
        let of = &self.identities[node];
        let mut content = body(of, self.seqs[node]);
        content.name = format!("node-{node}");
        let mut sealed = vec![content.seal(of, &network())];
        // One in fifty signs twice and shows one half of the world another face.
        if self.random.below(50) == 0 {
            content.name.push_str("-rival");
            sealed.push(content.seal(of, &network()));
        }
        for (i, record) in sealed.into_iter().enumerate() {
            let number = self.records.len();
            self.by_hash.insert(Hash::of(record.envelope()), number);
            self.records.push(record);
            if i == 0 {
                self.maps[node].merge(&self.records[number], Source::Own);
            }
            self.gossip(at, node, number);
        }
    }

    fn gossip(&mut self, at: u64, from: usize, record: usize) {
        for _ in 0..NEIGHBOURS {
            let to = self.random.below(NODES);
            if self.can_talk(from, to) && self.random.below(100) >= self.loss {
                let delay = 10 + self.random.next() % 90;
                self.plan(at + delay, Happens::Gossip { to, record });
            }
        }
    }

    fn on_gossip(&mut self, at: u64, to: usize, record: usize) {
        if self.up[to] && self.maps[to].merge(&self.records[record], Source::News).is_change() {
            self.gossip(at, to, record);
        }
    }

    fn find(&self, envelope: &[u8]) -> Record {
        self.records[self.by_hash[&Hash::of(envelope)]].clone()
    }

    fn compare(&mut self, a: usize, b: usize) {
        let mut run = Initiator::default();
        let nobody = || map_of(1);
        let (mut ours, mut theirs) =
            (std::mem::replace(&mut self.maps[a], nobody()), std::mem::replace(&mut self.maps[b], nobody()));
        while let Some(ask) = run.next(&ours) {
            let answer = match &ask {
                Ask::Push(envelopes) => {
                    let all: Vec<Arc<[u8]>> = envelopes.clone();
                    for envelope in all {
                        theirs.merge(&self.find(&envelope), Source::Bulk);
                    }
                    Answer::Pushed(0)
                }
                ask => respond(&mut theirs, ask).unwrap(),
            };
            for envelope in run.on_answer(&mut ours, &ask, answer, false).unwrap() {
                ours.merge(&self.find(&envelope), Source::Bulk);
            }
        }
        (self.maps[a], self.maps[b]) = (ours, theirs);
    }

    fn digests(&mut self) -> Vec<Hash> {
        self.maps.iter_mut().map(|m| m.digest(Range::ALL).hash).collect()
    }
}

#[test]
fn hundreds_of_maps_agree_after_loss_partition_and_churn() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed} replays this run");
    let mut sim = Sim::new(seed);
    for _ in 0..60 {
        let (node, at) = (sim.random.below(NODES), sim.random.next() % 15_000);
        sim.plan(at, Happens::Churn { node });
        sim.plan(at + 4_000, Happens::Churn { node });
        let (node, at) = (sim.random.below(NODES), sim.random.next() % 20_000);
        sim.plan(at, Happens::Publish { node });
    }
    sim.run_until(20_000);
    let digests = sim.digests();
    assert_ne!(digests[0], digests[NODES - 1], "the halves cannot know each other");
    sim.parted = false;
    sim.up.fill(true);
    sim.run_until(60_000);
    // What everybody but its author holds of a node; the author keeps its own face of two until it signs a newer one, which
    // is the service's part.
    let key = |node: usize| crate::map::Key::of(&sim.identities[node].address()).unwrap();
    for author in 0..NODES {
        let held = |node: usize| sim.maps[node].slot(&key(author)).map(|s| (s.seq, s.hash));
        let witness = held((author + 1) % NODES);
        assert!(witness >= held(author) && witness.is_some(), "SEED={seed} the last record of {author} was lost");
        for node in (0..NODES).filter(|n| *n != author) {
            assert_eq!(held(node), witness, "SEED={seed} node {node} on author {author}");
        }
    }
}
