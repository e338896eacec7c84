//! A sender's side of mailboxes: leaves sealed parts with a holder, and takes them back. It keeps nothing; what to deposit where, and
//! when to try again, is for the outbox.

use bytes::Bytes;

use super::{
    proof::{self, SignedReceipts, StoredReceipt},
    refusal::Refusal,
    wire::{self, Deposit, Desk, DeskWork, RawDeposit, RawItem, RawProof},
};
use crate::{
    identity::{Identity, Purpose},
    message::envelope::part_id,
    net::rpc::{self, RequestError},
    primitives::{GrantId, Hash, MessageId, NetworkId, PeerId},
};

/// Where something is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The friend who holds it.
    pub holder: PeerId,
    /// For whom.
    pub owner: PeerId,
    /// Under which grant.
    pub grant: GrantId,
}

/// What is shown with a part.
#[derive(Clone, Debug)]
pub enum Account {
    /// The deposit key that the recipient gave us.
    Key(Box<Identity>),
    /// Work of so many bits, done here when the part is deposited.
    Work(u32),
}

/// One part to be left.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its sealed form.
    pub sealed: Bytes,
    /// For how long, in seconds.
    pub ttl_s: u32,
    /// The hash of the secret that takes it back.
    pub withdraw: Hash,
}

/// Why a deposit got no answer for its parts.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DepositError {
    /// The holder was not reached, or did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It said something else than what was asked, or did not sign it.
    #[error("the holder's answer is malformed or not signed")]
    Forged,
    /// A part is not a sealed part.
    #[error("not a sealed part")]
    NotSealed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Each part's receipt or refusal, in order, and the signed form of the receipts (evidence), one for each request.
pub type Deposited = (Vec<Result<StoredReceipt, Refusal>>, Vec<SignedReceipts>);

/// Deposits and withdraws. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Depositor {
    deposits: rpc::Client<Deposit>,
    desk: rpc::Client<Desk>,
    stored: Purpose,
    deposit: Purpose,
}

impl Depositor {
    pub(super) fn new(network: &NetworkId, deposits: rpc::Client<Deposit>, desk: rpc::Client<Desk>) -> Self {
        let (stored, deposit) = (proof::stored_purpose(network), proof::deposit_purpose(network));
        Self { deposits, desk, stored, deposit }
    }

    /// Leaves parts with a holder, in as few requests as they fit in, one after the other. Parts before a failed request are left
    /// there; leaving them again gives the same receipts.
    ///
    /// # Errors
    /// [`DepositError`] when a request failed; a refusal of a part is not one.
    pub async fn deposit(&self, place: Place, account: &Account, parts: Vec<Part>) -> Result<Deposited, DepositError> {
        let (account, purpose) = (account.clone(), self.deposit.clone());
        let prepare = move || parts.into_iter().map(|part| prepare(place, &account, &purpose, part)).collect();
        let items: Result<Vec<RawItem>, DepositError> =
            tokio::task::spawn_blocking(prepare).await.map_err(|_| DepositError::Stopped)?;
        let mut items = items?;
        let mut all = (Vec::with_capacity(items.len()), Vec::new());
        while !items.is_empty() {
            let rest = items.split_off(wire::fitting(&items).max(1));
            let asked = RawDeposit { grant: place.grant, owner: place.owner, items };
            let answer = self.deposits.request(place.holder, wire::deposit(&asked)).await?;
            let read = wire::read_deposited(answer, &asked, &place.holder, &self.stored);
            let (answers, signed) = read.ok_or(DepositError::Forged)?;
            // What was there before may be there under an earlier grant.
            if answers.iter().flatten().any(|r| r.grant != place.grant && !r.duplicate) {
                return Err(DepositError::Forged);
            }
            all.0.extend(answers);
            all.1.extend(signed);
            items = rest;
        }
        Ok(all)
    }

    /// Takes a part back: its recipient has got it another way. Answered the same when the holder has it no more.
    ///
    /// # Errors
    /// [`RequestError`] when the holder was not reached; [`Refusal`] inside when it could not.
    pub async fn withdraw(
        &self,
        holder: PeerId,
        owner: PeerId,
        id: MessageId,
        preimage: [u8; 32],
    ) -> Result<Result<(), Refusal>, RequestError> {
        let work = DeskWork { withdraw: Some((owner, id, preimage)), ..DeskWork::default() };
        let answer = self.desk.request(holder, wire::desk(&work)).await?;
        Ok(wire::read_desk_answer(&answer))
    }
}

fn prepare(place: Place, account: &Account, purpose: &Purpose, part: Part) -> Result<RawItem, DepositError> {
    let Part { sealed, ttl_s, withdraw } = part;
    let id = part_id(&sealed).ok_or(DepositError::NotSealed)?;
    let proof = match account {
        Account::Key(key) => {
            let text = proof::deposit_text(&place.grant, &id, ttl_s, &withdraw);
            let signature = key.sign(purpose, &text).try_into().map_err(|_| DepositError::NotSealed)?;
            RawProof::Key(key.public_key(), signature)
        }
        Account::Work(0) => RawProof::None,
        Account::Work(bits) => RawProof::Nonce(proof::work(&place.grant, &id, *bits)),
    };
    Ok(RawItem { id, ttl_s, withdraw, proof, part: sealed })
}
