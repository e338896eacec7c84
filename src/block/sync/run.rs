//! One stretch of catching up: consecutive heights cut into batches, each pulled from some peer, handed over in order. What was handed over
//! is on its way into the chain: the next batch that fits on it follows as soon as it is here.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::wire::{MAX_COUNT, SOFT_BYTES, Span};
use crate::{
    block::{
        Block, Point,
        chain::{MERGE_BLOCKS, MERGE_BYTES},
    },
    net::Voice,
    primitives::PeerId,
};

/// Batches under way or waiting, in all: those in flight and those that wait for one before them.
pub(super) const BATCHES: usize = 16 + FINISHED;
/// Finished batches that may wait for one before them, or for the chain to write; while there are that many only the first missing one
/// is pulled. What they hold is bounded by [`BYTES`] before that when blocks are large.
const FINISHED: usize = 16;
/// Bytes of batches in flight and finished: what a sync may hold besides what it has handed over.
const BYTES: usize = 64 * 1024 * 1024;
/// Tries of one batch.
const TRIES: u8 = 5;
/// How often neighbours that contradict each other are pulled again; after that the first one counts, and what follows shows.
const DISPUTES: u8 = 2;
/// What may be handed over at once: no more than the chain writes at once.
const AT_ONCE: Load = Load { blocks: MERGE_BLOCKS, bytes: MERGE_BYTES };
/// What may be with the chain: one write's worth that it makes durable, and one that it is given meanwhile.
pub(super) const WITH_CHAIN: Load = Load { blocks: 2 * MERGE_BLOCKS, bytes: 2 * MERGE_BYTES };

/// Where a batch is.
#[derive(Debug)]
enum Stage {
    Missing,
    /// Asked for; of more than one peer when the first ones took long.
    Flying(Vec<PeerId>),
    Here {
        peer: PeerId,
        blocks: Vec<Block>,
        bytes: usize,
    },
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

/// How much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    pub(super) blocks: usize,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { blocks: self.blocks + other.blocks, bytes: self.bytes + other.bytes }
    }

    fn fits(self, other: Self) -> bool {
        self.blocks <= other.blocks && self.bytes <= other.bytes
    }
}

/// Blocks for the chain, and who sent how many of them.
#[derive(Debug, Default)]
pub(super) struct Handover {
    pub(super) blocks: Vec<Block>,
    pub(super) from: Vec<(PeerId, usize)>,
    pub(super) load: Load,
    /// Whether others are missing, on their way or here.
    pub(super) more: bool,
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

/// A batch to be pulled.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) span: Span,
    /// Who was asked for it before.
    pub(super) before: Vec<PeerId>,
    /// Who has sent, or was asked for, the batches before and after it.
    pub(super) beside: Vec<PeerId>,
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
    /// Up to here the run is in the chain.
    pub(super) anchor: Point,
    /// Only peers on the branch of this one are asked.
    pub(super) branch: Option<PeerId>,
    /// Peers that are not asked in this run again.
    pub(super) excluded: HashSet<PeerId>,
    /// Blocks of this run are in the chain.
    pub(super) progressed: bool,
    /// Nobody came who would vouch for what peers of this voice sent: it goes to the chain all the same, until somebody else sends something.
    pub(super) alone: Option<Voice>,
    batches: BTreeMap<u64, Batch>,
    /// Whose voice those are who were asked.
    voices: HashMap<PeerId, Voice>,
    /// The chain was given everything up to here: the block on which the next batch has to fit.
    given: Point,
    /// Batches were handed over since others were cut.
    shorter: bool,
    /// How often that happened between two batches, by the second one's first height.
    disputes: BTreeMap<u64, u8>,
}

impl Run {
    pub(super) fn new(anchor: Point, branch: Option<PeerId>) -> Self {
        Self {
            anchor,
            branch,
            excluded: HashSet::new(),
            progressed: false,
            alone: None,
            batches: BTreeMap::new(),
            voices: HashMap::new(),
            given: anchor,
            shorter: false,
            disputes: BTreeMap::new(),
        }
    }

