//! From whom to get what we have heard of. Pure: time comes in, requests come out.
//!
//! ```text
//!   announced ──(arrival window)──▶ ask for the header ──▶ header ──▶ pieces from one source ──▶ whole
//!                                        │ no answer                      │ no progress
//!                                        └────────────▶ next source ◀─────┘ ──▶ none left: wait 30 s ──▶ lost
//! ```
//!
//! A block is usually heard of by its header, and fetched at once from the peer that the header came from: it has the body, or gets it
//! right now and passes on each piece as it comes. So bodies flow down the tree that the header made, once to everybody. Whoever
//! announces the hash has imported the block, and is a source to fall back to; who announced it with another height or length than its header
//! says is none.
//!
//! One source at a time, two from the third try on. A source that brings nothing for a while loses its turn, if there is anybody
//! else: an announcer, or, for a block whose header is here, up to [`BLIND`] neighbours that never spoke of it but may well have it.
//! One that brings little never loses it; so a body that is late although somebody announced it is asked of one more source each
//! time that it could have come in ([`LATE`]), up to [`CROWD`], and they take over what others were asked for long ago.
//! A fetch ends after [`MAX_AGE`] at the latest.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::wire::{Announcement, Wanted};
use crate::primitives::{Hash, PeerId};

/// Requests for pieces in flight to one source: a mebibyte, which is more than most links hold.
pub(super) const WINDOW: usize = 16;
/// Blocks fetched at once.
pub(super) const MAX_ENTRIES: usize = 4096;
/// Of them, those that one peer is a source of.
pub(super) const PER_PEER: usize = 256;
/// Sources remembered for a block.
pub(super) const MAX_SOURCES: usize = 16;
/// Failures in a row, and one more for each further source, after which only a new source gets another try.
pub(super) const MAX_TRIES: u32 = 8;
/// Neighbours asked for a block that they never spoke of.
pub(super) const BLIND: usize = 3;
/// From the first failure on.
const BACKOFF: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// Without any source left, a block is given up after this.
const NO_SOURCE: Duration = Duration::from_secs(30);
/// However the sources come and go, a fetch ends after this.
pub(super) const MAX_AGE: Duration = Duration::from_secs(120);
/// Bounds of how long we wait for a block that was announced to come by itself.
pub(super) const ARRIVAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// For the answer to a request for a block: a second, and a piece at a megabyte a second.
const BLOCK_TIMEOUT: Duration = Duration::from_millis(1100);
/// Bounds of how long a source may bring nothing, a piece's time at a megabyte a second included; in between it is three times
/// what a piece of this block took so far.
const STALL: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(3));
/// For the first piece of a source, so much more for each piece of the body: it comes through all who pass it on, and each of them
/// shares its line among several.
const FIRST: Duration = Duration::from_millis(40);
/// A body that somebody has announced is late after this, and as much more for each of its pieces: a megabyte a second.
const LATE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(66));
/// Sources asked at once for a body that is late again and again.
pub(super) const CROWD: usize = 4;
/// A source that was busy is not asked again for this long.
const REST: Duration = Duration::from_secs(1);
/// How often a source may be too busy to give a header.
const BUSIES: u32 = 5;
/// A header that was fetched is being judged for at most this long.
const JUDGING: Duration = Duration::from_secs(5);
/// Announcements over the cap in a row before they count as a flood.
const FLOOD: u32 = 10;
/// How often one source may fail at one block before it is out for good.
const FAILURES: u32 = 2;

/// Names a request.
pub(super) type AskId = u64;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Send a request; its end is told by [`Fetcher::piece`], [`Fetcher::block`] or [`Fetcher::failed`].
    Ask {
        /// Its name.
        id: AskId,
        /// Whom.
        peer: PeerId,
        /// Which block.
        hash: Hash,
        /// What of it.
        wanted: Wanted,
    },
    /// Nobody waits for this request any more.
    Cancel(AskId),
    /// A peer did something wrong.
    Blame(PeerId, Fault),
    /// A block is given up.
    Lost(Hash),
}

/// What a peer did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Announced a block and did not have it.
    Unserved,
    /// Did not answer in time.
    Timeout,
    /// Answered with something else, or announced a block as what it is not.
    WrongData,
    /// Announces more than it may.
    Flood,
}

