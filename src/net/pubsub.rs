//! Gossip topics: publish, and judge what others publish before it is forwarded.
//!
//! Messages are anonymous (they carry their own signatures) and their id is a hash over topic and data, so a second
//! copy of the same bytes is dropped wherever it comes from. Nothing is forwarded before the feature accepted it.
//!
//! Who forwards to whom is a topic's [`Mesh`]. What we publish ourselves goes to that mesh too, and not to everybody who
//! listens: a topic whose mesh is [`Mesh::everybody`] reaches all neighbours at once, the others travel on.
//!
//! # Slow peers
//! What finds no room in a peer's queue, or waits there for too long, is dropped. Frames are small, so a link that is merely
//! busy loses little, and to end its connection would end the requests that keep it busy. So it is counted, and for a minute
//! [`Publisher::reaches`] says no of that peer: what must reach it goes another way.
//!
//! # Limits
//! A topic's payload cap is a constant of the version: a peer with a smaller transmit size would silently go mute
//! (spec `libp2p.md` 7.3), hence the headroom in `MAX_TRANSMIT`.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use rand::seq::IteratorRandom as _;
use tokio::sync::{mpsc, oneshot};

use crate::{
    primitives::{NetworkId, PeerId},
    runtime::now,
};

/// Largest payload of any topic.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Largest frame of gossipsub: the payload and 64 KiB of headroom, since the receiver applies the limit to its whole
/// read buffer.
pub(super) const MAX_TRANSMIT: usize = MAX_PAYLOAD + 64 * 1024;
/// Messages waiting for a feature; beyond it they are ignored (not forwarded, nobody punished).
const QUEUE: usize = 512;
/// Publications waiting for the swarm task.
const PUBLISH: usize = 256;
/// Verdicts waiting for the swarm task.
const VERDICTS: usize = 1024;

/// For how long a peer that lost messages is not counted on: a queue that is stuck loses more within seconds.
const SLOW: Duration = Duration::from_secs(60);

/// What gossipsub puts around a payload, and counts as part of it when it compares with a topic's size: the topic's name and
/// two tags with their lengths.
pub(super) const ENVELOPE: usize = 256;

/// How the messages of a topic travel: to how many neighbours at once, and how large they may be. gossipsub checks these
/// numbers for some topics only and does wrong arithmetic with bad ones (L4), so nothing else can make them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// Neighbours we want to forward to.
    pub(super) n: usize,
    /// With fewer, more are looked for.
    pub(super) low: usize,
    /// With more, some are let go.
    pub(super) high: usize,
    /// Of them, at least this many that we dialled ourselves: whoever dials us cannot fill the mesh.
    pub(super) outbound_min: usize,
    /// Bytes of a payload.
    pub(super) max_payload: usize,
    /// All neighbours are in it, which says nothing of any of them.
    pub(super) everybody: bool,
}

impl Default for Mesh {
    /// For news that is small and rare: gossipsub's own degree, payloads up to [`MAX_PAYLOAD`].
    fn default() -> Self {
        Self { n: 6, low: 4, high: 12, outbound_min: 2, max_payload: MAX_PAYLOAD, everybody: false }.checked()
    }
}

impl Mesh {
    /// About `degree` neighbours, at least one.
    #[must_use]
    pub fn of_degree(degree: usize) -> Self {
        let n = degree.max(1);
        let low = n.saturating_sub(1).max(1);
        let high = n + n.div_ceil(2).max(2);
        Self { n, low, high, outbound_min: low.min(n / 2).min(2), max_payload: MAX_PAYLOAD, everybody: false }.checked()
    }

    /// The square root of `peers`, rounded up: what the first system of its kind pushes a block to.
    #[must_use]
    pub fn root_of(peers: usize) -> Self {
        Self::of_degree((1..=peers).find(|d| d * d >= peers).unwrap_or(1))
    }

    /// Every neighbour, when there are no more than `peers`.
    #[must_use]
    pub fn everybody(peers: usize) -> Self {
        let n = peers.max(1);
        Self { n, low: n, high: n, outbound_min: 0, max_payload: MAX_PAYLOAD, everybody: true }.checked()
    }

    /// The same for payloads of at most `bytes`, which [`MAX_PAYLOAD`] limits.
    #[must_use]
    pub fn with_max_payload(self, bytes: usize) -> Self {
        Self { max_payload: bytes.min(MAX_PAYLOAD), ..self }
    }

    fn checked(self) -> Self {
        let Self { n, low, high, outbound_min, .. } = self;
        assert!(outbound_min <= low && low <= n && n <= high && 2 * outbound_min <= n, "mesh numbers: {self:?}");
        self
    }
}

/// Who listens to which topic, of those we are connected to: written by the swarm task.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners(Arc<RwLock<Listening>>);

#[derive(Debug, Default)]
struct Listening {
    topics: HashMap<String, HashSet<PeerId>>,
    /// Who lost messages, and until when it is not counted on. Connected peers only.
    slow: HashMap<PeerId, Instant>,
}

