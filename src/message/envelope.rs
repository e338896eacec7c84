//! Sealing, opening, signing and ids of message parts (spec `mail.md` 3.4). No store, no network.
//!
//! ```text
//!  part     = version (1) | key id (8) | sealed
//!  sealed   = encapsulated key (32) | counter (8) | ciphertext | tag (16)           (HPKE, identity::SealSession)
//!  plain    = signature (64) | length of inner (4) | inner (protobuf) | zeros       1, 4, 16, 64 or 256 KiB in all
//!  aad      = version | owner | key id
//!  id       = BLAKE3("vos-mail/1" | part)
//! ```
//! The spec's id was SHA-256 of the sealed bytes. The part's header is in it, so that no mailbox can make a part useless and still
//! show what it has a receipt for. And both sides and every mailbox hash all sealed bytes, which was a tenth of what a large message cost;
//! BLAKE3 is here anyway, and no release has the other one.
//! The signature covers the BLAKE3 hash of `inner`: Ed25519 reads its message twice, and SHA-512 over 256 KiB twice would be
//! what a large message costs. `inner` names the recipient, so nobody can seal it again for a third party.
//!
//! `inner` counts the messages to this recipient in this stream, and names the first of them that is still to be receipted ([`Rank`]).
//! The spec's hash of the message before would show that something is missing, but not how much, nor that it will never come.
//!
//! A body of more than [`PART_BYTES`] travels in parts. Every part's `inner` names the total bytes, from which the number of
//! parts and each part's length follow, the part's index, and a random [`BodyId`] that its sender drew for this body. All of it is
//! under the sender's signature, so nobody but the sender can put parts of different bodies together, and a sender that did would
//! only have sent another body. So a body is read once, part by part. **The id of a message is the id of its part 0.**

use bytes::Bytes;
use prost::Message as _;

use super::{
    order::Rank,
    wire::{self, Code},
};
use crate::{
    identity::{
        self, Identity, KeyId, MessageKey, OpenError, Opener, Purpose, SEALED_OVERHEAD, SealError, SealSession,
    },
    primitives::{MessageId, NetworkId, PeerId, StreamId, UnixMillis},
};

/// The version of everything in this file.
pub(super) const VERSION: u8 = 1;
/// Sizes of the padded plain part.
pub(super) const BUCKETS: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Body bytes in each part but the last: a part of them fills the largest bucket. What is left (1024 bytes) holds the
/// signature, a file name of 255 bytes, two addresses and the numbers.
pub(super) const PART_BYTES: usize = (256 << 10) - 1024;
/// Version and key id in front of the sealed bytes.
pub(super) const PART_HEADER: usize = 9;
/// Largest part on the wire.
pub(super) const MAX_PART: usize = PART_HEADER + SEALED_OVERHEAD + BUCKETS[4];
/// Longest file name in bytes.
pub(super) const MAX_FILE_NAME: usize = 255;

