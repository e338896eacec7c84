//! The VOS Map. Defends: a verified insert costs at most a quarter more than the signature it checks; a look-up by address
//! is a matter of microseconds; a saved map of 100000 records is back within 2 s and 120 MiB; a newcomer has a map of 10000
//! records from its first peer within 3 s.
//!
//! The records are like those of a real node: name, three addrs, two encryption keys. Each has its own signing key.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::identity::{Keypair, ed25519};
use vos::{
    identity::{EncryptionKey, Identity, Keyring},
    map::{Body, Config, Mirror, Verifier},
    node::DataDir,
    primitives::{Clock as _, NetworkId, PeerId, SystemClock},
    store::Store,
    test_util::{Member, config},
};

use crate::measure::{bound, median, median_f, report};

/// Records inserted in one round.
const INSERTED: usize = 10_000;
const ROUNDS: usize = 5;
/// Records of the large map.
const LARGE: usize = 100_000;
/// Records of the map that a newcomer joins.
const JOINED: usize = 10_000;
const JOINS: usize = 3;
const GETS: usize = 100_000;
/// The argument with which this program runs itself to load one map and nothing else.
pub(crate) const CHILD: &str = "--load-map";

fn map_config() -> Config {
    Config { full_limit: 2 * LARGE, ..Config::default() }
}

fn load(store: &Store, local: PeerId) -> Mirror {
    Mirror::load(store, &map_config(), &NetworkId::default(), local, Arc::new(SystemClock)).expect("the map loads")
}

fn keys() -> Vec<EncryptionKey> {
    let (now, mut ring) = (SystemClock.now(), Keyring::default());
    ring.rotate(now.minus(vos::identity::KEY_LIFETIME * 3 / 4));
    ring.rotate(now);
    let keys = ring.offered(now);
    assert_eq!(keys.len(), 2, "one key ends, the next one began");
    keys
}

fn envelope(i: usize, keys: &[EncryptionKey]) -> Vec<u8> {
    let (identity, now, network) = (Identity::generate(), SystemClock.now(), NetworkId::default());
    let mut body = Body::new(identity.address(), now.0, now, now.plus(Duration::from_secs(48 * 3600)));
    body.name = format!("node-{i}");
    let (host, port) = (i % 250, 1024 + i % 60_000);
    body.addrs = [
        format!("/ip4/203.0.113.{host}/tcp/{port}"),
        format!("/ip4/203.0.113.{host}/udp/{port}/quic-v1"),
        format!("/ip6/2001:db8::{host}/tcp/{port}"),
    ]
    .iter()
    .map(|a| a.parse().expect("a multiaddr"))
    .collect();
    body.keys = keys.to_vec();
    body.seal(&identity, &network).envelope().to_vec()
}

/// Signed records, made on all cores.
fn envelopes(n: usize) -> Vec<Vec<u8>> {
    let keys = keys();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let keys = &keys;
        let make = move |core| move || (core..n).step_by(cores).map(|i| envelope(i, keys)).collect::<Vec<_>>();
        let parts: Vec<_> = (0..cores).map(|core| scope.spawn(make(core))).collect();
        parts.into_iter().flat_map(|p| p.join().expect("no panic")).collect()
    })
}

/// Verifies and inserts, as bulk exchange does it: merged and written to the store 256 at a time.
fn take_in(mirror: &Mirror, verifier: &Verifier, envelopes: &[Vec<u8>]) -> usize {
    let now = SystemClock.now();
    let verify = |e: &Vec<u8>| verifier.verify(e, now).expect("a good record");
    let parts = envelopes.chunks(256).map(|part| mirror.insert(&part.iter().map(verify).collect::<Vec<_>>()));
    parts.sum()
}

fn insert(envelopes: &[Vec<u8>]) {
    let size = envelopes[0].len();
    let message = vec![7; size];
    let signed: Vec<_> = (0..INSERTED)
        .map(|_| {
            let key = Keypair::generate_ed25519();
            (key.public(), key.sign(&message).expect("Ed25519 signs"))
        })
        .collect();
    let verifier = Verifier::new(&NetworkId::default());
    let keys: Vec<_> =
        signed.iter().map(|(key, _)| key.clone().try_into_ed25519().expect("it is one").to_bytes()).collect();
    let (mut ours, mut bare, mut decoded, mut only) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).expect("a fresh store opens");
        let mirror = load(&store, Identity::generate().address());
        let start = Instant::now();
        assert_eq!(take_in(&mirror, &verifier, envelopes), INSERTED);
        ours.push(INSERTED as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        assert!(signed.iter().all(|(key, signature)| key.verify(&message, signature)));
        decoded.push(INSERTED as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let whole = |(key, (_, signature)): (&[u8; 32], &(_, Vec<u8>))| {
            ed25519::PublicKey::try_from_bytes(key).expect("a key").verify(&message, signature)
        };
        assert!(keys.iter().zip(&signed).all(whole));
        bare.push(INSERTED as f64 / start.elapsed().as_secs_f64());
        let (start, now) = (Instant::now(), SystemClock.now());
        assert!(envelopes.iter().all(|e| verifier.verify(e, now).is_ok()));
        only.push(INSERTED as f64 / start.elapsed().as_secs_f64());
    }
    let (ours, bare, decoded, only) = (median_f(ours), median_f(bare), median_f(decoded), median_f(only));
    let what = format!(
        "map, verified insert of records of {size} bytes, one core (bare Ed25519 verify of RFC 8032, from key bytes)"
    );
    report(&what, &format!("{ours:.0}/s"), &format!("{bare:.0}/s"), ours / bare, 0.8);
    let us = |rate: f64| 1e6 / rate;
    println!(
        "    with all keys decoded before, the bare verify makes {decoded:.0}/s, a ratio of {:.2}\n    one record: key {:.1} us, \
         signature {:.1} us, all other checks {:.1} us, merge and store {:.1} us",
        ours / decoded,
        us(bare) - us(decoded),
        us(decoded),
        us(only) - us(bare),
        us(ours) - us(only)
    );
}

