//! The door to messages.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    contacts::Contacts,
    desk,
    envelope::{MAX_FILE_NAME, parts_of},
    inbox::MAX_TTL,
    intake::{Job, Place, store_error},
    mailbox,
    recipients::choose,
    sender,
    shared::Shared,
};
use crate::{
    identity::KeyId,
    map::MapError,
    primitives::{MessageId, PeerId, UnixMillis},
    store::StoreError,
};

/// Where an outgoing message is. Never goes backward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendState {
    /// In our outbox, durable.
    Queued,
    /// Handed to the recipient's node; its signed receipt is not here yet.
    Sent,
    /// A Friend VOS holds all of it, and signed for that.
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
    /// Friends of the recipient that did not take it, and why, in words.
    pub refused: Vec<(PeerId, String)>,
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
    /// Messages of its sender that were missing right before it when it was shown: they had not come in time, or never will.
    pub missing: u64,
    /// Whether it came after later ones of its sender were shown.
    pub late: bool,
}

/// What happened to messages. Boxed, since a queue for subscribers has memory for a thousand of them from the start.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message is complete in the inbox.
    Received(Box<Received>),
    /// An outgoing message changed: state or progress.
    Outgoing(Box<Outgoing>),
    /// A friend of ours did not keep what it signed for.
    BrokenPromise(Box<mailbox::evidence::BrokenPromise>),
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
    /// No space left on the disk; nothing was queued.
    #[error("{0}")]
    DiskFull(String),
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
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    /// Drafts of one part.
    pub(super) small: mpsc::Sender<Job>,
    /// Drafts of several parts.
    pub(super) large: mpsc::Sender<Job>,
    pub(super) sender: mpsc::Sender<sender::Command>,
    pub(super) desk: mpsc::Sender<desk::Command>,
    pub(super) mailbox: mailbox::Handle,
}

impl Handle {
    /// Mailboxes: what we hold for others, and what others hold for us.
    #[must_use]
    pub fn mailbox(&self) -> &mailbox::Handle {
        &self.mailbox
    }

    /// Who may leave messages with our friends.
    #[must_use]
    pub fn contacts(&self) -> &Contacts {
        &self.shared.contacts
    }

    /// Seals and queues a message; when this returns it is durable and will be tried until it expires. A spool file is removed
    /// in any case. Dropping the future may leave the message queued or not.
    ///
    /// # Errors
    /// [`MessageError`]; then nothing was queued.
    pub async fn send(&self, mut draft: Draft) -> Result<Outgoing, MessageError> {
        let spool = Spool(match &draft.body {
            Body::File(path) => Some(path.clone()),
            Body::Bytes(_) => None,
        });
        let shared = &self.shared;
        let bytes = match &draft.body {
            Body::Bytes(bytes) => bytes.len() as u64, // usize fits in u64
            Body::File(path) => {
                let meta = tokio::fs::metadata(path).await;
                meta.map_err(|e| MessageError::Invalid(format!("the body cannot be read: {e}")))?.len()
            }
        };
        let expires_at = self.check(&draft, bytes)?;
        let place = Place::take(shared, bytes)?;
        let keys = shared.recipients.keys(draft.to).await.map_err(|error| match error {
            MapError::NotFound | MapError::InvalidName(_) => MessageError::UnknownRecipient(draft.to),
            MapError::Store(error) => store_error(&error),
            MapError::Stopped => MessageError::Stopped,
        })?;
        let key = choose(&keys, shared.now())
            .ok_or_else(|| MessageError::Invalid(format!("{} publishes no encryption key yet", draft.to)))?;
        let (reply, answer) = oneshot::channel();
        let file_name = std::mem::take(&mut draft.file_name);
        // From here on the job removes the spool file.
        spool.hand_over();
        let job = Job { to: draft.to, key, body: draft.body, bytes, file_name, expires_at, place, reply };
        let intake = if parts_of(bytes) == 1 { &self.small } else { &self.large };
        intake.send(job).await.map_err(|_| MessageError::Stopped)?;
        let queued = answer.await.map_err(|_| MessageError::Stopped)??;
        self.shared.contacts.written_to(queued.to).await;
        Ok(queued)
    }

    /// When the message expires.
    fn check(&self, draft: &Draft, bytes: u64) -> Result<UnixMillis, MessageError> {
        let config = &self.shared.config;
        if bytes > config.max_bytes {
            return Err(MessageError::TooLarge { got: bytes, limit: config.max_bytes });
        }
        if draft.to == self.shared.local {
            return Err(MessageError::Invalid("a message to this node itself cannot be sent".into()));
        }
        if draft.file_name.len() > MAX_FILE_NAME {
            return Err(MessageError::Invalid(format!("the file name is longer than {MAX_FILE_NAME} bytes")));
        }
        let ttl = draft.ttl.unwrap_or(Duration::from_secs(config.ttl_s));
        if ttl.is_zero() || ttl > MAX_TTL {
            return Err(MessageError::Invalid("the time to live must be more than 0 and at most 30 days".into()));
        }
        Ok(self.shared.now().plus(ttl))
    }

