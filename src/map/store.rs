//! The map's place in the store.
//!
//! Family `map`: `r` ‖ key → record, `s` ‖ key → last seen (8 bytes), `e` ‖ key → proof of equivocation.
//! Family `meta`: `map/own_seq`, `map/elsewhere` (number of a record of ours that we did not make), `map/name`. Records carry what the map needs in front, so that loading parses nothing
//! and checks no signature again.

use std::ops::Bound;

use super::{
    record::{Key, Record},
    state::Proof,
};
use crate::{
    primitives::{Hash, UnixMillis},
    store::{Batch, Family, Store, StoreError},
};

const OWN_SEQ: &[u8] = b"map/own_seq";
const ELSEWHERE: &[u8] = b"map/elsewhere";
const NAME: &[u8] = b"map/name";
/// First byte of a stored record. Another one is skipped: the record will come again.
const FORM: u8 = 1;
/// Form, seq, issued, expires, hash, length of the name.
const HEAD: usize = 1 + 8 + 8 + 8 + 32 + 1;

fn key(kind: u8, key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(33);
    bytes.push(kind);
    bytes.extend_from_slice(&key.0);
    bytes
}

pub(super) fn put_record(batch: &mut Batch, record: &Record) {
    let mut value = Vec::with_capacity(HEAD + record.name.len() + record.envelope.len());
    value.push(FORM);
    value.extend_from_slice(&record.seq.to_be_bytes());
    value.extend_from_slice(&record.issued_at.0.to_be_bytes());
    value.extend_from_slice(&record.expires_at.0.to_be_bytes());
    value.extend_from_slice(record.hash.as_bytes());
    value.push(u8::try_from(record.name.len()).expect("names are at most 64 bytes"));
    value.extend_from_slice(record.name.as_bytes());
    value.extend_from_slice(&record.envelope);
    batch.put(Family::Map, key(b'r', &record.key), value);
}

fn read_record(key: Key, value: &[u8]) -> Option<Record> {
    let (head, rest) = value.split_at_checked(HEAD)?;
    let number = |at: usize| head[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let (name, envelope) = rest.split_at_checked(usize::from(head[HEAD - 1]))?;
    (head[0] == FORM).then_some(())?;
    Some(Record {
        key,
        seq: number(1)?,
        issued_at: UnixMillis(number(9)?),
        expires_at: UnixMillis(number(17)?),
        hash: Hash(head[25..57].try_into().ok()?),
        name: std::str::from_utf8(name).ok()?.to_owned(),
        envelope: envelope.into(),
    })
}

pub(super) fn put_seen(batch: &mut Batch, of: &Key, at: UnixMillis) {
    batch.put(Family::Map, key(b's', of), at.0.to_be_bytes());
}

pub(super) fn put_proof(batch: &mut Batch, of: &Key, proof: &Proof) {
    let length = u32::try_from(proof.kept.len()).expect("envelopes are at most 4 KiB");
    batch.put(Family::Map, key(b'e', of), [&length.to_be_bytes(), &*proof.kept, &*proof.other].concat());
}

/// Forgets a node; a proof against it stays.
pub(super) fn delete(batch: &mut Batch, of: &Key) {
    batch.delete(Family::Map, key(b'r', of)).delete(Family::Map, key(b's', of));
}

/// Calls `each` with every stored record and when its node was last seen.
pub(super) fn load(store: &Store, mut each: impl FnMut(Record, Option<UnixMillis>)) -> Result<(), StoreError> {
    let mut seen = std::collections::HashMap::new();
    store.for_each(Family::Map, b"s", Bound::Unbounded, |k, v| {
        if let (Some(key), Ok(at)) = (Key::from_slice(&k[1..]), v.try_into()) {
            seen.insert(key, UnixMillis(u64::from_be_bytes(at)));
        }
        true
    })?;
    store.for_each(Family::Map, b"r", Bound::Unbounded, |k, v| {
        match Key::from_slice(&k[1..]).and_then(|key| read_record(key, v)) {
            Some(record) => {
                let at = seen.remove(&record.key);
                each(record, at);
            }
            None => tracing::warn!("a stored map record is damaged and was skipped; it will be fetched again"),
        }
        true
    })
}

/// All stored proofs of equivocation.
pub(super) fn load_proofs(store: &Store) -> Result<Vec<(Key, Proof)>, StoreError> {
    let pairs = store.scan(Family::Map, b"e", None, super::state::PROOFS)?;
    let read = |(k, v): (Vec<u8>, Vec<u8>)| {
        let (length, rest) = v.split_first_chunk::<4>()?;
        let (kept, other) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some((Key::from_slice(&k[1..])?, Proof { kept: kept.into(), other: other.into() }))
    };
    Ok(pairs.into_iter().filter_map(read).collect())
}

/// The sequence number of our last record; zero before the first.
pub(super) fn own_seq(store: &Store) -> Result<u64, StoreError> {
    number(store, OWN_SEQ)
}

/// The highest number of a record of ours that was signed elsewhere and that we outdid; zero: none.
pub(super) fn elsewhere(store: &Store) -> Result<u64, StoreError> {
    number(store, ELSEWHERE)
}

fn number(store: &Store, key: &[u8]) -> Result<u64, StoreError> {
    let bytes = store.get(Family::Meta, key)?;
    Ok(bytes.and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Our next record and its number, and which one from elsewhere it outdoes: to be committed before anybody sees it.
pub(super) fn put_own(batch: &mut Batch, record: &Record, elsewhere: u64) {
    batch.put(Family::Meta, OWN_SEQ, record.seq.to_be_bytes());
    batch.put(Family::Meta, ELSEWHERE, elsewhere.to_be_bytes());
    put_record(batch, record);
}

/// The name set by command, unless the configured name was changed after that.
pub(super) fn name(store: &Store, configured: &str) -> Result<Option<String>, StoreError> {
    let Some(bytes) = store.get(Family::Meta, NAME)? else { return Ok(None) };
    let text = String::from_utf8(bytes).unwrap_or_default();
    // Names have no control characters, so a line break keeps the two apart.
    Ok(text.split_once('\n').filter(|(base, _)| *base == configured).map(|(_, name)| name.to_owned()))
}

pub(super) fn put_name(batch: &mut Batch, configured: &str, name: &str) {
    batch.put(Family::Meta, NAME, format!("{configured}\n{name}"));
}
