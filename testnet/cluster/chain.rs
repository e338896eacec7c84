//! The chain of whole nodes: rules of one's own, large transactions, and strangers that speak its protocols by hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use vos::{
    block::{
        BlockId, Origin,
        broadcast::wire::{Get, Notify},
        chain::{Validator, Verdict},
        kit::{self, Maker},
        pool::MAX_TRANSACTION_BYTES,
        producer::{SubmitError, wire::GetTransaction},
        segment::{self, Progress, SegmentError},
        sync::wire::{Headers, Pull, Shakehand},
    },
    config::Config,
    net::{
        PeerEvent,
        rpc::{Protocols, RequestError, Wire},
    },
    node::{Node, OwnChain},
    primitives::{Hash, PeerId},
    test_util::{Member, config, until},
    wire::Status,
};

use super::{
    hostile::{Bytes, MIB, lying, noise, resident},
    stranger::{Door, Stranger},
};

lying!(LyingShakehand, Shakehand, Bytes);
lying!(LyingPull, Pull, Bytes);
lying!(LyingHeaders, Headers, Bytes);
lying!(LyingNotify, Notify, Bytes);
lying!(LyingGet, Get, Bytes);
lying!(LyingTransaction, GetTransaction, Bytes);

/// Takes no transaction that begins with a capital letter.
#[derive(Debug)]
struct Lower;

impl Validator for Lower {
    fn transaction(&self, transaction: &[u8]) -> Verdict {
        match transaction.first().is_some_and(u8::is_ascii_uppercase) {
            true => Verdict::Invalid("it begins with a capital letter".into()),
            false => Verdict::Accept,
        }
    }
}

/// Blocks come quickly, and are final soon.
fn quick(mut config: Config, produce: bool) -> Config {
    (config.block.produce, config.block.interval_ms) = (produce, 100);
    (config.chain.spacing_ms, config.chain.commit_depth) = (50, 3);
    config
}

async fn member(config: Config) -> Member {
    let dir = tempfile::tempdir().unwrap();
    let own = OwnChain { validator: Some(Arc::new(Lower)), choice: None };
    let node = Box::pin(Node::start_with(dir.path().to_owned(), config, None, own)).await.unwrap();
    Member { node, dir }
}

fn height(member: &Member) -> u64 {
    member.node.block.as_ref().unwrap().status().head.height
}

/// Whether a block of the best chain has a transaction.
fn has(member: &Member, transaction: &[u8]) -> bool {
    let block = member.node.block.as_ref().unwrap();
    (1..=height(member)).any(|h| {
        let held = block.block(BlockId::Height(h)).unwrap();
        held.is_some_and(|held| held.body.transactions().any(|t| t == transaction))
    })
}

