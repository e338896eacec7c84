//! The map's three protocols and its gossip, and the way between their protobuf and the machines' types.

use std::time::Duration;

use prost::Message;

use super::{
    digest::{Digest, FAN, Range},
    record::Key,
    sync::{Answer, Ask, Item},
};
use crate::{
    net::rpc::Wire,
    primitives::{Hash, limits::MAX_RECORD_BYTES},
    wire::proto::map as pb,
};

/// The gossip topic's name within the network.
pub const TOPIC: &str = "map/1";
/// Largest message on the topic: more than a record with its envelope and tag, so that one that is too long is judged here.
pub const MAX_NEWS: usize = 2 * MAX_RECORD_BYTES;

/// `map/page/1`: the whole map, page by page.
#[derive(Debug)]
pub struct Page;

impl Wire for Page {
    const NAME: &'static str = "map/page/1";
    const MAX_REQUEST: usize = 256;
    /// Some 400 records: 25 pages for 10000.
    const MAX_RESPONSE: usize = 256 * 1024;
    const TIMEOUT: Duration = Duration::from_secs(10);
    const QUEUE: usize = 32;
    const CONCURRENCY: usize = 2;
    const RATE: u32 = 50;
    type Request = pb::PageRequest;
    type Response = pb::PageResponse;
}

/// `map/sync/1`: what differs.
#[derive(Debug)]
pub struct Sync;

impl Wire for Sync {
    const NAME: &'static str = "map/sync/1";
    const MAX_REQUEST: usize = 64 * 1024;
    const MAX_RESPONSE: usize = 256 * 1024;
    const TIMEOUT: Duration = Duration::from_secs(10);
    const QUEUE: usize = 128;
    const CONCURRENCY: usize = 4;
    const RATE: u32 = 200;
    type Request = pb::SyncRequest;
    type Response = pb::SyncResponse;
}

/// `map/probe/1`: are you there?
#[derive(Debug)]
pub struct Probe;

impl Wire for Probe {
    const NAME: &'static str = "map/probe/1";
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    const TIMEOUT: Duration = Duration::from_secs(5);
    const QUEUE: usize = 256;
    const CONCURRENCY: usize = 4;
    const RATE: u32 = 50;
    type Request = pb::ProbeRequest;
    type Response = pb::ProbeResponse;
}

/// Bytes of envelopes in one page; the rest of [`Page::MAX_RESPONSE`] is for lengths and the cursor.
const PAGE_BYTES: usize = 240 * 1024;

/// A question for a page: where to go on, and at most how many bytes.
pub(super) fn page_request(after: Option<Key>) -> pb::PageRequest {
    pb::PageRequest { after: after.map(|k| k.0.to_vec()).unwrap_or_default().into(), max_bytes: 0 }
}

/// Where the page begins and how large it may be; `None` for nonsense.
pub(super) fn read_page_request(request: &pb::PageRequest) -> Option<(Option<Key>, usize)> {
    let after = if request.after.is_empty() { None } else { Some(Key::from_slice(&request.after)?) };
    let bytes = match usize::try_from(request.max_bytes).unwrap_or(PAGE_BYTES) {
        0 => PAGE_BYTES,
        n => n.min(PAGE_BYTES),
    };
    Some((after, bytes))
}

/// One page of the map: envelopes in order, where to go on, how many records there are.
#[derive(Debug, Default)]
pub(super) struct PageOf {
    pub(super) envelopes: Vec<Vec<u8>>,
    pub(super) next: Option<Key>,
    pub(super) total: u64,
}

pub(super) fn page_response(page: PageOf) -> pb::PageResponse {
    pb::PageResponse {
        envelopes: page.envelopes.into_iter().map(Into::into).collect(),
        next: page.next.map(|k| k.0.to_vec()).unwrap_or_default().into(),
        total: page.total,
    }
}

/// `None` for nonsense.
pub(super) fn read_page_response(response: pb::PageResponse) -> Option<PageOf> {
    let next = if response.next.is_empty() { None } else { Some(Key::from_slice(&response.next)?) };
    let envelopes = response.envelopes.into_iter().map(Into::into).collect();
    Some(PageOf { envelopes, next, total: response.total })
}

pub(super) fn sync_request(ask: &Ask) -> pb::SyncRequest {
    use pb::sync_request::What;
    let ranges = |ranges: &[Range]| ranges.iter().map(|r| r.to_wire()).collect();
    let what = match ask {
        Ask::Digests(asked) => What::Digests(pb::DigestsRequest { ranges: ranges(asked) }),
        Ask::Items { ranges: asked, after } => What::Items(pb::ItemsRequest {
            ranges: ranges(asked),
            after: after.map(|k| k.0.to_vec()).unwrap_or_default().into(),
        }),
        Ask::Get(keys) => What::Get(pb::GetRequest { keys: keys.iter().map(|k| k.0.to_vec().into()).collect() }),
        Ask::Push(envelopes) => {
            What::Push(pb::PushRequest { envelopes: envelopes.iter().map(|e| e.to_vec().into()).collect() })
        }
    };
    pb::SyncRequest { what: Some(what) }
}

