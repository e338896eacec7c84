//! The chain on disk.
//!
//! Family `block`, told apart by the first byte of the key: `m` → marks, `h` ‖ hash → header, `c` ‖ height → hash of the best
//! block, `n` ‖ height ‖ hash → candidates above the committed block, `r` ‖ height of the winner ‖ hash → retired blocks.
//! Family `block_body`: hash → body, unless it is empty. Heights are eight bytes big-endian, so scans come in order, and no
//! kind of key is a prefix of another.
//!
//! What is not here: the children of a block, since the tree in memory knows those that matter, and it is made of the candidates; and
//! invalid hashes, which are remembered for ten minutes only.
//!
//! A block that is committed in the write that adds it costs two rows and its body. The genesis block is written like any other.
//!
//! Many bodies at once, as when a node catches up, do not go through the log: they are flushed to their file before the rows that
//! name them are written, so a process that ends in between leaves bodies that nobody names, and the next one writes them again.

use std::{
    collections::HashSet,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::store::{ChainStore, Change, Marks, Retired};
use crate::{
    block::Point,
    primitives::Hash,
    store::{Batch, Family, Store, StoreError},
};

const MARKS: &[u8] = b"m";
/// First byte of the marks. Another one means a newer program, which the store's own version refuses first.
const FORM: u8 = 1;
/// From so many bytes on, the bodies of one write go past the log: writing them twice takes longer than a flush, which ends with a
/// sync of three small files.
const UNLOGGED_BYTES: usize = 2 * 1024 * 1024;

/// Keeps blocks in the node's store.
#[derive(Clone, Debug)]
pub struct Rocks {
    store: Store,
    rows: Arc<AtomicU64>,
}

impl Rocks {
    /// Blocks of the chain in this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, rows: Arc::default() }
    }

    /// Rows written or deleted so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

fn by_hash(hash: &Hash) -> Vec<u8> {
    [b"h", &hash.as_bytes()[..]].concat()
}

fn by_height(height: u64) -> Vec<u8> {
    [b"c", &height.to_be_bytes()[..]].concat()
}

fn listed(kind: &[u8; 1], height: u64, hash: &Hash) -> Vec<u8> {
    [kind, &height.to_be_bytes()[..], hash.as_bytes()].concat()
}

fn damaged(what: &str) -> StoreError {
    StoreError::Failed(format!("{what} is damaged"))
}

fn read_height(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(height, rest)| (u64::from_be_bytes(*height), rest))
}

fn read_point(bytes: &[u8]) -> Option<(Point, &[u8])> {
    let (height, rest) = read_height(bytes)?;
    let (hash, rest) = rest.split_first_chunk()?;
    Some((Point { height, hash: Hash(*hash) }, rest))
}

fn put_marks(batch: &mut Batch, marks: &Marks) {
    let mut value = vec![FORM];
    value.extend_from_slice(marks.genesis.as_bytes());
    for point in [marks.head, marks.committed] {
        value.extend_from_slice(&point.height.to_be_bytes());
        value.extend_from_slice(point.hash.as_bytes());
    }
    batch.put(Family::Block, MARKS, value);
}

fn read_marks(value: &[u8]) -> Option<Marks> {
    let (&form, rest) = value.split_first()?;
    let (genesis, rest) = rest.split_first_chunk()?;
    let (head, rest) = read_point(rest)?;
    let (committed, rest) = read_point(rest)?;
    (form == FORM && rest.is_empty()).then_some(Marks { genesis: Hash(*genesis), head, committed })
}

fn body_bytes(change: &Change) -> usize {
    change.added.iter().map(|b| b.body().bytes().len()).sum()
}

