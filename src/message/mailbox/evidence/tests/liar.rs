//! What dishonest friends and senders say, for tests over real services.

use super::{
    super::{
        account::{self, Account, Fate},
        wire::{self, RawClaim},
    },
    receipt,
};
use crate::{
    identity::Identity,
    message::mailbox::{StoredReceipt, proof, wire as mail},
    primitives::{NetworkId, PeerId, UnixMillis},
    wire::proto::mailbox as proto,
};

/// What a friend says of every part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::message) enum Lie {
    Acked,
    Withdrawn,
    Held,
    /// The account to somebody else's question.
    OtherNonce,
}

/// A dishonest account.
pub(in crate::message) fn account(
    friend: &Identity,
    owner: &PeerId,
    asked: &proto::Audit,
    (lie, at): (Lie, UnixMillis),
) -> proto::Audited {
    let (mut nonce, ids) = wire::read_audit(asked).unwrap();
    let fate = match lie {
        Lie::Acked => Fate::Acked([1; 32]),
        Lie::Withdrawn => Fate::Withdrawn([0; 32]),
        Lie::Held => Fate::Held,
        Lie::OtherNonce => {
            nonce[0] ^= 1;
            Fate::Held
        }
    };
    let fates = ids.into_iter().map(|id| (id, fate)).collect();
    let purpose = account::purpose(&NetworkId::default());
    wire::audited(account::sign(friend, &purpose, owner, &Account { nonce, at, fates }))
}

/// A page without anything.
pub(in crate::message) fn nothing() -> proto::Pulled {
    mail::pulled(&mail::Page::default())
}

/// The promise number `n`, from now on for a day.
pub(in crate::message) fn promise(n: u8) -> StoredReceipt {
    receipt(n)
}

/// A claim of all that `signer` signs for `owner`, in the name of `holder`.
pub(in crate::message) fn claim(
    (signer, holder): (&Identity, PeerId),
    owner: &PeerId,
    list: &[StoredReceipt],
) -> proto::Claim {
    let signed = proof::sign(signer, &proof::stored_purpose(&NetworkId::default()), owner, list);
    wire::claim(&RawClaim { holder, signed, places: (0..).take(list.len()).collect() })
}
