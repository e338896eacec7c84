//! Digests of ranges of the key space: a tree of fixed shape over the first three nibbles of a key.
//!
//! The shape does not depend on the content, so equal sets have equal digests everywhere. A leaf's digest is a BLAKE3
//! hash over its items in order, an inner one over its 16 children: nobody can make two different sets look equal, as
//! sums and XORs allow. 1 + 16 + 256 + 4096 digests of 32 bytes are some 170 KiB; a change costs one leaf and 3 hashes.

use super::record::Key;
use crate::primitives::Hash;

/// Levels below the root: 4096 leaves, each with some 25 of 100000 records.
pub(super) const DEPTH: u8 = 3;
/// Children of a range.
pub(super) const FAN: u16 = 16;

/// A range of keys: those whose first `level` nibbles are `index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Range {
    level: u8,
    index: u16,
}

impl Range {
    /// All keys.
    pub(super) const ALL: Self = Self { level: 0, index: 0 };

    /// From the wire; `None` when there is no such range.
    pub(super) fn from_wire(raw: u32) -> Option<Self> {
        let level = u8::try_from(raw >> 16).ok().filter(|l| *l <= DEPTH)?;
        let index = u16::try_from(raw & 0xffff).ok()?;
        (u32::from(index) < 1 << (4 * u32::from(level))).then_some(Self { level, index })
    }

    pub(super) fn to_wire(self) -> u32 {
        (u32::from(self.level) << 16) | u32::from(self.index)
    }

    pub(super) fn is_leaf(self) -> bool {
        self.level == DEPTH
    }

    /// The 16 parts of a range that is no leaf.
    pub(super) fn children(self) -> impl Iterator<Item = Self> {
        let (level, first) = (self.level + 1, self.index * FAN);
        (0..FAN).map(move |i| Self { level, index: first + i })
    }

    /// The range of `key` at `level`.
    fn of(key: &Key, level: u8) -> Self {
        let head = u16::from_be_bytes([key.0[0], key.0[1]]);
        // A shift by 16 has no result and means the whole key space.
        Self { level, index: head.checked_shr(16 - 4 * u32::from(level)).unwrap_or(0) }
    }

    pub(super) fn contains(self, key: &Key) -> bool {
        Self::of(key, self.level) == self
    }

    /// First and last key.
    pub(super) fn bounds(self) -> (Key, Key) {
        let shift = 16 - 4 * u32::from(self.level);
        let head = self.index.checked_shl(shift).unwrap_or(0);
        let tail = head | 0xffff_u16.checked_shr(16 - shift).unwrap_or(0);
        let (mut first, mut last) = (Key::MIN, Key::MAX);
        first.0[..2].copy_from_slice(&head.to_be_bytes());
        last.0[..2].copy_from_slice(&tail.to_be_bytes());
        (first, last)
    }
}

/// The digest of a range and how many records are in it. No records: a hash of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Digest {
    pub(super) hash: Hash,
    pub(super) count: u32,
}

#[derive(Clone, Copy, Default)]
struct Node {
    digest: Digest,
    stale: bool,
}

/// Cached digests.
pub(super) struct Tree {
    levels: [Vec<Node>; DEPTH as usize + 1],
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tree").field(&self.levels[0][0].digest).finish()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { levels: std::array::from_fn(|level| vec![Node::default(); 1 << (4 * level)]) }
    }
}

impl Tree {
    /// A record under `key` changed.
    pub(super) fn touch(&mut self, key: &Key) {
        for level in 0..=DEPTH {
            self.node(Range::of(key, level)).stale = true;
        }
    }

    /// The digest of a range; `leaf` gives the items (key, seq, hash) of a leaf in order.
    pub(super) fn digest<'a, I>(&mut self, range: Range, leaf: &impl Fn(Range) -> I) -> Digest
    where
        I: Iterator<Item = (&'a Key, u64, &'a Hash)>,
    {
        if !self.node(range).stale {
            return self.node(range).digest;
        }
        let digest = if range.is_leaf() { hash_leaf(leaf(range)) } else { self.hash_children(range, leaf) };
        *self.node(range) = Node { digest, stale: false };
        digest
    }

    fn hash_children<'a, I>(&mut self, range: Range, leaf: &impl Fn(Range) -> I) -> Digest
    where
        I: Iterator<Item = (&'a Key, u64, &'a Hash)>,
    {
        let (mut hasher, mut count) = (blake3::Hasher::new(), 0_u32);
        hasher.update(b"vos-map-node");
        for child in range.children() {
            let digest = self.digest(child, leaf);
            hasher.update(digest.hash.as_bytes());
            count = count.saturating_add(digest.count);
        }
        finish(&hasher, count)
    }

    fn node(&mut self, range: Range) -> &mut Node {
        &mut self.levels[usize::from(range.level)][usize::from(range.index)]
    }
}

fn hash_leaf<'a>(items: impl Iterator<Item = (&'a Key, u64, &'a Hash)>) -> Digest {
    let (mut hasher, mut count) = (blake3::Hasher::new(), 0_u32);
    hasher.update(b"vos-map-leaf");
    for (key, seq, hash) in items {
        hasher.update(&key.0).update(&seq.to_be_bytes()).update(hash.as_bytes());
        count = count.saturating_add(1);
    }
    finish(&hasher, count)
}

fn finish(hasher: &blake3::Hasher, count: u32) -> Digest {
    if count == 0 { Digest::default() } else { Digest { hash: Hash(*hasher.finalize().as_bytes()), count } }
}
