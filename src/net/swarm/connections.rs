//! Connections coming and going, and what identify, ping, mDNS and hole punching tell about them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use libp2p::{
    core::ConnectedPoint,
    dcutr, identify, mdns,
    multiaddr::Protocol,
    ping,
    swarm::{ConnectionId, dial_opts::DialOpts},
};

use super::{Network, PeerEvent, ROUND, SETTLE, external::ip};
use crate::{
    net::{
        Direction, PeerInfo,
        addrs::{Seen, usable},
        is_relayed,
    },
    primitives::{Multiaddr, PeerId},
};

/// Characters of a peer's agent string that we keep.
const AGENT: usize = 64;
/// Addrs of the local network looked at in one go: anybody there can make up as many as they like.
const NEIGHBOURS: usize = 64;

/// Silence after which a connection is dead: pings go every 15 s, and one answer in time is enough. TCP alone would take a
/// quarter of an hour to see that a cable was pulled.
const DEAD: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Path {
    id: ConnectionId,
    relayed: bool,
    addr: Multiaddr,
    direction: Direction,
    since: Instant,
    /// When the last ping was answered; `None` when the peer does not know pings.
    heard: Option<Instant>,
    /// The IP of ours that it cannot do without: of TCP, and of QUIC that was dialled from outside.
    local: Option<IpAddr>,
}

impl Network {
    pub(super) fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        let relayed = endpoint.is_relayed();
        let addr = endpoint.get_remote_address().clone();
        let direction = if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound };
        let transport = transport_of(&addr, relayed);
        let mut table = self.table.write().expect("no panic while held");
        let info = table.entry(peer).or_insert_with(|| PeerInfo {
            address: peer,
            addr: addr.clone(),
            relayed,
            transport,
            direction,
            rtt: None,
            agent: String::new(),
            connections: 0,
            since: Instant::now(),
        });
        info.connections += 1;
        if info.relayed && !relayed {
            (info.addr, info.relayed, info.transport, info.direction) = (addr.clone(), relayed, transport, direction);
        }
        self.metrics.set_peers(table.len());
        drop(table);
        let since = Instant::now();
        let path = Path { id, relayed, addr, direction, since, heard: Some(since), local: local_ip(endpoint) };
        let paths = self.paths.entry(peer).or_default();
        let left: Vec<_> = paths.iter().filter(|old| path.shows_moved(old)).map(|old| old.id).collect();
        paths.push(path);
        for id in left {
            // Requests would wait for it until its silence is noticed.
            self.swarm.close_connection(id);
        }
        if first {
            tracing::debug!(%peer, relayed, "peer up");
            self.peers.on_up(peer, Instant::now());
            // Nobody may be listening.
            let _ = self.events.send(PeerEvent::Up(peer));
        }
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId, left: u32) {
        if let Some(paths) = self.paths.get_mut(&peer) {
            paths.retain(|known| known.id != id);
            if paths.is_empty() {
                self.paths.remove(&peer);
            }
        }
        let mut table = self.table.write().expect("no panic while held");
        if left == 0 {
            table.remove(&peer);
        } else if let Some(info) = table.get_mut(&peer) {
            info.connections = info.connections.saturating_sub(1);
            if let Some(best) = self.paths.get(&peer).and_then(|p| p.iter().min_by_key(|p| p.relayed)) {
                (info.addr, info.relayed, info.direction) = (best.addr.clone(), best.relayed, best.direction);
                info.transport = transport_of(&info.addr, info.relayed);
            }
        }
        self.metrics.set_peers(table.len());
        drop(table);
        if left == 0 {
            tracing::debug!(%peer, "peer down");
            self.peers.on_down(&peer, Instant::now());
            self.nat.on_down(&peer);
            self.topics.listeners.gone(&peer);
            let _ = self.events.send(PeerEvent::Down(peer));
        }
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        let heard = match &event.result {
            Ok(rtt) => {
                if let Some(info) = self.table.write().expect("no panic while held").get_mut(&event.peer) {
                    info.rtt = Some(*rtt);
                }
                Some(Instant::now())
            }
            Err(ping::Failure::Unsupported) => None,
            // It goes on trying. How a connection died decides what it reports, if anything: see `is_dead`.
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => return,
        };
        let paths = self.paths.get_mut(&event.peer);
        if let Some(path) = paths.and_then(|all| all.iter_mut().find(|path| path.id == event.connection)) {
            path.heard = heard;
        }
    }

    /// An IP of ours is gone, and the connections that need it with it. Without this they would be in the way of
    /// new ones until their silence is noticed.
    pub(super) fn on_ip_gone(&mut self, gone: IpAddr) {
        let on_it = self.paths.values().flatten().filter(|path| path.local == Some(gone));
        let on_it: Vec<_> = on_it.map(|path| path.id).collect();
        for id in on_it {
            self.swarm.close_connection(id);
        }
    }

    /// Closes connections that nothing was heard on for too long.
    pub(super) fn close_dead(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.last_round) > ROUND * 3;
        self.last_round = now;
        if late {
            // We were held up ourselves: answers may lie there unread.
            let heard = self.paths.values_mut().flatten().filter_map(|path| path.heard.as_mut());
            heard.for_each(|heard| *heard = now);
            return;
        }
        let dead: Vec<_> = self.paths.iter().flat_map(|(peer, p)| p.iter().map(move |p| (*peer, p))).collect();
        let dead: Vec<_> = dead.into_iter().filter(|(_, p)| p.is_dead(now)).map(|(peer, p)| (peer, p.id)).collect();
        for (peer, id) in dead {
            tracing::debug!(%peer, "a connection is dead");
            self.swarm.close_connection(id);
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let relay_hop = info.protocols.contains(&libp2p::relay::HOP_PROTOCOL_NAME);
        let speaks_kad = {
            let kad = &self.swarm.behaviour().kad;
            kad.protocol_names().iter().any(|name| info.protocols.contains(name))
        };
        let remote = {
            let mut table = self.table.write().expect("no panic while held");
            let Some(known) = table.get_mut(&peer_id) else { return };
            known.agent = info.agent_version.chars().filter(|c| !c.is_control()).take(AGENT).collect();
            known.addr.clone()
        };
        self.nat.on_identify(peer_id, relay_hop, &info.observed_addr);
        self.publish_addrs();
        if speaks_kad {
            for addr in usable(info.listen_addrs, Seen::Over(&remote)) {
                self.swarm.behaviour_mut().kad.add_address(&peer_id, addr);
            }
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        let peers: BTreeSet<_> = found.into_iter().map(|(peer, _)| peer).take(NEIGHBOURS).collect();
        for peer in peers {
            // At all addrs it told, which mDNS keeps. An error means that it is connected or being dialled already.
            let _ = self.swarm.dial(DialOpts::peer_id(peer).build());
        }
    }

    /// Nodes of our local network, worth dialling as those of the address book are.
    pub(super) fn neighbours(&self) -> BTreeSet<PeerId> {
        let mdns = self.swarm.behaviour().mdns.as_ref();
        mdns.into_iter().flat_map(|m| m.discovered_nodes()).take(NEIGHBOURS).copied().collect()
    }

    /// A direct connection was punched: streams do not move by themselves, and the relayed connection would outlive
    /// the direct one (spec `libp2p.md`, 0.3), so it is closed.
    pub(super) fn on_punched(&mut self, event: &dcutr::Event) {
        if let Err(error) = &event.result {
            tracing::debug!(peer = %event.remote_peer_id, %error, "no direct connection, staying on the relay");
            return;
        }
        let relayed: Vec<_> = self
            .paths
            .get(&event.remote_peer_id)
            .map(|p| p.iter().filter(|p| p.relayed).map(|p| p.id).collect())
            .unwrap_or_default();
        for id in relayed {
            self.swarm.close_connection(id);
        }
    }

    /// Closes what is more than one connection with a peer, once all of them have stood for a while.
    pub(super) fn close_surplus(&mut self) {
        let (local, now) = (*self.swarm.local_peer_id(), Instant::now());
        let surplus: Vec<_> = self.paths.iter().flat_map(|(peer, p)| surplus(&local, peer, p, now)).collect();
        for id in surplus {
            self.swarm.close_connection(id);
        }
    }
}

