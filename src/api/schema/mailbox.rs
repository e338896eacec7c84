//! Shapes of mailboxes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    message::{
        friend::Hold,
        mailbox::{FriendStats, OwnerStats, Refused, Who},
    },
    primitives::PeerId,
};

/// What is held here for others, and what others hold for this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MailboxStats {
    /// Sealed parts held here for all owners.
    pub messages: u64,
    /// What they cost against the quotas: their bytes and 512 for each.
    pub bytes: u64,
    /// By owner.
    pub holding_for: Vec<HeldFor>,
    /// By friend.
    pub held_by: Vec<CollectedFrom>,
}

/// What is held here for one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldFor {
    /// The owner.
    pub address: String,
    /// Whether new messages are taken (`active`), what is held can only be collected (`draining`), or neither (`ended`).
    pub mailbox: String,
    /// Sealed parts held; a message has one for each 255 KiB.
    pub messages: u64,
    /// How many may be held.
    pub quota_msgs: u64,
    /// What they cost against the quota.
    pub bytes: u64,
    /// How much may be held.
    pub quota_bytes: u64,
    /// The last queue number that was given out; they begin at 1 and have no gap.
    pub last_seq: u64,
    /// Ids remembered as collected or withdrawn, so that a late copy is refused.
    pub tombstones: u64,
    /// Deposit keys that the owner registered.
    pub contacts: usize,
    /// Deposits refused for want of room since the owner last looked.
    pub refused: u64,
}

impl From<OwnerStats> for HeldFor {
    fn from(stats: OwnerStats) -> Self {
        let mailbox = match stats.grant.map(|grant| grant.phase) {
            Some(Hold::Active) => "active",
            Some(Hold::Draining { .. }) => "draining",
            Some(Hold::Ended) | None => "ended",
        };
        Self {
            address: stats.owner.to_string(),
            mailbox: mailbox.to_owned(),
            messages: stats.messages,
            quota_msgs: stats.grant.map_or(0, |grant| grant.terms.quota_msgs.into()),
            bytes: stats.bytes,
            quota_bytes: stats.grant.map_or(0, |grant| grant.terms.quota_bytes),
            last_seq: stats.head,
            tombstones: stats.tombstones,
            contacts: stats.contacts,
            refused: stats.refused,
        }
    }
}

/// How collecting from one friend goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectedFrom {
    /// The friend.
    pub address: String,
    /// When it last answered; `null`: not since this node started.
    pub collected_at: Option<u64>,
    /// Why it last did not; empty: it did.
    pub last_error: String,
    /// The last queue number that it gave out.
    pub last_seq: u64,
    /// Contacts of this node whose deposit keys it knows.
    pub contacts: usize,
    /// Deposits that it refused for want of room.
    pub refused: Vec<RefusedDeposits>,
}

/// Deposits that a friend refused, of one depositor and for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedDeposits {
    /// Deposit key of the contact, hex; `open`: who showed proof of work.
    pub depositor: String,
    /// Which quota was full.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// Since when.
    pub first_at: u64,
}

impl From<&Refused> for RefusedDeposits {
    fn from(refused: &Refused) -> Self {
        let depositor = match refused.who {
            Who::Open => "open".to_owned(),
            Who::Contact(key) => hex::encode(key),
        };
        let (count, first_at) = (refused.marker.count, refused.marker.first_at.0);
        Self { depositor, reason: refused.why.to_string(), count, first_at }
    }
}

impl CollectedFrom {
    /// Of what a friend's answers said.
    #[must_use]
    pub fn new(friend: &PeerId, stats: &FriendStats) -> Self {
        Self {
            address: friend.to_string(),
            collected_at: stats.pulled_at.map(|at| at.0),
            last_error: stats.last_error.clone().unwrap_or_default(),
            last_seq: stats.head,
            contacts: stats.contacts,
            refused: stats.refused.iter().map(Into::into).collect(),
        }
    }
}
