//! Sealing, opening, signing and ids of message parts (spec `mail.md` 3.4). No store, no network.
//!
//! ```text
//!  part      = version (1) | key id (8) | sealed | note
//!  sealed    = encapsulated key (32) | counter (8) | ciphertext | tag (16)           (HPKE, identity::SealSession)
//!  plain     = length of inner (4) | inner (protobuf) | zeros                        1, 4, 16, 64 or 256 KiB in all
//!  note      = signature (64), sealed | tag (16)
//!  aad       = version | owner | key id
//!  signature = over BLAKE3("vos-mail/1" | part without its note), by the sender
//!  id        = BLAKE3("vos-mail/1" | part)
//! ```
//! The spec's id was SHA-256 of the sealed bytes. The part's header is in it, so that no mailbox can make a part useless and still
//! show what it has a receipt for. And both sides and every mailbox hash all sealed bytes, which was a tenth of what a large message cost;
//! BLAKE3 is here anyway, and no release has the other one.
//! The sender signs the sealed part and seals its signature behind it, so that one pass over a part gives its id and what was
//! signed; the spec's signature inside the plain part costs a second pass on either side. It is a hash that is signed, since Ed25519
//! reads its message twice. Nobody but the recipient can see who signed. `inner` names the sender and the recipient, so
//! nobody can pass a part on as one for a third party.
//!
//! `inner` counts the messages to this recipient in this stream, and names the first of them that is still to be receipted ([`Rank`]).
//! The spec's hash of the message before would show that something is missing, but not how much, nor that it will never come.
//!
//! A body of more than [`PART_BYTES`] travels in parts. Every part's `inner` names the total bytes, from which the number of
//! parts and each part's length follow, the part's index, and a random [`BodyId`] that its sender drew for this body. All of it is
//! under the sender's signature, so nobody but the sender can put parts of different bodies together, and a sender that did would
//! only have sent another body. So a body is read once, part by part. **The id of a message is the id of its part 0.**

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{
    order::Rank,
    wire::{self, Code},
};
use crate::{
    identity::{
        self, Identity, KeyId, MessageKey, OpenError, Opened, Opener, Purpose, SEALED_NOTE, SEALED_OVERHEAD, SealError,
        SealSession, SignatureBatch,
    },
    primitives::{MessageId, NetworkId, PeerId, StreamId, UnixMillis},
};

/// The version of everything in this file.
pub(super) const VERSION: u8 = 1;
/// Sizes of the padded plain part.
pub(super) const BUCKETS: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Body bytes in each part but the last: a part of them fills the largest bucket. What is left (1024 bytes) holds a file name of
/// 255 bytes, two addresses and the numbers.
pub(super) const PART_BYTES: usize = (256 << 10) - 1024;
/// Version and key id in front of the sealed bytes.
pub(super) const PART_HEADER: usize = 9;
/// Largest part on the wire.
pub(super) const MAX_PART: usize = PART_HEADER + SEALED_OVERHEAD + BUCKETS[4];
/// Longest file name in bytes.
pub(super) const MAX_FILE_NAME: usize = 255;

/// Bytes of the length in front of `inner`.
const LENGTH: usize = 4;

/// How many parts a body of `total` bytes has.
pub(super) fn parts_of(total: u64) -> u32 {
    let parts = total.div_ceil(PART_BYTES as u64).max(1); // usize fits in u64
    u32::try_from(parts).unwrap_or(u32::MAX)
}

/// Body bytes of part `index` of a body of `total` bytes; `None` when there is no such part.
pub(super) fn part_len(total: u64, index: u32) -> Option<usize> {
    let start = u64::from(index) * PART_BYTES as u64; // usize fits in u64
    if index >= parts_of(total) {
        return None;
    }
    usize::try_from((total - start).min(PART_BYTES as u64)).ok() // usize fits in u64
}

/// What a sealed part is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A message for the inbox.
    Message,
    /// Receipts of the sender for messages of the recipient, left with a friend: see `leaving/letters.rs`.
    Receipt,
}

/// What is inside a sealed part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inner {
    pub(super) kind: Kind,
    pub(super) sender: PeerId,
    pub(super) recipient: PeerId,
    pub(super) stream: StreamId,
    /// Tells the messages of a stream apart, whoever they are for.
    pub(super) seq: u64,
    /// Its turn among those for this recipient.
    pub(super) rank: Rank,
    pub(super) sent_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) key_id: KeyId,
    pub(super) file_name: String,
    /// This part's bytes.
    pub(super) body: Bytes,
    pub(super) index: u32,
    /// Bytes of the whole body.
    pub(super) total: u64,
    /// All zeros when there is only one part.
    pub(super) body_id: BodyId,
}

