//! One friendship between an owner and a friend: everything signed that counts, and what follows from it at a time.
//!
//! Both sides keep the same thing. It only grows: each slot keeps the part that says most, so whatever order messages
//! come in, and however often, the end is the same, and no state of a grant is ever taken back. What the two sides may
//! *sign* is in `owner.rs` and `holder.rs`.

use super::grant::{Decline, Grant, Offer, Party, Reason, Revocation};
use crate::primitives::{
    GrantId, PeerId, UnixMillis,
    limits::{MAX_GRANT_VALIDITY, MIN_DRAIN},
};

/// Which side of a friendship we are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// We are the owner: the other node holds messages for us.
    HeldBy,
    /// We are the friend: we hold messages for the other node.
    HoldingFor,
}

/// Where a friendship is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// The owner signed; the friend has not answered.
    Offered,
    /// Both signed, and it is time.
    Active,
    /// The friend said no.
    Declined,
    /// Ended by one of the two.
    Revoked,
    /// Its time is over and nobody renewed it.
    Expired,
}

/// What one side tells the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fact {
    Offer(Offer),
    Grant(Grant),
    Revocation(Revocation),
    Decline(Decline),
}

impl Fact {
    /// Owner and friend that it names.
    pub(super) fn parties(&self) -> (PeerId, PeerId) {
        match self {
            Self::Offer(o) => (o.owner, o.friend),
            Self::Grant(g) => (g.offer.owner, g.offer.friend),
            Self::Revocation(r) => (r.owner, r.friend),
            Self::Decline(d) => (d.owner, d.friend),
        }
    }

    pub(super) fn grant_id(&self) -> GrantId {
        match self {
            Self::Offer(o) => o.grant_id,
            Self::Grant(g) => g.offer.grant_id,
            Self::Revocation(r) => r.grant_id,
            Self::Decline(d) => d.grant_id,
        }
    }
}

/// Why something signed and good was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conflict {
    /// Something newer of the same kind is known.
    Stale,
    /// The owner signed two offers with one epoch; the first one counts.
    Equivocation,
}

/// What happens to what is stored under a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Takes deposits.
    Active,
    /// Takes none; the owner collects until then.
    Draining {
        /// The end.
        until: UnixMillis,
    },
    /// Nothing is owed any more.
    Ended,
}

/// One friendship.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Relation {
    /// The newest offer that is not part of `grant`.
    pub(super) offer: Option<Offer>,
    pub(super) grant: Option<Grant>,
    /// By the owner.
    pub(super) revoked: Option<Revocation>,
    /// By the friend.
    pub(super) resigned: Option<Revocation>,
    pub(super) declined: Option<Decline>,
    pub(super) local: Local,
}

/// What only we know of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Local {
    /// Of the owner: smaller is asked first.
    pub(super) priority: u32,
    /// Whether the other side has what we signed last.
    pub(super) told: bool,
    /// Whether it has our last revocation: it must not miss that one because something newer is told.
    pub(super) end_told: bool,
    /// Whether the owner has our last no. A grant from before it may be untold, too, and comes next.
    pub(super) decline_told: bool,
    /// Why telling it failed the last time; empty: it did not.
    pub(super) last_error: String,
    /// When something changed.
    pub(super) changed_at: UnixMillis,
}

impl Relation {
    /// Takes what was signed; its signatures and times are good. Whether anything is new.
    pub(super) fn merge(&mut self, fact: Fact) -> Result<bool, Conflict> {
        match fact {
            Fact::Offer(offer) => self.merge_offer(offer),
            Fact::Grant(grant) => self.merge_grant(grant),
            Fact::Revocation(revocation) => {
                let slot = if revocation.by == Party::Owner { &mut self.revoked } else { &mut self.resigned };
                let new = slot.as_ref().is_none_or(|known| known.rank() < revocation.rank());
                if new {
                    *slot = Some(revocation);
                }
                Ok(new)
            }
            Fact::Decline(decline) => {
                let new = self.declined.as_ref().is_none_or(|known| known.rank() < decline.rank());
                if new {
                    self.declined = Some(decline);
                }
                Ok(new)
            }
        }
    }

