//! The broadcast's decisions, as one pure machine: what a node does with headers, announcements, answers and questions. The service
//! carries out what it says, and so does the simulator, hundreds of times over.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    announcer::{Announce, Announcer},
    assembly::{Assembly, Full, Inserted, Piece, Ticket},
    fetcher::{AskId, Effect, Failure, Fault, Fetcher},
    known::{NODE_WIDE, Recent},
    wire::{Announcement, Content, Wanted},
};
use crate::{
    block::{Header, Pieces, VerifiedHeader},
    primitives::{Hash, PeerId},
};

/// How long a request for a piece waits for it to arrive here: longer than anybody's patience with a source that brings nothing.
pub(super) const WAIT: Duration = Duration::from_secs(4);

/// Producers of the best chain that are remembered: all of them, where they are named.
const PRODUCERS: usize = 256;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Output {
    /// Send a request; its end comes back by name.
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
    /// Abandon a request.
    Cancel(AskId),
    /// Answer a request that waited: with the piece, or that it is not to be had.
    Serve(Ticket, Option<Bytes>),
    /// A body is whole: import the block.
    Import {
        /// Its header.
        header: Box<VerifiedHeader>,
        /// Its body; it has the header's root.
        body: Bytes,
        /// Whom it came from, or its header.
        from: PeerId,
    },
    /// A peer did something wrong.
    Blame(PeerId, Fault),
    /// A block is given up.
    Lost(Hash),
}

/// What is said to a request for a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// Here it is.
    Here(Bytes),
    /// It will be answered by [`Output::Serve`].
    Wait,
    /// It will not be had from us.
    No,
    /// There is no such piece.
    Nonsense,
    /// The block is not here: perhaps in the chain.
    Elsewhere,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Core {
    announcer: Announcer,
    fetcher: Fetcher,
    assembly: Assembly,
    /// What was begun here, whatever became of it: its header need not be looked at again.
    seen: Recent<Hash>,
    /// Blocks whose bytes are what their headers say, and are wrong all the same.
    bad: Recent<Hash>,
    /// Keys that made blocks of the best chain.
    producers: Recent<[u8; 32]>,
    /// Whole, and given to the chain, which has not answered yet.
    importing: HashSet<Hash>,
    outputs: Vec<Output>,
}

impl Core {
    /// A node that knows nobody; `seed` makes its choices among equals.
    #[must_use]
    pub(super) fn new(seed: u64) -> Self {
        Self {
            announcer: Announcer::default(),
            fetcher: Fetcher::new(seed),
            assembly: Assembly::default(),
            seen: Recent::new(NODE_WIDE),
            bad: Recent::new(NODE_WIDE / 2),
            producers: Recent::new(PRODUCERS),
            importing: HashSet::new(),
            outputs: Vec::new(),
        }
    }

    /// A peer came.
    pub(super) fn up(&mut self, peer: PeerId) {
        self.announcer.up(peer);
        self.fetcher.up(peer);
    }

    /// A peer went.
    pub(super) fn down(&mut self, now: Instant, peer: &PeerId) {
        self.announcer.down(peer);
        self.fetcher.down(now, peer);
        self.collect();
    }

    /// A peer has a block.
    pub(super) fn learn(&mut self, peer: &PeerId, hash: Hash) {
        self.announcer.learn(peer, hash);
    }

    /// Whether a block was found to be wrong here.
    #[must_use]
    pub(super) fn is_bad(&self, hash: &Hash) -> bool {
        self.bad.contains(hash)
    }

    #[cfg(test)]
    /// Whether a block's header was taken before.
    #[must_use]
    pub(super) fn has_seen(&self, hash: &Hash) -> bool {
        self.seen.contains(hash)
    }

    /// Whether a block is being fetched or, whole already, being imported: then its end will be told. A body that is only kept for
    /// others does not count.
    #[must_use]
    pub(super) fn is_coming(&self, hash: &Hash) -> bool {
        self.fetcher.is_fetching(hash) || self.importing.contains(hash)
    }

