//! Connections that cost less while nothing happens on them. Two things that libp2p does not let one choose are a third of what a
//! connection holds; both are changed from outside, by wrapping a behaviour in [`With`] another handler.
//!
//! * The task of a connection keeps its handler inside, three times over, since a future has a place for each binding that lives
//!   across an await (rust-lang issue 62958). All our handlers together are some 8 KiB; [`Boxed`] is a pointer.
//! * Each of gossipsub's two streams has a buffer of 8 KiB for reading and one for writing from the start, and uses one of the two.
//!   [`Trimmed`] replaces them by empty ones, which grow with what is really sent.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use asynchronous_codec::{Decoder, Encoder, Framed};
use bytes::BytesMut;
use futures::{AsyncRead, AsyncWrite, future::Either};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

/// A handler around another one.
pub(in crate::net) trait Around<H> {
    fn around(handler: H) -> Self;
}

/// A behaviour whose handlers are wrapped in `H`.
pub(in crate::net) struct With<H, B> {
    behaviour: B,
    handler: PhantomData<fn() -> H>,
}

impl<H, B> With<H, B> {
    pub(in crate::net) fn new(behaviour: B) -> Self {
        Self { behaviour, handler: PhantomData }
    }
}

impl<H, B> Deref for With<H, B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.behaviour
    }
}

impl<H, B> DerefMut for With<H, B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.behaviour
    }
}

impl<H, B> NetworkBehaviour for With<H, B>
where
    B: NetworkBehaviour,
    H: Around<THandler<B>> + ConnectionHandler<FromBehaviour = THandlerInEvent<B>, ToBehaviour = THandlerOutEvent<B>>,
{
    type ConnectionHandler = H;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.behaviour.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<H, ConnectionDenied> {
        self.behaviour.handle_established_inbound_connection(id, peer, local, remote).map(H::around)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.behaviour.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<H, ConnectionDenied> {
        self.behaviour.handle_established_outbound_connection(id, peer, addr, role, port).map(H::around)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.behaviour.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.behaviour.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.behaviour.poll(cx)
    }
}

type ProtocolOf<H> =
    SubstreamProtocol<<H as ConnectionHandler>::InboundProtocol, <H as ConnectionHandler>::InboundOpenInfo>;
type ActionOf<H> = ConnectionHandlerEvent<
    <H as ConnectionHandler>::OutboundProtocol,
    <H as ConnectionHandler>::OutboundOpenInfo,
    <H as ConnectionHandler>::ToBehaviour,
>;
type EventOf<'a, H> = ConnectionEvent<
    'a,
    <H as ConnectionHandler>::InboundProtocol,
    <H as ConnectionHandler>::OutboundProtocol,
    <H as ConnectionHandler>::InboundOpenInfo,
    <H as ConnectionHandler>::OutboundOpenInfo,
>;

/// A handler on the heap.
pub(in crate::net) struct Boxed<H>(Box<H>);

impl<H> Around<H> for Boxed<H> {
    fn around(handler: H) -> Self {
        Self(Box::new(handler))
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Boxed<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> ProtocolOf<Self> {
        self.0.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.0.connection_keep_alive()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ActionOf<Self>> {
        self.0.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.0.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.0.on_behaviour_event(event);
    }

    fn on_connection_event(&mut self, event: EventOf<'_, Self>) {
        self.0.on_connection_event(event);
    }
}

type Gossip = THandler<super::gate::Gossip>;

/// gossipsub's handler with streams whose buffers are empty at first.
pub(in crate::net) struct Trimmed(Gossip);

impl Around<Gossip> for Trimmed {
    fn around(handler: Gossip) -> Self {
        Self(handler)
    }
}

/// Replaces the buffers of a stream on which nothing was sent or received yet.
fn trim<S: AsyncRead + AsyncWrite, C: Decoder + Encoder>(framed: Framed<S, C>) -> Framed<S, C> {
    let mut parts = framed.into_parts();
    if parts.read_buffer.is_empty() {
        parts.read_buffer = BytesMut::new();
    }
    if parts.write_buffer.is_empty() {
        parts.write_buffer = BytesMut::new();
    }
    Framed::from_parts(parts)
}

impl ConnectionHandler for Trimmed {
    type FromBehaviour = <Gossip as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = <Gossip as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Gossip as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Gossip as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> ProtocolOf<Self> {
        self.0.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.0.connection_keep_alive()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ActionOf<Self>> {
        self.0.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.0.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.0.on_behaviour_event(event);
    }

    fn on_connection_event(&mut self, event: EventOf<'_, Self>) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                let protocol = match protocol {
                    Either::Left((framed, kind)) => Either::Left((trim(framed), kind)),
                    denied => denied,
                };
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (framed, kind), info }) => {
                let protocol = (trim(framed), kind);
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            other => other,
        };
        self.0.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::THandler;

    use super::*;
    use crate::net::behaviour::Behaviour;

    #[test]
    fn a_handler_is_worth_a_box() {
        assert!(size_of::<THandler<Behaviour>>() > 4096, "else the box can go");
        assert_eq!(size_of::<Boxed<THandler<Behaviour>>>(), size_of::<usize>());
    }
}
