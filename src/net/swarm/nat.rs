//! Our addrs, whether others can dial them, and what follows: Kademlia's mode and relay reservations.
//!
//! One server's word is not trusted: an addr counts as public when it was confirmed, but we call ourselves private only after
//! [`VERDICTS`] different servers failed to reach us and none succeeded. A NAT or firewall that drops what it does not know gives
//! no verdict at all: the server's dial and then our question to it run into their timeouts, and libp2p asks again for ever without
//! telling. So we are private, too, when a node that tests others has seen us from outside for [`SILENCE`] and no addr is
//! confirmed. In a LAN nobody is outside, and nothing follows. One such node is enough, since small networks have one relay: a
//! liar can make us take a place at it and stop serving Kademlia, but not make us unreachable.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use libp2p::{Swarm, core::transport::ListenerId, kad, multiaddr::Protocol};
use tokio::sync::watch;

use super::{Lean, Reachability, Table, external::External};
use crate::{
    net::{Config, DhtMode, Nat as Snapshot, ReachabilityMode, addrs::is_inner, is_relayed},
    primitives::{Multiaddr, PeerId},
};

/// Servers that must have failed to reach us before we call ourselves private.
const VERDICTS: usize = 2;
/// How long nodes that test others (those that relay for them) may be silent about our addrs: three tests, which take 10 s.
const SILENCE: Duration = Duration::from_secs(30);
/// Reservations held at different relays.
const RESERVATIONS: usize = 2;
/// Bounds of how long a relay that refused, or let go of us, is not asked again; twice as long each time.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// A node that offers to relay, and what came of it.
#[derive(Clone, Copy, Default, Debug)]
struct Relay {
    asked: Option<Instant>,
    pause: Duration,
}

impl Relay {
    /// The reservation is over, or there was none.
    fn refused(&mut self, now: Instant) {
        // One that held is no refusal.
        let held = self.asked.is_some_and(|at| now.saturating_duration_since(at) >= PAUSE.1);
        self.pause = if held { PAUSE.0 } else { (self.pause * 2).clamp(PAUSE.0, PAUSE.1) };
        self.asked = Some(now);
    }

    fn may_be_asked(&self, now: Instant) -> bool {
        self.asked.is_none_or(|at| now >= at + self.pause)
    }
}

pub(super) struct Nat {
    mode: DhtMode,
    assumed: ReachabilityMode,
    watch: watch::Sender<Snapshot>,
    failed: BTreeSet<PeerId>,
    confirmed: bool,
    external: External,
    /// Public addrs that we listen on, when we are told that others can dial us; `None` when that is left to tests.
    own: Option<BTreeSet<Multiaddr>>,
    relays: HashMap<PeerId, Relay>,
    /// Those of them (they test, too) that see us at a public addr, since when.
    testers: HashMap<PeerId, Instant>,
    silent: bool,
    reserved: HashMap<ListenerId, PeerId>,
}

impl Nat {
    pub(super) fn new(config: &Config) -> (Self, watch::Receiver<Snapshot>) {
        let (watch, receiver) = watch::channel(Snapshot::default());
        // A relay is for public nodes only, and the first one of a network has nobody who could test it.
        let told = config.relay_server || config.reachability == ReachabilityMode::Public;
        let nat = Self {
            mode: config.dht,
            assumed: config.reachability,
            watch,
            failed: BTreeSet::new(),
            confirmed: false,
            external: External::new(config.external.clone()),
            own: told.then(BTreeSet::new),
            relays: HashMap::new(),
            testers: HashMap::new(),
            silent: false,
            reserved: HashMap::new(),
        };
        (nat, receiver)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.watch.borrow().clone()
    }

    /// autonat, UPnP or a relay says that an addr is ours.
    pub(super) fn on_confirmed(&mut self, addr: &Multiaddr) {
        if !self.own.as_ref().is_some_and(|own| own.contains(addr)) {
            self.external.confirmed(addr);
        }
    }

    pub(super) fn on_expired(&mut self, addr: &Multiaddr) {
        self.external.expired(addr);
    }

    /// Gives up confirmed addrs that do not hold any more, and takes back those that do again.
    pub(super) fn review(&mut self, swarm: &mut Swarm<Lean>, listen: &[Multiaddr]) {
        let (new, gone) = self.own_changes(listen);
        new.into_iter().for_each(|addr| swarm.add_external_address(addr));
        gone.iter().for_each(|addr| swarm.remove_external_address(addr));
        for (addr, held) in self.external.judge(listen) {
            if held {
                tracing::info!(%addr, "others can dial us here again");
                swarm.add_external_address(addr);
            } else {
                tracing::info!(%addr, "others cannot dial us here any more");
                swarm.remove_external_address(&addr);
            }
        }
    }

