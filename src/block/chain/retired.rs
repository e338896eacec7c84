//! Blocks that lost against a final one, kept for a while for those who ask.

use std::collections::{HashSet, VecDeque};

use super::store::Retired;
use crate::{
    block::{Header, Point},
    primitives::Hash,
};

/// Heights for which they are kept.
const KEEP_HEIGHTS: u64 = 100;
/// Blocks kept at most.
const MAX_BLOCKS: usize = 8192;
/// Bytes of bodies kept at most: anybody can sign candidates, and they must not fill the disk.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Default, Debug)]
pub(super) struct RetiredBlocks {
    order: VecDeque<Retired>,
    hashes: HashSet<Hash>,
    bytes: u64,
}

impl RetiredBlocks {
    pub(super) fn from_stored(all: Vec<Retired>) -> Self {
        let mut this = Self::default();
        for retired in all {
            this.push(retired);
        }
        this
    }

    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn add(&mut self, header: &Header, at: u64) -> Retired {
        let point = Point { height: header.height, hash: header.hash() };
        let retired = Retired { point, at, body_bytes: header.body_bytes };
        self.push(retired);
        retired
    }

    fn push(&mut self, retired: Retired) {
        self.hashes.insert(retired.point.hash);
        self.bytes += u64::from(retired.body_bytes);
        self.order.push_back(retired);
    }

    /// Those that lost above `fork`.
    pub(super) fn above(&self, fork: u64) -> impl Iterator<Item = &Retired> {
        self.order.iter().filter(move |r| r.at > fork)
    }

    /// Takes out those that lost above `fork`: they are candidates again.
    pub(super) fn revive(&mut self, fork: u64) -> Vec<Retired> {
        let (revived, kept): (Vec<_>, Vec<_>) = self.order.drain(..).partition(|r| r.at > fork);
        self.order = kept.into();
        for retired in &revived {
            self.hashes.remove(&retired.point.hash);
            self.bytes -= u64::from(retired.body_bytes);
        }
        revived
    }

    /// Takes out what is to be deleted.
    pub(super) fn expire(&mut self, committed: u64) -> Vec<Retired> {
        let mut gone = Vec::new();
        while let Some(first) = self.order.front() {
            let old = first.at.saturating_add(KEEP_HEIGHTS) <= committed;
            if !old && self.order.len() <= MAX_BLOCKS && self.bytes <= MAX_BYTES {
                break;
            }
            let Some(first) = self.order.pop_front() else { break };
            self.hashes.remove(&first.point.hash);
            self.bytes -= u64::from(first.body_bytes);
            gone.push(first);
        }
        gone
    }
}
