//! Which friends of a recipient get a message while the recipient cannot be reached: the part of the outbox for mailboxes.
//!
//! ```text
//!  direct try failed ─▶ away: who are its friends? ─▶ leave all parts with the best COPIES ─▶ all signed: Stored
//!       ▲ │                                            ▲      │ not reached, full, busy: that friend pauses, the next one
//!       └─┘ retries go on                              └──────┘ too large, has it already: not this message, not there
//! ```
//! A recipient that answers is not away any more: nothing more is left for it. What its friends hold stays theirs until its
//! receipt comes; what they signed is settled then (`mailbox::evidence`), and after a direct try they are told that they need not
//! keep it.

use std::{collections::BTreeSet, time::Duration};

use super::{BATCH_BYTES, FIRST_RETRY, Item, Left, Now, Outbox, Output};
use crate::{
    message::{
        mailbox::{Refusal, StoredReceipt, evidence::Settle},
        outbox::Due,
    },
    primitives::{Hash, MessageId, PeerId, UnixMillis},
    runtime::Backoff,
};

/// Friends that are to hold a message; fewer when the recipient has fewer.
pub(super) const COPIES: usize = 2;
/// Friends of one recipient that are looked at: as many as a record lists.
const FRIENDS: usize = 8;
/// Requests to friends under way at once, 1 MiB each at most.
const FLIGHTS: usize = 16;
/// Parts in one request. Where each costs work, a tenth of a second or more, the first messages should not wait for the last; where
/// answers come quickly, requests grow.
const FLIGHT_PARTS: std::ops::RangeInclusive<usize> = 8..=64;
/// An answer within this is quick, and beyond that slow.
const QUICK: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(1);
/// How old a list of friends may get before it is asked for again with the next failed try.
const LIST_AGE: Duration = Duration::from_secs(600);
/// The same for an empty list, or when nobody could tell.
const EMPTY_AGE: Duration = Duration::from_secs(10);

/// A small request without an answer for this long counts as not reached for its recipient's friends; it may still be answered. A
/// dead QUIC connection takes 7.5 s to be noticed.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// Larger requests may just be on a slow path.
pub(super) const SMALL_REQUEST: usize = 64 * 1024;

/// A friend as the recipient's record lists it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::message) struct Friend {
    pub(in crate::message) peer: PeerId,
    /// Of the grant.
    pub(in crate::message) grant: Hash,
}

/// The answer to [`Output::Leave`]: what became of each part, the receipts verified; or why there is none.
pub(in crate::message) type Deposited = Result<Vec<Result<StoredReceipt, Refusal>>, String>;

/// A request to a friend.
#[derive(Debug)]
pub(super) struct Flight {
    owner: PeerId,
    friend: Friend,
    sent_at: Duration,
    /// With the sealing each part was of.
    items: Vec<(Item, MessageId)>,
}

/// What is under way for one message.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    flying: Vec<PeerId>,
    /// Parts of the present sealing that friends have signed for, from the first on without a gap.
    pub(super) signed: Vec<(PeerId, Vec<MessageId>)>,
}

impl Leaving {
    fn signed(&self, holder: &PeerId) -> &[MessageId] {
        self.signed.iter().find(|(peer, _)| peer == holder).map_or(&[], |(_, ids)| ids)
    }
}

/// One friend of a recipient that is away.
#[derive(Debug)]
struct Place {
    friend: Friend,
    flying: bool,
    /// Parts in the next request.
    width: usize,
    backoff: Backoff,
    /// `Duration::MAX`: not under this grant.
    next_try: Duration,
}

/// A recipient that cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// Best first.
    places: Vec<Place>,
    asking: bool,
    asked_at: Option<Duration>,
    /// Messages that may need another holder.
    pub(super) wanting: BTreeSet<u64>,
}

enum Want {
    /// Nothing more is needed.
    Enough,
    /// Not at this place, or not now.
    NotHere,
    /// From this part on.
    Here(u32),
}

/// Whether a refusal is about the message, not about the place.
fn is_about_message(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::TooLarge(_) | Refusal::TtlTooLong(_) | Refusal::IdMismatch | Refusal::AlreadyDelivered)
}

/// Whether nothing can be left under this grant ever again. Who is no contact now may be one later.
fn is_about_grant(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::GrantExpired | Refusal::Revoked | Refusal::Draining)
}

