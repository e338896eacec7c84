//! Whose voice a peer is, where peers are counted against each other.
//!
//! A name costs nothing and one host has any number of them, so a majority of names says nothing. Addresses that others can see cost
//! something. Where that is not so all names count, or a network on one machine or in one house would be a single peer; whoever is in
//! there is trusted further than strangers are.

use std::net::IpAddr;

use super::{
    addrs::is_inner,
    handle::{Handle, PeerInfo},
    is_relayed,
};
use crate::primitives::{Multiaddr, PeerId};

/// Bits of an IPv6 address that count: whoever gives networks away (tunnels, providers) gives as much to one customer.
const IP6_BITS: u32 = 48;

/// One voice among those of all peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Voice {
    /// All peers at one public IPv4 address, or in one /48 of IPv6.
    Host(IpAddr),
    /// All peers that are connected through relays: any number of names come that way.
    Relay,
    /// A peer alone: in an inner network, on this machine, or dialled at a DNS name.
    Name(PeerId),
}

impl Voice {
    /// The voice of `peer`, which is connected over `addr`.
    #[must_use]
    pub fn of(peer: PeerId, addr: &Multiaddr) -> Self {
        if is_relayed(addr) {
            return Self::Relay;
        }
        let ip = addr.iter().find_map(|part| match part {
            libp2p::multiaddr::Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
            libp2p::multiaddr::Protocol::Ip6(ip) => Some(ip.to_canonical()),
            _ => None,
        });
        match ip {
            Some(ip @ IpAddr::V4(_)) if !is_inner(addr) => Self::Host(ip),
            Some(IpAddr::V6(ip)) if !is_inner(addr) => {
                let rest = u128::BITS - IP6_BITS;
                Self::Host(IpAddr::V6((ip.to_bits() >> rest << rest).into()))
            }
            _ => Self::Name(peer),
        }
    }
}

impl PeerInfo {
    /// Whose voice it is.
    #[must_use]
    pub fn voice(&self) -> Voice {
        Voice::of(self.address, &self.addr)
    }
}

impl Handle {
    /// Whose voice a peer is; its own when it is not connected.
    #[must_use]
    pub fn voice(&self, peer: &PeerId) -> Voice {
        self.peers.read().expect("no panic while held").get(peer).map_or(Voice::Name(*peer), PeerInfo::voice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_one_place_that_others_can_see_have_one_voice() {
        let voice = |addr: &str| Voice::of(PeerId::random(), &addr.parse().unwrap());
        let relay = format!("/ip4/198.51.100.9/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        for (one, other) in [
            ("/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.1/udp/2/quic-v1"),
            ("/ip4/198.51.100.1/tcp/1", "/ip6/::ffff:198.51.100.1/tcp/3"),
            ("/ip6/2001:db8:7::1/tcp/1", "/ip6/2001:db8:7:ffff::2/tcp/1"),
            (relay.as_str(), "/p2p-circuit"),
        ] {
            assert_eq!(voice(one), voice(other), "{one} {other}");
        }
        for (one, other) in [
            ("/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.2/tcp/1"),
            ("/ip6/2001:db8:7::1/tcp/1", "/ip6/2001:db8:8::1/tcp/1"),
            (relay.as_str(), "/ip4/198.51.100.9/tcp/1"),
        ] {
            assert_ne!(voice(one), voice(other), "{one} {other}");
        }
        for own in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/::1/tcp/1",
            "/dns4/a.example/tcp/1",
            "/memory/1",
        ] {
            assert!(matches!(voice(own), Voice::Name(_)), "{own}");
            assert_ne!(voice(own), voice(own));
        }
    }
}
