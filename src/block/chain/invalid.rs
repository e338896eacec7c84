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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::kit::NOW;

    fn hash(n: u64) -> Hash {
        Hash::of(&n.to_be_bytes())
    }

    #[test]
    fn of_4096_hashes_the_first_one_gives_way_to_the_next() {
        let (mut invalid, why): (Invalid, Arc<str>) = (Invalid::default(), "it breaks a rule".into());
        for n in 0..4096 {
            invalid.mark(hash(n), why.clone(), NOW);
            // Whoever sends it again takes nobody's place.
            invalid.mark(hash(n), why.clone(), NOW);
        }
        let published = invalid.all();
        assert_eq!((published.len(), invalid.why(&hash(0))), (4096, Some(&why)));
        invalid.mark(hash(4096), why.clone(), NOW);
        assert_eq!((invalid.why(&hash(0)), invalid.why(&hash(1))), (None, Some(&why)));
        assert_eq!((invalid.all().len(), invalid.why(&hash(4096))), (4096, Some(&why)));
        assert!(published.contains_key(&hash(0)), "what readers have stays as it was");
    }

    #[test]
    fn they_are_forgotten_after_ten_minutes() {
        let at = |ms: u64| UnixMillis(NOW.0 + ms);
        let (mut invalid, why): (Invalid, Arc<str>) = (Invalid::default(), "it breaks a rule".into());
        invalid.mark(hash(1), why.clone(), at(0));
        invalid.mark(hash(2), why.clone(), at(1000));
        invalid.sweep(at(600_000));
        assert_eq!(invalid.all().len(), 2);
        invalid.sweep(at(600_001));
        assert_eq!((invalid.why(&hash(1)), invalid.why(&hash(2))), (None, Some(&why)));
        invalid.sweep(at(601_001));
        assert!(invalid.all().is_empty() && invalid.order.is_empty());
    }
}
