//! Key file, envelopes, encryption keys.

use std::{fs, os::unix::fs::PermissionsExt};

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::primitives::{NetworkId, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const CONTEXT: &str = "vos-mail/1/main";

fn purpose(name: &str) -> Purpose {
    Purpose::new(name, &NetworkId::default())
}

fn ring() -> Keyring {
    let mut ring = Keyring::default();
    assert!(ring.rotate(NOW));
    ring
}

#[test]
fn a_new_key_file_is_private_and_gives_the_same_identity_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    let made = load_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(load_or_create(&path).unwrap().address(), made.address());
    assert_eq!(load(&path).unwrap().public_key(), made.public_key());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftover of writing it");
}

#[test]
fn a_key_that_others_can_read_is_refused_and_the_text_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    load_or_create(&path).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(error, KeystoreError::Exposed { .. }), "{mode:o}: {error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_key_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    for content in [&b""[..], b"hello", &[0; 68], &[8; 5000]] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeystoreError::Malformed { .. })), "{} bytes", content.len());
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let missing = dir.path().join("none/identity.key");
    assert!(matches!(load_or_create(&missing), Err(KeystoreError::Io { .. })));
}

#[test]
fn a_leftover_of_an_interrupted_creation_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    fs::write(dir.path().join(".identity-1.new"), b"half").unwrap();
    let made = load_or_create(&path).unwrap();
    assert_eq!(load(&path).unwrap().address(), made.address());
}

#[test]
fn a_key_that_is_lost_is_not_replaced_by_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    // On a disk that is not mounted.
    std::os::unix::fs::symlink(dir.path().join("secrets/key"), &path).unwrap();
    assert!(matches!(load_or_create(&path), Err(KeystoreError::Dangling { .. })));
    assert!(path.is_symlink());
    fs::remove_file(&path).unwrap();
    // A node ran here.
    fs::create_dir(dir.path().join("db")).unwrap();
    fs::write(dir.path().join("db/CURRENT"), b"MANIFEST-000001\n").unwrap();
    let error = load_or_create(&path).unwrap_err();
    assert!(matches!(error, KeystoreError::Missing { .. }) && !path.exists(), "{error}");
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    load_or_create(&path).unwrap();
}

#[test]
fn two_who_make_a_key_at_once_have_the_same() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let made: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| load_or_create(&path).unwrap().address())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let kept = load(&path).unwrap().address();
        assert!(made.iter().all(|address| *address == kept));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_signature_is_good_for_its_purpose_network_author_and_message_only() {
    let (me, other) = (Identity::generate(), Identity::generate());
    let signature = me.sign(&purpose("a/1"), b"hello");
    assert_eq!(signature.len(), 64);
    assert!(verify(&me.address(), &purpose("a/1"), b"hello", &signature));
    assert!(!verify(&me.address(), &purpose("b/1"), b"hello", &signature));
    assert!(!verify(&me.address(), &Purpose::new("a/1", &"other".parse().unwrap()), b"hello", &signature));
    assert!(!verify(&other.address(), &purpose("a/1"), b"hello", &signature));
    assert!(!verify(&me.address(), &purpose("a/1"), b"hellp", &signature));
    assert!(!verify(&me.address(), &purpose("a/1"), b"hello", &signature[..63]));
}

#[test]
fn only_ed25519_addresses_contain_a_key() {
    let me = Identity::generate();
    assert_eq!(public_key_of(&me.address()).unwrap().to_peer_id(), me.address());
    assert_eq!(key_bytes_of(&me.address()), Some(me.public_key()));
    assert_eq!(key_bytes_of(&PeerId::random()), None);
    assert!(public_key_of(&PeerId::random()).is_none(), "a hash of something");
}

#[test]
fn an_envelope_opens_for_its_purpose_and_names_its_author() {
    let me = Identity::generate();
    let sealed = seal_envelope(&me, &purpose("a/1"), b"payload".to_vec());
    assert_eq!(open_envelope(&purpose("a/1"), &sealed).unwrap(), (me.address(), b"payload".to_vec()));
    assert_eq!(open_envelope(&purpose("b/1"), &sealed), Err(EnvelopeError::Signature));
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        // A flipped bit may only survive as an equivalent protobuf of the same content.
        if let Ok(opened) = open_envelope(&purpose("a/1"), &altered) {
            assert_eq!(opened, (me.address(), b"payload".to_vec()), "byte {at}");
        }
    }
}

