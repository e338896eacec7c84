//! Transactions that wait: through reorgs, for long, and behind others that nobody takes.

use super::*;

#[tokio::test]
async fn what_a_reorg_detached_waits_again_also_when_its_event_was_lost() {
    let node = node(false, true, kit::rules(12), system());
    let (lost, waits) = (Bytes::from_static(b"of the branch that lost"), Bytes::from_static(b"of none yet"));
    let loses = Maker::new(1).block(&kit::genesis(), 1, &[lost.to_vec()]);
    node.chain.import(loses, Origin::File).await.unwrap();
    let included = Err(SubmitError::Pool(PoolError::Included));
    // The first answer may come before the event.
    within(async { while node.handle.submit(lost.clone()).await != included {} }).await;
    node.handle.submit(waits.clone()).await.unwrap();
    // Nothing else runs on this thread while more happens than the events hold.
    let wins = Maker::new(2).block(&kit::genesis(), 1, &[b"two".to_vec(), b"transactions".to_vec()]);
    let rest = Maker::new(2).row(&wins, 1100, 0);
    futures::executor::block_on(node.chain.import(wins, Origin::File)).unwrap();
    futures::executor::block_on(node.chain.import_segment(rest, Origin::File)).unwrap();
    assert_eq!(node.chain.status().head.height, 1101);
    let known = Err(SubmitError::Pool(PoolError::Known));
    within(async { while node.handle.submit(lost.clone()).await == included {} }).await;
    assert_eq!(node.handle.submit(lost).await, known, "it waits");
    assert_eq!(node.handle.submit(waits).await, known);
    node.end().await;
}

#[tokio::test]
async fn what_has_waited_for_long_and_is_told_again_goes_on() {
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let node = node(false, true, kit::rules(12), clock.clone());
    let peer = Identity::generate().address();
    let told = |transaction: &Bytes| Received::detached(peer, News::encode(transaction));
    let small = Bytes::from_static(b"small");
    node.gossip.send(told(&small)).await.unwrap();
    node.until(|n| n.metrics.accepted.get() == 1).await;
    // Soon after it is one that everybody has heard of.
    clock.set(UnixMillis(kit::NOW.0 + 299_000));
    node.gossip.send(told(&small)).await.unwrap();
    node.until(|n| n.metrics.ignored.get() == 1).await;
    clock.set(UnixMillis(kit::NOW.0 + 310_000));
    node.gossip.send(told(&small)).await.unwrap();
    node.until(|n| n.metrics.accepted.get() == 2).await;
    // By its hash as well.
    let large = Bytes::from(vec![7; MAX_WHOLE + 1]);
    node.handle.submit(large.clone()).await.unwrap();
    node.gossip.send(told(&large)).await.unwrap();
    node.until(|n| n.metrics.ignored.get() == 2).await;
    clock.set(UnixMillis(kit::NOW.0 + 700_000));
    node.gossip.send(told(&large)).await.unwrap();
    node.until(|n| n.metrics.accepted.get() == 3).await;
    assert_eq!(node.metrics.transactions.get(), 2, "each once");
    node.end().await;
}

/// Takes transactions into a block only when they are even, and more of them than came when asked so.
#[derive(Debug)]
struct Even(bool);

impl Validator for Even {
    fn select(&self, _: &crate::block::Header, transactions: Vec<Bytes>) -> Vec<Bytes> {
        let mut even: Vec<Bytes> = transactions.into_iter().filter(|t| t[0] % 2 == 0).collect();
        if self.0 {
            even.extend((0..100).map(|n| Bytes::from(vec![n; MAX_TRANSACTION_BYTES])));
        }
        even
    }
}

#[tokio::test]
async fn transactions_that_the_rules_never_pick_hold_up_no_others() {
    let mut rules = kit::rules(12);
    rules.validator = Arc::new(Even(false));
    let node = node(true, false, rules, system());
    // More than a block holds, and behind them one that fits.
    for n in 0..20_u8 {
        node.handle.submit(Bytes::from([&[1, n][..], &vec![7; MAX_TRANSACTION_BYTES - 2]].concat())).await.unwrap();
    }
    let good = Bytes::from_static(b"\x02 good");
    node.handle.submit(good.clone()).await.unwrap();
    node.in_sync.send(true).unwrap();
    node.until(|n| n.heights_of(&good).len() == 1).await;
    // The others wait on, also when the pool has heard of that block.
    node.until(|n| n.metrics.transactions.get() == 20).await;
    node.end().await;
}

#[tokio::test]
async fn a_block_of_ours_that_is_larger_than_the_chain_allows_is_not_made() {
    let mut rules = kit::rules(12);
    rules.validator = Arc::new(Even(true));
    let node = node(true, true, rules, system());
    node.until(|n| n.metrics.failed.get() > 2).await;
    assert_eq!((node.chain.status().head.height, node.metrics.produced.get()), (0, 0));
    node.end().await;
}
