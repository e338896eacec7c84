//! The protocols of accounts and claims, and evidence in the store.

use std::time::Duration;

use bytes::BufMut as _;
use prost::Message as _;

use super::{
    super::proof::{self, SignedReceipts},
    account::{self, ACCOUNT_IDS, SignedAccount},
    judge::Why,
    ledger::Evidence,
};
use crate::{
    message::friend::Score,
    net::rpc,
    primitives::{MessageId, PeerId, UnixMillis},
    wire::proto::mailbox as proto,
};

/// Receipts that one claim can name: those of one deposit.
pub(super) const CLAIM_RECEIPTS: usize = super::super::wire::DEPOSIT_ITEMS;

/// An owner asks a friend what became of parts that it signed for.
#[derive(Debug)]
pub struct Audit;

impl rpc::Wire for Audit {
    const NAME: &'static str = "mailbox/account/1";
    /// 64 ids; nonce, tags.
    const MAX_REQUEST: usize = ACCOUNT_IDS * 32 + 32;
    /// 64 entries; head, signature, tags.
    const MAX_RESPONSE: usize = account::HEAD + ACCOUNT_IDS * account::ENTRY + 64 + 16;
    const CONCURRENCY: usize = 2;
    /// Each costs 64 reads and a signature.
    const RATE: u32 = 20;
    type Request = proto::Audit;
    type Response = proto::Audited;
}

/// A sender tells an owner what a friend of that owner signed for. Idempotent: what was judged once is not judged again.
#[derive(Debug)]
pub struct Claim;

impl rpc::Wire for Claim {
    const NAME: &'static str = "message/claim/1";
    /// 64 receipts and their places; holder, signature, tags.
    const MAX_REQUEST: usize = CLAIM_RECEIPTS * (proof::ENTRY + 1) + 160;
    const MAX_RESPONSE: usize = 16;
    /// The owner asks the friend meanwhile, which may have to be dialled, and maybe for 64 parts.
    const TIMEOUT: Duration = Duration::from_secs(60);
    const QUEUE: usize = 32;
    const CONCURRENCY: usize = 2;
    const RATE: u32 = 10;
    type Request = proto::Claim;
    type Response = proto::Claimed;
}

/// Asks about up to [`ACCOUNT_IDS`] parts.
pub(super) fn audit(nonce: [u8; 16], ids: impl IntoIterator<Item = MessageId>) -> proto::Audit {
    let ids = ids.into_iter().flat_map(|id| id.0).collect::<Vec<u8>>();
    proto::Audit { nonce: nonce.to_vec().into(), ids: ids.into() }
}

/// `None`: malformed, empty, or too much.
pub(super) fn read_audit(request: &proto::Audit) -> Option<([u8; 16], Vec<MessageId>)> {
    let (chunks, rest) = request.ids.as_chunks::<32>();
    let good = rest.is_empty() && (1..=ACCOUNT_IDS).contains(&chunks.len());
    let nonce = request.nonce[..].try_into().ok()?;
    good.then(|| (nonce, chunks.iter().map(|id| MessageId(*id)).collect()))
}

pub(super) fn audited(signed: SignedAccount) -> proto::Audited {
    proto::Audited { account: signed.text, signature: signed.signature }
}

pub(super) fn read_audited(answer: proto::Audited) -> SignedAccount {
    SignedAccount { text: answer.account, signature: answer.signature }
}

/// What a sender claims: which entries of a signed list are still to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RawClaim {
    pub(super) holder: PeerId,
    pub(super) signed: SignedReceipts,
    /// Places in the list, rising.
    pub(super) places: Vec<u8>,
}

pub(super) fn claim(claim: &RawClaim) -> proto::Claim {
    proto::Claim {
        holder: claim.holder.to_bytes().into(),
        entries: claim.signed.entries.clone(),
        signature: claim.signed.signature.clone(),
        places: claim.places.clone().into(),
    }
}

/// Not verified; `None`: malformed.
pub(super) fn read_claim(request: &proto::Claim) -> Option<RawClaim> {
    let holder = PeerId::from_bytes(&request.holder).ok()?;
    let count = request.entries.len() / proof::ENTRY;
    let places = request.places.to_vec();
    let rising = places.windows(2).all(|two| two[0] < two[1]);
    let inside = places.last().is_some_and(|last| usize::from(*last) < count);
    let (entries, signature) = (request.entries.clone(), request.signature.clone());
    let signed = SignedReceipts { entries, signature };
    (rising && inside && count <= CLAIM_RECEIPTS).then_some(RawClaim { holder, signed, places })
}

/// Whether the owner needs no more for this claim.
pub(super) fn claimed(done: bool) -> proto::Claimed {
    proto::Claimed { done }
}

pub(super) fn encode_evidence(evidence: &Evidence) -> Vec<u8> {
    proto::StoredEvidence {
        id: evidence.id.0.to_vec().into(),
        why: evidence.why.to_wire(),
        at: evidence.at.0,
        grant: evidence.grant.clone().into(),
        entries: evidence.receipts.entries.clone(),
        receipts_signature: evidence.receipts.signature.clone(),
        account: evidence.account.text.clone(),
        account_signature: evidence.account.signature.clone(),
    }
    .encode_to_vec()
}

/// `None`: damaged.
pub(super) fn decode_evidence(bytes: &[u8]) -> Option<Evidence> {
    let raw = proto::StoredEvidence::decode(bytes).ok()?;
    Some(Evidence {
        id: MessageId::from_slice(&raw.id)?,
        why: Why::from_wire(raw.why)?,
        at: UnixMillis(raw.at),
        grant: raw.grant.to_vec(),
        receipts: SignedReceipts { entries: raw.entries, signature: raw.receipts_signature },
        account: SignedAccount { text: raw.account, signature: raw.account_signature },
    })
}

pub(super) fn encode_score(score: &Score, at: UnixMillis) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    [score.kept, score.broken, score.refused, at.0].into_iter().for_each(|n| bytes.put_u64(n));
    bytes
}

/// With the time of the last change; `None`: damaged.
pub(super) fn decode_score(bytes: &[u8]) -> Option<(Score, UnixMillis)> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_be_bytes(*n)).collect();
    let [kept, broken, refused, at] = numbers[..] else { return None };
    rest.is_empty().then_some((Score { kept, broken, refused }, UnixMillis(at)))
}
