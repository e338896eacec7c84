//! Both machines, case by case: who may do what when, what there is room for, and what a hostile other side gets.

use std::collections::BTreeSet;

use super::{
    super::{
        config::{Accept, Config},
        grant::{Grant, Reason, Wish},
        handle::FriendError,
        holder::{Holder, MAX_PENDING, Room},
        relation::{Conflict, Fact, Hold, State, View},
        terms::Wanted,
    },
    DAY, START, grant, holder_of, offer, owner_of, request, room, verifier, wish,
};
use crate::{
    identity::Identity,
    primitives::{GrantId, PeerId, UnixMillis, limits::MAX_RECORD_FRIENDS},
};

/// The holder hears an offer; what it keeps counts.
fn hear(holder: &mut Holder, now: UnixMillis, owner: PeerId, fact: Fact, room: &Room) -> View {
    let outcome = holder.on_fact(now, &owner, fact, room).unwrap();
    if let Some(next) = outcome.relation {
        holder.apply(owner, next);
    }
    outcome.view
}

#[test]
fn an_offer_waits_for_a_person_who_may_lower_it() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, mut holder) = (a.address(), holder_of(&b, Accept::Ask));
    let first = offer(&a, &b, START.0);
    assert_eq!(hear(&mut holder, START, us, Fact::Offer(first.clone()), &room()), View::Pending);
    assert!(holder.held(START).is_empty());
    let more = Wanted { quota_msgs: Some(5000), ..Wanted::default() };
    assert!(matches!(holder.accept(START, &us, &more, &room()), Err(FriendError::Invalid(_))));
    let zero = Wanted { quota_bytes: Some(0), ..Wanted::default() };
    assert!(matches!(holder.accept(START, &us, &zero, &room()), Err(FriendError::Invalid(_))));
    let less = Wanted { quota_bytes: Some(1 << 20), ..Wanted::default() };
    let next = holder.accept(START, &us, &less, &room()).unwrap();
    holder.apply(us, next);
    let held = holder.held(START);
    assert_eq!((held.len(), held[0].state, held[0].terms.quota_bytes), (1, Hold::Active, 1 << 20));
    assert_eq!(holder.accept(START, &us, &less, &room()), Err(FriendError::TooLate(State::Active)));
    assert_eq!(holder.decline(START, &us), Err(FriendError::TooLate(State::Active)));
    let View::Fact(Fact::Grant(given)) = hear(&mut holder, START, us, Fact::Offer(first), &room()) else {
        panic!("the offer again gets the grant")
    };
    assert_eq!(given.terms.quota_bytes, 1 << 20);
    assert_eq!(holder.accept(START, &PeerId::random(), &less, &room()), Err(FriendError::NotFound));
}

#[test]
fn a_renewal_is_accepted_by_itself_when_it_is_not_larger() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, them) = (a.address(), b.address());
    let (mut owner, mut holder) = (owner_of(&a), holder_of(&b, Accept::Ask));
    let asked = owner.offer(START, &request(them), [1; 16]).unwrap();
    let id = asked.grant_id();
    hear(&mut holder, START, us, Fact::Offer(asked.offer.clone().unwrap()), &room());
    owner.apply(them, asked);
    let less = Wanted { quota_msgs: Some(9), ..Wanted::default() };
    holder.apply(us, holder.accept(START, &us, &less, &room()).unwrap());
    let first = holder.owners()[&us].grant.clone().unwrap();
    owner.apply(them, owner.on_fact(START, &them, Fact::Grant(first.clone())).unwrap().unwrap());
    assert!(owner.renewals(START.plus(59 * DAY)).is_empty());
    let later = START.plus(61 * DAY);
    let (_, renewed) = owner.renewals(later).pop().unwrap();
    owner.apply(them, renewed.clone());
    assert!(owner.renewals(later).is_empty(), "once");
    assert_eq!(renewed.state(later), Some(State::Active), "the old one holds meanwhile");
    let renewal = renewed.offer.unwrap();
    assert_eq!((Some(renewal.grant_id), renewal.prev), (id, Some(first.hash())));
    assert_eq!(renewal.terms, first.terms, "what was accepted, not what was offered");
    assert_eq!(renewal.not_after, later.plus(90 * DAY));
    let View::Fact(Fact::Grant(second)) = hear(&mut holder, later, us, Fact::Offer(renewal), &room()) else {
        panic!("not larger")
    };
    assert_eq!(owner.listed(later).0[0].grant_hash, first.hash());
    owner.apply(them, owner.on_fact(later, &them, Fact::Grant(second.clone())).unwrap().unwrap());
    assert_eq!(owner.listed(later).0[0].grant_hash, second.hash());
    // More is for a person to decide, and what was agreed goes on in any case.
    let larger = owner.offer(later, &request(them), [2; 16]).unwrap();
    assert_eq!(larger.grant_id(), id, "the mailbox stays");
    let larger = larger.offer.unwrap();
    assert_eq!(hear(&mut holder, later, us, Fact::Offer(larger.clone()), &room()), View::Pending);
    holder.apply(us, holder.decline(later, &us).unwrap());
    assert_eq!(holder.held(later)[0].state, Hold::Active);
    let View::Fact(Fact::Decline(no)) = hear(&mut holder, later, us, Fact::Offer(larger), &room()) else {
        panic!("declined")
    };
    assert_eq!(no.reason, Reason::Person);
}

