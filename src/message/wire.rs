//! The protocol `message/deliver/1` and conversions to and from protobuf, on the wire and in the store.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};

use super::{
    envelope::{BodyId, Inner, Kind, MAX_FILE_NAME, MAX_PART, part_len, parts_of},
    handle::{Received, SendState, Step},
    inbox::{Assembly, Key},
    order::{Numbers, RANGES, Rank},
    outbox::{Header, Left},
    receipt::{ENTRY, Receipt},
};
use crate::{
    net::rpc,
    primitives::{Hash, MessageId, PeerId, StreamId, UnixMillis},
    wire::proto::message as proto,
};

/// Parts in one request.
pub(super) const BATCH_PARTS: usize = 64;
/// Bytes of parts in one request: four of the largest, 145 bytes over 256 KiB each.
pub(super) const BATCH_BYTES: usize = 4 * (MAX_PART + 4);

/// Hands sealed parts to their recipient.
///
/// A batch shares one round trip, one synced commit and one receipt signature. Idempotent: a part that is there already is answered
/// as stored, a message that is there already is receipted again.
#[derive(Debug)]
pub struct Deliver;

impl rpc::Wire for Deliver {
    const NAME: &'static str = "message/deliver/1";
    /// 1 MiB and 596 bytes of parts, and a protobuf tag.
    const MAX_REQUEST: usize = BATCH_BYTES + 16;
    /// 64 codes, and a receipt of 64 entries with its signature and tags.
    const MAX_RESPONSE: usize = 2 * BATCH_PARTS + ENTRY * BATCH_PARTS + 64 + 32;
    /// Two synced commits of 1 MiB on a slow disk, over a slow link.
    const TIMEOUT: Duration = Duration::from_secs(30);
    /// 64 requests of at most 1 MiB: the budget for requests of all protocols.
    const QUEUE: usize = 64;
    const CONCURRENCY: usize = 8;
    const RATE: u32 = 20_000;
    type Request = proto::Deliver;
    type Response = proto::Answer;
}

/// Asks a sender for messages that are missing in front of those that came.
///
/// Idempotent: it sends again what it still has, and says what will never come.
#[derive(Debug)]
pub struct Missing;

impl rpc::Wire for Missing {
    const NAME: &'static str = "message/missing/1";
    /// A stream, 64 ranges, and tags.
    const MAX_REQUEST: usize = 16 + RANGE * RANGES + 16;
    const MAX_RESPONSE: usize = RANGE * RANGES + 16;
    /// Nothing is written or waited for.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const QUEUE: usize = 64;
    const CONCURRENCY: usize = 2;
    const RATE: u32 = 20;
    type Request = proto::Missing;
    type Response = proto::Missed;
}

/// Bytes of a range of numbers.
const RANGE: usize = 16;

fn write_ranges(ranges: &[Numbers]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(ranges.len() * RANGE);
    for range in ranges.iter().take(RANGES) {
        bytes.put_u64(range.start);
        bytes.put_u64(range.end);
    }
    bytes.freeze()
}

/// `None`: malformed, or too many.
fn read_ranges(bytes: &[u8]) -> Option<Vec<Numbers>> {
    let (chunks, rest) = bytes.as_chunks::<RANGE>();
    let read = |chunk: &[u8; RANGE]| {
        let (from, to) = chunk.split_first_chunk::<8>()?;
        let range = u64::from_be_bytes(*from)..u64::from_be_bytes(to.try_into().ok()?);
        (!range.is_empty()).then_some(range)
    };
    if !rest.is_empty() || chunks.len() > RANGES { None } else { chunks.iter().map(read).collect() }
}

/// A question for missing numbers.
pub(super) fn missing(stream: StreamId, ranges: &[Numbers]) -> proto::Missing {
    proto::Missing { stream_id: Bytes::copy_from_slice(&stream.0), ranges: write_ranges(ranges) }
}

