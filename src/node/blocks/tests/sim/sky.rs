//! What lies between the nodes: lines with latency and losses for requests, and gossip that goes from neighbour to neighbour as each of
//! them judges it. Nothing that was lost is sent again, as gossip itself would.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, time::Instant};

use super::super::super::BlockEnds;
use crate::{
    block::{
        broadcast::{
            self,
            wire::{Get, Notify},
        },
        producer::wire::GetTransaction,
        sync::wire::{Headers, Pull, Shakehand},
    },
    net::{
        pubsub::{Publisher, Received, Verdict},
        rpc::{Lines, Loopback},
    },
    primitives::{Hash, PeerId},
};

/// Topics, by their place.
pub(super) const NEW: usize = 0;
pub(super) const HASHES: usize = 1;
pub(super) const TRANSACTIONS: usize = 2;

/// Of a hundred messages on a line.
const LOST: u32 = 1;
/// Bytes a second of one line: 50 Mbit/s.
const LINE: f64 = 6.25e6;
/// How long gossip knows a message again.
const KNOWN: Duration = Duration::from_secs(120);
/// How long gossip keeps a message for its verdict.
const JUDGED: Duration = Duration::from_secs(12);
/// Messages that wait for a node.
const QUEUE: usize = 256;

pub(super) type Gossip = [mpsc::Receiver<Received>; 3];

struct Member {
    topics: [mpsc::Sender<Received>; 3],
    seen: HashMap<Hash, Instant>,
}

struct State {
    random: StdRng,
    members: HashMap<PeerId, Member>,
    lines: HashMap<PeerId, HashSet<PeerId>>,
    side: HashMap<PeerId, bool>,
}

/// The network between nodes.
pub(super) struct Sky(Mutex<State>);

impl Sky {
    pub(super) fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ 0x5ca1_ab1e);
        Self(Mutex::new(State { random, members: HashMap::new(), lines: HashMap::new(), side: HashMap::new() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    /// A node listens to all topics: what it publishes on, and what it hears.
    pub(super) fn join(self: &Arc<Self>, id: PeerId) -> ([Publisher; 3], Gossip) {
        let topics: [_; 3] = std::array::from_fn(|_| mpsc::channel(QUEUE));
        let [(a, x), (b, y), (c, z)] = topics;
        self.state().members.insert(id, Member { topics: [a, b, c], seen: HashMap::new() });
        let publishers = std::array::from_fn(|topic| {
            let (publisher, mut published) = Publisher::detached();
            let sky = self.clone();
            tokio::spawn(async move {
                while let Some(data) = published.recv().await {
                    sky.publish(topic, id, data);
                }
            });
            publisher
        });
        (publishers, [x, y, z])
    }

    pub(super) fn leave(&self, id: &PeerId) {
        self.state().members.remove(id);
    }

    pub(super) fn connect(&self, a: PeerId, b: PeerId) {
        let mut state = self.state();
        state.lines.entry(a).or_default().insert(b);
        state.lines.entry(b).or_default().insert(a);
    }

    pub(super) fn disconnect(&self, a: PeerId, b: PeerId) {
        let mut state = self.state();
        state.lines.entry(a).or_default().remove(&b);
        state.lines.entry(b).or_default().remove(&a);
    }

    pub(super) fn is_connected(&self, a: &PeerId, b: &PeerId) -> bool {
        self.state().lines.get(a).is_some_and(|lines| lines.contains(b))
    }

    /// Who is on which side of a cut; who is on neither is on both.
    pub(super) fn cut(&self, side: HashMap<PeerId, bool>) {
        self.state().side = side;
    }

    pub(super) fn is_cut(&self, a: &PeerId, b: &PeerId) -> bool {
        let state = self.state();
        state.side.get(a).zip(state.side.get(b)).is_some_and(|(a, b)| a != b)
    }

    /// Somebody publishes, to all neighbours.
    pub(super) fn publish(self: &Arc<Self>, topic: usize, from: PeerId, data: Vec<u8>) {
        self.saw(&from, topic, &data);
        self.spread(topic, from, &Arc::new(data), None);
    }

    /// Whether a message is new to a node.
    fn saw(&self, node: &PeerId, topic: usize, data: &[u8]) -> bool {
        let id = Hash::of(&[&[u8::try_from(topic).unwrap()], data].concat());
        let now = Instant::now();
        let mut state = self.state();
        let Some(member) = state.members.get_mut(node) else { return false };
        if member.seen.len() > 4096 {
            member.seen.retain(|_, at| now.duration_since(*at) < KNOWN);
        }
        let before = member.seen.get(&id).is_some_and(|at| now.duration_since(*at) < KNOWN);
        if !before {
            member.seen.insert(id, now);
        }
        !before
    }

    fn spread(self: &Arc<Self>, topic: usize, from: PeerId, data: &Arc<Vec<u8>>, but: Option<PeerId>) {
        let neighbours: Vec<_> = self.state().lines.get(&from).into_iter().flatten().copied().collect();
        for to in neighbours.into_iter().filter(|to| Some(*to) != but) {
            let Some(time) = self.travel(&from, &to, data.len()) else { continue };
            let (sky, data) = (self.clone(), data.clone());
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                sky.arrive(topic, from, to, data).await;
            });
        }
    }

    async fn arrive(self: Arc<Self>, topic: usize, from: PeerId, to: PeerId, data: Arc<Vec<u8>>) {
        if !self.is_connected(&from, &to) || !self.saw(&to, topic, &data) {
            return;
        }
        let Some(queue) = self.state().members.get(&to).map(|m| m.topics[topic].clone()) else { return };
        let (received, mut verdict) = Received::watched(from, data.to_vec());
        if queue.try_send(received).is_err() {
            return;
        }
        if let Ok(Some(Verdict::Accept)) = tokio::time::timeout(JUDGED, verdict.recv()).await {
            self.spread(topic, to, &data, Some(from));
        }
    }
}