#[test]
fn nobody_renews_what_the_friend_no_longer_wants() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (mut owner, them) = (owner_of(&a), b.address());
    let given = grant(&a, &b, START.0);
    owner.apply(them, owner.on_fact(START, &them, Fact::Grant(given.clone())).unwrap().unwrap());
    let late = START.plus(25 * DAY);
    let renewal = owner.renewals(late).pop().unwrap().1;
    let no = verifier().sign_decline(&b, renewal.offer.as_ref().unwrap(), Reason::Full, late);
    owner.apply(them, renewal);
    owner.apply(them, owner.on_fact(late, &them, Fact::Decline(no)).unwrap().unwrap());
    assert!(owner.renewals(late).is_empty());
    let end = given.offer.not_after;
    let friend = &owner.friends()[&them];
    assert_eq!((friend.state(late), friend.state(end)), (Some(State::Active), Some(State::Expired)));
    assert_eq!(friend.hold(end), Some(Hold::Draining { until: end.plus(7 * DAY) }));
    assert_eq!(friend.hold(end.plus(7 * DAY)), Some(Hold::Ended));
    assert!(owner.listed(end).0.is_empty());
}

#[test]
fn a_revoked_grant_takes_nothing_more_and_cannot_return() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, them) = (a.address(), b.address());
    let (mut owner, mut holder) = (owner_of(&a), holder_of(&b, Accept::All));
    let asked = owner.offer(START, &request(them), [1; 16]).unwrap();
    let old = asked.offer.clone().unwrap();
    owner.apply(them, asked);
    let View::Fact(Fact::Grant(given)) = hear(&mut holder, START, us, Fact::Offer(old.clone()), &room()) else {
        panic!("accepted")
    };
    owner.apply(them, owner.on_fact(START, &them, Fact::Grant(given.clone())).unwrap().unwrap());
    let epoch = owner.listed(START).1;
    owner.apply(them, owner.revoke(START, &them, 3 * DAY).unwrap());
    assert!(owner.listed(START).0.is_empty() && owner.listed(START).1 > epoch, "the record's epoch rises");
    assert_eq!(owner.revoke(START, &them, DAY), Err(FriendError::TooLate(State::Revoked)));
    let end = owner.to_tell(START, &them).unwrap();
    hear(&mut holder, START, us, end.clone(), &room());
    let until = START.plus(3 * DAY);
    assert_eq!(holder.held(START)[0].state, Hold::Draining { until });
    // Everything old again, in the worst order.
    for fact in [Fact::Offer(old.clone()), Fact::Grant(given.clone()), end] {
        let view = hear(&mut holder, START, us, fact.clone(), &room());
        assert!(matches!(view, View::Fact(Fact::Revocation(_))), "{view:?}");
        assert_eq!(holder.held(START)[0].state, Hold::Draining { until });
        assert_eq!(owner.on_fact(START, &them, fact), Ok(None));
    }
    assert_eq!(holder.held(until)[0].state, Hold::Ended);
    // A friend that never heard of it hears of the end first.
    let mut late = holder_of(&b, Accept::All);
    hear(&mut late, START, us, owner.to_tell(START, &them).unwrap(), &room());
    let view = hear(&mut late, START, us, Fact::Offer(old), &room());
    assert!(matches!(view, View::Fact(Fact::Revocation(_))) && late.held(START).is_empty());
    // The two may agree again, about the same mailbox.
    let again = owner.offer(UnixMillis(START.0 + 1), &request(them), [2; 16]).unwrap().offer.unwrap();
    assert_eq!(again.grant_id, given.offer.grant_id);
    let view = hear(&mut holder, START, us, Fact::Offer(again), &room());
    assert!(matches!(view, View::Fact(Fact::Grant(_))));
    assert_eq!(holder.held(START)[0].state, Hold::Active);
}