const SIGNATURE: usize = 64;
const PLAIN_HEADER: usize = SIGNATURE + 4;

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
        Self { identity, context: format!("vos-mail/1/{network}"), purpose: Purpose::new("vos-inner/1", network) }
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
        let key = session.seal_into(&aad(&inner.recipient, &inner.key_id), &mut stored, |out| {
            self.write(&inner_proto, bucket, out);
        })?;
        stored[..32].copy_from_slice(key.expose());
        let id = id_of(&stored[32..]);
        Ok(Part { id, stored: stored.into() })
    }

    /// Appends a plain part of `bucket` bytes: signature, length, inner, zeros.
    fn write(&self, inner: &impl prost::Message, bucket: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + PLAIN_HEADER, 0);
        inner.encode(out).expect("a Vec grows");
        let (head, body) = out[start..].split_at_mut(PLAIN_HEADER);
        head[..SIGNATURE].copy_from_slice(&self.identity.sign(&self.purpose, blake3::hash(body).as_bytes()));
        let length = u32::try_from(body.len()).expect("at most 256 KiB");
        head[SIGNATURE..].copy_from_slice(&length.to_be_bytes());
        out.resize(start + bucket, 0);
    }

    /// The plain part of `inner`.
    #[cfg(test)]
    pub(super) fn plain(&self, inner: &Inner) -> Vec<u8> {
        let (inner, mut plain) = (wire::inner_to_proto(inner), Vec::new());
        self.write(&inner, bucket(inner.encoded_len()), &mut plain);
        plain
    }

    /// Opens and checks one part addressed to us: everything that needs no memory of other parts and no clock.
    pub(super) fn open(&self, opener: &Opener, part: &Bytes) -> Result<Inner, Code> {
        let (version, rest) = part.split_first().ok_or(Code::Bad)?;
        let (key_id, sealed) = rest.split_first_chunk::<8>().ok_or(Code::Bad)?;
        if *version != VERSION {
            return Err(Code::Bad);
        }
        let owner = self.identity.address();
        let plain = opener.open(key_id, &aad(&owner, key_id), sealed).map_err(|e| match e {
            OpenError::UnknownKey => Code::NeedReseal,
            OpenError::Damaged => Code::Bad,
        })?;
        let inner = self.check(&plain.into(), key_id)?;
        if inner.recipient != owner || inner.sender == owner {
            return Err(Code::Bad);
        }
        Ok(inner)
    }

    /// The inner part of a padded plain part, its form and signature checked.
    pub(super) fn check(&self, plain: &Bytes, key_id: &KeyId) -> Result<Inner, Code> {
        let (signature, length) =
            plain.get(..PLAIN_HEADER).and_then(|h| h.split_at_checked(SIGNATURE)).ok_or(Code::Bad)?;
        let length = u32::from_be_bytes(length.try_into().map_err(|_| Code::Bad)?) as usize; // u32 fits in usize
        let padding = plain.get(PLAIN_HEADER + length..).ok_or(Code::Bad)?;
        if !BUCKETS.contains(&plain.len()) || padding.iter().any(|b| *b != 0) {
            return Err(Code::Bad);
        }
        let bytes = plain.slice(PLAIN_HEADER..PLAIN_HEADER + length);
        let hash = blake3::hash(&bytes);
        let inner = wire::inner_from_bytes(bytes)?;
        if inner.key_id != *key_id || part_len(inner.total, inner.index) != Some(inner.body.len()) {
            return Err(Code::Bad);
        }
        if !identity::verify(&inner.sender, &self.purpose, hash.as_bytes(), signature) {
            return Err(Code::Bad);
        }
        Ok(inner)
    }

    /// Opens our own stored part with the key beside it, to seal it again.
    pub(super) fn reopen(&self, recipient: &PeerId, stored: &Bytes) -> Result<Inner, Code> {
        let (key, part) = stored.split_first_chunk::<32>().ok_or(Code::Bad)?;
        let (key_id, sealed) = part.get(1..).and_then(|p| p.split_first_chunk::<8>()).ok_or(Code::Bad)?;
        let plain = MessageKey::from_bytes(*key).open(&aad(recipient, key_id), sealed).map_err(|_| Code::Bad)?;
        self.check(&plain.into(), key_id)
    }
}

/// The padded size of a plain part whose inner has so many bytes.
fn bucket(inner: usize) -> usize {
    let bucket = BUCKETS.into_iter().find(|b| PLAIN_HEADER + inner <= *b);
    bucket.expect("parts and file names are capped before, see PART_BYTES")
}

/// The id of a part on the wire; `None` when it is too short to be one.
pub(super) fn part_id(part: &[u8]) -> Option<MessageId> {
    (part.len() > PART_HEADER + SEALED_OVERHEAD).then(|| id_of(part))
}

/// The id of a part's wire form.
pub(super) fn id_of(part: &[u8]) -> MessageId {
    MessageId(blake3::Hasher::new().update(b"vos-mail/1").update(part).finalize().into())
}

fn aad(owner: &PeerId, key_id: &KeyId) -> Vec<u8> {
    let owner = owner.to_bytes();
    [&[VERSION], owner.as_slice(), key_id].concat()
}
