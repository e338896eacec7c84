//! L4: block exchange. A chain of blocks that every node of the network holds the same.
//!
//! ```text
//!   Handle (api, cli)        topics, Client<W>, Inbound<W>               Client<W>, Inbound<W>
//!      │                            │                                        │
//!      │      broadcast: new blocks, once to everybody        sync: SHAKEHAND, claims, pulls of ranges
//!      │                            │ checked blocks                         │ checked blocks
//!   ┌──▼────────────────────────────▼────────────────────────────────────────▼──┐
//!   │ chain: one owner of tree, orphans, commits, reorgs    ◀── producer, pool   │
//!   └───────────────────────────────────┬───────────────────────────────────────┘
//!                                   ChainStore
//! ```
//!
//! * A [`Header`] is signed by its producer, and its hash covers every byte of it. Its root covers every byte of the [`Body`].
//! * A [`Block`] is a header with its body, and the type says that both were checked.

mod body;
pub mod broadcast;
pub mod chain;
mod checked;
mod genesis;
mod header;
#[cfg(any(test, feature = "test-util"))]
pub mod kit;
pub mod penalty;
pub mod sync;
pub mod trace;

#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, DEFAULT_MAX_BODY_BYTES, MAX_BODY_BYTES, MAX_TRANSACTIONS, PIECE_BYTES, Pieces};
pub use checked::{Block, BlockError, Origin, Point, VerifiedHeader};
pub use genesis::{Genesis, GenesisError};
pub use header::{Header, HeaderError, MAX_EXTRA_BYTES, MAX_HEADER_BYTES, Producers, purpose};
