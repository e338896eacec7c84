//! Which connections we want. Sans-IO: time and randomness are arguments, dials and closes are return values.
//!
//! * Below the target: dial candidates of the address book (the saved map), each with its own backoff.
//! * Few peers at all: dial the bootstrap nodes too, with their own backoff, for as long as it takes. So a node whose
//!   bootstrap nodes are all dead comes back through its saved map, and one with an empty map waits for a bootstrap node.
//! * Above the high-water mark: close the youngest connections, a few at a time. Old ones are likely to stay. Each has some seconds
//!   before that, for what it came for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    primitives::{Multiaddr, PeerId},
    runtime::Backoff,
};

/// Fewer peers than this is "few": bootstrap nodes are tried again.
const FEW: usize = 3;
/// Dials started in one round.
const DIALS: usize = 8;
/// First and longest pause before the same candidate is dialled again.
const CANDIDATE_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// First and longest pause before a bootstrap node is dialled again.
const BOOTSTRAP_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Candidates whose failures we remember; beyond it the oldest knowledge is forgotten.
const REMEMBERED: usize = 4096;
/// A connection that lasted this long was a good one: its peer is dialled without a pause when it is lost. One that accepts us and
/// closes at once keeps its growing pause.
const GOOD: Duration = Duration::from_secs(30);
/// Connections closed in one round above the high-water mark.
const PRUNE: usize = 8;
/// A connection is not closed for being one too many before this: a message over a slow line takes as long.
const SERVED: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Pause {
    backoff: Backoff,
    until: Instant,
}

impl Pause {
    fn new((first, max): (Duration, Duration), now: Instant) -> Self {
        Self { backoff: Backoff::new(first, max), until: now }
    }

    fn tried(&mut self, now: Instant, random: f64) {
        self.until = now + self.backoff.next(random);
    }
}

#[derive(Debug)]
struct Bootstrap {
    addr: Multiaddr,
    /// Who answers there: from the addr, or learnt by dialling it.
    peer: Option<PeerId>,
    pause: Pause,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) dial_peers: Vec<PeerId>,
    pub(super) dial_addrs: Vec<Multiaddr>,
    pub(super) close: Vec<PeerId>,
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Peers {
    target: usize,
    high_water: usize,
    bootstrap: Vec<Bootstrap>,
    pauses: HashMap<PeerId, Pause>,
    connected: HashMap<PeerId, Instant>,
}

impl Peers {
    pub(super) fn new(target: usize, high_water: usize, bootstrap: Vec<Multiaddr>, now: Instant) -> Self {
        let entry = |addr: Multiaddr| {
            let peer = super::peer_of(&addr);
            Bootstrap { addr, peer, pause: Pause::new(BOOTSTRAP_BACKOFF, now) }
        };
        let bootstrap = bootstrap.into_iter().map(entry).collect();
        Self {
            target,
            high_water: high_water.max(target + 1),
            bootstrap,
            pauses: HashMap::new(),
            connected: HashMap::new(),
        }
    }

    pub(super) fn on_up(&mut self, peer: PeerId, now: Instant) {
        self.connected.insert(peer, now);
    }

    pub(super) fn on_down(&mut self, peer: &PeerId, now: Instant) {
        let since = self.connected.remove(peer);
        if since.is_some_and(|since| now.saturating_duration_since(since) >= GOOD) {
            self.forgive(peer);
        }
    }

    /// Ends the pauses of a peer: it may be dialled now.
    pub(super) fn forgive(&mut self, peer: &PeerId) {
        self.pauses.remove(peer);
        for entry in self.bootstrap.iter_mut().filter(|b| b.peer.as_ref() == Some(peer)) {
            entry.pause.backoff.reset();
        }
    }

    /// We are in another network, or in one again: what could not be dialled before may be there now.
    pub(super) fn forgive_all(&mut self, now: Instant) {
        self.pauses.clear();
        for entry in &mut self.bootstrap {
            entry.pause = Pause::new(BOOTSTRAP_BACKOFF, now);
        }
    }

    /// A dial of a bootstrap addr found `peer` there. Without this an addr that does not say whose it is would be dialled again
    /// and again while we are connected.
    pub(super) fn on_bootstrapped(&mut self, addr: &Multiaddr, peer: PeerId) {
        for entry in self.bootstrap.iter_mut().filter(|b| b.addr == *addr) {
            entry.peer = Some(peer);
        }
    }

    /// How many candidates the next round could use.
    pub(super) fn wanted(&self) -> usize {
        // Twice as many, since some of them are connected or paused.
        self.target.saturating_sub(self.connected.len()).min(DIALS) * 2
    }

