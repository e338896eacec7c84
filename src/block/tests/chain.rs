//! The chain through its door.

use std::{sync::Arc, time::Duration};

use super::{Random, forest};
use crate::{
    block::{
        Block, Body, Origin, VerifiedHeader,
        chain::{self, ChainError, Event, Judgement, Known, Memory, Outcome},
        kit::{self, Maker},
        purpose,
    },
    primitives::ManualClock,
    runtime::Stop,
};

#[tokio::test]
async fn a_row_of_blocks_is_imported_committed_and_read_back() {
    let chain = kit::chain();
    let mut events = chain.events();
    let row = Maker::new(1).row(&kit::genesis(), 20, 100);
    let first = VerifiedHeader::new(row[0].header().clone(), &purpose(&kit::network())).unwrap();
    assert_eq!(chain.judge(&first), Ok(Judgement::Good));
    assert_eq!(chain.known(&row[0].hash()), Ok(Known::No));
    let outcome = chain.import(row[0].clone(), Origin::Local).await.unwrap();
    assert_eq!(outcome, Outcome::Imported { new_head: true });
    assert_eq!(chain.judge(&first), Ok(Judgement::Known));
    let outcome = chain.import_segment(row.clone(), Origin::File).await.unwrap();
    assert_eq!((outcome.held, outcome.stopped), (20, None));
    let status = chain.status();
    assert_eq!((status.head.height, status.committed.height), (20, 8));
    assert_eq!(chain.hash_at(3).unwrap(), Some(row[2].hash()));
    assert_eq!(chain.hash_at(20).unwrap(), Some(row[19].hash()));
    assert_eq!(chain.hash_at(21).unwrap(), None);
    let range = chain.range(5, 100, usize::MAX).unwrap();
    assert_eq!(range.len(), 16);
    assert!(range.iter().zip(&row[4..]).all(|(s, b)| s.hash == b.hash() && s.body == b.body().bytes()));
    assert_eq!(chain.range(5, 100, 1000).unwrap().len(), 3);
    assert_eq!(chain.headers(0, 5, 7).unwrap().len(), 3);
    assert!(matches!(events.recv().await.unwrap(), Event::Imported { origin: Origin::Local, .. }));
    assert!(matches!(events.recv().await.unwrap(), Event::Head { .. }));
}