/// `None` for nonsense.
pub(super) fn read_sync_request(request: pb::SyncRequest) -> Option<Ask> {
    use pb::sync_request::What;
    let ranges = |raw: &[u32]| raw.iter().map(|r| Range::from_wire(*r)).collect::<Option<Vec<_>>>();
    Some(match request.what? {
        What::Digests(d) => Ask::Digests(ranges(&d.ranges)?),
        What::Items(i) => Ask::Items {
            ranges: ranges(&i.ranges)?,
            after: if i.after.is_empty() { None } else { Some(Key::from_slice(&i.after)?) },
        },
        What::Get(g) => Ask::Get(g.keys.iter().map(|k| Key::from_slice(k)).collect::<Option<_>>()?),
        What::Push(p) => Ask::Push(p.envelopes.iter().map(|e| e[..].into()).collect()),
    })
}

pub(super) fn sync_response(answer: Answer, full: bool) -> pb::SyncResponse {
    use pb::sync_response::What;
    let what = match answer {
        Answer::Digests(all) => What::Digests(pb::DigestsResponse {
            ranges: all.iter().map(|c| pb::Children { children: c.iter().map(digest_out).collect() }).collect(),
        }),
        Answer::Items { items, more } => What::Items(pb::ItemsResponse {
            items: items
                .iter()
                .map(|i| pb::Item { key: i.key.0.to_vec().into(), seq: i.seq, hash: i.hash.0.to_vec().into() })
                .collect(),
            more,
        }),
        Answer::Records { envelopes, answered } => What::Get(pb::GetResponse {
            envelopes: envelopes.into_iter().map(Into::into).collect(),
            answered: u32::try_from(answered).unwrap_or(u32::MAX),
        }),
        Answer::Pushed(accepted) => What::Push(pb::PushResponse { accepted }),
    };
    pb::SyncResponse { what: Some(what), full }
}

/// The answer and whether the other side's map is full; `None` for nonsense.
pub(super) fn read_sync_response(response: pb::SyncResponse) -> Option<(Answer, bool)> {
    use pb::sync_response::What;
    let answer = match response.what? {
        What::Digests(d) => Answer::Digests(d.ranges.iter().map(children_in).collect::<Option<_>>()?),
        What::Items(i) => Answer::Items { items: i.items.iter().map(item_in).collect::<Option<_>>()?, more: i.more },
        What::Get(g) => Answer::Records {
            envelopes: g.envelopes.into_iter().map(Into::into).collect(),
            answered: usize::try_from(g.answered).ok()?,
        },
        What::Push(p) => Answer::Pushed(p.accepted),
    };
    Some((answer, response.full))
}

fn digest_out(digest: &Digest) -> pb::Digest {
    let hash = if digest.count == 0 { Vec::new() } else { digest.hash.0.to_vec() };
    pb::Digest { hash: hash.into(), count: digest.count }
}

fn children_in(raw: &pb::Children) -> Option<[Digest; FAN as usize]> {
    let all: Option<Vec<_>> = raw.children.iter().map(digest_in).collect();
    all?.try_into().ok()
}

fn digest_in(raw: &pb::Digest) -> Option<Digest> {
    let hash = if raw.hash.is_empty() { Hash::default() } else { Hash(raw.hash[..].try_into().ok()?) };
    Some(Digest { hash, count: raw.count })
}

fn item_in(raw: &pb::Item) -> Option<Item> {
    Some(Item { key: Key::from_slice(&raw.key)?, seq: raw.seq, hash: Hash(raw.hash[..].try_into().ok()?) })
}

/// What travels on the topic: one signed envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// A record.
    Record(Vec<u8>),
    /// A goodbye.
    Departure(Vec<u8>),
}

impl News {
    pub(super) fn encode(self) -> Vec<u8> {
        use pb::news::What;
        let what = match self {
            Self::Record(bytes) => What::Record(bytes.into()),
            Self::Departure(bytes) => What::Departure(bytes.into()),
        };
        pb::News { what: Some(what) }.encode_to_vec()
    }

    /// `None` for nonsense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        use pb::news::What;
        Some(match pb::News::decode(bytes).ok()?.what? {
            What::Record(bytes) => Self::Record(bytes.into()),
            What::Departure(bytes) => Self::Departure(bytes.into()),
        })
    }
}

/// Asks for nothing but an answer.
pub(super) fn probe_request() -> pb::ProbeRequest {
    pb::ProbeRequest {}
}

/// Says that we are there, with which record.
pub(super) fn probe_response(seq: u64) -> pb::ProbeResponse {
    pb::ProbeResponse { seq }
}
