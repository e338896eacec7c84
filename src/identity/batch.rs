//! Signatures that are checked many at a time, at a third of what each would cost alone.
//!
//! # The rule
//! [ZIP 215](https://zips.z.cash/zip-0215): for key A, signature (R, s) and challenge k, `[8]([s]B - R - [k]A)` is the identity, s is below
//! the order of the group, and A and R are any encodings of points. One thing is added: a key of small order signs nothing, since
//! anybody could sign for it (the zeros in place of a key, in a genesis block, are one of them). The equation is the one of RFC 8032 (5.1.7), whose other form,
//! without the factor 8, is what libp2p checks. A sum of such equations, each times a number of 128 bits that nobody could foresee, holds
//! exactly when each of them does (but for one chance in 2^128). Without the factor that would not be so: keys and signatures made on
//! purpose, with a part of small order, pass alone and fail together, or the other way around, and two honest nodes would
//! follow different chains. So whatever may be checked in a batch anywhere has this rule everywhere, [`verify_batchable`] included.
//! Signatures of honest signers pass under either rule.

use std::collections::HashMap;

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::CompressedEdwardsY,
    traits::{IsIdentity, VartimeMultiscalarMul},
};

use super::Purpose;

/// A key that can sign.
fn read_key(key: &[u8; 32]) -> Option<EdwardsPoint> {
    CompressedEdwardsY(*key).decompress().filter(|key| !key.is_small_order())
}

/// One signature, without its key.
struct Claim {
    r: [u8; 32],
    s: Scalar,
    /// The challenge: SHA-512 of R, the key and the message.
    k: Scalar,
}

impl Claim {
    /// `None` when s is not below the order.
    fn read(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Option<Self> {
        let (r, s) = signature.split_at(32);
        let (r, s) = (<[u8; 32]>::try_from(r).ok()?, <[u8; 32]>::try_from(s).ok()?);
        let s: Option<Scalar> = Scalar::from_canonical_bytes(s).into();
        let mut hash = ring::digest::Context::new(&ring::digest::SHA512);
        hash.update(&r);
        hash.update(key);
        hash.update(message);
        let k = Scalar::from_bytes_mod_order_wide(hash.finish().as_ref().try_into().ok()?);
        Some(Self { r, s: s?, k })
    }
}

/// Signatures for one purpose that are to be checked together. Some 130 bytes each.
pub struct SignatureBatch {
    purpose: Purpose,
    claims: HashMap<[u8; 32], Vec<Claim>>,
    wrong: bool,
}

impl std::fmt::Debug for SignatureBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignatureBatch").field("keys", &self.claims.len()).finish_non_exhaustive()
    }
}

impl SignatureBatch {
    /// An empty one, which is good.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, claims: HashMap::new(), wrong: false }
    }

    /// Adds a signature over `message`.
    pub fn add(&mut self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) {
        match Claim::read(key, &self.purpose.bind(message), signature) {
            Some(claim) => self.claims.entry(*key).or_default().push(claim),
            None => self.wrong = true,
        }
    }

    /// Whether every one of them is good. Some 10 us each, of hundreds by few keys.
    #[must_use]
    pub fn verify(self) -> bool {
        !self.wrong && self.sum().is_some_and(|sum| sum.mul_by_cofactor().is_identity())
    }

    /// Minus the sum of all equations, each times a random number; `None` when something is not the encoding of a point.
    fn sum(self) -> Option<EdwardsPoint> {
        let count: usize = self.claims.values().map(|c| c.len() + 1).sum();
        let (mut scalars, mut points) = (Vec::with_capacity(count + 1), Vec::with_capacity(count + 1));
        let mut base = Scalar::ZERO;
        for (key, claims) in self.claims {
            let mut challenges = Scalar::ZERO;
            for Claim { r, s, k } in claims {
                let z = Scalar::from(rand::random::<u128>());
                base += z * s;
                challenges += z * k;
                scalars.push(z); // short: its upper half costs nothing
                points.push(CompressedEdwardsY(r).decompress()?);
            }
            scalars.push(challenges);
            points.push(read_key(&key)?);
        }
        scalars.push(-base);
        points.push(ED25519_BASEPOINT_POINT);
        Some(EdwardsPoint::vartime_multiscalar_mul(scalars, points))
    }
}

