//! Tests of blocks and the chain: formats, properties of the fork choice, restarts, stores, and one test for each defect of the
//! source system.

mod chain;
mod conflict;
mod damage;
mod deep;
mod defects;
mod forks;
mod format;
mod late;
mod pool;
mod producer;
mod restart;
mod seam;
mod segment;
mod sim;
mod spaced;
pub(in crate::block) mod stores;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Block, Origin, Point,
    chain::{Branch, ChainStore, Change, Core, ForkChoice, Memory, Norn},
    kit::{self, Hooked, Maker, OnWrite},
};
use crate::{primitives::Hash, store::StoreError};

/// A random number generator for tests: splitmix64.
#[derive(Clone, Debug)]
pub(in crate::block) struct Random(pub(in crate::block) u64);

impl Random {
    pub(in crate::block) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in crate::block) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }
}

/// Makes children whose times and numbers of transactions are often the same, so that every tie-break counts.
struct Grower {
    makers: [Maker; 3],
    serial: u64,
}

impl Grower {
    fn new() -> Self {
        Self { makers: [Maker::new(1), Maker::new(2), Maker::new(3)], serial: 0 }
    }

    fn child(&mut self, random: &mut Random, parent: &Block) -> Block {
        let transactions: Vec<Vec<u8>> = (0..random.below(3))
            .map(|_| {
                self.serial += 1;
                self.serial.to_be_bytes().to_vec()
            })
            .collect();
        let later = 1 + u64::try_from(random.below(2)).unwrap();
        self.makers[random.below(3)].block(parent, later, &transactions)
    }
}

/// `count` blocks anywhere up to a height.
pub(in crate::block) fn bush(random: &mut Random, count: usize, height: u64) -> Vec<Block> {
    let (mut grower, mut blocks) = (Grower::new(), vec![kit::genesis()]);
    while blocks.len() <= count {
        let parent = blocks[random.below(blocks.len())].clone();
        if parent.header().height < height {
            let next = grower.child(random, &parent);
            if blocks.iter().all(|b| b.hash() != next.hash()) {
                blocks.push(next);
            }
        }
    }
    blocks.split_off(1)
}

/// A growing chain with forks at every height. The best branch by priority goes on for `levels`; the others end after `reach`, so
/// the best branch is also the longest.
pub(super) fn forest(random: &mut Random, levels: u64, reach: u64) -> Vec<Block> {
    let mut grower = Grower::new();
    let (mut tip, mut all) = (kit::genesis(), Vec::new());
    // Blocks of the level below that are not on the best branch, each with the height at which its branch left.
    let mut sides: Vec<(Block, u64)> = Vec::new();
    for level in 1..=levels {
        let mut children: Vec<Block> = (0..=random.below(3)).map(|_| grower.child(random, &tip)).collect();
        children.sort_by(|a, b| {
            let branch = |b: &Block| (b.header().clone(), b.hash());
            let ((a, ah), (b, bh)) = (branch(a), branch(b));
            let of = |first, hash| Branch { hash, first, weight: 1 };
            Norn.compare(&of(&a, &ah), &of(&b, &bh))
        });
        children.dedup_by_key(|b| b.hash());
        tip = children.pop().unwrap();
        let grown: Vec<(Block, u64)> = sides
            .iter()
            .filter(|(b, left)| b.header().height - left < reach)
            .map(|(b, left)| (grower.child(random, b), *left))
            .collect();
        all.push(tip.clone());
        sides = grown.into_iter().chain(children.into_iter().map(|b| (b, level - 1))).collect();
        all.extend(sides.iter().map(|(b, _)| b.clone()));
    }
    all
}

/// Everything that two chains with the same answer agree on.
pub(super) fn answer(core: &Core, store: &dyn ChainStore) -> (Point, Point, Vec<Hash>) {
    let count = usize::try_from(core.head().height).unwrap() + 2;
    (core.head(), core.committed(), store.hashes(0, count).unwrap())
}

/// Imports all, in this order. What waits for its parent is taken in by itself.
pub(super) fn feed(core: &mut Core, blocks: &[Block]) {
    for block in blocks {
        core.import(block.clone(), Origin::File, kit::NOW).unwrap();
    }
}

pub(super) fn memory(depth: u64) -> (Core, Arc<Memory>) {
    let store = Arc::new(Memory::default());
    (Core::open(kit::rules(depth), store.clone(), kit::NOW).unwrap(), store)
}

/// A store that fails from some write on: before that write has any effect, or after it has all of it.
pub(super) type Faulty<S> = Hooked<S, Faults>;

#[derive(Debug)]
pub(super) struct Faults {
    left: AtomicU64,
    after: bool,
    /// Of each write: whether it was synced, and whether something became final or was left.
    pub(super) log: Mutex<Vec<(bool, bool)>>,
}

impl<S: ChainStore> Faulty<S> {
    pub(super) fn new(inner: S, good_writes: u64, after: bool) -> Self {
        let hook = Faults { left: AtomicU64::new(good_writes), after, log: Mutex::default() };
        Self { inner, hook }
    }

    pub(super) fn repair(&self) {
        self.hook.left.store(u64::MAX, Ordering::SeqCst);
    }
}

impl<S: ChainStore> OnWrite<S> for Faults {
    fn on_write(&self, inner: &S, change: &Change, synced: bool) -> Result<(), StoreError> {
        let last = !change.committed.is_empty() || !change.detached.is_empty() || !change.restored.is_empty();
        self.log.lock().unwrap().push((synced, last));
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
            return inner.write(change, synced);
        }
        if self.after {
            inner.write(change, synced)?;
        }
        Err(StoreError::Failed("on purpose".into()))
    }
}
