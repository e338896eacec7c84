//! Protocols without a swarm, for tests: nodes join a board and ask each other through channels, at once or over lines that take time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{Client, Inbound, RequestError, Wire};
use crate::{primitives::PeerId, wire::Status};

/// What lies between the nodes of a simulation.
pub trait Lines: Send + Sync {
    /// How long this many bytes take from one node to another; `None`: they are lost.
    fn travel(&self, from: &PeerId, to: &PeerId, bytes: usize) -> Option<Duration>;
}

struct Board<W: Wire> {
    nodes: HashMap<PeerId, mpsc::Sender<Inbound<W>>>,
    offline: HashSet<PeerId>,
    lines: Option<Arc<dyn Lines>>,
}

/// A board where nodes meet.
pub struct Loopback<W: Wire>(Arc<Mutex<Board<W>>>);

impl<W: Wire> Clone for Loopback<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Wire> Default for Loopback<W> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Board { nodes: HashMap::new(), offline: HashSet::new(), lines: None })))
    }
}

impl<W: Wire> std::fmt::Debug for Loopback<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Loopback").field(&W::NAME).finish()
    }
}

impl<W: Wire> Loopback<W> {
    /// A board whose requests and answers travel over `lines`.
    #[must_use]
    pub fn over(lines: Arc<dyn Lines>) -> Self {
        let board = Self::default();
        board.0.lock().expect("no panic while held").lines = Some(lines);
        board
    }

    /// Adds a node: its client and its inbound requests.
    pub fn join(&self, node: PeerId) -> (Client<W>, mpsc::Receiver<Inbound<W>>) {
        let (sender, receiver) = mpsc::channel(W::QUEUE);
        self.0.lock().expect("no panic while held").nodes.insert(node, sender);
        (Client::over_loopback(node, self.clone()), receiver)
    }

    /// Takes a node off the board, or back on it: requests to and from it are unreachable meanwhile.
    pub fn set_online(&self, node: PeerId, online: bool) {
        let mut board = self.0.lock().expect("no panic while held");
        if online {
            board.offline.remove(&node)
        } else {
            board.offline.insert(node)
        };
    }

    /// Waits while `bytes` travel; for ever when they are lost.
    async fn travel(&self, from: &PeerId, to: &PeerId, bytes: usize) {
        let lines = self.0.lock().expect("no panic while held").lines.clone();
        let Some(lines) = lines else { return };
        match lines.travel(from, to, bytes) {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn request(
        &self,
        from: PeerId,
        to: PeerId,
        request: W::Request,
    ) -> Result<W::Response, RequestError> {
        let exchange = tokio::time::timeout(W::TIMEOUT, self.exchange(from, to, request));
        exchange.await.unwrap_or(Err(RequestError::Timeout))
    }

    async fn exchange(&self, from: PeerId, to: PeerId, request: W::Request) -> Result<W::Response, RequestError> {
        let away = || RequestError::Unreachable("not on the board".into());
        self.travel(&from, &to, request.encoded_len()).await;
        let sender = {
            let board = self.0.lock().expect("no panic while held");
            if board.offline.contains(&from) || board.offline.contains(&to) {
                return Err(away());
            }
            board.nodes.get(&to).cloned().ok_or_else(away)?
        };
        let (reply, answer) = oneshot::channel();
        sender.try_send(Inbound { peer: from, request, reply }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => RequestError::Status(Status::Busy),
            mpsc::error::TrySendError::Closed(_) => away(),
        })?;
        let (status, pieces) = answer.await.unwrap_or((Status::Busy, Vec::new()));
        self.travel(&to, &from, pieces.iter().map(bytes::Bytes::len).sum()).await;
        match status {
            Status::Ok => W::Response::decode(&*pieces.concat()).map_err(|_| RequestError::Malformed),
            status => Err(RequestError::Status(status)),
        }
    }
}
