//! Branches that contradict what is final: alarm, halt, and the way back.

use std::{collections::HashSet, sync::Arc};

use super::{Faulty, answer, feed};
use crate::{
    block::{
        Block, Origin, VerifiedHeader,
        chain::{self, ChainError, ChainStore, Core, Event, Longest, MAX_CONFLICT_HEADERS, Memory},
        kit::{self, Maker},
        purpose,
    },
    identity::Identity,
    primitives::{ManualClock, PeerId, UnixMillis},
};

fn verified(blocks: &[Block]) -> Vec<VerifiedHeader> {
    let network = purpose(&kit::network());
    blocks.iter().map(|b| VerifiedHeader::new(b.header().clone(), &network).unwrap()).collect()
}

fn peers(n: usize) -> Vec<PeerId> {
    (0..n).map(|_| Identity::generate().address()).collect()
}

/// Those peers and nobody else are connected.
fn only(peers: &[PeerId]) -> HashSet<PeerId> {
    peers.iter().copied().collect()
}

/// A chain of `ours` blocks with another branch of `theirs` blocks that leaves it after height 10. Depth 4, the longest branch is best.
fn split(ours: usize, theirs: usize, deep: u64) -> (Core, Arc<Memory>, Vec<Block>, Vec<Block>) {
    let ours = Maker::new(1).row(&kit::genesis(), ours, 10);
    let theirs = Maker::new(2).row(&ours[9], theirs, 10);
    let mut rules = kit::rules_with(4, Arc::new(Longest));
    rules.deep_reorg_max = deep;
    let store = Arc::new(Memory::default());
    let mut core = Core::open(rules, store.clone(), kit::NOW).unwrap();
    feed(&mut core, &ours);
    (core, store, ours, theirs)
}

/// Three of four peers prove the branch, as many as a deep reorg takes.
fn most_prove(core: &mut Core, branch: &[Block]) {
    let peers = peers(4);
    for peer in &peers[..3] {
        core.conflict(*peer, &verified(branch), only(&peers), kit::NOW).unwrap();
    }
}

#[test]
fn one_after_another_is_one() {
    let (mut core, _, _, theirs) = split(20, 20, 100);
    let (headers, honest) = (verified(&theirs), peers(6));
    // A host that comes under a new name each time, and more often than peers are remembered.
    for liar in peers(300) {
        let told = only(&[&honest[..], &[liar]].concat());
        let events = core.conflict(liar, &headers, told, kit::NOW).unwrap();
        assert!(matches!(&events[..], [Event::Conflict { peers: 1, .. }]));
    }
    assert_eq!((core.status().halted, core.committed().height), (None, 16));
    assert_eq!(core.conflicting_peers(), 1);
    // They do not hide those who stay.
    for peer in &honest[..3] {
        core.conflict(*peer, &headers, only(&honest), kit::NOW).unwrap();
    }
    assert!(core.status().halted.is_some());
    // One of them is gone, as the proof of somebody on a third branch shows: that counts for all branches.
    let told = only(&[&honest[1..], &peers(1)].concat());
    let third = verified(&Maker::new(3).row(&split(20, 20, 0).2[11], 20, 10));
    core.conflict(honest[4], &third, told, kit::NOW).unwrap();
    core.tick(kit::NOW).unwrap();
    assert_eq!(core.status().halted, None, "two of six");
}

#[test]
fn half_of_many_peers_halt_and_two_thirds_of_them_are_followed() {
    for (deep, committed) in [(0, 16), (100, 10)] {
        let (mut core, _, _, theirs) = split(20, 20, deep);
        let (headers, all) = (verified(&theirs), peers(600));
        for peer in &all {
            if core.committed().height < 16 {
                break;
            }
            core.conflict(*peer, &headers, only(&all), kit::NOW).unwrap();
            let count = core.conflicting_peers();
            assert_eq!(
                core.status().halted.is_some(),
                (300..400).contains(&count) || deep == 0 && count >= 300,
                "{count}"
            );
        }
        assert_eq!((core.status().halted.is_some(), core.committed().height), (deep == 0, committed), "{deep}");
    }
}

