//! Networks whose parts were on chains of their own.

use super::*;
use crate::block::chain::Longest;

/// Two halves with `left` and `right` blocks of their own on one trunk, joined again.
fn halves(seed: u64, left: usize, right: usize) -> (Sim, Vec<Block>, Vec<Block>, Vec<Block>) {
    let trunk = Maker::new(1).row(&kit::genesis(), 40, 0);
    let left = Maker::new(2).row(trunk.last().unwrap(), left, 0);
    let right = Maker::new(3).row(trunk.last().unwrap(), right, 0);
    let mut sim = Sim::new(seed);
    for i in 0..100 {
        sim.add(Kind::Honest, &[&trunk, if i % 2 == 0 { &left } else { &right }]);
    }
    sim.side = Some((0..100).map(|i| i % 2 == 0).collect());
    sim.connect(6);
    sim.run(30_000);
    (sim, trunk, left, right)
}

#[test]
fn halves_that_were_apart_for_less_than_the_commit_depth_become_one() {
    for seed in seeds(4) {
        let (mut sim, trunk, left, right) = halves(seed, 3 + seed as usize % 8, 11);
        let mut reference = Core::open(kit::rules(DEPTH), Arc::new(Memory::default()), NOW).unwrap();
        for row in [&trunk, &right, &left] {
            reference.import_segment(row.clone(), Origin::File, NOW).unwrap();
        }
        let heads: HashSet<_> = sim.nodes.iter().map(|n| n.core.head().hash).collect();
        assert_eq!(heads, [left.last().unwrap().hash(), right.last().unwrap().hash()].into(), "SEED={seed}: apart");
        sim.side = None;
        sim.run_until(reference.head().hash, 180);
        sim.assert_all_at(reference.head().hash, seed);
        assert!(sim.honest().all(|n| n.conflicts == 0));
        sim.assert_none_banned(seed);
    }
}

#[test]
fn halves_that_were_apart_for_longer_report_the_conflict_and_nobody_gives_up_what_is_final() {
    for seed in seeds(3) {
        let (mut sim, _, left, right) = halves(seed, 30, 40);
        let final_before: Vec<_> = sim.nodes.iter().map(|n| n.core.committed()).collect();
        sim.side = None;
        for _ in 0..120 {
            sim.run(1000);
            if sim.honest().all(|n| n.conflicts > 0) {
                break;
            }
        }
        for (i, (node, before)) in sim.nodes.iter().zip(final_before).enumerate() {
            // Who knows nobody of the other half cannot notice it.
            let meets = node.peers.iter().any(|p| p % 2 != i % 2);
            assert!(node.conflicts > 0 || !meets, "SEED={seed}: N14, unnoticed by {i} in {:?}", node.planner.state());
            assert_eq!(node.hash_at(before.height), Some(before.hash), "SEED={seed}");
            let head = node.core.head().hash;
            assert!(head == left[29].hash() || head == right[39].hash(), "SEED={seed}");
            assert!(node.banned.is_empty(), "SEED={seed}: another opinion is no crime");
        }
    }
}

#[test]
fn a_fifth_that_was_apart_for_longer_follows_the_others_when_the_rules_allow_it() {
    let trunk = Maker::new(1).row(&kit::genesis(), 40, 0);
    let few = Maker::new(2).row(trunk.last().unwrap(), 25, 0);
    let many = Maker::new(3).row(trunk.last().unwrap(), 50, 0);
    for seed in seeds(2) {
        let mut sim = Sim::new(seed);
        sim.rules = kit::rules_with(DEPTH, Arc::new(Longest));
        sim.rules.deep_reorg_max = 40;
        for i in 0..50 {
            sim.add(Kind::Honest, &[&trunk, if i % 5 == 0 { &few } else { &many }]);
        }
        sim.connect(12);
        sim.run_until(many[49].hash(), 400);
        let there = sim.nodes.iter().filter(|n| n.core.head().hash == many[49].hash()).count();
        assert!(there >= 48, "SEED={seed}: only {there} of 50 after {} s", sim.now / 1000);
        sim.assert_none_banned(seed);
    }
}

#[test]
fn a_minority_on_a_longer_chain_of_its_own_stops_nobody_and_leads_nobody_astray() {
    let chain = Maker::new(1).row(&kit::genesis(), 300, 0);
    let other = Maker::new(2).row(&kit::genesis(), 500, 0);
    for seed in seeds(2) {
        let mut sim = Sim::new(seed);
        for i in 0..80 {
            let has = match i % 4 {
                0 => 0,
                1 => sim.below(300),
                _ => 300,
            };
            sim.add(Kind::Honest, &[&chain[..has]]);
        }
        (0..8).for_each(|_| {
            sim.add(Kind::Honest, &[&other]);
        });
        sim.connect(8);
        for _ in 0..75 {
            sim.run(1000);
        }
        for node in &sim.nodes[..80] {
            let there = node.core.head().hash == chain[299].hash() && node.core.status().halted.is_none();
            let known = (node.core.head().height, node.planner.state(), node.core.status().halted, node.conflicts);
            assert!(there || node.conflicts > 0, "SEED={seed}: {known:?}");
        }
        let there = sim.nodes[..80].iter().filter(|n| n.core.head().hash == chain[299].hash()).count();
        assert!(there >= 78, "SEED={seed}: only {there} of 80");
        assert!(sim.nodes[80..].iter().all(|n| n.conflicts > 0), "SEED={seed}: they know that they are alone");
        sim.assert_none_banned(seed);
    }
}
