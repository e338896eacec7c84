//! What a lone liar, and a few of them, can do to a node whose chain grows.

use std::time::Duration;

use super::planner::{World, head_of, honest, peers};
use crate::{
    block::{
        Block, Point,
        kit::{self, Maker},
        sync::plan::{Failure, State, View},
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

/// A head that is nowhere, of somebody who need never be asked for it.
fn idle(world: &mut World, liars: &[PeerId]) {
    liars
        .iter()
        .for_each(|p| world.greet_from(*p, Point { height: 1 << 62, hash: Hash::of(b"no such block") }, 1 << 62));
}

#[test]
fn some_that_have_nothing_and_need_not_be_asked_do_not_keep_a_node_from_the_last_stretch() {
    let chain = Maker::new(1).row(&kit::genesis(), 4000, 0);
    for (count, top) in [(1, 200), (3, 200), (1, 4000)] {
        for liars in [2, 5] {
            let mut world = World::new(&chain[..100]);
            let (liars, peers) = (peers(liars), (50..50 + count).map(|n| Maker::new(n).address()).collect::<Vec<_>>());
            idle(&mut world, &liars);
            peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..top])));
            world.run(Duration::from_secs(10), |peer, span| {
                assert!(!liars.contains(&peer), "they say that they have nothing of it");
                honest(&chain[..top], span)
            });
            assert_eq!(world.ours.head(), top as u64, "{count} honest ones");
        }
    }
}

#[test]
fn two_that_are_busy_or_silent_for_ever_do_not_either() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 0);
    for count in [1, 3] {
        for lie in LIES {
            let mut world = World::new(&chain[..100]);
            let (liars, peers) = (peers(2), (50..50 + count).map(|n| Maker::new(n).address()).collect::<Vec<_>>());
            liars.iter().for_each(|p| world.greet(*p, Point { height: 1 << 62, hash: Hash::of(b"no such block") }));
            peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..200])));
            world.run(Duration::from_secs(60), |peer, span| match liars.contains(&peer) {
                true => lie.map(Err),
                false => honest(&chain[..200], span),
            });
            assert_eq!(world.ours.head(), 200, "{count} honest ones, {lie:?}");
        }
    }
}

#[test]
fn more_idle_names_than_there_are_peers_put_a_node_out_of_step_for_moments_only() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 0);
    for (lying, count) in [(3u64, 2u64), (9, 4), (17, 16), (60, 16)] {
        let mut world = World::new(&chain[..100]);
        let peers: Vec<_> = (100..100 + count).map(|n| Maker::new(n).address()).collect();
        peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..100])));
        world.run(Duration::from_secs(2), |_, _| panic!("nothing is missing"));
        let liars: Vec<_> = (0..lying).map(|n| Maker::new(n).address()).collect();
        idle(&mut world, &liars);
        let states = grow(&mut world, &chain, &peers, 120, &liars, None);
        assert!(states[25..].iter().all(|s| *s == State::Synced), "{lying} and {count}: {states:?}");
    }
}

#[test]
fn nobody_is_in_step_before_it_was_tried_what_half_of_the_peers_say() {
    let chain = Maker::new(1).row(&kit::genesis(), 1100, 0);
    let mut world = World::new(&chain[..100]);
    let all = peers(6);
    all[..3].iter().for_each(|p| world.greet(*p, head_of(&chain[..100])));
    all[3..].iter().for_each(|p| world.greet(*p, head_of(&chain)));
    for _ in 0..100 {
        world.run(Duration::from_millis(100), |peer, span| {
            honest(if all[..3].contains(&peer) { &chain[..100] } else { &chain }, span)
        });
        assert!(world.ours.head() == 1100 || world.planner.state() != State::Synced, "at {}", world.ours.head());
    }
    assert_eq!((world.ours.head(), world.planner.state()), (1100, State::Synced));
}

#[test]
fn what_one_peer_sends_is_not_taken_because_the_others_are_busy_for_a_moment() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let forged = [&chain[..100], &Maker::new(2).row(&chain[99], 500, 0)].concat();
    let mut world = World::new(&chain[..100]);
    let all = peers(3);
    world.greet_with_final(all[0], &forged);
    all[1..].iter().for_each(|p| world.greet_with_final(*p, &chain));
    world.run(Duration::from_secs(8), |peer, span| match peer == all[0] {
        true => honest(&forged, span),
        false => Some(Err(Failure::Busy(Duration::from_millis(250)))),
    });
    assert_eq!(world.ours.head(), 100);
    world.headers = chain.clone();
    world.run(Duration::from_secs(60), |peer, span| honest(if peer == all[0] { &forged } else { &chain }, span));
    assert_eq!((world.ours.head(), world.ours.hash_at(600)), (600, Some(chain[599].hash())));
}