impl Lines for Sky {
    fn travel(&self, from: &PeerId, to: &PeerId, bytes: usize) -> Option<Duration> {
        if self.is_cut(from, to) || !self.is_connected(from, to) {
            return None;
        }
        // Each line has its latency, 5 to 150 ms, the same both ways.
        let (a, b) = if from.to_bytes() < to.to_bytes() { (from, to) } else { (to, from) };
        let line = u64::from(Hash::of(&[a.to_bytes(), b.to_bytes()].concat()).0[0]) * 145 / 255 + 5;
        let mut state = self.state();
        if state.random.random_range(0..100) < LOST {
            return None;
        }
        let jitter = Duration::from_millis(state.random.random_range(0..10));
        Some(Duration::from_millis(line) + jitter + Duration::from_secs_f64(bytes as f64 / LINE))
    }
}

/// Where nodes ask each other.
#[derive(Clone)]
pub(super) struct Boards {
    pub(super) shakehand: Loopback<Shakehand>,
    pub(super) pull: Loopback<Pull>,
    pub(super) headers: Loopback<Headers>,
    pub(super) notify: Loopback<Notify>,
    pub(super) get: Loopback<Get>,
    pub(super) transaction: Loopback<GetTransaction>,
}

impl Boards {
    pub(super) fn over(sky: &Arc<Sky>) -> Self {
        Self {
            shakehand: Loopback::over(sky.clone()),
            pull: Loopback::over(sky.clone()),
            headers: Loopback::over(sky.clone()),
            notify: Loopback::over(sky.clone()),
            get: Loopback::over(sky.clone()),
            transaction: Loopback::over(sky.clone()),
        }
    }

    /// A node's ends of everything.
    pub(super) fn ends(&self, id: PeerId, publishers: [Publisher; 3], gossip: Gossip) -> BlockEnds {
        let ([new, hashes, transactions], [news, announced, told]) = (publishers, gossip);
        BlockEnds {
            broadcast: broadcast::Ends::detached(
                (new, news),
                (hashes, announced),
                self.notify.join(id),
                self.get.join(id),
            ),
            shakehand: self.shakehand.join(id),
            pull: self.pull.join(id),
            headers: self.headers.join(id),
            transactions: (transactions, told),
            transaction: self.transaction.join(id),
        }
    }
}
