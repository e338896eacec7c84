//! The topics and protocols of the broadcast, and the way between their protobuf and the machines' types. Whatever comes out of
//! here is within its limits, of its only encoding, and consistent in itself; only signatures are left to check.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;

use crate::{
    block::{Header, MAX_BODY_BYTES, MAX_HEADER_BYTES, PIECE_BYTES, Pieces, Point},
    net::rpc::Wire,
    primitives::{Hash, PeerId},
    wire::proto::block as pb,
};

/// NEW_BLOCK's topic within the network.
pub const NEW_TOPIC: &str = "block/new/1";
/// NEW_BLOCK_HASH's topic within the network.
pub const HASH_TOPIC: &str = "block/hash/1";

/// Bytes of a body that travels with its header on the topic. Gossip sends a message to several neighbours before it hears that
/// they have it, so what goes with it must be about as cheap as the question for it.
pub const SMALL_BODY: usize = 16 * 1024;
/// Tags and lengths of a [`pb::NewBlock`].
const TAGS: usize = 16;
/// Bytes of the nodes of the largest body.
const MAX_NODES: usize = 32 * MAX_BODY_BYTES.div_ceil(PIECE_BYTES);
/// Largest NEW_BLOCK on the topic.
pub const MAX_NEW_BLOCK: usize = MAX_HEADER_BYTES + TAGS + if SMALL_BODY > MAX_NODES { SMALL_BODY } else { MAX_NODES };
/// Largest NEW_BLOCK_HASH on the topic: an Ed25519 identity multihash of 38 bytes, a hash, two numbers, tags.
pub const MAX_NEW_BLOCK_HASH: usize = 40 + 34 + 11 + 6;

/// `block/notify/1`: NEW_BLOCK_HASH to one peer; BLOCK_KNOWN, or GET_BLOCK when it is going to ask.
#[derive(Debug)]
pub struct Notify;

impl Wire for Notify {
    const NAME: &'static str = "block/notify/1";
    const MAX_REQUEST: usize = 34 + 11 + 6;
    const MAX_RESPONSE: usize = 8;
    const TIMEOUT: Duration = Duration::from_secs(5);
    const QUEUE: usize = 256;
    const CONCURRENCY: usize = 4;
    /// 64 in ten seconds is what an honest neighbour may need; bursts are saved for two seconds only.
    const RATE: u32 = 32;
    type Request = pb::NotifyRequest;
    type Response = pb::NotifyResponse;
}

/// `block/get/1`: GET_BLOCK, by hash or by piece.
#[derive(Debug)]
pub struct Get;

impl Wire for Get {
    const NAME: &'static str = "block/get/1";
    const MAX_REQUEST: usize = 34 + 6;
    /// One piece, or a block of one piece.
    const MAX_RESPONSE: usize = PIECE_BYTES + MAX_HEADER_BYTES + 2 * TAGS;
    /// Longer than a request for a piece may wait for it to arrive there (`core::WAIT`), plus a slow link.
    const TIMEOUT: Duration = Duration::from_secs(8);
    /// Everybody's windows at once at a node with many neighbours; a place costs some hundred bytes.
    const QUEUE: usize = 1024;
    /// The window of a fetch: a mebibyte on its way.
    const CONCURRENCY: usize = super::fetcher::WINDOW;
    /// Eight of the largest blocks a second; who is too fast is slowed down here and told so by the bucket of bytes.
    const RATE: u32 = 512;
    type Request = pb::GetRequest;
    type Response = pb::GetResponse;
}

/// What a NEW_BLOCK brings besides the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The whole body; it has the header's root.
    Body(Bytes),
    /// How to check its pieces; they have the header's root.
    Pieces(Arc<Pieces>),
}

/// NEW_BLOCK: consistent, but not signed for all we know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewBlock {
    /// The header.
    pub header: Header,
    /// Its body, or how to check it.
    pub content: Content,
}

/// How a NEW_BLOCK came, which decides when its body comes along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carrier {
    /// The topic: bodies up to [`SMALL_BODY`].
    Topic,
    /// An answer: bodies up to a piece.
    Answer,
}

impl Carrier {
    fn carries(self, body_bytes: usize) -> bool {
        match self {
            Self::Topic => body_bytes <= SMALL_BODY,
            Self::Answer => body_bytes <= PIECE_BYTES,
        }
    }
}

/// Why bytes are refused. Always the fault of whoever sent them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed, or inconsistent in itself")]
pub struct Malformed;

