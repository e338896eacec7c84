//! The planner alone, against peers played by hand.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use crate::{
    block::{
        Block, Point,
        kit::{self, Maker},
        sync::{
            plan::{Failure, Imported, Output, Place, Pulled, State, View},
            planner::Planner,
            wire::{Greeting, Span},
        },
    },
    primitives::{Hash, PeerId, UnixMillis},
};

const DEPTH: u64 = 12;

/// Our chain: what was imported, one branch, all but the last [`DEPTH`] blocks final; and whether it is halted.
pub(super) struct Ours(RefCell<Vec<Block>>, Cell<bool>);

impl Ours {
    fn new(blocks: &[Block]) -> Self {
        let mut all = vec![kit::genesis()];
        all.extend_from_slice(blocks);
        Self(RefCell::new(all), Cell::new(false))
    }

    pub(super) fn head(&self) -> u64 {
        self.place().head.height
    }

    pub(super) fn halt(&self, halted: bool) {
        self.1.set(halted);
    }

    pub(super) fn import(&self, blocks: Vec<Block>) -> Imported {
        let mut all = self.0.borrow_mut();
        let (held, before) = (blocks.len(), all.len());
        for block in blocks {
            if block.header().height as usize == all.len() {
                assert_eq!(block.header().parent, all[all.len() - 1].hash(), "what does not fit is not handed over");
                all.push(block);
            }
        }
        Imported::Held { held, new: all.len() - before, stopped: None }
    }
}

impl View for Ours {
    fn place(&self) -> Place {
        let all = self.0.borrow();
        let point = |height: usize| Point { height: height as u64, hash: all[height].hash() };
        let head = all.len() - 1;
        Place { head: point(head), committed: point(head.saturating_sub(DEPTH as usize)), halted: self.1.get() }
    }

    fn held(&self, hash: &Hash) -> Option<u64> {
        self.0.borrow().iter().find(|b| b.hash() == *hash).map(|b| b.header().height)
    }

    fn hash_at(&self, height: u64) -> Option<Hash> {
        self.0.borrow().get(height as usize).map(Block::hash)
    }
}

pub(super) fn greeting(peer: PeerId, head: Point) -> Greeting {
    Greeting {
        genesis: kit::genesis().hash(),
        timestamp: UnixMillis(0),
        committed: Point::default(),
        head,
        earliest: 1,
        address: peer,
    }
}

pub(super) fn head_of(chain: &[Block]) -> Point {
    chain.last().map(|b| Point { height: b.header().height, hash: b.hash() }).unwrap_or_default()
}

/// Peers whose order is the same in every run.
pub(super) fn peers(count: u64) -> Vec<PeerId> {
    (0..count).map(|n| Maker::new(n).address()).collect()
}

/// A planner, its chain and a clock.
pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) ours: Ours,
    pub(super) now: Instant,
    pub(super) reports: Vec<PeerId>,
    /// Unanswered pulls, and when they time out.
    pub(super) waiting: Vec<(Instant, u64)>,
    /// The chain, from height 1, from which questions for headers are answered; none are without it.
    pub(super) headers: Vec<Block>,
    /// Such questions get no answer at all.
    pub(super) headers_hang: bool,
    /// The last random one.
    number: f64,
}

impl World {
    pub(super) fn new(ours: &[Block]) -> Self {
        Self::with(ours, false)
    }

    /// One whose planner is `solitary`.
    pub(super) fn with(ours: &[Block], solitary: bool) -> Self {
        let now = Instant::now();
        let planner = Planner::new(DEPTH, solitary, now);
        let (ours, reports, waiting, headers) = (Ours::new(ours), Vec::new(), Vec::new(), Vec::new());
        Self { planner, ours, now, reports, waiting, headers, headers_hang: false, number: 0.3 }
    }

    pub(super) fn greet(&mut self, peer: PeerId, head: Point) {
        self.planner.on_greeting(peer, &greeting(peer, head), self.now);
    }

