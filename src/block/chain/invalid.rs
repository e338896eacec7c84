//! Hashes that were found to be invalid: refused for a while without being fetched or checked again. A hash covers header and body
//! root, so only what a block itself got wrong is remembered here, never what somebody sent beside its header.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::primitives::{Hash, UnixMillis};

/// Hashes remembered.
const MAX_HASHES: usize = 4096;
/// For how long, in milliseconds.
const KEEP_MS: u64 = 10 * 60 * 1000;

/// The memory.
#[derive(Default, Debug)]
pub(super) struct Invalid {
    /// Shared with what was published last, and copied when it changes after that.
    why: Arc<HashMap<Hash, Arc<str>>>,
    order: VecDeque<(UnixMillis, Hash)>,
}

impl Invalid {
    /// Why a hash is invalid, when it is remembered.
    pub(super) fn why(&self, hash: &Hash) -> Option<&Arc<str>> {
        self.why.get(hash)
    }

    /// All of them.
    pub(super) fn all(&self) -> Arc<HashMap<Hash, Arc<str>>> {
        self.why.clone()
    }

    pub(super) fn mark(&mut self, hash: Hash, why: Arc<str>, now: UnixMillis) {
        if Arc::make_mut(&mut self.why).insert(hash, why).is_none() {
            self.order.push_back((now, hash));
        }
        while self.order.len() > MAX_HASHES {
            self.forget_first();
        }
    }

    pub(super) fn sweep(&mut self, now: UnixMillis) {
        while self.order.front().is_some_and(|(at, _)| now.0.saturating_sub(at.0) > KEEP_MS) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, hash)) = self.order.pop_front() {
            Arc::make_mut(&mut self.why).remove(&hash);
        }
    }
}
