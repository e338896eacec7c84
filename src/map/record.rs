//! The signed record of a node, and the one function that judges it, whatever way it came in.
//!
//! A record is canonical protobuf in a canonical signed envelope: whoever holds it cannot make other bytes of it, so
//! two different records with one sequence number prove that their *author* signed twice.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use prost::Message;

use crate::{
    identity::{self, EncryptionKey, Identity, Purpose},
    primitives::{
        Hash, Multiaddr, NetworkId, PeerId, UnixMillis,
        limits::{
            CLOCK_SKEW, MAX_ADDR_BYTES, MAX_NAME_BYTES, MAX_RECORD_ADDRS, MAX_RECORD_BYTES, MAX_RECORD_FRIENDS,
            MAX_RECORD_VALIDITY,
        },
    },
    wire::proto::map as pb,
};

/// The only version there is.
const VERSION: u32 = 1;
/// Encryption keys in one record: two overlap while they rotate; the rest is room for other algorithms.
const MAX_KEYS: usize = 8;
/// Roles in one record.
const MAX_ROLES: usize = 8;
/// Bytes of a role.
const MAX_ROLE_BYTES: usize = 32;
/// Addrs of one friend.
pub(super) const MAX_FRIEND_ADDRS: usize = 4;
/// X25519.
const ALG_X25519: u32 = 1;
/// How far a sequence number may be ahead of our clock: a thief's `u64::MAX` would end the identity for ever.
const MAX_SEQ_AHEAD_MS: u64 = 24 * 3600 * 1000;
/// The payload type of all our envelopes.
const PAYLOAD_TYPE: &[u8] = b"/vos";
/// Bytes of a signature.
const SIGNATURE: usize = 64;
/// Identity multihash of a protobuf-encoded Ed25519 key: code 0, 36 bytes, key type 1, 32 bytes of data.
const ADDRESS_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// An address without its constant prefix: the Ed25519 public key. Orders like the address, and is spread evenly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// The smallest key.
    pub(super) const MIN: Self = Self([0; 32]);
    /// The largest key.
    pub(super) const MAX: Self = Self([0xff; 32]);

    /// The key of an address; `None` when that is not an Ed25519 key's.
    #[must_use]
    pub fn of(address: &PeerId) -> Option<Self> {
        let hash = address.as_ref();
        let digest = hash.digest().strip_prefix(&ADDRESS_PREFIX[2..])?;
        (hash.code() == 0).then_some(())?;
        digest.try_into().ok().map(Self)
    }

    /// From an address in binary form.
    fn from_address_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes.strip_prefix(&ADDRESS_PREFIX)?)
    }

    /// From raw bytes; `None` when the length is wrong.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> PeerId {
        PeerId::from_bytes(&self.address_bytes()).expect("an identity multihash of 36 bytes is a peer id")
    }

    fn address_bytes(&self) -> Vec<u8> {
        [&ADDRESS_PREFIX[..], &self.0].concat()
    }
}

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Over 4 KiB.
    #[error("record too large")]
    TooLarge,
    /// Not a record at all.
    #[error("malformed record")]
    Malformed,
    /// The same content can be written in a shorter or more regular way.
    #[error("record is not in canonical form")]
    NotCanonical,
    /// Of a version we do not know.
    #[error("record of an unknown version")]
    Version,
    /// Signed by somebody else than the node it describes, or not with an Ed25519 key.
    #[error("record not signed by its owner")]
    Signer,
    /// The signature is wrong, or for another network or purpose.
    #[error("wrong signature")]
    Signature,
    /// Too many or too long parts.
    #[error("record over a limit: {0}")]
    Limit(&'static str),
    /// An addr, key, friend or role that makes no sense.
    #[error("record with a malformed {0}")]
    Field(&'static str),
    /// The name has control characters.
    #[error("name with control characters")]
    Name,
    /// Signed in the future.
    #[error("record from the future")]
    FromFuture,
    /// Valid for more than 7 days, or not at all.
    #[error("record with a wrong validity")]
    Validity,
    /// Sequence number zero, or far ahead of the clock.
    #[error("record with a wrong sequence number")]
    Seq,
    /// Was good once.
    #[error("record has expired")]
    Expired,
}

impl RecordError {
    /// Whether its carrier should have known better: everything but the passing of time.
    #[must_use]
    pub fn is_violation(self) -> bool {
        self != Self::Expired
    }

    /// Whether no clock makes it good, and it does not say that it is of another version: whoever passes such a record on has not looked at
    /// it.
    #[must_use]
    pub fn is_broken(self) -> bool {
        !matches!(self, Self::Expired | Self::FromFuture | Self::Seq | Self::Version)
    }
}

/// A Friend VOS in a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Friend {
    /// Its address.
    pub address: PeerId,
    /// Where it can be dialled, at most 4.
    pub addrs: Vec<Multiaddr>,
    /// Hash of the grant, when there is one.
    pub grant_hash: Option<[u8; 32]>,
    /// Smaller is asked first.
    pub priority: u32,
}

