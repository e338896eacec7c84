//! The same blocks give the same answer in whatever order they come.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Random, answer, bush, feed, forest};
use crate::block::{
    Block, Origin, Point,
    chain::{Branch, Core, ForkChoice, Longest, Memory, Norn, Outcome},
    kit,
};
use crate::primitives::UnixMillis;

fn open(choice: &Arc<dyn ForkChoice>, depth: u64) -> (Core, Arc<Memory>) {
    let store = Arc::new(Memory::default());
    (Core::open(kit::rules_with(depth, choice.clone()), store.clone(), kit::NOW).unwrap(), store)
}

/// The best leaf by the definition: no tree, no memory, only the blocks.
pub(super) fn best_leaf(choice: &dyn ForkChoice, blocks: &[Block], from: &Block, depth: u64) -> Point {
    /// The weight of the heaviest path that begins with a block, and the height of the highest block above it.
    fn measure(choice: &dyn ForkChoice, blocks: &[Block], of: &Block) -> (u128, u64) {
        let above = blocks.iter().filter(|b| b.header().parent == of.hash()).map(|b| measure(choice, blocks, b));
        let start = (0_u128, of.header().height);
        let (weight, top) = above.fold(start, |(weight, top), (w, t)| (weight.max(w), top.max(t)));
        (u128::from(choice.weight(of.header())) + weight, top)
    }
    let children = blocks.iter().filter(|b| b.header().parent == from.hash());
    let branches = children.map(|b| {
        let (weight, top) = measure(choice, blocks, b);
        (b, b.hash(), weight, top - b.header().height >= depth)
    });
    let best = branches.max_by(|(a, ah, aw, a_deep), (b, bh, bw, b_deep)| {
        let a = Branch { hash: ah, first: a.header(), weight: *aw };
        let b = Branch { hash: bh, first: b.header(), weight: *bw };
        a_deep.cmp(b_deep).then_with(|| choice.compare(&a, &b))
    });
    match best {
        Some((child, ..)) => best_leaf(choice, blocks, child, depth),
        None => Point { height: from.header().height, hash: from.hash() },
    }
}

/// Any order in which a block may overtake those up to `depth` heights below it, with some blocks twice.
fn disorder(random: &mut Random, blocks: &[Block], depth: usize) -> Vec<Block> {
    let mut keyed: Vec<(u64, u64, Block)> = Vec::new();
    for block in blocks {
        for _ in 0..=random.below(2) {
            let late = u64::try_from(random.below(depth)).unwrap();
            keyed.push((block.header().height + late, random.next(), block.clone()));
        }
    }
    // The first copy of each comes in time; the second may come at any time.
    keyed.sort_by_key(|(key, tie, _)| (*key, *tie));
    keyed.into_iter().map(|(_, _, b)| b).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_gives_the_best_leaf_while_nothing_is_committed(seed in any::<u64>(), longest in any::<bool>()) {
        let choice: Arc<dyn ForkChoice> = if longest { Arc::new(Longest) } else { Arc::new(Norn) };
        let mut random = Random(seed);
        let blocks = bush(&mut random, 36, 12);
        let expected = best_leaf(choice.as_ref(), &blocks, &kit::genesis(), 16);
        let mut answers = Vec::new();
        for _ in 0..4 {
            let mut order = blocks.clone();
            order.extend(blocks.iter().take(random.below(20)).cloned());
            random.shuffle(&mut order);
            let (mut core, store) = open(&choice, 16);
            feed(&mut core, &order);
            answers.push(answer(&core, store.as_ref()));
        }
        prop_assert_eq!(answers[0].0, expected);
        prop_assert_eq!(answers[0].1.height, 0);
        prop_assert!(answers.iter().all(|a| *a == answers[0]));
    }

    // The best branch of such a forest is its longest one, as in a chain that lives. What is final stays final: under Norn a better
    // block that nobody builds on would lower the head, and how far others had come by then would depend on the order.
    #[test]
    fn any_order_within_the_depth_gives_the_same_commits(seed in any::<u64>(), longest in any::<bool>()) {
        let choice: Arc<dyn ForkChoice> = if longest { Arc::new(Longest) } else { Arc::new(Norn) };
        let mut random = Random(seed);
        let blocks = forest(&mut random, 25, 3);
        let mut answers = Vec::new();
        for _ in 0..4 {
            let order = disorder(&mut random, &blocks, 4);
            let (mut core, store) = open(&choice, 4);
            feed(&mut core, &order);
            answers.push(answer(&core, store.as_ref()));
        }
        prop_assert!(answers.iter().all(|a| *a == answers[0]), "{:?}", answers);
        prop_assert_eq!((answers[0].0.height, answers[0].1.height), (25, 21));
    }

    #[test]
    fn one_write_or_many_give_the_same_answer(seed in any::<u64>()) {
        let choice: Arc<dyn ForkChoice> = Arc::new(Norn);
        let mut random = Random(seed);
        let mut blocks = forest(&mut random, 20, 3);
        blocks.sort_by_key(|b| (b.header().height, b.hash()));
        let (mut one, one_store) = open(&choice, 4);
        feed(&mut one, &blocks);
        let (mut many, many_store) = open(&choice, 4);
        let mut rest = blocks.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at((1 + random.below(10)).min(rest.len()));
            rest = later;
            // A block that builds on a loser ends a segment; the others come again.
            let mut part = part.to_vec();
            while !part.is_empty() {
                let (outcome, _) = many.import_segment(part.clone(), Origin::File, kit::NOW).unwrap();
                let stopped = outcome.stopped.is_some();
                prop_assert!(outcome.stopped.is_none_or(|o| o == Outcome::OutOfWindow));
                part.drain(..outcome.held + usize::from(stopped));
            }
        }
        prop_assert_eq!(answer(&one, one_store.as_ref()), answer(&many, many_store.as_ref()));
        prop_assert!(many.written().writes < one.written().writes);
    }
}

