//! Bodies on their way here, and those that just came: pieces in any order, each checked before it is kept or given to anybody.
//! Requests of others for pieces that are still coming wait here.
//!
//! # Limits
//! A header takes a place, of which there are [`PER_PRODUCER`] and [`PER_HEIGHT`]; a body's bytes are reserved when its first piece
//! comes, against [`TOTAL`] and against [`PER_PEER`] of the peer that its header came from. So a header without a body behind it
//! costs no more than itself. Who needs a place or room that is not there gets that of the unfinished body that had no piece for
//! the longest time, if that is [`STALE`] or more, or that is very late; who needs a place for a body that somebody has announced, that of one
//! that nobody has and of which nothing came, at once; and the block of a producer whose blocks are in the best chain, that of one whose are
//! not: a key costs nothing, and whoever has many could hold all places with bodies that drip. Finished bodies stay for others to fetch
//! until the room is needed, at most [`KEPT`] bytes and [`KEPT_BLOCKS`] of them. Waiting requests are at most [`WAITING`], and when there are
//! more those of the peer with most of them give way.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    block::{Header, Pieces, VerifiedHeader},
    primitives::{Hash, PeerId},
};

/// Bytes of all bodies here.
pub(super) const TOTAL: usize = 64 * 1024 * 1024;
/// Bytes of unfinished bodies whose headers came from one peer: four of the largest.
pub(super) const PER_PEER: usize = 16 * 1024 * 1024;
/// Bytes of finished bodies kept for others: the last minute of the largest by default, and six of the largest there are.
pub(super) const KEPT: usize = 24 * 1024 * 1024;
/// Finished blocks kept for others, since empty ones have no bytes: half an hour of them by default.
pub(super) const KEPT_BLOCKS: usize = 1024;
/// Unfinished bodies of one producer: an honest one makes no block before it has the one below, so a second one is rare.
pub(super) const PER_PRODUCER: usize = 2;
/// Unfinished bodies at one height: several times the candidates that honest producers make there at once.
pub(super) const PER_HEIGHT: usize = 8;
/// An unfinished body that had no piece for so long gives way to another one: about a source's stall time, after which a body that
/// exists has begun to come from somebody.
pub(super) const STALE: Duration = Duration::from_secs(1);
/// An unfinished body gives way also while it is fed after this, and as much more for each of its pieces: what it takes at half a megabyte
/// a second, and two seconds.
pub(super) const DRIPPING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(132));
/// Requests waiting for pieces, over all peers: a few blocks on their way to all neighbours of a mesh. Each holds the room of its answer in the
/// budget of `net::rpc`, together three eighths of that.
pub(super) const WAITING: usize = 384;

/// Names a waiting request.
pub(super) type Ticket = u64;

/// There is no room for a body now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room for another body")]
pub(super) struct Full;

/// What became of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Inserted {
    /// Good, and more are missing.
    Good,
    /// Good, and the last one.
    Complete,
    /// Held already, or of a block that is not here any more.
    Needless,
    /// Not what it was said to be.
    Bad,
}

/// What there is of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// Here it is.
    Held(Bytes),
    /// It is being fetched.
    Coming,
    /// The block has fewer.
    None,
    /// The block is not here.
    Absent,
}

/// A request for a piece that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Served {
    /// Whose request.
    pub(super) ticket: Ticket,
    /// The piece; `None` when it will not come, or not soon.
    pub(super) piece: Option<Bytes>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    peer: PeerId,
    index: usize,
    until: Instant,
}

#[derive(Debug)]
struct Held {
    header: VerifiedHeader,
    pieces: Arc<Pieces>,
    got: Vec<Option<Bytes>>,
    missing: usize,
    /// The whole body, when nothing is missing; `got` are slices of it then.
    body: Option<Bytes>,
    /// Who is charged while it is unfinished.
    owner: Option<PeerId>,
    /// Whether its bytes are counted: from its first piece on.
    reserved: bool,
    /// Its producer has made blocks of the best chain.
    proven: bool,
    /// When its header came.
    opened: Instant,
    /// When its last piece came, or its header.
    fed: Instant,
    /// When it was last given to the chain once more, whole.
    given: Option<Instant>,
    waiters: Vec<Waiter>,
}

impl Held {
    fn bytes(&self) -> usize {
        self.header.header().body_bytes as usize
    }

    fn is_stale(&self, now: Instant) -> bool {
        let pieces = u32::try_from(self.pieces.count()).unwrap_or(u32::MAX);
        now >= self.fed + STALE || now >= self.opened + DRIPPING.0 + DRIPPING.1 * pieces
    }
}

