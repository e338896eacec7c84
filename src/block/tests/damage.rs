//! A store that fails for a while, one that takes no more, and what is stored of another network or damaged.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{answer, feed};
use crate::{
    block::{
        Block, Origin,
        chain::{self, ChainStore, Change, Core, Memory, OpenError, Outcome, Rocks, SegmentOutcome},
        kit::{self, Hooked, Maker, OnWrite},
    },
    identity::Identity,
    primitives::{Clock, Hash, UnixMillis},
    runtime::Stop,
    store::{Store, StoreError},
};

/// Bodies cannot be read now and then, and no write is taken for as long as it is told.
#[derive(Default, Debug)]
struct Flaky {
    unreadable: AtomicBool,
    refuses: Mutex<Option<StoreError>>,
}

impl Flaky {
    fn refuse(&self, error: Option<StoreError>) {
        *self.refuses.lock().unwrap() = error;
    }
}

impl OnWrite<Memory> for Flaky {
    fn on_body(&self, inner: &Memory, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        match self.unreadable.load(Ordering::SeqCst) {
            true => Err(StoreError::Failed("input/output error".into())),
            false => inner.body(hash),
        }
    }

    fn on_write(&self, inner: &Memory, change: &Change, synced: bool) -> Result<(), StoreError> {
        self.refuses.lock().unwrap().clone().map_or_else(|| inner.write(change, synced), Err)
    }
}

fn flaky() -> Arc<Hooked<Memory, Flaky>> {
    Arc::new(Hooked { inner: Memory::default(), hook: Flaky::default() })
}

#[test]
fn candidates_that_cannot_be_read_for_a_moment_are_not_deleted() {
    let store = flaky();
    let mut core = Core::open(kit::rules(12), store.clone(), kit::NOW).unwrap();
    feed(&mut core, &Maker::new(1).row(&kit::genesis(), 30, 10));
    let before = answer(&core, store.as_ref());
    // A write fails, and so does the reading after it.
    store.hook.refuse(Some(StoreError::Failed("too many open files".into())));
    let tip = Maker::new(1).row(&kit::genesis(), 31, 10).pop().unwrap();
    assert!(core.import(tip.clone(), Origin::File, kit::NOW).is_err());
    store.hook.refuse(None);
    store.hook.unreadable.store(true, Ordering::SeqCst);
    assert!(core.recover(kit::NOW).is_empty());
    assert!(core.status().retrying, "{:?}", core.status());
    assert_eq!(store.candidates().unwrap().len(), 12);
    // Nor does a start delete anything.
    let opened = Core::open(kit::rules(12), store.clone(), kit::NOW);
    assert!(matches!(opened, Err(OpenError::Store(StoreError::Failed(_)))), "{opened:?}");
    store.hook.unreadable.store(false, Ordering::SeqCst);
    core.recover(kit::NOW);
    assert_eq!((core.status().halted.clone(), answer(&core, store.as_ref())), (None, before));
    core.import(tip, Origin::File, kit::NOW).unwrap();
    assert_eq!(core.head().height, 31);
}

/// Wall-clock time that goes with the runtime's.
#[derive(Debug)]
struct Running(tokio::time::Instant);