impl NewBlock {
    /// What `carrier` carries of a block. `body` gives the body's bytes when they go along; `None` when it has none.
    pub(super) fn encode(
        carrier: Carrier,
        header: &Header,
        pieces: &Pieces,
        body: impl FnOnce() -> Option<Bytes>,
    ) -> Option<pb::NewBlock> {
        let mut message = pb::NewBlock { header: header.encode().into(), ..pb::NewBlock::default() };
        match carrier.carries(header.body_bytes as usize) {
            true => message.body = body()?,
            false => message.nodes = pieces.nodes().concat().into(),
        }
        Some(message)
    }

    /// A block for the topic, from its body.
    #[must_use]
    pub fn to_topic(header: &Header, body: &Bytes) -> Vec<u8> {
        let message = Self::encode(Carrier::Topic, header, &Pieces::of(body), || Some(body.clone()));
        message.map(|m| m.encode_to_vec()).unwrap_or_default()
    }

    /// Reads a message: header, limits, and that body or nodes are the header's.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn read(message: &pb::NewBlock, carrier: Carrier, max_body_bytes: usize) -> Result<Self, Malformed> {
        if message.header.len() > MAX_HEADER_BYTES {
            return Err(Malformed);
        }
        let header = Header::decode(&message.header).map_err(|_| Malformed)?;
        let body_bytes = header.body_bytes as usize; // u32 fits in usize on every supported target
        // The genesis block is everybody's own (N2), and nobody announces it.
        if header.height == 0 || body_bytes > max_body_bytes {
            return Err(Malformed);
        }
        let content = if carrier.carries(body_bytes) {
            let good = message.nodes.is_empty()
                && message.body.len() == body_bytes
                && Hash::of(&message.body) == header.body_root;
            good.then(|| Content::Body(message.body.clone())).ok_or(Malformed)?
        } else {
            let (nodes, rest) = message.nodes.as_chunks::<32>();
            if !message.body.is_empty() || !rest.is_empty() {
                return Err(Malformed);
            }
            let pieces = Pieces::from_nodes(header.body_root, body_bytes, nodes.to_vec()).ok_or(Malformed)?;
            Content::Pieces(Arc::new(pieces))
        };
        Ok(Self { header, content })
    }

    /// Reads what the topic brought.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes that are not the only encoding of what they mean: everybody must see the same bytes, or one
    /// block would travel as many messages.
    pub fn from_topic(bytes: &[u8], max_body_bytes: usize) -> Result<Self, Malformed> {
        if bytes.len() > MAX_NEW_BLOCK {
            return Err(Malformed);
        }
        let message = pb::NewBlock::decode(bytes).map_err(|_| Malformed)?;
        if message.encoded_len() != bytes.len() || message.encode_to_vec() != bytes {
            return Err(Malformed);
        }
        Self::read(&message, Carrier::Topic, max_body_bytes)
    }
}

/// What NEW_BLOCK_HASH says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Which block.
    pub point: Point,
    /// Bytes of its body.
    pub body_bytes: u32,
}

impl Announcement {
    /// What is to be said of the block with this header and hash.
    #[must_use]
    pub fn of(header: &Header, hash: Hash) -> Self {
        Self { point: Point { height: header.height, hash }, body_bytes: header.body_bytes }
    }

    /// For the topic: `from` has the block.
    #[must_use]
    pub fn to_topic(self, from: &PeerId) -> Vec<u8> {
        let Self { point, body_bytes } = self;
        let announcer = from.to_bytes().into();
        let hash = point.hash.0.to_vec().into();
        pb::NewBlockHash { announcer, hash, height: point.height, body_bytes }.encode_to_vec()
    }

    /// Reads what the topic brought from `source`, who must be the one that says it has the block: announcements go one hop.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_topic(bytes: &[u8], source: &PeerId) -> Result<Self, Malformed> {
        if bytes.len() > MAX_NEW_BLOCK_HASH {
            return Err(Malformed);
        }
        let message = pb::NewBlockHash::decode(bytes).map_err(|_| Malformed)?;
        if message.encode_to_vec() != bytes || message.announcer != source.to_bytes() {
            return Err(Malformed);
        }
        Self::checked(&message.hash, message.height, message.body_bytes)
    }

    /// For one peer.
    #[must_use]
    pub fn to_request(self) -> pb::NotifyRequest {
        let Self { point, body_bytes } = self;
        pb::NotifyRequest { hash: point.hash.0.to_vec().into(), height: point.height, body_bytes }
    }

    /// From one peer.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_request(request: &pb::NotifyRequest) -> Result<Self, Malformed> {
        Self::checked(&request.hash, request.height, request.body_bytes)
    }

    fn checked(hash: &[u8], height: u64, body_bytes: u32) -> Result<Self, Malformed> {
        let hash = Hash(hash.try_into().map_err(|_| Malformed)?);
        if height == 0 || body_bytes as usize > MAX_BODY_BYTES {
            return Err(Malformed);
        }
        Ok(Self { point: Point { height, hash }, body_bytes })
    }
}

