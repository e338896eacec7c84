//! Properties of the machines.

mod hearsay;
mod late;
mod room;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    super::{
        announcer::{Announce, Announcer, MAX_NOTIFIED, REACHED},
        assembly::{Assembly, Inserted, PER_HEIGHT, PER_PEER, PER_PRODUCER, Piece, STALE, Served, TOTAL, WAITING},
        core::{Asked, Core, Output},
        fetcher::{
            ARRIVAL, AskId, BLIND, Effect, Failure, Fault, Fetcher, MAX_AGE, MAX_ENTRIES, MAX_SOURCES, MAX_TRIES,
            PER_PEER as FETCHES_PER_PEER, WINDOW,
        },
        hold::{HELD, Hold, PER_SOURCE as HELD_PER_SOURCE, Until},
        known::{Known, PER_PEER as KNOWN_PER_PEER, Recent},
        wire::{Announcement, Content, Wanted},
    },
    GENESIS, block, block_by, pieces,
};
use crate::{
    block::{MAX_BODY_BYTES, PIECE_BYTES, Point, VerifiedHeader},
    primitives::{Hash, PeerId},
};

fn hash(n: u64) -> Hash {
    Hash::of(&n.to_le_bytes())
}

fn news(n: u64) -> Announcement {
    Announcement { point: Point { height: n, hash: hash(n) }, body_bytes: 10_000 }
}

