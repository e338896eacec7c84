//! The chain's door: cloneable, shared by broadcast, sync, production and the control API.

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use crate::{
    block::{Block, Header, Origin, Point, VerifiedHeader},
    primitives::{Hash, UnixMillis},
    store::StoreError,
};

/// Where the chain stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Hash of the genesis block.
    pub genesis: Hash,
    /// The best block.
    pub head: Point,
    /// When the best block was made, by its producer's clock.
    pub head_time: UnixMillis,
    /// The newest block that is final here.
    pub committed: Point,
    /// Lowest height after the genesis block whose body is still held.
    pub earliest: u64,
    /// Why no block is taken any more: a conflict below the committed block under `halt-and-report`, or a store that
    /// failed. What to do about it is part of the text.
    pub halted: Option<String>,
}

/// What is known about a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Never heard of it.
    No,
    /// Held, with its body.
    Held(u64),
    /// Held until its parent comes.
    Orphan,
    /// Found to be invalid; not to be fetched again for a while.
    Invalid,
}

/// What a header alone deserves: stages 3 to 5 of validation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Fits on a block that we hold: forward it, fetch its body.
    Good,
    /// Held already.
    Known,
    /// Its parent is not here.
    Orphan,
    /// At or below the committed block, or more than 7 below the head.
    Stale,
    /// More than 32 above the head.
    TooFar,
    /// From the future, but not by much: come back then.
    Early(UnixMillis),
    /// Breaks a rule; everybody must see that it does.
    Invalid(String),
}

/// What became of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// In the tree and on disk. Whether it moved the head.
    Imported {
        /// The head is another one now.
        new_head: bool,
    },
    /// Was here already.
    Known,
    /// Kept for a while; this ancestor is missing.
    Orphan {
        /// The ancestor to fetch.
        missing: Hash,
    },
    /// Too early; it is kept and tried again then.
    Early(UnixMillis),
    /// Not above the committed block, or too far from the head in either direction.
    OutOfWindow,
    /// Breaks a rule, or descends from one that does.
    Invalid(String),
}

/// What became of consecutive blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentOutcome {
    /// How many of them, from the first, are held now.
    pub held: usize,
    /// What stopped the next one; `None` when all are held.
    pub stopped: Option<Outcome>,
}

/// What happened to the chain. Everything told is on disk already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A block is in the tree.
    Imported {
        /// Where.
        point: Point,
        /// From whom.
        origin: Origin,
        /// Encoded bytes of header and body.
        bytes: usize,
    },
    /// There is another best block: the attached ones lead to it.
    Head {
        /// The best block.
        head: Point,
        /// Blocks that are no longer on the best chain, highest first; not empty means a reorg.
        detached: Vec<Point>,
        /// Blocks that are now, lowest first.
        attached: Vec<Point>,
    },
    /// These and all below are final.
    Committed {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: Point,
    },
    /// A peer proved a branch that leaves ours at or below the committed block.
    Conflict {
        /// The last block that both have.
        fork: Point,
        /// The tip that the peer proved.
        tip: Point,
        /// How many peers are on the other branch, as far as we heard.
        peers: usize,
    },
}

/// A stored block, encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its hash.
    pub hash: Hash,
    /// Its header, encoded.
    pub header: Bytes,
    /// Its body.
    pub body: Bytes,
}

/// Why the chain could not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Blocks are not taken: see [`Status::halted`].
    #[error("the chain is halted: {0}")]
    Halted(String),
    /// Too many blocks wait for the chain; try again later.
    #[error("the chain is busy")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Talks to the chain. Cheap to clone. Reads are synchronous: the status and the tree come from memory, stored blocks are reads of
/// the store, to be made inline one by one, but in `spawn_blocking` for ranges.
#[derive(Clone, Debug)]
pub struct Chain {}

impl Chain {
    /// Where the chain stands.
    #[must_use]
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// The status and its changes; the last one counts.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        unimplemented!()
    }

    /// What happens from now on. A slow receiver loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }

    /// What is known about a hash.
    ///
    /// # Errors
    /// The store's.
    pub fn known(&self, _hash: &Hash) -> Result<Known, ChainError> {
        unimplemented!()
    }

    /// A held block's header: on any branch.
    ///
    /// # Errors
    /// The store's.
    pub fn header(&self, _hash: &Hash) -> Result<Option<Header>, ChainError> {
        unimplemented!()
    }

    /// A held block: on any branch, in the tree or committed.
    ///
    /// # Errors
    /// The store's.
    pub fn block(&self, _hash: &Hash) -> Result<Option<Stored>, ChainError> {
        unimplemented!()
    }

    /// The block of the best chain at a height, up to the head.
    ///
    /// # Errors
    /// The store's.
    pub fn hash_at(&self, _height: u64) -> Result<Option<Hash>, ChainError> {
        unimplemented!()
    }

    /// Consecutive blocks of the best chain from `start`, up to `count`, ending before `max_bytes` are passed, but for the
    /// first one.
    ///
    /// # Errors
    /// The store's.
    pub fn range(&self, _start: u64, _count: usize, _max_bytes: usize) -> Result<Vec<Stored>, ChainError> {
        unimplemented!()
    }

    /// Headers of the best chain at `start`, `start + stride`, ..., encoded, up to `count`.
    ///
    /// # Errors
    /// The store's.
    pub fn headers(&self, _start: u64, _count: usize, _stride: u64) -> Result<Vec<Bytes>, ChainError> {
        unimplemented!()
    }

    /// What a header alone deserves.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, _header: &VerifiedHeader) -> Result<Judgement, ChainError> {
        unimplemented!()
    }

    /// Imports a block: it is durable in the sense of the store's unsynced write when this returns, and synced when it is
    /// committed.
    ///
    /// # Errors
    /// [`ChainError`].
    #[allow(clippy::unused_async, reason = "until it is built")]
    pub async fn import(&self, _block: Block, _origin: Origin) -> Result<Outcome, ChainError> {
        unimplemented!()
    }

    /// Imports consecutive blocks, lowest first, in one write. The first one's parent must be held.
    ///
    /// # Errors
    /// [`ChainError`].
    #[allow(clippy::unused_async, reason = "until it is built")]
    pub async fn import_segment(&self, _blocks: Vec<Block>, _origin: Origin) -> Result<SegmentOutcome, ChainError> {
        unimplemented!()
    }

    /// Reports headers that `peer` proved: consecutive, signed, the first one's parent on our chain at or below the committed block
    /// and the first one not on it. The chain counts peers, raises the alarm and follows the configured policy.
    ///
    /// # Errors
    /// [`ChainError`].
    #[allow(clippy::unused_async, reason = "until it is built")]
    pub async fn conflict(
        &self,
        _peer: crate::primitives::PeerId,
        _headers: Vec<VerifiedHeader>,
    ) -> Result<(), ChainError> {
        unimplemented!()
    }
}
