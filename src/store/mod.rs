//! L2: the node's one RocksDB with files of large bodies beside it, and the only folder that sees them.
//!
//! # Durability
//! [`Store::commit`] is the durable way: batches from all tasks go to one writer thread, which merges what is waiting
//! into one synced write (one `fdatasync` for many callers) and answers them all. A batch is atomic over families.
//! [`Store::write_unsynced`] survives a killed process but not a power cut; it is for what can be fetched again
//! (map records of others, Kademlia records). A write that has returned comes
//! before every later one, also after a crash; one that still waits for its sync may be overtaken by an unsynced write.
//!
//! Large bodies have files of their own ([`Store::write_body`]): they are durable after [`Store::sync_body`]. See `body.rs`. Many
//! smaller ones at once share a file ([`Store::write_pack`]), so that they are written once, and not to the log as well.
//!
//! # Blocking
//! Point reads of hot data take microseconds and may be made inline. Scans are for `spawn_blocking`, except small ones.
//! Nothing here may be called on the swarm task but point reads and unsynced writes.
//!
//! # Versions
//! The `meta` family holds the layout version. A store of a newer version is refused ([`OpenError::Newer`]); an
//! older one is migrated step by step before anything else sees it.

mod body;
mod family;
mod open;
mod space;
mod writer;

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use body::Bodies;
pub use body::{MAX_BODY_PART, Shelf, Spot};
use bytes::Bytes;
use rocksdb::{Direction, IteratorMode, WriteBatch, WriteOptions};

pub use family::Family;
pub use open::OpenError;
use space::Space;
use writer::Writer;
pub use writer::{Committing, WriterStats};

type Db = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;

/// The layout version this program writes. In 1 no body of a block was in a pack, in 2 packs had bodies alone and no index, in 3
/// bodies of blocks that are not final were among those that are.
pub const LAYOUT_VERSION: u32 = 4;

/// Comes after every key: none is as long.
const BEYOND_KEYS: [u8; 256] = [0xff; 256];

/// Why the store could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space left on the disk; nothing of the batch was written. Retry after space was made.
    #[error("the disk is full: make room and try again, no restart is needed ({0})")]
    DiskFull(String),
    /// The disk or the database failed; the same may work in a moment.
    #[error("the store failed: {0}")]
    Failed(String),
    /// What is stored is not what was written, or is gone: trying again does not help.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The store is closing.
    #[error("the store is stopped")]
    Stopped,
}

impl From<rocksdb::Error> for StoreError {
    fn from(e: rocksdb::Error) -> Self {
        let text = e.to_string();
        // After a quota was hit the database takes nothing before it is opened anew: that is no full disk to it.
        if text.contains("No space left") || text.contains("space limit") {
            Self::DiskFull(text)
        } else if e.kind() == rocksdb::ErrorKind::Corruption {
            Self::Damaged(text)
        } else {
            Self::Failed(text)
        }
    }
}

/// Changes that happen together or not at all.
#[derive(Default, Debug)]
pub struct Batch {
    ops: Vec<(Family, Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
    bodies: Vec<(Shelf, u64)>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push((family, key, Some(value)));
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) -> &mut Self {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push((family, key, None));
        self
    }

    /// Removes the file of a body, soon after everything else in the batch is durable.
    pub fn remove_body(&mut self, shelf: Shelf, number: u64) -> &mut Self {
        self.bodies.push((shelf, number));
        self
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.bodies.is_empty()
    }

    /// Keys that it sets or removes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it only removes: that is possible on a full disk too.
    fn only_removes(&self) -> bool {
        self.ops.iter().all(|(_, _, value)| value.is_none())
    }
}