/// All rows of a change; those of the bodies only with `bodies`.
fn batch(change: &Change, bodies: bool) -> Batch {
    let mut batch = Batch::new();
    let at_once: HashSet<&Hash> = change.committed.iter().map(|p| &p.hash).collect();
    let added: HashSet<Hash> = change.added.iter().map(crate::block::Block::hash).collect();
    for block in &change.added {
        let (hash, header) = (block.hash(), block.header());
        batch.put(Family::Block, by_hash(&hash), header.encode());
        if bodies && !block.body().is_empty() {
            batch.put(Family::BlockBody, *hash.as_bytes(), block.body().bytes().to_vec());
        }
        if !at_once.contains(&hash) {
            batch.put(Family::Block, listed(b"n", header.height, &hash), []);
        }
    }
    for point in &change.detached {
        batch.delete(Family::Block, by_height(point.height));
    }
    for point in &change.attached {
        batch.put(Family::Block, by_height(point.height), *point.hash.as_bytes());
    }
    for point in change.committed.iter().filter(|p| !added.contains(&p.hash)) {
        batch.delete(Family::Block, listed(b"n", point.height, &point.hash));
    }
    for point in &change.restored {
        batch.put(Family::Block, listed(b"n", point.height, &point.hash), []);
    }
    for retired in &change.revived {
        batch.delete(Family::Block, listed(b"r", retired.at, &retired.point.hash));
        batch.put(Family::Block, listed(b"n", retired.point.height, &retired.point.hash), []);
    }
    for retired in &change.retired {
        let value = [&retired.point.height.to_be_bytes()[..], &retired.body_bytes.to_be_bytes()].concat();
        batch.delete(Family::Block, listed(b"n", retired.point.height, &retired.point.hash));
        batch.put(Family::Block, listed(b"r", retired.at, &retired.point.hash), value);
    }
    for point in &change.evicted {
        batch.delete(Family::Block, listed(b"n", point.height, &point.hash));
        delete_block(&mut batch, &point.hash);
    }
    for retired in &change.expired {
        batch.delete(Family::Block, listed(b"r", retired.at, &retired.point.hash));
        delete_block(&mut batch, &retired.point.hash);
    }
    put_marks(&mut batch, &change.marks);
    batch
}

fn delete_block(batch: &mut Batch, hash: &Hash) {
    batch.delete(Family::Block, by_hash(hash)).delete(Family::BlockBody, *hash.as_bytes());
}

impl Rocks {
    /// Makes the new bodies durable past the log.
    fn put_bodies(&self, change: &Change) -> Result<(), StoreError> {
        for block in change.added.iter().filter(|b| !b.body().is_empty()) {
            self.store.put_unlogged(Family::BlockBody, block.hash().as_bytes(), block.body().bytes())?;
        }
        self.store.flush(Family::BlockBody)
    }
}

