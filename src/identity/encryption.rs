//! X25519 encryption keys: what others seal messages to (spec `mail.md` 3.3-3.4).
//!
//! Keys are random, carry an 8-byte id, rotate every [`KEY_LIFETIME`] and are kept [`KEY_RETENTION`] longer for mail
//! that was sealed before the change; then they are wiped. Sealing is HPKE base mode (RFC 9180: DHKEM(X25519,
//! HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305) with `info = context ‖ owner ‖ key id`.
//!
//! One encapsulation serves many messages: a [`SealSession`] runs the key agreement once and takes each message's
//! key from HPKE's exporter (RFC 9180, 5.3) with the message's counter, so that messages of a session can be opened
//! in any order, by whoever holds the private key, without any state but the counter that travels with them.
//!
//! Behind each sealed text stands a *note* of [`NOTE`] bytes, sealed with the same key: what the sender says of the sealed bytes,
//! such as its signature over them. A signature inside the text would be over the text, and then a message is hashed twice on
//! either side, once for the signature and once for its id.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use bytes::{Bytes, BytesMut};
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable,
    aead::{AeadCtxR, AeadCtxS, ExportOnlyAead},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::primitives::{PeerId, UnixMillis};

type Kem = X25519HkdfSha256;

/// How long a key is offered to senders before the next one takes over.
pub const KEY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How much longer a retired key still opens mail: the longest time to live of stored mail (30 d) and 7 d.
pub const KEY_RETENTION: Duration = Duration::from_secs(37 * 24 * 3600);

/// Bytes of an encapsulated key in front of sealed text.
const ENCAPSULATED: usize = 32;
/// Bytes of a sealed text's header: encapsulated key and counter.
const HEADER: usize = ENCAPSULATED + 8;
/// Bytes of the authentication tag.
const TAG: usize = 16;
/// Bytes of the note behind a sealed text: an Ed25519 signature.
pub const NOTE: usize = 64;
/// Bytes of a note, sealed.
pub const SEALED_NOTE: usize = NOTE + TAG;
/// Bytes that sealing adds: encapsulated key, counter, tag, note.
pub const SEALED_OVERHEAD: usize = HEADER + TAG + SEALED_NOTE;
/// Messages sealed with one encapsulation before a new one is made: bounds what one leaked session key opens.
const SESSION_MESSAGES: u64 = 4096;
/// Key agreements an [`Opener`] remembers, 100 bytes each. A miss costs one X25519 multiplication (about 50 us).
const OPENER_CACHE: usize = 1024;

/// Names one encryption key of one owner: the first 8 bytes of the BLAKE3 hash of the public key.
pub type KeyId = [u8; 8];

/// The public part of an encryption key, as a record carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncryptionKey {
    /// Its id.
    pub id: KeyId,
    /// The X25519 public key.
    pub public: [u8; 32],
    /// Senders use it from then on.
    pub not_before: UnixMillis,
    /// Senders stop using it then; the owner still opens with it for [`KEY_RETENTION`].
    pub not_after: UnixMillis,
}

/// Why stored keys could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored encryption keys are damaged")]
pub struct KeyringError;

/// Why sealing failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the recipient's encryption key is not a valid X25519 key")]
pub struct SealError;

/// Why sealed bytes could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// We do not have the key any more, or never had it: the sender must seal again (NEED_RESEAL).
    #[error("unknown or retired encryption key")]
    UnknownKey,
    /// Too short, altered, or sealed for something else.
    #[error("sealed bytes do not open")]
    Damaged,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

#[derive(Clone)]
struct Entry {
    key: EncryptionKey,
    secret: Secret,
}

/// Our encryption keys, newest last.
#[derive(Clone, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|e| hex::encode(e.key.id))).finish()
    }
}

