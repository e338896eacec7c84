//! The protocol `friend/1`, and friendships in the store.

use std::time::Duration;

use prost::Message as _;

use super::{
    grant::{Decline, Grant, GrantError, MAX_SIGNED_BYTES, Offer, Revocation, Verifier},
    relation::{Fact, Local, Relation, View},
};
use crate::{
    net::rpc,
    primitives::{Hash, UnixMillis},
    wire::proto::friend as pb,
};

/// Tells the other side of a friendship what it should know, or asks anybody for a grant by its hash.
///
/// Idempotent: every request is a signed statement that is merged into what is known, and the answer is what is known
/// afterwards.
#[derive(Debug)]
pub struct Protocol;

impl rpc::Wire for Protocol {
    const NAME: &'static str = "friend/1";
    /// A grant's two envelopes, and tags.
    const MAX_REQUEST: usize = 2 * MAX_SIGNED_BYTES + 32;
    const MAX_RESPONSE: usize = 2 * MAX_SIGNED_BYTES + 32;
    const TIMEOUT: Duration = Duration::from_secs(20);
    const QUEUE: usize = 64;
    const CONCURRENCY: usize = 2;
    /// Each costs two signature checks and maybe a synced write. People make friends more slowly.
    const RATE: u32 = 10;
    type Request = pb::Request;
    type Response = pb::Response;
}

/// Why something told was not taken. Codes of later versions count as [`Refused::Bad`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// Malformed, forged, or not about the two who talk.
    Bad,
    /// From the future by the other side's clock.
    Clock,
    /// Past its time.
    Expired,
    /// Two different things were signed with one number.
    Equivocation,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Bad, Self::Clock, Self::Expired, Self::Equivocation];

    fn to_wire(self) -> u32 {
        Self::ALL.into_iter().zip(1..).find_map(|(c, n)| (c == self).then_some(n)).unwrap_or(1)
    }

    fn from_wire(code: u32) -> Self {
        Self::ALL.into_iter().zip(1..).find_map(|(c, n)| (n == code).then_some(c)).unwrap_or(Self::Bad)
    }

    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Bad => "the other side could not read it",
            Self::Clock => "from the future by the other side's clock: one of the two clocks is wrong",
            Self::Expired => "expired by the other side's clock",
            Self::Equivocation => "the other side has another offer with the same number: our state is an old copy",
        }
    }

    /// For metrics.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Clock => "clock",
            Self::Expired => "expired",
            Self::Equivocation => "equivocation",
        }
    }
}

impl From<GrantError> for Refused {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Malformed | GrantError::Signature | GrantError::Field(_) => Self::Bad,
            GrantError::Clock => Self::Clock,
            GrantError::Expired => Self::Expired,
        }
    }
}

/// An answer as it travels.
pub(super) type Reply = pb::Response;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "few at once, and none is kept")]
pub(super) enum Ask {
    Tell(Fact),
    Get(Hash),
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "few at once, and none is kept")]
pub(super) enum Answer {
    View(View),
    Refused(Refused),
}

fn grant_out(grant: &Grant) -> pb::Grant {
    pb::Grant { offer: grant.offer.envelope().to_vec().into(), acceptance: grant.acceptance().to_vec().into() }
}

pub(super) fn request(ask: &Ask) -> pb::Request {
    use pb::request::What;
    let what = match ask {
        Ask::Tell(Fact::Offer(offer)) => What::Offer(offer.envelope().to_vec().into()),
        Ask::Tell(Fact::Grant(grant)) => What::Grant(grant_out(grant)),
        Ask::Tell(Fact::Revocation(revocation)) => What::Revocation(revocation.envelope().to_vec().into()),
        Ask::Tell(Fact::Decline(decline)) => What::Decline(decline.envelope().to_vec().into()),
        Ask::Get(hash) => What::Get(hash.0.to_vec().into()),
    };
    pb::Request { what: Some(what) }
}

