//! The friend's side: for whom we hold messages. No I/O, as in `owner.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    config::{Accept, Config},
    grant::{Offer, Party, Reason, Verifier},
    handle::{FriendError, Held},
    owner::touched,
    relation::{Conflict, Fact, Hold, Relation, Side, State, View},
    terms::{Terms, Wanted},
};
use crate::{
    identity::Identity,
    primitives::{
        PeerId, UnixMillis,
        limits::{CLOCK_SKEW, MAX_GRANT_VALIDITY, MAX_MESSAGE_TTL, MIN_DRAIN},
    },
};

/// Offers that wait for a person, one for each owner: 0.5 KiB each.
pub(super) const MAX_PENDING: usize = 64;
/// Friendships that ended and are remembered, so that a revoked grant cannot return: 1.5 KiB each.
pub(super) const REMEMBERED: usize = 1024;
/// How long an ended one is remembered: no grant that it ends can still be valid then.
const REMEMBER: Duration = MAX_GRANT_VALIDITY.saturating_add(CLOCK_SKEW.saturating_mul(2));
/// The least that is worth accepting by itself when there is little room.
const LEAST_BYTES: u64 = 1 << 20;

/// What the holder must know of the world to decide.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// Free bytes on the disk; `None`: nobody knows.
    pub(super) free_bytes: Option<u64>,
    /// Nodes that count as contacts.
    pub(super) contacts: BTreeSet<PeerId>,
}

/// What follows from something told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// To be made durable before the answer goes out; `None`: nothing is new.
    pub(super) relation: Option<Relation>,
    /// The answer.
    pub(super) view: View,
}

/// Those for whom we hold messages, and who asked.
#[derive(Debug)]
pub(super) struct Holder {
    identity: Identity,
    verifier: Verifier,
    config: Config,
    owners: BTreeMap<PeerId, Relation>,
}

impl Holder {
    pub(super) fn new(identity: Identity, verifier: Verifier, config: Config) -> Self {
        Self { identity, verifier, config, owners: BTreeMap::new() }
    }

    pub(super) fn owners(&self) -> &BTreeMap<PeerId, Relation> {
        &self.owners
    }

    /// A change is durable now.
    pub(super) fn apply(&mut self, owner: PeerId, relation: Relation) {
        self.owners.insert(owner, relation);
    }

    pub(super) fn forget(&mut self, owner: &PeerId) {
        self.owners.remove(owner);
    }

    /// The owner told us something signed.
    pub(super) fn on_fact(
        &self,
        now: UnixMillis,
        owner: &PeerId,
        fact: Fact,
        room: &Room,
    ) -> Result<Outcome, Conflict> {
        let known = self.owners.get(owner);
        let unchanged = |view| Ok(Outcome { relation: None, view });
        let mut next = match (known, &fact) {
            (Some(known), _) => known.clone(),
            (None, Fact::Decline(_)) => return unchanged(View::Unknown),
            // A grant that we signed is kept, even when a restored backup has forgotten it; so is an end whose grant
            // may come late.
            (None, _) => Relation::default(),
        };
        // An owner that forgot its mailbox here is reminded before it gets another one: what is stored would be lost.
        let other = next.grant.as_ref().is_some_and(|g| g.offer.grant_id != fact.grant_id());
        if matches!(fact, Fact::Offer(_)) && other && next.hold(now) != Some(Hold::Ended) {
            let remind = next.standing_grant().map(|g| Fact::Grant(g.clone()));
            let remind = remind.or_else(|| next.last_end().map(|r| Fact::Revocation(r.clone())));
            return unchanged(remind.map_or(View::Unknown, View::Fact));
        }
        let is_offer = matches!(fact, Fact::Offer(_));
        if !next.merge(fact)? {
            return unchanged(next.view(now));
        }
        next.local.changed_at = now;
        let Some(offer) = next.pending(now).filter(|_| is_offer).cloned() else {
            let view = next.view(now);
            return Ok(Outcome { relation: Some(next), view });
        };
        Ok(self.judge(now, next, offer, room))
    }

