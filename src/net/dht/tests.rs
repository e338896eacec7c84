//! The record store: only what the policy accepts, the higher rank wins, bounded, and there after a restart.

use std::sync::Arc;

use libp2p::kad::{ProviderRecord, Record, RecordKey, store::RecordStore as _};

use super::{Policy, Rank, store::RecordStore};
use crate::{
    primitives::{ManualClock, PeerId, UnixMillis},
    store::Store,
};

/// Values are `<sequence>`, valid until 1000, under keys that start with `k`.
#[derive(Debug)]
struct Numbers;

impl Policy for Numbers {
    fn rank(&self, key: &[u8], value: &[u8]) -> Option<Rank> {
        let seq = std::str::from_utf8(value).ok()?.parse().ok()?;
        key.starts_with(b"k").then_some(Rank { seq, tie: [0; 32], expires_at: UnixMillis(1000) })
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(UnixMillis(10))) }
    }

    fn open(&self, max: usize) -> RecordStore {
        let store = Store::open(self.dir.path()).unwrap();
        RecordStore::new(PeerId::random(), store, Arc::new(Numbers), self.clock.clone(), max).unwrap()
    }
}

fn record(key: &str, value: &str) -> Record {
    Record::new(key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn key(text: &str) -> RecordKey {
    RecordKey::from(text.as_bytes().to_vec())
}

#[test]
fn the_higher_rank_wins_and_lies_are_refused() {
    let fixture = Fixture::new();
    let mut store = fixture.open(10);
    store.put(record("k1", "5")).unwrap();
    store.put(record("k1", "5")).unwrap();
    assert!(store.put(record("k1", "4")).is_err(), "older");
    store.put(record("k1", "6")).unwrap();
    assert!(store.put(record("other", "1")).is_err(), "not under this key");
    assert!(store.put(record("k2", "nonsense")).is_err());
    assert!(store.put(record("k2", &"1".repeat(5000))).is_err(), "too large");
    assert_eq!(store.get(&key("k1")).unwrap().value, b"6");
    assert!(store.get(&key("k2")).is_none());
}

#[test]
fn it_is_bounded_and_what_ended_makes_room() {
    let fixture = Fixture::new();
    let mut store = fixture.open(2);
    store.put(record("k1", "1")).unwrap();
    store.put(record("k2", "1")).unwrap();
    assert!(store.put(record("k3", "1")).is_err(), "full");
    store.put(record("k2", "2")).unwrap();
    drop(store);
    let mut store = fixture.open(2);
    assert_eq!(store.get(&key("k2")).unwrap().value, b"2", "there after a restart");
    assert!(store.put(record("k3", "1")).is_err(), "still full after a restart");
    drop(store);
    fixture.clock.set(UnixMillis(2000));
    let mut store = fixture.open(2);
    assert!(store.get(&key("k2")).is_none(), "ended");
    fixture.clock.set(UnixMillis(20));
    store.put(record("k3", "1")).unwrap();
}

#[test]
fn providers_of_one_key_are_bounded_and_bring_no_addrs() {
    let fixture = Fixture::new();
    let mut store = fixture.open(2);
    for _ in 0..150 {
        let addrs = vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()];
        // Beyond the cap it may say no; it must not keep them.
        let _ = store.add_provider(ProviderRecord::new(key("k"), PeerId::random(), addrs));
    }
    let all = store.providers(&key("k"));
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|p| p.addresses.is_empty() && p.expires.is_some()));
    store.remove_provider(&key("k"), &all[0].provider);
    assert_eq!(store.providers(&key("k")).len(), 99);
}