#[test]
fn a_proof_that_comes_while_nothing_can_be_written_decides_when_it_can() {
    let (core, store, ours, theirs) = split(20, 20, 100);
    drop(core);
    let mut rules = kit::rules_with(4, Arc::new(Longest));
    rules.deep_reorg_max = 100;
    let faulty = Arc::new(Faulty::new(Arc::try_unwrap(store).unwrap(), 0, false));
    let mut core = Core::open(rules, faulty.clone(), kit::NOW).unwrap();
    let next = Maker::new(1).block(&ours[19], 2000, &[]);
    assert!(core.import(next, Origin::File, kit::NOW).is_err() && core.status().retrying);
    most_prove(&mut core, &theirs);
    assert_eq!((core.conflicting_peers(), core.status().retrying), (3, true), "it is seen");
    faulty.repair();
    core.recover(kit::NOW);
    assert_eq!(core.status().halted, None);
    most_prove(&mut core, &theirs);
    assert_eq!((core.committed().height, core.status().halted), (10, None), "and now it is followed");
}

#[test]
fn of_three_peers_all_raise_the_alarm_and_stop_nobody() {
    let (mut core, _, _, theirs) = split(20, 20, 100);
    let three = peers(3);
    for (i, peer) in three.iter().enumerate() {
        let events = core.conflict(*peer, &verified(&theirs), only(&three), kit::NOW).unwrap();
        assert!(matches!(&events[..], [Event::Conflict { peers, .. }] if *peers == i + 1));
    }
    assert_eq!((core.status().halted, core.committed().height), (None, 16));
    assert_eq!(core.conflicting_peers(), 3);
}

#[test]
fn less_than_half_raise_the_alarm_and_half_halt() {
    let (mut core, ..) = split(20, 20, 0);
    let (_, _, ours, theirs) = split(20, 20, 0);
    let (headers, peers) = (verified(&theirs), peers(7));
    let told = only(&peers);
    for (i, peer) in peers[..4].iter().enumerate() {
        let events = core.conflict(*peer, &headers, told.clone(), kit::NOW).unwrap();
        assert!(matches!(&events[..], [Event::Conflict { peers, .. }] if *peers == i + 1));
        // One who repeats himself counts once.
        core.conflict(*peer, &headers, told.clone(), kit::NOW).unwrap();
        assert_eq!(core.status().halted.is_some(), i == 3);
    }
    let refused = core.import(ours[19].clone(), Origin::File, kit::NOW);
    assert!(matches!(refused, Err(ChainError::Halted(_))));
    // They went away: after ten minutes they do not count any more.
    core.tick(UnixMillis(kit::NOW.0 + 599_000)).unwrap();
    assert!(core.status().halted.is_some());
    core.tick(UnixMillis(kit::NOW.0 + 601_000)).unwrap();
    assert_eq!(core.status().halted, None);
    let next = Maker::new(1).block(&ours[19], 2000, &[]);
    core.import(next, Origin::File, kit::NOW).unwrap();
    assert_eq!(core.head().height, 21);
}

#[test]
fn a_branch_too_short_to_be_final_halts_nobody() {
    let (mut core, _, _, theirs) = split(20, 4, 0);
    let peers = peers(5);
    for peer in &peers {
        core.conflict(*peer, &verified(&theirs), only(&peers), kit::NOW).unwrap();
    }
    assert_eq!(core.status().halted, None);
}

#[test]
fn a_peer_counts_for_one_branch_only() {
    let (mut core, _, ours, theirs) = split(20, 20, 0);
    let other = Maker::new(3).row(&ours[11], 20, 10);
    let peers = peers(4);
    core.conflict(peers[0], &verified(&theirs), only(&peers), kit::NOW).unwrap();
    core.conflict(peers[1], &verified(&theirs), only(&peers), kit::NOW).unwrap();
    assert!(core.status().halted.is_some());
    core.conflict(peers[1], &verified(&other), only(&peers), kit::NOW).unwrap();
    core.tick(kit::NOW).unwrap();
    assert_eq!(core.status().halted, None, "one on each");
}

