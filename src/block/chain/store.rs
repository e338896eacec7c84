//! Where blocks are kept: the trait, and what one write changes. [`super::Rocks`] keeps them on disk, [`super::Memory`] in memory.
//!
//! A [`Change`] is written whole or not at all. It is what makes a restart at any moment harmless: the head never names a block whose
//! body is not in the same or an earlier change.

use bytes::Bytes;

use crate::{
    block::{Block, Header, Point},
    primitives::Hash,
    store::StoreError,
};

/// Where the chain stands, as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Hash of the genesis block.
    pub genesis: Hash,
    /// The best block.
    pub head: Point,
    /// The newest final block.
    pub committed: Point,
}

/// A block that lost against a final one: kept for a while for those who still ask for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retired {
    /// The block.
    pub point: Point,
    /// Height of the final block that it lost against.
    pub at: u64,
    /// Bytes of its body.
    pub body_bytes: u32,
}

/// What one write changes, in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// New blocks. They are candidates until a later field says something else.
    pub added: Vec<Block>,
    /// Heights that have no best block any more, unless `attached` names one.
    pub detached: Vec<Point>,
    /// The best block at each of their heights.
    pub attached: Vec<Point>,
    /// Candidates that are final now.
    pub committed: Vec<Point>,
    /// Final blocks that are candidates again.
    pub restored: Vec<Point>,
    /// Retired blocks that are candidates again.
    pub revived: Vec<Retired>,
    /// Candidates that lost.
    pub retired: Vec<Retired>,
    /// Candidates to be deleted.
    pub evicted: Vec<Point>,
    /// Retired blocks to be deleted.
    pub expired: Vec<Retired>,
    /// Where the chain stands after it.
    pub marks: Marks,
}

impl Change {
    /// Whether only the marks are set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.detached.is_empty()
            && self.attached.is_empty()
            && self.committed.is_empty()
            && self.restored.is_empty()
            && self.revived.is_empty()
            && self.retired.is_empty()
            && self.evicted.is_empty()
            && self.expired.is_empty()
    }

    /// Whether it must reach the disk before anybody hears of it: something became final or was taken back.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !self.committed.is_empty() || !self.detached.is_empty() || !self.restored.is_empty()
    }
}

/// Consecutive blocks as PUSH_BLOCK carries them, one record (`block/record.rs`) after another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// All of them.
    pub bytes: Bytes,
    /// How many; one at least.
    pub count: usize,
    /// The parent of the first one.
    pub parent: Hash,
    /// The last one.
    pub last: Point,
}

/// Keeps blocks. Reads are point reads, but for the two lists, which are read at the start.
pub trait ChainStore: Send + Sync + std::fmt::Debug + 'static {
    /// The marks; `None` in a new store.
    ///
    /// # Errors
    /// [`StoreError`].
    fn marks(&self) -> Result<Option<Marks>, StoreError>;

    /// The header of any kept block, encoded.
    ///
    /// # Errors
    /// [`StoreError`].
    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError>;

    /// The body of any kept block; `None` also for an empty one, which is not written.
    ///
    /// # Errors
    /// [`StoreError`].
    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError>;

    /// The headers of several kept blocks, in the order of their hashes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn headers(&self, hashes: &[Hash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        hashes.iter().map(|hash| self.header(hash)).collect()
    }

    /// Headers and bodies of kept blocks in the order of their hashes, up to the first that is missing, and ending before `max_bytes` of
    /// both are passed, but for the first one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn blocks(&self, hashes: &[Hash], max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let (mut blocks, mut room) = (Vec::new(), Room::new(max_bytes));
        for hash in hashes {
            let Some(header) = self.header(hash)? else { break };
            let body = match room.take(&header) {
                None => break,
                Some(0) => Bytes::new(),
                Some(_) => match self.body(hash)? {
                    Some(body) => body,
                    None => break,
                },
            };
            blocks.push((header, body));
        }
        Ok(blocks)
    }

    /// Blocks from a height up that were the best ones when they were written, each the parent of the next, up to `count`, and ending
    /// before `max_bytes` of headers and bodies are passed, but for the first one. `None` when they are not kept in this form: then
    /// [`ChainStore::blocks`] has them. When the last one is still the best at its height, so are those before it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn stretch(&self, _from: u64, _count: usize, _max_bytes: usize) -> Result<Option<Stretch>, StoreError> {
        Ok(None)
    }

    /// The best block at a height.
    ///
    /// # Errors
    /// [`StoreError`].
    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError>;

    /// The best blocks from a height up, up to `count`, without gaps.
    ///
    /// # Errors
    /// [`StoreError`].
    fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, StoreError>;

    /// All candidates, the lowest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn candidates(&self) -> Result<Vec<Point>, StoreError>;

    /// All retired blocks, those that lost first in front.
    ///
    /// # Errors
    /// [`StoreError`].
    fn retired(&self) -> Result<Vec<Retired>, StoreError>;

    /// Blocks of a change that is to be written soon, from the first one on; called again when more came. What takes long may begin now.
    /// Nothing is promised: the change may be written otherwise, or not at all. Blocks.
    fn prepare(&self, _added: &[Block]) {}

    /// Files with bodies of blocks that are gone or damaged, as far as was seen: some of those blocks cannot be served.
    fn damaged_files(&self) -> usize {
        0
    }

    /// Whether there is room for so many bytes of bodies.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when there is not.
    fn check_room(&self, _bytes: usize) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes a change. When this returns it survives the end of the process; with `synced` also a power cut.
    ///
    /// # Errors
    /// [`StoreError`]: then nothing of the change may be relied on, and the chain is read from the store again.
    fn write(&self, change: &Change, synced: bool) -> Result<(), StoreError>;
}

/// How many more blocks may be read.
pub(super) struct Room {
    left: usize,
    first: bool,
}

impl Room {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { left: max_bytes, first: true }
    }

    /// Takes the place of the block with this header: bytes of its body, or `None` when it does not fit or is no header.
    pub(super) fn take(&mut self, header: &[u8]) -> Option<usize> {
        let body = Header::decode(header).ok()?.body_bytes as usize; // at most 4 MiB
        let left = self.left.checked_sub(header.len() + body);
        if left.is_none() && !self.first {
            return None;
        }
        (self.left, self.first) = (left.unwrap_or(0), false);
        Some(body)
    }
}

/// A kept block's header.
pub(super) fn read_header(store: &dyn ChainStore, hash: &Hash) -> Result<Option<Header>, StoreError> {
    let Some(bytes) = store.header(hash)? else { return Ok(None) };
    let damaged = |_| StoreError::Damaged(format!("the header of block {hash} is not what was written"));
    Header::decode(&bytes).map(Some).map_err(damaged)
}
