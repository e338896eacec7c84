//! Banned peers: in memory for the swarm task and readers, in the store for the next start.
//!
//! Family `meta`: `net/ban/` ‖ address → when it ends (8 bytes, big endian). A ban is durable before it is answered.
//!
//! # Limits
//! [`MAX`] bans at a time; one more is refused. A ban ends after [`LASTS`], so that the list does not only grow;
//! banning again starts that time anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use super::CommandError;
use crate::{
    primitives::{Clock, PeerId, UnixMillis},
    store::{Batch, Family, Store, StoreError},
};

const PREFIX: &[u8] = b"net/ban/";
/// Bans at a time: some 100 bytes each.
pub(super) const MAX: usize = 4096;
/// How long a ban lasts.
pub(super) const LASTS: Duration = Duration::from_secs(90 * 24 * 3600);

/// The list. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bans(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: a test's handle, which keeps nothing.
    store: Option<Store>,
    clock: Arc<dyn Clock>,
    ends: RwLock<BTreeMap<PeerId, UnixMillis>>,
}

fn key(peer: &PeerId) -> Vec<u8> {
    [PREFIX, &peer.to_bytes()].concat()
}

impl Bans {
    /// Reads the list. Blocks.
    pub(super) fn load(store: Store, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let mut ends = BTreeMap::new();
        for (k, value) in store.scan(Family::Meta, PREFIX, None, 2 * MAX)? {
            match (PeerId::from_bytes(&k[PREFIX.len()..]), value.try_into()) {
                (Ok(peer), Ok(at)) => drop(ends.insert(peer, UnixMillis(u64::from_be_bytes(at)))),
                _ => tracing::warn!("a stored ban is damaged and was skipped"),
            }
        }
        Ok(Self(Arc::new(Shared { store: Some(store), clock, ends: RwLock::new(ends) })))
    }

    /// For tests: an empty list that is not stored.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn detached() -> Self {
        let clock = Arc::new(crate::primitives::SystemClock);
        Self(Arc::new(Shared { store: None, clock, ends: RwLock::default() }))
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        let now = self.0.clock.now();
        self.0.ends.read().expect("no panic while held").get(peer).is_some_and(|end| *end > now)
    }

    pub(super) fn list(&self) -> Vec<PeerId> {
        let now = self.0.clock.now();
        let ends = self.0.ends.read().expect("no panic while held");
        ends.iter().filter(|(_, end)| **end > now).map(|(peer, _)| *peer).collect()
    }

    /// Adds a ban, or starts its time anew; durable when it returns.
    pub(super) async fn add(&self, peer: PeerId) -> Result<(), CommandError> {
        let end = self.0.clock.now().plus(LASTS);
        {
            let ends = self.0.ends.read().expect("no panic while held");
            if ends.len() >= MAX && !ends.contains_key(&peer) {
                return Err(CommandError::Full(format!("{MAX} nodes are banned already: lift a ban first")));
            }
        }
        let mut batch = Batch::new();
        batch.put(Family::Meta, key(&peer), end.0.to_be_bytes());
        self.commit(batch).await?;
        self.0.ends.write().expect("no panic while held").insert(peer, end);
        Ok(())
    }

    /// Lifts a ban, durably.
    pub(super) async fn remove(&self, peer: &PeerId) -> Result<(), CommandError> {
        let mut batch = Batch::new();
        batch.delete(Family::Meta, key(peer));
        self.commit(batch).await?;
        self.0.ends.write().expect("no panic while held").remove(peer);
        Ok(())
    }

    /// Takes out the bans that are over. Writes without waiting for the disk.
    pub(super) fn take_ended(&self) -> Vec<PeerId> {
        let now = self.0.clock.now();
        if self.0.ends.read().expect("no panic while held").values().all(|end| *end > now) {
            return Vec::new();
        }
        let mut over = Vec::new();
        self.0.ends.write().expect("no panic while held").retain(|peer, end| {
            over.extend((*end <= now).then_some(*peer));
            *end > now
        });
        let mut batch = Batch::new();
        for peer in &over {
            batch.delete(Family::Meta, key(peer));
        }
        if let Some(store) = &self.0.store
            && let Err(error) = store.write_unsynced(batch)
        {
            tracing::warn!(%error, "bans that are over could not be removed; they will be at the next start");
        }
        over
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommandError> {
        match &self.0.store {
            Some(store) => Ok(store.commit(batch).await?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::ManualClock;

    #[tokio::test]
    async fn bans_survive_a_restart_end_in_time_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1000)));
        let load = || Bans::load(store.clone(), clock.clone()).unwrap();
        let bans = load();
        let (first, lifted) = (PeerId::random(), PeerId::random());
        bans.add(first).await.unwrap();
        bans.add(lifted).await.unwrap();
        bans.remove(&lifted).await.unwrap();
        let bans = load();
        assert_eq!(bans.list(), [first]);
        assert!(bans.contains(&first) && !bans.contains(&lifted));
        for _ in 1..MAX {
            bans.add(PeerId::random()).await.unwrap();
        }
        assert!(matches!(bans.add(lifted).await, Err(CommandError::Full(_))));
        bans.add(first).await.unwrap();
        assert!(bans.take_ended().is_empty());
        clock.set(UnixMillis(1000).plus(LASTS));
        assert!(!bans.contains(&first) && bans.list().is_empty());
        assert_eq!(bans.take_ended().len(), MAX);
        bans.add(lifted).await.unwrap();
        assert_eq!(load().list(), [lifted], "those that ended are gone from the store, too");
    }
}