    /// The same of one whose final block is the twelfth below its head.
    pub(super) fn greet_with_final(&mut self, peer: PeerId, chain: &[Block]) {
        let committed = head_of(&chain[..chain.len() - DEPTH as usize]);
        self.planner.on_greeting(peer, &Greeting { committed, ..greeting(peer, head_of(chain)) }, self.now);
    }

    /// The same of one that keeps nothing below a height.
    pub(super) fn greet_from(&mut self, peer: PeerId, head: Point, earliest: u64) {
        self.planner.on_greeting(peer, &Greeting { earliest, ..greeting(peer, head) }, self.now);
    }

    /// Lets `length` pass, a tenth of a second at a time; `answer` plays all peers.
    pub(super) fn run(
        &mut self,
        length: Duration,
        mut answer: impl FnMut(PeerId, Span) -> Option<Result<Vec<Block>, Failure>>,
    ) {
        let end = self.now + length;
        while self.now < end {
            let number = &mut self.number;
            let outputs = self.planner.poll(&self.ours, self.now, &mut || {
                *number = (*number * 7.77 + 0.123_f64).fract();
                *number
            });
            for output in outputs {
                match output {
                    Output::Pull { id, peer, span, .. } => match answer(peer, span) {
                        Some(result) => {
                            let result = result.map(|blocks| Pulled { bytes: 500 * blocks.len(), blocks });
                            self.planner.on_pulled(id, result, self.now);
                        }
                        None => self.waiting.push((self.now + Duration::from_secs(10), id)),
                    },
                    Output::Import { id, blocks, .. } => {
                        let result = self.ours.import(blocks);
                        self.planner.on_imported(id, result, self.now);
                    }
                    Output::Report { peer, .. } => self.reports.push(peer),
                    Output::Headers { .. } if self.headers_hang => {}
                    Output::Headers { id, ladder, .. } => {
                        let heights = (0..u64::from(ladder.count)).map(|i| ladder.start + i * ladder.stride);
                        let headers = heights.filter_map(|h| self.headers.get((h as usize).checked_sub(1)?));
                        let headers: Vec<_> = headers.map(|b| b.header().clone()).collect();
                        let result = if self.headers.is_empty() { Err(Failure::Lost) } else { Ok(headers) };
                        self.planner.on_headers(id, result, &self.ours, self.now);
                    }
                    Output::Prove { .. } => panic!("there is no conflict"),
                }
            }
            let now = self.now;
            for (_, id) in self.waiting.extract_if(.., |(at, _)| *at <= now) {
                self.planner.on_pulled(id, Err(Failure::Timeout), now);
            }
            self.now += Duration::from_millis(100);
        }
    }
}

/// What an honest peer with `chain` (from height 1) answers.
pub(super) fn honest(chain: &[Block], span: Span) -> Option<Result<Vec<Block>, Failure>> {
    let (start, end) = ((span.start - 1) as usize, (span.end() - 1) as usize);
    Some(match chain.get(start..end.min(chain.len())) {
        Some(blocks) if !blocks.is_empty() => Ok(blocks.to_vec()),
        _ => Err(Failure::NotFound(chain.len() as u64)),
    })
}

#[test]
fn a_new_node_syncs_from_one_peer_and_from_four() {
    let chain = Maker::new(1).row(&kit::genesis(), 1000, 0);
    for peers in [1, 4] {
        let mut world = World::new(&[]);
        assert_eq!(world.planner.state(), State::NoPeers);
        (0..peers).for_each(|_| world.greet(PeerId::random(), head_of(&chain)));
        let mut states = Vec::new();
        for _ in 0..50 {
            world.run(Duration::from_millis(100), |_, span| honest(&chain, span));
            states.push(world.planner.state());
        }
        assert_eq!((world.ours.head(), world.planner.state()), (1000, State::Synced), "{states:?}");
        assert!(states.contains(&State::Syncing), "{states:?}");
        assert!(world.reports.is_empty());
    }
}

