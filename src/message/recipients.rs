//! What messages need from the map: keys of recipients, a place to publish ours, and who appears.

use futures::future::BoxFuture;
use tokio::sync::{broadcast, watch};

use crate::{
    identity::EncryptionKey,
    map::{self, MapError},
    primitives::{PeerId, UnixMillis},
};

/// The part of [`map::Handle`] that messages use, so that tests need no map.
pub(super) trait Recipients: Send + Sync + std::fmt::Debug + 'static {
    /// Keys that a recipient publishes.
    fn keys(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<EncryptionKey>, MapError>>;
    /// Publishes our keys.
    fn publish_keys(&self, keys: Vec<EncryptionKey>) -> BoxFuture<'_, Result<(), MapError>>;
    /// A message or receipt came from there.
    fn heard(&self, peer: PeerId);
    /// Changes of the map.
    fn events(&self) -> broadcast::Receiver<map::Event>;
    /// The highest number of a record of ours that was signed elsewhere; zero: none was met.
    fn signed_elsewhere(&self) -> watch::Receiver<u64>;
}

impl Recipients for map::Handle {
    fn keys(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<EncryptionKey>, MapError>> {
        Box::pin(async move { Ok(self.resolve(peer).await?.keys) })
    }

    fn publish_keys(&self, keys: Vec<EncryptionKey>) -> BoxFuture<'_, Result<(), MapError>> {
        Box::pin(self.set_encryption_keys(keys))
    }

    fn heard(&self, peer: PeerId) {
        Self::heard(self, peer);
    }

    fn events(&self) -> broadcast::Receiver<map::Event> {
        self.subscribe()
    }

    fn signed_elsewhere(&self) -> watch::Receiver<u64> {
        Self::signed_elsewhere(self)
    }
}

/// The key to seal with: the newest that is valid now. When none is (a record past its time, a wrong clock), the one that lives
/// longest: its owner keeps keys for weeks longer, and asks for another one when it does not have it.
pub(super) fn choose(keys: &[EncryptionKey], now: UnixMillis) -> Option<EncryptionKey> {
    let valid = keys.iter().filter(|k| k.not_before <= now && now < k.not_after).max_by_key(|k| (k.not_before, k.id));
    valid.or_else(|| keys.iter().max_by_key(|k| (k.not_after, k.id))).copied()
}
