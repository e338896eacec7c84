//! What two nodes sign: offers, acceptances, revocations, declines. Only the double-signed grant means anything, and
//! anybody can verify one with nothing but its bytes.
//!
//! Every signed part is canonical protobuf in a canonical libp2p signed envelope with a purpose of its own, so each
//! has exactly one encoding and its hash stands for it. The acceptance signs the hash of the offer's *envelope*: that
//! is H(offer ‖ owner's signature), with the owner's key in between.

use std::sync::Arc;

use prost::Message;

use super::terms::Terms;
use crate::{
    identity::{self, EnvelopeError, Identity, Purpose},
    primitives::{
        GrantId, Hash, NetworkId, PeerId, UnixMillis,
        limits::{CLOCK_SKEW, MAX_GRANT_VALIDITY, MAX_MESSAGE_TTL, MIN_DRAIN},
    },
    wire::proto::friend as pb,
};

/// A signed part: 200 bytes of payload, 117 of envelope, and room.
pub(super) const MAX_SIGNED_BYTES: usize = 512;
/// How far an epoch may be ahead of our clock: a thief's `u64::MAX` would end the pair's friendship for ever.
const MAX_EPOCH_AHEAD_MS: u64 = 24 * 3600 * 1000;

/// Why something signed was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not the one form that it has.
    #[error("malformed or not in canonical form")]
    Malformed,
    /// Signed by somebody else than it names, or for another purpose or network, or not signed at all.
    #[error("not signed by whom it names")]
    Signature,
    /// A number makes no sense or is over its limit, or more was accepted than offered.
    #[error("a wrong {0}")]
    Field(&'static str),
    /// From the future by our clock.
    #[error("from the future by the clock here")]
    Clock,
    /// Past its time.
    #[error("expired")]
    Expired,
}

impl From<EnvelopeError> for GrantError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Malformed => Self::Malformed,
            EnvelopeError::Signature | EnvelopeError::KeyKind => Self::Signature,
        }
    }
}

/// Bytes that were signed.
type Envelope = Arc<[u8]>;

/// An offer, signed by the owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The mailbox.
    pub grant_id: GrantId,
    /// Whose messages are to be held.
    pub owner: PeerId,
    /// Who is asked to hold them.
    pub friend: PeerId,
    /// From when on.
    pub not_before: UnixMillis,
    /// Until when, at most 90 days later.
    pub not_after: UnixMillis,
    /// Rises with everything the owner signs about friends.
    pub epoch: u64,
    /// What the owner would like.
    pub terms: Terms,
    /// The grant that this one renews.
    pub prev: Option<Hash>,
    envelope: Envelope,
    hash: Hash,
}

/// What an offer says, before it is signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) grant_id: GrantId,
    pub(super) friend: PeerId,
    pub(super) not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
    pub(super) epoch: u64,
    pub(super) terms: Terms,
    pub(super) prev: Option<Hash>,
}

/// A grant: an offer and its acceptance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// What was offered.
    pub offer: Offer,
    /// What was accepted: each number at most the offered one. These count.
    pub terms: Terms,
    /// When, by the friend's clock.
    pub accepted_at: UnixMillis,
    acceptance: Envelope,
    hash: Hash,
}

/// Who ended a friendship.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Party {
    /// The owner of the messages.
    Owner,
    /// The friend that holds them.
    Friend,
}

/// The end of all grants between two nodes up to an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// The mailbox.
    pub grant_id: GrantId,
    /// Its owner.
    pub owner: PeerId,
    /// Who held it.
    pub friend: PeerId,
    /// All grants up to this epoch.
    pub epoch: u64,
    /// Who ended it, and signed.
    pub by: Party,
    /// When.
    pub at: UnixMillis,
    /// Until when the owner may collect what is there.
    pub drain_until: UnixMillis,
    envelope: Envelope,
}

/// Why an offer was declined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// A person said no.
    Person,
    /// The configuration says no.
    Policy,
    /// No room for one more.
    Full,
}