#[test]
fn who_was_in_step_and_falls_behind_pulls_again() {
    let chain = Maker::new(1).row(&kit::genesis(), 300, 0);
    let mut world = World::new(&chain[..100]);
    let peers = [PeerId::random(), PeerId::random()];
    peers.iter().for_each(|p| world.greet(*p, head_of(&chain[..100])));
    world.run(Duration::from_secs(2), |_, _| panic!("nothing is missing"));
    assert_eq!(world.planner.state(), State::Synced);
    peers.iter().for_each(|p| world.greet(*p, head_of(&chain)));
    let mut spans = Vec::new();
    world.run(Duration::from_millis(100), |_, span| {
        spans.push(span);
        honest(&chain, span)
    });
    assert!(!spans.is_empty() && world.planner.state() == State::Syncing, "N12");
    world.run(Duration::from_secs(5), |_, span| {
        spans.push(span);
        honest(&chain, span)
    });
    assert_eq!((world.ours.head(), world.planner.state()), (300, State::Synced));
    assert!(spans.iter().all(|span| span.start > 100), "N10: {spans:?}");
}

#[test]
fn who_is_further_than_its_target_is_in_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 310, 0);
    let mut world = World::new(&chain[..200]);
    (0..2).for_each(|_| world.greet(PeerId::random(), head_of(&chain[..300])));
    // While the last batches are on their way, broadcast brings the chain beyond the height that was aimed at.
    world.run(Duration::from_millis(1500), |_, span| {
        assert!(span.end() <= 301);
        None
    });
    assert_eq!(world.planner.state(), State::Syncing);
    world.ours.import(chain[200..].to_vec());
    world.run(Duration::from_secs(1), |_, _| panic!("nothing is missing"));
    assert_eq!(world.planner.state(), State::Synced, "N15");
}

#[test]
fn a_claim_of_two_to_the_sixty_second_changes_nothing_for_who_is_in_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let mut world = World::new(&chain);
    world.greet(PeerId::random(), head_of(&chain));
    world.run(Duration::from_secs(2), |_, _| None);
    let liar = PeerId::random();
    world.greet(liar, Point { height: 1 << 62, hash: Hash::of(b"no such block") });
    for _ in 0..120 {
        world.run(Duration::from_secs(1), |peer, _| {
            assert_eq!(peer, liar);
            None
        });
        assert_eq!(world.planner.state(), State::Synced, "N7");
    }
    assert!(world.reports.len() >= 3 && world.reports.iter().all(|p| *p == liar), "N6: each pull ends");
}

