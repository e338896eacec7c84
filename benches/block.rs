//! The chain. Defends: 100000 empty blocks are checked and imported at 10000 a second and at no less than 0.6 of what checking
//! their signatures alone takes on all cores; where the chain stands is told in 5 us; what is written for a byte of a block does not
//! grow with the chain.
//!
//! Blocks come as in catching up: batches of 128, each checked off the chain's thread, a few at a time, imported in order. The store is
//! RocksDB, and everything final is synced. Printed beside it: rows for each synced batch, and what one block alone costs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use vos::{
    block::{
        Block, ChainConfig, DEFAULT_MAX_BODY_BYTES, Header, Origin,
        chain::{self, Anything, Chain, Metrics, Outcome, Rocks},
        kit::{self, Maker},
        purpose,
    },
    primitives::SystemClock,
    runtime::Stop,
    store::Store,
};

use crate::measure::{bound, median, median_f, report, written};

const BLOCKS: usize = 100_000;
/// Blocks of one answer to PULL_BLOCK.
const BATCH: usize = 128;
/// Batches that are checked or wait at once.
const AHEAD: usize = 8;
const ROUNDS: usize = 3;
const QUERIES: usize = 100_000;
/// Blocks with bodies, and what one holds.
const FULL: usize = 5000;
const BODY: usize = 10 * 1024;
/// Blocks imported one by one.
const SINGLE: usize = 300;
/// Large blocks imported one by one, in each third of a growing chain.
const LARGE: usize = 200;
const LARGE_BODY: usize = 512 * 1024;

struct Opened {
    chain: Chain,
    rocks: Rocks,
    store: Store,
    metrics: Metrics,
    stop: Stop,
    task: tokio::task::JoinHandle<Result<(), chain::Ended>>,
    _dir: tempfile::TempDir,
}

fn open() -> Opened {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(dir.path()).expect("a fresh store opens");
    let (rocks, metrics, stop) = (Rocks::open(store.clone()).expect("a fresh store"), Metrics::default(), Stop::new());
    let rules = ChainConfig::default().rules(&kit::network(), Arc::new(Anything)).expect("the defaults are good");
    let deps = chain::Deps { store: Arc::new(rocks.clone()), clock: Arc::new(SystemClock), metrics: metrics.clone() };
    let (service, chain) = chain::open(rules, deps).expect("a fresh chain opens");
    let task = tokio::spawn(service.run(stop.clone()));
    Opened { chain, rocks, store, metrics, stop, task, _dir: dir }
}

impl Opened {
    async fn close(self) {
        self.stop.stop();
        self.task.await.expect("no panic").expect("it ends when told");
        self.store.close();
    }
}

type Encoded = (Header, Bytes);

fn encoded(blocks: &[Block]) -> Vec<Vec<Encoded>> {
    let one = |b: &Block| (b.header().clone(), b.body().bytes().clone());
    blocks.chunks(BATCH).map(|part| part.iter().map(one).collect()).collect()
}

fn check(part: Vec<Encoded>) -> Vec<Block> {
    let network = purpose(&kit::network());
    let one = |(header, body)| Block::check(header, body, DEFAULT_MAX_BODY_BYTES, &network).expect("a good block");
    part.into_iter().map(one).collect()
}

/// Checks signatures and does nothing else, on all cores.
async fn signatures(parts: &[Vec<Encoded>]) -> f64 {
    let start = Instant::now();
    let network = purpose(&kit::network());
    let jobs = parts.iter().cloned().map(|part| {
        let network = network.clone();
        let good = move || part.iter().all(|(header, _)| header.verify(&network).is_ok());
        async move { tokio::task::spawn_blocking(good).await.expect("no panic") }
    });
    let all: Vec<bool> = stream::iter(jobs).buffered(AHEAD).collect().await;
    assert!(all.into_iter().all(|good| good));
    BLOCKS as f64 / start.elapsed().as_secs_f64()
}

/// Checks and imports, from the first batch until the last is final and synced but for the commit depth.
async fn catch_up(chain: &Chain, parts: &[Vec<Encoded>]) -> f64 {
    let start = Instant::now();
    let jobs = parts
        .iter()
        .cloned()
        .map(|part| async move { tokio::task::spawn_blocking(move || check(part)).await.expect("no panic") });
    let imports = stream::iter(jobs).buffered(AHEAD).map(|blocks| {
        let count = blocks.len();
        async move {
            let outcome = chain.import_segment(blocks, Origin::File).await.expect("the store works");
            assert_eq!((outcome.held, outcome.stopped), (count, None));
        }
    });
    // The next batch waits in the queue while one is written.
    imports.buffered(2).collect::<()>().await;
    assert_eq!(chain.status().head.height, BLOCKS as u64);
    BLOCKS as f64 / start.elapsed().as_secs_f64()
}

