//! Tests of friendships: what is signed, properties and a simulation of both machines, and real services over a
//! loopback.

mod machines;
mod prop;
mod service;
mod vectors;

use std::time::Duration;

use super::{
    config::{Accept, Config},
    grant::{Grant, Offer, Verifier, Wish},
    holder::{Holder, Room},
    owner::{Owner, Request},
    terms::Terms,
};
use crate::{
    identity::Identity,
    primitives::{GrantId, NetworkId, PeerId, UnixMillis},
};

const START: UnixMillis = UnixMillis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn verifier() -> Verifier {
    Verifier::new(&NetworkId::default())
}

fn wish(friend: PeerId) -> Wish {
    Wish {
        grant_id: GrantId([7; 16]),
        friend,
        not_before: START,
        not_after: START.plus(30 * DAY),
        epoch: START.0,
        terms: Terms::default(),
        prev: None,
    }
}

fn offer(owner: &Identity, friend: &Identity, epoch: u64) -> Offer {
    verifier().sign_offer(owner, Wish { epoch, ..wish(friend.address()) })
}

fn grant(owner: &Identity, friend: &Identity, epoch: u64) -> Grant {
    let offer = offer(owner, friend, epoch);
    let terms = offer.terms;
    verifier().sign_acceptance(friend, offer, terms, START)
}

/// A grant of 90 days from a time on, for tests of what friends do with it.
pub(in crate::message) fn agreed(owner: &Identity, friend: &Identity, grant_id: GrantId, from: UnixMillis) -> Grant {
    let times = Wish { grant_id, not_before: from, not_after: from.plus(90 * DAY), ..wish(friend.address()) };
    let offer = verifier().sign_offer(owner, Wish { epoch: from.0, ..times });
    let terms = offer.terms;
    verifier().sign_acceptance(friend, offer, terms, from)
}

fn request(friend: PeerId) -> Request {
    Request { friend, terms: Terms::default(), validity: 90 * DAY, priority: 0 }
}

fn owner_of(identity: &Identity) -> Owner {
    Owner::new(identity.clone(), verifier())
}

fn holder_of(identity: &Identity, accept: Accept) -> Holder {
    Holder::new(identity.clone(), verifier(), Config { accept, ..Config::default() })
}

fn room() -> Room {
    Room { free_bytes: Some(1 << 40), ..Room::default() }
}