impl Clock for Running {
    fn now(&self) -> UnixMillis {
        kit::NOW.plus(self.0.elapsed())
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "a test joins its tasks itself")]
async fn a_store_that_is_read_and_takes_no_write_any_more_ends_the_chain_and_a_full_disk_does_not() {
    let full = StoreError::DiskFull("no space".into());
    for (error, ends) in [(StoreError::Failed("fatal".into()), true), (full, false)] {
        let store = flaky();
        let clock = Arc::new(Running(tokio::time::Instant::now()));
        let mut core = Core::open(kit::rules(2), store.clone(), kit::NOW).unwrap();
        let row = Maker::new(1).row(&kit::genesis(), 120, 0);
        feed(&mut core, &row);
        drop(core);
        let deps = chain::Deps { store: store.clone(), clock, metrics: chain::Metrics::default() };
        let (service, chain) = chain::open(kit::rules(2), deps).unwrap();
        let stop = Stop::new();
        let task = tokio::spawn(service.run_inline(stop.clone()));
        let mut events = chain.events();
        let block = Maker::new(1).block(&row[119], 1, &[]);
        // Something that is repaired whenever it is read: a block without a parent.
        let stray = Maker::new(2).row(&row[118], 2, 0).remove(1);
        let marks = store.marks().unwrap().unwrap();
        store.write(&Change { added: vec![stray], marks, ..Change::default() }, true).unwrap();
        store.hook.refuse(Some(error));
        assert!(chain.import(block.clone(), Origin::File).await.is_err());
        assert!(matches!(events.recv().await, Ok(chain::Event::Halted(Some(_)))), "a halt is an event");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!task.is_finished(), "it may be over soon");
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(task.is_finished(), ends);
        if !ends {
            store.hook.refuse(None);
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(matches!(events.recv().await, Ok(chain::Event::Halted(None))), "and so is its end");
            assert_eq!(chain.import(block, Origin::File).await, Ok(Outcome::Imported { new_head: true }));
        }
        stop.stop();
    }
}

#[test]
fn a_store_of_another_network_is_refused_and_left_as_it_is_however_few_blocks_it_has() {
    let store = Arc::new(Memory::default());
    let rules = |network: &str| {
        let mut rules = kit::rules(12);
        rules.network = Some(network.parse().unwrap());
        rules
    };
    let mut core = Core::open(rules("test"), store.clone(), kit::NOW).unwrap();
    feed(&mut core, &Maker::new(1).row(&kit::genesis(), 5, 10));
    let before = (answer(&core, store.as_ref()), store.candidates().unwrap());
    drop(core);
    let refused = Core::open(rules("other"), store.clone(), kit::NOW);
    assert!(matches!(refused, Err(OpenError::Network(_))), "{refused:?}");
    let core = Core::open(rules("test"), store.clone(), kit::NOW).unwrap();
    assert_eq!((answer(&core, store.as_ref()), store.candidates().unwrap()), before);
}

#[tokio::test]
async fn files_that_are_gone_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Rocks::open(Store::open(dir.path()).unwrap()).unwrap().packing_from(1000));
    let store = open();
    let mut core = Core::open(kit::rules(2), store.clone(), kit::NOW).unwrap();
    let row = Maker::new(1).row(&kit::genesis(), 40, 1000);
    for part in row.chunks(10) {
        core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
    }
    assert_eq!(core.status().damaged_files, 0);
    drop((core, store));
    std::fs::remove_file(dir.path().join("bodies/block/0000000000000000")).unwrap();
    let store = open();
    let core = Core::open(kit::rules(2), store.clone(), kit::NOW).unwrap();
    assert_eq!((core.status().damaged_files, core.head().height), (1, 40));
    // What is damaged is found when it is read.
    let other = dir.path().join("bodies/block/0000000000000001");
    let mut bytes = std::fs::read(&other).unwrap();
    bytes.iter_mut().for_each(|b| *b ^= 1);
    std::fs::write(&other, bytes).unwrap();
    assert!(store.body(&row[12].hash()).is_err());
    assert_eq!(core.status().damaged_files, 2);
}

#[test]
fn a_branch_that_has_lost_is_not_said_to_be_taken() {
    let store = Arc::new(Memory::default());
    let mut core = Core::open(kit::rules(2), store, kit::NOW).unwrap();
    let ours: Vec<Block> = Maker::new(1).row(&kit::genesis(), 6, 10);
    let theirs = Maker::new(2).row(&ours[1], 2, 0);
    feed(&mut core, &ours[..2]);
    feed(&mut core, &theirs);
    feed(&mut core, &ours[2..]);
    assert_eq!(core.committed().height, 4);
    // The second one is above what is final, and is held still.
    let taken = core.import_segment(theirs, Origin::Peer(Identity::generate().address()), kit::NOW).unwrap().0;
    assert_eq!(taken, SegmentOutcome { held: 0, new: 0, stopped: Some(Outcome::OutOfWindow) });
}
