//! Answering: one task a stream reads a frame, waits for the peer's rate, parses, asks the feature, writes the answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::AsyncReadExt;
use prost::Message;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Inbound, Reply, Wire,
    budget::{Budget, Full, Hold},
};
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
/// Bytes of requests and answers under way, over all peers.
const BUDGET: usize = 64 * 1024 * 1024;
/// What one peer's requests and their answers may come to, in KiB, counted before they come: eleven of the largest requests there are. A
/// peer that sends or reads slowly holds up itself here.
const PEER_BUDGET_KIB: usize = 12 * 1024;
/// The same for exchanges of up to [`SMALL_KIB`].
const SMALL_BUDGET_KIB: usize = 1024;
const SMALL_KIB: usize = 64;
/// Bytes of a request that are counted before any of them came: what small ones have.
const FIRST: usize = 16 * 1024;
/// How many times what has come of a longer one is counted.
const STEP: usize = 4;
/// Requests and answers up to this size are copied when they are decoded: all but those that carry message parts or blocks.
pub(super) const SHARED: usize = 64 * 1024;
/// How often the rates of peers that went away are looked over.
const TIDY: Duration = Duration::from_secs(5);

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
    fn dispatch(&self, peer: PeerId, body: Vec<u8>) -> Result<oneshot::Receiver<Reply>, Status>;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    max_request: usize,
    max_response: usize,
    timeout: Duration,
    concurrency: usize,
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
        Limits {
            max_request: W::MAX_REQUEST,
            max_response: W::MAX_RESPONSE,
            timeout: W::TIMEOUT,
            concurrency: W::CONCURRENCY,
            rate: W::RATE,
        }
    }

    fn dispatch(&self, peer: PeerId, body: Vec<u8>) -> Result<oneshot::Receiver<Reply>, Status> {
        // The bytes of a large request are shared by what is decoded from it. Those of a small one are copied, so that what a
        // feature keeps of it keeps nothing else.
        let request =
            if body.len() > SHARED { W::Request::decode(Bytes::from(body)) } else { W::Request::decode(&*body) };
        let request = request.map_err(|_| Status::Invalid)?;
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Inbound { peer, request, reply }).map_err(|_| Status::Busy)?;
        Ok(answer)
    }
}

/// A token bucket: `rate` a second, at most two seconds' worth saved.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        let rate = f64::from(rate.max(1));
        Self { rate, tokens: rate * 2.0, at: Instant::now() }
    }

    /// Tokens at `now`; never more than two seconds' worth.
    fn tokens(&self, now: Instant) -> f64 {
        let saved = self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        saved.min(self.rate * 2.0)
    }

    /// Takes one token; says how long to wait before using it.
    fn take(&mut self, now: Instant) -> Duration {
        self.tokens = self.tokens(now) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }

    /// Whether a new one would be the same.
    fn is_full(&self, now: Instant) -> bool {
        self.tokens(now) >= self.rate * 2.0
    }
}

/// Names streams, each once.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A stream that is served.
#[derive(Debug)]
struct Served {
    close: CancellationToken,
    /// It waits for a request.
    idle: bool,
}

#[derive(Debug)]
struct PeerState {
    /// By age.
    streams: BTreeMap<u64, Served>,
    buckets: HashMap<StreamProtocol, Bucket>,
    turns: HashMap<StreamProtocol, Arc<Semaphore>>,
    budget: Arc<Semaphore>,
    /// For small exchanges, so that large ones that leave slowly do not hold them up.
    small: Arc<Semaphore>,
}

impl Default for PeerState {
    fn default() -> Self {
        let budget = Arc::new(Semaphore::new(PEER_BUDGET_KIB));
        let small = Arc::new(Semaphore::new(SMALL_BUDGET_KIB));
        Self { streams: BTreeMap::new(), buckets: HashMap::new(), turns: HashMap::new(), budget, small }
    }
}

/// Makes a place for one more stream of `peer`: an idle one of whoever has most goes, if that is more than `peer` would have.
fn make_way(peers: &Peers, peer: &PeerId) -> bool {
    let mut all = peers.lock().expect("no panic while held");
    let own = all.get(peer).map_or(0, |state| state.streams.len()) + 1;
    let idle = |state: &PeerState| state.streams.iter().find(|(_, s)| s.idle).map(|(id, _)| *id);
    let crowd = all.values_mut().filter(|state| state.streams.len() > own && idle(state).is_some());
    let Some(most) = crowd.max_by_key(|state| state.streams.len()) else { return false };
    if let Some(stream) = idle(most).and_then(|id| most.streams.remove(&id)) {
        stream.close.cancel();
    }
    true
}

