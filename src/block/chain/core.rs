//! The single owner of tree, orphans, head and committed block. Synchronous: time is an argument, and nothing but the store is touched,
//! so a simulation uses it as it is.
//!
//! Blocks are *applied* one by one to what is in memory, which notes the change for the store; [`Core::flush`] writes the change and
//! only then tells what happened. One flush may cover many blocks. After a flush that failed, what is in memory is not
//! trusted any more: blocks are refused until [`Core::recover`] has read everything from the store again.

mod crowd;
mod rival;
mod told;

use std::sync::Arc;

use self::crowd::Pulled;
use super::{
    conflict::{Conflicts, Hold},
    fork_choice::ForkChoice,
    handle::{ChainError, Event, Outcome, SegmentOutcome, Status},
    invalid::Invalid,
    judge,
    orphans::Orphans,
    retired::RetiredBlocks,
    start::{self, OpenError},
    store::{ChainStore, Change, Marks},
    tree::Tree,
    validator::{Validator, Verdict},
};
use crate::{
    block::{Block, Header, Origin, Point},
    primitives::{Hash, NetworkId, UnixMillis},
    store::StoreError,
};

/// Waiting blocks applied in one go after their parent came; the rest follows with the next call, so that a long row of them does
/// not hold up everybody else.
const RELEASE: usize = 64;
/// Tries to write, one in two seconds, after which a store that can be read is taken for stuck.
const STUCK: u32 = 15;

/// What the chain goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The genesis block.
    pub genesis: Block,
    /// Blocks above the committed one before the next is committed; 1 to [`super::MAX_COMMIT_DEPTH`].
    pub depth: u64,
    /// Committed blocks that may be taken back when most peers prove a better branch; 0: none, at most
    /// [`super::MAX_DEEP_REORG`].
    pub deep_reorg_max: u64,
    /// What that may be raised to, for the advice of a chain that halts: [`super::MAX_DEEP_REORG`], or less with large blocks.
    pub deep_reorg_most: u64,
    /// The network that all headers are signed for: a store of another one is not opened. `None`: whoever gives blocks checks that.
    pub network: Option<NetworkId>,
    /// Which branch is better.
    pub choice: Arc<dyn ForkChoice>,
    /// What is valid.
    pub validator: Arc<dyn Validator>,
}

/// Why blocks are not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Halt {
    /// The store failed; reading it again may help.
    Store(StoreError),
    /// What was read contradicts itself or us. A disk that fails for a while looks the same, so reading again may help here as well.
    Damaged(String),
    /// Most peers are on a branch that contradicts what is final here.
    Conflict(String),
}

impl Halt {
    fn text(&self) -> String {
        match self {
            Self::Store(error) => format!("{error}; blocks are taken again as soon as the store works"),
            Self::Damaged(text) => format!("{text}. It is read again every few seconds"),
            Self::Conflict(text) => text.clone(),
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Batches written.
    pub writes: u64,
    /// Those that were synced.
    pub synced: u64,
    /// Blocks found invalid.
    pub invalid: u64,
}

/// The chain.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    store: Arc<dyn ChainStore>,
    pub(super) tree: Tree,
    pub(super) orphans: Orphans,
    pub(super) invalid: Invalid,
    retired: RetiredBlocks,
    /// From the committed block, which is not in it, to the head.
    pub(super) path: Vec<Point>,
    conflicts: Conflicts,
    hold: Option<Hold>,
    /// What the last write that succeeded left of it.
    written_hold: Option<Hold>,
    halted: Option<Halt>,
    /// How often in a row the store could be read and not written, though the disk is not full.
    unwritable: u32,
    /// Bytes of bodies of the write that failed last.
    failed_bytes: usize,
    /// Blocks of the change came from a file.
    from_file: bool,
    change: Change,
    /// Of the change that is not written yet.
    events: Vec<Event>,
    released: Vec<(Block, Origin)>,
    /// Of the segments that came last, and what left the best chain last.
    pulled: Pulled,
    /// The committed block and the best chain above it, as the events so far tell them.
    told: Vec<Point>,
    written: Written,
}

impl Core {
    /// Reads the chain from its store, checks it, and repairs what is above the committed block; a new store gets the genesis block.
    ///
    /// # Errors
    /// [`OpenError`] when the store is of another chain, contradicts itself at or below the committed block, or fails.
    pub fn open(rules: Rules, store: Arc<dyn ChainStore>, now: UnixMillis) -> Result<Self, OpenError> {
        Self::read(rules, store, None, now)?.repaired().map_err(OpenError::Store)
    }

