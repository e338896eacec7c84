//! More candidates than there is room for. What one block is worth that comes alone is plain; what the first of several is worth shows when
//! the others are here. So a segment is looked at as a whole, and blocks of the segments that came last stay for a while whatever else
//! there is: or a crowd of better blocks at one height, which anybody may sign, could keep a longer branch from ever being seen.

use std::collections::{HashSet, VecDeque};

use super::Core;
use crate::{
    block::{
        Block, Origin, Point,
        chain::{ChainError, Event, Outcome, SegmentOutcome},
    },
    primitives::{Hash, UnixMillis},
};

/// Why a block is not kept that is worse than enough others.
const TOO_MANY: &str = "too many better candidates are held";
/// Blocks of segments, and those that were part of the best chain, that stay beyond all limits, with those that they build on: several
/// times a commit depth.
const PULLED: usize = 128;
/// Bytes of their bodies.
const PULLED_BYTES: usize = 64 * 1024 * 1024;

/// The blocks that stay, oldest first.
#[derive(Default, Debug)]
pub(super) struct Pulled {
    blocks: VecDeque<(Hash, usize)>,
    bytes: usize,
}

impl Pulled {
    pub(super) fn add(&mut self, hash: Hash, bytes: usize) {
        self.blocks.push_back((hash, bytes));
        self.bytes += bytes;
        while self.blocks.len() > PULLED || self.bytes > PULLED_BYTES {
            let Some((_, bytes)) = self.blocks.pop_front() else { return };
            self.bytes -= bytes;
        }
    }
}

impl Core {
    /// Takes blocks that follow each other into memory; see [`Core::apply`].
    pub(in crate::block::chain) fn apply_segment(
        &mut self,
        blocks: Vec<Block>,
        origin: Origin,
        now: UnixMillis,
    ) -> Result<SegmentOutcome, ChainError> {
        let mut stopped = None;
        self.from_file |= origin == Origin::File;
        // Those that are held, and whether they are new.
        let mut held: Vec<(Point, bool)> = Vec::new();
        for block in blocks {
            let point = Point { height: block.header().height, hash: block.hash() };
            let bytes = block.body().bytes().len();
            match self.take(block, origin, now)? {
                Outcome::Imported { .. } => {
                    held.push((point, true));
                    self.pulled.add(point.hash, bytes);
                }
                // It is here, and has lost against what is final: nothing builds on it.
                Outcome::Known if self.retired.contains(&point.hash) => {
                    stopped = Some(Outcome::OutOfWindow);
                    break;
                }
                Outcome::Known => held.push((point, false)),
                other => {
                    stopped = Some(other);
                    break;
                }
            }
        }
        let new: Vec<Point> = held.iter().filter(|(_, new)| *new).map(|(point, _)| *point).collect();
        let gone = self.shrink(new);
        if let Some(first) = held.iter().position(|(point, _)| gone.contains(point)) {
            held.truncate(first);
            // Whoever sent what is invalid is to blame whatever else there is.
            stopped = stopped
                .filter(|s| matches!(s, Outcome::Invalid(_)))
                .or_else(|| Some(Outcome::Ignored(TOO_MANY.into())));
        }
        let new = held.iter().filter(|(_, new)| *new).count();
        Ok(SegmentOutcome { held: held.len(), new, stopped })
    }

    /// Takes a block into memory. Nobody may hear of it before the next flush.
    pub(in crate::block::chain) fn apply(
        &mut self,
        block: Block,
        origin: Origin,
        now: UnixMillis,
    ) -> Result<Outcome, ChainError> {
        let point = Point { height: block.header().height, hash: block.hash() };
        let outcome = self.take(block, origin, now)?;
        if matches!(outcome, Outcome::Imported { .. }) && self.shrink([point]).contains(&point) {
            return Ok(Outcome::Ignored(TOO_MANY.into()));
        }
        Ok(outcome)
    }

    /// Drops candidates until there are no more than may be, after these were added. Returns those that went.
    fn shrink(&mut self, added: impl IntoIterator<Item = Point>) -> Vec<Point> {
        let mut gone = Vec::new();
        let mut stays: Option<HashSet<Hash>> = None;
        for point in added {
            while self.tree.overflows(point.height) {
                let stays = stays.get_or_insert_with(|| self.staying());
                let choice = self.rules.choice.as_ref();
                let evicted = self.tree.evict(point.height, |hash| stays.contains(hash), choice);
                if evicted.is_empty() {
                    break;
                }
                gone.extend(evicted);
            }
        }
        if !gone.is_empty() {
            self.events.retain(|e| !matches!(e, Event::Imported { point, .. } if gone.contains(point)));
            self.change.evicted.extend_from_slice(&gone);
        }
        gone
    }

    /// The best chain, and the blocks that were pulled, or left it, last, with all that they build on. Whoever is told that a block left the
    /// best chain reads it then, for its transactions.
    fn staying(&self) -> HashSet<Hash> {
        let mut stays: HashSet<Hash> = self.path.iter().map(|p| p.hash).collect();
        for (hash, _) in &self.pulled.blocks {
            let mut at = *hash;
            while let Some(header) = self.tree.header(&at)
                && stays.insert(at)
            {
                at = header.parent;
            }
        }
        stays
    }
}
