//! A friend's account: what became of parts that it signed for, signed by it; and the tokens that come with acknowledgements.
//!
//! ```text
//!  friend signs  "vos-account/1/<network>" | owner | nonce (16) | at (8) | entries: message id (32) | fate (1) | secret (32)
//!  fate          0 unknown   1 held   2 acknowledged, secret: the owner's token   3 taken back, secret: the preimage
//!                4 acknowledged, but never held   5 forgotten: more tombstones than are kept
//!  token         keyed BLAKE3 over friend | message id; the key is drawn from a signature that nobody else ever sees
//! ```
//! A token shows the owner, also after it restored a backup, that it acknowledged this part to this friend. It cannot be made up, and
//! the token for one friend does not serve another one.

use bytes::{BufMut as _, Bytes};
use tracing::warn;

use super::{
    super::{
        holder::{Done, Holder},
        machine::TOMBSTONES,
        wire::Token,
    },
    wire::{self, Audit},
};
use crate::{
    identity::{self, Identity, Purpose},
    net::rpc,
    primitives::{MessageId, NetworkId, PeerId, UnixMillis},
    store::StoreError,
    wire::Status,
};

/// Parts in one account: as many as one stored receipt names.
pub(in crate::message::mailbox) const ACCOUNT_IDS: usize = 64;
/// Bytes of what comes before the entries, and of one entry.
pub(super) const HEAD: usize = 16 + 8;
pub(super) const ENTRY: usize = 32 + 1 + 32;

/// What became of a part, as a friend says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::message::mailbox) enum Fate {
    /// It says that it knows nothing of it.
    Unknown,
    /// It has it.
    Held,
    /// It had it until the owner acknowledged it with this token.
    Acked(Token),
    /// It had it until its depositor took it back with this preimage.
    Withdrawn([u8; 32]),
    /// The owner acknowledged it when it was not there.
    Never,
    /// It may have been acknowledged: the owner has more tombstones there than are kept.
    Forgotten,
}

impl Fate {
    fn to_wire(self) -> (u8, [u8; 32]) {
        match self {
            Self::Unknown => (0, [0; 32]),
            Self::Held => (1, [0; 32]),
            Self::Acked(token) => (2, token),
            Self::Withdrawn(preimage) => (3, preimage),
            Self::Never => (4, [0; 32]),
            Self::Forgotten => (5, [0; 32]),
        }
    }

    fn from_wire(fate: u8, secret: [u8; 32]) -> Option<Self> {
        Some(match fate {
            0 => Self::Unknown,
            1 => Self::Held,
            2 => Self::Acked(secret),
            3 => Self::Withdrawn(secret),
            4 => Self::Never,
            5 => Self::Forgotten,
            _ => return None,
        })
    }

    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "it knows nothing of it",
            Self::Held => "it has it",
            Self::Acked(_) => "it was acknowledged",
            Self::Withdrawn(_) => "its sender took it back",
            Self::Never => "it did not have it when it was acknowledged",
            Self::Forgotten => "it has forgotten whether it was acknowledged",
        }
    }
}

/// An account as it travels, and as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SignedAccount {
    /// Nonce, time, entries.
    pub(super) text: Bytes,
    /// By the friend.
    pub(super) signature: Bytes,
}

/// What an account says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Account {
    pub(super) nonce: [u8; 16],
    /// By the friend's clock.
    pub(super) at: UnixMillis,
    pub(super) fates: Vec<(MessageId, Fate)>,
}

impl Account {
    /// Of one part; `None`: it is not named, or twice.
    pub(super) fn fate(&self, id: &MessageId) -> Option<Fate> {
        let mut found = self.fates.iter().filter(|(named, _)| named == id).map(|(_, fate)| *fate);
        found.next().filter(|_| found.next().is_none())
    }
}

/// The purpose of accounts.
pub(in crate::message::mailbox) fn purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-account/1", network)
}

