//! Blocks that wait: for their parent, or for their time to come. Bounded, and nothing is tried again before its cause is there.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    block::{Block, Origin},
    primitives::{Hash, PeerId, UnixMillis},
};

/// Waiting blocks of one peer.
const MAX_PER_PEER: usize = 64;
/// Waiting blocks in all.
const MAX_BLOCKS: usize = 256;
/// Bytes of their bodies.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long a block waits, in milliseconds.
const MAX_AGE_MS: u64 = 60_000;
/// Ancestors walked to find the one that is missing; a longer way is for catching up.
const MAX_WALK: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Parent(Hash),
    Until(UnixMillis),
}

#[derive(Debug)]
struct Entry {
    block: Block,
    origin: Origin,
    since: UnixMillis,
    number: u64,
    wait: Wait,
}

/// The pool.
#[derive(Default, Debug)]
pub(super) struct Orphans {
    entries: HashMap<Hash, Entry>,
    by_parent: HashMap<Hash, Vec<Hash>>,
    by_age: BTreeMap<u64, Hash>,
    next: u64,
    bytes: usize,
}

impl Orphans {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn hashes(&self) -> HashSet<Hash> {
        self.entries.keys().copied().collect()
    }

    /// Keeps a block until its parent comes. Returns the lowest ancestor that is missing.
    pub(super) fn wait_for_parent(&mut self, block: Block, origin: Origin, now: UnixMillis) -> Hash {
        let parent = block.header().parent;
        self.insert(block, origin, now, Wait::Parent(parent));
        self.missing(parent)
    }

    /// Keeps a block until its time has come.
    pub(super) fn wait_until(&mut self, block: Block, origin: Origin, now: UnixMillis, until: UnixMillis) {
        self.insert(block, origin, now, Wait::Until(until));
    }

    /// The lowest ancestor that is missing, `hash` itself when it does not wait here.
    pub(super) fn missing(&self, hash: Hash) -> Hash {
        let mut at = hash;
        for _ in 0..MAX_WALK {
            match self.entries.get(&at) {
                Some(Entry { wait: Wait::Parent(parent), .. }) => at = *parent,
                _ => break,
            }
        }
        at
    }

    fn insert(&mut self, block: Block, origin: Origin, now: UnixMillis, wait: Wait) {
        let hash = block.hash();
        if self.entries.contains_key(&hash) {
            return;
        }
        self.bytes += block.body().bytes().len();
        if let Wait::Parent(parent) = wait {
            self.by_parent.entry(parent).or_default().push(hash);
        }
        let number = self.next;
        self.next += 1;
        self.by_age.insert(number, hash);
        self.entries.insert(hash, Entry { block, origin, since: now, number, wait });
        let of_peer = |e: &&Entry| matches!((e.origin, origin), (Origin::Peer(a), Origin::Peer(b)) if a == b);
        if self.entries.values().filter(of_peer).count() > MAX_PER_PEER {
            self.evict(Some(origin));
        }
        while self.entries.len() > MAX_BLOCKS || self.bytes > MAX_BYTES {
            let most = self.fullest();
            self.evict(most);
        }
    }

    /// Whose blocks go first: the peer with most, of what there is too much of; our own and those of files only when nothing else is left.
    fn fullest(&self) -> Option<Origin> {
        let (mut counts, by_bytes): (HashMap<PeerId, usize>, _) = (HashMap::new(), self.bytes > MAX_BYTES);
        for entry in self.entries.values() {
            if let Origin::Peer(peer) = entry.origin {
                *counts.entry(peer).or_default() += if by_bytes { entry.block.body().bytes().len() } else { 1 };
            }
        }
        counts.into_iter().max_by_key(|(_, n)| *n).map(|(peer, _)| Origin::Peer(peer))
    }

    /// Drops the oldest of one origin, or of all.
    fn evict(&mut self, of: Option<Origin>) {
        let fits = |hash: &&Hash| self.entries.get(hash).is_some_and(|e| of.is_none_or(|origin| e.origin == origin));
        if let Some(hash) = self.by_age.values().find(fits).copied() {
            self.remove(&hash);
        }
    }

    fn remove(&mut self, hash: &Hash) -> Option<Entry> {
        let entry = self.entries.remove(hash)?;
        self.bytes -= entry.block.body().bytes().len();
        self.by_age.remove(&entry.number);
        if let Wait::Parent(parent) = entry.wait
            && let Some(children) = self.by_parent.get_mut(&parent)
        {
            children.retain(|c| c != hash);
            if children.is_empty() {
                self.by_parent.remove(&parent);
            }
        }
        Some(entry)
    }

    /// Those that waited for this block.
    pub(super) fn release(&mut self, parent: &Hash) -> Vec<(Block, Origin)> {
        let children = self.by_parent.get(parent).cloned().unwrap_or_default();
        children.iter().filter_map(|c| self.remove(c)).map(|e| (e.block, e.origin)).collect()
    }

