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
//! * The first block is [`Genesis`]; whose genesis block differs is on another chain.
//! * Transactions are opaque bytes. They wait in the [`pool`], travel on a topic of their own, and a [`producer`] packages them.
//! * A chain of one's own plugs in by [`chain::Validator`] (what is valid) and [`chain::ForkChoice`] (what is better), both given to
//!   the node that a program runs by [`OwnChain`](crate::node::OwnChain); the example at `Validator` is a whole one.
//! * A part of the chain goes into a file and back: [`segment`].

mod body;
pub mod broadcast;
pub mod chain;
mod checked;
mod config;
mod genesis;
mod handle;
mod header;
#[cfg(any(test, feature = "test-util"))]
pub mod kit;
pub mod penalty;
pub mod pool;
pub mod producer;
mod record;
pub mod segment;
pub mod sync;
pub mod trace;

#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, DEFAULT_MAX_BODY_BYTES, MAX_BODY_BYTES, MAX_TRANSACTIONS, PIECE_BYTES, Pieces};
pub use checked::{Block, BlockError, Origin, Point, Unverified, VerifiedHeader};
pub use config::{ChainConfig, Config, ForkRule};
pub use genesis::{Genesis, GenesisError};
pub use handle::{BlockId, Handle, Held};
pub use header::{Header, HeaderError, MAX_EXTRA_BYTES, MAX_HEADER_BYTES, purpose};
