//! Friend VOS: who holds messages for whom, agreed by two signatures that anybody can verify.
//!
//! ```text
//!   Handle::offer, revoke     Handle::accept, decline, revoke     Handle::held (watch) ──▶ mailbox
//!          │                            │                         Handle::friends_of   ──▶ sender
//!  ┌───────▼────────────────────────────▼───────────────────┐
//!  │ service (actor): decide → commit → tell, show, publish │──▶ map: our record lists active friends
//!  │   owner (machine)              holder (machine)        │
//!  │   whom we asked                who asks us: quotas,    │──▶ events, metrics
//!  │        │                       policy    │             │
//!  │        └── relation: one friendship, only grows        │
//!  └───────▲────────────────────────────────────────────────┘
//!          │ friend/1: offer, grant, revocation, decline, get
//!       other nodes
//! ```
//!
//! # What is signed (`grant.rs`)
//! The *owner* signs an offer (`vos-grant/1`); the *friend* signs an acceptance over its hash, under quotas that may be
//! lower but not higher (`vos-accept/1`). Both together are the **grant**: nothing else means anything. Either side
//! ends it by a **revocation** (`vos-revoke/1`): all grants between the two up to an epoch are void for deposits at
//! once, and what is stored can be collected until `drain_until`: by default 7 days, at least that when the friend
//! resigns. A **decline** is signed (`vos-decline/1`), so that no answer is taken back by accident.
//!
//! Epochs rise with everything an owner signs about friends, from Unix milliseconds: a restored backup does not use one
//! again.
//!
//! # How the two sides agree (`relation.rs`)
//! Every statement is merged into a structure that only grows, and the answer is what is known afterwards. So the
//! protocol has no order and no duplicates: any message may be lost, late, or repeated, and both end with the same; no
//! state of a grant is ever taken back. What we signed last is told until the other side has it: at once, when it
//! connects, and with a pause that doubles up to 15 minutes. When two connect that have not compared for an hour they
//! do, so what a restored backup forgot comes back: each side keeps what both have signed.
//!
//! # Renewal
//! When less than a third of its time is left, the owner offers the grant again with `prev` naming it, under the
//! accepted terms; the friend accepts by itself what is not larger. The mailbox's id (`grant_id`) stays for as long as
//! the two know each other, also over an end and a new agreement, so what is stored is never orphaned. (The spec leaves
//! open whether a renewal gets a new id; with one, senders that hold an older record would deposit into a queue that is
//! gone.) A friend may decline larger terms: what was agreed goes on.
//!
//! # Where this differs from the spec
//! * A revocation ends the grants *between the two*, not all grants of the owner up to an epoch: else dropping one
//!   friend would drop all. The record's `grant_epoch` rises with every grant and every end.
//! * `max_msg_bytes` starts at 257 KiB: a message padded to 256 KiB is a little longer when it is sealed.
//! * Declining is signed, too.
//!
//! # Limits
//! 8 friends asked or active, as a record lists. Held for others: `friend.max_grants`, their quotas within
//! `friend.max_bytes` and the disk's reserve; what is accepted without a person is lowered to the room there is. 64
//! offers wait for a person, one for each owner; 1024 ended friendships are remembered on the friend's side, 256 on the
//! owner's. Statements: 512 bytes each, 10 a second from a peer.
//!
//! # Security
//! Only the two parties can tell each other something about their friendship (the connection proves who speaks), and
//! nothing is believed but signatures. Two offers with one epoch: the first counts. Grants can be fetched by whoever
//! knows their hash, which records publish. Nothing is stored for strangers but their offer while it waits and the end
//! of what they offered.

mod config;
mod grant;
mod handle;
mod holder;
mod metrics;
mod owner;
mod relation;
mod service;
mod store;
mod terms;
mod wire;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::agreed;

pub use config::{Accept, Config};
pub use grant::{Decline, Grant, GrantError, Offer, Party, Reason, Revocation, Verifier};
pub(super) use grant::{terms_in, terms_out};
pub use handle::{Event, Figure, FriendError, Friendship, Handle, Held, Score, Target, state_name};
pub use metrics::Metrics;
pub use relation::{Hold, Side, State};
pub use service::{Deps, Service};
pub use terms::{POLICY_CONTACTS, POLICY_CONTACTS_POW, POLICY_OPEN_POW, Terms, Wanted};
pub use wire::Protocol;
