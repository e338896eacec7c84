//! Kademlia's record store: validated by the policy, bounded, records in RocksDB, providers in memory.
//!
//! Called on the swarm task: point reads, unsynced writes and one signature check, nothing slower.
//!
//! Kademlia's own periodic jobs are off (our map republishes), so `records` is empty: it would copy everything.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore as KadStore, Result},
};

use super::{Rank, SharedPolicy};
use crate::{
    primitives::{Clock, Hash, PeerId, UnixMillis, limits},
    store::{Batch, Family, Store},
};

/// Keys for which providers are kept.
const PROVIDED_KEYS: usize = 20_000;
/// Providers of one key: owners of one name. More are ignored, so a popular name cannot fill the memory.
const PROVIDERS_PER_KEY: usize = 100;
/// How long a provider stays without announcing itself again.
const PROVIDER_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest key accepted.
const MAX_KEY: usize = 256;

pub(in crate::net) struct RecordStore {
    local: PeerId,
    store: Store,
    policy: SharedPolicy,
    clock: Arc<dyn Clock>,
    max_records: usize,
    records: usize,
    providers: HashMap<RecordKey, Vec<ProviderRecord>>,
}

impl RecordStore {
    pub(in crate::net) fn new(
        local: PeerId,
        store: Store,
        policy: SharedPolicy,
        clock: Arc<dyn Clock>,
        max_records: usize,
    ) -> std::result::Result<Self, crate::store::StoreError> {
        let now = clock.now();
        let (mut records, mut expired) = (0, Batch::new());
        store.for_each(Family::Dht, &[], std::ops::Bound::Unbounded, |key, value| {
            match expires_at(value) {
                Some(end) if end > now => records += 1,
                _ => drop(expired.delete(Family::Dht, key)),
            }
            true
        })?;
        store.write_unsynced(expired)?;
        Ok(Self { local, store, policy, clock, max_records, records, providers: HashMap::new() })
    }

    fn stored(&self, key: &RecordKey) -> Option<Stored> {
        let stored = Stored::decode(&self.store.get(Family::Dht, &place(key)).ok()??, key)?;
        (stored.rank.expires_at > self.clock.now()).then_some(stored)
    }
}

/// A record as RocksDB has it. It carries its whole key, since the place is only a hash of it.
struct Stored {
    rank: Rank,
    value: Vec<u8>,
}

impl Stored {
    /// Times, sequence number, tie, length of the key: what stands before key and value.
    const HEADER: usize = 8 + 8 + 32 + 2;

    fn encode(&self, key: &RecordKey) -> Option<Vec<u8>> {
        let key = key.as_ref();
        let length = u16::try_from(key.len()).ok()?;
        let mut bytes = Vec::with_capacity(Self::HEADER + key.len() + self.value.len());
        bytes.extend_from_slice(&self.rank.expires_at.0.to_be_bytes());
        bytes.extend_from_slice(&self.rank.seq.to_be_bytes());
        bytes.extend_from_slice(&self.rank.tie);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&self.value);
        Some(bytes)
    }

    fn decode(bytes: &[u8], key: &RecordKey) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<{ Self::HEADER }>()?;
        let number = |at: usize| header[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        let rank = Rank { seq: number(8)?, tie: header[16..48].try_into().ok()?, expires_at: UnixMillis(number(0)?) };
        let length = usize::from(u16::from_be_bytes([header[48], header[49]]));
        let (stored_key, value) = rest.split_at_checked(length)?;
        (stored_key == key.as_ref()).then(|| Self { rank, value: value.to_vec() })
    }
}

fn place(key: &RecordKey) -> [u8; 32] {
    Hash::of(key.as_ref()).0
}

fn expires_at(bytes: &[u8]) -> Option<UnixMillis> {
    bytes.first_chunk::<8>().map(|b| UnixMillis(u64::from_be_bytes(*b)))
}

impl KadStore for RecordStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let Stored { rank, value } = self.stored(key)?;
        let expires = Instant::now().checked_add(rank.expires_at.since(self.clock.now()));
        Some(Cow::Owned(Record { key: key.clone(), value, publisher: None, expires }))
    }

    fn put(&mut self, record: Record) -> Result<()> {
        let key = record.key.as_ref();
        if key.len() > MAX_KEY || record.value.len() > limits::MAX_RECORD_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let old = self.stored(&record.key);
        if old.as_ref().is_some_and(|old| old.value == record.value) {
            return Ok(()); // the same again: acknowledged, without checking the signature again
        }
        // An error resets the writer's stream: the only "no" that Kademlia can say.
        let rank = self.policy.rank(key, &record.value).ok_or(Error::ValueTooLarge)?;
        if old.as_ref().is_some_and(|old| old.rank >= rank) {
            return Err(Error::ValueTooLarge);
        }
        if old.is_none() && self.records >= self.max_records {
            return Err(Error::MaxRecords);
        }
        let new = Stored { rank, value: record.value };
        let bytes = new.encode(&record.key).ok_or(Error::ValueTooLarge)?;
        let mut batch = Batch::new();
        batch.put(Family::Dht, place(&record.key), bytes);
        self.store.write_unsynced(batch).map_err(|_| Error::MaxRecords)?;
        self.records += usize::from(old.is_none());
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        if self.store.contains(Family::Dht, &place(key)).unwrap_or(false) {
            let mut batch = Batch::new();
            batch.delete(Family::Dht, place(key));
            if self.store.write_unsynced(batch).is_ok() {
                self.records = self.records.saturating_sub(1);
            }
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, mut record: ProviderRecord) -> Result<()> {
        if record.key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        let now = Instant::now();
        if !self.providers.contains_key(&record.key) && self.providers.len() >= PROVIDED_KEYS {
            self.providers.retain(|_, all| {
                all.retain(|p| !p.is_expired(now));
                !all.is_empty()
            });
            if self.providers.len() >= PROVIDED_KEYS {
                return Err(Error::MaxProvidedKeys);
            }
        }
        if record.provider != self.local {
            record.expires = now.checked_add(PROVIDER_TTL);
        }
        // Addrs come from the provider's signed record; unsigned ones are not passed on.
        record.addresses.clear();
        let all = self.providers.entry(record.key.clone()).or_default();
        all.retain(|p| p.provider != record.provider && !p.is_expired(now));
        if all.len() < PROVIDERS_PER_KEY {
            all.push(record);
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.providers.get(key).cloned().unwrap_or_default()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(all) = self.providers.get_mut(key) {
            all.retain(|p| p.provider != *provider);
            if all.is_empty() {
                self.providers.remove(key);
            }
        }
    }
}
