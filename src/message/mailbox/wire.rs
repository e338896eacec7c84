//! The protocols of mailboxes, and conversions to and from protobuf and the store's forms.
//!
//! Three protocols toward the holder, because the server keeps memory for a request and for its longest answer: deposits are large
//! one way, pulls the other, and what is small must not wait behind either.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;

use super::{
    grant::Grant,
    machine::{Marker, MarkerKey, Who},
    proof::{self, ENTRY, SignedReceipts, StoredReceipt},
    refusal::Refusal,
};
use crate::{
    message::{
        envelope::MAX_PART,
        friend::{Hold, terms_in, terms_out},
        receipt::{self, Receipt},
        wire::BATCH_PARTS,
    },
    net::rpc,
    primitives::{GrantId, Hash, MessageId, PeerId, UnixMillis},
    wire::proto::mailbox as proto,
};

/// Parts in one deposit.
pub(super) const DEPOSIT_ITEMS: usize = 64;
/// Bytes of one deposit's items: four of the largest parts with what belongs to them.
pub(super) const DEPOSIT_BYTES: usize = 4 * (MAX_PART + ITEM_HEAD + 96 + 4);
const ITEM_HEAD: usize = 32 + 4 + 32 + 1;
/// Bytes of the items of one pull: four of the largest parts.
pub(super) const PULL_BYTES: usize = 4 * (MAX_PART + PULL_HEAD);
/// Items of one pull: as many 1 KiB messages as there is room for.
pub(super) const PULL_ITEMS: usize = 1024;
const PULL_HEAD: usize = 8 + 8 + 8 + 32 + 4;
/// Shows that the owner acknowledged a part: only it can make one.
pub(super) type Token = [u8; 32];

/// Ids or keys in one request to the desk.
pub(super) const DESK_ITEMS: usize = 256;
const ACK: usize = 32 + 32;
const CONTACT: usize = 32 + 4 + 8;
const MARKER: usize = 33 + 1 + 8 + 8;

/// Leaves sealed parts with a holder. Idempotent: the same part again gives the same receipt.
#[derive(Debug)]
pub struct Deposit;

impl rpc::Wire for Deposit {
    const NAME: &'static str = "mailbox/deposit/1";
    /// 1 MiB of parts; grant, owner, tags.
    const MAX_REQUEST: usize = DEPOSIT_BYTES + 128;
    /// 64 codes with numbers of 10 bytes, 64 receipts, a signature.
    const MAX_RESPONSE: usize = DEPOSIT_ITEMS * (2 + 10 + ENTRY) + 64 + 64;
    /// A synced commit of 1 MiB on a slow disk behind seven others.
    const TIMEOUT: Duration = Duration::from_secs(30);
    const CONCURRENCY: usize = 8;
    const RATE: u32 = 20_000;
    type Request = proto::Deposit;
    type Response = proto::Deposited;
}

/// Collects what a holder keeps for us.
#[derive(Debug)]
pub struct Pull;

impl rpc::Wire for Pull {
    const NAME: &'static str = "mailbox/pull/1";
    const MAX_REQUEST: usize = 64;
    /// Items; 64 markers; head, tags.
    const MAX_RESPONSE: usize = PULL_BYTES + super::machine::MARKERS * MARKER + 64;
    const QUEUE: usize = 256;
    const CONCURRENCY: usize = 4;
    type Request = proto::Pull;
    type Response = proto::Pulled;
}

/// Acks, deposit keys, seen markers (by the owner) and withdrawals (by depositors).
#[derive(Debug)]
pub struct Desk;

impl rpc::Wire for Desk {
    const NAME: &'static str = "mailbox/desk/1";
    /// 256 entries of each kind: acks with their tokens, contacts, keys; markers; owner, withdrawal, tags.
    const MAX_REQUEST: usize = DESK_ITEMS * (ACK + 32 + CONTACT) + super::machine::MARKERS * MARKER + 256;
    const MAX_RESPONSE: usize = 32;
    const TIMEOUT: Duration = Duration::from_secs(30);
    const QUEUE: usize = 256;
    const CONCURRENCY: usize = 8;
    type Request = proto::Desk;
    type Response = proto::DeskAnswer;
}

/// Tells an owner that there is mail: a hint, nothing more.
#[derive(Debug)]
pub struct Hint;

impl rpc::Wire for Hint {
    const NAME: &'static str = "mailbox/hint/1";
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 16;
    const CONCURRENCY: usize = 2;
    const RATE: u32 = 5;
    type Request = proto::Hint;
    type Response = proto::Taken;
}

