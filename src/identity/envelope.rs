//! Signatures bound to a purpose, and the libp2p signed envelope (RFC 0002) around signed payloads.

use libp2p::core::SignedEnvelope;

use super::Identity;
use crate::primitives::{NetworkId, PeerId};

/// What a signature is for: it is valid for that and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purpose {
    domain: String,
}

impl Purpose {
    /// A purpose such as `vos-record/1` on one network. `name` must be unique in this code base.
    #[must_use]
    pub fn new(name: &str, network: &NetworkId) -> Self {
        Self { domain: format!("{name}/{network}") }
    }

    /// The bytes that the signature of an envelope covers (RFC 0002): domain, payload type and payload, each after its length as
    /// a varint.
    fn enclose(&self, payload: &[u8]) -> Vec<u8> {
        let fields = [self.domain.as_bytes(), PAYLOAD_TYPE, payload];
        let mut bytes = Vec::with_capacity(fields.iter().map(|f| 10 + f.len()).sum());
        for field in fields {
            prost::encoding::encode_varint(field.len() as u64, &mut bytes); // usize fits in u64
            bytes.extend_from_slice(field);
        }
        bytes
    }

    /// The bytes a detached signature covers: domain length, domain, message. The length keeps
    /// (`ab`, `c`) and (`a`, `bc`) apart.
    pub(super) fn bind(&self, message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.domain.len() + message.len());
        let length = u16::try_from(self.domain.len()).expect("domains are short constants");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(self.domain.as_bytes());
        bytes.extend_from_slice(message);
        bytes
    }
}

/// Why an envelope was refused. All of these are the author's or carrier's fault; none is worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a signed envelope at all.
    #[error("malformed envelope")]
    Malformed,
    /// A good envelope for another purpose or network, or a wrong signature.
    #[error("wrong purpose or signature")]
    Signature,
    /// Signed by something else than an Ed25519 key.
    #[error("not an Ed25519 key")]
    KeyKind,
}

/// The payload type inside all our envelopes; the purpose is in the domain string.
const PAYLOAD_TYPE: &[u8] = b"/vos";

/// Signs `payload` for `purpose`; about 117 bytes longer than the payload.
#[must_use]
pub fn seal_envelope(identity: &Identity, purpose: &Purpose, payload: Vec<u8>) -> Vec<u8> {
    SignedEnvelope::new(identity.keypair(), purpose.domain.clone(), PAYLOAD_TYPE.to_vec(), payload)
        .expect("Ed25519 signing cannot fail")
        .into_protobuf_encoding()
}

/// Verifies an envelope and returns who signed it with its payload. The caller caps `bytes` before and compares the
/// signer with the owner that the payload claims.
///
/// # Errors
/// [`EnvelopeError`] when it is malformed, signed for something else or by another kind of key.
pub fn open_envelope(purpose: &Purpose, bytes: &[u8]) -> Result<(PeerId, Vec<u8>), EnvelopeError> {
    let envelope = SignedEnvelope::from_protobuf_encoding(bytes).map_err(|_| EnvelopeError::Malformed)?;
    let (payload, key) =
        envelope.payload_and_signing_key(purpose.domain.clone(), PAYLOAD_TYPE).map_err(|_| EnvelopeError::Signature)?;
    if key.clone().try_into_ed25519().is_err() {
        return Err(EnvelopeError::KeyKind);
    }
    Ok((key.to_peer_id(), payload.to_vec()))
}

/// Whether `signature` is that of an envelope of `payload`, made by the owner of the Ed25519 key. For a caller that has taken the
/// envelope apart already: it costs the signature and nothing else.
#[must_use]
pub fn verify_envelope(key: &[u8; 32], purpose: &Purpose, payload: &[u8], signature: &[u8]) -> bool {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(key);
    key.is_ok_and(|key| key.verify(&purpose.enclose(payload), signature))
}

/// Like [`open_envelope`], and refuses every form but the one [`seal_envelope`] makes: whoever carries the envelope cannot
/// change it into other bytes with the same meaning, so its hash stands for it.
///
/// # Errors
/// [`EnvelopeError`]; another form of a good envelope is [`EnvelopeError::Malformed`].
pub fn open_canonical_envelope(purpose: &Purpose, bytes: &[u8]) -> Result<(PeerId, Vec<u8>), EnvelopeError> {
    let envelope = SignedEnvelope::from_protobuf_encoding(bytes).map_err(|_| EnvelopeError::Malformed)?;
    if envelope.into_protobuf_encoding() != bytes {
        return Err(EnvelopeError::Malformed);
    }
    open_envelope(purpose, bytes)
}