impl Outbox {
    /// A direct try has failed, so what waits for this recipient goes to its friends.
    pub(super) fn not_reached(&mut self, now: Now, recipient: PeerId) {
        let away = self.away.entry(recipient).or_default();
        if let Some(peer) = self.peers.get(&recipient) {
            // Friends get what is durable here: with all parts its recipient has it.
            let durable = |seq: &u64| self.entries.get(seq).is_some_and(|e| e.durable);
            away.wanting.extend(peer.waiting.iter().map(|(seq, _)| *seq).filter(durable));
        }
        let most = if away.places.is_empty() { EMPTY_AGE } else { LIST_AGE };
        let old = away.asked_at.is_none_or(|at| now.mono >= at + most);
        if old && !away.asking {
            away.asking = true;
            self.outputs.push_back(Output::Friends(recipient));
        }
        self.leave(now, recipient);
    }

    /// A small request has had no answer for some time.
    pub(super) fn silent(&mut self, now: Now, flight: u64) {
        let Some(super::Flight { peer, items, .. }) = self.flights.get(&flight) else { return };
        let (peer, durable) = (*peer, |seq: &u64| self.entries.get(seq).is_some_and(|e| e.durable));
        let seqs: Vec<u64> = items.iter().map(|((seq, _), _)| *seq).filter(durable).collect();
        self.away.entry(peer).or_default().wanting.extend(seqs);
        self.not_reached(now, peer);
    }

    /// A new message: to friends at once when the recipient is known to be away.
    pub(super) fn wants_friends(&mut self, now: Now, recipient: PeerId, seq: u64) {
        if let Some(away) = self.away.get_mut(&recipient) {
            away.wanting.insert(seq);
            self.leave(now, recipient);
        }
    }

    /// The answer to [`Output::Friends`], the best first.
    pub(in crate::message) fn friends(&mut self, now: Now, recipient: PeerId, found: Result<Vec<Friend>, String>) {
        let Some(away) = self.away.get_mut(&recipient) else { return };
        away.asking = false;
        away.asked_at = Some(now.mono);
        let Ok(found) = found else { return };
        let mut old = std::mem::take(&mut away.places);
        for friend in found {
            let twice = away.places.iter().any(|p| p.friend.peer == friend.peer);
            if twice || friend.peer == recipient || friend.peer == self.local || away.places.len() >= FRIENDS {
                continue;
            }
            let known = old.iter().position(|p| p.friend.peer == friend.peer).map(|at| old.swap_remove(at));
            let place = match known {
                Some(place) if place.friend == friend => place,
                // Another grant: whatever it refused before, it may take now.
                other => Place {
                    friend,
                    flying: other.is_some_and(|p| p.flying),
                    width: *FLIGHT_PARTS.start(),
                    backoff: Backoff::new(FIRST_RETRY, self.retry_max),
                    next_try: Duration::ZERO,
                },
            };
            away.places.push(place);
        }
        if let Some(peer) = self.peers.get(&recipient) {
            // Friends get what is durable here: with all parts its recipient has it.
            let durable = |seq: &u64| self.entries.get(seq).is_some_and(|e| e.durable);
            away.wanting.extend(peer.waiting.iter().map(|(seq, _)| *seq).filter(durable));
        }
        self.leave(now, recipient);
    }

    /// A peer is connected or its record changed: whom it is a friend of may try it now, and its own list may be another one.
    pub(super) fn friend_appeared(&mut self, now: Now, peer: PeerId) {
        let mut again = Vec::new();
        for (recipient, away) in &mut self.away {
            if *recipient == peer {
                away.asked_at = None;
            }
            let paused = |p: &&mut Place| p.friend.peer == peer && p.next_try > now.mono && p.next_try < Duration::MAX;
            if let Some(place) = away.places.iter_mut().find(paused) {
                place.next_try = now.mono;
                again.push(*recipient);
            }
        }
        again.into_iter().for_each(|recipient| self.leave(now, recipient));
    }