#[test]
fn more_names_than_peers_that_lie_about_a_height_or_come_anew_again_and_again_do_not_keep_a_node_out_of_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 400, 0);
    let ours = Point { height: 5, hash: kit::genesis().hash() };
    let unknown = Point { height: 1 << 62, hash: Hash::of(b"no such block") };
    for false_height in [true, false] {
        let mut world = World::new(&chain[..100]);
        let peers: Vec<_> = (100..104).map(|n| Maker::new(n).address()).collect();
        peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..100])));
        world.run(Duration::from_secs(2), |_, _| panic!("nothing is missing"));
        let mut states = Vec::new();
        for round in 0..12u64 {
            // First something unknown, which counts for a while, and then the lie; or other names each time.
            let names = if false_height { 0 } else { 10 * round };
            let liars: Vec<_> = (names..names + 5).map(|n| Maker::new(n).address()).collect();
            liars.iter().for_each(|p| world.greet_from(*p, unknown, 1 << 62));
            states.extend(grow(&mut world, &chain, &peers, 10, &liars, None));
            match false_height {
                true => liars.iter().for_each(|p| world.greet(*p, ours)),
                false => liars.iter().for_each(|p| world.planner.on_gone(p, world.now)),
            }
        }
        let out = states.iter().filter(|s| **s != State::Synced).count();
        assert!(out <= 35 && states[40..].iter().all(|s| *s == State::Synced), "{false_height}: {states:?}");
        world.run(Duration::from_secs(1), |_, _| None);
    }
}

#[test]
fn names_with_another_final_block_that_answer_nothing_have_no_voice_for_long_and_who_was_not_asked_has_one() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let forged = Maker::new(2).row(&kit::genesis(), 600, 0);
    let mut world = World::new(&chain[..100]);
    let (peer, liars) = (Maker::new(99).address(), peers(5));
    world.greet_with_final(peer, &chain);
    liars.iter().for_each(|p| world.greet_with_final(*p, &forged));
    world.run(Duration::from_secs(60), |who, span| if who == peer { honest(&chain, span) } else { None });
    assert_eq!(world.ours.head(), 600);
    // A chain that was halted for long: nobody gave anything meanwhile, and one liar's branch is taken all the same by nobody.
    let forged = [&chain[..100], &Maker::new(2).row(&chain[99], 500, 0)].concat();
    let mut world = World::new(&chain[..100]);
    let all = peers(5);
    world.greet_with_final(all[0], &forged);
    all[1..].iter().for_each(|p| world.greet_with_final(*p, &chain));
    world.ours.halt(true);
    world.run(Duration::from_secs(60), |_, _| panic!("nothing is pulled meanwhile"));
    world.ours.halt(false);
    world.run(Duration::from_secs(30), |who, span| honest(if who == all[0] { &forged } else { &chain }, span));
    assert_eq!(world.ours.hash_at(600), Some(chain[599].hash()));
}

#[test]
fn a_batch_that_fits_on_nothing_is_pulled_from_others_at_once() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let forged = Maker::new(2).row(&kit::genesis(), 600, 0);
    for (lying, count) in [(1u64, 1u64), (1, 3), (2, 2)] {
        let mut world = World::new(&chain[..100]);
        // Where its chain leaves ours nobody finds out: it answers nothing about headers.
        let liars: Vec<_> = (0..lying).map(|n| Maker::new(n).address()).collect();
        let all: Vec<_> = (0..lying + count).map(|n| Maker::new(n).address()).collect();
        all.iter().for_each(|p| world.greet(*p, head_of(&chain)));
        world
            .run(Duration::from_secs(6), |who, span| honest(if liars.contains(&who) { &forged } else { &chain }, span));
        assert_eq!(world.ours.head(), 600, "{lying} and {count}");
        assert!(world.reports.is_empty());
    }
}

#[test]
fn a_search_that_takes_for_ever_ends() {
    let chain = Maker::new(1).row(&kit::genesis(), 200, 0);
    let forged = Maker::new(2).row(&kit::genesis(), 300, 0);
    let mut world = World::new(&chain[..100]);
    let (liar, peer) = (PeerId::random(), PeerId::random());
    world.greet(liar, head_of(&forged));
    world.headers_hang = true;
    world.run(Duration::from_secs(5), |_, span| honest(&forged, span));
    // It is being asked for headers, and somebody comes.
    world.greet(peer, head_of(&chain));
    let mut asked = 0;
    world.run(Duration::from_secs(30), |who, span| {
        asked += usize::from(who == peer);
        honest(if who == liar { &forged } else { &chain }, span)
    });
    assert_eq!((world.ours.head(), world.planner.state()), (200, State::Synced), "{asked}");
}

#[test]
fn who_may_produce_alone_is_alone_among_those_that_show_nothing() {
    let chain = Maker::new(1).row(&kit::genesis(), 120, 0);
    let mut world = World::with(&chain[..100], true);
    let liars = peers(3);
    for round in 0..10 {
        let name = Maker::new(100 + round).address();
        idle(&mut world, &liars[..2]);
        idle(&mut world, &[name]);
        world.run(Duration::from_secs(5), |_, _| None);
        world.planner.on_gone(&name, world.now);
        assert!(round < 7 || world.planner.state() == State::NoPeers, "{:?}", world.planner.state());
    }
    // Somebody who shows what it says is company, and so is one who is where we are.
    let peer = Maker::new(99).address();
    world.greet(peer, head_of(&chain));
    world.run(Duration::from_secs(5), |who, span| if who == peer { honest(&chain, span) } else { None });
    assert_eq!((world.ours.head(), world.planner.state()), (120, State::Synced));
}
