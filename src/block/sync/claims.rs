//! What peers say about their chains, and how far to believe it: a height is a hint until blocks prove it (N7).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::wire::Greeting;
use crate::{
    block::{Block, Point},
    primitives::{Hash, PeerId},
};

/// How far beyond what is proven a claim counts: 32 batches, more than are ever under way.
pub(super) const AHEAD: u64 = 4096;
/// Pulls that may fail before a claim is cut to what is proven.
const FAILURES: u8 = 3;
/// For how long it is cut, and for how long a peer on a branch below our committed block is left alone.
pub(super) const CUT: Duration = Duration::from_secs(60);
/// Answers of "busy" in a row that count as one failure.
const BUSIES: u8 = 8;
/// Peers remembered; connections are limited to fewer.
const PEERS: usize = 1024;
/// How long broadcast may take to bring a head that a peer claims: beyond it something between us is broken (L1).
const PATIENCE: Duration = Duration::from_secs(10);
/// The same when the connection is younger than [`PATIENCE`]: broadcast never had the chance.
const PATIENCE_NEW: Duration = Duration::from_secs(2);

/// What one peer says.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// The best block it says it has.
    pub(super) head: Point,
    /// The newest block that is final there.
    pub(super) committed: Point,
    /// The highest block that it proved.
    pub(super) proven: u64,
    /// Lowest height whose body it says it holds.
    pub(super) earliest: u64,
    failures: u8,
    busies: u8,
    cut_until: Option<Instant>,
    busy_until: Option<Instant>,
    since: Instant,
    /// Since when its head, whichever it was, is not held here.
    missing_since: Option<Instant>,
    /// A head that was found here: it is not looked up again.
    held: Option<Hash>,
}

impl Claim {
    pub(super) fn is_cut(&self, now: Instant) -> bool {
        self.cut_until.is_some_and(|until| now < until)
    }

    /// The height up to which it is worth asking, when `base` is where we are ourselves.
    pub(super) fn height(&self, base: u64, now: Instant) -> u64 {
        match self.is_cut(now) {
            true => self.proven,
            false => self.head.height.min(self.proven.max(base).saturating_add(AHEAD)),
        }
    }

    /// Its head is not here, and there is no reason not to ask for it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.missing_since.is_some() && !self.is_cut(now)
    }

    /// Wanted, and broadcast had its time.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let fresh = now.saturating_duration_since(self.since) < PATIENCE;
        let patience = if fresh { PATIENCE_NEW } else { PATIENCE };
        self.is_wanted(now) && self.missing_since.is_some_and(|s| now.saturating_duration_since(s) >= patience)
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    /// When its last cut ended or ends; who was never cut comes first.
    pub(super) fn cut_until(&self) -> Option<Instant> {
        self.cut_until
    }

    pub(super) fn failures(&self) -> u8 {
        self.failures
    }
}

/// How high the chain is, as far as one can believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// The height.
    pub(super) height: u64,
    /// Whether two peers say so. Of less, a node that is in step is not put out of it.
    pub(super) backed: bool,
}

/// What all connected peers of our chain say. In order of address, so that a simulation runs the same way twice.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<PeerId, Claim>);

impl Claims {
    /// A SHAKEHAND: what it says counts, also when it is less than before.
    pub(super) fn greet(&mut self, peer: PeerId, greeting: &Greeting, now: Instant) {
        if self.0.len() >= PEERS && !self.0.contains_key(&peer) {
            return;
        }
        let claim = self.0.entry(peer).or_insert_with(|| Claim {
            head: greeting.head,
            committed: greeting.committed,
            proven: 0,
            earliest: 0,
            failures: 0,
            busies: 0,
            cut_until: None,
            busy_until: None,
            since: now,
            missing_since: None,
            held: None,
        });
        (claim.head, claim.committed, claim.earliest) = (greeting.head, greeting.committed, greeting.earliest);
    }

    /// An announcement: it can only raise what a SHAKEHAND said, and only of a peer whose chain is ours.
    pub(super) fn raise(&mut self, peer: &PeerId, head: Point) {
        if let Some(claim) = self.0.get_mut(peer).filter(|c| head.height > c.head.height) {
            claim.head = head;
        }
    }

