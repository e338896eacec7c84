//! A chain store in memory, for tests, simulations and benches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{RwLock, RwLockReadGuard},
};

use bytes::Bytes;

use super::store::{ChainStore, Change, Marks, Retired};
use crate::{block::Point, primitives::Hash, store::StoreError};

/// Keeps blocks in memory.
#[derive(Default, Debug)]
pub struct Memory(RwLock<Tables>);

#[derive(Default, Debug)]
struct Tables {
    marks: Option<Marks>,
    blocks: HashMap<Hash, (Bytes, Bytes)>,
    canonical: BTreeMap<u64, Hash>,
    candidates: BTreeMap<(u64, Hash), ()>,
    retired: BTreeMap<(u64, Hash), Retired>,
}

impl Memory {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().expect("no panic while held")
    }
}

impl ChainStore for Memory {
    fn marks(&self) -> Result<Option<Marks>, StoreError> {
        Ok(self.read().marks)
    }

    fn header(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read().blocks.get(hash).map(|(header, _)| header.clone()))
    }

    fn body(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read().blocks.get(hash).map(|(_, body)| body.clone()).filter(|b| !b.is_empty()))
    }

    fn hash_at(&self, height: u64) -> Result<Option<Hash>, StoreError> {
        Ok(self.read().canonical.get(&height).copied())
    }

    fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        let tables = self.read();
        let rows = tables.canonical.range(from..).zip(from..).take(count);
        Ok(rows.take_while(|((at, _), height)| **at == *height).map(|((_, hash), _)| *hash).collect())
    }

    fn candidates(&self) -> Result<Vec<Point>, StoreError> {
        Ok(self.read().candidates.keys().map(|(height, hash)| Point { height: *height, hash: *hash }).collect())
    }

    fn retired(&self) -> Result<Vec<Retired>, StoreError> {
        Ok(self.read().retired.values().copied().collect())
    }

    fn write(&self, change: &Change, _synced: bool) -> Result<(), StoreError> {
        let mut tables = self.0.write().expect("no panic while held");
        for block in &change.added {
            let header = block.header();
            tables.blocks.insert(block.hash(), (header.encode().into(), block.body().bytes().clone()));
            tables.candidates.insert((header.height, block.hash()), ());
        }
        for point in &change.detached {
            tables.canonical.remove(&point.height);
        }
        for point in &change.attached {
            tables.canonical.insert(point.height, point.hash);
        }
        for point in &change.committed {
            tables.candidates.remove(&(point.height, point.hash));
        }
        for point in &change.restored {
            tables.candidates.insert((point.height, point.hash), ());
        }
        for retired in &change.revived {
            tables.retired.remove(&(retired.at, retired.point.hash));
            tables.candidates.insert((retired.point.height, retired.point.hash), ());
        }
        for retired in &change.retired {
            tables.candidates.remove(&(retired.point.height, retired.point.hash));
            tables.retired.insert((retired.at, retired.point.hash), *retired);
        }
        for point in &change.evicted {
            tables.candidates.remove(&(point.height, point.hash));
            tables.blocks.remove(&point.hash);
        }
        for retired in &change.expired {
            tables.retired.remove(&(retired.at, retired.point.hash));
            tables.blocks.remove(&retired.point.hash);
        }
        tables.marks = Some(change.marks);
        Ok(())
    }
}
