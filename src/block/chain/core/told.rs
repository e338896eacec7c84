//! What was told of the best chain, and the difference when the chain was read from its store again: a write that failed may have
//! reached the disk all the same.

use super::Core;
use crate::{
    block::{Point, chain::Event},
    primitives::Hash,
    store::StoreError,
};

impl Core {
    /// The committed block and the best chain above it.
    pub(super) fn place(&self) -> Vec<Point> {
        std::iter::once(self.tree.root()).chain(self.path.iter().copied()).collect()
    }

    /// What is to be told to those who know `told`, a [`Core::place`] of before.
    pub(super) fn since(&self, told: &[Point]) -> Result<Vec<Event>, StoreError> {
        let mut kept = told.len();
        while let Some(last) = told[..kept].last() {
            if self.hash_at(last.height)? == Some(last.hash) {
                break;
            }
            kept -= 1;
        }
        let detached: Vec<Point> = told[kept..].iter().rev().copied().collect();
        let fork = told[..kept].last().map_or_else(|| self.committed().height, |p| p.height);
        let mut attached = Vec::new();
        for height in fork + 1..=self.head().height {
            attached.extend(self.hash_at(height)?.map(|hash| Point { height, hash }));
        }
        let mut events = Vec::new();
        if !detached.is_empty() || !attached.is_empty() {
            events.push(Event::Head { head: self.head(), detached, attached });
        }
        let before = told.first().map_or(0, |p| p.height);
        if self.committed().height > before {
            events.push(Event::Committed { from: before + 1, to: self.committed() });
        }
        Ok(events)
    }

    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        match height.checked_sub(self.committed().height + 1) {
            None => self.store.hash_at(height),
            Some(above) => {
                let at = usize::try_from(above).ok();
                Ok(at.and_then(|at| self.path.get(at)).map(|p| p.hash))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block::{
        Block, Origin, VerifiedHeader,
        chain::{ChainError, ChainStore, Longest, Memory},
        kit::{self, Maker},
        purpose,
        tests::{Faulty, Random, forest},
    };

    /// Knows nothing but events.
    #[derive(Default)]
    struct Listener {
        chain: Vec<Point>,
        committed: u64,
        heads: usize,
        /// What is final may be taken back, so that heights become final again.
        deep: bool,
    }

    impl Listener {
        fn hear(&mut self, events: Vec<Event>) {
            for event in events {
                match event {
                    Event::Head { head, detached, attached } => {
                        for point in detached {
                            assert_eq!(self.chain.pop(), Some(point));
                        }
                        self.chain.extend(attached);
                        assert_eq!(self.chain.last(), Some(&head));
                        self.heads += 1;
                    }
                    Event::Committed { from, to } => {
                        assert!(from == self.committed + 1 || self.deep && from <= self.committed, "each is told once");
                        assert_eq!(self.chain[usize::try_from(to.height).unwrap() - 1], to);
                        self.committed = to.height;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes all of them in one write.
    fn take(core: &mut Core, blocks: &[Block]) -> Result<Vec<Event>, ChainError> {
        for block in blocks {
            core.apply(block.clone(), Origin::File, kit::NOW)?;
        }
        while core.work(kit::NOW)? {}
        Ok(core.flush()?)
    }

    #[test]
    fn whoever_follows_the_events_is_where_the_chain_is_after_a_write_that_failed_or_seemed_to() {
        let mut told_late = 0;
        for (seed, k, after) in (0..3).flat_map(|seed| (1..25).flat_map(move |k| [(seed, k, false), (seed, k, true)])) {
            let mut random = Random(seed);
            let blocks = forest(&mut random, 15, 3);
            // Several at once, so that one write holds forks, a reorg and commits.
            let parts: Vec<_> = blocks.chunks(1 + random.below(6)).collect();
            let store = Arc::new(Faulty::new(Memory::default(), k, after));
            let mut core = Core::open(kit::rules(4), store.clone(), kit::NOW).unwrap();
            let mut listener = Listener::default();
            for part in parts {
                match take(&mut core, part) {
                    Ok(events) => listener.hear(events),
                    Err(_) => {
                        assert!(core.recover(kit::NOW).is_empty(), "it cannot be written yet");
                        store.repair();
                        let heads = listener.heads;
                        listener.hear(core.recover(kit::NOW));
                        assert!(after || listener.heads == heads, "nothing was written");
                        told_late += usize::from(listener.heads > heads);
                        listener.hear(take(&mut core, part).unwrap());
                    }
                }
                assert_eq!(listener.chain.last().copied().unwrap_or_default().height, core.head().height);
                let place = core.place();
                let above = &listener.chain[usize::try_from(place[0].height).unwrap()..];
                assert_eq!((above, listener.committed), (&place[1..], place[0].height), "seed {seed}, write {k}");
            }
        }
        assert!(told_late > 20, "{told_late}");
    }

    #[test]
    fn they_are_there_as_well_when_a_write_failed_that_took_back_what_was_final_and_it_is_taken_back_all_the_same() {
        let ours = Maker::new(1).row(&kit::genesis(), 20, 10);
        let theirs = Maker::new(2).row(&ours[9], 20, 10);
        let network = purpose(&kit::network());
        let headers: Vec<_> =
            theirs.iter().map(|b| VerifiedHeader::new(b.header().clone(), &network).unwrap()).collect();
        let peers: Vec<_> = (0..4).map(|n| Maker::new(n).address()).collect();
        let mut reopened = 0;
        for (k, after) in (1..12).flat_map(|k| [(k, false), (k, true)]) {
            let store = Arc::new(Faulty::new(Memory::default(), k, after));
            let mut rules = kit::rules_with(4, Arc::new(Longest));
            rules.deep_reorg_max = 100;
            let mut core = Core::open(rules, store.clone(), kit::NOW).unwrap();
            let mut listener = Listener { deep: true, ..Listener::default() };
            let steps = 2 + peers.len();
            for step in 0..steps {
                let play = |core: &mut Core| match step {
                    0 => take(core, &ours),
                    _ if step + 1 == steps => take(core, &theirs),
                    _ => core.conflict(peers[step - 1], &headers, peers.iter().copied().collect(), kit::NOW),
                };
                let mut played = play(&mut core);
                if let Err(ChainError::Store(_)) = played {
                    store.repair();
                    listener.hear(core.recover(kit::NOW));
                    played = play(&mut core);
                }
                match played {
                    Ok(events) => listener.hear(events),
                    // Nothing of it is final any more.
                    Err(ChainError::NoConflict(_)) => {}
                    Err(error) => panic!("write {k}, after {after}, step {step}: {error}"),
                }
                reopened += usize::from(core.committed().height < listener.committed);
                let told = &listener.chain[..usize::try_from(core.committed().height).unwrap()];
                let hashes = store.hashes(1, told.len()).unwrap();
                assert!(told.iter().map(|p| p.hash).eq(hashes), "write {k}, after {after}, step {step}");
                assert_eq!(&listener.chain[told.len()..], &core.place()[1..], "write {k}, after {after}, step {step}");
            }
            assert_eq!(core.head().hash, theirs[19].hash(), "write {k}, after {after}: the better branch is followed");
        }
        assert!(reopened > 10, "{reopened}");
    }
}