impl Reason {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Person => "declined",
            Self::Policy => "declined: it does not hold messages for this node (friend.accept)",
            Self::Full => "declined: it has no room for another grant",
        }
    }
}

/// A declined offer, signed by the friend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decline {
    /// The mailbox that there will not be.
    pub grant_id: GrantId,
    /// Who offered.
    pub owner: PeerId,
    /// Who declined.
    pub friend: PeerId,
    /// Which offer.
    pub epoch: u64,
    /// When.
    pub at: UnixMillis,
    /// Why.
    pub reason: Reason,
    envelope: Envelope,
}

impl Offer {
    /// The signed bytes.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// What an acceptance signs.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether it holds now by a clock that may be wrong by [`CLOCK_SKEW`]; expiry is judged exactly.
    ///
    /// # Errors
    /// [`GrantError::Clock`] or [`GrantError::Expired`].
    pub fn check_times(&self, now: UnixMillis) -> Result<(), GrantError> {
        let latest = now.plus(CLOCK_SKEW);
        if self.not_before > latest || self.epoch > latest.0.saturating_add(MAX_EPOCH_AHEAD_MS) {
            return Err(GrantError::Clock);
        }
        if self.not_after <= now { Err(GrantError::Expired) } else { Ok(()) }
    }
}

impl Grant {
    /// The acceptance's signed bytes.
    #[must_use]
    pub fn acceptance(&self) -> &[u8] {
        &self.acceptance
    }

    /// What the owner's record lists.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Both envelopes as one message, for whoever wants to verify them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode_grant(self.offer.envelope(), &self.acceptance)
    }
}

impl Revocation {
    /// The signed bytes.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// # Errors
    /// [`GrantError::Clock`].
    pub(super) fn check_times(&self, now: UnixMillis) -> Result<(), GrantError> {
        let latest = now.plus(CLOCK_SKEW);
        let good = self.at <= latest && self.epoch <= latest.0.saturating_add(MAX_EPOCH_AHEAD_MS);
        if good { Ok(()) } else { Err(GrantError::Clock) }
    }

    /// Which of two says more: any order of arrival ends with the same one.
    pub(super) fn rank(&self) -> (u64, UnixMillis, UnixMillis, &[u8]) {
        (self.epoch, self.drain_until, self.at, &self.envelope)
    }
}

impl Decline {
    /// Whether it may be of now.
    ///
    /// # Errors
    /// [`GrantError::Clock`]: an epoch far ahead would be the last one that the owner can use.
    pub(super) fn check_times(&self, now: UnixMillis) -> Result<(), GrantError> {
        let latest = now.plus(CLOCK_SKEW);
        let good = self.at <= latest && self.epoch <= latest.0.saturating_add(MAX_EPOCH_AHEAD_MS);
        if good { Ok(()) } else { Err(GrantError::Clock) }
    }

    /// The signed bytes.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    pub(super) fn rank(&self) -> (u64, UnixMillis, &[u8]) {
        (self.epoch, self.at, &self.envelope)
    }
}

/// Signs, and verifies what others signed, on one network.
#[derive(Clone, Debug)]
pub struct Verifier {
    offer: Purpose,
    accept: Purpose,
    revoke: Purpose,
    decline: Purpose,
}

impl Verifier {
    /// For `network`.
    #[must_use]
    pub fn new(network: &NetworkId) -> Self {
        Self {
            offer: Purpose::new("vos-grant/1", network),
            accept: Purpose::new("vos-accept/1", network),
            revoke: Purpose::new("vos-revoke/1", network),
            decline: Purpose::new("vos-decline/1", network),
        }
    }

