//! A line that is slow.

use std::time::{Duration, Instant};

use super::planner::{World, head_of, honest, peers};
use crate::{
    block::{
        kit::{self, Maker},
        sync::{
            plan::{Failure, Output, Pulled},
            wire::Span,
        },
    },
    primitives::PeerId,
};

#[test]
fn a_slow_line_brings_a_chain_all_the_same() {
    // Pulls share a line of 32 KB a second, which brings in the time of a pull a sixth of one of full size; bodies have 40 KB.
    const LINE: usize = 32_000;
    const BLOCK: usize = 40_000;
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let mut world = World::new(&[]);
    (0..16).for_each(|_| world.greet(PeerId::random(), head_of(&chain)));
    // With how much its answer has, and how much of it came.
    let mut pulls: Vec<(u64, Span, usize, usize, Instant)> = Vec::new();
    let (start, mut timeouts) = (world.now, 0);
    while world.ours.head() < 100 && world.now < start + Duration::from_secs(1200) {
        let mut number = 0.3;
        for output in world.planner.poll(&world.ours, world.now, &mut || {
            number = (number * 7.77_f64).fract();
            number
        }) {
            match output {
                Output::Pull { id, span, bytes, .. } => {
                    let blocks = (span.count as usize).min(bytes / BLOCK).max(1);
                    pulls.push((
                        id,
                        Span { count: u32::try_from(blocks).unwrap(), ..span },
                        blocks * BLOCK,
                        0,
                        world.now,
                    ));
                }
                Output::Import { id, blocks, .. } => {
                    let result = world.ours.import(blocks);
                    world.planner.on_imported(id, result, world.now);
                }
                _ => {}
            }
        }
        world.now += Duration::from_millis(100);
        let share = LINE / 10 / pulls.len().max(1);
        pulls.iter_mut().for_each(|(.., came, _)| *came += share);
        let now = world.now;
        let late = |since: Instant| now >= since + Duration::from_secs(10);
        let ended = pulls.extract_if(.., |(.., all, came, since)| *came >= *all || late(*since));
        for (id, span, all, came, _) in ended.collect::<Vec<_>>() {
            let whole = came >= all;
            timeouts += usize::from(!whole);
            let result = match honest(&chain, span) {
                Some(Ok(blocks)) if whole => Ok(Pulled { bytes: BLOCK * blocks.len(), blocks }),
                _ => Err(Failure::Timeout),
            };
            world.planner.on_pulled(id, result, now);
        }
    }
    let took = world.now - start;
    assert_eq!(world.ours.head(), 100, "{timeouts} pulls ran out of time");
    // The line alone takes 125 s.
    assert!(took < Duration::from_secs(600), "{took:?}, {timeouts} pulls ran out of time");
}

#[test]
fn many_that_answer_just_in_time_do_not_have_all_places_of_few_that_are_quick() {
    let chain = Maker::new(1).row(&kit::genesis(), 8000, 0);
    let mut world = World::new(&[]);
    let (slow, quick) = (peers(16), (50..54).map(|n| Maker::new(n).address()).collect::<Vec<_>>());
    slow.iter().chain(&quick).for_each(|p| world.greet(*p, head_of(&chain)));
    let mut pulls: Vec<(u64, Span, Instant)> = Vec::new();
    let start = world.now;
    while world.ours.head() < 8000 {
        assert!(world.now < start + Duration::from_secs(60), "at {} after a minute", world.ours.head());
        let mut number = 0.3;
        for output in world.planner.poll(&world.ours, world.now, &mut || {
            number = (number * 7.77_f64).fract();
            number
        }) {
            match output {
                Output::Pull { id, span, peer, .. } => {
                    let takes = Duration::from_millis(if slow.contains(&peer) { 9900 } else { 100 });
                    pulls.push((id, span, world.now + takes));
                }
                Output::Import { id, blocks, .. } => {
                    let result = world.ours.import(blocks);
                    world.planner.on_imported(id, result, world.now);
                }
                Output::Report { peer, .. } => panic!("{peer} is to blame for nothing"),
                _ => {}
            }
        }
        world.now += Duration::from_millis(100);
        let now = world.now;
        for (id, span, _) in pulls.extract_if(.., |(.., at)| *at <= now).collect::<Vec<_>>() {
            let result = honest(&chain, span).unwrap().map(|blocks| Pulled { bytes: 500 * blocks.len(), blocks });
            world.planner.on_pulled(id, result, now);
        }
    }
}
