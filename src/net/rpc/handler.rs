//! One connection's part: negotiates streams of all protocols, hands them over, and nothing else. No byte of a
//! request passes here.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p::{
    core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
        handler::ConnectionEvent,
    },
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{behaviour::OpenError, client::Opened};
use crate::primitives::StreamProtocol;

/// For negotiating one stream on an established connection.
const NEGOTIATE: Duration = Duration::from_secs(10);
/// Streams waiting in one direction on one connection.
const WAITING: usize = 256;

pub(super) type Reply = oneshot::Sender<Result<Opened, OpenError>>;

/// From the behaviour: open a stream.
#[derive(Debug)]
pub(in crate::net) struct OpenStream {
    pub(super) name: StreamProtocol,
    pub(super) reply: Reply,
}

/// To the behaviour: a peer opened a stream.
#[derive(Debug)]
pub(in crate::net) struct InboundStream {
    pub(super) name: StreamProtocol,
    pub(super) stream: Stream,
}

/// Accepts any of our protocols and says which one was chosen.
#[derive(Clone, Debug)]
pub(in crate::net) struct AnyOf(pub(super) Arc<[StreamProtocol]>);

impl UpgradeInfo for AnyOf {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = InboundStream;
    type Error = Infallible;
    type Future = Ready<Result<InboundStream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok(InboundStream { name, stream }))
    }
}

pub(in crate::net) struct Handler {
    names: Arc<[StreamProtocol]>,
    closed: CancellationToken,
    relayed: bool,
    opens: VecDeque<OpenStream>,
    inbound: VecDeque<InboundStream>,
    waker: Option<Waker>,
}

impl Handler {
    pub(super) fn new(names: Arc<[StreamProtocol]>, closed: CancellationToken, relayed: bool) -> Self {
        Self { names, closed, relayed, opens: VecDeque::new(), inbound: VecDeque::new(), waker: None }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenStream;
    type ToBehaviour = InboundStream;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyOf> {
        SubstreamProtocol::new(AnyOf(self.names.clone()), ()).with_timeout(NEGOTIATE)
    }

    fn on_behaviour_event(&mut self, open: OpenStream) {
        if self.opens.len() < WAITING {
            self.opens.push_back(open);
        } else {
            let _ = open.reply.send(Err(OpenError::Busy));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<AnyOf, ReadyUpgrade<StreamProtocol>, (), Reply>) {
        match event {
            // Beyond the cap the stream is dropped, which resets it for the opener.
            ConnectionEvent::FullyNegotiatedInbound(e) if self.inbound.len() < WAITING => {
                self.inbound.push_back(e.protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(e) => {
                let mut stream = e.protocol;
                // An idle stream must not keep a connection that nobody uses.
                stream.ignore_for_keep_alive();
                let opened = Opened { stream, closed: self.closed.clone(), relayed: self.relayed };
                let _ = e.info.send(Ok(opened));
            }
            ConnectionEvent::DialUpgradeError(e) => {
                let error = match e.error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    _ => OpenError::Io,
                };
                let _ = e.info.send(Err(error));
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Reply, InboundStream>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        while let Some(open) = self.opens.pop_front() {
            if open.reply.is_closed() {
                continue; // the caller timed out or went away
            }
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(open.name), open.reply).with_timeout(NEGOTIATE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
