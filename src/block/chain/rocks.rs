//! The chain on disk.
//!
//! Family `block`, told apart by the first byte of the key: `m` → marks, `h` ‖ hash → header ‖ spot if its body is in a pack,
//! `c` ‖ height → hash of the best block, `n` ‖ height ‖ hash → candidates above the committed block, `r` ‖ height of the winner ‖ hash →
//! retired blocks, `p` ‖ number → how many bodies in the pack are kept.
//! Family `block_body`: hash → body, unless it is empty or in a pack. Heights are eight bytes big-endian, so scans come in order, and no
//! kind of key is a prefix of another.
//!
//! What is not here: the children of a block, since the tree in memory knows those that matter, and it is made of the candidates; and
//! invalid hashes, which are remembered for ten minutes only.
//!
//! A block that is committed in the write that adds it costs two rows and its body. The genesis block is written like any other.
//!
//! Many bodies at once, as when a node catches up, go into a *pack*: one file beside the database, in the order of the blocks, durable
//! before the rows that name it are written. So they are written once, and a row of blocks is served with one read. A process that ends in
//! between leaves a pack that nobody names; the next start removes it, or the next write when only the rows could not be written. A pack
//! goes with the last of its bodies; only bodies of the best chain are in one.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::store::{ChainStore, Change, Marks, Retired, Room};
use crate::{
    block::{Block, Header, MAX_BODY_BYTES, Point},
    primitives::Hash,
    store::{Batch, Family, Shelf, Spot, Store, StoreError},
};

const MARKS: &[u8] = b"m";
/// First byte of the marks. Another one means a newer program, which the store's own version refuses first.
const FORM: u8 = 1;
/// From so many bytes on, the bodies of one write go into a pack: writing them to the log as well takes longer than the sync of one more
/// file.
const PACKED_BYTES: usize = 2 * 1024 * 1024;

/// Keeps blocks in the node's store.
#[derive(Clone, Debug)]
pub struct Rocks {
    store: Store,
    rows: Arc<AtomicU64>,
    packs: Arc<Mutex<Packs>>,
    /// See [`PACKED_BYTES`].
    packed_bytes: usize,
}

/// Numbers of packs.
#[derive(Debug)]
struct Packs {
    next: u64,
    /// Those whose rows could not be written, as far as we were told.
    doubtful: Vec<u64>,
}

impl Rocks {
    /// Blocks of the chain in this store. Removes packs that nobody names. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(store: Store) -> Result<Self, StoreError> {
        let mut named = HashSet::new();
        store.for_each(Family::Block, b"p", Bound::Unbounded, |key, _| {
            named.extend(read_height(&key[1..]).map(|(number, _)| number));
            true
        })?;
        let there: HashSet<u64> = store.body_numbers(Shelf::Block)?.into_iter().collect();
        let next = named.iter().chain(&there).max().map_or(0, |last| last + 1);
        let missing = named.iter().filter(|number| !there.contains(number)).count();
        if missing > 0 {
            tracing::error!(missing, "files with bodies of blocks are missing: those blocks cannot be served");
        }
        let unnamed: Vec<_> = there.into_iter().filter(|number| !named.contains(number)).collect();
        if !unnamed.is_empty() {
            store.clear_bodies(Shelf::Block, &unnamed)?;
        }
        let packs = Packs { next, doubtful: Vec::new() };
        Ok(Self { store, rows: Arc::default(), packs: Arc::new(Mutex::new(packs)), packed_bytes: PACKED_BYTES })
    }

    /// For tests: bodies go into packs from other sizes of a write on.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn packing_from(self, packed_bytes: usize) -> Self {
        Self { packed_bytes, ..self }
    }

    /// Rows written or deleted so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Rocks {
    /// Counts the bodies that rows name in each pack, and compares that with what the packs' rows say. Returns the packs.
    pub(in crate::block) fn counted(&self) -> HashMap<u64, u32> {
        let (mut named, mut noted) = (HashMap::new(), HashMap::new());
        let each = |prefix: &[u8], see: &mut dyn FnMut(&[u8], &[u8])| {
            let see = |key: &[u8], value: &[u8]| {
                see(key, value);
                true
            };
            self.store.for_each(Family::Block, prefix, Bound::Unbounded, see).expect("it can be read");
        };
        each(b"h", &mut |_, row| {
            if let Some((_, Some(spot))) = read_row(row) {
                *named.entry(spot.pack).or_default() += 1;
            }
        });
        each(b"p", &mut |key, count| {
            let number = u64::from_be_bytes(key[1..].try_into().expect("a number"));
            noted.insert(number, u32::from_be_bytes(count.try_into().expect("a count")));
        });
        assert_eq!(named, noted);
        noted
    }
}

