//! What one answer is worth by itself: heights, links, roots and signatures, before the chain sees it. CPU work, for
//! `spawn_blocking`.

use bytes::Bytes;

use super::{
    plan::{Failure, Pulled},
    wire::{RawBlock, Span},
};
use crate::{
    block::{Block, BlockError, Header, Point, Producers, VerifiedHeader},
    identity::Purpose,
};

/// Checks an answer to a pull: the blocks at these heights, from the first one, each the parent of the next.
pub(super) fn blocks(raw: Vec<RawBlock>, span: Span, max_body: usize, purpose: &Purpose) -> Result<Pulled, Failure> {
    let bytes = raw.iter().map(|b| b.header.len() + b.body.len()).sum();
    let mut blocks: Vec<Block> = Vec::with_capacity(raw.len());
    let mut producers = Producers::new(purpose.clone());
    for (height, raw) in (span.start..span.end()).zip(raw) {
        let header = Header::decode(&raw.header).map_err(|_| Failure::Wrong)?;
        let linked = blocks.last().is_none_or(|before| header.parent == before.hash());
        if header.height != height || !linked {
            return Err(Failure::Wrong);
        }
        let block = Block::check_with(header, raw.body, max_body, &mut producers).map_err(|e| match e {
            // The header may be good, and somebody else have its body.
            BlockError::Body(_) => Failure::Wrong,
            BlockError::Header(_) => Failure::Invalid,
        })?;
        blocks.push(block);
    }
    Ok(Pulled { blocks, bytes })
}

/// Reads headers that are to show where two chains part. Heights and links are looked at by whoever compares them.
pub(super) fn headers(raw: &[Bytes]) -> Result<Vec<Header>, Failure> {
    raw.iter().map(|h| Header::decode(h).map_err(|_| Failure::Wrong)).collect()
}

/// Checks headers that are to prove another branch: consecutive from `start` on `fork`, and signed.
pub(super) fn proof(raw: &[Bytes], start: u64, fork: Point, purpose: &Purpose) -> Result<Vec<VerifiedHeader>, Failure> {
    let mut parent = fork.hash;
    let mut proof = Vec::with_capacity(raw.len());
    for (height, header) in (start..).zip(headers(raw)?) {
        if header.height != height || header.parent != parent {
            return Err(Failure::Wrong);
        }
        let header = VerifiedHeader::new(header, purpose).map_err(|_| Failure::Invalid)?;
        parent = header.hash();
        proof.push(header);
    }
    if proof.is_empty() { Err(Failure::Lost) } else { Ok(proof) }
}
