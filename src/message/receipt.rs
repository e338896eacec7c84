//! Delivery receipts: one signature of the recipient over a list of messages it has durably, with the times it got them.
//!
//! The signed bytes are the entries themselves, `id (32) | received_at (8)` each, under the purpose `vos-receipt/1`. An id is a
//! hash over the sealed message, which names sender and recipient inside, so a receipt needs to name neither.

use bytes::Bytes;

use crate::{
    identity::{self, Identity, Purpose},
    primitives::{MessageId, NetworkId, PeerId, UnixMillis},
};

/// Bytes of one entry.
pub(super) const ENTRY: usize = 40;

/// What a recipient says it has.
pub(super) type Entries = Vec<(MessageId, UnixMillis)>;

/// A signed list as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Receipt {
    pub(super) entries: Bytes,
    pub(super) signature: Bytes,
}

/// The purpose of receipts on a network.
pub(super) fn purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-receipt/1", network)
}

/// Signs a list.
pub(super) fn sign(identity: &Identity, purpose: &Purpose, entries: &[(MessageId, UnixMillis)]) -> Receipt {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    for (id, at) in entries {
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&at.0.to_be_bytes());
    }
    let signature = identity.sign(purpose, &bytes).into();
    Receipt { entries: bytes.into(), signature }
}

/// The list, when `recipient` signed it; `None` when it did not, or the list is malformed or longer than `limit` entries.
pub(super) fn verify(recipient: &PeerId, purpose: &Purpose, receipt: &Receipt, limit: usize) -> Option<Entries> {
    let (chunks, rest) = receipt.entries.as_chunks::<ENTRY>();
    if !rest.is_empty() || chunks.len() > limit || chunks.is_empty() {
        return None;
    }
    if !identity::verify(recipient, purpose, &receipt.entries, &receipt.signature) {
        return None;
    }
    let entries = chunks.iter().map(|chunk| {
        let (id, at) = chunk.split_first_chunk::<32>()?;
        Some((MessageId(*id), UnixMillis(u64::from_be_bytes(at.try_into().ok()?))))
    });
    entries.collect()
}
