//! UPnP: ports that the router opens for us.
//!
//! libp2p's behaviour searches for a router once, when it is made, and keeps an external addr for good when the addr of ours
//! that it leads to is gone. So here
//! * an external addr goes with the addr it leads to;
//! * a router is searched for again when we get an inner addr and nothing is mapped (we were carried to another network), and
//!   every [`AGAIN`] when there was none;
//! * a node that stops closes its ports, which would stay open for an hour otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::{
    multiaddr::Protocol,
    swarm::{FromSwarm, NetworkBehaviour, NewListenAddr},
    upnp::{self, Event},
};

use super::Network;
use crate::primitives::Multiaddr;

/// Until a router that was not there, or had no public addr, is searched for again.
const AGAIN: Duration = Duration::from_secs(600);
/// For routes to come after an addr.
const SETTLE: Duration = Duration::from_secs(2);

/// See the module doc. Sans-IO: when to search is asked for.
#[derive(Debug)]
pub(super) struct Upnp {
    /// The addr of ours that each external addr leads to.
    mapped: BTreeMap<Multiaddr, Multiaddr>,
    /// Our addrs that a router can lead to.
    inner: BTreeSet<Multiaddr>,
    searching: bool,
    again: Option<Instant>,
}

impl Upnp {
    /// The behaviour searches from its start on.
    pub(super) fn new() -> Self {
        Self { mapped: BTreeMap::new(), inner: BTreeSet::new(), searching: true, again: None }
    }

    fn on_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::NewExternalAddr { local_addr, external_addr } => {
                self.searching = false;
                self.mapped.insert(external_addr.clone(), local_addr.clone());
            }
            Event::ExpiredExternalAddr { external_addr, .. } => drop(self.mapped.remove(external_addr)),
            Event::GatewayNotFound | Event::NonRoutableGateway => {
                self.searching = false;
                self.again.get_or_insert(now + AGAIN);
            }
        }
    }

    /// Our addrs changed. The external addrs that led to one that is gone.
    fn on_listen(&mut self, listen: &[Multiaddr], now: Instant) -> Vec<Multiaddr> {
        let gone = self.mapped.iter().filter(|(_, local)| !listen.contains(local));
        let gone: Vec<_> = gone.map(|(addr, _)| addr.clone()).collect();
        gone.iter().for_each(|addr| drop(self.mapped.remove(addr)));
        let inner: BTreeSet<_> = listen.iter().filter(|a| is_mappable(a)).cloned().collect();
        let more = !inner.is_subset(&self.inner);
        self.inner = inner;
        if more && self.mapped.is_empty() {
            self.again = Some(now + SETTLE);
        }
        gone
    }

    /// Whether to search now: once for each time that it is due.
    fn due(&mut self, now: Instant) -> bool {
        let due = !self.searching && self.mapped.is_empty() && self.again.is_some_and(|at| at <= now);
        if due {
            (self.searching, self.again) = (true, None);
        }
        due
    }

    /// Whether the router has ports open for us.
    pub(super) fn is_mapped(&self) -> bool {
        !self.mapped.is_empty()
    }
}

impl Network {
    pub(super) fn on_upnp(&mut self, event: &Event) {
        tracing::info!(?event, "UPnP");
        self.upnp.on_event(event, Instant::now());
    }

    /// Gives up the external addrs that lead to an addr we do not listen on any more.
    pub(super) fn review_upnp(&mut self, listen: &[Multiaddr]) {
        for addr in self.upnp.on_listen(listen, Instant::now()) {
            tracing::info!(%addr, "the router does not lead here any more");
            self.swarm.remove_external_address(&addr);
            self.nat.on_expired(&addr);
        }
    }

    /// Searches for a router again when that is due: by a new behaviour, which has to be told what we listen on.
    pub(super) fn search_router(&mut self, now: Instant) {
        if !self.config.upnp || !self.upnp.due(now) {
            return;
        }
        tracing::debug!("searching for a UPnP router again");
        let mut upnp = upnp::tokio::Behaviour::default();
        for (id, listener) in &self.listens {
            for addr in &listener.addrs {
                upnp.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: *id, addr }));
            }
        }
        self.swarm.behaviour_mut().upnp = Some(upnp).into();
    }
}

/// Routers map ports to private IPv4 addrs.
fn is_mappable(addr: &Multiaddr) -> bool {
    matches!(addr.iter().next(), Some(Protocol::Ip4(ip)) if ip.is_private())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_external_addr_goes_with_the_addr_it_leads_to_and_the_next_network_is_searched() {
        let start = Instant::now();
        let (here, there) = (addr("/ip4/192.168.1.2/tcp/4001"), addr("/ip4/10.0.0.2/tcp/4001"));
        let external = addr("/ip4/11.0.0.2/tcp/4001");
        let mut upnp = Upnp::new();
        assert!(upnp.on_listen(std::slice::from_ref(&here), start).is_empty());
        assert!(!upnp.due(start + AGAIN), "it searches since its start");
        upnp.on_event(&Event::NewExternalAddr { local_addr: here, external_addr: external.clone() }, start);
        assert!(!upnp.due(start + AGAIN), "found");
        assert_eq!(upnp.on_listen(std::slice::from_ref(&there), start), [external]);
        assert!(!upnp.due(start));
        assert!(upnp.due(start + SETTLE));
        assert!(!upnp.due(start + AGAIN), "one search at a time");
        upnp.on_event(&Event::GatewayNotFound, start);
        assert!(!upnp.due(start + AGAIN / 2));
        assert!(upnp.due(start + AGAIN));
    }

    #[test]
    fn an_addr_that_came_while_searching_is_a_reason_to_search_again_and_a_public_one_is_not() {
        let start = Instant::now();
        let mut upnp = Upnp::new();
        upnp.on_event(&Event::NonRoutableGateway, start);
        upnp.on_listen(&[addr("/ip4/11.0.0.9/tcp/4001")], start);
        assert!(!upnp.due(start + AGAIN / 2));
        upnp.on_listen(&[addr("/ip4/192.168.1.2/tcp/4001")], start);
        assert!(upnp.due(start + SETTLE));
        upnp.on_listen(&[addr("/ip4/10.0.0.2/tcp/4001")], start);
        assert!(!upnp.due(start + SETTLE), "still searching");
        upnp.on_event(&Event::GatewayNotFound, start + SETTLE);
        assert!(upnp.due(start + SETTLE));
    }
}