/// What a node says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// Its address.
    pub address: PeerId,
    /// Rises with every record.
    pub seq: u64,
    /// Where it can be dialled, at most 16.
    pub addrs: Vec<Multiaddr>,
    /// A label, at most 64 bytes, maybe empty.
    pub name: String,
    /// Its encryption keys.
    pub keys: Vec<EncryptionKey>,
    /// Its Friend VOS, at most 8.
    pub friends: Vec<Friend>,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// When it ends; at most 7 days later.
    pub expires_at: UnixMillis,
    /// Who may leave mail: 0 unset, 1 contacts, 2 contacts with proof of work, 3 anybody with proof of work.
    pub deposit_policy: u32,
    /// Bits of that proof.
    pub pow_bits: u32,
    /// Grants up to this epoch are void.
    pub grant_epoch: u64,
    /// What it does for others, at most 8 words of `a-z`, `0-9` and `-`.
    pub roles: Vec<String>,
}

impl Body {
    /// A record of `address` that says nothing.
    #[must_use]
    pub fn new(address: PeerId, seq: u64, issued_at: UnixMillis, expires_at: UnixMillis) -> Self {
        Self {
            address,
            seq,
            addrs: Vec::new(),
            name: String::new(),
            keys: Vec::new(),
            friends: Vec::new(),
            issued_at,
            expires_at,
            deposit_policy: 0,
            pow_bits: 0,
            grant_epoch: 0,
            roles: Vec::new(),
        }
    }

