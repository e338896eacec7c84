//! Where mailboxes are on disk. Numbers are big endian; `owner` is its address (38 bytes).
//!
//! | family | key | value |
//! |---|---|---|
//! | mailbox | `g` owner | grants |
//! | mailbox | `n` owner | last queue number, tombstones |
//! | mailbox | `q` owner seq | header of a held part |
//! | mailbox | `i` owner id | held: 1, seq; gone: 2, until, how (1), secret (32) |
//! | mailbox | `x` expires_at owner seq | held parts by end |
//! | mailbox | `d` owner until id | tombstones by end |
//! | mailbox | `c` owner key | a contact's deposit key |
//! | mailbox | `m` owner | markers |
//! | mailbox | `r` sender id | a receipt that we owe: received_at |
//! | mailbox_body | owner seq | sealed part |

use std::ops::Bound;

use bytes::{BufMut, Bytes};

use super::{
    evidence::Fate,
    grant::Grant,
    machine::{Contact, Known, Machine, Queue, Stored, TOMBSTONES},
    wire::{self, Page, PulledItem, Token, array, get_who, put_who},
};
use crate::{
    primitives::{GrantId, Hash, MessageId, PeerId, UnixMillis},
    store::{Batch, Family, Store, StoreError},
};

const HELD: u8 = 1;
const GONE: u8 = 2;

/// How a part left a tombstone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// It was held, and its owner acknowledged it with this token.
    Acked(Token),
    /// Its depositor took it back with this preimage.
    Withdrawn([u8; 32]),
    /// Its owner acknowledged it, and it was not held.
    Never,
}

fn key(prefix: u8, owner: &PeerId, rest: &[u8]) -> Vec<u8> {
    let owner = owner.to_bytes();
    [&[prefix], owner.as_slice(), rest].concat()
}

fn body_key(owner: &PeerId, seq: u64) -> Vec<u8> {
    [owner.to_bytes().as_slice(), &seq.to_be_bytes()].concat()
}

fn expiry_key(at: UnixMillis, owner: &PeerId, seq: u64) -> Vec<u8> {
    [b"x", &at.0.to_be_bytes()[..], owner.to_bytes().as_slice(), &seq.to_be_bytes()].concat()
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// For which sender, which message, and when it came.
pub(super) type Receipted = (PeerId, MessageId, UnixMillis);

/// The tables of mailboxes. Scans block.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) store: Store,
}

impl Tables {
    /// Everything held, with its counts.
    pub(super) fn load(&self, machine: &mut Machine) -> Result<(), StoreError> {
        let mut owners = Vec::new();
        self.store.for_each(Family::Mailbox, b"g", Bound::Unbounded, |k, value| {
            let owner = PeerId::from_bytes(&k[1..]).ok();
            match owner.zip(wire::decode_grants(value)) {
                Some(found) => owners.push(found),
                None => {
                    tracing::error!("an owner's grants are damaged in the store; what is held for it is not served");
                }
            }
            true
        })?;
        for (owner, grants) in owners {
            let mut queue = Queue { grants: grants.into_iter().map(|g| (g.id, g)).collect(), ..Queue::default() };
            if let Some(numbers) = self.store.get(Family::Mailbox, &key(b'n', &owner, &[]))? {
                queue.head = numbers.get(..8).and_then(number).unwrap_or(0);
                queue.tombstones = numbers.get(8..).and_then(number).unwrap_or(0);
            }
            queue.durable = queue.head;
            if let Some(markers) = self.store.get(Family::Mailbox, &key(b'm', &owner, &[]))? {
                queue.markers = wire::decode_markers(&markers).unwrap_or_default();
            }
            let contacts = key(b'c', &owner, &[]);
            self.store.for_each(Family::Mailbox, &contacts, Bound::Unbounded, |k, value| {
                let pair = k[contacts.len()..].try_into().ok().zip(decode_contact(value));
                queue.contacts.extend(pair);
                true
            })?;
            machine.load(owner, queue);
            let items = key(b'q', &owner, &[]);
            self.store.for_each(Family::Mailbox, &items, Bound::Unbounded, |k, value| {
                if let Some(stored) = number(&k[items.len()..]).and_then(|seq| decode_stored(seq, value)) {
                    machine.load_item(&owner, &stored);
                }
                true
            })?;
        }
        Ok(())
    }

