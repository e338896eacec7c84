//! Answering: one task a stream reads a frame, waits for the peer's rate, parses, asks the feature, writes the answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::AsyncReadExt;
use prost::Message;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{Inbound, Reply, Wire};
use crate::{
    primitives::{PeerId, StreamProtocol},
    runtime::Stop,
    wire::{self, Status},
};

/// Streams accepted and not yet taken by the server.
pub(super) const ACCEPTED: usize = 1024;
/// Inbound streams of one peer over all protocols. yamux ends a connection at 512 streams in both directions.
const STREAMS_PER_PEER: usize = 192;
/// Inbound streams over all peers: a stream costs some 2 KiB here while idle.
const STREAMS: usize = 8192;
/// How long we wait for the next request on a stream, or for the rest of one; longer than the client keeps it idle.
const IDLE: Duration = Duration::from_secs(60);
/// For one request to arrive once its length is known, and one answer to leave.
const TRANSFER: Duration = Duration::from_secs(30);
/// Bytes of requests being read and handled and of their answers, over all peers, in KiB: a flood waits here instead of
/// in memory.
const BUDGET_KIB: usize = 64 * 1024;
/// The same for one peer: eight of the largest requests (1 MiB) at once, as many as our own client sends, and room for
/// other protocols. A peer that announces requests and does not send them, or asks and does not read, holds up itself.
const PEER_BUDGET_KIB: usize = 12 * 1024;

/// A stream that a peer opened.
#[derive(Debug)]
pub(in crate::net) struct Accepted {
    pub(super) peer: PeerId,
    pub(super) name: StreamProtocol,
    pub(super) stream: libp2p::Stream,
}

/// A protocol with its types erased: what the server needs to serve its streams.
pub(super) trait Dispatch: Send + Sync + std::fmt::Debug {
    fn limits(&self) -> Limits;
    /// Parses and queues a request. `Err` is an answer by itself.
    fn dispatch(&self, peer: PeerId, body: &[u8]) -> Result<oneshot::Receiver<Reply>, Status>;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    max_request: usize,
    max_response: usize,
    timeout: Duration,
    rate: u32,
}

pub(super) struct Typed<W: Wire> {
    queue: mpsc::Sender<Inbound<W>>,
}

impl<W: Wire> Typed<W> {
    pub(super) fn new(queue: mpsc::Sender<Inbound<W>>) -> Self {
        Self { queue }
    }
}

impl<W: Wire> std::fmt::Debug for Typed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Typed").field(&W::NAME).finish()
    }
}

impl<W: Wire> Dispatch for Typed<W> {
    fn limits(&self) -> Limits {
        Limits { max_request: W::MAX_REQUEST, max_response: W::MAX_RESPONSE, timeout: W::TIMEOUT, rate: W::RATE }
    }

    fn dispatch(&self, peer: PeerId, body: &[u8]) -> Result<oneshot::Receiver<Reply>, Status> {
        let request = W::Request::decode(body).map_err(|_| Status::Invalid)?;
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Inbound { peer, request, reply }).map_err(|_| Status::Busy)?;
        Ok(answer)
    }
}

/// A token bucket: `rate` a second, at most two seconds' worth saved.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { tokens: f64::from(rate) * 2.0, at: Instant::now() }
    }

    /// Takes one token; says how long to wait before using it.
    fn take(&mut self, rate: u32) -> Duration {
        let rate = f64::from(rate);
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * rate).min(rate * 2.0) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / rate) }
    }
}

#[derive(Debug)]
struct PeerState {
    streams: usize,
    buckets: HashMap<StreamProtocol, Bucket>,
    budget: Arc<Semaphore>,
}

impl Default for PeerState {
    fn default() -> Self {
        Self { streams: 0, buckets: HashMap::new(), budget: Arc::new(Semaphore::new(PEER_BUDGET_KIB)) }
    }
}

type Peers = Arc<Mutex<HashMap<PeerId, PeerState>>>;