    /// Signs it. The caller keeps within the limits: this is not checked again.
    #[must_use]
    pub fn seal(&self, identity: &Identity, network: &NetworkId) -> Record {
        let payload = self.encode();
        let hash = Hash::of(&payload);
        let envelope = identity::seal_envelope(identity, &record_purpose(network), payload);
        Record {
            key: Key(identity.public_key()),
            seq: self.seq,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            name: self.name.clone(),
            hash,
            envelope: envelope.into(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let addrs = |addrs: &[Multiaddr]| addrs.iter().map(|a| a.to_vec().into()).collect();
        pb::Record {
            version: VERSION,
            peer_id: self.address.to_bytes().into(),
            seq: self.seq,
            addrs: addrs(&self.addrs),
            name: self.name.clone(),
            enc_keys: self
                .keys
                .iter()
                .map(|k| pb::EncKey {
                    key_id: k.id.to_vec().into(),
                    alg: ALG_X25519,
                    r#pub: k.public.to_vec().into(),
                    not_before: k.not_before.0,
                    not_after: k.not_after.0,
                })
                .collect(),
            friends: self
                .friends
                .iter()
                .map(|f| pb::Friend {
                    peer_id: f.address.to_bytes().into(),
                    addrs: addrs(&f.addrs),
                    grant_hash: f.grant_hash.map(|h| h.to_vec()).unwrap_or_default().into(),
                    priority: f.priority,
                })
                .collect(),
            issued_at: self.issued_at.0,
            expires_at: self.expires_at.0,
            deposit_policy: self.deposit_policy,
            pow_bits: self.pow_bits,
            grant_epoch: self.grant_epoch,
            roles: self.roles.clone(),
        }
        .encode_to_vec()
    }

    /// Reads a payload and checks everything that does not depend on the time.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let raw = pb::Record::decode(payload).map_err(|_| RecordError::Malformed)?;
        if raw.version != VERSION {
            return Err(RecordError::Version);
        }
        // `encoded_len` first: most irregular encodings have another length, and it allocates nothing.
        if raw.encoded_len() != payload.len() || raw.encode_to_vec() != payload {
            return Err(RecordError::NotCanonical);
        }
        let limits = [
            (raw.addrs.len() <= MAX_RECORD_ADDRS, "addrs"),
            (raw.friends.len() <= MAX_RECORD_FRIENDS, "friends"),
            (raw.enc_keys.len() <= MAX_KEYS, "keys"),
            (raw.roles.len() <= MAX_ROLES, "roles"),
            (raw.name.len() <= MAX_NAME_BYTES, "name"),
        ];
        if let Some((_, what)) = limits.iter().find(|(within, _)| !within) {
            return Err(RecordError::Limit(what));
        }
        if raw.name.chars().any(char::is_control) {
            return Err(RecordError::Name);
        }
        let role = |r: &String| {
            (1..=MAX_ROLE_BYTES).contains(&r.len())
                && r.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        if !raw.roles.iter().all(role) {
            return Err(RecordError::Field("role"));
        }
        Ok(Self {
            address: Key::from_address_bytes(&raw.peer_id).ok_or(RecordError::Signer)?.address(),
            seq: raw.seq,
            addrs: raw.addrs.iter().map(|a| decode_addr(a)).collect::<Result<_, _>>()?,
            name: raw.name,
            keys: raw.enc_keys.iter().map(decode_key).collect::<Result<_, _>>()?,
            friends: raw.friends.iter().map(decode_friend).collect::<Result<_, _>>()?,
            issued_at: UnixMillis(raw.issued_at),
            expires_at: UnixMillis(raw.expires_at),
            deposit_policy: raw.deposit_policy,
            pow_bits: raw.pow_bits,
            grant_epoch: raw.grant_epoch,
            roles: raw.roles,
        })
    }

    fn check_times(&self, now: UnixMillis) -> Result<(), RecordError> {
        if self.issued_at > now.plus(CLOCK_SKEW) {
            return Err(RecordError::FromFuture);
        }
        if self.expires_at <= self.issued_at || self.expires_at.since(self.issued_at) > MAX_RECORD_VALIDITY {
            return Err(RecordError::Validity);
        }
        let newest = now.plus(CLOCK_SKEW).0.saturating_add(MAX_SEQ_AHEAD_MS);
        if self.seq == 0 || self.seq > newest {
            return Err(RecordError::Seq);
        }
        if self.expires_at <= now { Err(RecordError::Expired) } else { Ok(()) }
    }
}

fn decode_addr(bytes: &[u8]) -> Result<Multiaddr, RecordError> {
    if bytes.len() > MAX_ADDR_BYTES {
        return Err(RecordError::Limit("addr"));
    }
    match Multiaddr::try_from(bytes.to_vec()) {
        Ok(addr) if !bytes.is_empty() => Ok(addr),
        _ => Err(RecordError::Field("addr")),
    }
}

fn decode_key(raw: &pb::EncKey) -> Result<EncryptionKey, RecordError> {
    let public: [u8; 32] = raw.r#pub[..].try_into().map_err(|_| RecordError::Field("key"))?;
    let id: [u8; 8] = raw.key_id[..].try_into().map_err(|_| RecordError::Field("key"))?;
    if raw.alg != ALG_X25519 || Hash::of(&public).as_bytes()[..8] != id || raw.not_before > raw.not_after {
        return Err(RecordError::Field("key"));
    }
    Ok(EncryptionKey { id, public, not_before: UnixMillis(raw.not_before), not_after: UnixMillis(raw.not_after) })
}

fn decode_friend(raw: &pb::Friend) -> Result<Friend, RecordError> {
    if raw.addrs.len() > MAX_FRIEND_ADDRS {
        return Err(RecordError::Limit("friend's addrs"));
    }
    let grant_hash = match &raw.grant_hash[..] {
        [] => None,
        hash => Some(hash.try_into().map_err(|_| RecordError::Field("friend"))?),
    };
    Ok(Friend {
        address: Key::from_address_bytes(&raw.peer_id).ok_or(RecordError::Field("friend"))?.address(),
        addrs: raw.addrs.iter().map(|a| decode_addr(a)).collect::<Result<_, _>>()?,
        grant_hash,
        priority: raw.priority,
    })
}

/// A record whose signature is good: what the map keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub(super) key: Key,
    pub(super) seq: u64,
    pub(super) issued_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) name: String,
    /// Over the payload. The envelope adds nothing that its carrier could vary.
    pub(super) hash: Hash,
    pub(super) envelope: Arc<[u8]>,
}

