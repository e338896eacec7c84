//! Broadcast of blocks against gossipsub that carries whole bodies: in one process, loopback TCP with Noise and Yamux, on the same random
//! graphs, with the same checks and the same chain in memory. Nodes have 16 neighbours, or all when there are no more.
//!
//! *Copies* are all bytes that all nodes received, whatever they were for, divided by the bodies that had to be received; 1.0 is the
//! limit. *Last* is the time from the producer's import until the last node has imported the block.
//!
//! Defends: at most 1.6 copies at 1 MiB and 2.5 at 100 KB; the last node not later than with gossipsub's own configuration, at
//! p50 and at p99.
//!
//! `NODES=16,50` limits the sizes of the network.
//!
//! Beside gossipsub's default (mesh of 6, the author floods) stand: flooding (everybody to all neighbours), a mesh of the root of the
//! neighbours with IDONTWANT, and pulling whole bodies from whoever announces the hash, which is ours without passing on pieces.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinSet};
use vos::{
    block::{
        Block, Body, Origin, broadcast, chain,
        chain::Chain,
        kit::{self, Maker},
        penalty::Penalties,
        sync::{self, State},
        trace::Trace,
    },
    identity::Identity,
    net::{self, dht, pubsub::Topics, rpc::Protocols},
    primitives::{ManualClock, Multiaddr, NetworkId, SystemClock},
    runtime::{Stop, Supervisor},
    store::Store,
    telemetry::{Registry, encode},
    test_util::{Book, Node},
};

use crate::measure::{bound, report};

mod gossip;
mod pull;

const DEGREE: usize = 16;
const MIB: usize = 1024 * 1024;
/// Blocks before it counts: windows grow, and streams are opened. Each block takes other edges of the graph, so with few of them
/// most requests of the first blocks that count would still open one.
const WARM: usize = 20;

/// What is measured: nodes of some kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Default,
    Flood,
    Root,
    Pull,
    Ours,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "gossipsub, default",
            Self::Flood => "gossipsub, flooding",
            Self::Root => "gossipsub, root of n, IDONTWANT",
            Self::Pull => "announced, pulled whole",
            Self::Ours => "ours",
        }
    }
}

/// A node of any kind.
struct Peer {
    addr: Multiaddr,
    chain: Chain,
    registry: Arc<std::sync::Mutex<Registry>>,
    /// Dials an addr.
    dial: mpsc::Sender<Multiaddr>,
    _keep: Box<dyn std::any::Any + Send>,
}

impl Peer {
    /// Bytes that came in so far, by the transport's own count.
    fn received(&self) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap()).unwrap();
        let inbound = |l: &&str| l.contains("bandwidth_bytes_total{") && l.contains("Inbound");
        text.lines().filter(inbound).filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

pub(super) fn memory_chain() -> Chain {
    kit::chain_with(kit::rules(64), Arc::new(chain::Memory::default()), Arc::new(ManualClock::new(kit::NOW)))
}

/// The swarm of a node of our own kind, with what `wire` adds.
async fn swarm<T>(
    store: &Store,
    wire: impl FnOnce(&mut Protocols, &mut Topics) -> T,
) -> (net::Handle, Vec<Multiaddr>, Arc<std::sync::Mutex<Registry>>, Supervisor, T) {
    let network = NetworkId::default();
    let (mut protocols, mut topics) = (Protocols::new(network.clone()), Topics::new(network.clone()));
    let wired = wire(&mut protocols, &mut topics);
    let mut registry = Registry::default();
    let deps = net::Deps {
        identity: Identity::generate(),
        network,
        // Nobody is found by chance: the graph is what it is.
        config: net::Config { dht: net::DhtMode::Client, ..Node::config() },
        book: Arc::new(Book::default()),
        protocols,
        topics,
        policy: Arc::new(dht::Nothing),
        store: store.clone(),
        clock: Arc::new(SystemClock),
    };
    let (mut network, handle, _) = net::build(deps, &mut registry).expect("the network builds");
    let addrs = network.listen().await.expect("loopback can be listened on");
    let mut tasks = Supervisor::new(Stop::new());
    tasks.spawn("rpc", network.take_server());
    tasks.spawn("swarm", |stop| network.run(stop));
    (handle, addrs, Arc::new(std::sync::Mutex::new(registry)), tasks, wired)
}

