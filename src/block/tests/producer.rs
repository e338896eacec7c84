//! Production and the travel of transactions, with a real chain and the topic's ends in our hands.

mod waiting;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::{
    block::{
        Block, Body, Config, DEFAULT_MAX_BODY_BYTES, Origin,
        chain::{self, Chain, Longest, Memory, Outcome, Rules, Validator, Verdict},
        kit::{self, Maker},
        penalty::Penalties,
        pool::{MAX_TRANSACTION_BYTES, PoolError},
        producer::{
            self, Handle, Metrics, SubmitError,
            wire::{self, GetTransaction, MAX_WHOLE, News},
        },
    },
    identity::Identity,
    net::{
        pubsub::{self, Publisher, Received},
        rpc::{Client, Inbound, Loopback, RequestError},
    },
    primitives::{Clock, Hash, ManualClock, PeerId, SystemClock, UnixMillis},
    runtime::Stop,
    wire::Status,
};

type Board = Loopback<GetTransaction>;

struct Node {
    chain: Chain,
    handle: Handle,
    metrics: Metrics,
    address: PeerId,
    penalties: Penalties,
    publisher: Publisher,
    gossip: mpsc::Sender<Received>,
    published: mpsc::UnboundedReceiver<Vec<u8>>,
    in_sync: watch::Sender<bool>,
    stop: Stop,
    task: tokio::task::JoinHandle<Result<(), chain::ChainError>>,
}

fn node(produce: bool, in_sync: bool, rules: Rules, clock: Arc<dyn Clock>) -> Node {
    node_on(&Board::default(), produce, in_sync, rules, clock)
}

#[allow(clippy::disallowed_methods, reason = "a test joins its tasks itself")]
fn node_on(board: &Board, produce: bool, in_sync: bool, rules: Rules, clock: Arc<dyn Clock>) -> Node {
    let chain = kit::chain_with(rules, Arc::new(Memory::default()), clock.clone());
    let (publisher, published) = Publisher::detached();
    let (gossip, received) = mpsc::channel(16);
    let (in_sync, watched) = watch::channel(in_sync);
    let (metrics, identity, penalties) = (Metrics::default(), Identity::generate(), Penalties::new().0);
    let address = identity.address();
    let deps = producer::Deps {
        identity,
        network: kit::network(),
        clock,
        chain: chain.clone(),
        publisher: publisher.clone(),
        gossip: received,
        get: board.join(address),
        penalties: penalties.clone(),
        in_sync: watched,
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        metrics: metrics.clone(),
    };
    let config = Config { produce, interval_ms: 40, ..Config::default() };
    let (service, handle) = producer::new(&config, deps);
    let stop = Stop::new();
    let task = tokio::spawn(service.run(stop.clone()));
    Node { chain, handle, metrics, address, penalties, publisher, gossip, published, in_sync, stop, task }
}

impl Node {
    async fn end(self) {
        self.stop.stop();
        within(self.task).await.unwrap().unwrap();
    }