    fn merge_offer(&mut self, offer: Offer) -> Result<bool, Conflict> {
        for known in [self.offer.as_ref(), self.grant.as_ref().map(|g| &g.offer)].into_iter().flatten() {
            if offer.epoch < known.epoch {
                return Err(Conflict::Stale);
            }
            if offer.epoch == known.epoch {
                return if offer.hash() == known.hash() { Ok(false) } else { Err(Conflict::Equivocation) };
            }
        }
        self.offer = Some(offer);
        Ok(true)
    }

    fn merge_grant(&mut self, grant: Grant) -> Result<bool, Conflict> {
        let epoch = grant.offer.epoch;
        if self.offer.as_ref().is_some_and(|o| o.epoch == epoch && o.hash() != grant.offer.hash()) {
            return Err(Conflict::Equivocation);
        }
        if let Some(known) = &self.grant {
            if epoch < known.offer.epoch {
                return Err(Conflict::Stale);
            }
            if epoch == known.offer.epoch {
                if known.offer.hash() != grant.offer.hash() {
                    return Err(Conflict::Equivocation);
                }
                // A friend that lost its state may accept again, maybe less: its last word counts, on both sides.
                if (grant.accepted_at, grant.hash()) <= (known.accepted_at, known.hash()) {
                    return Ok(false);
                }
            }
        }
        if self.offer.as_ref().is_some_and(|o| o.epoch <= epoch) {
            self.offer = None;
        }
        self.grant = Some(grant);
        Ok(true)
    }

    /// All grants up to this epoch have ended.
    pub(super) fn ended(&self) -> u64 {
        [&self.revoked, &self.resigned].into_iter().flatten().map(|r| r.epoch).max().unwrap_or(0)
    }

    /// The greatest epoch in it.
    pub(super) fn epoch(&self) -> u64 {
        let offer = self.offer.as_ref().map_or(0, |o| o.epoch);
        let grant = self.grant.as_ref().map_or(0, |g| g.offer.epoch);
        let declined = self.declined.as_ref().map_or(0, |d| d.epoch);
        offer.max(grant).max(declined).max(self.ended())
    }

    /// The grant, unless it was ended; its time may be over.
    pub(super) fn standing_grant(&self) -> Option<&Grant> {
        self.grant.as_ref().filter(|g| g.offer.epoch > self.ended())
    }

    /// The grant under which deposits are taken now.
    pub(super) fn active(&self, now: UnixMillis) -> Option<&Grant> {
        self.standing_grant().filter(|g| now < g.offer.not_after)
    }

    /// The offer that waits for an answer: the first one, a renewal, or other terms.
    pub(super) fn pending(&self, now: UnixMillis) -> Option<&Offer> {
        let over = self.ended().max(self.declined.as_ref().map_or(0, |d| d.epoch));
        self.offer.as_ref().filter(|o| o.epoch > over && now < o.not_after)
    }

    /// Where it is; `None`: nothing was ever offered here.
    pub(super) fn state(&self, now: UnixMillis) -> Option<State> {
        if self.active(now).is_some() {
            return Some(State::Active);
        }
        if self.pending(now).is_some() {
            return Some(State::Offered);
        }
        let declined = self.declined.as_ref().map_or(0, |d| d.epoch);
        let granted = self.grant.as_ref().map_or(0, |g| g.offer.epoch);
        let offered = self.offer.as_ref().map_or(0, |o| o.epoch).max(granted);
        // While a grant held, other terms or its renewal may have been declined: then it expired.
        let held = |at: UnixMillis| self.standing_grant().is_some_and(|g| at < g.offer.not_after);
        let held = self.declined.as_ref().is_some_and(|d| held(d.at));
        if declined > granted.max(self.ended()) && declined >= offered && !held {
            return Some(State::Declined);
        }
        if offered > self.ended() {
            return Some(State::Expired);
        }
        (self.ended() > 0).then_some(State::Revoked)
    }

