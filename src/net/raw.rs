//! For tests: a peer that speaks gossip by hand, frame by frame, as nobody should. It may speak requests as well.

use std::{
    convert::Infallible,
    io, iter,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future::BoxFuture};
use libp2p::{
    Stream, SwarmBuilder,
    core::{Endpoint, OutboundUpgrade, UpgradeInfo, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, OneShotHandler, SubstreamProtocol,
        ToSwarm,
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    rpc::{self, Protocols},
    transport,
};
use crate::{
    identity::Identity,
    primitives::{Multiaddr, NetworkId, PeerId, StreamProtocol},
    runtime::Stop,
};

/// The oldest version that knows IDONTWANT.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/meshsub/1.2.0");
/// For anything that a peer does at once.
const DEADLINE: Duration = Duration::from_secs(30);

/// Frames of gossip, each with its length in front.
pub(crate) mod frame {
    fn varint(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
    }

    fn framed(bytes: &[u8]) -> Vec<u8> {
        [&varint(bytes.len()), bytes].concat()
    }

    fn control(number: u8, action: &[u8]) -> Vec<u8> {
        framed(&field(3, &field(number, action)))
    }

    pub(crate) fn subscribe(topic: &str) -> Vec<u8> {
        framed(&field(1, &[&[0x08, 1], &field(2, topic.as_bytes())[..]].concat()))
    }

    pub(crate) fn publish(topic: &str, data: &[u8]) -> Vec<u8> {
        framed(&field(2, &[field(2, data), field(4, topic.as_bytes())].concat()))
    }

    pub(crate) fn ihave(topic: &str, id: &[u8]) -> Vec<u8> {
        control(1, &[field(1, topic.as_bytes()), field(2, id)].concat())
    }

    pub(crate) fn graft(topic: &str) -> Vec<u8> {
        control(3, &field(1, topic.as_bytes()))
    }

    pub(crate) fn idontwant(id: &[u8]) -> Vec<u8> {
        control(5, &field(1, id))
    }

    /// The start of a frame of so many bytes.
    pub(crate) fn claiming(length: usize) -> Vec<u8> {
        [varint(length), vec![0; 64]].concat()
    }

    pub(crate) fn prune(topic: &str) -> Vec<u8> {
        control(4, &field(1, topic.as_bytes()))
    }
}

/// A stream of gossip.
#[derive(Debug)]
pub(crate) struct Link(Stream);

impl Link {
    pub(crate) async fn send(&mut self, frame: &[u8]) {
        let all = async {
            self.0.write_all(frame).await.unwrap();
            self.0.flush().await.unwrap();
        };
        tokio::time::timeout(DEADLINE, all).await.expect("sent in time");
    }

    /// Sends as much of it as the other side takes.
    pub(crate) async fn offer(&mut self, frame: &[u8]) {
        let all = async {
            // It is refused in the middle, or behind its first bytes.
            let _ = self.0.write_all(frame).await;
            let _ = self.0.flush().await;
        };
        // Or nobody reads it any more.
        let _ = tokio::time::timeout(Duration::from_millis(200), all).await;
    }

    /// The next frame without its length.
    pub(crate) async fn receive(&mut self) -> Vec<u8> {
        let all = async {
            let (mut length, mut shift) = (0, 0);
            loop {
                let mut byte = [0];
                self.0.read_exact(&mut byte).await.unwrap();
                length |= usize::from(byte[0] & 0x7f) << shift;
                shift += 7;
                if byte[0] < 0x80 {
                    break;
                }
            }
            let mut frame = vec![0; length];
            self.0.read_exact(&mut frame).await.unwrap();
            frame
        };
        tokio::time::timeout(DEADLINE, all).await.expect("a frame in time")
    }

    /// The next frame that these bytes are in.
    pub(crate) async fn receive_with(&mut self, bytes: &[u8]) -> Vec<u8> {
        let all = async {
            loop {
                let frame = self.receive().await;
                if frame.windows(bytes.len()).any(|w| w == bytes) {
                    return frame;
                }
            }
        };
        tokio::time::timeout(DEADLINE, all).await.expect("the frame in time")
    }
}

/// The peer. Its tasks end with it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) id: PeerId,
    open: mpsc::Sender<Vec<u8>>,
    opened: mpsc::Receiver<Option<Link>>,
    accepted: mpsc::Receiver<Link>,
    _tasks: JoinSet<()>,
}

