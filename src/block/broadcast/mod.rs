//! New blocks, to everybody, once.
//!
//! ```text
//!   block/new/1 ─▶ header ─▶ signature ─▶ judged ─▶ forwarded ─▶ pieces asked for ─▶ whole ─▶ imported ─▶ announced
//!   (NEW_BLOCK)                (task of its own)     (root of n)   (block/get/1)                          (block/hash/1)
//!
//!   service.rs ──▶ core.rs: announcer.rs (who has what) · fetcher.rs (whom to ask) · assembly.rs (pieces)     pure
//!      └─ news.rs: in and out · fetch.rs: asking, importing · give.rs: serving · hold.rs: not to be judged yet
//! ```
//!
//! # Bodies take the way of their headers
//! NEW_BLOCK carries the header, and how to check each piece of the body alone ([`Pieces`](super::Pieces)); the body itself only when it
//! is as small as the question for it would be worth. A header is forwarded as soon as it is judged good, so it
//! reaches everybody within milliseconds, and by the first copy everybody has one peer that it came from. That is whom the
//! body is asked of, all pieces at once. Who has not got a piece yet lets the request wait, and answers when the piece is here. So a
//! body streams down the tree that its header made: once to everybody, and after one transmission's time wherever one stands in it,
//! not one for each hop.
//!
//! Gossip that carries whole bodies sends several copies before the first IDONTWANT comes back, and each hop waits for all of it.
//! It also makes frames that are as large as blocks, on which gossipsub loses links without a word.
//!
//! # When the tree breaks
//! NEW_BLOCK_HASH goes out after import, one hop, on a topic that reaches every neighbour; it makes its sender a source. A source
//! that brings nothing for a while is left for another one (`fetcher.rs`). Who does not listen to the topic, or tells a head
//! that is one or two behind, is told by NOTIFY, and answers BLOCK_KNOWN or GET_BLOCK. What is further off is sync's.
//!
//! # Security
//! * Nothing is forwarded but headers that their producers signed, on blocks that are held, with nodes that have the header's root.
//!   One block has one encoding (a second one would be a second message), and gossip's id covers every byte of it.
//! * A piece is checked before it is kept or passed on. A body whose bytes are good and make no sense condemns its hash;
//!   a bad piece condemns whoever sent it, and the hash stays good.
//! * An announcement costs its sender a place of 256, and blame when it is not served. A height in it is a hint for sync.
//! * Who asks for much is told to come back (`serve.rs`); who floods is slowed down by `net::rpc` before that.
//!
//! # Limits
//! Stand beside their uses: `assembly.rs` for bytes, `fetcher.rs` for fetches, `serve.rs` for what others get, `hold.rs` for headers that
//! wait, `wire.rs` for messages.

mod announcer;
mod assembly;
mod core;
mod fetcher;
mod handle;
mod hold;
mod known;
mod metrics;
mod serve;
mod service;
#[cfg(test)]
mod tests;
pub mod wire;

pub use handle::Handle;
pub use metrics::Metrics;
pub use service::{Deps, Ends, Service, Settings, new};