/// The task that serves all inbound streams.
#[derive(Debug)]
pub(in crate::net) struct Server {
    served: HashMap<StreamProtocol, Arc<dyn Dispatch>>,
    accepted: mpsc::Receiver<Accepted>,
    peers: Peers,
    budget: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(served: HashMap<StreamProtocol, Arc<dyn Dispatch>>, accepted: mpsc::Receiver<Accepted>) -> Self {
        Self { served, accepted, peers: Peers::default(), budget: Arc::new(Semaphore::new(BUDGET_KIB)) }
    }

    /// Serves until stopped; requests under way are dropped then, after the features have drained.
    pub(in crate::net) async fn run(mut self, stop: Stop) -> Result<(), std::convert::Infallible> {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return Ok(()),
                Some(_) = streams.join_next(), if !streams.is_empty() => {}
                Some(accepted) = self.accepted.recv() => {
                    let Some(protocol) = self.served.get(&accepted.name).cloned() else { continue };
                    if streams.len() >= STREAMS {
                        continue;
                    }
                    let Some(place) = Place::take(&self.peers, accepted.peer) else {
                        tracing::debug!(peer = %accepted.peer, "peer has too many streams open, one dropped");
                        continue;
                    };
                    streams.spawn(serve(accepted, protocol, place, self.budget.clone()));
                }
            }
        }
    }
}

/// One stream's place among its peer's; given back on drop.
struct Place {
    peers: Peers,
    peer: PeerId,
    budget: Arc<Semaphore>,
}

impl Place {
    fn take(peers: &Peers, peer: PeerId) -> Option<Self> {
        let mut all = peers.lock().expect("no panic while held");
        let state = all.entry(peer).or_default();
        if state.streams >= STREAMS_PER_PEER {
            return None;
        }
        state.streams += 1;
        Some(Self { peers: peers.clone(), peer, budget: state.budget.clone() })
    }

    /// How long the peer's next request of this protocol has to wait.
    fn delay(&self, name: &StreamProtocol, rate: u32) -> Duration {
        let mut all = self.peers.lock().expect("no panic while held");
        let Some(state) = all.get_mut(&self.peer) else { return Duration::ZERO };
        if let Some(bucket) = state.buckets.get_mut(name) {
            return bucket.take(rate);
        }
        state.buckets.entry(name.clone()).or_insert_with(|| Bucket::new(rate)).take(rate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.peers.lock().expect("no panic while held");
        if let Some(state) = all.get_mut(&self.peer) {
            state.streams -= 1;
            if state.streams == 0 {
                all.remove(&self.peer);
            }
        }
    }
}

async fn serve(accepted: Accepted, protocol: Arc<dyn Dispatch>, place: Place, budget: Arc<Semaphore>) {
    let Accepted { peer, name, mut stream } = accepted;
    let limits = protocol.limits();
    loop {
        let delay = place.delay(&name, limits.rate);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut header = [0; 4];
        let Ok(Ok(())) = tokio::time::timeout(IDLE, stream.read_exact(&mut header)).await else { return };
        let length = u32::from_be_bytes(header) as usize; // u32 fits in usize on every supported target
        if length > limits.max_request {
            tracing::debug!(%peer, %name, length, "request over the protocol's limit, stream closed");
            return;
        }
        let share = u32::try_from((length + limits.max_response).div_ceil(1024)).unwrap_or(u32::MAX);
        let Ok(_own) = place.budget.acquire_many(share).await else { return };
        let Ok(_bytes) = budget.acquire_many(share).await else { return };
        let Ok(Ok(body)) = tokio::time::timeout(TRANSFER, wire::read_body(&mut stream, length)).await else { return };
        let (status, response) = match protocol.dispatch(peer, &body) {
            Err(status) => (status, Vec::new()),
            Ok(answer) => match tokio::time::timeout(limits.timeout, answer).await {
                Ok(Ok(reply)) => reply,
                // Dropped by the feature, or no answer in time: too much to do.
                Ok(Err(_)) | Err(_) => (Status::Busy, Vec::new()),
            },
        };
        drop(body);
        let head = [status.to_byte()];
        let write = wire::write_frame(&mut stream, &head, &response, limits.max_response + 1);
        let Ok(Ok(())) = tokio::time::timeout(TRANSFER, write).await else { return };
    }
}
