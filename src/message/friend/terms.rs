//! How much an owner may leave with a friend.

use crate::primitives::limits::MAX_MESSAGE_TTL;

/// Deposits by contacts only.
pub const POLICY_CONTACTS: u32 = 1;
/// Contacts; others with proof of work.
pub const POLICY_CONTACTS_POW: u32 = 2;
/// Everybody with proof of work.
pub const POLICY_OPEN_POW: u32 = 3;

/// Quotas and limits of a grant. A smaller number is always the stricter one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Bytes of all stored messages together; at least 1.
    pub quota_bytes: u64,
    /// Stored messages; at least 1.
    pub quota_msgs: u32,
    /// Bytes of one sealed message; at least 1.
    pub max_msg_bytes: u32,
    /// Longest time that a message is kept, in seconds; 1 to 30 days.
    pub max_ttl_s: u32,
    /// Stored messages of one contact; at least 1.
    pub per_contact_msgs: u32,
    /// Bytes that one contact may deposit within a day; at least 1.
    pub per_contact_bytes_day: u64,
    /// Part of the quotas for senders who are no contacts; 0 to 100.
    pub open_share_percent: u32,
    /// Who may deposit: [`POLICY_CONTACTS`] to [`POLICY_OPEN_POW`].
    pub policy: u32,
}

impl Default for Terms {
    /// The starting numbers of the design. A message of 256 KiB is a little longer when it is sealed, so that is the
    /// limit: 257 KiB. Only contacts may leave messages.
    fn default() -> Self {
        Self {
            quota_bytes: 64 << 20,
            quota_msgs: 4096,
            max_msg_bytes: 257 << 10,
            max_ttl_s: 14 * 24 * 3600,
            per_contact_msgs: 256,
            per_contact_bytes_day: 16 << 20,
            open_share_percent: 5,
            policy: POLICY_CONTACTS,
        }
    }
}

/// Lowered terms: what is `None` stays as it was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// [`Terms::quota_bytes`].
    pub quota_bytes: Option<u64>,
    /// [`Terms::quota_msgs`].
    pub quota_msgs: Option<u32>,
    /// [`Terms::max_msg_bytes`].
    pub max_msg_bytes: Option<u32>,
    /// [`Terms::max_ttl_s`].
    pub max_ttl_s: Option<u32>,
    /// [`Terms::per_contact_msgs`].
    pub per_contact_msgs: Option<u32>,
    /// [`Terms::per_contact_bytes_day`].
    pub per_contact_bytes_day: Option<u64>,
    /// [`Terms::open_share_percent`].
    pub open_share_percent: Option<u32>,
    /// [`Terms::policy`].
    pub policy: Option<u32>,
}

impl Terms {
    /// Whether every number makes sense; the name of the first that does not.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let checks = [
            (self.quota_bytes > 0, "quota in bytes"),
            (self.quota_msgs > 0, "quota in messages"),
            (self.max_msg_bytes > 0, "message size"),
            (self.max_ttl_s > 0 && u64::from(self.max_ttl_s) <= MAX_MESSAGE_TTL.as_secs(), "time to live"),
            (self.per_contact_msgs > 0, "number of messages per contact"),
            (self.per_contact_bytes_day > 0, "bytes per contact and day"),
            (self.open_share_percent <= 100, "open share"),
            ((POLICY_CONTACTS..=POLICY_OPEN_POW).contains(&self.policy), "policy"),
        ];
        checks.iter().find(|(good, _)| !good).map_or(Ok(()), |(_, what)| Err(what))
    }

    /// Whether no number is greater than in `other`.
    #[must_use]
    pub fn fits(&self, other: &Self) -> bool {
        self.quota_bytes <= other.quota_bytes
            && self.quota_msgs <= other.quota_msgs
            && self.max_msg_bytes <= other.max_msg_bytes
            && self.max_ttl_s <= other.max_ttl_s
            && self.per_contact_msgs <= other.per_contact_msgs
            && self.per_contact_bytes_day <= other.per_contact_bytes_day
            && self.open_share_percent <= other.open_share_percent
            && self.policy <= other.policy
    }

    /// The same with some numbers changed.
    #[must_use]
    pub fn with(&self, wanted: &Wanted) -> Self {
        Self {
            quota_bytes: wanted.quota_bytes.unwrap_or(self.quota_bytes),
            quota_msgs: wanted.quota_msgs.unwrap_or(self.quota_msgs),
            max_msg_bytes: wanted.max_msg_bytes.unwrap_or(self.max_msg_bytes),
            max_ttl_s: wanted.max_ttl_s.unwrap_or(self.max_ttl_s),
            per_contact_msgs: wanted.per_contact_msgs.unwrap_or(self.per_contact_msgs),
            per_contact_bytes_day: wanted.per_contact_bytes_day.unwrap_or(self.per_contact_bytes_day),
            open_share_percent: wanted.open_share_percent.unwrap_or(self.open_share_percent),
            policy: wanted.policy.unwrap_or(self.policy),
        }
    }
}
