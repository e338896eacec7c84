//! Any number of names at one place that others can see are one voice.

use std::time::{Duration, Instant};

use super::planner::{World, greeting, head_of, honest, peers};
use crate::{
    block::{
        Point,
        kit::{self, Maker},
        sync::{
            claims::Claims,
            plan::{Failure, State, View},
            wire::Greeting,
        },
    },
    net::Voice,
    primitives::{Hash, PeerId},
};

fn host(number: u8) -> Voice {
    Voice::Host([198, 51, 100, number].into())
}

fn nowhere(height: u64) -> Point {
    Point { height, hash: Hash::of(b"no such block") }
}

#[test]
fn a_majority_of_names_at_one_host_has_no_say_about_what_is_final() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    for hosts in [1, 64] {
        let mut world = World::new(&[]);
        let (names, good) = (peers(64), [70, 71].map(|n| Maker::new(n).address()));
        for (n, name) in (0_u8..).zip(&names) {
            // They have an answer to every question, so they are neither silent nor cut.
            let lie = Greeting { committed: nowhere(100), earliest: 1 << 62, ..greeting(*name, nowhere(100)) };
            world.planner.on_greeting(*name, &lie, world.now);
            world.planner.on_place(name, host(n % hosts));
        }
        for (n, peer) in (100..).zip(good) {
            world.greet(peer, head_of(&chain));
            world.planner.on_place(&peer, host(n));
        }
        world.run(Duration::from_secs(8), |_, span| honest(&chain, span));
        let expected = if hosts == 1 { 600 } else { 0 };
        assert_eq!(world.ours.head(), expected, "{hosts} hosts");
    }
}

#[test]
fn a_house_full_of_peers_is_caught_up_from_as_from_one() {
    let chain = Maker::new(1).row(&kit::genesis(), 4000, 0);
    let mut world = World::new(&[]);
    for peer in peers(8) {
        world.greet(peer, head_of(&chain));
        world.planner.on_place(&peer, host(1));
    }
    world.run(Duration::from_secs(3), |_, span| honest(&chain, span));
    assert_eq!((world.ours.head(), world.planner.state()), (4000, State::Synced));
    // With somebody else who has it as well.
    let mut world = World::new(&[]);
    for (n, peer) in (0..).zip(peers(8)) {
        world.greet(peer, head_of(&chain));
        world.planner.on_place(&peer, host(if n == 7 { 2 } else { 1 }));
    }
    world.run(Duration::from_secs(5), |_, span| honest(&chain, span));
    assert_eq!((world.ours.head(), world.planner.state()), (4000, State::Synced));
}

fn told(claims: &mut Claims, heads: &[(PeerId, Voice, Point)], now: Instant) {
    for (peer, voice, head) in heads {
        claims.greet(*peer, &greeting(*peer, *head), now);
        claims.place(peer, *voice);
    }
}

#[test]
fn a_host_backs_no_height_puts_nobody_out_of_step_and_is_one_in_step() {
    let (now, all, here) = (Instant::now(), peers(60), Point { height: 100, hash: Hash::of(b"here") });
    for hosts in [1, 40] {
        let mut claims = Claims::default();
        let lying = |(n, peer): (u8, &PeerId)| (*peer, host(n % hosts), nowhere(9000));
        told(&mut claims, &(0..).zip(&all[..40]).map(lying).collect::<Vec<_>>(), now);
        let good = |(n, peer): (u8, &PeerId)| (*peer, host(n), here);
        told(&mut claims, &(100..).zip(&all[40..48]).map(good).collect::<Vec<_>>(), now);
        claims.refresh(now, |hash| (*hash == here.hash).then_some(100));
        let alone = hosts == 1;
        assert_eq!(claims.target(100, now).map(|t| t.backed), Some(!alone));
        assert_eq!((claims.mostly_missing(now), claims.mostly_held(now)), (!alone, alone));
        assert_eq!((claims.held(), claims.voices()), (8, 8 + usize::from(hosts)));
        // Echoes of our head from one host make nobody of those who have more fewer.
        let mut claims = Claims::default();
        let echo = |(n, peer): (u8, &PeerId)| (*peer, host(n % hosts), here);
        told(&mut claims, &(0..).zip(&all[..40]).map(echo).collect::<Vec<_>>(), now);
        let more = |(n, peer): (u8, &PeerId)| (*peer, host(n), nowhere(9000));
        told(&mut claims, &(100..).zip(&all[40..48]).map(more).collect::<Vec<_>>(), now);
        claims.refresh(now, |hash| (*hash == here.hash).then_some(100));
        assert_eq!(claims.target(100, now).map(|t| t.backed), Some(alone));
    }
}