    pub(super) fn put_grants(batch: &mut Batch, owner: &PeerId, grants: &[Grant]) {
        batch.put(Family::Mailbox, key(b'g', owner, &[]), wire::encode_grants(grants));
    }

    /// The queue's numbers, as they are after a turn.
    pub(super) fn put_numbers(batch: &mut Batch, owner: &PeerId, queue: &Queue) {
        let numbers = [queue.head.to_be_bytes(), queue.tombstones.to_be_bytes()].concat();
        batch.put(Family::Mailbox, key(b'n', owner, &[]), numbers);
    }

    pub(super) fn put_markers(batch: &mut Batch, owner: &PeerId, markers: Vec<u8>) {
        batch.put(Family::Mailbox, key(b'm', owner, &[]), markers);
    }

    pub(super) fn put_contact(batch: &mut Batch, owner: &PeerId, public: &[u8; 32], contact: &Contact) {
        batch.put(Family::Mailbox, key(b'c', owner, public), encode_contact(contact));
    }

    pub(super) fn drop_contact(batch: &mut Batch, owner: &PeerId, public: &[u8; 32]) {
        batch.delete(Family::Mailbox, key(b'c', owner, public));
    }

    /// What is known of a message.
    pub(super) fn known(&self, owner: &PeerId, id: &MessageId) -> Result<Option<Known>, StoreError> {
        let Some(value) = self.store.get(Family::Mailbox, &key(b'i', owner, &id.0))? else { return Ok(None) };
        let Some((kind, n)) = value.split_first().and_then(|(kind, rest)| Some((*kind, number(rest.get(..8)?)?)))
        else {
            return Ok(None);
        };
        if kind == GONE {
            return Ok(Some(Known::Gone(UnixMillis(n))));
        }
        Ok(self.stored(owner, n)?.map(Known::Held))
    }

    fn stored(&self, owner: &PeerId, seq: u64) -> Result<Option<Stored>, StoreError> {
        let header = self.store.get(Family::Mailbox, &key(b'q', owner, &seq.to_be_bytes()))?;
        Ok(header.and_then(|header| decode_stored(seq, &header)))
    }

    pub(super) fn put_item(batch: &mut Batch, owner: &PeerId, stored: &Stored, part: &Bytes) {
        let index = [&[HELD], &stored.seq.to_be_bytes()[..]].concat();
        batch.put(Family::MailboxBody, body_key(owner, stored.seq), part.as_ref());
        batch.put(Family::Mailbox, key(b'q', owner, &stored.seq.to_be_bytes()), encode_stored(stored));
        batch.put(Family::Mailbox, key(b'i', owner, &stored.id.0), index);
        batch.put(Family::Mailbox, expiry_key(stored.expires_at, owner, stored.seq), []);
    }

    /// A part's body, header and indexes go.
    pub(super) fn drop_item(batch: &mut Batch, owner: &PeerId, stored: &Stored) {
        batch.delete(Family::MailboxBody, body_key(owner, stored.seq));
        batch.delete(Family::Mailbox, key(b'q', owner, &stored.seq.to_be_bytes()));
        batch.delete(Family::Mailbox, key(b'i', owner, &stored.id.0));
        batch.delete(Family::Mailbox, expiry_key(stored.expires_at, owner, stored.seq));
    }

    /// What became of a part; `None`: nothing is known of it.
    pub(super) fn fate(&self, owner: &PeerId, id: &MessageId) -> Result<Option<Fate>, StoreError> {
        // One entry says it all: what goes while we look is either held or gone.
        let Some(value) = self.store.get(Family::Mailbox, &key(b'i', owner, &id.0))? else { return Ok(None) };
        Ok(match (value.first(), value.get(9), value.get(10..).and_then(|secret| secret.try_into().ok())) {
            (Some(&HELD), ..) => Some(Fate::Held),
            (Some(&GONE), Some(1), Some(token)) => Some(Fate::Acked(token)),
            (Some(&GONE), Some(2), Some(preimage)) => Some(Fate::Withdrawn(preimage)),
            (Some(&GONE), ..) => Some(Fate::Never),
            _ => None,
        })
    }

