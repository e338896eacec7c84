//! What peers say about their chains, and how far to believe it: a height is a hint until blocks prove it (N7).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    time::{Duration, Instant},
};

use super::{
    run::{BATCHES, WITH_CHAIN},
    wire::{Greeting, MAX_COUNT},
};
use crate::{
    block::{Block, Point},
    net::Voice,
    primitives::{Hash, PeerId},
};

/// How far beyond what is proven a claim counts: 96 batches, more than are ever with the chain and under way, so that whatever is under way
/// is told of by as many peers as have it.
pub(super) const AHEAD: u64 = 3 * 4096;
const _: () = assert!(AHEAD as usize > WITH_CHAIN.blocks + BATCHES * MAX_COUNT as usize);
/// Pulls that may fail before a claim is cut to what is proven.
const FAILURES: u8 = 3;
/// For how long it is cut, and for how long a peer on a branch below our committed block is left alone.
pub(super) const CUT: Duration = Duration::from_secs(60);
/// Pulls that end within it may end with one connection.
const MOMENT: Duration = Duration::from_secs(1);
/// Answers of "busy" in a row that count as one failure; those of a moment ([`MOMENT`]) are one.
const BUSIES: u8 = 8;
/// Peers remembered; connections are limited to fewer.
const PEERS: usize = 1024;
/// In this time what a peer gave speaks half as loud for what it says: whoever is the first to give each new block, one in two
/// seconds, comes to four.
const HALF: Duration = Duration::from_secs(5);
/// After so long, two pulls that run out of time, it is doubtful that a peer that gave nothing has anything.
const DOUBT: Duration = Duration::from_secs(20);
/// How long broadcast may take to bring a head that a peer claims: beyond it something between us is broken (L1).
const PATIENCE: Duration = Duration::from_secs(10);
/// The same when the connection is younger than [`PATIENCE`]: broadcast never had the chance.
const PATIENCE_NEW: Duration = Duration::from_secs(2);
/// One voice of so many has to say that there is more for a node in step to believe it without blocks: of all that are connected,
/// two are easily of one hand. And more have to than there are whose heads are here.
const BACKERS: usize = 3;
/// Voices that say so at least.
const MIN_BACKERS: usize = 2;
/// Voices in step without which the others are given time to show what they say, whatever was tried: one or two may be as far behind.
const IN_STEP: usize = 3;
/// Cuts of peers that are gone, remembered until they end; of more, those that end first are forgotten.
const CUTS: usize = 1024;

/// What one peer says.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Where peers are counted all of one voice are one.
    pub(super) voice: Voice,
    /// The best block it says it has. Its height may have been lowered since.
    pub(super) head: Point,
    /// The same as it said it.
    said: Point,
    /// The newest block that is final there.
    pub(super) committed: Point,
    /// The highest block that it proved.
    pub(super) proven: u64,
    /// Lowest height whose body it says it holds.
    pub(super) earliest: u64,
    failures: u8,
    busies: u8,
    /// When one of them was counted last.
    busy_at: Option<Instant>,
    /// When a failure was counted that may have been the connection's.
    lost_at: Option<Instant>,
    cut_until: Option<Instant>,
    busy_until: Option<Instant>,
    since: Instant,
    /// Since when its head, whichever it was, is not held here.
    missing_since: Option<Instant>,
    /// A head that was found here: it is not looked up again.
    held: Option<Point>,
    /// Its head is a block of another height.
    lies: bool,
    /// It proved that it is on a branch that contradicts what is final here.
    contradicts: bool,
    /// When it did.
    proved: Option<Instant>,
    /// No run or search begins because of it before.
    passed_until: Option<Instant>,
    /// It let its last pull run out of time.
    silent: bool,
    /// Blocks that it gave and nobody else had given before: half of what it was [`HALF`] before, and what came since.
    gave: f64,
    gave_at: Option<Instant>,
}

