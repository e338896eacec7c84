//! The real actor over loopback protocols and a real store.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Random, identity, network};
use crate::{
    identity::{EncryptionKey, Identity},
    map::{
        self, Config, Deps, Event, Handle, Key, MapError, Mirror, PinReason, State, check_name,
        mirror::{name_key, record_key},
        record::{Body, Record},
        sync::Ask,
        wire::{News, Page, Probe, Sync, read_sync_response, sync_request},
    },
    net::{
        self, AddrBook, Detached, Nat, dht,
        pubsub::{Publisher, Received},
        rpc::Loopback,
    },
    primitives::{Clock, Hash, ManualClock, PeerId, SystemClock, UnixMillis},
    runtime::Stop,
    store::Store,
};

#[derive(Default)]
struct Boards {
    page: Loopback<Page>,
    sync: Loopback<Sync>,
    probe: Loopback<Probe>,
    dht: dht::Board,
}

impl Boards {
    fn set_online(&self, node: PeerId, online: bool) {
        self.page.set_online(node, online);
        self.sync.set_online(node, online);
        self.probe.set_online(node, online);
    }
}

struct Node {
    identity: Identity,
    handle: Handle,
    mirror: Mirror,
    net: Detached,
    stop: Stop,
    tasks: JoinSet<()>,
    gossip: mpsc::Sender<Received>,
    published: mpsc::UnboundedReceiver<Vec<u8>>,
    dir: TempDir,
}

fn now() -> UnixMillis {
    SystemClock.now()
}

/// A record of `number`, signed now.
fn fresh(number: u64, seq: u64) -> Record {
    let of = identity(number);
    let mut body = Body::new(of.address(), seq, now(), now().plus(Duration::from_secs(3600)));
    body.name = format!("n{number}");
    body.addrs = vec!["/ip4/10.0.0.1/tcp/4001".parse().unwrap()];
    body.seal(&of, &network())
}

fn start(boards: &Boards, number: u64, config: Config) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    start_in(boards, number, config, dir, store)
}

/// A blocking job of a node before may hold the store for a moment longer.
async fn open(dir: &TempDir) -> Store {
    let path = dir.path().join("db");
    let mut store = None;
    until("the store is free", || {
        store = Store::open(&path).ok();
        store.is_some()
    })
    .await;
    store.unwrap()
}

fn start_in(boards: &Boards, number: u64, config: Config, dir: TempDir, store: Store) -> Node {
    start_at(boards, number, config, (dir, store), Arc::new(SystemClock))
}

fn start_at(
    boards: &Boards,
    number: u64,
    config: Config,
    (dir, store): (TempDir, Store),
    clock: Arc<dyn Clock>,
) -> Node {
    let identity = identity(number);
    let local = identity.address();
    let mirror = Mirror::load(&store, &config, &network(), local, clock.clone()).unwrap();
    let (handle_net, net) = net::Handle::detached(local);
    let addr = format!("/ip4/10.0.0.1/tcp/{}", 1000 + number).parse().unwrap();
    net.nat.send_replace(Nat { listen: vec![addr], ..Nat::default() });
    let (publisher, published) = Publisher::detached();
    let (gossip, received) = mpsc::channel(512);
    let deps = Deps {
        identity: identity.clone(),
        network: network(),
        clock,
        store,
        mirror: mirror.clone(),
        net: handle_net,
        dht: boards.dht.join(local),
        publisher,
        gossip: received,
        page: boards.page.join(local),
        sync: boards.sync.join(local),
        probe: boards.probe.join(local),
        name: format!("node-{number}"),
        roles: Vec::new(),
    };
    boards.set_online(local, true);
    let (service, handle) = map::new(config, deps).unwrap();
    let (stop, mut tasks) = (Stop::new(), JoinSet::new());
    let signal = stop.clone();
    tasks.spawn(async move { service.run(signal).await.unwrap() });
    Node { identity, handle, mirror, net, stop, tasks, gossip, published, dir }
}

impl Node {
    fn address(&self) -> PeerId {
        self.identity.address()
    }

    /// Stops in order and gives back the data directory.
    async fn halt(mut self) -> TempDir {
        self.stop.stop();
        self.tasks.join_all().await;
        self.published.close();
        self.dir
    }

