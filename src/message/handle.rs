//! The door to messages.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::primitives::{MessageId, PeerId, UnixMillis};

/// Where an outgoing message is. Never goes backward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendState {
    /// In our outbox, durable.
    Queued,
    /// Handed to the recipient's node; its signed receipt is not here yet.
    Sent,
    /// A Friend VOS holds it (next issue).
    Stored,
    /// The recipient's signed receipt is here.
    Delivered,
    /// Its time to live ended first.
    Expired,
    /// The recipient or its policy refused it.
    Refused,
    /// The sender took it back.
    Cancelled,
}

/// One step of an outgoing message's story.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state it reached.
    pub state: SendState,
    /// When.
    pub at: UnixMillis,
    /// Who made it so: us, the recipient, a friend.
    pub by: PeerId,
}

/// An outgoing message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Its id.
    pub id: MessageId,
    /// The recipient.
    pub to: PeerId,
    /// Where it is.
    pub state: SendState,
    /// Bytes of the body.
    pub bytes: u64,
    /// Bytes the recipient's node has so far.
    pub sent_bytes: u64,
    /// When it was queued.
    pub queued_at: UnixMillis,
    /// When it expires.
    pub expires_at: UnixMillis,
    /// Who holds it besides us.
    pub holders: Vec<PeerId>,
    /// Its story, oldest first.
    pub history: Vec<Step>,
    /// Why the last try failed, in words; empty when none failed.
    pub last_error: String,
}

/// A received message without its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its id.
    pub id: MessageId,
    /// The sender, proven by its signature.
    pub from: PeerId,
    /// When the sender says it was sent.
    pub sent_at: UnixMillis,
    /// When it was complete here.
    pub received_at: UnixMillis,
    /// Bytes of the body.
    pub bytes: u64,
    /// Whether it was read.
    pub read: bool,
    /// File name given by the sender, maybe empty. Hostile text: never used as a path.
    pub file_name: String,
}

/// What happened to messages.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message is complete in the inbox.
    Received(Received),
    /// An outgoing message changed: state or progress.
    Outgoing(Outgoing),
}

/// What to send.
#[derive(Debug)]
pub struct Draft {
    /// To whom.
    pub to: PeerId,
    /// The body.
    pub body: Body,
    /// File name for the recipient, maybe empty; at most 255 bytes.
    pub file_name: String,
    /// Time to live; `None`: the configured default.
    pub ttl: Option<Duration>,
}

/// A message's body.
#[derive(Debug)]
pub enum Body {
    /// In memory.
    Bytes(Vec<u8>),
    /// Spooled by the API into this file, which is removed afterwards.
    File(PathBuf),
}

/// Why a message could not be queued or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Over the configured limit; nothing was queued.
    #[error("message of {got} bytes, limit {limit} (message.max_bytes)")]
    TooLarge {
        /// Bytes of the body.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// The recipient is not in the map, so its key is unknown.
    #[error("{0} is not known: not in the map and not found by Kademlia")]
    UnknownRecipient(PeerId),
    /// No such message.
    #[error("no such message")]
    NotFound,
    /// The outbox or inbox is full.
    #[error("{0}")]
    Full(String),
    /// It cannot be cancelled any more.
    #[error("the message is already {0:?}")]
    TooLate(SendState),
    /// To ourselves, or a bad argument.
    #[error("{0}")]
    Invalid(String),
    /// The store failed; nothing was queued.
    #[error("{0}")]
    Store(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Counts for `vos status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Outgoing messages not yet ended.
    pub outbox_pending: u64,
    /// Messages in the inbox.
    pub inbox: u64,
    /// Unread ones.
    pub unread: u64,
}

/// Sends and reads messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {}

#[allow(unused_variables, clippy::unused_async, clippy::todo, reason = "skeleton")]
impl Handle {
    /// Seals and queues a message; when this returns it is durable and will be tried until it expires.
    ///
    /// # Errors
    /// [`MessageError`]; then nothing was queued.
    pub async fn send(&self, draft: Draft) -> Result<Outgoing, MessageError> {
        todo!()
    }
    /// Waits until the message reaches `state` or an end (delivered, expired, refused, cancelled). `None`: `timeout` passed.
    ///
    /// # Errors
    /// [`MessageError::NotFound`].
    pub async fn wait(
        &self,
        id: MessageId,
        state: SendState,
        timeout: Duration,
    ) -> Result<Option<Outgoing>, MessageError> {
        todo!()
    }
    /// Outgoing messages, newest first.
    ///
    /// # Errors
    /// The store's error.
    pub async fn outbox(&self, limit: usize) -> Result<Vec<Outgoing>, MessageError> {
        todo!()
    }
    /// One outgoing message.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn outgoing(&self, id: MessageId) -> Result<Outgoing, MessageError> {
        todo!()
    }
    /// Takes back a message that is not delivered yet.
    ///
    /// # Errors
    /// [`MessageError::TooLate`], [`MessageError::NotFound`], or the store's error.
    pub async fn cancel(&self, id: MessageId) -> Result<Outgoing, MessageError> {
        todo!()
    }
    /// Received messages, newest first.
    ///
    /// # Errors
    /// The store's error.
    pub async fn inbox(&self, limit: usize) -> Result<Vec<Received>, MessageError> {
        todo!()
    }
    /// A received message with its whole body; marks it read when `mark` is set.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn read(&self, id: MessageId, mark: bool) -> Result<(Received, Vec<u8>), MessageError> {
        todo!()
    }
    /// Removes a received message; a copy that arrives later is still known and not delivered again.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn remove(&self, id: MessageId) -> Result<(), MessageError> {
        todo!()
    }
    /// Changes from now on. A slow receiver loses the oldest (`Lagged`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        todo!()
    }
    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }
}
