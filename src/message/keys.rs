//! Our encryption keys in the store, and their rotation.
//!
//! A key is durable before its public part is published, so nobody can seal to a key that a crash could take away.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use tracing::{error, info, warn};

use super::recipients::Recipients;
use crate::{
    identity::{Keyring, Opener},
    primitives::{Clock, PeerId},
    runtime::Stop,
    store::{Batch, Family, Store, StoreError},
};

const KEYRING: &[u8] = b"encryption_keyring";
/// How often rotation is looked at: keys live for days.
const CHECK: Duration = Duration::from_secs(3600);
/// When publishing or storing failed.
const AGAIN: Duration = Duration::from_secs(30);

/// Our keys: the ring, and what opens with it.
#[derive(Debug)]
pub(super) struct Keys {
    store: Store,
    clock: Arc<dyn Clock>,
    context: String,
    owner: PeerId,
    ring: RwLock<(Keyring, Arc<Opener>)>,
}

impl Keys {
    /// Reads the keyring. A damaged one is replaced: senders then seal again (NEED_RESEAL), nothing is lost.
    pub(super) fn load(store: Store, clock: Arc<dyn Clock>, context: &str, owner: PeerId) -> Result<Self, StoreError> {
        let ring = match store.get(Family::Meta, KEYRING)?.map(|bytes| Keyring::decode(&bytes)) {
            Some(Ok(ring)) => ring,
            None => Keyring::default(),
            Some(Err(error)) => {
                error!(%error, "starting with a new encryption key; senders will seal their messages again");
                Keyring::default()
            }
        };
        let opener = Arc::new(Opener::new(context, owner, ring.clone()));
        Ok(Self { store, clock, context: context.to_owned(), owner, ring: RwLock::new((ring, opener)) })
    }

    /// What opens messages now.
    pub(super) fn opener(&self) -> Arc<Opener> {
        self.ring.read().expect("no panic while held").1.clone()
    }

    /// The newest key's id.
    pub(super) fn current(&self) -> Option<crate::identity::KeyId> {
        self.ring.read().expect("no panic while held").0.current().map(|k| k.id)
    }

    /// Makes a new key when it is time; durable when this returns. Whether anything changed.
    pub(super) async fn rotate(&self) -> Result<bool, StoreError> {
        let mut ring = self.ring.read().expect("no panic while held").0.clone();
        if !ring.rotate(self.clock.now()) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.put(Family::Meta, KEYRING, ring.encode().to_vec());
        self.store.commit(batch).await?;
        if let Some(key) = ring.current() {
            info!(key = %hex::encode(key.id), "new encryption key");
        }
        let opener = Arc::new(Opener::new(&self.context, self.owner, ring.clone()));
        *self.ring.write().expect("no panic while held") = (ring, opener);
        Ok(true)
    }

    /// Rotates and publishes until stopped. At the start it publishes in any case: the record may not have the keys yet.
    pub(super) async fn run(&self, recipients: &dyn Recipients, stop: Stop) {
        let mut publish = true;
        loop {
            let wait = match self.rotate().await {
                Err(error) => {
                    warn!(%error, "cannot store a new encryption key, trying again soon");
                    AGAIN
                }
                Ok(changed) if changed || publish => {
                    let offered = self.ring.read().expect("no panic while held").0.offered(self.clock.now());
                    let result = recipients.publish_keys(offered).await;
                    publish = result.is_err();
                    match result {
                        Ok(()) => CHECK,
                        Err(error) => {
                            warn!(%error, "cannot publish the encryption keys, trying again soon");
                            AGAIN
                        }
                    }
                }
                Ok(_) => CHECK,
            };
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}
