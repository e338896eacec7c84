//! The three protocols of sync, and the way between their protobuf and the machines' types. What is read here is well-formed
//! and within its limits; whether it is true is for others to find out.

use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message;
use serde_json::json;

use crate::{
    block::{
        MAX_BODY_BYTES, MAX_HEADER_BYTES, Point,
        chain::{Status, Stored, Stretch},
        record::{self, LENGTHS},
    },
    net::rpc::Wire,
    primitives::{Hash, PeerId, UnixMillis},
    wire::proto::block_sync as pb,
};

/// The version of SHAKEHAND that this program speaks.
const VERSION: u32 = 1;
/// Blocks in one PULL_BLOCK.
pub const MAX_COUNT: u32 = 128;
/// Bytes of blocks after which an answer ends, unless a single block is longer: some 10 ms of a gigabit line, so that a
/// slow peer's answer still comes within [`Pull::TIMEOUT`] at 2 Mbit/s.
pub const SOFT_BYTES: usize = 2 * 1024 * 1024;
/// Headers in one answer.
pub const MAX_HEADERS: u32 = 512;
/// Bytes of an address. An Ed25519 one has 38.
const MAX_ADDRESS: usize = 64;
/// The longest pause that a busy peer can ask for.
const MAX_RETRY: Duration = Duration::from_secs(10);

/// `block/shakehand/1`: where both chains stand.
#[derive(Debug)]
pub struct Shakehand;

impl Wire for Shakehand {
    const NAME: &'static str = "block/shakehand/1";
    const MAX_REQUEST: usize = 512;
    const MAX_RESPONSE: usize = 512;
    const TIMEOUT: Duration = Duration::from_secs(5);
    const QUEUE: usize = 128;
    const CONCURRENCY: usize = 2;
    /// One in 3 s is what a syncing node asks, and two seconds' worth can be saved.
    const RATE: u32 = 2;
    type Request = pb::Shakehand;
    type Response = pb::Shakehand;
}

/// `block/pull/1`: PULL_BLOCK, answered with PUSH_BLOCK.
#[derive(Debug)]
pub struct Pull;

impl Wire for Pull {
    const NAME: &'static str = "block/pull/1";
    const MAX_REQUEST: usize = 64;
    /// The longest block alone, which is more than [`SOFT_BYTES`], and the fields around it.
    const MAX_RESPONSE: usize = MAX_BODY_BYTES + MAX_HEADER_BYTES + 1024;
    const TIMEOUT: Duration = Duration::from_secs(10);
    const QUEUE: usize = 64;
    /// Twice what is served at once, so that more is told to be too much instead of waiting unread.
    const CONCURRENCY: usize = 4;
    /// Twice what two requests in flight of a fast neighbour come to.
    const RATE: u32 = 400;
    /// All of it: there are sixteen at once, and what grows is copied.
    const TRUSTED: usize = SOFT_BYTES;
    type Request = pb::PullBlock;
    type Response = pb::PushBlock;
}

/// `block/headers/1`: headers by height, to find where two chains part.
#[derive(Debug)]
pub struct Headers;

impl Wire for Headers {
    const NAME: &'static str = "block/headers/1";
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = MAX_HEADERS as usize * (2 + MAX_HEADER_BYTES) + 64;
    const TIMEOUT: Duration = Duration::from_secs(10);
    const QUEUE: usize = 32;
    const CONCURRENCY: usize = 2;
    const RATE: u32 = 10;
    type Request = pb::GetHeaders;
    type Response = pb::Headers;
}

/// What a SHAKEHAND says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Hash of the sender's genesis block.
    pub genesis: Hash,
    /// The sender's clock.
    pub timestamp: UnixMillis,
    /// The newest block that is final there.
    pub committed: Point,
    /// The best block there.
    pub head: Point,
    /// Lowest height after the genesis block whose body is held there.
    pub earliest: u64,
    /// The sender.
    pub address: PeerId,
}

impl Greeting {
    /// Where we stand.
    #[must_use]
    pub fn of(status: &Status, timestamp: UnixMillis, address: PeerId) -> Self {
        let Status { genesis, head, committed, earliest, .. } = *status;
        Self { genesis, timestamp, committed, head, earliest, address }
    }

    pub(super) fn to_wire(self) -> pb::Shakehand {
        pb::Shakehand {
            version: VERSION,
            genesis: bytes_of(&self.genesis),
            timestamp_ms: self.timestamp.0,
            committed_height: self.committed.height,
            committed_hash: bytes_of(&self.committed.hash),
            head_height: self.head.height,
            head_hash: bytes_of(&self.head.hash),
            earliest: self.earliest,
            address: self.address.to_bytes().into(),
        }
    }

