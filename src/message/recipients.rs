//! What messages need from the map and from friendships: keys and friends of recipients, a place to publish our keys, and who
//! appears.

use futures::future::BoxFuture;
use tokio::sync::{broadcast, watch};

use super::friend;
use crate::{
    identity::EncryptionKey,
    map::{self, MapError},
    primitives::{GrantId, Hash, PeerId, UnixMillis},
};

/// What a sender needs to know of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Granted {
    pub(super) id: GrantId,
    pub(super) not_after: UnixMillis,
    pub(super) max_ttl_s: u32,
    /// One of `friend::POLICY_CONTACTS` and so on.
    pub(super) policy: u32,
}

/// What messages use of [`map::Handle`] and [`friend::Handle`], so that tests need no map.
pub(super) trait Recipients: Send + Sync + std::fmt::Debug + 'static {
    /// Keys that a recipient publishes.
    fn keys(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<EncryptionKey>, MapError>>;
    /// Friends that a recipient publishes.
    fn friends(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<map::Friend>, MapError>>;
    /// The verified grant behind one of them; else why not, in words.
    fn granted(&self, owner: PeerId, friend: PeerId, hash: Hash) -> BoxFuture<'_, Result<Granted, String>>;
    /// Publishes our keys.
    fn publish_keys(&self, keys: Vec<EncryptionKey>) -> BoxFuture<'_, Result<(), MapError>>;
    /// A message or receipt came from there.
    fn heard(&self, peer: PeerId);
    /// Changes of the map.
    fn events(&self) -> broadcast::Receiver<map::Event>;
    /// The highest number of a record of ours that was signed elsewhere; zero: none was met.
    fn signed_elsewhere(&self) -> watch::Receiver<u64>;
}

/// The map, and friendships for the grants that it names.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) map: map::Handle,
    pub(super) friend: friend::Handle,
}

impl Recipients for Directory {
    fn keys(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<EncryptionKey>, MapError>> {
        Box::pin(async move { Ok(self.map.resolve(peer).await?.keys) })
    }

    fn friends(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<map::Friend>, MapError>> {
        Box::pin(self.friend.friends_of(peer))
    }

    fn granted(&self, owner: PeerId, friend: PeerId, hash: Hash) -> BoxFuture<'_, Result<Granted, String>> {
        Box::pin(async move {
            let grant = self.friend.fetch(owner, friend, hash).await.map_err(|e| e.to_string())?;
            let friend::Terms { max_ttl_s, policy, .. } = grant.terms;
            Ok(Granted { id: grant.offer.grant_id, not_after: grant.offer.not_after, max_ttl_s, policy })
        })
    }

    fn publish_keys(&self, keys: Vec<EncryptionKey>) -> BoxFuture<'_, Result<(), MapError>> {
        Box::pin(self.map.set_encryption_keys(keys))
    }

    fn heard(&self, peer: PeerId) {
        self.map.heard(peer);
    }

    fn events(&self) -> broadcast::Receiver<map::Event> {
        self.map.subscribe()
    }

    fn signed_elsewhere(&self) -> watch::Receiver<u64> {
        self.map.signed_elsewhere()
    }
}

/// The key to seal with: the newest that is valid now. When none is (a record past its time, a wrong clock), the one that lives
/// longest: its owner keeps keys for weeks longer, and asks for another one when it does not have it.
pub(super) fn choose(keys: &[EncryptionKey], now: UnixMillis) -> Option<EncryptionKey> {
    let valid = keys.iter().filter(|k| k.not_before <= now && now < k.not_after).max_by_key(|k| (k.not_before, k.id));
    valid.or_else(|| keys.iter().max_by_key(|k| (k.not_after, k.id))).copied()
}