fn peers(n: usize) -> Vec<PeerId> {
    (0..n).map(|_| PeerId::random()).collect()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn known_lists_keep_the_last_and_go_with_their_peers() {
    let mut recent = Recent::new(3);
    assert!(recent.is_empty() && (0..4).all(|i| recent.insert(i)) && !recent.insert(3));
    assert!(recent.len() == 3 && !recent.contains(&0) && recent.contains(&1));
    recent.remove(&1);
    assert!(recent.insert(9) && recent.contains(&2) && recent.len() == 3);
    let (mut known, all) = (Known::default(), peers(2));
    known.learn(&all[0], hash(1));
    assert!(!known.has(&all[0], &hash(1)), "nothing is kept for whoever is not connected");
    known.up(all[0]);
    (0..=KNOWN_PER_PEER as u64).for_each(|i| known.learn(&all[0], hash(i)));
    assert!(!known.has(&all[0], &hash(0)) && known.has(&all[0], &hash(1)) && !known.has(&all[1], &hash(1)));
    known.down(&all[0]);
    known.up(all[0]);
    assert!(!known.has(&all[0], &hash(1)));
}

#[test]
fn who_has_a_block_is_not_told_and_nobody_is_told_twice() {
    let (mut announcer, all, now) = (Announcer::default(), peers(MAX_NOTIFIED + 10), Instant::now());
    all.iter().for_each(|p| announcer.up(*p));
    announcer.learn(&all[0], hash(1));
    let listens = |p: &PeerId| all[..2].contains(p);
    let announce = announcer.announce(now, hash(1), listens);
    assert!(announce.topic && announce.notify.len() == MAX_NOTIFIED && !announce.notify.contains(&all[0]));
    assert_eq!(announcer.announce(now, hash(1), listens), Announce::default());
    let mut told: HashSet<PeerId> = announce.notify.iter().copied().collect();
    for other in 100..120 {
        let announce = announcer.announce(now, hash(other), |_| false);
        assert!(
            announce.topic && announce.notify.len() == MAX_NOTIFIED,
            "who listens but is slow may get it all the same"
        );
        told.extend(announce.notify);
    }
    assert_eq!(told.len(), all.len(), "each has its turn");
    let soon = now + REACHED - ms(1);
    assert!(!announcer.remind(soon, &all[1], hash(1)), "it was told on the topic");
    let left = all[2..].iter().find(|p| !announce.notify.contains(p)).unwrap();
    assert!(announcer.remind(now, left, hash(1)) && !announcer.remind(now + REACHED, left, hash(1)));
    assert!(!announcer.remind(now, &PeerId::random(), hash(1)), "not connected");
    // Everybody on the topic has it: nothing is published.
    all.iter().for_each(|p| announcer.learn(p, hash(2)));
    assert_eq!(announcer.announce(now, hash(2), listens), Announce::default());
}

#[test]
fn l1_who_was_told_on_the_topic_and_still_lacks_a_block_is_told_alone() {
    let (mut announcer, all, now) = (Announcer::default(), peers(3), Instant::now());
    all.iter().for_each(|p| announcer.up(*p));
    assert!(announcer.announce(now, hash(1), |_| true).topic);
    // One heard of it: it says so itself.
    announcer.learn(&all[0], hash(1));
    let late = now + REACHED;
    assert!(!announcer.remind(late - ms(1), &all[1], hash(1)), "it may be fetching it");
    assert!(announcer.remind(late, &all[1], hash(1)) && !announcer.remind(late + REACHED, &all[1], hash(1)));
    assert!(!announcer.remind(late, &all[0], hash(1)));
    // On a new connection it is told whenever it seems to lack it.
    announcer.down(&all[2]);
    announcer.up(all[2]);
    assert!(announcer.remind(now, &all[2], hash(1)));
}

#[test]
fn what_is_held_back_is_little_and_comes_back() {
    let (mut hold, now, from) = (Hold::default(), Instant::now(), peers(HELD));
    hold.put(from[0], Until::Time, now + ms(10), 1).unwrap();
    hold.put(from[0], Until::Parent(hash(1)), now + ms(20), 2).unwrap();
    hold.put(from[0], Until::Parent(hash(2)), now + ms(30), 3).unwrap();
    assert_eq!(hold.deadline(), Some(now + ms(10)));
    assert_eq!(hold.due(now), Vec::<i32>::new());
    assert_eq!(hold.due(now + ms(10)), [1]);
    assert_eq!(hold.children(&hash(2)), [3]);
    assert_eq!(hold.due(now + ms(20)), Vec::<i32>::new(), "its parent did not come");
    assert_eq!((hold.children(&hash(1)), hold.deadline()), (Vec::new(), None));
    // Each peer has some places, and who overtook a parent comes before who is early.
    for i in 0..HELD {
        let until = if i == 9 { Until::Time } else { Until::Parent(hash(0)) };
        hold.put(from[i / HELD_PER_SOURCE], until, now, i as i32).unwrap();
    }
    let last = from[HELD - 1];
    assert_eq!(hold.put(from[0], Until::Parent(hash(0)), now, -1), Err(-1));
    assert_eq!(hold.put(last, Until::Time, now, -1), Err(-1));
    hold.put(last, Until::Parent(hash(1)), now, 100).unwrap();
    assert_eq!(hold.put(last, Until::Parent(hash(1)), now, -1), Err(-1), "nobody is early any more");
    assert_eq!(hold.children(&hash(1)), [100]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_body_comes_together_in_any_order_whatever_else_comes(
        bytes in 5usize..(4 * PIECE_BYTES),
        order in proptest::collection::vec((any::<prop::sample::Index>(), 0..4u8), 1..40),
    ) {
        let (header, _, body) = block(GENESIS, bytes, 1);
        let checks = pieces(&body);
        let (mut assembly, owner, hash) = (Assembly::default(), PeerId::random(), header.hash());
        let now = Instant::now();
        assembly.open(now, header.clone(), checks.clone(), Some(owner), false, &|_| false).unwrap();
        assembly.open(now, header, checks.clone(), Some(PeerId::random()), false, &|_| false).unwrap();
        prop_assert_eq!((assembly.bytes(), assembly.charged(&owner)), (0, 0));
        let mut have = vec![false; checks.count()];
        let all = (0..checks.count()).map(|i| (i, 0));
        let mut complete = 0;
        for (index, kind) in order.iter().map(|(i, k)| (i.index(checks.count()), *k)).chain(all) {
            let piece = body.slice(checks.range(index));
            let (piece, expected) = match kind {
                0 | 1 if have[index] => (piece, Inserted::Needless),
                0 | 1 => {
                    have[index] = true;
                    let last = have.iter().all(|h| *h);
                    complete += usize::from(last);
                    (piece, if last { Inserted::Complete } else { Inserted::Good })
                }
                _ if have[index] => (piece, Inserted::Needless),
                2 => (piece.iter().map(|b| b ^ 1).collect::<Vec<_>>().into(), Inserted::Bad),
                _ => (piece.slice(1..), Inserted::Bad),
            };
            prop_assert_eq!(assembly.insert(now, &hash, index, piece), expected);
            let begun = have.iter().any(|h| *h);
            prop_assert_eq!(assembly.bytes(), if begun { bytes } else { 0 });
            prop_assert_eq!(assembly.charged(&owner), if begun && complete == 0 { bytes } else { 0 });
        }
        prop_assert_eq!(complete, 1);
        prop_assert_eq!(assembly.block(&hash).unwrap().2, Some(&body));
        prop_assert_eq!(assembly.charged(&owner), 0);
        prop_assert_eq!(assembly.insert(now, &hash, checks.count(), body.clone()), Inserted::Bad);
        assembly.remove(&hash);
        prop_assert_eq!(assembly.bytes(), 0);
        prop_assert_eq!(assembly.insert(now, &hash, 0, body.clone()), Inserted::Needless);
    }
}

#[test]
fn memory_is_bounded_in_all_and_for_each_peer() {
    let (mut assembly, now) = (Assembly::default(), Instant::now());
    let owners = peers(6);
    let mut opened = Vec::new();
    // Each of another producer at another height: there are places for all of them.
    let large = |n: u64| block_by(n, Point { height: n, ..GENESIS }, MAX_BODY_BYTES, n);
    let piece = |body: &bytes::Bytes, i: usize| body.slice(i * PIECE_BYTES..(i + 1) * PIECE_BYTES);
    for (i, owner) in owners.iter().enumerate() {
        let mut mine = 0;
        for salt in 0..6 {
            let (header, _, body) = large(i as u64 * 10 + salt);
            let at = now + ms(opened.len() as u64);
            if assembly.open(at, header.clone(), pieces(&body), Some(*owner), false, &|_| false).is_ok() {
                assert_eq!(assembly.insert(at, &header.hash(), 0, piece(&body, 0)), Inserted::Good);
                mine += 1;
                opened.push((header.hash(), body));
            }
            assert!(assembly.bytes() <= TOTAL && assembly.charged(owner) <= PER_PEER);
        }
        assert!(mine <= PER_PEER / MAX_BODY_BYTES);
    }
    assert_eq!(opened.len(), TOTAL / MAX_BODY_BYTES, "unfinished ones are not pushed out while they come");
    // One that nobody brings pieces of gives way: the one that had none for the longest time.
    let (header, _, body) = large(90);
    let new = |assembly: &mut Assembly, at| {
        assembly.open(at, header.clone(), pieces(&body), Some(PeerId::random()), false, &|_| false)
    };
    assert_eq!(assembly.insert(now + ms(500), &opened[0].0, 1, piece(&opened[0].1, 1)), Inserted::Good);
    assert!(new(&mut assembly, now + STALE).is_err() && assembly.take_evicted().is_empty());
    new(&mut assembly, now + STALE + ms(1)).unwrap();
    assert_eq!(assembly.take_evicted(), [opened[1].0]);
    assert_eq!(assembly.insert(now + STALE + ms(1), &header.hash(), 0, piece(&body, 0)), Inserted::Good);
    assert_eq!(assembly.bytes(), TOTAL);
    // A header that came while there was room, and whose body comes when there is none, is let go of.
    assembly.remove(&opened[2].0);
    let late = large(91);
    assembly.open(now, late.0.clone(), pieces(&late.2), None, false, &|_| false).unwrap();
    let other = large(92);
    assembly.open(now, other.0.clone(), pieces(&other.2), None, false, &|_| false).unwrap();
    assert_eq!(assembly.insert(now, &other.0.hash(), 0, piece(&other.2, 0)), Inserted::Good);
    assert_eq!(assembly.insert(now, &late.0.hash(), 0, piece(&late.2, 0)), Inserted::Needless);
    assert_eq!(assembly.take_evicted(), [late.0.hash()]);
    // Finished ones make room, the oldest first, and are not charged to anybody.
    opened.iter().for_each(|(hash, _)| assembly.remove(hash));
    [&header, &other.0].into_iter().for_each(|h| assembly.remove(&h.hash()));
    assert_eq!(assembly.bytes(), 0);
    let mut finished = Vec::new();
    for salt in 100..130 {
        let (header, _, body) = block(GENESIS, MAX_BODY_BYTES, salt);
        finished.push(header.hash());
        assembly.put(now, header, body);
        assert!(assembly.bytes() <= super::super::assembly::KEPT);
    }
    assert!(assembly.block(&finished[0]).is_none() && assembly.block(&finished[29]).is_some());
}

#[test]
fn headers_without_bodies_take_few_places_and_give_them_up() {
    let (mut core, now, peer) = (Core::new(1), Instant::now(), PeerId::random());
    core.up(peer);
    let phantom = |producer, height, salt| block_by(producer, Point { height, ..GENESIS }, 2 * PIECE_BYTES, salt);
    let offer = |core: &mut Core, at, (header, content, _): (VerifiedHeader, Content, _)| {
        (header.hash(), core.on_block(at, peer, header, content).is_ok())
    };
    // Whatever a key signs, at whichever height.
    let of_one: Vec<_> = (0..5).map(|i| offer(&mut core, now + ms(i), phantom(1, i, i))).collect();
    assert_eq!(of_one.iter().filter(|(_, taken)| *taken).count(), PER_PRODUCER);
    // However many keys sign at one height.
    let of_many: Vec<_> = (0..20).map(|i| offer(&mut core, now + ms(i), phantom(100 + i, 50, i))).collect();
    assert_eq!(of_many.iter().filter(|(_, taken)| *taken).count(), PER_HEIGHT);
    let (fetching, _, bytes, _) = core.sizes();
    assert_eq!((fetching, bytes), (PER_PRODUCER + PER_HEIGHT, 0), "no memory is reserved");
    core.take_outputs();
    // A block at the same height comes a moment later: the first phantom goes, its fetch with it, and it may come again.
    let (hash, taken) = offer(&mut core, now + STALE, phantom(7, 50, 99));
    assert!(taken && core.is_coming(&hash));
    let first = of_many[0].0;
    assert!(!core.is_coming(&first) && !core.has_seen(&first) && core.header(&first).is_none());
    let outputs = core.take_outputs();
    assert!(outputs.contains(&Output::Lost(first)) && outputs.iter().any(|o| matches!(o, Output::Cancel(_))));
    assert_eq!(core.sizes().0, PER_PRODUCER + PER_HEIGHT);
    assert!(!offer(&mut core, now + STALE, phantom(8, 50, 100)).1, "the next one is not old enough");
    // However quickly others like it come, one that somebody says to have finds its place.
    for round in 0..20_u64 {
        let at = now + STALE + ms(round);
        let _ = offer(&mut core, at, phantom(200 + round, 50, 200 + round));
        let (header, content, _) = block_by(150, Point { height: 50, ..GENESIS }, 2 * PIECE_BYTES, 1000 + round);
        let hash = header.hash();
        let said = Announcement {
            point: Point { height: header.header().height, hash },
            body_bytes: header.header().body_bytes,
        };
        assert!(core.on_announced(at, peer, said));
        assert!(core.on_block(at, peer, header, content).is_ok() && core.is_coming(&hash), "round {round}");
        core.abandon(&hash);
    }
}

#[test]
fn who_waits_for_a_piece_gets_it_or_hears_that_it_does_not_come() {
    let (header, _, body) = block(GENESIS, 3 * PIECE_BYTES, 1);
    let (checks, hash, now) = (pieces(&body), header.hash(), Instant::now());
    let mut assembly = Assembly::default();
    assert_eq!(assembly.piece(&hash, 0), Piece::Absent);
    let (a, b) = (PeerId::random(), PeerId::random());
    assert!(!assembly.wait(&hash, 0, 0, a, now));
    assembly.open(now, header.clone(), checks.clone(), None, false, &|_| false).unwrap();
    assert_eq!((assembly.piece(&hash, 2), assembly.piece(&hash, 3)), (Piece::Coming, Piece::None));
    assert!(assembly.wait(&hash, 0, 1, a, now + ms(10)) && assembly.wait(&hash, 0, 2, b, now + ms(20)));
    assert!(assembly.wait(&hash, 1, 3, b, now + ms(30)) && !assembly.wait(&hash, 3, 4, a, now));
    assert_eq!((assembly.waiting(), assembly.deadline()), (3, Some(now + ms(10))));
    assembly.expire(now + ms(10));
    assert_eq!(assembly.take_served(), [Served { ticket: 1, piece: None }]);
    let first = body.slice(checks.range(0));
    assert_eq!(assembly.insert(now, &hash, 0, first.clone()), Inserted::Good);
    assert_eq!(assembly.take_served(), [Served { ticket: 2, piece: Some(first.clone()) }]);
    assert_eq!(assembly.piece(&hash, 0), Piece::Held(first));
    assembly.remove(&hash);
    assert_eq!(assembly.take_served(), [Served { ticket: 3, piece: None }]);
    assert_eq!((assembly.waiting(), assembly.deadline()), (0, None));
    // It comes whole another way.
    assembly.open(now, header.clone(), checks.clone(), None, false, &|_| false).unwrap();
    assert!(assembly.wait(&hash, 1, 5, a, now));
    assembly.put(now, header, body.clone());
    assert_eq!(assembly.take_served(), [Served { ticket: 5, piece: Some(body.slice(checks.range(1))) }]);
    // They are bounded.
    let (other, _, body) = block(GENESIS, 2 * PIECE_BYTES, 2);
    assembly.open(now, other.clone(), pieces(&body), None, false, &|_| false).unwrap();
    let taken = (0..WAITING as u64 + 10).filter(|t| assembly.wait(&other.hash(), 0, 100 + t, a, now)).count();
    assert_eq!(taken, WAITING);
    // Who has most of them makes way, down to an equal share.
    let taken = (0..WAITING as u64).filter(|t| assembly.wait(&other.hash(), 1, 10_000 + t, b, now)).count();
    assert_eq!((taken, assembly.waiting()), (WAITING / 2, WAITING));
    assert_eq!(assembly.take_served().len(), WAITING / 2, "they hear of it");
}

/// The requests among some effects.
fn asks(effects: &[Effect]) -> Vec<(AskId, PeerId, Wanted)> {
    let ask = |e: &Effect| match e {
        Effect::Ask { id, peer, wanted, .. } => Some((*id, *peer, *wanted)),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

#[test]
fn an_announced_block_is_given_time_to_come_by_itself() {
    let (mut fetcher, now, all) = (Fetcher::new(1), Instant::now(), peers(3));
    assert!(fetcher.announced(now, all[0], news(1)) && fetcher.announced(now + ms(10), all[1], news(1)));
    fetcher.tick(now + ARRIVAL.0 - ms(1));
    assert_eq!(fetcher.take_effects(), []);
    fetcher.tick(now + ARRIVAL.0);
    assert_eq!(asks(&fetcher.take_effects()).len(), 1, "one of the announcers");
    // Headers that take long to come after announcements make the window longer, up to its end.
    let mut at = now;
    for i in 10..40 {
        at += Duration::from_secs(1);
        fetcher.announced(at, all[0], news(i));
        fetcher.header(at + ms(900), all[1], hash(i), 1);
        fetcher.forget(&hash(i));
    }
    fetcher.forget(&hash(1));
    fetcher.take_effects();
    at += Duration::from_secs(1);
    fetcher.announced(at, all[0], news(99));
    fetcher.tick(at + ms(1500));
    assert_eq!(asks(&fetcher.take_effects()), []);
    fetcher.tick(at + ARRIVAL.1);
    assert_eq!(asks(&fetcher.take_effects()).len(), 1);
}

#[test]
fn sources_take_turns_and_two_are_asked_from_the_third_try_on() {
    let (mut fetcher, mut now, all) = (Fetcher::new(1), Instant::now(), peers(6));
    let sources = |effects: &[Effect]| {
        let mut of: Vec<_> = asks(effects).into_iter().map(|(_, peer, _)| peer).collect();
        of.sort_unstable();
        of.dedup();
        of
    };
    fetcher.header(now, all[0], hash(1), 40);
    let first = asks(&fetcher.take_effects());
    assert!(first.len() == WINDOW && first.iter().all(|(_, peer, _)| *peer == all[0]), "whom the header came from");
    for announcer in &all[1..] {
        assert!(fetcher.announced(now, *announcer, news(1)));
    }
    assert_eq!(fetcher.take_effects(), [], "one at a time");
    // It brings nothing, well before the body is late: the second try.
    now += ms(2300);
    fetcher.tick(now);
    let effects = fetcher.take_effects();
    let second = sources(&effects);
    assert!(second.len() == 1 && second[0] != all[0], "one at a time: {effects:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Blame(..))), "who only passed on the header owes nothing");
    // Nor does the next one have it, which it had announced. Of the third try are two.
    let (id, ..) = asks(&effects)[0];
    fetcher.failed(now, id, Failure::NotFound);
    now += ms(250);
    fetcher.tick(now);
    let effects = fetcher.take_effects();
    assert!(effects.contains(&Effect::Blame(second[0], Fault::Unserved)), "{effects:?}");
    let third = sources(&effects);
    assert!(third.len() == 2 && !third.contains(&all[0]) && !third.contains(&second[0]), "{third:?}");
    // Both say that they are busy: two others.
    for peer in &third {
        let of = asks(&effects).into_iter().find(|(_, p, _)| p == peer).unwrap();
        fetcher.failed(now, of.0, Failure::Busy);
    }
    assert_eq!(sources(&fetcher.take_effects()).len(), 2);
}

#[test]
fn who_sent_the_header_is_asked_first_however_many_have_announced_the_block() {
    let (mut fetcher, now, all) = (Fetcher::new(3), Instant::now(), peers(MAX_SOURCES + 2));
    let (announcers, origin) = (&all[..MAX_SOURCES], all[MAX_SOURCES]);
    all.iter().for_each(|p| fetcher.up(*p));
    assert!(announcers.iter().all(|p| fetcher.announced(now, *p, news(1))));
    assert!(fetcher.header(now + ms(10), origin, hash(1), 4));
    let asked = asks(&fetcher.take_effects());
    assert!(asked.len() == 4 && asked.iter().all(|(_, peer, _)| *peer == origin), "{asked:?}");
    // Announcers stay, but for one of them; and the origin is none of those that make room.
    assert_eq!(announcers.iter().filter(|p| fetcher.sourced_by(p) == 1).count(), MAX_SOURCES - 1);
    assert!(fetcher.want(now, all[MAX_SOURCES + 1], hash(1)));
    assert_eq!([origin, all[MAX_SOURCES + 1]].map(|p| fetcher.sourced_by(&p)), [1, 1]);
}

#[test]
fn garbage_puts_a_source_out_and_busy_lets_it_rest() {
    let (mut fetcher, now, all) = (Fetcher::new(1), Instant::now(), peers(1));
    fetcher.header(now, all[0], hash(1), 2);
    let first = asks(&fetcher.take_effects());
    fetcher.failed(now, first[0].0, Failure::Busy);
    assert_eq!(fetcher.take_effects(), [Effect::Cancel(first[1].0)], "no blame");
    fetcher.tick(now + ms(1000));
    let second = asks(&fetcher.take_effects());
    assert_eq!(second.len(), 2);
    assert!(fetcher.piece(now + ms(1001), second[1].0), "pieces come in any order");
    assert!(!fetcher.piece(now + ms(1001), second[1].0), "once");
    fetcher.failed(now + ms(1002), second[0].0, Failure::Garbage);
    assert_eq!(fetcher.take_effects(), [Effect::Blame(all[0], Fault::WrongData)]);
    fetcher.announced(now + ms(1003), all[0], news(1));
    fetcher.tick(now + ms(5000));
    assert_eq!(asks(&fetcher.take_effects()), [], "nobody else, and never this one");
    fetcher.tick(now + Duration::from_secs(40));
    assert_eq!(fetcher.take_effects(), [Effect::Lost(hash(1))]);
    assert!(fetcher.is_empty());
}

#[test]
fn neighbours_that_never_spoke_of_a_block_are_asked_when_nobody_else_is_left() {
    let (mut fetcher, mut now, all) = (Fetcher::new(7), Instant::now(), peers(10));
    all.iter().for_each(|p| fetcher.up(*p));
    fetcher.header(now, all[0], hash(1), 4);
    fetcher.take_effects();
    let mut asked = Vec::new();
    for _ in 0..20 {
        now += ms(900);
        fetcher.tick(now);
        for (id, peer, _) in asks(&fetcher.take_effects()) {
            if peer != all[0] {
                asked.push(peer);
                fetcher.failed(now, id, Failure::NotFound);
            }
        }
    }
    asked.sort_unstable();
    asked.dedup();
    assert!((2..=BLIND).contains(&asked.len()), "{asked:?}");
    // A block of which only its hash is known is worth no such search: anybody can invent hashes.
    fetcher.forget(&hash(1));
    fetcher.announced(now, all[0], news(2));
    let mut others = 0;
    for _ in 0..100 {
        now += ms(500);
        fetcher.tick(now);
        others += asks(&fetcher.take_effects()).iter().filter(|(_, peer, _)| *peer != all[0]).count();
    }
    assert_eq!(others, 0);
}

#[test]
fn a_flood_of_announcements_is_cut_and_blamed_and_others_are_heard() {
    let (mut fetcher, now, all) = (Fetcher::new(1), Instant::now(), peers(2));
    let taken = (0..FETCHES_PER_PEER as u64 + 50).filter(|i| fetcher.announced(now, all[0], news(*i))).count();
    assert_eq!((taken, fetcher.sourced_by(&all[0])), (FETCHES_PER_PEER, FETCHES_PER_PEER));
    assert!(fetcher.take_effects().contains(&Effect::Blame(all[0], Fault::Flood)));
    assert!(fetcher.announced(now, all[1], news(10_000)));
    fetcher.down(now, &all[0]);
    assert_eq!(fetcher.sourced_by(&all[0]), 0);
    // Nobody is left for those; they end by themselves.
    fetcher.tick(now + Duration::from_secs(31));
    fetcher.tick(now + MAX_AGE);
    assert!(fetcher.is_empty() && fetcher.in_flight() == 0);
}

#[derive(Clone, Debug)]
enum Op {
    Announced(usize, u64),
    Want(usize, u64),
    Header(usize, u64, usize),
    Up(usize),
    Down(usize),
    Forget(u64),
    Pass(u64),
    Answer(usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..6usize, 0..12u64).prop_map(|(p, h)| Op::Announced(p, h)),
        1 => (0..6usize, 0..12u64).prop_map(|(p, h)| Op::Want(p, h)),
        3 => (0..6usize, 0..12u64, 0..40usize).prop_map(|(p, h, n)| Op::Header(p, h, n)),
        1 => (0..6usize).prop_map(Op::Up),
        1 => (0..6usize).prop_map(Op::Down),
        1 => (0..12u64).prop_map(Op::Forget),
        4 => (0..2000u64).prop_map(Op::Pass),
        12 => (0..64usize, 0..6u8).prop_map(|(i, k)| Op::Answer(i, k)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_fetch_and_every_request_ends_and_limits_hold(ops in proptest::collection::vec(op(), 1..200), seed in any::<u64>()) {
        let (mut fetcher, all, mut now) = (Fetcher::new(seed), peers(6), Instant::now());
        let mut open: HashMap<AskId, (PeerId, Hash, Wanted)> = HashMap::new();
        let turn = |fetcher: &mut Fetcher, open: &mut HashMap<AskId, (PeerId, Hash, Wanted)>| {
            for effect in fetcher.take_effects() {
                match effect {
                    Effect::Ask { id, peer, hash, wanted } => {
                        let twice = open.values().any(|o| *o == (peer, hash, wanted));
                        assert!(!twice && open.insert(id, (peer, hash, wanted)).is_none());
                    }
                    Effect::Cancel(id) => assert!(open.remove(&id).is_some()),
                    Effect::Blame(..) | Effect::Lost(_) => {}
                }
            }
            assert_eq!(fetcher.in_flight(), open.len());
            for peer in &all {
                assert!(open.values().filter(|(p, ..)| p == peer).count() <= WINDOW);
            }
            // A piece is asked of one peer at a time.
            let mut wanted: Vec<_> = open.values().map(|(_, h, w)| (*h, format!("{w:?}"))).collect();
            wanted.sort();
            let before = wanted.len();
            wanted.dedup();
            assert_eq!(before, wanted.len());
        };
        for op in ops {
            match op {
                Op::Announced(p, h) => drop(fetcher.announced(now, all[p], news(h))),
                Op::Want(p, h) => drop(fetcher.want(now, all[p], hash(h))),
                Op::Header(p, h, n) => drop(fetcher.header(now, all[p], hash(h), n)),
                Op::Up(p) => fetcher.up(all[p]),
                Op::Down(p) => fetcher.down(now, &all[p]),
                Op::Forget(h) => fetcher.forget(&hash(h)),
                Op::Pass(t) => {
                    now += ms(t);
                    fetcher.tick(now);
                }
                Op::Answer(i, kind) => {
                    let mut ids: Vec<_> = open.keys().copied().collect();
                    ids.sort_unstable();
                    if !ids.is_empty() {
                        let id = ids[i % ids.len()];
                        let (_, _, wanted) = open.remove(&id).unwrap();
                        match (kind, wanted) {
                            (0..=1, Wanted::Piece(_)) => assert!(fetcher.piece(now, id)),
                            (0..=1, Wanted::Block) => assert!(fetcher.block(now, id).is_some()),
                            (2, _) => fetcher.failed(now, id, Failure::NotFound),
                            (3, _) => fetcher.failed(now, id, Failure::Busy),
                            (4, _) => fetcher.failed(now, id, Failure::NoAnswer),
                            _ => fetcher.failed(now, id, Failure::Garbage),
                        }
                    }
                }
            }
            turn(&mut fetcher, &mut open);
        }
        // Nobody says anything any more. Looking at it when it wants to be looked at is enough, and that is not too often.
        let end = now + MAX_AGE;
        let mut looks = 0;
        while let Some(deadline) = fetcher.deadline() {
            prop_assert!(deadline <= end, "a fetch that outlives its age");
            now = now.max(deadline);
            fetcher.tick(now);
            turn(&mut fetcher, &mut open);
            looks += 1;
            prop_assert!(looks < 12 * 400 + 100 * MAX_TRIES as usize, "it never sleeps");
        }
        prop_assert!(fetcher.is_empty() && open.is_empty());
        prop_assert!(all.iter().all(|p| fetcher.sourced_by(p) == 0));
    }
}

#[test]
fn two_nodes_do_not_wait_for_each_other() {
    let (header, content, body) = block(GENESIS, 2 * PIECE_BYTES, 1);
    let (mut core, now, all) = (Core::new(1), Instant::now(), peers(3));
    all.iter().for_each(|p| core.up(*p));
    core.on_block(now, all[0], header.clone(), content).unwrap();
    let asked = core.take_outputs();
    assert!(asked.iter().all(|o| matches!(o, Output::Ask { peer, .. } if *peer == all[0])) && asked.len() == 2);
    assert_eq!(core.on_asked(now, &all[0], &header.hash(), 0, 1), Asked::No);
    assert_eq!(core.on_asked(now, &all[1], &header.hash(), 0, 2), Asked::Wait);
    assert_eq!(core.on_asked(now, &all[1], &header.hash(), 2, 3), Asked::Nonsense);
    let Output::Ask { id, .. } = asked[0] else { unreachable!() };
    let piece = body.slice(..PIECE_BYTES);
    core.on_piece(now, id, all[0], &header.hash(), 0, piece.clone());
    assert_eq!(core.take_outputs(), [Output::Serve(2, Some(piece))]);
    // Its source goes away, and nobody else has it: it is lost in the end, and may come again.
    all.iter().for_each(|p| core.down(now, p));
    core.tick(now + MAX_AGE);
    assert!(core.take_outputs().contains(&Output::Lost(header.hash())));
    assert!(!core.has_seen(&header.hash()) && core.sizes() == (0, 0, 0, 0));
}