    /// `None` for nonsense: another version, a hash of another length, a head below what is final or below the lowest block that is
    /// held, or another sender than the one who sent it.
    pub(super) fn read(raw: &pb::Shakehand, sender: PeerId) -> Option<Self> {
        let ordered = raw.committed_height <= raw.head_height && raw.earliest <= raw.head_height.saturating_add(1);
        if raw.version != VERSION || raw.address.len() > MAX_ADDRESS || !ordered {
            return None;
        }
        let address = PeerId::from_bytes(&raw.address).ok().filter(|a| *a == sender)?;
        Some(Self {
            genesis: hash_of(&raw.genesis)?,
            timestamp: UnixMillis(raw.timestamp_ms),
            committed: Point { height: raw.committed_height, hash: hash_of(&raw.committed_hash)? },
            head: Point { height: raw.head_height, hash: hash_of(&raw.head_hash)? },
            earliest: raw.earliest,
            address,
        })
    }
}

fn bytes_of(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

fn hash_of(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok().map(Hash)
}

/// Consecutive heights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Span {
    /// The first one.
    pub start: u64,
    /// How many; at least one.
    pub count: u32,
}

impl Span {
    /// The height after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(u64::from(self.count))
    }
}

/// Asks for blocks of `bytes` at most together, or for one alone.
pub(super) fn pull_request(span: Span, bytes: usize) -> pb::PullBlock {
    let max_bytes = u32::try_from(bytes.min(SOFT_BYTES)).unwrap_or(0); // 2 MiB at most
    pb::PullBlock { start: span.start, count: span.count, max_bytes }
}

/// What is asked for, and how many bytes at most; `None` for nonsense.
pub(super) fn read_pull_request(raw: &pb::PullBlock) -> Option<(Span, usize)> {
    let in_limits = (1..=MAX_COUNT).contains(&raw.count) && raw.start.checked_add(u64::from(raw.count)).is_some();
    let max_bytes = match usize::try_from(raw.max_bytes).unwrap_or(SOFT_BYTES) {
        0 => SOFT_BYTES,
        n => n.min(SOFT_BYTES),
    };
    in_limits.then_some((Span { start: raw.start, count: raw.count }, max_bytes))
}

/// PUSH_BLOCK: an answer to PULL_BLOCK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Push<B> {
    /// Blocks from the first one asked for; not always all of them.
    Blocks(Vec<B>),
    /// Above the sender's head, which is here.
    NotFound(u64),
    /// Bodies are held from this height on.
    Pruned(u64),
    /// Later, after this pause.
    Busy(Duration),
}

impl<B> Push<B> {
    /// For people, in short: what `vos block trace` shows of an answer without blocks.
    pub(super) fn json(&self) -> serde_json::Value {
        match self {
            Self::Blocks(blocks) => json!({ "status": "ok", "blocks": blocks.len() }),
            Self::NotFound(head) => json!({ "status": "not_found", "head": head }),
            Self::Pruned(earliest) => json!({ "status": "pruned", "earliest": earliest }),
            Self::Busy(retry) => {
                json!({ "status": "busy", "retry_ms": u64::try_from(retry.as_millis()).unwrap_or(u64::MAX) })
            }
        }
    }
}

/// A block's two parts as they came, within their limits and not looked at any further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawBlock {
    /// The header, encoded.
    pub header: Bytes,
    /// The body.
    pub body: Bytes,
}

/// The encoded answer to a pull of `count` blocks, in pieces: bodies are not copied.
pub(super) fn push_response(push: &Push<Stored>, count: u32) -> Vec<Bytes> {
    use pb::push_block::Status;
    let mut head = pb::PushBlock::default();
    let blocks: &[Stored] = match push {
        Push::Blocks(blocks) => {
            let all = blocks.len() == count as usize;
            head.set_status(if all { Status::Ok } else { Status::Partial });
            blocks
        }
        Push::NotFound(height) => {
            head.set_status(Status::NotFound);
            head.height = *height;
            &[]
        }
        Push::Pruned(earliest) => {
            head.set_status(Status::Pruned);
            head.earliest = *earliest;
            &[]
        }
        Push::Busy(retry) => {
            head.set_status(Status::Busy);
            head.retry_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
            &[]
        }
    };
    let bytes: usize = blocks.iter().map(|b| LENGTHS + b.header.len() + b.body.len()).sum();
    // Everything but the bodies, and where each of them comes in.
    let headers: usize = blocks.iter().map(|b| LENGTHS + b.header.len()).sum();
    let (mut out, mut ends) = (push_head(&head, bytes, headers), Vec::with_capacity(blocks.len()));
    for block in blocks {
        record::put_head(&mut out, &block.header, block.body.len());
        ends.push(out.len());
    }
    let (out, mut start) = (Bytes::from(out), 0);
    let mut pieces = Vec::with_capacity(2 * blocks.len() + 1);
    for (end, block) in ends.into_iter().zip(blocks) {
        pieces.extend([out.slice(start..end), block.body.clone()]);
        start = end;
    }
    pieces.push(out.slice(start..));
    pieces
}