impl Path {
    /// Whether the peer has probably moved since it made an older connection: a direct one comes from another IP, and long
    /// enough afterwards that the two did not just dial each other at the same moment.
    fn shows_moved(&self, old: &Path) -> bool {
        let (Some(now), Some(before)) = (ip(&self.addr), ip(&old.addr)) else { return false };
        let direct = !self.relayed && !old.relayed;
        let settled = self.since.saturating_duration_since(old.since) >= SETTLE;
        direct && settled && now != before && now.is_ipv4() == before.is_ipv4()
    }

    fn is_dead(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= DEAD)
    }
}

/// The IP of ours that a direct connection needs.
fn local_ip(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    match endpoint {
        _ if endpoint.is_relayed() => None,
        ConnectedPoint::Listener { local_addr, .. } => ip(local_addr),
        // QUIC takes another one by itself where it dialled.
        ConnectedPoint::Dialer { address, .. } if transport_of(address, false) == "quic" => None,
        ConnectedPoint::Dialer { address, .. } => {
            let remote = ip(address)?;
            let any: IpAddr = if remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            // Sends nothing: it asks the kernel which IP leads there, which is the one it took for the connection.
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect((remote, 9)).ok()?;
            Some(socket.local_addr().ok()?.ip())
        }
    }
}

