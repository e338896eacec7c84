//! The map itself: which record of each node counts, who is there, what leaves when it is full. No I/O: records come
//! verified, time is an argument, what happened is the return value.
//!
//! Of two records of a node the one with the greater (sequence, hash) wins, so any order of the same records gives the
//! same map, as long as it is not full.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Entry, State,
    digest::{Digest, Range, Tree},
    record::{Departure, Key, Record, body_of},
};
use crate::primitives::{Hash, UnixMillis};

/// Expired records kept as hints where a node may be found again; 0.7 KiB each.
pub(super) const HINTS: usize = 2048;
/// Proofs of equivocation kept, one an author; 8 KiB each.
pub(super) const PROOFS: usize = 64;
/// Nodes that can be pinned for one reason.
const PINS: usize = 2048;

/// Why records stay in a map that is too small for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PinReason {
    /// Friend VOS, in either direction.
    Friend,
    /// Contacts.
    Contact,
}
/// How long a node counts as online after it was heard; connected ones are heard again all the time.
const ONLINE_FOR_MS: u64 = 5 * 60 * 1000;
/// `last_seen` is a time for people: not every message moves it.
pub(super) const SEEN_STEP: Duration = Duration::from_secs(10);

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Made here.
    Own,
    /// Somebody asked for it or its author just published it: it may displace another one from a full map.
    News,
    /// A peer happens to have it: a full map does not take it, or two full maps would trade for ever.
    Bulk,
}

/// What a record did to the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The first one of its node. `evicted` made room for it.
    New {
        /// Who left.
        evicted: Option<Key>,
    },
    /// Newer than the one we had.
    Newer,
    /// The one we have.
    Same,
    /// Older than the one we have.
    Stale,
    /// As new as the one we have, but different: the author signed twice.
    Equivocation {
        /// Whether it took the place of the one we had.
        replaced: bool,
        /// Whether it is the first proof against this author.
        first: bool,
    },
    /// The map is full and everything in it is more useful.
    Full,
    /// Signed with our key, but not by us now: a restored backup, or a second node with our key.
    OwnNewer,
}

impl Outcome {
    /// Whether the map holds the record now and did not before.
    pub(super) fn is_change(self) -> bool {
        matches!(self, Self::New { .. } | Self::Newer | Self::Equivocation { replaced: true, .. })
    }
}

/// What we keep of a record: some 130 bytes and its envelope.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) envelope: Arc<[u8]>,
    pub(super) hash: Hash,
    pub(super) seq: u64,
    pub(super) expires_at: UnixMillis,
    /// Zero: never.
    last_seen: UnixMillis,
    /// The record that its node's last goodbye ended.
    departed_seq: u64,
    presence: State,
    /// Asked for since the clock's hand passed.
    used: AtomicBool,
}

impl Slot {
    fn last_seen_at(&self) -> Option<UnixMillis> {
        (self.last_seen.0 > 0).then_some(self.last_seen)
    }

    fn presence_at(&self, now: UnixMillis) -> State {
        match self.presence {
            // Heard in the future: our clock was ahead then, and when that was nobody knows.
            State::Online if now.0.abs_diff(self.last_seen.0) > ONLINE_FOR_MS => State::Unknown,
            state => state,
        }
    }
}

/// Two records of one author with one sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) kept: Arc<[u8]>,
    pub(super) other: Arc<[u8]>,
}

/// The map of one node.
#[derive(Debug)]
pub(super) struct Map {
    local: Key,
    limit: usize,
    slots: BTreeMap<Key, Slot>,
    names: BTreeSet<(Box<str>, Key)>,
    tree: Tree,
    hints: BTreeMap<Key, (UnixMillis, Arc<[u8]>)>,
    pinned: BTreeMap<PinReason, BTreeSet<Key>>,
    proofs: BTreeMap<Key, Proof>,
    seen: BTreeSet<Key>,
    hand: Key,
    earliest_end: UnixMillis,
    pub(super) complete: bool,
}

