//! When a block is due, and what the pool has to know before; the service is driven by hand.

use super::*;
use crate::{
    block::{
        Block, Origin,
        chain::{self, Longest, Memory, Norn},
        kit::{self, Maker},
        penalty::Penalties,
    },
    net::rpc::Loopback,
    primitives::ManualClock,
};

const INTERVAL: Duration = Duration::from_secs(2);

/// A service that nobody runs, on a chain whose clock stands.
fn service(rules: chain::Rules) -> (Service, Chain, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let chain = kit::chain_with(rules, Arc::new(Memory::default()), clock.clone());
    let identity = Identity::generate();
    let (publisher, _) = Publisher::detached();
    let deps = Deps {
        network: kit::network(),
        clock: clock.clone(),
        chain: chain.clone(),
        publisher,
        gossip: mpsc::channel(1).1,
        get: Loopback::<GetTransaction>::default().join(identity.address()),
        identity,
        penalties: Penalties::new().0,
        in_sync: watch::channel(true).1,
        max_body_bytes: 1 << 20,
        metrics: Metrics::default(),
    };
    let config = Config { produce: true, interval_ms: 2000, ..Config::default() };
    (new(&config, deps).0, chain, clock)
}

impl Service {
    /// Hears what the chain has told so far.
    async fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.on_event(Ok(event)).await.unwrap();
        }
    }

    fn transactions_at(&self, height: u64) -> Vec<Vec<u8>> {
        let Some(hash) = self.chain.hash_at(height).unwrap() else { return Vec::new() };
        let body = Body::decode(self.chain.block(&hash).unwrap().unwrap().body).unwrap();
        body.transactions().map(<[u8]>::to_vec).collect()
    }
}