/// The same of blocks that are encoded already, none of them more than was asked for.
pub(super) fn stretch_response(stretches: &[Stretch], count: u32) -> Vec<Bytes> {
    use pb::push_block::Status;
    let blocks: usize = stretches.iter().map(|s| s.count).sum();
    let mut head = pb::PushBlock::default();
    head.set_status(if blocks == count as usize { Status::Ok } else { Status::Partial });
    let head = push_head(&head, stretches.iter().map(|s| s.bytes.len()).sum(), 0);
    std::iter::once(head.into()).chain(stretches.iter().map(|s| s.bytes.clone())).collect()
}

/// What is before so many `bytes` of blocks, in memory for so many `more`.
fn push_head(head: &pb::PushBlock, bytes: usize, more: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.encoded_len() + 16 + more);
    head.encode(&mut out).expect("a vector grows");
    if bytes > 0 {
        prost::encoding::encode_key(5, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(bytes as u64, &mut out); // usize fits in u64
    }
    out
}

/// Reads the answer to a pull of `span`; `None` for what no honest peer answers. The blocks share the bytes of `raw`.
pub(super) fn read_push_response(raw: pb::PushBlock, span: Span) -> Option<Push<RawBlock>> {
    use pb::push_block::Status;
    let status = Status::try_from(raw.status).ok()?;
    if !matches!(status, Status::Ok | Status::Partial) && !raw.blocks.is_empty() {
        return None;
    }
    Some(match status {
        Status::Ok | Status::Partial => {
            let blocks = read_blocks(raw.blocks, span.count as usize)?;
            let all = blocks.len() == span.count as usize;
            if blocks.is_empty() || all != (status == Status::Ok) {
                return None;
            }
            Push::Blocks(blocks)
        }
        Status::NotFound => Push::NotFound(Some(raw.height).filter(|h| *h < span.start)?),
        Status::Pruned => Push::Pruned(Some(raw.earliest).filter(|e| *e > span.start)?),
        Status::Busy => Push::Busy(Duration::from_millis(raw.retry_ms.into()).min(MAX_RETRY)),
    })
}

pub(super) fn read_blocks(mut bytes: Bytes, count: usize) -> Option<Vec<RawBlock>> {
    let total = bytes.len();
    let mut blocks = Vec::with_capacity(count.min(total / LENGTHS));
    while bytes.has_remaining() {
        if blocks.len() == count {
            return None;
        }
        let (header, body) = record::take(&mut bytes)?;
        blocks.push(RawBlock { header, body });
    }
    // Only a single block may be longer than what was asked for.
    (blocks.len() == 1 || total <= SOFT_BYTES + count * LENGTHS).then_some(blocks)
}

/// Which headers: `start`, `start + stride`, ...
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ladder {
    /// The first height.
    pub start: u64,
    /// How many; 1 to [`MAX_HEADERS`].
    pub count: u32,
    /// From one to the next; at least 1.
    pub stride: u64,
}

pub(super) fn headers_request(ladder: Ladder) -> pb::GetHeaders {
    pb::GetHeaders { start: ladder.start, count: ladder.count, stride: ladder.stride }
}

/// `None` for nonsense.
pub(super) fn read_headers_request(raw: &pb::GetHeaders) -> Option<Ladder> {
    let length = raw.stride.checked_mul(u64::from(raw.count.checked_sub(1)?))?;
    let in_limits = raw.count <= MAX_HEADERS && raw.stride >= 1 && raw.start.checked_add(length).is_some();
    in_limits.then_some(Ladder { start: raw.start, count: raw.count, stride: raw.stride })
}

pub(super) fn headers_response(headers: &[Bytes]) -> pb::Headers {
    let mut out = Vec::with_capacity(headers.iter().map(|h| 2 + h.len()).sum());
    for header in headers {
        out.extend_from_slice(&u16::try_from(header.len()).expect("headers are short").to_be_bytes());
        out.extend_from_slice(header);
    }
    pb::Headers { headers: out.into() }
}

/// The encoded headers, at most `count`; `None` for nonsense.
pub(super) fn read_headers_response(raw: pb::Headers, count: u32) -> Option<Vec<Bytes>> {
    let mut bytes = raw.headers;
    let mut headers = Vec::new();
    while bytes.has_remaining() {
        let length = usize::from(bytes.try_get_u16().ok()?);
        if headers.len() == count as usize || length > MAX_HEADER_BYTES || length > bytes.len() {
            return None;
        }
        headers.push(bytes.split_to(length));
    }
    Some(headers)
}
