//! L4: the VOS Map, an address book of every node without any server.
//!
//! ```text
//!                    Handle (anybody)                       net: AddrBook, dht::Policy
//!                       │ reads, look-ups, probes                 │ reads
//!  ┌────────────────────▼──────────────────────────────────────────▼─────────────┐
//!  │ Mirror: RwLock<Map> (state.rs), store writes, events                          │
//!  └───▲───────────────▲──────────────────▲───────────────────────▲──────────────┘
//!      │ verified      │ verified         │ our own, durable      │ seen, lost
//!   serve.rs        exchange.rs        service.rs: the actor: schedules, probes; publish.rs
//!   gossip, pages,  pages and compares
//!   comparisons     with one peer
//! ```
//!
//! A record (`record.rs`) is what a node says about itself, signed. Three ways bring records together, all through
//! [`Verifier::verify`]; bulk ways skip its last step, the signature, for records that would change nothing:
//! * *join*: a node that knows nobody pages the map of the first peer it has (`map/page/1`, resumable with the next peer);
//! * *news*: a new record is gossiped at once, verified before it is forwarded; so is a goodbye;
//! * *comparison* (`map/sync/1`, `sync.rs`): digests of ranges are compared with each new peer, with a random one every
//!   `sync_interval_s`, and with two more whenever a comparison brought something, so that news runs through a healed network
//!   without a flood.
//!
//! Kademlia holds every record under `/vos/<network>/map/` ‖ address and the owners of a name as providers of
//! `/vos/<network>/name/` ‖ BLAKE3(name), for what a bounded map does not hold.
//!
//! # Which record counts
//! The greater (sequence, hash). Sequence numbers rise from Unix milliseconds; ours is synced to disk before a record is
//! seen by anybody. Two records with one number prove that the author signed twice: the one with the greater hash counts,
//! everywhere the same, and both are kept as proof. A record that ends becomes a hint: no entry any more, but an
//! addr to try when nothing else is left.
//!
//! Keys in the map are Ed25519 public keys: an address without its constant prefix, in the same order, and spread
//! evenly, so one index serves pages, comparisons and look-ups.
//!
//! # Presence
//! Online: connected, answered a probe, or signed a record within the last minute. Offline: said goodbye, or did not answer.
//! A lost connection is probed after a second; every 20 s a random node that is not connected is. What was not heard for
//! 5 minutes is unknown, and so is what was heard in the future, by a clock that was ahead and has been set right.
//!
//! # Complete
//! [`Stats::complete`]: the last comparison with some peer went to its end and all that the peer had is here. Never
//! for a full map, since what a full map does not take it cannot compare.
//!
//! # Limits
//! `full_limit` records, some 0.7 KiB each; 2048 hints, 64 proofs, 2048 pins for each reason. A full map takes records of unknown nodes only from
//! gossip and look-ups, each for the least used one that is not pinned. An author's records are taken at `author_rate_per_h`,
//! a peer's gossip at 50 a second; gossip is verified on one thread, pushes on two; exchanges run four at once.
//!
//! # Security
//! Nothing is believed but signatures. A peer can hide records from us (others will have them) and can show us records
//! of nodes that do not exist (each costs it a signature and takes a place in the bounded map). Names are
//! labels: whoever resolves one gets all its owners.

mod config;
mod digest;
mod exchange;
mod handle;
mod limit;
mod metrics;
mod mirror;
mod record;
mod serve;
mod service;
mod state;
mod store;
mod sync;
pub mod wire;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use handle::*;
pub use metrics::Metrics;
pub use mirror::Mirror;
pub use record::{Body, Friend, Key, Record, RecordError, Verifier};
pub use service::{Deps, Service, new};
pub use state::PinReason;
