//! The chain: what this node holds for true. One owner of the block tree, orphans, commits and reorgs; everybody else asks its
//! [`Chain`].
//!
//! ```text
//!   Chain (cloneable)                                     Chain
//!      │ import, import_segment, conflict                   │ status, judge, known, block, range: reads
//!      ▼ bounded queue                                      ▼
//!   owner.rs: a thread ── core.rs ── flush ──▶ ChainStore ──▶ view.rs: what was written last
//!             tree.rs, orphans.rs, invalid.rs, retired.rs, conflict.rs: pure
//! ```
//!
//! A block that comes is *waiting* (for its parent, or its time), then a *candidate* in the tree above the committed block, then
//! *committed* or *retired*. The best chain goes from the committed block to the *head* as [`ForkChoice`] says. When the
//! head is more than the commit depth above the committed block, the next block of the best chain is committed: final here.
//!
//! # Order of things
//! What was applied is written in one batch, shown to readers after that, and only then told and answered. A batch in which something
//! becomes final, or a branch is left, is synced. After a failed write nothing more is taken; the chain is read from
//! the store again, and written to it, every two seconds until that works. When for half a minute it can be read and not written, though the
//! disk is not full, the chain ends and the node with it: such a store takes writes only when it is opened anew.
//!
//! # One answer everywhere
//! The same blocks give the same head in whatever order they came, as long as they came before their height was committed. So
//! the window around the head is for passing blocks on ([`Chain::judge`]); [`Chain::import`] takes a late block as long
//! as it is above the committed one. At a fork a branch that may be final somewhere comes before one that is not (`tree.rs`).
//!
//! # Limits
//! 64 candidates for each height, 1024 in all, 256 MiB of their bodies, and beyond that the best chain and 128 blocks that were pulled, or
//! left the best chain, last, with what they build on; 256 waiting blocks, 64 of one peer, 64 MiB, 60 s; 4096 invalid
//! hashes for 10 minutes; retired blocks for 100 heights, 8192, 256 MiB. Beyond a limit the worst, the oldest of whoever
//! has most, or the first one goes.
//!
//! # Security
//! Anybody can sign a block unless the [`Validator`] says who may: with [`Anything`] whoever is in the network can append what it
//! likes, as fast as it likes, and fill disks. [`Listed`] names the producers. A bad body does not make a hash invalid: what comes here has a
//! body that fits its header. See [`conflict`] for branches that contradict what is final.

pub mod conflict;
mod core;
mod fork_choice;
mod handle;
mod invalid;
mod judge;
mod memory;
mod metrics;
mod orphans;
mod owner;
mod retired;
mod rocks;
mod start;
mod store;
mod tree;
mod validator;
mod view;

pub use self::core::{Core, Rules, Written};
pub use fork_choice::{Branch, ForkChoice, Longest, Norn};
pub use handle::{
    Chain, ChainError, Event, Judgement, Known, MAX_RANGE, Outcome, Queued, SegmentOutcome, Status, Stored,
};
pub use memory::Memory;
pub use metrics::Metrics;
pub use owner::{Deps, Ended, Service, open};
pub(in crate::block) use owner::{MERGE_BLOCKS, MERGE_BYTES};
pub use rocks::Rocks;
pub use start::OpenError;
pub use store::{ChainStore, Change, Marks, Retired, Stretch};
pub use validator::{Anything, Listed, Spaced, Validator, Verdict};

/// Blocks above the committed one by default (`chain.commit_depth`).
pub const DEFAULT_COMMIT_DEPTH: u64 = 12;
/// The most that `chain.commit_depth` can be: the tree holds two such branches.
pub const MAX_COMMIT_DEPTH: u64 = 256;
/// The most that `chain.deep_reorg_max` can be: with the commit depth, two such branches fit in the tree.
pub const MAX_DEEP_REORG: u64 = 256;
/// Bytes of the bodies of one branch of both depths: two of them fit in the tree, and none is dropped before the rule decides.
pub const MAX_BRANCH_BYTES: usize = tree::MAX_BODY_BYTES / 2;
/// Headers of one proof of a conflict: what a deep reorg can look at.
pub const MAX_CONFLICT_HEADERS: usize = 1024;