impl Map {
    /// An empty map of `local` that holds up to `limit` records.
    pub(super) fn new(local: Key, limit: usize) -> Self {
        Self {
            local,
            limit: limit.max(1),
            slots: BTreeMap::new(),
            names: BTreeSet::new(),
            tree: Tree::default(),
            hints: BTreeMap::new(),
            pinned: BTreeMap::new(),
            proofs: BTreeMap::new(),
            seen: BTreeSet::new(),
            hand: Key::MIN,
            earliest_end: UnixMillis(u64::MAX),
            complete: false,
        }
    }

    /// Takes in a verified record that has not expired.
    pub(super) fn merge(&mut self, record: &Record, source: Source) -> Outcome {
        let own = record.key == self.local;
        let Some(slot) = self.slots.get(&record.key) else {
            return match (own, source) {
                (true, Source::News | Source::Bulk) => Outcome::OwnNewer,
                _ => self.insert_new(record, source),
            };
        };
        let (was, is) = ((slot.seq, slot.hash), (record.seq, record.hash));
        match is.0.cmp(&was.0) {
            _ if is == was => Outcome::Same,
            std::cmp::Ordering::Less => Outcome::Stale,
            _ if own && source != Source::Own => Outcome::OwnNewer,
            std::cmp::Ordering::Greater => {
                self.replace(record);
                Outcome::Newer
            }
            std::cmp::Ordering::Equal => {
                let replaced = is > was;
                let (kept, other) = if replaced {
                    (record.envelope.clone(), slot.envelope.clone())
                } else {
                    (slot.envelope.clone(), record.envelope.clone())
                };
                let first = self.keep_proof(record.key, Proof { kept, other });
                if replaced {
                    self.replace(record);
                }
                Outcome::Equivocation { replaced, first }
            }
        }
    }

    fn insert_new(&mut self, record: &Record, source: Source) -> Outcome {
        let mut evicted = None;
        if self.slots.len() >= self.limit && source != Source::Own && !self.is_pinned(&record.key) {
            evicted = if source == Source::Bulk { None } else { self.evict() };
            if evicted.is_none() {
                return Outcome::Full;
            }
        }
        self.put(record.key, &record.name, Slot::of(record));
        Outcome::New { evicted }
    }

    fn replace(&mut self, record: &Record) {
        let Some(old) = self.remove(&record.key) else { return };
        let mut slot = Slot::of(record);
        slot.last_seen = old.last_seen;
        slot.departed_seq = old.departed_seq;
        slot.used = old.used;
        // A newer record after a goodbye means that the node came back; whether it is there now will be seen.
        slot.presence = if old.presence == State::Offline { State::Unknown } else { old.presence };
        self.put(record.key, &record.name, slot);
    }

    fn put(&mut self, key: Key, name: &str, slot: Slot) {
        self.earliest_end = self.earliest_end.min(slot.expires_at);
        if !name.is_empty() {
            self.names.insert((name.into(), key));
        }
        self.hints.remove(&key);
        self.slots.insert(key, slot);
        self.tree.touch(&key);
    }

