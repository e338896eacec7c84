//! Shapes of friendships.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Promises;
use crate::message::friend::{self, Friendship, Hold, Side, Terms, Wanted};

/// Friendships, those that ended lately included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Friends {
    /// Nodes that hold messages for this one, or were asked.
    pub held_by: Vec<Friend>,
    /// Nodes for which this one holds messages, or that asked for it.
    pub holding_for: Vec<Friend>,
}

impl From<Vec<Friendship>> for Friends {
    fn from(all: Vec<Friendship>) -> Self {
        let (held_by, holding_for): (Vec<_>, Vec<_>) = all.into_iter().partition(|f| f.side == Side::HeldBy);
        let shown = |list: Vec<Friendship>| list.into_iter().map(Into::into).collect();
        Self { held_by: shown(held_by), holding_for: shown(holding_for) }
    }
}

/// One friendship.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Friend {
    /// The other node.
    pub address: String,
    /// `held_by`: it holds messages for this node; `holding_for`: this node for it.
    pub side: String,
    /// `offered`, `active`, `declined`, `revoked` or `expired`.
    pub state: String,
    /// The mailbox. It stays when a grant is renewed.
    pub grant_id: String,
    /// When the grant ends, or the offer.
    pub expires_at: u64,
    /// Bytes that may be stored.
    pub quota_bytes: u64,
    /// Bytes that are stored; `null`: not known.
    pub used_bytes: Option<u64>,
    /// How many of the friend's promises that were checked it has kept, in percent; `null`: none was checked.
    pub score: Option<u8>,
    /// Promises of the friend that were checked.
    #[serde(default)]
    pub promises: Promises,
    /// All limits that were accepted, or offered while nothing was.
    pub terms: FriendTerms,
    /// Limits of an offer that waits for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<FriendTerms>,
    /// Smaller is asked first.
    pub priority: u32,
    /// Rises with every offer and end.
    pub epoch: u64,
    /// Whether new messages are taken (`active`), what is stored can only be collected (`draining`), or neither
    /// (`ended`); `null` before a grant.
    pub mailbox: Option<String>,
    /// Until when what is stored can be collected, while draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until_at: Option<u64>,
    /// Why it ended or an offer was declined.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether the other node has what was signed here last.
    pub told: bool,
    /// Why it could not be told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// When something changed.
    pub changed_at: u64,
    /// What the owner's record lists; hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_hash: Option<String>,
    /// The grant with both signatures, base64: anybody can verify it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

impl From<Friendship> for Friend {
    fn from(f: Friendship) -> Self {
        let side = match f.side {
            Side::HeldBy => "held_by",
            Side::HoldingFor => "holding_for",
        };
        let (mailbox, drain_until_at) = match f.hold {
            None => (None, None),
            Some(Hold::Active) => (Some("active"), None),
            Some(Hold::Draining { until }) => (Some("draining"), Some(until.0)),
            Some(Hold::Ended) => (Some("ended"), None),
        };
        Self {
            address: f.address.to_string(),
            side: side.to_owned(),
            state: friend::state_name(f.state).to_owned(),
            grant_id: f.grant_id.to_string(),
            expires_at: f.expires_at.0,
            quota_bytes: f.terms.quota_bytes,
            used_bytes: f.figure.used_bytes,
            score: f.figure.score.percent(),
            promises: f.figure.score.into(),
            terms: f.terms.into(),
            offered: f.offered.map(Into::into),
            priority: f.priority,
            epoch: f.epoch,
            mailbox: mailbox.map(str::to_owned),
            drain_until_at,
            reason: f.reason.to_owned(),
            told: f.told,
            last_error: f.last_error,
            changed_at: f.changed_at.0,
            grant_hash: f.grant.as_ref().map(|g| g.hash().to_string()),
            grant: f.grant.as_ref().map(|g| STANDARD.encode(g.to_bytes())),
        }
    }
}