#[test]
fn a_friend_resigns_and_leaves_time_to_collect() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, them) = (a.address(), b.address());
    let mut holder = holder_of(&b, Accept::All);
    let mut owner = owner_of(&a);
    let View::Fact(Fact::Grant(given)) = hear(&mut holder, START, us, Fact::Offer(offer(&a, &b, START.0)), &room())
    else {
        panic!("accepted")
    };
    owner.apply(them, owner.on_fact(START, &them, Fact::Grant(given)).unwrap().unwrap());
    assert!(matches!(holder.resign(START, &us, 6 * DAY), Err(FriendError::Invalid(_))));
    holder.apply(us, holder.resign(START, &us, 7 * DAY).unwrap());
    assert_eq!(holder.held(START)[0].state, Hold::Draining { until: START.plus(7 * DAY) });
    assert_eq!(holder.resign(START, &us, 7 * DAY), Err(FriendError::TooLate(State::Revoked)));
    let told = holder.to_tell(START, &us).unwrap();
    owner.apply(them, owner.on_fact(START, &them, told).unwrap().unwrap());
    assert_eq!(owner.friends()[&them].state(START), Some(State::Revoked));
    assert!(owner.listed(START).0.is_empty() && owner.renewals(START.plus(29 * DAY)).is_empty());
}

#[test]
fn two_offers_with_one_epoch_are_refused_and_the_first_counts() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, mut holder) = (a.address(), holder_of(&b, Accept::All));
    let first = offer(&a, &b, START.0);
    let mut other = wish(b.address());
    other.terms.quota_msgs = 1;
    let other = verifier().sign_offer(&a, Wish { epoch: START.0, ..other });
    hear(&mut holder, START, us, Fact::Offer(first.clone()), &room());
    let refused = holder.on_fact(START, &us, Fact::Offer(other.clone()), &room());
    assert_eq!(refused, Err(Conflict::Equivocation));
    let terms = other.terms;
    let forced = verifier().sign_acceptance(&b, other, terms, START);
    assert_eq!(holder.on_fact(START, &us, Fact::Grant(forced), &room()), Err(Conflict::Equivocation));
    assert_eq!(holder.held(START)[0].terms, first.terms);
    let stale = offer(&a, &b, START.0 - 1);
    assert_eq!(holder.on_fact(START, &us, Fact::Offer(stale), &room()), Err(Conflict::Stale));
}

#[test]
fn the_policy_says_no_without_keeping_anything_of_strangers() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let us = a.address();
    let reason = |view: View| match view {
        View::Fact(Fact::Decline(no)) => no.reason,
        other => panic!("{other:?}"),
    };
    let mut none = holder_of(&b, Accept::None);
    assert_eq!(reason(hear(&mut none, START, us, Fact::Offer(offer(&a, &b, START.0)), &room())), Reason::Policy);
    assert!(none.owners().is_empty());
    let mut contacts = holder_of(&b, Accept::Contacts);
    assert_eq!(reason(hear(&mut contacts, START, us, Fact::Offer(offer(&a, &b, START.0)), &room())), Reason::Policy);
    let known = Room { contacts: BTreeSet::from([us]), ..room() };
    let view = hear(&mut contacts, START, us, Fact::Offer(offer(&a, &b, START.0 + 1)), &known);
    assert!(matches!(view, View::Fact(Fact::Grant(_))));
    // Many strangers: places run out, nobody is pushed out.
    let mut ask = holder_of(&b, Accept::Ask);
    for _ in 0..MAX_PENDING {
        let stranger = Identity::generate();
        let view = hear(&mut ask, START, stranger.address(), Fact::Offer(offer(&stranger, &b, START.0)), &room());
        assert_eq!(view, View::Pending);
    }
    assert_eq!(reason(hear(&mut ask, START, us, Fact::Offer(offer(&a, &b, START.0)), &room())), Reason::Full);
    assert_eq!(ask.owners().len(), MAX_PENDING);
    assert_eq!(ask.surplus(START.plus(30 * DAY)).len(), MAX_PENDING, "offers that nobody answered go");
}