#[test]
fn a_proof_counts_among_one_peer_of_each_voice() {
    let (now, all) = (Instant::now(), peers(10));
    let mut claims = Claims::default();
    let of = |(n, peer): (usize, &PeerId)| (*peer, if n < 6 { host(1) } else { Voice::Name(*peer) }, nowhere(5));
    told(&mut claims, &all.iter().enumerate().map(of).collect::<Vec<_>>(), now);
    for prover in &all[..6] {
        let told = claims.told(prover);
        assert_eq!(told.len(), 5, "one of the host and four others");
        assert!(told.contains(prover));
    }
    claims.contradict(&all[3], now);
    claims.contradict(&all[1], now + Duration::from_secs(1));
    let told = claims.told(&all[9]);
    assert!(told.len() == 5 && told.contains(&all[1]), "who proved it last speaks for its host");
}

#[test]
fn what_one_gave_counts_whoever_claims_more_than_it() {
    let (now, all, here) = (Instant::now(), peers(8), Point { height: 100, hash: Hash::of(b"here") });
    let mut claims = Claims::default();
    let of = |(n, peer): (usize, &PeerId)| match n {
        0 => (*peer, host(1), nowhere(1000)),
        1 => (*peer, host(2), nowhere(1 << 62)),
        _ => (*peer, Voice::Name(*peer), here),
    };
    told(&mut claims, &all.iter().enumerate().map(of).collect::<Vec<_>>(), now);
    claims.refresh(now, |hash| (*hash == here.hash).then_some(100));
    claims.gave(&all[0], 128, now);
    assert_eq!(claims.target(100, now).map(|t| (t.backed, t.given)), Some((false, 128)));
}

#[test]
fn whoever_never_answers_a_search_comes_after_those_who_were_not_asked() {
    // Halted, so that nothing but searches begins; two claim the most and their answers are lost.
    let ours = Maker::new(1).row(&kit::genesis(), 40, 0);
    let theirs = [vec![kit::genesis()], Maker::new(2).row(&kit::genesis(), 60, 0)].concat();
    let mut world = World::new(&ours);
    world.ours.halt(true);
    let (liars, good) = (peers(2), [70, 71, 72].map(|n| Maker::new(n).address()));
    liars.iter().for_each(|peer| world.greet(*peer, nowhere(1 << 40)));
    good.iter().for_each(|peer| world.greet(*peer, head_of(&theirs)));
    let mut proven = Vec::new();
    for _ in 0..600 {
        for output in world.planner.poll(&world.ours, world.now, &mut || 0.5) {
            use crate::block::sync::plan::Output;
            match output {
                Output::Headers { id, peer, .. } if liars.contains(&peer) => {
                    let busy = Err(Failure::Busy(Duration::from_secs(10)));
                    world.planner.on_headers(id, busy, &world.ours, world.now);
                }
                Output::Headers { id, ladder, .. } => {
                    let heights = (0..u64::from(ladder.count)).map(|i| ladder.start + i * ladder.stride);
                    let headers = heights.filter_map(|h| theirs.get(h as usize)).map(|b| b.header().clone()).collect();
                    world.planner.on_headers(id, Ok(headers), &world.ours, world.now);
                }
                Output::Prove { id, peer, .. } => {
                    proven.push(peer);
                    world.planner.on_proven(id, Ok(()), &world.ours, world.now);
                }
                other => panic!("{other:?}"),
            }
        }
        world.now += Duration::from_millis(100);
    }
    assert!(good.iter().all(|peer| proven.contains(peer)), "all of them in a minute: {}", proven.len());
    assert!(world.ours.place().halted);
}
