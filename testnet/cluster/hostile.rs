//! Liars on the wire: a bare network node that speaks the real protocols and keeps no rule of them, and raw connections.
//! Whatever they do is refused or dropped, honest nodes are served on, and memory stays flat.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};
use tokio::sync::mpsc;
use vos::{
    block::sync::wire::Pull,
    identity::Identity,
    map::{
        self, Record,
        wire::{Page, Probe, Sync},
    },
    message::{Body, Deliver, Draft, SendState},
    net::{
        dht::{self, DhtError, Policy, Rank, SharedPolicy},
        pubsub::{Publisher, Received},
        rpc::{Client, Inbound, RequestError, Wire},
    },
    primitives::{Clock, NetworkId, PeerId, SystemClock, UnixMillis},
    test_util::{Ground, Member, Node, config, node_on, until},
    wire::{Status, proto},
};

use super::raw::Raw;

/// An honest node is served within this, whatever goes on. Far above what it takes (milliseconds), far below the
/// deadlines of 10 s and more that an attack might make it wait for.
const SERVED: Duration = Duration::from_secs(5);
pub(super) const MIB: usize = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes that claim to be a message of protocol `W`.
#[derive(Debug, Default, Clone)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Message for Bytes {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A protocol of our own with the name of an honest one, and no limit of it.
macro_rules! lying {
    ($name:ident, $honest:ty, $response:ty) => {
        #[derive(Debug)]
        struct $name;

        impl Wire for $name {
            const NAME: &'static str = <$honest as Wire>::NAME;
            const MAX_REQUEST: usize = 8 * MIB;
            const MAX_RESPONSE: usize = 8 * MIB;
            const CONCURRENCY: usize = 64;
            type Request = Bytes;
            type Response = $response;
        }
    };
}

pub(super) use lying;

lying!(LyingPage, Page, Bytes);
lying!(LyingSync, Sync, Bytes);
lying!(LyingProbe, Probe, Bytes);
lying!(LyingDeliver, Deliver, proto::message::Answer);

/// Keeps every Kademlia record, the last one of a key: what a liar would spread.
#[derive(Debug, Default)]
struct Anything(AtomicU64);

impl Policy for Anything {
    fn rank(&self, _: &[u8], _: &[u8]) -> Option<Rank> {
        let seq = self.0.fetch_add(1, Ordering::Relaxed);
        Some(Rank { seq, tie: [0; 32], expires_at: SystemClock.now().plus(DAY) })
    }
}

/// A node that speaks all protocols and keeps no rule.
struct Liar {
    node: Node,
    page: Client<LyingPage>,
    sync: Client<LyingSync>,
    probe: Client<LyingProbe>,
    deliver: Client<LyingDeliver>,
    news: Publisher,
    /// Kept, so that it looks alive; never read.
    _inbound: (mpsc::Receiver<Inbound<LyingPage>>, mpsc::Receiver<Inbound<LyingSync>>, mpsc::Receiver<Received>),
}

impl Liar {
    async fn connect(victim: &Member) -> Self {
        Self::with(victim, Arc::new(Anything::default())).await
    }

    /// One that keeps the Kademlia records that `policy` lets it keep.
    async fn with(victim: &Member, policy: SharedPolicy) -> Self {
        let wire = |protocols: &mut vos::net::rpc::Protocols, topics: &mut vos::net::pubsub::Topics| {
            let (page, pages) = protocols.add::<LyingPage>();
            let (sync, syncs) = protocols.add::<LyingSync>();
            let (probe, _) = protocols.add::<LyingProbe>();
            let (deliver, _) = protocols.add::<LyingDeliver>();
            let (news, received) = topics.add(map::wire::TOPIC, vos::net::pubsub::Mesh::default());
            (page, sync, probe, deliver, news, (pages, syncs, received))
        };
        let ground = Ground { policy, ..Ground::fresh() };
        let (node, (page, sync, probe, deliver, news, inbound)) = node_on(ground, Node::config(), wire).await;
        node.handle.connect(victim.multiaddr()).await.unwrap();
        Self { node, page, sync, probe, deliver, news, _inbound: inbound }
    }

