//! What a lone liar, and a few of them, can do to a node whose chain grows.

use std::time::Duration;

use super::planner::{World, head_of, honest};
use crate::{
    block::{
        Block, Point,
        kit::{self, Maker},
        sync::plan::{Failure, State},
    },
    primitives::{Hash, PeerId},
};

/// What a liar answers each pull with: that it is busy, that it keeps nothing so old, or nothing at all.
const LIES: [Option<Failure>; 3] =
    [Some(Failure::Busy(Duration::from_secs(10))), Some(Failure::Pruned(u64::MAX)), None];

/// A chain that grows by a block in two seconds: each is here by broadcast a moment before the others say that they have it.
fn grow(
    world: &mut World,
    chain: &[Block],
    honest_peers: &[PeerId],
    seconds: u64,
    liars: &[PeerId],
    lie: Option<Failure>,
) -> Vec<State> {
    let mut states = Vec::new();
    for second in 0..seconds {
        if second % 2 == 0 {
            let next = usize::try_from(world.ours.head()).unwrap();
            world.ours.import(vec![chain[next].clone()]);
            honest_peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..=next])));
        }
        let here = usize::try_from(world.ours.head()).unwrap();
        world.run(Duration::from_secs(1), |peer, span| match liars.contains(&peer) {
            true => lie.map(Err),
            false => honest(&chain[..here], span),
        });
        states.push(world.planner.state());
    }
    states
}

#[test]
fn liars_that_show_nothing_put_no_node_out_of_step_that_has_as_many_peers_in_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 0);
    for lie in LIES {
        for (lying, count) in [(1, 1), (1, 2), (1, 5), (2, 2), (2, 3), (2, 4)] {
            let mut world = World::new(&chain[..100]);
            let peers: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
            peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..100])));
            world.run(Duration::from_secs(2), |_, _| panic!("nothing is missing"));
            for _ in 0..3 {
                // They come back under other names.
                let liars: Vec<_> = (0..lying).map(|_| PeerId::random()).collect();
                liars.iter().for_each(|p| world.greet(*p, Point { height: 1 << 62, hash: Hash::of(b"no such block") }));
                let states = grow(&mut world, &chain, &peers, 100, &liars, lie);
                assert!(states.iter().all(|s| *s == State::Synced), "{lying} and {count}, {lie:?}: {states:?}");
                liars.iter().for_each(|p| world.planner.on_gone(p, world.now));
            }
        }
    }
}

#[test]
fn a_liar_that_is_busy_or_silent_does_not_keep_a_node_from_coming_into_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 0);
    for (count, within) in [(1, 60), (3, 5)] {
        for lie in LIES {
            let mut world = World::new(&chain[..100]);
            let (liar, peers) = (PeerId::random(), (0..count).map(|_| PeerId::random()).collect::<Vec<_>>());
            world.greet(liar, Point { height: 1 << 62, hash: Hash::of(b"no such block") });
            peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..200])));
            world.run(Duration::from_secs(30), |peer, span| match peer == liar {
                true => lie.map(Err),
                false => honest(&chain[..200], span),
            });
            assert_eq!(world.ours.head(), 200);
            let states = grow(&mut world, &chain, &peers, 120, &[liar], lie);
            assert!(states[within..].iter().all(|s| *s == State::Synced), "{count} honest, {lie:?}: {states:?}");
        }
    }
}
