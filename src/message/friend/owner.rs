//! The owner's side: whom we asked to hold our messages. No I/O: time and randomness are arguments, and every change is
//! a new [`Relation`] that counts once it is durable and handed back to [`Owner::apply`].

use std::{collections::BTreeMap, time::Duration};

use super::{
    grant::{Grant, Party, Verifier, Wish},
    handle::FriendError,
    relation::{Conflict, Fact, Relation, Side, State},
    terms::Terms,
};
use crate::{
    identity::Identity,
    primitives::{
        GrantId, Hash, PeerId, UnixMillis,
        limits::{MAX_GRANT_VALIDITY, MAX_MESSAGE_TTL, MAX_RECORD_FRIENDS},
    },
};

/// Friendships that ended and are remembered so that an old grant cannot return; the oldest go first.
pub(super) const REMEMBERED: usize = 256;
/// Shortest validity that makes sense to offer.
const MIN_VALIDITY: Duration = Duration::from_secs(60);

/// What an owner asks for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) friend: PeerId,
    pub(super) terms: Terms,
    pub(super) validity: Duration,
    pub(super) priority: u32,
}

/// A friend that the record lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) friend: PeerId,
    pub(super) grant_hash: Hash,
    pub(super) priority: u32,
}

/// Our friends, and who was asked.
#[derive(Debug)]
pub(super) struct Owner {
    identity: Identity,
    verifier: Verifier,
    friends: BTreeMap<PeerId, Relation>,
}

impl Owner {
    pub(super) fn new(identity: Identity, verifier: Verifier) -> Self {
        Self { identity, verifier, friends: BTreeMap::new() }
    }

    pub(super) fn friends(&self) -> &BTreeMap<PeerId, Relation> {
        &self.friends
    }

    /// A change is durable now.
    pub(super) fn apply(&mut self, friend: PeerId, relation: Relation) {
        self.friends.insert(friend, relation);
    }

    pub(super) fn forget(&mut self, friend: &PeerId) {
        self.friends.remove(friend);
    }

    /// The next epoch: rises from Unix milliseconds, so that a restored backup does not use one again.
    fn next_epoch(&self, now: UnixMillis) -> u64 {
        let last = self.friends.values().map(Relation::epoch).max().unwrap_or(0);
        last.saturating_add(1).max(now.0)
    }

    /// Signs an offer: to a new friend, or of other terms to one that holds for us already. `random` is for a new
    /// grant.
    pub(super) fn offer(&self, now: UnixMillis, request: &Request, random: [u8; 16]) -> Result<Relation, FriendError> {
        let invalid = |text: String| Err(FriendError::Invalid(text));
        if request.friend == self.identity.address() {
            return invalid("a node cannot be its own friend".into());
        }
        if let Err(what) = request.terms.check() {
            return invalid(format!("wrong {what}"));
        }
        if !(MIN_VALIDITY..=MAX_GRANT_VALIDITY).contains(&request.validity) {
            return invalid("an offer is valid for at least a minute and at most 90 days".into());
        }
        let known = self.friends.get(&request.friend);
        let counts = |r: &Relation| matches!(r.state(now), Some(State::Active | State::Offered));
        let others = self.friends.iter().filter(|(friend, r)| **friend != request.friend && counts(r)).count();
        if others >= MAX_RECORD_FRIENDS {
            let text = format!("{others} friends hold messages or were asked already: revoke one first");
            return Err(FriendError::Full(text));
        }
        let mut next = known.cloned().unwrap_or_default();
        let grant_id = next.grant_id().unwrap_or(GrantId(random));
        let prev = next.active(now).map(Grant::hash);
        next.local.priority = request.priority;
        self.sign(now, &mut next, request.friend, (grant_id, request.terms, request.validity, prev));
        Ok(next)
    }

    fn sign(
        &self,
        now: UnixMillis,
        next: &mut Relation,
        friend: PeerId,
        (grant_id, terms, validity, prev): (GrantId, Terms, Duration, Option<Hash>),
    ) {
        let epoch = self.next_epoch(now);
        let wish = Wish { grant_id, friend, not_before: now, not_after: now.plus(validity), epoch, terms, prev };
        next.offer = Some(self.verifier.sign_offer(&self.identity, wish));
        touched(next, now);
    }