/// Why a request brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The peer does not have it.
    NotFound,
    /// The peer has too much to do, or waits for it itself.
    Busy,
    /// No answer, or no connection.
    NoAnswer,
    /// The answer is not what was asked for.
    Garbage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// Not asked now, and not before.
    Idle(Instant),
    /// Asked; the last time it brought something.
    Active(Instant),
    /// Out for good.
    Out,
}

impl Turn {
    fn is_active(self) -> bool {
        matches!(self, Self::Active(_))
    }
}

#[derive(Debug)]
struct Source {
    peer: PeerId,
    /// It said that it has the block, and what block that is.
    said: Option<Announcement>,
    failures: u32,
    /// How often it had too much to do.
    busy: u32,
    turn: Turn,
}

impl Source {
    fn announced(&self) -> bool {
        self.said.is_some()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Missing,
    Asked(AskId),
    Held,
}

#[derive(Debug)]
struct Entry {
    began: Instant,
    /// When it was first announced, if that was before its header came.
    announced: Option<Instant>,
    /// Whom its header came from.
    origin: Option<PeerId>,
    /// No new source is asked before this: the arrival window, a back-off, a judgement.
    not_before: Instant,
    sources: Vec<Source>,
    /// Since when its body is fetched, once its header is here.
    header_at: Instant,
    /// One for each piece, once the header is here.
    slots: Option<Vec<Slot>>,
    /// How long a piece takes, smoothed; zero until one came.
    pace: Duration,
    tries: u32,
    /// Failures allowed.
    budget: u32,
    blind: usize,
    /// Since when there is nobody to ask.
    alone: Option<Instant>,
    /// Requests under way.
    asks: Vec<AskId>,
    wake: Instant,
}

#[derive(Debug)]
struct Asked {
    hash: Hash,
    peer: PeerId,
    wanted: Wanted,
    at: Instant,
    /// Another source was asked for it before: it is not taken over again, or two slow ones would never end.
    taken_over: bool,
}

#[derive(Debug, Default)]
struct Load {
    entries: usize,
    in_flight: usize,
    failures: u32,
    refused: u32,
}

/// All fetches.
#[derive(Debug)]
pub(super) struct Fetcher {
    entries: HashMap<Hash, Entry>,
    asked: HashMap<AskId, Asked>,
    loads: HashMap<PeerId, Load>,
    neighbours: BTreeSet<PeerId>,
    wakes: BTreeSet<(Instant, Hash)>,
    next: AskId,
    /// From the first announcement of a block to its header, smoothed.
    arrival: Duration,
    random: u64,
    effects: Vec<Effect>,
}

impl Fetcher {
    /// Nothing to fetch; `seed` makes its choices among equals.
    #[must_use]
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            asked: HashMap::new(),
            loads: HashMap::new(),
            neighbours: BTreeSet::new(),
            wakes: BTreeSet::new(),
            next: 0,
            arrival: ARRIVAL.0 / 2,
            random: seed | 1,
            effects: Vec::new(),
        }
    }

    /// A peer came.
    pub(super) fn up(&mut self, peer: PeerId) {
        self.neighbours.insert(peer);
    }

    /// A peer went: it is nobody's source any more.
    pub(super) fn down(&mut self, now: Instant, peer: &PeerId) {
        self.neighbours.remove(peer);
        let hashes: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.sources.iter().any(|s| s.peer == *peer)).map(|(h, _)| *h).collect();
        for hash in hashes {
            self.release(&hash, peer);
            if let Some(entry) = self.entries.get_mut(&hash) {
                entry.sources.retain(|s| s.peer != *peer);
            }
            self.drive(now, &hash);
        }
        self.loads.remove(peer);
    }

    /// A peer says that it has a block. `false`: it is one of too many.
    pub(super) fn announced(&mut self, now: Instant, peer: PeerId, said: Announcement) -> bool {
        let hash = said.point.hash;
        let taken = self.add(now, peer, hash, Some(said), now + self.window());
        self.drive(now, &hash);
        taken
    }

    /// Asks `peer` for a block at once, because a child of it is here.
    pub(super) fn want(&mut self, now: Instant, peer: PeerId, hash: Hash) -> bool {
        let taken = self.add(now, peer, hash, None, now);
        self.drive(now, &hash);
        taken
    }

    /// The header of a block with so many pieces is here and good: its body is wanted, from `from` first.
    pub(super) fn header(&mut self, now: Instant, from: PeerId, hash: Hash, pieces: usize) -> bool {
        let early = self.entries.get(&hash).and_then(|e| e.announced.filter(|_| e.slots.is_none()));
        if !self.add(now, from, hash, None, now) {
            return false;
        }
        if let Some(announced) = early {
            let took = now.saturating_duration_since(announced).min(ARRIVAL.1);
            self.arrival = (self.arrival * 3 + took) / 4;
        }
        let Some(entry) = self.entries.get_mut(&hash) else { return false };
        if entry.slots.is_none() {
            entry.slots = Some(vec![Slot::Missing; pieces]);
            (entry.origin, entry.not_before, entry.header_at) = (Some(from), now, now);
            // The header is here, whoever was asked for it.
            let asked: Vec<_> = self.asked_of(&hash).map(|(id, a)| (id, a.peer)).collect();
            for (id, peer) in asked {
                self.drop_ask(id);
                self.rest(&hash, &peer, now);
            }
        }
        self.drive(now, &hash);
        true
    }

    fn window(&self) -> Duration {
        (self.arrival * 2).clamp(ARRIVAL.0, ARRIVAL.1)
    }

    fn add(&mut self, now: Instant, peer: PeerId, hash: Hash, said: Option<Announcement>, not_before: Instant) -> bool {
        let known = self.entries.get(&hash);
        let new_source = known.is_none_or(|e| e.sources.iter().all(|s| s.peer != peer));
        let many = self.loads.get(&peer).is_some_and(|l| l.entries >= PER_PEER);
        if new_source && known.is_none() && !many && self.entries.len() >= MAX_ENTRIES {
            // What nobody has shown to exist gives way to what was: hashes cost nothing. It is not this peer's fault that there are so many.
            let Some(victim) = self.least_wanted().filter(|_| said.is_none()) else { return false };
            self.forget(&victim);
            self.effects.push(Effect::Lost(victim));
        }
        let load = self.loads.entry(peer).or_default();
        if new_source && many {
            load.refused += 1;
            if load.refused > FLOOD {
                load.refused = 0;
                self.effects.push(Effect::Blame(peer, Fault::Flood));
            }
            return false;
        }
        load.refused = 0;
        let entry = self.entries.entry(hash).or_insert_with(|| Entry {
            began: now,
            announced: None,
            origin: None,
            not_before,
            sources: Vec::new(),
            header_at: now,
            slots: None,
            pace: Duration::ZERO,
            tries: 0,
            budget: MAX_TRIES,
            blind: 0,
            alone: None,
            asks: Vec::new(),
            wake: now,
        });
        if entry.slots.is_none() {
            entry.not_before = entry.not_before.min(not_before);
            if said.is_some() {
                entry.announced.get_or_insert(now);
            }
        }
        if let Some(source) = entry.sources.iter_mut().find(|s| s.peer == peer) {
            // It has the whole block now, whatever it had when it was asked before.
            if said.is_some() && !source.announced() && source.turn != Turn::Out {
                (source.said, source.failures) = (said, 0);
                if let Turn::Idle(not_before) = &mut source.turn {
                    *not_before = now;
                }
                entry.budget += 1;
                entry.alone = None;
            }
            return true;
        }
        // Liars are the first to announce: whoever failed makes room, and anybody for who gives the header, or a child.
        if entry.sources.len() >= MAX_SOURCES && !self.displace(&hash, said.is_none()) {
            return true;
        }
        let Some(entry) = self.entries.get_mut(&hash) else { return true };
        entry.sources.push(Source { peer, said, failures: 0, busy: 0, turn: Turn::Idle(now) });
        entry.budget += 1;
        entry.alone = None;
        self.loads.entry(peer).or_default().entries += 1;
        true
    }

    /// One of a block's sources that are not asked goes: the one that failed most, here and elsewhere; with `any` also one that did not fail.
    /// Whether one did.
    fn displace(&mut self, hash: &Hash, any: bool) -> bool {
        let Some(entry) = self.entries.get_mut(hash) else { return false };
        let failed = |s: &Source| s.failures + self.loads.get(&s.peer).map_or(0, |l| l.failures);
        let idle =
            entry.sources.iter().enumerate().filter(|(_, s)| !s.turn.is_active() && Some(s.peer) != entry.origin);
        let worst = idle.map(|(at, s)| (s.turn == Turn::Out, failed(s), at)).filter(|(.., n, _)| any || *n > 0).max();
        let Some((.., worst)) = worst else { return false };
        let gone = entry.sources.swap_remove(worst);
        if let Some(load) = self.loads.get_mut(&gone.peer) {
            load.entries -= 1;
        }
        true
    }

    /// A good piece came. `false`: nobody waited for it.
    pub(super) fn piece(&mut self, now: Instant, id: AskId) -> bool {
        let Some(Asked { hash, peer, wanted: Wanted::Piece(index), at, .. }) = self.take_ask(id) else { return false };
        let Some(entry) = self.entries.get_mut(&hash) else { return false };
        if let Some(slot) = entry.slots.as_mut().and_then(|s| s.get_mut(index)) {
            *slot = Slot::Held;
        }
        // Pieces are finite, so whoever brings one may be followed by as many failures again.
        entry.budget = entry.tries + MAX_TRIES;
        let source = entry.sources.iter_mut().find(|s| s.peer == peer);
        if let Some(Source { turn: Turn::Active(progress), failures, .. }) = source {
            // Pieces of one window arrive together: what one took is the time since the one before, or since it was asked.
            let took = now.saturating_duration_since((*progress).max(at));
            entry.pace = (entry.pace * 3 + took) / 4;
            *progress = now;
            *failures = 0;
        }
        if let Some(load) = self.loads.get_mut(&peer) {
            load.failures = 0;
        }
        self.drive(now, &hash);
        true
    }

    /// The block that was asked for came and is going to be judged. `None`: nobody waited for it.
    pub(super) fn block(&mut self, now: Instant, id: AskId) -> Option<(Hash, PeerId)> {
        let Asked { hash, peer, wanted: Wanted::Block, .. } = self.take_ask(id)? else { return None };
        let entry = self.entries.get_mut(&hash)?;
        entry.not_before = now + JUDGING;
        self.rest(&hash, &peer, now);
        self.drive(now, &hash);
        Some((hash, peer))
    }

    /// A request brought nothing.
    pub(super) fn failed(&mut self, now: Instant, id: AskId, failure: Failure) {
        let Some(Asked { hash, peer, wanted, .. }) = self.take_ask(id) else { return };
        if let (Some(entry), Wanted::Piece(index)) = (self.entries.get_mut(&hash), wanted)
            && let Some(slot) = entry.slots.as_mut().and_then(|s| s.get_mut(index))
        {
            *slot = Slot::Missing;
        }
        self.fail(now, &hash, &peer, failure);
        self.drive(now, &hash);
    }

    /// A source did not do it: what it was asked for is free again.
    fn fail(&mut self, now: Instant, hash: &Hash, peer: &PeerId, failure: Failure) {
        self.release(hash, peer);
        let Some(entry) = self.entries.get_mut(hash) else { return };
        let of_block = entry.slots.is_none();
        let Some(source) = entry.sources.iter_mut().find(|s| s.peer == *peer) else { return };
        if failure == Failure::Busy {
            source.busy += 1;
            // Nobody but those who announced it can be asked, so one that is always busy would keep a place for nothing.
            let never = of_block && source.busy >= BUSIES;
            source.turn = if never { Turn::Out } else { Turn::Idle(now + REST) };
            if never && source.announced() {
                self.effects.push(Effect::Blame(*peer, Fault::Unserved));
            }
            return;
        }
        source.failures += 1;
        let often = source.failures >= FAILURES;
        // One that only passed on the header, or nothing, may have the block later, and will say so.
        let (out, rest) = match failure {
            Failure::Garbage => (true, REST),
            Failure::NotFound => (source.announced(), NO_SOURCE),
            Failure::NoAnswer | Failure::Busy => (often && source.announced(), if often { NO_SOURCE } else { REST }),
        };
        source.turn = if out { Turn::Out } else { Turn::Idle(now + rest) };
        // Who only passed on the header may wait for a liar itself: that is no fault of its own. But it is not preferred any more
        // until it has brought something.
        let promised = source.announced() || of_block;
        let fault = match failure {
            Failure::NotFound if source.announced() => Some(Fault::Unserved),
            Failure::NoAnswer if promised => Some(Fault::Timeout),
            Failure::Garbage => Some(Fault::WrongData),
            Failure::NotFound | Failure::Busy | Failure::NoAnswer => None,
        };
        self.effects.extend(fault.map(|f| Effect::Blame(*peer, f)));
        if let Some(load) = self.loads.get_mut(peer).filter(|_| fault.is_some() || failure == Failure::NoAnswer) {
            load.failures = load.failures.saturating_add(1);
        }
        let pause = BACKOFF[(entry.tries as usize).min(BACKOFF.len() - 1)]; // a small number
        entry.tries += 1;
        entry.not_before = now + pause;
    }

    fn rest(&mut self, hash: &Hash, peer: &PeerId, now: Instant) {
        let source = self.entries.get_mut(hash).and_then(|e| e.sources.iter_mut().find(|s| s.peer == *peer));
        if let Some(source) = source.filter(|s| s.turn != Turn::Out) {
            source.turn = Turn::Idle(now);
        }
    }

    fn asked_of(&self, hash: &Hash) -> impl Iterator<Item = (AskId, &Asked)> {
        let asks = self.entries.get(hash).map_or(&[][..], |e| &e.asks[..]);
        asks.iter().filter_map(|id| self.asked.get(id).map(|a| (*id, a)))
    }

    fn asked_from(&self, hash: &Hash, peer: &PeerId) -> impl Iterator<Item = (AskId, &Asked)> {
        self.asked_of(hash).filter(move |(_, a)| a.peer == *peer)
    }

    /// Cancels what `peer` was asked for of one block.
    fn release(&mut self, hash: &Hash, peer: &PeerId) {
        let asked: Vec<_> = self.asked_from(hash, peer).map(|(id, _)| id).collect();
        for id in asked {
            self.drop_ask(id);
        }
    }

    fn drop_ask(&mut self, id: AskId) {
        let Some(Asked { hash, wanted, .. }) = self.take_ask(id) else { return };
        self.effects.push(Effect::Cancel(id));
        if let (Some(entry), Wanted::Piece(index)) = (self.entries.get_mut(&hash), wanted)
            && let Some(slot) = entry.slots.as_mut().and_then(|s| s.get_mut(index))
        {
            *slot = Slot::Missing;
        }
    }

    fn take_ask(&mut self, id: AskId) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        if let Some(entry) = self.entries.get_mut(&asked.hash) {
            entry.asks.retain(|a| *a != id);
        }
        if let Some(load) = self.loads.get_mut(&asked.peer) {
            load.in_flight -= 1;
        }
        Some(asked)
    }

    /// A block is here, is known to be bad, or does not matter any more.
    pub(super) fn forget(&mut self, hash: &Hash) {
        let asked: Vec<_> = self.asked_of(hash).map(|(id, _)| id).collect();
        for id in asked {
            self.drop_ask(id);
        }
        let Some(entry) = self.entries.remove(hash) else { return };
        self.wakes.remove(&(entry.wake, *hash));
        for source in entry.sources {
            if let Some(load) = self.loads.get_mut(&source.peer) {
                load.entries -= 1;
                // How it failed is remembered for as long as it is connected.
                let clean = (load.failures == 0 && load.refused == 0) || !self.neighbours.contains(&source.peer);
                if load.entries == 0 && load.in_flight == 0 && clean {
                    self.loads.remove(&source.peer);
                }
            }
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((wake, hash)) = self.wakes.first().copied().filter(|(wake, _)| *wake <= now) {
            self.wakes.remove(&(wake, hash));
            self.drive(now, &hash);
        }
    }

    /// When [`Fetcher::tick`] has something to do.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wakes.first().map(|(wake, _)| *wake)
    }

    /// What is to be done since the last call.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a block is being fetched.
    #[must_use]
    pub(super) fn is_fetching(&self, hash: &Hash) -> bool {
        self.entries.contains_key(hash)
    }

    /// Whether somebody says that it has this block, and did not fail to give it.
    #[must_use]
    pub(super) fn is_announced(&self, hash: &Hash) -> bool {
        let stands = |s: &Source| s.announced() && s.turn != Turn::Out && s.failures == 0;
        self.entries.get(hash).is_some_and(|e| e.sources.iter().any(stands))
    }

    /// Whether we are asking `peer` for this block now.
    #[must_use]
    pub(super) fn asks(&self, hash: &Hash, peer: &PeerId) -> bool {
        let active = |s: &Source| s.peer == *peer && matches!(s.turn, Turn::Active(_));
        self.entries.get(hash).is_some_and(|e| e.sources.iter().any(active))
    }

    /// Blocks being fetched.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    /// Whether nothing is being fetched.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Requests under way.
    #[must_use]
    pub(super) fn in_flight(&self) -> usize {
        self.asked.len()
    }

    #[cfg(test)]
    /// Blocks that `peer` is a source of.
    #[must_use]
    pub(super) fn sourced_by(&self, peer: &PeerId) -> usize {
        self.loads.get(peer).map_or(0, |l| l.entries)
    }
}

mod drive;
mod hearsay;
