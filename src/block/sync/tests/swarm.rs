//! The service over real swarms, and a peer that sends raw bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{sized, stored};
use crate::{
    block::{
        Block, MAX_BODY_BYTES, MAX_EXTRA_BYTES, Origin,
        chain::{self, Chain, ChainStore, Memory, Rocks},
        kit::{self, Maker, NOW},
        penalty::Penalties,
        sync::{self, Deps, Handle, Metrics, Settings, State, wire::*},
        trace::Trace,
    },
    net::rpc::{Client, RequestError},
    primitives::ManualClock,
    runtime::Stop,
    store::Store,
    test_util::{self, until},
    wire::{Status, proto::block_sync as pb},
};

struct Node {
    net: test_util::Node,
    chain: Chain,
    handle: Handle,
    pull: Client<Pull>,
    greet: Client<Shakehand>,
    stop: Stop,
    tasks: JoinSet<()>,
}

async fn start(blocks: &[Block]) -> Node {
    start_on(Arc::new(Memory::default()), 1 << 20, blocks).await
}

async fn start_on(store: Arc<dyn ChainStore>, max_body_bytes: usize, blocks: &[Block]) -> Node {
    let clock = Arc::new(ManualClock::new(NOW));
    let chain = kit::chain_with(kit::rules(chain::DEFAULT_COMMIT_DEPTH), store, clock.clone());
    chain.import_segment(blocks.to_vec(), Origin::File).await.unwrap();
    let (net, (shakehand, pull, headers)) =
        test_util::node(test_util::Node::config(), |p, _| (p.add::<Shakehand>(), p.add::<Pull>(), p.add::<Headers>()))
            .await;
    let (clients, (penalties, _)) = ((pull.0.clone(), shakehand.0.clone()), Penalties::new());
    let deps = Deps {
        chain: chain.clone(),
        net: net.handle.clone(),
        network: kit::network(),
        clock,
        penalties,
        trace: Trace::default(),
        shakehand,
        pull,
        headers,
    };
    let settings = Settings { depth: 12, max_body_bytes, interval: Duration::from_secs(2), solitary: false };
    let (service, handle) = sync::new(settings, deps, Metrics::default());
    let (stop, mut tasks) = (Stop::new(), JoinSet::new());
    let signal = stop.clone();
    tasks.spawn(async move { service.run(signal).await.unwrap() });
    Node { net, chain, handle, pull: clients.0, greet: clients.1, stop, tasks }
}

async fn stop(mut node: Node) {
    node.stop.stop();
    while let Some(ended) = node.tasks.join_next().await {
        ended.unwrap();
    }
    node.net.stop.stop();
    let _ = node.net.tasks.join(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_syncs_from_three_over_tcp() {
    let row = Maker::new(1).row(&kit::genesis(), 500, 3000);
    let new = start(&[]).await;
    let mut old = Vec::new();
    for _ in 0..3 {
        let node = start(&row).await;
        node.net.handle.connect(new.net.addrs[0].clone()).await.unwrap();
        old.push(node);
    }
    until("the chain is here", || new.chain.status().head.height == 500).await;
    until("in step", || *new.handle.state().borrow() == State::Synced).await;
    until("all are known", || new.handle.progress().borrow().peers == 3).await;
    stop(new).await;
    for node in old {
        stop(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_as_long_as_there_may_be_come_over_tcp_from_packs_and_from_memory() {
    // With the longest header, and with nothing between two of the longest.
    let mut row = vec![sized(&kit::genesis(), MAX_BODY_BYTES, MAX_EXTRA_BYTES)];
    for bytes in [0, MAX_BODY_BYTES, MAX_BODY_BYTES] {
        row.push(sized(&row[row.len() - 1], bytes, 0));
    }
    for packed in [true, false] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [theirs, ours] = dirs.each_ref().map(|dir| -> Arc<dyn ChainStore> {
            match packed {
                true => Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap().packing_from(1)),
                false => Arc::new(Memory::default()),
            }
        });
        let (old, new) = (start_on(theirs, MAX_BODY_BYTES, &row).await, start_on(ours, MAX_BODY_BYTES, &[]).await);
        new.net.handle.connect(old.net.addrs[0].clone()).await.unwrap();
        until("the chain is here", || new.chain.status().head.height == 4).await;
        let pulled = new.chain.range(1, 4, usize::MAX).unwrap();
        assert!(pulled == row.iter().map(stored).collect::<Vec<_>>(), "byte by byte");
        stop(new).await;
        stop(old).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_bytes_are_answered_and_the_link_lives_on() {
    let row = Maker::new(1).row(&kit::genesis(), 200, 3000);
    let (node, raw) = (start(&row).await, start(&row).await);
    raw.net.handle.connect(node.net.addrs[0].clone()).await.unwrap();
    let peer = node.net.handle.local();
    let invalid = RequestError::Status(Status::Invalid);
    // Not protobuf; a field that is cut; nothing at all, which is a count of 0.
    for bytes in [&[0xff; 20][..], &[0x08], &[]] {
        let answer = raw.pull.request_encoded(peer, &[Bytes::copy_from_slice(bytes)]).await;
        assert_eq!(answer.unwrap_err(), invalid, "{bytes:?}");
    }
    let too_long = raw.greet.request_encoded(peer, &[vec![0; 513].into()]).await.unwrap_err();
    assert!(matches!(too_long, RequestError::TooLarge { .. }), "{too_long}");
    let answer = raw.pull.request(peer, pb::PullBlock { start: 1 << 62, count: 1, max_bytes: 0 }).await.unwrap();
    assert_eq!((answer.status(), answer.height), (pb::push_block::Status::NotFound, 200));
    let answer = raw.pull.request(peer, pb::PullBlock { start: 1, count: 128, max_bytes: 10_000 }).await.unwrap();
    assert_eq!(answer.status(), pb::push_block::Status::Partial);
    let span = Span { start: 1, count: 128 };
    let Some(Push::Blocks(blocks)) = read_push_response(answer, span) else { panic!("blocks") };
    assert!(blocks.len() == 3, "{} blocks in 10000 bytes", blocks.len());
    // A flood from one peer does not keep another one from its chain.
    let mut flood = JoinSet::new();
    for _ in 0..16 {
        let pull = raw.pull.clone();
        flood.spawn(async move {
            for _ in 0..20 {
                let answer = pull.request(peer, pb::PullBlock { start: 1, count: 128, max_bytes: 0 }).await;
                assert!(answer.is_ok() || answer.clone().is_err_and(|e| e.is_retryable()), "{answer:?}");
            }
        });
    }
    let new = start(&[]).await;
    new.net.handle.connect(node.net.addrs[0].clone()).await.unwrap();
    until("the chain is here", || new.chain.status().head.height == 200).await;
    flood.join_all().await;
    for node in [node, raw, new] {
        stop(node).await;
    }
}