    /// An offer, whatever the time. Costs one signature check (50 us).
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn offer(&self, envelope: &[u8]) -> Result<Offer, GrantError> {
        let (signer, payload) = open(&self.offer, envelope)?;
        let raw: pb::Offer = decode(&payload)?;
        let terms = Terms {
            quota_bytes: raw.quota_bytes,
            quota_msgs: raw.quota_msgs,
            max_msg_bytes: raw.max_msg_bytes,
            max_ttl_s: raw.max_ttl_s,
            per_contact_msgs: raw.per_contact_msgs,
            per_contact_bytes_day: raw.per_contact_bytes_day,
            open_share_percent: raw.open_share_percent,
            policy: raw.policy,
        };
        terms.check().map_err(GrantError::Field)?;
        let offer = Offer {
            grant_id: grant_id(&raw.grant_id)?,
            owner: address(&raw.owner)?,
            friend: address(&raw.friend)?,
            not_before: UnixMillis(raw.not_before),
            not_after: UnixMillis(raw.not_after),
            epoch: raw.epoch,
            terms,
            prev: if raw.prev_grant_hash.is_empty() { None } else { Some(hash(&raw.prev_grant_hash)?) },
            envelope: envelope.into(),
            hash: Hash::of(envelope),
        };
        if signer != offer.owner || offer.owner == offer.friend {
            return Err(GrantError::Signature);
        }
        let lasts = offer.not_after.since(offer.not_before);
        if lasts.is_zero() || lasts > MAX_GRANT_VALIDITY {
            return Err(GrantError::Field("validity"));
        }
        if offer.epoch == 0 { Err(GrantError::Field("epoch")) } else { Ok(offer) }
    }