impl Keyring {
    /// Makes a key when there is none or the newest is past half its life, and drops keys past retention. Returns whether
    /// anything changed: then the keyring must be stored before the record with the new key is published.
    pub fn rotate(&mut self, now: UnixMillis) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| now < e.key.not_after.plus(KEY_RETENTION));
        let dropped = self.entries.len() != before;
        // The overlap of half a life lets a record with the new key spread before the old one ends.
        let fresh = self.entries.last().is_some_and(|e| {
            e.key.not_after > now.plus(KEY_LIFETIME / 2) && e.key.not_before <= now.plus(KEY_LIFETIME)
        });
        if !fresh {
            self.entries.push(generate(now));
        }
        dropped || !fresh
    }

    /// The keys that senders may use at `now`, for our record.
    #[must_use]
    pub fn offered(&self, now: UnixMillis) -> Vec<EncryptionKey> {
        self.entries.iter().map(|e| e.key).filter(|k| now < k.not_after).collect()
    }

    /// The newest key; `None` before the first [`Keyring::rotate`].
    #[must_use]
    pub fn current(&self) -> Option<EncryptionKey> {
        self.entries.last().map(|e| e.key)
    }

    /// For the store: 1 version byte, then 80 bytes a key (secret, public, from, to). Wiped on drop.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + 80 * self.entries.len()));
        bytes.push(1);
        for e in &self.entries {
            bytes.extend_from_slice(&e.secret.0);
            bytes.extend_from_slice(&e.key.public);
            bytes.extend_from_slice(&e.key.not_before.0.to_be_bytes());
            bytes.extend_from_slice(&e.key.not_after.0.to_be_bytes());
        }
        bytes
    }

    /// From the store.
    ///
    /// # Errors
    /// [`KeyringError`] when the bytes are not what [`Keyring::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyringError> {
        let (version, rest) = bytes.split_first().ok_or(KeyringError)?;
        let (chunks, tail) = rest.as_chunks::<80>();
        if *version != 1 || !tail.is_empty() {
            return Err(KeyringError);
        }
        let time = |b: &[u8]| b.try_into().map(u64::from_be_bytes).map(UnixMillis).map_err(|_| KeyringError);
        let entries = chunks.iter().map(|chunk| {
            let secret = Secret(chunk[..32].try_into().map_err(|_| KeyringError)?);
            let public: [u8; 32] = chunk[32..64].try_into().map_err(|_| KeyringError)?;
            let (not_before, not_after) = (time(&chunk[64..72])?, time(&chunk[72..])?);
            Ok(Entry { key: EncryptionKey { id: key_id(&public), public, not_before, not_after }, secret })
        });
        Ok(Self { entries: entries.collect::<Result<_, KeyringError>>()? })
    }
}

fn generate(now: UnixMillis) -> Entry {
    let (secret, public) = Kem::gen_keypair();
    let public: [u8; 32] = public.to_bytes().into();
    let secret = Secret(secret.to_bytes().into());
    // Ten minutes early, so that a sender whose clock is behind may use it.
    let not_before = now.minus(crate::primitives::limits::CLOCK_SKEW);
    Entry { key: EncryptionKey { id: key_id(&public), public, not_before, not_after: now.plus(KEY_LIFETIME) }, secret }
}

/// The id of a public encryption key.
fn key_id(public: &[u8; 32]) -> KeyId {
    let mut id = [0; 8];
    id.copy_from_slice(&blake3::hash(public).as_bytes()[..8]);
    id
}

fn info(context: &str, owner: &PeerId, id: &KeyId) -> Vec<u8> {
    let owner = owner.to_bytes();
    [context.as_bytes(), &owner, id].concat()
}

/// The symmetric key of message `counter` of a session.
fn message_key(counter: u64, export: impl FnOnce(&[u8], &mut [u8]) -> bool) -> Option<MessageKey> {
    let mut key = MessageKey([0; 32]);
    let mut label = *b"message 01234567";
    label[8..].copy_from_slice(&counter.to_be_bytes());
    export(&label, &mut key.0).then_some(key)
}

/// Seals messages to one key of one owner with one key agreement; makes a new one by itself after 4096 messages.
pub struct SealSession {
    key: EncryptionKey,
    info: Vec<u8>,
    encapsulated: [u8; ENCAPSULATED],
    context: AeadCtxS<ExportOnlyAead, HkdfSha256, Kem>,
    counter: u64,
}

