//! The pool: limits, order, and what blocks take and give back.

use bytes::Bytes;
use proptest::prelude::*;

use super::Random;
use crate::{
    block::{
        Body, ChainConfig, ForkRule,
        chain::{Anything, Verdict},
        kit::{self, NOW},
        pool::{MAX_TRANSACTION_BYTES, Pool, PoolError},
    },
    identity::Identity,
    primitives::{Hash, UnixMillis},
};

fn transaction(n: u64) -> Bytes {
    n.to_be_bytes().to_vec().into()
}

fn attach(pool: &mut Pool, block: u64, transactions: &[Bytes]) {
    pool.attach(Hash::of(&block.to_be_bytes()), transactions.iter().map(|t| &t[..]));
}

fn detach(pool: &mut Pool, block: u64, transactions: &[Bytes]) {
    pool.detach(&Hash::of(&block.to_be_bytes()), transactions.iter().map(|t| &t[..]), NOW);
}

#[test]
fn transactions_are_packaged_in_order_and_once() {
    let mut pool = Pool::new(100, 10_000);
    let all: Vec<Bytes> = (0..10).map(transaction).collect();
    for t in &all {
        assert_eq!(pool.add(t.clone(), None, NOW), Ok(Hash::of(t)));
    }
    assert_eq!(pool.add(all[3].clone(), None, NOW), Err(PoolError::Known));
    assert_eq!(pool.package(usize::MAX, 100), all);
    assert_eq!(pool.package(usize::MAX, 4), all[..4]);
    let three = pool.package(3 * 12 + 11, 100);
    assert_eq!(three, all[..3], "each takes four bytes more");
    assert!(Body::new(&three).unwrap().bytes().len() <= 47);
    attach(&mut pool, 1, &all[..4]);
    assert_eq!(pool.package(usize::MAX, 100), all[4..]);
    assert_eq!(pool.add(all[3].clone(), None, NOW), Err(PoolError::Included));
}

#[test]
fn a_large_one_does_not_hold_up_the_small_ones_behind_it() {
    let mut pool = Pool::new(100, 100_000);
    let large = Bytes::from(vec![1; 1000]);
    pool.add(large.clone(), None, NOW).unwrap();
    pool.add(transaction(1), None, NOW).unwrap();
    assert_eq!(pool.package(500, 100), [transaction(1)]);
    assert_eq!(pool.package(2000, 100), [large, transaction(1)]);
}

#[test]
fn a_detached_block_gives_its_transactions_back_but_not_those_of_the_new_branch() {
    let mut pool = Pool::new(100, 10_000);
    let all: Vec<Bytes> = (0..6).map(transaction).collect();
    pool.add(all[5].clone(), None, NOW).unwrap();
    attach(&mut pool, 1, &all[..2]);
    attach(&mut pool, 2, &all[2..4]);
    // Another branch has 1 and 4.
    detach(&mut pool, 2, &all[2..4]);
    detach(&mut pool, 1, &all[..2]);
    attach(&mut pool, 3, &[all[1].clone(), all[4].clone()]);
    let expected = [&all[0], &all[2], &all[3], &all[5]].map(Clone::clone);
    assert_eq!(pool.package(usize::MAX, 100), expected);
    assert_eq!(pool.add(all[4].clone(), None, NOW), Err(PoolError::Included));
    detach(&mut pool, 3, &[all[1].clone(), all[4].clone()]);
    assert_eq!(pool.len(), 6);
}

#[test]
fn several_that_take_all_they_can_leave_room_for_one_more_peer_and_for_us() {
    let mut pool = Pool::new(1000, 1 << 20);
    let mut n = 0;
    let mut add = |pool: &mut Pool, from| {
        n += 1;
        pool.add(transaction(n), from, NOW)
    };
    for hogs in 1..8 {
        let hog = Some(Identity::generate().address());
        let took = (0..1000).take_while(|_| add(&mut pool, hog).is_ok()).count();
        assert!(took > 0, "number {hogs} finds room");
    }
    let next = Some(Identity::generate().address());
    assert!((0..3).all(|_| add(&mut pool, next).is_ok()));
    assert!((0..250).all(|_| add(&mut pool, None).is_ok()), "a quarter is ours");
    assert!(pool.len() <= 1000);
}