impl Claim {
    /// New blocks that it gave of late.
    fn given(&self, now: Instant) -> f64 {
        let passed = self.gave_at.map_or(HALF, |at| now.saturating_duration_since(at));
        self.gave * 0.5_f64.powf(passed.as_secs_f64() / HALF.as_secs_f64())
    }

    /// It had the time to give what it says it has, and did not.
    fn is_doubtful(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= DOUBT && self.given(now) < 1.0
    }

    pub(super) fn is_cut(&self, now: Instant) -> bool {
        self.cut_until.is_some_and(|until| now < until)
    }

    /// It says that it has more than we do, and shows nothing: it had the time to, or there is no more `patience` with anybody.
    fn is_idle(&self, patience: bool, now: Instant) -> bool {
        let waits = |since: Instant| patience && now.saturating_duration_since(since) < DOUBT;
        self.missing_since.is_some_and(|since| !waits(since)) && self.given(now) < 1.0
    }

    /// Whether it is listened to about what others send: not when it was asked and let the pull run out of time, failed several times, or lies about
    /// a height. Who was not asked has its voice, or in a moment in which nobody gives anything one liar alone would be heard.
    pub(super) fn has_voice(&self, now: Instant) -> bool {
        !(self.lies || self.silent || self.is_cut(now))
    }