impl Listeners {
    pub(super) fn came(&self, topic: &str, peer: PeerId) {
        // Only the topics that we join ourselves have an entry: peers may name others as they like.
        if let Some(peers) = self.write().topics.get_mut(topic) {
            peers.insert(peer);
        }
    }

    pub(super) fn went(&self, topic: &str, peer: &PeerId) {
        if let Some(peers) = self.write().topics.get_mut(topic) {
            peers.remove(peer);
        }
    }

    pub(super) fn gone(&self, peer: &PeerId) {
        let mut all = self.write();
        all.slow.remove(peer);
        for peers in all.topics.values_mut() {
            peers.remove(peer);
        }
    }

    /// A peer lost messages. It may be gone by now: then it is not remembered.
    pub(super) fn slow(&self, peer: PeerId, now: Instant) {
        let mut all = self.write();
        if all.topics.values().any(|peers| peers.contains(&peer)) {
            all.slow.insert(peer, now + SLOW);
        }
    }

    fn open(&self, topic: &str) {
        self.write().topics.entry(topic.to_owned()).or_default();
    }

    fn has(&self, topic: &str, peer: &PeerId, now: Instant) -> bool {
        let all = self.0.read().expect("no panic while held");
        let listens = all.topics.get(topic).is_some_and(|peers| peers.contains(peer));
        listens && all.slow.get(peer).is_none_or(|until| *until <= now)
    }

    /// Up to `count` who listen, in no order, but for one.
    fn some(&self, topic: &str, count: usize, except: &PeerId) -> Vec<PeerId> {
        let all = self.0.read().expect("no panic while held");
        let peers = all.topics.get(topic).into_iter().flatten().filter(|peer| *peer != except);
        peers.copied().sample(&mut rand::rng(), count)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Listening> {
        self.0.write().expect("no panic while held")
    }
}

/// Why nothing was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody we are connected to listens yet; the bytes may be published again later.
    #[error("no connected peer listens to this topic")]
    NoPeers,
    /// The same bytes were published or received within the last minutes.
    #[error("already published")]
    Duplicate,
    /// Over the topic's cap, which is never more than [`MAX_PAYLOAD`].
    #[error("payload too large")]
    TooLarge,
    /// Queues are full.
    #[error("queues are full")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// What the feature thinks of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Good: forward it.
    Accept,
    /// Not useful, nobody's fault: stop here.
    Ignore,
    /// Broken: stop here and hold it against whoever sent it.
    Reject,
}

/// A message from the topic, waiting for its verdict. Dropping it means [`Verdict::Ignore`].
#[derive(Debug)]
pub struct Received {
    /// The peer that forwarded it (not its author).
    pub source: PeerId,
    /// The payload.
    pub data: Vec<u8>,
    pub(super) ticket: Option<Ticket>,
}

#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) id: libp2p::gossipsub::MessageId,
    pub(super) verdicts: mpsc::Sender<Judged>,
}

#[derive(Debug)]
pub(super) struct Judged {
    pub(super) id: libp2p::gossipsub::MessageId,
    pub(super) source: PeerId,
    pub(super) verdict: Verdict,
}

impl Received {
    /// Gives the verdict; call it within a few seconds.
    pub fn judge(mut self, verdict: Verdict) {
        self.send(verdict);
    }

    fn send(&mut self, verdict: Verdict) {
        if let Some(Ticket { id, verdicts }) = self.ticket.take() {
            // A full queue means the message is forgotten: the same as Ignore.
            let _ = verdicts.try_send(Judged { id, source: self.source, verdict });
        }
    }

    /// For tests: a message that nobody waits for.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached(source: PeerId, data: Vec<u8>) -> Self {
        Self { source, data, ticket: None }
    }

    /// For tests: a message whose verdict comes out of the receiver.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn watched(source: PeerId, data: Vec<u8>) -> (Self, mpsc::Receiver<Verdict>) {
        let (verdicts, mut judged) = mpsc::channel::<Judged>(1);
        let (out, outside) = mpsc::channel(1);
        #[allow(clippy::disallowed_methods, reason = "ends with its message")]
        tokio::spawn(async move {
            if let Some(judged) = judged.recv().await {
                let _ = out.send(judged.verdict).await;
            }
        });
        let ticket = Ticket { id: libp2p::gossipsub::MessageId::new(b"watched"), verdicts };
        (Self { source, data, ticket: Some(ticket) }, outside)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.send(Verdict::Ignore);
    }
}

#[derive(Debug)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) data: Vec<u8>,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
}

/// Publishes on one topic. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    topic: String,
    max_payload: usize,
    listeners: Listeners,
    queue: mpsc::Sender<Publish>,
}

