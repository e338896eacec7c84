//! The door to the VOS Map.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    Metrics,
    mirror::{Mirror, name_key, record_key},
    record::{Friend, Key},
    state::{PinReason, Source, entry_of},
    wire::{Probe, probe_request},
};
use crate::{
    identity::EncryptionKey,
    net::{
        self,
        dht::{self, DhtError},
        rpc::{self, RequestError},
    },
    primitives::{Multiaddr, PeerId, UnixMillis, limits::MAX_NAME_BYTES},
};

/// Whether a node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Connected, or answered a probe a moment ago.
    Online,
    /// Said goodbye, or did not answer.
    Offline,
    /// Nobody asked yet.
    Unknown,
}

/// One node as the map knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its address.
    pub address: PeerId,
    /// Its name, maybe empty. A label: several nodes may have the same.
    pub name: String,
    /// Where it can be dialled.
    pub addrs: Vec<Multiaddr>,
    /// What it does for others: `relay`, `bootstrap`, `hub`.
    pub roles: Vec<String>,
    /// Its Friend VOS: who takes messages for it while it is offline.
    pub friends: Vec<Friend>,
    /// Rises whenever its friends change.
    pub grant_epoch: u64,
    /// Its encryption keys, those that senders may use.
    pub keys: Vec<EncryptionKey>,
    /// The record's sequence number.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
    /// Whether it is there.
    pub state: State,
    /// When it was last heard; `None`: never.
    pub last_seen_at: Option<UnixMillis>,
    /// Whether it came from Kademlia and is not in the local map.
    pub from_dht: bool,
}

/// What a probe found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presence {
    /// Who.
    pub address: PeerId,
    /// Whether it answered. `Unknown` when we have no addr to try.
    pub state: State,
    /// `true` relayed, `false` direct; `None` when not connected.
    pub relayed: Option<bool>,
    /// Round-trip time of the probe.
    pub rtt: Option<Duration>,
    /// When it was last heard.
    pub last_seen_at: Option<UnixMillis>,
}

/// Size and health of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Valid records, our own included.
    pub records: usize,
    /// Whether the last exchange with some peer found nothing missing.
    pub complete: bool,
    /// Hash over all valid (address, sequence, record hash): equal on two nodes means equal maps.
    pub digest: [u8; 32],
}

/// What happened to the map.
#[derive(Clone, Debug)]
pub enum Event {
    /// A record is new, or newer than the one before.
    Changed(Box<Entry>),
    /// A node's state changed.
    Presence(PeerId, State),
    /// A record left the map (expired, or evicted from a bounded cache).
    Removed(PeerId),
    /// Somebody signed two different records with one sequence number; the proof is kept.
    Equivocation(PeerId),
}

/// Why the map gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Neither the map nor Kademlia knows it.
    #[error("not found")]
    NotFound,
    /// Not a valid name: too long, or control characters.
    #[error("invalid name: {0}")]
    InvalidName(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// For Kademlia to add owners of a name to those we know already.
const MORE_OWNERS: Duration = Duration::from_secs(5);
/// Records of a name's owners looked up at once.
const LOOKUPS: usize = 8;
/// Time left of an `online` call that is worth a search for a newer record.
const WORTH_LOOKUP: Duration = Duration::from_secs(1);

/// What the service is asked. Everything else is answered from the shared map.
#[derive(Debug)]
#[allow(clippy::enum_variant_names, reason = "each sets a part of our record")]
pub(super) enum Command {
    SetName(String, oneshot::Sender<Result<(), MapError>>),
    SetKeys(Vec<EncryptionKey>, oneshot::Sender<Result<(), MapError>>),
    SetFriends(Vec<Friend>, u64, oneshot::Sender<Result<(), MapError>>),
}

/// Commands waiting for the service; callers wait for a place.
pub(super) const COMMANDS: usize = 16;

/// Whether a text can be a name.
///
/// # Errors
/// [`MapError::InvalidName`] when it is over 64 bytes or has control characters.
pub fn check_name(name: &str) -> Result<(), MapError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(MapError::InvalidName(format!("{} bytes, at most {MAX_NAME_BYTES}", name.len())));
    }
    if name.chars().any(char::is_control) {
        return Err(MapError::InvalidName("control characters".into()));
    }
    Ok(())
}