#[test]
fn an_envelopes_signature_is_good_for_its_key_purpose_and_payload_alone() {
    let (me, long) = (Identity::generate(), vec![7; 300]);
    for payload in [b"".as_slice(), b"payload", &long] {
        let sealed = seal_envelope(&me, &purpose("a/1"), payload.to_vec());
        let signature = &sealed[sealed.len() - 64..];
        let good = |key: &Identity, name: &str, payload: &[u8], signature: &[u8]| {
            verify_envelope(&key.public_key(), &purpose(name), payload, signature)
        };
        assert!(good(&me, "a/1", payload, signature));
        assert!(!good(&Identity::generate(), "a/1", payload, signature));
        assert!(!good(&me, "b/1", payload, signature));
        assert!(!good(&me, "a/1", b"other", signature));
        assert!(!good(&me, "a/1", payload, &signature[1..]));
    }
}

/// `plain` sealed, with a note that is the hash of everything before it, twice.
fn sealed(session: &mut SealSession, aad: &[u8], plain: &[u8]) -> (Vec<u8>, MessageKey) {
    let mut out = Vec::new();
    let key = session.seal(aad, &mut out, |out| out.extend_from_slice(plain), twice).unwrap();
    (out, key)
}

fn twice(bytes: &[u8]) -> [u8; NOTE] {
    let hash = *blake3::hash(bytes).as_bytes();
    [hash, hash].concat().try_into().unwrap()
}

fn copy(bytes: &[u8]) -> BytesMut {
    BytesMut::from(bytes)
}

#[test]
fn keys_rotate_at_half_their_life_and_are_wiped_after_retention() {
    let mut ring = ring();
    let first = ring.current().unwrap();
    assert!(!ring.rotate(NOW), "a fresh key stays");
    let half = NOW.plus(KEY_LIFETIME / 2);
    assert!(ring.rotate(half));
    assert_ne!(ring.current().unwrap().id, first.id);
    assert_eq!(ring.offered(half).len(), 2, "both are offered while they overlap");
    assert_eq!(ring.offered(NOW.plus(KEY_LIFETIME)).len(), 1);
    let last = NOW.plus(KEY_LIFETIME + KEY_RETENTION);
    ring.rotate(last.minus(std::time::Duration::from_millis(1)));
    let (sealed, _) = sealed(&mut SealSession::new(CONTEXT, &PeerId::random(), first).unwrap(), b"", b"x");
    let opener = |ring: &Keyring| Opener::new(CONTEXT, PeerId::random(), ring.clone());
    assert_eq!(opener(&ring).open(&first.id, b"", copy(&sealed)), Err(OpenError::Damaged), "still there");
    assert!(ring.rotate(last));
    assert_eq!(opener(&ring).open(&first.id, b"", copy(&sealed)), Err(OpenError::UnknownKey), "wiped");
}

#[test]
fn a_clock_that_jumped_far_back_gets_a_key_that_is_valid_now() {
    let mut ring = ring();
    let past = UnixMillis(1_000_000_000_000);
    assert!(ring.rotate(past));
    let key = ring.current().unwrap();
    assert!(key.not_before <= past && past < key.not_after);
}

#[test]
fn a_keyring_survives_the_store_and_damage_is_noticed() {
    let ring = ring();
    let bytes = ring.encode();
    assert_eq!(bytes.len(), 81);
    let again = Keyring::decode(&bytes).unwrap();
    assert_eq!(again.current(), ring.current());
    assert!(Keyring::decode(&[]).is_err());
    assert!(Keyring::decode(&bytes[..80]).is_err());
    assert!(Keyring::decode(&[&[2], &bytes[1..]].concat()).is_err(), "another version");
    assert!(!format!("{ring:?}").contains(&hex::encode(&bytes[1..33])), "no secret in Debug");
}

#[test]
fn messages_of_a_session_open_in_any_order_and_by_anybody_with_the_key() {
    let (owner, ring) = (PeerId::random(), ring());
    let key = ring.current().unwrap();
    let mut session = SealSession::new(CONTEXT, &owner, key).unwrap();
    let sealed: Vec<_> = (0..5000_u32).map(|i| sealed(&mut session, b"aad", &i.to_be_bytes()).0).collect();
    assert_ne!(sealed[0][..32], sealed[4999][..32], "a new agreement after 4096 messages");
    assert_eq!(sealed[0][..32], sealed[4095][..32]);
    let opener = Opener::new(CONTEXT, owner, ring);
    for i in [4999_u32, 0, 4095, 4096, 17] {
        // The index fits: it is a literal.
        assert_eq!(opener.open(&key.id, b"aad", copy(&sealed[i as usize])).unwrap().plain[..], i.to_be_bytes());
    }
}