    /// A good header from `from`, with its body or how to check it. Whatever is missing is fetched.
    ///
    /// # Errors
    /// [`Full`]: then it is as if it had not come.
    pub(super) fn on_block(
        &mut self,
        now: Instant,
        from: PeerId,
        header: VerifiedHeader,
        content: Content,
    ) -> Result<(), Full> {
        let hash = header.hash();
        self.announcer.learn(&from, hash);
        self.fetcher.compare(Announcement::of(header.header(), hash));
        self.collect();
        match content {
            Content::Body(body) => {
                if !self.seen.insert(hash) && !self.fetcher.is_fetching(&hash) {
                    self.give_again(now, from, &hash);
                    return Ok(());
                }
                self.fetcher.forget(&hash);
                self.assembly.put(now, header.clone(), body.clone());
                self.collect();
                self.import(header, body, from);
            }
            Content::Pieces(pieces) => {
                let count = pieces.count();
                let new = self.assembly.block(&hash).is_none();
                if new && self.seen.contains(&hash) && !self.fetcher.is_fetching(&hash) {
                    return Ok(());
                }
                if self.is_whole(&hash) {
                    self.give_again(now, from, &hash);
                    return Ok(());
                }
                let proven = self.producers.contains(&header.header().producer);
                let announced = |hash: &Hash| self.fetcher.is_announced(hash);
                let opened = self.assembly.open(now, header, pieces, Some(from), proven, &announced);
                // Even when there was no room, others may have given way.
                self.collect();
                opened?;
                self.seen.insert(hash);
                if new || self.fetcher.is_fetching(&hash) {
                    let begun = self.fetcher.header(now, from, hash, count);
                    if new && !begun {
                        self.assembly.remove(&hash);
                        self.seen.remove(&hash);
                        self.collect();
                        return Err(Full);
                    }
                }
                self.collect();
            }
        }
        Ok(())
    }

    /// A peer says that it has a block that the chain does not know and could use. `false`: too many from this peer.
    pub(super) fn on_announced(&mut self, now: Instant, from: PeerId, announcement: Announcement) -> bool {
        let Announcement { point, .. } = announcement;
        self.announcer.learn(&from, point.hash);
        // Who lied of it before its header was here is found then.
        if self.assembly.header(&point.hash).is_some_and(|h| Announcement::of(h.header(), point.hash) != announcement) {
            self.outputs.push(Output::Blame(from, Fault::WrongData));
            return true;
        }
        if self.bad.contains(&point.hash) || self.is_whole(&point.hash) {
            self.give_again(now, from, &point.hash);
            return true;
        }
        let taken = self.fetcher.announced(now, from, announcement);
        self.collect();
        taken
    }

    /// A child of this block is here: `from`, who sent it, is asked at once.
    pub(super) fn want(&mut self, now: Instant, from: PeerId, hash: Hash) {
        if self.is_whole(&hash) {
            self.give_again(now, from, &hash);
        } else if !self.bad.contains(&hash) {
            self.fetcher.want(now, from, hash);
            self.collect();
        }
    }

    /// The chain does not have a block that somebody speaks of, and its body is here: no reason to fetch it once more.
    fn give_again(&mut self, now: Instant, from: PeerId, hash: &Hash) {
        if self.importing.contains(hash) || !self.assembly.give_again(now, hash) {
            return;
        }
        let header = self.assembly.header(hash).cloned();
        let body = self.assembly.block(hash).and_then(|(.., body)| body.cloned());
        if let (Some(header), Some(body)) = (header, body) {
            self.import(header, body, from);
        }
    }

    /// This key made a block of the best chain.
    pub(super) fn on_producer(&mut self, producer: [u8; 32]) {
        self.producers.insert(producer);
    }

    fn is_whole(&self, hash: &Hash) -> bool {
        self.assembly.block(hash).is_some_and(|(.., body)| body.is_some())
    }

    /// A piece came.
    pub(super) fn on_piece(&mut self, now: Instant, id: AskId, peer: PeerId, hash: &Hash, index: usize, bytes: Bytes) {
        match self.assembly.insert(now, hash, index, bytes) {
            Inserted::Bad => self.fetcher.failed(now, id, Failure::Garbage),
            Inserted::Needless | Inserted::Good => drop(self.fetcher.piece(now, id)),
            Inserted::Complete => {
                self.fetcher.piece(now, id);
                self.fetcher.forget(hash);
                let header = self.assembly.header(hash).cloned();
                let body = self.assembly.block(hash).and_then(|(.., body)| body.cloned());
                if let (Some(header), Some(body)) = (header, body) {
                    self.import(header, body, peer);
                }
            }
        }
        self.collect();
    }

    fn import(&mut self, header: VerifiedHeader, body: Bytes, from: PeerId) {
        self.importing.insert(header.hash());
        self.outputs.push(Output::Import { header: header.into(), body, from });
    }

    /// The import that [`Output::Import`] asked for is over, whatever came of it.
    pub(super) fn on_import_over(&mut self, hash: &Hash) {
        self.importing.remove(hash);
    }

    /// The chain could not look at a block, which says nothing of the block: it is as if it had never come, and the next who sends or
    /// announces it is heard.
    pub(super) fn on_not_imported(&mut self, hash: &Hash) {
        self.fetcher.forget(hash);
        self.assembly.remove(hash);
        self.seen.remove(hash);
        self.collect();
    }

    /// The block that was asked for came, with its header unjudged. What is found of it is told by [`Core::on_block`],
    /// [`Core::abandon`] or [`Core::condemn`]. `None`: nobody waits for it any more.
    pub(super) fn on_answer(&mut self, now: Instant, id: AskId) -> Option<(Hash, PeerId)> {
        let answered = self.fetcher.block(now, id);
        self.collect();
        answered
    }