    /// Cuts the heights up to `top` into batches of `count`, as far as there may be batches.
    pub(super) fn cut(&mut self, top: u64, count: u32) {
        self.shorter = false;
        let mut next = self.batches.last_key_value().map_or(self.given.height + 1, |(s, b)| s + u64::from(b.count));
        while next <= top && self.batches.len() < BATCHES {
            let left = u32::try_from(top - next + 1).unwrap_or(u32::MAX);
            let count = count.min(left).clamp(1, MAX_COUNT);
            self.batches.insert(next, Batch::new(count));
            next += u64::from(count);
        }
    }

    /// Batches to be pulled now, lowest first.
    pub(super) fn missing(&self) -> Vec<Wanted> {
        let here = |b: &&Batch| matches!(b.stage, Stage::Here { .. });
        let (finished, flying) = (self.batches.values().filter(here).count(), self.flying());
        let held: usize =
            self.batches.values().map(|b| if let Stage::Here { bytes, .. } = b.stage { bytes } else { 0 }).sum();
        let room = BYTES.saturating_sub(held + flying * SOFT_BYTES) / SOFT_BYTES;
        let missing = || self.batches.iter().filter(|(_, b)| matches!(b.stage, Stage::Missing));
        let lowest = missing().next().map(|(start, _)| *start);
        // The first one is always pulled: nothing is freed before it is here.
        let all = missing().filter(|(s, _)| Some(**s) == lowest || finished < FINISHED);
        all.take(room.max(1)).map(|(start, batch)| self.wanted(*start, batch)).collect()
    }

    fn wanted(&self, start: u64, batch: &Batch) -> Wanted {
        let span = Span { start, count: batch.count };
        let left = self.batches.range(..start).next_back().filter(|(s, b)| **s + u64::from(b.count) == start);
        let beside = [left.map(|(_, b)| b), self.batches.get(&span.end())].into_iter().flatten();
        let beside = beside.flat_map(|b| match &b.stage {
            Stage::Flying(peers) => peers.as_slice(),
            Stage::Here { peer, .. } => std::slice::from_ref(peer),
            Stage::Missing => &[],
        });
        Wanted { span, before: batch.asked.clone(), beside: beside.copied().collect() }
    }

    fn flying(&self) -> usize {
        self.batches.values().map(|b| if let Stage::Flying(peers) = &b.stage { peers.len() } else { 0 }).sum()
    }

    /// The lowest batch that is not here, when it is on its way: everything else waits for it.
    pub(super) fn awaited(&self) -> Option<Wanted> {
        let first = self.batches.iter().find(|(_, b)| !matches!(b.stage, Stage::Here { .. }));
        let (start, batch) = first.filter(|(_, b)| matches!(b.stage, Stage::Flying(_)))?;
        Some(self.wanted(*start, batch))
    }

    /// `peer` was asked for these; what it does not have stays missing.
    pub(super) fn fly(&mut self, span: Span, peer: PeerId) {
        let Some(batch) = self.batches.get_mut(&span.start) else { return };
        match &mut batch.stage {
            Stage::Flying(peers) => peers.push(peer),
            stage => *stage = Stage::Flying(vec![peer]),
        }
        batch.asked.push(peer);
        self.shorten(span);
    }

    /// Whose voice a peer is that is asked.
    pub(super) fn place(&mut self, peer: PeerId, voice: Voice) {
        self.voices.insert(peer, voice);
    }

    pub(super) fn voice(&self, peer: &PeerId) -> Voice {
        self.voices.get(peer).copied().unwrap_or(Voice::Name(*peer))
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
        // What came from somebody else first, or was cut anew meanwhile, is not looked at.
        let asked = |b: &Batch| matches!(&b.stage, Stage::Flying(peers) if peers.contains(&peer)) && count <= b.count;
        if count == 0 || !self.batches.get(&span.start).is_some_and(asked) {
            return;
        }
        self.alone = self.alone.filter(|alone| *alone == self.voice(&peer));
        self.shorten(Span { start: span.start, count });
        if let Some(batch) = self.batches.get_mut(&span.start) {
            batch.stage = Stage::Here { peer, blocks, bytes };
        }
    }