/// What the parts of one body have in common, drawn by its sender.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct BodyId(pub(super) [u8; 32]);

impl BodyId {
    /// For a body in `parts` parts.
    pub(super) fn draw(parts: u32) -> Self {
        if parts > 1 { Self(rand::random()) } else { Self::default() }
    }

    /// From raw bytes; `None` when the length is wrong.
    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl Inner {
    pub(super) fn parts(&self) -> u32 {
        parts_of(self.total)
    }
}

/// A sealed part and what its sender keeps with it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) id: MessageId,
    /// The symmetric key (32 bytes), then the wire form: what the outbox stores.
    stored: Bytes,
}

impl Part {
    pub(super) fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// The wire form.
    pub(super) fn wire(&self) -> Bytes {
        self.stored.slice(32..)
    }
}

/// The wire form inside stored bytes; `None` when they are damaged.
pub(super) fn wire_of_stored(stored: &Bytes) -> Option<Bytes> {
    (stored.len() > 32 + PART_HEADER + SEALED_OVERHEAD).then(|| stored.slice(32..))
}

/// Signs, seals and opens for one node on one network.
#[derive(Clone, Debug)]
pub(super) struct Envelopes {
    identity: Identity,
    context: String,
    purpose: Purpose,
}

impl Envelopes {
    pub(super) fn new(identity: Identity, network: &NetworkId) -> Self {
        Self { identity, context: format!("vos-mail/1/{network}"), purpose: Purpose::new("vos-part/1", network) }
    }

    /// The HPKE context string.
    pub(super) fn context(&self) -> &str {
        &self.context
    }

    /// Signs, pads and seals one part to the session's key, whose id must be `inner.key_id`.
    pub(super) fn seal(&self, session: &mut SealSession, inner: &Inner) -> Result<Part, SealError> {
        let inner_proto = wire::inner_to_proto(inner);
        let bucket = bucket(inner_proto.encoded_len());
        let mut stored = Vec::with_capacity(32 + PART_HEADER + SEALED_OVERHEAD + bucket);
        stored.extend_from_slice(&[0; 32]);
        stored.push(VERSION);
        stored.extend_from_slice(&inner.key_id);
        let aad = aad(&inner.recipient, &inner.key_id);
        let mut hasher = hasher();
        let write = |out: &mut Vec<u8>| write(&inner_proto, bucket, out);
        let key = session.seal(&aad, &mut stored, write, |stored| {
            let signature = self.identity.sign(&self.purpose, hasher.update(&stored[32..]).finalize().as_bytes());
            signature.try_into().expect("Ed25519 signatures are 64 bytes")
        })?;
        let id = MessageId(hasher.update(&stored[stored.len() - SEALED_NOTE..]).finalize().into());
        stored[..32].copy_from_slice(key.expose());
        Ok(Part { id, stored: stored.into() })
    }

    /// The plain part of `inner`.
    #[cfg(test)]
    pub(super) fn plain(inner: &Inner) -> Vec<u8> {
        let (inner, mut plain) = (wire::inner_to_proto(inner), Vec::new());
        write(&inner, bucket(inner.encoded_len()), &mut plain);
        plain
    }

    /// Opens one part addressed to us, in place, and checks everything that needs no memory of other parts and no clock, but its
    /// signature.
    pub(super) fn open(&self, opener: &Opener, mut part: BytesMut, digests: &Digests) -> Result<Unverified, Code> {
        let sealed = part.split_off(PART_HEADER.min(part.len()));
        let key_id = key_id(&part)?;
        let owner = self.identity.address();
        let opened = opener.open(&key_id, &aad(&owner, &key_id), sealed).map_err(|e| match e {
            OpenError::UnknownKey => Code::NeedReseal,
            OpenError::Damaged => Code::Bad,
        })?;
        let opened = Unverified::read(opened, digests, &key_id)?;
        if opened.inner.recipient != owner || opened.inner.sender == owner {
            return Err(Code::Bad);
        }
        Ok(opened)
    }

    /// Checks the signatures of opened parts, all at once. Those that are good, at their places.
    pub(super) fn verify(&self, opened: Vec<Unverified>) -> Vec<Option<Inner>> {
        // One alone is cheaper by itself.
        let all = opened.len() > 1 && {
            let mut signatures = SignatureBatch::new(self.purpose.clone());
            opened.iter().for_each(|part| signatures.add(&part.key, &part.signed, &part.signature));
            signatures.verify()
        };
        let one =
            |part: &Unverified| identity::verify_batchable(&part.key, &self.purpose, &part.signed, &part.signature);
        opened.into_iter().map(|part| (all || one(&part)).then_some(part.inner)).collect()
    }