    /// The answer to [`Output::Leave`].
    pub(in crate::message) fn deposited(&mut self, now: Now, flight: u64, answer: Deposited) {
        let Some(Flight { owner, friend, sent_at, items }) = self.deposits.remove(&flight) else { return };
        let took = now.mono.saturating_sub(sent_at);
        for ((seq, _), _) in &items {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.leaving.flying.retain(|p| *p != friend.peer);
            }
        }
        let trouble = match answer {
            Ok(answers) if answers.len() == items.len() => {
                let mut trouble = None;
                for (item, answer) in items.into_iter().zip(answers) {
                    match answer {
                        // A promise for no time is none.
                        Ok(receipt) if receipt.expires_at <= now.wall => trouble = Some(None),
                        Ok(receipt) => self.part_left(now, owner, friend, item, receipt),
                        Err(refusal) => {
                            self.part_refused(friend, item, refusal);
                            if !is_about_message(refusal) {
                                trouble = Some(Some(refusal));
                            }
                        }
                    }
                }
                trouble
            }
            other => {
                let why = other.err().unwrap_or_else(|| "its answer is malformed".into());
                let seqs: BTreeSet<u64> = items.iter().map(|((seq, _), _)| *seq).collect();
                for seq in seqs {
                    if let Some(entry) = self.entries.get_mut(&seq) {
                        entry.header.last_error = format!("friend {}: {why}", friend.peer);
                    }
                }
                Some(None)
            }
        };
        self.place_answered(now, owner, friend, (took, trouble));
        self.leave(now, owner);
        while self.deposits.len() < FLIGHTS
            && let Some(recipient) = self.crowded.pop_first()
        {
            self.leave(now, recipient);
        }
    }

    /// `trouble`: what it refused, or that it was not reached.
    fn place_answered(
        &mut self,
        now: Now,
        owner: PeerId,
        friend: Friend,
        (took, trouble): (Duration, Option<Option<Refusal>>),
    ) {
        let (random, retry_max) = (self.random(), self.retry_max);
        let Some(away) = self.away.get_mut(&owner) else { return };
        let Some(place) = away.places.iter_mut().find(|p| p.friend.peer == friend.peer) else { return };
        place.flying = false;
        if place.friend != friend {
            return;
        }
        if trouble.is_some() || took > SLOW {
            place.width = *FLIGHT_PARTS.start();
        } else if took < QUICK {
            place.width = (place.width * 2).min(*FLIGHT_PARTS.end());
        }
        place.next_try = match trouble {
            None => {
                place.backoff.reset();
                now.mono
            }
            Some(Some(refusal)) if is_about_grant(refusal) => Duration::MAX,
            Some(Some(Refusal::Rate(ms))) => now.mono + Duration::from_millis(ms).clamp(FIRST_RETRY, retry_max),
            Some(_) => now.mono + place.backoff.next(random),
        };
        if place.next_try > now.mono && place.next_try < Duration::MAX {
            self.due.insert((place.next_try, Due::Away(owner)));
        }
    }

    fn part_left(
        &mut self,
        now: Now,
        owner: PeerId,
        friend: Friend,
        ((seq, index), id): (Item, MessageId),
        receipt: StoredReceipt,
    ) {
        let holder = friend.peer;
        let Some(entry) = self.entries.get_mut(&seq) else {
            // It has ended meanwhile.
            self.outputs.push_back(Output::Settle { seq, owner, settle: Settle::TAKEN_BACK });
            return;
        };
        if entry.header.sealing() != id || entry.resealing {
            return;
        }
        let at = entry.leaving.signed.iter().position(|(peer, _)| *peer == holder);
        let at = at.unwrap_or_else(|| {
            entry.leaving.signed.push((holder, Vec::new()));
            entry.leaving.signed.len() - 1
        });
        let ids = &mut entry.leaving.signed[at].1;
        if ids.len() != index as usize {
            return; // u32 fits in usize
        }
        ids.push(receipt.id);
        if ids.len() < entry.header.parts as usize {
            return; // u32 fits in usize
        }
        let (grant, until) = (friend.grant, receipt.expires_at);
        let attempt = Left { holder, id, grant, at: now.wall, until, refused: String::new(), never: false };
        entry.header.remember(attempt);
        entry.header.stored(now.wall, holder);
        self.outputs.push_back(Output::Changed { seq, durable: true });
    }

    fn part_refused(&mut self, friend: Friend, ((seq, _), id): (Item, MessageId), refusal: Refusal) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if entry.header.sealing() != id || entry.resealing {
            return;
        }
        entry.header.last_error = format!("friend {}: {refusal}", friend.peer);
        let attempt = Left {
            holder: friend.peer,
            id,
            grant: friend.grant,
            at: UnixMillis(0),
            until: UnixMillis(0),
            refused: refusal.to_string(),
            never: is_about_message(refusal),
        };
        if entry.header.remember(attempt) {
            self.outputs.push_back(Output::Changed { seq, durable: true });
        }
    }

    /// A message ends: what friends signed for it, if any did, is to be settled.
    pub(super) fn settle(&mut self, seq: u64, settle: Settle) {
        let Some(entry) = self.entries.get(&seq) else { return };
        if !entry.leaving.signed.is_empty() || entry.header.left.iter().any(|left| left.at.0 > 0) {
            self.outputs.push_back(Output::Settle { seq, owner: entry.header.to, settle });
        }
    }

    /// Leaves with a recipient's friends what may be left now.
    pub(super) fn leave(&mut self, now: Now, recipient: PeerId) {
        let count = self.away.get(&recipient).map_or(0, |away| away.places.len());
        for at in 0..count {
            let Some(away) = self.away.get_mut(&recipient) else { return };
            let place = &away.places[at]; // in range: nothing changes the list here
            if place.flying || place.next_try > now.mono {
                continue;
            }
            if self.deposits.len() >= FLIGHTS {
                self.crowded.insert(recipient);
                return;
            }
            let (friend, width) = (place.friend, place.width);
            let (mut items, mut enough, mut bytes) = (Vec::new(), Vec::new(), 0);
            'fill: for seq in &away.wanting {
                let Some(entry) = self.entries.get_mut(seq) else {
                    enough.push(*seq);
                    continue;
                };
                let first = match entry.wants(now, &away.places, at) {
                    Want::Enough => {
                        enough.push(*seq);
                        continue;
                    }
                    Want::NotHere => continue,
                    Want::Here(first) => first,
                };
                if first == 0 {
                    entry.leaving.signed.retain(|(peer, _)| *peer != friend.peer);
                }
                for index in first..entry.header.parts {
                    bytes += entry.header.part_len(index);
                    if items.len() == width || (bytes > BATCH_BYTES && !items.is_empty()) {
                        break 'fill;
                    }
                    items.push(((*seq, index), entry.header.sealing()));
                    if !entry.leaving.flying.contains(&friend.peer) {
                        entry.leaving.flying.push(friend.peer);
                    }
                }
            }
            for seq in enough {
                away.wanting.remove(&seq);
            }
            if items.is_empty() {
                continue;
            }
            away.places[at].flying = true; // in range, as above
            let flight = self.next_flight;
            self.next_flight += 1;
            let wanted = items.iter().map(|(item, _)| *item).collect();
            self.deposits.insert(flight, Flight { owner: recipient, friend, sent_at: now.mono, items });
            self.outputs.push_back(Output::Leave { flight, owner: recipient, friend, items: wanted });
        }
    }
}

impl super::Entry {
    /// Whether place `at` is to get this message now: it is among the best that can take it, and copies are missing.
    fn wants(&self, now: Now, places: &[Place], at: usize) -> Want {
        let header = &self.header;
        let copies = COPIES.min(places.len());
        let done = header.left_now(now.wall).count();
        if done >= copies {
            return Want::Enough;
        }
        let could = |place: &Place| {
            let Friend { peer, grant } = &place.friend;
            !header.is_left(peer, now.wall) && !header.is_refused(peer, grant) && !self.leaving.flying.contains(peer)
        };
        let Some(place) = places.get(at).filter(|place| could(place) && !self.resealing) else {
            return Want::NotHere;
        };
        let better = places[..at].iter().filter(|p| p.next_try <= now.mono && could(p)).count();
        if better >= copies.saturating_sub(done + self.leaving.flying.len()) {
            return Want::NotHere;
        }
        // Fewer than the message has: with all of them it would be left. What was left before and is past its time starts again.
        let signed = u32::try_from(self.leaving.signed(&place.friend.peer).len()).unwrap_or(0);
        Want::Here(if signed < header.parts { signed } else { 0 })
    }
}
