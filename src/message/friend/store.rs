//! Friendships on disk. Family `friend`: `o` ‖ friend's address → we are the owner; `h` ‖ owner's address → we hold. (`c` ‖ address is a
//! contact, see `message/contacts.rs`.)

use std::ops::Bound;

use super::{
    grant::Verifier,
    relation::{Relation, Side},
    wire,
};
use crate::{
    message::contacts,
    primitives::PeerId,
    store::{Batch, Family, Store, StoreError},
};

fn key(side: Side, other: &PeerId) -> Vec<u8> {
    let mut key = vec![match side {
        Side::HeldBy => b'o',
        Side::HoldingFor => b'h',
    }];
    key.extend_from_slice(&other.to_bytes());
    key
}

pub(super) fn put(batch: &mut Batch, side: Side, other: &PeerId, relation: &Relation) {
    batch.put(Family::Friend, key(side, other), wire::encode_relation(relation));
}

pub(super) fn delete(batch: &mut Batch, side: Side, other: &PeerId) {
    batch.delete(Family::Friend, key(side, other));
}

/// Calls `each` with every stored friendship. Blocks: some 0.3 ms for each.
pub(super) fn load(
    store: &Store,
    verifier: &Verifier,
    mut each: impl FnMut(Side, PeerId, Relation),
) -> Result<(), StoreError> {
    store.for_each(Family::Friend, b"", Bound::Unbounded, |key, value| {
        // Contacts lie here too.
        if key.first() == Some(&contacts::PREFIX) {
            return true;
        }
        let place = key.split_first().and_then(|(side, address)| {
            let side = match side {
                b'o' => Side::HeldBy,
                b'h' => Side::HoldingFor,
                _ => return None,
            };
            Some((side, PeerId::from_bytes(address).ok()?))
        });
        match place.map(|(side, other)| (side, other, wire::decode_relation(verifier, value))) {
            Some((side, other, Ok(relation))) => each(side, other, relation),
            Some((_, other, Err(error))) => {
                tracing::error!(%other, %error, "a stored friendship is damaged; the other side will send it again");
            }
            None => tracing::error!("a stored friendship is damaged and was skipped"),
        }
        true
    })
}