    /// A new offer: yes, no, or ask a person.
    fn judge(&self, now: UnixMillis, mut next: Relation, offer: Offer, room: &Room) -> Outcome {
        let owner = offer.owner;
        let renewal = next.active(now).is_some_and(|g| offer.terms.fits(&g.terms));
        let welcome = match self.config.accept {
            Accept::All => true,
            Accept::Contacts => room.contacts.contains(&owner),
            Accept::Ask | Accept::None => false,
        };
        if renewal || welcome {
            let terms = self.fitting(now, &owner, offer.terms, room);
            let Some(terms) = terms.filter(|_| renewal || self.has_place(now, &owner)) else {
                return self.say_no(now, next, &offer, Reason::Full);
            };
            self.sign(now, &mut next, offer, terms);
            let view = next.view(now);
            return Outcome { relation: Some(next), view };
        }
        if self.config.accept != Accept::Ask {
            return self.say_no(now, next, &offer, Reason::Policy);
        }
        let waiting = |(of, r): (&PeerId, &Relation)| *of != owner && r.pending(now).is_some();
        if self.owners.iter().filter(|o| waiting(*o)).count() >= MAX_PENDING {
            return self.say_no(now, next, &offer, Reason::Full);
        }
        Outcome { relation: Some(next), view: View::Pending }
    }

    /// Declines by itself. Nothing is kept of strangers: the same offer would get the same answer.
    fn say_no(&self, now: UnixMillis, mut next: Relation, offer: &Offer, reason: Reason) -> Outcome {
        let decline = self.verifier.sign_decline(&self.identity, offer, reason, now);
        let view = View::Fact(Fact::Decline(decline.clone()));
        if !self.owners.contains_key(&offer.owner) {
            return Outcome { relation: None, view };
        }
        next.declined = Some(decline);
        // The answer says it; an owner that misses it asks again.
        next.local.decline_told = true;
        Outcome { relation: Some(next), view }
    }

    fn sign(&self, now: UnixMillis, next: &mut Relation, offer: Offer, terms: Terms) {
        let grant = self.verifier.sign_acceptance(&self.identity, offer, terms, now);
        next.offer = None;
        next.grant = Some(grant);
        touched(next, now);
    }

    /// Bytes promised to others than `owner`.
    fn promised(&self, now: UnixMillis, owner: &PeerId) -> u64 {
        let owed = |r: &Relation| matches!(r.hold(now), Some(Hold::Active | Hold::Draining { .. }));
        let others = self.owners.iter().filter(|(o, r)| *o != owner && owed(r));
        others.filter_map(|(_, r)| r.grant.as_ref()).fold(0, |sum, g| sum.saturating_add(g.terms.quota_bytes))
    }

    /// Bytes promised to everybody.
    pub(super) fn promised_to_all(&self, now: UnixMillis) -> u64 {
        self.promised(now, &self.identity.address())
    }

    fn has_place(&self, now: UnixMillis, owner: &PeerId) -> bool {
        let owed = |r: &Relation| matches!(r.hold(now), Some(Hold::Active | Hold::Draining { .. }));
        self.owners.iter().filter(|(o, r)| *o != owner && owed(r)).count() < self.config.max_grants
    }

    /// The most that may be promised to an owner: within the total, and with the reserve left on the disk when all that
    /// is promised to others is used.
    fn most(&self, now: UnixMillis, owner: &PeerId, room: &Room) -> u64 {
        let promised = self.promised(now, owner);
        let total = self.config.max_bytes.saturating_sub(promised);
        let disk = room.free_bytes.map_or(u64::MAX, |free| free.saturating_sub(self.config.reserve_bytes));
        total.min(disk.saturating_sub(promised))
    }

    /// Terms as far as there is room for them; `None` when it is not worth it.
    fn fitting(&self, now: UnixMillis, owner: &PeerId, offered: Terms, room: &Room) -> Option<Terms> {
        let most = self.most(now, owner, room);
        (most >= offered.quota_bytes.min(LEAST_BYTES))
            .then_some(Terms { quota_bytes: offered.quota_bytes.min(most), ..offered })
    }

