//! A chain of one's own, as a program that uses the library makes it: a counter that transactions add to.

use std::{
    cmp::Ordering,
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use vos::{
    block::{
        Block, BlockId, Header, Point,
        chain::{Branch, ForkChoice, Norn, Validator, Verdict},
        producer::SubmitError,
    },
    config::Config,
    node::{Error, Node, OwnChain},
    primitives::Hash,
    test_util::{config, until},
};

/// The most that the counter can be.
const MOST: u64 = 10;

/// A counter that transactions add to: `+3`. It may never pass [`MOST`].
#[derive(Debug, Default)]
struct Counter {
    /// The state after each block, by its hash: every branch has its own.
    states: Mutex<HashMap<Hash, u64>>,
}

fn amount(transaction: &[u8]) -> Option<u64> {
    std::str::from_utf8(transaction).ok()?.strip_prefix('+')?.parse().ok()
}

impl Counter {
    fn after(&self, block: &Hash) -> u64 {
        self.states.lock().unwrap().get(block).copied().unwrap_or(0)
    }
}

impl Validator for Counter {
    fn transaction(&self, transaction: &[u8]) -> Verdict {
        match amount(transaction) {
            Some(amount) if amount <= MOST => Verdict::Accept,
            _ => Verdict::Invalid("not an addition, or a large one".into()),
        }
    }

    fn full(&self, block: &Block, parent: &Header) -> Verdict {
        let before = self.after(&parent.hash());
        match block.body().transactions().try_fold(before, |sum, t| sum.checked_add(amount(t)?)) {
            Some(sum) if sum <= MOST => {
                self.states.lock().unwrap().insert(block.hash(), sum);
                Verdict::Accept
            }
            _ => Verdict::Invalid("the counter passes its end".into()),
        }
    }

    fn select(&self, parent: &Header, transactions: Vec<bytes::Bytes>) -> Vec<bytes::Bytes> {
        let mut sum = self.after(&parent.hash());
        let mut fits = |transaction: &bytes::Bytes| {
            let next = sum.saturating_add(amount(transaction).unwrap_or(MOST + 1));
            let fits = next <= MOST;
            sum = if fits { next } else { sum };
            fits
        };
        transactions.into_iter().filter(|t| fits(t)).collect()
    }

    fn resume(&self, committed: Point, block_at: &dyn Fn(u64) -> Option<Block>) -> Result<(), String> {
        // Nothing was saved: all final blocks are counted again. A larger chain goes on from where it saved its state.
        let mut sum = 0;
        for height in 1..=committed.height {
            let block = block_at(height).ok_or("a final block cannot be read")?;
            sum += block.body().transactions().filter_map(amount).sum::<u64>();
        }
        self.states.lock().unwrap().insert(committed.hash, sum);
        Ok(())
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

/// A node with that chain.
async fn start(data_dir: PathBuf, config: Config) -> Result<Node, Error> {
    let own = OwnChain { validator: Some(Arc::new(Counter::default())), choice: Some(Arc::new(Fullest)) };
    Node::start_with(data_dir, config, None, own).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_counts_to_its_end_and_no_further_also_after_a_restart() {
    let _turn = super::beside_others().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&[]);
    (config.block.produce, config.block.produce_alone, config.block.interval_ms) = (true, true, 100);
    (config.chain.spacing_ms, config.chain.commit_depth) = (50, 2);
    let mut node = Box::pin(start(dir.path().to_owned(), config.clone())).await.unwrap();
    let chain = node.block.clone().unwrap();
    let refused = chain.submit("+11".into()).await;
    assert_eq!(refused, Err(SubmitError::Refused("not an addition, or a large one".into())));
    for transaction in ["+4", "+5", "+2", "+1"] {
        chain.submit(transaction.into()).await.unwrap();
    }
    let has = |chain: &vos::block::Handle, transaction: &[u8]| {
        (1..=chain.status().head.height).any(|height| {
            let held = chain.block(BlockId::Height(height)).unwrap();
            held.is_some_and(|held| held.body.transactions().any(|t| t == transaction))
        })
    };
    until("4, 5 and 1 are counted", || [b"+4", b"+5", b"+1"].iter().all(|t| has(&chain, *t))).await;
    until("they are final", || chain.status().committed.height > 3).await;
    assert!(!has(&chain, b"+2"), "the counter would pass its end");
    node.stop().await;
    drop((chain, node));
    let mut node = Box::pin(start(dir.path().to_owned(), config)).await.unwrap();
    let chain = node.block.clone().unwrap();
    let before = chain.status().head.height;
    chain.submit("+3".into()).await.unwrap();
    until("blocks are made again", || chain.status().head.height > before + 2).await;
    assert!(!has(&chain, b"+3"), "what was counted before is known");
    node.stop().await;
}
