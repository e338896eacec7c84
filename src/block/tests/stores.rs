//! The store on disk and the one in memory say the same.

use std::sync::Arc;

use super::{Random, forest};
use crate::{
    block::{
        Block, Origin,
        chain::{ChainStore, Change, Core, Memory, Retired, Rocks},
        kit::{self, Hooked, OnWrite},
        record,
    },
    primitives::UnixMillis,
    store::{Store, StoreError},
};

/// Writes to both, reads from one.
#[derive(Debug)]
struct Too(Rocks);

impl OnWrite<Memory> for Too {
    fn on_write(&self, inner: &Memory, change: &Change, synced: bool) -> Result<(), StoreError> {
        inner.write(change, synced)?;
        self.0.write(change, synced)
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

/// What is read in one piece is what is read one by one, where it is of the best chain still. Returns how many were read.
fn same_in_one_piece(memory: &Memory, rocks: &Rocks) -> usize {
    let mut read = 0;
    for (from, count) in (0..140).flat_map(|from| [1, 3, 100].map(|count| (from, count))) {
        let Some(stretch) = rocks.stretch(from, count, usize::MAX).unwrap() else { continue };
        if memory.hash_at(stretch.last.height) != Ok(Some(stretch.last.hash)) {
            continue;
        }
        let hashes = memory.hashes(from, stretch.count).unwrap();
        assert!((1..=count).contains(&stretch.count) && hashes.last() == Some(&stretch.last.hash), "{stretch:?}");
        assert_eq!(record::apart(stretch.bytes), memory.blocks(&hashes, usize::MAX).unwrap());
        assert_eq!(Some(stretch.parent), memory.hash_at(from - 1).unwrap());
        read += stretch.count;
    }
    read
}

#[test]
fn both_stores_agree_after_every_write_and_after_opening_again() {
    for (seed, packed_bytes) in [(0, usize::MAX), (1, 1), (2, 20)] {
        let mut random = Random(seed);
        // Long enough for retired blocks to be deleted.
        let mut blocks = forest(&mut random, 130, 3);
        blocks.sort_by_key(|b| (b.header().height + u64::try_from(random.below(3)).unwrap(), random.next()));
        let dir = tempfile::tempdir().unwrap();
        let open = || Rocks::open(Store::open(dir.path()).unwrap()).unwrap().packing_from(packed_bytes);
        let both = Arc::new(Hooked { inner: Memory::default(), hook: Too(open()) });
        let mut core = Core::open(kit::rules(4), both.clone(), kit::NOW).unwrap();
        for (minute, part) in (0..).zip(blocks.chunks(20)) {
            for block in part {
                core.import(block.clone(), Origin::File, UnixMillis(kit::NOW.0 + minute * 60_000)).unwrap();
            }
            same(&both.inner, &both.hook.0, &blocks);
            let read = same_in_one_piece(&both.inner, &both.hook.0);
            assert_eq!(read > 0, packed_bytes != usize::MAX, "{read}");
            let packs = both.hook.0.counted();
            assert_eq!(packs.is_empty(), packed_bytes == usize::MAX);
        }
        let kept = both.retired().unwrap();
        assert!(kept.iter().all(|r| r.at + 100 > core.committed().height - 20));
        let gone = blocks.iter().filter(|b| both.header(&b.hash()).unwrap().is_none());
        assert!(gone.count() > 0, "old losers are deleted");
        drop(core);
        let Some(Hooked { inner: memory, hook: Too(rocks) }) = Arc::into_inner(both) else {
            panic!("nobody else holds it")
        };
        drop(rocks);
        let rocks = open();
        same(&memory, &rocks, &blocks);
        let packs = rocks.counted().len();
        assert_eq!(packs, std::fs::read_dir(dir.path().join("bodies/block")).unwrap().count());
    }
}