    fn remove(&mut self, key: &Key) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.tree.touch(key);
        if let Ok(body) = body_of(&slot.envelope)
            && !body.name.is_empty()
        {
            self.names.remove(&(body.name.into(), *key));
        }
        Some(slot)
    }

    /// Finds the record to give up: the hand goes round, passes over those used since it came by, and takes the first that
    /// was not. `None` when all are pinned.
    fn evict(&mut self) -> Option<Key> {
        for _ in 0..=2 * self.slots.len() {
            let next = (Bound::Excluded(self.hand), Bound::Unbounded);
            let Some((key, slot)) = self.slots.range(next).next().or_else(|| self.slots.iter().next()) else { break };
            let key = *key;
            self.hand = key;
            let kept = key == self.local || self.is_pinned(&key);
            if !kept && !slot.used.swap(false, Ordering::Relaxed) {
                self.remove(&key);
                self.seen.remove(&key);
                return Some(key);
            }
        }
        None
    }

    fn keep_proof(&mut self, key: Key, proof: Proof) -> bool {
        if self.proofs.contains_key(&key) || self.proofs.len() >= PROOFS {
            return false;
        }
        self.proofs.insert(key, proof);
        true
    }

    /// Puts back what the store had: a record of ours or verified before.
    pub(super) fn restore(&mut self, record: &Record, last_seen: Option<UnixMillis>, now: UnixMillis) {
        if record.expires_at <= now {
            self.keep_hint(record.key, record.expires_at, record.envelope.clone());
        } else if self.slots.len() < self.limit || record.key == self.local {
            let mut slot = Slot::of(record);
            slot.last_seen = last_seen.unwrap_or_default();
            self.put(record.key, &record.name, slot);
        }
    }

    /// Puts back a proof that the store had.
    pub(super) fn restore_proof(&mut self, key: Key, proof: Proof) {
        self.keep_proof(key, proof);
    }

    fn keep_hint(&mut self, key: Key, ended: UnixMillis, envelope: Arc<[u8]>) -> Option<Key> {
        self.hints.insert(key, (ended, envelope));
        if self.hints.len() <= HINTS {
            return None;
        }
        let oldest = self.hints.iter().min_by_key(|(_, (ended, _))| *ended).map(|(key, _)| *key)?;
        self.hints.remove(&oldest);
        Some(oldest)
    }

    /// Turns expired records into hints. Returns the keys of the expired, and of hints given up for them.
    pub(super) fn sweep(&mut self, now: UnixMillis) -> (Vec<Key>, Vec<Key>) {
        if now < self.earliest_end {
            return (Vec::new(), Vec::new());
        }
        let ended = |slot: &Slot| slot.expires_at <= now;
        let expired: Vec<Key> =
            self.slots.iter().filter(|(key, slot)| ended(slot) && **key != self.local).map(|(key, _)| *key).collect();
        let mut forgotten = Vec::new();
        for key in &expired {
            if let Some(slot) = self.remove(key) {
                forgotten.extend(self.keep_hint(*key, slot.expires_at, slot.envelope));
            }
        }
        self.earliest_end = self
            .slots
            .iter()
            .filter(|(key, _)| **key != self.local)
            .map(|(_, slot)| slot.expires_at)
            .min()
            .unwrap_or(UnixMillis(u64::MAX));
        (expired, forgotten)
    }

    /// A goodbye. Returns whether it is new to us.
    pub(super) fn depart(&mut self, departure: &Departure) -> bool {
        let own = departure.key == self.local;
        let Some(slot) = self.slots.get_mut(&departure.key).filter(|_| !own) else { return false };
        if departure.seq < slot.seq || departure.seq <= slot.departed_seq {
            return false;
        }
        slot.departed_seq = departure.seq;
        slot.presence = State::Offline;
        slot.last_seen = slot.last_seen.max(departure.at);
        self.seen.insert(departure.key);
        true
    }

    /// Heard from a node. Returns whether its state changed.
    pub(super) fn heard(&mut self, key: &Key, now: UnixMillis) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let changed = slot.presence_at(now) != State::Online;
        slot.presence = State::Online;
        // Also when that is earlier than before: the clock was ahead then.
        slot.last_seen = now;
        self.seen.insert(*key);
        changed
    }

    /// Whether [`Map::heard`] would change nothing that matters.
    pub(super) fn heard_lately(&self, key: &Key, now: UnixMillis) -> bool {
        let lately = |s: &Slot| s.last_seen <= now && now.since(s.last_seen) < SEEN_STEP;
        self.slots.get(key).is_none_or(|s| s.presence == State::Online && lately(s))
    }

    /// A node did not answer. Returns whether its state changed.
    pub(super) fn lost(&mut self, key: &Key) -> bool {
        let local = *key == self.local;
        let Some(slot) = self.slots.get_mut(key).filter(|_| !local) else { return false };
        let changed = slot.presence != State::Offline;
        slot.presence = State::Offline;
        changed
    }

    /// Takes the nodes whose `last_seen` moved since the last call.
    pub(super) fn take_seen(&mut self) -> Vec<(Key, UnixMillis)> {
        let seen = std::mem::take(&mut self.seen);
        seen.into_iter().filter_map(|key| Some((key, self.slots.get(&key)?.last_seen_at()?))).collect()
    }

    /// Keeps these nodes' records whatever happens, and no others for this reason. The first 2048 count.
    pub(super) fn pin(&mut self, why: PinReason, keys: impl IntoIterator<Item = Key>) {
        self.pinned.insert(why, keys.into_iter().take(PINS).collect());
    }

    fn is_pinned(&self, key: &Key) -> bool {
        self.pinned.values().any(|keys| keys.contains(key))
    }

    /// Whether it takes no more records of nodes it does not know from bulk exchange.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= self.limit
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// The same, and remembers that it was asked for.
    pub(super) fn use_slot(&self, key: &Key) -> Option<&Slot> {
        let slot = self.slots.get(key)?;
        slot.used.store(true, Ordering::Relaxed);
        Some(slot)
    }

    /// Whether a record would change the map.
    pub(super) fn wants(&self, key: &Key, seq: u64, hash: &Hash) -> bool {
        match self.slots.get(key) {
            Some(slot) => (seq, *hash) > (slot.seq, slot.hash),
            None => !self.is_full() || self.is_pinned(key),
        }
    }

    /// Records after `after` in order of key.
    pub(super) fn after(&self, after: Option<Key>) -> impl Iterator<Item = (&Key, &Slot)> {
        self.slots.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// Up to `n` records from `start` on, round the end. Keys are spread evenly: with a random start it is a sample.
    pub(super) fn around(&self, start: Key, n: usize) -> impl Iterator<Item = (&Key, &Slot)> {
        self.slots.range(start..).chain(self.slots.range(..start)).take(n)
    }

    /// The same of expired records: who.
    pub(super) fn hints_around(&self, start: Key, n: usize) -> impl Iterator<Item = &Key> {
        self.hints.range(start..).chain(self.hints.range(..start)).take(n).map(|(key, _)| key)
    }

    /// Records of a range in order of key.
    pub(super) fn range(&self, range: Range) -> impl Iterator<Item = (&Key, &Slot)> {
        let (first, last) = range.bounds();
        self.slots.range(first..=last)
    }

    /// The digest of a range.
    pub(super) fn digest(&mut self, range: Range) -> Digest {
        let slots = &self.slots;
        self.tree.digest(range, &|leaf: Range| {
            let (first, last) = leaf.bounds();
            slots.range(first..=last).map(|(key, slot)| (key, slot.seq, &slot.hash))
        })
    }

    /// The owners of a name, by address.
    pub(super) fn owners(&self, name: &str) -> impl Iterator<Item = &Key> {
        let name: Box<str> = name.into();
        self.names.range((name.clone(), Key::MIN)..=(name, Key::MAX)).map(|(_, key)| key)
    }

    pub(super) fn hint(&self, key: &Key) -> Option<&Arc<[u8]>> {
        self.hints.get(key).map(|(_, envelope)| envelope)
    }

    pub(super) fn proof(&self, key: &Key) -> Option<&Proof> {
        self.proofs.get(key)
    }
}

