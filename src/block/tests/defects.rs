//! Defects of the source system (N) and traps of the gossip library (L): one test for each, or why it cannot occur. The numbers are
//! those of the design. The tests of what lies in the chain are here.
//!
//! | Number | What goes wrong | Test |
//! | ------ | --------------- | ---- |
//! | N1 | one bad message ends the receiving task | `what_is_broken_is_rejected_and_the_next_block_is_taken` |
//! | N2 | a foreign genesis block replaces ours | `n2_a_block_of_height_zero_replaces_nothing` |
//! | N3 | a height far above the parent's | `n3_a_height_far_above_the_parents_is_refused_and_the_chain_goes_on` |
//! | N4 | the hash and the root are believed | `n4_a_swapped_body_is_refused_and_the_true_one_still_taken` |
//! | N5 | the root covers some transactions only | `n5_the_root_commits_to_every_transaction_and_their_order` |
//! | N6 | who did not answer once is never asked again | `a_claim_of_two_to_the_sixty_second_changes_nothing_for_who_is_in_step`, `an_announced_block_is_asked_for_and_one_that_never_comes_is_given_up` |
//! | N7 | a height that nobody has is believed | `a_claim_of_two_to_the_sixty_second_changes_nothing_for_who_is_in_step` |
//! | N8 | answers that nobody asked for are kept | `answers_that_nobody_asked_for_change_nothing`, `an_answer_that_was_not_asked_for_is_refused` |
//! | N9 | orphans without end | `n9_orphans_without_end_are_bounded_and_stop_nothing` |
//! | N10 | a restart downloads everything again | `n10_a_restart_goes_on_from_the_store` |
//! | N11 | who is not in step answers nobody | `a_request_is_answered_in_every_state` |
//! | N12 | who was in step once never pulls again | `who_was_in_step_and_falls_behind_pulls_again` |
//! | N13 | equal blocks give different heads | `n13_equal_transactions_and_times_give_one_head_in_either_order` |
//! | N14 | a long partition is not noticed | `n14_a_partition_longer_than_the_depth_is_noticed` |
//! | N15 | heights are compared by equality | `who_is_further_than_its_target_is_in_step` |
//! | N16 | a map read while another task writes | not in this language without `unsafe`, which is forbidden; that readers see whole states: `many_who_import_at_once_share_writes_and_readers_see_a_whole_chain` |
//! | N17 | unsolicited answers poison the state | `answers_that_nobody_asked_for_change_nothing` |
//! | N18 | heights and hashes in one key space | `n18_heights_are_in_order_and_never_taken_for_hashes` |
//! | N19 | memory goes ahead of the disk | `n19_nothing_is_shown_that_was_not_written`, `n19_whatever_is_asked_after_a_failed_write_shows_none_of_it` |
//! | N20 | peers that went stay in the lists | `n20_a_peer_that_went_is_neither_asked_nor_told` |
//! | L1 | a link that is dead to gossip, without a word | `l1_a_peer_that_takes_nothing_is_noticed_and_not_counted_on`, `l1_who_was_told_on_the_topic_and_still_lacks_a_block_is_told_alone`, `an_oversized_frame_and_a_broken_block_leave_the_link_alive`, `l1_a_frame_over_the_limit_costs_its_stream_and_nothing_else` |
//! | L2 | the limit counts the start of the next frame | `l2_l3_a_payload_as_large_as_can_be_arrives_whatever_comes_right_behind_it` |
//! | L3 | the limit of a payload leaves out its envelope | the same, `l3_l10_l11_l16_no_frame_of_gossip_is_large_whatever_the_body` |
//! | L4 | mesh numbers that are not checked | `l4_gossipsub_is_given_numbers_for_every_topic_and_they_fit_together`, `l4_the_block_topics_have_numbers_that_fit_together_whatever_is_configured` |
//! | L5 | garbage with a block's id keeps it out | `l5_garbage_under_a_true_header_keeps_no_block_out`, `l5_l7_bytes_that_differ_at_their_end_only_are_two_messages_and_garbage_keeps_nothing_out` |
//! | L6 | a broken promise stops offers for ever | `l6_a_promise_that_is_not_kept_keeps_nobody_else_from_helping_out` |
//! | L7 | all anonymous messages have one id | `l5_l7_bytes_that_differ_at_their_end_only_are_two_messages_and_garbage_keeps_nothing_out` |
//! | L8 | what is published while alone is lost | `l8_a_block_made_while_alone_reaches_whoever_comes_later` |
//! | L9 | of announcements one copy is seen | `l9_everybody_who_announces_a_block_is_asked_until_one_has_it`, `l9_an_announcement_is_not_passed_on` |
//! | L10 | what waits behind a large frame is dropped | bodies never enter gossip: `l3_l10_l11_l16_no_frame_of_gossip_is_large_whatever_the_body`, `large_blocks_in_a_row_go_down_a_line_of_nodes` |
//! | L11 | thousands of large frames wait for one peer | `l11_what_waits_for_one_peer_is_bounded` |
//! | L12 | honest peers of quiet topics are held to be bad | `l12_an_honest_peer_of_a_quiet_topic_on_the_same_host_is_not_held_to_be_bad` |
//! | L13 | what a peer does not want is remembered without end | `l13_a_flood_of_what_a_peer_does_not_want_stops_nothing` |
//! | L14 | gossip is off for good after five streams | `l14_a_peer_whose_gossip_is_off_for_good_is_served_again_on_a_new_connection`, `l1_l14_a_peer_on_whose_connection_gossip_is_dead_is_told_of_blocks_by_request` |
//! | L15 | an author gets its own block back | `l15_an_author_tells_its_neighbours_not_to_send_its_own_block_back`, `l15_nor_does_a_neighbour_send_a_message_to_whoever_said_that_it_does_not_want_it` |
//! | L16 | small news wait behind large ones | as L10: `l3_l10_l11_l16_no_frame_of_gossip_is_large_whatever_the_body` |
//!
//! L13 is the library's: of a peer it remembers ten thousand ids for three seconds, and a frame's control messages are 16 KiB, so what
//! one may cost is what it can send in three seconds.