#[test]
fn a_fresh_node_with_a_liar_and_an_honest_peer_syncs_and_is_in_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let (liar, peer) = (PeerId::random(), PeerId::random());
    let mut world = World::new(&[]);
    world.greet(liar, Point { height: 1 << 62, hash: Hash::of(b"no such block") });
    world.greet(peer, head_of(&chain));
    world.run(Duration::from_secs(120), |who, span| if who == peer { honest(&chain, span) } else { None });
    assert_eq!(world.ours.head(), 600);
    assert_eq!(world.planner.state(), State::Synced);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let chain = Maker::new(1).row(&kit::genesis(), 10, 0);
    let mut world = World::new(&[]);
    let pulled = || Pulled { blocks: chain.clone(), bytes: 5000 };
    world.planner.on_pulled(1, Ok(pulled()), world.now);
    world.planner.on_headers(1, Ok(Vec::new()), &world.ours, world.now);
    world.planner.on_imported(1, Imported::Held { held: 10, new: 10, stopped: None }, world.now);
    world.planner.on_proven(1, Ok(()), &world.ours, world.now);
    world.greet(PeerId::random(), head_of(&chain));
    world.now += Duration::from_secs(1);
    let outputs = world.planner.poll(&world.ours, world.now, &mut || 0.5);
    let [Output::Pull { id, span, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(*span, Span { start: 1, count: 10 });
    world.planner.on_pulled(id + 1, Ok(pulled()), world.now);
    assert!(world.planner.poll(&world.ours, world.now, &mut || 0.5).is_empty(), "N8, N17");
    world.planner.on_pulled(*id, Ok(pulled()), world.now);
    let outputs = world.planner.poll(&world.ours, world.now, &mut || 0.5);
    assert!(matches!(&outputs[..], [Output::Import { .. }]), "{outputs:?}");
    world.planner.on_pulled(*id, Ok(pulled()), world.now);
    assert!(world.planner.poll(&world.ours, world.now, &mut || 0.5).is_empty(), "answered once");
}

#[test]
fn nobody_serves_and_the_node_is_stalled_until_somebody_does() {
    let chain = Maker::new(1).row(&kit::genesis(), 200, 0);
    let peers = [PeerId::random(), PeerId::random(), PeerId::random()];
    let mut world = World::new(&[]);
    peers.iter().for_each(|p| world.greet(*p, head_of(&chain)));
    let mut pulls = 0;
    let mut seen = Vec::new();
    for _ in 0..90 {
        world.run(Duration::from_secs(1), |_, _| {
            pulls += 1;
            Some(Err(Failure::Busy(Duration::from_secs(2))))
        });
        seen.push(world.planner.state());
    }
    assert!(seen.contains(&State::Stalled), "{seen:?}");
    assert!(pulls < 250, "{pulls} pulls in 90 s");
    world.run(Duration::from_secs(90), |_, span| honest(&chain, span));
    assert_eq!((world.ours.head(), world.planner.state()), (200, State::Synced), "not terminal");
}

#[test]
fn pulls_are_bounded() {
    let chain = Maker::new(1).row(&kit::genesis(), 4000, 0);
    let mut world = World::new(&[]);
    let peers: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
    peers.iter().for_each(|p| world.greet(*p, head_of(&chain)));
    let outputs = world.planner.poll(&world.ours, world.now, &mut || 0.5);
    let mut by_peer: HashMap<PeerId, usize> = HashMap::new();
    let mut spans = Vec::new();
    for output in &outputs {
        let Output::Pull { peer, span, .. } = output else { panic!("{output:?}") };
        *by_peer.entry(*peer).or_default() += 1;
        spans.push(*span);
    }
    assert_eq!((outputs.len(), by_peer.len()), (16, 16), "sixteen, one from each that has proven nothing");
    assert!(spans.iter().all(|s| s.count == 128) && spans.windows(2).all(|w| w[0].end() == w[1].start));
    // All but the first one come: five are kept waiting at most before only the first is asked for again.
    for output in outputs.into_iter().skip(1) {
        let Output::Pull { id, span, .. } = output else { continue };
        let Some(Ok(blocks)) = honest(&chain, span) else { panic!("has it") };
        world.planner.on_pulled(id, Ok(Pulled { blocks, bytes: 1 }), world.now);
        let more = world.planner.poll(&world.ours, world.now, &mut || 0.5);
        assert!(more.len() <= 1 && world.planner.in_flight() <= 16);
    }
    assert!(world.planner.poll(&world.ours, world.now, &mut || 0.5).is_empty());
}

#[test]
fn one_liar_with_a_longer_chain_of_its_own_does_not_lead_a_new_node_astray() {
    for (length, lie) in [(100, 120), (600, 2000), (1500, 1400)] {
        let chain = Maker::new(1).row(&kit::genesis(), length, 0);
        let other = Maker::new(2).row(&kit::genesis(), lie, 0);
        let mut world = World::new(&[]);
        let point = |chain: &[Block], back: usize| head_of(&chain[..chain.len() - back]);
        let mut liars = Vec::new();
        for i in 0..4 {
            let peer = PeerId::random();
            let of = if i == 0 { &other } else { &chain };
            let said = Greeting { committed: point(of, 12), ..greeting(peer, point(of, 0)) };
            world.planner.on_greeting(peer, &said, world.now);
            liars.extend((i == 0).then_some(peer));
        }
        world.run(Duration::from_secs(60), |peer, span| {
            honest(if liars.contains(&peer) { &other } else { &chain }, span)
        });
        assert_eq!(world.ours.place().head, point(&chain, 0), "{length} against {lie}");
        assert!(world.reports.is_empty(), "another chain is no crime");
    }
}

#[test]
fn liars_with_a_final_block_next_to_our_head_do_not_silence_honest_peers() {
    let chain = Maker::new(1).row(&kit::genesis(), 600, 0);
    let mut world = World::new(&chain[..100]);
    let lie = Point { height: 101, hash: Hash::of(b"no such block") };
    let liars = [PeerId::random(), PeerId::random()];
    for peer in liars {
        world.planner.on_greeting(peer, &Greeting { committed: lie, ..greeting(peer, lie) }, world.now);
    }
    for _ in 0..5 {
        let peer = PeerId::random();
        let said = Greeting { committed: head_of(&chain[..588]), ..greeting(peer, head_of(&chain)) };
        world.planner.on_greeting(peer, &said, world.now);
    }
    // Time for both of them to be asked first, one after the other, and to say nothing.
    world.run(Duration::from_secs(8), |peer, span| if liars.contains(&peer) { None } else { honest(&chain, span) });
    assert_eq!((world.ours.head(), world.planner.state()), (600, State::Synced));
}

#[test]
fn who_is_outvoted_is_neither_cut_nor_asked_without_end() {
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let mut world = World::new(&[]);
    let lie = Point { height: 50, hash: Hash::of(b"no such block") };
    let liars = [PeerId::random(), PeerId::random()];
    for peer in liars {
        world.planner.on_greeting(peer, &Greeting { committed: lie, ..greeting(peer, lie) }, world.now);
    }
    world.greet(PeerId::random(), head_of(&chain));
    let mut pulls = 0;
    world.run(Duration::from_secs(120), |peer, span| {
        pulls += usize::from(!liars.contains(&peer));
        if liars.contains(&peer) { None } else { honest(&chain, span) }
    });
    assert!(pulls < 40, "{pulls} pulls in 120 s");
    assert_eq!(world.ours.head(), 100, "who shows nothing of what it says has no voice for long");
}

#[test]
fn who_gets_blocks_from_nobody_is_not_in_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 200, 0);
    for held in [0, 195] {
        let mut world = World::new(&chain[..held]);
        let peers = [PeerId::random(), PeerId::random(), PeerId::random()];
        peers.iter().for_each(|p| world.greet(*p, head_of(&chain)));
        // All are cut soon, and again later; in between they come again.
        for second in 0..150 {
            world.run(Duration::from_secs(1), |_, _| Some(Err(Failure::Lost)));
            assert_ne!(world.planner.state(), State::Synced, "after {second} s with {held} blocks");
            if second == 40 {
                peers.iter().for_each(|p| world.planner.on_gone(p, world.now));
                world.run(Duration::from_secs(1), |_, _| None);
                assert_eq!(world.planner.state(), State::NoPeers);
                peers.iter().for_each(|p| world.greet(*p, head_of(&chain)));
            }
        }
        world.run(Duration::from_secs(90), |_, span| honest(&chain, span));
        assert_eq!((world.ours.head(), world.planner.state()), (200, State::Synced));
    }
}

