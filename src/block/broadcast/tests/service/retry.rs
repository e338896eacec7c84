//! A chain that takes nothing for a while: blocks are tried again, and their children are not forgotten.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    block::{
        chain::{self, ChainStore, Change},
        kit::{Hooked, OnWrite},
    },
    primitives::UnixMillis,
    store::StoreError,
};

/// So many of the next writes fail.
#[derive(Debug, Default)]
struct Fails(AtomicUsize);

impl OnWrite<Memory> for Fails {
    fn on_write(&self, inner: &Memory, change: &Change, synced: bool) -> Result<(), StoreError> {
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(StoreError::Failed("on purpose".into())),
            Err(_) => inner.write(change, synced),
        }
    }
}

struct Broken {
    rig: Rig,
    store: Arc<Hooked<Memory, Fails>>,
    now: u64,
    _owner: JoinSet<()>,
}

impl Broken {
    fn start() -> Self {
        let (store, clock) = (
            Arc::new(Hooked { inner: Memory::default(), hook: Fails::default() }),
            Arc::new(ManualClock::new(kit::NOW)),
        );
        let deps = chain::Deps { store: store.clone(), clock: clock.clone(), metrics: chain::Metrics::default() };
        let (service, chain) = chain::open(kit::rules(DEFAULT_COMMIT_DEPTH), deps).unwrap();
        let mut owner = JoinSet::new();
        // It looks at its store again by itself.
        owner.spawn(async move { service.run(Stop::new()).await.unwrap() });
        Self { rig: Rig::start_on(chain, clock), store, now: kit::NOW.0, _owner: owner }
    }

    /// The write of the next block fails.
    fn fail_next(&self) {
        self.store.hook.0.store(1, Ordering::SeqCst);
    }

    /// The chain looks at its store again, and finds it good.
    async fn recover(&mut self) {
        self.now += 10_000;
        self.rig.clock.set(UnixMillis(self.now));
        let chain = self.rig.chain.clone();
        until("the chain takes blocks again", || chain.status().halted.is_none()).await;
    }
}

fn point(block: &Block) -> Point {
    Point { height: block.header().height, hash: block.hash() }
}

#[tokio::test]
async fn a_block_that_the_chain_could_not_take_is_sync_s_and_is_taken_when_it_comes_again() {
    let mut broken = Broken::start();
    let mut parent = kit::genesis();
    for (bytes, salt) in [(100, 1), (LARGE, 2)] {
        let mut peer = broken.rig.peer();
        let block = broken.rig.block(&parent, bytes, salt);
        for fails in [true, false] {
            if fails {
                broken.fail_next();
            }
            let mut verdict = broken.rig.gossip(&peer, topic(&block)).await;
            assert_eq!(next(&mut verdict).await, Verdict::Accept, "fails: {fails}");
            for _ in 0..if bytes == LARGE { 6 } else { 0 } {
                serve(next(&mut peer.asked).await, &block);
            }
            if fails {
                assert_eq!(next(&mut broken.rig.claims).await, (peer.id, point(&block)));
                assert_eq!(broken.rig.chain.known(&block.hash()), Ok(Known::No));
                broken.recover().await;
            }
        }
        broken.rig.held(&block).await;
        assert_eq!(broken.rig.penalties.points(&peer.id), 0.0, "nobody is to blame");
        parent = block;
    }
}

#[tokio::test]
async fn the_child_of_a_block_that_the_chain_could_not_take_brings_it_again() {
    let mut broken = Broken::start();
    let peer = broken.rig.peer();
    let block = broken.rig.block(&kit::genesis(), LARGE, 1);
    let child = broken.rig.block(&block, 100, 2);
    broken.fail_next();
    let mut verdict = broken.rig.gossip(&peer, topic(&block)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    // It overtakes its parent, and waits for it.
    let mut verdict = broken.rig.gossip(&peer, topic(&child)).await;
    let mut asked = peer.asked;
    for _ in 0..5 {
        serve(next(&mut asked).await, &block);
    }
    assert!(verdict.try_recv().is_err());
    serve(next(&mut asked).await, &block);
    assert_eq!(next(&mut broken.rig.claims).await, (peer.id, point(&block)));
    assert_eq!(next(&mut verdict).await, Verdict::Ignore, "its parent is not on its way any more");
    assert_eq!(next(&mut broken.rig.claims).await, (peer.id, point(&child)));
    broken.recover().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(asked, vec![block.clone(), child.clone()]));
    let (received, _verdict) = Received::watched(peer.id, topic(&child));
    broken.rig.new_in.send(received).await.unwrap();
    broken.rig.held(&block).await;
    broken.rig.held(&child).await;
}

#[tokio::test]
async fn a_halted_chain_fetches_nothing() {
    let mut broken = Broken::start();
    let mut peer = broken.rig.peer();
    let first = broken.rig.block(&kit::genesis(), 100, 1);
    broken.fail_next();
    assert_eq!(next(&mut broken.rig.gossip(&peer, topic(&first)).await).await, Verdict::Accept);
    assert_eq!(next(&mut broken.rig.claims).await, (peer.id, point(&first)));
    let good = broken.rig.block(&kit::genesis(), LARGE, 2);
    let orphan = broken.rig.block(&first, LARGE, 3);
    for block in [&good, &orphan, &good] {
        let mut verdict = broken.rig.gossip(&peer, topic(block)).await;
        assert_eq!(next(&mut verdict).await, Verdict::Ignore);
        assert_eq!(next(&mut broken.rig.claims).await, (peer.id, point(block)), "sync does what is left");
    }
    assert_eq!(broken.rig.metrics.fetching.get(), 0);
    assert!(peer.asked.try_recv().is_err());
    broken.recover().await;
    let mut verdict = broken.rig.gossip(&peer, topic(&good)).await;
    assert_eq!(next(&mut verdict).await, Verdict::Accept);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(peer.asked, vec![good.clone()]));
    broken.rig.held(&good).await;
}
