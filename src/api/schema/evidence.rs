//! Shapes of scores and evidence.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::message::{
    friend::Score,
    mailbox::{
        StoredReceipt,
        evidence::{Broken, Standing},
    },
};

/// Promises of a friend to keep messages that were checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Promises {
    /// All of them.
    pub checked: u64,
    /// Kept.
    pub kept: u64,
    /// Broken.
    pub broken: u64,
    /// Not accounted for, though the friend was there.
    pub refused: u64,
}

impl From<Score> for Promises {
    fn from(score: Score) -> Self {
        Self { checked: score.checked(), kept: score.kept, broken: score.broken, refused: score.refused }
    }
}

/// Whose evidence to show.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EvidenceOptions {
    /// Address, name or grant id; default: all friends that were ever checked.
    pub friend: Option<String>,
}

/// How friends keep their promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// By friend.
    pub friends: Vec<FriendEvidence>,
}

impl From<Vec<Standing>> for Evidence {
    fn from(standings: Vec<Standing>) -> Self {
        Self { friends: standings.into_iter().map(Into::into).collect() }
    }
}

/// How one friend keeps its promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FriendEvidence {
    /// The friend.
    pub address: String,
    /// How many of the checked promises it has kept, in percent; `null`: none was checked.
    pub score: Option<u8>,
    /// What was checked.
    pub promises: Promises,
    /// When that changed last.
    pub changed_at: u64,
    /// The first broken ones, at most 64.
    pub broken: Vec<BrokenPromise>,
}

impl From<Standing> for FriendEvidence {
    fn from(s: Standing) -> Self {
        Self {
            address: s.friend.to_string(),
            score: s.score.percent(),
            promises: s.score.into(),
            changed_at: s.changed_at.0,
            broken: s.broken.into_iter().map(Into::into).collect(),
        }
    }
}

/// A broken promise, with everything that shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BrokenPromise {
    /// The sealed part; of a message of one part that is its id.
    pub id: String,
    /// `lost`, `never_held`, `false_withdrawal`, `false_ack` or `withheld`.
    pub why: String,
    /// The same for people.
    pub text: String,
    /// Whether the friend's signatures contradict each other, so that it is proven to anybody; else only this node knows.
    pub proof: bool,
    /// When it was found out, by the clock here.
    pub at: u64,
    /// What the friend signed when it took the part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// What it answered, in words.
    pub answer: String,
    /// When, by its clock.
    pub answered_at: u64,
    /// Whether all signatures were verified just now, and say so.
    pub verified: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The grant with both signatures, base64.
    pub grant: String,
    /// The signed list of receipts, base64.
    pub receipts: String,
    /// By the friend, over the owner's address and the list; base64.
    pub receipts_signature: String,
    /// The answer, base64.
    pub account: String,
    /// By the friend, over the owner's address and the answer; base64.
    pub account_signature: String,
}

impl From<Broken> for BrokenPromise {
    fn from(b: Broken) -> Self {
        Self {
            id: b.id.to_string(),
            why: b.why.code().to_owned(),
            text: b.why.text().to_owned(),
            proof: b.why.is_proof(),
            at: b.at.0,
            promise: b.receipt.map(Into::into),
            answer: b.answer.to_owned(),
            answered_at: b.answered_at.0,
            verified: b.verified.is_ok(),
            problem: b.verified.err().unwrap_or_default().to_owned(),
            grant: STANDARD.encode(b.grant),
            receipts: STANDARD.encode(&b.receipts.entries),
            receipts_signature: STANDARD.encode(&b.receipts.signature),
            account: STANDARD.encode(b.account),
            account_signature: STANDARD.encode(b.account_signature),
        }
    }
}

/// What a friend signs for a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Promise {
    /// The mailbox.
    pub grant_id: String,
    /// When it took the part, by its clock.
    pub stored_at: u64,
    /// Until when it keeps it.
    pub expires_at: u64,
    /// The part's number in the mailbox.
    pub queue_number: u64,
    /// Hash of the secret that takes the part back, hex.
    pub withdraw_hash: String,
}

impl From<StoredReceipt> for Promise {
    fn from(r: StoredReceipt) -> Self {
        Self {
            grant_id: r.grant.to_string(),
            stored_at: r.stored_at.0,
            expires_at: r.expires_at.0,
            queue_number: r.queue_seq,
            withdraw_hash: r.withdraw.to_string(),
        }
    }
}
