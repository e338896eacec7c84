//! What a holder has agreed to keep for an owner. The friendship part offers, signs and verifies grants; a mailbox only needs to
//! know what is in force.

use std::time::Duration;

use crate::primitives::{GrantId, UnixMillis};

/// How long after its end what a grant holds can still be pulled.
pub const DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who may leave messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Holders of a registered deposit key only.
    Contacts,
    /// Them, and within the open share anybody who did the work.
    ContactsOrWork,
    /// Anybody who did the work, up to the whole quota; and holders of a registered deposit key.
    Work,
}

/// The accepted quotas of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Bytes held at one time, [`super::MESSAGE_COST`] for each part included.
    pub quota_bytes: u64,
    /// Sealed parts held at one time.
    pub quota_msgs: u64,
    /// Largest sealed part, without the 65 bytes that sealing adds: 262144 lets every part pass.
    pub max_msg_bytes: u64,
    /// Longest time to keep a message.
    pub max_ttl: Duration,
    /// Sealed parts held at one time of one contact.
    pub per_contact_msgs: u64,
    /// Bytes that one contact may leave in one day (UTC).
    pub per_contact_bytes_day: u64,
    /// Part of the quota that deposits without a key may fill, in percent.
    pub open_share_percent: u8,
    /// Who may leave messages.
    pub policy: Policy,
}

impl Default for Terms {
    /// The starting numbers of spec `mail.md` 3.3.
    fn default() -> Self {
        Self {
            quota_bytes: 64 * 1024 * 1024,
            quota_msgs: 4096,
            max_msg_bytes: 256 * 1024,
            max_ttl: Duration::from_secs(14 * 24 * 3600),
            per_contact_msgs: 256,
            per_contact_bytes_day: 64 * 1024 * 1024,
            open_share_percent: 5,
            policy: Policy::Contacts,
        }
    }
}

/// Where a grant stands; it only goes forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Deposits and pulls.
    Active,
    /// Revoked or resigned: pulls only, until then.
    Draining(UnixMillis),
    /// Over: what is held goes when it was the owner's last grant.
    Ended,
}

impl Phase {
    fn rank(self) -> u8 {
        match self {
            Self::Active => 0,
            Self::Draining(_) => 1,
            Self::Ended => 2,
        }
    }
}

/// One grant as it is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Of the owner's friendships; a greater one supersedes.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Deposits end then; pulls [`DRAIN`] later.
    pub not_after: UnixMillis,
    /// The accepted quotas.
    pub terms: Terms,
}

impl Grant {
    /// Whether nothing can be done with it any more.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        match self.phase {
            Phase::Active => now >= self.not_after.plus(DRAIN),
            Phase::Draining(until) => now >= until,
            Phase::Ended => true,
        }
    }

    /// Whether this may take the place of `old`: nothing older, nothing backward.
    pub(super) fn follows(&self, old: &Self) -> bool {
        (self.epoch, self.phase.rank()) >= (old.epoch, old.phase.rank())
    }
}
