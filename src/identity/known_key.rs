//! A public key that checks many signatures: its point is decoded and its multiples are computed once. What it accepts is exactly what
//! [`super::verify_key`] accepts (RFC 8032 without the cofactor: the same equation, computed the same way), so that nodes never
//! differ in what they take for valid. Checking several signatures in one equation would be faster still, and is not exact.

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::{CompressedEdwardsY, VartimeEdwardsPrecomputation},
    traits::VartimePrecomputedMultiscalarMul,
};

use super::Purpose;

/// See the module doc. Some 20 KiB.
pub struct KnownKey {
    key: [u8; 32],
    /// Multiples of minus the key and of the base point.
    tables: VartimeEdwardsPrecomputation,
}

impl std::fmt::Debug for KnownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KnownKey").field(&hex::encode(self.key)).finish()
    }
}

impl KnownKey {
    /// A raw Ed25519 public key; `None` when the bytes are not a point of the curve.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        let point: EdwardsPoint = CompressedEdwardsY(*key).decompress()?;
        Some(Self { key: *key, tables: VartimeEdwardsPrecomputation::new([-point, ED25519_BASEPOINT_POINT]) })
    }

    /// Whether `signature` over `message` for `purpose` was made with this key.
    #[must_use]
    pub fn verify(&self, purpose: &Purpose, message: &[u8], signature: &[u8; 64]) -> bool {
        let (r, s) = signature.split_at(32);
        let s: Option<Scalar> = <[u8; 32]>::try_from(s).ok().and_then(|s| Scalar::from_canonical_bytes(s).into());
        let Some(s) = s else { return false };
        let mut hash = ring::digest::Context::new(&ring::digest::SHA512);
        hash.update(r);
        hash.update(&self.key);
        hash.update(&purpose.bind(message));
        let Ok(hash) = <[u8; 64]>::try_from(hash.finish().as_ref()) else { return false };
        let expected = self.tables.vartime_multiscalar_mul([Scalar::from_bytes_mod_order_wide(&hash), s]);
        expected.compress().as_bytes() == r
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        identity::{Identity, verify_key},
        primitives::NetworkId,
    };

    fn both(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Option<bool> {
        let purpose = Purpose::new("test/1", &NetworkId::default());
        let one = verify_key(key, &purpose, message, signature);
        let known = KnownKey::new(key).is_some_and(|k| k.verify(&purpose, message, signature));
        (one == known).then_some(one)
    }

    fn signed(message: &[u8]) -> ([u8; 32], [u8; 64]) {
        let identity = Identity::generate();
        let purpose = Purpose::new("test/1", &NetworkId::default());
        (identity.public_key(), identity.sign(&purpose, message).try_into().unwrap())
    }

    proptest! {
        #[test]
        fn it_judges_as_one_check_does(message in proptest::collection::vec(any::<u8>(), 0..300), flip in 0usize..768) {
            let (key, signature) = signed(&message);
            prop_assert_eq!(both(&key, &message, &signature), Some(true));
            // One bit of the signature or of the key is another one.
            let (mut key, mut signature) = (key, signature);
            match flip / 8 {
                byte @ 0..64 => signature[byte] ^= 1 << (flip % 8),
                byte => key[byte - 64] ^= 1 << (flip % 8),
            }
            prop_assert_eq!(both(&key, &message, &signature), Some(false));
        }

        #[test]
        fn noise_is_judged_the_same(key in any::<[u8; 32]>(), r in any::<[u8; 32]>(), s in any::<[u8; 32]>()) {
            let signature = [r, s].concat().try_into().unwrap();
            prop_assert!(both(&key, b"noise", &signature).is_some());
        }
    }

    #[test]
    fn points_of_small_order_and_scalars_beyond_the_order_are_judged_the_same() {
        let (key, signature) = signed(b"message");
        let point = CompressedEdwardsY(key).decompress().unwrap();
        let r = CompressedEdwardsY(signature[..32].try_into().unwrap()).decompress().unwrap();
        for torsion in EIGHT_TORSION {
            let mut other = signature;
            other[..32].copy_from_slice((r + torsion).compress().as_bytes());
            assert!(both(&key, b"message", &other).is_some());
            assert!(both((point + torsion).compress().as_bytes(), b"message", &signature).is_some());
            // A key that signs everything, and its signature: R is the identity or a point of small order, and s is 0.
            for r in EIGHT_TORSION {
                let mut weak = [0; 64];
                weak[..32].copy_from_slice(r.compress().as_bytes());
                assert!(both(torsion.compress().as_bytes(), b"message", &weak).is_some());
            }
        }
        // s plus the order of the group: the same point, another encoding.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut other = signature;
        let mut carry = 0;
        for (byte, add) in other[32..].iter_mut().zip(&order) {
            let sum = u16::from(*byte) + u16::from(*add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!(both(&key, b"message", &other), Some(false));
    }
}
