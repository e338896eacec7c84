//! The door for the control API and other programs of this node: the chain, how far it is in step, transactions, segments, trace.

use std::io::{Read, Write};

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::{
    Body, Header,
    chain::{Chain, ChainError, Event, Status},
    producer::{self, SubmitError},
    segment::{self, SegmentError},
    sync,
    trace::{Exchange, Trace},
};
use crate::{identity::Purpose, primitives::Hash, store::StoreError};

/// Names one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockId {
    /// By its height in the best chain.
    Height(u64),
    /// By its hash, on any branch that is held.
    Hash(Hash),
}

/// A block as it is held, and what the chain thinks of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its hash.
    pub hash: Hash,
    /// Its header.
    pub header: Header,
    /// Its transactions.
    pub body: Body,
    /// Whether it is part of the best chain.
    pub best: bool,
    /// Whether it is final here.
    pub committed: bool,
}

/// Talks to block exchange. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) chain: Chain,
    pub(super) sync: sync::Handle,
    pub(super) pool: producer::Handle,
    pub(super) trace: Trace,
    pub(super) purpose: Purpose,
    pub(super) max_body_bytes: usize,
}

impl Handle {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        (chain, sync, pool): (Chain, sync::Handle, producer::Handle),
        trace: Trace,
        purpose: Purpose,
        max_body_bytes: usize,
    ) -> Self {
        Self { chain, sync, pool, trace, purpose, max_body_bytes }
    }

    /// Where the chain stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.chain.status()
    }

    /// How far sync is, and its changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<sync::Progress> {
        self.sync.progress()
    }

    /// What happens to the chain from now on. A slow receiver loses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.chain.events()
    }

    /// Exchanges with other nodes from now on.
    #[must_use]
    pub fn trace(&self) -> broadcast::Receiver<Exchange> {
        self.trace.listen()
    }

    /// One block; `None` when it is not held. One or two reads of the store.
    ///
    /// # Errors
    /// The store's.
    pub fn block(&self, id: BlockId) -> Result<Option<Held>, ChainError> {
        let hash = match id {
            BlockId::Hash(hash) => Some(hash),
            BlockId::Height(height) => self.chain.hash_at(height)?,
        };
        let Some(hash) = hash else { return Ok(None) };
        let Some(stored) = self.chain.block(&hash)? else { return Ok(None) };
        let damaged = |what: &str| {
            ChainError::Store(StoreError::Damaged(format!(
                "the stored block {hash} has a damaged {what}: restore a backup"
            )))
        };
        let header = Header::decode(&stored.header).map_err(|_| damaged("header"))?;
        let body = Body::decode(stored.body).map_err(|_| damaged("body"))?;
        let best = self.chain.hash_at(header.height)? == Some(hash);
        let committed = best && header.height <= self.chain.status().committed.height;
        Ok(Some(Held { hash, header, body, best, committed }))
    }

    /// Puts a transaction in. Returns its hash; what becomes of it is in the blocks.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, transaction: Bytes) -> Result<Hash, SubmitError> {
        self.pool.submit(transaction).await
    }

    /// Writes blocks `from` to `to` of the best chain, to the head without `to`, as a segment file. Blocks.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn export(&self, from: u64, to: Option<u64>, out: impl Write) -> Result<segment::Progress, SegmentError> {
        segment::export(&self.chain, from, to, out, |_| {})
    }

    /// Checks and imports a segment file. Blocks.
    ///
    /// # Errors
    /// [`SegmentError`]; what was imported before it stays.
    pub fn import(&self, input: impl Read) -> Result<segment::Progress, SegmentError> {
        segment::import(&self.chain, input, self.max_body_bytes, &self.purpose, |_| {})
    }
}