    /// Decides the next round. `in_use` says whether a peer must not be closed; `random` is uniform in `0.0..1.0`.
    pub(super) fn round(
        &mut self,
        now: Instant,
        candidates: Vec<PeerId>,
        in_use: impl Fn(&PeerId) -> bool,
        mut random: impl FnMut() -> f64,
    ) -> Round {
        let mut round = Round::default();
        let missing = self.target.saturating_sub(self.connected.len()).min(DIALS);
        for peer in candidates {
            if round.dial_peers.len() >= missing {
                break;
            }
            if self.connected.contains_key(&peer) || round.dial_peers.contains(&peer) {
                continue;
            }
            if self.pauses.len() >= REMEMBERED && !self.pauses.contains_key(&peer) {
                self.pauses.retain(|_, p| p.until > now);
                if self.pauses.len() >= REMEMBERED {
                    break;
                }
            }
            let pause = self.pauses.entry(peer).or_insert_with(|| Pause::new(CANDIDATE_BACKOFF, now));
            if pause.until <= now {
                pause.tried(now, random());
                round.dial_peers.push(peer);
            }
        }
        if self.connected.len() < FEW.min(self.target) {
            for Bootstrap { addr, peer, pause } in &mut self.bootstrap {
                let connected = peer.is_some_and(|p| self.connected.contains_key(&p));
                if !connected && pause.until <= now {
                    pause.tried(now, random());
                    round.dial_addrs.push(addr.clone());
                }
            }
        }
        if self.connected.len() > self.high_water {
            let settled = |since: &Instant| now.saturating_duration_since(*since) >= SERVED;
            let mut by_age: Vec<_> = self.connected.iter().filter(|(p, _)| !in_use(p)).collect();
            by_age.sort_by_key(|(_, since)| std::cmp::Reverse(**since));
            let excess = (self.connected.len() - self.high_water).min(PRUNE);
            // Those that still have their time take nobody else's place.
            let youngest = by_age.into_iter().take(excess);
            round.close = youngest.filter(|(_, since)| settled(since)).map(|(p, _)| *p).collect();
        }
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(peer: PeerId) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}").parse().unwrap()
    }

    #[test]
    fn bootstrap_nodes_are_tried_with_backoff_for_ever_and_only_when_peers_are_few() {
        let start = Instant::now();
        let boot = PeerId::random();
        let mut peers = Peers::new(8, 16, vec![addr(boot)], start);
        let mut now = start;
        let mut tries = 0;
        for _ in 0..3600 {
            tries += peers.round(now, Vec::new(), |_| false, || 1.0).dial_addrs.len();
            now += Duration::from_secs(1);
        }
        assert!((60..80).contains(&tries), "about one a minute after the start, got {tries}");
        (0..3).for_each(|_| peers.on_up(PeerId::random(), now));
        now += Duration::from_secs(3600);
        assert!(peers.round(now, Vec::new(), |_| false, || 1.0).dial_addrs.is_empty());
    }

    #[test]
    fn candidates_fill_up_to_the_target_and_pause_after_a_try() {
        let now = Instant::now();
        let mut peers = Peers::new(4, 16, Vec::new(), now);
        let candidates: Vec<_> = (0..10).map(|_| PeerId::random()).collect();
        let first = peers.round(now, candidates.clone(), |_| false, || 1.0);
        assert_eq!(first.dial_peers, candidates[..4]);
        let second = peers.round(now, candidates[..4].to_vec(), |_| false, || 1.0);
        assert_eq!(second, Round::default(), "they are paused");
        let later = now + Duration::from_secs(3);
        assert_eq!(peers.round(later, candidates[..4].to_vec(), |_| false, || 1.0).dial_peers.len(), 4);
    }

    #[test]
    fn above_the_high_water_mark_the_youngest_unused_go() {
        let now = Instant::now();
        let mut peers = Peers::new(2, 4, Vec::new(), now);
        let all: Vec<_> = (0..6).map(|_| PeerId::random()).collect();
        for (i, peer) in all.iter().enumerate() {
            peers.on_up(*peer, now + Duration::from_secs(i as u64));
        }
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut closed = |seconds| peers.round(at(seconds), Vec::new(), |p| *p == all[5], || 1.0).close;
        assert_eq!(closed(9), [], "each has its time");
        assert_eq!(closed(13), [all[3]]);
        assert_eq!(closed(20), [all[4], all[3]]);
    }

    #[test]
    fn a_bootstrap_addr_without_an_id_is_left_alone_while_its_node_is_connected() {
        let start = Instant::now();
        let anonymous: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let mut peers = Peers::new(8, 16, vec![anonymous.clone()], start);
        let boot = PeerId::random();
        let late = start + Duration::from_secs(3600);
        assert_eq!(peers.round(start, Vec::new(), |_| false, || 1.0).dial_addrs, std::slice::from_ref(&anonymous));
        peers.on_up(boot, start);
        peers.on_bootstrapped(&anonymous, boot);
        assert!(peers.round(late, Vec::new(), |_| false, || 1.0).dial_addrs.is_empty());
        peers.on_down(&boot, late);
        assert_eq!(peers.round(late, Vec::new(), |_| false, || 1.0).dial_addrs, [anonymous]);
    }

    #[test]
    fn in_another_network_everybody_is_dialled_at_once() {
        let start = Instant::now();
        let (boot, peer) = (PeerId::random(), PeerId::random());
        let mut peers = Peers::new(8, 16, vec![addr(boot)], start);
        let mut now = start;
        for _ in 0..600 {
            peers.round(now, vec![peer], |_| false, || 1.0);
            now += Duration::from_secs(1);
        }
        let paused = peers.round(now, vec![peer], |_| false, || 1.0);
        assert!(paused.dial_peers.is_empty(), "{paused:?}");
        peers.forgive_all(now);
        let round = peers.round(now, vec![peer], |_| false, || 1.0);
        assert_eq!((round.dial_peers, round.dial_addrs), (vec![peer], vec![addr(boot)]));
    }

    #[test]
    fn a_peer_that_closes_at_once_is_dialled_less_and_less_and_a_good_one_at_once() {
        let mut now = Instant::now();
        let peer = PeerId::random();
        let mut peers = Peers::new(4, 16, Vec::new(), now);
        let mut tries = 0;
        for _ in 0..600 {
            let dialled = peers.round(now, vec![peer], |_| false, || 1.0).dial_peers.len();
            tries += dialled;
            if dialled > 0 {
                peers.on_up(peer, now);
                peers.on_down(&peer, now + Duration::from_millis(100));
            }
            now += Duration::from_secs(1);
        }
        assert!((5..12).contains(&tries), "2, 4, 8 seconds and so on, got {tries}");
        peers.on_up(peer, now);
        peers.on_down(&peer, now + GOOD);
        assert_eq!(peers.round(now + GOOD, vec![peer], |_| false, || 1.0).dial_peers, [peer]);
    }
}
