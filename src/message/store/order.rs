//! Order on disk: held messages, where streams of others go on, and which number of ours comes next.

use std::ops::Bound;

use super::{Tables, age, id_key, key, number};
use crate::{
    message::{
        order::{Lane, Settled},
        wire::{self, StoredMessage},
    },
    primitives::MessageId,
    store::{Batch, Family, StoreError},
};

/// The key of a stream's next number; a hash, since streams of others are many and come from anybody.
fn lane_key(lane: &Lane) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(b"lane").update(&lane.stream.0).update(&lane.peer.to_bytes());
    id_key(b'o', hash.finalize().as_bytes())
}

fn our_key(lane: &Lane) -> Vec<u8> {
    [b"n", lane.stream.0.as_slice(), &lane.peer.to_bytes()].concat()
}

impl Tables {
    /// What a batch hands over and holds back. `arrival` gives the places in the inbox.
    pub(in crate::message) fn put_settled(
        &self,
        batch: &mut Batch,
        settled: &Settled,
        mut arrival: impl FnMut() -> u64,
    ) {
        for shown in &settled.shown {
            if shown.was_held {
                batch.delete(Family::Inbox, key(b'w', shown.message.slot));
            }
            let arrival = arrival();
            Self::put_received(batch, arrival, &shown.message);
            batch.put(Family::Inbox, id_key(b'i', &shown.message.received.id.0), arrival.to_be_bytes());
        }
        for held in &settled.held {
            batch.put(Family::Inbox, key(b'w', held.slot), wire::encode_received(held));
            batch.put(Family::Inbox, id_key(b'i', &held.received.id.0), held.slot.to_be_bytes());
        }
        for (lane, next) in &settled.next {
            let value = [next.to_be_bytes(), age::bytes(self.age.now())].concat();
            batch.put(Family::Seen, lane_key(lane), value);
        }
    }

    /// Where a stream of somebody goes on; `None`: nothing of it was ever shown, or long ago.
    pub(in crate::message) fn next_of(&self, lane: &Lane) -> Result<Option<u64>, StoreError> {
        let row = self.store.get(Family::Seen, &lane_key(lane))?;
        Ok(row.and_then(|row| row.first_chunk::<8>().map(|next| u64::from_be_bytes(*next))))
    }

    /// Messages that wait for their turn, oldest first.
    pub(in crate::message) fn held(&self) -> Result<Vec<StoredMessage>, StoreError> {
        let mut held = Vec::new();
        self.store.for_each(Family::Inbox, b"w", Bound::Unbounded, |_, value| {
            held.extend(wire::decode_received(value));
            true
        })?;
        Ok(held)
    }

    /// A message that is durable here, whether it was shown or not.
    pub(in crate::message) fn durable(&self, id: &MessageId) -> Result<Option<StoredMessage>, StoreError> {
        let Some(place) = self.store.get(Family::Inbox, &id_key(b'i', &id.0))?.and_then(|bytes| number(&bytes)) else {
            return Ok(None);
        };
        let shown = self.store.get(Family::Inbox, &key(b'h', !place))?;
        let row = shown.map_or_else(|| self.store.get(Family::Inbox, &key(b'w', place)), |row| Ok(Some(row)))?;
        Ok(row.and_then(|bytes| wire::decode_received(&bytes)))
    }

    /// The next number of a lane of ours.
    pub(in crate::message) fn put_our_next(batch: &mut Batch, lane: &Lane, next: u64) {
        batch.put(Family::Outbox, our_key(lane), next.to_be_bytes());
    }

    /// The next number of a lane of ours; `None`: it has none yet.
    pub(in crate::message) fn our_next(&self, lane: &Lane) -> Result<Option<u64>, StoreError> {
        Ok(self.store.get(Family::Outbox, &our_key(lane))?.and_then(|bytes| number(&bytes)))
    }
}