#[test]
fn a_better_block_low_in_the_tree_replaces_a_longer_branch_under_norn_only() {
    let (one, two) = (kit::Maker::new(1), kit::Maker::new(2));
    let long = one.row(&kit::genesis(), 5, 0);
    let better = two.block(&kit::genesis(), 2000, &[b"transaction".to_vec()]);
    for (choice, wins) in [(Arc::new(Norn) as Arc<dyn ForkChoice>, true), (Arc::new(Longest), false)] {
        let (mut core, store) = open(&choice, 12);
        feed(&mut core, &long);
        let (outcome, events) = core.import(better.clone(), Origin::File, kit::NOW).unwrap();
        assert_eq!(outcome, Outcome::Imported { new_head: wins });
        let head = if wins { &better } else { &long[4] };
        assert_eq!(core.head().hash, head.hash());
        let rows = store_rows(store.as_ref());
        assert_eq!(rows, if wins { 2 } else { 6 }, "rows above the new head are gone");
        let detached = events.iter().find_map(|e| match e {
            crate::block::chain::Event::Head { detached, attached, .. } => Some((detached.len(), attached.len())),
            _ => None,
        });
        assert_eq!(detached, wins.then_some((5, 1)));
    }
}

fn store_rows(store: &Memory) -> usize {
    use crate::block::chain::ChainStore;
    store.hashes(0, 100).unwrap().len()
}

#[test]
fn what_lost_is_known_and_served_for_a_while_and_nothing_builds_on_it() {
    use crate::block::chain::ChainStore;
    let (mut core, store) = open(&(Arc::new(Norn) as Arc<dyn ForkChoice>), 2);
    let genesis = kit::genesis();
    let winner = kit::Maker::new(1).block(&genesis, 1, &[b"more".to_vec()]);
    let loser = kit::Maker::new(2).block(&genesis, 1, &[]);
    let child = kit::Maker::new(2).block(&loser, 1, &[]);
    let late = kit::Maker::new(2).block(&child, 1, &[]);
    let mut row = kit::Maker::new(1).row(&winner, 2, 0);
    feed(&mut core, &[winner.clone(), loser.clone(), child.clone()]);
    feed(&mut core, &row);
    assert_eq!(core.committed().height, 1);
    let outcome = |core: &mut Core, block: &Block| core.import(block.clone(), Origin::File, kit::NOW).unwrap().0;
    assert_eq!(outcome(&mut core, &loser), Outcome::Known);
    assert_eq!(outcome(&mut core, &child), Outcome::Known);
    assert_eq!(outcome(&mut core, &late), Outcome::OutOfWindow);
    assert_eq!(core.waiting(), 0);
    let retired = store.retired().unwrap();
    assert_eq!(retired.iter().map(|r| r.at).collect::<Vec<_>>(), [1, 1]);
    assert!(store.header(&child.hash()).unwrap().is_some());
    let more = kit::Maker::new(1).row(&row.remove(1), 99, 0);
    feed(&mut core, &more);
    assert_eq!(core.committed().height, 100);
    assert!(store.header(&child.hash()).unwrap().is_some(), "for a hundred heights");
    let next = kit::Maker::new(1).row(&more[98], 2, 0);
    feed(&mut core, &next[..1]);
    assert!(store.header(&child.hash()).unwrap().is_some(), "and for a minute");
    core.import(next[1].clone(), Origin::File, UnixMillis(kit::NOW.0 + 60_000)).unwrap();
    assert_eq!(store.header(&child.hash()).unwrap(), None);
    assert_eq!(store.retired().unwrap().len(), 0);
    assert_eq!(outcome(&mut core, &loser), Outcome::OutOfWindow);
}

#[test]
fn too_many_candidates_lose_the_worst_and_never_the_best() {
    let (mut core, store) = open(&(Arc::new(Norn) as Arc<dyn ForkChoice>), 12);
    let maker = kit::Maker::new(1);
    let best = maker.block(&kit::genesis(), 1, &[b"more".to_vec()]);
    feed(&mut core, std::slice::from_ref(&best));
    let mut refused = 0;
    for late in 0..200 {
        let block = maker.block(&kit::genesis(), 500 - late, &[]);
        let (outcome, _) = core.import(block, Origin::File, kit::NOW).unwrap();
        refused += usize::from(matches!(outcome, Outcome::Ignored(_)));
    }
    assert_eq!(refused, 0, "each one was better than the worst");
    let worse = maker.block(&kit::genesis(), 5000, &[]);
    let (outcome, _) = core.import(worse.clone(), Origin::File, kit::NOW).unwrap();
    assert!(matches!(outcome, Outcome::Ignored(_)), "{outcome:?}");
    assert_eq!(core.head().hash, best.hash());
    use crate::block::chain::ChainStore;
    assert_eq!(store.candidates().unwrap().len(), 64);
    assert_eq!(store.header(&worse.hash()).unwrap(), None, "nothing of it stays on disk");
}
