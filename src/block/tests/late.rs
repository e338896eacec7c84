//! Blocks in any order at all, with side branches as long as the commit depth and longer: what was final stays final, and above it there is
//! one answer.

use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;

use super::{Grower, Random, forks::best_leaf};
use crate::block::{
    Block, Origin, Point,
    chain::{ChainStore, Core, ForkChoice, Longest, Memory, Norn, Outcome},
    kit::{self, Maker},
};

const DEPTH: u64 = 4;
/// Levels from which branches leave. With [`END`] on top no block is further above the genesis block than one may wait.
const LEVELS: u64 = 12;
/// Blocks at the end, without forks: enough for all levels to be final.
const END: u64 = 3 * DEPTH;

fn rule(longest: bool) -> Arc<dyn ForkChoice> {
    if longest { Arc::new(Longest) } else { Arc::new(Norn) }
}

/// A chain with side branches of these lengths, whatever a rule thinks of them, and its last block.
fn with_sides(random: &mut Random, lengths: &[u64]) -> (Vec<Block>, Point) {
    let mut grower = Grower::new();
    let (mut tip, mut all) = (kit::genesis(), Vec::new());
    for _ in 0..LEVELS {
        if random.below(2) == 0 {
            let mut side = tip.clone();
            for _ in 0..lengths[random.below(lengths.len())] {
                side = grower.child(random, &side);
                all.push(side.clone());
            }
        }
        tip = grower.child(random, &tip);
        all.push(tip.clone());
    }
    let end = Maker::new(9).row(&tip, usize::try_from(END).unwrap(), 0);
    let last = Point { height: LEVELS + END, hash: end[end.len() - 1].hash() };
    all.extend(end);
    // Two that are the same in everything are one.
    all.sort_by_key(|b| (b.header().height, b.hash()));
    all.dedup_by_key(|b| b.hash());
    (all, last)
}

/// Any order: sometimes a block comes before few of those below it, sometimes before all of them.
fn disorder(random: &mut Random, blocks: &[Block]) -> Vec<Block> {
    let late = 1 + random.below(usize::try_from(LEVELS + END).unwrap());
    let mut keyed: Vec<(u64, u64, &Block)> = blocks
        .iter()
        .map(|b| (b.header().height + u64::try_from(random.below(late)).unwrap(), random.next(), b))
        .collect();
    keyed.sort_by_key(|(height, tie, _)| (*height, *tie));
    keyed.into_iter().map(|(_, _, b)| b.clone()).collect()
}

/// Takes all in, some in one write and some alone. The committed block and the head in the end; what was final on the way is so still.
fn play(choice: &Arc<dyn ForkChoice>, random: &mut Random, order: &[Block]) -> (Point, Point) {
    let store = Arc::new(Memory::default());
    let mut core = Core::open(kit::rules_with(DEPTH, choice.clone()), store.clone(), kit::NOW).unwrap();
    let (mut rest, mut finals) = (order, vec![kit::genesis().hash()]);
    while !rest.is_empty() {
        let (mut part, later) = rest.split_at((1 + random.below(8)).min(rest.len()));
        rest = later;
        while !part.is_empty() {
            let (outcome, _) = core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
            let fine = matches!(outcome.stopped, None | Some(Outcome::Orphan { .. } | Outcome::OutOfWindow));
            assert!(fine, "{outcome:?}");
            // What it stopped at waits for its parent, or has lost.
            part = &part[outcome.held + usize::from(outcome.stopped.is_some())..];
            let now = store.hashes(0, usize::try_from(core.committed().height).unwrap() + 1).unwrap();
            assert!(now.starts_with(&finals), "what was final stays");
            assert_eq!(now.last(), Some(&core.committed().hash));
            finals = now;
        }
    }
    (core.committed(), core.head())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Nobody can have made a side final that is as long as the depth, and whoever makes the chain final has seen that it is deeper.
    #[test]
    fn sides_as_long_as_the_depth_change_no_commit_whatever_the_order(seed in any::<u64>(), longest in any::<bool>()) {
        let (choice, mut random) = (rule(longest), Random(seed));
        let (blocks, last) = with_sides(&mut random, &[1, DEPTH - 1, DEPTH]);
        for _ in 0..4 {
            let order = disorder(&mut random, &blocks);
            let (committed, head) = play(&choice, &mut random, &order);
            prop_assert_eq!((committed.height, head), (last.height - DEPTH, last));
        }
    }

    // One that is longer is final for whoever saw it first. The definition knows no order, so those who have the same final block have
    // the same head.
    #[test]
    fn above_what_is_final_there_is_one_answer_whatever_the_order(seed in any::<u64>(), longest in any::<bool>()) {
        let (choice, mut random) = (rule(longest), Random(seed));
        let (blocks, _) = with_sides(&mut random, &[DEPTH, DEPTH + 1]);
        let genesis = kit::genesis();
        for _ in 0..4 {
            let order = disorder(&mut random, &blocks);
            let (committed, head) = play(&choice, &mut random, &order);
            let from = blocks.iter().find(|b| b.hash() == committed.hash).unwrap_or(&genesis);
            prop_assert_eq!(head, best_leaf(choice.as_ref(), &blocks, from, DEPTH));
        }
    }
}

#[test]
fn orders_part_where_a_side_is_longer_than_the_depth() {
    for longest in [false, true] {
        let (choice, mut parted) = (rule(longest), 0);
        for seed in 0..12 {
            let mut random = Random(seed);
            let (blocks, _) = with_sides(&mut random, &[DEPTH, DEPTH + 1]);
            let mut ends = HashSet::new();
            for _ in 0..4 {
                let order = disorder(&mut random, &blocks);
                ends.insert(play(&choice, &mut random, &order).0);
            }
            parted += usize::from(ends.len() > 1);
        }
        assert!(parted > 0, "or the property above would say nothing new");
    }
}