fn by_hash(hash: &Hash) -> Vec<u8> {
    [b"h", &hash.as_bytes()[..]].concat()
}

fn by_height(height: u64) -> Vec<u8> {
    [b"c", &height.to_be_bytes()[..]].concat()
}

fn by_pack(number: u64) -> Vec<u8> {
    [b"p", &number.to_be_bytes()[..]].concat()
}

/// A header's row: the header, and where its body is when that is a pack.
fn read_row(row: &[u8]) -> Option<(&[u8], Option<Spot>)> {
    let (header, rest) = row.split_at(Header::length(row)?);
    if rest.is_empty() {
        return Some((header, None));
    }
    let spot = Spot::decode(rest).filter(|s| s.length as usize <= MAX_BODY_BYTES)?; // u32 fits in usize
    Some((header, Some(spot)))
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

/// All rows of a change, but for those about packs. `spots`: where bodies are that are in one.
fn batch(change: &Change, spots: Option<&HashMap<Hash, Spot>>) -> Batch {
    let mut batch = Batch::new();
    let at_once: HashSet<&Hash> = change.committed.iter().map(|p| &p.hash).collect();
    let added: HashSet<Hash> = change.added.iter().map(crate::block::Block::hash).collect();
    for block in &change.added {
        let (hash, header) = (block.hash(), block.header());
        let mut row = header.encode();
        match spots.and_then(|s| s.get(&hash)) {
            Some(spot) => row.extend_from_slice(&spot.encode()),
            None if block.body().is_empty() => {}
            None => drop(batch.put(Family::BlockBody, *hash.as_bytes(), block.body().bytes().to_vec())),
        }
        batch.put(Family::Block, by_hash(&hash), row);
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
    fn row(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(Family::Block, &by_hash(hash))
    }

    /// Puts bodies of blocks into a pack: its number, and where each is.
    fn pack(&self, added: &[&Block]) -> Result<(u64, HashMap<Hash, Spot>), StoreError> {
        let bodies: Vec<&[u8]> = added.iter().map(|b| &b.body().bytes()[..]).collect();
        let number = {
            let mut packs = self.packs.lock().expect("no panic while held");
            packs.next += 1;
            packs.next - 1
        };
        let spots = self.store.write_pack(number, &bodies)?;
        Ok((number, added.iter().map(|b| b.hash()).zip(spots).collect()))
    }

    /// Adds the rows about packs: the new one, those that bodies leave, and those that nobody names.
    fn count(
        &self,
        change: &Change,
        new: Option<&(u64, HashMap<Hash, Spot>)>,
        out: &mut Batch,
    ) -> Result<(), StoreError> {
        let mut left: HashMap<u64, u32> = HashMap::new();
        let evicted = change.evicted.iter().map(|p| p.hash);
        let gone: HashSet<_> = evicted.chain(change.expired.iter().map(|r| r.point.hash)).collect();
        for hash in gone {
            let spot = match new.and_then(|(_, spots)| spots.get(&hash)) {
                Some(spot) => Some(*spot),
                None => self.row(&hash)?.and_then(|row| read_row(&row)?.1),
            };
            if let Some(spot) = spot {
                *left.entry(spot.pack).or_default() += 1;
            }
        }
        if let Some((number, _)) = new {
            left.entry(*number).or_default();
        }
        for (number, leaving) in left {
            let before = match new.filter(|(new, _)| *new == number) {
                Some((_, spots)) => u32::try_from(spots.len()).unwrap_or(u32::MAX),
                None => {
                    let row = self.store.get(Family::Block, &by_pack(number))?;
                    let Some(Ok(count)) = row.as_deref().map(<[u8; 4]>::try_from) else {
                        tracing::error!(number, "how many bodies are in this file is not known: it is kept");
                        continue;
                    };
                    u32::from_be_bytes(count)
                }
            };
            match before.saturating_sub(leaving) {
                0 => out.delete(Family::Block, by_pack(number)).remove_body(Shelf::Block, number),
                kept => out.put(Family::Block, by_pack(number), kept.to_be_bytes()),
            };
        }
        // They go when this write is durable: until then rows in the log may still name them.
        for number in &self.packs.lock().expect("no panic while held").doubtful {
            if !self.store.contains(Family::Block, &by_pack(*number))? {
                out.remove_body(Shelf::Block, *number);
            }
        }
        Ok(())
    }

    /// Writes the rows of a change.
    fn put(&self, change: &Change, pack: Option<&(u64, HashMap<Hash, Spot>)>, synced: bool) -> Result<(), StoreError> {
        let mut batch = batch(change, pack.map(|(_, spots)| spots));
        self.count(change, pack, &mut batch)?;
        self.rows.fetch_add(batch.len() as u64, Ordering::Relaxed); // usize fits in u64
        match synced {
            // The chain has a thread of its own: it may wait for the disk, and shares the sync with whoever else waits.
            true => futures::executor::block_on(self.store.commit(batch)),
            false => self.store.write_unsynced(batch),
        }
    }

    /// The body that a row names, which was not in its pack: gone with the row, or an error.
    fn lost(&self, hash: &Hash, spot: &Spot) -> Result<(), StoreError> {
        let still = self.row(hash)?.is_some_and(|row| read_row(&row).is_some_and(|(_, s)| s.as_ref() == Some(spot)));
        if still { Err(damaged(&format!("the body of block {hash}"))) } else { Ok(()) }
    }
}

impl ChainStore for Rocks {
    fn marks(&self) -> Result<Option<Marks>, StoreError> {
        let Some(value) = self.store.get(Family::Block, MARKS)? else { return Ok(None) };
        read_marks(&value).map(Some).ok_or_else(|| damaged("the note of where the chain stands"))
    }

    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        let Some(row) = self.row(hash)? else { return Ok(None) };
        // Damaged ones are shown as they are: whoever reads them finds out.
        let length = Header::length(&row).unwrap_or(row.len());
        Ok(Some(Bytes::from(row).slice(..length)))
    }

    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        let spot = self.row(hash)?.and_then(|row| read_row(&row)?.1);
        let Some(spot) = spot else { return Ok(self.store.get(Family::BlockBody, hash.as_bytes())?.map(Bytes::from)) };
        let body = self.store.packed(&[spot])?.pop().flatten();
        if body.is_none() {
            self.lost(hash, &spot)?;
        }
        Ok(body)
    }

    fn headers(&self, hashes: &[Hash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keys: Vec<_> = hashes.iter().map(by_hash).collect();
        let rows = self.store.get_many(Family::Block, &keys)?;
        let header = |row: Vec<u8>| {
            let length = Header::length(&row).unwrap_or(row.len());
            Bytes::from(row).slice(..length)
        };
        Ok(rows.into_iter().map(|row| row.map(header)).collect())
    }

    fn blocks(&self, hashes: &[Hash], max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let keys: Vec<_> = hashes.iter().map(by_hash).collect();
        let (mut headers, mut spots, mut alone, mut room) = (Vec::new(), Vec::new(), Vec::new(), Room::new(max_bytes));
        for (hash, row) in hashes.iter().zip(self.store.get_many(Family::Block, &keys)?) {
            let Some(row) = row else { break };
            let Some((header, spot)) = read_row(&row) else { break };
            let (length, Some(body)) = (header.len(), room.take(header)) else { break };
            match spot {
                Some(spot) => spots.push(spot),
                None if body > 0 => alone.push(*hash.as_bytes()),
                None => {}
            }
            headers.push((hash, Bytes::from(row).slice(..length), body > 0, spot));
        }
        let mut packed = self.store.packed(&spots)?.into_iter();
        let mut alone = self.store.get_many(Family::BlockBody, &alone)?.into_iter();
        let mut blocks = Vec::with_capacity(headers.len());
        for (hash, header, has_body, spot) in headers {
            let body = match (has_body, spot) {
                (_, Some(_)) => packed.next().flatten(),
                (true, None) => alone.next().flatten().map(Bytes::from),
                (false, None) => Some(Bytes::new()),
            };
            match (body, spot) {
                (Some(body), _) => blocks.push((header, body)),
                (None, Some(spot)) if blocks.is_empty() => {
                    self.lost(hash, &spot)?;
                    break;
                }
                (None, _) => break,
            }
        }
        Ok(blocks)
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
        // Losers are not packed: they are deleted one by one, and would stay as long as the pack does.
        let best: HashSet<&Hash> = change.attached.iter().map(|p| &p.hash).collect();
        let packed: Vec<_> = change.added.iter().filter(|b| !b.body().is_empty() && best.contains(&b.hash())).collect();
        let bytes: usize = packed.iter().map(|b| b.body().bytes().len()).sum();
        let pack = if bytes >= self.packed_bytes { Some(self.pack(&packed)?) } else { None };
        let written = self.put(change, pack.as_ref(), synced);
        let mut packs = self.packs.lock().expect("no panic while held");
        match (&written, pack) {
            (Ok(()), _) => packs.doubtful.clear(),
            (Err(_), Some((number, _))) => packs.doubtful.push(number),
            (Err(_), None) => {}
        }
        written
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

    /// Blocks of one write: their bodies go into a pack.
    const PART: usize = 25;
    const DEPTH: u64 = 4;
    /// Set in the process that is to end: where its store is.
    const DIR: &str = "VOS_TEST_ENDS_IN";
    /// How many parts it writes, and whether it ends in the middle of the next one.
    const AFTER: &str = "VOS_TEST_ENDS_AFTER";

    fn row() -> Vec<Block> {
        let row = Maker::new(1).row(&kit::genesis(), 4 * PART, 100_000);
        let bytes: usize = row[..PART].iter().map(|b| b.body().bytes().len()).sum();
        assert!(bytes >= PACKED_BYTES);
        row
    }

    fn open(dir: &std::path::Path) -> Rocks {
        Rocks::open(Store::open(dir).unwrap()).unwrap()
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
            rocks.pack(&all.next().unwrap().iter().collect::<Vec<_>>()).unwrap();
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
            let there = || std::fs::read_dir(dir.path().join("bodies/block")).unwrap().count();
            assert_eq!(there(), parts + usize::from(midway));
            let rocks = open(dir.path());
            assert_eq!(there(), parts, "one that nobody names is removed");
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
        let one_by_one: Vec<_> = hashes.iter().map(|h| rocks.header(h).unwrap()).collect();
        assert_eq!(rocks.headers(&hashes).unwrap(), one_by_one);
        // Rows of every length from every place end where one is missing or there is no more room.
        for from in 0..hashes.len() {
            for max_bytes in [0, 1000, 150_000, 350_000, usize::MAX] {
                let (mut expected, mut bytes) = (Vec::new(), 0_usize);
                for hash in &hashes[from..] {
                    let Some(header) = rocks.header(hash).unwrap() else { break };
                    let body = rocks.body(hash).unwrap().unwrap_or_default();
                    bytes += header.len() + body.len();
                    if bytes > max_bytes && !expected.is_empty() {
                        break;
                    }
                    expected.push((header, body));
                }
                assert_eq!(rocks.blocks(&hashes[from..], max_bytes).unwrap(), expected);
            }
        }
    }

    fn packs(rocks: &Rocks) -> Vec<u64> {
        rocks.store.body_numbers(Shelf::Block).unwrap()
    }

    fn points(all: &[Block]) -> Vec<Point> {
        all.iter().map(|b| Point { height: b.header().height, hash: b.hash() }).collect()
    }

    fn add(all: &[Block]) -> Change {
        Change { added: all.to_vec(), attached: points(all), ..Change::default() }
    }

    fn evict(all: &[Block]) -> Change {
        Change { evicted: points(all), ..Change::default() }
    }

    #[test]
    fn a_pack_goes_with_the_last_of_its_bodies() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = open(dir.path()).packing_from(1);
        let row = Maker::new(1).row(&kit::genesis(), 6, 1000);
        let loser = Maker::new(2).row(&kit::genesis(), 1, 1000);
        rocks.write(&Change { added: [&row[..4], &loser].concat(), ..add(&row[..4]) }, true).unwrap();
        assert!(
            rocks.store.contains(Family::BlockBody, loser[0].hash().as_bytes()).unwrap(),
            "not for as long as the pack"
        );
        // One is evicted by the write that adds it, and one that was written before.
        let change = Change { evicted: points(&[row[4].clone(), row[0].clone()]), ..add(&row[4..]) };
        rocks.write(&change, true).unwrap();
        assert_eq!(packs(&rocks).len(), 2);
        for (i, block) in row.iter().enumerate() {
            let body = rocks.body(&block.hash()).unwrap();
            assert_eq!(body.as_ref(), Some(block.body().bytes()).filter(|_| ![0, 4].contains(&i)), "{i}");
        }
        drop(rocks);
        let rocks = open(dir.path()).packing_from(1);
        rocks.write(&evict(&row[1..4]), true).unwrap();
        rocks.store.close();
        assert_eq!(packs(&rocks), [1]);
        drop(rocks);
        let rocks = open(dir.path()).packing_from(1);
        rocks.write(&evict(&row[5..]), true).unwrap();
        // All that it adds goes at once.
        rocks.write(&Change { evicted: points(&row[..1]), ..add(&row[..1]) }, true).unwrap();
        rocks.store.close();
        assert!(packs(&rocks).is_empty());
    }

    #[test]
    fn packs_whose_rows_are_not_written_are_removed_with_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = open(dir.path());
        let row = row();
        rocks.write(&add(&row[..PART]), true).unwrap();
        // On a full disk nothing is begun.
        rocks.store.pretend_full(true);
        assert!(matches!(rocks.write(&add(&row[PART..2 * PART]), true), Err(StoreError::DiskFull(_))));
        rocks.store.pretend_full(false);
        assert_eq!(packs(&rocks), [0]);
        // As if two writes of rows had failed: one's were written all the same, and one's were not.
        rocks.pack(&row[PART..2 * PART].iter().collect::<Vec<_>>()).unwrap();
        let other = packs(&rocks).into_iter().max().unwrap();
        rocks.packs.lock().unwrap().doubtful = vec![0, other];
        rocks.write(&Change::default(), true).unwrap();
        assert!(rocks.packs.lock().unwrap().doubtful.is_empty());
        // A write that does fail after the pack, since nobody commits any more; what was to be removed is.
        rocks.store.close();
        assert_eq!(packs(&rocks), [0]);
        assert_eq!(rocks.write(&add(&row[PART..2 * PART]), true), Err(StoreError::Stopped));
        assert_eq!((packs(&rocks).len(), rocks.packs.lock().unwrap().doubtful.len()), (2, 1));
        drop(rocks);
        let rocks = open(dir.path());
        assert_eq!(packs(&rocks), [0]);
        assert_eq!(rocks.body(&row[3].hash()).unwrap().as_ref(), Some(row[3].body().bytes()));
    }

    #[test]
    fn a_body_that_is_damaged_or_missing_in_its_pack_is_an_error_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let row = row();
        let rocks = open(dir.path());
        let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
        core.import_segment(row[..PART].to_vec(), Origin::File, kit::NOW).unwrap();
        let hashes = rocks.hashes(1, PART).unwrap();
        let path = dir.path().join("bodies/block/0000000000000000");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3 * 100_000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let bad = rocks.blocks(&hashes, usize::MAX).unwrap().len();
        assert!((1..4).contains(&bad), "those before it are served");
        assert!(matches!(rocks.blocks(&hashes[bad..], usize::MAX), Err(StoreError::Failed(_))));
        assert!(matches!(rocks.body(&hashes[bad]), Err(StoreError::Failed(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(rocks.blocks(&hashes, usize::MAX), Err(StoreError::Failed(_))));
        drop((core, rocks));
        let rocks = open(dir.path());
        let opened = Core::open(kit::rules(DEPTH), Arc::new(rocks), kit::NOW);
        assert!(opened.unwrap_err().to_string().contains("body is missing"));
    }
}