/// What is missing of which stream of ours; `None` when the question is malformed.
pub(super) fn read_missing(request: &proto::Missing) -> Option<(StreamId, Vec<Numbers>)> {
    let ranges = read_ranges(&request.ranges).filter(|ranges| !ranges.is_empty())?;
    Some((StreamId::from_slice(&request.stream_id)?, ranges))
}

/// The answer: these never come.
pub(super) fn missed(never: &[Numbers]) -> proto::Missed {
    proto::Missed { never: write_ranges(never) }
}

/// What never comes; `None` when the answer is malformed.
pub(super) fn read_missed(answer: &proto::Missed) -> Option<Vec<Numbers>> {
    read_ranges(&answer.never)
}

/// How one part was answered. Codes of later versions count as [`Code::Busy`]: try again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Code {
    /// The part is durable; others are missing.
    Stored,
    /// The whole message is in the inbox; the receipt names it.
    Delivered,
    /// Sealed to a key that is not there any more.
    NeedReseal,
    /// Over the recipient's limit.
    TooLarge,
    /// No room now.
    InboxFull,
    /// Past its time.
    Expired,
    /// Malformed, forged, or for somebody else.
    Bad,
    /// Too much to do now.
    Busy,
    /// From the future by the recipient's clock.
    Clock,
    /// No space on the recipient's disk.
    DiskFull,
}

impl Code {
    pub(super) const ALL: [Self; 10] = [
        Self::Stored,
        Self::Delivered,
        Self::NeedReseal,
        Self::TooLarge,
        Self::InboxFull,
        Self::Expired,
        Self::Bad,
        Self::Busy,
        Self::Clock,
        Self::DiskFull,
    ];

    pub(super) fn to_wire(self) -> u32 {
        Self::ALL.into_iter().zip(1..).find_map(|(c, n)| (c == self).then_some(n)).unwrap_or(0)
    }

    pub(super) fn from_wire(code: u32) -> Self {
        Self::ALL.into_iter().zip(1..).find_map(|(c, n)| (n == code).then_some(c)).unwrap_or(Self::Busy)
    }

    /// For the sender's user.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Stored => "the recipient has a part of it",
            Self::Delivered => "delivered",
            Self::NeedReseal => "the recipient has a new encryption key, which is not in the map yet",
            Self::TooLarge => "larger than the recipient accepts",
            Self::InboxFull => "the recipient's inbox is full",
            Self::Expired => "expired by the recipient's clock",
            Self::Bad => "the recipient could not read it",
            Self::Busy => "the recipient is busy",
            Self::Clock => "from the future by the recipient's clock: one of the two clocks is wrong",
            Self::DiskFull => "the recipient's disk is full",
        }
    }
}

/// Parts from this size up are not copied into a request.
const PIECE: usize = 16 * 1024;

/// A request of these parts, for this node itself.
pub(super) fn request(parts: &[Bytes]) -> proto::Deliver {
    let mut bytes = BytesMut::with_capacity(parts.iter().map(|p| p.len() + 4).sum());
    for part in parts {
        bytes.put_u32(u32::try_from(part.len()).expect("parts are capped"));
        bytes.put_slice(part);
    }
    proto::Deliver { parts: bytes.freeze() }
}

/// The same for another node: encoded, in pieces that follow each other.
pub(super) fn pieces(parts: &[Bytes]) -> Vec<Bytes> {
    let length: usize = parts.iter().map(|p| p.len() + 4).sum();
    let small: usize = parts.iter().map(|p| 4 + if p.len() < PIECE { p.len() } else { 0 }).sum();
    let (mut pieces, mut rest) = (Vec::new(), BytesMut::with_capacity(small + 16));
    // The one field of `Deliver`.
    encode_key(1, WireType::LengthDelimited, &mut rest);
    encode_varint(u64::try_from(length).expect("parts are capped"), &mut rest);
    for part in parts {
        rest.put_u32(u32::try_from(part.len()).expect("parts are capped"));
        if part.len() < PIECE {
            rest.put_slice(part);
        } else {
            pieces.extend([rest.split().freeze(), part.clone()]);
        }
    }
    pieces.push(rest.freeze());
    pieces
}

