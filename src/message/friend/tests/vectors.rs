//! What is signed: one good form of everything, and how each bad one is refused.

use std::time::Duration;

use prost::Message;

use super::{
    super::grant::{GrantError, MAX_SIGNED_BYTES, Party, Reason, Verifier, Wish},
    DAY, START, grant, offer, verifier, wish,
};
use crate::{
    identity::{self, Identity, Purpose},
    primitives::{GrantId, Hash, NetworkId, UnixMillis},
    wire::proto::friend as pb,
};

fn two() -> (Identity, Identity) {
    (Identity::generate(), Identity::generate())
}

#[test]
fn a_grant_has_both_signatures_and_reads_back_as_it_was() {
    let (owner, friend) = two();
    let good = grant(&owner, &friend, START.0);
    let read = verifier().grant_from_bytes(&good.to_bytes()).unwrap();
    assert_eq!(read, good);
    assert_eq!(read.hash(), Hash::of(&good.to_bytes()));
    assert!(good.offer.envelope().len() < MAX_SIGNED_BYTES && good.acceptance().len() < MAX_SIGNED_BYTES);
    assert_eq!(good.offer.check_times(START), Ok(()));
    assert_eq!(good.offer.check_times(START.minus(Duration::from_secs(599))), Ok(()), "clocks differ");
    assert_eq!(good.offer.check_times(START.minus(DAY)), Err(GrantError::Clock));
    assert_eq!(good.offer.check_times(START.plus(30 * DAY)), Err(GrantError::Expired));
    let far = offer(&owner, &friend, START.plus(2 * DAY).0);
    assert_eq!(far.check_times(START), Err(GrantError::Clock), "an epoch of the far future");
}

#[test]
fn one_signature_is_not_enough_and_another_ones_is_none() {
    let ((owner, friend), stranger) = (two(), Identity::generate());
    let (good, other) = (grant(&owner, &friend, START.0), grant(&owner, &friend, START.0 + 1));
    let check = |offer: &[u8], acceptance: &[u8]| verifier().grant(offer, acceptance).unwrap_err();
    let (o, a) = (good.offer.envelope(), good.acceptance());
    assert_eq!(check(o, &[]), GrantError::Malformed);
    assert_eq!(check(&[], a), GrantError::Malformed);
    assert_eq!(check(o, o), GrantError::Signature, "an offer is no acceptance");
    assert_eq!(check(a, o), GrantError::Signature);
    assert_eq!(check(o, other.acceptance()), GrantError::Signature, "of another offer");
    let forged = verifier().sign_acceptance(&stranger, good.offer.clone(), good.terms, START);
    assert_eq!(check(o, forged.acceptance()), GrantError::Signature);
    let another = Verifier::new(&"other".parse::<NetworkId>().unwrap());
    assert_eq!(another.grant(o, a), Err(GrantError::Signature), "of another network");
    for place in 0..o.len() {
        let mut bad = o.to_vec();
        bad[place] ^= 1;
        assert!(verifier().offer(&bad).is_err(), "byte {place} changed");
    }
    // Two fields in another order: the same meaning, other bytes.
    let raw = crate::wire::proto::map::Envelope::decode(o).unwrap();
    let first = crate::wire::proto::map::Envelope { signature: raw.signature.clone(), ..Default::default() };
    let rest = crate::wire::proto::map::Envelope { signature: Default::default(), ..raw };
    let reordered = [first.encode_to_vec(), rest.encode_to_vec()].concat();
    assert_eq!(verifier().offer(&reordered), Err(GrantError::Malformed));
}

#[test]
fn an_offer_keeps_within_its_limits() {
    let (owner, friend) = two();
    let signed = |change: &dyn Fn(&mut Wish)| {
        let mut w = wish(friend.address());
        change(&mut w);
        verifier().offer(verifier().sign_offer(&owner, w).envelope()).map(drop)
    };
    assert_eq!(signed(&|_| {}), Ok(()));
    let refused = [
        signed(&|w| w.not_after = w.not_before.plus(91 * DAY)),
        signed(&|w| w.not_after = w.not_before),
        signed(&|w| w.epoch = 0),
        signed(&|w| w.terms.quota_bytes = 0),
        signed(&|w| w.terms.quota_msgs = 0),
        signed(&|w| w.terms.max_msg_bytes = 0),
        signed(&|w| w.terms.max_ttl_s = 30 * 24 * 3600 + 1),
        signed(&|w| w.terms.per_contact_msgs = 0),
        signed(&|w| w.terms.per_contact_bytes_day = 0),
        signed(&|w| w.terms.open_share_percent = 101),
        signed(&|w| w.terms.policy = 4),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(GrantError::Field(_))), "{i}: {result:?}");
    }
    let to_itself = verifier().sign_offer(&owner, wish(owner.address()));
    assert_eq!(verifier().offer(to_itself.envelope()), Err(GrantError::Signature));
}

