//! The holder machine: what is kept for whom, what is refused and why. No I/O: times, what the store knows of a message, and
//! whether the disk has room are arguments; what is to be written is the return value.
//!
//! ```text
//!  offer ─▶ plan ─┬─ Refuse(why)                      grant, size, time, proof, quotas, disk
//!                 ├─ Again(stored)                    the same receipt
//!                 └─ Store(stored) ── commit ─▶ finish(true): receipt
//!                                         └──▶ finish(false): as if nothing had been
//!  ack, withdraw, expiry ─▶ gone(stored) ─ commit ─▶ finish(true): the room is free
//! ```
//! Changes are planned in *turns*, one at a time: all planned since the last [`Machine::finish`] is committed in one batch. What a
//! turn adds counts from the moment it is planned, what it removes only once it is durable, so quotas hold at every moment. Within
//! a turn `fresh` says what it has decided about a message; before it, the store does.
//!
//! A queue belongs to an owner, not to a grant: a renewed grant goes on with it, and its numbers have no gap.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;

use super::{
    grant::{DRAIN, Grant},
    refusal::Refusal,
};
use crate::{
    message::friend::{Hold, POLICY_CONTACTS, POLICY_CONTACTS_POW, POLICY_OPEN_POW},
    primitives::{GrantId, Hash, MessageId, PeerId, UnixMillis},
};

/// What a held part costs beside its bytes: header, indexes, and its tombstone later.
pub const MESSAGE_COST: u64 = 512;
/// Bits of work that an open deposit must show at least: 0.1 s of one core.
pub const WORK_BITS: u32 = 18;
/// Bits more when the open share is full: the work rises evenly up to 64 times.
pub(super) const WORK_RISE: u64 = 6;
/// Grants of one owner: a renewal, and revoked ones that drain.
pub(super) const GRANTS: usize = 4;
/// Owners of one holder: 2 KiB of memory each without contacts.
pub(super) const OWNERS: usize = 10_000;
/// Deposit keys of one owner: 100 bytes of memory each.
pub(super) const CONTACTS: usize = 1024;
/// Markers of one owner; what is refused beyond them is not noted.
pub(super) const MARKERS: usize = 64;
/// Tombstones of one owner, 200 bytes on disk each; beyond it those nearest to their end go. An owner remembers itself what it
/// has seen, so a message that comes back after that costs traffic, not a second delivery.
pub(super) const TOMBSTONES: u64 = 65_536;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Whose share of a mailbox a message uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Who {
    /// Nobody's in particular: proof of work.
    Open,
    /// The holder of this deposit key (Ed25519).
    Contact([u8; 32]),
}

/// What a depositor showed, checked as far as that needs no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    None,
    /// A deposit key, and whether its signature is good.
    Key([u8; 32], bool),
    /// Bits of work done.
    Work(u32),
}

/// One part to be kept.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) id: MessageId,
    pub(super) ttl_s: u32,
    pub(super) withdraw: Hash,
    pub(super) part: Bytes,
    /// The id is that of the part.
    pub(super) matches: bool,
    pub(super) proof: Proof,
}

/// A held part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) seq: u64,
    pub(super) id: MessageId,
    /// The grant it came under.
    pub(super) grant: GrantId,
    pub(super) len: u32,
    pub(super) stored_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) withdraw: Hash,
    pub(super) who: Who,
}

impl Stored {
    fn cost(&self) -> u64 {
        u64::from(self.len) + MESSAGE_COST
    }
}

/// What is known of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Held(Stored),
    /// A tombstone, kept until then.
    Gone(UnixMillis),
}

/// What to do with an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Refuse(Refusal),
    /// Held already: the same receipt once more, if this turn's commit succeeds.
    Again(Stored),
    /// Write it; receipt it when that is durable.
    Store(Stored),
}

/// A deposit key and what it has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Contact {
    /// Limits that the owner set.
    pub(super) msgs: u32,
    pub(super) bytes_day: u64,
    /// Parts held now.
    pub(super) held: u64,
    /// The day (since 1970) of `today`, the bytes left on it.
    pub(super) day: u64,
    pub(super) today: u64,
}

impl Contact {
    fn used(&self, day: u64) -> u64 {
        // A clock set back does not give a new day.
        if day > self.day { 0 } else { self.today }
    }
}

/// That something was refused for want of room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marker {
    /// Times.
    pub count: u64,
    /// First time, by the holder's clock.
    pub first_at: UnixMillis,
}

