//! The process may end at any write: what is found then is what was told before, and the chain goes on from there.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Faulty, Random, answer, feed, forest};
use crate::{
    block::{
        Block, Origin, Point,
        chain::{self, ChainError, ChainStore, Change, Core, Memory, OpenError, Rocks},
        kit,
    },
    primitives::{ManualClock, UnixMillis},
    runtime::Stop,
    store::{Store, StoreError},
};

const DEPTH: u64 = 4;

fn blocks(seed: u64) -> Vec<Block> {
    blocks_of(&mut Random(seed), 15)
}

fn blocks_of(random: &mut Random, levels: u64) -> Vec<Block> {
    let mut blocks = forest(random, levels, 3);
    // Mostly in order; some come before their parents.
    blocks.sort_by_key(|b| b.header().height);
    for _ in 0..10 {
        let at = random.below(blocks.len() - 1);
        blocks.swap(at, at + 1);
    }
    blocks
}

/// Imports until the store fails. How far it came.
fn feed_until_it_fails(core: &mut Core, blocks: &[Block]) -> usize {
    for (i, block) in blocks.iter().enumerate() {
        let before = core.written();
        if let Err(error) = core.import(block.clone(), Origin::File, kit::NOW) {
            assert!(matches!(error, ChainError::Store(_)), "{error}");
            assert_eq!(core.written(), before);
            let error = core.import(block.clone(), Origin::File, kit::NOW).unwrap_err();
            assert!(matches!(error, ChainError::Halted(_)), "nothing is taken after that: {error}");
            assert!(core.status().halted.is_some());
            return i;
        }
    }
    blocks.len()
}

fn at_every_write<S: ChainStore>(make: impl Fn() -> S, seed: u64, step: usize) {
    let blocks = blocks(seed);
    let store = Arc::new(make());
    let mut never = Core::open(kit::rules(DEPTH), store.clone(), kit::NOW).unwrap();
    feed(&mut never, &blocks);
    let expected = answer(&never, store.as_ref());
    let writes = never.written().writes;
    assert!(writes > 20 && expected.1.height > 5);
    for (k, after) in (1..writes).step_by(step).flat_map(|k| [(k, false), (k, true)]) {
        let faulty = Arc::new(Faulty::new(make(), k, after));
        let mut core = Core::open(kit::rules(DEPTH), faulty.clone(), kit::NOW).unwrap();
        let came = feed_until_it_fails(&mut core, &blocks);
        assert!(came < blocks.len(), "write {k} of {writes} fails");
        faulty.repair();
        // As another process would find it.
        let mut core = Core::open(kit::rules(DEPTH), faulty.clone(), kit::NOW).unwrap();
        let (head, committed, rows) = answer(&core, faulty.as_ref());
        assert!(committed.height <= expected.1.height);
        assert_eq!(rows.len() as u64, head.height + 1);
        let finals = usize::try_from(committed.height).unwrap() + 1;
        assert_eq!(rows[..finals], expected.2[..finals], "what is final is what would have been");
        let on_disk = faulty.header(&head.hash).unwrap();
        assert!(on_disk.is_some());
        feed(&mut core, &blocks);
        assert_eq!(answer(&core, faulty.as_ref()), expected, "stopped at write {k}, after: {after}");
    }
}

#[test]
fn a_stop_at_any_write_ends_where_it_would_have_without() {
    for seed in 0..4 {
        at_every_write(Memory::default, seed, 1);
    }
}

#[test]
fn a_stop_at_any_write_to_the_disk_does_so_too() {
    let dir = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let make = || {
        number.set(number.get() + 1);
        let store = Store::open(&dir.path().join(number.get().to_string())).unwrap();
        // In some bodies are in packs; the two ways to fail take turns.
        Rocks::open(store).unwrap().packing_from(if number.get() / 2 % 2 == 0 { 1 } else { usize::MAX })
    };
    at_every_write(make, 9, 9);
}

/// What a new process finds in a folder.
fn open(dir: &Path, packed_bytes: usize) -> Rocks {
    Rocks::open(Store::open(dir).unwrap()).unwrap().packing_from(packed_bytes)
}

