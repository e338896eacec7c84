//! Messages between two whole nodes in this process, each with its store on the disk of the temporary folder.
//!
//! Defends: durable acknowledged messages (sealed, synced on both sides, receipted), 64 in flight, 256-byte bodies, at
//! least 0.3 of the bare request-response rate, which syncs and signs nothing; a message of 16 MiB at least 0.3 of the
//! throughput of a bare libp2p stream, which goes from memory to memory.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;
use vos::{
    identity::{Identity, Keyring, Opener, Purpose, SealSession, verify},
    message::{Body, Draft, Handle, SendState},
    primitives::{Clock as _, NetworkId, PeerId, SystemClock},
    store::{Batch, Family, Store, WriterStats},
    test_util::{Member, config},
};

use crate::{
    bulk,
    measure::{cpu, median, median_f, report, written},
    rpc::{self, IN_FLIGHT},
};

const BODY: usize = 256;
/// The smallest padded size of a sealed message.
const PADDED: usize = 1024;
const ROUNDS: usize = 5;
/// Messages in a round.
const BATCH: usize = 6400;
/// Requests of the baseline in a round.
const BARE: usize = 12_800;
const SERIAL: usize = 100;
/// Messages whose cryptography is measured alone.
const ALONE: usize = 2000;
const LARGE: usize = 16 << 20;
const LARGE_ROUNDS: usize = 15;
const WAIT: Duration = Duration::from_secs(60);

struct Pair {
    a: Member,
    b: Member,
}

