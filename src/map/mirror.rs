//! The shared read side of the map: loaded before the network starts, written by the service, read by anybody.
//!
//! Its lock is held for microseconds and never across an await. Records are verified before it is taken.

use std::{
    sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast, watch};

use super::{
    Config, Entry, Event, Metrics, State, Stats,
    digest::Range,
    limit::Buckets,
    record::{Key, Record, RecordError, Verifier, without_peer},
    state::{Map, Outcome, Source, entry_of},
    store,
    wire::{News, PageOf},
};
use crate::{
    net::{
        AddrBook,
        dht::{self, Rank, SharedPolicy},
        pubsub::Verdict,
    },
    primitives::{Clock, Hash, Multiaddr, NetworkId, PeerId, UnixMillis},
    store::{Batch, Store, StoreError},
};

/// Events kept for a slow subscriber.
const EVENTS: usize = 1024;
/// Records merged under one lock: some 0.5 ms.
const MERGE: usize = 256;
/// A record signed so lately shows that its author is there.
const FRESH: Duration = Duration::from_secs(60);
/// Records looked at for nodes to dial; the swarm task waits for it, some 20 us.
const SAMPLE: usize = 256;
/// A node seen within this time is worth dialling first.
const SEEN_LATELY: Duration = Duration::from_secs(24 * 3600);

/// The map as everybody shares it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    local: PeerId,
    network: NetworkId,
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    store: Store,
    map: RwLock<Map>,
    authors: Mutex<Buckets<Key>>,
    events: broadcast::Sender<Event>,
    own_seen: watch::Sender<u64>,
    elsewhere: watch::Sender<u64>,
    grown: Notify,
    metrics: Metrics,
}

/// What became of a batch of envelopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// New or newer.
    pub(super) accepted: u32,
    /// Invalid.
    pub(super) refused: u32,
    /// Of these, what its sender should have refused as well.
    pub(super) broken: u32,
}

impl Mirror {
    /// Loads the map from the store. Blocks, some 10 us a record; signatures were checked when the records came.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    ///
    /// # Panics
    /// When `local` is not the address of an Ed25519 key, which [`crate::identity`] excludes.
    pub fn load(
        store: &Store,
        config: &Config,
        network: &NetworkId,
        local: PeerId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let now = clock.now();
        let key = Key::of(&local).expect("identities are Ed25519");
        let mut map = Map::new(key, config.full_limit);
        store::load(store, |record, seen| map.restore(&record, seen, now))?;
        for (key, proof) in store::load_proofs(store)? {
            map.restore_proof(key, proof);
        }
        let metrics = Metrics::default();
        metrics.records.set(i64::try_from(map.len()).unwrap_or(i64::MAX));
        Ok(Self(Arc::new(Shared {
            local,
            network: network.clone(),
            verifier: Verifier::new(network),
            clock,
            store: store.clone(),
            map: RwLock::new(map),
            authors: Mutex::new(Buckets::new(config.author_rate_per_h, Duration::from_secs(3600))),
            events: broadcast::Sender::new(EVENTS),
            own_seen: watch::Sender::new(0),
            elsewhere: watch::Sender::new(store::elsewhere(store)?),
            grown: Notify::new(),
            metrics,
        })))
    }

    /// Which Kademlia records may be stored: valid ones under their owner's key.
    #[must_use]
    pub fn policy(&self) -> SharedPolicy {
        Arc::new(Policy { prefix: self.0.network.name("map/").into_bytes(), mirror: self.clone() })
    }

    /// The map's counters, to be registered once.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Our own address.
    #[must_use]
    pub fn local(&self) -> PeerId {
        self.0.local
    }

    /// The entry of an address.
    #[must_use]
    pub fn get(&self, address: &PeerId) -> Option<Entry> {
        let now = self.now();
        self.read().use_slot(&Key::of(address)?)?.entry(now)
    }

    /// Takes in verified records, as bulk exchange does; returns how many were new or newer. Writes them to the store.
    pub fn insert(&self, records: &[Record]) -> usize {
        self.merge(records, Source::Bulk).into_iter().filter(|o| o.is_change()).count()
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.0.clock.now()
    }

