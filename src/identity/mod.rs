//! L1: who we are. The Ed25519 identity key, its file, signatures with a purpose, and X25519 encryption keys.
//!
//! # Addresses
//! An address is the libp2p [`PeerId`] of an Ed25519 key. Such an id *contains* the public key (identity
//! multihash), so any signature can be checked with nothing but the address. Other key kinds are refused.
//!
//! # Signatures
//! Everything signed travels in a libp2p signed envelope (libp2p RFC 0002) with a [`Purpose`]: the domain
//! string carries purpose and network, so a signature for one purpose or network is worthless for another.
//! Signatures of blocks are checked many at a time, by the rule of `batch.rs`; all others as libp2p does it.
//!
//! # Security
//! The identity key's file has mode 0600 and is refused when others can read it. Encryption keys are *not*
//! derived from the identity key: they rotate and are wiped, which is the forward secrecy of stored mail.

mod batch;
mod encryption;
mod envelope;
mod keystore;
mod pair;
#[cfg(test)]
mod tests;

pub use batch::{SignatureBatch, verify_batchable};
pub use encryption::{
    EncryptionKey, KEY_LIFETIME, KEY_RETENTION, KeyId, Keyring, KeyringError, MessageKey, NOTE, OpenError, Opened,
    Opener, SEALED_NOTE, SEALED_OVERHEAD, SealError, SealSession,
};
pub use envelope::{EnvelopeError, Purpose, open_canonical_envelope, open_envelope, seal_envelope, verify_envelope};
pub use keystore::{KeystoreError, load, load_or_create};

use libp2p::identity::{Keypair, PublicKey};

use crate::primitives::PeerId;

/// Our identity: an Ed25519 key pair and its address. Cloning shares the key.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    address: PeerId,
}

impl Identity {
    /// A new random identity.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_keypair(Keypair::generate_ed25519())
    }

    /// For tests: the identity of a secret key.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self::from_keypair(Keypair::ed25519_from_bytes(seed).expect("any 32 bytes are a key"))
    }

    /// Wraps a key pair.
    #[must_use]
    pub fn from_keypair(keypair: Keypair) -> Self {
        let address = keypair.public().to_peer_id();
        Self { keypair, address }
    }

    /// Our address.
    #[must_use]
    pub fn address(&self) -> PeerId {
        self.address
    }

    /// The libp2p key pair, for the transport's handshake.
    #[must_use]
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The raw 32-byte Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.keypair.public().try_into_ed25519().expect("identities are Ed25519").to_bytes()
    }

    /// Signs `message` for `purpose`. The signature is 64 bytes.
    #[must_use]
    pub fn sign(&self, purpose: &Purpose, message: &[u8]) -> Vec<u8> {
        self.keypair.sign(&purpose.bind(message)).expect("Ed25519 signing cannot fail")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.address).finish()
    }
}

/// The Ed25519 public key inside an address; `None` for any other kind of id.
#[must_use]
pub fn public_key_of(address: &PeerId) -> Option<PublicKey> {
    // Multihash code 0 is "identity": the digest is the protobuf-encoded key itself.
    let multihash = address.as_ref();
    if multihash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    key.clone().try_into_ed25519().is_ok().then_some(key)
}

/// The 32 bytes of the Ed25519 public key inside an address, which may be no point of the curve; `None` for any other kind of id.
#[must_use]
pub fn key_bytes_of(address: &PeerId) -> Option<[u8; 32]> {
    // Of the protobuf: type 1 is Ed25519, and 32 bytes of data follow.
    const FRONT: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
    let multihash = address.as_ref();
    let key = multihash.digest().strip_prefix(&FRONT).filter(|_| multihash.code() == 0)?;
    key.try_into().ok()
}

/// The address of a raw Ed25519 public key; `None` when the bytes are not a point of the curve.
#[must_use]
pub fn address_of(key: &[u8; 32]) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// Whether `signature` over `message` for `purpose` was made with a bare Ed25519 public key, such as one that is nobody's address.
#[must_use]
pub fn verify_key(key: &[u8; 32], purpose: &Purpose, message: &[u8], signature: &[u8]) -> bool {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(key);
    key.is_ok_and(|key| key.verify(&purpose.bind(message), signature))
}

/// Whether `signature` over `message` for `purpose` was made by the owner of `address`.
#[must_use]
pub fn verify(address: &PeerId, purpose: &Purpose, message: &[u8], signature: &[u8]) -> bool {
    public_key_of(address).is_some_and(|key| key.verify(&purpose.bind(message), signature))
}