    /// A grant, whatever the time: both signatures, and that no more was accepted than offered.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn grant(&self, offer: &[u8], acceptance: &[u8]) -> Result<Grant, GrantError> {
        let offer = self.offer(offer)?;
        let (signer, payload) = open(&self.accept, acceptance)?;
        let raw: pb::Acceptance = decode(&payload)?;
        if signer != offer.friend || raw.offer_hash[..] != offer.hash.0 {
            return Err(GrantError::Signature);
        }
        let terms = terms_in(&raw.accepted.ok_or(GrantError::Malformed)?);
        terms.check().map_err(GrantError::Field)?;
        if !terms.fits(&offer.terms) {
            return Err(GrantError::Field("quota: more was accepted than offered"));
        }
        let accepted_at = UnixMillis(raw.accepted_at);
        if accepted_at >= offer.not_after.plus(CLOCK_SKEW) || accepted_at.plus(CLOCK_SKEW) < offer.not_before {
            return Err(GrantError::Field("time of acceptance"));
        }
        let hash = Hash::of(&encode_grant(offer.envelope(), acceptance));
        Ok(Grant { offer, terms, accepted_at, acceptance: acceptance.into(), hash })
    }

    /// A grant from [`Grant::to_bytes`].
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn grant_from_bytes(&self, bytes: &[u8]) -> Result<Grant, GrantError> {
        if bytes.len() > 2 * MAX_SIGNED_BYTES + 8 {
            return Err(GrantError::Malformed);
        }
        let raw: pb::Grant = decode(bytes)?;
        self.grant(&raw.offer, &raw.acceptance)
    }

    /// A revocation, whatever the time.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn revocation(&self, envelope: &[u8]) -> Result<Revocation, GrantError> {
        let (signer, payload) = open(&self.revoke, envelope)?;
        let raw: pb::Revocation = decode(&payload)?;
        let revocation = Revocation {
            grant_id: grant_id(&raw.grant_id)?,
            owner: address(&raw.owner)?,
            friend: address(&raw.friend)?,
            epoch: raw.epoch,
            by: match raw.by {
                1 => Party::Owner,
                2 => Party::Friend,
                _ => return Err(GrantError::Field("party")),
            },
            at: UnixMillis(raw.at),
            drain_until: UnixMillis(raw.drain_until),
            envelope: envelope.into(),
        };
        let by = if revocation.by == Party::Owner { revocation.owner } else { revocation.friend };
        if signer != by || revocation.owner == revocation.friend {
            return Err(GrantError::Signature);
        }
        let drain = revocation.drain_until.since(revocation.at);
        // A friend may not leave before its owner had time to collect; an owner may forgo it.
        let least = if revocation.by == Party::Friend { MIN_DRAIN } else { std::time::Duration::ZERO };
        if drain < least || drain > MAX_MESSAGE_TTL || revocation.drain_until < revocation.at {
            return Err(GrantError::Field("drain time"));
        }
        if revocation.epoch == 0 { Err(GrantError::Field("epoch")) } else { Ok(revocation) }
    }

    /// A decline.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn decline(&self, envelope: &[u8]) -> Result<Decline, GrantError> {
        let (signer, payload) = open(&self.decline, envelope)?;
        let raw: pb::Decline = decode(&payload)?;
        let decline = Decline {
            grant_id: grant_id(&raw.grant_id)?,
            owner: address(&raw.owner)?,
            friend: address(&raw.friend)?,
            epoch: raw.epoch,
            at: UnixMillis(raw.at),
            reason: match raw.reason {
                1 => Reason::Person,
                2 => Reason::Policy,
                3 => Reason::Full,
                _ => return Err(GrantError::Field("reason")),
            },
            envelope: envelope.into(),
        };
        if signer != decline.friend || decline.owner == decline.friend {
            return Err(GrantError::Signature);
        }
        if decline.epoch == 0 { Err(GrantError::Field("epoch")) } else { Ok(decline) }
    }

    /// Our offer. What it says was checked before.
    pub(super) fn sign_offer(&self, identity: &Identity, wish: Wish) -> Offer {
        let Wish { grant_id, friend, not_before, not_after, epoch, terms, prev } = wish;
        let owner = identity.address();
        let payload = pb::Offer {
            grant_id: grant_id.0.to_vec().into(),
            owner: owner.to_bytes().into(),
            friend: friend.to_bytes().into(),
            not_before: not_before.0,
            not_after: not_after.0,
            epoch,
            quota_bytes: terms.quota_bytes,
            quota_msgs: terms.quota_msgs,
            max_msg_bytes: terms.max_msg_bytes,
            max_ttl_s: terms.max_ttl_s,
            per_contact_msgs: terms.per_contact_msgs,
            per_contact_bytes_day: terms.per_contact_bytes_day,
            open_share_percent: terms.open_share_percent,
            policy: terms.policy,
            prev_grant_hash: prev.map(|h| h.0.to_vec()).unwrap_or_default().into(),
        };
        let envelope = identity::seal_envelope(identity, &self.offer, payload.encode_to_vec());
        let hash = Hash::of(&envelope);
        Offer { grant_id, owner, friend, not_before, not_after, epoch, terms, prev, envelope: envelope.into(), hash }
    }

    /// Our acceptance of an offer under terms that fit it.
    pub(super) fn sign_acceptance(&self, identity: &Identity, offer: Offer, terms: Terms, at: UnixMillis) -> Grant {
        let payload = pb::Acceptance {
            offer_hash: offer.hash.0.to_vec().into(),
            accepted: Some(terms_out(&terms)),
            accepted_at: at.0,
        };
        let acceptance = identity::seal_envelope(identity, &self.accept, payload.encode_to_vec());
        let hash = Hash::of(&encode_grant(offer.envelope(), &acceptance));
        Grant { offer, terms, accepted_at: at, acceptance: acceptance.into(), hash }
    }

    /// Our end of a friendship, as `by`; `other` is the other party.
    pub(super) fn sign_revocation(
        &self,
        identity: &Identity,
        (grant_id, other, epoch): (GrantId, PeerId, u64),
        by: Party,
        (at, drain_until): (UnixMillis, UnixMillis),
    ) -> Revocation {
        let us = identity.address();
        let (owner, friend, number) = if by == Party::Owner { (us, other, 1) } else { (other, us, 2) };
        let payload = pb::Revocation {
            grant_id: grant_id.0.to_vec().into(),
            owner: owner.to_bytes().into(),
            friend: friend.to_bytes().into(),
            epoch,
            by: number,
            at: at.0,
            drain_until: drain_until.0,
        };
        let envelope = identity::seal_envelope(identity, &self.revoke, payload.encode_to_vec()).into();
        Revocation { grant_id, owner, friend, epoch, by, at, drain_until, envelope }
    }

    /// Our no to an offer.
    pub(super) fn sign_decline(&self, identity: &Identity, offer: &Offer, reason: Reason, at: UnixMillis) -> Decline {
        let (grant_id, owner, friend, epoch) = (offer.grant_id, offer.owner, offer.friend, offer.epoch);
        let number = match reason {
            Reason::Person => 1,
            Reason::Policy => 2,
            Reason::Full => 3,
        };
        let payload = pb::Decline {
            grant_id: grant_id.0.to_vec().into(),
            owner: owner.to_bytes().into(),
            friend: friend.to_bytes().into(),
            epoch,
            at: at.0,
            reason: number,
        };
        let envelope = identity::seal_envelope(identity, &self.decline, payload.encode_to_vec()).into();
        Decline { grant_id, owner, friend, epoch, at, reason, envelope }
    }
}

