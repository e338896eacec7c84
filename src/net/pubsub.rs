//! Gossip topics: publish, and judge what others publish before it is forwarded.
//!
//! Messages are anonymous (they carry their own signatures) and their id is a hash over topic and data, so a second
//! copy of the same bytes is dropped wherever it comes from. Nothing is forwarded before the feature accepted it.
//!
//! # Limits
//! A topic's payload cap is a constant of the version: a peer with a smaller transmit size would silently go mute
//! (spec `libp2p.md` 7.3), hence the headroom in `MAX_TRANSMIT`.

use tokio::sync::{mpsc, oneshot};

use crate::primitives::{NetworkId, PeerId};

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

/// Why nothing was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody we are connected to listens yet; the bytes may be published again later.
    #[error("no connected peer listens to this topic")]
    NoPeers,
    /// The same bytes were published or received within the last minutes.
    #[error("already published")]
    Duplicate,
    /// Over [`MAX_PAYLOAD`].
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
    queue: mpsc::Sender<Publish>,
}

impl Publisher {
    /// Publishes; `Ok` means handed to at least one peer's queue, not received by anybody.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, data: Vec<u8>) -> Result<(), PublishError> {
        if data.len() > MAX_PAYLOAD {
            return Err(PublishError::TooLarge);
        }
        let (answer, result) = oneshot::channel();
        let publish = Publish { topic: self.topic.clone(), data, answer };
        self.queue.send(publish).await.map_err(|_| PublishError::Stopped)?;
        result.await.map_err(|_| PublishError::Stopped)?
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
        (Self { topic: "detached".into(), queue }, outside)
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
    pub(super) joined: Vec<(String, mpsc::Sender<Received>)>,
}

impl Topics {
    /// No topics yet.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        let (publish, queue) = mpsc::channel(PUBLISH);
        let (verdicts, judged) = mpsc::channel(VERDICTS);
        Self { network, publish, queue, verdicts, judged, joined: Vec::new() }
    }

    /// Joins the topic `/vos/<network>/<name>`.
    pub fn add(&mut self, name: &str) -> (Publisher, mpsc::Receiver<Received>) {
        let topic = self.network.name(name);
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.joined.push((topic.clone(), sender));
        (Publisher { topic, queue: self.publish.clone() }, receiver)
    }
}
