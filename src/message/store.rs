//! Where messages are on disk. Numbers in keys are big endian; `!n` makes the newest come first.
//!
//! | family | key | value |
//! |---|---|---|
//! | outbox | `h` `!seq` | header and history |
//! | outbox | `i` id | seq |
//! | outbox | `q` seq | pending: to be tried |
//! | outbox | `s` seq | a large body is being written; left over by a crash, its file is removed at the next start |
//! | outbox | `n` stream recipient | the next number of our messages to it |
//! | outbox_body | seq index | message key (32), sealed part: of small bodies, and of large ones that were sealed again |
//! | inbox | `h` `!arrival` | header |
//! | inbox | `i` id | arrival |
//! | inbox | `w` slot | header of a message that waits for its turn; its `i` names the slot |
//! | inbox | `a` slot | an incomplete message |
//! | inbox_body | slot index | body bytes of a part, of small bodies |
//! | seen | `t` hash(sender, stream, seq) | id, received_at, age of the store then |
//! | seen | `i` id | received_at, age of the store then |
//! | seen | `o` hash(sender, stream) | the next number that is shown, age of the store then |
//! | meta | `message_age` | age of the store, see `age.rs` |
//! | meta | `message_stream`, `message_seq` | our stream's id; sequence numbers below are taken |
//! | meta | `message_stream_elsewhere` | the record of ours signed elsewhere that the stream is newer than |
//!
//! Large bodies ([`LARGE_PARTS`] parts and more) have files of their own: the outbox's by seq, the inbox's by slot.

mod order;

use std::{collections::HashSet, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    age::{self, Age},
    envelope::MAX_PART,
    handle::{Outgoing, Received},
    inbox::{Assembly, Key, MESSAGE_COST, SEEN},
    outbox::{Header, is_end},
    wire::{self, StoredMessage},
};
use crate::{
    primitives::{MessageId, UnixMillis},
    store::{Batch, BodyWriter, Family, MAX_BODY_PART, Shelf, Store, StoreError},
};

pub(super) const AGE: &[u8] = b"message_age";
pub(super) const STREAM: &[u8] = b"message_stream";
pub(super) const SEQ: &[u8] = b"message_seq";
pub(super) const ELSEWHERE: &[u8] = b"message_stream_elsewhere";

/// Bodies of so many parts and more (4 MiB) are written to a file of their own: the log would double what is written. A smaller one
/// is cheaper in the log, where it shares its sync with others.
pub(super) const LARGE_PARTS: u32 = 16;

// A sealed part with its key has room in a file.
const _: () = assert!(MAX_PART + 32 <= MAX_BODY_PART);

/// Ended outgoing messages that are remembered; older ones are forgotten.
const KEEP_ENDED: usize = 10_000;

fn key(prefix: u8, number: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn id_key(prefix: u8, id: &[u8; 32]) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(id);
    key
}

fn part_key(place: u64, index: u32) -> Vec<u8> {
    let mut key = place.to_be_bytes().to_vec();
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The time in a seen mark without its id.
fn received_at(mark: &[u8]) -> Option<UnixMillis> {
    mark.first_chunk::<8>().map(|at| UnixMillis(u64::from_be_bytes(*at)))
}

/// What the inbox holds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct InboxTotals {
    pub(super) messages: u64,
    pub(super) unread: u64,
    pub(super) cost: u64,
}

/// What a stored message costs against `message.inbox_max_bytes`.
pub(super) fn inbox_cost(message: &StoredMessage) -> u64 {
    message.received.bytes + MESSAGE_COST
}

/// The tables of messages. Scans block.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) store: Store,
    pub(super) age: Arc<Age>,
}

