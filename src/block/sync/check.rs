//! What one answer is worth by itself: heights, links, roots and signatures, before the chain sees it. CPU work, for
//! `spawn_blocking`.

use bytes::Bytes;

use super::{
    plan::{Failure, Pulled},
    wire::{RawBlock, Span},
};
use crate::{
    block::{Header, Point, Unverified, VerifiedHeader},
    identity::Purpose,
};

/// Checks an answer to a pull: the blocks at these heights, from the first one, each the parent of the next.
pub(super) fn blocks(raw: Vec<RawBlock>, span: Span, max_body: usize, purpose: &Purpose) -> Result<Pulled, Failure> {
    let bytes = raw.iter().map(|b| b.header.len() + b.body.len()).sum();
    let mut blocks = Unverified::new(purpose.clone());
    let mut before = None;
    for (height, raw) in (span.start..span.end()).zip(raw) {
        let header = Header::decode(&raw.header).map_err(|_| Failure::Wrong)?;
        let linked = before.is_none_or(|before| header.parent == before);
        if header.height != height || !linked {
            return Err(Failure::Wrong);
        }
        // The header may be good, and somebody else have its body.
        before = Some(blocks.add(header, raw.body, max_body).map_err(|_| Failure::Wrong)?);
    }
    let blocks = blocks.verify().map_err(|_| Failure::Invalid)?;
    Ok(Pulled { blocks, bytes })
}

/// Reads headers that are to show where two chains part. Heights and links are looked at by whoever compares them.
pub(super) fn headers(raw: &[Bytes]) -> Result<Vec<Header>, Failure> {
    raw.iter().map(|h| Header::decode(h).map_err(|_| Failure::Wrong)).collect()
}

/// Checks headers that are to prove another branch: consecutive from `start` on `fork`, and signed.
pub(super) fn proof(raw: &[Bytes], start: u64, fork: Point, purpose: &Purpose) -> Result<Vec<VerifiedHeader>, Failure> {
    let mut parent = fork.hash;
    let headers = headers(raw)?;
    for (height, header) in (start..).zip(&headers) {
        if header.height != height || header.parent != parent {
            return Err(Failure::Wrong);
        }
        parent = header.hash();
    }
    let proof = VerifiedHeader::all(headers, purpose).map_err(|_| Failure::Invalid)?;
    if proof.is_empty() { Err(Failure::Lost) } else { Ok(proof) }
}