use std::{collections::HashSet, sync::Arc};

use super::{Faulty, answer, feed, memory};
use crate::{
    block::{
        Block, BlockError, BodyError, DEFAULT_MAX_BODY_BYTES, Genesis, Origin, Point, VerifiedHeader,
        chain::{ChainError, ChainStore, Core, Event, Judgement, Known, Memory, OpenError, Outcome, Rocks},
        kit::{self, Maker},
        purpose,
    },
    identity::Identity,
    primitives::{Hash, ManualClock, UnixMillis},
    store::Store,
};

fn import(core: &mut Core, block: &Block) -> Outcome {
    core.import(block.clone(), Origin::File, kit::NOW).unwrap().0
}

fn verified(block: &Block) -> VerifiedHeader {
    VerifiedHeader::new(block.header().clone(), &purpose(&kit::network())).unwrap()
}

#[test]
fn n2_a_block_of_height_zero_replaces_nothing() {
    let (mut core, store) = memory(4);
    let row = Maker::new(1).row(&kit::genesis(), 8, 0);
    feed(&mut core, &row);
    let before = answer(&core, store.as_ref());
    let mut header = kit::genesis().header().clone();
    header.extra = b"another beginning".to_vec();
    let signed = Maker::new(2).sign(header, Default::default());
    assert_eq!(import(&mut core, &signed), Outcome::OutOfWindow);
    let foreign = Genesis::of(&"other".parse().unwrap()).block();
    assert_eq!(import(&mut core, &foreign), Outcome::OutOfWindow);
    assert_eq!(answer(&core, store.as_ref()), before);
    let mut rules = kit::rules(4);
    rules.genesis = foreign;
    let error = Core::open(rules, store, kit::NOW).unwrap_err();
    assert!(matches!(error, OpenError::Genesis { .. }), "{error}");
}