    /// Waits until the message reaches `state` or an end (delivered, expired, refused, cancelled). `None`: `timeout` passed.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], [`MessageError::Stopped`], or the store's error.
    pub async fn wait(
        &self,
        id: MessageId,
        state: SendState,
        timeout: Duration,
    ) -> Result<Option<Outgoing>, MessageError> {
        let wait = self.ask(|reply| sender::Command::Wait(id, state, reply));
        tokio::time::timeout(timeout, wait).await.map_or(Ok(None), |result| result.map(Some))
    }

    /// Outgoing messages, newest first.
    ///
    /// # Errors
    /// The store's error.
    pub async fn outbox(&self, limit: usize) -> Result<Vec<Outgoing>, MessageError> {
        let tables = self.shared.tables.clone();
        let views = blocking(move || tables.outbox(limit)).await?;
        self.ask(|reply| sender::Command::Refresh(views, reply)).await
    }

    /// One outgoing message.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn outgoing(&self, id: MessageId) -> Result<Outgoing, MessageError> {
        self.ask(|reply| sender::Command::Get(id, reply)).await
    }

    /// Takes back a message that is not delivered yet; durable when this returns. What is on its way just now may still arrive.
    ///
    /// # Errors
    /// [`MessageError::TooLate`], [`MessageError::NotFound`], or the store's error.
    pub async fn cancel(&self, id: MessageId) -> Result<Outgoing, MessageError> {
        self.ask(|reply| sender::Command::Cancel(id, reply)).await
    }

    /// Received messages, newest first.
    ///
    /// # Errors
    /// The store's error.
    pub async fn inbox(&self, limit: usize) -> Result<Vec<Received>, MessageError> {
        let tables = self.shared.tables.clone();
        blocking(move || tables.inbox(limit)).await
    }

    /// A received message with its whole body; marks it read when `mark` is set.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn read(&self, id: MessageId, mark: bool) -> Result<(Received, Vec<u8>), MessageError> {
        let tables = self.shared.tables.clone();
        let read = move || -> Result<_, StoreError> {
            let Some((_, message)) = tables.received(&id)? else { return Ok(None) };
            let mut body = Vec::with_capacity(usize::try_from(message.received.bytes).unwrap_or(0));
            for index in 0..message.parts {
                let missing = || StoreError::Failed(format!("the body of message {id} is damaged"));
                match tables.in_part(message.slot, index, message.parts)? {
                    Some(part) => body.extend_from_slice(&part),
                    // Removed by another call just now, or damaged.
                    None if tables.received(&id)?.is_none() => return Ok(None),
                    None => return Err(missing()),
                }
            }
            Ok(Some((message.received, body)))
        };
        let (mut received, body) = blocking(read).await?.ok_or(MessageError::NotFound)?;
        if mark && !received.read {
            let (reply, answer) = oneshot::channel();
            self.desk.send(desk::Command::MarkRead(id, reply)).await.map_err(|_| MessageError::Stopped)?;
            match answer.await.map_err(|_| MessageError::Stopped)? {
                Ok(marked) => received = marked,
                // Reading needs no room; it is marked when it is read the next time.
                Err(MessageError::DiskFull(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((received, body))
    }

    /// Removes a received message; a copy that arrives later is still known and not delivered again.
    ///
    /// # Errors
    /// [`MessageError::NotFound`], or the store's error.
    pub async fn remove(&self, id: MessageId) -> Result<(), MessageError> {
        let (reply, answer) = oneshot::channel();
        self.desk.send(desk::Command::Remove(id, reply)).await.map_err(|_| MessageError::Stopped)?;
        answer.await.map_err(|_| MessageError::Stopped)?
    }

    /// Changes from now on. A slow receiver loses the oldest (`Lagged`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counts.stats()
    }

    /// The id of our newest encryption key; `None` in the first moments of a new node.
    #[must_use]
    pub fn encryption_key_id(&self) -> Option<KeyId> {
        self.shared.keys.current()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, MessageError>>) -> sender::Command,
    ) -> Result<T, MessageError> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(command(reply)).await.map_err(|_| MessageError::Stopped)?;
        answer.await.map_err(|_| MessageError::Stopped)?
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, MessageError> {
    let result = tokio::task::spawn_blocking(read).await.map_err(|_| MessageError::Stopped)?;
    result.map_err(|e| store_error(&e))
}

/// Removes the spool file of a draft that is refused before it becomes a job.
struct Spool(Option<PathBuf>);

impl Spool {
    fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove a spooled body");
        }
    }
}