/// Whose deposit was refused, and which quota was full (the code of the [`Refusal`]).
pub(super) type MarkerKey = (Who, u8);

/// What is kept for one owner.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) grants: BTreeMap<GrantId, Grant>,
    /// The last number given out, and the last that is durable.
    pub(super) head: u64,
    pub(super) durable: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) open_bytes: u64,
    pub(super) tombstones: u64,
    pub(super) contacts: HashMap<[u8; 32], Contact>,
    pub(super) markers: BTreeMap<MarkerKey, Marker>,
    /// Markers that are not stored yet.
    pub(super) unsaved: bool,
}

impl Queue {
    fn is_over(&self, now: UnixMillis) -> bool {
        self.grants.values().all(|g| g.is_over(now))
    }

    fn add(&mut self, stored: &Stored) {
        self.count += 1;
        self.bytes += stored.cost();
        match stored.who {
            Who::Open => self.open_bytes += stored.cost(),
            Who::Contact(key) => {
                if let Some(contact) = self.contacts.get_mut(&key) {
                    contact.held += 1;
                }
            }
        }
    }

    fn take(&mut self, stored: &Stored) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(stored.cost());
        match stored.who {
            Who::Open => self.open_bytes = self.open_bytes.saturating_sub(stored.cost()),
            Who::Contact(key) => {
                if let Some(contact) = self.contacts.get_mut(&key) {
                    contact.held = contact.held.saturating_sub(1);
                }
            }
        }
    }

    fn mark(&mut self, now: UnixMillis, who: Who, why: Refusal) {
        let key = (who, why.code());
        if self.markers.len() >= MARKERS && !self.markers.contains_key(&key) {
            return;
        }
        self.markers.entry(key).or_insert(Marker { count: 0, first_at: now }).count += 1;
        self.unsaved = true;
    }

    /// Bytes that open deposits may fill.
    fn open_limit(grant: &Grant) -> u64 {
        let percent = match grant.terms.policy {
            POLICY_CONTACTS_POW => u64::from(grant.terms.open_share_percent.min(100)),
            POLICY_OPEN_POW => 100,
            _ => 0,
        };
        grant.terms.quota_bytes / 100 * percent + grant.terms.quota_bytes % 100 * percent / 100
    }

    /// Work asked for now: more the fuller the open share is.
    fn work(&self, grant: &Grant) -> u32 {
        let rise = self.open_bytes.saturating_mul(WORK_RISE).checked_div(Self::open_limit(grant)).unwrap_or(0);
        WORK_BITS + u32::try_from(rise.min(WORK_RISE)).unwrap_or(0)
    }
}

/// Limits over all owners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    pub(super) max_msgs: u64,
}

/// What a turn did, to be made final or undone.
#[derive(Debug)]
enum Change {
    Added(PeerId, Stored),
    Removed(PeerId, Stored),
    Tombstone(PeerId),
    Forgot(PeerId, u64),
}

