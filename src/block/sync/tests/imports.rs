//! The planner with several imports under way: how they end, and how many there are.

use std::{cmp::Reverse, collections::VecDeque, time::Duration};

use super::planner::{World, head_of, honest};
use crate::{
    block::{
        Block,
        chain::{MERGE_BLOCKS, Outcome},
        kit::{self, Maker},
        sync::plan::{Imported, Output, Pulled, State},
    },
    primitives::{Hash, PeerId},
};

/// Plays until `imports` are with the chain; pulls are answered one by one, so that each batch goes there by itself.
fn until_with_chain(world: &mut World, chain: &[Block], imports: usize) -> Vec<(u64, PeerId, Vec<Block>)> {
    let (mut pulls, mut with_chain) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        for output in world.planner.poll(&world.ours, world.now, &mut || 0.5) {
            match output {
                Output::Pull { id, span, .. } => pulls.push((span.start, id, span)),
                Output::Import { id, peer, blocks, .. } => with_chain.push((id, peer, blocks)),
                Output::Report { peer, .. } => world.reports.push(peer),
                other => panic!("{other:?}"),
            }
        }
        if with_chain.len() == imports {
            return with_chain;
        }
        pulls.sort_by_key(|(start, ..)| Reverse(*start));
        let (_, id, span) = pulls.pop().expect("a pull");
        let blocks = honest(chain, span).expect("an answer").expect("blocks");
        world.planner.on_pulled(id, Ok(Pulled { bytes: 500 * blocks.len(), blocks }), world.now);
    }
    panic!("{} imports", with_chain.len());
}

fn three_peers(chain: &[Block]) -> World {
    let mut world = World::new(&[]);
    for _ in 0..3 {
        world.greet(PeerId::random(), head_of(chain));
    }
    world
}

#[test]
fn only_who_sent_a_bad_block_is_blamed_and_what_was_handed_over_after_it_is_pulled_again() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let mut world = three_peers(&chain);
    let with_chain = until_with_chain(&mut world, &chain, 3);
    let [(first, liar, blocks), (second, ..), (third, ..)] = &with_chain[..] else { unreachable!() };
    assert_eq!(blocks.len(), 128);
    world.ours.import(blocks[..100].to_vec());
    world.planner.on_imported(
        *first,
        Imported::Held { held: 100, new: 100, stopped: Some(Outcome::Invalid("bad".into())) },
        world.now,
    );
    let orphan = || Imported::Held { held: 0, new: 0, stopped: Some(Outcome::Orphan { missing: Hash::default() }) };
    world.planner.on_imported(*second, orphan(), world.now);
    world.planner.on_imported(*third, orphan(), world.now);
    let mut asked = Vec::new();
    world.run(Duration::from_secs(5), |peer, span| {
        asked.push((span.start, peer));
        honest(&chain, span)
    });
    assert_eq!(world.reports, [*liar]);
    let lowest = asked.iter().map(|(start, _)| *start).min();
    assert_eq!((lowest, world.ours.head()), (Some(101), 600));
    assert!(asked.iter().any(|(_, peer)| peer == &with_chain[1].1), "who built on it is asked on");
    assert_eq!(world.planner.state(), State::Synced);
}

#[test]
fn what_the_chain_does_not_take_now_is_nobodys_fault_and_comes_later() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let mut world = three_peers(&chain);
    let with_chain = until_with_chain(&mut world, &chain, 3);
    for (id, ..) in &with_chain {
        world.planner.on_imported(*id, Imported::Refused, world.now);
    }
    world.run(Duration::from_secs(5), |_, span| honest(&chain, span));
    assert_eq!((world.reports.len(), world.ours.head(), world.planner.state()), (0, 600, State::Synced));
}

#[test]
fn a_chain_that_is_slow_is_given_no_more_than_it_may_hold_and_all_in_order() {
    let chain = Maker::new(1).row(&kit::genesis(), 9000, 0);
    let mut world = three_peers(&chain);
    let mut with_chain = VecDeque::new();
    let mut most = 0;
    for round in 0..400 {
        for output in world.planner.poll(&world.ours, world.now, &mut || 0.5) {
            match output {
                Output::Pull { id, span, .. } => {
                    let blocks = honest(&chain, span).expect("an answer").expect("blocks");
                    world.planner.on_pulled(id, Ok(Pulled { bytes: 500 * blocks.len(), blocks }), world.now);
                }
                Output::Import { id, blocks, more, .. } => {
                    let last = blocks.last().map(|b| b.header().height);
                    assert!(blocks.len() <= MERGE_BLOCKS && (more || last == Some(9000)));
                    with_chain.push_back((id, blocks));
                }
                other => panic!("{other:?}"),
            }
        }
        most = most.max(with_chain.iter().map(|(_, blocks)| blocks.len()).sum());
        if round % 8 == 7
            && let Some((id, blocks)) = with_chain.pop_front()
        {
            let result = world.ours.import(blocks);
            world.planner.on_imported(id, result, world.now);
        }
        world.now += Duration::from_millis(10);
    }
    assert_eq!(world.ours.head(), 9000);
    assert!((MERGE_BLOCKS..=2 * MERGE_BLOCKS).contains(&most), "{most}");
}