/// One that produces, and one that does not.
async fn pair() -> (Member, Member) {
    let a = member(quick(config(&[]), true)).await;
    let b = member(quick(config(&[a.multiaddr()]), false)).await;
    until("blocks are produced and followed", || height(&b) > 2).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_ones_own_hold_and_large_transactions_reach_the_producer() {
    let _turn = super::beside_others().await;
    let (a, b) = pair().await;
    let submit = |bytes: Vec<u8>| b.node.block.as_ref().unwrap().submit(bytes.into());
    let refused = submit(b"Capital".to_vec()).await;
    assert_eq!(refused, Err(SubmitError::Refused("it begins with a capital letter".into())));
    for transaction in [b"small".to_vec(), vec![b'l'; MAX_TRANSACTION_BYTES]] {
        assert_eq!(submit(transaction.clone()).await, Ok(Hash::of(&transaction)));
        until("it is in a block at both", || has(&a, &transaction) && has(&b, &transaction)).await;
    }
    b.stop().await;
    a.stop().await;
}

/// A file of five blocks of the network `test`, each so long after the one before it.
async fn file_of_blocks(apart_ms: u64) -> Vec<u8> {
    let mut blocks = vec![kit::genesis()];
    for _ in 0..5 {
        let next = Maker::new(1).block(&blocks[blocks.len() - 1], apart_ms, &[]);
        blocks.push(next);
    }
    let chain = kit::chain();
    chain.import_segment(blocks.split_off(1), Origin::File).await.unwrap();
    let mut file = Vec::new();
    segment::export(&chain, 1, None, &mut file, |_| {}).unwrap();
    file
}

/// What becomes of such a file at a new node, and of its chain.
async fn import(file: Vec<u8>, spacing_ms: u64) -> (Result<Progress, SegmentError>, u64) {
    let mut config = config(&[]);
    config.node.network = kit::network();
    config.chain.spacing_ms = spacing_ms;
    let member = Member::start("importer", config).await;
    let block = member.node.block.clone().unwrap();
    let imported = tokio::task::spawn_blocking(move || block.import(&file[..])).await.unwrap();
    let height = height(&member);
    member.stop().await;
    (imported, height)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_are_nearer_to_each_other_than_the_configuration_says_are_not_imported() {
    let _turn = super::beside_others().await;
    let file = file_of_blocks(100).await;
    let (imported, height) = import(file.clone(), 100).await;
    assert_eq!((imported.unwrap().blocks, height), (5, 5));
    let (imported, height) = import(file, 60_000).await;
    let refused = matches!(&imported, Err(SegmentError::Block { height: 1, why }) if why.contains("60000 ms"));
    assert!(refused && height == 0, "{imported:?}, at {height}");
}

fn doors(protocols: &mut Protocols) -> Vec<Door> {
    vec![
        Door::of::<LyingShakehand>(protocols),
        Door::of::<LyingPull>(protocols),
        Door::of::<LyingHeaders>(protocols),
        Door::of::<LyingNotify>(protocols),
        Door::of::<LyingGet>(protocols),
        Door::of::<LyingTransaction>(protocols),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_its_protocols_get_a_status_and_the_chain_goes_on() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    let to = a.address();
    let mut refused = BTreeMap::new();
    // One stranger after the other: what is wrong often enough gets its sender banned.
    for round in 0..6 {
        let stranger = Stranger::connect(&a, doors).await;
        for seed in 0..4 {
            let seed = round * 4 + seed;
            let noise = noise(seed, usize::try_from(seed).unwrap() + 1);
            for (door, answer) in stranger.everywhere(to, &noise).await {
                let refused: &mut u32 = refused.entry(door).or_default();
                match answer {
                    Err(RequestError::Status(Status::Invalid | Status::Refused)) => *refused += 1,
                    // What nobody knows is not there; who was banned is gone.
                    Ok(_)
                    | Err(RequestError::Status(_) | RequestError::ConnectionLost | RequestError::Unreachable(_)) => {}
                    other => panic!("seed {seed}, {door}: {other:?}"),
                }
            }
        }
    }
    assert!(refused.values().all(|count| *count > 0), "refused: {refused:?}");
    // Half a gigabyte, in frames over every limit.
    let before = resident();
    for _ in 0..10 {
        let stranger = Stranger::connect(&a, doors).await;
        for (door, answer) in stranger.everywhere(to, &vec![1; 8 * MIB - 64]).await {
            let error = answer.expect_err(door);
            assert!(matches!(error, RequestError::ConnectionLost | RequestError::Status(_)), "{door}: {error:?}");
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    let at = height(&b);
    until("blocks go on, to those who ask for them in earnest", || height(&b) > at + 3).await;
    b.stop().await;
    a.stop().await;
}

/// Two strangers of one node that has nobody else, and who they are.
async fn two_strangers(a: &Member) -> [(Stranger, PeerId); 2] {
    let first = Stranger::connect(a, doors).await;
    until("the first one is a peer", || a.node.net.peer_count() == 1).await;
    let known = a.node.net.peers()[0].address;
    let second = Stranger::connect(a, doors).await;
    until("the second one is a peer", || a.node.net.peer_count() == 2).await;
    let other = a.node.net.peers().iter().map(|peer| peer.address).find(|peer| *peer != known).unwrap();
    [(first, known), (second, other)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_banned_is_disconnected_and_the_others_are_served_on() {
    let _turn = super::beside_others().await;
    let a = Member::start("a", config(&[])).await;
    let to = a.address();
    let [(honest, known), (liar, banned)] = two_strangers(&a).await;
    let mut events = a.node.net.subscribe();
    // Nobody asks for no blocks. What four such requests cost is within what is forgiven.
    for _ in 0..4 {
        let answer = liar.ask(LyingPull::NAME, to, b"").await;
        assert_eq!(answer.unwrap_err(), RequestError::Status(Status::Invalid));
    }
    assert!(a.node.net.is_connected(&banned));
    // The end of the connection may overtake the answer.
    let last = liar.ask(LyingPull::NAME, to, b"").await;
    assert!(last.is_err(), "{last:?}");
    // It may come back, so a look at the peers would not do.
    let down = async { while events.recv().await.unwrap() != PeerEvent::Down(banned) {} };
    tokio::time::timeout(Duration::from_secs(30), down).await.expect("its connection is closed");
    // Block 1 alone, which is not there.
    honest.ask(LyingPull::NAME, to, &[0x08, 1, 0x10, 1]).await.unwrap();
    assert!(a.node.net.is_connected(&known));
    a.stop().await;
}