/// A grant that was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantError {
    /// One that is newer, or further on, is in force.
    #[error("a newer state of this grant is known")]
    Stale,
    /// Too many owners, or too many grants of this one.
    #[error("no room for another grant")]
    Full,
    /// The owner's address is not of an Ed25519 key.
    #[error("not an address")]
    BadOwner,
    /// It could not be stored; try again.
    #[error("the grant could not be stored: {0}")]
    Store(crate::store::StoreError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Everything held for others.
#[derive(Debug)]
pub(super) struct Machine {
    limits: Limits,
    queues: HashMap<PeerId, Queue>,
    bytes: u64,
    msgs: u64,
    fresh: HashMap<(PeerId, MessageId), Known>,
    turn: Vec<Change>,
}

impl Machine {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, queues: HashMap::new(), bytes: 0, msgs: 0, fresh: HashMap::new(), turn: Vec::new() }
    }

    /// Takes over an owner's queue from the store; its items follow.
    pub(super) fn load(&mut self, owner: PeerId, queue: Queue) {
        self.queues.insert(owner, queue);
    }

    /// Takes over a held part from the store.
    pub(super) fn load_item(&mut self, owner: &PeerId, stored: &Stored) {
        let Some(queue) = self.queues.get_mut(owner) else { return };
        queue.add(stored);
        queue.head = queue.head.max(stored.seq);
        queue.durable = queue.head;
        self.bytes += stored.cost();
        self.msgs += 1;
    }

    /// Takes note of a grant: new, changed, draining or ended. All of the owner's are to be stored then.
    pub(super) fn grant(&mut self, owner: PeerId, grant: Grant, now: UnixMillis) -> Result<(), GrantError> {
        if !self.queues.contains_key(&owner) && self.queues.len() >= OWNERS {
            return Err(GrantError::Full);
        }
        let queue = self.queues.entry(owner).or_default();
        match queue.grants.get(&grant.id) {
            Some(old) if !grant.follows(old) => return Err(GrantError::Stale),
            None if queue.grants.len() >= GRANTS => {
                let Some(over) = queue.grants.values().find(|g| g.is_over(now)).map(|g| g.id) else {
                    return Err(GrantError::Full);
                };
                queue.grants.remove(&over);
            }
            _ => {}
        }
        queue.grants.insert(grant.id, grant);
        Ok(())
    }

    /// An owner's queue.
    pub(super) fn queue(&self, owner: &PeerId) -> Option<&Queue> {
        self.queues.get(owner)
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (&PeerId, &Queue)> {
        self.queues.iter()
    }

    /// Parts and bytes over all owners.
    #[cfg(test)]
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.msgs, self.bytes)
    }

    /// What this turn decided about a message.
    pub(super) fn fresh(&self, owner: &PeerId, id: &MessageId) -> Option<Known> {
        self.fresh.get(&(*owner, *id)).copied()
    }

    /// Decides about one offer. `known`: what the store, or this turn, knows of the message; `room`: the disk has some.
    pub(super) fn plan(
        &mut self,
        (now, room): (UnixMillis, bool),
        owner: &PeerId,
        grant: &GrantId,
        offer: &Offer,
        known: Option<Known>,
    ) -> Verdict {
        let limits = self.limits;
        let (bytes, msgs) = (self.bytes, self.msgs);
        let Some(queue) = self.queues.get_mut(owner) else { return Verdict::Refuse(Refusal::NotFriend) };
        let who = match admit(now, queue, grant, offer) {
            Ok(who) => who,
            Err(why) => return Verdict::Refuse(why),
        };
        match known {
            Some(Known::Held(stored)) => return Verdict::Again(stored),
            Some(Known::Gone(_)) => return Verdict::Refuse(Refusal::AlreadyDelivered),
            None => {}
        }
        let len = u32::try_from(offer.part.len()).unwrap_or(u32::MAX);
        let cost = u64::from(len) + MESSAGE_COST;
        let grant = queue.grants[grant]; // admitted above
        if let Err(why) = fits(now, queue, &grant, who, offer, cost) {
            if matches!(why, Refusal::QuotaOwner | Refusal::QuotaContact) {
                queue.mark(now, who, why);
            }
            return Verdict::Refuse(why);
        }
        if !room || bytes + cost > limits.max_bytes || msgs >= limits.max_msgs {
            return Verdict::Refuse(Refusal::DiskFull);
        }
        queue.head += 1;
        let stored = Stored {
            seq: queue.head,
            id: offer.id,
            grant: grant.id,
            len,
            stored_at: now,
            // A promise does not outlive the grant that it is made under.
            expires_at: now.plus(Duration::from_secs(u64::from(offer.ttl_s))).min(grant.not_after.plus(DRAIN)),
            withdraw: offer.withdraw,
            who,
        };
        queue.add(&stored);
        if let Who::Contact(key) = who
            && let Some(contact) = queue.contacts.get_mut(&key)
        {
            let day = now.0 / DAY_MS;
            contact.today = contact.used(day) + u64::from(len);
            contact.day = contact.day.max(day);
        }
        self.bytes += cost;
        self.msgs += 1;
        self.fresh.insert((*owner, offer.id), Known::Held(stored));
        self.turn.push(Change::Added(*owner, stored));
        Verdict::Store(stored)
    }

    /// A message is to go, with a tombstone when `Some` is returned: until when. `known` as in [`Machine::plan`].
    pub(super) fn ack(
        &mut self,
        now: UnixMillis,
        owner: &PeerId,
        id: MessageId,
        known: Option<Known>,
    ) -> Option<UnixMillis> {
        let queue = self.queues.get_mut(owner)?;
        let until = match known {
            Some(Known::Gone(_)) => return None,
            Some(Known::Held(stored)) => {
                self.turn.push(Change::Removed(*owner, stored));
                stored.expires_at.plus(DRAIN)
            }
            // Nothing is refused for it, but its place is not for ids without end.
            None if queue.tombstones >= TOMBSTONES => return None,
            // Never had: one that is on its way to us may not live longer than this.
            None => {
                let ttl = queue.grants.values().map(|g| g.terms.max_ttl_s).max().unwrap_or_default();
                now.plus(Duration::from_secs(ttl.into())).plus(DRAIN)
            }
        };
        queue.tombstones += 1;
        self.fresh.insert((*owner, id), Known::Gone(until));
        self.turn.push(Change::Tombstone(*owner));
        Some(until)
    }

    /// A message's time is over: it goes without a tombstone.
    pub(super) fn expired(&mut self, owner: &PeerId, stored: Stored) {
        // Another part of this turn may have removed it.
        if self.fresh(owner, &stored.id).is_none() {
            self.turn.push(Change::Removed(*owner, stored));
        }
    }

    /// Tombstones are to go.
    pub(super) fn forgot(&mut self, owner: &PeerId, tombstones: u64) {
        if let Some(queue) = self.queues.get_mut(owner) {
            let dropped = tombstones.min(queue.tombstones);
            queue.tombstones -= dropped;
            self.turn.push(Change::Forgot(*owner, dropped));
        }
    }

    /// Whether `preimage` opens the withdrawal of a held part.
    pub(super) fn may_withdraw(known: Option<Known>, preimage: &[u8; 32]) -> bool {
        matches!(known, Some(Known::Held(stored)) if stored.withdraw == Hash::of(preimage))
    }

    /// Registers deposit keys; `false`: there are too many, none was taken.
    pub(super) fn register(&mut self, owner: &PeerId, keys: &[([u8; 32], u32, u64)]) -> bool {
        let Some(queue) = self.queues.get_mut(owner) else { return false };
        let new = keys.iter().filter(|(key, ..)| !queue.contacts.contains_key(key)).count();
        if queue.contacts.len() + new > CONTACTS {
            return false;
        }
        for (key, msgs, bytes_day) in keys {
            let contact = queue.contacts.entry(*key).or_default();
            (contact.msgs, contact.bytes_day) = (*msgs, *bytes_day);
        }
        true
    }

    /// Takes deposit keys back. What they left stays.
    pub(super) fn revoke(&mut self, owner: &PeerId, keys: &[[u8; 32]]) {
        if let Some(queue) = self.queues.get_mut(owner) {
            queue.contacts.retain(|key, _| !keys.contains(key));
        }
    }

    /// The owner has seen markers: they count no more.
    pub(super) fn seen(&mut self, owner: &PeerId, seen: &[(MarkerKey, Marker)]) {
        let Some(queue) = self.queues.get_mut(owner) else { return };
        for (key, marker) in seen {
            if let Some(ours) = queue.markers.get_mut(key) {
                ours.count = ours.count.saturating_sub(marker.count);
                if ours.count == 0 {
                    queue.markers.remove(key);
                }
                queue.unsaved = true;
            }
        }
    }

    /// Markers that changed since they were last asked for.
    pub(super) fn unsaved(&mut self) -> Vec<(PeerId, BTreeMap<MarkerKey, Marker>)> {
        let unsaved = self.queues.iter_mut().filter(|(_, q)| q.unsaved);
        unsaved
            .map(|(owner, q)| {
                q.unsaved = false;
                (*owner, q.markers.clone())
            })
            .collect()
    }

    /// The turn's batch is durable (or not: then nothing of it has happened).
    pub(super) fn finish(&mut self, ok: bool) {
        self.fresh.clear();
        for change in std::mem::take(&mut self.turn).into_iter().rev() {
            let (Change::Added(owner, _)
            | Change::Removed(owner, _)
            | Change::Tombstone(owner)
            | Change::Forgot(owner, _)) = &change;
            let Some(queue) = self.queues.get_mut(owner) else { continue };
            match change {
                Change::Added(_, stored) if ok => queue.durable = queue.durable.max(stored.seq),
                Change::Added(_, stored) => {
                    queue.head = stored.seq - 1;
                    queue.take(&stored);
                    if let Who::Contact(key) = stored.who
                        && let Some(contact) = queue.contacts.get_mut(&key)
                    {
                        contact.today = contact.today.saturating_sub(u64::from(stored.len));
                    }
                    (self.bytes, self.msgs) = (self.bytes - stored.cost(), self.msgs - 1);
                }
                Change::Removed(_, stored) if ok => {
                    queue.take(&stored);
                    (self.bytes, self.msgs) = (self.bytes.saturating_sub(stored.cost()), self.msgs.saturating_sub(1));
                }
                Change::Tombstone(_) if !ok => queue.tombstones = queue.tombstones.saturating_sub(1),
                Change::Forgot(_, dropped) if !ok => queue.tombstones += dropped,
                Change::Removed(..) | Change::Tombstone(_) | Change::Forgot(..) => {}
            }
        }
    }

    /// Owners all of whose grants are over: their queues are to be cleared.
    pub(super) fn over(&self, now: UnixMillis) -> Vec<PeerId> {
        self.queues.iter().filter(|(_, q)| q.is_over(now)).map(|(owner, _)| *owner).collect()
    }

    /// An owner's queue is cleared.
    pub(super) fn drop_queue(&mut self, owner: &PeerId) {
        if let Some(queue) = self.queues.remove(owner) {
            self.bytes = self.bytes.saturating_sub(queue.bytes);
            self.msgs = self.msgs.saturating_sub(queue.count);
        }
    }

    /// Whether `peer` may pull, ack and manage as an owner.
    pub(super) fn may_pull(&self, peer: &PeerId, now: UnixMillis) -> Result<&Queue, Refusal> {
        let queue = self.queues.get(peer).ok_or(Refusal::NotFriend)?;
        if queue.is_over(now) { Err(Refusal::Revoked) } else { Ok(queue) }
    }
}

