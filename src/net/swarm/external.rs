//! External addrs that a reachability test confirmed, and whether they still hold.
//!
//! The test (autonat v2) runs once for each addr and never again, so an addr that was confirmed would stay in our record after
//! we moved to another network. It is given up when
//! * we listened on exactly this addr and do not any more, or no listener of its transport is left;
//! * a later test of it fails;
//! * [`VOTES`] connected peers see us at another IP of its family, and more than see us at its own.
//!
//! And it comes back when its listener does, or as many see us there again: it was confirmed once, and it will not be tested again.
//! Addrs of the configuration and relayed ones are not judged here.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use libp2p::multiaddr::Protocol;

use super::connections::transport_of;
use crate::{
    net::{addrs::is_inner, is_relayed},
    primitives::{Multiaddr, PeerId},
};

/// Peers that must see us elsewhere, or there again.
const VOTES: usize = 3;
/// Addrs kept: a node has a few.
const MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Standing {
    held: bool,
    /// It is one of the addrs we listen on.
    bound: bool,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct External {
    fixed: Vec<Multiaddr>,
    addrs: BTreeMap<Multiaddr, Standing>,
    /// Where each connected peer sees us, and whether that is an inner IP.
    seen: HashMap<PeerId, (IpAddr, bool)>,
}

/// The IP that an addr begins with.
pub(super) fn ip(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.to_canonical()),
        _ => None,
    }
}

impl External {
    /// `fixed`: addrs of the configuration.
    pub(super) fn new(fixed: Vec<Multiaddr>) -> Self {
        Self { fixed, ..Self::default() }
    }

    pub(super) fn confirmed(&mut self, addr: &Multiaddr) {
        if !is_relayed(addr) && !self.fixed.contains(addr) && self.addrs.len() < MAX {
            self.addrs.insert(addr.clone(), Standing { held: true, bound: false });
        }
    }

    /// Whoever confirmed it took it back.
    pub(super) fn expired(&mut self, addr: &Multiaddr) {
        self.addrs.remove(addr);
    }

    /// A test failed. Whether it had been confirmed before.
    pub(super) fn failed(&mut self, addr: &Multiaddr) -> bool {
        self.addrs.remove(addr).is_some_and(|standing| standing.held)
    }

    /// A peer says where it sees us.
    pub(super) fn observed(&mut self, peer: PeerId, addr: &Multiaddr) {
        if is_relayed(addr) {
            return;
        }
        if let Some(ip) = ip(addr) {
            self.seen.insert(peer, (ip, is_inner(addr)));
        }
    }

    pub(super) fn on_down(&mut self, peer: &PeerId) {
        self.seen.remove(peer);
    }

    /// What changed: `true` when an addr is back, `false` when it is given up.
    pub(super) fn judge(&mut self, listen: &[Multiaddr]) -> Vec<(Multiaddr, bool)> {
        let mut changes = Vec::new();
        for (addr, standing) in &mut self.addrs {
            let bound = listen.contains(addr);
            let served = listen.iter().any(|l| transport_of(l, false) == transport_of(addr, false));
            let votes = |here: bool| {
                let Some(own) = ip(addr) else { return 0 };
                let counts = |(ip, inner): &&(IpAddr, bool)| ip.is_ipv6() == own.is_ipv6() && *inner == is_inner(addr);
                self.seen.values().filter(counts).filter(|(ip, _)| (*ip == own) == here).count()
            };
            let (here, elsewhere) = (votes(true), votes(false));
            let held = match standing.held {
                // What we listen on is ours whatever peers say: hosts have several addrs of a family.
                true if standing.bound => served && bound,
                true => served && (bound || elsewhere < VOTES || here >= elsewhere),
                false => served && (bound && standing.bound || here >= VOTES && here > elsewhere),
            };
            standing.bound |= bound;
            if held != standing.held {
                standing.held = held;
                changes.push((addr.clone(), held));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_addr_is_given_up_when_peers_see_us_elsewhere_and_returns_with_us() {
        let ours = addr("/ip4/198.51.100.1/tcp/4001");
        let listen = [addr("/ip4/192.168.0.2/tcp/4001")];
        let mut external = External::new(Vec::new());
        external.confirmed(&ours);
        let peers: Vec<_> = (0..8).map(|_| PeerId::random()).collect();
        let see = |external: &mut External, range: std::ops::Range<usize>, at: &str| {
            peers[range].iter().for_each(|p| external.observed(*p, &addr(at)));
            external.judge(&listen)
        };
        assert!(see(&mut external, 0..4, "/ip4/192.168.0.2/tcp/5").is_empty(), "neighbours do not count");
        assert!(see(&mut external, 4..5, "/ip4/198.51.100.1/tcp/5").is_empty());
        assert!(see(&mut external, 0..2, "/ip4/203.0.113.1/tcp/5").is_empty(), "two are too few");
        assert_eq!(see(&mut external, 2..3, "/ip4/203.0.113.1/tcp/5"), [(ours.clone(), false)]);
        assert!(see(&mut external, 3..4, "/ip4/203.0.113.1/tcp/5").is_empty(), "once");
        peers[..4].iter().for_each(|p| external.on_down(p));
        assert!(see(&mut external, 5..6, "/ip4/198.51.100.1/tcp/5").is_empty());
        assert_eq!(see(&mut external, 6..7, "/ip4/198.51.100.1/udp/5/quic-v1"), [(ours, true)]);
    }

    #[test]
    fn liars_do_not_outvote_more_who_see_us_there() {
        let ours = addr("/ip4/198.51.100.1/tcp/4001");
        let listen = [addr("/ip4/192.168.0.2/tcp/4001")];
        let mut external = External::new(Vec::new());
        external.confirmed(&ours);
        (0..5).for_each(|_| external.observed(PeerId::random(), &ours));
        (0..5).for_each(|_| external.observed(PeerId::random(), &addr("/ip4/203.0.113.1/tcp/5")));
        assert!(external.judge(&listen).is_empty());
    }

    #[test]
    fn an_addr_goes_with_its_listener_and_with_a_failed_test() {
        let (ours, quic) = (addr("/ip4/198.51.100.1/tcp/4001"), addr("/ip4/198.51.100.1/udp/4001/quic-v1"));
        let fixed = addr("/ip4/198.51.100.2/tcp/1");
        let mut external = External::new(vec![fixed.clone()]);
        [&ours, &quic, &fixed].into_iter().for_each(|a| external.confirmed(a));
        let inner = addr("/ip4/10.0.0.1/tcp/4001");
        assert!(external.judge(&[ours.clone(), quic.clone()]).is_empty());
        let changes = external.judge(std::slice::from_ref(&inner));
        assert_eq!(changes, [(ours.clone(), false), (quic.clone(), false)], "never the one of the configuration");
        assert_eq!(external.judge(&[inner, ours.clone()]), [(ours.clone(), true)], "its listener is back");
        assert!(external.failed(&ours));
        assert!(!external.failed(&quic), "not held any more");
    }
}