    /// What is in the store, with what has to be repaired not written yet. `hold`: one that goes on when what it is about is there.
    fn read(rules: Rules, store: Arc<dyn ChainStore>, hold: Option<Hold>, now: UnixMillis) -> Result<Self, OpenError> {
        let loaded = start::load(&rules, store.as_ref())?;
        let hold = hold.filter(|hold| loaded.tree.root().height <= hold.fork);
        let mut core = Self {
            rules,
            store,
            tree: loaded.tree,
            orphans: Orphans::default(),
            invalid: Invalid::default(),
            retired: loaded.retired,
            path: loaded.stored_path,
            conflicts: Conflicts::default(),
            hold,
            written_hold: hold,
            halted: None,
            unwritable: 0,
            failed_bytes: 0,
            from_file: false,
            change: loaded.repairs,
            events: Vec::new(),
            released: Vec::new(),
            pulled: Pulled::default(),
            told: Vec::new(),
            written: Written::default(),
        };
        core.follow_best(now);
        Ok(core)
    }

    fn repaired(mut self) -> Result<Self, StoreError> {
        self.flush()?;
        self.told = self.place();
        Ok(self)
    }

    /// Where the chain stands. Only to be shown to others right after a flush.
    #[must_use]
    pub fn status(&self) -> Status {
        let head = self.head();
        Status {
            genesis: self.rules.genesis.hash(),
            head,
            head_time: self.tree.header(&head.hash).map_or(UnixMillis(0), |h| h.time),
            committed: self.tree.root(),
            earliest: 1,
            halted: self.halted.as_ref().map(Halt::text),
            retrying: self.is_broken(),
            damaged_files: self.store.damaged_files(),
            conflicting_peers: self.conflicts.most_peers(),
        }
    }

    /// The best block.
    #[must_use]
    pub fn head(&self) -> Point {
        self.path.last().copied().unwrap_or_else(|| self.tree.root())
    }

    /// The newest final block.
    #[must_use]
    pub fn committed(&self) -> Point {
        self.tree.root()
    }

    /// Blocks that wait for their parent or their time.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.orphans.len()
    }

    /// Sizes for the metrics: candidates, orphans, retired blocks.
    pub(in crate::block) fn sizes(&self) -> (usize, usize, usize) {
        (self.tree.len(), self.orphans.len(), self.retired.len())
    }

    /// What was written so far.
    #[must_use]
    pub fn written(&self) -> Written {
        self.written
    }

    /// Most peers seen on a branch that contradicts what is final.
    #[must_use]
    pub fn conflicting_peers(&self) -> usize {
        self.conflicts.most_peers()
    }