    async fn until(&self, what: impl Fn(&Node) -> bool) {
        within(async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Where in the best chain a transaction is, how often.
    fn heights_of(&self, transaction: &[u8]) -> Vec<u64> {
        let blocks = self.chain.range(0, 4096, usize::MAX).unwrap();
        let has = |body: &Bytes| Body::decode(body.clone()).unwrap().transactions().any(|t| t == transaction);
        (0..).zip(&blocks).filter(|(_, b)| has(&b.body)).map(|(height, _)| height).collect()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

#[tokio::test]
async fn a_transaction_goes_from_one_node_into_a_block_of_another_once() {
    let mut asks = node(false, true, kit::rules(12), system());
    let makes = node(true, true, kit::rules(12), system());
    let sent = Bytes::from_static(b"pay anna");
    asks.handle.submit(sent.clone()).await.unwrap();
    let again = asks.handle.submit(sent.clone()).await;
    assert_eq!(again, Err(SubmitError::Pool(PoolError::Known)));
    let message = within(asks.published.recv()).await.unwrap();
    assert_eq!(News::read(message.clone()), Some(News::Whole(sent.clone())), "as it is");
    let from = Identity::generate().address();
    for _ in 0..2 {
        makes.gossip.send(Received::detached(from, message.clone())).await.unwrap();
    }
    makes.until(|n| !n.heights_of(&sent).is_empty()).await;
    let height = makes.chain.status().head.height;
    makes.until(|n| n.chain.status().head.height > height + 3).await;
    assert_eq!(makes.heights_of(&sent).len(), 1);
    makes.gossip.send(Received::detached(from, message)).await.unwrap();
    makes.until(|n| n.metrics.ignored.get() == 2).await;
    assert_eq!(makes.metrics.accepted.get(), 1);
    assert_eq!(asks.chain.status().head.height, 0, "who does not produce does not");
    makes.end().await;
    asks.end().await;
}

#[tokio::test]
async fn blocks_are_made_only_in_sync_each_later_than_its_parent_and_not_from_the_future() {
    let node = node(true, false, kit::rules(12), system());
    // Five intervals in which nothing may happen.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(node.chain.status().head.height, 0);
    let submitted = node.handle.submit(Bytes::from_static(b"early")).await;
    assert!(submitted.is_ok(), "transactions are taken meanwhile");
    node.in_sync.send(true).unwrap();
    node.until(|n| n.chain.status().head.height >= 6).await;
    let blocks = node.chain.range(0, 100, usize::MAX).unwrap();
    let times: Vec<UnixMillis> = blocks.iter().map(|b| crate::block::Header::decode(&b.header).unwrap().time).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert!(*times.last().unwrap() <= SystemClock.now());
    assert!(blocks.iter().filter(|b| b.body.is_empty()).count() >= 5, "empty ones too");
    node.end().await;
}

#[tokio::test]
async fn a_head_ahead_of_our_clock_is_not_built_on_before_its_time() {
    let genesis = kit::genesis();
    let start = genesis.header().time;
    let clock = Arc::new(ManualClock::new(UnixMillis(start.0 + 1000)));
    let node = node(true, false, kit::rules(12), clock.clone());
    let ahead = Maker::new(1).block(&genesis, 2900, &[]);
    let outcome = node.chain.import(ahead.clone(), Origin::File).await;
    assert_eq!(outcome, Ok(Outcome::Imported { new_head: true }));
    node.in_sync.send(true).unwrap();
    node.until(|n| n.metrics.failed.get() > 2).await;
    assert_eq!(node.chain.status().head.hash, ahead.hash());
    // Still ahead, but by less than what others would refuse.
    clock.set(UnixMillis(start.0 + 2500));
    node.until(|n| n.chain.hash_at(2).unwrap().is_some()).await;
    let child = node.chain.hash_at(2).unwrap().unwrap();
    let child = node.chain.header(&child).unwrap().unwrap();
    assert_eq!(child.time, UnixMillis(ahead.header().time.0 + 1), "later than its parent all the same");
    node.end().await;
}

#[tokio::test]
async fn transactions_of_a_branch_that_lost_are_produced_again() {
    let rules = kit::rules_with(12, Arc::new(Longest));
    let node = node(true, true, rules, system());
    let sent = Bytes::from_static(b"pay bert");
    node.handle.submit(sent.clone()).await.unwrap();
    node.until(|n| !n.heights_of(&sent).is_empty()).await;
    node.in_sync.send(false).unwrap();
    // Whatever was under way is in the chain a little later; the other branch is longer than that.
    let mut rival: Vec<Block> = Vec::new();
    let genesis = kit::genesis();
    within(async {
        while rival.len() <= usize::try_from(node.chain.status().head.height).unwrap() {
            let next = Maker::new(3).block(rival.last().unwrap_or(&genesis), 1, &[]);
            node.chain.import(next.clone(), Origin::File).await.unwrap();
            rival.push(next);
            if node.chain.hash_at(1).unwrap() == Some(rival[0].hash()) {
                break;
            }
        }
    })
    .await;
    node.until(|n| n.chain.hash_at(1) == Ok(Some(rival[0].hash()))).await;
    assert_eq!(node.heights_of(&sent), [0; 0]);
    node.in_sync.send(true).unwrap();
    node.until(|n| n.heights_of(&sent).len() == 1).await;
    node.end().await;
}

#[tokio::test]
async fn transactions_in_blocks_that_came_by_the_hundreds_are_known_all_the_same() {
    let maker = Maker::new(1);
    let mut row = maker.row(&kit::genesis(), 300, 0);
    let sent = Bytes::from_static(b"pay carl");
    let with = maker.block(&row[299], 2000, &[sent.to_vec()]);
    row.extend(maker.row(&with, 5, 0));
    row.insert(300, with);
    // Once with the transaction waiting, once with nothing waiting.
    for waits in [true, false] {
        let node = node(false, true, kit::rules(12), system());
        if waits {
            node.handle.submit(sent.clone()).await.unwrap();
            node.until(|n| n.metrics.transactions.get() == 1).await;
        }
        let outcome = node.chain.import_segment(row.clone(), Origin::File).await.unwrap();
        assert_eq!(outcome.held, 306);
        if waits {
            node.until(|n| n.metrics.transactions.get() == 0).await;
        }
        // Not known at once, but before long: what waits for nothing is looked at every two seconds.
        within(async {
            while node.handle.submit(sent.clone()).await != Err(SubmitError::Pool(PoolError::Included)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        node.end().await;
    }
}

#[tokio::test]
async fn a_transaction_of_ours_that_is_in_no_block_is_told_again_until_it_is() {
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let mut node = node(false, true, kit::rules(12), clock.clone());
    let (lost, taken) = (Bytes::from_static(b"lost"), Bytes::from_static(b"taken"));
    for transaction in [&lost, &taken] {
        node.handle.submit(transaction.clone()).await.unwrap();
        assert_eq!(within(node.published.recv()).await.unwrap(), News::encode(transaction));
    }
    let block = Maker::new(1).block(&kit::genesis(), 1, &[taken.to_vec()]);
    node.chain.import(block, Origin::File).await.unwrap();
    node.until(|n| n.metrics.transactions.get() == 1).await;
    for round in 1..3 {
        assert!(node.published.try_recv().is_err());
        clock.set(UnixMillis(kit::NOW.0 + round * 310_000));
        assert_eq!(within(node.published.recv()).await.unwrap(), News::encode(&lost), "and not the other one");
    }
    node.end().await;
}

/// Refuses some transactions alone, and others only in a block.
#[derive(Debug)]
struct Picky;

impl Validator for Picky {
    fn transaction(&self, transaction: &[u8]) -> Verdict {
        match transaction.starts_with(b"bad") {
            true => Verdict::Invalid("bad".into()),
            false => Verdict::Accept,
        }
    }

    fn full(&self, block: &Block, _: &crate::block::Header) -> Verdict {
        match block.body().transactions().any(|t| t == b"poison") {
            true => Verdict::Invalid("poison".into()),
            false => Verdict::Accept,
        }
    }
}

#[tokio::test]
async fn rules_of_the_chain_apply_to_transactions_and_a_bad_block_of_ours_does_not_stop_us() {
    let mut rules = kit::rules(12);
    rules.validator = Arc::new(Picky);
    let node = node(true, true, rules, system());
    let bad = node.handle.submit(Bytes::from_static(b"bad one")).await;
    assert_eq!(bad, Err(SubmitError::Refused("bad".into())));
    let from = Identity::generate().address();
    for data in [News::encode(&Bytes::from_static(b"bad too")), Vec::new()] {
        node.gossip.send(Received::detached(from, data)).await.unwrap();
    }
    node.until(|n| n.metrics.rejected.get() == 2).await;
    // One that spoils every block is found and goes, and takes none of the others with it.
    let others: Vec<Vec<u8>> = (0..9).map(|n| format!("good {n}").into_bytes()).collect();
    node.in_sync.send(false).unwrap();
    for (n, good) in others.iter().enumerate() {
        if n == 4 {
            node.handle.submit(Bytes::from_static(b"poison")).await.unwrap();
        }
        node.handle.submit(good.clone().into()).await.unwrap();
    }
    node.in_sync.send(true).unwrap();
    node.until(|n| others.iter().all(|good| n.heights_of(good).len() == 1)).await;
    node.until(|n| n.metrics.transactions.get() == 0).await;
    assert_eq!(node.heights_of(b"poison"), [0; 0]);
    node.end().await;
}

/// Lets nobody produce as long as it is closed.
#[derive(Debug, Default)]
struct Turns {
    open: std::sync::atomic::AtomicBool,
}

impl Validator for Turns {
    fn contextual(&self, _: &crate::block::Header, _: &crate::block::Header) -> Verdict {
        match self.open.load(std::sync::atomic::Ordering::SeqCst) {
            true => Verdict::Accept,
            false => Verdict::Invalid("not its turn".into()),
        }
    }
}

#[tokio::test]
async fn who_may_not_produce_now_keeps_the_transactions_until_it_may() {
    let (mut rules, turns) = (kit::rules(12), Arc::new(Turns::default()));
    rules.validator = turns.clone();
    let node = node(true, true, rules, system());
    node.handle.submit(Bytes::from_static(b"patient")).await.unwrap();
    node.until(|n| n.metrics.failed.get() >= 3).await;
    assert_eq!((node.chain.status().head.height, node.metrics.transactions.get()), (0, 1));
    turns.open.store(true, std::sync::atomic::Ordering::SeqCst);
    node.until(|n| n.heights_of(b"patient").len() == 1).await;
    node.end().await;
}

fn large(n: u8) -> Bytes {
    Bytes::from(vec![n; MAX_TRANSACTION_BYTES])
}

/// Tells a node of a transaction in the name of `source`, and returns its verdict.
async fn tell(node: &Node, source: PeerId, transaction: &Bytes) -> pubsub::Verdict {
    let (received, mut verdict) = Received::watched(source, News::encode(transaction));
    node.gossip.send(received).await.unwrap();
    within(verdict.recv()).await.unwrap()
}

/// Answers every question for a transaction in the same way.
#[allow(clippy::disallowed_methods, reason = "ends with its board")]
fn answering(board: &Board, mut answer: impl FnMut(Inbound<GetTransaction>) + Send + 'static) -> PeerId {
    let address = Identity::generate().address();
    let (_, mut asked) = board.join(address);
    tokio::spawn(async move {
        while let Some(asked) = asked.recv().await {
            answer(asked);
        }
    });
    address
}

#[tokio::test]
async fn of_a_large_transaction_gossip_carries_the_hash_and_it_is_taken_from_who_has_it() {
    let board = Board::default();
    let mut has = node_on(&board, false, true, kit::rules(12), system());
    let wants = node_on(&board, true, true, kit::rules(12), system());
    let sent = large(1);
    has.handle.submit(sent.clone()).await.unwrap();
    let message = within(has.published.recv()).await.unwrap();
    assert!(message.len() < 40, "its hash");
    assert_eq!(tell(&wants, has.address, &sent).await, pubsub::Verdict::Accept);
    wants.until(|n| n.heights_of(&sent).len() == 1).await;
    assert_eq!(tell(&wants, has.address, &sent).await, pubsub::Verdict::Ignore, "it is in a block");
    let (client, _) = board.join(Identity::generate().address());
    let ask = async |client: &Client<GetTransaction>, request| client.request(has.address, request).await;
    assert_eq!(ask(&client, wire::request(&Hash::of(&sent))).await.unwrap().transaction, sent);
    let unknown = ask(&client, wire::request(&Hash::of(b"no"))).await;
    assert_eq!(unknown, Err(RequestError::Status(Status::NotFound)));
    let nonsense =
        ask(&client, crate::wire::proto::block::TransactionRequest { hash: Bytes::from_static(b"no") }).await;
    assert_eq!(nonsense, Err(RequestError::Status(Status::Invalid)));
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn when_who_announced_it_does_not_deliver_others_are_asked_and_liars_are_reported() {
    let board = Board::default();
    let has = node_on(&board, false, true, kit::rules(12), system());
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let silent = answering(&board, |asked| asked.refuse(Status::NotFound));
    let lies = answering(&board, |asked| asked.respond(wire::response(Bytes::from_static(b"something else"))));
    let (first, second) = (large(1), large(2));
    assert_eq!(tell(&wants, silent, &first).await, pubsub::Verdict::Ignore, "nobody else is known");
    has.handle.submit(first.clone()).await.unwrap();
    has.handle.submit(second.clone()).await.unwrap();
    wants.publisher.heard_of(has.address);
    assert_eq!(tell(&wants, silent, &first).await, pubsub::Verdict::Accept);
    assert_eq!(tell(&wants, lies, &second).await, pubsub::Verdict::Accept);
    for n in 3..10 {
        assert_eq!(tell(&wants, lies, &large(n)).await, pubsub::Verdict::Ignore);
    }
    assert!(wants.penalties.is_banned(&lies) && !wants.penalties.is_banned(&silent));
    assert_eq!(wants.metrics.transactions.get(), 2);
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn who_names_what_does_not_exist_has_us_ask_others_for_a_while_only() {
    let board = Board::default();
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let nothing = answering(&board, |asked| asked.refuse(Status::NotFound));
    let (counted, mut count) = mpsc::channel(64);
    let other = answering(&board, move |asked| {
        counted.try_send(()).unwrap();
        asked.refuse(Status::NotFound);
    });
    wants.publisher.heard_of(other);
    let mut asked = 0;
    for n in 0..40 {
        assert_eq!(tell(&wants, nothing, &large(n)).await, pubsub::Verdict::Ignore);
        while count.try_recv().is_ok() {
            asked += 1;
        }
    }
    // One sweep may come in between.
    assert!((16..=32).contains(&asked), "{asked}");
    let has = node_on(&board, false, true, kit::rules(12), system());
    has.handle.submit(large(50)).await.unwrap();
    assert_eq!(tell(&wants, has.address, &large(50)).await, pubsub::Verdict::Accept, "others are listened to");
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn a_small_transaction_under_its_hash_is_rejected() {
    let board = Board::default();
    let node = node_on(&board, false, true, kit::rules(12), system());
    let small = Bytes::from(vec![1; MAX_WHOLE]);
    let answer = small.clone();
    let source = answering(&board, move |asked| asked.respond(wire::response(answer.clone())));
    let what =
        crate::wire::proto::block::transaction_news::What::Hash(Bytes::copy_from_slice(Hash::of(&small).as_bytes()));
    let news = crate::wire::proto::block::TransactionNews { what: Some(what) };
    let (received, mut verdict) = Received::watched(source, prost::Message::encode_to_vec(&news));
    node.gossip.send(received).await.unwrap();
    assert_eq!(within(verdict.recv()).await, Some(pubsub::Verdict::Reject));
    node.end().await;
}

#[tokio::test]
async fn of_many_large_transactions_at_once_none_is_lost() {
    let board = Board::default();
    let has = node_on(&board, false, true, kit::rules(12), system());
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let all: Vec<_> = (0..200_u8).map(|n| Bytes::from(vec![n; MAX_WHOLE + 1 + usize::from(n)])).collect();
    let mut verdicts = Vec::new();
    for transaction in &all {
        has.handle.submit(transaction.clone()).await.unwrap();
        let (received, verdict) = Received::watched(has.address, News::encode(transaction));
        wants.gossip.send(received).await.unwrap();
        verdicts.push(verdict);
    }
    for mut verdict in verdicts {
        assert_eq!(within(verdict.recv()).await, Some(pubsub::Verdict::Accept));
    }
    wants.until(|n| n.metrics.transactions.get() == 200).await;
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn a_source_that_never_answers_holds_up_nothing_but_its_own_share() {
    let board = Board::default();
    let has = node_on(&board, false, true, kit::rules(12), system());
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let mut kept = Vec::new();
    let hangs = answering(&board, move |asked| kept.push(asked));
    let mut waiting = Vec::new();
    for n in 0..16 {
        let (received, verdict) = Received::watched(hangs, News::encode(&large(n)));
        wants.gossip.send(received).await.unwrap();
        waiting.push(verdict);
    }
    // It has its share; what comes now waits.
    let (received, mut waits) = Received::watched(hangs, News::encode(&large(16)));
    wants.gossip.send(received).await.unwrap();
    has.handle.submit(large(17)).await.unwrap();
    assert_eq!(tell(&wants, has.address, &large(17)).await, pubsub::Verdict::Accept);
    assert!(waits.try_recv().is_err());
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn four_sources_that_announce_what_never_comes_do_not_keep_out_a_fifth() {
    let board = Board::default();
    let has = node_on(&board, false, true, kit::rules(12), system());
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let (asking, mut asked) = mpsc::channel(64);
    let mut number = 0_u64;
    for _ in 0..4 {
        let asking = asking.clone();
        let hangs = answering(&board, move |inbound| drop(asking.try_send(inbound)));
        for _ in 0..16 + 1024 {
            number += 1;
            let transaction = [&number.to_be_bytes()[..], &[0; MAX_WHOLE]].concat();
            let (received, _) = Received::watched(hangs, News::encode(&transaction.into()));
            wants.gossip.send(received).await.unwrap();
        }
    }
    let mut kept = Vec::new();
    for _ in 0..64 {
        kept.push(within(asked.recv()).await.unwrap());
    }
    has.handle.submit(large(1)).await.unwrap();
    let (received, mut verdict) = Received::watched(has.address, News::encode(&large(1)));
    wants.gossip.send(received).await.unwrap();
    // The queue of the actor is empty when it answers: then the announcement waits among the others.
    wants.handle.submit(large(2)).await.unwrap();
    kept.into_iter().for_each(|inbound| inbound.refuse(Status::NotFound));
    assert_eq!(within(verdict.recv()).await, Some(pubsub::Verdict::Accept));
    wants.end().await;
    has.end().await;
}

#[tokio::test]
async fn transactions_of_a_branch_that_lost_to_a_long_one_wait_again() {
    let rules = Rules { choice: Arc::new(Longest), ..kit::rules(12) };
    let node = node(false, true, rules, system());
    let ours = [large(1), large(2)];
    for transaction in &ours {
        node.handle.submit(transaction.clone()).await.unwrap();
    }
    let first = Maker::new(1).block(&kit::genesis(), 1000, &[ours[0].to_vec()]);
    let second = Maker::new(1).block(&first, 1000, &[ours[1].to_vec()]);
    node.chain.import_segment(vec![first, second], Origin::File).await.unwrap();
    node.until(|n| n.metrics.transactions.get() == 0).await;
    // Catching up goes far beyond the heights for which a block that lost is kept.
    let theirs = Maker::new(2).row(&kit::genesis(), 300, 0);
    for part in theirs.chunks(128) {
        node.chain.import_segment(part.to_vec(), Origin::File).await.unwrap();
    }
    assert_eq!(node.chain.status().committed.height, 288);
    node.until(|n| n.metrics.transactions.get() == 2).await;
    for transaction in &ours {
        assert_eq!(node.handle.submit(transaction.clone()).await, Err(SubmitError::Pool(PoolError::Known)));
    }
    node.end().await;
}

#[tokio::test]
async fn announcements_that_a_block_has_overtaken_are_nobodys_failure() {
    let board = Board::default();
    let wants = node_on(&board, false, true, kit::rules(12), system());
    let (asking, mut asked) = mpsc::channel(64);
    let source = answering(&board, move |inbound| asking.try_send(inbound).unwrap());
    let all: Vec<_> = (0..40_u8).map(|n| Bytes::from(vec![n; MAX_WHOLE + 1])).collect();
    let mut verdicts = Vec::new();
    for transaction in &all {
        let (received, verdict) = Received::watched(source, News::encode(transaction));
        wants.gossip.send(received).await.unwrap();
        verdicts.push(verdict);
    }
    let mut first = Vec::new();
    for _ in 0..16 {
        first.push(within(asked.recv()).await.unwrap());
    }
    // A block has half of them, so that their source, which has the block too, does not serve them any more.
    let (included, left) = all.split_at(20);
    let included: Vec<_> = included.iter().map(|t| t.to_vec()).collect();
    let block = Maker::new(1).block(&kit::genesis(), 1000, &included);
    wants.chain.import(block, Origin::File).await.unwrap();
    within(async {
        while wants.handle.submit(all[0].clone()).await != Err(SubmitError::Pool(PoolError::Included)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.into_iter().for_each(|inbound| inbound.refuse(Status::NotFound));
    for _ in left {
        let inbound = within(asked.recv()).await.unwrap();
        let hash = wire::read_request(&inbound.request).unwrap();
        let transaction = left.iter().find(|t| Hash::of(t) == hash).expect("what a block has is not asked for");
        inbound.respond(wire::response(transaction.clone()));
    }
    for (n, verdict) in verdicts.iter_mut().enumerate() {
        let expected = if n < 20 { pubsub::Verdict::Ignore } else { pubsub::Verdict::Accept };
        assert_eq!(within(verdict.recv()).await, Some(expected), "{n}");
    }
    wants.end().await;
}
