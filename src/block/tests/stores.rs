//! The store on disk and the one in memory say the same.

use std::sync::Arc;

use bytes::Bytes;

use super::{Random, feed, forest};
use crate::{
    block::{
        Block, Point,
        chain::{ChainStore, Change, Core, Marks, Memory, Retired, Rocks},
        kit,
    },
    primitives::Hash,
    store::{Store, StoreError},
};

/// Writes to both, reads from one.
#[derive(Debug)]
struct Both(Memory, Rocks);

impl ChainStore for Both {
    fn marks(&self) -> Result<Option<Marks>, StoreError> {
        self.0.marks()
    }

    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        self.0.header(hash)
    }

    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        self.0.body(hash)
    }

    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        self.0.hash_at(height)
    }

    fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        self.0.hashes(from, count)
    }

    fn candidates(&self) -> Result<Vec<Point>, StoreError> {
        self.0.candidates()
    }

    fn retired(&self) -> Result<Vec<Retired>, StoreError> {
        self.0.retired()
    }

    fn write(&self, change: &Change, synced: bool) -> Result<(), StoreError> {
        self.0.write(change, synced)?;
        self.1.write(change, synced)
    }
}

fn same(one: &dyn ChainStore, other: &dyn ChainStore, blocks: &[Block]) {
    assert_eq!(one.marks(), other.marks());
    assert_eq!(one.candidates(), other.candidates());
    let by_hash = |mut all: Vec<Retired>| {
        all.sort_by_key(|r| (r.at, r.point.hash));
        all
    };
    assert_eq!(one.retired().map(by_hash), other.retired().map(by_hash));
    for height in 0..400 {
        assert_eq!(one.hash_at(height), other.hash_at(height), "height {height}");
    }
    for (from, count) in [(0, 1000), (3, 4), (100, 300), (1000, 1), (u64::MAX, 2), (5, 0)] {
        assert_eq!(one.hashes(from, count), other.hashes(from, count), "{count} from {from}");
    }
    for block in blocks {
        assert_eq!(one.header(&block.hash()), other.header(&block.hash()));
        assert_eq!(one.body(&block.hash()), other.body(&block.hash()));
    }
}

#[test]
fn both_stores_agree_after_every_write_and_after_opening_again() {
    for seed in 0..3 {
        let mut random = Random(seed);
        // Long enough for retired blocks to be deleted.
        let mut blocks = forest(&mut random, 130, 3);
        blocks.sort_by_key(|b| (b.header().height + u64::try_from(random.below(3)).unwrap(), random.next()));
        let dir = tempfile::tempdir().unwrap();
        let both = Arc::new(Both(Memory::default(), Rocks::new(Store::open(dir.path()).unwrap())));
        let mut core = Core::open(kit::rules(4), both.clone(), kit::NOW).unwrap();
        for part in blocks.chunks(20) {
            feed(&mut core, part);
            same(&both.0, &both.1, &blocks);
        }
        let kept = both.retired().unwrap();
        assert!(kept.iter().all(|r| r.at + 100 > core.committed().height));
        let gone = blocks.iter().filter(|b| both.header(&b.hash()).unwrap().is_none());
        assert!(gone.count() > 0, "old losers are deleted");
        drop(core);
        let Some(Both(memory, rocks)) = Arc::into_inner(both) else { panic!("nobody else holds it") };
        drop(rocks);
        let rocks = Rocks::new(Store::open(dir.path()).unwrap());
        same(&memory, &rocks, &blocks);
    }
}
