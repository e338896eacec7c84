//! Kademlia's record store: validated by the policy, bounded, records in RocksDB, providers in memory.
//!
//! Called on the swarm task: point reads, unsynced writes and one signature check, nothing slower.
//!
//! Kademlia's own periodic jobs are off (our map republishes), so `records` is empty: it would copy everything.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
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
/// Providers over all keys, some 400 bytes each.
const PROVIDERS: usize = 50_000;
/// Keys of one provider: a node has one name.
const KEYS_PER_PROVIDER: usize = 64;
/// Expired records deleted with one write: more than one can come with it, so they cannot pile up.
const EXPIRED_AT_ONCE: usize = 8;
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
    /// Every record on disk, by its end.
    ends: BTreeSet<(UnixMillis, Place)>,
    providers: HashMap<RecordKey, Vec<ProviderRecord>>,
    /// Keys by provider.
    provided: HashMap<PeerId, usize>,
    /// Providers of all keys together.
    held: usize,
    /// When expired providers were looked for.
    looked: Option<Instant>,
}

type Place = [u8; 32];

impl RecordStore {
    pub(in crate::net) fn new(
        local: PeerId,
        store: Store,
        policy: SharedPolicy,
        clock: Arc<dyn Clock>,
        max_records: usize,
    ) -> std::result::Result<Self, crate::store::StoreError> {
        let now = clock.now();
        let (mut ends, mut expired) = (BTreeSet::new(), Batch::new());
        store.for_each(Family::Dht, &[], std::ops::Bound::Unbounded, |key, value| {
            match (expires_at(value), Place::try_from(key)) {
                (Some(end), Ok(place)) if end > now => drop(ends.insert((end, place))),
                _ => drop(expired.delete(Family::Dht, key)),
            }
            true
        })?;
        store.write_unsynced(expired)?;
        let (providers, provided) = (HashMap::new(), HashMap::new());
        Ok(Self { local, store, policy, clock, max_records, ends, providers, provided, held: 0, looked: None })
    }

    /// What is on disk under a key, also when it has expired.
    fn stored(&self, key: &RecordKey) -> Option<Stored> {
        Stored::decode(&self.store.get(Family::Dht, &place(key)).ok()??, key)
    }

    /// Adds the deletion of some records that have expired to a write.
    fn sweep(&self, now: UnixMillis, batch: &mut Batch) -> Vec<(UnixMillis, Place)> {
        let over: Vec<_> = self.ends.iter().take_while(|e| e.0 <= now).take(EXPIRED_AT_ONCE).copied().collect();
        for (_, place) in &over {
            batch.delete(Family::Dht, place.to_vec());
        }
        over
    }

    /// At most once a minute: it looks at all of them, and a flood would make the swarm task do it for every one it refuses.
    fn forget_expired_providers(&mut self, now: Instant) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(60)) {
            return;
        }
        self.looked = Some(now);
        self.providers.retain(|_, all| {
            all.retain(|p| !p.is_expired(now));
            !all.is_empty()
        });
        self.provided.clear();
        for provider in self.providers.values().flatten() {
            *self.provided.entry(provider.provider).or_default() += 1;
        }
        self.held = self.provided.values().sum();
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

fn place(key: &RecordKey) -> Place {
    Hash::of(key.as_ref()).0
}

fn expires_at(bytes: &[u8]) -> Option<UnixMillis> {
    bytes.first_chunk::<8>().map(|b| UnixMillis(u64::from_be_bytes(*b)))
}

