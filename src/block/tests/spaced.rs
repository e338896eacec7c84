//! Blocks keep a distance from each other: `chain.spacing_ms`.

use std::sync::Arc;

use crate::{
    block::{
        Block, Origin, VerifiedHeader,
        chain::{Anything, ChainError, Core, Judgement, Known, Memory, Outcome, Rules, Spaced},
        kit::{self, Maker},
        purpose,
    },
    identity::Identity,
    primitives::ManualClock,
};

const SPACING_MS: u64 = 500;
const TOO_NEAR: &str = "it is less than 500 ms after its parent";

fn rules() -> Rules {
    let mut rules = kit::rules(4);
    rules.validator = Arc::new(Spaced::new(SPACING_MS, Arc::new(Anything)));
    rules
}

/// Blocks one after another, each so long after the one before it.
fn row(parent: &Block, count: usize, apart_ms: u64) -> Vec<Block> {
    let mut row: Vec<Block> = Vec::with_capacity(count);
    for _ in 0..count {
        let next = Maker::new(2).block(row.last().unwrap_or(parent), apart_ms, &[]);
        row.push(next);
    }
    row
}

fn verified(blocks: &[Block]) -> Vec<VerifiedHeader> {
    let network = purpose(&kit::network());
    blocks.iter().map(|b| VerifiedHeader::new(b.header().clone(), &network).unwrap()).collect()
}

#[tokio::test]
async fn a_block_that_is_nearer_to_its_parent_than_that_is_invalid() {
    let chain = kit::chain_with(rules(), Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    let first = Maker::new(1).block(&kit::genesis(), SPACING_MS, &[]);
    assert_eq!(chain.import(first.clone(), Origin::File).await, Ok(Outcome::Imported { new_head: true }));
    let near = Maker::new(1).block(&first, SPACING_MS - 1, &[]);
    let far = Maker::new(1).block(&first, SPACING_MS, &[]);
    let judge = |block: &Block| chain.judge(&verified(std::slice::from_ref(block))[0]);
    assert_eq!(judge(&near), Ok(Judgement::Invalid(TOO_NEAR.into())), "its header is not passed on");
    assert_eq!(judge(&far), Ok(Judgement::Good));
    assert_eq!(chain.import(near.clone(), Origin::File).await, Ok(Outcome::Invalid(TOO_NEAR.into())));
    assert_eq!(chain.known(&near.hash()), Ok(Known::Invalid));
    assert_eq!(chain.import(far.clone(), Origin::File).await, Ok(Outcome::Imported { new_head: true }));
    assert_eq!(chain.status().head.hash, far.hash());
}

#[test]
fn a_segment_ends_before_the_first_block_that_is_too_near() {
    let mut core = Core::open(rules(), Arc::new(Memory::default()), kit::NOW).unwrap();
    let mut blocks = row(&kit::genesis(), 3, SPACING_MS);
    blocks.extend(row(&blocks[2], 5, 100));
    let (outcome, _) = core.import_segment(blocks.clone(), Origin::File, kit::NOW).unwrap();
    assert_eq!((outcome.held, outcome.stopped), (3, Some(Outcome::Invalid(TOO_NEAR.into()))));
    assert_eq!(core.head().hash, blocks[2].hash());
}

#[test]
fn headers_that_are_too_near_to_each_other_prove_no_branch() {
    let ours = Maker::new(1).row(&kit::genesis(), 20, 0);
    let mut core = Core::open(rules(), Arc::new(Memory::default()), kit::NOW).unwrap();
    core.import_segment(ours.clone(), Origin::File, kit::NOW).unwrap();
    assert_eq!((core.head().height, core.committed().height), (20, 16));
    let good = row(&ours[9], 6, SPACING_MS);
    // From the fork on, and the last one alone.
    let near = row(&ours[9], 6, SPACING_MS - 1);
    let last = [&good[..5], &row(&good[4], 1, SPACING_MS - 1)].concat();
    let peer = Identity::generate().address();
    let mut report = |blocks: &[Block]| core.conflict(peer, &verified(blocks), [peer].into(), kit::NOW);
    for blocks in [&near, &last] {
        let result = report(blocks);
        assert!(matches!(&result, Err(ChainError::NoBranch(why)) if why == TOO_NEAR), "{result:?}");
    }
    assert!(report(&good).is_ok());
}
