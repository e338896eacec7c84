//! The chain's door: cloneable, shared by broadcast, sync, production and the control API.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::{
    owner::Command,
    store::{Stretch, read_header},
    view::Shared,
};
use crate::{
    block::{Block, Header, Origin, Point, VerifiedHeader},
    primitives::{Clock, Hash, PeerId, UnixMillis},
    store::StoreError,
};

/// KiB of blocks that wait for the owner, over all callers: 64 MiB.
pub(super) const QUEUED_KIB: u32 = 64 * 1024;
/// KiB that a block counts at least: what its header and its place in the queue take.
const BLOCK_KIB: usize = 1;
/// Blocks of one answer of [`Chain::range`] and [`Chain::headers`] at most.
pub const MAX_RANGE: usize = 4096;

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
    /// Whether what halted it is tried again by itself every few seconds: a store that failed.
    pub retrying: bool,
    /// Files with bodies of blocks that are gone or damaged: some blocks cannot be read and served.
    pub damaged_files: usize,
    /// Connected peers that proved a branch which contradicts what is final here, of the branch that most are on. Not 0 means that the
    /// network is split, or that somebody is lying.
    pub conflicting_peers: usize,
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
    /// Of no use now, and nobody's fault: too far in the future, or the chain's own rules say so.
    Ignored(String),
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
    /// Not above the committed block, descends from a block that is not, or has no parent here and is far above the head.
    OutOfWindow,
    /// Of no use now, and nobody's fault: too far in the future, one candidate too many, or the chain's own rules say so.
    Ignored(String),
    /// Breaks a rule, or descends from one that does.
    Invalid(String),
}

/// What became of consecutive blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentOutcome {
    /// How many of them, from the first, are held now.
    pub held: usize,
    /// How many of those were not held before.
    pub new: usize,
    /// What stopped the next one; `None` when all are held.
    pub stopped: Option<Outcome>,
}

/// Blocks in the chain's queue. They are imported also when this is dropped.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Result<SegmentOutcome, ChainError>>);

impl Queued {
    /// Waits until they are written, as [`Chain::import_segment`] does.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn outcome(self) -> Result<SegmentOutcome, ChainError> {
        self.0.await.map_err(|_| ChainError::Stopped)?
    }
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
        /// Blocks that are no longer on the best chain, highest first; not empty means a reorg. After a deep reorg
        /// (`chain.deep_reorg_max`) some of them were told to be committed.
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
    /// From now on no block is taken, for this reason ([`Status::halted`]); or blocks are taken again.
    Halted(Option<String>),
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
    /// Headers that were reported as a conflict are none with the chain as it is now; it may have moved meanwhile.
    #[error("no conflict: {0}")]
    NoConflict(String),
    /// Headers that were reported as a conflict are no branch by the rules, whatever the chain is.
    #[error("no valid branch: {0}")]
    NoBranch(String),
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
pub struct Chain {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
}