/// Brings a delivery receipt to the sender when it could not go back with a deliver answer. Idempotent.
#[derive(Debug)]
pub struct Receipts;

impl rpc::Wire for Receipts {
    const NAME: &'static str = "message/receipt/1";
    /// 64 entries; address, signature, tags.
    const MAX_REQUEST: usize = BATCH_PARTS * receipt::ENTRY + 256;
    const MAX_RESPONSE: usize = 16;
    const CONCURRENCY: usize = 4;
    const RATE: u32 = 500;
    type Request = proto::Receipted;
    type Response = proto::Taken;
}

/// What a depositor shows for one part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RawProof {
    None,
    Key([u8; 32], [u8; 64]),
    Nonce(u64),
}

/// One part of a deposit as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RawItem {
    pub(super) id: MessageId,
    pub(super) ttl_s: u32,
    pub(super) withdraw: Hash,
    pub(super) proof: RawProof,
    pub(super) part: Bytes,
}

impl RawItem {
    fn wire_len(&self) -> usize {
        let proof = match self.proof {
            RawProof::None => 0,
            RawProof::Key(..) => 96,
            RawProof::Nonce(_) => 8,
        };
        ITEM_HEAD + proof + 4 + self.part.len()
    }
}

/// A deposit's grant, owner and items.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RawDeposit {
    pub(super) grant: GrantId,
    pub(super) owner: PeerId,
    pub(super) items: Vec<RawItem>,
}

/// A request of these items.
pub(super) fn deposit(deposit: &RawDeposit) -> proto::Deposit {
    let mut bytes = Vec::with_capacity(deposit.items.iter().map(RawItem::wire_len).sum());
    for item in &deposit.items {
        bytes.put_slice(&item.id.0);
        bytes.put_u32(item.ttl_s);
        bytes.put_slice(&item.withdraw.0);
        match &item.proof {
            RawProof::None => bytes.put_u8(0),
            RawProof::Key(key, signature) => {
                bytes.put_u8(1);
                bytes.put_slice(key);
                bytes.put_slice(signature);
            }
            RawProof::Nonce(nonce) => {
                bytes.put_u8(2);
                bytes.put_u64(*nonce);
            }
        }
        bytes.put_u32(u32::try_from(item.part.len()).expect("parts are capped"));
        bytes.put_slice(&item.part);
    }
    proto::Deposit {
        grant_id: Bytes::copy_from_slice(&deposit.grant.0),
        owner: deposit.owner.to_bytes().into(),
        items: bytes.into(),
    }
}

/// How many of `items`, from the first, fit in one request.
pub(super) fn fitting(items: &[RawItem]) -> usize {
    let mut bytes = 0;
    items
        .iter()
        .take(DEPOSIT_ITEMS)
        .take_while(|item| {
            bytes += item.wire_len();
            bytes <= DEPOSIT_BYTES
        })
        .count()
}

/// A deposit's parts; `None` when it is malformed, empty or has too many. A part may still be anything.
pub(super) fn read_deposit(request: &proto::Deposit) -> Option<RawDeposit> {
    let grant = GrantId::from_slice(&request.grant_id)?;
    let owner = PeerId::from_bytes(&request.owner).ok()?;
    let mut rest = request.items.clone();
    let mut items = Vec::new();
    while !rest.is_empty() {
        if items.len() == DEPOSIT_ITEMS || rest.len() < ITEM_HEAD {
            return None;
        }
        let id = MessageId(array(&mut rest)?);
        let ttl_s = rest.get_u32();
        let withdraw = Hash(array(&mut rest)?);
        let proof = match rest.get_u8() {
            0 => RawProof::None,
            1 => RawProof::Key(array(&mut rest)?, array(&mut rest)?),
            2 => RawProof::Nonce(u64::from_be_bytes(array(&mut rest)?)),
            _ => return None,
        };
        let length = u32::from_be_bytes(array(&mut rest)?) as usize; // u32 fits in usize
        if rest.len() < length {
            return None;
        }
        items.push(RawItem { id, ttl_s, withdraw, proof, part: rest.split_to(length) });
    }
    (!items.is_empty()).then_some(RawDeposit { grant, owner, items })
}

/// Takes the first `N` bytes.
pub(super) fn array<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let array = *bytes.first_chunk::<N>()?;
    bytes.advance(N);
    Some(array)
}