/// Whether the offer is allowed at all, room aside, and on whose account.
fn admit(now: UnixMillis, queue: &Queue, grant: &GrantId, offer: &Offer) -> Result<Who, Refusal> {
    let grant = queue.grants.get(grant).ok_or(Refusal::NotFriend)?;
    match grant.phase {
        Hold::Ended => return Err(Refusal::Revoked),
        Hold::Draining { .. } => return Err(Refusal::Draining),
        Hold::Active if now >= grant.not_after => return Err(Refusal::GrantExpired),
        Hold::Active => {}
    }
    if !offer.matches {
        return Err(Refusal::IdMismatch);
    }
    let (max_bytes, max_ttl_s) = (u64::from(grant.terms.max_msg_bytes), grant.terms.max_ttl_s);
    // usize fits in u64
    if offer.part.len() as u64 > max_bytes {
        return Err(Refusal::TooLarge(max_bytes));
    }
    if offer.ttl_s > max_ttl_s {
        return Err(Refusal::TtlTooLong(max_ttl_s.into()));
    }
    match (offer.proof, grant.terms.policy) {
        (Proof::Key(key, true), _) if queue.contacts.contains_key(&key) => Ok(Who::Contact(key)),
        (Proof::Key(..), _) | (_, POLICY_CONTACTS) => Err(Refusal::BadAuth),
        (Proof::Work(bits), _) if bits >= WORK_BITS => Ok(Who::Open),
        (Proof::Work(_) | Proof::None, _) => Err(Refusal::NeedPow(u64::from(queue.work(grant)))),
    }
}

/// Whether there is room for it within the owner's quotas.
fn fits(now: UnixMillis, queue: &Queue, grant: &Grant, who: Who, offer: &Offer, cost: u64) -> Result<(), Refusal> {
    let terms = &grant.terms;
    if queue.count >= u64::from(terms.quota_msgs) || queue.bytes + cost > terms.quota_bytes {
        return Err(Refusal::QuotaOwner);
    }
    match who {
        Who::Open => {
            if queue.open_bytes + cost > Queue::open_limit(grant) {
                return Err(Refusal::QuotaContact);
            }
            let bits = queue.work(grant);
            if !matches!(offer.proof, Proof::Work(done) if done >= bits) {
                return Err(Refusal::NeedPow(u64::from(bits)));
            }
        }
        Who::Contact(key) => {
            let contact = queue.contacts.get(&key).copied().unwrap_or_default();
            let msgs = u64::from(terms.per_contact_msgs.min(contact.msgs));
            let bytes = terms.per_contact_bytes_day.min(contact.bytes_day);
            let used = contact.used(now.0 / DAY_MS) + offer.part.len() as u64; // usize fits in u64
            if contact.held >= msgs || used > bytes {
                return Err(Refusal::QuotaContact);
            }
        }
    }
    Ok(())
}
