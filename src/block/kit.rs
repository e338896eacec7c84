//! For tests, simulations and benches: blocks that are made as they are needed, and chains in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Block, Body, Genesis, Header, Point,
    chain::{self, Anything, Chain, ChainStore, Change, ForkChoice, Marks, Memory, Norn, Retired, Rules},
    purpose,
};
use crate::{
    identity::{Identity, Purpose},
    primitives::{Clock, Hash, ManualClock, NetworkId, PeerId, UnixMillis},
    store::StoreError,
};

/// Some day in 2026, long after the built-in genesis block.
pub const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// Makes blocks of one producer on the network `test`.
#[derive(Clone, Debug)]
pub struct Maker {
    identity: Identity,
    purpose: Purpose,
}

impl Maker {
    /// Producer `number`, the same in every run.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        Self { identity: Identity::from_seed(seed), purpose: purpose(&network()) }
    }

    /// The producer's address.
    #[must_use]
    pub fn address(&self) -> PeerId {
        self.identity.address()
    }

    /// A block on `parent`, `after_ms` later.
    ///
    /// # Panics
    /// When the transactions are none.
    #[must_use]
    pub fn block(&self, parent: &Block, after_ms: u64, transactions: &[Vec<u8>]) -> Block {
        let body = Body::new(transactions).expect("good transactions");
        Block::trusted(self.header(parent, after_ms, &body), body)
    }

    /// The header of such a block.
    ///
    /// # Panics
    /// Never: bodies are at most 4 MiB.
    #[must_use]
    pub fn header(&self, parent: &Block, after_ms: u64, body: &Body) -> Header {
        let header = Header {
            height: parent.header().height + 1,
            parent: parent.hash(),
            time: UnixMillis(parent.header().time.0 + after_ms),
            producer: [0; 32],
            body_root: body.root(),
            body_bytes: u32::try_from(body.bytes().len()).expect("at most 4 MiB"),
            transactions: body.len(),
            extra: Vec::new(),
            signature: [0; 64],
        };
        header.signed(&self.identity, &self.purpose)
    }

    /// A header signed as it is, right or wrong.
    #[must_use]
    pub fn sign(&self, header: Header, body: Body) -> Block {
        Block::trusted(header.signed(&self.identity, &self.purpose), body)
    }

    /// `count` blocks one after another on `parent`, two seconds apart, each with one transaction of `bytes` bytes, or none.
    #[must_use]
    pub fn row(&self, parent: &Block, count: usize, bytes: usize) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::with_capacity(count);
        for i in 0..count {
            let mut transaction = vec![7; bytes];
            let tag = i.to_be_bytes();
            let n = tag.len().min(bytes);
            transaction[..n].copy_from_slice(&tag[..n]);
            let transactions = if bytes == 0 { Vec::new() } else { vec![transaction] };
            let next = self.block(blocks.last().unwrap_or(parent), 2000, &transactions);
            blocks.push(next);
        }
        blocks
    }
}

/// The network `test`.
///
/// # Panics
/// Never: it is a good name.
#[must_use]
pub fn network() -> NetworkId {
    "test".parse().expect("a good name")
}

/// The genesis block of the network `test`.
#[must_use]
pub fn genesis() -> Block {
    Genesis::of(&network()).block()
}

/// Rules for the network `test`: the default ones with another commit depth.
#[must_use]
pub fn rules(depth: u64) -> Rules {
    rules_with(depth, Arc::new(Norn))
}

/// Rules for the network `test` with another commit depth and fork choice.
#[must_use]
pub fn rules_with(depth: u64, choice: Arc<dyn ForkChoice>) -> Rules {
    Rules {
        genesis: genesis(),
        depth,
        deep_reorg_max: 0,
        deep_reorg_most: chain::MAX_DEEP_REORG,
        network: None,
        choice,
        validator: Arc::new(Anything),
    }
}

/// A chain in memory with the default rules, at [`NOW`]. It runs until its last clone is dropped.
#[must_use]
pub fn chain() -> Chain {
    let clock = Arc::new(ManualClock::new(NOW));
    chain_with(rules(chain::DEFAULT_COMMIT_DEPTH), Arc::new(Memory::default()), clock)
}

/// A chain of one's own making. It runs until its last clone is dropped.
///
/// # Panics
/// When the store cannot be used.
#[must_use]
pub fn chain_with(rules: Rules, store: Arc<dyn ChainStore>, clock: Arc<dyn Clock>) -> Chain {
    let deps = chain::Deps { store, clock, metrics: chain::Metrics::default() };
    let (service, chain) = chain::open(rules, deps).expect("the store is good");
    service.run_detached();
    chain
}

/// What a [`Hooked`] store does when it is written to, and when a body is read.
pub trait OnWrite<S: ChainStore>: Send + Sync + std::fmt::Debug + 'static {
    /// Instead of reading a body.
    ///
    /// # Errors
    /// [`StoreError`], as the store's own.
    fn on_body(&self, inner: &S, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        inner.body(hash)
    }

    /// Instead of the write.
    ///
    /// # Errors
    /// [`StoreError`], as the store's own.
    fn on_write(&self, inner: &S, change: &Change, synced: bool) -> Result<(), StoreError>;
}

/// A store that reads as another one, and whose writes are a test's: to fail them, to look at them, to do them twice.
#[derive(Debug)]
pub struct Hooked<S, H> {
    /// What is read.
    pub inner: S,
    /// What is written to.
    pub hook: H,
}

impl<S: ChainStore, H: OnWrite<S>> ChainStore for Hooked<S, H> {
    fn marks(&self) -> Result<Option<Marks>, StoreError> {
        self.inner.marks()
    }

    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        self.inner.header(hash)
    }

    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        self.hook.on_body(&self.inner, hash)
    }

    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        self.inner.hash_at(height)
    }

    fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        self.inner.hashes(from, count)
    }

    fn candidates(&self) -> Result<Vec<Point>, StoreError> {
        self.inner.candidates()
    }

    fn retired(&self) -> Result<Vec<Retired>, StoreError> {
        self.inner.retired()
    }

    fn prepare(&self, added: &[Block]) {
        self.inner.prepare(added);
    }

    fn damaged_files(&self) -> usize {
        self.inner.damaged_files()
    }

    fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.inner.check_room(bytes)
    }

    fn write(&self, change: &Change, synced: bool) -> Result<(), StoreError> {
        self.hook.on_write(&self.inner, change, synced)
    }
}