    /// Which of the public addrs we listen on are new, and which are gone.
    fn own_changes(&mut self, listen: &[Multiaddr]) -> (Vec<Multiaddr>, Vec<Multiaddr>) {
        let Some(own) = &mut self.own else { return Default::default() };
        let public = listen.iter().filter(|a| !is_inner(a) && !is_relayed(a));
        let before = std::mem::replace(own, public.cloned().collect());
        (own.difference(&before).cloned().collect(), before.difference(own).cloned().collect())
    }

    pub(super) fn set_addrs(&mut self, listen: Vec<Multiaddr>, external: Vec<Multiaddr>) {
        self.confirmed = external.iter().any(|a| !is_relayed(a));
        let reachability = self.reachability();
        self.watch.send_if_modified(|now| {
            // Relayed addrs are external, not something we listen on.
            let mut listen: Vec<_> = listen.into_iter().filter(|a| !is_relayed(a)).collect();
            listen.sort();
            listen.dedup();
            let mut external = external;
            external.sort();
            let new = Snapshot { reachability, listen, external };
            let changed = *now != new;
            *now = new;
            changed
        });
    }

    fn reachability(&self) -> Reachability {
        match self.assumed {
            ReachabilityMode::Public => Reachability::Public,
            ReachabilityMode::Private => Reachability::Private,
            ReachabilityMode::Auto if self.confirmed => Reachability::Public,
            ReachabilityMode::Auto if self.silent || self.failed.len() >= VERDICTS => Reachability::Private,
            ReachabilityMode::Auto => Reachability::Unknown,
        }
    }

    /// The addrs are to be published anew after it.
    pub(super) fn on_tested(&mut self, swarm: &mut Swarm<Lean>, server: PeerId, addr: &Multiaddr, reached: bool) {
        tracing::debug!(%server, %addr, reached, "reachability tested");
        if reached {
            self.failed.clear();
            return;
        }
        if self.failed.len() < 64 {
            self.failed.insert(server);
        }
        if self.external.failed(addr) {
            swarm.remove_external_address(addr);
        }
    }

    /// Kademlia serves unless we are known to be unreachable: a client in the routing tables of others slows everybody.
    pub(super) fn refresh_mode(&self, swarm: &mut Swarm<Lean>) {
        let server = match self.mode {
            DhtMode::Server => true,
            DhtMode::Client => false,
            DhtMode::Auto => self.reachability() != Reachability::Private,
        };
        let mode = if server { kad::Mode::Server } else { kad::Mode::Client };
        let kad = &mut swarm.behaviour_mut().kad;
        if kad.mode() != mode {
            kad.set_mode(Some(mode));
        }
    }

    pub(super) fn on_identify(&mut self, peer: PeerId, relay: bool, observed: &Multiaddr) {
        self.external.observed(peer, observed);
        if relay {
            self.relays.entry(peer).or_default();
        } else {
            self.relays.remove(&peer);
        }
        if relay && !is_inner(observed) && !is_relayed(observed) {
            self.testers.entry(peer).or_insert_with(Instant::now);
        } else {
            self.testers.remove(&peer);
        }
    }

    /// Whether those that should have reached us by `now` were silent. What is known of them goes with their connection, the
    /// conclusion stays until an addr is confirmed.
    pub(super) fn on_round(&mut self, now: Instant) {
        let silent = !self.confirmed
            && (self.silent || self.testers.values().any(|since| now.saturating_duration_since(*since) >= SILENCE));
        if silent != self.silent {
            self.silent = silent;
            let addrs = self.snapshot();
            self.set_addrs(addrs.listen, addrs.external);
        }
    }

    pub(super) fn on_down(&mut self, peer: &PeerId) {
        self.relays.remove(peer);
        self.testers.remove(peer);
        self.external.on_down(peer);
    }

    pub(super) fn on_listener_closed(&mut self, id: ListenerId) {
        if let Some(relay) = self.reserved.remove(&id).and_then(|peer| self.relays.get_mut(&peer)) {
            relay.refused(Instant::now());
        }
    }

    /// The relay without a reservation that was asked longest ago, or never: one that refuses does not keep us from the next one.
    fn free_relay(&self, now: Instant) -> Option<PeerId> {
        let free = self.relays.iter().filter(|(peer, _)| !self.reserved.values().any(|r| r == *peer));
        free.filter(|(_, relay)| relay.may_be_asked(now)).min_by_key(|(_, relay)| relay.asked).map(|(peer, _)| *peer)
    }