/// Takes the parts out of a request; `None` when it is malformed, empty, or has too many. A part may still be anything. They lie where they
/// were read to, unless somebody else holds these bytes too.
pub(super) fn take_parts(request: &mut proto::Deliver) -> Option<Vec<BytesMut>> {
    let mut rest = std::mem::take(&mut request.parts).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
    let mut parts = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize; // u32 fits in usize
        if parts.len() == BATCH_PARTS || rest.len() - 4 < length {
            return None;
        }
        let _ = rest.split_to(4);
        parts.push(rest.split_to(length));
    }
    (rest.is_empty() && !parts.is_empty()).then_some(parts)
}

/// An answer.
pub(super) fn answer(codes: &[Code], receipt: Option<Receipt>) -> proto::Answer {
    let receipt = receipt.map(|r| proto::Receipt { entries: r.entries, signature: r.signature });
    proto::Answer { codes: codes.iter().map(|c| c.to_wire()).collect(), receipt }
}

/// The codes and receipt of an answer to `asked` parts; `None` when the number of codes is another.
pub(super) fn answered(answer: proto::Answer, asked: usize) -> Option<(Vec<Code>, Option<Receipt>)> {
    if answer.codes.len() != asked {
        return None;
    }
    let receipt = answer.receipt.map(|r| Receipt { entries: r.entries, signature: r.signature });
    Some((answer.codes.into_iter().map(Code::from_wire).collect(), receipt))
}

const KIND_INBOX: u32 = 1;
const KIND_RECEIPT: u32 = 2;
const WANT_RECEIPT: u32 = 1;

pub(super) fn inner_to_proto(inner: &Inner) -> proto::Inner {
    let parts = inner.parts();
    let (kind, want) = match inner.kind {
        Kind::Message => (KIND_INBOX, WANT_RECEIPT),
        Kind::Receipt => (KIND_RECEIPT, 0),
    };
    proto::Inner {
        sender: inner.sender.to_bytes().into(),
        recipient: inner.recipient.to_bytes().into(),
        stream_id: Bytes::copy_from_slice(&inner.stream.0),
        seq: inner.seq,
        prev_hash: Bytes::new(),
        sent_at: inner.sent_at.0,
        expires_at: inner.expires_at.0,
        r#type: kind,
        body: inner.body.clone(),
        want,
        reply_to: Bytes::new(),
        key_id: Bytes::copy_from_slice(&inner.key_id),
        file_name: inner.file_name.clone(),
        part_index: inner.index,
        part_count: parts,
        total_bytes: inner.total,
        body_id: if parts > 1 { Bytes::copy_from_slice(&inner.body_id.0) } else { Bytes::new() },
        position: inner.rank.number,
        floor: inner.rank.floor,
    }
}

pub(super) fn inner_from_bytes(bytes: Bytes) -> Result<Inner, Code> {
    let inner = proto::Inner::decode(bytes).map_err(|_| Code::Bad)?;
    let parts = parts_of(inner.total_bytes);
    let kind = match inner.r#type {
        KIND_INBOX => Kind::Message,
        KIND_RECEIPT if parts == 1 && inner.file_name.is_empty() => Kind::Receipt,
        _ => return Err(Code::Bad),
    };
    if inner.file_name.len() > MAX_FILE_NAME || inner.part_count != parts {
        return Err(Code::Bad);
    }
    if part_len(inner.total_bytes, inner.part_index).is_none() {
        return Err(Code::Bad);
    }
    let rank = rank(inner.position, inner.floor).ok_or(Code::Bad)?;
    let body_id = match parts {
        1 if inner.body_id.is_empty() => BodyId::default(),
        1 => return Err(Code::Bad),
        _ => BodyId::from_slice(&inner.body_id).ok_or(Code::Bad)?,
    };
    Ok(Inner {
        kind,
        sender: PeerId::from_bytes(&inner.sender).map_err(|_| Code::Bad)?,
        recipient: PeerId::from_bytes(&inner.recipient).map_err(|_| Code::Bad)?,
        stream: StreamId::from_slice(&inner.stream_id).ok_or(Code::Bad)?,
        seq: inner.seq,
        rank,
        sent_at: UnixMillis(inner.sent_at),
        expires_at: UnixMillis(inner.expires_at),
        key_id: inner.key_id.as_ref().try_into().map_err(|_| Code::Bad)?,
        file_name: inner.file_name,
        body: inner.body,
        index: inner.part_index,
        total: inner.total_bytes,
        body_id,
    })
}