impl std::fmt::Debug for SealSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealSession").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl SealSession {
    /// Runs the key agreement. `context` names the use, e.g. `vos-mail/1/main`.
    ///
    /// # Errors
    /// [`SealError`] when the key is not a valid X25519 point.
    pub fn new(context: &str, owner: &PeerId, key: EncryptionKey) -> Result<Self, SealError> {
        let info = info(context, owner, &key.id);
        let (encapsulated, context) = agree(&key, &info)?;
        Ok(Self { key, info, encapsulated, context, counter: 0 })
    }

    /// The key this session seals to.
    #[must_use]
    pub fn key(&self) -> &EncryptionKey {
        &self.key
    }

    /// Seals what `write` appends to `out`, bound to `aad`, in place: encapsulated key (32), counter (8, big endian), ciphertext, tag
    /// (16). Behind it goes, sealed too, what `note` says of all that is in `out` then. Returns the message's own key: with it the
    /// sender can open what it sealed ([`MessageKey::open`]), to seal it again when the recipient has lost its key.
    ///
    /// # Errors
    /// [`SealError`] as [`SealSession::new`], when the session is renewed; `out` is then as before.
    pub fn seal(
        &mut self,
        aad: &[u8],
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
        note: impl FnOnce(&[u8]) -> [u8; NOTE],
    ) -> Result<MessageKey, SealError> {
        if self.counter == SESSION_MESSAGES {
            (self.encapsulated, self.context) = agree(&self.key, &self.info)?;
            self.counter = 0;
        }
        let counter = self.counter;
        self.counter += 1;
        let key = message_key(counter, |label, out| self.context.export(label, out).is_ok()).ok_or(SealError)?;
        let cipher = key.cipher().map_err(|_| SealError)?;
        let start = out.len();
        out.extend_from_slice(&self.encapsulated);
        out.extend_from_slice(&counter.to_be_bytes());
        write(out);
        let text = start + HEADER;
        let sealed = cipher.seal_in_place_separate_tag(nonce(TEXT), Aad::from(aad), &mut out[text..]).and_then(|tag| {
            out.extend_from_slice(tag.as_ref());
            let mut note = note(out);
            let end = cipher.seal_in_place_separate_tag(nonce(SIDE), Aad::from(tag.as_ref()), &mut note)?;
            out.extend_from_slice(&note);
            out.extend_from_slice(end.as_ref());
            Ok(())
        });
        if sealed.is_err() {
            out.truncate(start);
            return Err(SealError);
        }
        Ok(key)
    }
}

/// What was sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The text.
    pub plain: Bytes,
    /// The note behind it.
    pub note: [u8; NOTE],
}

/// One message's symmetric key. It opens that message and no other.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MessageKey([u8; 32]);

impl MessageKey {
    /// From the sender's own store.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the sender's own store: as secret as the message.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Opens what was sealed with this key, in place.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when it was not, or was altered.
    pub fn open(&self, aad: &[u8], mut sealed: BytesMut) -> Result<Opened, OpenError> {
        if sealed.len() < SEALED_OVERHEAD {
            return Err(OpenError::Damaged);
        }
        let damaged = |_| OpenError::Damaged;
        let cipher = self.cipher().map_err(damaged)?;
        let mut text = sealed.split_off(HEADER);
        let mut side = text.split_off(text.len() - SEALED_NOTE);
        let (_, tag) = text.split_last_chunk::<TAG>().ok_or(OpenError::Damaged)?;
        let note = cipher.open_in_place(nonce(SIDE), Aad::from(tag), &mut side).map_err(damaged)?;
        let note = (&*note).try_into().map_err(|_| OpenError::Damaged)?;
        let plain = cipher.open_in_place(nonce(TEXT), Aad::from(aad), &mut text).map_err(damaged)?.len();
        text.truncate(plain);
        Ok(Opened { plain: text.freeze(), note })
    }

    fn cipher(&self) -> Result<LessSafeKey, ring::error::Unspecified> {
        UnboundKey::new(&CHACHA20_POLY1305, &self.0).map(LessSafeKey::new)
    }
}

