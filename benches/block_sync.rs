//! Catching up: a new node pulls a chain from four others, which share a process of their own, over loopback TCP, stores on disk,
//! every root and signature checked. Defends: 10000 blocks of 10 KB at 0.5 of what one bare libp2p stream moves from memory to memory in
//! the same run, 100000 empty blocks at 10000 a second, and a resident process within 256 MiB meanwhile.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use vos::{
    block::{
        Origin, Unverified,
        chain::{Chain, DEFAULT_COMMIT_DEPTH, Rocks},
        kit::{self, Maker, NOW},
        penalty::Penalties,
        purpose,
        sync::{
            self, Deps, Metrics, Settings,
            wire::{Headers, Pull, Shakehand},
        },
        trace::Trace,
    },
    primitives::{ManualClock, Multiaddr},
    runtime::{Stop, Supervisor},
    store::Store,
    test_util::{Node, node},
};

use crate::{
    bulk,
    measure::{bound, cpu, median, report},
};

const PEERS: usize = 4;
const BLOCKS: usize = 10_000;
const BLOCK_BYTES: usize = 10_000;
const EMPTY: usize = 100_000;
const ROUNDS: usize = 3;
/// The environment variable that sets them: a profile needs more.
const ROUNDS_KEY: &str = "ROUNDS";
/// Of the bare stream, many times.
const TRANSFER: usize = 16 << 20;
const RESIDENT: u64 = 256 << 20;
/// Asks this program to be the four peers: `<blocks>x<bytes>` follows.
pub(crate) const CHILD: &str = "--serve-chain";

/// A chain on disk.
fn chain(dir: &tempfile::TempDir) -> (Chain, Store) {
    let store = Store::open(dir.path()).expect("a fresh store opens");
    let clock = Arc::new(ManualClock::new(NOW));
    let chain = kit::chain_with(
        kit::rules(DEFAULT_COMMIT_DEPTH),
        Arc::new(Rocks::open(store.clone()).expect("a fresh store")),
        clock,
    );
    (chain, store)
}

/// A node with sync on a chain.
async fn start(chain: Chain) -> (Node, Supervisor) {
    let wire =
        |p: &mut vos::net::rpc::Protocols, _: &mut _| (p.add::<Shakehand>(), p.add::<Pull>(), p.add::<Headers>());
    let (net, (shakehand, pull, headers)) = node(Node::config(), wire).await;
    let deps = Deps {
        chain,
        net: net.handle.clone(),
        network: kit::network(),
        clock: Arc::new(ManualClock::new(NOW)),
        penalties: Penalties::new().0,
        trace: Trace::default(),
        shakehand,
        pull,
        headers,
    };
    let settings = Settings {
        depth: DEFAULT_COMMIT_DEPTH,
        max_body_bytes: 1 << 20,
        interval: Duration::from_secs(2),
        solitary: false,
    };
    let (service, _) = sync::new(settings, deps, Metrics::default());
    let mut tasks = Supervisor::new(Stop::new());
    tasks.spawn("sync", |stop| service.run(stop));
    (net, tasks)
}

fn rounds() -> usize {
    std::env::var(ROUNDS_KEY).ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The time from the first connection until a new node holds `height` blocks, and its processor time.
async fn catch_up(peers: &Peers, height: usize) -> (Duration, Duration) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (chain, store) = chain(&dir);
    let (net, _tasks) = start(chain.clone()).await;
    let (start, used) = (Instant::now(), cpu());
    // All at once, as a node that starts does.
    for connected in join_all(peers.addrs.iter().map(|addr| net.handle.connect(addr.clone()))).await {
        connected.expect("connects");
    }
    let mut status = chain.watch();
    status.wait_for(|s| s.head.height >= height as u64).await.expect("the chain runs");
    let took = (start.elapsed(), cpu() - used);
    net.stop.stop();
    drop(chain);
    store.close();
    took
}

