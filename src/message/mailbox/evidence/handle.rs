//! The door to scores and evidence.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    super::{
        Stopped, StoredReceipt,
        proof::{self, SignedReceipts},
    },
    account::{self, Fate, SignedAccount},
    judge::{Judged, Verdict, Why, judge},
    ledger::{self, Evidence},
};
use crate::{
    identity::Purpose,
    message::friend::{Score, Verifier},
    primitives::{MessageId, NetworkId, PeerId, UnixMillis},
    store::Store,
};

/// How a friend keeps its promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Who.
    pub friend: PeerId,
    /// Promises that were checked.
    pub score: Score,
    /// When that changed last.
    pub changed_at: UnixMillis,
    /// The first of the broken ones, at most 64.
    pub broken: Vec<Broken>,
}

/// A broken promise, with everything that shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Which sealed part; of a message of one part that is its id.
    pub id: MessageId,
    /// How.
    pub why: Why,
    /// When it was found out, by our clock.
    pub at: UnixMillis,
    /// What the friend signed when it took the part; `None`: damaged.
    pub receipt: Option<StoredReceipt>,
    /// What it answered later, in words.
    pub answer: &'static str,
    /// When, by its clock.
    pub answered_at: UnixMillis,
    /// Whether all signatures were verified just now, and say so.
    pub verified: Result<(), &'static str>,
    /// The grant with both signatures.
    pub grant: Vec<u8>,
    /// The signed list that the receipt is of.
    pub receipts: SignedReceipts,
    /// What the answer's signature is over, without the owner's address before it.
    pub account: Vec<u8>,
    /// By the friend.
    pub account_signature: Vec<u8>,
}

/// Whose promises are judged; `None`: not known yet.
pub(super) type Friends = Option<Arc<Vec<Judged>>>;

/// Tells whose promises are judged, and what came of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    friends: Arc<watch::Sender<Friends>>,
    store: Store,
    checks: Arc<Checks>,
}

/// What is needed to verify evidence.
#[derive(Debug)]
struct Checks {
    owner: PeerId,
    verifier: Verifier,
    stored: Purpose,
    account: Purpose,
}

impl Handle {
    pub(in crate::message::mailbox) fn new(
        owner: PeerId,
        network: &NetworkId,
        store: Store,
    ) -> (Self, watch::Receiver<Friends>) {
        let (friends, receiver) = watch::channel(None);
        let (stored, account) = (proof::stored_purpose(network), account::purpose(network));
        let checks = Arc::new(Checks { owner, verifier: Verifier::new(network), stored, account });
        (Self { friends: Arc::new(friends), store, checks }, receiver)
    }

    /// Whose promises are judged: friends whose grant is in force or draining, at most 32. Not remembered over restarts; until it is
    /// told, senders are asked to claim later.
    pub fn judge(&self, mut friends: Vec<Judged>) {
        friends.truncate(super::super::collector::FRIENDS);
        self.friends.send_if_modified(|known| {
            let new = known.as_ref().is_none_or(|known| **known != friends);
            if new {
                *known = Some(Arc::new(friends));
            }
            new
        });
    }

    /// Scores of all friends that were ever checked, at most 256.
    ///
    /// # Errors
    /// [`Stopped`]: the store cannot be read any more.
    pub async fn scores(&self) -> Result<Vec<(PeerId, Score)>, Stopped> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || ledger::scores(&store)).await;
        let scores = read.map_err(|_| Stopped)?.map_err(|_| Stopped)?;
        Ok(scores.into_iter().map(|(friend, score, _)| (friend, score)).collect())
    }

    /// Scores and evidence; of one friend, or of all that were ever checked. Each signature is verified again, 0.2 ms for each
    /// broken promise.
    ///
    /// # Errors
    /// [`Stopped`]: the store cannot be read any more.
    pub async fn standings(&self, friend: Option<PeerId>) -> Result<Vec<Standing>, Stopped> {
        let (store, checks) = (self.store.clone(), self.checks.clone());
        let read = move || {
            let mut standings = Vec::new();
            for (who, score, changed_at) in ledger::scores(&store)? {
                if friend.is_none_or(|friend| friend == who) {
                    let evidence = ledger::evidence(&store, &who)?;
                    let broken = evidence.into_iter().map(|evidence| checks.shown(&who, evidence)).collect();
                    standings.push(Standing { friend: who, score, changed_at, broken });
                }
            }
            Ok::<_, crate::store::StoreError>(standings)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| Stopped)?.map_err(|_| Stopped)
    }
}

impl Checks {
    fn shown(&self, friend: &PeerId, evidence: Evidence) -> Broken {
        let Evidence { id, why, at, grant, receipts, account } = evidence;
        let receipt = receipts.read().into_iter().find(|receipt| receipt.id == id);
        let said = account::verify((friend, &self.owner), &self.account, &account);
        let (answered_at, fate) = said.map_or((UnixMillis(0), None), |said| (said.at, said.fate(&id)));
        let verified = self.verify(friend, (&id, why, at), &grant, (&receipts, receipt), (&account, answered_at, fate));
        let SignedAccount { text, signature } = account;
        Broken {
            id,
            why,
            at,
            receipt,
            answer: fate.map_or("", Fate::text),
            answered_at,
            verified,
            grant,
            receipts,
            account: text.to_vec(),
            account_signature: signature.to_vec(),
        }
    }

    /// Everything again, from the bytes.
    fn verify(
        &self,
        friend: &PeerId,
        (id, why, at): (&MessageId, Why, UnixMillis),
        grant: &[u8],
        (receipts, receipt): (&SignedReceipts, Option<StoredReceipt>),
        (account, answered_at, fate): (&SignedAccount, UnixMillis, Option<Fate>),
    ) -> Result<(), &'static str> {
        let grant = self.verifier.grant_from_bytes(grant).map_err(|_| "the grant is not signed by both")?;
        if (grant.offer.owner, grant.offer.friend) != (self.owner, *friend) {
            return Err("the grant is of somebody else");
        }
        let both = (friend, &self.owner);
        if proof::verify(both, &self.stored, receipts, super::wire::CLAIM_RECEIPTS).is_none() {
            return Err("the receipt is not signed by the friend");
        }
        let receipt = receipt.filter(|receipt| receipt.id == *id && receipt.grant == grant.offer.grant_id);
        let receipt = receipt.ok_or("the receipt is not for this part under this grant")?;
        if account::verify(both, &self.account, account).is_none() {
            return Err("the answer is not signed by the friend");
        }
        let fate = fate.ok_or("the answer is not about this part")?;
        // Whether a token is ours was judged then; here it is not, or there would be no evidence.
        match judge(&receipt, fate, (answered_at, at), |_| false) {
            Verdict::Broken(judged) if judged == why => Ok(()),
            Verdict::Show if why == Why::Withheld => Ok(()),
            _ => Err("what was signed does not show this"),
        }
    }
}