impl Record {
    /// Whose it is.
    #[must_use]
    pub fn address(&self) -> PeerId {
        self.key.address()
    }

    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The signed bytes.
    #[must_use]
    pub fn envelope(&self) -> &Arc<[u8]> {
        &self.envelope
    }
}

/// A record whose content is good; its signature was not looked at.
#[derive(Debug)]
pub(super) struct Unverified {
    record: Record,
    payload: Bytes,
    signature: Bytes,
}

impl Unverified {
    /// Who is said to have signed it, the sequence number, and the hash.
    pub(super) fn claim(&self) -> (Key, u64, Hash) {
        (self.record.key, self.record.seq, self.record.hash)
    }
}

fn record_purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-record/1", network)
}

fn departure_purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-departure/1", network)
}

/// Judges records and departures of one network.
#[derive(Clone, Debug)]
pub struct Verifier {
    record: Purpose,
    departure: Purpose,
}

impl Verifier {
    /// For `network`.
    #[must_use]
    pub fn new(network: &NetworkId) -> Self {
        Self { record: record_purpose(network), departure: departure_purpose(network) }
    }

    /// The one way in: size, form, limits, times, then the signature (some 50 us; all else about 5 us).
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn verify(&self, envelope: &[u8], now: UnixMillis) -> Result<Record, RecordError> {
        self.check_signature(Self::check(envelope, now)?)
    }

    /// Everything but the signature.
    pub(super) fn check(envelope: &[u8], now: UnixMillis) -> Result<Unverified, RecordError> {
        if envelope.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge);
        }
        let raw = open_unchecked(envelope)?;
        let body = Body::decode(&raw.payload)?;
        let key = Key::of(&body.address).ok_or(RecordError::Signer)?;
        // The protobuf form of the key is the address without its multihash header.
        if raw.public_key[..] != key.address_bytes()[2..] {
            return Err(RecordError::Signer);
        }
        body.check_times(now)?;
        let record = Record {
            key,
            seq: body.seq,
            issued_at: body.issued_at,
            expires_at: body.expires_at,
            name: body.name,
            hash: Hash::of(&raw.payload),
            envelope: envelope.into(),
        };
        Ok(Unverified { record, payload: raw.payload, signature: raw.signature })
    }

    pub(super) fn check_signature(&self, record: Unverified) -> Result<Record, RecordError> {
        let Unverified { record, payload, signature } = record;
        let good = identity::verify_envelope(&record.key.0, &self.record, &payload, &signature);
        if good { Ok(record) } else { Err(RecordError::Signature) }
    }

    /// Verifies a departure.
    pub(super) fn verify_departure(&self, envelope: &[u8], now: UnixMillis) -> Result<Departure, RecordError> {
        if envelope.len() > MAX_DEPARTURE_BYTES {
            return Err(RecordError::TooLarge);
        }
        let (signer, payload) =
            identity::open_envelope(&self.departure, envelope).map_err(|_| RecordError::Signature)?;
        let raw = pb::Departure::decode(&payload[..]).map_err(|_| RecordError::Malformed)?;
        let key = Key::from_address_bytes(&raw.peer_id).ok_or(RecordError::Signer)?;
        if Key::of(&signer) != Some(key) {
            return Err(RecordError::Signer);
        }
        let at = UnixMillis(raw.at);
        if at > now.plus(CLOCK_SKEW) {
            return Err(RecordError::FromFuture);
        }
        if at < now.minus(CLOCK_SKEW) {
            return Err(RecordError::Expired);
        }
        Ok(Departure { key, seq: raw.seq, at })
    }
}