async fn empty_blocks(blocks: &[Block]) {
    let parts = encoded(blocks);
    let (mut ours, mut bare, mut only, mut served) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut shape = String::new();
    for _ in 0..ROUNDS {
        bare.push(signatures(&parts).await);
        let node = open();
        let rows = node.rocks.rows();
        let synced = node.metrics.synced_writes.get();
        ours.push(catch_up(&node.chain, &parts).await);
        let start = Instant::now();
        for from in (1..=BLOCKS).step_by(BATCH) {
            assert!(!node.chain.range(from as u64, BATCH, 2 << 20).expect("the store works").is_empty());
        }
        served.push(BLOCKS as f64 / start.elapsed().as_secs_f64());
        let (rows, synced) = (node.rocks.rows() - rows, node.metrics.synced_writes.get() - synced);
        let per = |n: u64| n as f64 / synced as f64;
        shape = format!(
            "{synced} synced batches, {:.0} blocks and {:.0} rows each; {:.1} MiB on disk",
            per(node.metrics.committed_blocks.get()),
            per(rows),
            node.store.disk_bytes() as f64 / 1_048_576.0
        );
        node.close().await;
        let node = open();
        let start = Instant::now();
        for part in blocks.chunks(BATCH) {
            node.chain.import_segment(part.to_vec(), Origin::File).await.expect("the store works");
        }
        only.push(BLOCKS as f64 / start.elapsed().as_secs_f64());
        node.close().await;
    }
    let (ours, bare, only, served) = (median_f(ours), median_f(bare), median_f(only), median_f(served));
    let what = format!(
        "block, {BLOCKS} empty blocks checked and imported in batches of {BATCH} (signatures alone, all cores)"
    );
    report(&what, &format!("{ours:.0}/s"), &format!("{bare:.0}/s"), ours / bare, 0.6);
    bound("block, the same against its floor", &format!("{ours:.0}/s"), ours >= 10_000.0, "at least 10000/s");
    println!(
        "    {shape}\n    import alone, one batch after another, checked before: {only:.0}/s\n    read back for a peer: {served:.0}/s"
    );
}

/// Blocks as they come when nobody is behind: each commits one.
async fn single(blocks: &[Block]) {
    let node = open();
    node.chain.import_segment(blocks[..50].to_vec(), Origin::File).await.expect("the store works");
    let (rows, synced) = (node.rocks.rows(), node.metrics.synced_writes.get());
    let mut times = Vec::with_capacity(SINGLE);
    for block in &blocks[50..50 + SINGLE] {
        let start = Instant::now();
        let outcome = node.chain.import(block.clone(), Origin::File).await;
        times.push(start.elapsed());
        assert_eq!(outcome, Ok(Outcome::Imported { new_head: true }));
    }
    let (rows, synced) = (node.rocks.rows() - rows, node.metrics.synced_writes.get() - synced);
    println!(
        "block, one block alone, import to commit, p50\n    {:?}, {:.1} rows in each of {synced} synced batches",
        median(times),
        rows as f64 / synced as f64
    );
    node.close().await;
}

async fn queries(blocks: &[Block]) {
    let node = open();
    node.chain.import_segment(blocks[..1000].to_vec(), Origin::File).await.expect("the store works");
    let time = |query: &dyn Fn() -> bool| {
        let mut times = Vec::with_capacity(QUERIES);
        for _ in 0..QUERIES {
            let start = Instant::now();
            assert!(query());
            times.push(start.elapsed());
        }
        median(times)
    };
    let p50 = time(&|| node.chain.status().head.height == 1000);
    bound("block, where the chain stands, p50", &format!("{p50:?}"), p50 <= Duration::from_micros(5), "5 us");
    let top = blocks[999].hash();
    let known = time(&|| matches!(node.chain.known(&top), Ok(chain::Known::Held(1000))));
    let at = time(&|| node.chain.hash_at(1000) == Ok(Some(top)));
    let below = time(&|| node.chain.hash_at(500) == Ok(Some(blocks[499].hash())));
    println!("    is the head known {known:?}, hash at the head {at:?}, hash below the committed block {below:?}");
    node.close().await;
}

/// Blocks of 10 KB into the chain, and out of it as PUSH_BLOCK wants them.
async fn bodies() {
    let blocks = Maker::new(1).row(&kit::genesis(), FULL, BODY);
    let (mut into, mut out) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let node = open();
        let start = Instant::now();
        for part in blocks.chunks(BATCH) {
            node.chain.import_segment(part.to_vec(), Origin::File).await.expect("the store works");
        }
        into.push(start.elapsed());
        let start = Instant::now();
        for from in (1..=FULL).step_by(BATCH) {
            let range = node.chain.range(from as u64, BATCH, 2 << 20).expect("the store works");
            assert_eq!(range.len(), BATCH.min(FULL + 1 - from));
        }
        out.push(start.elapsed());
        node.close().await;
    }
    let rate = |times| {
        let seconds = median(times).as_secs_f64();
        format!("{:.0}/s, {:.0} MiB/s", FULL as f64 / seconds, (FULL * BODY) as f64 / 1_048_576.0 / seconds)
    };
    println!("block, {FULL} blocks of {BODY} bytes, checked before\n    in {}, out {}", rate(into), rate(out));
}

/// What the disk writes for each byte of blocks that come one by one. A store that moves old bodies again and again writes more the longer the
/// chain is.
async fn growth() {
    let (node, maker) = (open(), Maker::new(1));
    let (mut head, mut thirds) = (kit::genesis(), Vec::new());
    for _ in 0..3 {
        let before = written();
        for _ in 0..LARGE {
            let mut transaction = vec![0; LARGE_BODY];
            rand::fill(&mut transaction[..]); // which cannot be compressed
            head = maker.block(&head, 2000, &[transaction]);
            let outcome = node.chain.import(head.clone(), Origin::File).await;
            assert_eq!(outcome, Ok(Outcome::Imported { new_head: true }));
        }
        thirds.push((written() - before) as f64 / (LARGE * LARGE_BODY) as f64);
    }
    node.close().await;
    let per = |third: f64| format!("{third:.2} bytes a byte");
    let what = format!(
        "block, written for blocks of 512 KiB one by one, the last {} MiB (the first)",
        (LARGE * LARGE_BODY) >> 20
    );
    report(&what, &per(thirds[2]), &per(thirds[0]), thirds[0] / thirds[2], 0.8);
}

pub(crate) async fn run() {
    let blocks = Maker::new(1).row(&kit::genesis(), BLOCKS, 0);
    queries(&blocks).await;
    single(&blocks).await;
    growth().await;
    bodies().await;
    empty_blocks(&blocks).await;
}