#[test]
fn sealed_bytes_open_only_unaltered_and_for_their_owner_context_key_and_aad() {
    let (owner, ring) = (PeerId::random(), ring());
    let key = ring.current().unwrap();
    let (sealed, _) = sealed(&mut SealSession::new(CONTEXT, &owner, key).unwrap(), b"aad", b"secret");
    assert_eq!(sealed.len(), SEALED_OVERHEAD + 6);
    let opener = Opener::new(CONTEXT, owner, ring.clone());
    let opened = opener.open(&key.id, b"aad", copy(&sealed)).unwrap();
    assert_eq!((&opened.plain[..], opened.note), (&b"secret"[..], twice(&sealed[..sealed.len() - SEALED_NOTE])));
    assert_eq!(opener.open(&key.id, b"aae", copy(&sealed)), Err(OpenError::Damaged));
    assert_eq!(opener.open(&[0; 8], b"aad", copy(&sealed)), Err(OpenError::UnknownKey));
    let other = Opener::new(CONTEXT, PeerId::random(), ring.clone());
    assert_eq!(other.open(&key.id, b"aad", copy(&sealed)), Err(OpenError::Damaged));
    let other = Opener::new("vos-mail/1/test", owner, ring);
    assert_eq!(other.open(&key.id, b"aad", copy(&sealed)), Err(OpenError::Damaged));
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert_eq!(opener.open(&key.id, b"aad", copy(&altered)), Err(OpenError::Damaged), "byte {at}");
    }
    for cut in 0..sealed.len() {
        assert_eq!(opener.open(&key.id, b"aad", copy(&sealed[..cut])), Err(OpenError::Damaged), "cut at {cut}");
    }
}

#[test]
fn the_sender_opens_its_own_message_with_its_key_and_no_other() {
    let (owner, ring) = (PeerId::random(), ring());
    let mut session = SealSession::new(CONTEXT, &owner, ring.current().unwrap()).unwrap();
    let ((first, key), (second, _)) = (sealed(&mut session, b"aad", b"one"), sealed(&mut session, b"aad", b"two"));
    let key = MessageKey::from_bytes(*key.expose());
    assert_eq!(key.open(b"aad", copy(&first)).unwrap().plain, "one");
    assert_eq!(key.open(b"aad", copy(&second)), Err(OpenError::Damaged));
    assert_eq!(key.open(b"aad", copy(b"short")), Err(OpenError::Damaged));
    let mixed = [&first[..first.len() - SEALED_NOTE], &second[second.len() - SEALED_NOTE..]].concat();
    assert_eq!(key.open(b"aad", copy(&mixed)), Err(OpenError::Damaged), "the note of another message");
    assert!(!format!("{key:?}").contains(&hex::encode(key.expose())));
}

#[test]
fn a_key_that_is_no_curve_point_cannot_be_sealed_to() {
    let key = EncryptionKey { id: [0; 8], public: [0; 32], not_before: NOW, not_after: NOW };
    assert!(SealSession::new(CONTEXT, &PeerId::random(), key).is_err(), "all zeros: a point of low order");
}

proptest! {
    #[test]
    fn noise_never_opens_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let ring = ring();
        let key = ring.current().unwrap();
        let opener = Opener::new(CONTEXT, PeerId::random(), ring);
        prop_assert!(opener.open(&key.id, b"", copy(&bytes)).is_err());
        let _ = Keyring::decode(&bytes);
        prop_assert!(open_envelope(&purpose("a/1"), &bytes).is_err());
    }
}

#[test]
fn two_identities_share_one_key_for_each_purpose_and_nobody_else_has_it() {
    let [a, b, c] = [(); 3].map(|()| Identity::generate());
    let key = |us: &Identity, other: &Identity, context, info: &[u8]| {
        us.shared_with(&other.address(), context, info).unwrap().public_key()
    };
    let ours = key(&a, &b, "one", b"info");
    assert_eq!(ours, key(&b, &a, "one", b"info"));
    for other in [
        key(&a, &b, "two", b"info"),
        key(&a, &b, "one", b"other"),
        key(&a, &c, "one", b"info"),
        key(&c, &b, "one", b"info"),
    ] {
        assert_ne!(ours, other);
    }
    // The neutral element is a key that decompresses, and whose product is the same for every secret.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let neutral = libp2p::identity::ed25519::PublicKey::try_from_bytes(&neutral);
    if let Ok(key) = neutral {
        let address = libp2p::identity::PublicKey::from(key).to_peer_id();
        assert!(a.shared_with(&address, "one", b"info").is_none());
    }
    let hash = libp2p::multihash::Multihash::<64>::wrap(0x12, &[1; 32]).unwrap();
    assert!(a.shared_with(&PeerId::from_multihash(hash).unwrap(), "one", b"").is_none());
}