    pub(super) fn put_tombstone(batch: &mut Batch, owner: &PeerId, id: &MessageId, until: UnixMillis, how: Gone) {
        let (how, secret) = match how {
            Gone::Acked(token) => (1, token),
            Gone::Withdrawn(preimage) => (2, preimage),
            Gone::Never => (3, [0; 32]),
        };
        let index = [&[GONE], &until.0.to_be_bytes()[..], &[how], &secret].concat();
        batch.put(Family::Mailbox, key(b'i', owner, &id.0), index);
        batch.put(Family::Mailbox, key(b'd', owner, &[&until.0.to_be_bytes()[..], &id.0].concat()), []);
    }

    /// Up to `limit` held parts whose time is over.
    pub(super) fn expired(&self, now: UnixMillis, limit: usize) -> Result<Vec<(PeerId, Stored)>, StoreError> {
        let mut keys = Vec::new();
        self.store.for_each(Family::Mailbox, b"x", Bound::Unbounded, |k, _| {
            let over = k.get(1..9).and_then(number).is_some_and(|at| at <= now.0);
            if over {
                keys.push(k.to_vec());
            }
            over && keys.len() < limit
        })?;
        let mut expired = Vec::new();
        for k in keys {
            let place = k[9..].split_at_checked(k.len().saturating_sub(17));
            let Some((owner, seq)) = place.and_then(|(o, s)| Some((PeerId::from_bytes(o).ok()?, number(s)?))) else {
                continue;
            };
            if let Some(stored) = self.stored(&owner, seq)? {
                expired.push((owner, stored));
            }
        }
        Ok(expired)
    }

    /// Removes up to `limit` of an owner's tombstones that are over, or too many; how many.
    pub(super) fn drop_tombstones(
        &self,
        batch: &mut Batch,
        owner: &PeerId,
        (now, count): (UnixMillis, u64),
        limit: u64,
    ) -> Result<u64, StoreError> {
        let prefix = key(b'd', owner, &[]);
        let mut dropped = 0;
        self.store.for_each(Family::Mailbox, &prefix, Bound::Unbounded, |k, _| {
            let Some((until, id)) = k[prefix.len()..].split_first_chunk::<8>() else { return true };
            let over = u64::from_be_bytes(*until) <= now.0 || count - dropped.min(count) > TOMBSTONES;
            if over {
                batch.delete(Family::Mailbox, k).delete(Family::Mailbox, key(b'i', owner, id));
                dropped += 1;
            }
            over && dropped < limit
        })?;
        Ok(dropped)
    }

    /// Up to `limit` parts held for an owner.
    pub(super) fn items(&self, owner: &PeerId, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let pairs = self.store.scan(Family::Mailbox, &key(b'q', owner, &[]), None, limit)?;
        let read = |(k, header): &(Vec<u8>, Vec<u8>)| {
            let seq = k.last_chunk::<8>().map_or(0, |n| u64::from_be_bytes(*n));
            decode_stored(seq, header)
        };
        Ok(pairs.iter().filter_map(read).collect())
    }

    /// Removes up to `limit` entries of an owner for whom nothing is held any more; whether that was all. The grants go last: as
    /// long as they are there, a restart finds the rest.
    pub(super) fn clear(&self, batch: &mut Batch, owner: &PeerId, limit: usize) -> Result<bool, StoreError> {
        for prefix in b"id" {
            let pairs = self.store.scan(Family::Mailbox, &key(*prefix, owner, &[]), None, limit)?;
            let all = pairs.len() < limit;
            for (k, _) in pairs {
                batch.delete(Family::Mailbox, k);
            }
            if !all {
                return Ok(false);
            }
        }
        for prefix in b"cmng" {
            let pairs = self.store.scan(Family::Mailbox, &key(*prefix, owner, &[]), None, usize::MAX)?;
            for (k, _) in pairs {
                batch.delete(Family::Mailbox, k);
            }
        }
        Ok(true)
    }