#[test]
fn no_more_is_promised_than_there_is_room_for() {
    let b = Identity::generate();
    let mib = |n: u64| n << 20;
    let config =
        Config { accept: Accept::All, max_bytes: mib(100), max_grants: 3, reserve_bytes: mib(50), ..Config::default() };
    let mut holder = Holder::new(b.clone(), verifier(), config);
    let mut ask = |free: u64| {
        let a = Identity::generate();
        let room = Room { free_bytes: Some(free), ..Room::default() };
        match hear(&mut holder, START, a.address(), Fact::Offer(offer(&a, &b, START.0)), &room) {
            View::Fact(Fact::Grant(given)) => Some(given.terms.quota_bytes),
            View::Fact(Fact::Decline(no)) if no.reason == Reason::Full => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(mib(50)), None, "the disk's reserve");
    assert_eq!(ask(mib(1000)), Some(mib(64)));
    assert_eq!(ask(mib(1000)), Some(mib(36)), "what is left of friend.max_bytes");
    assert_eq!(ask(mib(1000)), None);
    assert_eq!(holder.promised_to_all(START), mib(100));
    let config = Config { accept: Accept::All, max_grants: 1, ..Config::default() };
    let mut holder = Holder::new(b.clone(), verifier(), config);
    for expected in [true, false] {
        let a = Identity::generate();
        let view = hear(&mut holder, START, a.address(), Fact::Offer(offer(&a, &b, START.0)), &room());
        assert_eq!(matches!(view, View::Fact(Fact::Grant(_))), expected);
    }
    let a = Identity::generate();
    let tight = Config { accept: Accept::Ask, max_bytes: mib(10), ..Config::default() };
    let mut holder = Holder::new(b.clone(), verifier(), tight);
    hear(&mut holder, START, a.address(), Fact::Offer(offer(&a, &b, START.0)), &room());
    let full = holder.accept(START, &a.address(), &Wanted::default(), &room());
    assert!(matches!(full, Err(FriendError::Full(text)) if text.contains("--quota")));
    let less = Wanted { quota_bytes: Some(mib(10)), ..Wanted::default() };
    assert!(holder.accept(START, &a.address(), &less, &room()).is_ok());
}

#[test]
fn an_owner_asks_at_most_as_many_as_its_record_lists() {
    let a = Identity::generate();
    let mut owner = owner_of(&a);
    let mut friends = Vec::new();
    for _ in 0..MAX_RECORD_FRIENDS {
        let friend = Identity::generate().address();
        owner.apply(friend, owner.offer(START, &request(friend), [1; 16]).unwrap());
        friends.push(friend);
    }
    let ninth = request(Identity::generate().address());
    assert!(matches!(owner.offer(START, &ninth, [1; 16]), Err(FriendError::Full(_))));
    assert!(owner.offer(START, &request(friends[0]), [1; 16]).is_ok(), "other terms for one of them");
    owner.apply(friends[1], owner.revoke(START, &friends[1], DAY).unwrap());
    assert!(owner.offer(START, &ninth, [1; 16]).is_ok());
    let me = request(a.address());
    assert!(matches!(owner.offer(START, &me, [1; 16]), Err(FriendError::Invalid(_))));
    let mut long = request(friends[0]);
    long.validity = 91 * DAY;
    assert!(matches!(owner.offer(START, &long, [1; 16]), Err(FriendError::Invalid(_))));
    let epochs: BTreeSet<u64> = owner.friends().values().map(super::super::relation::Relation::epoch).collect();
    assert_eq!(epochs.len(), MAX_RECORD_FRIENDS, "no epoch twice");
}

#[test]
fn what_both_signed_survives_the_loss_of_one_sides_state() {
    let (a, b) = (Identity::generate(), Identity::generate());
    let (us, them) = (a.address(), b.address());
    let given = grant(&a, &b, START.0);
    // The friend forgot: the owner shows what the friend signed.
    let mut holder = holder_of(&b, Accept::None);
    let view = hear(&mut holder, START, us, Fact::Grant(given.clone()), &room());
    assert_eq!(view, View::Fact(Fact::Grant(given.clone())));
    assert_eq!(holder.held(START)[0].state, Hold::Active);
    // The owner forgot, and asks again under a new id: it gets the old mailbox back, and its wish goes there.
    let mut owner = owner_of(&a);
    let mut wanted = request(them);
    wanted.terms.quota_msgs = 10;
    let asked = owner.offer(UnixMillis(START.0 + 1), &wanted, [9; 16]).unwrap();
    let fact = Fact::Offer(asked.offer.clone().unwrap());
    owner.apply(them, asked);
    let view = hear(&mut holder, START, us, fact, &room());
    assert_eq!(view, View::Fact(Fact::Grant(given.clone())), "reminded");
    owner.apply(them, owner.on_fact(START, &them, Fact::Grant(given.clone())).unwrap().unwrap());
    let Some(Fact::Offer(again)) = owner.to_tell(START, &them) else { panic!("the wish goes on") };
    assert_eq!((again.grant_id, again.prev), (GrantId([7; 16]), Some(given.hash())));
    let view = hear(&mut holder, START, us, Fact::Offer(again), &room());
    let View::Fact(Fact::Grant(second)) = view else { panic!("not larger, so accepted") };
    assert_eq!((second.terms.quota_msgs, second.offer.grant_id), (10, given.offer.grant_id));
    let later = owner.on_fact(START, &them, Fact::Grant(second.clone())).unwrap().unwrap();
    assert_eq!(later.active(START).map(Grant::hash), Some(second.hash()));
}