#[tokio::test]
async fn headers_and_blocks_are_judged_by_place_and_time() {
    let chain = kit::chain_with(kit::rules(50), Arc::new(Memory::default()), Arc::new(ManualClock::new(kit::NOW)));
    let maker = Maker::new(1);
    let row = maker.row(&kit::genesis(), 12, 0);
    chain.import_segment(row.clone(), Origin::File).await.unwrap();
    let judge = |block: &Block| {
        let header = VerifiedHeader::new(block.header().clone(), &purpose(&kit::network())).unwrap();
        chain.judge(&header).unwrap()
    };
    // Heights 4 and 5, of another branch: eight and seven below the head.
    assert_eq!(judge(&maker.block(&row[2], 1, &[])), Judgement::Stale);
    assert_eq!(judge(&maker.block(&row[3], 1, &[])), Judgement::Good);
    let far = maker.row(&row[11], 40, 0);
    assert_eq!((judge(&far[1]), judge(&far[31])), (Judgement::Orphan, Judgement::Orphan));
    assert_eq!(judge(&far[32]), Judgement::TooFar, "33 above the head");
    let same_time = maker.block(&row[11], 0, &[]);
    let why = "it is not later than its parent".to_owned();
    assert_eq!(judge(&same_time), Judgement::Invalid(why.clone()));
    assert_eq!(chain.import(same_time.clone(), Origin::File).await, Ok(Outcome::Invalid(why.clone())));
    assert_eq!(judge(&maker.block(&same_time, 1, &[])), Judgement::Invalid("its parent is invalid".into()));
    let mut skips = row[11].header().clone();
    (skips.height, skips.parent, skips.time) = (14, row[11].hash(), skips.time.plus(Duration::from_secs(1)));
    let skips = maker.sign(skips, Body::default());
    assert!(matches!(judge(&skips), Judgement::Invalid(_)), "a height left out");
    assert!(matches!(chain.import(skips, Origin::File).await, Ok(Outcome::Invalid(_))));
    // Up to two seconds ahead of our clock is now, up to fifteen is later, and more is nobody's.
    let ahead = |ms: u64| maker.block(&row[11], kit::NOW.0 + ms - row[11].header().time.0, &[]);
    assert_eq!(judge(&ahead(2000)), Judgement::Good);
    assert_eq!(judge(&ahead(2001)), Judgement::Early(kit::NOW.plus(Duration::from_millis(1))));
    assert!(matches!(judge(&ahead(15_001)), Judgement::Ignored(_)));
    let outcome = chain.import(ahead(15_000), Origin::File).await;
    assert_eq!(outcome, Ok(Outcome::Early(kit::NOW.plus(Duration::from_secs(13)))));
    assert!(matches!(chain.import(ahead(15_001), Origin::File).await, Ok(Outcome::Ignored(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_import_at_once_share_writes_and_readers_see_a_whole_chain() {
    let deps = chain::Deps {
        store: Arc::new(Memory::default()),
        clock: Arc::new(ManualClock::new(kit::NOW)),
        metrics: chain::Metrics::default(),
    };
    let metrics = deps.metrics.clone();
    let (service, chain) = chain::open(kit::rules(4), deps).unwrap();
    let blocks = forest(&mut Random(1), 40, 3);
    let (stop, mut imports) = (Stop::new(), tokio::task::JoinSet::new());
    for block in blocks.clone() {
        let chain = chain.clone();
        imports.spawn(async move { chain.import(block, Origin::File).await });
    }
    // The owner does not run yet: its queue takes 64, and all others are told so.
    for _ in 64..blocks.len() {
        let refused = imports.join_next().await.unwrap().unwrap();
        assert_eq!(refused, Err(ChainError::Busy));
    }
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn({
        let running = service.run(stop.clone());
        async move { running.await.unwrap() }
    });
    let reader = chain.clone();
    tasks.spawn(async move {
        let mut status = reader.watch();
        while status.borrow_and_update().head.height < 40 {
            let now = reader.status();
            if let Some(hash) = reader.hash_at(now.committed.height).unwrap() {
                assert_eq!(hash, now.committed.hash, "what is final stays");
                assert!(reader.block(&hash).unwrap().is_some());
            }
            tokio::time::timeout(Duration::from_secs(10), status.changed()).await.expect("in time").unwrap();
        }
    });
    while let Some(done) = imports.join_next().await {
        let outcome = done.unwrap();
        assert!(
            matches!(outcome, Ok(Outcome::Imported { .. } | Outcome::Orphan { .. } | Outcome::OutOfWindow)),
            "{outcome:?}"
        );
    }
    // They were all there when the owner began.
    assert!(metrics.writes.get() <= 4, "{} writes", metrics.writes.get());
    // In order now, so that each is taken, but for what branches off below the committed block and children of such.
    let outcome = chain.import_segment(blocks.clone(), Origin::File).await.unwrap();
    assert!(outcome.held > 0);
    for block in blocks {
        let outcome = chain.import(block, Origin::File).await.unwrap();
        assert!(
            matches!(
                outcome,
                Outcome::Known | Outcome::Imported { .. } | Outcome::Orphan { .. } | Outcome::OutOfWindow
            ),
            "{outcome:?}"
        );
    }
    stop.stop();
    while let Some(done) = tokio::time::timeout(Duration::from_secs(10), tasks.join_next()).await.expect("in time") {
        done.unwrap();
    }
    assert_eq!((chain.status().head.height, chain.status().committed.height), (40, 36));
}

#[tokio::test]
async fn blocks_that_are_final_in_the_very_write_that_adds_them_are_known_to_the_next_in_the_queue() {
    let deps = chain::Deps {
        store: Arc::new(Memory::default()),
        clock: Arc::new(ManualClock::new(kit::NOW)),
        metrics: chain::Metrics::default(),
    };
    let (service, chain) = chain::open(kit::rules(4), deps).unwrap();
    let row = Maker::new(1).row(&kit::genesis(), 30, 0);
    let mut imports = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (chain, row) = (chain.clone(), row.clone());
        imports.spawn(async move { chain.import_segment(row, Origin::File).await });
    }
    // All of them are in the queue before the owner runs, so it takes them in one go.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    service.run_detached();
    while let Some(outcome) = imports.join_next().await {
        let outcome = outcome.unwrap().unwrap();
        assert_eq!((outcome.held, outcome.stopped), (30, None));
    }
    assert_eq!((chain.status().head.height, chain.status().committed.height), (30, 26));
}

#[tokio::test]
async fn what_was_said_to_follow_shares_the_write_and_is_not_waited_for_long() {
    let (store, metrics) = (Arc::new(Memory::default()), chain::Metrics::default());
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let deps = chain::Deps { store, clock, metrics: metrics.clone() };
    let (service, chain) = chain::open(kit::rules(4), deps).unwrap();
    let (row, before) = (Maker::new(1).row(&kit::genesis(), 30, 0), metrics.writes.get());
    let mut queued = Vec::new();
    for part in row.chunks(10) {
        // What the last one says does not come.
        queued.push(chain.queue_segment(part.to_vec(), Origin::File, true).await.unwrap());
    }
    service.run_detached();
    for queued in queued {
        let outcome = tokio::time::timeout(Duration::from_secs(10), queued.outcome()).await.expect("in time").unwrap();
        assert_eq!((outcome.held, outcome.stopped), (10, None));
    }
    assert_eq!((chain.status().head.height, metrics.writes.get()), (30, before + 1));
}
