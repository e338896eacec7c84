//! Inbound connections by IP address, so that one host cannot take all places. IPv6 hosts have a /64 each.
//!
//! Loopback is exempt, and so are relayed connections: their remote addr has no IP, and the relay limits them by peer.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, ToSwarm, dummy},
};

/// Handshakes under way from one host: a quarter of all.
const PENDING: usize = 16;

/// Why an inbound connection was refused.
#[derive(Debug, thiserror::Error)]
#[error("too many connections from {0}")]
struct TooMany(IpAddr);

#[derive(Default)]
struct Count {
    pending: usize,
    established: usize,
}

/// See the module doc.
pub(in crate::net) struct Behaviour {
    max: usize,
    hosts: HashMap<IpAddr, Count>,
    /// Host of each counted connection, and whether it is established.
    connections: HashMap<ConnectionId, (IpAddr, bool)>,
}

impl Behaviour {
    /// At most `max` established connections from one host.
    pub(super) fn new(max: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self { max, hosts: HashMap::new(), connections: HashMap::new() }
    }

    fn forget(&mut self, id: ConnectionId) {
        let Some((host, established)) = self.connections.remove(&id) else { return };
        let Some(count) = self.hosts.get_mut(&host) else { return };
        let place = if established { &mut count.established } else { &mut count.pending };
        *place = place.saturating_sub(1);
        if count.pending + count.established == 0 {
            self.hosts.remove(&host);
        }
    }
}

pub(super) fn host_of(addr: &Multiaddr) -> Option<IpAddr> {
    let ip = addr.iter().find_map(|p| match p {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    })?;
    let relayed = addr.iter().any(|p| matches!(p, Protocol::P2pCircuit));
    match ip {
        ip if ip.is_loopback() || relayed => None,
        IpAddr::V4(_) => Some(ip),
        IpAddr::V6(ip) => Some(IpAddr::V6((ip.to_bits() >> 64 << 64).into())),
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(host) = host_of(remote) else { return Ok(()) };
        let (pending, established) = self.hosts.get(&host).map_or((0, 0), |c| (c.pending, c.established));
        if pending >= PENDING || pending + established >= self.max {
            return Err(ConnectionDenied::new(TooMany(host)));
        }
        self.hosts.entry(host).or_default().pending += 1;
        self.connections.insert(id, (host, false));
        Ok(())
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
        match event {
            FromSwarm::ConnectionEstablished(c) => {
                if let Some((host, established)) = self.connections.get_mut(&c.connection_id)
                    && let Some(count) = self.hosts.get_mut(host)
                {
                    *established = true;
                    count.pending = count.pending.saturating_sub(1);
                    count.established += 1;
                }
            }
            FromSwarm::ConnectionClosed(c) => self.forget(c.connection_id),
            FromSwarm::ListenFailure(l) => self.forget(l.connection_id),
            _ => {}
        }
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
    use libp2p::swarm::{ListenError, behaviour::ListenFailure};

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_host_cannot_take_all_places_and_others_do_not_notice() {
        let mut limit = Behaviour::new(64);
        let local = addr("/ip4/192.0.2.1/tcp/1");
        let mut next = 0;
        let mut come = |limit: &mut Behaviour, from: &str| {
            next += 1;
            let id = ConnectionId::new_unchecked(next);
            limit.handle_pending_inbound_connection(id, &local, &addr(from)).is_ok().then_some(id)
        };
        let ids: Vec<_> = (0..40).filter_map(|i| come(&mut limit, &format!("/ip4/198.51.100.7/tcp/{i}"))).collect();
        assert_eq!(ids.len(), PENDING);
        assert!(come(&mut limit, "/ip4/198.51.100.8/tcp/1").is_some());
        assert!((0..200).all(|_| come(&mut limit, "/ip4/127.0.0.1/tcp/1").is_some()));
        for id in ids {
            limit.on_swarm_event(FromSwarm::ListenFailure(ListenFailure {
                local_addr: &local,
                send_back_addr: &local,
                error: &ListenError::Aborted,
                connection_id: id,
                peer_id: None,
            }));
        }
        assert!(come(&mut limit, "/ip4/198.51.100.7/tcp/1").is_some(), "failed ones gave their places back");
        let many = (0..40).filter(|i| come(&mut limit, &format!("/ip6/2001:db8::{i:x}/tcp/1")).is_some()).count();
        assert_eq!(many, PENDING, "a /64 is one host");
    }
}