impl Publisher {
    /// Publishes; `Ok` means handed to at least one peer's queue, not received by anybody.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, data: Vec<u8>) -> Result<(), PublishError> {
        if data.len() > self.max_payload {
            return Err(PublishError::TooLarge);
        }
        let (answer, result) = oneshot::channel();
        let publish = Publish { topic: self.topic.clone(), data, answer };
        self.queue.send(publish).await.map_err(|_| PublishError::Stopped)?;
        result.await.map_err(|_| PublishError::Stopped)?
    }

    /// Whether a connected peer listens to this topic, as far as it told, and lost nothing within the last minute.
    #[must_use]
    pub fn reaches(&self, peer: &PeerId) -> bool {
        self.listeners.has(&self.topic, peer, now())
    }

    /// Up to `count` connected peers that listen to this topic, chosen by chance, but for `except`.
    #[must_use]
    pub fn listeners(&self, count: usize, except: &PeerId) -> Vec<PeerId> {
        self.listeners.some(&self.topic, count, except)
    }

    /// For tests: `peer` listens.
    #[cfg(any(test, feature = "test-util"))]
    pub fn heard_of(&self, peer: PeerId) {
        self.listeners.open(&self.topic);
        self.listeners.came(&self.topic, peer);
    }

    /// For tests: everything published comes out of the receiver, always `Ok`.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (queue, mut published) = mpsc::channel::<Publish>(PUBLISH);
        #[allow(clippy::disallowed_methods, reason = "a test helper: the test bounds what it publishes")]
        let (out, outside) = mpsc::unbounded_channel();
        #[allow(clippy::disallowed_methods, reason = "ends with its publisher")]
        tokio::spawn(async move {
            while let Some(p) = published.recv().await {
                let _ = out.send(p.data);
                let _ = p.answer.send(Ok(()));
            }
        });
        let (topic, listeners) = ("detached".to_owned(), Listeners::default());
        (Self { topic, max_payload: MAX_PAYLOAD, listeners, queue }, outside)
    }
}

/// The topics a node joins, collected before its swarm is built.
#[derive(Debug)]
pub struct Topics {
    network: NetworkId,
    publish: mpsc::Sender<Publish>,
    pub(super) queue: mpsc::Receiver<Publish>,
    pub(super) verdicts: mpsc::Sender<Judged>,
    pub(super) judged: mpsc::Receiver<Judged>,
    pub(super) joined: Vec<Joined>,
    pub(super) listeners: Listeners,
}

/// One topic of ours.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) topic: String,
    pub(super) mesh: Mesh,
    pub(super) sender: mpsc::Sender<Received>,
}

impl Topics {
    /// No topics yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        let (publish, queue) = mpsc::channel(PUBLISH);
        let (verdicts, judged) = mpsc::channel(VERDICTS);
        Self { network, publish, queue, verdicts, judged, joined: Vec::new(), listeners: Listeners::default() }
    }

    /// Joins the topic `/vos/<network>/<name>`, whose messages travel as `mesh` says.
    pub fn add(&mut self, name: &str, mesh: Mesh) -> (Publisher, mpsc::Receiver<Received>) {
        let topic = self.network.name(name);
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.listeners.open(&topic);
        self.joined.push(Joined { topic: topic.clone(), mesh, sender });
        let (max_payload, listeners) = (mesh.max_payload, self.listeners.clone());
        (Publisher { topic, max_payload, listeners, queue: self.publish.clone() }, receiver)
    }

    /// For tests: each topic with the mesh that gossipsub is given for it, as it says itself.
    ///
    /// # Panics
    /// When it does not take them.
    #[cfg(test)]
    pub(crate) fn built(&self) -> Vec<(String, Mesh)> {
        let config = super::behaviour::gossip_config(self).expect("numbers that gossipsub takes");
        let read = |joined: &Joined| {
            let topic = libp2p::gossipsub::IdentTopic::new(joined.topic.clone()).hash();
            let mesh = Mesh {
                n: config.mesh_n_for_topic(&topic),
                low: config.mesh_n_low_for_topic(&topic),
                high: config.mesh_n_high_for_topic(&topic),
                outbound_min: config.mesh_outbound_min_for_topic(&topic),
                max_payload: config.max_transmit_size_for_topic(&topic) - ENVELOPE,
                everybody: joined.mesh.everybody,
            };
            (joined.topic.clone(), mesh)
        };
        self.joined.iter().map(read).collect()
    }
}

#[cfg(test)]
impl Mesh {
    /// Its numbers: wanted, least, most, dialled by us, and bytes of a payload.
    pub(crate) fn numbers(&self) -> [usize; 5] {
        [self.n, self.low, self.high, self.outbound_min, self.max_payload]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lost_messages_is_not_counted_on_for_a_minute() {
        let (listeners, peer, now) = (Listeners::default(), PeerId::random(), Instant::now());
        listeners.open("a");
        listeners.came("a", peer);
        assert!(listeners.has("a", &peer, now) && !listeners.has("b", &peer, now));
        listeners.slow(peer, now);
        assert!(!listeners.has("a", &peer, now) && !listeners.has("a", &peer, now + SLOW / 2));
        assert!(listeners.has("a", &peer, now + SLOW));
        listeners.slow(peer, now);
        // It comes back on another connection.
        listeners.gone(&peer);
        listeners.came("a", peer);
        assert!(listeners.has("a", &peer, now));
    }
}
