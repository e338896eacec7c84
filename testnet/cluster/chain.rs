//! The chain of whole nodes: rules of one's own, large transactions, and strangers that speak its protocols by hand.

use std::sync::Arc;

use vos::{
    block::{
        BlockId,
        broadcast::wire::{Get, Notify},
        chain::{Validator, Verdict},
        pool::MAX_TRANSACTION_BYTES,
        producer::{SubmitError, wire::GetTransaction},
        sync::wire::{Headers, Pull, Shakehand},
    },
    config::Config,
    net::rpc::{Client, Protocols, RequestError, Wire},
    node::{Node, OwnChain},
    primitives::{Hash, PeerId},
    test_util::{Ground, Member, Node as Bare, config, node_on, until},
    wire::Status,
};

use super::hostile::{Bytes, MIB, lying, noise, resident};

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
    (config.block.produce, config.block.interval_ms, config.chain.commit_depth) = (produce, 100, 3);
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

struct Stranger {
    /// Kept, so that its clients work.
    _node: Bare,
    shakehand: Client<LyingShakehand>,
    pull: Client<LyingPull>,
    headers: Client<LyingHeaders>,
    notify: Client<LyingNotify>,
    get: Client<LyingGet>,
    transaction: Client<LyingTransaction>,
}

/// By the order of [`Stranger::everywhere`].
const NAMES: [&str; 6] = ["shakehand", "pull", "headers", "notify", "get", "transaction"];

impl Stranger {
    async fn connect(victim: &Member) -> Self {
        let wire = |protocols: &mut Protocols, _: &mut _| {
            (
                protocols.add::<LyingShakehand>().0,
                protocols.add::<LyingPull>().0,
                protocols.add::<LyingHeaders>().0,
                protocols.add::<LyingNotify>().0,
                protocols.add::<LyingGet>().0,
                protocols.add::<LyingTransaction>().0,
            )
        };
        let (node, clients) = node_on(Ground::fresh(), Bare::config(), wire).await;
        let (shakehand, pull, headers, notify, get, transaction) = clients;
        node.handle.connect(victim.multiaddr()).await.unwrap();
        Self { _node: node, shakehand, pull, headers, notify, get, transaction }
    }

    async fn everywhere(&self, to: PeerId, request: &[u8]) -> [Result<Bytes, RequestError>; 6] {
        let request = || Bytes(request.to_vec());
        [
            self.shakehand.request(to, request()).await,
            self.pull.request(to, request()).await,
            self.headers.request(to, request()).await,
            self.notify.request(to, request()).await,
            self.get.request(to, request()).await,
            self.transaction.request(to, request()).await,
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_its_protocols_get_a_status_and_the_chain_goes_on() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    let to = a.address();
    let mut refused = [0; NAMES.len()];
    // One stranger after the other: what is wrong often enough gets its sender banned.
    for round in 0..6 {
        let stranger = Stranger::connect(&a).await;
        for seed in 0..4 {
            let seed = round * 4 + seed;
            let noise = noise(seed, usize::try_from(seed).unwrap() + 1);
            for (protocol, answer) in stranger.everywhere(to, &noise).await.into_iter().enumerate() {
                match answer {
                    Err(RequestError::Status(Status::Invalid | Status::Refused)) => refused[protocol] += 1,
                    // What nobody knows is not there; who was banned is gone.
                    Ok(_)
                    | Err(RequestError::Status(_) | RequestError::ConnectionLost | RequestError::Unreachable(_)) => {}
                    other => panic!("seed {seed}, {}: {other:?}", NAMES[protocol]),
                }
            }
        }
    }
    assert!(refused.iter().all(|count| *count > 0), "refused of {NAMES:?}: {refused:?}");
    // Half a gigabyte, in frames over every limit.
    let before = resident();
    for _ in 0..10 {
        let stranger = Stranger::connect(&a).await;
        for (name, answer) in NAMES.iter().zip(stranger.everywhere(to, &vec![1; 8 * MIB - 64]).await) {
            let error = answer.expect_err(name);
            assert!(matches!(error, RequestError::ConnectionLost | RequestError::Status(_)), "{name}: {error:?}");
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    let at = height(&b);
    until("blocks go on, to those who ask for them in earnest", || height(&b) > at + 3).await;
    b.stop().await;
    a.stop().await;
}