    /// Sends `request` by every protocol.
    async fn everywhere(&self, to: PeerId, request: &[u8]) -> [Result<Bytes, RequestError>; 4] {
        let request = || Bytes(request.to_vec());
        [
            self.page.request(to, request()).await,
            self.sync.request(to, request()).await,
            self.probe.request(to, request()).await,
            self.deliver.request(to, request()).await.map(|answer| Bytes(answer.encode_to_vec())),
        ]
    }

    /// Pushes records and waits for the answer.
    async fn push(&self, to: PeerId, envelopes: Vec<Vec<u8>>) -> Result<(), RequestError> {
        let envelopes = envelopes.into_iter().map(Into::into).collect();
        let what = proto::map::sync_request::What::Push(proto::map::PushRequest { envelopes });
        let request = proto::map::SyncRequest { what: Some(what) };
        self.sync.request(to, Bytes(request.encode_to_vec())).await.map(drop)
    }

    /// Gossips a record; returns when it was handed to a peer.
    async fn gossip(&self, record: &[u8]) {
        let what = proto::map::news::What::Record(record.to_vec().into());
        let news = proto::map::News { what: Some(what) }.encode_to_vec();
        let end = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.news.publish(news.clone()).await {
            assert!(Instant::now() < end, "not gossiped: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts a record into Kademlia, under the key of `owner`. Whether anybody else took it.
    async fn put(&self, owner: &PeerId, record: &[u8]) -> Result<(), DhtError> {
        let key = [NetworkId::default().name("map/").as_bytes(), &owner.to_bytes()].concat();
        self.node.dht.put(key, record.to_vec(), SystemClock.now().plus(DAY)).await
    }
}

/// Two honest nodes that know each other.
async fn pair() -> (Member, Member) {
    let a = Member::start("a", config(&[])).await;
    let b = Member::start("b", config(&[a.multiaddr()])).await;
    until("both maps are complete", || [&a, &b].iter().all(|m| m.node.map.stats().records == 2)).await;
    (a, b)
}

/// A message from `from` is receipted by `to` soon.
async fn served(from: &Member, to: &Member) {
    let start = Instant::now();
    let draft = Draft { to: to.address(), body: Body::Bytes(b"hello".to_vec()), file_name: String::new(), ttl: None };
    let sent = from.node.message.send(draft).await.unwrap();
    let done = from.node.message.wait(sent.id, SendState::Delivered, SERVED).await.unwrap();
    let done = done.unwrap_or_else(|| panic!("not delivered within {:?}", start.elapsed()));
    assert_eq!(done.state, SendState::Delivered, "{}", done.last_error);
}

/// Resident bytes of this process.
pub(super) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A record of a node that does not exist.
fn record(identity: &Identity, change: impl FnOnce(&mut map::Body)) -> Record {
    let now = SystemClock.now();
    let mut body = map::Body::new(identity.address(), now.0, now, now.plus(DAY));
    change(&mut body);
    body.seal(identity, &NetworkId::default())
}

fn envelope(record: &Record) -> Vec<u8> {
    record.envelope().to_vec()
}

/// Bytes without sense, the same in every run.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

async fn end(liar: Liar, all: Vec<Member>) {
    drop(liar);
    for member in all {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_and_the_same_connection_is_served_on() {
    let _turn = super::beside_others().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    let to = a.address();
    until("connected", || a.node.net.is_connected(&liar.node.handle.local())).await;
    let since = a.node.net.peer(&liar.node.handle.local()).unwrap().since;
    let mut invalid = [0; 4];
    for seed in 0..100 {
        let length = usize::try_from(seed % 64).unwrap();
        for (protocol, answer) in liar.everywhere(to, &noise(seed, length)).await.into_iter().enumerate() {
            match answer {
                Err(RequestError::Status(Status::Invalid)) => invalid[protocol] += 1,
                // Noise can be fields that nobody knows; only a delivery needs one that is known.
                Ok(_) if protocol != 3 => {}
                Err(RequestError::Status(Status::Busy)) => {}
                other => panic!("seed {seed}, protocol {protocol}: {other:?}"),
            }
        }
    }
    assert!(invalid.iter().all(|count| *count > 20), "refused by protocol: {invalid:?}");
    // A bytes field that announces 4 GiB, then ends.
    for answer in liar.everywhere(to, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).await {
        assert_eq!(answer.unwrap_err(), RequestError::Status(Status::Invalid));
    }
    // Ranges and keys that do not exist, and more of them than anybody has.
    for range in [u32::MAX, 4 << 16, (3 << 16) + 5000] {
        let what = proto::map::sync_request::What::Digests(proto::map::DigestsRequest { ranges: vec![range; 5000] });
        let request = proto::map::SyncRequest { what: Some(what) }.encode_to_vec();
        let answer = liar.sync.request(to, Bytes(request)).await;
        assert_eq!(answer.unwrap_err(), RequestError::Status(Status::Invalid), "range {range}");
    }
    liar.probe.request(to, Bytes::default()).await.unwrap();
    assert_eq!(a.node.net.peer(&liar.node.handle.local()).unwrap().since, since, "still the same connection");
    served(&b, &a).await;
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_ends_its_stream_and_takes_no_memory() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    served(&b, &a).await;
    let before = resident();
    for _ in 0..20 {
        for answer in liar.everywhere(a.address(), &vec![1; 2 * MIB]).await {
            assert_eq!(answer.unwrap_err(), RequestError::ConnectionLost);
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    served(&b, &a).await;
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_are_taken_on_no_way() {
    let _turn = super::beside_others().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    let (thief, victim) = (Identity::generate(), b.address());
    let long_ago = UnixMillis(SystemClock.now().0 - 30 * 24 * 3600 * 1000);
    let ahead = SystemClock.now().plus(DAY);
    let honest = envelope(&record(&thief, |_| {}));
    let mut broken = honest.clone();
    *broken.last_mut().unwrap() ^= 1;
    let bad = [
        envelope(&record(&thief, |r| r.address = victim)),
        envelope(&record(&thief, |r| (r.issued_at, r.expires_at) = (long_ago, long_ago.plus(DAY)))),
        envelope(&record(&thief, |r| (r.issued_at, r.expires_at) = (ahead, ahead.plus(DAY)))),
        envelope(&record(&thief, |r| r.seq = u64::MAX)),
        envelope(&record(&thief, |r| r.expires_at = r.issued_at.plus(DAY * 365))),
        envelope(&record(&thief, |r| r.name = "x".repeat(5_000))),
        map::Body::new(thief.address(), 1, SystemClock.now(), ahead)
            .seal(&thief, &"other".parse().unwrap())
            .envelope()
            .to_vec(),
        honest[..honest.len() - 1].to_vec(),
        broken,
        noise(1, 300),
    ];
    // Every way is open: a good record goes through each of them.
    let [pushed, gossiped, stored] = [(); 3].map(|()| Identity::generate());
    liar.push(a.address(), vec![envelope(&record(&pushed, |_| {}))]).await.unwrap();
    assert!(a.node.map.get(&pushed.address()).is_some());
    liar.gossip(&envelope(&record(&gossiped, |_| {}))).await;
    until("good gossip is taken", || a.node.map.get(&gossiped.address()).is_some()).await;
    let end_of_wait = Instant::now() + Duration::from_secs(30);
    while let Err(error) = liar.put(&stored.address(), &envelope(&record(&stored, |_| {}))).await {
        assert!(Instant::now() < end_of_wait, "a good record is not taken by Kademlia: {error}");
    }
    assert!(a.node.map.resolve(stored.address()).await.is_ok());
    until("all of them are everywhere", || [&a, &b].iter().all(|m| m.node.map.stats().records == 5)).await;

    let before = a.node.map.get(&victim).unwrap().seq;
    let metrics = a.node.map.metrics();
    let judged = || metrics.gossip_rejected.get() + metrics.gossip_ignored.get();
    // All at once: a refused one is given up after ten seconds.
    let owners = [victim, thief.address()];
    let puts = bad.iter().flat_map(|bad| owners.iter().map(|owner| liar.put(owner, bad)));
    let puts = futures::future::join_all(puts);
    let others = async {
        for (i, bad) in bad.iter().enumerate() {
            let answer = liar.push(a.address(), vec![bad.clone()]).await;
            // Expired, and twice of the future: by another clock they are good.
            let may_be_good = (1..=3).contains(&i);
            let expected = if may_be_good { Ok(()) } else { Err(RequestError::Status(Status::Invalid)) };
            assert_eq!(answer, expected, "bad record {i}");
            // Three of these and a peer's gossip is not read any more: another one brings each, and has no place for its
            // friend's Kademlia records.
            let carrier = Liar::with(&a, Arc::new(dht::Nothing)).await;
            let already = judged();
            carrier.gossip(bad).await;
            until("the bad record was judged", || judged() > already).await;
            assert!(a.node.map.get(&thief.address()).is_none(), "bad record {i} was taken");
            assert!(a.node.map.get(&victim).is_some_and(|e| e.seq == before), "bad record {i} replaced a good one");
        }
    };
    let (puts, ()) = futures::future::join(puts, others).await;
    for (i, put) in puts.into_iter().enumerate() {
        assert_eq!(put, Err(DhtError::NoPeers), "bad record {} was taken by Kademlia", i / owners.len());
    }
    assert!(a.node.map.get(&victim).is_some_and(|e| e.seq == before), "a bad record replaced a good one");
    assert!(a.node.map.resolve(thief.address()).await.is_err(), "Kademlia keeps none of them either");
    served(&b, &a).await;
    assert_eq!(a.node.map.stats().records, 5);
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_record_does_not_come_back_and_a_double_one_is_proof() {
    let _turn = super::beside_others().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    let author = Identity::generate();
    let old = record(&author, |r| r.name = "old".into());
    let new = record(&author, |r| (r.seq, r.name) = (old.seq() + 1, "new".into()));
    let other = record(&author, |r| (r.seq, r.name) = (old.seq() + 1, "other".into()));
    for one in [&old, &new, &old] {
        liar.push(a.address(), vec![envelope(one)]).await.unwrap();
    }
    assert_eq!(a.node.map.get(&author.address()).unwrap().name, "new");
    liar.push(a.address(), vec![envelope(&other)]).await.unwrap();
    let proof = a.node.map.equivocation(&author.address()).expect("a proof");
    let mut both = [envelope(&new), envelope(&other)];
    assert!(
        proof == both || {
            both.swap(0, 1);
            proof == both
        }
    );
    assert_eq!(a.node.map.equivocation(&b.address()), None);
    served(&b, &a).await;
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_good_records_of_nobody_stays_within_the_maps_limit() {
    let _turn = super::alone().await;
    let mut small = config(&[]);
    small.map.full_limit = 500;
    let a = Member::start("a", small).await;
    let b = Member::start("b", config(&[a.multiaddr()])).await;
    until("both maps are complete", || [&a, &b].iter().all(|m| m.node.map.stats().records == 2)).await;
    served(&b, &a).await;
    let liar = Liar::connect(&a).await;
    let before = resident();
    for _ in 0..60 {
        let many = (0..50).map(|_| envelope(&record(&Identity::generate(), |r| r.name = "n".repeat(60)))).collect();
        let _ = liar.push(a.address(), many).await;
        let one = envelope(&record(&Identity::generate(), |_| {}));
        liar.gossip(&one).await;
    }
    let accepted = || a.node.map.metrics().gossip_accepted.get();
    until("gossip of the flood is taken", || accepted() >= 60).await;
    assert_eq!(a.node.map.stats().records, 500, "full, and no more");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    served(&b, &a).await;
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_holds_up_nobody_else() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    served(&b, &a).await;
    let before = resident();
    let to = a.address();
    let garbage = Bytes(noise(7, MIB));
    let answered = AtomicU64::new(0);
    let flood = async {
        let one = || async {
            loop {
                let _ = liar.page.request(to, Bytes::default()).await;
                let _ = liar.probe.request(to, Bytes::default()).await;
                let _ = liar.deliver.request(to, garbage.clone()).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        futures::future::join_all((0..64).map(|_| one())).await
    };
    let honest = async {
        for _ in 0..5 {
            served(&b, &a).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! { _ = flood => {}, () = honest => {} }
    let answered = answered.into_inner();
    assert!(answered >= 64, "no flood: {answered} rounds");
    let grown = resident().saturating_sub(before);
    // The liar lives in this process too: 64 requests of 1 MiB and what is under way of them.
    assert!(grown < 256 * MIB, "{} MiB more resident", grown / MIB);
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_garbage_reaches_no_inbox() {
    let _turn = super::beside_others().await;
    let (a, b) = pair().await;
    let liar = Liar::connect(&a).await;
    let part = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    let deliver = |parts: Vec<u8>| Bytes(proto::message::Deliver { parts: parts.into() }.encode_to_vec());
    let key = a.node.message.encryption_key_id().unwrap();
    let sealed = |seed, length| [&[1][..], AsRef::<[u8]>::as_ref(&key), &noise(seed, length)].concat();
    let malformed = [
        Vec::new(),
        vec![0, 0],
        [&[0xff; 4][..], &[1; 100]].concat(),
        part(&[1]).repeat(65),
        part(&[]).repeat(100_000),
    ];
    for parts in malformed {
        let answer = liar.deliver.request(a.address(), deliver(parts)).await;
        assert!(matches!(answer, Err(RequestError::Status(Status::Invalid))), "{answer:?}");
    }
    const NEED_RESEAL: u32 = 3;
    const BAD: u32 = 7;
    for length in [0, 1, 16, 48, 49, 200, 256 * 1024] {
        // Answered with a code for each part: nothing of it can be opened.
        let answer = liar.deliver.request(a.address(), deliver(part(&sealed(3, length)))).await.unwrap();
        assert_eq!((answer.codes, answer.receipt), (vec![BAD], None), "{length} bytes for our key");
        let mut other = sealed(4, length);
        other[1] ^= 1;
        let answer = liar.deliver.request(a.address(), deliver(part(&other))).await.unwrap();
        let [code] = answer.codes[..] else { panic!("{:?}", answer.codes) };
        assert!(code == BAD || code == NEED_RESEAL && length >= 48, "{length} bytes for another key: {code}");
        assert_eq!(answer.receipt, None);
        let answer = liar.deliver.request(a.address(), deliver(part(&noise(4, length)))).await.unwrap();
        assert_eq!((answer.codes, answer.receipt), (vec![BAD], None), "{length} bytes of noise");
    }
    assert_eq!(a.node.message.stats().inbox, 0);
    served(&b, &a).await;
    assert_eq!(a.node.message.stats().inbox, 1);
    end(liar, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_requests_that_never_come_hold_up_only_their_sender() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    served(&b, &a).await;
    let before = resident();
    let liar = Raw::connect(&a.multiaddr()).await;
    let mut open = Vec::new();
    for _ in 0..180 {
        // A request of 1 MiB, of which ten bytes come.
        let mut stream = liar.open(&format!("/vos/main/{}", Deliver::NAME)).await.expect("a stream");
        stream.send(&[&u32::try_from(MIB).unwrap().to_be_bytes()[..], &[1; 10]].concat()).await;
        open.push(stream);
    }
    served(&b, &a).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    drop((open, liar));
    end_all(vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_names_that_announce_requests_and_send_nothing_hold_up_nobody() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    served(&b, &a).await;
    let before = resident();
    // Requests of a few bytes, of the protocol whose answers may be the largest; 4 MiB each, they would come to 800 MiB.
    let (mut liars, mut open) = (Vec::new(), Vec::new());
    for _ in 0..25 {
        let liar = Raw::connect(&a.multiaddr()).await;
        for _ in 0..8 {
            let mut stream = liar.open(&format!("/vos/main/{}", Pull::NAME)).await.expect("a stream");
            stream.send(&64_u32.to_be_bytes()).await;
            open.push(stream);
        }
        liars.push(liar);
    }
    served(&b, &a).await;
    let c = Member::start("c", config(&[a.multiaddr()])).await;
    until("the newcomer is known", || a.node.map.find_name("c").len() == 1).await;
    served(&c, &a).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    drop((open, liars));
    end_all(vec![a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_hold_up_only_their_asker() {
    let _turn = super::alone().await;
    let (a, b) = pair().await;
    // Some pages worth of map.
    let filler = Liar::connect(&a).await;
    for _ in 0..20 {
        let many = (0..50).map(|_| envelope(&record(&Identity::generate(), |r| r.name = "n".repeat(60)))).collect();
        filler.push(a.address(), many).await.unwrap();
    }
    assert_eq!(a.node.map.stats().records, 1002);
    served(&b, &a).await;
    let before = resident();
    let liar = Raw::connect(&a.multiaddr()).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = liar.open(&format!("/vos/main/{}", Page::NAME)).await.expect("a stream");
        // Twenty questions in a row for everything.
        stream.send(&[0; 4].repeat(20)).await;
        open.push(stream);
    }
    served(&b, &a).await;
    let grown = resident().saturating_sub(before);
    // The asker's own buffers are in this process: a yamux window of 256 KiB a stream.
    assert!(grown < 128 * MIB, "{} MiB more resident", grown / MIB);
    drop((open, liar));
    end(filler, vec![a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_silent_connections_lock_nobody_out() {
    let _turn = super::alone().await;
    let _ = rlimit::increase_nofile_limit(8192);
    let (a, b) = pair().await;
    served(&b, &a).await;
    let before = resident();
    let addr = a.multiaddr();
    let at = super::raw::socket_of(&addr);
    let silent: Vec<_> = (0..500).map(|_| TcpStream::connect(at).unwrap()).collect();
    served(&b, &a).await;
    // Also somebody who comes only now.
    let start = Instant::now();
    let c = Member::start("c", config(&[addr])).await;
    until("the newcomer is known", || a.node.map.find_name("c").len() == 1).await;
    assert!(start.elapsed() < SERVED, "{:?}", start.elapsed());
    served(&c, &a).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 96 * MIB, "{} MiB more resident, a third node included", grown / MIB);
    drop(silent);
    end_all(vec![a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_listening_port_is_dropped() {
    let _turn = super::beside_others().await;
    use std::io::Write;
    let (a, b) = pair().await;
    let at = super::raw::socket_of(&a.multiaddr());
    for seed in 0..100 {
        let mut socket = TcpStream::connect(at).unwrap();
        // The node may hang up in the middle of it.
        let _ = socket.write_all(&noise(seed, 5000));
    }
    served(&b, &a).await;
    assert_eq!(a.node.net.peer_count(), 1, "noise makes no peer");
    // The port still takes those who mean it.
    let c = Member::start("c", config(&[a.multiaddr()])).await;
    until("a newcomer is let in", || a.node.net.is_connected(&c.address())).await;
    end_all(vec![a, b, c]).await;
}

async fn end_all(all: Vec<Member>) {
    for member in all {
        member.stop().await;
    }
}
