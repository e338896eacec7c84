//! Tests of evidence: golden bytes, noise, verdicts, and the machine of claims. The whole way over real services is in
//! `message/tests/evidence.rs`; over crashes and restored backups, seeded, in `mailbox/tests/sim.rs`.

mod account;
mod claims;
mod judge;
mod ledger;
pub(in crate::message) mod liar;
mod vectors;

use crate::{
    identity::Identity,
    message::mailbox::StoredReceipt,
    primitives::{GrantId, Hash, MessageId, UnixMillis},
};

const START: UnixMillis = UnixMillis(1_700_000_000_000);
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn identity(seed: u8) -> Identity {
    Identity::from_keypair(libp2p::identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap())
}

/// A promise for a day.
fn receipt(n: u8) -> StoredReceipt {
    StoredReceipt {
        id: MessageId([n; 32]),
        grant: GrantId([7; 16]),
        stored_at: START,
        expires_at: START.plus(24 * HOUR),
        queue_seq: n.into(),
        duplicate: false,
        withdraw: Hash::of(&[n; 32]),
    }
}
