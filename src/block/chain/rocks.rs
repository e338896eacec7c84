//! The chain on disk.
//!
//! Family `block`, told apart by the first byte of the key: `m` → marks, `h` ‖ hash → header ‖ spot if its body is in a pack,
//! `c` ‖ height → hash of the best block, `n` ‖ height ‖ hash → candidates above the committed block, `r` ‖ height of the winner ‖ hash →
//! retired blocks, `p` ‖ number → how many bodies in the pack are kept ‖ last height if it has an index, `i` → indices ([`stretch`]).
//! Families `block_fresh` and `block_body`: hash → body, unless it is empty or in a pack. In the first are those of blocks that are not
//! final, and of losers: hardly anything stays there, so its files go as wholes. What becomes final moves to the second, where everything
//! stays. So the room of what was deleted comes back, and nothing is copied again and again for that.
//! Heights are eight bytes big-endian, so scans come in order, and no kind of key is a prefix of another.
//!
//! What is not here: the children of a block, since the tree in memory knows those that matter, and it is made of the candidates; and
//! invalid hashes, which are remembered for ten minutes only.
//!
//! A block that is committed in the write that adds it costs two rows and its body. The genesis block is written like any other.
//!
//! Many bodies at once, as when a node catches up, go into a *pack*: one file beside the database, with their headers, in the order of the
//! blocks, durable before the rows that name it are written. So they are written once, and many blocks are served with one read. A pack is
//! begun with the first blocks of a write while others are still to come, so that hardly anything is left to be written then. A process
//! that ends in between leaves a pack that nobody names; the next start removes it, or the next write when only the rows could not be
//! written. A pack goes with the last of its bodies; only blocks of the best chain are in one.

mod stretch;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use self::stretch::Index;
use super::store::{ChainStore, Change, Marks, Retired, Room, Stretch};
use crate::{
    block::{Block, Header, MAX_BODY_BYTES, Point},
    primitives::Hash,
    store::{Batch, Family, PackWriter, Shelf, Spot, Store, StoreError},
};

const MARKS: &[u8] = b"m";
/// First byte of the marks. Another one means a newer program, which the store's own version refuses first.
const FORM: u8 = 1;
/// From so many bytes on, the bodies of one write go into a pack: writing them to the log as well takes longer than the sync of one more
/// file.
const PACKED_BYTES: usize = 2 * 1024 * 1024;

/// Bodies that one write moves to those of final blocks, which are in memory meanwhile, when there is as much room. More than that become final
/// at once when many come together; the rest is found where it is, and stays.
const SETTLED_BYTES: usize = 16 * 1024 * 1024;

/// Keeps blocks in the node's store.
#[derive(Clone, Debug)]
pub struct Rocks {
    store: Store,
    rows: Arc<AtomicU64>,
    packs: Arc<Mutex<Packs>>,
    /// Packs that are gone, or are not what was written.
    damaged: Arc<Mutex<BTreeSet<u64>>>,
    /// See [`PACKED_BYTES`].
    packed_bytes: usize,
}

/// A pack that was written.
#[derive(Debug)]
struct Packed {
    number: u64,
    /// Where each body is that is not empty.
    spots: HashMap<Hash, Spot>,
    index: Option<Index>,
}

/// A pack that is begun, for a change that is to be written.
#[derive(Debug)]
struct Begun {
    number: u64,
    pack: PackWriter,
    /// The blocks in it, and where their parts are.
    hashes: Vec<Hash>,
    spots: Vec<Spot>,
}

impl Begun {
    fn put(&mut self, blocks: &[&Block]) -> Result<(), StoreError> {
        let heads: Vec<Vec<u8>> = blocks.iter().map(|b| stretch::head(b)).collect();
        let pieces: Vec<&[u8]> = heads.iter().zip(blocks).flat_map(|(h, b)| [&h[..], &b.body().bytes()[..]]).collect();
        self.spots.extend(self.pack.put(&pieces)?);
        self.hashes.extend(blocks.iter().map(|b| b.hash()));
        Ok(())
    }

    /// Whether these are its blocks, and maybe more after them.
    fn begins(&self, blocks: &[&Block]) -> bool {
        self.hashes.len() <= blocks.len() && self.hashes.iter().zip(blocks).all(|(hash, b)| *hash == b.hash())
    }
}

