//! Whom to greet when. The cost of SHAKEHAND does not grow with the number of connections: some are asked a round, in turn.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::primitives::PeerId;

/// Peers asked in one round.
const A_ROUND: u32 = 8;
/// A round when we are in step.
const ROUND: Duration = Duration::from_secs(10);
/// A round while we catch up: targets move.
const ROUND_SYNCING: Duration = Duration::from_secs(3);
/// SHAKEHANDs under way at once.
const AT_ONCE: usize = 8;
/// Of them for those that are asked out of turn: names that come and say nothing leave the rest to who is here.
const OUT_OF_TURN: usize = AT_ONCE / 2;
/// A peer that does not speak the protocol, or is of another chain, is asked again after this.
const REFUSED: Duration = Duration::from_secs(600);

/// How often the time doubles after which a silence is long: up to a minute and a half at the default interval.
const DOUBLINGS: u32 = 4;

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Asked at once, out of turn.
    urgent: bool,
    asking: bool,
    /// It is being asked out of turn.
    out_of_turn: bool,
    /// When it was asked last.
    last: Instant,
    /// Not asked before.
    refused_until: Option<Instant>,
}

impl Peer {
    fn may_be_asked(&self, now: Instant) -> bool {
        !self.asking && self.refused_until.is_none_or(|until| until <= now)
    }
}

/// The order of SHAKEHANDs.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    peers: HashMap<PeerId, Peer>,
    /// When the next peer of the round is asked.
    next: Option<Instant>,
}

impl Schedule {
    /// A peer is connected: it is asked at once.
    pub(super) fn add(&mut self, peer: PeerId, now: Instant) {
        self.peers
            .insert(peer, Peer { urgent: true, asking: false, out_of_turn: false, last: now, refused_until: None });
    }

    /// The same for a peer that may be known.
    pub(super) fn add_if_new(&mut self, peer: PeerId, now: Instant) {
        if !self.contains(&peer) {
            self.add(peer, now);
        }
    }

    /// Whether the peer is connected.
    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Connected peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().copied()
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Nothing was heard of new blocks for a while: a whole round now.
    pub(super) fn hurry(&mut self, now: Instant) {
        let mut late: Vec<_> = self.peers.values_mut().filter(|p| p.may_be_asked(now)).collect();
        late.sort_by_key(|p| p.last);
        late.into_iter().take(A_ROUND as usize).for_each(|p| p.urgent = true);
    }

    /// Who is to be asked now. `random` is uniform in `0.0..1.0`.
    pub(super) fn start(&mut self, syncing: bool, now: Instant, random: f64) -> Vec<PeerId> {
        let asking = self.peers.values().filter(|p| p.asking).count();
        let mut waiting: Vec<_> = self.peers.iter().filter(|(_, p)| p.may_be_asked(now)).collect();
        waiting.sort_unstable_by_key(|(id, p)| (!p.urgent, p.last, **id));
        let (urgent, others): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|(id, p)| (*id, p.urgent)).partition(|(_, urgent)| *urgent);
        let out_of_turn = self.peers.values().filter(|p| p.asking && p.out_of_turn).count();
        // The others follow one another at an even pace, so that their number does not count.
        let round = if syncing { ROUND_SYNCING } else { ROUND };
        let places = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).clamp(1, A_ROUND);
        let pace = (round / places).mul_f64(0.8 + 0.4 * random);
        let next = self.next.get_or_insert(now + pace);
        *next = (*next).min(now + pace);
        let in_turn = usize::from(*next <= now);
        if in_turn > 0 {
            *next = (*next + pace).max(now);
        }
        let urgent = urgent.into_iter().take(OUT_OF_TURN.saturating_sub(out_of_turn));
        let started: Vec<_> =
            urgent.chain(others.into_iter().take(in_turn)).take(AT_ONCE.saturating_sub(asking)).collect();
        for (id, urgent) in &started {
            if let Some(peer) = self.peers.get_mut(id) {
                (peer.asking, peer.urgent, peer.out_of_turn, peer.last) = (true, false, *urgent, now);
            }
        }
        started.into_iter().map(|(id, _)| id).collect()
    }

    /// A SHAKEHAND ended; `refused` when there is no use in asking again soon.
    pub(super) fn done(&mut self, peer: &PeerId, refused: bool, now: Instant) {
        if let Some(known) = self.peers.get_mut(peer) {
            (known.asking, known.refused_until) = (false, refused.then_some(now + REFUSED));
        }
    }
}