    /// Ends a friendship, or takes an offer back. Void for deposits at once; the owner collects for `drain`.
    pub(super) fn revoke(&self, now: UnixMillis, friend: &PeerId, drain: Duration) -> Result<Relation, FriendError> {
        if drain > MAX_MESSAGE_TTL {
            return Err(FriendError::Invalid("messages can be collected for at most 30 days".into()));
        }
        let known = self.friends.get(friend).ok_or(FriendError::NotFound)?;
        let (Some(State::Active | State::Offered), Some(grant_id)) = (known.state(now), known.grant_id()) else {
            return Err(FriendError::TooLate(known.state(now).unwrap_or(State::Expired)));
        };
        let mut next = known.clone();
        let what = (grant_id, *friend, self.next_epoch(now));
        let end = self.verifier.sign_revocation(&self.identity, what, Party::Owner, (now, now.plus(drain)));
        next.revoked = Some(end);
        next.local.end_told = false;
        touched(&mut next, now);
        Ok(next)
    }

    /// Something signed came from the friend, or our own words come back to us. `None`: nothing is new.
    pub(super) fn on_fact(&self, now: UnixMillis, friend: &PeerId, fact: Fact) -> Result<Option<Relation>, Conflict> {
        let known = self.friends.get(friend);
        let mut next = match (known, &fact) {
            (Some(known), _) => known.clone(),
            // Both signed it, so it was forgotten here: a lost or restored data directory.
            (None, Fact::Grant(_)) => Relation::default(),
            // An end of what we do not know ends nothing here.
            (None, _) => return Ok(None),
        };
        let offered_under = next.offer.as_ref().map(|o| o.grant_id);
        let id = fact.grant_id();
        // Ours are made here and nowhere else; an offer that we do not know was made by what we lost.
        if matches!(fact, Fact::Offer(_)) || !next.merge(fact)? {
            return Ok(None);
        }
        next.local.changed_at = now;
        if let Some(offer) = next.pending(now).filter(|_| offered_under.is_some_and(|under| under != id)) {
            // We had forgotten a mailbox that the friend still has: the same offer again, for that one.
            let (terms, validity) = (offer.terms, offer.not_after.since(offer.not_before));
            let prev = next.active(now).map(Grant::hash);
            self.sign(now, &mut next, *friend, (id, terms, validity, prev));
        }
        Ok(Some(next))
    }

    /// Grants of which less than a third of the time is left are offered again, under the terms that were accepted.
    pub(super) fn renewals(&self, now: UnixMillis) -> Vec<(PeerId, Relation)> {
        let mut renewed = Vec::new();
        for (friend, known) in &self.friends {
            let Some(grant) = known.active(now) else { continue };
            let (from, to) = (grant.offer.not_before, grant.offer.not_after);
            let declined = known.declined.as_ref().is_some_and(|d| d.epoch > grant.offer.epoch);
            if declined || known.pending(now).is_some() || to.since(now) >= to.since(from) / 3 {
                continue;
            }
            let mut next = known.clone();
            let renewal = (grant.offer.grant_id, grant.terms, to.since(from), Some(grant.hash()));
            self.sign(now, &mut next, *friend, renewal);
            renewed.push((*friend, next));
        }
        renewed
    }

    /// What our record says about friends, and its epoch.
    pub(super) fn listed(&self, now: UnixMillis) -> (Vec<Listed>, u64) {
        let active = self.friends.iter().filter_map(|(friend, r)| {
            let grant_hash = r.active(now)?.hash();
            Some(Listed { friend: *friend, grant_hash, priority: r.local.priority })
        });
        let mut listed: Vec<_> = active.collect();
        listed.sort_by_key(|l| (l.priority, l.friend));
        listed.truncate(MAX_RECORD_FRIENDS);
        // Offers are nobody else's business: what was granted or ended counts.
        let granted = |r: &Relation| r.grant.as_ref().map_or(0, |g| g.offer.epoch).max(r.ended());
        (listed, self.friends.values().map(granted).max().unwrap_or(0))
    }

    /// Ended friendships beyond [`REMEMBERED`], the oldest first.
    pub(super) fn surplus(&self, now: UnixMillis) -> Vec<PeerId> {
        let over = |r: &Relation| {
            let ended = !matches!(r.state(now), Some(State::Active | State::Offered));
            ended && (r.local.told || r.told_by(Side::HeldBy, now).is_none())
        };
        let mut ended: Vec<_> = self.friends.iter().filter(|(_, r)| over(r)).map(|(f, r)| (r.epoch(), *f)).collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(REMEMBERED);
        ended.into_iter().take(surplus).map(|(_, friend)| friend).collect()
    }

    /// What the friend should know and may not.
    pub(super) fn to_tell(&self, now: UnixMillis, friend: &PeerId) -> Option<Fact> {
        self.friends.get(friend)?.told_by(Side::HeldBy, now)
    }
}

/// We signed something new.
pub(super) fn touched(relation: &mut Relation, now: UnixMillis) {
    relation.local.told = false;
    relation.local.last_error.clear();
    relation.local.changed_at = now;
}
