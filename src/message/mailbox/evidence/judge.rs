//! Was a promise kept? No I/O: what was signed, what was answered and the times are arguments.
//!
//! | the friend says | and | verdict |
//! |---|---|---|
//! | held | | it has to show it: [`Verdict::Show`] |
//! | acknowledged | with our token | nothing to judge: it did its work, or we had it from elsewhere |
//! | acknowledged | with another token | broken ([`Why::FalseAck`]): we know, others have our word |
//! | taken back | with the preimage of the receipt's hash | nothing to judge |
//! | taken back | with something else | broken ([`Why::FalseWithdrawal`]) |
//! | acknowledged, never held | | broken ([`Why::NeverHeld`]): it signed that it had it |
//! | unknown | | broken ([`Why::Lost`]) |
//! | forgotten | | nothing to judge: we had it remember more than it has to |
//!
//! Before all that: near or past the end of the promise by the friend's own clock there is nothing to judge, unless that clock is
//! wrong ([`Verdict::Strike`]); and receipts from before the friendship last ended, or of another mailbox, are not judged.

use super::account::Fate;
use crate::{
    message::{friend::Grant, mailbox::StoredReceipt},
    primitives::{Hash, PeerId, UnixMillis, limits::CLOCK_SKEW},
};

/// A friend whose promises are judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// Who.
    pub friend: PeerId,
    /// What it agreed to.
    pub grant: Grant,
    /// Receipts before this are not judged: the friendship had ended meanwhile.
    pub since: UnixMillis,
    /// Until when it owes us what it holds.
    pub until: UnixMillis,
}

impl Judged {
    /// Whether the friend owes us this part for long enough yet that no clock is a reason to have dropped it.
    pub(super) fn covers(&self, receipt: &StoredReceipt, now: UnixMillis) -> bool {
        let ours = receipt.grant == self.grant.offer.grant_id && receipt.stored_at >= self.since;
        ours && now.plus(CLOCK_SKEW) < receipt.expires_at.min(self.until)
    }
}

/// How a promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It signed that it keeps the part, and then that it knows nothing of it.
    Lost,
    /// It signed that it keeps the part, and then that it did not have it.
    NeverHeld,
    /// It says that the sender took the part back, and cannot show that.
    FalseWithdrawal,
    /// It says that we acknowledged the part, and we did not.
    FalseAck,
    /// It says that it has the part, and does not give it to us under the number that it signed.
    Withheld,
}

impl Why {
    const ALL: [Self; 5] = [Self::Lost, Self::NeverHeld, Self::FalseWithdrawal, Self::FalseAck, Self::Withheld];

    /// Codes in the store never change.
    pub(super) fn to_wire(self) -> u32 {
        Self::ALL.into_iter().zip(1..).find_map(|(why, n)| (why == self).then_some(n)).unwrap_or(0)
    }

    pub(super) fn from_wire(code: u32) -> Option<Self> {
        Self::ALL.into_iter().zip(1..).find_map(|(why, n)| (n == code).then_some(why))
    }

    /// Whether the two signatures of the friend contradict each other, so that it is proven to anybody; else what it signed is
    /// wrong as far as this node knows.
    #[must_use]
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Lost | Self::NeverHeld | Self::FalseWithdrawal)
    }

    /// A word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::NeverHeld => "never_held",
            Self::FalseWithdrawal => "false_withdrawal",
            Self::FalseAck => "false_ack",
            Self::Withheld => "withheld",
        }
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Lost => "it signed that it keeps the part, and then that it knows nothing of it",
            Self::NeverHeld => "it signed that it keeps the part, and then that it did not have it",
            Self::FalseWithdrawal => "it says that the sender took the part back, and cannot show that",
            Self::FalseAck => "it says that this node acknowledged the part, which it did not",
            Self::Withheld => "it says that it has the part, and does not give it under the number that it signed",
        }
    }
}

/// What an answer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::message::mailbox) enum Verdict {
    /// It has to show the part.
    Show,
    /// There is nothing to judge.
    Excused,
    /// It cannot be judged, and that is the friend's fault.
    Strike,
    Broken(Why),
}

/// Judges what a friend says at `at` (its clock) about a part that it owes at `now` (ours). `acked`: whether a token is ours for this
/// part and friend.
pub(in crate::message::mailbox) fn judge(
    receipt: &StoredReceipt,
    fate: Fate,
    (at, now): (UnixMillis, UnixMillis),
    acked: impl FnOnce(&[u8; 32]) -> bool,
) -> Verdict {
    match fate {
        Fate::Acked(token) if acked(&token) => return Verdict::Excused,
        Fate::Withdrawn(preimage) if Hash::of(&preimage) == receipt.withdraw => return Verdict::Excused,
        Fate::Forgotten => return Verdict::Excused,
        _ => {}
    }
    if at.plus(CLOCK_SKEW) >= receipt.expires_at {
        let wrong = at.since(now).max(now.since(at)) > CLOCK_SKEW;
        return if wrong { Verdict::Strike } else { Verdict::Excused };
    }
    match fate {
        Fate::Held => Verdict::Show,
        Fate::Acked(_) => Verdict::Broken(Why::FalseAck),
        Fate::Withdrawn(_) => Verdict::Broken(Why::FalseWithdrawal),
        Fate::Never => Verdict::Broken(Why::NeverHeld),
        Fate::Unknown => Verdict::Broken(Why::Lost),
        Fate::Forgotten => Verdict::Excused,
    }
}