/// Imports each part in one write if it can be, and what comes alone by itself. `Err` when the store fails: head and committed block before
/// that.
fn take_parts(core: &mut Core, parts: &[&[Block]]) -> Result<(), (Point, Point)> {
    for &part in parts {
        let mut rest = part;
        while !rest.is_empty() {
            let before = (core.head(), core.committed());
            let taken = match rest {
                [block] => core.import(block.clone(), Origin::File, kit::NOW).map(|_| 1),
                _ => {
                    let segment = core.import_segment(rest.to_vec(), Origin::File, kit::NOW);
                    // What it stopped at waits for its parent, or has lost.
                    segment.map(|(outcome, _)| outcome.held + usize::from(outcome.stopped.is_some()))
                }
            };
            match taken {
                Ok(count) => rest = &rest[count..],
                Err(ChainError::Store(_)) => return Err(before),
                Err(error) => panic!("{error}"),
            }
        }
    }
    Ok(())
}

#[test]
fn a_process_that_ends_at_any_write_finds_on_its_disk_what_was_told_before() {
    let mut random = Random(2);
    let blocks = blocks_of(&mut random, 8);
    let (mut parts, mut rest) = (Vec::new(), blocks.as_slice());
    while !rest.is_empty() {
        let (part, later) = rest.split_at((1 + random.below(4)).min(rest.len()));
        parts.push(part);
        rest = later;
    }
    let store = Arc::new(Memory::default());
    let mut never = Core::open(kit::rules(DEPTH), store.clone(), kit::NOW).unwrap();
    take_parts(&mut never, &parts).unwrap();
    let expected = answer(&never, store.as_ref());
    let writes = never.written().writes;
    assert!(writes > 10 && expected.1.height == 4, "{writes} writes, {expected:?}");
    for (k, after) in (1..writes).flat_map(|k| [(k, false), (k, true)]) {
        let dir = tempfile::tempdir().unwrap();
        // In every second one bodies are in packs.
        let packed_bytes = if k % 2 == 0 { 1 } else { usize::MAX };
        let faulty = Arc::new(Faulty::new(open(dir.path(), packed_bytes), k, after));
        let mut core = Core::open(kit::rules(DEPTH), faulty.clone(), kit::NOW).unwrap();
        let told = take_parts(&mut core, &parts).expect_err("a write fails");
        // Nothing of the process is left; what was written is on the disk.
        drop((core, faulty));
        let rocks = Arc::new(open(dir.path(), packed_bytes));
        let mut core = Core::open(kit::rules(DEPTH), rocks.clone(), kit::NOW).unwrap();
        assert_eq!(core.written().writes, 0, "stopped at write {k}, after: {after}: nothing is to be repaired");
        let found = (core.head(), core.committed());
        assert!(found == told || after, "stopped at write {k}: {found:?} instead of {told:?}");
        assert!(found.1.height >= told.1.height, "stopped at write {k}, after: {after}");
        let finals = rocks.hashes(0, usize::try_from(found.1.height).unwrap() + 1).unwrap();
        assert!(expected.2.starts_with(&finals), "what is final is what would have been");
        rocks.counted();
        take_parts(&mut core, &parts).unwrap();
        assert_eq!(answer(&core, rocks.as_ref()), expected, "stopped at write {k}, after: {after}");
    }
}

#[test]
fn what_becomes_final_is_synced_and_nothing_else_waits_for_the_disk() {
    let store = Arc::new(Faulty::new(Memory::default(), u64::MAX, false));
    let mut core = Core::open(kit::rules(DEPTH), store.clone(), kit::NOW).unwrap();
    feed(&mut core, &blocks(5));
    let log = store.hook.log.lock().unwrap();
    assert!(log.iter().all(|(synced, last)| synced == last));
    let synced = log.iter().filter(|(synced, _)| *synced).count();
    assert!(synced > 5 && synced < log.len());
}

#[test]
fn a_failed_store_is_read_again_without_a_restart() {
    let blocks = blocks(3);
    let faulty = Arc::new(Faulty::new(Memory::default(), 12, true));
    let mut core = Core::open(kit::rules(DEPTH), faulty.clone(), kit::NOW).unwrap();
    let came = feed_until_it_fails(&mut core, &blocks);
    core.recover(kit::NOW);
    assert!(core.status().halted.is_some(), "it can be read, and not written");
    let refused = core.import(blocks[came + 1].clone(), Origin::File, kit::NOW);
    assert!(matches!(refused, Err(ChainError::Halted(_))));
    faulty.repair();
    core.recover(kit::NOW);
    feed(&mut core, &blocks);
    let store = Arc::new(Memory::default());
    let mut never = Core::open(kit::rules(DEPTH), store.clone(), kit::NOW).unwrap();
    feed(&mut never, &blocks);
    assert_eq!(answer(&core, faulty.as_ref()), answer(&never, store.as_ref()));
}