    /// Why the last offer was declined; `None` when it was not.
    pub(super) fn reason(&self) -> Option<Reason> {
        let granted = self.grant.as_ref().map_or(0, |g| g.offer.epoch);
        self.declined.as_ref().filter(|d| d.epoch > granted).map(|d| d.reason)
    }

    /// What is owed to what is stored under the grant; `None` without one.
    pub(super) fn hold(&self, now: UnixMillis) -> Option<Hold> {
        let grant = self.grant.as_ref()?;
        if self.active(now).is_some() {
            return Some(Hold::Active);
        }
        let epoch = grant.offer.epoch;
        let ends = [&self.revoked, &self.resigned].into_iter().flatten().filter(|r| r.epoch >= epoch);
        let drains = ends.map(|r| r.drain_until).max();
        let until = drains.unwrap_or_else(|| grant.offer.not_after.plus(MIN_DRAIN));
        Some(if now < until { Hold::Draining { until } } else { Hold::Ended })
    }

    /// The mailbox.
    pub(super) fn grant_id(&self) -> Option<GrantId> {
        let end = || self.last_end().map(|r| r.grant_id).or_else(|| self.declined.as_ref().map(|d| d.grant_id));
        let grant = self.grant.as_ref().map(|g| g.offer.grant_id);
        grant.or_else(|| self.offer.as_ref().map(|o| o.grant_id)).or_else(end)
    }

    /// The revocation that ends most.
    pub(super) fn last_end(&self) -> Option<&Revocation> {
        [&self.revoked, &self.resigned].into_iter().flatten().max_by(|a, b| a.rank().cmp(&b.rank()))
    }

    /// What we answer when the other side tells us something: the most advanced thing that we know.
    pub(super) fn view(&self, now: UnixMillis) -> View {
        let pending = self.pending(now).is_some();
        if let Some(grant) = self.standing_grant().filter(|_| !pending) {
            // A declined change of terms is news for the owner, the grant it has is not.
            return match &self.declined {
                Some(declined) if declined.epoch > grant.offer.epoch => View::Fact(Fact::Decline(declined.clone())),
                _ => View::Fact(Fact::Grant(grant.clone())),
            };
        }
        if pending {
            return View::Pending;
        }
        match (self.last_end(), &self.declined) {
            (end, Some(declined)) if end.is_none_or(|e| e.epoch < declined.epoch) => {
                View::Fact(Fact::Decline(declined.clone()))
            }
            (Some(end), _) => View::Fact(Fact::Revocation(end.clone())),
            (None, _) => View::Unknown,
        }
    }

    /// The last thing that we signed and the other side should have.
    pub(super) fn told_by(&self, side: Side, now: UnixMillis) -> Option<Fact> {
        let ours = if side == Side::HeldBy { &self.revoked } else { &self.resigned };
        // After that long nothing that it ends can be valid, and the other side has probably left for ever.
        let end = ours.as_ref().filter(|r| now.since(r.at) < MAX_GRANT_VALIDITY);
        let end = end.filter(|r| !self.local.end_told || r.epoch >= self.epoch());
        if let Some(end) = end {
            return Some(Fact::Revocation(end.clone()));
        }
        match side {
            Side::HeldBy => match self.pending(now) {
                Some(offer) => Some(Fact::Offer(offer.clone())),
                None => self.active(now).map(|g| Fact::Grant(g.clone())),
            },
            Side::HoldingFor => {
                let granted = self.grant.as_ref().map_or(0, |g| g.offer.epoch);
                let over = granted.max(self.ended());
                let untold = |d: &&Decline| d.epoch > over && !self.local.decline_told;
                let declined = self.declined.as_ref().filter(untold);
                let declined = declined.filter(|d| now.since(d.at) < MAX_GRANT_VALIDITY);
                match declined {
                    Some(declined) => Some(Fact::Decline(declined.clone())),
                    None => self.active(now).map(|g| Fact::Grant(g.clone())),
                }
            }
        }
    }
}

/// What one side answers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "few at once, and none is kept")]
pub(super) enum View {
    Pending,
    Fact(Fact),
    Unknown,
}