impl Tables {
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { store: store.clone(), age: Arc::new(Age::load(store)?) })
    }

    // -- outbox

    pub(super) fn put_header(batch: &mut Batch, header: &Header) {
        batch.put(Family::Outbox, key(b'h', !header.seq), wire::encode_outgoing(header));
    }

    /// A message that is ready to be sent.
    pub(super) fn put_pending(batch: &mut Batch, header: &Header) {
        Self::put_header(batch, header);
        batch.put(Family::Outbox, id_key(b'i', &header.id().0), header.seq.to_be_bytes());
        batch.put(Family::Outbox, key(b'q', header.seq), []);
    }

    pub(super) fn put_out_part(batch: &mut Batch, seq: u64, index: u32, stored: &[u8]) {
        batch.put(Family::OutboxBody, part_key(seq, index), stored);
    }

    /// For a large body, whose staging was put before. Durable after [`Tables::sync_out`].
    pub(super) fn write_out(&self, seq: u64) -> Result<BodyWriter, StoreError> {
        self.store.write_body(Shelf::Outbox, seq)
    }

    pub(super) fn sync_out(&self, seq: u64) -> Result<(), StoreError> {
        self.store.sync_body(Shelf::Outbox, seq)
    }

    /// Header of an ended message; its body goes.
    pub(super) fn put_ended(batch: &mut Batch, header: &Header) {
        Self::put_header(batch, header);
        batch.delete(Family::Outbox, key(b'q', header.seq));
        Self::drop_out_parts(batch, header.seq, header.parts);
    }

    fn drop_out_parts(batch: &mut Batch, seq: u64, parts: u32) {
        for index in 0..parts {
            batch.delete(Family::OutboxBody, part_key(seq, index));
        }
        if parts >= LARGE_PARTS {
            batch.remove_body(Shelf::Outbox, seq);
        }
    }

    pub(super) fn put_staging(batch: &mut Batch, seq: u64, parts: u32) {
        batch.put(Family::Outbox, key(b's', seq), parts.to_be_bytes());
    }

    pub(super) fn end_staging(batch: &mut Batch, seq: u64) {
        batch.delete(Family::Outbox, key(b's', seq));
    }

    pub(super) fn drop_staged(batch: &mut Batch, seq: u64, parts: u32) {
        Self::end_staging(batch, seq);
        Self::drop_out_parts(batch, seq, parts);
    }

    pub(super) fn out_part(&self, seq: u64, index: u32) -> Result<Option<Bytes>, StoreError> {
        // What was sealed again is newer than the file.
        match self.store.get(Family::OutboxBody, &part_key(seq, index))? {
            Some(part) => Ok(Some(part.into())),
            None => self.store.body_part(Shelf::Outbox, seq, index),
        }
    }

    pub(super) fn outgoing(&self, seq: u64) -> Result<Option<Header>, StoreError> {
        Ok(self.store.get(Family::Outbox, &key(b'h', !seq))?.and_then(|bytes| wire::decode_outgoing(&bytes)))
    }

    pub(super) fn seq_of(&self, id: &MessageId) -> Result<Option<u64>, StoreError> {
        Ok(self.store.get(Family::Outbox, &id_key(b'i', &id.0))?.and_then(|bytes| number(&bytes)))
    }

    /// The highest number of an outgoing message; zero when there is none.
    pub(super) fn highest_seq(&self) -> Result<u64, StoreError> {
        let newest = self.store.scan(Family::Outbox, b"h", None, 1)?.pop();
        let header = newest.and_then(|(k, _)| number(&k[1..])).map_or(0, |n| !n);
        let staged = self.store.last(Family::Outbox, b"s")?.and_then(|(k, _)| number(&k[1..])).unwrap_or(0);
        Ok(header.max(staged))
    }

    /// Newest first.
    pub(super) fn outbox(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let pairs = self.store.scan(Family::Outbox, b"h", None, limit)?;
        Ok(pairs.iter().filter_map(|(_, value)| wire::decode_outgoing(value)).map(|h| h.view(0)).collect())
    }

    /// Everything not ended, oldest first; leftovers of a crash while writing a large body are removed.
    pub(super) fn pending(&self) -> Result<Vec<Header>, StoreError> {
        let mut leftovers = Batch::new();
        self.store.for_each(Family::Outbox, b"s", Bound::Unbounded, |k, value| {
            if let (Some(seq), Ok(parts)) = (number(&k[1..]), value.try_into()) {
                Self::drop_staged(&mut leftovers, seq, u32::from_be_bytes(parts));
            }
            true
        })?;
        self.store.write_unsynced(leftovers)?;
        let mut seqs = Vec::new();
        self.store.for_each(Family::Outbox, b"q", Bound::Unbounded, |k, _| {
            seqs.extend(number(&k[1..]));
            true
        })?;
        let mut headers = Vec::with_capacity(seqs.len());
        for seq in seqs {
            match self.outgoing(seq)? {
                Some(header) => headers.push(header),
                None => tracing::error!(seq, "an outgoing message is damaged in the store and cannot be sent"),
            }
        }
        Ok(headers)
    }

    /// Removes the files of bodies that no row names: a crash came between. Before anything is written, and after
    /// [`Tables::pending`].
    pub(super) fn clear_bodies(&self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for seq in self.store.body_numbers(Shelf::Outbox)? {
            if !self.store.contains(Family::Outbox, &key(b'q', seq))? {
                gone.push(seq);
            }
        }
        self.store.clear_bodies(Shelf::Outbox, &gone)?;
        let mut slots = self.store.body_numbers(Shelf::Inbox)?;
        if !slots.is_empty() {
            let (mut named, mut damaged) = (HashSet::new(), false);
            self.store.for_each(Family::Inbox, b"a", Bound::Unbounded, |k, _| {
                named.extend(number(&k[1..]));
                true
            })?;
            for prefix in [b"h", b"w"] {
                self.store.for_each(Family::Inbox, prefix, Bound::Unbounded, |_, value| {
                    let slot = wire::decode_received(value).map(|message| message.slot);
                    damaged |= slot.is_none();
                    named.extend(slot);
                    true
                })?;
            }
            // Any of them may be the body of a message whose header cannot be read.
            slots.retain(|slot| !damaged && !named.contains(slot));
        }
        self.store.clear_bodies(Shelf::Inbox, &slots)?;
        if gone.len() + slots.len() > 0 {
            tracing::info!(outbox = gone.len(), inbox = slots.len(), "removed what a crash left of large bodies");
        }
        Ok(())
    }

    /// Forgets ended messages beyond the newest [`KEEP_ENDED`].
    pub(super) fn forget_ended(&self) -> Result<usize, StoreError> {
        let (mut ended, mut forgotten, mut batch) = (0, 0, Batch::new());
        self.store.for_each(Family::Outbox, b"h", Bound::Unbounded, |k, value| {
            let Some(header) = wire::decode_outgoing(value) else { return true };
            ended += usize::from(is_end(header.state));
            if is_end(header.state) && ended > KEEP_ENDED {
                batch.delete(Family::Outbox, k).delete(Family::Outbox, id_key(b'i', &header.id().0));
                forgotten += 1;
            }
            true
        })?;
        self.store.write_unsynced(batch)?;
        Ok(forgotten)
    }

    // -- inbox

    /// What makes sure that a message which is durable now is delivered once.
    pub(super) fn put_seen(&self, batch: &mut Batch, key_of: &Key, message: &StoredMessage) {
        let (id, at) = (message.received.id, message.received.received_at);
        let mark = [at.0.to_be_bytes(), age::bytes(self.age.now())].concat();
        batch.put(Family::Seen, id_key(b't', &key_of.hash()), [id.0.as_slice(), &mark].concat());
        batch.put(Family::Seen, id_key(b'i', &id.0), mark);
    }

    pub(super) fn put_in_part(batch: &mut Batch, slot: u64, index: u32, body: &[u8]) {
        batch.put(Family::InboxBody, part_key(slot, index), body);
    }

    /// For a large body, whose assembly was put before. Durable after [`Tables::sync_in`].
    pub(super) fn write_in(&self, slot: u64) -> Result<BodyWriter, StoreError> {
        self.store.write_body(Shelf::Inbox, slot)
    }

    pub(super) fn sync_in(&self, slot: u64) -> Result<(), StoreError> {
        self.store.sync_body(Shelf::Inbox, slot)
    }

    fn drop_in_parts(batch: &mut Batch, slot: u64, parts: u32) {
        if parts >= LARGE_PARTS {
            batch.remove_body(Shelf::Inbox, slot);
            return;
        }
        for index in 0..parts {
            batch.delete(Family::InboxBody, part_key(slot, index));
        }
    }

    pub(super) fn put_assembly(batch: &mut Batch, assembly: &Assembly) {
        batch.put(Family::Inbox, key(b'a', assembly.slot), wire::encode_assembly(assembly));
    }

    pub(super) fn end_assembly(batch: &mut Batch, slot: u64) {
        batch.delete(Family::Inbox, key(b'a', slot));
    }

    pub(super) fn drop_assembly(batch: &mut Batch, assembly: &Assembly) {
        Self::end_assembly(batch, assembly.slot);
        Self::drop_in_parts(batch, assembly.slot, assembly.parts());
    }

    /// Part `index` of a body of `parts`.
    pub(super) fn in_part(&self, slot: u64, index: u32, parts: u32) -> Result<Option<Bytes>, StoreError> {
        if parts >= LARGE_PARTS {
            return self.store.body_part(Shelf::Inbox, slot, index);
        }
        Ok(self.store.get(Family::InboxBody, &part_key(slot, index))?.map(Bytes::from))
    }

    /// Incomplete messages. Parts of large ones are read, since a power cut may have left any of them out.
    pub(super) fn assemblies(&self) -> Result<Vec<Assembly>, StoreError> {
        let mut assemblies = Vec::new();
        self.store.for_each(Family::Inbox, b"a", Bound::Unbounded, |k, value| {
            assemblies.extend(number(&k[1..]).and_then(|slot| wire::decode_assembly(slot, value)));
            true
        })?;
        for assembly in &mut assemblies {
            for index in 0..assembly.parts() {
                if self.in_part(assembly.slot, index, assembly.parts())?.is_some() {
                    assembly.found(index);
                }
            }
        }
        Ok(assemblies)
    }

    /// Whether a message was delivered: its id and when.
    pub(super) fn seen(&self, key_of: &Key) -> Result<Option<(MessageId, UnixMillis)>, StoreError> {
        let mark = self.store.get(Family::Seen, &id_key(b't', &key_of.hash()))?;
        Ok(mark.and_then(|mark| {
            let (id, at) = mark.split_first_chunk::<32>()?;
            Some((MessageId(*id), received_at(at)?))
        }))
    }

    /// Whether exactly this sealed message was delivered, and when.
    pub(super) fn seen_id(&self, id: &MessageId) -> Result<Option<UnixMillis>, StoreError> {
        Ok(self.store.get(Family::Seen, &id_key(b'i', &id.0))?.and_then(|mark| received_at(&mark)))
    }

    /// Looks at up to `limit` seen marks from `cursor` on and removes those past [`SEEN`]; `now` is the age of the store and is
    /// stored. Where to go on; empty: from the start.
    pub(super) fn forget_seen(&self, now: Duration, cursor: &[u8], limit: usize) -> Result<Vec<u8>, StoreError> {
        let after = (!cursor.is_empty()).then_some(cursor);
        let pairs = self.store.scan(Family::Seen, b"", after, limit)?;
        let mut batch = Batch::new();
        batch.put(Family::Meta, AGE, age::bytes(now));
        for (k, mark) in &pairs {
            let then = match (k.first(), mark.len()) {
                (Some(b't'), 48) | (Some(b'i' | b'o'), 16) => {
                    mark.last_chunk::<8>().map_or(0, |at| u64::from_be_bytes(*at))
                }
                // Made before marks had an age: as old as the count.
                _ => 0,
            };
            if now.saturating_sub(Duration::from_millis(then)) > SEEN {
                batch.delete(Family::Seen, k.as_slice());
            }
        }
        self.store.write_unsynced(batch)?;
        let last = pairs.last().filter(|_| pairs.len() == limit);
        Ok(last.map(|(k, _)| k.clone()).unwrap_or_default())
    }

    /// What the inbox holds, and the first free number. What waits for its turn takes room and is not counted as a message.
    pub(super) fn inbox_totals(&self) -> Result<(InboxTotals, u64), StoreError> {
        let (mut totals, mut next) = (InboxTotals::default(), 0);
        self.store.for_each(Family::Inbox, b"h", Bound::Unbounded, |k, value| {
            next = next.max(number(&k[1..]).map_or(0, |n| !n).saturating_add(1));
            if let Some(message) = wire::decode_received(value) {
                totals.messages += 1;
                totals.unread += u64::from(!message.received.read);
                totals.cost += inbox_cost(&message);
            }
            true
        })?;
        self.store.for_each(Family::Inbox, b"a", Bound::Unbounded, |k, _| {
            next = next.max(number(&k[1..]).unwrap_or(0).saturating_add(1));
            true
        })?;
        self.store.for_each(Family::Inbox, b"w", Bound::Unbounded, |k, value| {
            next = next.max(number(&k[1..]).unwrap_or(0).saturating_add(1));
            totals.cost += wire::decode_received(value).map_or(0, |message| inbox_cost(&message));
            true
        })?;
        Ok((totals, next))
    }

    /// Newest first.
    pub(super) fn inbox(&self, limit: usize) -> Result<Vec<Received>, StoreError> {
        let pairs = self.store.scan(Family::Inbox, b"h", None, limit)?;
        Ok(pairs.iter().filter_map(|(_, value)| wire::decode_received(value)).map(|m| m.received).collect())
    }

    /// A received message and its arrival number.
    pub(super) fn received(&self, id: &MessageId) -> Result<Option<(u64, StoredMessage)>, StoreError> {
        let Some(arrival) = self.store.get(Family::Inbox, &id_key(b'i', &id.0))?.and_then(|b| number(&b)) else {
            return Ok(None);
        };
        let header = self.store.get(Family::Inbox, &key(b'h', !arrival))?;
        Ok(header.and_then(|bytes| wire::decode_received(&bytes)).map(|message| (arrival, message)))
    }

    pub(super) fn put_received(batch: &mut Batch, arrival: u64, message: &StoredMessage) {
        batch.put(Family::Inbox, key(b'h', !arrival), wire::encode_received(message));
    }

    /// Takes a message out of the inbox; its seen marks stay.
    pub(super) fn remove_received(batch: &mut Batch, arrival: u64, message: &StoredMessage) {
        batch.delete(Family::Inbox, key(b'h', !arrival)).delete(Family::Inbox, id_key(b'i', &message.received.id.0));
        Self::drop_in_parts(batch, message.slot, message.parts);
    }
}
