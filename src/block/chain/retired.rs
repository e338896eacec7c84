//! Blocks that lost against a final one, kept for a while for those who ask.

use std::collections::{HashSet, VecDeque};

use super::store::Retired;
use crate::{
    block::{Header, Point},
    primitives::{Hash, UnixMillis},
};

/// Heights for which they are kept.
const KEEP_HEIGHTS: u64 = 100;
/// And milliseconds: a node that catches up goes through those heights in one write, and the transactions of blocks that were its best
/// chain a moment ago still have to be read.
const KEEP_MS: u64 = 60_000;
/// Blocks kept at most.
const MAX_BLOCKS: usize = 8192;
/// Bytes of bodies kept at most: anybody can sign candidates, and they must not fill the disk.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Default, Debug)]
pub(super) struct RetiredBlocks {
    /// With the time since when they are here; zero for those of before the start.
    order: VecDeque<(Retired, UnixMillis)>,
    hashes: HashSet<Hash>,
    bytes: u64,
}

impl RetiredBlocks {
    pub(super) fn from_stored(all: Vec<Retired>) -> Self {
        let mut this = Self::default();
        for retired in all {
            this.push(retired, UnixMillis(0));
        }
        this
    }

    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn add(&mut self, header: &Header, at: u64, now: UnixMillis) -> Retired {
        let point = Point { height: header.height, hash: header.hash() };
        let retired = Retired { point, at, body_bytes: header.body_bytes };
        self.push(retired, now);
        retired
    }

    fn push(&mut self, retired: Retired, now: UnixMillis) {
        self.hashes.insert(retired.point.hash);
        self.bytes += u64::from(retired.body_bytes);
        self.order.push_back((retired, now));
    }

    /// Those that lost above `fork`.
    pub(super) fn above(&self, fork: u64) -> impl Iterator<Item = &Retired> {
        self.order.iter().map(|(retired, _)| retired).filter(move |r| r.at > fork)
    }

    /// Takes out those that lost above `fork`: they are candidates again.
    pub(super) fn revive(&mut self, fork: u64) -> Vec<Retired> {
        let (revived, kept): (Vec<_>, Vec<_>) = self.order.drain(..).partition(|(r, _)| r.at > fork);
        self.order = kept.into();
        let revived: Vec<_> = revived.into_iter().map(|(retired, _)| retired).collect();
        for retired in &revived {
            self.hashes.remove(&retired.point.hash);
            self.bytes -= u64::from(retired.body_bytes);
        }
        revived
    }

    /// Takes out what is to be deleted.
    pub(super) fn expire(&mut self, committed: u64, now: UnixMillis) -> Vec<Retired> {
        let mut gone = Vec::new();
        while let Some((first, since)) = self.order.front() {
            let old =
                first.at.saturating_add(KEEP_HEIGHTS) <= committed && now.since(*since).as_millis() >= KEEP_MS.into();
            if !old && self.order.len() <= MAX_BLOCKS && self.bytes <= MAX_BYTES {
                break;
            }
            let Some((first, _)) = self.order.pop_front() else { break };
            self.hashes.remove(&first.point.hash);
            self.bytes -= u64::from(first.body_bytes);
            gone.push(first);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::kit;

    /// One that lost at this height.
    fn retired(at: u64, body_bytes: u32) -> Retired {
        Retired { point: Point { height: at, hash: Hash::of(&at.to_be_bytes()) }, at, body_bytes }
    }

    /// Holds the first ones, takes one more, and gives the first one away.
    fn full(first: &[Retired], body_bytes: u32) {
        let mut kept = RetiredBlocks::from_stored(first.to_vec());
        // Neither their height nor their time is over.
        assert_eq!(kept.expire(0, kit::NOW), []);
        let header = Header { body_bytes, ..kit::genesis().header().clone() };
        kept.add(&header, 100_000, kit::NOW);
        assert_eq!(kept.expire(0, kit::NOW), first[..1]);
        assert!(!kept.contains(&first[0].point.hash) && kept.contains(&first[1].point.hash));
        assert!(kept.contains(&header.hash()));
        assert_eq!(kept.len(), first.len());
    }

    #[test]
    fn of_8192_blocks_the_first_one_gives_way_to_the_next() {
        let first: Vec<_> = (0..8192).map(|at| retired(at, 0)).collect();
        full(&first, 0);
    }

    #[test]
    fn of_bodies_of_256_mib_too() {
        let first: Vec<_> = (0..64).map(|at| retired(at, 4 << 20)).collect();
        full(&first, 1);
    }
}