impl Pair {
    async fn start() -> Self {
        let a = Member::start("a", config(&[])).await;
        let b = Member::start("b", config(&[a.multiaddr()])).await;
        let start = Instant::now();
        let knows = |m: &Member, other: PeerId| m.node.map.get(&other).is_some_and(|e| !e.keys.is_empty());
        while !knows(&a, b.address()) || !knows(&b, a.address()) {
            assert!(start.elapsed() < WAIT, "the two know each other");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { a, b }
    }

    fn stats(&self) -> [WriterStats; 2] {
        [self.a.node.writer_stats(), self.b.node.writer_stats()]
    }

    async fn stop(self) {
        self.b.stop().await;
        self.a.stop().await;
    }
}

/// Sends one message and waits until it is `state` at least.
async fn send(handle: &Handle, to: PeerId, body: Vec<u8>, state: SendState) {
    let draft = Draft { to, body: Body::Bytes(body), file_name: String::new(), ttl: None };
    let sent = handle.send(draft).await.expect("queued");
    let done = handle.wait(sent.id, state, WAIT).await.expect("its story is known");
    assert!(done.is_some_and(|m| m.state >= state && m.state <= SendState::Delivered), "{state:?}");
}

/// Sends one message and waits for its receipt.
async fn deliver(handle: &Handle, to: PeerId, body: Vec<u8>) {
    send(handle, to, body, SendState::Delivered).await;
}

/// Messages of `bytes` a second that reach `state` with `flight` at once.
pub(crate) async fn rate(
    handle: &Handle,
    to: PeerId,
    (bytes, total): (usize, usize),
    (flight, state): (usize, SendState),
) -> f64 {
    let start = Instant::now();
    let mut workers = FuturesUnordered::new();
    for worker in 0..flight {
        let handle = handle.clone();
        workers.push(tokio::spawn(async move {
            for _ in 0..(total + worker) / flight {
                send(&handle, to, vec![7; bytes], state).await;
            }
        }));
    }
    while let Some(done) = workers.next().await {
        done.expect("no panic");
    }
    total as f64 / start.elapsed().as_secs_f64()
}

async fn small(pair: &Pair) {
    let ours = |total| rate(&pair.a.node.message, pair.b.address(), (BODY, total), (IN_FLIGHT, SendState::Delivered));
    let bare = rpc::bare().await;
    ours(1280).await;
    rpc::rate(&bare, 1280).await;
    let (mut rates, mut ours_cpu, mut bare_cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut syncs = [(0, 0); 2];
    for _ in 0..ROUNDS {
        let (before, used) = (pair.stats(), cpu());
        let ours = ours(BATCH).await;
        ours_cpu.push((cpu() - used).as_secs_f64() / BATCH as f64 * 1e6);
        for (sum, (after, before)) in syncs.iter_mut().zip(pair.stats().into_iter().zip(before)) {
            sum.0 += after.syncs - before.syncs;
            sum.1 += after.bytes - before.bytes;
        }
        let used = cpu();
        rates.push((ours, rpc::rate(&bare, BARE).await));
        bare_cpu.push((cpu() - used).as_secs_f64() / BARE as f64 * 1e6);
    }
    let (a, b) = (median_f(rates.iter().map(|r| r.0).collect()), median_f(rates.iter().map(|r| r.1).collect()));
    let what =
        "messages of 256 bytes, durable on both sides and receipted, 64 in flight (bare libp2p-request-response)";
    report(what, &format!("{a:.0}/s"), &format!("{b:.0}/s"), a / b, 0.3);
    let sent = (BATCH * ROUNDS) as f64;
    let line = |side: &str, (syncs, bytes): (u64, u64)| {
        println!(
            "    {side}: {:.1} messages per fsync, {:.0} bytes written per message",
            sent / syncs as f64,
            bytes as f64 / sent
        );
    };
    line("sender", syncs[0]);
    line("recipient", syncs[1]);
    let (ours, theirs) = (median_f(ours_cpu), median_f(bare_cpu));
    println!("    processor time: {ours:.0} us a message on both sides together, {theirs:.0} us a bare request");
    let mut times = Vec::new();
    for _ in 0..SERIAL {
        let start = Instant::now();
        deliver(&pair.a.node.message, pair.b.address(), vec![7; BODY]).await;
        times.push(start.elapsed());
    }
    println!("    one at a time: p50 {:.2?} from send to receipt", median(times));
}

fn each(n: usize, mut work: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..n).for_each(&mut work);
    start.elapsed().as_secs_f64() / n as f64 * 1e6
}

/// What the cryptography of one message costs on one core, without store and network.
fn crypto() {
    let (now, network) = (SystemClock.now(), NetworkId::default());
    let (sender, recipient) = (Identity::generate(), Identity::generate());
    let (part, receipt) = (Purpose::new("vos-part/1", &network), Purpose::new("vos-receipt/1", &network));
    let mut ring = Keyring::default();
    ring.rotate(now);
    let key = ring.current().expect("rotated");
    let owner = recipient.address();
    let mut session = SealSession::new("bench", &owner, key).expect("a good key");
    let opener = Opener::new("bench", owner, ring);
    let plain = vec![7; PADDED];
    let (mut signatures, mut sealed) = (Vec::new(), Vec::new());
    let sign = each(ALONE, |_| signatures.push(sender.sign(&part, blake3::hash(&plain).as_bytes())));
    let seal = each(ALONE, |i| {
        let mut out = Vec::new();
        let note = |_: &[u8]| signatures[i].as_slice().try_into().expect("64 bytes");
        session.seal(b"aad", &mut out, |out| out.extend_from_slice(&plain), note).expect("sealed");
        sealed.push(BytesMut::from(&*out));
    });
    let open = each(ALONE, |i| assert!(opener.open(&key.id, b"aad", std::mem::take(&mut sealed[i])).is_ok()));
    let check = each(ALONE, |i| {
        assert!(verify(&sender.address(), &part, blake3::hash(&plain).as_bytes(), &signatures[i]));
    });
    let entries = vec![7; 40 * 32];
    let signed = recipient.sign(&receipt, &entries);
    let sign_receipt = each(ALONE, |_| assert_eq!(recipient.sign(&receipt, &entries).len(), 64));
    let check_receipt = each(ALONE, |_| assert!(verify(&owner, &receipt, &entries, &signed)));
    println!(
        "    cryptography alone, us a message on one core: sender sign {sign:.0} + seal {seal:.0}, recipient open \
         {open:.0} + verify {check:.0}; us a receipt of 32 messages: sign {sign_receipt:.0}, verify {check_receipt:.0}"
    );
}

/// Synced writes of the store alone: one caller after another, and many at once.
async fn syncs(dir: &TempDir) {
    let store = Store::open(dir.path()).expect("a fresh store opens");
    let batch = |n: u64| {
        let mut batch = Batch::new();
        batch.put(Family::Outbox, n.to_be_bytes(), vec![7; PADDED + 256]);
        batch
    };
    let start = Instant::now();
    for n in 0..500 {
        store.commit(batch(n)).await.expect("committed");
    }
    let alone = 500.0 / start.elapsed().as_secs_f64();
    let (start, before) = (Instant::now(), store.writer_stats());
    let mut workers = FuturesUnordered::new();
    for worker in 0..IN_FLIGHT as u64 {
        let store = store.clone();
        workers.push(tokio::spawn(async move {
            for n in 0..100 {
                store.commit(batch(1000 * (worker + 1) + n)).await.expect("committed");
            }
        }));
    }
    while let Some(done) = workers.next().await {
        done.expect("no panic");
    }
    let total = (IN_FLIGHT * 100) as f64;
    let (many, after) = (total / start.elapsed().as_secs_f64(), store.writer_stats());
    println!(
        "    synced commits of the store alone, 1280 bytes each: {alone:.0}/s one after another, {many:.0}/s with \
         {IN_FLIGHT} callers ({:.0} per fsync)",
        total / (after.syncs - before.syncs) as f64
    );
}

/// MiB a second that the disk takes in 16 pieces of 1 MiB, synced after each and synced once.
fn disk(dir: &TempDir) -> (f64, f64) {
    use std::io::Write as _;
    let piece = vec![7; 1 << 20];
    let write = |name: &str, every: bool| {
        let mut file = std::fs::File::create(dir.path().join(name)).expect("a file");
        let start = Instant::now();
        for _ in 0..16 {
            file.write_all(&piece).expect("written");
            if every {
                file.sync_data().expect("synced");
            }
        }
        file.sync_data().expect("synced");
        16.0 / start.elapsed().as_secs_f64()
    };
    let both = (write("every", true), write("once", false));
    for name in ["every", "once"] {
        std::fs::remove_file(dir.path().join(name)).expect("removed");
    }
    both
}

async fn large(pair: &Pair, dir: &TempDir) {
    let bare = bulk::start(LARGE).await;
    let mib = (LARGE >> 20) as f64;
    deliver(&pair.a.node.message, pair.b.address(), vec![7; LARGE]).await;
    bare.send().await;
    let (mut rates, mut disks, mut used_cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut steps, mut writes) = (Vec::new(), Vec::new());
    for round in 0..LARGE_ROUNDS {
        let mut body = vec![7; LARGE];
        body[0] = u8::try_from(round).expect("few rounds");
        let (start, used, before) = (Instant::now(), cpu(), written());
        let draft = Draft { to: pair.b.address(), body: Body::Bytes(body), file_name: String::new(), ttl: None };
        let sent = pair.a.node.message.send(draft).await.expect("queued");
        let queued = start.elapsed();
        let done = pair.a.node.message.wait(sent.id, SendState::Delivered, WAIT).await.expect("known");
        assert!(done.is_some_and(|m| m.state == SendState::Delivered), "delivered");
        let ours = start.elapsed();
        used_cpu.push((cpu() - used).as_secs_f64());
        writes.push((written() - before) as f64 / f64::from(1 << 20));
        let start = Instant::now();
        bare.send().await;
        let theirs = start.elapsed();
        rates.push((mib / ours.as_secs_f64(), mib / theirs.as_secs_f64()));
        steps.push((queued, ours - queued));
        disks.push(disk(dir));
    }
    let of = |pick: fn(&(f64, f64)) -> f64, all: &[(f64, f64)]| median_f(all.iter().map(pick).collect());
    let (a, b) = (of(|r| r.0, &rates), of(|r| r.1, &rates));
    let what = "a message of 16 MiB, durable on both sides and receipted (bare libp2p stream, memory to memory)";
    report(what, &format!("{a:.0} MiB/s"), &format!("{b:.0} MiB/s"), a / b, 0.3);
    let (queued, rest) = (median(steps.iter().map(|s| s.0).collect()), median(steps.iter().map(|s| s.1).collect()));
    let (used, writes) = (median_f(used_cpu) * 1e3, median_f(writes));
    println!(
        "    {queued:.0?} until queued durably, {rest:.0?} until receipted; {used:.0} ms of processor time, {writes:.0} MiB \
         written to the disk"
    );
    let (every, once) = (of(|r| r.0, &disks), of(|r| r.1, &disks));
    println!("    the disk alone, 16 pieces of 1 MiB: {every:.0} MiB/s synced after each, {once:.0} MiB/s synced once");
}

/// Small messages, and where their time goes.
pub(crate) async fn run() {
    let pair = Pair::start().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    small(&pair).await;
    crypto();
    syncs(&dir).await;
    pair.stop().await;
}

/// A message of the largest size.
pub(crate) async fn run_large() {
    let pair = Pair::start().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    large(&pair, &dir).await;
    pair.stop().await;
}
