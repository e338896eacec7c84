//! Packs as they go over the wire: consecutive blocks that are read in one go, and the index that finds them.
//!
//! In a pack each block is a [`record`], just as PUSH_BLOCK carries it. So whoever catches up is served with one read and no copy, and
//! without a row for each block.
//!
//! An index is a row of family `block`: `i` ‖ last height 8 ‖ pack 8 → first height 8, and of each block the length of its record's head
//! 2 ‖ CRC-32 of that 4 ‖ body length 4 ‖ CRC-32 of the body 4. It stays as it was written: a reorg may have taken blocks of the
//! pack from the best chain, so who reads by it looks whether the last block is still there. The blocks of a pack are parents and children,
//! so all before that are there too.

use std::ops::Bound;

use super::{Rocks, Stretch, read_height};
use crate::{
    block::{
        Block, Header, MAX_BODY_BYTES, Point,
        record::{self, LENGTHS},
    },
    primitives::Hash,
    store::{Batch, Family, Spot, StoreError},
};

const ENTRY: usize = 2 + 4 + 4 + 4;

/// The head of a block's record.
pub(super) fn head(block: &Block) -> Vec<u8> {
    let header = block.header().encode();
    let mut head = Vec::with_capacity(LENGTHS + header.len());
    record::put_head(&mut head, &header, block.body().bytes().len());
    head
}

/// The row of a pack.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) last: u64,
    first: u64,
    entries: Vec<u8>,
}

impl Index {
    /// Of the blocks of a pack and the spots of their records' two parts; `None` when their heights have gaps.
    pub(super) fn of(blocks: &[&Block], spots: &[Spot]) -> Option<Self> {
        let height = |block: &&Block| block.header().height;
        let (first, last) = (height(blocks.first()?), height(blocks.last()?));
        let mut heights = first..;
        if !blocks.iter().all(|block| heights.next() == Some(height(block))) {
            return None;
        }
        let mut entries = Vec::with_capacity(blocks.len() * ENTRY);
        for parts in spots.chunks_exact(2) {
            entries.extend_from_slice(&u16::try_from(parts[0].length).ok()?.to_be_bytes());
            entries.extend_from_slice(&parts[0].sum.to_be_bytes());
            entries.extend_from_slice(&parts[1].length.to_be_bytes());
            entries.extend_from_slice(&parts[1].sum.to_be_bytes());
        }
        Some(Self { last, first, entries })
    }

    pub(super) fn put(&self, number: u64, batch: &mut Batch) {
        let value = [&self.first.to_be_bytes()[..], &self.entries].concat();
        batch.put(Family::Block, key(self.last, number), value);
    }
}

pub(super) fn key(last: u64, number: u64) -> Vec<u8> {
    [b"i", &last.to_be_bytes()[..], &number.to_be_bytes()].concat()
}

/// The two parts of each record from the first one of a pack on.
fn parts(pack: u64, entries: &[u8]) -> impl Iterator<Item = [Spot; 2]> {
    let mut offset = 0_u32;
    entries.chunks_exact(ENTRY).map_while(move |entry| {
        let (head, rest) = entry.split_first_chunk()?;
        let (head_sum, rest) = rest.split_first_chunk()?;
        let (body, rest) = rest.split_first_chunk()?;
        let head = Some(u16::from_be_bytes(*head)).filter(|length| usize::from(*length) > LENGTHS)?;
        let head = Spot { pack, offset, length: head.into(), sum: u32::from_be_bytes(*head_sum) };
        let body = Some(u32::from_be_bytes(*body)).filter(|length| *length as usize <= MAX_BODY_BYTES)?; // u32 fits in usize
        let after = offset.checked_add(head.length)?;
        let body = Spot { pack, offset: after, length: body, sum: u32::from_be_bytes(rest.try_into().ok()?) };
        offset = after.checked_add(body.length)?;
        Some([head, body])
    })
}

impl Rocks {
    /// See [`super::ChainStore::stretch`].
    pub(super) fn read_stretch(
        &self,
        from: u64,
        count: usize,
        max_bytes: usize,
    ) -> Result<Option<Stretch>, StoreError> {
        let mut row = None;
        let start = [b"i", &from.to_be_bytes()[..]].concat();
        self.store.for_each(Family::Block, b"i", Bound::Included(&start), |key, value| {
            row = Some((key.to_vec(), value.to_vec()));
            false
        })?;
        let Some((key, value)) = row else { return Ok(None) };
        let read = || {
            let (_, number) = read_height(&key[1..])?;
            let (first, entries) = read_height(&value)?;
            Some((u64::from_be_bytes(number.try_into().ok()?), first, entries))
        };
        let Some((number, first, entries)) = read() else { return Ok(None) };
        let Some(before) = from.checked_sub(first).and_then(|n| usize::try_from(n).ok()) else { return Ok(None) };
        let (mut spots, mut bytes) = (Vec::new(), 0);
        for parts in parts(number, entries).skip(before).take(count) {
            // Lengths of the record are not counted, as in an answer put together block by block.
            bytes += parts.iter().map(|p| p.length as usize).sum::<usize>() - LENGTHS;
            if bytes > max_bytes && !spots.is_empty() {
                break;
            }
            spots.extend(parts);
        }
        if spots.is_empty() {
            return Ok(None);
        }
        // What is damaged is found, and told, when it is read block by block.
        let Some(bytes) = self.store.packed_together(&spots)? else { return Ok(None) };
        let header = |head: &Spot| {
            let start = (head.offset - spots[0].offset) as usize; // u32 fits in usize
            bytes.slice(record::header_in(start..start + head.length as usize))
        };
        let (first, last) = (header(&spots[0]), header(&spots[spots.len() - 2]));
        let (Ok(one), Ok(other)) = (Header::decode(&first), Header::decode(&last)) else { return Ok(None) };
        let last = Point { height: other.height, hash: Hash::of(&last) };
        Ok(Some(Stretch { bytes, count: spots.len() / 2, parent: one.parent, last }))
    }
}
