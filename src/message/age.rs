//! How long this store has been in use: running time summed over all runs, in milliseconds.
//!
//! Seen marks are aged by it and not by the wall clock: one that jumps weeks ahead for a moment would have them removed while
//! senders still try, and messages would be delivered twice. The sum never runs faster than real time and stands
//! still while the node is off, so marks live at least as long as they must, and longer on a node that is often off.
//! A crash takes back what was not stored yet, at most the time between two sweeps; marks then live so much longer.

use std::time::{Duration, Instant};

use super::store::AGE;
use crate::store::{Family, Store, StoreError};

/// See the module doc.
#[derive(Debug)]
pub(super) struct Age {
    before: Duration,
    started: Instant,
}

impl Age {
    /// Goes on from what an earlier run stored.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let stored =
            store.get(Family::Meta, AGE)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        Ok(Self { before: Duration::from_millis(stored), started: Instant::now() })
    }

    /// The sum up to now.
    pub(super) fn now(&self) -> Duration {
        self.before + self.started.elapsed()
    }
}

/// As it is stored.
pub(super) fn bytes(age: Duration) -> [u8; 8] {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}
