//! What makes a block valid beyond shape, root, signature and links: the seam where a chain of one's own plugs in.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use crate::{
    block::{Block, Header, Point},
    primitives::UnixMillis,
};

/// What a validator thinks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Good.
    Accept,
    /// Not now, and nobody's fault: the block is dropped and may come again.
    Ignore(String),
    /// Breaks a rule: the block and all that build on it are refused, and whoever sent it is to blame.
    Invalid(String),
}

/// Rules of a chain. The defaults accept everything: transactions are opaque bytes, and anybody may produce.
///
/// Whether a block is valid must follow from the block and its ancestors alone, or nodes will disagree. The methods are called from
/// several threads and must not block for long. What they are called with has a good shape and signature.
///
/// A chain with a state keeps it by block hash: [`full`](Validator::full) is called once for each block, after its parent's, on
/// every branch. What [`committed`](Validator::committed) names is final, and states of its other branches can go. At the
/// start [`resume`](Validator::resume) comes first, then `full` for all blocks above the committed one.
///
/// A program gives its rules to the node that it runs: [`Node::start_with`](crate::node::Node::start_with).
///
/// # Example
/// A counter with an end, its own fork choice, and a state that is rebuilt at the start. This is `testnet/cluster/own_chain.rs` as it is
/// compiled and run against the library from outside:
///
#[doc = "```rust,ignore"]
#[doc = include_str!("../../../testnet/cluster/own_chain.rs")]
#[doc = "```"]
pub trait Validator: Send + Sync + std::fmt::Debug + 'static {
    /// Judges one transaction, before it is taken into the pool and passed on.
    fn transaction(&self, _transaction: &[u8]) -> Verdict {
        Verdict::Accept
    }

    /// Judges a header alone: may this producer produce at all, is the extra data well-formed?
    fn header(&self, _header: &Header) -> Verdict {
        Verdict::Accept
    }

    /// Judges a body alone. Called after [`header`](Validator::header).
    fn body(&self, _block: &Block) -> Verdict {
        Verdict::Accept
    }

    /// Judges a header as a child of `parent`: is it this producer's turn? Height and time are checked already. Also called for
    /// headers whose body has not come, before they are passed on.
    fn contextual(&self, _header: &Header, _parent: &Header) -> Verdict {
        Verdict::Accept
    }

    /// Judges everything: executes the transactions on the parent's state.
    fn full(&self, _block: &Block, _parent: &Header) -> Verdict {
        Verdict::Accept
    }

    /// The earliest time that a child of `parent` may have; a block that is produced here is never of an earlier one.
    fn earliest(&self, parent: &Header) -> UnixMillis {
        UnixMillis(parent.time.0.saturating_add(1))
    }

    /// Picks, in order, the transactions that are valid together on `parent`, for a block that is produced here.
    fn select(&self, _parent: &Header, transactions: Vec<Bytes>) -> Vec<Bytes> {
        transactions
    }

    /// Extra data for a block that is produced here on `parent`; at most [`crate::block::MAX_EXTRA_BYTES`], the rest is cut off.
    fn extra(&self, _parent: &Header) -> Vec<u8> {
        Vec::new()
    }

    /// Brings the state to that of `committed`, with the final blocks that `block_at` reads. Called at the start, before anything else;
    /// when the chain is read again after a write has failed; and with `chain.deep_reorg_max`, for a block below the one that was final
    /// so far. So the state that was saved last may be older than `committed` or newer, or there may be none. [`full`](Validator::full)
    /// follows for all blocks above it.
    ///
    /// # Errors
    /// Why that is impossible: the chain is not opened then.
    fn resume(&self, _committed: Point, _block_at: &dyn Fn(u64) -> Option<Block>) -> Result<(), String> {
        Ok(())
    }

    /// A block is final, and so are all below it. It is on disk already.
    fn committed(&self, _point: Point) {}
}

/// No rules beyond the common ones.
#[derive(Clone, Copy, Default, Debug)]
pub struct Anything;

impl Validator for Anything {}

/// Only these may produce: `chain.producers`. A block of anybody else is invalid.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Listed(HashSet<[u8; 32]>);

impl Listed {
    /// By their Ed25519 public keys.
    #[must_use]
    pub fn new(producers: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(producers.into_iter().collect())
    }
}

impl Validator for Listed {
    fn header(&self, header: &Header) -> Verdict {
        match self.0.contains(&header.producer) {
            true => Verdict::Accept,
            false => Verdict::Invalid("its producer is none of chain.producers".into()),
        }
    }
}

/// Rules with a least distance between a block and the one before it: `chain.spacing_ms`.
///
/// Depth makes final, so depth has to take time: on the head, where blocks may not be far ahead of the clock, a producer cannot make a
/// branch final in one part of a network before the others hear of it. A branch that leaves further below may be dated back as far,
/// and come at once; that is what depth itself is for, and the alarm for what it does not do.
#[derive(Clone, Debug)]
pub struct Spaced {
    least_ms: u64,
    rules: Arc<dyn Validator>,
}

impl Spaced {
    /// `rules`, and this distance between the times of a block and its parent.
    #[must_use]
    pub fn new(least_ms: u64, rules: Arc<dyn Validator>) -> Self {
        Self { least_ms, rules }
    }
}

impl Validator for Spaced {
    fn transaction(&self, transaction: &[u8]) -> Verdict {
        self.rules.transaction(transaction)
    }

    fn header(&self, header: &Header) -> Verdict {
        self.rules.header(header)
    }

    fn body(&self, block: &Block) -> Verdict {
        self.rules.body(block)
    }

    fn contextual(&self, header: &Header, parent: &Header) -> Verdict {
        match header.time.0.saturating_sub(parent.time.0) < self.least_ms {
            true => Verdict::Invalid(format!("it is less than {} ms after its parent", self.least_ms)),
            false => self.rules.contextual(header, parent),
        }
    }

    fn full(&self, block: &Block, parent: &Header) -> Verdict {
        self.rules.full(block, parent)
    }

    fn earliest(&self, parent: &Header) -> UnixMillis {
        self.rules.earliest(parent).max(UnixMillis(parent.time.0.saturating_add(self.least_ms)))
    }

    fn select(&self, parent: &Header, transactions: Vec<Bytes>) -> Vec<Bytes> {
        self.rules.select(parent, transactions)
    }

    fn extra(&self, parent: &Header) -> Vec<u8> {
        self.rules.extra(parent)
    }

    fn resume(&self, committed: Point, block_at: &dyn Fn(u64) -> Option<Block>) -> Result<(), String> {
        self.rules.resume(committed, block_at)
    }

    fn committed(&self, point: Point) {
        self.rules.committed(point);
    }
}
