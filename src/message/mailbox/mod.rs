//! Mailboxes: what a node keeps for the owners whose friend it is, and how an owner collects it (spec `mail.md` 3.4, 3.5, 3.7).
//!
//! ```text
//!   sender                            holder (a friend)                          owner
//!  ┌───────────┐  mailbox/deposit/1  ┌──────────────────────┐  mailbox/pull/1   ┌────────────────────────────┐
//!  │ Depositor │ ── sealed parts ──▶ │ holder (actor)       │ ◀──── after ───── │ collect (actor)            │
//!  │           │ ◀─ signed receipt ─ │  machine: grants,    │ ───── page ─────▶ │  collector (machine):      │
//!  └───────────┘  mailbox/desk/1     │  quotas, tombstones, │                   │  cursors, acks, pauses     │
//!      ▲          ── withdraw ─────▶ │  markers             │  mailbox/desk/1   └───────┬────────────────────┘
//!      │                             │ store                │ ◀── acks, keys ──         │ like a peer's request
//!      │                             └──────────────────────┘  mailbox/hint/1   ┌───────▼──────┐ durable ┌─────────┐
//!      │                                        ── there is mail ─────────────▶ │ the receiver │ ──────▶ │ courier │
//!      │                                                                        └──────────────┘         └────┬────┘
//!      └─────────────────────── message/receipt/1, or its own friends: delivered ─────────────────────────────┘
//! ```
//!
//! * **Promises.** A holder signs a [`StoredReceipt`] only for what is synced; it keeps that until the owner acknowledges it, the
//!   sender takes it back, its time is over or the grant has drained; never is accepted mail evicted for newer mail. The same deposit
//!   gives the same receipt. What an owner acknowledged leaves a tombstone and is refused until 7 days after its end.
//! * **Owners** acknowledge only what is durable in their inbox (or can never be used), by explicit ids and to all friends. Pulled parts
//!   go through the receiver like parts of a peer, so a message is delivered once over any number of holders and direct tries.
//! * **Receipts** for the sender are durable before the message is acknowledged to a friend, and are brought when the sender is
//!   reached. While it stays away they are also left, sealed for it, with its own friends: one letter for up to 64 messages (`owed.rs`),
//!   which its collector settles with the outbox before it acknowledges it, and never shows. However it comes, the outbox takes a
//!   receipt exactly like one in a deliver answer. No receipt is ever answered by one.
//! * **Numbers** of a queue have no gap and go on over renewed grants: a receipt's number says where the part must be found.
//! * **Evidence.** A friend that signed for a part and lost it is found out and proven wrong: [`evidence`].
//! * **What is deposited** are the sealed parts of `envelope.rs`; a message of several parts is several deposits.
//!
//! # Differences from the spec
//! * One queue an owner, not a grant: a renewal keeps it without moving anything, and a pull needs no grant id.
//! * A protocol for each kind of request instead of one for all, and no waiting pull: the rpc server reserves memory for the longest
//!   answer, so a thousand owners who wait for a page of 1 MiB would use all of it. A connected owner gets a hint within a moment
//!   instead.
//! * `TOO_LARGE` counts a sealed part, not a whole message.
//! * A message that cannot be opened is acknowledged as unusable: left there, a stranger's junk would fill the mailbox. The sender has
//!   it until it is receipted, and seals it again when it is told so by a direct try.
//! * Not here yet: several devices of one owner, and acknowledging per device.
//!
//! # Limits
//! By the grant: parts, bytes, size, time, each contact's parts and bytes a day, the open share. Over all owners: `friend.max_bytes`
//! and the disk's reserve. One peer: 32 MiB a second, charged before anything is verified. Memory: counts only, nothing for each message.
//! Constants stand beside their use.
//!
//! # Privacy
//! | a holder sees | what limits that |
//! |---|---|
//! | whose mailbox it is, and when that node collects | collecting follows hints and a timer with jitter, not the sender; the owner may be reached through a relay |
//! | which node brought a deposit, and from which IP | the sender is named only inside the sealed part; a relay hides the IP |
//! | a contact's deposit key, how often it is used, how much it leaves | each contact has another key at each friend, so two friends cannot match them, and no key says who it is; sizes are padded to 1, 4, 16, 64 or 256 KiB |
//! | that a deposit came from a stranger | it carries work instead of a key |
//! | what was acknowledged, taken back or ran out, and when | ids are hashes of sealed parts; receipts travel as parts like others |
//! | that the owner asks what became of a part | not which sender told the owner of it |
//! | no content, file name, sender or order, nor which message answers which | all of it is sealed to the owner's key |
//!
//! Not hidden are the amount and the time of all of it.
//!
//! # Security
//! Deposits need a registered key or work on their id, so a stranger can neither fill a mailbox nor take a contact's share. Only the
//! owner's own connection pulls, acknowledges and registers keys. An altered part does not match its id and counts as bad at that
//! friend only.

mod collect;
mod collector;
mod courier;
mod depositor;
pub mod evidence;
mod grant;
mod handle;
mod holder;
mod machine;
mod metrics;
mod owed;
mod proof;
mod rates;
mod refusal;
mod resume;
mod service;
mod store;
mod turn;
mod wire;

#[cfg(test)]
mod tests;

pub use collect::{FriendStats, Refused};
pub use depositor::{Account, DepositError, Deposited, Depositor, Part, Place};
pub use grant::{DRAIN, Grant};
pub use handle::{Handle, Stopped};
pub use holder::OwnerStats;
pub use machine::{GrantError, MESSAGE_COST, Marker, WORK_BITS, Who};
pub use metrics::Metrics;
pub use proof::{SignedReceipts, StoredReceipt, work};
pub use refusal::Refusal;
pub use service::Ends;
pub(super) use service::{Deps, Service};
pub use wire::{Deposit, Desk, Hint, Pull, Receipts};
pub(super) use wire::{letter, read_letter};
