//! The door to the VOS Map.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{
    identity::EncryptionKey,
    primitives::{Multiaddr, PeerId, UnixMillis},
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
    /// Its Friend VOS.
    pub friends: Vec<PeerId>,
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

/// Asks the VOS Map. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {}

#[allow(unused_variables, clippy::unused_async, missing_docs, clippy::todo, reason = "skeleton")]
impl Handle {
    /// Our own address.
    #[must_use]
    pub fn local(&self) -> PeerId {
        todo!()
    }
    /// All entries sorted by address, ours included. Copies; blocks for some milliseconds when the map is large.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        todo!()
    }
    /// One page for the API: up to `limit` entries after `after`, by address.
    #[must_use]
    pub fn page(&self, after: Option<PeerId>, limit: usize) -> Vec<Entry> {
        todo!()
    }
    /// The entry of an address in the local map.
    #[must_use]
    pub fn get(&self, address: &PeerId) -> Option<Entry> {
        todo!()
    }
    /// All local owners of a name.
    #[must_use]
    pub fn find_name(&self, name: &str) -> Vec<Entry> {
        todo!()
    }
    /// The entry of an address: local map, else Kademlia.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when nobody knows it.
    pub async fn resolve(&self, address: PeerId) -> Result<Entry, MapError> {
        todo!()
    }
    /// All owners of a name: local map and, when the map is not the whole network or has none, Kademlia.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when nobody has it.
    pub async fn resolve_name(&self, name: &str) -> Result<Vec<Entry>, MapError> {
        todo!()
    }
    /// Probes a node: a real round trip, dialling it when needed.
    pub async fn online(&self, address: PeerId, timeout: Duration) -> Presence {
        todo!()
    }
    /// Size and health.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// Changes from now on. A slow receiver loses the oldest (`Lagged`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        todo!()
    }
    /// Changes our name and publishes a new record; durable when it returns.
    ///
    /// # Errors
    /// [`MapError::InvalidName`], or the store's error.
    pub async fn set_name(&self, name: String) -> Result<(), MapError> {
        todo!()
    }
    /// Changes the encryption keys in our record and publishes it; durable when it returns.
    ///
    /// # Errors
    /// The store's error.
    pub async fn set_encryption_keys(&self, keys: Vec<EncryptionKey>) -> Result<(), MapError> {
        todo!()
    }
    /// Keeps these nodes in a bounded cache whatever happens (contacts).
    pub fn pin(&self, address: PeerId) {
        todo!()
    }
    /// Heard from a node just now (a message, a receipt): it is online.
    pub fn heard(&self, address: PeerId) {
        todo!()
    }
    /// Proofs of equivocation kept: address and the two envelopes.
    #[must_use]
    pub fn equivocations(&self) -> Vec<(PeerId, Vec<u8>, Vec<u8>)> {
        todo!()
    }
}