    /// The height up to which it is worth asking, when `base` is where we are ourselves.
    pub(super) fn height(&self, base: u64, now: Instant) -> u64 {
        match self.is_cut(now) || self.lies {
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

    fn is_held(&self) -> bool {
        self.held == Some(self.said)
    }

    /// It was passed over a moment ago: it is asked with others, but nothing begins because of it.
    pub(super) fn is_passed(&self, now: Instant) -> bool {
        self.passed_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    /// When it was, or will be, passed over no more.
    pub(super) fn passed_until(&self) -> Option<Instant> {
        self.passed_until
    }

    /// It let its last pull run out of time: nobody waits for it to vouch for what others sent.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
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
    /// Whether a third of the voices, and at least two, say so. Of less, a node that is in step is not put out of it.
    pub(super) backed: bool,
    /// The most new blocks that one who says that there is more gave of late, the older ones counting less.
    pub(super) given: u64,
    /// Whoever says so had the time to show it, and did not.
    pub(super) doubtful: bool,
    /// It has been said for that long.
    pub(super) long: bool,
}

/// What all connected peers of our chain say. In order of address, so that a simulation runs the same way twice.
#[derive(Debug, Default)]
pub(super) struct Claims {
    peers: BTreeMap<PeerId, Claim>,
    /// Until when peers that are gone are cut, and whether they contradict us: to come back does not end it.
    cuts: BTreeMap<PeerId, (Instant, bool)>,
    /// Until then a claim counts with what was given for it alone ([`Claims::distrust`]).
    distrust_until: Option<Instant>,
}

impl Claims {
    /// A SHAKEHAND: what it says counts, also when it is less than before.
    pub(super) fn greet(&mut self, peer: PeerId, greeting: &Greeting, now: Instant) {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            return;
        }
        let cuts = &mut self.cuts;
        let claim = self.peers.entry(peer).or_insert_with(|| {
            let cut = cuts.remove(&peer);
            Claim {
                voice: Voice::Name(peer),
                head: greeting.head,
                said: greeting.head,
                committed: greeting.committed,
                proven: 0,
                earliest: 0,
                failures: 0,
                busies: 0,
                busy_at: None,
                lost_at: None,
                cut_until: cut.map(|(until, _)| until),
                busy_until: None,
                since: now,
                missing_since: None,
                held: None,
                lies: false,
                contradicts: cut.is_some_and(|(_, contradicts)| contradicts),
                proved: None,
                passed_until: None,
                silent: false,
                gave: 0.0,
                gave_at: None,
            }
        });
        (claim.head, claim.committed, claim.earliest) = (greeting.head, greeting.committed, greeting.earliest);
        (claim.said, claim.lies) = (greeting.head, false);
    }

    /// Whose voice a peer is.
    pub(super) fn place(&mut self, peer: &PeerId, voice: Voice) {
        if let Some(claim) = self.peers.get_mut(peer) {
            claim.voice = voice;
        }
    }

    /// Whose voice a peer is, or was if it is gone.
    pub(super) fn voice(&self, peer: &PeerId) -> Voice {
        self.peers.get(peer).map_or(Voice::Name(*peer), |claim| claim.voice)
    }

    /// How many voices all peers are.
    pub(super) fn voices(&self) -> usize {
        count(self.peers.values())
    }

    /// Whom a proof by `prover` is counted among: one peer of each voice, which is the prover of its own and of others whoever proved last that
    /// it contradicts what is final here.
    pub(super) fn told(&self, prover: &PeerId) -> HashSet<PeerId> {
        let mut told = BTreeMap::new();
        for (peer, claim) in &self.peers {
            let rank = (peer == prover, claim.contradicts, claim.proved);
            let speaker = told.entry(claim.voice).or_insert((rank, *peer));
            *speaker = (*speaker).max((rank, *peer));
        }
        told.into_values().map(|(_, peer)| peer).collect()
    }

    /// An announcement: it can only raise what a SHAKEHAND said, and only of a peer whose chain is ours.
    pub(super) fn raise(&mut self, peer: &PeerId, head: Point) {
        if let Some(claim) = self.peers.get_mut(peer).filter(|c| head.height > c.head.height) {
            (claim.head, claim.said, claim.lies) = (head, head, false);
        }
    }

    /// The peer is gone. Its cut lasts.
    pub(super) fn remove(&mut self, peer: &PeerId, now: Instant) {
        let Some(claim) = self.peers.remove(peer) else { return };
        let Some(until) = claim.cut_until.filter(|until| now < *until) else { return };
        self.cuts.retain(|_, (until, _)| now < *until);
        self.cuts.insert(*peer, (until, claim.contradicts));
        if self.cuts.len() > CUTS
            && let Some(first) = self.cuts.iter().min_by_key(|(_, (until, _))| *until).map(|(peer, _)| *peer)
        {
            self.cuts.remove(&first);
        }
    }

    /// A pull failed.
    pub(super) fn fail(&mut self, peer: &PeerId, now: Instant) {
        let Some(claim) = self.peers.get_mut(peer) else { return };
        claim.failures += 1;
        if claim.failures >= FAILURES {
            (claim.failures, claim.cut_until) = (0, Some(now + CUT));
        }
    }

    /// Its connection broke, or it could not answer. All pulls that are under way end with a connection, so those of a moment count once.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        let Some(claim) = self.peers.get_mut(peer) else { return };
        let counted = claim.lost_at.is_some_and(|at| now.saturating_duration_since(at) < MOMENT);
        if !counted {
            claim.lost_at = Some(now);
            self.fail(peer, now);
        }
    }

    /// Leaves a peer alone for a while, whatever it says.
    pub(super) fn cut(&mut self, peer: &PeerId, until: Instant) {
        if let Some(claim) = self.peers.get_mut(peer) {
            (claim.proven, claim.failures, claim.cut_until) = (0, 0, Some(until));
        }
    }

    /// It proved that its branch contradicts what is final here: until its head is here, that is no sign that we are behind.
    pub(super) fn contradict(&mut self, peer: &PeerId, now: Instant) {
        if let Some(claim) = self.peers.get_mut(peer) {
            (claim.contradicts, claim.proved) = (true, Some(now));
        }
    }

    /// Nothing begins because of this peer for a while. It is no cut: what it says counts, and it is asked with others.
    pub(super) fn pass(&mut self, peer: &PeerId, until: Instant) {
        if let Some(claim) = self.peers.get_mut(peer) {
            claim.passed_until = Some(until);
        }
    }

    /// Whether it let its last pull run out of time.
    pub(super) fn silent(&mut self, peer: &PeerId, silent: bool) {
        if let Some(claim) = self.peers.get_mut(peer) {
            claim.silent = silent;
        }
    }

    /// What peers said was tried for long, and came to nothing: until then nobody is given time to show it any more, or names that come anew
    /// and again would have it each time.
    pub(super) fn distrust(&mut self, until: Instant) {
        self.distrust_until = Some(until);
    }

    pub(super) fn distrusts(&self, now: Instant) -> bool {
        self.distrust_until.is_some_and(|until| now < until)
    }

    /// Whether anybody says that there is more than is here.
    pub(super) fn some_missing(&self) -> bool {
        self.peers.values().any(|c| c.missing_since.is_some())
    }

    /// Whether there are peers, and all of them say that they have more and show nothing.
    pub(super) fn all_idle(&self, now: Instant) -> bool {
        let patience = !self.distrusts(now);
        !self.is_empty() && self.peers.values().all(|c| c.lies || c.is_idle(patience, now))
    }

    /// Whether most voices have another final block within these blocks. Of all of them, because the honest ones are silent when
    /// their final blocks are higher: a few liars next to our head would be the only ones that are heard. Some have no
    /// voice ([`Claim::has_voice`]).
    pub(super) fn outvote(&self, sender: &PeerId, blocks: &[Block], now: Instant) -> bool {
        let Some(first) = blocks.first().map(|b| b.header().height) else { return false };
        let differs = |claim: &Claim| {
            let place = claim.committed.height.checked_sub(first).and_then(|i| usize::try_from(i).ok());
            place.and_then(|i| blocks.get(i)).is_some_and(|block| block.hash() != claim.committed.hash)
        };
        let voices = || self.peers.iter().filter(|(peer, claim)| *peer == sender || claim.has_voice(now));
        let other = voices().filter(|(peer, claim)| *peer != sender && differs(claim));
        count(other.map(|(_, claim)| claim)) * 2 > count(voices().map(|(_, claim)| claim))
    }

    /// Blocks up to this height came and are in our chain.
    pub(super) fn prove(&mut self, peer: &PeerId, height: u64) {
        if let Some(claim) = self.peers.get_mut(peer) {
            (claim.proven, claim.failures, claim.busies) = (claim.proven.max(height), 0, 0);
            claim.passed_until = None;
        }
    }

    /// So many blocks that it gave are in the chain, and were not before.
    pub(super) fn gave(&mut self, peer: &PeerId, new: usize, now: Instant) {
        if let Some(claim) = self.peers.get_mut(peer).filter(|_| new > 0) {
            // A batch at most: far below what a float holds.
            (claim.gave, claim.gave_at) = (claim.given(now) + new as f64, Some(now));
        }
    }

    /// It says itself that its head is lower.
    pub(super) fn lower(&mut self, peer: &PeerId, height: u64, now: Instant) {
        if let Some(claim) = self.peers.get_mut(peer) {
            // The hash belonged to the head before; the next SHAKEHAND brings the right one.
            claim.head.height = claim.head.height.min(height);
            claim.proven = claim.proven.min(height);
        }
        self.fail(peer, now);
    }

    /// It does not hold bodies below this height any more.
    pub(super) fn prune(&mut self, peer: &PeerId, earliest: u64) {
        if let Some(claim) = self.peers.get_mut(peer) {
            claim.earliest = claim.earliest.max(earliest);
        }
    }

    /// It has too much to do.
    pub(super) fn busy(&mut self, peer: &PeerId, pause: Duration, now: Instant) {
        let Some(claim) = self.peers.get_mut(peer) else { return };
        claim.busy_until = Some(now + pause);
        if claim.busy_at.is_some_and(|at| now.saturating_duration_since(at) < MOMENT) {
            return;
        }
        claim.busy_at = Some(now);
        claim.busies += 1;
        if claim.busies >= BUSIES {
            claim.busies = 0;
            self.fail(peer, now);
        }
    }

    /// Looks which heads are here by now; `held` gives the height of a block that is. Returns who said the hash of a block together
    /// with another height than its own: it is cut, and named once for each time that it said so.
    pub(super) fn refresh(&mut self, now: Instant, held: impl Fn(&Hash) -> Option<u64>) -> Vec<PeerId> {
        let mut liars = Vec::new();
        for (peer, claim) in self.peers.iter_mut().filter(|(_, c)| !c.lies) {
            let height = if claim.is_held() { Some(claim.said.height) } else { held(&claim.said.hash) };
            match height {
                Some(height) if height == claim.said.height => {
                    (claim.held, claim.contradicts) = (Some(claim.said), false);
                    (claim.missing_since, claim.proven) = (None, claim.proven.max(claim.head.height));
                }
                Some(_) => {
                    (claim.lies, claim.missing_since) = (true, None);
                    (claim.proven, claim.failures, claim.cut_until) = (0, 0, Some(now + CUT));
                    liars.push(*peer);
                }
                None => drop(claim.missing_since.get_or_insert(now)),
            }
        }
        liars
    }

    /// Whether somebody is in step, and whether the others are given time to show what they say.
    fn patience(&self, now: Instant) -> (bool, bool) {
        let held = self.held();
        (held > 0, held < IN_STEP || !self.distrusts(now))
    }

    /// Whether the heads of at least half of the voices are here, whether they are cut or not. Those that proved that they are on
    /// another branch are not counted, nor, while others are in step, those that lie about a height, or say for long that they have more and
    /// show nothing.
    pub(super) fn mostly_held(&self, now: Instant) -> bool {
        let (some, patience) = self.patience(now);
        let counted = || {
            let all = self.peers.values();
            all.filter(|c| !(c.contradicts || some && (c.lies || c.is_idle(patience, now))))
        };
        count(counted().filter(|c| c.is_held())) * 2 >= count(counted())
    }

    /// Whether more voices say that they have a head that is not here than have one that is. Those that say so for long and show nothing are not
    /// counted while others are in step: there may be any number of them, and they cost whoever has them next to nothing.
    pub(super) fn mostly_missing(&self, now: Instant) -> bool {
        let (some, patience) = self.patience(now);
        count(self.peers.values().filter(|c| c.is_wanted(now) && !(some && c.is_idle(patience, now)))) > self.held()
    }

    /// Voices whose head, above the genesis block, is here.
    pub(super) fn held(&self) -> usize {
        count(self.peers.values().filter(|c| !c.contradicts && c.is_held() && c.said.height > 0))
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Claim> {
        self.peers.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Claim)> {
        self.peers.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// The highest head that enough voices claim, else the highest that one does; `None` when no head is missing. With both, a claim
    /// of fewer above the backed one is for later: it counts when there is nothing left to get from enough.
    pub(super) fn target(&self, base: u64, now: Instant) -> Option<Target> {
        let mut wanted: Vec<_> =
            self.peers.values().filter(|c| c.is_wanted(now)).map(|c| (c.height(base, now), c)).collect();
        // Of those who say the same, whoever gave most speaks for it.
        wanted.sort_by_cached_key(|(height, c)| Reverse((*height, c.given(now) as u64))); // not negative
        let enough = self.voices().div_ceil(BACKERS).max(MIN_BACKERS);
        let mut heard = BTreeSet::new();
        let backed = wanted.iter().find(|(_, c)| heard.insert(c.voice) && heard.len() == enough);
        let backed = backed.filter(|(height, _)| *height > base);
        let (height, claim) = backed.or(wanted.first())?;
        // A tall claim does not hide what others gave.
        let gave = wanted.iter().filter(|(height, _)| *height > base).map(|(_, c)| c.given(now));
        Some(Target {
            height: *height,
            backed: backed.is_some(),
            given: gave.fold(0.0, f64::max) as u64, // not negative
            doubtful: claim.is_doubtful(now),
            long: claim.missing_since.is_some_and(|since| now.saturating_duration_since(since) >= DOUBT),
        })
    }
}

/// How many voices these are.
fn count<'a>(claims: impl Iterator<Item = &'a Claim>) -> usize {
    claims.map(|claim| claim.voice).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests;