/// The open store. Clones share it; the last one dropped closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: Arc<Db>,
    writer: Writer,
    space: Arc<Space>,
    bodies: Arc<Bodies>,
    path: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.inner.path).finish()
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Store {
    /// Opens the store in `path`, making it when missing and migrating an older one. Blocks; call it before the node runs.
    ///
    /// # Errors
    /// [`OpenError`] when another process holds it, it is of a newer version, damaged, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |e: std::io::Error| OpenError::new(path, &e);
        let (db, direct) = open::open(path)?;
        let (db, space) = (Arc::new(db), Arc::new(Space::new(path)));
        let bodies = Arc::new(Bodies::open(path, direct).map_err(failed)?);
        let writer = Writer::start(db.clone(), space.clone(), bodies.clone()).map_err(failed)?;
        Ok(Self { inner: Arc::new(Inner { db, writer, space, bodies, path: path.to_owned() }) })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner.db.get_cf(&handle(&self.inner.db, family), key)?)
    }

    /// The values of several keys, in their order, in one call: it costs about half of what one call for each does.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn get_many<K: AsRef<[u8]>>(&self, family: Family, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let values = self.inner.db.batched_multi_get_cf(&handle(&self.inner.db, family), keys, false);
        values.into_iter().map(|value| Ok(value?.map(|v| v.to_vec()))).collect()
    }

    /// Whether `key` exists.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn contains(&self, family: Family, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.inner.db.get_pinned_cf(&handle(&self.inner.db, family), key)?.is_some())
    }

    /// Up to `limit` pairs whose keys start with `prefix`, in key order, beginning after `after` when given.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let mut pairs = Vec::new();
        self.for_each(family, prefix, from, |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            pairs.len() < limit
        })?;
        Ok(pairs)
    }

    /// Calls `each` with the pairs whose keys start with `prefix`, in key order from `from`, until it says `false`.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn for_each(
        &self,
        family: Family,
        prefix: &[u8],
        from: Bound<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let start = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => prefix,
        };
        let mode = IteratorMode::From(start.max(prefix), Direction::Forward);
        for item in self.inner.db.iterator_cf(&handle(&self.inner.db, family), mode) {
            let (key, value) = item?;
            if !key.starts_with(prefix) {
                break;
            }
            if matches!(from, Bound::Excluded(excluded) if excluded == &*key) {
                continue;
            }
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// The last pair whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn last(&self, family: Family, prefix: &[u8]) -> Result<Option<Pair>, StoreError> {
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(prefix));
        let cf = handle(&self.inner.db, family);
        let mut items = self.inner.db.iterator_cf_opt(&cf, options, IteratorMode::End);
        Ok(items.next().transpose()?.map(|(k, v)| (k.into_vec(), v.into_vec())))
    }

    /// Writes a batch durably: when this returns `Ok`, it survives a power cut. Shares one sync with everything else that
    /// waits. Cancelling the future does not cancel the write.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails: then nothing of the batch was written.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.submit(batch).await?.done().await
    }

    /// Hands a batch to the writer. Batches reach the disk in the order in which this returned: after a crash the later of two
    /// is there only if the earlier one is.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn submit(&self, batch: Batch) -> Result<Committing, StoreError> {
        self.inner.writer.submit(batch).await
    }

    /// Writes a batch without waiting for the disk.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails.
    pub fn write_unsynced(&self, batch: Batch) -> Result<(), StoreError> {
        if !batch.only_removes() {
            self.inner.space.check(batch.bytes())?;
        }
        let mut batches = [batch];
        let removed = std::mem::take(&mut batches[0].bodies);
        self.inner.db.write_opt(to_rocks(&self.inner.db, batches), &WriteOptions::default())?;
        self.inner.writer.remove_after_sync(removed);
        Ok(())
    }

    /// Begins a new file of [`Shelf::Block`] for many pieces, one after another: about `bytes` of them, which takes that much memory up to
    /// 2 MiB. `number` must be new. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails.
    pub fn write_pack(&self, number: u64, bytes: usize) -> Result<PackWriter, StoreError> {
        Ok(PackWriter { pack: self.inner.bodies.pack(number, bytes)?, space: self.inner.space.clone() })
    }

    /// The pieces at these places, in their order; `None` for one that is not there, or is damaged. Those that lie close to each other
    /// are read at once and share their memory, so the caller bounds what it asks for. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn packed(&self, spots: &[Spot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        Ok(self.inner.bodies.packed(spots)?)
    }

    /// The pieces at these places of one pack, which follow each other, in one. `None` when any is not there or damaged. The caller bounds
    /// what it asks for. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn packed_together(&self, spots: &[Spot]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner.bodies.packed_together(spots)?)
    }

    /// Opens a large body for writing, part by part; the first to do so makes its file. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails.
    pub fn write_body(&self, shelf: Shelf, number: u64) -> Result<BodyWriter, StoreError> {
        let writer = self.inner.bodies.write(shelf, number)?;
        Ok(BodyWriter { writer, space: self.inner.space.clone() })
    }

    /// Makes all parts written to a body durable. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails or the body is not there.
    pub fn sync_body(&self, shelf: Shelf, number: u64) -> Result<(), StoreError> {
        Ok(self.inner.bodies.sync(shelf, number)?)
    }

    /// A part of a body; `None` when it was not written, or is damaged. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn body_part(&self, shelf: Shelf, number: u64, index: u32) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner.bodies.part(shelf, number, index)?)
    }

    /// Removes the files of bodies that no row names; durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn clear_bodies(&self, shelf: Shelf, numbers: &[u64]) -> Result<(), StoreError> {
        Ok(self.inner.bodies.clear(shelf, numbers)?)
    }

    /// Removes everything in these families, all of it or nothing, and gives the room back to the disk; the removal is durable when this
    /// returns. Files of bodies stay: [`Store::clear_bodies`]. Blocks, for long when there is much.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn clear(&self, families: &[Family]) -> Result<(), StoreError> {
        let db = &self.inner.db;
        let (mut all, mut synced) = (WriteBatch::default(), WriteOptions::default());
        for family in families {
            all.delete_range_cf(&handle(db, *family), &[][..], &BEYOND_KEYS[..]);
        }
        synced.set_sync(true);
        db.write_opt(all, &synced)?;
        // Whole files go without a compaction, which needs room itself: the disk may be full.
        for family in families {
            db.delete_file_in_range_cf(&handle(db, *family), &[][..], &BEYOND_KEYS[..])?;
        }
        for family in families {
            db.compact_range_cf(&handle(db, *family), None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// The numbers of all bodies of a shelf, in any order. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    pub fn body_numbers(&self, shelf: Shelf) -> Result<Vec<u64>, StoreError> {
        Ok(self.inner.bodies.numbers(shelf)?)
    }

    /// Whether there is room for `bytes` more, above the reserve. One system call of about a microsecond.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when there is not.
    pub fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        self.inner.space.check(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// What the writer has done: how many commits shared how many syncs.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.inner.writer.stats()
    }

    /// Free bytes of the disk that the store is on; `None` when the system does not say. One system call of about a microsecond.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.inner.space.free()
    }

    /// Bytes of the store on disk. Blocks for a while when it holds thousands of large bodies.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        // What is in memory is in the log too.
        let properties =
            ["rocksdb.total-sst-files-size", "rocksdb.total-blob-file-size", "rocksdb.cur-size-all-mem-tables"];
        let of_family = |family: &Family| -> u64 {
            let cf = handle(&self.inner.db, *family);
            let value = |name| self.inner.db.property_int_value_cf(&cf, name).ok().flatten().unwrap_or(0);
            properties.into_iter().map(value).sum()
        };
        Family::ALL.iter().map(of_family).sum::<u64>() + self.inner.bodies.bytes()
    }

    /// For tests: as if the disk were full, or had room again.
    #[cfg(any(test, feature = "test-util"))]
    pub fn pretend_full(&self, full: bool) {
        self.pretend_free(full.then_some(0));
    }

    /// For tests: writes go as if the disk had so many free bytes, or those that it has.
    #[cfg(any(test, feature = "test-util"))]
    pub fn pretend_free(&self, free: Option<u64>) {
        self.inner.space.pretend_free(free);
    }

    /// Stops the writer after what is queued and makes everything durable. Blocks. Later commits answer
    /// [`StoreError::Stopped`].
    pub fn close(&self) {
        self.inner.writer.stop();
        if let Err(error) = self.inner.db.flush_wal(true) {
            tracing::error!(%error, "could not sync the store while closing");
        }
        self.inner.db.cancel_all_background_work(true);
    }
}

