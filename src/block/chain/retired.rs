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