#[test]
fn n3_a_height_far_above_the_parents_is_refused_and_the_chain_goes_on() {
    let (mut core, _) = memory(4);
    let row = Maker::new(1).row(&kit::genesis(), 8, 0);
    feed(&mut core, &row[..7]);
    for parent in [&row[2], &row[6]] {
        // The committed block, and the head.
        for height in [0, 1, parent.header().height, parent.header().height + 1000, u64::MAX] {
            let mut header = row[7].header().clone();
            (header.height, header.parent) = (height, parent.hash());
            let block = Maker::new(2).sign(header, Default::default());
            let outcome = import(&mut core, &block);
            let expected = if height <= core.committed().height { "OutOfWindow" } else { "Invalid" };
            assert!(format!("{outcome:?}").starts_with(expected), "height {height}: {outcome:?}");
        }
    }
    assert_eq!(import(&mut core, &row[7]), Outcome::Imported { new_head: true });
}

#[tokio::test]
async fn n4_a_swapped_body_is_refused_and_the_true_one_still_taken() {
    let chain = kit::chain();
    let block = Maker::new(1).block(&kit::genesis(), 2000, &[b"true".to_vec()]);
    let garbage = Maker::new(1).block(&kit::genesis(), 2000, &[b"fake".to_vec()]);
    let network = purpose(&kit::network());
    let swapped =
        Block::check(block.header().clone(), garbage.body().bytes().clone(), DEFAULT_MAX_BODY_BYTES, &network);
    assert_eq!(swapped, Err(BlockError::Body(BodyError::Mismatch)));
    // Somebody keeps the hash that he likes and changes the header: the hash is computed, never taken.
    let mut header = block.header().clone();
    header.time = UnixMillis(header.time.0 + 1);
    assert_ne!(header.hash(), block.hash());
    assert!(Block::check(header, block.body().bytes().clone(), DEFAULT_MAX_BODY_BYTES, &network).is_err());
    assert_eq!(chain.known(&block.hash()), Ok(Known::No), "the hash is not marked");
    assert_eq!(chain.judge(&verified(&block)), Ok(Judgement::Good));
    assert_eq!(chain.import(block, Origin::Local).await, Ok(Outcome::Imported { new_head: true }));
}

#[test]
fn n5_the_root_commits_to_every_transaction_and_their_order() {
    let body = |transactions: &[&str]| crate::block::Body::new(transactions).unwrap().root();
    let roots = [
        body(&[]),
        body(&["a"]),
        body(&["a", "b"]),
        body(&["b", "a"]),
        body(&["a", "c"]),
        body(&["ab"]),
        body(&["a", "b", "c", "d"]),
        body(&["a", "b", "d", "c"]),
        body(&["a", "b", "c", "e"]),
        body(&["a", "b", "c"]),
    ];
    let different: std::collections::HashSet<Hash> = roots.into_iter().collect();
    assert_eq!(different.len(), roots.len());
}

#[test]
fn n9_orphans_without_end_are_bounded_and_stop_nothing() {
    let (mut core, _) = memory(4);
    let row = Maker::new(1).row(&kit::genesis(), 6, 0);
    feed(&mut core, &row[..2]);
    let peers: Vec<_> = (0..40).map(|_| Identity::generate().address()).collect();
    let busy = Origin::Peer(Identity::generate().address());
    for n in 0..100u64 {
        let mut header = row[4].header().clone();
        header.parent = Hash::of(&(n + 10_000).to_be_bytes());
        core.import(Maker::new(2).sign(header, Default::default()), busy, kit::NOW).unwrap();
    }
    assert_eq!(core.waiting(), 64, "of one peer");
    // A good orphan of a modest peer, then thousands of two busy ones and of many others.
    let modest = Origin::Peer(peers[0]);
    core.import(row[4].clone(), modest, kit::NOW).unwrap();
    for n in 0..1500u64 {
        let mut header = row[4].header().clone();
        header.parent = Hash::of(&n.to_be_bytes());
        let orphan = Maker::new(2).sign(header, Default::default());
        let from = if n % 3 == 0 { 1 + usize::try_from(n).unwrap() % 39 } else { 1 };
        let outcome = core.import(orphan.clone(), Origin::Peer(peers[from]), kit::NOW).unwrap().0;
        assert_eq!(outcome, Outcome::Orphan { missing: orphan.header().parent });
    }
    assert!(core.waiting() <= 256, "{}", core.waiting());
    assert_eq!(import(&mut core, &row[2]), Outcome::Imported { new_head: true });
    assert_eq!(import(&mut core, &row[3]), Outcome::Imported { new_head: true });
    assert_eq!(core.head().hash, row[4].hash(), "the modest peer's orphan was kept, and came in after its parent");
    core.tick(UnixMillis(kit::NOW.0 + 61_000)).unwrap();
    assert_eq!(core.waiting(), 0, "and none waits longer than a minute");
}

