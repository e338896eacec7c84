//! Token buckets by key, bounded: what one author or one peer may make us do.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Buckets at most; a full one is the same as none, so those go first.
const BUCKETS: usize = 16_384;

/// One bucket for each key, all of one size.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    capacity: f64,
    per_second: f64,
    buckets: HashMap<K, (f64, Instant)>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// `amount` in `window`, all of it at once if need be.
    pub(super) fn new(amount: u32, window: Duration) -> Self {
        let capacity = f64::from(amount.max(1));
        Self { capacity, per_second: capacity / window.as_secs_f64(), buckets: HashMap::new() }
    }

    /// Takes one token; `false` when there is none.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() >= BUCKETS && !self.buckets.contains_key(&key) {
            let (capacity, rate) = (self.capacity, self.per_second);
            self.buckets.retain(|_, (tokens, at)| *tokens + elapsed(now, *at) * rate < capacity);
            if self.buckets.len() >= BUCKETS {
                // As many busy keys as that are an attack with throw-away keys; nobody is to be locked out by it.
                self.buckets.clear();
            }
        }
        let (tokens, at) = self.buckets.entry(key).or_insert((self.capacity, now));
        *tokens = (*tokens + elapsed(now, *at) * self.per_second).min(self.capacity);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

fn elapsed(now: Instant, at: Instant) -> f64 {
    now.saturating_duration_since(at).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again_and_keys_are_apart() {
        let start = Instant::now();
        let mut buckets = Buckets::new(3, Duration::from_secs(30));
        assert_eq!((0..5).filter(|_| buckets.take("a", start)).count(), 3);
        assert!(buckets.take("b", start));
        assert!(!buckets.take("a", start + Duration::from_secs(9)));
        assert!(buckets.take("a", start + Duration::from_secs(20)));
    }

    #[test]
    fn a_flood_of_keys_does_not_grow_it() {
        let start = Instant::now();
        let mut buckets = Buckets::new(3, Duration::from_secs(30));
        (0..100_000).for_each(|key| assert!(buckets.take(key, start)));
        assert!(buckets.buckets.len() <= BUCKETS);
    }
}