/// How each item was answered, with what proves it.
pub(super) fn deposited(
    answers: &[Result<StoredReceipt, Refusal>],
    sign: impl FnOnce(&[StoredReceipt]) -> SignedReceipts,
) -> proto::Deposited {
    let wire = answers.iter().map(|a| a.as_ref().err().map_or((0, 0), |r| r.to_wire()));
    let (codes, numbers) = wire.unzip();
    let stored: Vec<_> = answers.iter().filter_map(|a| a.ok()).collect();
    let signed = (!stored.is_empty()).then(|| sign(&stored));
    let (receipts, signature) = signed.map(|s| (s.entries, s.signature)).unwrap_or_default();
    proto::Deposited { codes, numbers, receipts, signature }
}

/// Each item's answer, and what proves the receipts among them.
pub(super) type Judged = (Vec<Result<StoredReceipt, Refusal>>, Option<SignedReceipts>);

/// Each item's answer, receipts verified; `None` when the answer is malformed or the holder did not sign for what it says is stored.
pub(super) fn read_deposited(
    answer: proto::Deposited,
    asked: &RawDeposit,
    holder: &PeerId,
    purpose: &crate::identity::Purpose,
) -> Option<Judged> {
    let proto::Deposited { codes, numbers, receipts, signature } = answer;
    if codes.len() != asked.items.len() || numbers.len() != asked.items.len() {
        return None;
    }
    if codes.iter().all(|c| *c != 0) {
        let refused = codes.into_iter().zip(numbers).map(|(c, n)| Err(Refusal::from_wire(c, n)));
        return Some((refused.collect(), None));
    }
    let signed = SignedReceipts { entries: receipts, signature };
    let mut receipts = proof::verify((holder, &asked.owner), purpose, &signed, DEPOSIT_ITEMS)?.into_iter();
    let mut answers = Vec::with_capacity(codes.len());
    for ((item, code), number) in asked.items.iter().zip(codes).zip(numbers) {
        answers.push(match code {
            0 => Ok(receipts.next().filter(|r| r.id == item.id)?),
            code => Err(Refusal::from_wire(code, number)),
        });
    }
    Some((answers, Some(signed)))
}

/// One pulled part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PulledItem {
    pub(super) seq: u64,
    pub(super) stored_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) id: MessageId,
    pub(super) part: Bytes,
}

impl PulledItem {
    pub(super) fn wire_len(part: usize) -> usize {
        PULL_HEAD + part
    }
}

/// The answer to a pull.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Page {
    pub(super) items: Vec<PulledItem>,
    pub(super) head: u64,
    pub(super) more: bool,
    pub(super) markers: Vec<(MarkerKey, Marker)>,
}

/// A pull from `after` on.
pub(super) fn pull(after: u64) -> proto::Pull {
    proto::Pull { after, max_bytes: PULL_BYTES as u32, max_items: PULL_ITEMS as u32 }
}

/// The next part after `after`, whatever its size.
pub(super) fn pull_one(after: u64) -> proto::Pull {
    proto::Pull { after, max_bytes: 1, max_items: 1 }
}

/// From where, and up to how many bytes and items.
pub(super) fn read_pull(request: &proto::Pull) -> (u64, usize, usize) {
    let bytes = (request.max_bytes as usize).min(PULL_BYTES); // u32 fits in usize
    (request.after, bytes, (request.max_items as usize).clamp(1, PULL_ITEMS))
}

pub(super) fn pulled(page: &Page) -> proto::Pulled {
    let mut items = Vec::with_capacity(page.items.iter().map(|i| PulledItem::wire_len(i.part.len())).sum());
    for item in &page.items {
        items.put_u64(item.seq);
        items.put_u64(item.stored_at.0);
        items.put_u64(item.expires_at.0);
        items.put_slice(&item.id.0);
        items.put_u32(u32::try_from(item.part.len()).expect("parts are capped"));
        items.put_slice(&item.part);
    }
    let markers = markers_to_bytes(&page.markers).into();
    proto::Pulled { items: items.into(), head: page.head, more: page.more, markers }
}

