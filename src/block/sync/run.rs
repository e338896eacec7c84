//! One stretch of catching up: consecutive heights cut into batches, each pulled from some peer, handed over in order.

use std::collections::{BTreeMap, HashSet};

use super::wire::{MAX_COUNT, SOFT_BYTES, Span};
use crate::{
    block::{Block, Point},
    primitives::PeerId,
};

/// Batches under way or waiting, in all: those in flight and those that wait for one before them.
pub(super) const BATCHES: usize = 21;
/// Finished batches that may wait for one before them; while there are that many only the first missing one is pulled.
const FINISHED: usize = 5;
/// Bytes of batches in flight and finished: what a sync may hold.
const BYTES: usize = 64 * 1024 * 1024;
/// Tries of one batch.
const TRIES: u8 = 5;
/// Bytes handed to the chain at once: fewer and larger writes, and still less than a quarter second of work.
const IMPORT_BYTES: usize = 8 * 1024 * 1024;
/// Blocks handed to the chain at once.
const IMPORT_BLOCKS: usize = 1024;

/// Where a batch is.
#[derive(Debug)]
enum Stage {
    Missing,
    Flying,
    Here { peer: PeerId, blocks: Vec<Block>, bytes: usize },
}

#[derive(Debug)]
struct Batch {
    count: u32,
    tries: u8,
    asked: Vec<PeerId>,
    stage: Stage,
}

impl Batch {
    fn new(count: u32) -> Self {
        Self { count, tries: 0, asked: Vec::new(), stage: Stage::Missing }
    }
}

/// Blocks for the chain, and who sent how many of them.
#[derive(Debug, Default)]
pub(super) struct Handover {
    pub(super) blocks: Vec<Block>,
    pub(super) from: Vec<(PeerId, usize)>,
}

impl Handover {
    /// Who sent the block at `index`.
    pub(super) fn sender(from: &[(PeerId, usize)], index: usize) -> Option<PeerId> {
        let mut left = index;
        from.iter().find_map(|(peer, count)| {
            let found = left < *count;
            left = left.saturating_sub(*count);
            found.then_some(*peer)
        })
    }
}

/// A batch that fits on nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) peer: PeerId,
    /// Where it should have fitted.
    pub(super) on: Point,
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Run {
    /// The block on which the next batch has to fit.
    pub(super) anchor: Point,
    /// Only peers on the branch of this one are asked.
    pub(super) branch: Option<PeerId>,
    /// Peers that are not asked in this run again.
    pub(super) excluded: HashSet<PeerId>,
    /// Blocks of this run are in the chain.
    pub(super) progressed: bool,
    batches: BTreeMap<u64, Batch>,
}

impl Run {
    pub(super) fn new(anchor: Point, branch: Option<PeerId>) -> Self {
        Self { anchor, branch, excluded: HashSet::new(), progressed: false, batches: BTreeMap::new() }
    }

    /// Cuts the heights up to `top` into batches of `count`, as far as there may be batches.
    pub(super) fn cut(&mut self, top: u64, count: u32) {
        let mut next = self.batches.last_key_value().map_or(self.anchor.height + 1, |(s, b)| s + u64::from(b.count));
        while next <= top && self.batches.len() < BATCHES {
            let left = u32::try_from(top - next + 1).unwrap_or(u32::MAX);
            let count = count.min(left).clamp(1, MAX_COUNT);
            self.batches.insert(next, Batch::new(count));
            next += u64::from(count);
        }
    }

    /// Batches to be pulled now, lowest first, with who was asked for them before.
    pub(super) fn missing(&self) -> Vec<(Span, Vec<PeerId>)> {
        let here = |b: &&Batch| matches!(b.stage, Stage::Here { .. });
        let (finished, flying) = (self.batches.values().filter(here).count(), self.flying());
        let held: usize =
            self.batches.values().map(|b| if let Stage::Here { bytes, .. } = b.stage { bytes } else { 0 }).sum();
        let room = BYTES.saturating_sub(held + flying * SOFT_BYTES) / SOFT_BYTES;
        let lowest = self.batches.keys().next().copied();
        let span = |(start, b): (&u64, &Batch)| (Span { start: *start, count: b.count }, b.asked.clone());
        let missing = self.batches.iter().filter(|(_, b)| matches!(b.stage, Stage::Missing));
        // The first one is always pulled: nothing is freed before it is here.
        let all = missing.filter(|(s, _)| Some(**s) == lowest || finished < FINISHED);
        all.take(room.max(1)).map(span).collect()
    }