fn open(purpose: &Purpose, envelope: &[u8]) -> Result<(PeerId, Vec<u8>), GrantError> {
    if envelope.len() > MAX_SIGNED_BYTES {
        return Err(GrantError::Malformed);
    }
    Ok(identity::open_canonical_envelope(purpose, envelope)?)
}

/// Reads a payload and refuses all but its canonical form.
fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, GrantError> {
    let raw = M::decode(payload).map_err(|_| GrantError::Malformed)?;
    if raw.encoded_len() != payload.len() || raw.encode_to_vec() != payload {
        return Err(GrantError::Malformed);
    }
    Ok(raw)
}

fn encode_grant(offer: &[u8], acceptance: &[u8]) -> Vec<u8> {
    pb::Grant { offer: offer.to_vec().into(), acceptance: acceptance.to_vec().into() }.encode_to_vec()
}

fn address(bytes: &[u8]) -> Result<PeerId, GrantError> {
    let address = PeerId::from_bytes(bytes).map_err(|_| GrantError::Field("address"))?;
    let good = identity::public_key_of(&address).is_some() && address.to_bytes() == bytes;
    if good { Ok(address) } else { Err(GrantError::Field("address")) }
}

fn grant_id(bytes: &[u8]) -> Result<GrantId, GrantError> {
    GrantId::from_slice(bytes).ok_or(GrantError::Field("grant id"))
}

fn hash(bytes: &[u8]) -> Result<Hash, GrantError> {
    bytes.try_into().map(Hash).map_err(|_| GrantError::Field("hash"))
}

/// The numbers as they travel and are stored.
pub(in crate::message) fn terms_out(terms: &Terms) -> pb::Terms {
    pb::Terms {
        quota_bytes: terms.quota_bytes,
        quota_msgs: terms.quota_msgs,
        max_msg_bytes: terms.max_msg_bytes,
        max_ttl_s: terms.max_ttl_s,
        per_contact_msgs: terms.per_contact_msgs,
        per_contact_bytes_day: terms.per_contact_bytes_day,
        open_share_percent: terms.open_share_percent,
        policy: terms.policy,
    }
}

/// Not checked: see [`Terms::check`].
pub(in crate::message) fn terms_in(raw: &pb::Terms) -> Terms {
    Terms {
        quota_bytes: raw.quota_bytes,
        quota_msgs: raw.quota_msgs,
        max_msg_bytes: raw.max_msg_bytes,
        max_ttl_s: raw.max_ttl_s,
        per_contact_msgs: raw.per_contact_msgs,
        per_contact_bytes_day: raw.per_contact_bytes_day,
        open_share_percent: raw.open_share_percent,
        policy: raw.policy,
    }
}
