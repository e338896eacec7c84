//! The header: what a producer signs. Its encoding is canonical by construction (fixed places, big-endian), and its hash covers
//! every byte, the signature too.
//!
//! ```text
//! version 1 ‖ height 8 ‖ parent 32 ‖ time 8 ‖ producer 32 ‖ body root 32 ‖ body bytes 4 ‖ transactions 4
//!           ‖ extra length 1 ‖ extra ‖ signature 64
//! ```

use crate::{
    identity::{Identity, Purpose, SignatureBatch, verify_batchable},
    primitives::{Hash, NetworkId, PeerId, UnixMillis},
};

/// The encoding that this program reads and writes.
const VERSION: u8 = 1;
/// Bytes before the extra data, its length included.
const FIXED: usize = 1 + 8 + 32 + 8 + 32 + 32 + 4 + 4 + 1;
/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// Bytes of the longest header.
pub const MAX_HEADER_BYTES: usize = FIXED + MAX_EXTRA_BYTES + SIGNATURE;
/// Bytes of [`Header::extra`].
pub const MAX_EXTRA_BYTES: usize = 255;

/// What a block says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its parent's height plus one; 0 is the genesis block.
    pub height: u64,
    /// Hash of the parent; zero in the genesis block.
    pub parent: Hash,
    /// When it was made, by its producer's clock.
    pub time: UnixMillis,
    /// Ed25519 public key of the producer; zero in the genesis block.
    pub producer: [u8; 32],
    /// BLAKE3 of the body's bytes ([`super::Body`]).
    pub body_root: Hash,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Transactions in the body.
    pub transactions: u32,
    /// Whatever the chain's own consensus wants in a header; at most [`MAX_EXTRA_BYTES`].
    pub extra: Vec<u8>,
    /// The producer's signature over everything before it.
    pub signature: [u8; SIGNATURE],
}

/// Why bytes are not a header. Always the fault of whoever made them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Too short, too long, or of another version.
    #[error("malformed header")]
    Malformed,
    /// Not signed by the producer it names.
    #[error("wrong signature")]
    Signature,
}

/// What signatures of headers are for.
#[must_use]
pub fn purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-block/1", network)
}

impl Header {
    /// Signs `self` as `identity`: sets the producer and the signature.
    ///
    /// # Panics
    /// With more than [`MAX_EXTRA_BYTES`] of extra data.
    #[must_use]
    pub fn signed(mut self, identity: &Identity, purpose: &Purpose) -> Self {
        self.producer = identity.public_key();
        let signature = identity.sign(purpose, &self.unsigned_bytes());
        self.signature = signature.try_into().expect("Ed25519 signatures are 64 bytes");
        self
    }

    /// The bytes on the wire and on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.unsigned_bytes();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Bytes of the encoded header.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        FIXED + self.extra.len() + SIGNATURE
    }

    fn unsigned_bytes(&self) -> Vec<u8> {
        let extra = u8::try_from(self.extra.len()).expect("callers keep extra data short");
        let mut bytes = Vec::with_capacity(FIXED + self.extra.len() + SIGNATURE);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.height.to_be_bytes());
        bytes.extend_from_slice(self.parent.as_bytes());
        bytes.extend_from_slice(&self.time.0.to_be_bytes());
        bytes.extend_from_slice(&self.producer);
        bytes.extend_from_slice(self.body_root.as_bytes());
        bytes.extend_from_slice(&self.body_bytes.to_be_bytes());
        bytes.extend_from_slice(&self.transactions.to_be_bytes());
        bytes.push(extra);
        bytes.extend_from_slice(&self.extra);
        bytes
    }

    /// Reads exactly one header. The signature is not checked: see [`Header::verify`].
    ///
    /// # Errors
    /// [`HeaderError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = Reader(bytes);
        let [version] = rest.take()?;
        if version != VERSION {
            return Err(HeaderError::Malformed);
        }
        let height = u64::from_be_bytes(rest.take()?);
        let parent = Hash(rest.take()?);
        let time = UnixMillis(u64::from_be_bytes(rest.take()?));
        let producer = rest.take()?;
        let body_root = Hash(rest.take()?);
        let body_bytes = u32::from_be_bytes(rest.take()?);
        let transactions = u32::from_be_bytes(rest.take()?);
        let [extra] = rest.take()?;
        let extra = rest.slice(usize::from(extra))?.to_vec();
        let signature = rest.take()?;
        if !rest.0.is_empty() {
            return Err(HeaderError::Malformed);
        }
        Ok(Self { height, parent, time, producer, body_root, body_bytes, transactions, extra, signature })
    }

    /// Bytes of the header that these begin with, as it says itself; `None` when there are fewer.
    pub(super) fn length(bytes: &[u8]) -> Option<usize> {
        let length = FIXED + usize::from(*bytes.get(FIXED - 1)?) + SIGNATURE;
        (length <= bytes.len()).then_some(length)
    }

    /// Checks the producer's signature, as [`crate::identity::SignatureBatch`] does with many: some 35 us.
    ///
    /// # Errors
    /// [`HeaderError::Signature`].
    pub fn verify(&self, purpose: &Purpose) -> Result<(), HeaderError> {
        match verify_batchable(&self.producer, purpose, &self.unsigned_bytes(), &self.signature) {
            true => Ok(()),
            false => Err(HeaderError::Signature),
        }
    }

    /// Adds the signature to those that are checked together.
    pub(super) fn add_to(&self, signatures: &mut SignatureBatch) {
        signatures.add(&self.producer, &self.unsigned_bytes(), &self.signature);
    }

    /// The block's hash: BLAKE3 of all bytes of the header.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// The producer's address; `None` for the genesis block, which nobody signed, and when the key is none.
    #[must_use]
    pub fn producer_address(&self) -> Option<PeerId> {
        crate::identity::address_of(&self.producer).filter(|_| self.height > 0)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(HeaderError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn slice(&mut self, n: usize) -> Result<&'a [u8], HeaderError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(HeaderError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }
}