#[test]
fn what_looks_like_damage_after_a_failed_write_is_read_again_too() {
    let blocks = kit::Maker::new(1).row(&kit::genesis(), 20, 10);
    let faulty = Arc::new(Faulty::new(Memory::default(), 12, false));
    let mut core = Core::open(kit::rules(DEPTH), faulty.clone(), kit::NOW).unwrap();
    let came = feed_until_it_fails(&mut core, &blocks);
    faulty.repair();
    // As a disk that does not read what is on it: the committed block cannot be found.
    let marks = faulty.marks().unwrap().unwrap();
    let committed = marks.committed;
    let lost = &blocks[usize::try_from(committed.height).unwrap() - 1];
    faulty.inner.write(&Change { evicted: vec![committed], marks, ..Change::default() }, true).unwrap();
    for _ in 0..3 {
        assert_eq!(core.recover(kit::NOW), []);
        assert!(core.status().halted.is_some_and(|h| h.contains("damaged") && h.contains("read again")));
        assert!(core.is_broken());
    }
    faulty.inner.write(&Change { added: vec![lost.clone()], marks, ..Change::default() }, true).unwrap();
    core.recover(kit::NOW);
    assert_eq!(core.status().halted, None);
    feed(&mut core, &blocks[came..]);
    assert_eq!(core.head().height, 20);
}

#[test]
fn a_disk_with_too_little_room_for_what_failed_stays_the_reason_until_there_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(Rocks::open(store.clone()).unwrap()), kit::NOW).unwrap();
    let row = kit::Maker::new(1).row(&kit::genesis(), 3, 1_000_000);
    core.import_segment(row[..1].to_vec(), Origin::Local, kit::NOW).unwrap();
    // Room for small writes, and for the reserve, but not for these blocks as well.
    store.pretend_free(Some(9 << 20));
    let error = core.import_segment(row[1..].to_vec(), Origin::Local, kit::NOW).unwrap_err();
    assert!(matches!(error, ChainError::Store(StoreError::DiskFull(_))), "{error}");
    for _ in 0..3 {
        assert_eq!(core.recover(kit::NOW), []);
        assert!(core.status().halted.is_some_and(|h| h.contains("disk is full")));
    }
    store.pretend_free(Some(12 << 20));
    core.recover(kit::NOW);
    assert_eq!((core.status().halted, core.head().height), (None, 1));
    core.import_segment(row[1..].to_vec(), Origin::Local, kit::NOW).unwrap();
    assert_eq!(core.head().height, 3);
}

#[tokio::test]
async fn a_full_disk_stops_blocks_and_they_go_on_by_themselves_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let deps = chain::Deps {
        store: Arc::new(Rocks::open(store.clone()).unwrap()),
        clock: clock.clone(),
        metrics: chain::Metrics::default(),
    };
    let metrics = deps.metrics.clone();
    let (service, chain) = chain::open(kit::rules(DEPTH), deps).unwrap();
    let stop = Stop::new();
    #[allow(clippy::disallowed_methods, reason = "the test joins it")]
    let task = tokio::spawn(service.run(stop.clone()));
    let row = kit::Maker::new(1).row(&kit::genesis(), 8, 5000);
    for block in &row[..6] {
        chain.import(block.clone(), Origin::Local).await.unwrap();
    }
    store.pretend_full(true);
    let error = chain.import(row[6].clone(), Origin::Local).await.unwrap_err();
    assert!(matches!(error, ChainError::Store(StoreError::DiskFull(_))), "{error}");
    assert!(chain.status().halted.is_some_and(|h| h.contains("disk is full")));
    assert_eq!((chain.status().head.height, metrics.halted.get()), (6, 1));
    assert!(chain.range(1, 6, usize::MAX).unwrap().len() == 6, "what is here is served");
    store.pretend_full(false);
    clock.set(UnixMillis(kit::NOW.0 + 5000));
    let mut status = chain.watch();
    let healed = tokio::time::timeout(Duration::from_secs(10), status.wait_for(|s| s.halted.is_none()));
    healed.await.expect("in time").unwrap();
    for block in &row[6..] {
        chain.import(block.clone(), Origin::Local).await.unwrap();
    }
    assert_eq!(chain.status().head.height, 8);
    stop.stop();
    task.await.unwrap().unwrap();
    let stopped = chain.import(row[0].clone(), Origin::Local).await;
    assert_eq!(stopped, Err(ChainError::Stopped));
}