/// Forgets peers without streams, but not before their buckets are full again: who closes its streams and comes back has the
/// rate it had. That takes two seconds and a little, so what is kept is bounded by the handshakes of that time.
fn tidy(peers: &Peers, now: Instant) {
    let mut all = peers.lock().expect("no panic while held");
    all.retain(|_, state| !state.streams.is_empty() || state.buckets.values().any(|b| !b.is_full(now)));
}

type Peers = Arc<Mutex<HashMap<PeerId, PeerState>>>;

/// The task that serves all inbound streams.
#[derive(Debug)]
pub(in crate::net) struct Server {
    served: HashMap<StreamProtocol, Arc<dyn Dispatch>>,
    accepted: mpsc::Receiver<Accepted>,
    peers: Peers,
    budget: Budget,
}

impl Server {
    pub(super) fn new(served: HashMap<StreamProtocol, Arc<dyn Dispatch>>, accepted: mpsc::Receiver<Accepted>) -> Self {
        Self { served, accepted, peers: Peers::default(), budget: Budget::new(BUDGET) }
    }

    /// Serves until stopped; requests under way are dropped then, after the features have drained.
    pub(in crate::net) async fn run(mut self, stop: Stop) -> Result<(), std::convert::Infallible> {
        let mut streams = JoinSet::new();
        let mut round = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return Ok(()),
                _ = round.tick() => tidy(&self.peers, Instant::now()),
                Some(_) = streams.join_next(), if !streams.is_empty() => {}
                Some(accepted) = self.accepted.recv() => {
                    let Some(protocol) = self.served.get(&accepted.name).cloned() else { continue };
                    // What is closed to make way ends in a moment.
                    if streams.len() >= STREAMS && !make_way(&self.peers, &accepted.peer) {
                        tracing::debug!(peer = %accepted.peer, "too many streams are open, one dropped");
                        continue;
                    }
                    let Some(place) = Place::take(&self.peers, accepted.peer, &accepted.name, protocol.limits()) else {
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
    id: u64,
    close: CancellationToken,
    turns: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Place {
    fn take(peers: &Peers, peer: PeerId, name: &StreamProtocol, limits: Limits) -> Option<Self> {
        let mut all = peers.lock().expect("no panic while held");
        let state = all.entry(peer).or_default();
        if state.streams.len() >= STREAMS_PER_PEER {
            return None;
        }
        let (id, close) = (NEXT.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        state.streams.insert(id, Served { close: close.clone(), idle: true });
        let turns = state.turns.entry(name.clone());
        let turns = turns.or_insert_with(|| Arc::new(Semaphore::new(limits.concurrency.max(1)))).clone();
        let (budget, small) = (state.budget.clone(), state.small.clone());
        drop(all);
        Some(Self { peers: peers.clone(), peer, id, close, turns, budget, small })
    }

    /// From now on it waits for a request, or has one.
    fn set_idle(&self, idle: bool) {
        let mut all = self.peers.lock().expect("no panic while held");
        if let Some(stream) = all.get_mut(&self.peer).and_then(|state| state.streams.get_mut(&self.id)) {
            stream.idle = idle;
        }
    }

    /// How long the peer's next request of this protocol has to wait.
    fn delay(&self, name: &StreamProtocol, rate: u32) -> Duration {
        let mut all = self.peers.lock().expect("no panic while held");
        let Some(state) = all.get_mut(&self.peer) else { return Duration::ZERO };
        let now = Instant::now();
        if let Some(bucket) = state.buckets.get_mut(name) {
            return bucket.take(now);
        }
        state.buckets.entry(name.clone()).or_insert_with(|| Bucket::new(rate)).take(now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.peers.lock().expect("no panic while held");
        if let Some(state) = all.get_mut(&self.peer) {
            // The state itself stays until its buckets are full, see `tidy`.
            state.streams.remove(&self.id);
        }
    }
}

async fn serve(accepted: Accepted, protocol: Arc<dyn Dispatch>, place: Place, budget: Budget) {
    let Accepted { peer, name, mut stream } = accepted;
    let limits = protocol.limits();
    loop {
        let delay = place.delay(&name, limits.rate);
        let mut header = [0; 4];
        let next = async {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            tokio::time::timeout(IDLE, stream.read_exact(&mut header)).await
        };
        let read = tokio::select! {
            read = next => read,
            () = place.close.cancelled() => return,
        };
        let Ok(Ok(())) = read else { return };
        let length = u32::from_be_bytes(header) as usize; // u32 fits in usize on every supported target
        if length > limits.max_request {
            tracing::debug!(%peer, %name, length, "request over the protocol's limit, stream closed");
            return;
        }
        // The answer counts too: it is in memory until a peer has read it that may take its time.
        let share = (length + limits.max_response).div_ceil(1024).clamp(1, PEER_BUDGET_KIB);
        let own = if share <= SMALL_KIB { &place.small } else { &place.budget };
        let share = u32::try_from(share).expect("clamped to a small constant");
        // More than a client asks at once would fill the feature's queue, and others would be told that it is busy. Who waits for its turn makes
        // way like one that says nothing.
        let turn = async { Some((place.turns.acquire().await.ok()?, own.acquire_many(share).await.ok()?)) };
        let turn = tokio::select! {
            turn = turn => turn,
            () = place.close.cancelled() => return,
        };
        let Some(_turn) = turn else { return };
        place.set_idle(false);
        let hold = budget.begin(peer);
        let read = tokio::time::timeout(TRANSFER, read_request(&mut stream, length, &hold));
        let body = tokio::select! {
            read = read => read,
            () = hold.cut_off() => return,
        };
        let Ok(Some(body)) = body else { return };
        let (status, response) = ask(protocol.as_ref(), peer, body, &hold).await;
        let head = [status.to_byte()];
        let pieces: Vec<&[u8]> = std::iter::once(&head[..]).chain(response.iter().map(|p| &p[..])).collect();
        let write = wire::write_frame(&mut stream, &pieces, limits.max_response + 1);
        let written = tokio::select! {
            written = tokio::time::timeout(TRANSFER, write) => written,
            () = hold.cut_off() => return,
        };
        let Ok(Ok(())) = written else { return };
        place.set_idle(true);
    }
}

/// Reads a request whose length is known and within its limit. Counted is at most [`STEP`] times what has come, and [`FIRST`].
async fn read_request(stream: &mut libp2p::Stream, length: usize, hold: &Hold) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < length {
        let next = length.min((body.len() * STEP).max(FIRST));
        hold.grow(next - body.len()).await.ok()?;
        body.reserve_exact(next - body.len());
        wire::read_on(stream, &mut body, next).await.ok()?;
    }
    Some(body)
}

/// Has the feature answer, when there is room for its largest answer.
async fn ask(protocol: &dyn Dispatch, peer: PeerId, body: Vec<u8>, hold: &Hold) -> Reply {
    let limits = protocol.limits();
    hold.asked(true);
    let busy = || (Status::Busy, Vec::new());
    let reply = match hold.grow(limits.max_response).await {
        Err(Full) => busy(),
        Ok(()) => match protocol.dispatch(peer, body) {
            Err(status) => (status, Vec::new()),
            // Dropped by the feature, or no answer in time: too much to do.
            Ok(answer) => {
                tokio::time::timeout(limits.timeout, answer).await.ok().and_then(Result::ok).unwrap_or_else(busy)
            }
        },
    };
    hold.shrink_to(reply.1.iter().map(Bytes::len).sum());
    hold.asked(false);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_all_places_are_taken_an_idle_stream_of_who_has_most_makes_way() {
        let (peers, name) = (Peers::default(), StreamProtocol::new("/x/1"));
        let limits = Limits { max_request: 1, max_response: 1, timeout: IDLE, concurrency: 1, rate: 10 };
        let [a, b, c] = std::array::from_fn(|_| PeerId::random());
        let take =
            |peer, n: usize| (0..n).map(|_| Place::take(&peers, peer, &name, limits).unwrap()).collect::<Vec<_>>();
        let (of_a, of_b) = (take(a, 5), take(b, 3));
        of_a[0].set_idle(false);
        let closed = |all: &[Place]| all.iter().map(|place| place.close.is_cancelled()).collect::<Vec<_>>();
        assert!(make_way(&peers, &c));
        assert_eq!(closed(&of_a), [false, true, false, false, false], "the oldest one that waits for a request");
        assert!(!make_way(&peers, &b), "three and one more are as many as four");
        assert_eq!(closed(&of_b), [false; 3]);
        assert_eq!(closed(&of_a).iter().filter(|closed| **closed).count(), 1, "nobody has more than four");
    }

    #[test]
    fn a_peer_that_comes_back_has_the_rate_it_had_until_its_bucket_is_full() {
        let (peers, peer, name) = (Peers::default(), PeerId::random(), StreamProtocol::new("/x/1"));
        let limits = Limits { max_request: 1, max_response: 1, timeout: IDLE, concurrency: 1, rate: 10 };
        let place = Place::take(&peers, peer, &name, limits).unwrap();
        (0..20).for_each(|_| assert!(place.delay(&name, 10).is_zero()));
        assert!(!place.delay(&name, 10).is_zero(), "two seconds' worth are used up");
        drop(place);
        tidy(&peers, Instant::now());
        let again = Place::take(&peers, peer, &name, limits).unwrap();
        assert!(!again.delay(&name, 10).is_zero(), "a new stream does not fill the bucket");
        let later = Instant::now() + Duration::from_secs(5);
        tidy(&peers, later);
        assert_eq!(peers.lock().unwrap().len(), 1, "it has a stream");
        drop(again);
        tidy(&peers, later);
        assert!(peers.lock().unwrap().is_empty(), "full again and without streams: forgotten");
    }
}
