//! The chain: what this node holds for true. One owner of the block tree, orphans, commits and reorgs; everybody else asks its
//! [`Chain`].

mod handle;

pub use handle::{Chain, ChainError, Event, Judgement, Known, Outcome, SegmentOutcome, Status, Stored};