#[test]
fn what_finds_no_room_when_its_block_is_detached_is_counted() {
    let mut pool = Pool::new(2, 10_000);
    let all: Vec<Bytes> = (0..7).map(transaction).collect();
    attach(&mut pool, 1, &all[..6]);
    pool.add(all[6].clone(), None, NOW).unwrap();
    let lost = pool.detach(&Hash::of(&1u64.to_be_bytes()), all[..6].iter().map(|t| &t[..]), NOW);
    assert_eq!((lost, pool.len()), (3, 4), "twice as many as else");
}

#[test]
fn a_block_that_is_told_twice_counts_once() {
    let mut pool = Pool::new(100, 10_000);
    let all: Vec<Bytes> = (0..3).map(transaction).collect();
    for _ in 0..2 {
        attach(&mut pool, 1, &all);
    }
    assert_eq!(pool.add(all[0].clone(), None, NOW), Err(PoolError::Included));
    detach(&mut pool, 1, &all);
    assert_eq!(pool.package(usize::MAX, 100), all, "they wait again");
}

#[test]
fn what_the_rules_left_out_lets_others_go_first() {
    let mut pool = Pool::new(100, 10_000);
    let all: Vec<Bytes> = (0..4).map(transaction).collect();
    for t in &all {
        pool.add(t.clone(), None, NOW).unwrap();
    }
    pool.postpone(&Hash::of(&all[0]));
    pool.postpone(&Hash::of(&all[2]));
    pool.postpone(&Hash::of(b"no such transaction"));
    let expected = [1, 3, 0, 2].map(|n: usize| all[n].clone());
    assert_eq!(pool.package(usize::MAX, 100), expected);
    assert_eq!((pool.since(&Hash::of(&all[0])), pool.len()), (Some(NOW), 4), "it grows no younger");
}

#[test]
fn all_peers_take_three_quarters_at_most_and_leave_room_for_one_more() {
    let mut pool = Pool::new(40, 10_000);
    let peers: Vec<_> = (0..5).map(|_| Identity::generate().address()).collect();
    let mut taken = [0; 5];
    for n in 0..100u64 {
        for (i, peer) in peers.iter().enumerate() {
            let result = pool.add(transaction(n * 10 + u64::try_from(i).unwrap()), Some(*peer), NOW);
            taken[i] += usize::from(result.is_ok());
            assert!(result.is_ok() || result == Err(PoolError::Full));
        }
    }
    assert_eq!((pool.len(), taken), (25, [5; 5]), "and each leaves as much free as it has");
    let ours = (5000..6000).filter(|n| pool.add(transaction(*n), None, NOW).is_ok());
    assert_eq!((ours.count(), pool.len()), (15, 40), "what is put in here has its place");
    assert_eq!(pool.add(transaction(5000), None, NOW), Err(PoolError::Known));
    assert_eq!(pool.add(transaction(7000), None, NOW), Err(PoolError::Full));
    // What a block takes makes room again, for each peer too.
    let all = pool.package(usize::MAX, 40);
    attach(&mut pool, 1, &all);
    let again = (6000..6020).filter(|n| pool.add(transaction(*n), Some(peers[0]), NOW).is_ok());
    assert_eq!(again.count(), 10);
    let mut pool = Pool::new(1000, 10_000);
    let big = |n: u8| Bytes::from(vec![n; 2000]);
    assert!(pool.add(big(1), Some(peers[0]), NOW).is_ok());
    assert_eq!(pool.add(big(2), Some(peers[0]), NOW), Err(PoolError::Full));
    assert!(pool.add(big(2), Some(peers[1]), NOW).is_ok());
}

#[test]
fn sizes_and_ages_are_bounded() {
    let mut pool = Pool::new(100, 1_000_000);
    assert_eq!(pool.add(Bytes::new(), None, NOW), Err(PoolError::Empty));
    assert_eq!(pool.add(vec![1; MAX_TRANSACTION_BYTES + 1].into(), None, NOW), Err(PoolError::TooLarge));
    pool.add(vec![1; MAX_TRANSACTION_BYTES].into(), None, NOW).unwrap();
    assert_eq!(pool.sweep(UnixMillis(NOW.0 + 29 * 60_000)), 0);
    assert_eq!(pool.len(), 1);
    assert_eq!(pool.sweep(UnixMillis(NOW.0 + 31 * 60_000)), 1);
    assert_eq!((pool.len(), pool.bytes()), (0, 0));
}