/// Packs to come.
#[derive(Debug)]
struct Packs {
    next: u64,
    begun: Option<Begun>,
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
        let missing: BTreeSet<u64> = named.iter().filter(|number| !there.contains(number)).copied().collect();
        if !missing.is_empty() {
            tracing::error!(
                missing = missing.len(),
                "files with bodies of blocks are missing: those blocks cannot be served; `vos block reset` forgets the chain, to fetch it anew"
            );
        }
        let unnamed: Vec<_> = there.into_iter().filter(|number| !named.contains(number)).collect();
        if !unnamed.is_empty() {
            store.clear_bodies(Shelf::Block, &unnamed)?;
        }
        let packs = Packs { next, begun: None, doubtful: Vec::new() };
        let damaged = Arc::new(Mutex::new(missing));
        Ok(Self {
            store,
            rows: Arc::default(),
            packs: Arc::new(Mutex::new(packs)),
            damaged,
            packed_bytes: PACKED_BYTES,
        })
    }

    /// Forgets the whole chain, whatever state it is in. Where its head was, when that can be read. Nobody may have it open. A process
    /// that ends in between has forgotten all of it or nothing; files that are left then go with the next start. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn erase(store: &Store) -> Result<Option<Point>, StoreError> {
        // What cannot be read is to be forgotten as well.
        let head =
            store.get(Family::Block, MARKS).ok().flatten().and_then(|marks| read_marks(&marks)).map(|marks| marks.head);
        store.clear(&[Family::Block, Family::BlockFresh, Family::BlockBody])?;
        store.clear_bodies(Shelf::Block, &store.body_numbers(Shelf::Block)?)?;
        Ok(head)
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
        let (mut named, mut noted, mut indexed) = (HashMap::new(), HashMap::new(), 0);
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
            let (count, last) = read_count(count).expect("a count");
            if let Some(last) = last {
                assert!(self.store.contains(Family::Block, &stretch::key(last, number)).expect("it can be read"));
                indexed += 1;
            }
            noted.insert(number, count);
        });
        assert_eq!(named, noted);
        each(b"i", &mut |_, _| indexed -= 1);
        assert_eq!(indexed, 0, "an index for each pack that says so, and no other");
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

/// How many bodies of a pack are kept, and the last height of its index.
fn read_count(row: &[u8]) -> Option<(u32, Option<u64>)> {
    let (count, rest) = row.split_first_chunk()?;
    let last = if rest.is_empty() { None } else { Some(u64::from_be_bytes(rest.try_into().ok()?)) };
    Some((u32::from_be_bytes(*count), last))
}

fn put_count(batch: &mut Batch, number: u64, (count, last): (u32, Option<u64>)) {
    let mut row = count.to_be_bytes().to_vec();
    row.extend(last.into_iter().flat_map(u64::to_be_bytes));
    batch.put(Family::Block, by_pack(number), row);
}

fn listed(kind: &[u8; 1], height: u64, hash: &Hash) -> Vec<u8> {
    [kind, &height.to_be_bytes()[..], hash.as_bytes()].concat()
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is not what was written, or is gone"))
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
            None => {
                let family = if at_once.contains(&hash) { Family::BlockBody } else { Family::BlockFresh };
                batch.put(family, *hash.as_bytes(), block.body().bytes().to_vec());
            }
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
    // It is in the second one when it was final, or when an older program wrote it.
    let body = *hash.as_bytes();
    batch.delete(Family::Block, by_hash(hash)).delete(Family::BlockFresh, body).delete(Family::BlockBody, body);
}

impl Rocks {
    fn row(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(Family::Block, &by_hash(hash))
    }

    /// Puts blocks into the pack that is begun for them, where some of the first ones are already, or into a new one. `None` when they
    /// are too few for a pack.
    fn put_in_pack(&self, begun: Option<Begun>, blocks: &[&Block]) -> Result<Option<Begun>, StoreError> {
        // What was begun for other blocks goes.
        let mut begun = match begun.filter(|begun| begun.begins(blocks)) {
            Some(begun) => begun,
            None => {
                let bytes: usize = blocks.iter().map(|b| b.body().bytes().len()).sum();
                if bytes == 0 || bytes < self.packed_bytes {
                    return Ok(None);
                }
                let number = {
                    let mut packs = self.packs.lock().expect("no panic while held");
                    packs.next += 1;
                    packs.next - 1
                };
                let pack = self.store.write_pack(number, bytes)?;
                Begun { number, pack, hashes: Vec::new(), spots: Vec::new() }
            }
        };
        begun.put(&blocks[begun.hashes.len()..])?;
        Ok(Some(begun))
    }