/// A holder's answer; `None` when it is malformed, or its numbers do not rise from `after` to `head`.
pub(super) fn read_pulled(answer: proto::Pulled, after: u64) -> Option<Page> {
    let (mut rest, mut last, mut items) = (answer.items, after, Vec::new());
    while !rest.is_empty() {
        if rest.len() < PULL_HEAD || items.len() == PULL_ITEMS {
            return None;
        }
        let seq = rest.get_u64();
        let (stored_at, expires_at) = (UnixMillis(rest.get_u64()), UnixMillis(rest.get_u64()));
        let id = MessageId(array(&mut rest)?);
        let length = rest.get_u32() as usize; // u32 fits in usize
        if seq <= last || rest.len() < length {
            return None;
        }
        last = seq;
        items.push(PulledItem { seq, stored_at, expires_at, id, part: rest.split_to(length) });
    }
    if answer.head < last && last > after {
        return None;
    }
    // An empty page that says `more` would be asked for again and again.
    let more = answer.more && !items.is_empty();
    Some(Page { items, head: answer.head, more, markers: markers_from_bytes(answer.markers)? })
}

pub(super) fn put_who(bytes: &mut Vec<u8>, who: Who) {
    let (kind, key) = match who {
        Who::Open => (0, [0; 32]),
        Who::Contact(key) => (1, key),
    };
    bytes.put_u8(kind);
    bytes.put_slice(&key);
}

pub(super) fn get_who(bytes: &mut Bytes) -> Option<Who> {
    let [kind] = array(bytes)?;
    let key = array(bytes)?;
    Some(if kind == 0 { Who::Open } else { Who::Contact(key) })
}

fn markers_to_bytes<'a>(markers: impl IntoIterator<Item = &'a (MarkerKey, Marker)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for ((who, code), marker) in markers {
        put_who(&mut bytes, *who);
        bytes.put_u8(*code);
        bytes.put_u64(marker.count);
        bytes.put_u64(marker.first_at.0);
    }
    bytes
}

fn markers_from_bytes(mut bytes: Bytes) -> Option<Vec<(MarkerKey, Marker)>> {
    if bytes.len() > super::machine::MARKERS * MARKER {
        return None;
    }
    let mut markers = Vec::new();
    while !bytes.is_empty() {
        let who = get_who(&mut bytes)?;
        let [code] = array(&mut bytes)?;
        let count = u64::from_be_bytes(array(&mut bytes)?);
        markers.push(((who, code), Marker { count, first_at: UnixMillis(u64::from_be_bytes(array(&mut bytes)?)) }));
    }
    Some(markers)
}

/// What an owner or depositor wants done at the desk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct DeskWork {
    /// With the owner's token for each, see `evidence`.
    pub(super) acked: Vec<(MessageId, Token)>,
    /// Key, messages, bytes a day.
    pub(super) contacts: Vec<([u8; 32], u32, u64)>,
    pub(super) revoked: Vec<[u8; 32]>,
    pub(super) seen: Vec<(MarkerKey, Marker)>,
    /// Owner, id, preimage.
    pub(super) withdraw: Option<(PeerId, MessageId, [u8; 32])>,
}

pub(super) fn desk(work: &DeskWork) -> proto::Desk {
    let mut contacts = Vec::with_capacity(work.contacts.len() * CONTACT);
    for (key, msgs, bytes_day) in &work.contacts {
        contacts.put_slice(key);
        contacts.put_u32(*msgs);
        contacts.put_u64(*bytes_day);
    }
    let withdraw = work
        .withdraw
        .as_ref()
        .map(|(owner, id, preimage)| (Bytes::from([&id.0[..], preimage].concat()), Bytes::from(owner.to_bytes())));
    let (withdraw, owner) = withdraw.unwrap_or_default();
    proto::Desk {
        acked: work.acked.iter().flat_map(|(id, token)| [id.0, *token]).flatten().collect::<Vec<u8>>().into(),
        contacts: contacts.into(),
        revoked: work.revoked.iter().flatten().copied().collect::<Vec<u8>>().into(),
        seen: markers_to_bytes(&work.seen).into(),
        withdraw,
        owner,
    }
}

