//! Gives the swarm the address book's addrs for every dial by id, those that are worth it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{ConnectionDenied, ConnectionId, FromSwarm, ListenAddresses, NetworkBehaviour, ToSwarm, dummy},
};

use crate::net::{
    AddrBook,
    addrs::{Seen, usable},
};

/// See the module doc.
pub(in crate::net) struct Behaviour {
    book: Arc<dyn AddrBook>,
    listen: ListenAddresses,
}

impl Behaviour {
    pub(super) fn new(book: Arc<dyn AddrBook>) -> Self {
        Self { book, listen: ListenAddresses::default() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer else { return Ok(Vec::new()) };
        let listen: Vec<_> = self.listen.iter().cloned().collect();
        Ok(usable(self.book.addrs(&peer), Seen::From(&listen)).collect())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.listen.on_swarm_event(&event);
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        core::transport::ListenerId,
        swarm::behaviour::{ExpiredListenAddr, NewListenAddr},
    };

    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<Multiaddr>);

    impl AddrBook for Fixed {
        fn addrs(&self, _: &PeerId) -> Vec<Multiaddr> {
            self.0.clone()
        }

        fn candidates(&self, _: usize) -> Vec<PeerId> {
            Vec::new()
        }
    }

    #[test]
    fn a_public_node_does_not_dial_inner_addrs_of_records() {
        let all: Vec<Multiaddr> =
            ["/ip4/127.0.0.1/tcp/1", "/ip4/198.51.100.1/tcp/1"].map(|a| a.parse().unwrap()).to_vec();
        let mut behaviour = Behaviour::new(Arc::new(Fixed(all.clone())));
        let id = ConnectionId::new_unchecked(1);
        let dialled = |behaviour: &mut Behaviour| {
            behaviour
                .handle_pending_outbound_connection(id, Some(PeerId::random()), &[], Endpoint::Dialer)
                .unwrap_or_default()
        };
        assert_eq!(dialled(&mut behaviour), all);
        let (listener_id, addr) = (ListenerId::next(), "/ip4/198.51.100.9/tcp/5".parse().unwrap());
        behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &addr }));
        assert_eq!(dialled(&mut behaviour), all[1..]);
        behaviour.on_swarm_event(FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr: &addr }));
        assert_eq!(dialled(&mut behaviour), all);
    }
}