    /// Makes a pack durable.
    fn finish(begun: Begun, blocks: &[&Block]) -> Result<Packed, StoreError> {
        let Begun { number, pack, spots, .. } = begun;
        pack.finish()?;
        let index = Index::of(blocks, &spots);
        let bodies = blocks.iter().zip(spots.chunks_exact(2)).filter(|(b, _)| !b.body().is_empty());
        Ok(Packed { number, spots: bodies.map(|(b, parts)| (b.hash(), parts[1])).collect(), index })
    }

    fn take_begun(&self) -> Option<Begun> {
        self.packs.lock().expect("no panic while held").begun.take()
    }

    /// Adds the rows about packs: the new one, those that bodies leave, and those that nobody names.
    /// Returns those that go.
    fn count(&self, change: &Change, new: Option<&Packed>, out: &mut Batch) -> Result<Vec<u64>, StoreError> {
        let mut going = Vec::new();
        let mut left: HashMap<u64, u32> = HashMap::new();
        let evicted = change.evicted.iter().map(|p| p.hash);
        let gone: HashSet<_> = evicted.chain(change.expired.iter().map(|r| r.point.hash)).collect();
        for hash in gone {
            let spot = match new.and_then(|new| new.spots.get(&hash)) {
                Some(spot) => Some(*spot),
                None => self.row(&hash)?.and_then(|row| read_row(&row)?.1),
            };
            if let Some(spot) = spot {
                *left.entry(spot.pack).or_default() += 1;
            }
        }
        if let Some(new) = new {
            left.entry(new.number).or_default();
        }
        for (number, leaving) in left {
            let new = new.filter(|new| new.number == number);
            let (before, last) = if let Some(new) = new {
                (u32::try_from(new.spots.len()).unwrap_or(u32::MAX), new.index.as_ref().map(|index| index.last))
            } else {
                let row = self.store.get(Family::Block, &by_pack(number))?;
                let Some(count) = row.as_deref().and_then(read_count) else {
                    tracing::error!(number, "how many bodies are in this file is not known: it is kept");
                    continue;
                };
                count
            };
            let kept = before.saturating_sub(leaving);
            if kept > 0 {
                put_count(out, number, (kept, last));
                if let Some(index) = new.and_then(|new| new.index.as_ref()) {
                    index.put(number, out);
                }
                continue;
            }
            going.push(number);
            out.delete(Family::Block, by_pack(number)).remove_body(Shelf::Block, number);
            if let Some(last) = last {
                out.delete(Family::Block, stretch::key(last, number));
            }
        }
        // They go when this write is durable: until then rows in the log may still name them.
        for number in &self.packs.lock().expect("no panic while held").doubtful {
            if !self.store.contains(Family::Block, &by_pack(*number))? {
                out.remove_body(Shelf::Block, *number);
            }
        }
        Ok(going)
    }

    /// Moves the bodies of blocks that become final, as far as that can be done: they are found where they are as well.
    fn settle(&self, change: &Change, out: &mut Batch) {
        let added: HashSet<Hash> = change.added.iter().map(Block::hash).collect();
        let mut left = SETTLED_BYTES;
        for hash in change.committed.iter().map(|point| point.hash).filter(|hash| !added.contains(hash)) {
            let Ok(Some(body)) = self.store.get(Family::BlockFresh, hash.as_bytes()) else { continue };
            let Some(rest) = left.checked_sub(body.len()) else { break };
            // On a disk that is nearly full the write that makes them final is a small one.
            if self.store.check_room(SETTLED_BYTES as u64).is_err() {
                break;
            }
            left = rest;
            out.delete(Family::BlockFresh, *hash.as_bytes()).put(Family::BlockBody, *hash.as_bytes(), body);
        }
    }