/// Reads a request and checks every signature in it.
pub(super) fn read_request(verifier: &Verifier, request: &pb::Request) -> Result<Ask, GrantError> {
    use pb::request::What;
    Ok(match request.what.as_ref().ok_or(GrantError::Malformed)? {
        What::Offer(offer) => Ask::Tell(Fact::Offer(verifier.offer(offer)?)),
        What::Grant(g) => Ask::Tell(Fact::Grant(verifier.grant(&g.offer, &g.acceptance)?)),
        What::Revocation(revocation) => Ask::Tell(Fact::Revocation(verifier.revocation(revocation)?)),
        What::Decline(decline) => Ask::Tell(Fact::Decline(verifier.decline(decline)?)),
        What::Get(hash) => Ask::Get(Hash(hash[..].try_into().map_err(|_| GrantError::Malformed)?)),
    })
}

pub(super) fn response(answer: &Answer) -> pb::Response {
    use pb::response::What;
    let what = match answer {
        Answer::View(View::Pending) => What::Pending(pb::Pending {}),
        Answer::View(View::Unknown) => What::Unknown(pb::Unknown {}),
        Answer::View(View::Fact(Fact::Grant(grant))) => What::Grant(grant_out(grant)),
        Answer::View(View::Fact(Fact::Revocation(r))) => What::Revocation(r.envelope().to_vec().into()),
        Answer::View(View::Fact(Fact::Decline(d))) => What::Decline(d.envelope().to_vec().into()),
        // Nobody answers with an offer: who made it knows it.
        Answer::View(View::Fact(Fact::Offer(_))) => What::Pending(pb::Pending {}),
        Answer::Refused(refused) => What::Refused(refused.to_wire()),
    };
    pb::Response { what: Some(what) }
}

/// Reads an answer and checks every signature in it.
pub(super) fn read_response(verifier: &Verifier, response: &pb::Response) -> Result<Answer, GrantError> {
    use pb::response::What;
    let fact = match response.what.as_ref().ok_or(GrantError::Malformed)? {
        What::Pending(_) => return Ok(Answer::View(View::Pending)),
        What::Unknown(_) => return Ok(Answer::View(View::Unknown)),
        What::Refused(code) => return Ok(Answer::Refused(Refused::from_wire(*code))),
        What::Grant(g) => Fact::Grant(verifier.grant(&g.offer, &g.acceptance)?),
        What::Revocation(revocation) => Fact::Revocation(verifier.revocation(revocation)?),
        What::Decline(decline) => Fact::Decline(verifier.decline(decline)?),
    };
    Ok(Answer::View(View::Fact(fact)))
}

pub(super) fn encode_relation(relation: &Relation) -> Vec<u8> {
    let bytes = |b: Option<&[u8]>| b.map(<[u8]>::to_vec).unwrap_or_default().into();
    pb::StoredRelation {
        offer: bytes(relation.offer.as_ref().map(Offer::envelope)),
        grant: relation.grant.as_ref().map(grant_out),
        revoked: bytes(relation.revoked.as_ref().map(Revocation::envelope)),
        resigned: bytes(relation.resigned.as_ref().map(Revocation::envelope)),
        declined: bytes(relation.declined.as_ref().map(Decline::envelope)),
        priority: relation.local.priority,
        told: relation.local.told,
        end_told: relation.local.end_told,
        decline_told: relation.local.decline_told,
        last_error: relation.local.last_error.clone(),
        changed_at: relation.local.changed_at.0,
    }
    .encode_to_vec()
}

/// Reads a stored friendship, signatures included: there are few, and what the mailbox trusts should be what was
/// signed.
pub(super) fn decode_relation(verifier: &Verifier, bytes: &[u8]) -> Result<Relation, GrantError> {
    let raw = pb::StoredRelation::decode(bytes).map_err(|_| GrantError::Malformed)?;
    let some = |b: &bytes::Bytes| (!b.is_empty()).then(|| b.clone());
    Ok(Relation {
        offer: some(&raw.offer).map(|b| verifier.offer(&b)).transpose()?,
        grant: raw.grant.map(|g| verifier.grant(&g.offer, &g.acceptance)).transpose()?,
        revoked: some(&raw.revoked).map(|b| verifier.revocation(&b)).transpose()?,
        resigned: some(&raw.resigned).map(|b| verifier.revocation(&b)).transpose()?,
        declined: some(&raw.declined).map(|b| verifier.decline(&b)).transpose()?,
        local: Local {
            priority: raw.priority,
            told: raw.told,
            end_told: raw.end_told,
            decline_told: raw.decline_told,
            last_error: raw.last_error,
            changed_at: UnixMillis(raw.changed_at),
        },
    })
}