fn dialler(handle: net::Handle) -> mpsc::Sender<Multiaddr> {
    let (dial, mut dials) = mpsc::channel::<Multiaddr>(64);
    tokio::spawn(async move {
        while let Some(addr) = dials.recv().await {
            if let Err(error) = handle.connect(addr).await {
                println!("a dial failed: {error}");
            }
        }
    });
    dial
}

async fn ours(store: &Store) -> Peer {
    let settings = broadcast::Settings { max_body_bytes: 4 * MIB, degree: 0, peers: DEGREE, max_peers: 300 };
    let wire = |p: &mut Protocols, t: &mut Topics| broadcast::Ends::new(&settings, p, t);
    let (net, addrs, registry, mut tasks, ends) = swarm(store, wire).await;
    let (sync, state, claims) = sync::Handle::detached(State::Synced);
    let (penalties, verdicts) = Penalties::new();
    let chain = memory_chain();
    let deps = broadcast::Deps {
        chain: chain.clone(),
        sync,
        net: net.clone(),
        network: kit::network(),
        clock: Arc::new(ManualClock::new(kit::NOW)),
        penalties,
        trace: Trace::default(),
        ends,
        metrics: broadcast::Metrics::default(),
    };
    let (service, handle) = broadcast::new(settings, deps);
    tasks.spawn("broadcast", |stop| service.run(stop));
    let keep = Box::new((tasks, handle, state, claims, verdicts));
    Peer { addr: addrs[0].clone(), chain, registry, dial: dialler(net), _keep: keep }
}

/// Edges of a connected random graph: a ring, and others by chance up to the degree.
fn graph(n: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut edges: HashSet<(usize, usize)> = (0..n).map(|i| (i, (i + 1) % n)).collect();
    let all = n * (n - 1) / 2;
    let want = (n * DEGREE / 2).min(all);
    let mut degree = vec![2; n];
    let mut misses = 0;
    while edges.len() < want && misses < 10_000 {
        let (a, b) = (random.random_range(0..n), random.random_range(0..n));
        let new = a != b && !edges.contains(&(a, b)) && !edges.contains(&(b, a));
        if new && degree[a] < DEGREE && degree[b] < DEGREE {
            edges.insert((a, b));
            degree[a] += 1;
            degree[b] += 1;
        } else {
            misses += 1;
        }
    }
    let mut edges: Vec<_> = edges.into_iter().collect();
    edges.sort_unstable();
    edges
}

/// Blocks one after another, each with a body of about `bytes` bytes.
fn blocks(count: usize, bytes: usize) -> Vec<Block> {
    const TRANSACTION: usize = 10_000;
    let mut random = StdRng::seed_from_u64(bytes as u64);
    let (maker, mut all) = (Maker::new(1), Vec::<Block>::new());
    let genesis = kit::genesis();
    for _ in 0..count {
        let transactions: Vec<Vec<u8>> = (0..bytes / TRANSACTION)
            .map(|_| {
                let mut t = vec![0; TRANSACTION - 4];
                random.fill(&mut t[..]);
                t
            })
            .collect();
        let body = Body::new(&transactions).unwrap();
        let parent = all.last().unwrap_or(&genesis);
        let header = maker.header(parent, 2000, &body);
        all.push(maker.sign(header, body));
    }
    all
}

#[derive(Clone, Debug)]
struct Result {
    copies: f64,
    times: Vec<Duration>,
}

impl Result {
    fn at(&self, part: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times[((times.len() - 1) as f64 * part).round() as usize]
    }
}