    /// Nothing came from `peer`. False when the batch was tried often enough; a try that was not the peer's fault does not count.
    pub(super) fn on_nothing(&mut self, span: Span, peer: PeerId, fault: bool) -> bool {
        let Some(Batch { stage, tries, asked, .. }) = self.batches.get_mut(&span.start) else { return true };
        let Stage::Flying(peers) = stage else { return true };
        let Some(at) = peers.iter().position(|p| *p == peer) else { return true };
        peers.remove(at);
        let others = !peers.is_empty();
        if !others {
            *stage = Stage::Missing;
        }
        match fault {
            true => *tries = tries.saturating_add(1),
            // Whoever was busy may be asked again.
            false => drop(asked.iter().rposition(|p| *p == peer).map(|at| asked.remove(at))),
        }
        others || *tries < TRIES
    }

    /// The next blocks for the chain, as many finished batches as fit on each other and beside what is `with_chain` already. Below `twice`,
    /// where more than one voice has blocks, a batch waits for the next one of another voice that fits on it: what is handed over
    /// becomes final soon.
    ///
    /// # Errors
    /// When the first one does not fit on what is in the chain: it is missing again.
    pub(super) fn take(&mut self, twice: u64, with_chain: Load) -> Result<Option<Handover>, Mismatch> {
        let mut out = Handover::default();
        let mut on = self.given;
        while let Some(mut entry) = self.batches.first_entry() {
            let Stage::Here { peer, blocks, bytes } = &entry.get().stage else { break };
            let (start, peer, bytes) = (*entry.key(), *peer, *bytes);
            if blocks.first().is_none_or(|b| b.header().parent != on.hash) {
                if with_chain == Load::default() && out.blocks.is_empty() {
                    entry.get_mut().stage = Stage::Missing;
                    return Err(Mismatch { peer, on });
                }
                break; // found again when those before it are in the chain
            }
            let load = Load { blocks: blocks.len(), bytes };
            let (now, all) = (out.load.plus(load), with_chain.plus(out.load).plus(load));
            let first = all == load;
            let vouched = self.alone == Some(self.voice(&peer)) || self.is_vouched_for(start, twice);
            if !(first || (now.fits(AT_ONCE) && all.fits(WITH_CHAIN))) || !vouched {
                break;
            }
            let Some(Batch { stage: Stage::Here { blocks, .. }, .. }) = self.batches.remove(&start) else { break };
            (out.load, self.shorter) = (now, true);
            out.from.push((peer, blocks.len()));
            on = blocks.last().map_or(on, point);
            self.given = on;
            out.blocks.extend(blocks);
        }
        out.more = !self.batches.is_empty();
        Ok((!out.blocks.is_empty()).then_some(out))
    }

    /// Whether the batch at `start`, which is here, is followed by one of another voice. Two that contradict each other
    /// are pulled again, from others if there are any.
    fn is_vouched_for(&mut self, start: u64, twice: u64) -> bool {
        let mut at = start;
        let (mut first, mut bytes) = (None, 0);
        loop {
            let Some(Batch { stage: Stage::Here { peer, blocks, bytes: more }, count, .. }) = self.batches.get(&at)
            else {
                // As much as may be held came from one sender and nothing from others, who had the time.
                return bytes >= BYTES;
            };
            bytes += more;
            let sender = *first.get_or_insert(*peer);
            let next = at + u64::from(*count);
            if self.voice(peer) != self.voice(&sender) || next > twice {
                return true;
            }
            let last = blocks.last().map(point).unwrap_or_default();
            // The last one that there may be: nothing can come after it before it is gone.
            let Some(after) = self.batches.get(&next) else { return !self.shorter };
            let Stage::Here { blocks, .. } = &after.stage else { return bytes >= BYTES };
            if blocks.first().is_some_and(|b| b.header().parent == last.hash) {
                at = next;
                continue;
            }
            let disputes = self.disputes.entry(next).or_default();
            *disputes += 1;
            if *disputes > DISPUTES {
                return true;
            }
            // Who of both is wrong nobody knows: what is wrong fits on nothing in the end.
            for start in [at, next] {
                if let Some(batch) = self.batches.get_mut(&start) {
                    batch.stage = Stage::Missing;
                }
            }
            return false;
        }
    }

