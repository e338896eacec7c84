//! Evidence: a friend that signed for a part and lost it can be proven wrong (spec `mail.md` 3.5).
//!
//! ```text
//!   sender                              owner                                    friend
//!  ┌──────────────┐  message/claim/1   ┌─────────────────────┐ mailbox/account/1 ┌──────────────────┐
//!  │ claimant     │ ── what the ─────▶ │ auditor             │ ── what became ─▶ │ holder           │
//!  │  claims      │    friend signed   │  judge: kept?       │    of these?      │  reads what is   │
//!  │  kept: lists │ ◀─ done, later ─── │  ledger: score,     │ ◀─ signed ─────── │  durable, signs  │
//!  └──────┬───────┘                    │  evidence           │    account        │  (account.rs)    │
//!         │ withdraws, once it is done └─────────────────────┘ ── pull by number ▶└──────────────────┘
//!         └────────────────────────────────────────────────────────────────────▶
//! ```
//! * **The promise** is a [`StoredReceipt`](super::StoredReceipt): this part is kept until then, unless its owner acknowledges it or its
//!   depositor takes it back. The sender keeps the signed lists until they are settled, once each (`kept.rs`).
//! * **The claim.** When a message has ended as delivered the sender tells the recipient what its friends signed for it, by a
//!   protocol of its own, so that delivery does not wait for it. Only after that it takes back what it left: a friend that was told to
//!   give a part up owes it no more. A claim that cannot be settled now is made again, with growing pauses and when the recipient
//!   connects, over restarts, until the promise ends.
//! * **The check.** What the friend gave us when we collected is kept (`served.rs`). Of the rest the owner asks what became of it. Each
//!   honest answer can be shown: *held*, by giving the part when it is pulled by its queue number; *acknowledged*, by the token that came
//!   with the owner's acknowledgement; *taken back*, by the preimage that only the depositor had. The answer is signed, with a nonce and
//!   the friend's time (`account.rs`), and judged by `judge.rs`, where the table of verdicts stands.
//! * **The score** is how many of the checked promises were kept. What cannot be judged does not count. A friend that is there and
//!   gives no account that can be judged, three times, loses those points without evidence. The score is shown, and nothing else
//!   follows from it by itself: to lower a friend's priority or to drop it is for its owner to decide. Senders do not see it.
//! * **Evidence** is the grant, the signed receipt and the signed account: two signatures of the friend that contradict each other,
//!   for anybody to verify. Two kinds ([`Why::FalseAck`], [`Why::Withheld`]) prove it to the owner only. A friend that is accused
//!   by others may show a revocation of the owner that is newer than the receipt; the owner itself does not judge such receipts.
//!
//! # Who is blamed, and who is not
//! | what happened | what follows |
//! |---|---|
//! | the friend died before its write was synced | it never signed: nothing to claim |
//! | it restored a backup from before the deposit | blamed: it has lost the part |
//! | it restored a backup from before the acknowledgement | it shows the part: kept |
//! | the owner restored a backup | not blamed: the tokens show what the owner acknowledged in the future that it lost |
//! | the sender took it back and claims | not blamed: the preimage is in the tombstone |
//! | the sender makes receipts up | they are not signed by the friend for this owner and mailbox |
//! | a pull, an acknowledgement or a withdrawal is under way | the account and the part come from what is durable, asked up to three times |
//! | the promise ends within 10 minutes by either clock | not judged |
//! | the friend's clock is wrong by more, and excuses it | no evidence, a point lost the third time |
//! | the friendship ended, and was agreed again | receipts from before are not judged; while it drains, those of the last grant are |
//! | more tombstones than are kept | it says so: not judged |
//! | the friend has lost the part, and a copy from elsewhere was acknowledged to it before the claim | an honest one says so and is blamed; a liar has a token and is not judged |
//!
//! A friend can earn a good score with messages that it sends itself by way of itself; it cannot get rid of a broken promise.
//!
//! # Limits
//! A claim: one signed list, 64 parts; 32 wait, 8 are looked into, 10 a second from a peer, and none twice. Parts shown: 64 MiB an hour.
//! Evidence: 64 of each friend, the earliest; judged parts that are remembered: 65536 of each friend, until their promise ends at most.
//! Scores of 256 friends. Parts that friends gave us lately: 32768. At the sender: 65536 messages in memory, the rest at the next start.

mod account;
mod auditor;
mod claimant;
mod claims;
mod handle;
mod judge;
mod kept;
mod ledger;
mod served;
mod wire;

#[cfg(test)]
pub(in crate::message) mod tests;

pub(super) use account::{Fate, Tokens, purpose};
pub use auditor::BrokenPromise;
pub(super) use auditor::{Auditor, Deps};
pub(in crate::message) use claimant::{Claimant, Ended, QUEUE};
pub(in crate::message) use claims::Settle;
pub use handle::{Broken, Handle, Standing};
pub use judge::{Judged, Why};
#[cfg(test)]
pub(super) use judge::{Verdict, judge};
pub(in crate::message) use kept::keep;
pub(super) use served::Served;
pub use wire::{Audit, Claim};
