//! What friends of recipients signed for messages of ours, until that is settled. Numbers are big endian.
//!
//! | family | key | value |
//! |---|---|---|
//! | outbox | `L` seq hash | holder (38), places of this message's parts in the list (1 each) |
//! | outbox | `R` hash | signature (64), the signed list |
//! | outbox | `U` hash seq | nothing: this message needs the list |
//!
//! A list is signed over all parts of one deposit, which may be of 64 messages, so it is kept once, by its hash.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::{
    StoredReceipt,
    proof::{self, SignedReceipts},
    refusal::Refusal,
};
use crate::{
    primitives::{Hash, PeerId},
    store::{Batch, Family, Store, StoreError},
};

fn left_key(seq: u64, hash: &[u8]) -> Vec<u8> {
    [b"L", &seq.to_be_bytes()[..], hash].concat()
}

fn list_key(hash: &[u8]) -> Vec<u8> {
    [b"R", hash].concat()
}

fn use_key(hash: &[u8], seq: u64) -> Vec<u8> {
    [b"U", hash, &seq.to_be_bytes()].concat()
}

/// Notes what a friend signed for: `seqs` are the messages of the deposited parts, `answers` what became of each part, `signed` the
/// lists over those that are stored, in order.
pub(in crate::message) fn keep(
    batch: &mut Batch,
    holder: &PeerId,
    seqs: &[u64],
    answers: &[Result<StoredReceipt, Refusal>],
    signed: &[SignedReceipts],
) {
    let mut stored = seqs.iter().zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(seq, _)| *seq);
    for list in signed {
        let hash = Hash::of(&[&list.signature[..], &list.entries].concat());
        let mut places: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let count = list.entries.len() / proof::ENTRY;
        for (seq, place) in stored.by_ref().take(count).zip(0_u8..) {
            places.entry(seq).or_default().push(place);
        }
        for (seq, places) in places {
            batch.put(Family::Outbox, left_key(seq, &hash.0), [holder.to_bytes(), places].concat());
            batch.put(Family::Outbox, use_key(&hash.0, seq), []);
        }
        batch.put(Family::Outbox, list_key(&hash.0), [&list.signature[..], &list.entries].concat());
    }
}

/// A list that a holder signed, and which of its parts are of which message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Left {
    pub(super) holder: PeerId,
    pub(super) signed: SignedReceipts,
    pub(super) parts: Vec<(u64, u8)>,
}

/// What friends signed for these messages. Blocks.
pub(super) fn of(store: &Store, seqs: &[u64]) -> Result<Vec<Left>, StoreError> {
    let mut lists: BTreeMap<Vec<u8>, Left> = BTreeMap::new();
    for seq in seqs {
        for (k, value) in store.scan(Family::Outbox, &left_key(*seq, &[]), None, usize::MAX)? {
            let hash = k[9..].to_vec(); // the prefix is longer than 9 bytes
            let Some((holder, places)) = value.split_at_checked(HOLDER) else { continue };
            let Ok(holder) = PeerId::from_bytes(holder) else { continue };
            let parts = places.iter().map(|place| (*seq, *place));
            if let Some(list) = lists.get_mut(&hash) {
                list.parts.extend(parts);
                continue;
            }
            let Some(list) = store.get(Family::Outbox, &list_key(&hash))? else { continue };
            let Some((signature, entries)) = list.split_at_checked(SIGNATURE) else { continue };
            let signed = SignedReceipts {
                entries: Bytes::copy_from_slice(entries),
                signature: Bytes::copy_from_slice(signature),
            };
            lists.insert(hash, Left { holder, signed, parts: parts.collect() });
        }
    }
    Ok(lists.into_values().collect())
}

/// Bytes of an address of an Ed25519 key, and of its signatures.
const HOLDER: usize = 38;
const SIGNATURE: usize = 64;

/// Forgets what friends signed for these messages, and the lists that no other message needs. Blocks.
pub(super) fn forget(store: &Store, seqs: &[u64]) -> Result<(), StoreError> {
    let (mut batch, mut hashes) = (Batch::new(), BTreeSet::new());
    for seq in seqs {
        for (k, _) in store.scan(Family::Outbox, &left_key(*seq, &[]), None, usize::MAX)? {
            batch.delete(Family::Outbox, use_key(&k[9..], *seq));
            hashes.insert(k[9..].to_vec());
            batch.delete(Family::Outbox, k);
        }
    }
    for hash in hashes {
        let users = store.scan(Family::Outbox, &[b"U", &hash[..]].concat(), None, seqs.len() + 1)?;
        let other = |k: &[u8]| k.last_chunk().is_none_or(|seq| !seqs.contains(&u64::from_be_bytes(*seq)));
        if !users.iter().any(|(k, _)| other(k)) {
            batch.delete(Family::Outbox, list_key(&hash));
        }
    }
    store.write_unsynced(batch)
}

/// All messages that something is kept for. Blocks.
pub(super) fn all(store: &Store) -> Result<BTreeSet<u64>, StoreError> {
    let mut seqs = BTreeSet::new();
    store.for_each(Family::Outbox, b"L", std::ops::Bound::Unbounded, |k, _| {
        seqs.extend(k.get(1..9).and_then(|seq| seq.try_into().ok()).map(u64::from_be_bytes));
        true
    })?;
    Ok(seqs)
}