    /// The peer is gone.
    pub(super) fn remove(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// A pull failed.
    pub(super) fn fail(&mut self, peer: &PeerId, now: Instant) {
        let Some(claim) = self.0.get_mut(peer) else { return };
        claim.failures += 1;
        if claim.failures >= FAILURES {
            (claim.failures, claim.cut_until) = (0, Some(now + CUT));
        }
    }

    /// Leaves a peer alone for a while, whatever it says.
    pub(super) fn cut(&mut self, peer: &PeerId, until: Instant) {
        if let Some(claim) = self.0.get_mut(peer) {
            (claim.proven, claim.failures, claim.cut_until) = (0, 0, Some(until));
        }
    }

    /// Whether most of those whose final block lies within these blocks, their sender not asked, have another one there.
    pub(super) fn outvote(&self, sender: &PeerId, blocks: &[Block]) -> bool {
        let Some(first) = blocks.first().map(|b| b.header().height) else { return false };
        let (mut same, mut other) = (1, 0);
        for (_, claim) in self.0.iter().filter(|(peer, _)| *peer != sender) {
            let place = claim.committed.height.checked_sub(first).and_then(|i| usize::try_from(i).ok());
            match place.and_then(|i| blocks.get(i)) {
                Some(block) if block.hash() == claim.committed.hash => same += 1,
                Some(_) => other += 1,
                None => {}
            }
        }
        other > same
    }

    /// Blocks up to this height came and are in our chain.
    pub(super) fn prove(&mut self, peer: &PeerId, height: u64) {
        if let Some(claim) = self.0.get_mut(peer) {
            (claim.proven, claim.failures, claim.busies) = (claim.proven.max(height), 0, 0);
        }
    }

    /// It says itself that its head is lower.
    pub(super) fn lower(&mut self, peer: &PeerId, height: u64, now: Instant) {
        if let Some(claim) = self.0.get_mut(peer) {
            // The hash belonged to the head before; the next SHAKEHAND brings the right one.
            claim.head.height = claim.head.height.min(height);
            claim.proven = claim.proven.min(height);
        }
        self.fail(peer, now);
    }

    /// It does not hold bodies below this height any more.
    pub(super) fn prune(&mut self, peer: &PeerId, earliest: u64) {
        if let Some(claim) = self.0.get_mut(peer) {
            claim.earliest = claim.earliest.max(earliest);
        }
    }

    /// It has too much to do.
    pub(super) fn busy(&mut self, peer: &PeerId, pause: Duration, now: Instant) {
        let Some(claim) = self.0.get_mut(peer) else { return };
        claim.busy_until = Some(now + pause);
        claim.busies += 1;
        if claim.busies >= BUSIES {
            claim.busies = 0;
            self.fail(peer, now);
        }
    }

    /// Looks which heads are here by now.
    pub(super) fn refresh(&mut self, now: Instant, held: impl Fn(&Hash) -> bool) {
        for claim in self.0.values_mut() {
            if claim.held == Some(claim.head.hash) || held(&claim.head.hash) {
                claim.held = Some(claim.head.hash);
                (claim.missing_since, claim.proven) = (None, claim.proven.max(claim.head.height));
            } else {
                claim.missing_since.get_or_insert(now);
            }
        }
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Claim> {
        self.0.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Claim)> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The highest head that two peers claim, else the highest that one does; `None` when no head is missing. With both, a lone
    /// claim above the backed one is for later: it counts when there is nothing left to get from two.
    pub(super) fn target(&self, base: u64, now: Instant) -> Option<Target> {
        let wanted = self.0.values().filter(|c| c.is_wanted(now));
        let mut heights: Vec<_> = wanted.map(|c| c.height(base, now)).collect();
        heights.sort_unstable();
        let (best, second) = (heights.pop()?, heights.pop());
        match second.filter(|s| *s > base) {
            Some(second) => Some(Target { height: second, backed: true }),
            None => Some(Target { height: best, backed: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(height: u64) -> Point {
        Point { height, hash: Hash::of(&height.to_be_bytes()) }
    }

    fn greeting(height: u64) -> Greeting {
        Greeting {
            genesis: Hash::default(),
            timestamp: Default::default(),
            committed: point(0),
            head: point(height),
            earliest: 1,
            address: PeerId::random(),
        }
    }

    fn claims(heights: &[u64], now: Instant) -> (Claims, Vec<PeerId>) {
        let mut claims = Claims::default();
        let peers: Vec<_> = heights.iter().map(|_| PeerId::random()).collect();
        for (peer, height) in peers.iter().zip(heights) {
            claims.greet(*peer, &greeting(*height), now);
        }
        claims.refresh(now, |_| false);
        (claims, peers)
    }

    #[test]
    fn the_target_is_what_two_say_and_one_alone_only_a_hint() {
        let now = Instant::now();
        let (claims, _) = claims(&[1 << 62, 500, 400], now);
        assert_eq!(claims.target(100, now), Some(Target { height: 500, backed: true }));
        let (claims, peers) = self::claims(&[1 << 62], now);
        assert_eq!(claims.target(100, now), Some(Target { height: 100 + AHEAD, backed: false }), "N7");
        let mut claims = claims;
        (0..FAILURES).for_each(|_| claims.fail(&peers[0], now));
        assert_eq!(claims.target(100, now), None, "it is cut to what it proved");
        assert_eq!(claims.target(100, now + CUT), Some(Target { height: 100 + AHEAD, backed: false }));
    }

    #[test]
    fn what_is_held_is_proven_and_wanted_no_more() {
        let now = Instant::now();
        let (mut claims, peers) = claims(&[500, 600], now);
        claims.refresh(now, |h| *h == point(500).hash);
        assert_eq!(claims.get(&peers[0]).unwrap().proven, 500);
        assert_eq!(claims.target(500, now), Some(Target { height: 600, backed: false }));
        claims.refresh(now, |_| true);
        assert_eq!(claims.target(500, now), None);
    }

    #[test]
    fn a_failure_after_a_proof_starts_the_count_again_and_busy_is_patience_with_an_end() {
        let now = Instant::now();
        let (mut claims, peers) = claims(&[500], now);
        (0..FAILURES - 1).for_each(|_| claims.fail(&peers[0], now));
        claims.prove(&peers[0], 128);
        claims.fail(&peers[0], now);
        assert!(!claims.get(&peers[0]).unwrap().is_cut(now));
        let busies = usize::from(BUSIES) * usize::from(FAILURES);
        for _ in 0..busies - 1 {
            claims.busy(&peers[0], Duration::from_secs(1), now);
        }
        assert!(claims.get(&peers[0]).unwrap().is_busy(now));
        assert!(!claims.get(&peers[0]).unwrap().is_busy(now + Duration::from_secs(1)));
        claims.busy(&peers[0], Duration::from_secs(1), now);
        assert_eq!(claims.get(&peers[0]).unwrap().height(0, now), 128, "busy for ever is no answer");
    }

    #[test]
    fn announcements_raise_and_only_greetings_lower() {
        let now = Instant::now();
        let (mut claims, peers) = claims(&[500], now);
        claims.raise(&peers[0], point(400));
        assert_eq!(claims.get(&peers[0]).unwrap().head, point(500));
        claims.raise(&peers[0], point(501));
        assert_eq!(claims.get(&peers[0]).unwrap().head, point(501));
        claims.greet(peers[0], &greeting(3), now);
        assert_eq!(claims.get(&peers[0]).unwrap().head, point(3));
        claims.raise(&PeerId::random(), point(9));
        assert_eq!(claims.len(), 1, "whose genesis is not known says nothing");
    }

    #[test]
    fn a_head_that_does_not_come_is_overdue_even_when_it_goes_on_moving() {
        let start = Instant::now();
        let (mut claims, peers) = claims(&[500], start);
        let late = start + PATIENCE * 2;
        claims.refresh(late, |_| true);
        for second in 0..PATIENCE.as_secs() {
            let now = late + Duration::from_secs(second);
            claims.greet(peers[0], &greeting(501 + second), now);
            claims.refresh(now, |_| false);
            assert!(!claims.get(&peers[0]).unwrap().is_overdue(now), "broadcast has its time");
        }
        assert!(claims.get(&peers[0]).unwrap().is_overdue(late + PATIENCE), "L1");
    }
}