    /// Who sent the next batch for the chain, when it is here.
    pub(super) fn next_sender(&self) -> Option<PeerId> {
        match self.batches.first_key_value()?.1.stage {
            Stage::Here { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// Up to here the run is in the chain.
    pub(super) fn advance(&mut self, to: Point) {
        (self.anchor, self.progressed) = (to, true);
    }

    /// The heights after the anchor have to be pulled again, those that were handed over too.
    pub(super) fn again(&mut self) {
        self.batches.clear();
        self.given = self.anchor;
    }

    /// Whether some peer is being asked.
    pub(super) fn is_flying(&self) -> bool {
        self.flying() > 0
    }
}

fn point(block: &Block) -> Point {
    Point { height: block.header().height, hash: block.hash() }
}

/// How many blocks come to about [`SOFT_BYTES`], by what came lately.
#[derive(Debug)]
pub(super) struct Size {
    average: f64,
    /// Bytes to ask for at once: less when the line is slow.
    goal: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { average: 0.0, goal: SOFT_BYTES }
    }
}

/// The least that is asked for at once: in the time of a pull a modem brings it.
const LEAST_BYTES: usize = 32 * 1024;

impl Size {
    pub(super) fn saw(&mut self, blocks: usize, bytes: usize) {
        if blocks > 0 {
            let seen = bytes as f64 / blocks as f64; // far below what a float holds
            self.average = if self.average == 0.0 { seen } else { self.average * 0.75 + seen * 0.25 };
        }
    }

    /// A pull ran out of time, and no smaller number of them would help. False when no less can be asked for.
    pub(super) fn shrink(&mut self) -> bool {
        let least = self.goal == LEAST_BYTES || self.count() == 1;
        self.goal = (self.goal / 4).max(LEAST_BYTES);
        !least
    }

    /// A pull came quickly. False when as much is asked for at once as there may be.
    pub(super) fn double(&mut self) -> bool {
        let full = self.goal >= SOFT_BYTES;
        self.goal = (self.goal * 2).min(SOFT_BYTES);
        !full
    }

    /// Bytes to ask for at once.
    pub(super) fn bytes(&self) -> usize {
        self.goal
    }

    /// Blocks to ask for at once.
    pub(super) fn count(&self) -> u32 {
        let fit = self.goal as f64 / self.average.max(1.0);
        if fit >= f64::from(MAX_COUNT) { MAX_COUNT } else { (fit as u32).max(1) } // below 128
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::kit::{self, Maker};

    fn genesis() -> Point {
        point(&kit::genesis())
    }

    /// Asks `peer` for everything that is missing, and has it sent from `chain`, each batch with `bytes` bytes.
    fn send(run: &mut Run, peer: PeerId, chain: &[Block], span: Span, bytes: usize) {
        run.fly(span, peer);
        let start = usize::try_from(span.start - 1).unwrap();
        run.on_blocks(span, peer, chain[start..start + span.count as usize].to_vec(), bytes);
    }

    fn spans(run: &Run) -> Vec<Span> {
        run.missing().into_iter().map(|w| w.span).collect()
    }

    #[test]
    fn what_is_held_is_bounded_by_bytes_and_by_batches() {
        let chain = Maker::new(1).row(&kit::genesis(), 3200, 0);
        let mut run = Run::new(genesis(), None);
        run.cut(u64::MAX, 100);
        assert_eq!(spans(&run).len(), BATCHES);
        let all = spans(&run);
        // Four batches of 15 MiB leave room for two more in flight.
        for span in &all[1..5] {
            send(&mut run, PeerId::random(), &chain, *span, 15 << 20);
        }
        assert_eq!(spans(&run).len(), 2);
        run.fly(all[0], PeerId::random());
        run.fly(all[6], PeerId::random());
        assert_eq!(spans(&run), [all[5]], "the first missing one always");
        let mut run = Run::new(genesis(), None);
        run.cut(u64::MAX, 100);
        run.fly(all[0], PeerId::random());
        for span in &all[1..FINISHED] {
            send(&mut run, PeerId::random(), &chain, *span, 1);
        }
        assert_eq!(spans(&run).len(), BATCHES - FINISHED);
        send(&mut run, PeerId::random(), &chain, all[FINISHED], 1);
        assert_eq!(spans(&run), [all[FINISHED + 1]], "many are finished: only the first one missing");
    }

    #[test]
    fn what_one_sender_alone_brings_is_handed_over_before_it_fills_the_memory() {
        let chain = Maker::new(1).row(&kit::genesis(), 3200, 0);
        let mut run = Run::new(genesis(), None);
        run.cut(u64::MAX, 100);
        // Somebody else says that it has them, and gives nothing.
        let (peer, twice) = (PeerId::random(), u64::MAX);
        let (mut given, mut held, mut most) = (0, 0, 0);
        for span in spans(&run) {
            send(&mut run, peer, &chain, span, 8 << 20);
            held += 8 << 20;
            most = most.max(held);
            while let Some(out) = run.take(twice, Load::default()).unwrap() {
                given += out.blocks.len();
                held -= out.load.bytes;
                run.advance(run.given);
            }
        }
        assert!(most <= BYTES + (8 << 20), "{} MiB", most >> 20);
        assert!(given >= 2400, "{given}");
    }

    #[test]
    fn a_short_answer_leaves_the_rest_to_be_pulled() {
        let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
        let mut run = Run::new(genesis(), None);
        run.cut(100, 128);
        let peer = PeerId::random();
        run.fly(Span { start: 1, count: 100 }, peer);
        run.on_blocks(Span { start: 1, count: 100 }, peer, chain[..30].to_vec(), 1);
        assert_eq!(spans(&run), [Span { start: 31, count: 70 }]);
        assert_eq!(run.take(0, Load::default()).unwrap().unwrap().blocks.len(), 30);
        assert!(run.take(0, Load::default()).unwrap().is_none());
        run.cut(100, 128);
        assert_eq!(spans(&run), [Span { start: 31, count: 70 }], "what was handed over is not pulled again");
        run.again();
        run.cut(100, 128);
        assert_eq!(spans(&run)[0].start, 1, "unless the chain did not take it");
    }

    #[test]
    fn neighbours_that_contradict_each_other_are_pulled_again() {
        let chain = Maker::new(1).row(&kit::genesis(), 30, 0);
        let other = Maker::new(2).row(&kit::genesis(), 30, 0);
        let (good, liar, third) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut run = Run::new(genesis(), None);
        run.cut(30, 10);
        let all = spans(&run);
        send(&mut run, liar, &other, all[0], 1);
        assert!(run.take(30, Load::default()).unwrap().is_none(), "nobody vouches for it");
        assert_eq!(run.missing()[0].beside, [liar]);
        send(&mut run, good, &chain, all[1], 1);
        assert!(run.take(30, Load::default()).unwrap().is_none());
        assert_eq!(spans(&run), all, "both again");
        send(&mut run, third, &chain, all[0], 1);
        send(&mut run, good, &chain, all[1], 1);
        assert_eq!(
            run.take(30, Load::default()).unwrap().unwrap().blocks.len(),
            10,
            "the second one waits for the third"
        );
        run.advance(point(&chain[9]));
        send(&mut run, liar, &other, all[2], 1);
        assert!(run.take(30, Load::default()).unwrap().is_none());
        assert_eq!(run.take(20, Load::default()).unwrap().map(|h| h.blocks.len()), None, "they are pulled again");
        // What fits on nothing that the chain was given is known at once.
        let mut run = Run::new(point(&chain[9]), None);
        run.cut(30, 10);
        let all = spans(&run);
        send(&mut run, liar, &other, all[0], 1);
        send(&mut run, good, &chain, all[1], 1);
        assert_eq!(run.take(30, Load::default()).unwrap_err(), Mismatch { peer: liar, on: point(&chain[9]) });
        assert_eq!(spans(&run)[0], all[0], "it is missing again");
    }

    #[test]
    fn names_of_one_voice_do_not_vouch_for_each_other() {
        let chain = Maker::new(1).row(&kit::genesis(), 60, 0);
        let names: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        for voices in [1, 2] {
            let mut run = Run::new(genesis(), None);
            run.cut(60, 10);
            let all = spans(&run);
            for (n, (name, span)) in (0_u8..).zip(names.iter().zip(&all)) {
                run.place(*name, Voice::Host([198, 51, 100, n % voices].into()));
                send(&mut run, *name, &chain, *span, 1);
            }
            let taken = run.take(60, Load::default()).unwrap().map_or(0, |out| out.blocks.len());
            assert_eq!(taken, if voices == 1 { 0 } else { 30 }, "{voices}");
            // Nobody else came in time: then all of that voice is taken, whoever of it sends.
            run.alone = Some(run.voice(&names[0]));
            send(&mut run, names[0], &chain, all[4], 1);
            let taken = run.take(60, Load::default()).unwrap().map_or(0, |out| out.blocks.len());
            assert_eq!(taken, if voices == 1 { 50 } else { 20 });
        }
    }

    #[test]
    fn what_follows_is_handed_over_while_the_chain_still_writes_as_far_as_it_may_hold() {
        let (chain, other) = (Maker::new(1).row(&kit::genesis(), 60, 0), Maker::new(2).row(&kit::genesis(), 60, 0));
        let peer = PeerId::random();
        let mut run = Run::new(genesis(), None);
        run.cut(60, 10);
        let all = spans(&run);
        let mut with_chain = Load::default();
        for (i, span) in all[..2].iter().enumerate() {
            send(&mut run, peer, &chain, *span, MERGE_BYTES);
            let handover = run.take(0, with_chain).unwrap().unwrap();
            assert_eq!((handover.blocks[0].header().height, handover.more), (10 * i as u64 + 1, true));
            with_chain = with_chain.plus(handover.load);
        }
        assert_eq!(with_chain, Load { blocks: 20, bytes: 2 * MERGE_BYTES });
        send(&mut run, peer, &chain, all[2], 1);
        assert!(run.take(0, with_chain).unwrap().is_none(), "the chain has enough");
        run.advance(point(&chain[9]));
        let with_chain = Load { blocks: 10, bytes: MERGE_BYTES };
        assert_eq!(run.take(0, with_chain).unwrap().unwrap().load, Load { blocks: 10, bytes: 1 });
        // One that does not fit may be right: whether it is shows when the chain has what is before it.
        send(&mut run, peer, &other, all[3], 1);
        assert!(run.take(0, with_chain).unwrap().is_none());
        run.advance(point(&chain[19]));
        assert!(run.take(0, with_chain).unwrap().is_none());
        run.advance(point(&chain[29]));
        assert_eq!(run.take(0, Load::default()).unwrap_err(), Mismatch { peer, on: point(&chain[29]) });
        // What the chain did not take is pulled again, with all that was handed over after it.
        run.again();
        run.cut(60, 30);
        let all = spans(&run);
        assert_eq!(all[0].start, 31);
        // However large, one alone always goes.
        send(&mut run, peer, &chain, all[0], 3 * MERGE_BYTES);
        let last = run.take(0, Load::default()).unwrap().unwrap();
        assert_eq!((last.load.bytes, last.more), (3 * MERGE_BYTES, false));
    }

    #[test]
    fn a_batch_that_fits_on_nothing_is_told() {
        let other = Maker::new(2).row(&kit::genesis(), 30, 0);
        let mut run = Run::new(Point { height: 10, ..genesis() }, None);
        run.cut(30, 10);
        let peer = PeerId::random();
        let first = spans(&run)[0];
        send(&mut run, peer, &other, first, 1);
        assert_eq!(run.take(0, Load::default()).unwrap_err(), Mismatch { peer, on: run.anchor });
    }

    #[test]
    fn the_size_of_batches_follows_that_of_blocks() {
        let mut size = Size::default();
        assert_eq!(size.count(), MAX_COUNT);
        size.saw(10, 10 << 20);
        assert_eq!(size.count(), 2);
        (0..40).for_each(|_| size.saw(10, 2000));
        assert_eq!(size.count(), MAX_COUNT);
        size.saw(1, usize::MAX);
        assert_eq!(size.count(), 1);
    }

    #[test]
    fn less_is_asked_for_when_pulls_run_out_of_time_and_more_again_when_they_come() {
        let mut size = Size::default();
        size.saw(10, 10 << 20);
        assert!(size.shrink());
        (0..2).for_each(|_| assert!(!size.shrink(), "one block is one block"));
        assert_eq!((size.bytes(), size.count()), (LEAST_BYTES, 1));
        assert!(!size.shrink());
        assert_eq!(size.bytes(), LEAST_BYTES);
        let steps = std::iter::repeat_with(|| size.double()).take_while(|more| *more).count();
        assert_eq!((steps, size.count()), (6, 2));
    }

    #[test]
    fn the_sender_of_each_block_is_known() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let from = [(a, 3), (b, 2)];
        let senders: Vec<_> = (0..6).map(|i| Handover::sender(&from, i)).collect();
        assert_eq!(senders, [Some(a), Some(a), Some(a), Some(b), Some(b), None]);
    }
}
