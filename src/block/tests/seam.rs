//! A chain of one's own: rules that plug in, and what the chain asks of them. `testnet/cluster/own_chain.rs` is one as a program has it.

use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{
    block::{
        Block, Header, Origin, Point, VerifiedHeader,
        chain::{self, Branch, ChainError, ForkChoice, Judgement, Memory, Norn, Outcome, Rules, Validator, Verdict},
        kit::{self, Maker},
        purpose,
    },
    primitives::{Hash, ManualClock},
};

/// A counter that transactions add to: `+3`. It may never pass 10. Producers are named in advance.
#[derive(Debug)]
struct Counter {
    producers: Vec<[u8; 32]>,
    /// The state after each block, by its hash: every branch has its own.
    states: Mutex<HashMap<Hash, u64>>,
}

fn amount(transaction: &[u8]) -> Option<u64> {
    std::str::from_utf8(transaction).ok()?.strip_prefix('+')?.parse().ok()
}

impl Validator for Counter {
    fn transaction(&self, transaction: &[u8]) -> Verdict {
        match amount(transaction) {
            Some(_) => Verdict::Accept,
            None => Verdict::Invalid("not an addition".into()),
        }
    }

    fn header(&self, header: &Header) -> Verdict {
        match self.producers.contains(&header.producer) {
            true => Verdict::Accept,
            false => Verdict::Invalid("not one of our producers".into()),
        }
    }

    fn contextual(&self, header: &Header, parent: &Header) -> Verdict {
        match header.producer != parent.producer {
            true => Verdict::Accept,
            false => Verdict::Invalid("nobody produces twice in a row".into()),
        }
    }

    fn full(&self, block: &Block, parent: &Header) -> Verdict {
        let mut states = self.states.lock().unwrap();
        let before = states[&parent.hash()];
        let sum = block.body().transactions().try_fold(before, |sum, t| Some(sum + amount(t)?));
        match sum {
            Some(sum) if sum <= 10 => {
                states.insert(block.hash(), sum);
                Verdict::Accept
            }
            _ => Verdict::Invalid("the counter passes 10".into()),
        }
    }

    fn resume(&self, committed: Point, block_at: &dyn Fn(u64) -> Option<Block>) -> Result<(), String> {
        // Nothing was saved: all final blocks are counted again. A real chain goes on from where it saved its state.
        let mut sum = 0;
        for height in 1..=committed.height {
            let block = block_at(height).ok_or("a final block cannot be read")?;
            sum += block.body().transactions().filter_map(amount).sum::<u64>();
        }
        self.states.lock().unwrap().insert(committed.hash, sum);
        Ok(())
    }

    fn committed(&self, point: Point) {
        // The other states of that height are of no use any more; a real chain finds them by height.
        assert!(self.states.lock().unwrap().contains_key(&point.hash));
    }
}

/// The branch with the larger body at the fork.
#[derive(Debug)]
struct Fullest;

impl ForkChoice for Fullest {
    fn compare(&self, a: &Branch<'_>, b: &Branch<'_>) -> Ordering {
        a.first.body_bytes.cmp(&b.first.body_bytes).then_with(|| Norn.compare(a, b))
    }
}

fn rules() -> (Rules, [Maker; 2]) {
    let makers = [Maker::new(1), Maker::new(2)];
    let producers = makers.iter().map(|m| m.block(&kit::genesis(), 1, &[]).header().producer).collect();
    let validator = Arc::new(Counter { producers, states: Mutex::default() });
    (Rules { validator, ..kit::rules_with(2, Arc::new(Fullest)) }, makers)
}

