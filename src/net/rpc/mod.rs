//! Requests between two nodes: a protocol is a type.
//!
//! ```text
//!  feature ── Client<W> ──┬─ idle stream of this peer ───────────────▶ wire      (no swarm involved)
//!                         └─ none idle: Open ──▶ Behaviour ──▶ Handler ─▶ new stream, direct connections first
//!  feature ◀─ Receiver<Inbound<W>> ◀─ Server (one task a stream: read, limit, parse) ◀─ Handler ◀─ wire
//! ```
//!
//! * [`Wire`] names a protocol with its sizes, timeout and types. [`Protocols::add`] gives the [`Client`] and the
//!   queue of [`Inbound`] requests straight to the feature; the swarm loop has no arm per protocol.
//! * A stream is negotiated once and then carries one exchange after the other, as HTTP keep-alive does. A stream per
//!   request, as `libp2p-request-response` does it, pays open, negotiation and close each time and a turn of the
//!   swarm task for each step. Concurrent requests use concurrent streams, so nothing blocks behind a slow answer.
//! * One `Behaviour` and one handler a connection serve *all* protocols (DESIGN.md had one behaviour each): the
//!   swarm polls every handler of a connection at every wake-up, so handlers are what a protocol costs.
//! * Every exchange is `frame(request)`, `frame(status byte ‖ response)`. An exchange may be repeated once by the client when
//!   a reused stream turns out to be dead, so every protocol must be idempotent.
//!
//! # Limits
//! Frames are capped by the protocol before allocation; streams in both directions are capped per peer; the bytes of
//! all requests and answers under way share one budget, of which a peer has its part, and where it is used up who holds most makes room (`budget.rs`); each peer's request rate is
//! limited *before* parsing, by not reading; a full inbound queue answers [`Status::Busy`]. Dropping an [`Inbound`]
//! answers `Busy` too.

mod behaviour;
mod budget;
mod client;
mod error;
mod handler;
#[cfg(any(test, feature = "test-util"))]
mod loopback;
mod server;

use std::{collections::HashMap, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub(super) use behaviour::Behaviour;
pub use client::Client;
pub use error::RequestError;
#[cfg(any(test, feature = "test-util"))]
pub use loopback::{Lines, Loopback};
pub(super) use server::Server;

use crate::{
    primitives::{NetworkId, PeerId, StreamProtocol},
    wire::{self, Status},
};

/// A request-response protocol. Exchanges must be idempotent: a lost answer may repeat the request.
pub trait Wire: Send + Sync + 'static {
    /// Name within the network, e.g. `map/page/1`; on the wire `/vos/<network>/map/page/1`.
    const NAME: &'static str;
    /// Largest encoded request in bytes.
    const MAX_REQUEST: usize;
    /// Largest encoded response in bytes.
    const MAX_RESPONSE: usize;
    /// For one exchange, from the request's first byte to the answer's last, without dialling.
    const TIMEOUT: Duration = Duration::from_secs(20);
    /// Requests waiting for the feature; more are answered `Busy`.
    const QUEUE: usize = 64;
    /// Exchanges at once with one peer, on both sides; further requests wait for their turn.
    const CONCURRENCY: usize = 16;
    /// Requests a second accepted from one peer; beyond it we stop reading for a while.
    const RATE: u32 = 200;
    /// Bytes of an answer for which memory is reserved as soon as the peer says how long it is; the rest follows as it comes. More
    /// than the default only where few requests are under way at once.
    const TRUSTED: usize = wire::TRUSTED;
    /// What is asked.
    type Request: prost::Message + Default;
    /// What is answered.
    type Response: prost::Message + Default;
}

/// What the feature answered: a status, and the encoded response, in pieces, when it is `Ok`.
type Reply = (Status, Vec<Bytes>);

/// A request from a peer, to be answered by [`Inbound::respond`] or [`Inbound::refuse`]; dropping it answers `Busy`.
#[derive(Debug)]
pub struct Inbound<W: Wire> {
    /// Who asks (authenticated by the connection).
    pub peer: PeerId,
    /// What is asked.
    pub request: W::Request,
    reply: oneshot::Sender<Reply>,
}

impl<W: Wire> Inbound<W> {
    /// Answers. An answer larger than [`Wire::MAX_RESPONSE`] becomes `Failed` and is logged: it is our bug.
    #[allow(clippy::needless_pass_by_value, reason = "callers build the response for this call")]
    pub fn respond(self, response: W::Response) {
        use prost::Message;
        self.respond_encoded(vec![response.encode_to_vec().into()]);
    }

    /// The same with an answer that is encoded already, in pieces that follow each other, so that large ones need no copy.
    pub fn respond_encoded(self, pieces: Vec<Bytes>) {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        if bytes > W::MAX_RESPONSE {
            tracing::error!(protocol = W::NAME, bytes, "response over the protocol's limit");
            return self.refuse(Status::Failed);
        }
        // The peer may have gone away meanwhile; there is nobody left to tell.
        let _ = self.reply.send((Status::Ok, pieces));
    }

    /// A request of this node to itself: what came from `peer` another way takes the same path as if it had asked. The future is
    /// its answer.
    pub fn local(
        peer: PeerId,
        request: W::Request,
    ) -> (Self, impl Future<Output = Result<W::Response, RequestError>> + Send + use<W>) {
        use prost::Message;
        let (reply, answer) = oneshot::channel::<Reply>();
        let answer = async move {
            match answer.await {
                Ok((Status::Ok, pieces)) => W::Response::decode(&*pieces.concat()).map_err(|_| RequestError::Malformed),
                Ok((status, _)) => Err(RequestError::Status(status)),
                Err(_) => Err(RequestError::Status(Status::Busy)),
            }
        };
        (Self { peer, request, reply }, answer)
    }

    /// Answers with a status only.
    pub fn refuse(self, status: Status) {
        let _ = self.reply.send((status, Vec::new()));
    }
}

/// The protocols a node speaks, collected before its swarm is built.
#[derive(Debug)]
pub struct Protocols {
    network: NetworkId,
    opens: mpsc::Sender<behaviour::Open>,
    queue: mpsc::Receiver<behaviour::Open>,
    served: HashMap<StreamProtocol, Arc<dyn server::Dispatch>>,
    pools: Vec<Arc<client::Pool>>,
}

/// Opens waiting for the swarm task. A full queue answers `Busy` at once.
const OPENS: usize = 1024;

impl Protocols {
    /// No protocols yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        let (opens, queue) = mpsc::channel(OPENS);
        Self { network, opens, queue, served: HashMap::new(), pools: Vec::new() }
    }

    /// Adds a protocol: the client for asking others, and the queue of what others ask us.
    pub fn add<W: Wire>(&mut self) -> (Client<W>, mpsc::Receiver<Inbound<W>>) {
        let name = self.network.protocol(W::NAME);
        let (sender, inbound) = mpsc::channel(W::QUEUE);
        self.served.insert(name.clone(), Arc::new(server::Typed::<W>::new(sender)));
        let (client, pool) = Client::over_swarm(name, self.opens.clone());
        self.pools.push(pool);
        (client, inbound)
    }

    /// The parts for the swarm: the behaviour, and the server task that reads inbound streams.
    pub(super) fn build(self) -> (Behaviour, Server) {
        let (streams, accepted) = mpsc::channel(server::ACCEPTED);
        let names = self.served.keys().cloned().collect();
        (Behaviour::new(names, self.queue, streams, self.pools), Server::new(self.served, accepted))
    }
}

/// Marks a type parameter that is only used in signatures.
type Phantom<W> = PhantomData<fn() -> W>;