    async fn hears(&self, news: News) {
        self.gossip.send(Received::detached(identity(9999).address(), news.encode())).await.unwrap();
    }

    async fn hears_record(&self, record: &Record) {
        self.hears(News::Record(record.envelope().to_vec())).await;
    }

    fn refused(&self) -> u64 {
        self.mirror.metrics().records_refused.get()
    }
}

fn connect(a: &Node, b: &Node) {
    a.net.up(b.address());
    b.net.up(a.address());
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn published_record(node: &mut Node) -> Record {
    loop {
        let data = tokio::time::timeout(Duration::from_secs(20), node.published.recv()).await.unwrap().unwrap();
        if let Some(News::Record(envelope)) = News::decode(&data) {
            return node.mirror.verifier().verify(&envelope, now()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_newcomer_pages_the_whole_map_and_brings_its_own_record() {
    let boards = Boards::default();
    let (old, new) = (start(&boards, 1, Config::default()), start(&boards, 2, Config::default()));
    let records: Vec<_> = (100..2100).map(|i| fresh(i, 1)).collect();
    assert_eq!(old.mirror.insert(&records), 2000);
    let listing = new.handle.subscribe();
    // Only the newcomer sees the connection: else the other one would push what this test wants pulled.
    new.net.up(old.address());
    until("both maps have all 2002 records", || {
        let (a, b) = (old.handle.stats(), new.handle.stats());
        a.records == 2002 && a.digest == b.digest && b.complete
    })
    .await;
    assert!(new.mirror.metrics().pulled.get() >= 2000);
    assert!(!listing.is_empty());
    let found = new.handle.find_name("n777");
    assert_eq!(found.iter().map(|e| e.address).collect::<Vec<_>>(), [identity(777).address()]);
    assert_eq!(new.handle.list().len(), 2002);
    let addresses = |entries: Vec<map::Entry>| entries.into_iter().map(|e| e.address).collect::<Vec<_>>();
    let all = addresses(new.handle.list());
    assert!(all.is_sorted());
    assert!(addresses(new.handle.page(None, 1000)) == all[..1000]);
    assert_eq!(addresses(new.handle.page(Some(all[999]), 5)), all[1000..1005]);
    assert_eq!(new.handle.get(&old.address()).unwrap().state, State::Online, "connected");
}

#[tokio::test]
async fn a_record_is_signed_again_after_a_quarter_of_its_life() {
    let boards = Boards::default();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let config = Config { record_ttl_s: 3600, ..Config::default() };
    let node = start_at(&boards, 1, config, (dir, store), clock.clone());
    let local = node.address();
    until("the first record", || node.handle.get(&local).is_some()).await;
    let first = node.handle.get(&local).unwrap();
    clock.set(first.issued_at.plus(Duration::from_secs(890)));
    // Time for a look that would be too early.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(node.handle.get(&local).unwrap().seq, first.seq);
    clock.set(first.issued_at.plus(Duration::from_secs(901)));
    until("a second record", || node.handle.get(&local).unwrap().seq > first.seq).await;
    let second = node.handle.get(&local).unwrap();
    assert_eq!(second.expires_at, first.expires_at.plus(Duration::from_secs(901)), "long before the first one ends");
    node.halt().await;
}

/// A peer that hands the questions for pages on to another one, of which only some are answered; the questions come out.
#[allow(clippy::disallowed_methods, reason = "ends with its board")]
fn pages_of(boards: &Boards, other: PeerId, answers: usize) -> (PeerId, mpsc::Receiver<Vec<u8>>) {
    let local = identity(rand::random()).address();
    let (client, mut asked) = boards.page.join(local);
    let (out, questions) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut answered = 0;
        while let Some(inbound) = asked.recv().await {
            let _ = out.try_send(inbound.request.after.to_vec());
            answered += 1;
            if answered <= answers {
                let answer = client.request(other, inbound.request.clone()).await.unwrap();
                inbound.respond(answer);
            }
        }
    });
    (local, questions)
}

#[tokio::test]
async fn paging_that_broke_off_goes_on_at_the_next_peer_where_it_was() {
    let boards = Boards::default();
    let (old, new) = (start(&boards, 1, Config::default()), start(&boards, 2, Config::default()));
    let records: Vec<_> = (100..2100).map(|i| fresh(i, 1)).collect();
    assert_eq!(old.mirror.insert(&records), 2000);
    let (first, mut at_first) = pages_of(&boards, old.address(), 1);
    let (second, mut at_second) = pages_of(&boards, old.address(), usize::MAX);
    new.net.up(first);
    let mut asked = Vec::new();
    for _ in 0..2 {
        asked.push(tokio::time::timeout(Duration::from_secs(20), at_first.recv()).await.unwrap().unwrap());
    }
    assert!(asked[0].is_empty() && !asked[1].is_empty(), "from the beginning, and on");
    new.net.down(first);
    new.net.up(second);
    until("the map is here", || new.handle.stats().records >= 2001).await;
    assert_eq!(at_second.recv().await.unwrap(), asked[1], "what was taken in is not asked for again");
    new.halt().await;
    old.halt().await;
}

#[tokio::test]
async fn two_halves_agree_after_they_meet() {
    let boards = Boards::default();
    let nodes: Vec<_> = (1..=4).map(|i| start(&boards, i, Config::default())).collect();
    connect(&nodes[0], &nodes[1]);
    connect(&nodes[2], &nodes[3]);
    until("each half is complete", || nodes.iter().all(|n| n.handle.stats().records == 2)).await;
    nodes[0].handle.set_name("left".into()).await.unwrap();
    nodes[3].handle.set_name("right".into()).await.unwrap();
    connect(&nodes[1], &nodes[2]);
    until("all four maps are equal", || {
        let all: Vec<_> = nodes.iter().map(|n| n.handle.stats()).collect();
        all.iter().all(|s| s.records == 4 && s.complete && s.digest == all[0].digest)
            && nodes.iter().all(|n| n.handle.find_name("left").len() == 1 && n.handle.find_name("right").len() == 1)
    })
    .await;
}

#[tokio::test]
async fn a_killed_node_is_noticed_and_a_stranger_is_unknown() {
    let boards = Boards::default();
    let (a, b) = (start(&boards, 1, Config::default()), start(&boards, 2, Config::default()));
    connect(&a, &b);
    until("they know each other", || a.handle.get(&b.address()).is_some_and(|e| e.state == State::Online)).await;
    let presence = a.handle.online(b.address(), Duration::from_secs(5)).await;
    assert_eq!((presence.state, presence.relayed), (State::Online, Some(false)));
    assert!(presence.rtt.is_some() && presence.last_seen_at.is_some());
    let mut events = a.handle.subscribe();
    boards.set_online(b.address(), false);
    a.net.down(b.address());
    let gone = async {
        loop {
            if let Event::Presence(who, State::Offline) = events.recv().await.unwrap() {
                return who;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap(), b.address());
    assert_eq!(a.handle.online(b.address(), Duration::from_secs(5)).await.state, State::Offline);
    let stranger = a.handle.online(identity(77).address(), Duration::from_secs(5)).await;
    assert_eq!((stranger.state, stranger.rtt), (State::Unknown, None));
    assert_eq!(a.handle.online(a.address(), Duration::from_secs(5)).await.state, State::Online);
}

#[tokio::test]
async fn a_goodbye_is_announced_and_believed() {
    let boards = Boards::default();
    let (a, mut b) = (start(&boards, 1, Config::default()), start(&boards, 2, Config::default()));
    connect(&a, &b);
    until("a knows b", || a.handle.get(&b.address()).is_some_and(|e| e.state == State::Online)).await;
    let address = b.address();
    b.stop.stop();
    let mut last = None;
    while let Some(data) = b.published.recv().await {
        last = News::decode(&data);
    }
    let Some(bye @ News::Departure(_)) = last else { panic!("the last word was {last:?}") };
    a.hears(bye.clone()).await;
    until("a believes it", || a.handle.get(&address).is_some_and(|e| e.state == State::Offline)).await;
    a.handle.heard(address);
    assert_eq!(a.handle.get(&address).unwrap().state, State::Online);
    a.hears(bye).await;
    a.hears_record(&fresh(50, 1)).await;
    until("the replay was judged", || a.handle.get(&identity(50).address()).is_some()).await;
    assert_eq!(a.handle.get(&address).unwrap().state, State::Online, "a replayed goodbye counts for nothing");
}

#[tokio::test]
async fn what_is_signed_twice_is_reported_with_proof() {
    let boards = Boards::default();
    let a = start(&boards, 1, Config::default());
    let mut events = a.handle.subscribe();
    let of = identity(60);
    let first = fresh(60, 7);
    let mut body = Body::new(of.address(), 7, now(), now().plus(Duration::from_secs(60)));
    body.name = "another face".into();
    let second = body.seal(&of, &network());
    a.hears_record(&first).await;
    a.hears_record(&second).await;
    let reported = async {
        loop {
            if let Event::Equivocation(who) = events.recv().await.unwrap() {
                return who;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), reported).await.unwrap(), of.address());
    let both = a.handle.equivocation(&of.address()).expect("a proof");
    let (verifier, at) = (a.mirror.verifier().clone(), now());
    let [x, y] = both.map(|envelope| verifier.verify(&envelope, at).unwrap());
    assert_eq!((x.seq, x.key), (y.seq, y.key));
    assert_ne!(x.hash, y.hash);
    let dir = a.halt().await;
    let store = open(&dir).await;
    let again = Mirror::load(&store, &Config::default(), &network(), identity(1).address(), Arc::new(SystemClock));
    let key = Key::of(&of.address()).unwrap();
    assert!(again.unwrap().read().proof(&key).is_some(), "the proof outlives a restart");
}

#[tokio::test]
async fn replays_and_records_of_the_far_future_are_refused_on_every_way() {
    let boards = Boards::default();
    let a = start(&boards, 1, Config::default());
    let (old, new) = (fresh(60, 7), fresh(60, 8));
    let of = identity(61);
    let later = now().plus(Duration::from_secs(3600));
    let future = Body::new(of.address(), 1, later, later.plus(Duration::from_secs(60))).seal(&of, &network());
    let far = fresh(62, u64::MAX);
    a.hears_record(&new).await;
    a.hears_record(&old).await;
    a.hears_record(&future).await;
    a.hears_record(&far).await;
    until("all were judged", || a.refused() == 2 && a.handle.stats().records == 2).await;
    assert_eq!(a.handle.get(&new.address()).unwrap().seq, 8);
    let (client, _inbound) = boards.sync.join(identity(70).address());
    let push = Ask::Push([&old, &future, &far].map(|r| r.envelope().clone()).to_vec());
    let (answer, _) = read_sync_response(client.request(a.address(), sync_request(&push)).await.unwrap()).unwrap();
    assert_eq!(answer, map::sync::Answer::Pushed(0));
    assert_eq!((a.handle.stats().records, a.refused()), (2, 4));
    let policy = a.mirror.policy();
    let key = |r: &Record| record_key(&network(), &r.address());
    assert_eq!(policy.rank(&key(&far), far.envelope()), None);
    assert_eq!(policy.rank(&key(&new), new.envelope()).unwrap().seq, 8);
    assert_eq!(policy.rank(&key(&far), new.envelope()), None, "under somebody else's key");
    assert_eq!(policy.rank(b"elsewhere", new.envelope()), None);
}

#[tokio::test]
async fn a_flood_leaves_the_map_bounded_and_others_served() {
    let boards = Boards::default();
    let config = Config { full_limit: 50, ..Config::default() };
    let (a, b) = (start(&boards, 1, config.clone()), start(&boards, 2, config));
    connect(&a, &b);
    until("they know each other", || a.handle.stats().records == 2 && b.handle.stats().records == 2).await;
    a.handle.pin(PinReason::Contact, [b.address()]);
    let mut random = Random(1);
    for i in 0..3000_u64 {
        let mut envelope = fresh(100 + i % 200, 1 + i / 200).envelope().to_vec();
        // Two of three are broken somewhere.
        if i % 3 > 0 {
            let at = random.below(envelope.len());
            envelope[at] ^= 0x55;
        }
        let message = Received::detached(identity(9000).address(), News::Record(envelope).encode());
        // A full queue drops, as the swarm does.
        let _ = a.gossip.try_send(message);
        if i % 100 == 0 {
            let presence = b.handle.online(a.address(), Duration::from_secs(5)).await;
            assert_eq!(presence.state, State::Online, "served under flood");
        }
        assert!(a.handle.stats().records <= 50);
    }
    until("bogus records were refused", || a.refused() > 100).await;
    assert!(a.handle.get(&b.address()).is_some(), "pinned");
    assert!(!a.handle.stats().complete);
}

#[tokio::test]
async fn an_author_who_changes_too_often_is_not_carried() {
    let boards = Boards::default();
    let a = start(&boards, 1, Config { author_rate_per_h: 5, ..Config::default() });
    for seq in 1..=20 {
        a.hears_record(&fresh(60, seq)).await;
    }
    a.hears_record(&fresh(61, 1)).await;
    until("the other author is heard", || a.handle.get(&identity(61).address()).is_some()).await;
    assert_eq!(a.handle.get(&identity(60).address()).unwrap().seq, 5);
    assert_eq!(a.mirror.metrics().rate_limited.get(), 15);
}

#[tokio::test]
async fn our_record_survives_a_restart_and_a_restored_backup() {
    let boards = Boards::default();
    let mut a = start(&boards, 1, Config::default());
    let first = published_or_name(&mut a, "renamed").await;
    let public = [3; 32];
    let id = Hash::of(&public).0[..8].try_into().unwrap();
    let keys = vec![EncryptionKey { id, public, not_before: now(), not_after: now() }];
    a.handle.set_encryption_keys(keys.clone()).await.unwrap();
    let entry = a.handle.get(&a.address()).unwrap();
    assert!(entry.seq > first);
    let dir = a.halt().await;

    let store = open(&dir).await;
    let mut a = start_in(&boards, 1, Config::default(), dir, store);
    a.net.up(identity(2).address());
    let again = published_record(&mut a).await;
    assert!(again.seq() > entry.seq, "strictly rising over a restart");
    let mine = a.handle.get(&a.address()).unwrap();
    assert_eq!((mine.name.as_str(), &mine.keys), ("renamed", &keys));

    assert_eq!(*a.handle.signed_elsewhere().borrow(), 0, "all of them were ours");
    let ahead = fresh(1, again.seq() + 1_000_000);
    a.hears_record(&ahead).await;
    let taken_over = published_record(&mut a).await;
    assert!(taken_over.seq() > ahead.seq());
    assert_eq!(*a.handle.signed_elsewhere().borrow(), ahead.seq());
    let dir = a.halt().await;
    let store = open(&dir).await;
    let a = start_in(&boards, 1, Config::default(), dir, store);
    assert_eq!(*a.handle.signed_elsewhere().borrow(), ahead.seq(), "remembered");
}

/// Sets a name; returns the number of the record that has it.
async fn published_or_name(node: &mut Node, name: &str) -> u64 {
    node.handle.set_name(name.into()).await.unwrap();
    assert!(node.handle.set_name("a\u{7}b".into()).await.is_err());
    assert!(check_name(&"x".repeat(65)).is_err());
    let entry = node.handle.get(&node.address()).unwrap();
    assert_eq!(entry.name, name);
    entry.seq
}

#[tokio::test]
async fn new_addrs_are_published_without_loopback() {
    let boards = Boards::default();
    let mut a = start(&boards, 1, Config::default());
    a.net.up(identity(2).address());
    published_record(&mut a).await;
    let listen = ["/ip4/127.0.0.1/tcp/5", "/ip4/192.168.0.9/tcp/5"].map(|a| a.parse().unwrap()).to_vec();
    a.net.nat.send_replace(Nat { listen: listen.clone(), ..Nat::default() });
    let record = published_record(&mut a).await;
    assert_eq!(a.handle.get(&record.address()).unwrap().addrs, listen[1..]);
}

#[tokio::test]
async fn the_saved_map_is_an_address_book_even_when_it_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let load = || Mirror::load(&store, &Config::default(), &network(), identity(1).address(), clock.clone()).unwrap();
    let record = fresh(60, 1);
    load().insert(std::slice::from_ref(&record));
    assert_eq!(load().get(&record.address()).unwrap().seq, 1);
    clock.set(now().plus(Duration::from_secs(9 * 24 * 3600)));
    let late = load();
    assert_eq!(late.get(&record.address()), None);
    assert_eq!(late.candidates(8), [record.address()]);
    assert_eq!(late.addrs(&record.address()).len(), 1);
    assert_eq!(Key::of(&record.address()).unwrap().address(), record.address());
}

#[test]
fn whom_to_dial_is_a_small_sample_and_who_was_seen_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let local = identity(1).address();
    let mirror = Mirror::load(&store, &Config::default(), &network(), local, Arc::new(SystemClock)).unwrap();
    let all: Vec<_> = (2..1002).map(|number| fresh(number, 1)).collect();
    assert_eq!(mirror.insert(&all), 1000);
    let known: HashSet<_> = all.iter().map(Record::address).collect();
    let mut met = HashSet::new();
    for _ in 0..50 {
        let some = mirror.candidates(8);
        assert_eq!(some.iter().collect::<HashSet<_>>().len(), 8);
        met.extend(some);
    }
    assert!(met.is_subset(&known) && met.len() > 200, "others each time: {} of them", met.len());
    all.iter().take(500).for_each(|r| mirror.heard(&r.address()));
    let seen: HashSet<_> = all.iter().take(500).map(Record::address).collect();
    assert!(mirror.candidates(8).iter().all(|p| seen.contains(p)));
    assert_eq!(mirror.candidates(2000).len(), 1000, "all of them, when all are asked for");
}

#[tokio::test]
async fn what_the_map_does_not_hold_is_found_through_kademlia() {
    let boards = Boards::default();
    let (a, b) = (start(&boards, 1, Config::default()), start(&boards, 2, Config::default()));
    // They never meet; b's record is in Kademlia only, beside an older one, a forged one and a false owner of its name.
    let key = record_key(&network(), &b.address());
    let stranger = boards.dht.join(identity(3).address());
    let ends = now().plus(Duration::from_secs(60));
    stranger.put(key.clone(), fresh(2, 1).envelope().to_vec(), ends).await.unwrap();
    stranger.put(key.clone(), fresh(3, u64::MAX).envelope().to_vec(), ends).await.unwrap();
    stranger.put(record_key(&network(), &identity(3).address()), fresh(3, 1).envelope().to_vec(), ends).await.unwrap();
    stranger.provide(name_key(&network(), "node-2")).await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while boards.dht.join(a.address()).get(key.clone()).await.unwrap().len() < 3
        || boards.dht.join(a.address()).providers(name_key(&network(), "node-2")).await.unwrap().len() < 2
    {
        assert!(Instant::now() < end, "b did not publish its record and its name");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let owners = a.handle.resolve_name("node-2").await.unwrap();
    assert_eq!(owners.iter().map(|e| e.address).collect::<Vec<_>>(), [b.address()]);
    assert!(owners[0].from_dht && owners[0].seq > 1);
    assert_eq!(a.handle.resolve(b.address()).await.unwrap().seq, owners[0].seq);
    assert_eq!(a.handle.resolve(identity(44).address()).await, Err(MapError::NotFound));
    assert_eq!(a.handle.resolve_name("nobody").await, Err(MapError::NotFound));
    assert!(a.handle.online(b.address(), Duration::from_secs(5)).await.state == State::Online, "found, then dialled");
}

#[tokio::test]
async fn nonsense_gets_a_status() {
    use crate::{
        net::rpc::RequestError,
        wire::{Status, proto::map as pb},
    };
    let boards = Boards::default();
    let a = start(&boards, 1, Config::default());
    let (page, _p) = boards.page.join(identity(70).address());
    let (sync, _s) = boards.sync.join(identity(70).address());
    let invalid = |e| matches!(e, RequestError::Status(Status::Invalid));
    let bad = pb::PageRequest { after: vec![1, 2].into(), max_bytes: 0 };
    assert!(invalid(page.request(a.address(), bad).await.unwrap_err()));
    assert!(invalid(sync.request(a.address(), pb::SyncRequest { what: None }).await.unwrap_err()));
    let many = Ask::Get(vec![Key([1; 32]); 1000]);
    assert!(invalid(sync.request(a.address(), sync_request(&many)).await.unwrap_err()));
}
