//! What makes a block valid beyond shape, root, signature and links: the seam where a chain of one's own plugs in.

use crate::{
    block::{Block, Header, Point},
    primitives::Hash,
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
/// every branch; after a restart again for all blocks above the committed one. What [`committed`](Validator::committed)
/// names is final, and states of its other branches can go.
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

    /// Extra data for a block that is produced here on `parent`; at most [`crate::block::MAX_EXTRA_BYTES`], the rest is cut off.
    fn extra(&self, _parent: &Hash) -> Vec<u8> {
        Vec::new()
    }

    /// A block is final, and so are all below it.
    fn committed(&self, _point: Point) {}
}

/// No rules beyond the common ones.
#[derive(Clone, Copy, Default, Debug)]
pub struct Anything;

impl Validator for Anything {}