#[test]
fn n10_a_restart_goes_on_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let row = Maker::new(1).row(&kit::genesis(), 30, 100);
    {
        let store = Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap());
        let mut core = Core::open(kit::rules(12), store, kit::NOW).unwrap();
        feed(&mut core, &row[..29]);
    }
    let store = Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap());
    let mut core = Core::open(kit::rules(12), store.clone(), kit::NOW).unwrap();
    assert_eq!((core.head().height, core.committed().height), (29, 17));
    assert_eq!(core.written().writes, 0, "a good store needs no repair");
    assert_eq!(import(&mut core, &row[29]), Outcome::Imported { new_head: true });
    assert_eq!(store.body(&row[3].hash()).unwrap().as_ref(), Some(row[3].body().bytes()));
}

#[test]
fn n13_equal_transactions_and_times_give_one_head_in_either_order() {
    let genesis = kit::genesis();
    let a = Maker::new(1).block(&genesis, 2000, &[b"same".to_vec()]);
    let b = Maker::new(2).block(&genesis, 2000, &[b"same".to_vec()]);
    let smaller = if a.hash() < b.hash() { &a } else { &b };
    for order in [[&a, &b], [&b, &a]] {
        let (mut core, _) = memory(4);
        order.iter().for_each(|block| drop(import(&mut core, block)));
        assert_eq!(core.head().hash, smaller.hash());
    }
}

#[tokio::test]
async fn n14_a_partition_longer_than_the_depth_is_noticed() {
    let chain = kit::chain();
    let mut events = chain.events();
    let genesis = kit::genesis();
    let ours = Maker::new(1).row(&genesis, 30, 0);
    let theirs = Maker::new(2).row(&ours[4], 30, 0);
    chain.import_segment(ours.clone(), Origin::File).await.unwrap();
    // The other side's blocks alone are refused, in every way that they may come.
    assert_eq!(chain.import(theirs[0].clone(), Origin::File).await, Ok(Outcome::OutOfWindow));
    let headers: Vec<VerifiedHeader> = theirs.iter().map(verified).collect();
    let peers: Vec<_> = (0..5).map(|_| Identity::generate().address()).collect();
    let told: HashSet<_> = peers.iter().copied().collect();
    chain.conflict(peers[0], headers.clone(), told.clone()).await.unwrap();
    let conflict = loop {
        if let Event::Conflict { fork, tip, peers } = events.recv().await.unwrap() {
            break (fork, tip, peers);
        }
    };
    let tip = Point { height: 35, hash: theirs[29].hash() };
    assert_eq!(conflict, (Point { height: 5, hash: ours[4].hash() }, tip, 1));
    assert_eq!(chain.status().halted, None, "one of five stops nobody");
    for peer in &peers[1..3] {
        chain.conflict(*peer, headers.clone(), told.clone()).await.unwrap();
    }
    let why = chain.status().halted.expect("three of five do");
    assert!(why.contains("3 of 5") && why.contains("height 5") && why.contains("deep_reorg_max"), "{why}");
    let refused = chain.import(ours[29].clone(), Origin::File).await;
    assert!(matches!(refused, Err(ChainError::Halted(_))), "{refused:?}");
    assert_eq!(chain.status().head.height, 30, "what is here is still served");
}

#[test]
fn n18_heights_are_in_order_and_never_taken_for_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap());
    let mut core = Core::open(kit::rules(4), store.clone(), kit::NOW).unwrap();
    let row = Maker::new(1).row(&kit::genesis(), 300, 0);
    core.import_segment(row.clone(), Origin::File, kit::NOW).unwrap();
    // Decimal text would put 10 before 9 and 256 before 26; little-endian would put 256 before 1.
    let hashes = store.hashes(1, 1000).unwrap();
    assert!(hashes.iter().eq(row.iter().map(Block::hash).collect::<Vec<_>>().iter()));
    assert_eq!(store.hashes(254, 4).unwrap().len(), 4);
    let candidates: Vec<u64> = store.candidates().unwrap().iter().map(|p| p.height).collect();
    assert_eq!(candidates, [297, 298, 299, 300]);
    // A hash that reads like the key of a height.
    let mut like = [0; 32];
    like[7] = 9;
    assert_eq!(store.header(&Hash(like)).unwrap(), None);
    assert_eq!(store.hash_at(u64::from_be_bytes(*b"hhhhhhhh")).unwrap(), None);
}