#[test]
fn what_proves_nothing_counts_nothing() {
    let (mut core, _, ours, theirs) = split(20, 20, 100);
    let peer = peers(1)[0];
    let network = purpose(&kit::network());
    let mut report = |headers: &[VerifiedHeader]| core.conflict(peer, headers, only(&[peer]), kit::NOW);
    let good = verified(&theirs);
    let fresh = verified(&Maker::new(2).row(&ours[17], 3, 0));
    let stranger = verified(&Maker::new(2).row(&Maker::new(3).block(&ours[3], 77, &[]), 9, 0));
    let mut gap = good.clone();
    gap.remove(5);
    let mut header = theirs[1].header().clone();
    header.time = theirs[0].header().time;
    let early = Maker::new(2).sign(header, theirs[1].body().clone());
    let early = [good[0].clone(), VerifiedHeader::new(early.header().clone(), &network).unwrap()];
    let mut long = good.clone();
    long.resize(MAX_CONFLICT_HEADERS + 1, good[0].clone());
    // What may be true of another chain, and what never is.
    let cases: [(&str, &[VerifiedHeader], bool); 7] = [
        ("nothing", &[], true),
        ("our own blocks", &verified(&ours[10..]), true),
        ("a fork above the committed block", &fresh, true),
        ("a branch from nowhere", &stranger, true),
        ("a gap", &gap, false),
        ("time that goes back", &early, false),
        ("too much", &long, true),
    ];
    for (what, headers, somewhere) in cases {
        let result = report(headers);
        let expected = match somewhere {
            true => matches!(result, Err(ChainError::NoConflict(_))),
            false => matches!(result, Err(ChainError::NoBranch(_))),
        };
        assert!(expected, "{what}: {result:?}");
    }
    assert_eq!(core.status().halted, None);
    assert_eq!(core.committed().height, 16);
}

#[test]
fn a_better_branch_of_two_thirds_is_followed_when_that_is_allowed() {
    let (mut core, store, ours, theirs) = split(20, 20, 6);
    let (headers, peers) = (verified(&theirs), peers(6));
    let told = only(&peers);
    for peer in &peers[..3] {
        core.conflict(*peer, &headers, told.clone(), kit::NOW).unwrap();
    }
    assert_eq!(core.committed().height, 16, "half are not two thirds");
    assert!(core.status().halted.is_some(), "but enough to halt");
    core.conflict(peers[3], &headers, told, kit::NOW).unwrap();
    assert_eq!(core.status().halted, None);
    assert_eq!((core.committed().height, core.head().height), (10, 20), "nothing is left before the other is here");
    // A restart in between forgets the plan and nothing else.
    let rules = kit::rules_with(20, Arc::new(Longest));
    let again = Core::open(rules, store.clone(), kit::NOW).unwrap();
    assert_eq!((again.head(), again.committed()), (core.head(), core.committed()));
    let (outcome, events) = core.import_segment(theirs.clone(), Origin::Peer(peers[0]), kit::NOW).unwrap();
    assert_eq!(outcome.held, 20);
    assert_eq!(core.head().hash, theirs[19].hash());
    assert_eq!(core.committed().height, 26);
    let left = events.iter().find_map(|e| match e {
        Event::Head { detached, attached, .. } => Some((detached.len(), attached.len())),
        _ => None,
    });
    assert_eq!(left, Some((10, 20)));
    // As a chain that never saw ours.
    let mut all = ours[..10].to_vec();
    all.extend(theirs);
    let never = Arc::new(Memory::default());
    let mut other = Core::open(kit::rules_with(4, Arc::new(Longest)), never.clone(), kit::NOW).unwrap();
    feed(&mut other, &all);
    assert_eq!(answer(&core, store.as_ref()), answer(&other, never.as_ref()));
    assert!(store.body(&ours[15].hash()).unwrap().is_some(), "ours is still served for a while");
}