#[tokio::test]
async fn no_block_is_made_on_a_head_whose_transactions_the_pool_has_still() {
    let (mut service, chain, clock) = service(kit::rules(12));
    service.read_recent().await.unwrap();
    let sent = Bytes::from_static(b"pay anna");
    service.take(sent.clone()).unwrap();
    let head = Maker::new(1).block(&kit::genesis(), 2000, &[sent.to_vec()]);
    let time = head.header().time;
    clock.set(time.plus(INTERVAL));
    chain.import(head, Origin::File).await.unwrap();
    // It is the head, and the event that says so is on its way.
    service.on_due().await;
    assert_eq!(chain.status().head.height, 1);
    service.hear().await;
    service.on_due().await;
    assert_eq!((chain.status().head.height, service.transactions_at(2)), (2, Vec::new()), "not a second time");
    // Nor while blocks came too fast to be looked at.
    service.hear().await;
    service.behind = true;
    service.on_due().await;
    assert_eq!(chain.status().head.height, 2);
    service.read_recent().await.unwrap();
    clock.set(time.plus(3 * INTERVAL));
    service.on_due().await;
    assert_eq!(chain.status().head.height, 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_replaces_the_head_again_and_again_does_not_put_off_the_next_block() {
    for choice in [Arc::new(Norn) as Arc<dyn chain::ForkChoice>, Arc::new(Longest)] {
        let (mut service, chain, clock) = service(kit::rules_with(12, choice));
        service.read_recent().await.unwrap();
        let genesis = kit::genesis();
        clock.set(genesis.header().time.plus(INTERVAL));
        let mut due = None;
        for better in 0..20 {
            let sibling = Maker::new(1).block(&genesis, 2000 - better, &[]);
            chain.import(sibling.clone(), Origin::File).await.unwrap();
            assert_eq!(chain.status().head.hash, sibling.hash());
            service.hear().await;
            assert!(due.is_none_or(|due| service.due <= due), "it is due no later");
            due = Some(service.due);
        }
        // One that is higher does.
        let next = Maker::new(2).block(&Maker::new(1).block(&genesis, 2000 - 19, &[]), 2000, &[]);
        clock.set(next.header().time);
        tokio::time::advance(INTERVAL).await;
        chain.import(next, Origin::File).await.unwrap();
        service.hear().await;
        assert!(service.due > due.unwrap());
    }
}

#[tokio::test]
async fn what_a_block_took_while_events_were_lost_is_taken_out_however_old_it_is() {
    let (mut service, chain, _) = service(kit::rules(12));
    service.read_recent().await.unwrap();
    let sent = Bytes::from_static(b"pay dora");
    service.take(sent.clone()).unwrap();
    let first = Maker::new(1).block(&kit::genesis(), 2000, &[sent.to_vec()]);
    let row = [vec![first.clone()], Maker::new(1).row(&first, 300, 0)].concat();
    chain.import_segment(row, Origin::File).await.unwrap();
    service.on_event(Err(broadcast::error::RecvError::Lagged(1))).await.unwrap();
    assert!(service.pool.is_empty());
}

#[tokio::test]
async fn a_block_on_one_of_a_fast_clock_is_not_nearer_to_it_than_the_rules_let_it_be() {
    let mut rules = kit::rules(12);
    rules.validator = Arc::new(chain::Spaced::new(500, rules.validator));
    let (mut service, chain, clock) = service(rules);
    let head = Maker::new(1).block(&kit::genesis(), 3000, &[]);
    let time = head.header().time;
    // Its producer is three seconds ahead of us, and an interval has passed.
    clock.set(UnixMillis(time.0 - 3000).plus(INTERVAL + Duration::from_millis(1300)));
    chain.import(head, Origin::File).await.unwrap();
    service.read_recent().await.unwrap();
    service.on_due().await;
    let made = chain.hash_at(2).unwrap().map(|hash| chain.header(&hash).unwrap().unwrap().time);
    assert_eq!(made, Some(UnixMillis(time.0 + 500)));
}

#[tokio::test]
async fn transactions_of_a_block_that_a_crowd_of_better_ones_pushed_out_wait_again() {
    let (mut service, chain, clock) = service(kit::rules(12));
    service.read_recent().await.unwrap();
    let genesis = kit::genesis();
    clock.set(genesis.header().time.plus(INTERVAL));
    let sent = Bytes::from_static(b"pay bert");
    let ours = Maker::new(1).block(&genesis, 1000, &[sent.to_vec()]);
    chain.import(ours.clone(), Origin::File).await.unwrap();
    service.hear().await;
    let crowd: Vec<Block> = (0..200u64)
        .map(|n| Maker::new(2).block(&genesis, 1000, &[n.to_be_bytes().to_vec(), b"more".to_vec()]))
        .collect();
    for block in crowd {
        chain.import(block, Origin::File).await.unwrap();
    }
    assert_ne!(chain.hash_at(1).unwrap(), Some(ours.hash()));
    service.hear().await;
    assert!(service.pool.contains(&Hash::of(&sent)), "it left the best chain, and was here to be read");
}

#[test]
fn a_neighbour_whose_block_was_quicker_is_not_dishonest() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let board = Loopback::<GetTransaction>::default();
        let (us, neighbour) = (PeerId::random(), PeerId::random());
        let (client, mut asked) = (board.join(us).0, board.join(neighbour).1);
        let mut fetches = Fetches::new(client);
        let hashes: Vec<Hash> = (0..20u64).map(|n| Hash::of(&n.to_be_bytes())).collect();
        for hash in &hashes {
            assert!(fetches.begin(Received::detached(neighbour, Vec::new()), *hash, Vec::new()).is_none());
        }
        for _ in &hashes {
            let asked = tokio::select! {
                Some(asked) = asked.recv() => asked,
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it is asked"),
            };
            asked.refuse(Status::NotFound);
            let ended = fetches.next().await;
            assert!(fetches.settle(ended, |_| false).is_some());
        }
        let begin = |fetches: &mut Fetches, n: u64| {
            fetches.begin(Received::detached(neighbour, Vec::new()), Hash::of(&n.to_be_bytes()), Vec::new()).is_none()
        };
        assert!(!begin(&mut fetches, 100), "twenty announcements that it did not deliver");
        // A block has fifteen of them.
        fetches.excuse(|hash| hashes[..15].contains(hash));
        assert!(begin(&mut fetches, 101));
    });
}