#[tokio::test]
async fn n19_nothing_is_shown_that_was_not_written() {
    let store = Arc::new(Faulty::new(Memory::default(), 3, false));
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let chain = kit::chain_with(kit::rules(4), store.clone(), clock);
    let mut events = chain.events();
    let row = Maker::new(1).row(&kit::genesis(), 6, 50);
    for block in &row[..2] {
        chain.import(block.clone(), Origin::Local).await.unwrap();
    }
    let head = chain.status().head;
    let failed = chain.import(row[2].clone(), Origin::Local).await;
    assert!(matches!(failed, Err(ChainError::Store(_))), "{failed:?}");
    let status = chain.status();
    assert_eq!(status.head, head);
    assert!(status.halted.is_some_and(|h| h.contains("on purpose")));
    assert_eq!((chain.hash_at(3), chain.known(&row[2].hash())), (Ok(None), Ok(Known::No)));
    let refused = chain.import(row[3].clone(), Origin::Local).await;
    assert!(matches!(refused, Err(ChainError::Halted(_))), "{refused:?}");
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Imported { point, .. } = event {
            told.push(point.height);
        }
    }
    assert_eq!(told, [1, 2]);
}

#[tokio::test]
async fn n19_whatever_is_asked_after_a_failed_write_shows_none_of_it() {
    let store = Arc::new(Faulty::new(Memory::default(), 9, false));
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let chain = kit::chain_with(kit::rules(4), store, clock);
    let row = Maker::new(1).row(&kit::genesis(), 9, 50);
    for block in &row[..8] {
        chain.import(block.clone(), Origin::Local).await.unwrap();
    }
    assert!(chain.import(row[8].clone(), Origin::Local).await.is_err());
    let before = chain.status();
    assert_eq!((before.head.height, before.committed.height), (8, 4));
    let rival: Vec<VerifiedHeader> = Maker::new(2).row(&row[0], 3, 0).iter().map(verified).collect();
    let peer = Identity::generate().address();
    chain.conflict(peer, rival, [peer].into()).await.unwrap();
    // What peers prove is shown all the same.
    assert_eq!(chain.status(), crate::block::chain::Status { conflicting_peers: 1, ..before });
    assert_eq!((chain.hash_at(9), chain.known(&row[8].hash())), (Ok(None), Ok(Known::No)));
}

#[test]
fn every_defect_and_trap_has_a_test_that_is_there() {
    let tests = [
        include_str!("defects.rs"),
        include_str!("chain.rs"),
        include_str!("../broadcast/tests/machines.rs"),
        include_str!("../broadcast/tests/service.rs"),
        include_str!("../broadcast/tests/service/peers.rs"),
        include_str!("../broadcast/tests/swarm.rs"),
        include_str!("../broadcast/tests/swarm/traps.rs"),
        include_str!("../sync/tests/planner.rs"),
        include_str!("../sync/tests/service.rs"),
        include_str!("../../net/tests/traps.rs"),
    ];
    let rows: Vec<Vec<&str>> = tests[0]
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .map(|row| row.split('|').map(str::trim).collect())
        .collect();
    let numbers = (1..=20).map(|n| format!("N{n}")).chain((1..=16).map(|n| format!("L{n}")));
    for number in numbers {
        let row = rows.iter().find(|row| row[0] == number).unwrap_or_else(|| panic!("{number} is not in the table"));
        let named: Vec<&str> = row[2].split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        assert!(!named.is_empty(), "{number} has no test");
        for name in named {
            let is_there = tests.iter().any(|t| t.contains(&format!("fn {name}(")));
            assert!(is_there, "{number}: there is no test {name}");
        }
    }
}
