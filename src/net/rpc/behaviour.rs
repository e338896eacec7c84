//! The swarm's part: knows the connections of every peer, chooses direct ones first, dials when there is none.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, ToSwarm,
        dial_opts::DialOpts,
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Opened, Pool},
    handler::{Handler, InboundStream, OpenStream, Reply},
    server::Accepted,
};
use crate::primitives::{PeerId, StreamProtocol};

/// Opens waiting for one peer to be dialled.
const WAITING_PER_PEER: usize = 256;
/// Peers being dialled because of an open.
const DIALING: usize = 256;
/// How often idle streams are looked over.
const SWEEP: Duration = Duration::from_secs(10);

/// Why a stream could not be opened.
#[derive(Debug)]
pub(in crate::net) enum OpenError {
    Busy,
    Dial(String),
    Unsupported,
    Io,
}

/// Asks for a new stream.
#[derive(Debug)]
pub(in crate::net) struct Open {
    pub(super) peer: PeerId,
    pub(super) name: StreamProtocol,
    /// Whether to dial when there is no connection.
    pub(super) dial: bool,
    pub(super) reply: Reply,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("relayed", &self.relayed).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    relayed: bool,
    closed: CancellationToken,
}

/// See the module doc of [`super`].
pub(in crate::net) struct Behaviour {
    names: Arc<[StreamProtocol]>,
    opens: mpsc::Receiver<Open>,
    accepted: mpsc::Sender<Accepted>,
    pools: Vec<Arc<Pool>>,
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Tokens handed to handlers whose connection is not reported as established yet.
    fresh: HashMap<ConnectionId, CancellationToken>,
    dialing: HashMap<PeerId, Vec<Open>>,
    actions: VecDeque<ToSwarm<Infallible, OpenStream>>,
    sweep: tokio::time::Interval,
}

impl Behaviour {
    pub(super) fn new(
        names: Vec<StreamProtocol>,
        opens: mpsc::Receiver<Open>,
        accepted: mpsc::Sender<Accepted>,
        pools: Vec<Arc<Pool>>,
    ) -> Self {
        Self {
            names: names.into(),
            opens,
            accepted,
            pools,
            connections: HashMap::new(),
            fresh: HashMap::new(),
            dialing: HashMap::new(),
            actions: VecDeque::new(),
            sweep: tokio::time::interval(SWEEP),
        }
    }

    fn handler(&mut self, id: ConnectionId, relayed: bool) -> Handler {
        let closed = CancellationToken::new();
        self.fresh.insert(id, closed.clone());
        Handler::new(self.names.clone(), closed, relayed)
    }

    fn route(&mut self, open: Open) {
        let Open { peer, name, dial, reply } = open;
        let best = self.connections.get(&peer).and_then(|all| all.iter().min_by_key(|c| c.relayed));
        if let Some(connection) = best {
            self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(connection.id),
                event: OpenStream { name, reply },
            });
            return;
        }
        if !dial {
            let _ = reply.send(Err(OpenError::Io));
            return;
        }
        let full = self.dialing.len() >= DIALING && !self.dialing.contains_key(&peer);
        let waiting = self.dialing.get(&peer).map_or(0, Vec::len);
        if full || waiting >= WAITING_PER_PEER {
            let _ = reply.send(Err(OpenError::Busy));
            return;
        }
        self.dialing.entry(peer).or_default().push(Open { peer, name, dial, reply });
        if waiting == 0 {
            self.actions.push_back(ToSwarm::Dial { opts: DialOpts::peer_id(peer).build() });
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        // On the receiving side of a circuit only the local addr shows it.
        Ok(self.handler(id, super::super::is_relayed(local)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(id, super::super::is_relayed(addr)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(c) => {
                let relayed = c.endpoint.is_relayed();
                let closed = self.fresh.remove(&c.connection_id).unwrap_or_default();
                let connection = Connection { id: c.connection_id, relayed, closed };
                self.connections.entry(c.peer_id).or_default().push(connection);
                if !relayed {
                    self.pools.iter().for_each(|p| p.prefer_direct(&c.peer_id));
                }
                for open in self.dialing.remove(&c.peer_id).unwrap_or_default() {
                    self.route(open);
                }
            }
            FromSwarm::ConnectionClosed(c) => {
                if let Some(all) = self.connections.get_mut(&c.peer_id) {
                    all.retain(|known| {
                        let gone = known.id == c.connection_id;
                        if gone {
                            known.closed.cancel();
                        }
                        !gone
                    });
                    if all.is_empty() {
                        self.connections.remove(&c.peer_id);
                    }
                }
            }
            // A refused condition only means that somebody else is dialling the same peer.
            FromSwarm::DialFailure(d) if !matches!(d.error, DialError::DialPeerConditionFalse(_)) => {
                self.fresh.remove(&d.connection_id);
                for open in d.peer_id.and_then(|p| self.dialing.remove(&p)).unwrap_or_default() {
                    let _ = open.reply.send(Err(OpenError::Dial(super::super::dial_error_text(d.error))));
                }
            }
            FromSwarm::ListenFailure(l) => {
                self.fresh.remove(&l.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, inbound: InboundStream) {
        let InboundStream { name, mut stream } = inbound;
        stream.ignore_for_keep_alive();
        // Full: the drop resets the stream, which the opener sees as a lost connection and retries.
        if self.accepted.try_send(Accepted { peer, name, stream }).is_err() {
            tracing::debug!(%peer, "too many inbound streams waiting, one dropped");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, OpenStream>> {
        while self.sweep.poll_tick(cx).is_ready() {
            self.pools.iter().for_each(|p| p.sweep());
            self.dialing.retain(|_, opens| {
                opens.retain(|o| !o.reply.is_closed());
                !opens.is_empty()
            });
        }
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.opens.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.route(open),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