/// `None`: not one that a sender gives.
fn rank(number: u64, floor: u64) -> Option<Rank> {
    (0 < floor && floor <= number && number < u64::MAX).then_some(Rank { number, floor })
}

const STATES: [SendState; 7] = [
    SendState::Queued,
    SendState::Sent,
    SendState::Stored,
    SendState::Delivered,
    SendState::Expired,
    SendState::Refused,
    SendState::Cancelled,
];

/// An outgoing message for the store.
pub(super) fn encode_outgoing(header: &Header) -> Vec<u8> {
    let history = header.history.iter().map(|step| proto::StoredStep {
        state: STATES.into_iter().zip(1..).find_map(|(s, n)| (s == step.state).then_some(n)).unwrap_or(0),
        at: step.at.0,
        by: step.by.to_bytes().into(),
    });
    proto::StoredOutgoing {
        seq: header.seq,
        ids: header.ids.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect(),
        to: header.to.to_bytes().into(),
        bytes: header.bytes,
        parts: header.parts,
        sealed_bytes: header.sealed_bytes,
        key_id: Bytes::copy_from_slice(&header.key_id),
        expires_at: header.expires_at.0,
        history: history.collect(),
        last_error: header.last_error.clone(),
        left: header.left.iter().map(stored_left).collect(),
        stream_id: Bytes::copy_from_slice(&header.stream.0),
        position: header.number,
    }
    .encode_to_vec()
}

fn stored_left(left: &Left) -> proto::StoredLeft {
    proto::StoredLeft {
        holder: left.holder.to_bytes().into(),
        id: Bytes::copy_from_slice(&left.id.0),
        grant: Bytes::copy_from_slice(&left.grant.0),
        at: left.at.0,
        until: left.until.0,
        refused: left.refused.clone(),
        never: left.never,
    }
}

fn read_left(stored: &proto::StoredLeft) -> Option<Left> {
    Some(Left {
        holder: PeerId::from_bytes(&stored.holder).ok()?,
        id: MessageId::from_slice(&stored.id)?,
        grant: Hash(stored.grant.as_ref().try_into().ok()?),
        at: UnixMillis(stored.at),
        until: UnixMillis(stored.until),
        refused: stored.refused.clone(),
        never: stored.never,
    })
}

/// An outgoing message from the store; `None` when it is damaged.
pub(super) fn decode_outgoing(bytes: &[u8]) -> Option<Header> {
    let stored = proto::StoredOutgoing::decode(bytes).ok()?;
    let history = stored.history.iter().map(|step| {
        let state = STATES.into_iter().zip(1..).find_map(|(s, n)| (n == step.state).then_some(s))?;
        Some(Step { state, at: UnixMillis(step.at), by: PeerId::from_bytes(&step.by).ok()? })
    });
    let history = history.collect::<Option<Vec<_>>>()?;
    Some(Header {
        seq: stored.seq,
        stream: StreamId::from_slice(&stored.stream_id)?,
        number: stored.position,
        ids: stored.ids.iter().map(|id| MessageId::from_slice(id)).collect::<Option<Vec<_>>>()?,
        to: PeerId::from_bytes(&stored.to).ok()?,
        state: history.last()?.state,
        bytes: stored.bytes,
        parts: stored.parts,
        sealed_bytes: stored.sealed_bytes,
        key_id: stored.key_id.as_ref().try_into().ok()?,
        queued_at: history.first()?.at,
        expires_at: UnixMillis(stored.expires_at),
        history,
        last_error: stored.last_error,
        left: stored.left.iter().map(read_left).collect::<Option<Vec<_>>>()?,
    })
    .filter(|h| !h.ids.is_empty())
}