    /// A request brought nothing.
    pub(super) fn on_failure(&mut self, now: Instant, id: AskId, failure: Failure) {
        self.fetcher.failed(now, id, failure);
        self.collect();
    }

    /// A peer asks for a piece.
    pub(super) fn on_asked(&mut self, now: Instant, from: &PeerId, hash: &Hash, index: usize, ticket: Ticket) -> Asked {
        match self.assembly.piece(hash, index) {
            Piece::Held(bytes) => {
                self.announcer.learn(from, *hash);
                Asked::Here(bytes)
            }
            Piece::None => Asked::Nonsense,
            Piece::Absent => Asked::Elsewhere,
            // We would wait for each other.
            Piece::Coming if self.fetcher.asks(hash, from) => Asked::No,
            Piece::Coming => match self.assembly.wait(hash, index, ticket, *from, now + WAIT) {
                true => Asked::Wait,
                false => Asked::No,
            },
        }
    }

    /// A block's header and pieces, and its body when it is whole: to be told to whoever asks.
    #[must_use]
    pub(super) fn block(&self, hash: &Hash) -> Option<(&Header, &Pieces, Option<&Bytes>)> {
        self.assembly.block(hash)
    }

    /// Keeps a block that the chain holds for those who will ask for its pieces.
    pub(super) fn put(&mut self, now: Instant, header: VerifiedHeader, body: Bytes) {
        self.assembly.put(now, header, body);
        self.collect();
    }

    /// A block is in the chain.
    pub(super) fn on_imported(&mut self, hash: &Hash) {
        self.seen.insert(*hash);
        self.importing.remove(hash);
        self.fetcher.forget(hash);
        // One that came another way while it was being fetched: those who wait for its pieces may ask again.
        if !self.is_whole(hash) {
            self.assembly.remove(hash);
        }
        self.collect();
    }

    /// A peer was not told of a block after all.
    pub(super) fn unlearn(&mut self, peer: &PeerId, hash: &Hash) {
        self.announcer.unlearn(peer, hash);
    }

    /// Whom to tell of a block that is in the chain: whoever is not known to have it. `listens` says who is on the topic.
    pub(super) fn announce(&mut self, now: Instant, hash: Hash, listens: impl Fn(&PeerId) -> bool) -> Announce {
        self.announcer.announce(now, hash, listens)
    }

    /// Whether to remind a peer of a block that it seems to lack.
    pub(super) fn remind(&mut self, now: Instant, peer: &PeerId, hash: Hash) -> bool {
        self.announcer.remind(now, peer, hash)
    }

    /// A block is wrong whatever happens: it is never fetched again.
    pub(super) fn condemn(&mut self, hash: &Hash) {
        self.fetcher.forget(hash);
        self.assembly.remove(hash);
        self.bad.insert(*hash);
        self.collect();
    }

    /// A block is of no use now. It may be later.
    pub(super) fn abandon(&mut self, hash: &Hash) {
        self.fetcher.forget(hash);
        if !self.is_whole(hash) {
            self.assembly.remove(hash);
            self.seen.remove(hash);
        }
        self.collect();
    }

    /// The header of a block that is being fetched, or was: its signature is good.
    #[must_use]
    pub(super) fn header(&self, hash: &Hash) -> Option<&VerifiedHeader> {
        self.assembly.header(hash)
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.fetcher.tick(now);
        self.assembly.expire(now);
        self.collect();
    }

    /// When [`Core::tick`] has something to do.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.fetcher.deadline(), self.assembly.deadline()].into_iter().flatten().min()
    }

    /// What is to be done since the last call.
    pub(super) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Who is connected.
    #[must_use]
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.announcer.known().peers().copied().collect()
    }

    /// Blocks being fetched, requests under way, bytes of bodies here, requests waiting: for metrics and tests.
    #[must_use]
    pub(super) fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.fetcher.len(), self.fetcher.in_flight(), self.assembly.bytes(), self.assembly.waiting())
    }

    fn collect(&mut self) {
        for hash in self.assembly.take_evicted() {
            self.fetcher.forget(&hash);
            self.seen.remove(&hash);
            self.outputs.push(Output::Lost(hash));
        }
        for effect in self.fetcher.take_effects() {
            let output = match effect {
                Effect::Ask { id, peer, hash, wanted } => Output::Ask { id, peer, hash, wanted },
                Effect::Cancel(id) => Output::Cancel(id),
                Effect::Blame(peer, fault) => Output::Blame(peer, fault),
                Effect::Lost(hash) => {
                    // Another header of it may come, and it is fetched anew.
                    if !self.is_whole(&hash) {
                        self.assembly.remove(&hash);
                        self.seen.remove(&hash);
                    }
                    Output::Lost(hash)
                }
            };
            self.outputs.push(output);
        }
        let served = self.assembly.take_served();
        self.outputs.extend(served.into_iter().map(|s| Output::Serve(s.ticket, s.piece)));
    }
}