/// Limits of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FriendTerms {
    /// Bytes of all stored messages.
    pub quota_bytes: u64,
    /// Stored messages.
    pub quota_msgs: u32,
    /// Bytes of one sealed message.
    pub max_msg_bytes: u32,
    /// Longest time that a message is kept, in seconds.
    pub max_ttl_s: u32,
    /// Stored messages of one contact.
    pub per_contact_msgs: u32,
    /// Bytes that one contact may deposit within a day.
    pub per_contact_day_bytes: u64,
    /// Part of the quotas for senders who are no contacts.
    pub open_share_percent: u32,
    /// Who may deposit: 1 contacts; 2 others too, with proof of work; 3 everybody with proof of work.
    pub policy: u32,
}

impl From<Terms> for FriendTerms {
    fn from(t: Terms) -> Self {
        Self {
            quota_bytes: t.quota_bytes,
            quota_msgs: t.quota_msgs,
            max_msg_bytes: t.max_msg_bytes,
            max_ttl_s: t.max_ttl_s,
            per_contact_msgs: t.per_contact_msgs,
            per_contact_day_bytes: t.per_contact_bytes_day,
            open_share_percent: t.open_share_percent,
            policy: t.policy,
        }
    }
}

/// Wanted limits; what is left out has its default in an offer, and stays as offered in an acceptance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WantedTerms {
    /// Bytes of all stored messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Stored messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_msgs: Option<u32>,
    /// Bytes of one sealed message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msg_bytes: Option<u32>,
    /// Longest time that a message is kept, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl_s: Option<u32>,
    /// Stored messages of one contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_contact_msgs: Option<u32>,
    /// Bytes that one contact may deposit within a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_contact_day_bytes: Option<u64>,
    /// Part of the quotas for senders who are no contacts, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_share_percent: Option<u32>,
    /// 1 contacts; 2 others too, with proof of work; 3 everybody with proof of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<u32>,
}

impl From<WantedTerms> for Wanted {
    fn from(w: WantedTerms) -> Self {
        Self {
            quota_bytes: w.quota_bytes,
            quota_msgs: w.quota_msgs,
            max_msg_bytes: w.max_msg_bytes,
            max_ttl_s: w.max_ttl_s,
            per_contact_msgs: w.per_contact_msgs,
            per_contact_bytes_day: w.per_contact_day_bytes,
            open_share_percent: w.open_share_percent,
            policy: w.policy,
        }
    }
}

/// Whom to ask, and for what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfferFriend {
    /// Address or name.
    pub to: String,
    /// Limits; default 64 MiB, 4096 messages, 257 KiB each, 14 days.
    #[serde(default)]
    pub terms: WantedTerms,
    /// How long it is valid, in seconds, at most 90 days, which is the default; it is renewed by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u64>,
    /// Friends with a smaller number are asked first by senders.
    #[serde(default)]
    pub priority: u32,
    /// Wait so many milliseconds for the answer; 0: do not.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Whose offer to accept, and with which limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptFriend {
    /// Address, name or grant id.
    pub target: String,
    /// Lowered limits.
    #[serde(default)]
    pub terms: WantedTerms,
}

/// Whose offer to decline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclineFriend {
    /// Address, name or grant id.
    pub target: String,
}

/// Which friendship to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeFriend {
    /// Address, name or grant id.
    pub target: String,
    /// `held_by` or `holding_for`, when each of the two nodes holds messages for the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// How long what is stored can be collected, in seconds; default 7 days, at most 30, at least 7 when this node
    /// resigns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_s: Option<u64>,
}

/// What to look up.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListedOptions {
    /// Fetch each grant and verify both signatures; default false.
    #[serde(default)]
    pub verify: bool,
}

/// Friends that a node's record lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedFriends {
    /// The node.
    pub address: String,
    /// Its friends, the first to ask first.
    pub friends: Vec<ListedFriend>,
}

/// A friend in a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedFriend {
    /// The friend.
    pub address: String,
    /// Smaller is asked first.
    pub priority: u32,
    /// Hash of the grant, hex; empty when the record names none.
    pub grant_hash: String,
    /// `null` unless asked: whether the grant could be fetched, is the one that the record lists, is signed by both and
    /// holds now.
    pub verified: Option<bool>,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// When the fetched grant ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Limits of the fetched grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<FriendTerms>,
}
