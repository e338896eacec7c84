//! The planner, and peers that are silent, late, busy for ever, or not there yet.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::planner::{World, head_of, honest, peers};
use crate::{
    block::{
        kit::{self, Maker},
        sync::{
            plan::{Failure, Output, Pulled, State, View},
            wire::Span,
        },
    },
    primitives::PeerId,
};

#[test]
fn one_that_says_nothing_delays_what_it_was_asked_for_by_two_seconds() {
    let chain = Maker::new(1).row(&kit::genesis(), 1500, 0);
    let all = peers(4);
    let mut asked = 0;
    for silent in &all {
        let mut world = World::new(&[]);
        all.iter().for_each(|p| world.greet(*p, head_of(&chain)));
        let mut times: HashMap<u64, usize> = HashMap::new();
        world.run(Duration::from_secs(6), |peer, span| {
            *times.entry(span.start).or_default() += 1;
            asked += usize::from(peer == *silent);
            if peer == *silent { None } else { honest(&chain, span) }
        });
        assert_eq!((world.ours.head(), world.planner.state()), (1500, State::Synced));
        assert!(times.values().all(|n| *n <= 2), "one more is asked, and only for what is late: {times:?}");
        // Its answers end as they would have, and change nothing.
        world.run(Duration::from_secs(10), |_, _| panic!("nothing is missing"));
        assert!(world.waiting.is_empty() && world.planner.in_flight() == 0);
        assert!(!world.reports.is_empty() && world.reports.iter().all(|p| p == silent));
    }
    assert!(asked >= 4, "each of them was asked for something");
}

#[test]
fn a_late_answer_after_that_of_another_is_dropped() {
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let other = Maker::new(2).row(&kit::genesis(), 100, 0);
    let all = peers(3);
    let mut world = World::new(&[]);
    all.iter().for_each(|p| world.greet(*p, head_of(&chain)));
    let mut first = None;
    world.run(
        Duration::from_secs(5),
        |peer, span| {
            if *first.get_or_insert(peer) == peer { None } else { honest(&chain, span) }
        },
    );
    assert_eq!(world.ours.head(), 100, "the first one was asked for all there is");
    let [(_, id)] = world.waiting[..] else { panic!("{:?}", world.waiting) };
    world.planner.on_pulled(id, Ok(Pulled { blocks: other, bytes: 1 }), world.now);
    world.waiting.clear();
    world.run(Duration::from_secs(5), |_, _| panic!("nothing is missing"));
    assert_eq!((world.ours.place().head, world.planner.state()), (head_of(&chain), State::Synced));
}

#[test]
fn where_all_are_slow_nobody_is_asked_for_what_another_is_sending() {
    let chain = Maker::new(1).row(&kit::genesis(), 2000, 0);
    let mut world = World::new(&[]);
    peers(3).iter().for_each(|p| world.greet(*p, head_of(&chain)));
    let mut times: HashMap<u64, usize> = HashMap::new();
    let mut pending: Vec<(Instant, u64, Span)> = Vec::new();
    for _ in 0..1200 {
        let outputs = world.planner.poll(&world.ours, world.now, &mut || 0.5);
        for output in outputs {
            match output {
                Output::Pull { id, span, .. } => {
                    *times.entry(span.start).or_default() += 1;
                    pending.push((world.now + Duration::from_secs(5), id, span));
                }
                Output::Import { id, blocks, .. } => {
                    let result = world.ours.import(blocks);
                    world.planner.on_imported(id, result, world.now);
                }
                other => panic!("{other:?}"),
            }
        }
        let now = world.now;
        for (_, id, span) in pending.extract_if(.., |(at, ..)| *at <= now) {
            let Some(Ok(blocks)) = honest(&chain, span) else { panic!("has it") };
            world.planner.on_pulled(id, Ok(Pulled { bytes: 500 * blocks.len(), blocks }), now);
        }
        world.now += Duration::from_millis(100);
    }
    assert_eq!(world.ours.head(), 2000);
    let twice = times.values().filter(|n| **n > 1).count();
    assert!(twice <= 3, "only before it was known how long pulls take: {times:?}");
}

#[test]
fn one_that_is_busy_for_ever_on_a_branch_of_its_own_does_not_hold_what_others_have() {
    let chain = Maker::new(1).row(&kit::genesis(), 130, 0);
    let mut other = chain[..95].to_vec();
    other.extend(Maker::new(2).row(&chain[94], 55, 0));
    let mut world = World::new(&chain[..100]);
    world.headers = other.clone();
    let all = peers(2);
    world.greet(all[0], head_of(&other));
    let mut busy = 0;
    let mut answer = |peer: PeerId, span: Span| {
        if peer == all[1] {
            return honest(&chain, span);
        }
        if span.start == 101 {
            return honest(&other, span); // fits on nothing: its headers show that it leaves our chain at 95
        }
        busy += 1;
        Some(Err(Failure::Busy(Duration::from_secs(10))))
    };
    world.run(Duration::from_secs(5), &mut answer);
    world.greet(all[1], head_of(&chain));
    world.run(Duration::from_secs(25), &mut answer);
    assert!(busy > 0);
    assert_eq!(world.ours.head(), 130);
}

#[test]
fn nobody_waits_for_one_that_never_sends_to_vouch_for_what_others_sent() {
    let chain = Maker::new(1).row(&kit::genesis(), 1000, 0);
    let all = peers(2);
    for silent in &all {
        let mut world = World::new(&[]);
        all.iter().for_each(|p| world.greet(*p, head_of(&chain)));
        world.run(Duration::from_secs(12), |peer, span| if peer == *silent { None } else { honest(&chain, span) });
        assert_eq!(world.ours.head(), 1000, "one time-out tells");
    }
}

#[test]
fn in_step_is_said_when_a_few_peers_told_or_had_the_time_to() {
    let chain = Maker::new(1).row(&kit::genesis(), 300, 0);
    let ours = &chain[..100];
    let all = peers(4);
    let mut world = World::new(ours);
    world.greet(all[0], head_of(ours));
    world.run(Duration::from_millis(500), |_, _| panic!("nothing is missing"));
    assert_eq!(world.planner.state(), State::NoPeers, "the others are asked still");
    // A few are as far as we are, and that is enough.
    world.greet(all[1], head_of(ours));
    world.greet(all[2], head_of(ours));
    world.run(Duration::from_millis(200), |_, _| panic!("nothing is missing"));
    assert_eq!(world.planner.state(), State::Synced);
    // The others were further: that was never said.
    let mut world = World::new(ours);
    world.greet(all[0], head_of(ours));
    let mut states = Vec::new();
    for round in 0..40 {
        if round == 5 {
            all[1..].iter().for_each(|p| world.greet(*p, head_of(&chain)));
        }
        world.run(Duration::from_millis(100), |_, span| honest(&chain, span));
        states.push((world.planner.state(), world.ours.head()));
    }
    assert!(states.iter().all(|(state, head)| *state != State::Synced || *head == 300), "{states:?}");
    assert_eq!(states.last(), Some(&(State::Synced, 300)));
    // One alone has its second.
    let mut world = World::new(ours);
    world.greet(all[0], head_of(ours));
    world.run(Duration::from_millis(1200), |_, _| panic!("nothing is missing"));
    assert_eq!(world.planner.state(), State::Synced);
}