/// Whether `signature` over `message` for `purpose` was made with `key`, by the rule of this module: some 35 us.
#[must_use]
pub fn verify_batchable(key: &[u8; 32], purpose: &Purpose, message: &[u8], signature: &[u8; 64]) -> bool {
    let check = || {
        let Claim { r, s, k } = Claim::read(key, &purpose.bind(message), signature)?;
        let (key, r) = (read_key(key)?, CompressedEdwardsY(r).decompress()?);
        let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&-k, &key, &s);
        Some((expected - r).mul_by_cofactor().is_identity())
    };
    check().unwrap_or(false)
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

    type Signed = ([u8; 32], Vec<u8>, [u8; 64]);

    fn purpose() -> Purpose {
        Purpose::new("test/1", &NetworkId::default())
    }

    fn signed(identity: &Identity, message: &[u8]) -> Signed {
        (identity.public_key(), message.to_vec(), identity.sign(&purpose(), message).try_into().unwrap())
    }

    fn alone((key, message, signature): &Signed) -> bool {
        verify_batchable(key, &purpose(), message, signature)
    }

    fn together<'a>(all: impl IntoIterator<Item = &'a Signed>) -> bool {
        let mut batch = SignatureBatch::new(purpose());
        all.into_iter().for_each(|(key, message, signature)| batch.add(key, message, signature));
        batch.verify()
    }

    /// What passes alone passes with others, as often as it is asked, and what fails does not.
    fn judged_the_same(one: &Signed, others: &[Signed]) -> bool {
        let good = alone(one);
        (0..8).all(|_| together(others.iter().chain([one])) == good && together([one]) == good)
    }

    fn many() -> Vec<Signed> {
        let makers: Vec<_> = (1..4).map(|n| Identity::from_seed([n; 32])).collect();
        (0u16..300).map(|n| signed(&makers[usize::from(n % 3)], &n.to_be_bytes())).collect()
    }

    #[test]
    fn honest_signatures_pass_alone_together_and_by_the_other_rule() {
        let all = many();
        assert!(together([]) && together(&all));
        for one in &all[..6] {
            let (key, message, signature) = one;
            assert!(alone(one) && verify_key(key, &purpose(), message, signature));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_wrong_bit_anywhere_spoils_a_batch(at in 0usize..300, flip in 0usize..784) {
            let mut all = many();
            let (key, message, signature) = &mut all[at];
            match flip / 8 {
                byte @ 0..64 => signature[byte] ^= 1 << (flip % 8),
                byte @ 64..96 => key[byte - 64] ^= 1 << (flip % 8),
                byte => message[byte - 96] ^= 1 << (flip % 8),
            }
            prop_assert!(!alone(&all[at]) && !together(&all));
            all.remove(at);
            prop_assert!(together(&all));
        }

        #[test]
        fn noise_is_refused_the_same(key in any::<[u8; 32]>(), r in any::<[u8; 32]>(), s in any::<[u8; 32]>()) {
            let s = Scalar::from_bytes_mod_order(s).to_bytes();
            let one = (key, b"noise".to_vec(), [r, s].concat().try_into().unwrap());
            prop_assert!(!alone(&one) && judged_the_same(&one, &[]));
        }
    }

    #[test]
    fn two_wrong_ones_do_not_cancel_out() {
        // The sum of both equations without random numbers holds: what one has too much the other lacks.
        let identity = Identity::from_seed([7; 32]);
        let (mut a, mut b) = (signed(&identity, b"a"), signed(&identity, b"b"));
        let half = |signed: &Signed| Scalar::from_bytes_mod_order(signed.2[32..].try_into().unwrap());
        let (up, down) = (half(&a) + Scalar::ONE, half(&b) - Scalar::ONE);
        a.2[32..].copy_from_slice(up.as_bytes());
        b.2[32..].copy_from_slice(down.as_bytes());
        assert!(!together([&a, &b]));
    }

    /// All encodings of points of small order: the eight that are canonical, and those of y with p added or of -0 (ZIP 215 counts 14).
    fn small_order() -> Vec<[u8; 32]> {
        let mut all: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|p| p.compress().to_bytes()).collect();
        for low in [0xec_u8, 0xed, 0xee] {
            let mut y = [0xff; 32];
            (y[0], y[31]) = (low, 0x7f);
            all.push(y);
            y[31] = 0xff;
            all.push(y);
        }
        let mut one = [0; 32];
        (one[0], one[31]) = (1, 0x80);
        all.push(one);
        all.retain(|y| CompressedEdwardsY(*y).decompress().is_some());
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn an_r_of_small_order_passes_as_zip_215_wants_it_and_a_key_of_small_order_signs_nothing() {
        let all = small_order();
        assert_eq!(all.len(), 14);
        let others = &many()[..20];
        let secret = Scalar::from(7_654_321_u64);
        let key = (ED25519_BASEPOINT_POINT * secret).compress().to_bytes();
        let mut differ = 0;
        for r in &all {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r);
            for weak in &all {
                // s is 0: both sides of the equation are the identity after the factor 8, whatever the message.
                let one = (*weak, b"Zcash".to_vec(), signature);
                assert!(!alone(&one) && judged_the_same(&one, others));
            }
            let k = Claim::read(&key, &purpose().bind(b"Zcash"), &signature).unwrap().k;
            signature[32..].copy_from_slice((k * secret).as_bytes());
            let one = (key, b"Zcash".to_vec(), signature);
            assert!(alone(&one) && judged_the_same(&one, others), "whatever the encoding of R");
            differ += usize::from(!verify_key(&key, &purpose(), b"Zcash", &signature));
        }
        assert!(differ >= 13, "the other rule takes no R but the one that it computes");
    }

    #[test]
    fn parts_of_small_order_in_key_and_signature_never_depend_on_the_company() {
        // Whoever knows the secret scalars can make signatures with them for a key and an R with a part of small order each.
        let others = many();
        let (a, r) = (Scalar::from(7_654_321_u64), Scalar::from(1_234_567_u64));
        let mut differ = 0;
        for in_key in EIGHT_TORSION {
            for in_r in EIGHT_TORSION {
                let key = (ED25519_BASEPOINT_POINT * a + in_key).compress().to_bytes();
                let big_r = (ED25519_BASEPOINT_POINT * r + in_r).compress().to_bytes();
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&big_r);
                let k = Claim::read(&key, &purpose().bind(b"message"), &signature).unwrap().k;
                signature[32..].copy_from_slice((r + k * a).as_bytes());
                let one = (key, b"message".to_vec(), signature);
                assert!(alone(&one) && judged_the_same(&one, &others));
                differ += usize::from(!verify_key(&key, &purpose(), b"message", &signature));
            }
        }
        assert!(differ > 30, "the other rule refuses most of them");
    }

    #[test]
    fn a_scalar_beyond_the_order_is_refused() {
        let (key, message, mut signature) = signed(&Identity::from_seed([3; 32]), b"message");
        // The same point, another encoding.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(&order) {
            let sum = u16::from(*byte) + u16::from(*add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        let one = (key, message, signature);
        assert!(!alone(&one) && judged_the_same(&one, &many()));
    }
}
