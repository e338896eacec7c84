//! Which of two branches is the better one. Pure; a chain of one's own brings its own [`ForkChoice`].

use std::cmp::Ordering;

use crate::{block::Header, primitives::Hash};

/// One of the branches that leave a block.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    /// Hash of its first block.
    pub hash: &'a Hash,
    /// Header of its first block.
    pub first: &'a Header,
    /// Sum of [`ForkChoice::weight`] over its heaviest path, the first block included.
    pub weight: u128,
}

/// The rule. From the committed block the best branch is taken at every fork, down to the leaf that is the head. One whose first block
/// has the commit depth on top of it comes before one whose first block has not, whatever the rule says: others may have made it final.
///
/// Every node must give the same answer for the same blocks, in whatever order they came. So a rule looks at nothing but headers, and
/// its order is total: `Equal` only for one and the same block.
pub trait ForkChoice: Send + Sync + std::fmt::Debug + 'static {
    /// What a block adds to the weight of its branch.
    fn weight(&self, _header: &Header) -> u64 {
        1
    }

    /// Compares two branches of one block. The greater one is better.
    fn compare(&self, a: &Branch<'_>, b: &Branch<'_>) -> Ordering;
}

/// The priority of the source system, made total: at each fork the block with more transactions, then the earlier one, then the
/// one with the smaller hash, whatever is built on it. A better block low in the tree replaces a longer branch, unless that one has the
/// commit depth on its first block already ([`ForkChoice`]).
#[derive(Clone, Copy, Default, Debug)]
pub struct Norn;

impl ForkChoice for Norn {
    fn compare(&self, a: &Branch<'_>, b: &Branch<'_>) -> Ordering {
        let transactions = a.first.transactions.cmp(&b.first.transactions);
        transactions.then(b.first.time.cmp(&a.first.time)).then(b.hash.cmp(a.hash))
    }
}

/// The longest branch; among equally long ones the priority of [`Norn`] at their fork.
#[derive(Clone, Copy, Default, Debug)]
pub struct Longest;

impl ForkChoice for Longest {
    fn compare(&self, a: &Branch<'_>, b: &Branch<'_>) -> Ordering {
        a.weight.cmp(&b.weight).then_with(|| Norn.compare(a, b))
    }
}
