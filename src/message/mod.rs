//! L4: messages from node to node, sealed, durable on both sides, with a receipt signed by the recipient.
//!
//! ```text
//!            Handle::send                                  Handle::inbox, read, remove
//!                │ draft                                              │
//!  ┌─────────────▼──────────────┐                        ┌────────────▼───────────┐
//!  │ intake: sign, seal, commit │                        │ desk: read marks, rm,  │
//!  └─────────────┬──────────────┘                        │ cleaning               │
//!                │ durable                               └────────────────────────┘
//!  ┌─────────────▼──────────────┐   message/deliver/1    ┌────────────────────────┐
//!  │ sender (actor)             │ ─ batch of parts ────▶ │ receiver (actor)       │
//!  │  outbox (machine): queues, │                        │  inbox (machine): seen?│
//!  │  windows, retries, states  │ ◀─ codes and receipt ─ │  room? whole? turn?    │
//!  └──────▲──────┬──────────────┘                        └────────────▲───────────┘
//!         │      │ recipient away: mailbox/deposit/1                  │ collected by `mailbox`
//!   net, map     └────────────────────────────────▶ its friends ──────┘ commit, then sign
//! ```
//!
//! * **A head start.** All parts of a large message but the last go to a recipient that is there while later ones are still being
//!   sealed and written; the last one goes when the message is durable (`outbox/early.rs`). What a crash before that leaves at the
//!   recipient is incomplete for ever, is never shown, and ends as any incomplete message does.
//! * **Promises.** When `send` returns, the message is synced to disk. `Delivered` is only shown on the recipient's signature
//!   over the message's id, and the recipient signs only what it has synced. A message is in the inbox once, whatever is
//!   retried, sealed again or restarted, also after it was removed there: seen marks live longer than any message.
//! * **States** go forward only: queued → sent → stored → delivered, or expired, refused, cancelled. `Stored`: a friend that the
//!   recipient chose ([`friend`]) holds all parts in its mailbox ([`mailbox`]) and signed for that. It never stands for `Delivered`.
//! * **Receipts** come with the answer to a direct try; for what was collected from a friend the recipient brings them, or leaves them
//!   with the sender's own friends while the sender stays away (`mailbox`): so two nodes that never meet can write to each other.
//! * **Offline recipients.** When a direct try fails, all parts go to the best two friends that the recipient's record lists, in
//!   parallel; one that does not answer or has no room pauses, and the next one takes its place. Direct tries go on. Friends take the
//!   same sealed parts, under the same ids, and what is collected from them comes in by the same door as what peers deliver. Who holds
//!   a message, and who refused it and why, is stored with it. After a direct delivery friends are told that they need not keep it.
//! * **Who may leave messages.** Contacts ([`contacts`]), with a deposit key that both sides derive; others prove work for each part,
//!   where the grant lets them in at all. What friends signed is kept until it is settled with the recipient, so a friend that lost a
//!   message is found out ([`mailbox::evidence`]). A friend that is full is tried again after a pause; when the recipient has collected,
//!   it greets the contacts that were refused (`mailbox/resume.rs`), and they try directly. A recipient that answers but has no room is
//!   waited for: nothing is left with its friends then.
//! * **Sealing** happens once, when the message is sent; a part's id is the hash of its sealed form (`envelope.rs`). When the
//!   recipient has lost the key (NEED_RESEAL) the sender, who keeps each part's symmetric key beside it, seals again with
//!   the same stream and sequence number. The id that the user got stays; later ids are kept with it, and a receipt for any of them counts.
//! * **Batches.** A request carries up to 64 parts or 1 MiB: one round trip, one commit, one receipt signature. Nothing waits
//!   for a batch to fill; what gathers while requests are in flight makes the next.
//! * **Order.** Messages of one sender are shown in the order in which `send` accepted them, in `inbox` as in events. What comes early is
//!   durable and receipted at once and waits for its turn (`order.rs`), ten seconds at most, a minute while friends are still asked; then
//!   it is shown with a mark of how many are missing before it, and what comes after its turn is marked late. A recipient asks the sender
//!   for what is missing (`message/missing/1`): it sends again what it still has, and says what has expired, was refused or cancelled,
//!   so that nobody waits for that. Large messages have no way around: what is behind one waits for it as long as for any other.
//!   Between senders, and between two streams of one sender (a new one begins when a backup is restored), no order is promised.
//!
//! # Differences from the design
//! Each stands where it is built: ids and signatures over BLAKE3 (`envelope.rs`), derived deposit keys ([`contacts`]), and what mailboxes
//! do otherwise ([`mailbox`]). Beyond these, `prev_hash` stays empty: a message's place and floor say how much is missing and whether it
//! can still come. There is no state `read`: nobody is told what a user has read. Senders ask friends in the order of their
//! priority, not of a score: scores belong to the owner and are not published. Several devices of one owner are not here yet.
//!
//! # Limits
//! Body: `message.max_bytes`. Outbox and inbox: bytes from the configuration, 200000 pending messages. Incomplete messages: see
//! `inbox`. Full is an answer (`Full`, `inbox_full`), never an eviction. Queues are bounded constants beside their use.
//!
//! # Security
//! Senders are proven by a signature inside the sealed part, which also names the recipient. The connection's peer need not be the
//! sender. What is in the data directory is not encrypted again: bodies of the inbox are plain there, and parts of the outbox lie
//! beside their keys until they are delivered. File names are hostile text and never used as paths.

mod age;
mod config;
pub mod contacts;
mod desk;
mod envelope;
pub mod friend;
mod handle;
mod inbox;
mod intake;
mod keys;
mod lanes;
mod leaving;
pub mod mailbox;
mod metrics;
mod missed;
mod order;
mod outbox;
mod receipt;
mod receiver;
mod recipients;
mod sender;
mod service;
mod shared;
mod store;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use handle::*;
pub use metrics::Metrics;
pub use service::{Deps, Service, ServiceError};
pub use wire::{Deliver, Missing};