/// Connections with `peer` that are not needed. Of direct ones only the side with the smaller address closes any, so that the two
/// never close each other's choice; relayed ones beside a direct one are closed by whoever looks first. An old one has to
/// answer after the youngest came: a peer that connects again may have lost it without our knowing.
fn surplus(local: &PeerId, peer: &PeerId, paths: &[Path], now: Instant) -> Vec<ConnectionId> {
    let settled = |p: &&Path| now.saturating_duration_since(p.since) >= SETTLE;
    if paths.len() < 2 || !paths.iter().all(|p| settled(&p)) {
        return Vec::new();
    }
    let Some(keep) = paths.iter().filter(|p| !p.relayed).min_by_key(|p| p.since) else { return Vec::new() };
    let youngest = paths.iter().map(|p| p.since).max();
    if keep.heard.is_some_and(|heard| Some(heard) < youngest) {
        return Vec::new();
    }
    let mine = local < peer;
    paths.iter().filter(|p| p.id != keep.id && (p.relayed || mine)).map(|p| p.id).collect()
}

pub(super) fn transport_of(addr: &Multiaddr, relayed: bool) -> &'static str {
    if relayed || is_relayed(addr) {
        return "relay";
    }
    let mut name = "tcp";
    for protocol in addr {
        match protocol {
            Protocol::QuicV1 | Protocol::Quic => name = "quic",
            Protocol::Ws(_) | Protocol::Wss(_) => name = "ws",
            _ => {}
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_connections_one_side_closes_the_younger_and_both_close_a_relayed_one() {
        let start = Instant::now();
        let path = |id, relayed, after: u64| Path {
            id: ConnectionId::new_unchecked(id),
            relayed,
            addr: Multiaddr::empty(),
            direction: Direction::Inbound,
            since: start + SETTLE * u32::try_from(after).unwrap() / 10,
            heard: Some(start + SETTLE),
            local: None,
        };
        let (a, b) = (PeerId::random(), PeerId::random());
        let (small, large) = (a.min(b), a.max(b));
        let paths = [path(1, true, 0), path(2, false, 2), path(3, false, 1)];
        let ids = |local, peer, after| surplus(local, peer, &paths, start + SETTLE * after);
        assert!(ids(&small, &large, 1).is_empty(), "the youngest is not settled yet");
        let id = ConnectionId::new_unchecked;
        assert_eq!(ids(&small, &large, 2), [id(1), id(2)]);
        assert_eq!(ids(&large, &small, 2), [id(1)]);
        assert!(surplus(&small, &large, &paths[..1], start + SETTLE * 2).is_empty(), "the only path stays");
        let mute = [path(1, false, 0), path(2, false, 1)].map(|p| Path { heard: Some(start), ..p });
        assert!(surplus(&small, &large, &mute, start + SETTLE * 2).is_empty(), "the older one may be dead");
    }

    #[test]
    fn a_connection_is_dead_when_no_ping_was_answered_for_long_if_ever_one_can_be() {
        let start = Instant::now();
        let path = Path {
            id: ConnectionId::new_unchecked(1),
            relayed: false,
            addr: Multiaddr::empty(),
            direction: Direction::Inbound,
            since: start,
            heard: Some(start),
            local: None,
        };
        assert!(!path.is_dead(start + DEAD / 2));
        assert!(path.is_dead(start + DEAD));
        assert!(!Path { heard: None, ..path }.is_dead(start + DEAD), "it does not know pings");
    }

    #[test]
    fn a_peer_that_connects_from_another_ip_has_left_the_old_one() {
        let start = Instant::now();
        let path = |addr: &str, since| Path {
            id: ConnectionId::new_unchecked(1),
            relayed: false,
            addr: addr.parse().unwrap(),
            direction: Direction::Inbound,
            since,
            heard: None,
            local: None,
        };
        let old = path("/ip4/11.0.0.2/tcp/1", start);
        let moved = |addr, since| path(addr, since).shows_moved(&old);
        assert!(moved("/ip4/11.0.0.3/tcp/1", start + SETTLE));
        assert!(!moved("/ip4/11.0.0.3/tcp/1", start + SETTLE / 2), "both dialled at once");
        assert!(!moved("/ip4/11.0.0.2/udp/9/quic-v1", start + SETTLE), "the same host");
        assert!(!moved("/ip6/2001:db8::1/tcp/1", start + SETTLE), "a host may have both");
        assert!(!Path { relayed: true, ..path("/ip4/11.0.0.3/tcp/1", start + SETTLE) }.shows_moved(&old));
    }

    #[test]
    fn a_tcp_connection_needs_an_ip_of_ours_and_a_dialled_quic_connection_none() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        let dialled = |text| ConnectedPoint::Dialer {
            address: addr(text),
            role_override: libp2p::core::Endpoint::Dialer,
            port_use: libp2p::core::transport::PortUse::Reuse,
        };
        let local: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(local_ip(&dialled("/ip4/127.0.0.9/tcp/1")), Some(local));
        assert_eq!(local_ip(&dialled("/ip4/127.0.0.9/udp/1/quic-v1")), None);
        let inbound = ConnectedPoint::Listener {
            local_addr: addr("/ip4/127.0.0.1/udp/1/quic-v1"),
            send_back_addr: addr("/ip4/127.0.0.9/udp/1/quic-v1"),
        };
        assert_eq!(local_ip(&inbound), Some(local));
    }
}
