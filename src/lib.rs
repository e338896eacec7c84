//! `vos`: a headless peer-to-peer overlay node.
//!
//! ```text
//!  L7   cli ── commands, output           testnet ── a local network of real daemons
//!        │ HTTP + JSON over <data-dir>/api.sock
//!  L6   node ── wiring, start, shutdown   config ── one section for each feature
//!        │
//!  L5   api ── control API, events, health and metrics
//!        │ Handles
//!  L4   map ── VOS Map    message ── sealed messages, receipts    block ── block exchange
//!        │ Client<W>, Publisher, dht::Client
//!  L3   net ── the swarm: transports, rpc, gossip, Kademlia, peers, NAT
//!        │
//!  L2   store ── RocksDB, group commit
//!  L1   identity · wire · runtime · telemetry
//!  L0   primitives
//! ```
//!
//! Imports go down only; `layers_test.rs` keeps it so. Between features of L4 only by `Handle`: `message` uses `map`.
//!
//! # Where to start
//! * What a message goes through: [`message`], then [`net::rpc`].
//! * How a node knows everybody: [`map`].
//! * How everything is put together and taken apart: [`node`].
//!
//! # Words
//! *peer*: a libp2p id we talk to · *node*: us · *address*: a peer id in base58, what users type · *addr*: a multiaddr ·
//! *name*: a label, not unique · *record*: a node's signed entry in the map · *receipt*: a signed proof that a message
//! arrived · *friend*: a node that will hold messages for another · *inbox*, *outbox*: received and outgoing messages.

pub mod api;
pub mod block;
pub mod cli;
pub mod config;
pub mod identity;
#[cfg(test)]
mod layers_test;
pub mod map;
pub mod message;
pub mod net;
pub mod node;
pub mod primitives;
pub mod runtime;
pub mod store;
pub mod telemetry;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod testnet;
pub mod wire;
