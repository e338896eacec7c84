//! Who has which block, as far as we know: what others sent, announced or said they know, and what we told them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash as Key,
};

use crate::primitives::{Hash, PeerId};

/// Hashes remembered for each peer: more than half an hour of blocks, 32 KiB and its index.
pub(super) const PER_PEER: usize = 1024;
/// Hashes remembered for the whole node.
pub(super) const NODE_WIDE: usize = 8192;

/// The last things that were put in, without repetition.
#[derive(Clone, Debug)]
pub(super) struct Recent<T> {
    limit: usize,
    all: HashSet<T>,
    order: VecDeque<T>,
}

impl<T: Copy + Eq + Key> Recent<T> {
    /// Remembers up to `limit` things.
    #[must_use]
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, all: HashSet::new(), order: VecDeque::new() }
    }

    /// Puts one in; `false` when it was there. The oldest goes when there are too many.
    pub(super) fn insert(&mut self, thing: T) -> bool {
        if !self.all.insert(thing) {
            return false;
        }
        self.order.push_back(thing);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, thing: &T) {
        if self.all.remove(thing) {
            self.order.retain(|t| t != thing);
        }
    }

    /// Whether it is there.
    #[must_use]
    pub(super) fn contains(&self, thing: &T) -> bool {
        self.all.contains(thing)
    }

    #[cfg(test)]
    /// How many are there.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    #[cfg(test)]
    /// Whether nothing is there.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// The known lists of the connected peers.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(HashMap<PeerId, Recent<Hash>>);

impl Known {
    /// A peer came.
    pub(super) fn up(&mut self, peer: PeerId) {
        self.0.entry(peer).or_insert_with(|| Recent::new(PER_PEER));
    }

    /// A peer went: its list goes too.
    pub(super) fn down(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// A connected peer has a block. Of others nothing is remembered: anybody can invent them.
    pub(super) fn learn(&mut self, peer: &PeerId, hash: Hash) {
        if let Some(list) = self.0.get_mut(peer) {
            list.insert(hash);
        }
    }

    /// It is not known any more whether a peer has a block.
    pub(super) fn unlearn(&mut self, peer: &PeerId, hash: &Hash) {
        if let Some(list) = self.0.get_mut(peer) {
            list.remove(hash);
        }
    }

    /// Whether a peer is known to have a block.
    #[must_use]
    pub(super) fn has(&self, peer: &PeerId, hash: &Hash) -> bool {
        self.0.get(peer).is_some_and(|list| list.contains(hash))
    }

    /// The connected peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.0.keys()
    }

    /// Whether a peer is connected.
    #[must_use]
    pub(super) fn is_up(&self, peer: &PeerId) -> bool {
        self.0.contains_key(peer)
    }
}