#[test]
fn a_branch_that_does_not_come_is_waited_for_and_then_ours_goes_on() {
    let (mut core, _, ours, theirs) = split(20, 20, 6);
    let (headers, peers) = (verified(&theirs), peers(4));
    for peer in &peers[..3] {
        core.conflict(*peer, &headers, only(&peers), kit::NOW).unwrap();
    }
    assert_eq!(core.committed().height, 10);
    let next = Maker::new(1).block(&ours[19], 2000, &[]);
    core.import(next.clone(), Origin::File, kit::NOW).unwrap();
    assert_eq!((core.committed().height, core.head().height), (10, 21), "nothing is committed meanwhile");
    let later = UnixMillis(kit::NOW.0 + 121_000);
    core.tick(later).unwrap();
    assert_eq!(core.committed().height, 17);
    core.conflict(peers[0], &headers, only(&peers), later).unwrap();
    assert_eq!(core.committed().height, 17, "it is not tried again at once");
    assert!(core.status().halted.is_some());
}

#[test]
fn a_branch_too_deep_or_not_better_is_not_followed() {
    let (mut core, _, _, theirs) = split(20, 20, 5);
    most_prove(&mut core, &theirs);
    assert_eq!(core.committed().height, 16);
    let (mut core, _, _, theirs) = split(20, 9, 100);
    most_prove(&mut core, &theirs);
    assert_eq!(core.committed().height, 16, "ours is longer");
}

#[test]
fn a_loser_next_to_a_final_block_can_win_after_all() {
    let (mut core, store, ours, theirs) = split(12, 20, 6);
    // The first block of their branch came in time, and lost.
    core.import(theirs[0].clone(), Origin::File, kit::NOW).unwrap();
    feed(&mut core, &Maker::new(1).row(&ours[11], 4, 0));
    assert_eq!(core.committed().height, 12);
    assert_eq!(store.retired().unwrap().len(), 1);
    most_prove(&mut core, &theirs);
    assert_eq!(store.retired().unwrap().len(), 0);
    let (outcome, _) = core.import_segment(theirs.clone(), Origin::File, kit::NOW).unwrap();
    assert_eq!((outcome.held, core.head().hash), (20, theirs[19].hash()));
}

#[tokio::test]
async fn the_alarm_is_a_metric_and_so_is_the_halt() {
    let ours = Maker::new(1).row(&kit::genesis(), 20, 10);
    let theirs = Maker::new(2).row(&ours[9], 20, 10);
    let metrics = chain::Metrics::default();
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    let deps = chain::Deps { store, clock, metrics: metrics.clone() };
    let (service, chain) = chain::open(kit::rules_with(4, Arc::new(Longest)), deps).unwrap();
    service.run_detached();
    chain.import_segment(ours, Origin::File).await.unwrap();
    let peers = peers(4);
    let shown = || (metrics.conflict_peers.get(), metrics.halted.get(), metrics.conflicts.get());
    assert_eq!(shown(), (0, 0, 0));
    chain.conflict(peers[0], verified(&theirs), only(&peers)).await.unwrap();
    assert_eq!((shown(), chain.status().conflicting_peers), ((1, 0, 1), 1), "an alarm");
    chain.conflict(peers[1], verified(&theirs), only(&peers)).await.unwrap();
    assert_eq!(shown(), (2, 1, 2), "half of them: a halt");
    assert!(chain.status().halted.is_some());
}

#[tokio::test]
async fn reorgs_are_counted() {
    let metrics = chain::Metrics::default();
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    let deps = chain::Deps { store, clock, metrics: metrics.clone() };
    let (service, chain) = chain::open(kit::rules_with(12, Arc::new(Longest)), deps).unwrap();
    service.run_detached();
    // Two branches that are the longest one in turn.
    let mut branches = [1, 2].map(|n| (Maker::new(n), vec![kit::genesis()]));
    for round in 0..9 {
        let (maker, branch) = &mut branches[round % 2];
        for _ in 0..if round == 0 { 1 } else { 2 } {
            let next = maker.block(branch.last().unwrap(), u64::try_from(round + 1).unwrap(), &[]);
            branch.push(next.clone());
            chain.import(next, Origin::File).await.unwrap();
        }
        assert_eq!(chain.status().head.hash, branches[round % 2].1.last().unwrap().hash());
        assert_eq!(metrics.reorgs.get(), u64::try_from(round).unwrap());
    }
}