    pub(super) fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }

    pub(super) fn network(&self) -> &NetworkId {
        &self.0.network
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Map> {
        self.0.map.read().expect("no panic while held")
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Map> {
        self.0.map.write().expect("no panic while held")
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// The highest sequence number seen in a record signed with our key that we did not make.
    pub(super) fn own_seen(&self) -> watch::Receiver<u64> {
        self.0.own_seen.subscribe()
    }

    /// The highest of these that proved another installation with our key to be ahead of us, also in earlier runs; zero: none.
    pub(super) fn elsewhere(&self) -> watch::Receiver<u64> {
        self.0.elsewhere.subscribe()
    }

    pub(super) fn met_elsewhere(&self, seq: u64) {
        self.0.elsewhere.send_if_modified(|met| {
            let higher = seq > *met;
            *met = seq.max(*met);
            higher
        });
    }

    /// Waits until a peer pushed something new here.
    pub(super) async fn grown(&self) {
        self.0.grown.notified().await;
    }

    /// Our own last record.
    pub(super) fn own(&self) -> Option<Entry> {
        let now = self.now();
        self.read().slot(&Key::of(&self.0.local)?)?.entry(now)
    }

    /// Merges verified records, writes what changed to the store and tells subscribers.
    pub(super) fn merge(&self, records: &[Record], source: Source) -> Vec<Outcome> {
        let now = self.now();
        let mut outcomes = Vec::with_capacity(records.len());
        for part in records.chunks(MERGE) {
            let (mut batch, mut events) = (Batch::new(), Vec::new());
            {
                let mut map = self.write();
                for record in part {
                    let outcome = if record.expires_at <= now { Outcome::Stale } else { map.merge(record, source) };
                    outcomes.push(outcome);
                    self.note(&map, record, outcome, &mut batch, &mut events);
                }
                self.count(&map);
            }
            self.save(batch);
            self.tell(events);
        }
        outcomes
    }

    fn note(&self, map: &Map, record: &Record, outcome: Outcome, batch: &mut Batch, events: &mut Vec<Event>) {
        if outcome.is_change() {
            store::put_record(batch, record);
            let listening = self.0.events.receiver_count() > 0;
            if let Some(entry) = map.slot(&record.key).filter(|_| listening).and_then(|s| s.entry(self.now())) {
                events.push(Event::Changed(Box::new(entry)));
            }
        }
        match outcome {
            Outcome::New { evicted: Some(key) } => {
                store::delete(batch, &key);
                events.push(Event::Removed(key.address()));
            }
            Outcome::Equivocation { first: true, .. } => {
                let author = record.key.address();
                tracing::warn!(%author, seq = record.seq, "signed two different records with one number; proof kept");
                self.0.metrics.equivocations.inc();
                if let Some(proof) = map.proof(&record.key) {
                    store::put_proof(batch, &record.key, proof);
                }
                events.push(Event::Equivocation(author));
            }
            Outcome::OwnNewer => {
                let raise = |seen: &mut u64| {
                    let higher = record.seq > *seen;
                    *seen = record.seq.max(*seen);
                    higher
                };
                self.0.own_seen.send_if_modified(raise);
            }
            _ => {}
        }
    }

    fn count(&self, map: &Map) {
        self.0.metrics.records.set(i64::try_from(map.len()).unwrap_or(i64::MAX));
    }

    /// Records of others can be fetched again: they are not synced, and a failing disk does not stop the map.
    fn save(&self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.0.store.write_unsynced(batch) {
            tracing::warn!(%error, "map records could not be written; they will be fetched again after a restart");
        }
    }

    fn tell(&self, events: Vec<Event>) {
        for event in events {
            // Nobody listening is fine.
            let _ = self.0.events.send(event);
        }
    }

    /// Verifies and merges envelopes from a peer. Blocks, some 60 us each; `limited` charges their authors' rates.
    pub(super) fn take_in(&self, envelopes: &[Vec<u8>], limited: bool) -> Taken {
        let now = self.now();
        let mut taken = Taken::default();
        for part in envelopes.chunks(MERGE) {
            let mut records = Vec::with_capacity(part.len());
            for envelope in part {
                match self.examine(envelope, now) {
                    Ok(Some(record)) if !limited || self.admit(record.key) => records.push(record),
                    Ok(_) | Err(RecordError::Expired) => {}
                    Err(error) => {
                        taken.refused = taken.refused.saturating_add(1);
                        taken.broken = taken.broken.saturating_add(error.is_broken().into());
                    }
                }
            }
            let changes = self.merge(&records, Source::Bulk).into_iter().filter(|o| o.is_change()).count();
            taken.accepted = taken.accepted.saturating_add(u32::try_from(changes).unwrap_or(u32::MAX));
        }
        self.0.metrics.records_refused.inc_by(taken.refused.into());
        taken
    }

    /// What a peer pushed; wakes whoever passes it on.
    pub(super) fn take_push(&self, envelopes: &[Vec<u8>]) -> Taken {
        let taken = self.take_in(envelopes, true);
        if taken.accepted > 0 {
            self.0.grown.notify_one();
        }
        taken
    }

    /// Verifies a record, but only when it could change something.
    fn examine(&self, envelope: &[u8], now: UnixMillis) -> Result<Option<Record>, RecordError> {
        let unverified = Verifier::check(envelope, now)?;
        let (key, seq, hash) = unverified.claim();
        if !self.is_useful(&key, seq, &hash) {
            return Ok(None);
        }
        self.0.verifier.check_signature(unverified).map(Some)
    }

    fn is_useful(&self, key: &Key, seq: u64, hash: &Hash) -> bool {
        let map = self.read();
        map.slot(key).is_none_or(|slot| {
            let second = seq == slot.seq && *hash != slot.hash && map.proof(key).is_none();
            second || (seq, *hash) > (slot.seq, slot.hash)
        })
    }

    fn admit(&self, author: Key) -> bool {
        let mut authors = self.0.authors.lock().expect("no panic while held");
        let admitted = authors.take(author, Instant::now());
        if !admitted {
            self.0.metrics.rate_limited.inc();
        }
        admitted
    }

    /// The verdict on a gossip message, after taking it in. Blocks, some 60 us.
    pub(super) fn judge(&self, data: &[u8]) -> Verdict {
        let verdict = match News::decode(data) {
            Some(News::Record(envelope)) => self.judge_record(&envelope),
            Some(News::Departure(envelope)) => self.judge_departure(&envelope),
            None => Verdict::Reject,
        };
        let metrics = &self.0.metrics;
        match verdict {
            Verdict::Accept => metrics.gossip_accepted.inc(),
            Verdict::Ignore => metrics.gossip_ignored.inc(),
            Verdict::Reject => metrics.gossip_rejected.inc(),
        };
        verdict
    }

    fn judge_record(&self, envelope: &[u8]) -> Verdict {
        let now = self.now();
        let record = match self.examine(envelope, now) {
            Ok(Some(record)) => record,
            Ok(None) => return Verdict::Ignore,
            Err(error) => return self.refused(error),
        };
        if !self.admit(record.key) {
            return Verdict::Ignore;
        }
        let changed = self.merge(std::slice::from_ref(&record), Source::News).iter().any(|o| o.is_change());
        if changed && now.since(record.issued_at) < FRESH {
            self.heard(&record.address());
        }
        if changed { Verdict::Accept } else { Verdict::Ignore }
    }

    fn judge_departure(&self, envelope: &[u8]) -> Verdict {
        let departure = match self.0.verifier.verify_departure(envelope, self.now()) {
            Ok(departure) => departure,
            Err(error) => return self.refused(error),
        };
        // Each goodbye with a higher number is new: without a limit one key could have the network pass on any number of them.
        if !self.admit(departure.key) || !self.write().depart(&departure) {
            return Verdict::Ignore;
        }
        self.tell(vec![Event::Presence(departure.key.address(), State::Offline)]);
        Verdict::Accept
    }

    fn refused(&self, error: RecordError) -> Verdict {
        tracing::debug!(%error, "gossip refused");
        self.0.metrics.records_refused.inc();
        if error.is_violation() { Verdict::Reject } else { Verdict::Ignore }
    }

    /// The best of the values Kademlia gave for an address.
    pub(super) fn best_of(&self, key: &Key, values: &[Vec<u8>]) -> Option<Record> {
        let now = self.now();
        let valid = values.iter().filter_map(|v| self.0.verifier.verify(v, now).ok());
        valid.filter(|r| r.key == *key).max_by_key(|r| (r.seq, r.hash))
    }

    /// Heard from a node just now.
    pub(super) fn heard(&self, address: &PeerId) {
        let (Some(key), now) = (Key::of(address), self.now()) else { return };
        if self.read().heard_lately(&key, now) {
            return;
        }
        if self.write().heard(&key, now) {
            self.tell(vec![Event::Presence(*address, State::Online)]);
        }
    }

    /// These nodes are connected. One that said goodbye counts as gone although its connection still closes.
    pub(super) fn connected(&self, addresses: impl IntoIterator<Item = PeerId>) {
        for address in addresses {
            let Some(key) = Key::of(&address) else { continue };
            let gone = self.read().slot(&key).is_some_and(|s| s.standing(self.now()).1 == State::Offline);
            if !gone {
                self.heard(&address);
            }
        }
    }

    /// A node did not answer.
    pub(super) fn lost(&self, address: &PeerId) {
        let Some(key) = Key::of(address) else { return };
        if self.write().lost(&key) {
            self.tell(vec![Event::Presence(*address, State::Offline)]);
        }
    }

    /// Removes what has expired.
    pub(super) fn sweep(&self) {
        let (expired, forgotten) = {
            let mut map = self.write();
            let swept = map.sweep(self.now());
            self.count(&map);
            swept
        };
        let mut batch = Batch::new();
        forgotten.iter().for_each(|key| store::delete(&mut batch, key));
        self.save(batch);
        self.tell(expired.iter().map(|key| Event::Removed(key.address())).collect());
    }

    /// Writes when nodes were last seen.
    pub(super) fn flush_seen(&self) {
        let mut batch = Batch::new();
        for (key, at) in self.write().take_seen() {
            store::put_seen(&mut batch, &key, at);
        }
        self.save(batch);
    }

    /// A page for another node: envelopes after `after`, up to `bytes`, at least one when there is one.
    pub(super) fn page_of(&self, after: Option<Key>, bytes: usize) -> PageOf {
        let map = self.read();
        let mut page = PageOf { total: u64::try_from(map.len()).unwrap_or(u64::MAX), ..PageOf::default() };
        let (mut sum, mut last) = (0, None);
        for (key, slot) in map.after(after) {
            sum += slot.envelope.len() + 4;
            if sum > bytes && last.is_some() {
                page.next = last;
                break;
            }
            page.envelopes.push(slot.envelope.to_vec());
            last = Some(*key);
        }
        page
    }

    /// A random node that is not `avoid`, for a sample of who is there.
    pub(super) fn random(&self, random: u64, avoid: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
        let start = Key(*Hash::of(&random.to_be_bytes()).as_bytes());
        let map = self.read();
        let around = map.after(Some(start)).chain(map.after(None));
        // A few steps are enough to pass over those connected; a sample may well find nobody.
        around.take(64).map(|(key, _)| key.address()).find(|a| *a != self.0.local && !avoid(a))
    }

    pub(super) fn stats(&self) -> Stats {
        let mut map = self.write();
        let digest = map.digest(Range::ALL).hash.0;
        Stats { records: map.len(), complete: map.complete && !map.is_full(), digest }
    }
}

impl AddrBook for Mirror {
    fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(key) = Key::of(peer) else { return Vec::new() };
        let envelope = {
            let map = self.read();
            map.use_slot(&key).map(|s| s.envelope.clone()).or_else(|| map.hint(&key).cloned())
        };
        let entry = envelope.and_then(|e| entry_of(&e));
        entry.map(|e| e.addrs.iter().map(without_peer).collect()).unwrap_or_default()
    }

    fn candidates(&self, n: usize) -> Vec<PeerId> {
        let now = self.now();
        let start = Key(rand::random());
        let map = self.read();
        let mut all: Vec<(u8, u64, Key)> = map
            .around(start, n.max(SAMPLE))
            .map(|(key, slot)| {
                let (seen, state) = slot.standing(now);
                let lately = seen.is_some_and(|at| now.since(at) < SEEN_LATELY);
                let class = match state {
                    State::Offline => 2,
                    _ if lately => 0,
                    _ => 1,
                };
                (class, rand::random(), *key)
            })
            .collect();
        if all.len() <= n {
            all.extend(map.hints_around(start, n).map(|key| (3, rand::random(), *key)));
        }
        drop(map);
        all.sort_unstable();
        all.into_iter().map(|(_, _, key)| key.address()).filter(|a| *a != self.0.local).take(n).collect()
    }
}

/// The Kademlia key of a node's record.
pub(super) fn record_key(network: &NetworkId, address: &PeerId) -> Vec<u8> {
    [network.name("map/").as_bytes(), &address.to_bytes()].concat()
}

/// The Kademlia key of a name's owners.
pub(super) fn name_key(network: &NetworkId, name: &str) -> Vec<u8> {
    [network.name("name/").as_bytes(), Hash::of(name.as_bytes()).as_bytes()].concat()
}

/// Stores in Kademlia what the map itself would take.
#[derive(Debug)]
struct Policy {
    prefix: Vec<u8>,
    mirror: Mirror,
}

impl dht::Policy for Policy {
    fn rank(&self, key: &[u8], value: &[u8]) -> Option<Rank> {
        let owner = PeerId::from_bytes(key.strip_prefix(&self.prefix[..])?).ok()?;
        let owner = Key::of(&owner)?;
        let unverified = Verifier::check(value, self.mirror.now()).ok()?;
        let (claimed, seq, hash) = unverified.claim();
        (claimed == owner).then_some(())?;
        // Mostly we hold the record already, and with the same envelope its signature was checked.
        let held = self.mirror.read().slot(&owner).filter(|s| *s.envelope == *value).map(|s| s.expires_at);
        let expires_at = match held {
            Some(at) => at,
            None => self.mirror.verifier().check_signature(unverified).ok()?.expires_at,
        };
        Some(Rank { seq, tie: hash.0, expires_at })
    }
}
