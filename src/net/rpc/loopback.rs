//! Protocols without a swarm, for tests: nodes join a board and ask each other through channels.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{Client, Inbound, RequestError, Wire};
use crate::{primitives::PeerId, wire::Status};

struct Board<W: Wire> {
    nodes: HashMap<PeerId, mpsc::Sender<Inbound<W>>>,
    offline: HashSet<PeerId>,
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
        Self(Arc::new(Mutex::new(Board { nodes: HashMap::new(), offline: HashSet::new() })))
    }
}

impl<W: Wire> std::fmt::Debug for Loopback<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Loopback").field(&W::NAME).finish()
    }
}

impl<W: Wire> Loopback<W> {
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

    pub(super) async fn request(
        &self,
        from: PeerId,
        to: PeerId,
        request: W::Request,
    ) -> Result<W::Response, RequestError> {
        let away = || RequestError::Unreachable("not on the board".into());
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
        match tokio::time::timeout(W::TIMEOUT, answer).await {
            Err(_) => Err(RequestError::Timeout),
            Ok(Err(_)) => Err(RequestError::Status(Status::Busy)),
            Ok(Ok((Status::Ok, pieces))) => W::Response::decode(&*pieces.concat()).map_err(|_| RequestError::Malformed),
            Ok(Ok((status, _))) => Err(RequestError::Status(status)),
        }
    }
}