/// All bodies that are here or on their way.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    blocks: HashMap<Hash, Held>,
    /// Reserved bytes, of finished and unfinished ones.
    bytes: usize,
    charged: HashMap<PeerId, usize>,
    /// Finished ones, oldest first.
    finished: VecDeque<Hash>,
    finished_bytes: usize,
    waiting: usize,
    /// No wait is over before this.
    earliest: Option<Instant>,
    served: Vec<Served>,
    evicted: Vec<Hash>,
}

impl Assembly {
    /// Makes a place for a body whose header came from `owner`. `proven`: its producer has made blocks of the best chain; `announced` tells
    /// who says of a block that it has it, and is still believed. A block that is here already keeps its place.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn open(
        &mut self,
        now: Instant,
        header: VerifiedHeader,
        pieces: Arc<Pieces>,
        owner: Option<PeerId>,
        proven: bool,
        announced: &dyn Fn(&Hash) -> bool,
    ) -> Result<(), Full> {
        let (hash, bytes) = (header.hash(), header.header().body_bytes as usize);
        if self.blocks.contains_key(&hash) {
            return Ok(());
        }
        let (height, producer) = (header.header().height, header.header().producer);
        let promised = announced(&hash);
        // A header that nobody stands for costs whoever signs it nothing, so others like it may come without end.
        let yields =
            |hash: &Hash, held: &Held| (proven && !held.proven) || (promised && !held.reserved && !announced(hash));
        self.make_place(now, PER_PRODUCER, &yields, |h| h.producer == producer)?;
        self.make_place(now, PER_HEIGHT, &yields, |h| h.height == height)?;
        // What there is no room for now is not begun.
        self.make_room(now, bytes, owner)?;
        self.begin(now, header, pieces, owner, proven);
        Ok(())
    }

    fn begin(
        &mut self,
        now: Instant,
        header: VerifiedHeader,
        pieces: Arc<Pieces>,
        owner: Option<PeerId>,
        proven: bool,
    ) {
        let (hash, missing) = (header.hash(), pieces.count());
        let held = Held {
            header,
            got: vec![None; missing],
            pieces,
            missing,
            body: None,
            owner,
            reserved: false,
            proven,
            opened: now,
            fed: now,
            given: None,
            waiters: Vec::new(),
        };
        self.blocks.insert(hash, held);
        if missing == 0 {
            self.finish(&hash);
        }
    }

    /// A place for one more among those that `of` means; when there is none, one that `yields` has to go.
    fn make_place(
        &mut self,
        now: Instant,
        limit: usize,
        yields: &dyn Fn(&Hash, &Held) -> bool,
        of: impl Fn(&Header) -> bool,
    ) -> Result<(), Full> {
        let taken = self.blocks.values().filter(|h| h.body.is_none() && of(h.header.header())).count();
        if taken < limit || self.evict(now, |h| of(h.header.header())).is_ok() {
            return Ok(());
        }
        let unfinished = self.blocks.iter().filter(|(_, h)| h.body.is_none() && of(h.header.header()));
        let yielding = unfinished.filter(|(hash, h)| yields(hash, h));
        let hash = yielding.min_by_key(|(hash, h)| (h.fed, **hash)).map(|(hash, _)| *hash).ok_or(Full)?;
        self.remove(&hash);
        self.evicted.push(hash);
        Ok(())
    }

    /// Room for so many bytes, charged to `owner`.
    fn make_room(&mut self, now: Instant, bytes: usize, owner: Option<PeerId>) -> Result<(), Full> {
        while owner.is_some_and(|peer| self.charged.get(&peer).copied().unwrap_or(0) + bytes > PER_PEER) {
            self.evict(now, |h| h.reserved && h.owner == owner)?;
        }
        while self.bytes + bytes > TOTAL {
            if self.drop_oldest().is_none() {
                self.evict(now, |h| h.reserved)?;
            }
        }
        Ok(())
    }

    /// Lets go of the unfinished one among some that had no piece for the longest time, if that is long enough.
    fn evict(&mut self, now: Instant, among: impl Fn(&Held) -> bool) -> Result<(), Full> {
        let stale = self.blocks.iter().filter(|(_, h)| h.body.is_none() && h.is_stale(now) && among(h));
        let hash = stale.min_by_key(|(hash, h)| (h.fed, **hash)).map(|(hash, _)| *hash).ok_or(Full)?;
        self.remove(&hash);
        self.evicted.push(hash);
        Ok(())
    }

    /// Counts the bytes of one for which there is room.
    fn reserve(&mut self, hash: &Hash) {
        let Some(held) = self.blocks.get_mut(hash).filter(|h| !h.reserved) else { return };
        held.reserved = true;
        self.bytes += held.bytes();
        if let Some(peer) = held.owner {
            *self.charged.entry(peer).or_default() += held.bytes();
        }
    }

    /// Takes a whole body that was checked before: our own, or one read from the store for others. Without room it is not kept.
    pub(super) fn put(&mut self, now: Instant, header: VerifiedHeader, body: Bytes) {
        let hash = header.hash();
        let reserved = self.blocks.get(&hash).is_some_and(|h| h.reserved);
        if !reserved && self.make_room(now, body.len(), None).is_err() {
            return;
        }
        if !self.blocks.contains_key(&hash) {
            self.begin(now, header, Arc::new(Pieces::of(&body)), None, false);
        }
        self.reserve(&hash);
        let Some(held) = self.blocks.get_mut(&hash).filter(|h| h.body.is_none()) else { return };
        for index in 0..held.pieces.count() {
            held.got[index] = Some(body.slice(held.pieces.range(index)));
        }
        held.missing = 0;
        held.body = Some(body);
        self.finish(&hash);
    }

    /// Takes one piece. When it is the first and there is no room for the body, the block is let go of.
    pub(super) fn insert(&mut self, now: Instant, hash: &Hash, index: usize, bytes: Bytes) -> Inserted {
        let Some(held) = self.blocks.get(hash) else { return Inserted::Needless };
        match held.got.get(index) {
            None => return Inserted::Bad,
            Some(Some(_)) => return Inserted::Needless,
            Some(None) => {}
        }
        if !held.pieces.check(index, &bytes) {
            return Inserted::Bad;
        }
        if !held.reserved {
            let (size, owner) = (held.bytes(), held.owner);
            if self.make_room(now, size, owner).is_err() {
                self.remove(hash);
                self.evicted.push(*hash);
                return Inserted::Needless;
            }
            self.reserve(hash);
        }
        let Some(held) = self.blocks.get_mut(hash) else { return Inserted::Needless };
        held.fed = now;
        held.got[index] = Some(bytes);
        held.missing -= 1;
        let (came, waiting) = std::mem::take(&mut held.waiters).into_iter().partition(|w: &Waiter| w.index == index);
        held.waiters = waiting;
        let (came, piece, missing): (Vec<Waiter>, _, _) = (came, held.got[index].clone(), held.missing);
        self.waiting -= came.len();
        self.served.extend(came.into_iter().map(|w| Served { ticket: w.ticket, piece: piece.clone() }));
        if missing > 0 {
            return Inserted::Good;
        }
        self.finish(hash);
        Inserted::Complete
    }

    /// Nothing of it is missing: its owner is not charged any more, and it may go when room is needed.
    fn finish(&mut self, hash: &Hash) {
        let Some(held) = self.blocks.get_mut(hash) else { return };
        if held.body.is_none() {
            let mut body = Vec::with_capacity(held.bytes());
            held.got.iter().flatten().for_each(|piece| body.extend_from_slice(piece));
            let body = Bytes::from(body);
            for index in 0..held.pieces.count() {
                held.got[index] = Some(body.slice(held.pieces.range(index)));
            }
            held.body = Some(body);
        }
        let (owner, bytes) = (held.owner.take(), held.bytes());
        for waiter in std::mem::take(&mut held.waiters) {
            let piece = self.blocks.get(hash).and_then(|h| h.got.get(waiter.index).cloned().flatten());
            self.served.push(Served { ticket: waiter.ticket, piece });
            self.waiting -= 1;
        }
        self.discharge(owner, bytes);
        self.finished.push_back(*hash);
        self.finished_bytes += bytes;
        // The newest stays even if it is larger than all that may be kept.
        while (self.finished_bytes > KEPT && self.finished.len() > 1) || self.finished.len() > KEPT_BLOCKS {
            self.drop_oldest();
        }
    }

    fn discharge(&mut self, owner: Option<PeerId>, bytes: usize) {
        let Some(peer) = owner else { return };
        if let Some(charged) = self.charged.get_mut(&peer) {
            *charged -= bytes;
            if *charged == 0 {
                self.charged.remove(&peer);
            }
        }
    }

    fn drop_oldest(&mut self) -> Option<()> {
        let hash = self.finished.pop_front()?;
        self.remove(&hash);
        Some(())
    }

    /// Lets go of a block; who waits for its pieces gets none.
    pub(super) fn remove(&mut self, hash: &Hash) {
        let Some(held) = self.blocks.remove(hash) else { return };
        if held.reserved {
            self.bytes -= held.bytes();
            self.discharge(held.owner, held.bytes());
        }
        if held.body.is_some() {
            if let Some(at) = self.finished.iter().rposition(|h| h == hash) {
                self.finished.remove(at);
            }
            self.finished_bytes -= held.bytes();
        }
        for waiter in held.waiters {
            self.waiting -= 1;
            self.served.push(Served { ticket: waiter.ticket, piece: None });
        }
    }

    /// Whether a whole body that the chain does not have may be given to it once more: it may have dropped what waited there for its parent,
    /// or had no place for it then.
    pub(super) fn give_again(&mut self, now: Instant, hash: &Hash) -> bool {
        let Some(held) = self.blocks.get_mut(hash).filter(|h| h.body.is_some()) else { return false };
        let again = held.given.is_none_or(|at| now >= at + STALE);
        if again {
            held.given = Some(now);
        }
        again
    }

    /// What there is of a piece.
    #[must_use]
    pub(super) fn piece(&self, hash: &Hash, index: usize) -> Piece {
        let Some(held) = self.blocks.get(hash) else { return Piece::Absent };
        match held.got.get(index) {
            None => Piece::None,
            Some(Some(piece)) => Piece::Held(piece.clone()),
            Some(None) => Piece::Coming,
        }
    }

    /// Lets a peer's request wait for a piece that is coming; `false` when too many wait.
    pub(super) fn wait(&mut self, hash: &Hash, index: usize, ticket: Ticket, peer: PeerId, until: Instant) -> bool {
        let coming = self.blocks.get(hash).is_some_and(|h| matches!(h.got.get(index), Some(None)));
        if !coming || (self.waiting >= WAITING && !self.make_way(&peer)) {
            return false;
        }
        let Some(held) = self.blocks.get_mut(hash) else { return false };
        held.waiters.push(Waiter { ticket, peer, index, until });
        self.waiting += 1;
        self.earliest = Some(self.earliest.map_or(until, |e| e.min(until)));
        true
    }

    /// The newest request of the peer with most of them waits no more, if it has more than `peer` would have.
    fn make_way(&mut self, peer: &PeerId) -> bool {
        let mut counts: HashMap<PeerId, usize> = HashMap::new();
        for waiter in self.blocks.values().flat_map(|h| &h.waiters) {
            *counts.entry(waiter.peer).or_default() += 1;
        }
        let own = counts.get(peer).copied().unwrap_or(0) + 1;
        let crowd = counts.into_iter().filter(|(_, count)| *count > own);
        let Some((most, _)) = crowd.max_by_key(|(peer, count)| (*count, *peer)) else { return false };
        let waiters = self.blocks.values().flat_map(|h| &h.waiters).filter(|w| w.peer == most);
        let Some(newest) = waiters.map(|w| w.ticket).max() else { return false };
        for held in self.blocks.values_mut() {
            held.waiters.retain(|w| w.ticket != newest);
        }
        self.waiting -= 1;
        self.served.push(Served { ticket: newest, piece: None });
        true
    }

    /// Ends the waiting of those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        let of_block = |held: &mut Held| held.waiters.extract_if(.., |w| w.until <= now).collect::<Vec<_>>();
        let over: Vec<Waiter> = self.blocks.values_mut().flat_map(of_block).collect();
        for waiter in over {
            self.waiting -= 1;
            self.served.push(Served { ticket: waiter.ticket, piece: None });
        }
        self.earliest = self.blocks.values().flat_map(|h| &h.waiters).map(|w| w.until).min();
    }

    /// When somebody's wait may be over.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.earliest.filter(|_| self.waiting > 0)
    }

    /// The requests that are over since the last call.
    pub(super) fn take_served(&mut self) -> Vec<Served> {
        std::mem::take(&mut self.served)
    }

    /// The unfinished blocks that had to give way since the last call.
    pub(super) fn take_evicted(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.evicted)
    }

    /// A block's header and pieces, and its body when it is whole.
    #[must_use]
    pub(super) fn block(&self, hash: &Hash) -> Option<(&Header, &Pieces, Option<&Bytes>)> {
        let held = self.blocks.get(hash)?;
        Some((held.header.header(), &held.pieces, held.body.as_ref()))
    }

    /// The header of a block that is here.
    #[must_use]
    pub(super) fn header(&self, hash: &Hash) -> Option<&VerifiedHeader> {
        self.blocks.get(hash).map(|h| &h.header)
    }

    /// Bytes reserved by all bodies here.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Requests waiting for pieces.
    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    #[cfg(test)]
    /// Bytes that `peer` is charged for.
    #[must_use]
    pub(super) fn charged(&self, peer: &PeerId) -> usize {
        self.charged.get(peer).copied().unwrap_or(0)
    }
}