/// What the checks of all blocks take by themselves.
fn check_alone() -> Duration {
    let row = Maker::new(1).row(&kit::genesis(), BLOCKS, BLOCK_BYTES);
    let start = Instant::now();
    // As many at once as one answer brings.
    for part in row.chunks(128) {
        let mut blocks = Unverified::new(purpose(&kit::network()));
        for block in part {
            blocks.add(block.header().clone(), block.body().bytes().clone(), 1 << 20).expect("a good block");
        }
        blocks.verify().expect("good signatures");
    }
    start.elapsed()
}

/// A process with the four peers; it ends when its input does.
struct Peers {
    process: Child,
    addrs: Vec<Multiaddr>,
}

impl Peers {
    fn start(blocks: usize, bytes: usize) -> Self {
        let me = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(me)
            .args([CHILD, &format!("{blocks}x{bytes}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let addrs = lines.take(PEERS).map(|l| l.expect("a line").parse().expect("an addr")).collect();
        Self { process, addrs }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The four peers.
pub(crate) async fn child(what: &str) {
    let (blocks, bytes) = what.split_once('x').expect("two numbers");
    let (blocks, bytes) = (blocks.parse().expect("a number"), bytes.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (chain, _) = chain(&dir);
    for part in Maker::new(1).row(&kit::genesis(), blocks, bytes).chunks(1000) {
        chain.import_segment(part.to_vec(), Origin::File).await.expect("imports");
    }
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let (net, tasks) = start(chain.clone()).await;
        println!("{}", net.addrs[0]);
        peers.push((net, tasks));
    }
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
}

pub(crate) async fn run() {
    let peak = Arc::new(AtomicU64::new(0));
    let watching = {
        let peak = peak.clone();
        tokio::spawn(async move {
            loop {
                peak.fetch_max(resident(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let full = Peers::start(BLOCKS, BLOCK_BYTES);
    let bare = bulk::start(TRANSFER).await;
    bare.send().await;
    let (mut ours, mut theirs, mut used, mut resident) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds() {
        peak.store(0, Ordering::Relaxed);
        let (time, cpu) = catch_up(&full, BLOCKS).await;
        resident = peak.load(Ordering::Relaxed).max(resident);
        ours.push(time);
        used.push(cpu);
        let start = Instant::now();
        for _ in 0..8 {
            bare.send().await;
        }
        theirs.push(start.elapsed() / 8);
    }
    let (time, bare) = (median(ours), median(theirs));
    let rate = |bytes: usize, time: Duration| bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
    let (rate, bare) = (rate(BLOCKS * BLOCK_BYTES, time), rate(TRANSFER, bare));
    report(
        "sync of 10000 blocks of 10 KB from 4 peers (one bare libp2p stream)",
        &format!("{rate:.0} MiB/s in {time:.2?}, {:.2?} of processor time", median(used)),
        &format!("{bare:.0} MiB/s"),
        rate / bare,
        0.5,
    );
    bound("the same, resident at most", &format!("{} MiB", resident >> 20), resident <= RESIDENT, "256 MiB");
    drop(full);

    let empty = Peers::start(EMPTY, 0);
    let mut times = Vec::new();
    peak.store(0, Ordering::Relaxed);
    for _ in 0..rounds() {
        times.push(catch_up(&empty, EMPTY).await.0);
    }
    let rate = EMPTY as f64 / median(times).as_secs_f64();
    bound(
        "sync of 100000 empty blocks from 4 peers",
        &format!("{rate:.0} blocks/s"),
        rate >= 10_000.0,
        "10000/s at least",
    );
    let resident = peak.load(Ordering::Relaxed);
    bound("the same, resident at most", &format!("{} MiB", resident >> 20), resident <= RESIDENT, "256 MiB");
    watching.abort();
    // Last, since its hundred megabytes would be found resident in what comes after.
    println!("roots and signatures of the 10000 blocks alone, on one core: {:.2?}", check_alone());
}