#[test]
fn a_smaller_depth_after_a_restart_commits_more() {
    let store = Arc::new(Memory::default());
    let mut core = Core::open(kit::rules(12), store.clone(), kit::NOW).unwrap();
    feed(&mut core, &kit::Maker::new(1).row(&kit::genesis(), 20, 0));
    assert_eq!(core.committed().height, 8);
    let core = Core::open(kit::rules(3), store.clone(), kit::NOW).unwrap();
    assert_eq!((core.committed().height, core.head().height), (17, 20));
    let core = Core::open(kit::rules(12), store, kit::NOW).unwrap();
    assert_eq!((core.committed().height, core.head().height), (17, 20), "and what is final stays");
}

/// A store whose rows a test can break.
fn broken(change: impl FnOnce(&mut crate::block::chain::Change, &[Block])) -> Result<Core, OpenError> {
    let store = Arc::new(Memory::default());
    let mut core = Core::open(kit::rules(DEPTH), store.clone(), kit::NOW).unwrap();
    let row = kit::Maker::new(1).row(&kit::genesis(), 20, 10);
    feed(&mut core, &row);
    let mut wrong = crate::block::chain::Change { marks: store.marks().unwrap().unwrap(), ..Default::default() };
    change(&mut wrong, &row);
    store.write(&wrong, false).unwrap();
    Core::open(kit::rules(DEPTH), store, kit::NOW)
}

fn point(block: &Block) -> Point {
    Point { height: block.header().height, hash: block.hash() }
}

#[test]
fn what_contradicts_itself_below_the_committed_block_is_refused_in_clear_words() {
    let error = broken(|change, row| change.detached.push(point(&row[9]))).unwrap_err();
    assert_eq!(error, OpenError::Damaged { height: 10, what: "no block is noted" });
    assert!(error.to_string().contains("height 10") && error.to_string().contains("vos block reset"), "{error}");
    let error = broken(|change, row| change.evicted.push(point(&row[15]))).unwrap_err();
    assert_eq!(error, OpenError::Damaged { height: 16, what: "the header is missing" });
    let error = broken(|change, row| {
        change.attached.push(Point { height: 12, hash: row[9].hash() });
    })
    .unwrap_err();
    assert!(matches!(error, OpenError::Damaged { height: 12, .. }));
    let error = broken(|change, _| change.marks.genesis.0[0] ^= 1).unwrap_err();
    assert!(matches!(error, OpenError::Genesis { .. }) && error.to_string().contains("genesis"), "{error}");
}

#[test]
fn what_is_broken_above_the_committed_block_is_repaired() {
    // A gap in the best chain, with rows above it.
    let core = broken(|change, row| change.detached.push(point(&row[17]))).unwrap();
    assert_eq!(core.head().height, 20);
    // A candidate that is gone takes those above it along.
    let core = broken(|change, row| change.evicted.push(point(&row[17]))).unwrap();
    assert_eq!(core.head().height, 17);
    // A head that was noted and is not there.
    let core = broken(|change, _| change.marks.head.hash.0[0] ^= 1).unwrap();
    assert_eq!(core.head().height, 20);
}

#[test]
fn a_chain_from_the_future_waits_and_comes_in_when_its_time_has_come() {
    let (mut core, _) = super::memory(DEPTH);
    let genesis = kit::genesis();
    let now = UnixMillis(genesis.header().time.0 + 1000);
    let early = kit::Maker::new(1).block(&genesis, 10_000, &[]);
    let child = kit::Maker::new(1).block(&early, 500, &[]);
    let outcome = |core: &mut Core, block: &Block, at| core.import(block.clone(), Origin::Local, at).unwrap().0;
    use crate::block::chain::Outcome;
    assert_eq!(outcome(&mut core, &early, now), Outcome::Early(UnixMillis(genesis.header().time.0 + 8000)));
    assert_eq!(outcome(&mut core, &child, now), Outcome::Early(UnixMillis(genesis.header().time.0 + 8500)));
    core.tick(UnixMillis(now.0 + 6900)).unwrap();
    assert_eq!(core.head().height, 0);
    core.tick(UnixMillis(now.0 + 7000)).unwrap();
    assert_eq!(core.head().height, 1);
    core.tick(UnixMillis(now.0 + 7500)).unwrap();
    assert_eq!(core.head().height, 2);
    let far = kit::Maker::new(1).block(&child, 60_000, &[]);
    assert!(matches!(outcome(&mut core, &far, now), Outcome::Ignored(_)));
}
