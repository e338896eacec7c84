//! What other nodes have made final because they knew nothing better is taken, and nothing that anybody signs keeps it out.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Grower, Random, answer, feed};
use crate::block::{
    Block, Origin,
    chain::{Core, ForkChoice, Longest, Memory, Norn, Outcome},
    kit::{self, Maker},
};

const DEPTH: u64 = 4;
/// What one answer to a pull brings.
const PART: usize = 128;

fn open(choice: Arc<dyn ForkChoice>, store: &Arc<Memory>) -> Core {
    Core::open(kit::rules_with(DEPTH, choice), store.clone(), kit::NOW).unwrap()
}

/// Catches up as sync does. How many blocks were taken.
fn pull(core: &mut Core, blocks: &[Block]) -> usize {
    let mut taken = 0;
    for part in blocks.chunks(PART) {
        let (outcome, _) = core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
        taken += outcome.held;
        if outcome.stopped.is_some() {
            break;
        }
    }
    taken
}

#[test]
fn a_better_block_that_only_we_have_gives_way_when_the_others_have_made_theirs_final() {
    let theirs = Maker::new(1).row(&kit::genesis(), 60, 0);
    let ours = Maker::new(2).block(&theirs[3], 1, &[b"only here".to_vec()]);
    let store = Arc::new(Memory::default());
    let mut core = open(Arc::new(Norn), &store);
    feed(&mut core, &theirs[..4]);
    feed(&mut core, std::slice::from_ref(&ours));
    for block in &theirs[4..] {
        core.import(block.clone(), Origin::File, kit::NOW).unwrap();
        // Whoever does not know ours makes height 5 final with the block at height 9.
        let at = block.header().height;
        let head = if at < 5 + DEPTH { ours.hash() } else { block.hash() };
        assert_eq!(core.head().hash, head, "at {at}");
        if at % 3 == 0 {
            core = open(Arc::new(Norn), &store);
            assert_eq!(core.head().hash, head, "and after a restart at {at}");
        }
    }
    assert_eq!((core.head().height, core.committed().height), (60, 56));
}

#[test]
fn so_it_is_however_far_the_others_are() {
    // More than candidates are held.
    let theirs = Maker::new(1).row(&kit::genesis(), 3000, 0);
    for better in [theirs.len(), 5, 0] {
        let store = Arc::new(Memory::default());
        let mut core = open(Arc::new(Norn), &store);
        if let Some(rest) = better.checked_sub(theirs.len()) {
            assert_eq!(rest, 0, "without a better block");
        } else {
            feed(&mut core, &theirs[..better]);
            let parent = better.checked_sub(1).map_or_else(kit::genesis, |at| theirs[at].clone());
            let ours = Maker::new(2).block(&parent, 1, &[b"only here".to_vec()]);
            // And a little on top of it.
            feed(&mut core, &[&[ours.clone()][..], &Maker::new(2).row(&ours, 3, 0)].concat());
            assert_eq!(core.head().height, parent.header().height + 4);
        }
        assert_eq!(pull(&mut core, &theirs), theirs.len());
        assert_eq!((core.head().hash, core.committed().height), (theirs[2999].hash(), 3000 - DEPTH));
    }
}

/// As many blocks as one height holds, better than empty ones, each with so many blocks on it.
fn junk(parent: &Block, on_each: usize) -> Vec<Block> {
    let mut all = Vec::new();
    for n in 0..64 {
        let maker = Maker::new(100 + n);
        let first = maker.block(parent, 1, &[b"better".to_vec(), n.to_be_bytes().to_vec()]);
        all.push(first.clone());
        all.extend(maker.row(&first, on_each, 0));
    }
    all
}

#[test]
fn crowds_of_blocks_with_others_on_them_keep_nobody_from_catching_up() {
    for (choice, on_each) in [
        (Arc::new(Longest) as Arc<dyn ForkChoice>, 1),
        (Arc::new(Longest), 3),
        (Arc::new(Norn), 1),
        (Arc::new(Norn), 3),
    ] {
        let theirs = Maker::new(1).row(&kit::genesis(), 30, 0);
        let store = Arc::new(Memory::default());
        let mut core = open(choice, &store);
        feed(&mut core, &theirs[..6]);
        feed(&mut core, &junk(&theirs[5], on_each));
        let below = usize::try_from(6 - core.committed().height).unwrap();
        assert_eq!(core.sizes().0, below + 64 * (1 + on_each));
        // One by one there is no place for the first of them; together they are what counts.
        let (outcome, _) = core.import(theirs[6].clone(), Origin::File, kit::NOW).unwrap();
        let lost = matches!(outcome, Outcome::Ignored(_));
        assert!(lost || outcome == Outcome::Imported { new_head: false }, "{outcome:?}");
        assert_eq!(pull(&mut core, &theirs[6..]), 24, "{on_each} on each");
        assert_eq!((core.head().hash, core.committed().height), (theirs[29].hash(), 26));
        let reopened = open(Arc::new(Norn), &store);
        assert_eq!((reopened.head(), reopened.committed()), (core.head(), core.committed()));
    }
}