    fn flying(&self) -> usize {
        self.batches.values().filter(|b| matches!(b.stage, Stage::Flying)).count()
    }

    /// `peer` was asked for these; what it does not have stays missing.
    pub(super) fn fly(&mut self, span: Span, peer: PeerId) {
        let Some(batch) = self.batches.get_mut(&span.start) else { return };
        batch.stage = Stage::Flying;
        batch.asked.push(peer);
        self.shorten(span);
    }

    /// The batch at `span.start` ends with `span`; the rest of it is another one.
    fn shorten(&mut self, span: Span) {
        let Some(batch) = self.batches.get_mut(&span.start) else { return };
        let rest = batch.count.saturating_sub(span.count);
        if rest > 0 {
            batch.count = span.count;
            self.batches.insert(span.end(), Batch::new(rest));
        }
    }

    /// These blocks came, checked and linked; at most what was asked for.
    pub(super) fn on_blocks(&mut self, span: Span, peer: PeerId, blocks: Vec<Block>, bytes: usize) {
        let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX).min(span.count);
        let waits = self.batches.get(&span.start).is_some_and(|b| matches!(b.stage, Stage::Flying));
        if count == 0 || !waits {
            return;
        }
        self.shorten(Span { start: span.start, count });
        if let Some(batch) = self.batches.get_mut(&span.start) {
            batch.stage = Stage::Here { peer, blocks, bytes };
        }
    }

    /// Nothing came. False when the batch was tried often enough; a try that was not the peer's fault does not count.
    pub(super) fn on_nothing(&mut self, span: Span, fault: bool) -> bool {
        let Some(batch) = self.batches.get_mut(&span.start).filter(|b| matches!(b.stage, Stage::Flying)) else {
            return true;
        };
        batch.stage = Stage::Missing;
        batch.tries += u8::from(fault);
        if !fault {
            // Whoever was busy may be asked again.
            batch.asked.pop();
        }
        batch.tries < TRIES
    }

    /// The next blocks for the chain, as many finished batches as fit on each other.
    ///
    /// # Errors
    /// When the first one does not fit on what is there.
    pub(super) fn take(&mut self) -> Result<Option<Handover>, Mismatch> {
        let (mut out, mut total) = (Handover::default(), 0);
        let mut on = self.anchor;
        while let Some(entry) = self.batches.first_entry() {
            let Stage::Here { peer, blocks, bytes } = &entry.get().stage else { break };
            let (peer, bytes) = (*peer, *bytes);
            if blocks.first().is_none_or(|b| b.header().parent != on.hash) {
                if out.blocks.is_empty() {
                    entry.remove();
                    return Err(Mismatch { peer, on });
                }
                break; // found again when those before it are in the chain
            }
            let full = total + bytes > IMPORT_BYTES || out.blocks.len() + blocks.len() > IMPORT_BLOCKS;
            if full && !out.blocks.is_empty() {
                break;
            }
            let Stage::Here { blocks, .. } = entry.remove().stage else { break };
            total += bytes;
            out.from.push((peer, blocks.len()));
            on = blocks.last().map_or(on, |b| Point { height: b.header().height, hash: b.hash() });
            out.blocks.extend(blocks);
        }
        Ok((!out.blocks.is_empty()).then_some(out))
    }

    /// Up to here the run is in the chain.
    pub(super) fn advance(&mut self, to: Point) {
        (self.anchor, self.progressed) = (to, true);
    }

    /// The heights after the anchor have to be pulled again.
    pub(super) fn again(&mut self) {
        self.batches.clear();
    }

    /// Whether some peer is being asked.
    pub(super) fn is_flying(&self) -> bool {
        self.flying() > 0
    }
}

/// How many blocks come to about [`SOFT_BYTES`], by what came lately.
#[derive(Debug)]
pub(super) struct Size {
    average: f64,
}

impl Default for Size {
    fn default() -> Self {
        Self { average: 0.0 }
    }
}

impl Size {
    pub(super) fn saw(&mut self, blocks: usize, bytes: usize) {
        if blocks > 0 {
            let seen = bytes as f64 / blocks as f64; // far below what a float holds
            self.average = if self.average == 0.0 { seen } else { self.average * 0.75 + seen * 0.25 };
        }
    }

    /// Blocks to ask for at once.
    pub(super) fn count(&self) -> u32 {
        let fit = SOFT_BYTES as f64 / self.average.max(1.0);
        if fit >= f64::from(MAX_COUNT) { MAX_COUNT } else { (fit as u32).max(1) } // below 128
    }
}