/// What a key seals: one text and one note, so constant nonces are safe.
const TEXT: u8 = 0;
const SIDE: u8 = 1;

fn nonce(what: u8) -> Nonce {
    let mut nonce = [0; 12];
    nonce[11] = what;
    Nonce::assume_unique_for_key(nonce)
}

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageKey([redacted])")
    }
}

type Agreed = ([u8; ENCAPSULATED], AeadCtxS<ExportOnlyAead, HkdfSha256, Kem>);

fn agree(key: &EncryptionKey, info: &[u8]) -> Result<Agreed, SealError> {
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(&key.public).map_err(|_| SealError)?;
    let (encapsulated, context) =
        hpke::setup_sender::<ExportOnlyAead, HkdfSha256, Kem>(&OpModeS::Base, &public, info).map_err(|_| SealError)?;
    Ok((encapsulated.to_bytes().into(), context))
}

type Receiver = std::sync::Arc<AeadCtxR<ExportOnlyAead, HkdfSha256, Kem>>;

/// Opens what was sealed to our keys; remembers recent key agreements.
pub struct Opener {
    context: String,
    owner: PeerId,
    keyring: Keyring,
    agreed: Mutex<HashMap<(KeyId, [u8; ENCAPSULATED]), Receiver>>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("keyring", &self.keyring).finish_non_exhaustive()
    }
}

impl Opener {
    /// For our own `owner` address; `context` as in [`SealSession::new`].
    #[must_use]
    pub fn new(context: &str, owner: PeerId, keyring: Keyring) -> Self {
        Self { context: context.to_owned(), owner, keyring, agreed: Mutex::default() }
    }

    /// Opens sealed bytes, in place. The caller caps their length before.
    ///
    /// # Errors
    /// [`OpenError::UnknownKey`] when the sender must seal again; [`OpenError::Damaged`] otherwise.
    pub fn open(&self, id: &KeyId, aad: &[u8], sealed: BytesMut) -> Result<Opened, OpenError> {
        if sealed.len() < SEALED_OVERHEAD {
            return Err(OpenError::Damaged);
        }
        let header = &sealed[..HEADER];
        let encapsulated: [u8; ENCAPSULATED] = header[..ENCAPSULATED].try_into().map_err(|_| OpenError::Damaged)?;
        let counter = header[ENCAPSULATED..].try_into().map(u64::from_be_bytes).map_err(|_| OpenError::Damaged)?;
        if counter >= SESSION_MESSAGES {
            return Err(OpenError::Damaged);
        }
        let receiver = self.receiver(id, encapsulated)?;
        let key = message_key(counter, |label, out| receiver.export(label, out).is_ok()).ok_or(OpenError::Damaged)?;
        key.open(aad, sealed)
    }

    fn receiver(&self, id: &KeyId, encapsulated: [u8; ENCAPSULATED]) -> Result<Receiver, OpenError> {
        let slot = (*id, encapsulated);
        let cached = self.agreed.lock().expect("no panic while held").get(&slot).cloned();
        if let Some(receiver) = cached {
            return Ok(receiver);
        }
        let entry = self.keyring.entries.iter().find(|e| e.key.id == *id).ok_or(OpenError::UnknownKey)?;
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(&entry.secret.0).map_err(|_| OpenError::UnknownKey)?;
        let encapsulated =
            <Kem as hpke::Kem>::EncappedKey::from_bytes(&encapsulated).map_err(|_| OpenError::Damaged)?;
        let info = info(&self.context, &self.owner, id);
        let receiver =
            hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, Kem>(&OpModeR::Base, &secret, &encapsulated, &info)
                .map_err(|_| OpenError::Damaged)?;
        let receiver = std::sync::Arc::new(receiver);
        let mut agreed = self.agreed.lock().expect("no panic while held");
        if agreed.len() >= OPENER_CACHE {
            // Any choice will do: a dropped agreement is computed again.
            agreed.clear();
        }
        agreed.insert(slot, receiver.clone());
        Ok(receiver)
    }
}
