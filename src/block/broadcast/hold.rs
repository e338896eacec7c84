//! Headers that cannot be judged yet: their parent is on its way, or their time has not come. They are judged again when it has, so that
//! a child that overtakes its parent is still forwarded. Few, and for a short time: gossip forgets what it does not
//! hear about for twelve heartbeats.

use std::time::{Duration, Instant};

use crate::primitives::{Hash, PeerId};

/// Headers held back.
pub(super) const HELD: usize = 64;
/// Of them, those that one peer sent.
pub(super) const PER_SOURCE: usize = 8;
/// How long for a parent.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// What a header waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// This block is imported, or given up.
    Parent(Hash),
    /// A time.
    Time,
}

#[derive(Debug)]
struct Item<T> {
    from: PeerId,
    until: Until,
    /// When it is over, or its time has come.
    at: Instant,
    what: T,
}

/// What is held back.
#[derive(Debug)]
pub(super) struct Hold<T>(Vec<Item<T>>);

impl<T> Default for Hold<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Hold<T> {
    /// Holds something back that `from` sent. When all places are taken, what waits for a time gives way to what waits for a parent.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    pub(super) fn put(&mut self, from: PeerId, until: Until, at: Instant, what: T) -> Result<(), T> {
        if self.0.iter().filter(|i| i.from == from).count() >= PER_SOURCE {
            return Err(what);
        }
        if self.0.len() >= HELD {
            let early = self.0.iter().rposition(|i| i.until == Until::Time).filter(|_| until != Until::Time);
            let Some(early) = early else { return Err(what) };
            self.0.remove(early);
        }
        self.0.push(Item { from, until, at, what });
        Ok(())
    }

    /// What waited for this block.
    pub(super) fn children(&mut self, parent: &Hash) -> Vec<T> {
        self.0.extract_if(.., |i| i.until == Until::Parent(*parent)).map(|i| i.what).collect()
    }

    /// What waited for its time, and has come to it; what waited for a parent for too long is dropped.
    pub(super) fn due(&mut self, now: Instant) -> Vec<T> {
        self.0.extract_if(.., |i| i.at <= now).filter_map(|i| (i.until == Until::Time).then_some(i.what)).collect()
    }

    /// When [`Hold::due`] has something to do.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|i| i.at).min()
    }
}
