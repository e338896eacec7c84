//! Wire forms at hand, so that what was just sealed need not be read from the store to be sent. Everything here is in the store too.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::message::outbox::Item;

/// Small messages kept until they have ended.
const SMALL_BYTES: usize = 8 * 1024 * 1024;
/// Larger ones are read from the store when they are sent.
const SMALL: usize = 20 * 1024;
/// Parts that go early, kept until they are sent the first time: what is sealed while a fast recipient takes the first of it.
const EARLY_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Cache {
    small: HashMap<u64, Bytes>,
    small_bytes: usize,
    early: BTreeMap<Item, Bytes>,
    early_bytes: usize,
}

impl Cache {
    /// A message of one part.
    pub(super) fn put(&mut self, seq: u64, wire: Bytes) {
        if wire.len() <= SMALL && self.small_bytes + wire.len() <= SMALL_BYTES {
            self.small_bytes += wire.len();
            self.small.insert(seq, wire);
        }
    }

    /// A part that is to be sent soon.
    pub(super) fn put_early(&mut self, item: Item, wire: Bytes) {
        if self.early_bytes + wire.len() <= EARLY_BYTES {
            self.early_bytes += wire.len();
            self.early.insert(item, wire);
        }
    }

    /// For a request.
    pub(super) fn get(&mut self, item: &Item) -> Option<Bytes> {
        let early = self.early.remove(item);
        self.early_bytes -= early.as_ref().map_or(0, Bytes::len);
        early.or_else(|| self.small.get(&item.0).cloned())
    }

    /// A message has ended, or was sealed again.
    pub(super) fn forget(&mut self, seq: u64) {
        self.small_bytes -= self.small.remove(&seq).map_or(0, |wire| wire.len());
        let over: Vec<_> = self.early.range((seq, 0)..=(seq, u32::MAX)).map(|(item, _)| *item).collect();
        for item in over {
            self.early_bytes -= self.early.remove(&item).map_or(0, |wire| wire.len());
        }
    }

    /// A recipient did not answer: what goes to it later is read from the store then.
    pub(super) fn forget_early(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
    }
}