impl Slot {
    fn of(record: &Record) -> Self {
        Self {
            envelope: record.envelope.clone(),
            hash: record.hash,
            seq: record.seq,
            expires_at: record.expires_at,
            last_seen: UnixMillis(0),
            departed_seq: 0,
            presence: State::Unknown,
            used: AtomicBool::new(false),
        }
    }

    /// When it was last heard, and whether it is there.
    pub(super) fn standing(&self, now: UnixMillis) -> (Option<UnixMillis>, State) {
        (self.last_seen_at(), self.presence_at(now))
    }

    /// For the door: decodes the record.
    pub(super) fn entry(&self, now: UnixMillis) -> Option<Entry> {
        let (last_seen_at, state) = self.standing(now);
        let entry = entry_of(&self.envelope)?;
        Some(Entry { state, last_seen_at, ..entry })
    }
}

/// A record as the door shows it, when nothing else is known about its node.
pub(super) fn entry_of(envelope: &[u8]) -> Option<Entry> {
    let body = body_of(envelope).ok()?;
    Some(Entry {
        address: body.address,
        name: body.name,
        addrs: body.addrs,
        roles: body.roles,
        friends: body.friends,
        grant_epoch: body.grant_epoch,
        keys: body.keys,
        seq: body.seq,
        issued_at: body.issued_at,
        expires_at: body.expires_at,
        state: State::Unknown,
        last_seen_at: None,
        from_dht: false,
    })
}
