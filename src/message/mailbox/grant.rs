//! What a holder has agreed to keep for an owner. Friendships offer, sign and verify grants; a mailbox only needs to know what is
//! in force.

use std::time::Duration;

use crate::{
    message::friend::{Hold, Terms},
    primitives::{GrantId, UnixMillis},
};

/// How long after its end what a grant holds can still be pulled.
pub const DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// One grant as it is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Of the owner's friendships; a greater one supersedes.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Hold,
    /// Deposits end then; pulls [`DRAIN`] later.
    pub not_after: UnixMillis,
    /// The accepted quotas.
    pub terms: Terms,
}

impl Grant {
    /// Whether nothing can be done with it any more.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        match self.phase {
            Hold::Active => now >= self.not_after.plus(DRAIN),
            Hold::Draining { until } => now >= until,
            Hold::Ended => true,
        }
    }

    /// Whether this may take the place of `old`: nothing older, nothing backward.
    pub(super) fn follows(&self, old: &Self) -> bool {
        let rank = |grant: &Self| match grant.phase {
            Hold::Active => 0,
            Hold::Draining { .. } => 1,
            Hold::Ended => 2,
        };
        (self.epoch, rank(self)) >= (old.epoch, rank(old))
    }
}
