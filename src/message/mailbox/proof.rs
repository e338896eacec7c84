//! What depositors show, and what holders sign.
//!
//! ```text
//!  deposit key signs  "vos-deposit/1/<network>" | grant id | message id | ttl in s (4) | withdraw hash
//!  work               leading zero bits of BLAKE3("vos-work/1" | grant id | message id | nonce (8))
//!  holder signs       "vos-stored/1/<network>" | owner | entries:
//!                     grant id | message id | stored_at | expires_at | queue number | duplicate | withdraw hash
//! ```
//! A stored receipt names the owner, so that it proves nothing about another one's mailbox with the same grant id, and the withdraw hash,
//! so that a holder whose depositor took a part back can show the preimage to anybody who has the receipt.

use bytes::Bytes;

use super::machine::Stored;
use crate::{
    identity::{self, Identity, Purpose},
    primitives::{GrantId, Hash, MessageId, NetworkId, PeerId, UnixMillis},
};

/// Bytes of one entry of a stored receipt.
pub(super) const ENTRY: usize = 16 + 32 + 8 + 8 + 8 + 1 + 32;

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
    /// The hash of the secret that takes it back: of the first deposit, when this one is a repetition.
    pub withdraw: Hash,
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
            withdraw: stored.withdraw,
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

/// What is signed over entries for an owner.
fn text(owner: &PeerId, entries: &[u8]) -> Vec<u8> {
    [owner.to_bytes().as_slice(), entries].concat()
}

/// Signs a list of parts for one owner.
pub(super) fn sign(
    identity: &Identity,
    purpose: &Purpose,
    owner: &PeerId,
    receipts: &[StoredReceipt],
) -> SignedReceipts {
    let mut entries = Vec::with_capacity(receipts.len() * ENTRY);
    for r in receipts {
        entries.extend_from_slice(&r.grant.0);
        entries.extend_from_slice(&r.id.0);
        for number in [r.stored_at.0, r.expires_at.0, r.queue_seq] {
            entries.extend_from_slice(&number.to_be_bytes());
        }
        entries.push(u8::from(r.duplicate));
        entries.extend_from_slice(&r.withdraw.0);
    }
    let signature = identity.sign(purpose, &text(owner, &entries)).into();
    SignedReceipts { entries: entries.into(), signature }
}

/// The list, when `holder` signed it for `owner`; `None` when it did not, or the list is malformed or longer than `limit` entries.
pub(super) fn verify(
    (holder, owner): (&PeerId, &PeerId),
    purpose: &Purpose,
    signed: &SignedReceipts,
    limit: usize,
) -> Option<Vec<StoredReceipt>> {
    let (chunks, rest) = signed.entries.as_chunks::<ENTRY>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > limit {
        return None;
    }
    if !identity::verify(holder, purpose, &text(owner, &signed.entries), &signed.signature) {
        return None;
    }
    chunks.iter().map(read).collect()
}

/// One entry.
fn read(entry: &[u8; ENTRY]) -> Option<StoredReceipt> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some(StoredReceipt {
        grant: GrantId::from_slice(&entry[..16])?,
        id: MessageId::from_slice(&entry[16..48])?,
        stored_at: UnixMillis(number(&entry[48..56])?),
        expires_at: UnixMillis(number(&entry[56..64])?),
        queue_seq: number(&entry[64..72])?,
        duplicate: entry[72] != 0,
        withdraw: Hash(entry[73..].try_into().ok()?),
    })
}

impl SignedReceipts {
    /// The entries, not verified; empty when they are malformed.
    pub(super) fn read(&self) -> Vec<StoredReceipt> {
        let (chunks, rest) = self.entries.as_chunks::<ENTRY>();
        let all = chunks.iter().map(read).collect::<Option<Vec<_>>>();
        all.filter(|_| rest.is_empty()).unwrap_or_default()
    }
}