impl ChainStore for Rocks {
    fn marks(&self) -> Result<Option<Marks>, StoreError> {
        let Some(value) = self.store.get(Family::Block, MARKS)? else { return Ok(None) };
        read_marks(&value).map(Some).ok_or_else(|| damaged("the note of where the chain stands"))
    }

    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.store.get(Family::Block, &by_hash(hash))?.map(Bytes::from))
    }

    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.store.get(Family::BlockBody, hash.as_bytes())?.map(Bytes::from))
    }

    fn headers(&self, hashes: &[Hash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keys: Vec<_> = hashes.iter().map(by_hash).collect();
        let values = self.store.get_many(Family::Block, &keys)?;
        Ok(values.into_iter().map(|value| value.map(Bytes::from)).collect())
    }

    fn bodies(&self, hashes: &[Hash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keys: Vec<_> = hashes.iter().map(Hash::as_bytes).collect();
        let values = self.store.get_many(Family::BlockBody, &keys)?;
        Ok(values.into_iter().map(|value| value.map(Bytes::from)).collect())
    }

    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        let Some(value) = self.store.get(Family::Block, &by_height(height))? else { return Ok(None) };
        let hash = <[u8; 32]>::try_from(value.as_slice()).map_err(|_| damaged("a hash by height"))?;
        Ok(Some(Hash(hash)))
    }

    fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        let (mut hashes, mut next) = (Vec::new(), from);
        if count == 0 {
            return Ok(hashes);
        }
        self.store.for_each(Family::Block, b"c", Bound::Included(&by_height(from)), |key, value| {
            let Ok(hash) = <[u8; 32]>::try_from(value) else { return false };
            if key.get(1..) != Some(&next.to_be_bytes()[..]) {
                return false;
            }
            hashes.push(Hash(hash));
            next += 1;
            hashes.len() < count
        })?;
        Ok(hashes)
    }

    fn candidates(&self) -> Result<Vec<Point>, StoreError> {
        let mut all = Vec::new();
        self.store.for_each(Family::Block, b"n", Bound::Unbounded, |key, _| {
            all.extend(read_point(&key[1..]).map(|(point, _)| point));
            true
        })?;
        Ok(all)
    }

    fn retired(&self) -> Result<Vec<Retired>, StoreError> {
        let mut all = Vec::new();
        self.store.for_each(Family::Block, b"r", Bound::Unbounded, |key, value| {
            let read = || {
                let (Point { height: at, hash }, _) = read_point(&key[1..])?;
                let (height, bytes) = read_height(value)?;
                let body_bytes = u32::from_be_bytes(bytes.try_into().ok()?);
                Some(Retired { point: Point { height, hash }, at, body_bytes })
            };
            all.extend(read());
            true
        })?;
        Ok(all)
    }

    fn write(&self, change: &Change, synced: bool) -> Result<(), StoreError> {
        let unlogged = body_bytes(change) >= UNLOGGED_BYTES;
        if unlogged {
            self.put_bodies(change)?;
        }
        let batch = batch(change, !unlogged);
        self.rows.fetch_add(batch.len() as u64, Ordering::Relaxed); // usize fits in u64
        match synced {
            // The chain has a thread of its own: it may wait for the disk, and shares the sync with whoever else waits.
            true => futures::executor::block_on(self.store.commit(batch)),
            false => self.store.write_unsynced(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::block::{
        Block, Origin,
        chain::Core,
        kit::{self, Maker},
    };

    /// Blocks of one write: their bodies go past the log.
    const PART: usize = 25;
    const DEPTH: u64 = 4;
    /// Set in the process that is to end: where its store is.
    const DIR: &str = "VOS_TEST_ENDS_IN";
    /// How many parts it writes, and whether it ends in the middle of the next one.
    const AFTER: &str = "VOS_TEST_ENDS_AFTER";

    fn row() -> Vec<Block> {
        let row = Maker::new(1).row(&kit::genesis(), 4 * PART, 100_000);
        let bytes: usize = row[..PART].iter().map(|b| b.body().bytes().len()).sum();
        assert!(bytes >= UNLOGGED_BYTES);
        row
    }

    fn open(dir: &std::path::Path) -> Rocks {
        Rocks::new(Store::open(dir).unwrap())
    }

    /// Ends as a killed process does: nothing is closed.
    fn end_after(dir: &std::path::Path, parts: usize, midway: bool) {
        let (rocks, row) = (open(dir), row());
        let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
        let mut all = row.chunks(PART);
        for part in all.by_ref().take(parts) {
            core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
        }
        if midway {
            let added = all.next().unwrap().to_vec();
            rocks.put_bodies(&Change { added, ..Change::default() }).unwrap();
        }
        std::process::abort();
    }

    #[test]
    fn large_writes_survive_the_end_of_the_process_with_every_body() {
        if let Some(dir) = std::env::var_os(DIR) {
            let after = std::env::var(AFTER).unwrap();
            let (parts, midway) = after.split_once(' ').unwrap();
            return end_after(dir.as_ref(), parts.parse().unwrap(), midway == "midway");
        }
        let (row, me) = (row(), std::env::current_exe().unwrap());
        for (parts, midway) in [(1, false), (3, false), (0, true), (2, true)] {
            let dir = tempfile::tempdir().unwrap();
            let name = "block::chain::rocks::tests::large_writes_survive_the_end_of_the_process_with_every_body";
            let after = format!("{parts} {}", if midway { "midway" } else { "" });
            let mut process = Command::new(&me);
            process.args(["--exact", name]).env(DIR, dir.path()).env(AFTER, after);
            let ended = process.output().unwrap().status;
            assert!(!ended.success() && ended.code().is_none(), "it was ended by a signal: {ended}");
            let rocks = open(dir.path());
            let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
            let height = parts * PART;
            assert_eq!(core.head().height, height as u64);
            assert_eq!(core.committed().height, (height as u64).saturating_sub(DEPTH));
            for block in &row[..height] {
                assert_eq!(rocks.body(&block.hash()).unwrap().as_ref(), Some(block.body().bytes()));
            }
            // And goes on from there.
            let rest = core.import_segment(row[height..].to_vec(), Origin::File, kit::NOW).unwrap().0;
            assert_eq!((rest.held, core.head().height), (row.len() - height, row.len() as u64));
        }
    }

    #[test]
    fn many_are_read_as_one_by_one_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = open(dir.path());
        let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
        // In files and in memory, with bodies in files of their own, next to their keys, and none.
        let large = Maker::new(1).row(&kit::genesis(), PART, 100_000);
        let small = Maker::new(1).row(&large[PART - 1], 10, 100);
        let empty = Maker::new(1).row(&small[9], 10, 0);
        for part in [large, small, empty] {
            core.import_segment(part, Origin::File, kit::NOW).unwrap();
        }
        let mut hashes = rocks.hashes(0, 100).unwrap();
        assert_eq!(hashes.len(), PART + 21);
        hashes.insert(7, Hash::of(b"no such block"));
        hashes.push(hashes[3]);
        hashes.reverse();
        let one_by_one = |read: &dyn Fn(&Hash) -> Option<Bytes>| hashes.iter().map(read).collect::<Vec<_>>();
        assert_eq!(rocks.headers(&hashes).unwrap(), one_by_one(&|h| rocks.header(h).unwrap()));
        assert_eq!(rocks.bodies(&hashes).unwrap(), one_by_one(&|h| rocks.body(h).unwrap()));
    }
}