/// The answer to NEW_BLOCK_HASH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotifyAnswer {
    /// BLOCK_KNOWN.
    Known,
    /// GET_BLOCK: not here yet, and going to be asked for.
    WillAsk,
    /// Too old, too far ahead, or too much from this peer.
    Ignored,
}

impl NotifyAnswer {
    /// For the wire.
    #[must_use]
    pub fn to_response(self) -> pb::NotifyResponse {
        let answer = match self {
            Self::Known => 1,
            Self::WillAsk => 2,
            Self::Ignored => 3,
        };
        pb::NotifyResponse { answer }
    }

    /// From the wire.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_response(response: &pb::NotifyResponse) -> Result<Self, Malformed> {
        match response.answer {
            1 => Ok(Self::Known),
            2 => Ok(Self::WillAsk),
            3 => Ok(Self::Ignored),
            _ => Err(Malformed),
        }
    }
}

/// What GET_BLOCK asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The block: its header with its body, or with how to check its pieces.
    Block,
    /// One piece of its body.
    Piece(usize),
}

/// A request for `wanted` of the block with `hash`.
#[must_use]
pub fn get_request(hash: Hash, wanted: Wanted) -> pb::GetRequest {
    let piece = match wanted {
        Wanted::Block => 0,
        Wanted::Piece(index) => u32::try_from(index + 1).unwrap_or(u32::MAX),
    };
    pb::GetRequest { hash: hash.0.to_vec().into(), piece }
}

/// What a request asks for.
///
/// # Errors
/// [`Malformed`], also for a piece that no body has.
pub fn read_get_request(request: &pb::GetRequest) -> Result<(Hash, Wanted), Malformed> {
    let hash = Hash(request.hash[..].try_into().map_err(|_| Malformed)?);
    let wanted = match request.piece as usize {
        0 => Wanted::Block,
        n if n <= MAX_BODY_BYTES.div_ceil(PIECE_BYTES) => Wanted::Piece(n - 1),
        _ => return Err(Malformed),
    };
    Ok((hash, wanted))
}

/// An answer with a block, and its bytes; `None` when it is to bring the body and there is none.
#[must_use]
pub fn block_response(
    header: &Header,
    pieces: &Pieces,
    body: impl FnOnce() -> Option<Bytes>,
) -> Option<(pb::GetResponse, usize)> {
    let block = NewBlock::encode(Carrier::Answer, header, pieces, body)?;
    let response = pb::GetResponse { what: Some(pb::get_response::What::Block(block)) };
    let bytes = response.encoded_len();
    Some((response, bytes))
}

/// An answer with a piece.
#[must_use]
pub fn piece_response(piece: Bytes) -> pb::GetResponse {
    pb::GetResponse { what: Some(pb::get_response::What::Piece(piece)) }
}

/// The block that was asked for by `hash`.
///
/// # Errors
/// [`Malformed`] when it is another one, or none.
pub fn read_block(response: &pb::GetResponse, hash: &Hash, max_body_bytes: usize) -> Result<NewBlock, Malformed> {
    let Some(pb::get_response::What::Block(message)) = &response.what else { return Err(Malformed) };
    if Hash::of(&message.header) != *hash {
        return Err(Malformed);
    }
    NewBlock::read(message, Carrier::Answer, max_body_bytes)
}

/// The piece of an answer; what it contains is checked where it belongs.
///
/// # Errors
/// [`Malformed`] when there is none, or it is longer than a piece.
pub fn read_piece(response: pb::GetResponse) -> Result<Bytes, Malformed> {
    match response.what {
        Some(pb::get_response::What::Piece(piece)) if piece.len() <= PIECE_BYTES => Ok(piece),
        _ => Err(Malformed),
    }
}