    /// Drops everything that descends from a block; returns the hashes.
    pub(super) fn drop_descendants(&mut self, of: &Hash) -> Vec<Hash> {
        let (mut dropped, mut stack) = (Vec::new(), vec![*of]);
        while let Some(hash) = stack.pop() {
            for (block, _) in self.release(&hash) {
                dropped.push(block.hash());
                stack.push(block.hash());
            }
        }
        dropped
    }

    /// Drops what waited too long or is at or below `committed`; returns those whose time has come, the earliest first.
    pub(super) fn sweep(&mut self, now: UnixMillis, committed: u64) -> Vec<(Block, Origin)> {
        let old = |e: &Entry| now.0.saturating_sub(e.since.0) > MAX_AGE_MS || e.block.header().height <= committed;
        let gone: Vec<Hash> = self.entries.iter().filter(|(_, e)| old(e)).map(|(h, _)| *h).collect();
        for hash in gone {
            self.remove(&hash);
        }
        let due = |e: &Entry| matches!(e.wait, Wait::Until(at) if at <= now);
        let mut due: Vec<(UnixMillis, Hash)> =
            self.entries.iter().filter(|(_, e)| due(e)).map(|(h, e)| (e.block.header().time, *h)).collect();
        due.sort_unstable();
        due.iter().filter_map(|(_, h)| self.remove(h)).map(|e| (e.block, e.origin)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{
        Body, Header, MAX_BODY_BYTES,
        kit::{self, Maker},
    };

    /// Blocks whose parents nobody knows, with the largest body that there can be. They share it.
    fn large(count: usize) -> Vec<Block> {
        let maker = Maker::new(1);
        let body = Body::new(&[vec![7_u8; MAX_BODY_BYTES - 4]]).unwrap();
        assert_eq!(body.bytes().len(), MAX_BODY_BYTES);
        let like = maker.header(&kit::genesis(), 1, &body);
        let orphan = |n: usize| {
            let header = Header { height: 2, parent: Hash::of(&n.to_be_bytes()), ..like.clone() };
            maker.sign(header, body.clone())
        };
        (0..count).map(orphan).collect()
    }

    #[test]
    fn bodies_of_64_mib_wait_and_then_the_oldest_of_whoever_has_most_goes() {
        let [modest, busy] = [1, 2].map(|n| Origin::Peer(Maker::new(n).address()));
        let all = large(21);
        let mut orphans = Orphans::default();
        orphans.wait_for_parent(all[0].clone(), modest, kit::NOW);
        for block in &all[1..16] {
            orphans.wait_for_parent(block.clone(), busy, kit::NOW);
        }
        assert_eq!((orphans.len(), orphans.bytes), (16, 64 << 20), "all of them have room");
        for (oldest, block) in all[1..].iter().zip(&all[16..20]) {
            orphans.wait_for_parent(block.clone(), busy, kit::NOW);
            assert_eq!((orphans.len(), orphans.bytes), (16, 64 << 20));
            let held = orphans.hashes();
            assert!(held.contains(&all[0].hash()) && held.contains(&block.hash()));
            assert!(!held.contains(&oldest.hash()), "the oldest one of the busy peer");
        }
        // Those that wait for their time count as well.
        let later = kit::NOW.plus(std::time::Duration::from_secs(5));
        orphans.wait_until(all[20].clone(), busy, kit::NOW, later);
        assert_eq!((orphans.len(), orphans.bytes), (16, 64 << 20));
    }

    #[test]
    fn what_an_operator_imports_takes_no_more_room_and_goes_last() {
        let all = large(18);
        let peer = Origin::Peer(Maker::new(1).address());
        let mut orphans = Orphans::default();
        for block in &all[..15] {
            orphans.wait_for_parent(block.clone(), Origin::File, kit::NOW);
        }
        for block in &all[15..17] {
            orphans.wait_for_parent(block.clone(), peer, kit::NOW);
        }
        let held = orphans.hashes();
        assert!(held.contains(&all[0].hash()) && !held.contains(&all[15].hash()));
        // With nothing of a peer left, the oldest of all.
        orphans.release(&all[16].header().parent);
        orphans.wait_for_parent(all[15].clone(), Origin::File, kit::NOW);
        orphans.wait_for_parent(all[17].clone(), Origin::File, kit::NOW);
        assert_eq!((orphans.len(), orphans.bytes), (16, 64 << 20));
        assert!(!orphans.hashes().contains(&all[0].hash()));
    }

    #[test]
    fn the_walk_to_what_is_missing_ends_after_32_ancestors() {
        // The lowest one does not come.
        let row = Maker::new(1).row(&kit::genesis(), 36, 0);
        let mut orphans = Orphans::default();
        let mut missing = |block: &Block| orphans.wait_for_parent(block.clone(), Origin::File, kit::NOW);
        for (above, block) in row[1..].iter().enumerate() {
            // So many wait between this block and the one that is missing.
            let found = above.saturating_sub(32);
            assert_eq!(missing(block), row[found].hash(), "{above} ancestors wait");
        }
    }
}