    /// A person says yes.
    pub(super) fn accept(
        &self,
        now: UnixMillis,
        owner: &PeerId,
        wanted: &Wanted,
        room: &Room,
    ) -> Result<Relation, FriendError> {
        let known = self.owners.get(owner).ok_or(FriendError::NotFound)?;
        let Some(offer) = known.pending(now).cloned() else {
            return Err(FriendError::TooLate(known.state(now).unwrap_or(State::Expired)));
        };
        let terms = offer.terms.with(wanted);
        if let Err(what) = terms.check() {
            return Err(FriendError::Invalid(format!("wrong {what}")));
        }
        if !terms.fits(&offer.terms) {
            return Err(FriendError::Invalid("quotas can be lowered, not raised over the offer".into()));
        }
        if !self.has_place(now, owner) {
            let text = format!("{} grants are held already (friend.max_grants)", self.config.max_grants);
            return Err(FriendError::Full(text));
        }
        let most = self.most(now, owner, room);
        if terms.quota_bytes > most {
            return Err(FriendError::Full(format!(
                "a quota of {} bytes is too much: {most} can be promised (friend.max_bytes, friend.reserve_bytes); \
                 accept less with --quota",
                terms.quota_bytes
            )));
        }
        let mut next = known.clone();
        self.sign(now, &mut next, offer, terms);
        Ok(next)
    }

    /// A person says no.
    pub(super) fn decline(&self, now: UnixMillis, owner: &PeerId) -> Result<Relation, FriendError> {
        let known = self.owners.get(owner).ok_or(FriendError::NotFound)?;
        let Some(offer) = known.pending(now) else {
            return Err(FriendError::TooLate(known.state(now).unwrap_or(State::Expired)));
        };
        let mut next = known.clone();
        next.declined = Some(self.verifier.sign_decline(&self.identity, offer, Reason::Person, now));
        next.local.decline_told = false;
        touched(&mut next, now);
        Ok(next)
    }

    /// We hold no more for this owner: no new deposits, and what is there can be collected for `drain`, at least 7
    /// days.
    pub(super) fn resign(&self, now: UnixMillis, owner: &PeerId, drain: Duration) -> Result<Relation, FriendError> {
        if !(MIN_DRAIN..=MAX_MESSAGE_TTL).contains(&drain) {
            return Err(FriendError::Invalid("the owner must have 7 to 30 days to collect".into()));
        }
        let known = self.owners.get(owner).ok_or(FriendError::NotFound)?;
        let Some(grant) = known.active(now) else {
            return Err(FriendError::TooLate(known.state(now).unwrap_or(State::Expired)));
        };
        let mut next = known.clone();
        let what = (grant.offer.grant_id, *owner, known.epoch());
        let end = self.verifier.sign_revocation(&self.identity, what, Party::Friend, (now, now.plus(drain)));
        next.resigned = Some(end);
        next.local.end_told = false;
        touched(&mut next, now);
        Ok(next)
    }

    /// All grants that we hold or held, for the mailbox.
    pub(super) fn held(&self, now: UnixMillis) -> Vec<Held> {
        let held = |(owner, r): (&PeerId, &Relation)| {
            let grant = r.grant.as_ref()?;
            Some(Held {
                owner: *owner,
                grant_id: grant.offer.grant_id,
                state: r.hold(now)?,
                terms: grant.terms,
                not_after: grant.offer.not_after,
                epoch: grant.offer.epoch,
            })
        };
        self.owners.iter().filter_map(held).collect()
    }

    /// What need not be remembered any more: ended long ago, offers that nobody answered, and the oldest of too many.
    pub(super) fn surplus(&self, now: UnixMillis) -> Vec<PeerId> {
        let mut ended = Vec::new();
        let mut over = Vec::new();
        for (owner, r) in &self.owners {
            let idle = r.active(now).is_none() && r.pending(now).is_none();
            if !idle || matches!(r.hold(now), Some(Hold::Draining { .. })) {
                continue;
            }
            let nothing_signed = r.grant.is_none() && r.declined.is_none() && r.last_end().is_none();
            if nothing_signed || now.since(r.local.changed_at) > REMEMBER {
                over.push(*owner);
            } else {
                // First those that we never agreed with: anybody can tell the end of what never was.
                ended.push((r.grant.is_some(), r.local.changed_at, *owner));
            }
        }
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(REMEMBERED);
        over.extend(ended.into_iter().take(surplus).map(|(_, _, owner)| owner));
        over
    }

    /// What the owner should know and may not.
    pub(super) fn to_tell(&self, now: UnixMillis, owner: &PeerId) -> Option<Fact> {
        self.owners.get(owner)?.told_by(Side::HoldingFor, now)
    }
}