/// Signs an account to an owner.
pub(super) fn sign(identity: &Identity, purpose: &Purpose, owner: &PeerId, account: &Account) -> SignedAccount {
    let mut text = Vec::with_capacity(HEAD + account.fates.len() * ENTRY);
    text.put_slice(&account.nonce);
    text.put_u64(account.at.0);
    for (id, fate) in &account.fates {
        let (fate, secret) = fate.to_wire();
        text.put_slice(&id.0);
        text.put_u8(fate);
        text.put_slice(&secret);
    }
    let signature = identity.sign(purpose, &[owner.to_bytes().as_slice(), &text].concat()).into();
    SignedAccount { text: text.into(), signature }
}

/// What `friend` says to `owner`; `None` when it did not sign it, or it is malformed.
pub(super) fn verify(
    (friend, owner): (&PeerId, &PeerId),
    purpose: &Purpose,
    signed: &SignedAccount,
) -> Option<Account> {
    let (head, entries) = signed.text.split_at_checked(HEAD)?;
    let (chunks, rest) = entries.as_chunks::<ENTRY>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > ACCOUNT_IDS {
        return None;
    }
    if !identity::verify(friend, purpose, &[owner.to_bytes().as_slice(), &signed.text].concat(), &signed.signature) {
        return None;
    }
    let fate = |entry: &[u8; ENTRY]| {
        let (id, rest) = entry.split_first_chunk::<32>()?;
        let (fate, secret) = rest.split_first()?;
        Some((MessageId(*id), Fate::from_wire(*fate, secret.try_into().ok()?)?))
    };
    Some(Account {
        nonce: *head.first_chunk()?,
        at: UnixMillis(u64::from_be_bytes(*head.last_chunk()?)),
        fates: chunks.iter().map(fate).collect::<Option<_>>()?,
    })
}

/// Makes tokens, as an owner.
#[derive(Clone)]
pub(in crate::message::mailbox) struct Tokens([u8; 32]);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// The same for the same identity and network, always.
    pub(in crate::message::mailbox) fn new(identity: &Identity, network: &NetworkId) -> Self {
        let secret = identity.sign(&Purpose::new("vos-ack/1", network), b"key of the tokens");
        Self(blake3::derive_key("vos 2026-11-21 tokens of acknowledgements", &secret))
    }

    /// Shows that we acknowledged this part to this friend.
    pub(in crate::message::mailbox) fn token(&self, friend: &PeerId, id: &MessageId) -> Token {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(&friend.to_bytes()).update(&id.0);
        hash.finalize().into()
    }
}

impl Holder {
    /// An owner asks what became of parts. Only what is durable is read, so nothing is said that a crash takes back.
    pub(in crate::message::mailbox) fn account_for(&mut self, inbound: rpc::Inbound<Audit>) {
        let (now, owner) = (self.now(), inbound.peer);
        let full = match self.machine.may_pull(&owner, now) {
            Ok(queue) => queue.tombstones >= TOMBSTONES,
            Err(_) => return inbound.refuse(Status::Refused),
        };
        let Some((nonce, ids)) = wire::read_audit(&inbound.request) else { return inbound.refuse(Status::Invalid) };
        self.accounting += 1;
        let (tables, identity, purpose) = (self.tables.clone(), self.identity.clone(), self.account.clone());
        self.tasks.spawn(async move {
            let read = move || -> Result<SignedAccount, StoreError> {
                let fate = |id: MessageId| {
                    let unknown = if full { Fate::Forgotten } else { Fate::Unknown };
                    Ok((id, tables.fate(&owner, &id)?.unwrap_or(unknown)))
                };
                let fates = ids.into_iter().map(fate).collect::<Result<_, StoreError>>()?;
                Ok(sign(&identity, &purpose, &owner, &Account { nonce, at: now, fates }))
            };
            match tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Stopped)) {
                Ok(signed) => inbound.respond(wire::audited(signed)),
                Err(error) => {
                    warn!(%error, "cannot read what became of an owner's messages");
                    inbound.refuse(Status::Failed);
                }
            }
            Done::Accounted
        });
    }
}
