//! An address book that tests write.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use crate::{
    net::AddrBook,
    primitives::{Multiaddr, PeerId},
};

/// An address book in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<RwLock<HashMap<PeerId, Vec<Multiaddr>>>>);

impl Book {
    /// Sets the addrs of a peer.
    pub fn set(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.0.write().expect("no panic while held").insert(peer, addrs);
    }
}

impl AddrBook for Book {
    fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.0.read().expect("no panic while held").get(peer).cloned().unwrap_or_default()
    }

    fn candidates(&self, n: usize) -> Vec<PeerId> {
        self.0.read().expect("no panic while held").keys().take(n).copied().collect()
    }
}