/// `None`: malformed, or too much at once.
pub(super) fn read_desk(request: proto::Desk) -> Option<DeskWork> {
    let keys = |bytes: &Bytes| {
        let (chunks, rest) = bytes.as_chunks::<32>();
        (rest.is_empty() && chunks.len() <= DESK_ITEMS).then(|| chunks.to_vec())
    };
    let (pairs, rest) = request.acked.as_chunks::<ACK>();
    if !rest.is_empty() || pairs.len() > DESK_ITEMS {
        return None;
    }
    let acked = pairs.iter().filter_map(|pair| Some((MessageId(*pair.first_chunk()?), *pair.last_chunk()?))).collect();
    let mut contacts = Vec::new();
    let mut rest = request.contacts;
    while !rest.is_empty() {
        if contacts.len() == DESK_ITEMS {
            return None;
        }
        let key = array(&mut rest)?;
        let msgs = u32::from_be_bytes(array(&mut rest)?);
        contacts.push((key, msgs, u64::from_be_bytes(array(&mut rest)?)));
    }
    let withdraw = if request.withdraw.is_empty() {
        None
    } else {
        let mut bytes = request.withdraw;
        let (id, preimage) = (MessageId(array(&mut bytes)?), array(&mut bytes)?);
        Some((PeerId::from_bytes(&request.owner).ok()?, id, preimage))
    };
    Some(DeskWork {
        acked,
        contacts,
        revoked: keys(&request.revoked)?,
        seen: markers_from_bytes(request.seen)?,
        withdraw,
    })
}

pub(super) fn desk_answer(answer: Result<(), Refusal>) -> proto::DeskAnswer {
    let (code, number) = answer.map_or_else(Refusal::to_wire, |()| (0, 0));
    proto::DeskAnswer { code, number }
}

pub(super) fn read_desk_answer(answer: &proto::DeskAnswer) -> Result<(), Refusal> {
    if answer.code == 0 { Ok(()) } else { Err(Refusal::from_wire(answer.code, answer.number)) }
}

pub(super) fn hint(count: u64, bytes: u64) -> proto::Hint {
    proto::Hint { count, bytes }
}

pub(super) fn taken() -> proto::Taken {
    proto::Taken {}
}

pub(super) fn receipted(recipient: &PeerId, receipt: Receipt) -> proto::Receipted {
    proto::Receipted { recipient: recipient.to_bytes().into(), entries: receipt.entries, signature: receipt.signature }
}

/// Who signed, and what; not verified.
pub(super) fn read_receipted(request: proto::Receipted) -> Option<(PeerId, Receipt)> {
    let recipient = PeerId::from_bytes(&request.recipient).ok()?;
    Some((recipient, Receipt { entries: request.entries, signature: request.signature }))
}

/// The body of a receipt that is left with a friend.
pub(in crate::message) fn letter(recipient: &PeerId, receipt: Receipt) -> Bytes {
    receipted(recipient, receipt).encode_to_vec().into()
}

/// Who signed what a letter holds, and what; not verified. `None`: malformed.
pub(in crate::message) fn read_letter(body: &Bytes) -> Option<(PeerId, Receipt)> {
    read_receipted(proto::Receipted::decode(body.clone()).ok()?)
}

/// All markers of an owner for the store.
pub(super) fn encode_markers(markers: &BTreeMap<MarkerKey, Marker>) -> Vec<u8> {
    let list: Vec<_> = markers.iter().map(|(key, marker)| (*key, *marker)).collect();
    markers_to_bytes(&list)
}

/// `None`: damaged.
pub(super) fn decode_markers(bytes: &[u8]) -> Option<BTreeMap<MarkerKey, Marker>> {
    Some(markers_from_bytes(Bytes::copy_from_slice(bytes))?.into_iter().collect())
}

/// An owner's grants for the store.
pub(super) fn encode_grants(grants: &[Grant]) -> Vec<u8> {
    let grants = grants.iter().map(|g| {
        let (state, until) = match g.phase {
            Hold::Active => (1, UnixMillis(0)),
            Hold::Draining { until } => (2, until),
            Hold::Ended => (3, UnixMillis(0)),
        };
        proto::StoredGrant {
            grant_id: Bytes::copy_from_slice(&g.id.0),
            epoch: g.epoch,
            state,
            drain_until: until.0,
            not_after: g.not_after.0,
            terms: Some(terms_out(&g.terms)),
        }
    });
    proto::StoredGrants { grants: grants.collect() }.encode_to_vec()
}

/// An owner's grants from the store; `None` when they are damaged.
pub(super) fn decode_grants(bytes: &[u8]) -> Option<Vec<Grant>> {
    let stored = proto::StoredGrants::decode(bytes).ok()?;
    let grants = stored.grants.into_iter().map(|g| {
        Some(Grant {
            id: GrantId::from_slice(&g.grant_id)?,
            epoch: g.epoch,
            phase: match g.state {
                1 => Hold::Active,
                2 => Hold::Draining { until: UnixMillis(g.drain_until) },
                _ => Hold::Ended,
            },
            not_after: UnixMillis(g.not_after),
            terms: terms_in(&g.terms?),
        })
    });
    grants.collect()
}