/// Where a received message's body is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoredMessage {
    pub(super) received: Received,
    /// Its place in the body family; the name of its file when it is large.
    pub(super) slot: u64,
    pub(super) parts: u32,
    /// Its stream and number while it waits for its turn.
    pub(super) held: Option<(StreamId, u64)>,
}

/// A received message for the store.
pub(super) fn encode_received(message: &StoredMessage) -> Vec<u8> {
    let r = &message.received;
    proto::StoredReceived {
        id: Bytes::copy_from_slice(&r.id.0),
        from: r.from.to_bytes().into(),
        sent_at: r.sent_at.0,
        received_at: r.received_at.0,
        bytes: r.bytes,
        read: r.read,
        file_name: r.file_name.clone(),
        slot: message.slot,
        parts: message.parts,
        missing: r.missing,
        late: r.late,
        stream_id: message.held.map_or_else(Bytes::new, |(stream, _)| Bytes::copy_from_slice(&stream.0)),
        position: message.held.map_or(0, |(_, number)| number),
    }
    .encode_to_vec()
}

/// A received message from the store; `None` when it is damaged.
pub(super) fn decode_received(bytes: &[u8]) -> Option<StoredMessage> {
    let stored = proto::StoredReceived::decode(bytes).ok()?;
    let received = Received {
        id: MessageId::from_slice(&stored.id)?,
        from: PeerId::from_bytes(&stored.from).ok()?,
        sent_at: UnixMillis(stored.sent_at),
        received_at: UnixMillis(stored.received_at),
        bytes: stored.bytes,
        read: stored.read,
        file_name: stored.file_name,
        missing: stored.missing,
        late: stored.late,
    };
    let held = StreamId::from_slice(&stored.stream_id).map(|stream| (stream, stored.position));
    Some(StoredMessage { received, slot: stored.slot, parts: stored.parts, held })
}

/// An incomplete message for the store.
pub(super) fn encode_assembly(assembly: &Assembly) -> Vec<u8> {
    proto::StoredAssembly {
        sender: assembly.key.sender.to_bytes().into(),
        stream_id: Bytes::copy_from_slice(&assembly.key.stream.0),
        seq: assembly.key.seq,
        sent_at: assembly.sent_at.0,
        expires_at: assembly.expires_at.0,
        file_name: assembly.file_name.clone(),
        parts: assembly.parts(),
        bytes: assembly.total,
        body_id: Bytes::copy_from_slice(&assembly.body_id.0),
        id: assembly.id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
        started_at: assembly.touched_at.0,
        position: assembly.rank.number,
        floor: assembly.rank.floor,
    }
    .encode_to_vec()
}

/// An incomplete message from the store, without its parts; `None` when it is damaged.
pub(super) fn decode_assembly(slot: u64, bytes: &[u8]) -> Option<Assembly> {
    let stored = proto::StoredAssembly::decode(bytes).ok()?;
    let key = Key {
        sender: PeerId::from_bytes(&stored.sender).ok()?,
        stream: StreamId::from_slice(&stored.stream_id)?,
        seq: stored.seq,
    };
    let rank = rank(stored.position, stored.floor)?;
    let mut assembly = Assembly::new((key, rank), slot, stored.bytes, BodyId::from_slice(&stored.body_id)?);
    assembly.sent_at = UnixMillis(stored.sent_at);
    assembly.expires_at = UnixMillis(stored.expires_at);
    assembly.file_name = stored.file_name;
    assembly.id = MessageId::from_slice(&stored.id);
    assembly.touched_at = UnixMillis(stored.started_at);
    (assembly.parts() == stored.parts).then_some(assembly)
}