#[test]
fn a_tree_that_is_full_everywhere_has_room_for_the_chain_that_goes_on() {
    let theirs = Maker::new(1).row(&kit::genesis(), 300, 0);
    for choice in [Arc::new(Longest) as Arc<dyn ForkChoice>, Arc::new(Norn)] {
        let store = Arc::new(Memory::default());
        let mut core = Core::open(kit::rules_with(20, choice), store, kit::NOW).unwrap();
        feed(&mut core, &theirs[..6]);
        // Every place that there is, and not deep enough to be final.
        feed(&mut core, &junk(&theirs[5], 15));
        assert_eq!((core.sizes().0, core.committed().height), (1024, 2));
        assert_eq!(pull(&mut core, &theirs[6..]), 294);
        assert_eq!((core.head().hash, core.committed().height), (theirs[299].hash(), 280));
    }
}

#[test]
fn blocks_that_come_one_at_a_time_because_they_are_large_are_not_lost_in_a_crowd() {
    for choice in [Arc::new(Longest) as Arc<dyn ForkChoice>, Arc::new(Norn)] {
        let theirs = Maker::new(1).row(&kit::genesis(), 40, 0);
        let store = Arc::new(Memory::default());
        let mut core = open(choice, &store);
        feed(&mut core, &theirs[..6]);
        feed(&mut core, &junk(&theirs[5], 3));
        for block in &theirs[6..] {
            let (outcome, _) = core.import_segment(vec![block.clone()], Origin::File, kit::NOW).unwrap();
            assert_eq!((outcome.held, outcome.stopped), (1, None));
        }
        assert_eq!((core.head().hash, core.committed().height), (theirs[39].hash(), 36));
    }
}

#[test]
fn what_gives_way_is_not_told_and_not_kept_and_there_is_never_much_too_much() {
    let store = Arc::new(Memory::default());
    let mut core = open(Arc::new(Norn), &store);
    let ours = Maker::new(1).row(&kit::genesis(), 2, 0);
    feed(&mut core, &ours);
    feed(&mut core, &junk(&ours[1], 1));
    let before = core.sizes().0;
    // A segment of the worst, in whose place the worst of the others goes, with what is on it.
    let theirs = Maker::new(2).row(&ours[1], 3, 0);
    let (outcome, events) = core.import_segment(theirs, Origin::File, kit::NOW).unwrap();
    assert_eq!((outcome.held, outcome.new, outcome.stopped, events.len()), (3, 3, None, 3));
    assert_eq!(core.sizes().0, before + 3 - 2);
    // Many such segments: those that came last stay, and no more.
    for n in 0..300 {
        let other = Maker::new(1000 + n).row(&ours[1], 1, 0);
        core.import_segment(other, Origin::File, kit::NOW).unwrap();
    }
    assert!(core.sizes().0 <= before + 128, "{}", core.sizes().0);
    // One that comes alone is nothing beside them, and nothing of it is left.
    let alone = Maker::new(5000).block(&ours[1], 9000, &[]);
    let (outcome, events) = core.import(alone.clone(), Origin::File, kit::NOW).unwrap();
    assert!(matches!(outcome, Outcome::Ignored(_)) && events.is_empty(), "{outcome:?} {events:?}");
    use crate::block::chain::ChainStore;
    assert_eq!(store.header(&alone.hash()).unwrap(), None);
    assert_eq!(store.candidates().unwrap().len(), core.sizes().0);
}

/// A chain that grows on any of its children, so that better blocks are left behind; nobody builds far on those. At its end there are no
/// forks for long enough.
fn left_behind(random: &mut Random, levels: u64) -> Vec<Block> {
    let mut grower = Grower::new();
    let (mut tip, mut all) = (kit::genesis(), Vec::new());
    for _ in 0..levels {
        let mut children: Vec<Block> = (0..=random.below(3)).map(|_| grower.child(random, &tip)).collect();
        children.dedup_by_key(|b| b.hash());
        for side in &children[1..] {
            let mut side = side.clone();
            for _ in 0..random.below(3) {
                side = grower.child(random, &side);
                all.push(side.clone());
            }
        }
        tip = children[0].clone();
        all.append(&mut children);
    }
    all.extend(Maker::new(9).row(&tip, 3 * usize::try_from(DEPTH).unwrap(), 0));
    all.sort_by_key(|b| (b.header().height, b.hash()));
    all.dedup_by_key(|b| b.hash());
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_gives_the_same_commits_also_where_better_blocks_were_left_behind(
        seed in any::<u64>(), longest in any::<bool>()
    ) {
        let choice: Arc<dyn ForkChoice> = if longest { Arc::new(Longest) } else { Arc::new(Norn) };
        let mut random = Random(seed);
        let blocks = left_behind(&mut random, 20);
        let mut answers = Vec::new();
        for _ in 0..4 {
            let mut keyed: Vec<(u64, u64, &Block)> = blocks
                .iter()
                .map(|b| (b.header().height + u64::try_from(random.below(4)).unwrap(), random.next(), b))
                .collect();
            keyed.sort_by_key(|(height, tie, _)| (*height, *tie));
            let order: Vec<Block> = keyed.into_iter().map(|(_, _, b)| b.clone()).collect();
            let store = Arc::new(Memory::default());
            let mut core = open(choice.clone(), &store);
            feed(&mut core, &order);
            answers.push(answer(&core, store.as_ref()));
        }
        prop_assert!(answers.iter().all(|a| *a == answers[0]), "{:?}", answers);
        prop_assert_eq!((answers[0].0.height, answers[0].1.height), (20 + 3 * DEPTH, 20 + 2 * DEPTH));
    }
}