#[test]
fn what_was_accepted_comes_back_into_a_full_pool_and_blocks_of_others_do_not_fill_it_without_end() {
    let mut pool = Pool::new(10, 10_000);
    let first: Vec<_> = (0..10).map(|n| pool.add(transaction(n), None, NOW).map(|_| transaction(n)).unwrap()).collect();
    attach(&mut pool, 1, &first);
    for n in 10..20 {
        pool.add(transaction(n), None, NOW).unwrap();
    }
    detach(&mut pool, 1, &first);
    assert_eq!(pool.package(usize::MAX, 10), first, "before those that came later, which are still here");
    assert_eq!((pool.len(), pool.add(transaction(99), None, NOW)), (20, Err(PoolError::Full)));
    for n in 100..200 {
        detach(&mut pool, n, &[transaction(n)]);
    }
    assert_eq!(pool.len(), 20);
}

proptest! {
    #[test]
    fn whatever_happens_the_counts_are_right_and_nothing_is_twice(seed in any::<u64>()) {
        let mut random = Random(seed);
        let mut pool = Pool::new(20, 400);
        let peers: Vec<_> = (0..3).map(|n| kit::Maker::new(n).address()).collect();
        let mut chain: Vec<(u64, Vec<Bytes>)> = Vec::new();
        for step in 0..200u64 {
            match random.below(6) {
                0..=2 => {
                    let from = peers.get(random.below(4)).copied();
                    let _ = pool.add(transaction(random.next() % 60), from, NOW);
                }
                3 | 4 => {
                    let mut body = pool.package(100, 5);
                    let foreign = transaction(random.next() % 60);
                    if !body.contains(&foreign) {
                        body.push(foreign);
                    }
                    attach(&mut pool, step, &body);
                    chain.push((step, body));
                }
                _ => if let Some((block, body)) = chain.pop() {
                    detach(&mut pool, block, &body);
                },
            }
            let all = pool.package(usize::MAX, usize::MAX);
            prop_assert_eq!(all.len(), pool.len());
            prop_assert_eq!(all.iter().map(Bytes::len).sum::<usize>(), pool.bytes());
            prop_assert!(pool.len() <= 40 && pool.bytes() <= 800);
            let different: std::collections::HashSet<_> = all.iter().collect();
            prop_assert_eq!(different.len(), all.len());
            prop_assert!(chain.iter().flat_map(|(_, body)| body).all(|t| !all.contains(t)));
        }
    }
}

#[test]
fn the_rules_come_from_the_section() {
    let rules = ChainConfig::default().rules(&kit::network(), std::sync::Arc::new(Anything)).unwrap();
    assert_eq!(rules.genesis.hash(), kit::genesis().hash());
    let none = ChainConfig { genesis: "/no/such/file".into(), ..ChainConfig::default() };
    let error = none.rules(&kit::network(), std::sync::Arc::new(Anything)).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
    let longest: ChainConfig = toml::from_str("fork_choice = \"longest\"").unwrap();
    assert_eq!(longest.fork_choice, ForkRule::Longest);
    assert!(toml::from_str::<ChainConfig>("fork_choice = \"heaviest\"").is_err());
}

#[test]
fn only_those_who_are_named_may_produce() {
    let (named, other) = (Identity::generate(), Identity::generate());
    let section = ChainConfig { producers: vec![named.address().to_string()], ..ChainConfig::default() };
    let validator = section.validator().unwrap();
    let header = |identity: &Identity| {
        let empty = kit::genesis().header().clone();
        empty.signed(identity, &crate::block::purpose(&kit::network()))
    };
    assert_eq!(validator.header(&header(&named)), Verdict::Accept);
    assert!(matches!(validator.header(&header(&other)), Verdict::Invalid(_)));
    let wrong = ChainConfig { producers: vec!["bob".into()], ..ChainConfig::default() };
    assert_eq!(wrong.validator().unwrap_err(), "bob");
}