impl Chain {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>, clock: Arc<dyn Clock>) -> Self {
        let room = Arc::new(Semaphore::new(QUEUED_KIB as usize)); // u32 fits in usize
        Self { shared, commands, clock, room }
    }

    /// The chain's wall-clock time.
    pub(in crate::block) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// Where the chain stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// The status and its changes; the last one counts.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.watch()
    }

    /// What happens from now on. A slow receiver loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.subscribe()
    }

    /// What is known about a hash.
    ///
    /// # Errors
    /// The store's.
    pub fn known(&self, hash: &Hash) -> Result<Known, ChainError> {
        self.shared.known(hash)
    }

    /// A held block's header: on any branch.
    ///
    /// # Errors
    /// The store's.
    pub fn header(&self, hash: &Hash) -> Result<Option<Header>, ChainError> {
        if let Some(header) = self.shared.header(hash) {
            return Ok(Some((*header).clone()));
        }
        Ok(read_header(self.shared.store.as_ref(), hash)?)
    }

    /// A held block: on any branch, in the tree or committed.
    ///
    /// # Errors
    /// The store's.
    pub fn block(&self, hash: &Hash) -> Result<Option<Stored>, ChainError> {
        let Some(header) = self.shared.store.header(hash)? else { return Ok(None) };
        let body = self.shared.store.body(hash)?.unwrap_or_default();
        // One that was dropped between the two reads is gone, and not empty.
        if body.is_empty() && Header::decode(&header).is_ok_and(|h| h.body_bytes > 0) {
            return Ok(None);
        }
        Ok(Some(Stored { hash: *hash, header, body }))
    }

    /// The block of the best chain at a height, up to the head.
    ///
    /// # Errors
    /// The store's.
    pub fn hash_at(&self, height: u64) -> Result<Option<Hash>, ChainError> {
        self.shared.hash_at(height)
    }

    /// Consecutive blocks of the best chain from `start`, up to `count` and [`MAX_RANGE`], ending before `max_bytes` of headers and
    /// bodies are passed, but for the first one.
    ///
    /// # Errors
    /// The store's.
    pub fn range(&self, start: u64, count: usize, max_bytes: usize) -> Result<Vec<Stored>, ChainError> {
        let hashes = self.shared.hashes(start, count.min(MAX_RANGE))?;
        // One that a reorg has just taken away ends the row.
        let blocks = self.shared.store.blocks(&hashes, max_bytes)?;
        Ok(hashes.into_iter().zip(blocks).map(|(hash, (header, body))| Stored { hash, header, body }).collect())
    }

    /// The same in one piece, when the store has it so ([`Stretch`]).
    ///
    /// # Errors
    /// The store's.
    pub fn stretch(&self, start: u64, count: usize, max_bytes: usize) -> Result<Option<Stretch>, ChainError> {
        let stretch = self.shared.store.stretch(start, count.min(MAX_RANGE), max_bytes)?;
        let Some(stretch) = stretch else { return Ok(None) };
        let best = self.shared.hash_at(stretch.last.height)? == Some(stretch.last.hash);
        Ok(best.then_some(stretch))
    }

    /// Headers of the best chain at `start`, `start + stride`, ..., encoded, up to `count` and [`MAX_RANGE`]. A stride of 0 counts as 1.
    ///
    /// # Errors
    /// The store's.
    pub fn headers(&self, start: u64, count: usize, stride: u64) -> Result<Vec<Bytes>, ChainError> {
        let count = count.min(MAX_RANGE);
        let hashes = match stride {
            0 | 1 => self.shared.hashes(start, count)?,
            _ => {
                let heights = (0..count as u64).map_while(|i| start.checked_add(i.checked_mul(stride)?)); // at most MAX_RANGE
                let mut hashes = Vec::new();
                for height in heights {
                    let Some(hash) = self.hash_at(height)? else { break };
                    hashes.push(hash);
                }
                hashes
            }
        };
        let mut headers = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let Some(header) = self.shared.store.header(&hash)? else { break };
            headers.push(header);
        }
        Ok(headers)
    }

    /// Whether a key made the committed block or one of the best chain above it.
    #[must_use]
    pub fn is_producer(&self, producer: &[u8; 32]) -> bool {
        self.shared.is_producer(producer)
    }

    /// What a header alone deserves.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, header: &VerifiedHeader) -> Result<Judgement, ChainError> {
        self.shared.judge(header, self.clock.now())
    }

    /// Imports a block: it is durable in the sense of the store's unsynced write when this returns, and synced when it is
    /// committed. Does not wait for a place in the queue. Cancelling the future does not cancel the import.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::Busy`] when too many blocks wait.
    pub async fn import(&self, block: Block, origin: Origin) -> Result<Outcome, ChainError> {
        let room = self.room.clone().try_acquire_many_owned(kib(std::slice::from_ref(&block)));
        let room = room.map_err(|_| ChainError::Busy)?;
        let (answer, outcome) = oneshot::channel();
        self.commands.try_send(Command::Import(Box::new(block), origin, answer, room)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ChainError::Busy,
            mpsc::error::TrySendError::Closed(_) => ChainError::Stopped,
        })?;
        outcome.await.map_err(|_| ChainError::Stopped)?
    }

    /// Imports consecutive blocks, lowest first, in one write. The first one's parent must be held. Waits for a place in the queue;
    /// once in it, cancelling the future does not cancel the import.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn import_segment(&self, blocks: Vec<Block>, origin: Origin) -> Result<SegmentOutcome, ChainError> {
        self.queue_segment(blocks, origin, false).await?.outcome().await
    }

    /// The first half of [`Chain::import_segment`]: returns when the blocks have a place in the queue, and they are imported in the order
    /// of these places. `more`: others will follow at once. Then the chain may wait some milliseconds for each of them, to write all
    /// together, and a quarter second for all.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn queue_segment(&self, blocks: Vec<Block>, origin: Origin, more: bool) -> Result<Queued, ChainError> {
        let room = self.room.clone().acquire_many_owned(kib(&blocks)).await.map_err(|_| ChainError::Stopped)?;
        let (answer, outcome) = oneshot::channel();
        let command = Command::Segment { blocks, origin, more, answer, room };
        self.commands.send(command).await.map_err(|_| ChainError::Stopped)?;
        Ok(Queued(outcome))
    }

    /// Reports headers that `peer` proved: consecutive, signed, the first one's parent on our chain below the committed block, the
    /// first one not on it, and the last one the peer's head when that is not more than [`super::MAX_CONFLICT_HEADERS`] away.
    /// `told` are the connected peers that have told their head, one of each [`Voice`](crate::net::Voice), this one included: nobody else
    /// counts, for this branch and all others, until the next call. The chain counts peers, raises the alarm and follows the configured
    /// policy. To be repeated for each such peer every few minutes: a peer counts for ten.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::NoConflict`] when the headers are no such branch, [`ChainError::NoBranch`] when they are none at all.
    pub async fn conflict(
        &self,
        peer: PeerId,
        headers: Vec<VerifiedHeader>,
        told: HashSet<PeerId>,
    ) -> Result<(), ChainError> {
        let (answer, done) = oneshot::channel();
        let command = Command::Conflict { peer, headers, told, answer };
        self.commands.send(command).await.map_err(|_| ChainError::Stopped)?;
        done.await.map_err(|_| ChainError::Stopped)?
    }

    /// The rules of the chain, for whoever checks transactions.
    #[must_use]
    pub fn validator(&self) -> Arc<dyn super::Validator> {
        self.shared.validator.clone()
    }
}

/// What blocks take of the queue's room. One call never asks for more than there is.
fn kib(blocks: &[Block]) -> u32 {
    let kib: usize = blocks.iter().map(|b| BLOCK_KIB + b.body().bytes().len() / 1024).sum();
    u32::try_from(kib).unwrap_or(QUEUED_KIB).min(QUEUED_KIB)
}
