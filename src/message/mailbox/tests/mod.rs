//! Tests of mailboxes without the message service: machines, store, and the holder's actor over a loopback. Collecting into an inbox
//! is tested with it, in `message/tests/mail.rs`.

mod collector;
mod holder;
mod owed;
mod prop;
mod sim;

use std::time::Duration;

use bytes::Bytes;

use super::{
    grant::Grant,
    machine::{Offer, Proof},
};
use crate::{
    message::{
        envelope::{PART_HEADER, id_of},
        friend::{Hold, POLICY_OPEN_POW, Terms},
    },
    primitives::{GrantId, Hash, UnixMillis},
};

pub(super) const START: UnixMillis = UnixMillis(1_700_000_000_000);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A grant that anybody may use who did the work.
pub(super) fn open_grant(id: u8) -> Grant {
    let terms = Terms { policy: POLICY_OPEN_POW, ..Terms::default() };
    Grant { id: GrantId([id; 16]), epoch: 1, phase: Hold::Active, not_after: START.plus(DAY * 90), terms }
}

/// Something of the form of a sealed part, `extra` bytes longer than the shortest.
pub(super) fn sealed(n: u64, extra: usize) -> Bytes {
    let mut part = vec![1; PART_HEADER + crate::identity::SEALED_OVERHEAD + 8 + extra];
    part[PART_HEADER..PART_HEADER + 8].copy_from_slice(&n.to_be_bytes());
    part.into()
}

/// An offer of such a part, with enough work for any fill.
pub(super) fn offer(n: u64, extra: usize, ttl_s: u32) -> Offer {
    let part = sealed(n, extra);
    let id = id_of(&part);
    Offer { id, ttl_s, withdraw: Hash::of(&preimage(n)), part, matches: true, proof: Proof::Work(64) }
}

/// What takes it back.
pub(super) fn preimage(n: u64) -> [u8; 32] {
    Hash::of(&n.to_be_bytes()).0
}