#[test]
fn two_liars_of_nine_do_not_put_a_node_out_of_step() {
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let mut world = World::new(&chain);
    (0..7).for_each(|_| world.greet(PeerId::random(), head_of(&chain)));
    world.run(Duration::from_secs(1), |_, _| None);
    for _ in 0..2 {
        world.greet(PeerId::random(), Point { height: 1 << 62, hash: Hash::of(b"no such block") });
    }
    for _ in 0..120 {
        world.run(Duration::from_secs(1), |_, _| None);
        assert_eq!(world.planner.state(), State::Synced, "N7");
    }
}

#[test]
fn a_hash_of_ours_with_a_false_height_is_a_lie_and_nobody_is_asked_for_it() {
    let chain = Maker::new(1).row(&kit::genesis(), 100, 0);
    let mut world = World::new(&chain[..50]);
    let (liar, peer) = (PeerId::random(), PeerId::random());
    world.greet(liar, Point { height: u64::MAX, hash: kit::genesis().hash() });
    world.greet(peer, head_of(&chain));
    world.run(Duration::from_secs(30), |who, span| {
        assert_eq!(who, peer);
        honest(&chain, span)
    });
    assert_eq!((world.ours.head(), world.planner.state()), (100, State::Synced));
    assert_eq!(world.reports, [liar]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_peers_answer_an_honest_one_is_enough(
        length in 1usize..700, held in 0usize..200, script in proptest::collection::vec(0u8..9, 40),
        others in 1u64..6, place in 0usize..6,
    ) {
        let chain = Maker::new(1).row(&kit::genesis(), length, 0);
        let mut world = World::new(&chain[..held.min(length)]);
        let all = peers(others + 1);
        let good = all[place % all.len()];
        all.iter().for_each(|p| world.greet(*p, head_of(&chain)));
        let mut script = script.into_iter().cycle();
        world.run(Duration::from_secs(400), |peer, span| {
            if peer == good {
                return honest(&chain, span);
            }
            match script.next() {
                Some(0) => None,
                Some(1) => Some(Err(Failure::Wrong)),
                Some(2) => Some(Err(Failure::Invalid)),
                Some(3) => Some(Err(Failure::Busy(Duration::from_secs(3)))),
                Some(4) => Some(Err(Failure::NotFound(span.start - 1))),
                Some(5) => Some(Err(Failure::Pruned(span.start + 1))),
                Some(6) => Some(Err(Failure::Lost)),
                Some(7) => honest(&chain, Span { start: span.start, count: 1 + span.count / 3 }),
                _ => honest(&chain, span),
            }
        });
        prop_assert_eq!(world.ours.head(), length as u64);
        prop_assert_eq!(world.planner.state(), State::Synced);
        prop_assert_eq!(world.planner.in_flight(), 0);
        prop_assert!(!world.reports.contains(&good));
    }
}

#[test]
fn a_connection_that_breaks_is_one_failure_however_much_was_asked_for() {
    let chain = Maker::new(1).row(&kit::genesis(), 2000, 0);
    let peer = PeerId::random();
    let mut world = World::new(&[]);
    world.greet(peer, head_of(&chain));
    world.run(Duration::from_secs(2), |_, _| None);
    assert!(world.waiting.len() > 1, "{:?}", world.waiting);
    for (_, id) in std::mem::take(&mut world.waiting) {
        world.planner.on_pulled(id, Err(Failure::Lost), world.now);
    }
    world.planner.on_gone(&peer, world.now);
    world.run(Duration::from_secs(1), |_, _| panic!("nobody is there"));
    world.greet(peer, head_of(&chain));
    world.run(Duration::from_secs(5), |_, span| honest(&chain, span));
    assert_eq!((world.ours.head(), world.planner.state()), (2000, State::Synced));
    // One whose connections do nothing but break is cut in the end.
    let more = [chain.clone(), Maker::new(1).row(&chain[1999], 100, 0)].concat();
    world.greet(peer, head_of(&more));
    let mut asked = 0;
    world.run(Duration::from_secs(50), |_, _| {
        asked += 1;
        Some(Err(Failure::Lost))
    });
    assert!((3..40).contains(&asked), "{asked}");
}

#[test]
fn when_a_halted_chain_takes_blocks_again_it_goes_on_soon() {
    let chain = Maker::new(1).row(&kit::genesis(), 300, 0);
    let mut world = World::new(&chain[..100]);
    world.headers = chain.clone();
    world.greet(PeerId::random(), head_of(&chain));
    world.ours.1.set(true);
    world.run(Duration::from_secs(60), |_, _| panic!("nothing is pulled meanwhile"));
    assert_eq!(world.planner.state(), State::Stalled);
    world.ours.1.set(false);
    world.run(Duration::from_secs(15), |_, span| honest(&chain, span));
    assert_eq!((world.ours.head(), world.planner.state(), world.reports.len()), (300, State::Synced, 0));
}