/// A departure is 60 bytes in an envelope of 117.
const MAX_DEPARTURE_BYTES: usize = 256;

/// A node said goodbye.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Departure {
    pub(super) key: Key,
    /// The record it ends: a later record means that the node is back.
    pub(super) seq: u64,
    pub(super) at: UnixMillis,
}

impl Departure {
    /// Signs our own.
    pub(super) fn seal(identity: &Identity, network: &NetworkId, seq: u64, at: UnixMillis) -> Vec<u8> {
        let payload = pb::Departure { peer_id: identity.address().to_bytes().into(), seq, at: at.0 };
        identity::seal_envelope(identity, &departure_purpose(network), payload.encode_to_vec())
    }
}

/// Takes an envelope apart without looking at its signature; refuses any but the canonical form.
fn open_unchecked(envelope: &[u8]) -> Result<pb::Envelope, RecordError> {
    let raw = pb::Envelope::decode(envelope).map_err(|_| RecordError::Malformed)?;
    if raw.payload_type != PAYLOAD_TYPE || raw.signature.len() != SIGNATURE {
        return Err(RecordError::Malformed);
    }
    if raw.encoded_len() != envelope.len() || raw.encode_to_vec() != envelope {
        return Err(RecordError::NotCanonical);
    }
    Ok(raw)
}

/// The body of a record that was verified before, e.g. one from our own store.
pub(super) fn body_of(envelope: &[u8]) -> Result<Body, RecordError> {
    let raw = pb::Envelope::decode(envelope).map_err(|_| RecordError::Malformed)?;
    Body::decode(&raw.payload)
}

/// Our addrs as a record carries them: external ones first, no duplicates, no loopback beside others, without our own
/// id at the end, capped.
pub(super) fn publishable(external: &[Multiaddr], listen: &[Multiaddr]) -> Vec<Multiaddr> {
    let all: Vec<Multiaddr> = external.iter().chain(listen).map(without_peer).collect();
    let any_reachable = all.iter().any(|a| !is_loopback(a));
    let mut seen = BTreeSet::new();
    all.into_iter()
        .filter(|a| !a.is_empty() && a.len() <= MAX_ADDR_BYTES && !is_unspecified(a))
        .filter(|a| !any_reachable || !is_loopback(a))
        .filter(|a| seen.insert(a.to_vec()))
        .take(MAX_RECORD_ADDRS)
        .collect()
}

/// An addr without a trailing `/p2p/<id>`. A relayed addr keeps the relay's id, which is not at its end.
pub(super) fn without_peer(addr: &Multiaddr) -> Multiaddr {
    use crate::primitives::multiaddr::Protocol;
    let mut addr = addr.clone();
    if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

fn first_ip(addr: &Multiaddr) -> Option<std::net::IpAddr> {
    use crate::primitives::multiaddr::Protocol;
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

fn is_loopback(addr: &Multiaddr) -> bool {
    first_ip(addr).is_some_and(|ip| ip.is_loopback())
}

fn is_unspecified(addr: &Multiaddr) -> bool {
    first_ip(addr).is_some_and(|ip| ip.is_unspecified())
}