    /// Keeps reservations at relays while nobody can dial us.
    pub(super) fn reserve(&mut self, swarm: &mut Swarm<Lean>, table: &Table, enabled: bool) {
        if !enabled || self.reachability() != Reachability::Private || self.reserved.len() >= RESERVATIONS {
            return;
        }
        self.relays.retain(|p, _| swarm.is_connected(p));
        let Some(relay) = self.free_relay(Instant::now()) else { return };
        let asked = self.relays.entry(relay).or_default();
        let addr = table.read().expect("no panic while held").get(&relay).map(|info| info.addr.clone());
        // Nobody is reached through two relays.
        let Some(addr) = addr.filter(|addr| !is_relayed(addr)) else { return asked.refused(Instant::now()) };
        let base: Multiaddr = addr.iter().filter(|p| !matches!(p, Protocol::P2p(_))).collect();
        let circuit = base.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match swarm.listen_on(circuit) {
            Ok(id) => {
                asked.asked = Some(Instant::now());
                self.reserved.insert(id, relay);
            }
            Err(error) => {
                tracing::debug!(%relay, %error, "no reservation");
                asked.refused(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_needs_nobody_to_tell_it_that_a_public_addr_it_listens_on_is_public() {
        let (public, inner) = ("/ip4/11.0.0.1/tcp/1".parse().unwrap(), "/ip4/10.0.0.1/tcp/1".parse().unwrap());
        let listen: [Multiaddr; 2] = [public, inner];
        let (mut relay, _) = Nat::new(&Config { relay_server: true, ..Config::default() });
        assert_eq!(relay.own_changes(&listen), (listen[..1].to_vec(), Vec::new()));
        assert_eq!(relay.own_changes(&listen), (Vec::new(), Vec::new()));
        assert_eq!(relay.own_changes(&listen[1..]), (Vec::new(), listen[..1].to_vec()));
        let (mut other, _) = Nat::new(&Config::default());
        assert_eq!(other.own_changes(&listen), (Vec::new(), Vec::new()), "it is tested");
    }

    #[test]
    fn a_relay_that_refuses_does_not_keep_us_from_one_that_is_free() {
        let (mut nat, _) = Nat::new(&Config::default());
        let [full, free] = std::array::from_fn(|_| PeerId::random());
        for peer in [full, free] {
            nat.relays.insert(peer, Relay::default());
        }
        let start = Instant::now();
        let first = nat.free_relay(start).unwrap();
        // Both refuse: each is asked once, and again after a while, longer each time.
        for (peer, wait) in [(first, 10), (first, 20), (first, 40)] {
            nat.relays.get_mut(&peer).unwrap().refused(start);
            let other = if peer == full { free } else { full };
            assert_eq!(nat.free_relay(start), Some(other));
            nat.relays.get_mut(&other).unwrap().asked = Some(start + Duration::from_secs(3600));
            nat.relays.get_mut(&other).unwrap().pause = PAUSE.0;
            let again = start + Duration::from_secs(wait);
            assert_eq!(nat.free_relay(again - Duration::from_millis(1)), None);
            assert_eq!(nat.free_relay(again), Some(peer));
            *nat.relays.get_mut(&other).unwrap() = Relay::default();
        }
        // A reservation that was held for long, and ends, is no refusal.
        let relay = nat.relays.get_mut(&first).unwrap();
        relay.refused(start + Duration::from_secs(3600));
        assert_eq!(relay.pause, PAUSE.0);
    }

    #[test]
    fn who_hears_nothing_from_those_that_test_is_private_until_an_addr_is_confirmed() {
        let (mut nat, watch) = Nat::new(&Config::default());
        let start = Instant::now();
        nat.on_round(start + SILENCE * 2);
        assert_eq!(watch.borrow().reachability, Reachability::Unknown, "nobody could have tested");
        let observed: Multiaddr = "/ip4/11.0.0.1/tcp/1".parse().unwrap();
        nat.on_identify(PeerId::random(), false, &observed);
        nat.on_round(start + SILENCE * 2);
        assert_eq!(watch.borrow().reachability, Reachability::Unknown, "it does not test");
        nat.on_identify(PeerId::random(), true, &"/ip4/192.168.1.1/tcp/1".parse().unwrap());
        nat.on_round(start + SILENCE * 2);
        assert_eq!(watch.borrow().reachability, Reachability::Unknown, "a neighbour in the LAN");
        let relay = PeerId::random();
        nat.on_identify(relay, true, &observed);
        nat.on_round(start + SILENCE / 2);
        assert_eq!(watch.borrow().reachability, Reachability::Unknown, "too early");
        nat.on_round(Instant::now() + SILENCE);
        assert_eq!(watch.borrow().reachability, Reachability::Private);
        nat.on_down(&relay);
        nat.on_round(Instant::now() + SILENCE);
        assert_eq!(watch.borrow().reachability, Reachability::Private, "others are not heard either");
        nat.set_addrs(Vec::new(), vec![observed]);
        nat.on_round(Instant::now() + SILENCE);
        assert_eq!(watch.borrow().reachability, Reachability::Public);
    }
}
