//! A key that two identities derive without a message: Diffie-Hellman over their identity keys.
//!
//! An Ed25519 key has a Curve25519 form with the same secret scalar (RFC 7748 section 4.1 gives the map, RFC 8032 section
//! 5.1.5 the scalar). Both sides multiply their own secret with the other's public key, and hash the result with what the key
//! is for, in a domain that nothing else uses; nothing else can compute it. It never changes and knows no forward secrecy, so
//! it must not encrypt anything: here it says who may use a place, and whoever steals the identity may do that anyway.

use curve25519_dalek::{edwards::CompressedEdwardsY, montgomery::MontgomeryPoint};
use libp2p::identity::{Keypair, ed25519};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Identity, public_key_of};
use crate::primitives::PeerId;

impl Identity {
    /// The Ed25519 key pair that we share with `other` for `context` (a constant of the program) and `info`; both sides get the
    /// same. 0.1 ms. `None` when `other` is no Ed25519 address, or one whose key has no secret (a point of small order).
    #[must_use]
    pub fn shared_with(&self, other: &PeerId, context: &str, info: &[u8]) -> Option<Self> {
        let public = public_key_of(other)?.try_into_ed25519().ok()?.to_bytes();
        let point = CompressedEdwardsY(public).decompress()?.to_montgomery();
        let seed = Zeroizing::new(self.keypair.clone().try_into_ed25519().ok()?.secret().as_ref().to_vec());
        let mut expanded = [0; 64];
        expanded.copy_from_slice(ring::digest::digest(&ring::digest::SHA512, &seed).as_ref());
        let mut scalar = [0; 32];
        scalar.copy_from_slice(&expanded[..32]);
        expanded.zeroize();
        let shared = Zeroizing::new(point.mul_clamped(scalar).to_bytes());
        scalar.zeroize();
        if *shared == MontgomeryPoint::default().to_bytes() {
            return None;
        }
        let mut key = Zeroizing::new(
            *blake3::Hasher::new_derive_key(context).update(shared.as_slice()).update(info).finalize().as_bytes(),
        );
        let secret = ed25519::SecretKey::try_from_bytes(key.as_mut_slice()).ok()?;
        Some(Self::from_keypair(Keypair::from(ed25519::Keypair::from(secret))))
    }
}