    /// Opens our own stored part with the key beside it, to seal it again.
    pub(super) fn reopen(&self, recipient: &PeerId, stored: &Bytes) -> Result<Inner, Code> {
        let (key, part) = stored.split_first_chunk::<32>().ok_or(Code::Bad)?;
        let digests = Digests::of(part).ok_or(Code::Bad)?;
        let key_id = key_id(part)?;
        let sealed = BytesMut::from(&part[PART_HEADER..]);
        let opened = MessageKey::from_bytes(*key).open(&aad(recipient, &key_id), sealed).map_err(|_| Code::Bad)?;
        let opened = Unverified::read(opened, &digests, &key_id)?;
        self.verify(vec![opened]).pop().flatten().ok_or(Code::Bad)
    }
}

/// A part that was opened, its form checked, and its signature not. The rule for it is the one that batches have (`identity/batch.rs`).
#[derive(Debug)]
pub(super) struct Unverified {
    inner: Inner,
    key: [u8; 32],
    signed: [u8; 32],
    signature: [u8; 64],
}

impl Unverified {
    /// The inner part of what was sealed.
    pub(super) fn read(opened: Opened, digests: &Digests, key_id: &KeyId) -> Result<Self, Code> {
        let Opened { plain, note: signature } = opened;
        let length = plain.first_chunk::<LENGTH>().ok_or(Code::Bad)?;
        let length = u32::from_be_bytes(*length) as usize; // u32 fits in usize
        let padding = plain.get(LENGTH + length..).ok_or(Code::Bad)?;
        if !BUCKETS.contains(&plain.len()) || padding.iter().any(|b| *b != 0) {
            return Err(Code::Bad);
        }
        let inner = wire::inner_from_bytes(plain.slice(LENGTH..LENGTH + length))?;
        if inner.key_id != *key_id || part_len(inner.total, inner.index) != Some(inner.body.len()) {
            return Err(Code::Bad);
        }
        let key = identity::key_bytes_of(&inner.sender).ok_or(Code::Bad)?;
        Ok(Self { inner, key, signed: digests.signed, signature })
    }
}

/// Appends a plain part of `bucket` bytes: length, inner, zeros.
fn write(inner: &impl prost::Message, bucket: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(inner.encoded_len()).expect("at most 256 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    inner.encode(out).expect("a Vec grows");
    out.resize(start + bucket, 0);
}

/// The key id in a part's header.
fn key_id(part: &[u8]) -> Result<KeyId, Code> {
    let (version, rest) = part.split_first().ok_or(Code::Bad)?;
    let key_id = rest.first_chunk().ok_or(Code::Bad)?;
    if *version == VERSION { Ok(*key_id) } else { Err(Code::Bad) }
}

/// What one pass over a part gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Digests {
    pub(super) id: MessageId,
    /// What its sender signed.
    signed: [u8; 32],
}

impl Digests {
    /// `None` when the bytes are too short to be a part.
    pub(super) fn of(part: &[u8]) -> Option<Self> {
        let note = part.len().checked_sub(SEALED_NOTE).filter(|_| is_long_enough(part))?;
        let mut hasher = hasher();
        let signed = hasher.update(&part[..note]).finalize().into();
        Some(Self { id: MessageId(hasher.update(&part[note..]).finalize().into()), signed })
    }
}

fn hasher() -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"vos-mail/1");
    hasher
}

fn is_long_enough(part: &[u8]) -> bool {
    part.len() > PART_HEADER + SEALED_OVERHEAD
}

/// The padded size of a plain part whose inner has so many bytes.
fn bucket(inner: usize) -> usize {
    let bucket = BUCKETS.into_iter().find(|b| LENGTH + inner <= *b);
    bucket.expect("parts and file names are capped before, see PART_BYTES")
}

/// The id of a part on the wire; `None` when it is too short to be one.
pub(super) fn part_id(part: &[u8]) -> Option<MessageId> {
    is_long_enough(part).then(|| id_of(part))
}

/// The id of a part's wire form.
pub(super) fn id_of(part: &[u8]) -> MessageId {
    MessageId(hasher().update(part).finalize().into())
}

fn aad(owner: &PeerId, key_id: &KeyId) -> Vec<u8> {
    let owner = owner.to_bytes();
    [&[VERSION], owner.as_slice(), key_id].concat()
}