fn get(mirror: &Mirror, envelopes: &[Vec<u8>]) {
    let (verifier, now) = (Verifier::new(&NetworkId::default()), SystemClock.now());
    let step = envelopes.len() / 1000;
    let some = envelopes.iter().step_by(step).map(|e| verifier.verify(e, now).expect("a good record").address());
    let mut addresses: Vec<_> = some.collect();
    // Neighbours in the map are not asked for one after another.
    addresses.sort_by_key(|a| blake3::hash(&a.to_bytes()).as_bytes().to_owned());
    let mut times = Vec::with_capacity(GETS);
    for address in addresses.iter().cycle().take(GETS) {
        let start = Instant::now();
        assert!(mirror.get(address).is_some());
        times.push(start.elapsed());
    }
    let p50 = median(times);
    let what = format!("map, get by address among {LARGE}, p50");
    bound(&what, &format!("{p50:?}"), p50 <= Duration::from_micros(5), "5 us");
}

/// Resident bytes of this process by kernel, now and at most.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
}

/// What the child does: loads the map in `path`, prints records, milliseconds, KiB resident before, after and at most.
pub(crate) fn child(path: &str) {
    let start = Instant::now();
    let store = Store::open(Path::new(path)).expect("the store opens");
    let (open, (before, _)) = (start.elapsed(), resident());
    let start = Instant::now();
    let mirror = load(&store, Identity::generate().address());
    let loaded = start.elapsed();
    let (after, peak) = resident();
    assert!(mirror.get(&mirror.local()).is_none());
    println!("{} {} {before} {after} {peak}", open.as_millis(), loaded.as_millis());
}

fn saved(path: &Path) {
    let me = std::env::current_exe().expect("this program has a path");
    let runs: Vec<[u64; 5]> = (0..ROUNDS)
        .map(|_| {
            let output = Command::new(&me).arg(CHILD).arg(path).output().expect("this program runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            numbers.try_into().expect("five numbers")
        })
        .collect();
    let middle = |i: usize| {
        let mut all: Vec<u64> = runs.iter().map(|r| r[i]).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (open, ms) = (middle(0), middle(1));
    let what = format!("map, {LARGE} records loaded from RocksDB, a process of its own");
    bound(&what, &format!("{ms} ms, after {open} ms to open the store"), ms <= 2000, "2 s");
    let mib = |i| middle(i) as f64 / 1024.0;
    let what = format!("map, {LARGE} records, resident memory of that process");
    let text = format!("{:.1} MiB (peak {:.1}), {:.1} before loading", mib(3), mib(4), mib(2));
    bound(&what, &text, mib(3) <= 120.0, "120 MiB");
}

/// Time from the start of a newcomer until it has the whole map of its only peer.
async fn join(envelopes: &[Vec<u8>]) {
    let wide = |bootstrap: &[_]| {
        let mut config = config(bootstrap);
        config.map.full_limit = 2 * JOINED;
        config
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    {
        let data = DataDir::open(dir.path().to_owned()).expect("a fresh data directory");
        let identity = vos::identity::load_or_create(&data.identity_key()).expect("a fresh key");
        let store = Store::open(&data.db()).expect("a fresh store opens");
        let mirror = load(&store, identity.address());
        assert_eq!(take_in(&mirror, &Verifier::new(&NetworkId::default()), envelopes), JOINED);
        store.close();
    }
    let old = Member::start_in(dir, "old", wide(&[])).await;
    assert!(old.node.map.stats().records > JOINED - 1);
    let (mut times, mut compared) = (Vec::new(), Vec::new());
    for _ in 0..JOINS {
        let start = Instant::now();
        let new = Member::start("new", wide(&[old.multiaddr()])).await;
        while new.node.map.get(&old.address()).is_none() || new.node.map.stats().records < JOINED + 2 {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", new.node.map.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times.push(start.elapsed());
        while !new.node.map.stats().complete {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", new.node.map.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        compared.push(start.elapsed());
        new.stop().await;
    }
    let (time, compared) = (median(times), median(compared));
    let what = format!("map, joining {JOINED} records from one peer, from the start of the node, both on this machine");
    let text = format!("{time:.2?}, known to be complete after {compared:.2?}");
    bound(&what, &text, compared <= Duration::from_secs(3), "3 s");
    old.stop().await;
}

pub(crate) async fn run() {
    let all = envelopes(LARGE);
    insert(&all[..INSERTED]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    {
        let store = Store::open(dir.path()).expect("a fresh store opens");
        let mirror = load(&store, Identity::generate().address());
        assert_eq!(take_in(&mirror, &Verifier::new(&NetworkId::default()), &all), LARGE);
        get(&mirror, &all);
        store.close();
    }
    saved(dir.path());
    join(&all[..JOINED]).await;
}