async fn until_held(chain: Chain, height: u64) -> Instant {
    let mut status = chain.watch();
    loop {
        if status.borrow_and_update().head.height >= height {
            return Instant::now();
        }
        status.changed().await.unwrap();
    }
}

/// Runs one kind of nodes.
async fn run_kind(kind: Kind, n: usize, bytes: usize, count: usize) -> Result {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut peers = Vec::new();
    for _ in 0..n {
        peers.push(match kind {
            Kind::Ours => ours(&store).await,
            Kind::Pull => pull::node(&store).await,
            Kind::Default | Kind::Flood | Kind::Root => gossip::node(kind).await,
        });
    }
    for (a, b) in graph(n, n as u64) {
        peers[a].dial.send(peers[b].addr.clone()).await.unwrap();
    }
    // For connections, subscriptions and meshes: some heartbeats of a second each.
    tokio::time::sleep(Duration::from_secs(if n > 50 { 12 } else { 8 })).await;
    let all = blocks(WARM + count, bytes);
    let (mut times, mut before) = (Vec::new(), 0);
    for (i, block) in all.iter().enumerate() {
        if i == WARM {
            before = peers.iter().map(Peer::received).sum();
        }
        let mut waiting = JoinSet::new();
        for peer in &peers {
            waiting.spawn(until_held(peer.chain.clone(), block.header().height));
        }
        let producer = &peers[i * 7 % n];
        let start = Instant::now();
        producer.chain.import(block.clone(), Origin::Local).await.unwrap();
        let mut last = start;
        let all = async {
            while let Some(at) = waiting.join_next().await {
                last = last.max(at.unwrap());
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), all).await.is_err() {
            println!("    {}: a block was not everywhere after 60 s", kind.name());
        }
        if i >= WARM {
            times.push(last - start);
        }
        // What is still on its way belongs to this block.
        tokio::time::sleep(Duration::from_millis(300) + (last - start) / 2).await;
    }
    let received: u64 = peers.iter().map(Peer::received).sum::<u64>() - before;
    let body = all[0].body().bytes().len();
    Result { copies: received as f64 / (count * (n - 1) * body) as f64, times }
}

pub(crate) async fn run() {
    let kinds = [Kind::Default, Kind::Flood, Kind::Root, Kind::Pull, Kind::Ours];
    let only: Vec<usize> = std::env::var("NODES")
        .ok()
        .map_or_else(|| vec![16, 50, 100], |v| v.split(',').filter_map(|n| n.parse().ok()).collect());
    for n in only {
        for (name, bytes, limit) in [("100 KB", 100_000, 2.5), ("1 MiB", MIB, 1.6)] {
            let mut results = Vec::new();
            for kind in kinds {
                // With 20 blocks the slowest one would be the p99: those that are judged by it have a hundred.
                let judged = matches!(kind, Kind::Default | Kind::Ours);
                let count = match (judged, bytes == MIB) {
                    (true, false) => 100,
                    (false, true) if n > 50 => 8,
                    _ => 20,
                };
                let result = run_kind(kind, n, bytes, count).await;
                println!(
                    "broadcast, {n} nodes, {name}: {:<32} copies {:.2}   last p50 {:?} p99 {:?}",
                    kind.name(),
                    result.copies,
                    result.at(0.5),
                    result.at(0.99),
                );
                results.push(result);
            }
            let (default, ours) = (&results[0], results.last().unwrap());
            let what = format!("broadcast, {n} nodes, {name}: copies");
            bound(
                &what,
                &format!("{:.2} (default {:.2})", ours.copies, default.copies),
                ours.copies <= limit,
                &limit.to_string(),
            );
            for (text, part) in [("p50", 0.5), ("p99", 0.99)] {
                let (a, b) = (ours.at(part), default.at(part));
                let ratio = b.as_secs_f64() / a.as_secs_f64();
                let what = format!("broadcast, {n} nodes, {name}: last {text} (gossipsub, default)");
                report(&what, &format!("{a:?}"), &format!("{b:?}"), ratio, 1.0);
            }
        }
    }
}