/// Writes pieces of one pack. It is removed again when it is dropped unfinished.
#[derive(Debug)]
pub struct PackWriter {
    pack: body::Pack,
    space: Arc<Space>,
}

impl PackWriter {
    /// Adds pieces and returns where they will lie; all of a pack come to 4 GiB at most. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails: then the pack is of no use any more.
    pub fn put(&mut self, pieces: &[&[u8]]) -> Result<Vec<Spot>, StoreError> {
        self.space.check(pieces.iter().map(|p| p.len()).sum())?;
        Ok(pieces.iter().map(|piece| self.pack.put(piece)).collect::<Result<_, _>>()?)
    }

    /// Makes all pieces durable. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails; nothing is left behind then.
    pub fn finish(self) -> Result<(), StoreError> {
        Ok(self.pack.finish()?)
    }
}

/// Writes parts of one large body.
#[derive(Debug)]
pub struct BodyWriter {
    writer: body::Writer,
    space: Arc<Space>,
}

impl BodyWriter {
    /// Writes part `index`, of at most [`MAX_BODY_PART`] bytes; in any order, and again. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails.
    pub fn put(&mut self, index: u32, part: &[u8]) -> Result<(), StoreError> {
        self.space.check(part.len())?;
        Ok(self.writer.put(index, part)?)
    }
}

fn handle(db: &Db, family: Family) -> Arc<rocksdb::BoundColumnFamily<'_>> {
    db.cf_handle(family.name()).expect("every family is made at open")
}

fn to_rocks(db: &Db, batches: impl IntoIterator<Item = Batch>) -> WriteBatch {
    let mut all = WriteBatch::default();
    for (family, key, value) in batches.into_iter().flat_map(|b| b.ops) {
        match value {
            Some(value) => all.put_cf(&handle(db, family), key, value),
            None => all.delete_cf(&handle(db, family), key),
        }
    }
    all
}

#[cfg(test)]
mod tests;