#[tokio::test]
async fn a_chain_of_ones_own_plugs_in() {
    let (rules, [a, b]) = rules();
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    // In a program: `chain::open`, and the service under the supervisor.
    let own = kit::chain_with(rules, store, clock);
    let genesis = kit::genesis();
    let one = a.block(&genesis, 1, &[b"+4".to_vec()]);
    let longer = a.block(&genesis, 2, &[b"+0000004".to_vec()]);
    for (block, new_head) in [(&one, true), (&longer, true)] {
        assert_eq!(own.import(block.clone(), Origin::Local).await, Ok(Outcome::Imported { new_head }));
    }
    let import = async |block: &Block| own.import(block.clone(), Origin::Local).await.unwrap();
    let invalid = |why: &str| Outcome::Invalid(why.into());
    let stranger = Maker::new(3).block(&one, 1, &[]);
    assert_eq!(import(&stranger).await, invalid("not one of our producers"));
    let again = a.block(&longer, 1, &[]);
    assert_eq!(import(&again).await, invalid("nobody produces twice in a row"));
    let judged = own.judge(&VerifiedHeader::new(again.header().clone(), &purpose(&kit::network())).unwrap());
    assert_eq!(judged, Ok(Judgement::Invalid("nobody produces twice in a row".into())));
    let too_much = b.block(&longer, 1, &[b"+7".to_vec()]);
    assert_eq!(import(&too_much).await, invalid("the counter passes 10"));
    // What builds on an invalid block is invalid, and is not executed.
    let child = a.block(&too_much, 1, &[]);
    assert_eq!(import(&child).await, invalid("its parent is invalid"));
    let good = b.block(&longer, 1, &[b"+6".to_vec()]);
    assert_eq!(import(&good).await, Outcome::Imported { new_head: true });
    // Two more commit the first one, by this chain's own choice.
    let next = a.block(&good, 1, &[]);
    let last = b.block(&next, 1, &[]);
    assert_eq!(import(&next).await, Outcome::Imported { new_head: true });
    assert_eq!(import(&last).await, Outcome::Imported { new_head: true });
    assert_eq!(own.status().committed, Point { height: 2, hash: good.hash() });
    assert_eq!(own.validator().transaction(b"-1"), Verdict::Invalid("not an addition".into()));
}

#[test]
fn the_state_of_ones_own_chain_is_there_again_after_a_restart() {
    let (first, [a, b]) = rules();
    let store = Arc::new(Memory::default());
    let mut core = chain::Core::open(first, store.clone(), kit::NOW).unwrap();
    let mut blocks = vec![kit::genesis()];
    for (maker, amount) in [(&a, "+1"), (&b, "+2"), (&a, "+3"), (&b, "+2"), (&a, "+1")] {
        let next = maker.block(&blocks[blocks.len() - 1], 1, &[amount.into()]);
        core.import(next.clone(), Origin::Local, kit::NOW).unwrap();
        blocks.push(next);
    }
    let (again, _) = rules();
    let mut core = chain::Core::open(again, store, kit::NOW).unwrap();
    assert_eq!((core.head().height, core.committed().height), (5, 3));
    let mut import = |amount: &str| {
        let next = b.block(&blocks[5], 1, &[amount.into()]);
        core.import(next, Origin::Local, kit::NOW).unwrap().0
    };
    assert_eq!(import("+2"), Outcome::Invalid("the counter passes 10".into()), "9 are there");
    assert_eq!(import("+1"), Outcome::Imported { new_head: true });
}

#[tokio::test]
async fn descendants_of_an_invalid_block_that_waited_for_it_are_invalid_too() {
    let (rules, [a, b]) = rules();
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    let own = kit::chain_with(rules, store, clock);
    let bad = a.block(&kit::genesis(), 1, &[b"+11".to_vec()]);
    let child = b.block(&bad, 1, &[]);
    let grandchild = a.block(&child, 1, &[]);
    let orphan = |missing: &Block| Ok::<_, ChainError>(Outcome::Orphan { missing: missing.hash() });
    assert_eq!(own.import(grandchild.clone(), Origin::Local).await, orphan(&child));
    assert_eq!(own.import(child.clone(), Origin::Local).await, orphan(&bad));
    assert_eq!(own.known(&child.hash()), Ok(chain::Known::Orphan));
    assert!(matches!(own.import(bad.clone(), Origin::Local).await, Ok(Outcome::Invalid(_))));
    for block in [&bad, &child, &grandchild] {
        assert_eq!(own.known(&block.hash()), Ok(chain::Known::Invalid));
    }
}