/// Since when no block came. It is long after a while, then after twice that, and so on: where nobody makes blocks, peers need not be
/// asked all the time.
#[derive(Debug)]
pub(super) struct Silence {
    first: Duration,
    since: Instant,
    rounds: u32,
}

impl Silence {
    /// `first`: until it is long for the first time.
    pub(super) fn new(first: Duration, now: Instant) -> Self {
        Self { first, since: now, rounds: 0 }
    }

    /// A block came.
    pub(super) fn broken(&mut self, now: Instant) {
        (self.since, self.rounds) = (now, 0);
    }

    /// Whether it has been long; told once for each time.
    pub(super) fn is_long(&mut self, now: Instant) -> bool {
        let is_long = now.saturating_duration_since(self.since) >= self.first * (1 << self.rounds);
        if is_long {
            (self.since, self.rounds) = (now, (self.rounds + 1).min(DOUBLINGS));
        }
        is_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Greetings sent within `length`, each answered at once.
    fn asked(peers: usize, syncing: bool, length: Duration) -> HashMap<PeerId, usize> {
        let (mut schedule, mut now) = (Schedule::default(), Instant::now());
        (0..peers).for_each(|_| schedule.add(PeerId::random(), now));
        let (mut counts, end) = (HashMap::new(), now + length);
        while now < end {
            for peer in schedule.start(syncing, now, 0.5) {
                *counts.entry(peer).or_default() += 1;
                schedule.done(&peer, false, now);
            }
            now += Duration::from_millis(100);
        }
        counts
    }

    #[test]
    fn each_of_a_few_peers_is_asked_every_ten_seconds_and_every_three_while_syncing() {
        for peers in [1, 4, 8] {
            let counts = asked(peers, false, Duration::from_secs(300));
            assert_eq!(counts.len(), peers);
            assert!(counts.values().all(|n| (27..=33).contains(n)), "{peers}: {counts:?}");
            let counts = asked(peers, true, Duration::from_secs(300));
            assert!(counts.values().all(|n| (80..=110).contains(n)), "{peers}: {counts:?}");
        }
    }

    #[test]
    fn the_cost_does_not_grow_with_the_number_of_peers_and_nobody_is_left_out() {
        let few: usize = asked(8, false, Duration::from_secs(600)).values().sum();
        let many = asked(100, false, Duration::from_secs(600));
        assert_eq!(many.len(), 100);
        let sum: usize = many.values().sum();
        assert!(sum <= few + 100 + few / 5, "{sum} for a hundred, {few} for eight");
        assert!(many.values().all(|n| (3..=8).contains(n)), "{many:?}");
    }

    #[test]
    fn a_silence_is_long_ever_later_until_a_block_breaks_it() {
        let start = Instant::now();
        let mut silence = Silence::new(Duration::from_secs(6), start);
        let mut told = |from: u64, to: u64| -> Vec<u64> {
            (from..to).filter(|second| silence.is_long(start + Duration::from_secs(*second))).collect()
        };
        assert_eq!(told(0, 400), [6, 18, 42, 90, 186, 282, 378]);
        silence.broken(start + Duration::from_secs(400));
        let told: Vec<u64> =
            (400..430).filter(|second| silence.is_long(start + Duration::from_secs(*second))).collect();
        assert_eq!(told, [406, 418]);
    }

    #[test]
    fn who_comes_is_asked_at_once_and_who_refused_not_for_long() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let (a, b) = (PeerId::random(), PeerId::random());
        schedule.add(a, now);
        assert_eq!(schedule.start(false, now, 0.0), [a]);
        assert!(schedule.start(false, now + ROUND, 0.0).is_empty(), "it is being asked");
        schedule.done(&a, true, now);
        schedule.add(b, now);
        assert_eq!(schedule.start(false, now, 0.0), [b]);
        schedule.done(&b, false, now);
        let mut later = Vec::new();
        for second in 1..60 {
            for peer in schedule.start(false, now + Duration::from_secs(second), 1.0) {
                later.push(peer);
                schedule.done(&peer, false, now + Duration::from_secs(second));
            }
        }
        assert!(later.len() > 3 && later.iter().all(|p| *p == b), "{later:?}");
        schedule.hurry(now + Duration::from_secs(60));
        assert_eq!(schedule.start(false, now + Duration::from_secs(60), 1.0), [b]);
        schedule.remove(&b);
        assert!(schedule.start(false, now + Duration::from_secs(70), 1.0).is_empty());
    }
}
