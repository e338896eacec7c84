//! Kademlia as the features see it: records under their owner's key, and providers of a name.
//!
//! The record store holds only what the feature's [`Policy`] accepts, of two values for a key the one that ranks higher,
//! never more than its cap, and lives in RocksDB. Nothing Kademlia returns is trusted: what a query finds is judged by the
//! same policy as it comes, and the client hands out the best.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::primitives::{PeerId, UnixMillis};

mod store;
pub(super) use store::RecordStore;

/// Queries waiting for the swarm task.
const QUERIES: usize = 128;
/// For one query: a lookup touches some 20 peers, of which the dead take up to 10 s each, three at a time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A value's standing under its key, as the policy found it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    /// The author's sequence number.
    pub seq: u64,
    /// Decides between equal sequence numbers, the same way everywhere.
    pub tie: [u8; 32],
    /// When the value ends.
    pub expires_at: UnixMillis,
}

/// Which records are stored: the owner's signature, the key, size, times. Called on the swarm task, so it must be fast
/// (a signature check, some 50 us, is the budget).
pub trait Policy: Send + Sync + std::fmt::Debug + 'static {
    /// The rank of `value` under `key`, or `None` when it must not be stored.
    fn rank(&self, key: &[u8], value: &[u8]) -> Option<Rank>;
}

/// Why a query failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DhtError {
    /// No peer to ask, or nobody stored it.
    #[error("no peer answered the query")]
    NoPeers,
    /// No end in time.
    #[error("no answer in time")]
    Timeout,
    /// Too many queries are waiting.
    #[error("too many queries")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, DhtError>>;

#[derive(Debug)]
pub(super) enum Query {
    Put { key: Vec<u8>, value: Vec<u8>, expires_at: UnixMillis, answer: Answer<()> },
    Get { key: Vec<u8>, answer: Answer<Vec<Vec<u8>>> },
    Provide { key: Vec<u8>, answer: Answer<()> },
    Unprovide { key: Vec<u8>, answer: Answer<()> },
    Providers { key: Vec<u8>, answer: Answer<Vec<PeerId>> },
}

/// Asks Kademlia. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    queries: mpsc::Sender<Query>,
}

impl Client {
    /// A client and the queue the swarm task reads.
    pub(super) fn new() -> (Self, mpsc::Receiver<Query>) {
        let (queries, queue) = mpsc::channel(QUERIES);
        (Self { queries }, queue)
    }

    /// Stores a value at the peers closest to its key, and here.
    ///
    /// # Errors
    /// [`DhtError::NoPeers`] when nobody but us stored it.
    pub async fn put(&self, key: Vec<u8>, value: Vec<u8>, expires_at: UnixMillis) -> Result<(), DhtError> {
        self.ask(|answer| Query::Put { key, value, expires_at, answer }).await
    }

    /// The values found under a key that the policy accepts, best first, at most 4.
    ///
    /// # Errors
    /// [`DhtError`]; an empty list is not an error.
    pub async fn get(&self, key: Vec<u8>) -> Result<Vec<Vec<u8>>, DhtError> {
        self.ask(|answer| Query::Get { key, answer }).await
    }

    /// Announces us as a provider of a key.
    ///
    /// # Errors
    /// [`DhtError`].
    pub async fn provide(&self, key: Vec<u8>) -> Result<(), DhtError> {
        self.ask(|answer| Query::Provide { key, answer }).await
    }

    /// Stops announcing; what others hold ends by itself.
    ///
    /// # Errors
    /// [`DhtError`].
    pub async fn unprovide(&self, key: Vec<u8>) -> Result<(), DhtError> {
        self.ask(|answer| Query::Unprovide { key, answer }).await
    }

    /// Who says it provides a key, at most 100.
    ///
    /// # Errors
    /// [`DhtError`]; an empty list is not an error.
    pub async fn providers(&self, key: Vec<u8>) -> Result<Vec<PeerId>, DhtError> {
        self.ask(|answer| Query::Providers { key, answer }).await
    }

    async fn ask<T>(&self, query: impl FnOnce(Answer<T>) -> Query) -> Result<T, DhtError> {
        let (answer, result) = oneshot::channel();
        self.queries.try_send(query(answer)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => DhtError::Busy,
            mpsc::error::TrySendError::Closed(_) => DhtError::Stopped,
        })?;
        match tokio::time::timeout(TIMEOUT, result).await {
            Err(_) => Err(DhtError::Timeout),
            Ok(Err(_)) => Err(DhtError::Stopped),
            Ok(Ok(result)) => result,
        }
    }

    /// For tests: a client whose queries find nothing and whose puts go nowhere.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached() -> Self {
        let (client, mut queue) = Self::new();
        #[allow(clippy::disallowed_methods, reason = "ends with its client")]
        tokio::spawn(async move {
            while let Some(query) = queue.recv().await {
                let _ = match query {
                    Query::Put { answer, .. } | Query::Provide { answer, .. } | Query::Unprovide { answer, .. } => {
                        answer.send(Err(DhtError::NoPeers)).is_ok()
                    }
                    Query::Get { answer, .. } => answer.send(Ok(Vec::new())).is_ok(),
                    Query::Providers { answer, .. } => answer.send(Ok(Vec::new())).is_ok(),
                };
            }
        });
        client
    }
}

/// A policy that stores nothing, for nodes without a map.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Policy for Nothing {
    fn rank(&self, _: &[u8], _: &[u8]) -> Option<Rank> {
        None
    }
}

/// A shared policy.
pub type SharedPolicy = Arc<dyn Policy>;

/// For tests: a Kademlia of one process. Clients made from it share values and providers; nothing is judged.
#[cfg(any(test, feature = "test-util"))]
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<std::sync::Mutex<Shelves>>);

#[cfg(any(test, feature = "test-util"))]
#[derive(Debug, Default)]
struct Shelves {
    values: std::collections::HashMap<Vec<u8>, Vec<Vec<u8>>>,
    providers: std::collections::HashMap<Vec<u8>, Vec<PeerId>>,
}

#[cfg(any(test, feature = "test-util"))]
impl Board {
    /// The client of `node`.
    #[must_use]
    pub fn join(&self, node: PeerId) -> Client {
        let (client, mut queue) = Client::new();
        let board = self.0.clone();
        #[allow(clippy::disallowed_methods, reason = "ends with its client")]
        tokio::spawn(async move {
            while let Some(query) = queue.recv().await {
                let mut shelves = board.lock().expect("no panic while held");
                let _ = match query {
                    Query::Put { key, value, answer, .. } => {
                        shelves.values.entry(key).or_default().push(value);
                        answer.send(Ok(())).is_ok()
                    }
                    Query::Get { key, answer } => {
                        answer.send(Ok(shelves.values.get(&key).cloned().unwrap_or_default())).is_ok()
                    }
                    Query::Provide { key, answer } => {
                        shelves.providers.entry(key).or_default().push(node);
                        answer.send(Ok(())).is_ok()
                    }
                    Query::Unprovide { key, answer } => {
                        shelves.providers.entry(key).or_default().retain(|p| *p != node);
                        answer.send(Ok(())).is_ok()
                    }
                    Query::Providers { key, answer } => {
                        answer.send(Ok(shelves.providers.get(&key).cloned().unwrap_or_default())).is_ok()
                    }
                };
            }
        });
        client
    }
}

#[cfg(test)]
mod tests;