/// Asks the VOS Map. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mirror: Mirror,
    commands: mpsc::Sender<Command>,
    dht: dht::Client,
    net: net::Handle,
    probe: rpc::Client<Probe>,
}

impl Handle {
    pub(super) fn new(
        mirror: Mirror,
        commands: mpsc::Sender<Command>,
        dht: dht::Client,
        net: net::Handle,
        probe: rpc::Client<Probe>,
    ) -> Self {
        Self { inner: Arc::new(Inner { mirror, commands, dht, net, probe }) }
    }

    /// Our own address.
    #[must_use]
    pub fn local(&self) -> PeerId {
        self.inner.mirror.local()
    }

    /// All entries sorted by address, ours included. Copies; blocks for some milliseconds when the map is large.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.page(None, usize::MAX)
    }

    /// One page for the API: up to `limit` entries after `after`, by address.
    #[must_use]
    pub fn page(&self, after: Option<PeerId>, limit: usize) -> Vec<Entry> {
        let (now, after) = (self.inner.mirror.now(), after.and_then(|a| Key::of(&a)));
        // Entries are decoded after the lock is given back.
        let slots: Vec<_> = {
            let map = self.inner.mirror.read();
            map.after(after).take(limit).map(|(_, s)| (s.envelope.clone(), s.standing(now))).collect()
        };
        let entry = |(envelope, (last_seen_at, state)): (Arc<[u8]>, _)| {
            entry_of(&envelope).map(|entry| self.dress(Entry { last_seen_at, state, ..entry }))
        };
        slots.into_iter().filter_map(entry).collect()
    }

    /// The entry of an address in the local map.
    #[must_use]
    pub fn get(&self, address: &PeerId) -> Option<Entry> {
        self.inner.mirror.get(address).map(|e| self.dress(e))
    }

    /// We are online ourselves, whatever the map says.
    fn dress(&self, mut entry: Entry) -> Entry {
        if entry.address == self.local() {
            entry.state = State::Online;
            entry.last_seen_at = Some(self.inner.mirror.now());
        }
        entry
    }

    /// All local owners of a name.
    #[must_use]
    pub fn find_name(&self, name: &str) -> Vec<Entry> {
        let now = self.inner.mirror.now();
        let map = self.inner.mirror.read();
        let owners: Vec<_> = map.owners(name).filter_map(|key| map.use_slot(key)?.entry(now)).collect();
        drop(map);
        owners.into_iter().map(|e| self.dress(e)).collect()
    }

    /// The entry of an address: local map, else Kademlia.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when nobody knows it.
    pub async fn resolve(&self, address: PeerId) -> Result<Entry, MapError> {
        match self.get(&address) {
            Some(entry) => Ok(entry),
            None => self.look_up(address).await,
        }
    }

    /// Asks Kademlia, and keeps what it finds.
    async fn look_up(&self, address: PeerId) -> Result<Entry, MapError> {
        let mirror = &self.inner.mirror;
        let key = Key::of(&address).ok_or(MapError::NotFound)?;
        mirror.metrics().dht_lookups.inc();
        let values = match self.inner.dht.get(record_key(mirror.network(), &address)).await {
            Ok(values) => values,
            Err(DhtError::Stopped) => return Err(MapError::Stopped),
            Err(_) => return Err(MapError::NotFound),
        };
        let best = mirror.best_of(&key, &values).ok_or(MapError::NotFound)?;
        mirror.merge(std::slice::from_ref(&best), Source::News);
        // What the map has now may be newer than what was found, or nothing when it is full of pinned ones.
        let entry = mirror.get(&address).or_else(|| entry_of(&best.envelope)).ok_or(MapError::NotFound)?;
        Ok(Entry { from_dht: true, ..entry })
    }

    /// All owners of a name: local map and, when the map is not the whole network or has none, Kademlia.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when nobody has it.
    pub async fn resolve_name(&self, name: &str) -> Result<Vec<Entry>, MapError> {
        check_name(name)?;
        if name.is_empty() {
            return Err(MapError::InvalidName("empty".into()));
        }
        let mut owners = self.find_name(name);
        if owners.is_empty() {
            owners = self.look_up_name(name, &[]).await?;
        } else if !self.stats().complete {
            let known: Vec<_> = owners.iter().map(|e| e.address).collect();
            let more = tokio::time::timeout(MORE_OWNERS, self.look_up_name(name, &known)).await;
            owners.extend(more.ok().and_then(Result::ok).unwrap_or_default());
        }
        owners.sort_by_key(|e| e.address);
        if owners.is_empty() { Err(MapError::NotFound) } else { Ok(owners) }
    }

    async fn look_up_name(&self, name: &str, known: &[PeerId]) -> Result<Vec<Entry>, MapError> {
        let mirror = &self.inner.mirror;
        mirror.metrics().dht_lookups.inc();
        let providers = match self.inner.dht.providers(name_key(mirror.network(), name)).await {
            Ok(providers) => providers,
            Err(DhtError::Stopped) => return Err(MapError::Stopped),
            Err(_) => return Err(MapError::NotFound),
        };
        let unknown = providers.into_iter().filter(|p| !known.contains(p));
        let found = futures::stream::iter(unknown).map(|p| self.resolve(p)).buffer_unordered(LOOKUPS);
        let entries: Vec<_> = found.filter_map(|e| std::future::ready(e.ok())).collect().await;
        // Anybody can claim to provide a name: its own signed record decides.
        Ok(entries.into_iter().filter(|e| e.name == name).map(|e| Entry { from_dht: true, ..e }).collect())
    }

    /// Probes a node: a real round trip, dialling it when needed.
    pub async fn online(&self, address: PeerId, timeout: Duration) -> Presence {
        if address == self.local() {
            return Presence {
                address,
                state: State::Online,
                relayed: None,
                rtt: Some(Duration::ZERO),
                last_seen_at: Some(self.inner.mirror.now()),
            };
        }
        let probed = tokio::time::timeout(timeout, self.probe(address, timeout)).await;
        let (state, rtt) = probed.unwrap_or((State::Offline, None));
        match state {
            State::Online => self.inner.mirror.heard(&address),
            State::Offline => self.inner.mirror.lost(&address),
            State::Unknown => {}
        }
        let last_seen_at = match (state, self.inner.mirror.get(&address)) {
            (State::Online, None) => Some(self.inner.mirror.now()),
            (_, entry) => entry.and_then(|e| e.last_seen_at),
        };
        let relayed = self.inner.net.peer(&address).map(|p| p.relayed);
        Presence { address, state, relayed, rtt, last_seen_at }
    }

    async fn probe(&self, address: PeerId, timeout: Duration) -> (State, Option<Duration>) {
        let start = Instant::now();
        let connected = self.inner.net.is_connected(&address);
        let known = connected || !net::AddrBook::addrs(&self.inner.mirror, &address).is_empty();
        if !known && self.look_up(address).await.map_or(true, |e| e.addrs.is_empty()) {
            return (State::Unknown, None);
        }
        let first = self.exchange(address).await;
        if first.0 == State::Online && !connected {
            // The first one included dialling: the second one measures the path.
            let second = self.exchange(address).await;
            return if second.0 == State::Online { second } else { first };
        }
        let left = timeout.saturating_sub(start.elapsed());
        if first.0 != State::Offline || !known || left < WORTH_LOOKUP {
            return first;
        }
        // It may have moved: Kademlia may have a newer record than we.
        let had = self.inner.mirror.get(&address).map_or(0, |e| e.seq);
        match self.look_up(address).await {
            Ok(entry) if entry.seq > had => self.exchange(address).await,
            _ => first,
        }
    }

    async fn exchange(&self, address: PeerId) -> (State, Option<Duration>) {
        self.inner.mirror.metrics().probes.inc();
        let start = Instant::now();
        let answer = self.inner.probe.request(address, probe_request()).await;
        match answer {
            Ok(_) => (State::Online, Some(start.elapsed())),
            other => (read_probe(&other.map(drop)), None),
        }
    }

    /// Size and health.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.mirror.stats()
    }

    /// The map's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.inner.mirror.metrics()
    }

    /// Changes from now on. A slow receiver loses the oldest (`Lagged`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.mirror.subscribe()
    }

    /// The highest number of a record signed with our key that this store did not make and that was ahead of ours, also in
    /// earlier runs; zero: none was met. It rises after a restored backup, or when a second node has our key: then
    /// whatever else is numbered under our key was used elsewhere, too.
    #[must_use]
    pub fn signed_elsewhere(&self) -> watch::Receiver<u64> {
        self.inner.mirror.elsewhere()
    }

    /// Changes our name and publishes a new record; durable when it returns.
    ///
    /// # Errors
    /// [`MapError::InvalidName`], or the store's error.
    pub async fn set_name(&self, name: String) -> Result<(), MapError> {
        check_name(&name)?;
        self.ask(|answer| Command::SetName(name, answer)).await
    }

    /// Changes the encryption keys in our record and publishes it; durable when it returns.
    ///
    /// # Errors
    /// The store's error.
    pub async fn set_encryption_keys(&self, keys: Vec<EncryptionKey>) -> Result<(), MapError> {
        self.ask(|answer| Command::SetKeys(keys, answer)).await
    }

    /// Changes the Friend VOS in our record, at most 8 with 4 addrs each, and publishes it; durable when it returns. The
    /// record's epoch never falls: the greater of `epoch` and what it was counts.
    ///
    /// # Errors
    /// The store's error.
    pub async fn set_friends(&self, friends: Vec<Friend>, epoch: u64) -> Result<(), MapError> {
        self.ask(|answer| Command::SetFriends(friends, epoch, answer)).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), MapError>>) -> Command,
    ) -> Result<(), MapError> {
        let (answer, result) = oneshot::channel();
        self.inner.commands.send(command(answer)).await.map_err(|_| MapError::Stopped)?;
        result.await.map_err(|_| MapError::Stopped)?
    }

    /// Keeps these nodes in a bounded cache whatever happens, and no others for this reason: who is not named any more gives up its
    /// pin. The first 2048 count.
    pub fn pin(&self, why: PinReason, addresses: impl IntoIterator<Item = PeerId>) {
        let keys: Vec<Key> = addresses.into_iter().filter_map(|address| Key::of(&address)).collect();
        self.inner.mirror.write().pin(why, keys);
    }

    /// Heard from a node just now (a message, a receipt): it is online.
    pub fn heard(&self, address: PeerId) {
        self.inner.mirror.heard(&address);
    }

    /// The proof that a node signed two records with one number, if there is one: both envelopes.
    #[must_use]
    pub fn equivocation(&self, address: &PeerId) -> Option<[Vec<u8>; 2]> {
        let map = self.inner.mirror.read();
        map.proof(&Key::of(address)?).map(|proof| [proof.kept.to_vec(), proof.other.to_vec()])
    }

    /// For tests of other features: a handle over `mirror` without a service or a network. Fill it by
    /// [`Mirror::insert`]; `set_*` answer `Ok` and change nothing; everybody else is unreachable.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached(mirror: Mirror) -> Self {
        let (commands, mut queue) = mpsc::channel(COMMANDS);
        #[allow(clippy::disallowed_methods, reason = "ends with its handle")]
        tokio::spawn(async move {
            while let Some(command) = queue.recv().await {
                let (Command::SetName(_, answer) | Command::SetKeys(_, answer) | Command::SetFriends(_, _, answer)) =
                    command;
                let _ = answer.send(Ok(()));
            }
        });
        let local = mirror.local();
        let (probe, _) = rpc::Loopback::default().join(local);
        let (net, _) = net::Handle::detached(local);
        Self::new(mirror, commands, dht::Client::detached(), net, probe)
    }
}

/// What the end of a probe says about the node. Any answer comes from somebody who is there.
pub(super) fn read_probe(result: &Result<(), RequestError>) -> State {
    match result {
        Ok(()) | Err(RequestError::Unsupported | RequestError::Status(_) | RequestError::Malformed) => State::Online,
        Err(RequestError::Unreachable(_) | RequestError::Timeout | RequestError::ConnectionLost) => State::Offline,
        Err(RequestError::TooLarge { .. } | RequestError::Busy | RequestError::Stopped) => State::Unknown,
    }
}
