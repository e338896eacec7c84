//! L3: the network. The only folder that sees a `Swarm`.
//!
//! ```text
//!        features (L4)                         node (L6)
//!   Client<W>  Publisher  dht::Client          Handle: dial, ban, listen, peers, events
//!      │           │          │                   │ bounded command queues
//!  ┌───▼───────────▼──────────▼───────────────────▼──────────────────────────────────────────────┐
//!  │ swarm task (swarm.rs): one `select!` over commands, swarm events and a timer; never blocks    │
//!  │ Behaviour: limits · bans · memory · identify · ping · kad · gossipsub · relay · dcutr ·      │
//!  │            autonat v2 · upnp? · mdns? · rpc (all request-response protocols)                 │
//!  └──────────────────────────────────────────────────────────────────────────────────────────────┘
//!      │ bounded queues                          │ broadcast PeerEvent, watch addrs, watch NAT
//!   Inbound<W>  Received  (to features)          (to anybody)
//! ```
//!
//! * Request-response goes around the swarm task (see [`rpc`]); gossip and Kademlia have one queue each way.
//! * Which connections we keep is ours to decide, because gossipsub keeps every connection alive: `peers.rs` dials
//!   towards the target from the address book (the saved map) and prunes above the high-water mark.
//! * Two nodes that dial each other at the same moment have two connections; the one with the smaller address closes the
//!   younger after some seconds, and a relayed connection ends when a direct one has stood for as long.
//! * A connection that answered no ping for 30 s is closed, and one whose own IP is gone at once: TCP alone notices neither.
//!   With a new IP everybody is dialled again without a pause.
//! * Kademlia's mode is pinned by our own view of reachability, since a relayed addr would otherwise make a NATed node a
//!   server (spec `libp2p.md`, 0.11).
//!
//! # Limits
//! Connections pending, established, per peer, per IP; RSS; streams; frames; queues: all in [`Config`] or constants
//! beside their use. Addrs learnt from others are capped and filtered (`addrs.rs`) before they reach Kademlia or are dialled.

mod addrs;
mod bans;
mod behaviour;
mod config;
pub mod dht;
mod error;
mod handle;
mod metrics;
mod peers;
pub mod pubsub;
#[cfg(test)]
pub(crate) mod raw;
pub mod rpc;
mod swarm;
mod transport;
mod voice;

use libp2p::multiaddr::Protocol;

pub use config::{Config, DhtMode, ReachabilityMode};
pub use error::{CommandError, StartError};
#[cfg(any(test, feature = "test-util"))]
pub use handle::Detached;
pub use handle::{Direction, Handle, Nat, PeerEvent, PeerInfo, Reachability};
pub use swarm::{Deps, Network, build};
pub use voice::Voice;

use crate::primitives::{Multiaddr, PeerId};

/// Where to find nodes again without any bootstrap node: the saved map.
pub trait AddrBook: Send + Sync + std::fmt::Debug + 'static {
    /// Known addrs of a node, best first; without a trailing `/p2p`.
    fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr>;

    /// Up to `n` nodes worth dialling, in random order.
    fn candidates(&self, n: usize) -> Vec<PeerId>;
}

/// Whether an addr goes through a relay.
#[must_use]
pub fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| matches!(p, Protocol::P2pCircuit))
}

/// The id at the end of an addr, if any.
#[must_use]
pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// A dial error for people: the last cause of each addr tried.
fn dial_error_text(error: &libp2p::swarm::DialError) -> String {
    use libp2p::{core::transport::TransportError, swarm::DialError};
    match error {
        DialError::Transport(tried) => {
            let mut texts: Vec<_> = tried
                .iter()
                .take(4)
                .map(|(addr, e)| match e {
                    TransportError::MultiaddrNotSupported(_) => format!("{addr}: transport not supported"),
                    TransportError::Other(e) => format!("{addr}: {}", root_cause(e)),
                })
                .collect();
            if tried.len() > texts.len() {
                texts.push(format!("and {} more", tried.len() - texts.len()));
            }
            texts.join("; ")
        }
        DialError::NoAddresses => "no known addr".to_owned(),
        DialError::WrongPeerId { obtained, .. } => format!("another node answers there: {obtained}"),
        DialError::Denied { cause } => format!("not allowed: {}", root_cause(cause)),
        DialError::LocalPeerId { .. } => "that is this node".to_owned(),
        DialError::DialPeerConditionFalse(_) => "already connected or dialling".to_owned(),
        DialError::Aborted => "aborted".to_owned(),
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