    /// Imports one block and writes it. What happened comes with the answer.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn import(
        &mut self,
        block: Block,
        origin: Origin,
        now: UnixMillis,
    ) -> Result<(Outcome, Vec<Event>), ChainError> {
        let outcome = self.apply(block, origin, now)?;
        while self.work(now)? {}
        Ok((outcome, self.flush()?))
    }

    /// Imports consecutive blocks in one write.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn import_segment(
        &mut self,
        blocks: Vec<Block>,
        origin: Origin,
        now: UnixMillis,
    ) -> Result<(SegmentOutcome, Vec<Event>), ChainError> {
        let outcome = self.apply_segment(blocks, origin, now)?;
        while self.work(now)? {}
        Ok((outcome, self.flush()?))
    }

    /// Takes a block into memory. Nobody may hear of it before the next flush, and what becomes too much stays until [`Core::shrink`].
    fn take(&mut self, block: Block, origin: Origin, now: UnixMillis) -> Result<Outcome, ChainError> {
        self.refuse_when_halted()?;
        let hash = block.hash();
        if let Some(outcome) = self.apply_known(&block, now)? {
            return Ok(outcome);
        }
        let header = Arc::new(block.header().clone());
        let validator = self.rules.validator.clone();
        for verdict in [validator.header(&header), validator.body(&block)] {
            if let Some(outcome) = self.refused(hash, verdict, now) {
                return Ok(outcome);
            }
        }
        let at = judge::earliest(header.time);
        if at > now {
            if !judge::may_wait(header.time, now) {
                return Ok(Outcome::Ignored(
                    "its time is too far ahead of our clock: is the clock of this machine right?".into(),
                ));
            }
            self.orphans.wait_until(block, origin, now, at);
            return Ok(Outcome::Early(at));
        }
        let Some(parent) = self.tree.header(&header.parent).cloned() else {
            return Ok(self.apply_orphan(block, origin, now));
        };
        let contextual = judge::links(&header, &parent)
            .map_or_else(|| validator.contextual(&header, &parent), |why| Verdict::Invalid(why.into()));
        if let Some(outcome) = self.refused(hash, contextual, now) {
            return Ok(outcome);
        }
        let full = validator.full(&block, &parent);
        if let Some(outcome) = self.refused(hash, full, now) {
            return Ok(outcome);
        }
        Ok(self.insert(block, header, origin, now))
    }

    /// Has the store begin with what was applied, before the next flush, when it is nothing but blocks on the head.
    pub(super) fn prepare(&self) {
        let Change { added, attached, detached, evicted, .. } = &self.change;
        if !added.is_empty() && added.len() == attached.len() && detached.is_empty() && evicted.is_empty() {
            self.store.prepare(added);
        }
    }

    /// What can be said of a block by its hash, its height and its parent's hash.
    fn apply_known(&mut self, block: &Block, now: UnixMillis) -> Result<Option<Outcome>, ChainError> {
        let (hash, header) = (block.hash(), block.header());
        if self.tree.header(&hash).is_some() {
            return Ok(Some(Outcome::Known));
        }
        if let Some(why) = self.invalid.why(&hash) {
            return Ok(Some(Outcome::Invalid(why.to_string())));
        }
        if self.retired.contains(&hash) {
            return Ok(Some(Outcome::Known));
        }
        if header.height <= self.tree.root().height {
            // It may be final and not written yet.
            let applied = self.change.committed.iter().any(|p| p.hash == hash);
            let known = applied || self.store.header(&hash)?.is_some();
            return Ok(Some(if known { Outcome::Known } else { Outcome::OutOfWindow }));
        }
        if self.invalid.why(&header.parent).is_some() {
            let verdict = Verdict::Invalid("its parent is invalid".into());
            return Ok(self.refused(hash, verdict, now));
        }
        // Blocks that build on what lost against a final block come in too late as well.
        Ok(self.retired.contains(&header.parent).then_some(Outcome::OutOfWindow))
    }

    fn apply_orphan(&mut self, block: Block, origin: Origin, now: UnixMillis) -> Outcome {
        let (height, root) = (block.header().height, self.tree.root());
        // The parent of the next height is the committed block and nothing else.
        if height <= root.height + 1 || judge::too_far(height, self.head().height) {
            return Outcome::OutOfWindow;
        }
        Outcome::Orphan { missing: self.orphans.wait_for_parent(block, origin, now) }
    }

    /// `None` when the verdict accepts.
    fn refused(&mut self, hash: Hash, verdict: Verdict, now: UnixMillis) -> Option<Outcome> {
        match verdict {
            Verdict::Accept => None,
            Verdict::Ignore(why) => Some(Outcome::Ignored(why)),
            Verdict::Invalid(why) => {
                let shared: Arc<str> = why.as_str().into();
                self.invalid.mark(hash, shared, now);
                self.written.invalid += 1;
                for descendant in self.orphans.drop_descendants(&hash) {
                    self.invalid.mark(descendant, "an ancestor is invalid".into(), now);
                }
                Some(Outcome::Invalid(why))
            }
        }
    }

    fn insert(&mut self, block: Block, header: Arc<Header>, origin: Origin, now: UnixMillis) -> Outcome {
        let hash = block.hash();
        let (point, parent) = (Point { height: header.height, hash }, header.parent);
        let bytes = header.encoded_bytes() + block.body().bytes().len();
        self.released.extend(self.orphans.release(&hash));
        self.tree.insert(hash, header, self.rules.choice.as_ref());
        match self.change.evicted.iter().position(|p| p.hash == hash) {
            // It comes again before that was written: it is in the store still, or in this change already.
            Some(evicted) => drop(self.change.evicted.remove(evicted)),
            None => self.change.added.push(block),
        }
        let before = self.head();
        // Every block of the tree is on the way to the head, or is the new one.
        if before.hash == parent && self.tree.len() == self.path.len() + 1 {
            self.extend_head(point, now);
        } else {
            self.follow_best(now);
        }
        self.events.push(Event::Imported { point, origin, bytes });
        Outcome::Imported { new_head: self.head() != before }
    }

    /// Makes the best leaf the head and commits what is deep enough.
    fn follow_best(&mut self, now: UnixMillis) {
        let best = self.tree.best_path(self.rules.choice.as_ref());
        let common = self.path.iter().zip(&best).take_while(|(a, b)| a == b).count();
        for point in self.path.drain(common..).rev() {
            let bytes = self.tree.header(&point.hash).map_or(0, |h| h.body_bytes as usize); // u32 fits in usize
            self.pulled.add(point.hash, bytes);
            // What this change attached and detaches again was never there.
            match self.change.attached.last() == Some(&point) {
                true => drop(self.change.attached.pop()),
                false => self.change.detached.push(point),
            }
        }
        self.change.attached.extend_from_slice(&best[common..]);
        self.path = best;
        self.commit_deep(now);
    }

    /// The same after `point` was added on the head, when there is nothing in the tree but the way to the head: as when a node catches up.
    fn extend_head(&mut self, point: Point, now: UnixMillis) {
        self.change.attached.push(point);
        self.path.push(point);
        self.commit_deep(now);
    }

    fn commit_deep(&mut self, now: UnixMillis) {
        self.end_hold(now);
        if self.hold.is_some() {
            return;
        }
        let committed = self.tree.root().height;
        let count = (self.head().height - committed).saturating_sub(self.rules.depth);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.path.len());
        let done: Vec<Point> = self.path.drain(..count).collect();
        for point in done {
            for header in self.tree.commit(point.hash) {
                let retired = self.retired.add(&header, point.height, now);
                self.change.retired.push(retired);
            }
            self.change.committed.push(point);
        }
        let expired = self.retired.expire(self.tree.root().height, now);
        self.change.expired.extend(expired);
    }

    fn end_hold(&mut self, now: UnixMillis) {
        let over = |hold: &Hold| hold.is_over(now) || self.tree.header(&hold.tip).is_some();
        if self.hold.as_ref().is_some_and(over) {
            self.hold = None;
        }
    }

    /// Whether blocks whose parent came wait to be applied.
    pub(super) fn has_work(&self) -> bool {
        !self.released.is_empty()
    }

    /// Applies some of the blocks whose parent came. Whether there are more.
    pub(super) fn work(&mut self, now: UnixMillis) -> Result<bool, ChainError> {
        for _ in 0..RELEASE {
            let Some((block, origin)) = self.released.pop() else { return Ok(false) };
            // Its sender was told that it waits; what becomes of it is in the events.
            self.apply(block, origin, now)?;
        }
        Ok(!self.released.is_empty())
    }

    /// Writes what was applied since the last flush, in one batch, and returns what may be told now.
    ///
    /// # Errors
    /// The store's; then blocks are refused until [`Core::recover`].
    pub fn flush(&mut self) -> Result<Vec<Event>, StoreError> {
        if self.change.is_empty() {
            return Ok(std::mem::take(&mut self.events));
        }
        let mut change = std::mem::take(&mut self.change);
        change.marks = self.marks();
        // Whoever imports a file hears that it is here.
        let from_file = std::mem::take(&mut self.from_file);
        let synced = change.is_final() || from_file;
        if let Err(error) = self.store.write(&change, synced) {
            tracing::error!(%error, "the chain could not be written; no blocks are taken until it can");
            self.halted = Some(Halt::Store(error.clone()));
            self.failed_bytes = change.added.iter().map(|b| b.body().bytes().len()).sum();
            self.events.clear();
            self.released.clear();
            return Err(error);
        }
        (self.told, self.written_hold) = (self.place(), self.hold);
        self.written.writes += 1;
        self.written.synced += u64::from(synced);
        let mut events = std::mem::take(&mut self.events);
        if !change.detached.is_empty() || !change.attached.is_empty() {
            events.push(Event::Head { head: self.head(), detached: change.detached, attached: change.attached });
        }
        if let (Some(first), Some(last)) = (change.committed.first(), change.committed.last()) {
            events.push(Event::Committed { from: first.height, to: *last });
            if last.height > 0 {
                self.rules.validator.committed(*last);
            }
        }
        Ok(events)
    }

    fn marks(&self) -> Marks {
        Marks { genesis: self.rules.genesis.hash(), head: self.head(), committed: self.tree.root() }
    }

    fn refuse_when_halted(&self) -> Result<(), ChainError> {
        match &self.halted {
            None => Ok(()),
            Some(halt) => Err(ChainError::Halted(halt.text())),
        }
    }

    /// Whether the store can be read, and refuses what is written again and again although there is room: a database that saw its disk fail
    /// once takes nothing more before it is opened anew.
    pub(super) fn is_stuck(&self) -> bool {
        self.unwritable >= STUCK
    }

    /// Whether the store failed and should be read again.
    pub(in crate::block) fn is_broken(&self) -> bool {
        matches!(self.halted, Some(Halt::Store(_) | Halt::Damaged(_)))
    }

    /// Reads the chain from the store again after a write has failed, and tries to write. What comes back is what the disk holds; the
    /// events tell where it differs from what was told before, but not of each block that came in with the failed write.
    pub fn recover(&mut self, now: UnixMillis) -> Vec<Event> {
        // One that ended with the failed write has not ended.
        let hold = self.hold.or(self.written_hold);
        // On a disk that is nearly full small writes work still; what failed would fail again, and the reason be shown for moments only.
        let room = self.store.check_room(self.failed_bytes).map_err(OpenError::Store);
        let opened = room.and_then(|()| Self::read(self.rules.clone(), self.store.clone(), hold, now));
        let read = opened.is_ok();
        // Reading works on a full disk, too.
        let writes = |core: Self| {
            let core = core.repaired().map_err(OpenError::Store)?;
            let change = Change { marks: core.marks(), ..Change::default() };
            core.store.write(&change, true).map(|()| core).map_err(OpenError::Store)
        };
        let told = |core: Self| core.since(&self.told).map(|events| (core, events)).map_err(OpenError::Store);
        match opened.and_then(writes).and_then(told) {
            Ok((core, events)) => {
                tracing::info!("the store works again: blocks are taken");
                let (orphans, invalid) = (std::mem::take(&mut self.orphans), std::mem::take(&mut self.invalid));
                let (conflicts, written) = (std::mem::take(&mut self.conflicts), self.written);
                *self = Self { orphans, invalid, conflicts, written, ..core };
                return events;
            }
            Err(OpenError::Store(error)) => {
                let stuck = read && matches!(error, StoreError::Failed(_) | StoreError::Damaged(_));
                self.unwritable = if stuck { self.unwritable + 1 } else { 0 };
                self.halted = Some(Halt::Store(error));
            }
            Err(error) => {
                let halt = Halt::Damaged(error.to_string());
                if self.halted.replace(halt.clone()) != Some(halt) {
                    tracing::error!(%error, "the chain cannot be used as it was read; no blocks are taken");
                }
            }
        }
        Vec::new()
    }

    /// What time brings: waiting blocks grow old or come due, and rival branches are forgotten.
    ///
    /// # Errors
    /// The store's.
    pub fn tick(&mut self, now: UnixMillis) -> Result<Vec<Event>, ChainError> {
        self.invalid.sweep(now);
        let due = self.orphans.sweep(now, self.tree.root().height);
        // What cannot be read is looked at again.
        self.conflicts.sweep(now, |height| self.store.hash_at(height).unwrap_or_default());
        if matches!(self.halted, Some(Halt::Conflict(_))) && !self.conflicts.outvoted() {
            tracing::info!("no branch of many peers contradicts ours any more: blocks are taken");
            self.halted = None;
        }
        if self.halted.is_some() {
            return Ok(Vec::new());
        }
        self.released.extend(due);
        while self.work(now)? {}
        self.follow_best(now);
        Ok(self.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{chain::Memory, kit};

    #[test]
    fn a_block_that_is_evicted_and_comes_again_in_one_write_is_stored() {
        let store = Arc::new(Memory::default());
        let mut core = Core::open(kit::rules(4), store.clone(), kit::NOW).unwrap();
        let maker = kit::Maker::new(1);
        let best = maker.block(&kit::genesis(), 1, &[b"more".to_vec()]);
        let other = maker.block(&kit::genesis(), 2, &[b"body".to_vec()]);
        for block in [&best, &other] {
            core.apply(block.clone(), Origin::Local, kit::NOW).unwrap();
        }
        // As if the tree were full.
        let evicted =
            core.tree.evict(u64::MAX, |hash| core.path.iter().any(|p| p.hash == *hash), core.rules.choice.as_ref())[0];
        assert_eq!(evicted.hash, other.hash());
        core.change.evicted.push(evicted);
        let again = core.apply(other.clone(), Origin::Local, kit::NOW).unwrap();
        assert_eq!(again, Outcome::Imported { new_head: false });
        core.flush().unwrap();
        assert_eq!(store.body(&other.hash()).unwrap().as_ref(), Some(other.body().bytes()));
        assert_eq!(store.candidates().unwrap().len(), 2);
        // What was written before is deleted when it goes.
        let evicted =
            core.tree.evict(u64::MAX, |hash| core.path.iter().any(|p| p.hash == *hash), core.rules.choice.as_ref())[0];
        core.change.evicted.push(evicted);
        core.flush().unwrap();
        assert_eq!(store.header(&other.hash()).unwrap(), None);
    }
}