    /// Bodies that are in no pack, in the order of the hashes.
    fn alone(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Bytes>>, StoreError> {
        // In the order in which they move, or one might be missed in both.
        let mut bodies = self.store.get_many(Family::BlockFresh, hashes)?;
        let (at, keys): (Vec<_>, Vec<_>) =
            hashes.iter().enumerate().filter(|(at, _)| bodies[*at].is_none()).map(|(at, hash)| (at, *hash)).unzip();
        for (at, body) in at.into_iter().zip(self.store.get_many(Family::BlockBody, &keys)?) {
            bodies[at] = body;
        }
        Ok(bodies.into_iter().map(|body| body.map(Bytes::from)).collect())
    }

    /// Writes the rows of a change.
    fn put(&self, change: &Change, pack: Option<&Packed>, synced: bool) -> Result<(), StoreError> {
        let mut batch = batch(change, pack.map(|pack| &pack.spots));
        self.settle(change, &mut batch);
        let gone = self.count(change, pack, &mut batch)?;
        self.rows.fetch_add(batch.len() as u64, Ordering::Relaxed); // usize fits in u64
        match synced {
            // The chain has a thread of its own: it may wait for the disk, and shares the sync with whoever else waits.
            true => futures::executor::block_on(self.store.commit(batch))?,
            false => self.store.write_unsynced(batch)?,
        }
        // A damaged one of which nothing is wanted any more is no damage.
        self.damaged.lock().expect("no panic while held").retain(|number| !gone.contains(number));
        Ok(())
    }

    /// The body that a row names, which was not in its pack: gone with the row, or an error.
    fn lost(&self, hash: &Hash, spot: &Spot) -> Result<(), StoreError> {
        let still = self.row(hash)?.is_some_and(|row| read_row(&row).is_some_and(|(_, s)| s.as_ref() == Some(spot)));
        if !still {
            return Ok(());
        }
        if self.damaged.lock().expect("no panic while held").insert(spot.pack) {
            tracing::error!(
                pack = spot.pack,
                "a file with bodies of blocks is damaged, or gone: some of them cannot be served"
            );
        }
        Err(damaged(&format!("the body of block {hash}")))
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
        let Some(spot) = spot else { return Ok(self.alone(&[*hash.as_bytes()])?.pop().flatten()) };
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
        let mut alone = self.alone(&alone)?.into_iter();
        let mut blocks = Vec::with_capacity(headers.len());
        for (hash, header, has_body, spot) in headers {
            let body = match (has_body, spot) {
                (_, Some(_)) => packed.next().flatten(),
                (true, None) => alone.next().flatten(),
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

    fn stretch(&self, from: u64, count: usize, max_bytes: usize) -> Result<Option<Stretch>, StoreError> {
        self.read_stretch(from, count, max_bytes)
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

    fn prepare(&self, added: &[Block]) {
        let blocks: Vec<_> = added.iter().collect();
        // What cannot be written now is tried again, and told, when the change is written.
        let begun = self.put_in_pack(self.take_begun(), &blocks).unwrap_or_default();
        self.packs.lock().expect("no panic while held").begun = begun;
    }

    fn damaged_files(&self) -> usize {
        self.damaged.lock().expect("no panic while held").len()
    }

    fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.store.check_room(bytes as u64) // usize fits in u64
    }

    fn write(&self, change: &Change, synced: bool) -> Result<(), StoreError> {
        // Losers are not packed: they are deleted one by one, and would stay as long as the pack does.
        let best: HashSet<&Hash> = change.attached.iter().map(|p| &p.hash).collect();
        let packed: Vec<_> = change.added.iter().filter(|b| best.contains(&b.hash())).collect();
        let begun = self.put_in_pack(self.take_begun(), &packed)?;
        let pack = begun.map(|begun| Self::finish(begun, &packed)).transpose()?;
        let written = self.put(change, pack.as_ref(), synced);
        let mut packs = self.packs.lock().expect("no panic while held");
        match (&written, pack) {
            (Ok(()), _) => packs.doubtful.clear(),
            (Err(_), Some(pack)) => packs.doubtful.push(pack.number),
            (Err(_), None) => {}
        }
        written
    }
}

#[cfg(test)]
mod tests;