#[test]
fn an_offer_signed_by_another_than_its_owner_is_forged() {
    let ((owner, friend), thief) = (two(), Identity::generate());
    let good = offer(&owner, &friend, START.0);
    let purpose = Purpose::new("vos-grant/1", &NetworkId::default());
    let (_, payload) = identity::open_envelope(&purpose, good.envelope()).unwrap();
    let forged = identity::seal_envelope(&thief, &purpose, payload.clone());
    assert_eq!(verifier().offer(&forged), Err(GrantError::Signature));
    let same = identity::seal_envelope(&owner, &purpose, payload.clone());
    assert_eq!(same, good.envelope());
    // Something unknown at the end: a later version's field, or a place to hide things.
    let longer = [payload.as_slice(), &[0xa8, 0x06, 0x01]].concat();
    let longer = identity::seal_envelope(&owner, &purpose, longer);
    assert_eq!(verifier().offer(&longer), Err(GrantError::Malformed));
}

#[test]
fn a_friend_may_accept_less_and_not_more() {
    let (owner, friend) = two();
    let offer = offer(&owner, &friend, START.0);
    let accepted = |change: &dyn Fn(&mut super::Terms)| {
        let mut terms = offer.terms;
        change(&mut terms);
        let grant = verifier().sign_acceptance(&friend, offer.clone(), terms, START);
        verifier().grant_from_bytes(&grant.to_bytes()).map(|g| g.terms)
    };
    assert_eq!(accepted(&|t| t.quota_bytes = 1).unwrap().quota_bytes, 1);
    let more: [&dyn Fn(&mut super::Terms); 8] = [
        &|t| t.quota_bytes += 1,
        &|t| t.quota_msgs += 1,
        &|t| t.max_msg_bytes += 1,
        &|t| t.max_ttl_s += 1,
        &|t| t.per_contact_msgs += 1,
        &|t| t.per_contact_bytes_day += 1,
        &|t| t.open_share_percent += 1,
        &|t| t.policy += 1,
    ];
    for change in more {
        assert!(matches!(accepted(change), Err(GrantError::Field(_))));
    }
    assert!(accepted(&|t| t.quota_msgs = 0).is_err());
    let late = verifier().sign_acceptance(&friend, offer.clone(), offer.terms, START.plus(60 * DAY));
    assert!(verifier().grant_from_bytes(&late.to_bytes()).is_err(), "accepted after its end");
    assert!(verifier().grant_from_bytes(&[&late.to_bytes()[..], &[0; 2000]].concat()).is_err());
}

#[test]
fn either_side_can_end_it_but_a_friend_leaves_time_to_collect() {
    let (owner, friend) = two();
    let end = |by: Party, drain: Duration| {
        let (identity, other) = if by == Party::Owner { (&owner, &friend) } else { (&friend, &owner) };
        let what = (GrantId([1; 16]), other.address(), 5);
        verifier().sign_revocation(identity, what, by, (START, START.plus(drain)))
    };
    for (by, drain) in [(Party::Owner, Duration::ZERO), (Party::Owner, 30 * DAY), (Party::Friend, 7 * DAY)] {
        let signed = end(by, drain);
        assert_eq!(verifier().revocation(signed.envelope()), Ok(signed));
    }
    for (by, drain) in [(Party::Owner, 31 * DAY), (Party::Friend, 6 * DAY), (Party::Friend, 31 * DAY)] {
        assert!(
            matches!(verifier().revocation(end(by, drain).envelope()), Err(GrantError::Field(_))),
            "{by:?} {drain:?}"
        );
    }
    assert_eq!(end(Party::Owner, DAY).check_times(START.minus(DAY)), Err(GrantError::Clock));
    // A friend that says it was the owner.
    let purpose = Purpose::new("vos-revoke/1", &NetworkId::default());
    let (_, payload) = identity::open_envelope(&purpose, end(Party::Owner, DAY).envelope()).unwrap();
    let forged = identity::seal_envelope(&friend, &purpose, payload);
    assert_eq!(verifier().revocation(&forged), Err(GrantError::Signature));
    let backwards = verifier().sign_revocation(
        &owner,
        (GrantId([1; 16]), friend.address(), 5),
        Party::Owner,
        (START, UnixMillis(START.0 - 1)),
    );
    assert!(verifier().revocation(backwards.envelope()).is_err());
}

#[test]
fn a_decline_is_the_friends_and_names_the_offer() {
    let (owner, friend) = two();
    let offer = offer(&owner, &friend, START.0);
    let no = verifier().sign_decline(&friend, &offer, Reason::Person, START);
    assert_eq!(verifier().decline(no.envelope()), Ok(no));
    let forged = verifier().sign_decline(&owner, &offer, Reason::Person, START);
    assert_eq!(verifier().decline(forged.envelope()), Err(GrantError::Signature));
    let raw = pb::Decline { reason: 9, ..Default::default() };
    let purpose = Purpose::new("vos-decline/1", &NetworkId::default());
    let bad = identity::seal_envelope(&friend, &purpose, raw.encode_to_vec());
    assert!(verifier().decline(&bad).is_err());
}