impl Raw {
    /// Dials `to`, once; `wire` adds what it speaks besides gossip.
    pub(crate) fn dial<T>(to: &Multiaddr, wire: impl FnOnce(&mut Protocols) -> T) -> (Self, T) {
        let identity = Identity::generate();
        let mut protocols = Protocols::new(NetworkId::default());
        let wired = wire(&mut protocols);
        let (rpc, server) = protocols.build();
        let ((open, opens), (opened_by, opened), (accepted_by, accepted)) =
            (mpsc::channel(16), mpsc::channel(16), mpsc::channel(16));
        let gossip = Gossip { peer: None, opens, opened: opened_by, accepted: accepted_by };
        let mut swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
            .with_tokio()
            .with_other_transport(|keypair| transport::build(keypair, None).unwrap())
            .unwrap()
            .with_behaviour(|_| Behaviour { gossip, rpc })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        swarm.dial(to.clone()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        tasks.spawn(async move { server.run(Stop::new()).await.unwrap() });
        (Self { id: identity.address(), open, opened, accepted, _tasks: tasks }, wired)
    }

    /// Opens a stream and sends these frames on it. `None`: it was refused.
    pub(crate) async fn open(&mut self, frames: Vec<u8>) -> Option<Link> {
        self.open.send(frames).await.unwrap();
        tokio::time::timeout(DEADLINE, self.opened.recv()).await.expect("opened in time").unwrap()
    }

    /// The next stream that the other side opens.
    pub(crate) async fn accept(&mut self) -> Link {
        tokio::time::timeout(DEADLINE, self.accepted.recv()).await.expect("a stream in time").unwrap()
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: Gossip,
    rpc: rpc::Behaviour,
}

struct Gossip {
    peer: Option<PeerId>,
    opens: mpsc::Receiver<Vec<u8>>,
    opened: mpsc::Sender<Option<Link>>,
    accepted: mpsc::Sender<Link>,
}

/// Opens a stream, with what goes first on it.
#[derive(Debug)]
pub(crate) struct Open(Vec<u8>);

#[derive(Debug)]
pub(crate) enum Event {
    Accepted(Link),
    Opened(Link),
}

impl From<Stream> for Event {
    fn from(stream: Stream) -> Self {
        Self::Accepted(Link(stream))
    }
}

impl From<Link> for Event {
    fn from(link: Link) -> Self {
        Self::Opened(link)
    }
}

impl UpgradeInfo for Open {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl OutboundUpgrade<Stream> for Open {
    type Output = Link;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Link, io::Error>>;

    fn upgrade_outbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        Box::pin(async move {
            stream.write_all(&self.0).await?;
            stream.flush().await?;
            Ok(Link(stream))
        })
    }
}

type Handler = OneShotHandler<ReadyUpgrade<StreamProtocol>, Open, Event>;

impl Gossip {
    fn handler() -> Handler {
        OneShotHandler::new(SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()), Default::default())
    }
}

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Self::handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Self::handler())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionEstablished(established) = event {
            self.peer = Some(established.peer_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: libp2p::swarm::THandlerOutEvent<Self>,
    ) {
        let heard = match event {
            Ok(Event::Accepted(link)) => self.accepted.try_send(link).is_ok(),
            Ok(Event::Opened(link)) => self.opened.try_send(Some(link)).is_ok(),
            Err(_) => self.opened.try_send(None).is_ok(),
        };
        assert!(heard, "a test takes its streams, or is over");
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Open>> {
        let Some(peer_id) = self.peer else { return Poll::Pending };
        match self.opens.poll_recv(cx) {
            Poll::Ready(Some(frames)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event: Open(frames) })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