    /// What an owner can pull from `after` on, at most `max_bytes` and `max_items`, at least one. Markers and head are not here.
    pub(super) fn page(
        &self,
        owner: &PeerId,
        now: UnixMillis,
        (after, max_bytes, max_items): (u64, usize, usize),
    ) -> Result<Page, StoreError> {
        let prefix = key(b'q', owner, &[]);
        let from = key(b'q', owner, &after.to_be_bytes());
        let (mut headers, mut bytes, mut more) = (Vec::new(), 0, false);
        self.store.for_each(Family::Mailbox, &prefix, Bound::Excluded(&from), |k, value| {
            let Some(stored) = number(&k[prefix.len()..]).and_then(|seq| decode_stored(seq, value)) else {
                return true;
            };
            if stored.expires_at <= now {
                return true;
            }
            bytes += PulledItem::wire_len(stored.len as usize); // u32 fits in usize
            more = !headers.is_empty() && (bytes > max_bytes || headers.len() >= max_items);
            if !more {
                headers.push(stored);
            }
            !more
        })?;
        let mut items = Vec::with_capacity(headers.len());
        for stored in headers {
            // Acked meanwhile: it is not missed.
            let Some(part) = self.store.get(Family::MailboxBody, &body_key(owner, stored.seq))? else { continue };
            let Stored { seq, stored_at, expires_at, id, .. } = stored;
            items.push(PulledItem { seq, stored_at, expires_at, id, part: part.into() });
        }
        Ok(Page { items, more, ..Page::default() })
    }

    // -- receipts that we owe

    /// `left`: friends of the sender have it.
    pub(super) fn put_owed(batch: &mut Batch, sender: &PeerId, (id, at): (&MessageId, UnixMillis), left: bool) {
        let value = [at.0.to_be_bytes().as_slice(), if left { &[1] } else { &[] }].concat();
        batch.put(Family::Mailbox, key(b'r', sender, &id.0), value);
    }

    pub(super) fn drop_owed(batch: &mut Batch, sender: &PeerId, id: &MessageId) {
        batch.delete(Family::Mailbox, key(b'r', sender, &id.0));
    }

    /// All of them, and whether they were left with friends.
    pub(super) fn owed(&self) -> Result<Vec<(Receipted, bool)>, StoreError> {
        let mut owed = Vec::new();
        self.store.for_each(Family::Mailbox, b"r", Bound::Unbounded, |k, value| {
            let found = k[1..].split_last_chunk::<32>().and_then(|(sender, id)| {
                let (at, left) = value.split_at_checked(8)?;
                Some(((PeerId::from_bytes(sender).ok()?, MessageId(*id), UnixMillis(number(at)?)), !left.is_empty()))
            });
            owed.extend(found);
            true
        })?;
        Ok(owed)
    }
}

/// A held part's header for the store.
fn encode_stored(stored: &Stored) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(33 + 32 + 16 + 4 + 16 + 32);
    bytes.put_slice(&stored.id.0);
    bytes.put_slice(&stored.grant.0);
    bytes.put_u32(stored.len);
    bytes.put_u64(stored.stored_at.0);
    bytes.put_u64(stored.expires_at.0);
    bytes.put_slice(&stored.withdraw.0);
    put_who(&mut bytes, stored.who);
    bytes
}

/// `None`: damaged.
pub(super) fn decode_stored(seq: u64, bytes: &[u8]) -> Option<Stored> {
    let bytes = &mut Bytes::copy_from_slice(bytes);
    Some(Stored {
        seq,
        id: MessageId(array(bytes)?),
        grant: GrantId(array(bytes)?),
        len: u32::from_be_bytes(array(bytes)?),
        stored_at: UnixMillis(u64::from_be_bytes(array(bytes)?)),
        expires_at: UnixMillis(u64::from_be_bytes(array(bytes)?)),
        withdraw: Hash(array(bytes)?),
        who: get_who(bytes)?,
    })
}

/// A deposit key's limits and use for the store; how many parts are held follows from those.
fn encode_contact(contact: &Contact) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.put_u32(contact.msgs);
    [contact.bytes_day, contact.day, contact.today].into_iter().for_each(|n| bytes.put_u64(n));
    bytes
}

/// `None`: damaged.
pub(super) fn decode_contact(bytes: &[u8]) -> Option<Contact> {
    let bytes = &mut Bytes::copy_from_slice(bytes);
    Some(Contact {
        msgs: u32::from_be_bytes(array(bytes)?),
        bytes_day: u64::from_be_bytes(array(bytes)?),
        held: 0,
        day: u64::from_be_bytes(array(bytes)?),
        today: u64::from_be_bytes(array(bytes)?),
    })
}