impl KadStore for RecordStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let Stored { rank, value } = self.stored(key).filter(|s| s.rank.expires_at > self.clock.now())?;
        let expires = Instant::now().checked_add(rank.expires_at.since(self.clock.now()));
        Some(Cow::Owned(Record { key: key.clone(), value, publisher: None, expires }))
    }

    fn put(&mut self, record: Record) -> Result<()> {
        let key = record.key.as_ref();
        if key.len() > MAX_KEY || record.value.len() > limits::MAX_RECORD_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let now = self.clock.now();
        let on_disk = self.stored(&record.key);
        let old = on_disk.as_ref().filter(|old| old.rank.expires_at > now);
        if old.is_some_and(|old| old.value == record.value) {
            return Ok(()); // the same again: acknowledged, without checking the signature again
        }
        // An error resets the writer's stream: the only "no" that Kademlia can say.
        let rank = self.policy.rank(key, &record.value).ok_or(Error::ValueTooLarge)?;
        if old.is_some_and(|old| old.rank >= rank) {
            return Err(Error::ValueTooLarge);
        }
        let (place, end) = (place(&record.key), rank.expires_at);
        let mut batch = Batch::new();
        // Deletions first: one of them may be of this very place.
        let mut gone = self.sweep(now, &mut batch);
        gone.extend(on_disk.as_ref().map(|old| (old.rank.expires_at, place)));
        let left = self.ends.len().saturating_sub(gone.iter().collect::<BTreeSet<_>>().len());
        // Kademlia takes nobody's word but ours for being the publisher; a store full of others must not silence us.
        let ours = record.publisher == Some(self.local);
        if left >= self.max_records && !ours {
            return Err(Error::MaxRecords);
        }
        let new = Stored { rank, value: record.value };
        let bytes = new.encode(&record.key).ok_or(Error::ValueTooLarge)?;
        batch.put(Family::Dht, place, bytes);
        self.store.write_unsynced(batch).map_err(|_| Error::MaxRecords)?;
        for end in &gone {
            self.ends.remove(end);
        }
        self.ends.insert((end, place));
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(stored) = self.stored(key) {
            let mut batch = Batch::new();
            batch.delete(Family::Dht, place(key));
            if self.store.write_unsynced(batch).is_ok() {
                self.ends.remove(&(stored.rank.expires_at, place(key)));
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
        if record.provider != self.local {
            record.expires = now.checked_add(PROVIDER_TTL);
        }
        // Addrs come from the provider's signed record; unsigned ones are not passed on.
        record.addresses.clear();
        let known =
            self.providers.get_mut(&record.key).and_then(|a| a.iter_mut().find(|p| p.provider == record.provider));
        if let Some(known) = known {
            *known = record;
            return Ok(());
        }
        let full = |s: &Self| {
            let keys = s.providers.len() >= PROVIDED_KEYS && !s.providers.contains_key(&record.key);
            let at_key = s.providers.get(&record.key).is_some_and(|all| all.len() >= PROVIDERS_PER_KEY);
            let own = s.provided.get(&record.provider).is_some_and(|n| *n >= KEYS_PER_PROVIDER);
            keys || at_key || own || s.held >= PROVIDERS
        };
        if record.provider != self.local && full(self) {
            self.forget_expired_providers(now);
            if full(self) {
                return Err(Error::MaxProvidedKeys);
            }
        }
        *self.provided.entry(record.provider).or_default() += 1;
        self.held += 1;
        self.providers.entry(record.key.clone()).or_default().push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.providers.get(key).cloned().unwrap_or_default()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(all) = self.providers.get_mut(key) else { return };
        let before = all.len();
        all.retain(|p| p.provider != *provider);
        let removed = before - all.len();
        if all.is_empty() {
            self.providers.remove(key);
        }
        self.held -= removed;
        if let Some(n) = self.provided.get_mut(provider) {
            *n -= removed;
            if *n == 0 {
                self.provided.remove(provider);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::dht::Policy, primitives::ManualClock};

    /// Ranks by the value's first byte; it ends at ten times the second byte, in seconds.
    #[derive(Debug)]
    struct ByFirstByte;

    impl Policy for ByFirstByte {
        fn rank(&self, _: &[u8], value: &[u8]) -> Option<Rank> {
            let expires_at = UnixMillis(u64::from(*value.get(1)?) * 10_000);
            Some(Rank { seq: u64::from(value[0]), tie: [0; 32], expires_at })
        }
    }

    fn record(key: u8, value: [u8; 2]) -> Record {
        Record::new(vec![key], value.to_vec())
    }

    fn open(dir: &std::path::Path, clock: &Arc<ManualClock>) -> (RecordStore, Store) {
        let store = Store::open(dir).unwrap();
        let local = PeerId::random();
        (RecordStore::new(local, store.clone(), Arc::new(ByFirstByte), clock.clone(), 2).unwrap(), store)
    }

    #[test]
    fn expired_records_make_room_and_leave_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1)));
        let (mut records, store) = open(dir.path(), &clock);
        records.put(record(1, [1, 1])).unwrap();
        records.put(record(2, [1, 1])).unwrap();
        assert!(matches!(records.put(record(3, [1, 9])), Err(Error::MaxRecords)));
        clock.set(UnixMillis(10_000));
        assert!(records.get(&vec![1].into()).is_none(), "it has expired");
        // Renewing an expired one many times takes one place.
        for seq in 1..9 {
            records.put(record(1, [seq, 9])).unwrap();
        }
        records.put(record(3, [1, 9])).unwrap();
        assert!(matches!(records.put(record(4, [1, 9])), Err(Error::MaxRecords)));
        assert_eq!(store.scan(Family::Dht, &[], None, 10).unwrap().len(), 2, "the expired one is gone");
        let ours = Record { publisher: Some(records.local), ..record(5, [1, 9]) };
        records.put(ours).unwrap();
        records.remove(&vec![3].into());
        records.remove(&vec![5].into());
        records.put(record(4, [1, 9])).unwrap();
    }

    #[test]
    fn an_older_record_does_not_replace_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1)));
        let (mut records, _store) = open(dir.path(), &clock);
        records.put(record(1, [2, 9])).unwrap();
        assert!(records.put(record(1, [1, 9])).is_err());
        assert_eq!(records.get(&vec![1].into()).unwrap().value, [2, 9]);
    }

    #[test]
    fn one_provider_takes_only_its_part() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1)));
        let (mut records, _store) = open(dir.path(), &clock);
        let greedy = PeerId::random();
        let mut provide = |key: usize, peer| {
            records.add_provider(ProviderRecord::new(key.to_be_bytes().to_vec(), peer, Vec::new())).is_ok()
        };
        assert_eq!((0..100).filter(|key| provide(*key, greedy)).count(), KEYS_PER_PROVIDER);
        assert!(provide(0, greedy), "announcing again is not a new one");
        assert!(provide(0, PeerId::random()));
        records.remove_provider(&0usize.to_be_bytes().to_vec().into(), &greedy);
        assert_eq!(records.held, KEYS_PER_PROVIDER);
    }
}
