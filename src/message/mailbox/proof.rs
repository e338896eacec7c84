//! What depositors show, and what holders sign.
//!
//! ```text
//!  deposit key signs  "vos-deposit/1/<network>" | grant id | message id | ttl in s (4) | withdraw hash
//!  work               leading zero bits of BLAKE3("vos-work/1" | grant id | message id | nonce (8))
//!  holder signs       entries: grant id | message id | stored_at | expires_at | queue number | duplicate   (vos-stored/1)
//! ```

use bytes::Bytes;

use super::machine::Stored;
use crate::{
    identity::{self, Identity, Purpose},
    primitives::{GrantId, Hash, MessageId, NetworkId, PeerId, UnixMillis},
};

/// Bytes of one entry of a stored receipt.
pub(super) const ENTRY: usize = 16 + 32 + 8 + 8 + 8 + 1;

/// The purpose of deposit signatures.
pub(super) fn deposit_purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-deposit/1", network)
}

/// The purpose of stored receipts.
pub(super) fn stored_purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-stored/1", network)
}

/// What a deposit key signs.
pub(super) fn deposit_text(grant: &GrantId, id: &MessageId, ttl_s: u32, withdraw: &Hash) -> Vec<u8> {
    [&grant.0[..], &id.0, &ttl_s.to_be_bytes(), &withdraw.0].concat()
}

/// Bits of work that a nonce shows.
pub(super) fn work_bits(grant: &GrantId, id: &MessageId, nonce: u64) -> u32 {
    let mut hash = blake3::Hasher::new();
    hash.update(b"vos-work/1").update(&grant.0).update(&id.0).update(&nonce.to_be_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let zeros = hash.iter().take_while(|b| **b == 0).count();
    let rest = hash.get(zeros).map_or(0, |b| b.leading_zeros());
    u32::try_from(zeros).unwrap_or(0) * 8 + rest
}

/// A nonce that shows at least `bits` of work. Blocks: 2^bits hashes on average, a few million in a second.
#[must_use]
pub fn work(grant: &GrantId, id: &MessageId, bits: u32) -> u64 {
    (0..u64::MAX).find(|nonce| work_bits(grant, id, *nonce) >= bits).unwrap_or(u64::MAX)
}

/// What a holder says it has stored: a promise to keep it until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredReceipt {
    /// Which sealed part.
    pub id: MessageId,
    /// Under which grant.
    pub grant: GrantId,
    /// When, by the holder's clock.
    pub stored_at: UnixMillis,
    /// Until when.
    pub expires_at: UnixMillis,
    /// Its number in the owner's queue; numbers have no gaps.
    pub queue_seq: u64,
    /// It was there before.
    pub duplicate: bool,
}

impl StoredReceipt {
    pub(super) fn of(stored: &Stored, duplicate: bool) -> Self {
        Self {
            id: stored.id,
            grant: stored.grant,
            stored_at: stored.stored_at,
            expires_at: stored.expires_at,
            queue_seq: stored.seq,
            duplicate,
        }
    }
}

/// Signed entries as they travel; kept as evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedReceipts {
    /// The entries.
    pub entries: Bytes,
    /// By the holder.
    pub signature: Bytes,
}

/// Signs a list.
pub(super) fn sign(identity: &Identity, purpose: &Purpose, receipts: &[StoredReceipt]) -> SignedReceipts {
    let mut entries = Vec::with_capacity(receipts.len() * ENTRY);
    for r in receipts {
        entries.extend_from_slice(&r.grant.0);
        entries.extend_from_slice(&r.id.0);
        for number in [r.stored_at.0, r.expires_at.0, r.queue_seq] {
            entries.extend_from_slice(&number.to_be_bytes());
        }
        entries.push(u8::from(r.duplicate));
    }
    let signature = identity.sign(purpose, &entries).into();
    SignedReceipts { entries: entries.into(), signature }
}

/// The list, when `holder` signed it; `None` when it did not, or the list is malformed or longer than `limit` entries.
pub(super) fn verify(
    holder: &PeerId,
    purpose: &Purpose,
    signed: &SignedReceipts,
    limit: usize,
) -> Option<Vec<StoredReceipt>> {
    let (chunks, rest) = signed.entries.as_chunks::<ENTRY>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > limit {
        return None;
    }
    if !identity::verify(holder, purpose, &signed.entries, &signed.signature) {
        return None;
    }
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    let read = |entry: &[u8; ENTRY]| {
        Some(StoredReceipt {
            grant: GrantId::from_slice(&entry[..16])?,
            id: MessageId::from_slice(&entry[16..48])?,
            stored_at: UnixMillis(number(&entry[48..56])?),
            expires_at: UnixMillis(number(&entry[56..64])?),
            queue_seq: number(&entry[64..72])?,
            duplicate: entry[72] != 0,
        })
    };
    chunks.iter().map(read).collect()
}
